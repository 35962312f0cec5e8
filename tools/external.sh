#!/usr/bin/env bash
# A program outside the workspace, whose only dependency is `llmc`, compiles a model, generates text, and gets the same
# text from the artifact that it wrote.
set -uo pipefail
cd "$(dirname "$0")/.."
weights=${LLMC_CACHE:-$HOME/.cache/llmc}/SmolLM2-135M-Instruct.Q4_1.gguf
if ! [ -f "$weights" ]; then
  echo "test external_program ... ignored, for $weights is missing: \`make weights\` fetches it"
  echo "test result: ok. 0 passed; 0 failed; 1 ignored"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The versions that the workspace is tested with.
cp Cargo.lock tests/external/Cargo.lock
text=$(cargo run --quiet --manifest-path tests/external/Cargo.toml --target-dir target -- \
  "$weights" "The capital of France is" "$work/model.llmc")
status=$?

if [ $status -eq 0 ] && [[ $text == " Paris"* ]]; then
  echo "test external_program ... ok"
  echo "test result: ok. 1 passed; 0 failed; 0 ignored"
  exit 0
fi
echo "test external_program ... FAILED (exit code $status: $text)"
echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
exit 1
