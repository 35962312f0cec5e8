# Two commands matter: `make demo` (text to tokens) and `make test` (the whole suite).
# Everything large lives outside the repository, in $(LLMC_CACHE).
export LLMC_CACHE ?= $(HOME)/.cache/llmc
SMOLLM2 := $(LLMC_CACHE)/SmolLM2-135M-Instruct.Q4_1.gguf
PROMPT  ?= Explain in two sentences why the sky is blue.

.PHONY: demo test test-ptxas test-mutations test-gpu bench-gpu bench-counted bench bench-optimizer deps weights ptxas fmt lint

demo: deps weights
	cargo build --release --locked
	target/release/llmc build models/llama.llm --weights $(SMOLLM2) -o $(LLMC_CACHE)/smollm2.llmc
	target/release/llmc run $(LLMC_CACHE)/smollm2.llmc --prompt "$(PROMPT)" --max-tokens 100

test: deps weights ptxas
	tools/test.sh

# Every kernel of every text by the assembler, without spills: for later architectures and at tiny sizes too, which takes minutes.
test-ptxas: deps ptxas
	cargo test --workspace --locked --test all ptxas:: -- --include-ignored --nocapture --test-threads 1

# Every bug that can be planted in a family's kernels, instead of some of each kind.
test-mutations: deps
	cargo test --workspace --locked --lib mutation:: -- --include-ignored --nocapture

# What needs a GPU, and what stands in for one. Each part says so where it is skipped.
test-gpu: deps weights
	cargo test --locked --test all gpu:: -- --include-ignored --nocapture --test-threads 1

bench: deps weights
	tools/bench.sh

# Attention, products and decoding on a GPU, then torch's figures for the same shapes; a word where there is none.
bench-gpu: deps
	cargo bench --locked --bench gpu
	python3 benches/gpu_peers.py

# What can be said of the same kernels without a GPU: counts of the simulator, registers, occupancy. It takes eight minutes.
# The simulator is optimised in a debug build too, and nothing is timed.
bench-counted: deps ptxas
	cargo bench --locked --profile dev --bench gpu -- --count --target sm_80
	cargo bench --locked --profile dev --bench gpu -- --count --target sm_90a

# What the optimizer takes for each block of the texts in models/: docs/performance.md.
bench-optimizer: deps
	cargo bench --locked -p llmc-compiler --bench optimizer

deps:
	@tools/install-deps.sh

weights:
	@tools/fetch.sh smollm2

ptxas:
	@tools/fetch.sh ptxas

fmt:
	cargo fmt --all

lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings
