#!/bin/sh
# Print the path of uv, fetching it when it is not there: from PATH, else into .tools (a virtual environment of its own).
set -eu
cd "$(dirname "$0")/.."
if command -v uv >/dev/null 2>&1; then command -v uv; exit 0; fi
if [ ! -x .tools/bin/uv ]; then
  command -v python3 >/dev/null 2>&1 || {
    echo "Python 3.11 or newer is needed and none was found; install it (Debian: apt-get install python3)." >&2; exit 1; }
  echo "fetching uv (the Python installer) ..." >&2
  python3 -m venv .tools >/dev/null 2>&1 || python3 -m venv --without-pip .tools >/dev/null 2>&1 || {
    echo "Python cannot make a virtual environment; install python3-venv (Debian: apt-get install python3-venv)." >&2; exit 1; }
  { [ -x .tools/bin/pip ] && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8; } ||
  python3 -m pip install --quiet --disable-pip-version-check --target .tools/lib-uv uv==0.13.8 >&2 || {
    echo "uv cannot be fetched; check the network, or install it yourself and run again." >&2; exit 1; }
  [ -x .tools/bin/uv ] || ln -s ../lib-uv/bin/uv .tools/bin/uv
fi
echo "$PWD/.tools/bin/uv"
