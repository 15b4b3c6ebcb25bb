#!/bin/sh
# Make .venv from the pinned requirements: `setup.sh core` what the server needs, `setup.sh dev` the tests' tools too.
# Stamps hold a hash of what was installed, so that a second call ends in milliseconds.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-core}
log=.venv/setup.log

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
# shellcheck source=scripts/hash.sh
. scripts/hash.sh
stamp() { { pwd; cat "$@" pyproject.toml clients/python/pyproject.toml scripts/setup.sh; } | hash; }

# An environment that has the tools keeps them.
[ ! -e .venv/.stamp-dev ] || kind=dev
case $kind in
  core) files="requirements/core.txt" ;;
  dev) files="requirements/core.txt requirements/dev.txt" ;;
  *) fail "there is no kind $kind; use core or dev." ;;
esac
# shellcheck disable=SC2086  # the list has no spaces inside its names
wanted=$(stamp $files)
if [ -x .venv/bin/python ] && [ "$(cat ".venv/.stamp-$kind" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

# Run uv quietly; when it fails, say why in one sentence, then its last lines.
uv() {
  if "$UV" "$@" >"$log" 2>&1; then return 0; fi
  if grep -qiE 'no space left|disk quota' "$log"; then why="the disk is full"
  elif grep -qiE 'dns error|failed to fetch|error sending request|connection|timed out|network' "$log"; then
    why="the package index cannot be reached; check the network or the proxy settings"
  elif grep -qiE 'hash mismatch' "$log"; then why="a downloaded package is not the pinned one"
  elif grep -qiE 'no solution|no wheels|failed to build' "$log"; then why="a package does not exist for this Python or machine"
  else why="uv $1 $2 failed"; fi
  say "$why."
  tail -n 12 "$log" >&2
  exit 1
}

UV=$(scripts/uv.sh)
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH 2>/dev/null || true
if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  python=
  for version in 3.11 3.12 3.13 '>=3.11'; do
    if python=$("$UV" python find --no-project "$version" 2>/dev/null); then break; fi
  done
  [ -n "$python" ] || fail "Python 3.11 or newer is needed and none was found; install it (Debian: apt-get install python3)."
  rm -rf .venv
  "$UV" venv --quiet --no-project --python "$python" .venv || fail "no environment can be made in $PWD/.venv."
fi
rm -f .venv/.stamp-*
say "installing the $kind packages (a few hundred MB the first time) ..."
# shellcheck disable=SC2086
uv pip sync --python .venv/bin/python --require-hashes $files
say "installing Parlance itself ..."
uv pip install --python .venv/bin/python --no-deps -e clients/python -e .
if [ "$kind" = dev ]; then stamp requirements/core.txt requirements/dev.txt >.venv/.stamp-dev; fi
stamp requirements/core.txt >.venv/.stamp-core
say "done."
