//! What can be said of kernels without a GPU: nothing is timed.
//!
//! `make bench-counted`, or `cargo bench --profile dev --bench gpu -- --count [--target sm_80|sm_90a]`. The simulator
//! runs the kernels and counts; NVIDIA's assembler, where it is installed, says what registers they take; from these
//! follow the blocks that a multiprocessor holds; and beside them stands what the shape needs whoever computes it, with
//! the time that an H200 would take for it at its peaks: a floor, which no kernel reaches.
//!
//! Sizes are those of models. Where all of a launch would take minutes to simulate, fewer heads or layers are run,
//! which are alike, and the table's title says how many.

use super::counting::{Counting, Launched, Log};
use super::occupancy::{A100, Block, HOPPER, Multiprocessor};
use super::operands;
use super::ptxas::{self, Kernel, Ptxas};
use super::shapes::{self, Llama, ONE_BILLION, SEVEN_BILLION, attention_text, product_text};
use llmc::Session;
use llmc_artifact::Format;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_compiler::kernel::Body;
use llmc_compiler::pipeline::Stages;
use llmc_ptx_sim::Counters;
use llmc_runtime::Device;
use std::sync::Arc;

/// An H200's peaks: dense products of bf16 in operations a second, and bytes a second of its memory.
const PEAK: f64 = 989e12;
const BANDWIDTH: f64 = 4.8e12;

/// Heads of the attention, and those of them that are run.
const HEADS: u64 = 16;
const HEADS_RUN: u64 = 1;
const SIZES: [u64; 3] = [64, 128, 256];
/// Whether the mask is causal, and tokens.
const PROMPTS: [(bool, u64); 3] = [(false, 512), (true, 512), (true, 2048)];
const ACTIVATIONS: [Format; 2] = [Format::F32, Format::BF16];
/// Rows and columns of matrices of the smaller llama.
const MATRICES: [(u64, u64); 2] = [(2048, 2048), (8192, 2048)];
const TOKENS: [u64; 3] = [1, 16, 256];
/// Tokens before the one that is generated.
const CONTEXT: usize = 128;
/// What kernels of a llama's layers are called.
const LAYER: &str = "l_";

/// Prints every table for a target.
pub fn print(target: &str) {
    let (name, gpu) = if target == "sm_80" { ("A100", A100) } else { ("H100 or H200", HOPPER) };
    let bench = Bench { target: target.into(), gpu, assembler: ptxas::find() };
    let version = bench.assembler.as_ref().map_or("not installed", |p| &p.version);
    println!("{target}: counts of the simulator, registers by ptxas ({version}), occupancy of an {name}.\n");
    bench.attention();
    bench.products();
    bench.decode(&ONE_BILLION);
    bench.decode(&SEVEN_BILLION);
}

/// What a shape needs, whoever computes it.
struct Least {
    flops: f64,
    bytes: f64,
}

impl Least {
    /// Microseconds of an H200 at its peaks.
    fn floor(&self) -> f64 {
        1e6 * (self.flops / PEAK).max(self.bytes / BANDWIDTH)
    }
}

/// Bytes of global memory that warps ask for, whatever a cache answers: sectors of loads and stores, and what is copied
/// without a register.
fn global_bytes(c: &Counters) -> f64 {
    (32 * c.global_sectors + c.async_bytes + c.async_stored_bytes) as f64
}

/// Blocks of the grid, operations and bytes that the shape needs and that were counted, and the floor.
const COUNTS: &str = "grid | GFLOP | by matrices | ratio | least MB | global MB | ratio | shared MB | conflicts | \
    barriers | floor, us";
/// A block, and how many fit.
const KERNEL: &str = "threads | registers | spilled | shared, KiB | blocks an SM | warps an SM";

fn head(first: &str, columns: &str) {
    println!(
        "| {first} | {columns} |\n|{}",
        "---|".repeat(2 + first.matches('|').count() + columns.matches('|').count())
    );
}

/// The columns of [`COUNTS`], the floor aside.
fn counts(least: &Least, c: &Counters) -> String {
    let (flops, global) = (c.matrix_flops as f64, global_bytes(c));
    let shared = (c.shared_read_bytes + c.shared_written_bytes) as f64;
    let matrices = match c.matrix_flops {
        0 => "- | -".into(),
        _ => format!("{:.3} | {:.2}", flops * 1e-9, flops / least.flops),
    };
    format!(
        "{} | {:.3} | {matrices} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {}",
        c.blocks,
        least.flops * 1e-9,
        least.bytes * 1e-6,
        global * 1e-6,
        global / least.bytes,
        shared * 1e-6,
        c.bank_conflicts,
        c.barriers
    )
}

