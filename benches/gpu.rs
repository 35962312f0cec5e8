//! Speed on a GPU: attention, products and decoding, beside what the hardware could do.
//!
//! `make bench-gpu`, or `cargo bench --bench gpu -- [--device cuda|sim] [--target sm_80|sm_90a]`. Without a GPU it says so and
//! is done. On the simulator everything runs at toy sizes, so that the bench itself is tested: its seconds mean nothing
//! there. `benches/gpu_peers.py` prints torch's figures for the same shapes.

use llmc::{Artifact, DeviceKind, Engine, EngineOptions, Session};
use llmc_artifact::plan::{Arg, Plan, Storage, Table};
use llmc_artifact::{Dim, Format, TensorData};
use llmc_compiler::kernel::Body;
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::diag::render_text;
use llmc_frontend::{Described, MODELS, compile_text, select_model};
use llmc_runtime::device::{self, Calls, Device, Memory};
use std::collections::HashMap;
use std::time::Instant;

fn main() {
    let option = |name: &str| {
        let mut args = std::env::args().skip_while(|a| a != name);
        args.next().and_then(|_| args.next())
    };
    let simulated = option("--device").as_deref() == Some("sim");
    let kind = if simulated { DeviceKind::Sim } else { DeviceKind::Cuda { ordinal: 0 } };
    if let Err(e) = device::check(kind) {
        return println!("bench-gpu: skipped. {e}");
    }
    let bench = Bench { kind, target: option("--target").unwrap_or("sm_80".into()), toy: simulated };
    let bandwidth = bench.bandwidth();
    bench.attention();
    bench.products(bandwidth);
    bench.decode(bandwidth);
}

/// What is measured on.
struct Bench {
    kind: DeviceKind,
    target: String,
    /// Sizes that a simulator can take.
    toy: bool,
}

