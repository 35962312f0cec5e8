#!/usr/bin/env python3
"""Decode and prefill of SmolLM2 beside llama.cpp, one sample of each in turn.

Machines are shared and noisy, so the two are interleaved and what counts is the median of the ratios, pair by pair.
llama.cpp is built once, from the source archive that its Python package carries, into the cache folder.

usage: peers.py LLMC GGUF ARTIFACT [--samples N] [--threads N]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile

PACKAGE = "llama-cpp-python==0.3.36"
OPTIONS = ["GGML_NATIVE=ON", "LLAMA_CURL=OFF", "CMAKE_BUILD_TYPE=Release", "LLAMA_BUILD_TESTS=OFF",
           "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF"]
CASES = [("pp512", 512, 0, 0), ("tg128", 0, 128, 0), ("tg64@1024", 0, 64, 1024)]


def run(*command) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def llama_bench() -> pathlib.Path:
    """The peer's own benchmark program, built on first use."""
    cache = pathlib.Path(os.environ.get("LLMC_CACHE", pathlib.Path.home() / ".cache" / "llmc"))
    home = cache / "llama.cpp"
    program = home / "build" / "bin" / "llama-bench"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", home, PACKAGE)
        with tarfile.open(next(home.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(home)
        source = next(home.glob("llama_cpp_python-*/vendor/llama.cpp"))
        run("cmake", "-S", source, "-B", home / "build", *(f"-D{o}" for o in OPTIONS))
        run("cmake", "--build", home / "build", "-j", os.cpu_count(), "--target", "llama-bench")
    return program


def peer(program, gguf, threads, prefill, decode, depth) -> float:
    """The peer's tokens/s."""
    out = run(program, "-m", gguf, "-t", threads, "-p", prefill, "-n", decode, "-d", depth, "-r", 1, "-o", "jsonl")
    return json.loads(out.splitlines()[-1])["avg_ts"]


def ours(program, artifact, threads, prefill, decode, depth) -> tuple[float, float]:
    """llmc's tokens/s and peak memory in MiB."""
    out = json.loads(run(program, "bench", artifact, "--threads", threads, "--prefill", prefill, "--decode", decode,
                         "--depth", depth, "--repeat", 1, "--json"))
    return out["prefill_tokens_per_s" if prefill else "decode_tokens_per_s"], out["peak_memory_mib"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("llmc")
    parser.add_argument("gguf")
    parser.add_argument("artifact")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    program = llama_bench()
    print(f"{args.threads} threads, {args.samples} samples of each in turn; tokens/s, medians\n")
    print(f"{'':12}{'llmc':>10}{'llama.cpp':>12}{'ratio':>8}")
    memory = 0.0
    for name, *case in CASES:
        pairs = []
        for _ in range(args.samples):
            speed, peak = ours(args.llmc, args.artifact, args.threads, *case)
            memory = max(memory, peak)
            pairs.append((speed, peer(program, args.gguf, args.threads, *case)))
        mine, theirs = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:12}{mine:10.1f}{theirs:12.1f}{ratio:8.2f}", flush=True)
    weights = os.path.getsize(args.gguf) / 2**20
    print(f"\npeak memory of llmc {memory:.0f} MiB, {memory / weights:.2f} times the weights ({weights:.0f} MiB)")


if __name__ == "__main__":
    main()