struct Bench {
    target: String,
    gpu: Multiprocessor,
    assembler: Option<Ptxas>,
}

impl Bench {
    fn stages(&self, text: &str, activations: Format) -> Stages {
        shapes::stages(text, &shapes::options(&self.target, activations))
    }

    fn emit(&self, stages: &Stages) -> TargetCode {
        stages.emit(&self.target).unwrap_or_else(|e| panic!("{e}"))
    }

    fn open(&self, stages: &Stages) -> (TargetCode, Counting, Arc<Log>) {
        let code = self.emit(stages);
        let (device, log) = Counting::open(code.clone());
        (code, device, log)
    }

    /// The one launch of some family.
    fn launch(&self, stages: &Stages, tokens: u64, family: impl Fn(&Body) -> bool) -> (TargetCode, Launched) {
        let (code, mut device, log) = self.open(stages);
        let (calls, _) = operands::calls(&mut device, stages, tokens, family);
        device.run(&calls).unwrap_or_else(|e| panic!("{e}"));
        let [launched] = log.take()[..] else { panic!("several kernels of the family") };
        (code, launched)
    }

    /// The columns of [`KERNEL`].
    fn kernel(&self, code: &TargetCode, info: &KernelInfo) -> String {
        let (threads, shared) = (info.threads, info.scratch as f64 / 1024.0);
        let Some(assembler) = &self.assembler else {
            return format!("{threads} | - | - | {shared:.1} | - | -");
        };
        let text = std::str::from_utf8(&code.code).expect("PTX is text");
        let module = ptxas::module(&ptxas::declarations(text), [&Kernel::of(text, &info.symbol)]);
        let (registers, spilled) = assembler.assemble(&module, &self.target)["k0"];
        let block = Block { threads, registers, shared: info.scratch };
        let blocks = self.gpu.blocks(block);
        format!("{threads} | {registers} | {spilled} | {shared:.1} | {blocks} | {}", blocks * block.warps())
    }

    /// Prompts.
    fn attention(&self) {
        println!(
            "Attention, bf16 keys and values: {HEADS_RUN} of {HEADS} heads is counted, the floor is of {HEADS}.\n"
        );
        head("head | activations | mask | tokens", COUNTS);
        let mut kernels = Vec::new();
        for (size, activations) in SIZES.iter().flat_map(|s| ACTIVATIONS.map(|a| (*s, a))) {
            for (causal, tokens) in PROMPTS {
                kernels.push(self.prompt(size, activations, causal, tokens));
            }
        }
        println!();
        self.kernels("head | activations | mask", &kernels);
    }

    /// Prints what some heads do, and gives the row of the kernel for all of them.
    fn prompt(&self, size: u64, activations: Format, causal: bool, tokens: u64) -> String {
        let stages = |heads| self.stages(&attention_text(heads, size, causal), activations);
        let (_, launched) = self.launch(&stages(HEADS_RUN), tokens, |body| matches!(body, Body::Stream(_)));
        let [least, all] = [HEADS_RUN, HEADS].map(|h| least_of_attention(h, size, causal, tokens));
        let mask = if causal { "causal" } else { "none" };
        let shape = format!("{size} | {} | {mask}", activations.spec().name);
        println!("| {shape} | {tokens} | {} | {:.2} |", counts(&least, &launched.counters), all.floor());
        let code = self.emit(&stages(HEADS));
        format!("{shape} | {}", self.kernel(&code, &code.kernels[launched.kernel]))
    }

    /// Products of a token alone, as it is generated, and of prompts.
    fn products(&self) {
        println!("Products of bf16 weights, whole.\n");
        head("rows | columns | activations | tokens", COUNTS);
        let mut kernels = Vec::new();
        for (matrix, activations) in MATRICES.iter().flat_map(|m| ACTIVATIONS.map(|a| (*m, a))) {
            let stages = self.stages(&product_text(matrix.0, matrix.1), activations);
            kernels.extend(TOKENS.map(|tokens| self.product(&stages, matrix, activations, tokens)));
        }
        println!();
        self.kernels("columns | activations | tokens", &kernels);
    }

