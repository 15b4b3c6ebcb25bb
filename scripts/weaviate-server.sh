#!/bin/sh
# Build the Weaviate that the tests of its index run on, once, outside the clone; without Go it is taken out of its image
# where docker is. Never fails: where neither works, those tests say so themselves. Prints the program's path with
# --where; with --told says in one line when it is not there.
set -eu
version=v1.35.2
folder="${XDG_CACHE_HOME:-$HOME/.cache}/parlance/weaviate-$version"
program="$folder/weaviate-server"
say() { echo "weaviate: $*" >&2; }
case "${1:-}" in
  --where) echo "$program"; exit 0 ;;
  --told) [ -x "$program" ] || say "it could not be had: its index was not tested."; exit 0 ;;
esac
[ ! -x "$program" ] || exit 0
mkdir -p "$folder"
build=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$build"' EXIT INT TERM
go=$(command -v go || echo /usr/local/go/bin/go)
if [ -x "$go" ]; then
  say "building $version (some four minutes, once) ..."
  env GOPATH="$build/go" GOCACHE="$build/cache" GOBIN="$build/bin" GOFLAGS="-buildvcs=false -modcacherw" \
    timeout 1800 "$go" install -ldflags="-s -w" "github.com/weaviate/weaviate/cmd/weaviate-server@$version" \
    >"$build/log" 2>&1 </dev/null || { tail -n 3 "$build/log" >&2; say "it cannot be built; the tests that need it will say so."; exit 0; }
  mv "$build/bin/weaviate-server" "$program"
elif command -v docker >/dev/null 2>&1; then
  say "taking $version out of its image ..."
  { box=$(docker create "semitechnologies/weaviate:${version#v}") && docker cp "$box:/bin/weaviate" "$build/server" &&
    docker rm "$box" && chmod +x "$build/server" && "$build/server" --help; } >"$build/log" 2>&1 </dev/null ||
    { tail -n 3 "$build/log" >&2; say "its image cannot be had; the tests that need it will say so."; exit 0; }
  mv "$build/server" "$program"
else
  say "there is neither Go to build it nor docker for its image; the tests that need it will say so."
fi
