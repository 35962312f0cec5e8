//! What is measured and counted: texts of one attention and of one product, and llamas with random weights.

use super::operands::numbers;
use llmc::{Artifact, Engine, EngineOptions};
use llmc_artifact::{Format, TensorData};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::diag::render_text;
use llmc_frontend::graph::{Model, Op, Verified};
use llmc_frontend::{Compiled, Described, MODELS, compile_text, select_model};
use llmc_runtime::device::Device;
use std::collections::HashMap;

/// What a build for this target alone is asked: its machine decides, caches are bf16.
pub fn options(target: &str, activations: Format) -> Options {
    let machine = llmc::machine(None, &[target.to_owned()]).unwrap_or_else(|e| panic!("{e}"));
    Options { cache: Format::BF16, activations, machine, ..Options::default() }
}

/// Every stage of a text whose weights are in bf16.
pub fn stages(text: &str, options: &Options) -> Stages {
    let compile = |c: Option<&Described>| model(compile_text("bench.llm", text, c.map(|c| c as _)));
    let plain = compile(None);
    let mut tensors = serde_json::Map::new();
    for id in plain.weight_graph.ids() {
        if let Op::Tensor(view) = &plain.weight_graph[id].op {
            tensors.extend(view.names.iter().map(|n| (n.clone(), view.info.shape.clone().into())));
        }
    }
    let json = serde_json::json!({ "hf": "bench", "config": {}, "tensors": tensors });
    let checkpoint = Described::from_json(&json.to_string()).expect("a description").stored_in(Format::BF16);
    pipeline::run(compile(Some(&checkpoint)), options).unwrap_or_else(|e| panic!("{e}"))
}

fn model(compiled: Compiled) -> Verified<Model> {
    let failed = || render_text(&compiled.diagnostics, &compiled.sources, Default::default());
    compiled.model.unwrap_or_else(|| panic!("{}", failed()))
}

/// Queries are an input, as another kernel leaves them: a row of a table would be gathered where it is read.
pub fn attention_text(heads: u64, size: u64, causal: bool) -> String {
    let score = "sum[e](q * c[t = s]) / sqrt(len(e))";
    let score = if causal { format!("where(s <= t, {score}, -inf)") } else { score.into() };
    format!(
        "model bench for hf \"bench\" {{
  axis v = 8, h = {heads}, e = {size}
  seq t
  axis s = t
  input tokens[t]: int < 8
  input q[t, h, e]: real
  weight wk[v, h, e] = hf \"k\", wu[v, h, e] = hf \"u\"
  let c = wk[v = tokens], u = wu[v = tokens]
  output y[t, h, e] = sum[s](softmax[s]({score}) * u[t = s])
}}
"
    )
}

/// What is multiplied is made of two rows of a table: a product with one row would be a row of a table of products,
/// computed at load.
pub fn product_text(rows: u64, columns: u64) -> String {
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
#[derive(Clone)]
pub struct Llama {
    pub name: &'static str,
    pub vocab: u64,
    pub model: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv: u64,
    pub hidden: u64,
}

pub const TOY: Llama = Llama { name: "toy", vocab: 64, model: 64, layers: 2, heads: 4, kv: 2, hidden: 96 };
pub const ONE_BILLION: Llama =
    Llama { name: "1B", vocab: 128_256, model: 2048, layers: 16, heads: 32, kv: 8, hidden: 8192 };
pub const SEVEN_BILLION: Llama =
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

    /// Every stage, with weights in bf16.
    pub fn stages(&self, options: &Options) -> Stages {
        let checkpoint = self.described().stored_in(Format::BF16);
        let (file, text) = select_model(MODELS.iter().copied(), &checkpoint).expect("a text fits");
        pipeline::run(model(compile_text(file, text, Some(&checkpoint))), options).expect("a llama")
    }

    /// Bytes of the checkpoint that a token needs: of the table of tokens a row is read, which does not count.
    pub fn bytes(&self) -> u64 {
        let all: usize = self.tensors().iter().map(|(_, shape)| tensor_bytes(shape)).sum();
        all as u64 - 2 * self.vocab * self.model
    }

    /// An engine on a device with the stages' code, and the bytes of weights that a token reads.
    pub fn engine(&self, device: Box<dyn Device>, stages: &Stages) -> (Engine, u64) {
        let artifact = Artifact { plan: stages.plan.clone(), ..Artifact::default() };
        let engine = Engine::on(device, &artifact, Some(&SomeNumbers::new(self)), &EngineOptions::default());
        let engine = engine.unwrap_or_else(|e| panic!("{e}"));
        // Of the table of tokens a row is read, whatever the model.
        let table = 2 * self.vocab * self.model;
        let bytes = engine.load_stats().weight_bytes - table;
        (engine, bytes)
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

/// Every tensor is the beginning of the same numbers: seven billion of their own would take longer than what is
/// measured.
struct SomeNumbers {
    bytes: Vec<u8>,
    lengths: HashMap<String, usize>,
}

impl SomeNumbers {
    fn new(shape: &Llama) -> SomeNumbers {
        let lengths: HashMap<_, _> = shape.tensors().into_iter().map(|(name, s)| (name, tensor_bytes(&s))).collect();
        SomeNumbers { bytes: numbers(lengths.values().copied().max().unwrap_or(0)), lengths }
    }
}

/// Matrices are in bf16, vectors in f32.
fn tensor_bytes(shape: &[u64]) -> usize {
    (shape.iter().product::<u64>() * if shape.len() > 1 { 2 } else { 4 }) as usize
}

impl TensorData for SomeNumbers {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        Some(&self.bytes[..*self.lengths.get(name)?])
    }
}
