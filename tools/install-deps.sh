#!/usr/bin/env bash
# Installs what building and testing need and is missing: LLVM 22, the linker, a C compiler, pip and unzip, and any
# packages named as arguments whose command of the same name is missing. Does nothing when all is there.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

# The headers, not only the library: llvm-config comes without them.
has_llvm() { has llvm-config-22 && [ -e "$(llvm-config-22 --includedir)/llvm-c/Core.h" ]; }

missing=()
has_llvm || missing+=(llvm-22-dev)
has mold || missing+=(mold)
has cc || missing+=(build-essential)
has unzip || missing+=(unzip)
has ldd || missing+=(libc-bin)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
for name in "$@"; do
  has "$name" || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

say() { echo "install-deps: $*" >&2; }

if ! has apt-get; then
  say "please install: ${missing[*]} (these are Debian's names; this system has no apt-get)"
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  root=()
elif has sudo; then
  root=(sudo)
else
  say "please have an administrator run: apt-get install ${missing[*]}"
  exit 1
fi

say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${root[@]}" apt-get update -qq
if ! "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
  say "apt-get could not install ${missing[*]}; llvm-22-dev is in Debian 12's security updates and in newer releases"
  exit 1
fi
