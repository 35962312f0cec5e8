#!/usr/bin/env bash
# An artifact built here runs in a binary that was compiled without the compiler feature and without LLVM in reach,
# and gives the same text.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${LLMC_CACHE:-$HOME/.cache/llmc}
weights=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --locked --quiet
LLVM_SYS_221_PREFIX=/nonexistent cargo build --locked --quiet --no-default-features --target-dir target/without-llvm

target/debug/llmc build models/llama.llm --weights "$weights" -o "$work/model.llmc"
ask=(run "$work/model.llmc" --prompt "The capital of France is" --max-tokens 16)
target/debug/llmc "${ask[@]}" >"$work/with" 2>/dev/null
target/without-llvm/debug/llmc "${ask[@]}" >"$work/without" 2>/dev/null

verdict() { echo "test $1 ... $2"; }
if ldd target/without-llvm/debug/llmc | grep -qi llvm; then
  verdict artifact_runs_without_llvm "FAILED (the binary links LLVM)"
elif ! [ -s "$work/with" ] || ! cmp -s "$work/with" "$work/without"; then
  verdict artifact_runs_without_llvm "FAILED (the texts differ)"
else
  verdict artifact_runs_without_llvm ok
  echo "test result: ok. 1 passed; 0 failed; 0 ignored"
  exit 0
fi
echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
exit 1
