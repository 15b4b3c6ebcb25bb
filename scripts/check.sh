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
step format ruff format --check .
step lint ruff check .
step types python -m mypy
step imports lint-imports
step "generated files" python scripts/schema.py --check
step tests tests
if [ -d clients/js/node_modules ]; then step typescript npm --prefix clients/js run typecheck; fi
[ -z "$failed" ] || { echo "check failed: ${failed#, }" >&2; exit 1; }
