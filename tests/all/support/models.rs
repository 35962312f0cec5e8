//! Checkpoints that tests run on.

use super::cases::root;
use llmc_artifact::{ConfigValue, Format};
use llmc_runtime::weights::quantise;
use llmc_runtime::weights::write::{GgufWriter, MetaValue};
use std::path::PathBuf;

/// SmolLM2-135M-Instruct as GGUF, from the cache folder that `make weights` fills.
pub fn smollm2() -> PathBuf {
    let path = smollm2_path();
    assert!(path.is_file(), "{} is missing: `make weights` fetches it", path.display());
    path
}

/// The same for a test that does without it, and says so.
pub fn smollm2_or_skip(test: &str) -> Option<PathBuf> {
    let path = smollm2_path();
    if !path.is_file() {
        println!("{test}: skipped, for {} is missing: `make weights` fetches it", path.display());
        return None;
    }
    Some(path)
}

fn smollm2_path() -> PathBuf {
    let cache = std::env::var_os("LLMC_CACHE").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/llmc"));
    cache.join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A random llama as a Hugging Face folder: two layers, no tokenizer.
pub fn tiny_llama() -> PathBuf {
    root().join("tests/cases/checkpoints/tiny_llama")
}

/// A text of `models/`.
pub fn text(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// Golden values that a script in `tests/oracle` made.
pub fn golden_values(name: &str) -> serde_json::Value {
    let path = root().join("tests/oracle").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tiny llama as a GGUF file: the same numbers, matrices in `format` where whole blocks fit, and a tokenizer of 64
/// tokens that knows lower-case letters, digits, space, newline and some punctuation.
pub fn tiny_llama_gguf(format: Format) -> Vec<u8> {
    let folder = llmc_runtime::weights::open(&tiny_llama()).expect("the folder is committed");
    let int = |key: &str| match folder.config(key) {
        Some(ConfigValue::Int(n)) => MetaValue::U32(n as u32),
        other => panic!("config `{key}` is {other:?}"),
    };
    let mut file = GgufWriter::new("llama")
        .meta("llama.block_count", int("num_hidden_layers"))
        .meta("llama.context_length", int("max_position_embeddings"))
        .meta("llama.embedding_length", int("hidden_size"))
        .meta("llama.feed_forward_length", int("intermediate_size"))
        .meta("llama.attention.head_count", int("num_attention_heads"))
        .meta("llama.attention.head_count_kv", int("num_key_value_heads"))
        .meta("llama.attention.layer_norm_rms_epsilon", MetaValue::F32(1e-5))
        .meta("llama.rope.freq_base", MetaValue::F32(10000.0));
    file = tiny_tokenizer(file);
    for name in folder.tensor_names() {
        let shape = folder.tensor(&name).expect("a listed tensor").shape;
        let mut values = quantise::dequantise(Format::F32, folder.tensor_bytes(&name).expect("a listed tensor"));
        let heads = [("q_proj", 4), ("k_proj", 2)].into_iter().find(|(part, _)| name.contains(part));
        if let Some((_, heads)) = heads {
            values = pairs_side_by_side(&values, &shape, heads);
        }
        let whole = shape.len() == 2 && shape[1].is_multiple_of(format.block() as u64);
        file = file.values(&gguf_name(&name), &shape, if whole { format } else { Format::F32 }, &values);
    }
    file.finish()
}

/// Rotary halves, as Hugging Face stores a head's rows, become neighbours, as GGUF does.
fn pairs_side_by_side(values: &[f32], shape: &[u64], heads: usize) -> Vec<f32> {
    let (width, head) = (shape[1] as usize, shape[0] as usize / heads);
    let row = |r: usize| &values[r * width..(r + 1) * width];
    let source = |r: usize| r / head * head + r % head % 2 * (head / 2) + r % head / 2;
    (0..heads * head).flat_map(|r| row(source(r))).copied().collect()
}

fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    parts.iter().fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf))
}

fn tiny_tokenizer(file: GgufWriter) -> GgufWriter {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let printable = ('a'..='z').chain('0'..='9').chain(".,:;!?'\"()-+*/=<>[]{}_#".chars());
    let tokens: Vec<String> =
        special.into_iter().chain(["Ġ", "Ċ"].map(String::from)).chain(printable.map(String::from)).collect();
    assert_eq!(tokens.len(), 64, "the model's vocabulary");
    let kinds = (0..64).map(|i| if i < 3 { 3 } else { 1 }).collect();
    file.meta("tokenizer.ggml.model", MetaValue::Text("gpt2".into()))
        .meta("tokenizer.ggml.pre", MetaValue::Text("smollm".into()))
        .meta("tokenizer.ggml.tokens", MetaValue::Texts(tokens))
        .meta("tokenizer.ggml.token_type", MetaValue::I32s(kinds))
        .meta("tokenizer.ggml.merges", MetaValue::Texts(Vec::new()))
        .meta("tokenizer.ggml.bos_token_id", MetaValue::U32(1))
        .meta("tokenizer.ggml.eos_token_id", MetaValue::U32(2))
}
