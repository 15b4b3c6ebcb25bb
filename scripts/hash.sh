# shellcheck shell=sh
# To be sourced: `hash` prints the SHA-256 of its input, whichever tool the system has.
hash() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}
