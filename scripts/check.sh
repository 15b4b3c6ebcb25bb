#!/bin/sh
# What every change must pass before it is looked at: all steps run, each that fails shows its output.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
failed=
step() {
  name=$1
  shift
  if output=$("$@" 2>&1); then echo "ok    $name"; else
    echo "FAIL  $name"
    echo "$output"
    failed="$failed, $name"
  fi
}
tests() {
  set --
  for folder in tests/unit tests/style tests/golden; do [ ! -d "$folder" ] || set -- "$@" "$folder"; done
  python -m pytest "$@" -n 2 --dist loadfile -m "not soak"
}
# The tests take longest: the other steps run beside them.
told=$(mktemp)
trap 'rm -f "$told"' EXIT
tests >"$told" 2>&1 &
testing=$!
step format ruff format --check .
step lint ruff check .
step types python -m mypy
step imports lint-imports
step "generated files" python scripts/schema.py --check
if [ -d clients/js/node_modules ]; then step typescript npm --prefix clients/js run typecheck; fi
if wait "$testing"; then echo "ok    tests"; else
  echo "FAIL  tests"
  cat "$told"
  failed="$failed, tests"
fi
[ -z "$failed" ] || { echo "check failed: ${failed#, }" >&2; exit 1; }
