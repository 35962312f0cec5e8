#!/usr/bin/env bash
# Speed and memory beside a peer, in one interleaved run.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${LLMC_CACHE:-$HOME/.cache/llmc}
gguf=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
command -v cmake >/dev/null || tools/install-deps.sh cmake
cargo build --release --locked
target/release/llmc build models/llama.llm --weights "$gguf" -o "$cache/bench.llmc"
exec python3 benches/peers.py target/release/llmc "$gguf" "$cache/bench.llmc" "$@"
