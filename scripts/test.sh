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
# What failed there, up to five tests, runs once more alone: who passes then is named as flaky, and is a bug to mend.
python=0
.venv/bin/python -m pytest tests -m "not soak" -n 2 --dist loadfile || python=$?
if [ "$python" = 1 ]; then
  say "once more, alone, what failed:"
  .venv/bin/python scripts/last-failed.py 5 && .venv/bin/python -m pytest tests -m "not soak" --last-failed \
    --last-failed-no-failures none && python=0 && say "FLAKY: see above which tests failed at first."
fi
[ "$python" = 0 ] || failed="$failed python"
if [ "$page" = 3 ]; then say "the TypeScript tests did not run: there is no Node 20, or no sources."
elif [ "$page" = 0 ]; then (cd clients/js && npm test) || failed="$failed typescript"; fi
scripts/weaviate-server.sh --told
[ -z "$failed" ] || { say "failed:$failed"; exit 1; }