    /// Prints what a product does, and gives the row of its kernel.
    fn product(&self, stages: &Stages, (rows, columns): (u64, u64), activations: Format, tokens: u64) -> String {
        let (code, launched) = self.launch(stages, tokens, |body| matches!(body, Body::Contract(_)));
        let factor = if activations == Format::F32 { 4 } else { 2 };
        let bytes = (2 * rows * columns + tokens * (factor * columns + 4 * rows)) as f64;
        let least = Least { flops: 2.0 * (rows * columns * tokens) as f64, bytes };
        let name = activations.spec().name;
        let counts = counts(&least, &launched.counters);
        println!("| {rows} | {columns} | {name} | {tokens} | {counts} | {:.2} |", least.floor());
        let kernel = self.kernel(&code, &code.kernels[launched.kernel]);
        format!("{columns} | {name} | {} | {kernel}", if tokens == 1 { "one" } else { "more" })
    }

    /// Rows of kernels, those that are alike once.
    fn kernels(&self, first: &str, rows: &[String]) {
        println!("Their kernels: bytes spilled, and what a multiprocessor (SM) holds.\n");
        head(first, KERNEL);
        let new = |n: &usize| !rows[..*n].contains(&rows[*n]);
        (0..rows.len()).filter(new).for_each(|n| println!("| {} |", rows[n]));
        println!();
    }

    /// One generated token of a llama, kernel by kernel. Of its layers one is run.
    fn decode(&self, shape: &Llama) {
        let one = Llama { layers: 1, ..shape.clone() };
        let stages = one.stages(&shapes::options(&self.target, Format::F32));
        let (code, device, log) = self.open(&stages);
        let (engine, _) = one.engine(Box::new(device), &stages);
        let mut session = Session::new(&engine);
        log.set_idle(true);
        session.prefill(&[1; CONTEXT]).unwrap_or_else(|e| panic!("{e}"));
        log.set_idle(false);
        session.step(1).unwrap_or_else(|e| panic!("{e}"));
        println!(
            "One token of a llama of {}, bf16, after {CONTEXT}: one layer of {} is run.\n",
            shape.name, shape.layers
        );
        head("kernel | launches | weights MB | global MB | requests | sectors a request", KERNEL);
        let mut all = Launches::default();
        for launched in log.take() {
            let info = &code.kernels[launched.kernel];
            let times = if info.symbol.starts_with(LAYER) { shape.layers } else { 1 };
            let this = Launches::of(&launched, &stages.kernels[launched.kernel].body);
            println!("| {} | {times} | {} | {} |", info.symbol, this.columns(), self.kernel(&code, info));
            all.add(times, &this);
        }
        println!("| all, layers {} times | {} | {} | | | | | | |\n", shape.layers, all.count, all.columns());
        let least = Least { flops: 0.0, bytes: shape.bytes() as f64 };
        println!(
            "The checkpoint's own weights are {:.1} MB a token, the table's row aside: a floor of {:.0} us.\n",
            least.bytes * 1e-6,
            least.floor()
        );
    }
}

/// Operations and bytes of attention as it is derived.
fn least_of_attention(heads: u64, size: u64, causal: bool, tokens: u64) -> Least {
    let pairs = if causal { tokens * (tokens + 1) / 2 } else { tokens * tokens };
    // Queries and results in f32, keys and values in bf16.
    let bytes = (heads * size * tokens) as f64 * (4.0 + 2.0 + 2.0 + 4.0);
    Least { flops: 4.0 * (heads * size * pairs) as f64, bytes }
}

/// Launches of a step, of one kernel or of all.
#[derive(Default)]
struct Launches {
    count: u64,
    weights: f64,
    global: f64,
    requests: u64,
    sectors: u64,
}

impl Launches {
    /// A map reads a row of a table, which counts as no weight.
    fn of(launched: &Launched, body: &Body) -> Launches {
        let weights = if matches!(body, Body::Map { .. }) { 0.0 } else { launched.weights as f64 };
        let c = &launched.counters;
        let (requests, sectors) = (c.global_requests, c.global_sectors);
        Launches { count: 1, weights, global: global_bytes(c), requests, sectors }
    }

    fn add(&mut self, times: u64, other: &Launches) {
        self.count += times * other.count;
        self.weights += times as f64 * other.weights;
        self.global += times as f64 * other.global;
        self.requests += times * other.requests;
        self.sectors += times * other.sectors;
    }

    fn columns(&self) -> String {
        let each = self.sectors as f64 / self.requests.max(1) as f64;
        format!("{:.2} | {:.2} | {} | {each:.1}", self.weights * 1e-6, self.global * 1e-6, self.requests)
    }
}