impl Bench {
    fn open(&self, stages: &Stages) -> Box<dyn Device> {
        let code = stages.emit(&self.target).unwrap_or_else(|e| panic!("{e}"));
        device::open(self.kind, &[code]).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Bytes a second that a copy inside the device's memory reads and writes together.
    fn bandwidth(&self) -> f64 {
        let stages = stages(&product_text(32, 32), Format::F32);
        let mut device = self.open(&stages);
        println!("{}", device.describe());
        let bytes: u64 = if self.toy { 1 << 20 } else { 1 << 30 };
        let [from, to] = [(); 2].map(|()| room(&mut *device, Format::F32, bytes));
        let seconds = self.seconds(&mut *device, from, |d| d.copy((from, 0), (to, 0), bytes).expect("a copy"));
        let rate = 2.0 * bytes as f64 / seconds;
        println!("memory: {:.0} GB/s, read and written by copies of {} MiB\n", rate * 1e-9, bytes >> 20);
        rate
    }

    /// Seconds of one run: the mean of as many as take a twentieth of a second, the best of three such means.
    fn seconds(&self, device: &mut dyn Device, any: Memory, mut run: impl FnMut(&mut dyn Device)) -> f64 {
        let mut several = |times: usize| {
            let start = Instant::now();
            (0..times).for_each(|_| run(device));
            // A device may run behind: what is read waits for it.
            device.read(any, 0, &mut [0]).expect("a byte");
            start.elapsed().as_secs_f64() / times as f64
        };
        several(2);
        if self.toy {
            return several(1);
        }
        let times = (0.05 / several(1)).clamp(3.0, 1000.0) as usize;
        (0..3).map(|_| several(times)).fold(f64::INFINITY, f64::min)
    }

    /// Prompts: operations and bytes of attention as it is derived, beside those of one that stores its scores.
    fn attention(&self) {
        println!("attention, 16 heads, bf16 keys and values; bytes moved at least, in MB");
        println!(
            "{:>5} {:>7} {:>7} {:>10} {:>9} {:>9} {:>10} {:>9}",
            "head", "mask", "tokens", "GFLOP", "standard", "derived", "us", "TFLOP/s"
        );
        let (heads, sizes, lengths): (u64, &[u64], &[u64]) =
            if self.toy { (2, &[64], &[96]) } else { (16, &[64, 128, 256], &[512, 1024, 2048, 4096, 8192, 16384]) };
        for size in sizes {
            for causal in [true, false] {
                let stages = stages(&attention_text(heads, *size, causal), Format::BF16);
                for tokens in lengths {
                    let seconds = self.launches(&stages, *tokens, |body| matches!(body, Body::Stream(_)));
                    let pairs = if causal { tokens * (tokens + 1) / 2 } else { tokens * tokens };
                    let flops = 4.0 * (heads * size * pairs) as f64;
                    let all = (heads * size * tokens) as f64;
                    // Queries and results in f32, keys and values in bf16.
                    let derived = all * (4.0 + 2.0 + 2.0 + 4.0);
                    // Scores are written, read for the softmax, written, and read for the values, in bf16.
                    let standard = derived + 4.0 * 2.0 * (heads * tokens * tokens) as f64;
                    println!(
                        "{size:5} {:>7} {tokens:7} {:10.2} {:9.1} {:9.1} {:10.1} {:9.1}",
                        if causal { "causal" } else { "none" },
                        flops * 1e-9,
                        standard * 1e-6,
                        derived * 1e-6,
                        seconds * 1e6,
                        flops / seconds * 1e-12
                    );
                }
            }
        }
        println!();
    }

    /// Products of bf16 weights: a token alone by bytes, many by operations.
    fn products(&self, bandwidth: f64) {
        println!("products, bf16 weights");
        println!(
            "{:>7} {:>7} {:>7} {:>10} {:>9} {:>9} {:>9}",
            "rows", "columns", "tokens", "us", "TFLOP/s", "GB/s", "of copies"
        );
        let (shapes, tokens): (&[(u64, u64)], &[u64]) = if self.toy {
            (&[(96, 64)], &[1, 5])
        } else {
            (&[(4096, 4096), (11008, 4096), (4096, 11008), (128_256, 2048)], &[1, 16, 256, 4096])
        };
        for (rows, columns) in shapes {
            let stages = stages(&product_text(*rows, *columns), Format::BF16);
            for tokens in tokens {
                let seconds = self.launches(&stages, *tokens, |body| matches!(body, Body::Contract(_)));
                let (flops, bytes) = (2.0 * (rows * columns * tokens) as f64, 2.0 * (rows * columns) as f64);
                println!(
                    "{rows:7} {columns:7} {tokens:7} {:10.1} {:9.1} {:9.0} {:8.0}%",
                    seconds * 1e6,
                    flops / seconds * 1e-12,
                    bytes / seconds * 1e-9,
                    100.0 * bytes / seconds / bandwidth
                );
            }
        }
        println!();
    }

    /// Generated tokens one by one, of llamas with random weights.
    fn decode(&self, bandwidth: f64) {
        println!("decode, batch 1, bf16 weights, after 128 tokens of prompt");
        let shapes: &[Llama] = if self.toy { &[TOY] } else { &[ONE_BILLION, SEVEN_BILLION] };
        for shape in shapes {
            let (prompt, count) = if self.toy { (3, 3) } else { (128, 128) };
            let (engine, bytes) = self.llama(shape);
            let mut session = Session::new(&engine);
            session.prefill(&vec![1; prompt]).unwrap_or_else(|e| panic!("{e}"));
            let step = |session: &mut Session, n: usize| {
                session.step(n as u32 % 97 + 1).unwrap_or_else(|e| panic!("{e}"));
            };
            (0..2).for_each(|n| step(&mut session, n));
            let start = Instant::now();
            (0..count).for_each(|n| step(&mut session, n));
            let rate = count as f64 / start.elapsed().as_secs_f64();
            println!(
                "{:3}: {rate:.1} tokens/s, {:.0} GB/s of weights, {:.0}% of copies",
                shape.name,
                bytes * rate * 1e-9,
                100.0 * bytes * rate / bandwidth
            );
        }
    }

    /// An engine, and the bytes of weights that a token reads.
    fn llama(&self, shape: &Llama) -> (Engine, f64) {
        let checkpoint = shape.described().stored_in(Format::BF16);
        let (file, text) = select_model(MODELS.iter().copied(), &checkpoint).expect("a text fits");
        let compiled = compile_text(file, text, Some(&checkpoint));
        let failed = || render_text(&compiled.diagnostics, &compiled.sources, Default::default());
        let model = compiled.model.unwrap_or_else(|| panic!("{}", failed()));
        let stages = pipeline::run(model, &Options { cache: Format::BF16, ..Options::default() }).expect("a llama");
        let device = self.open(&stages);
        let artifact = Artifact { plan: stages.plan.clone(), ..Artifact::default() };
        let weights = SomeNumbers::new(shape);
        let engine = Engine::on(device, &artifact, Some(&weights), &EngineOptions::default());
        let engine = engine.unwrap_or_else(|e| panic!("{e}"));
        // Of the table of tokens a row is read, whatever the model.
        let table = 2.0 * (shape.vocab * shape.model) as f64;
        (engine.clone(), engine.load_stats().weight_bytes as f64 - table)
    }

    /// Seconds of the decode plan's launches of some family, over so many tokens of one sequence from its beginning.
    fn launches(&self, stages: &Stages, tokens: u64, family: impl Fn(&Body) -> bool) -> f64 {
        let mut device = self.open(stages);
        let memory = Everything::new(&mut *device, &stages.plan, tokens);
        let mut calls = Calls::default();
        let wanted = stages.plan.prefill.launches.iter().filter(|l| family(&stages.kernels[l.kernel as usize].body));
        for launch in wanted {
            let kernel = device.kernels()[launch.kernel as usize].clone();
            let operands = launch.args.iter().map(|arg| memory.of[arg]).collect::<Vec<_>>();
            let tables = kernel.tables.iter().map(|t| memory.tables[t]);
            let items = kernel.items.iter().map(|d| length(*d, tokens)).product();
            let dims = kernel.dims.iter().map(|d| length(*d, tokens) as i64);
            calls.push(launch.kernel, operands.into_iter().chain(tables), dims, items);
        }
        assert!(!calls.calls.is_empty(), "no kernel of the family");
        let any = *memory.of.values().next().expect("some memory");
        self.seconds(&mut *device, any, |d| d.run(&calls).unwrap_or_else(|e| panic!("{e}")))
    }
}

/// A length of a step over so many tokens of one sequence, all of whose outputs are wanted.
fn length(dim: Dim, tokens: u64) -> u64 {
    match dim {
        Dim::Const(n) => n,
        Dim::Rows(_) | Dim::Picked(_) | Dim::Tokens(_) => tokens,
        Dim::Blocks(_) | Dim::Pages(_) => tokens.div_ceil(llmc_artifact::plan::PAGE_TOKENS as u64),
        Dim::Sequences => 1,
        Dim::Parts(_, size) => tokens.div_ceil(size as u64),
    }
}

/// Memory of everything that a plan's kernels touch, full of ordinary numbers, and of zeros where it is read as an index.
struct Everything {
    of: HashMap<Arg, Memory>,
    tables: HashMap<Table, Memory>,
}

impl Everything {
    fn new(device: &mut dyn Device, plan: &Plan, tokens: u64) -> Everything {
        let length = |d: Dim| length(d, tokens);
        let mut of = HashMap::new();
        let mut add = |arg: Arg, format: Format, bytes: Option<u64>| {
            of.insert(arg, room(device, format, bytes.expect("a size")));
        };
        for (n, b) in plan.buffers.iter().enumerate() {
            let bytes = Storage::Dense { dims: b.dims.clone() }.bytes(b.format, length);
            add(Arg::Buffer(n as u32), b.format, bytes);
        }
        for (n, w) in plan.weights.iter().enumerate() {
            add(Arg::Weight(n as u32), w.format, Some(w.bytes()));
        }
        for (n, c) in plan.caches.iter().enumerate() {
            let pages = tokens.div_ceil(llmc_artifact::plan::PAGE_TOKENS as u64);
            add(Arg::Cache(n as u32), c.format, c.storage.bytes(c.format, length).map(|page| page * pages));
        }
        let mut tables = HashMap::new();
        for table in device.kernels().iter().flat_map(|k| k.tables.clone()).collect::<Vec<_>>() {
            let entries: Vec<i32> = match table {
                Table::Positions(_) | Table::Picked(_) | Table::TokenPositions(_) => (0..tokens as i32).collect(),
                Table::RowSeq(_) | Table::TokenSeq(_) => vec![0; tokens as usize],
                Table::Lengths(_) => vec![tokens as i32],
                Table::Bases(_) => vec![0],
                Table::Blocks(s) => (0..length(Dim::Blocks(s)) as i32).collect(),
            };
            let bytes: Vec<u8> = entries.iter().flat_map(|n| n.to_le_bytes()).collect();
            let memory = device.allocate(bytes.len() as u64).unwrap_or_else(|e| panic!("{e}"));
            device.write(memory, 0, &bytes).unwrap_or_else(|e| panic!("{e}"));
            tables.insert(table, memory);
        }
        Everything { of, tables }
    }
}

/// Memory of [`numbers`], or of zeros for ints.
fn room(device: &mut dyn Device, format: Format, bytes: u64) -> Memory {
    let memory = device.allocate(bytes).unwrap_or_else(|e| panic!("{e}"));
    let length = (bytes as usize).min(1 << 24);
    let some = if format == Format::I32 { vec![0; length] } else { numbers(length) };
    for at in (0..bytes).step_by(some.len().max(1)) {
        let count = (bytes - at).min(some.len() as u64) as usize;
        device.write(memory, at, &some[..count]).unwrap_or_else(|e| panic!("{e}"));
    }
    memory
}

/// Bytes that are finite numbers about 0.01 to 1 in size in every plain format, of either sign: zeros would be faster
/// than any model's.
fn numbers(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = 0x3c00 | (state >> 20) as u16 & 0x80ff;
        word.to_le_bytes()
    });
    let mut all: Vec<u8> = words.by_ref().take(bytes.div_ceil(2)).flatten().collect();
    all.truncate(bytes);
    all
}

