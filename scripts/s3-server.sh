#!/bin/sh
# Build the S3 server that the tests of shared storage run on (versitygw over a folder), once, outside the clone.
# Never fails: without Go, or without a network, those tests say so themselves. Prints the program's path with --where.
set -eu
version=v1.8.0
folder="${XDG_CACHE_HOME:-$HOME/.cache}/parlance/versitygw-$version"
program="$folder/versitygw"
if [ "${1:-}" = --where ]; then echo "$program"; exit 0; fi
say() { echo "s3 server: $*" >&2; }
[ ! -x "$program" ] || exit 0
go=$(command -v go || echo /usr/local/go/bin/go)
[ -x "$go" ] || { say "there is no Go to build it; the tests that need it will say so."; exit 0; }
mkdir -p "$folder"
build=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$build"' EXIT INT TERM
say "building $version (some two minutes, once) ..."
env GOPATH="$build/go" GOCACHE="$build/cache" GOBIN="$build/bin" GOFLAGS="-buildvcs=false -modcacherw" \
  timeout 900 "$go" install -ldflags="-s -w" "github.com/versity/versitygw/cmd/versitygw@$version" \
  >"$build/log" 2>&1 </dev/null || { tail -n 3 "$build/log" >&2; say "it cannot be built; the tests that need it will say so."; exit 0; }
mv "$build/bin/versitygw" "$program"
