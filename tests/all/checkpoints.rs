//! Real checkpoints, their tokenizers and their chat templates, beside what independent software makes of them.

use crate::support::models::{golden_values, smollm2, tiny_llama, tiny_llama_gguf};
use llmc_artifact::{Checkpoint, ConfigValue, Format, TensorInfo};
use llmc_runtime::chat::{ChatTemplate, Message};
use llmc_runtime::tokenizer::Tokenizer;
use llmc_runtime::weights::gguf::GgufFile;
use llmc_runtime::weights::{self, CheckpointFile, quantise};
use serde_json::Value;

fn numbers(v: &Value) -> Vec<u32> {
    v.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a token") as u32).collect()
}

fn smollm2_tokenizer() -> Tokenizer {
    weights::open(&smollm2()).unwrap().tokenizer().unwrap()
}

#[test]
fn smollm2_is_read_as_it_is() {
    let file = weights::open(&smollm2()).unwrap();
    assert_eq!((file.kind().keyword(), file.architecture()), ("gguf", "llama"));
    assert_eq!(file.config(".block_count"), Some(ConfigValue::Int(30)));
    assert_eq!(file.count("tokenizer.ggml.tokens"), Some(49152));
    assert_eq!(file.tensor_names().len(), 272);
    assert_eq!(file.tensor("token_embd.weight"), Some(TensorInfo { shape: vec![49152, 576], format: Format::Q8_0 }));
    assert_eq!(
        file.tensor("blk.29.ffn_down.weight"),
        Some(TensorInfo { shape: vec![576, 1536], format: Format::Q4_1 })
    );
}

#[test]
fn tokens_are_those_of_llama_cpp() {
    let tokenizer = smollm2_tokenizer();
    for case in golden_values("tokenizer.json")["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokens, numbers(&case["tokens"]), "{text:?}");
        if !text.contains("<|") {
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }
}

#[test]
fn tokens_are_those_of_the_published_tokenizer() {
    let tokenizer = smollm2_tokenizer();
    for case in golden_values("smollm2.json")["prompts"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), true).unwrap(), numbers(&case["tokens"]));
        // The script decodes a whole list at once; here tokens come one by one.
        let mut stream = tokenizer.stream();
        let mut text: String = numbers(&case["continuation"]).into_iter().map(|t| stream.push(t)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, case["continuation_text"].as_str().unwrap());
    }
}

#[test]
fn prompts_are_those_of_transformers() {
    let template = ChatTemplate::of(&smollm2_tokenizer()).unwrap().expect("the file has a template");
    for case in golden_values("tokenizer.json")["chats"].as_array().unwrap() {
        let turn = |m: &Value| Message::new(m[0].as_str().unwrap(), m[1].as_str().unwrap());
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(turn).collect();
        assert_eq!(template.render(&messages, true).unwrap(), case["prompt"].as_str().unwrap());
    }
}

#[test]
fn the_ends_of_an_answer_are_known() {
    let tokenizer = smollm2_tokenizer();
    for name in ["<|im_end|>", "<|endoftext|>"] {
        assert!(tokenizer.is_end(tokenizer.id(name).unwrap()), "{name}");
    }
    assert_eq!(tokenizer.data().bos, tokenizer.id("<|im_start|>"));
}

#[test]
fn a_folder_of_safetensors_is_read() {
    let folder = weights::open(&tiny_llama()).unwrap();
    assert_eq!((folder.kind().keyword(), folder.architecture()), ("hf", "llama"));
    assert_eq!(folder.config("rope_parameters.rope_theta"), Some(ConfigValue::Real(10000.0)));
    let name = "model.layers.1.mlp.down_proj.weight";
    assert_eq!(folder.tensor(name), Some(TensorInfo { shape: vec![32, 48], format: Format::F32 }));
    let values = quantise::dequantise(Format::F32, folder.tensor_bytes(name).unwrap());
    assert!(values.iter().all(|x| x.abs() < 1.5) && values.iter().any(|x| x.abs() > 0.2), "random weights, sd 0.2");
    assert_eq!(folder.tokenizer().err().unwrap().code(), "E0610");
}

#[test]
fn the_tiny_llama_exists_in_every_format() {
    let folder = weights::open(&tiny_llama()).unwrap();
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q4_1, Format::Q8_0] {
        let file = GgufFile::from_bytes("tiny", tiny_llama_gguf(format)).unwrap();
        assert_eq!(file.tensor_names().len(), folder.tensor_names().len());
        let read = |name: &str, from: &dyn CheckpointFile| {
            quantise::dequantise(from.tensor(name).unwrap().format, from.tensor_bytes(name).unwrap())
        };
        assert_eq!(file.tensor("blk.1.attn_q.weight").unwrap().format, format);
        let ours = read("blk.1.attn_q.weight", &file);
        let theirs = read("model.layers.1.self_attn.q_proj.weight", &*folder);
        // Rows 0 and 1 are a rotary pair: the first rows of the first head's halves of 4.
        for (row, source) in [(0, 0), (1, 4), (2, 1), (8, 8), (9, 12)] {
            for i in 0..32 {
                assert!((ours[row * 32 + i] - theirs[source * 32 + i]).abs() < 0.08, "{format}: row {row}, column {i}");
            }
        }
        let tokenizer = file.tokenizer().unwrap();
        let text = "hello world: 1+2 = 3?\n";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap()), text);
    }
}