fn stages(text: &str, format: Format) -> Stages {
    let compile = |checkpoint: Option<&Described>| {
        let c = compile_text("bench.llm", text, checkpoint.map(|c| c as _));
        c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Default::default())))
    };
    let plain = compile(None);
    let mut tensors = serde_json::Map::new();
    for id in plain.weight_graph.ids() {
        if let llmc_frontend::graph::Op::Tensor(view) = &plain.weight_graph[id].op {
            tensors.extend(view.names.iter().map(|n| (n.clone(), view.info.shape.clone().into())));
        }
    }
    let json = serde_json::json!({ "hf": "bench", "config": {}, "tensors": tensors });
    let checkpoint = Described::from_json(&json.to_string()).expect("a description").stored_in(format);
    pipeline::run(compile(Some(&checkpoint)), &Options { cache: format, ..Options::default() })
        .unwrap_or_else(|e| panic!("{e}"))
}

fn attention_text(heads: u64, size: u64, causal: bool) -> String {
    let score = "sum[e](q * c[t = s]) / sqrt(len(e))";
    let score = if causal { format!("where(s <= t, {score}, -inf)") } else { score.into() };
    format!(
        "model bench for hf \"bench\" {{
  axis v = 8, h = {heads}, e = {size}
  seq t
  axis s = t
  input tokens[t]: int < 8
  weight wq[v, h, e] = hf \"q\", wk[v, h, e] = hf \"k\", wu[v, h, e] = hf \"u\"
  let q = wq[v = tokens], c = wk[v = tokens], u = wu[v = tokens]
  output y[t, h, e] = sum[s](softmax[s]({score}) * u[t = s])
}}
"
    )
}

