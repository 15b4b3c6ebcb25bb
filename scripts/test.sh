#!/bin/sh
# Run every test but the soak ones; the exit status counts Python, the page's build and TypeScript alike.
set -eu
cd "$(dirname "$0")/.."
say() { echo "test: $*" >&2; }
failed=
page=0
scripts/page.sh || page=$?
[ "$page" != 1 ] || failed="$failed page"
# Two at a time: most tests wait for processes of their own. A file stays together, and so do the servers it shares.
.venv/bin/python -m pytest tests -m "not soak" -n 2 --dist loadfile || failed="$failed python"
if [ "$page" = 3 ]; then say "the TypeScript tests did not run: there is no Node 20, or no sources."
elif [ "$page" = 0 ]; then (cd clients/js && npm test) || failed="$failed typescript"; fi
[ -z "$failed" ] || { say "failed:$failed"; exit 1; }
