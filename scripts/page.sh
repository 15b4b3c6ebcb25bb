#!/bin/sh
# Build the web page into clients/js/app/dist when its sources changed.
# Exit status: 0 the page is there, 3 it cannot be built here (no Node, no sources), 1 the build failed.
set -eu
cd "$(dirname "$0")/../clients/js"

say() { echo "page: $*" >&2; }
# shellcheck source=scripts/hash.sh
. ../../scripts/hash.sh
sources() { find . \( -name node_modules -o -name dist \) -prune -o -type f -print0 | LC_ALL=C sort -z; }

if [ ! -f package.json ]; then say "clients/js holds no sources; going on without the page."; exit 3; fi
wanted=$({ sources; sources | xargs -0 cat; } | hash)
if [ -d app/dist ] && [ "$(cat node_modules/.stamp-page 2>/dev/null)" = "$wanted" ]; then exit 0; fi
if ! command -v npm >/dev/null 2>&1 || ! node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' 2>/dev/null; then
  say "the page needs Node 20 or newer with npm to be built; going on without it (Debian: apt-get install nodejs npm)."
  exit 3
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Run npm quietly; when it fails, say why in one sentence, then its first lines.
quietly() {
  what=$1
  shift
  if "$@" >"$log" 2>&1; then return 0; fi
  if grep -qiE 'ENOSPC|no space left' "$log"; then why="the disk is full"
  elif grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT' "$log"; then
    why="the package registry cannot be reached"
  else why="see below"; fi
  say "$what failed: $why."
  grep -vE '^(npm (error|warn))? *$|^npm warn' "$log" | head -n 12 >&2
  exit 1
}

packages=$(cat package.json package-lock.json ./*/package.json .npmrc 2>/dev/null | hash)
if [ "$(cat node_modules/.stamp-packages 2>/dev/null)" != "$packages" ]; then
  say "installing its packages ..."
  quietly "installing the page's packages" npm ci --no-audit --no-fund
  echo "$packages" >node_modules/.stamp-packages
fi
say "building ..."
rm -f node_modules/.stamp-page
quietly "building the page" npm run build
echo "$wanted" >node_modules/.stamp-page
say "done."