/// What is multiplied is made of two rows of a table: a product with one row would be a row of a table of products, computed at load.
fn product_text(rows: u64, columns: u64) -> String {
    format!(
        "model bench for hf \"bench\" {{
  axis v = 8, m = {columns}, n = {rows}
  seq t
  input tokens[t]: int < 8
  weight embed[v, m] = hf \"embed\", w[n, m] = hf \"w\"
  let x[t, m] = embed[v = tokens] * embed[v = (tokens + t) % 8]
  output y[t, n] = sum[m](w * x)
}}
"
    )
}

/// The sizes of a llama.
struct Llama {
    name: &'static str,
    vocab: u64,
    model: u64,
    layers: u64,
    heads: u64,
    kv: u64,
    hidden: u64,
}

const TOY: Llama = Llama { name: "toy", vocab: 64, model: 64, layers: 2, heads: 4, kv: 2, hidden: 96 };
const ONE_BILLION: Llama =
    Llama { name: "1B", vocab: 128_256, model: 2048, layers: 16, heads: 32, kv: 8, hidden: 8192 };
const SEVEN_BILLION: Llama =
    Llama { name: "7B", vocab: 32_000, model: 4096, layers: 32, heads: 32, kv: 32, hidden: 11008 };

impl Llama {
    /// Its tensors and their shapes.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (m, head) = (self.model, self.model / self.heads);
        let (q, kv, n) = (head * self.heads, head * self.kv, self.hidden);
        let layer: [(&str, &[u64]); 9] = [
            ("input_layernorm", &[m]),
            ("post_attention_layernorm", &[m]),
            ("self_attn.q_proj", &[q, m]),
            ("self_attn.k_proj", &[kv, m]),
            ("self_attn.v_proj", &[kv, m]),
            ("self_attn.o_proj", &[m, q]),
            ("mlp.gate_proj", &[n, m]),
            ("mlp.up_proj", &[n, m]),
            ("mlp.down_proj", &[m, n]),
        ];
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, m]),
            ("lm_head.weight".to_owned(), vec![self.vocab, m]),
            ("model.norm.weight".to_owned(), vec![m]),
        ];
        for l in 0..self.layers {
            all.extend(layer.iter().map(|(name, shape)| (format!("model.layers.{l}.{name}.weight"), shape.to_vec())));
        }
        all
    }

    fn described(&self) -> Described {
        let tensors: serde_json::Map<_, _> = self.tensors().into_iter().map(|(name, s)| (name, s.into())).collect();
        let config = serde_json::json!({
            "vocab_size": self.vocab, "hidden_size": self.model, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv, "intermediate_size": self.hidden,
            "head_dim": self.model / self.heads, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        });
        let json = serde_json::json!({ "hf": "llama", "config": config, "tensors": tensors });
        Described::from_json(&json.to_string()).expect("a description")
    }
}

/// Every tensor is the beginning of the same numbers, matrices in bf16 and vectors in f32: seven billion of their own would
/// take longer than the measurement.
struct SomeNumbers {
    bytes: Vec<u8>,
    lengths: HashMap<String, usize>,
}

impl SomeNumbers {
    fn new(shape: &Llama) -> SomeNumbers {
        let length = |s: &[u64]| (s.iter().product::<u64>() * if s.len() > 1 { 2 } else { 4 }) as usize;
        let lengths: HashMap<_, _> = shape.tensors().into_iter().map(|(name, s)| (name, length(&s))).collect();
        SomeNumbers { bytes: numbers(lengths.values().copied().max().unwrap_or(0)), lengths }
    }
}

impl TensorData for SomeNumbers {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        Some(&self.bytes[..*self.lengths.get(name)?])
    }
}
