#!/bin/sh
# Install the programs that some tests need and the system lacks: a browser, a speech synthesiser that makes audio, and
# Redis for tests of several nodes.
# Never fails: a test whose program is missing says so itself.
set -eu
say() { echo "test packages: $*" >&2; }
missing=
command -v espeak-ng >/dev/null 2>&1 || missing="$missing espeak-ng"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
  command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  say "not here and not mine to install:$missing; the tests that need them will say so."
  exit 0
fi
say "installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
install() {
  # shellcheck disable=SC2086  # a list of names
  apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 install -y --no-install-recommends $missing </dev/null >/dev/null 2>&1
}
install || { apt-get -qq -o DPkg::Lock::Timeout=120 update >/dev/null 2>&1 && install; } ||
  say "apt-get cannot install:$missing; the tests that need them will say so."
