#!/bin/sh
# Write requirements/*.txt anew: pinned, with hashes, without URLs. `scripts/lock.sh --upgrade` takes newer versions.
set -eu
cd "$(dirname "$0")/.."
UV=$(scripts/uv.sh)
compile() { "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"; }
compile "$@" --no-emit-package parlance-client --override requirements/overrides.txt pyproject.toml -o requirements/core.txt
compile "$@" --no-emit-package parlance-client --group dev -c requirements/core.txt --override requirements/overrides.txt -o requirements/dev.txt
compile "$@" --override requirements/overrides-models.txt requirements/models.in -o requirements/models.txt
