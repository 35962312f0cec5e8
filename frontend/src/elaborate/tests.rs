use crate::described::Described;
use crate::diag::{Style, render_text};
use crate::graph::{Model, Op, Verified, print};
use crate::reference::{Evaluator, Inputs, RandomTensors};
use crate::{MODELS, compile_text, select_model};
use llmc_artifact::{Checkpoint, ScalarOp};
use proptest::prelude::*;
use serde_json::json;

fn text_of(name: &str) -> &'static str {
    MODELS.iter().find(|(n, _)| *n == name).expect("a model of that name").1
}

/// The model, or a panic with what is wrong.
fn elaborated(text: &str, checkpoint: Option<&dyn Checkpoint>) -> Verified<Model> {
    let c = compile_text("model.llm", text, checkpoint);
    c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Style::Plain)))
}

/// The codes of everything that is wrong.
fn codes(text: &str, checkpoint: Option<&dyn Checkpoint>) -> Vec<&'static str> {
    compile_text("model.llm", text, checkpoint).diagnostics.iter().map(|d| d.code.code()).collect()
}

/// A llama of two layers, as a GGUF file describes it; `down` is stored in these formats.
fn tiny_llama(down: [&str; 2]) -> Described {
    let mut tensors = json!({
        "token_embd.weight": [64, 16], "output_norm.weight": [16], "output.weight": [64, 16],
    });
    for (l, format) in down.iter().enumerate() {
        for (name, shape) in [
            ("attn_q.weight", json!([16, 16])),
            ("attn_k.weight", json!([8, 16])),
            ("attn_v.weight", json!([8, 16])),
            ("attn_output.weight", json!([16, 16])),
            ("attn_norm.weight", json!([16])),
            ("ffn_gate.weight", json!([32, 16])),
            ("ffn_up.weight", json!([32, 16])),
            ("ffn_down.weight", json!([16, 32, format])),
            ("ffn_norm.weight", json!([16])),
        ] {
            tensors[format!("blk.{l}.{name}")] = shape;
        }
    }
    let config = json!({
        "tokenizer.ggml.tokens": vec!["x"; 64],
        "llama.embedding_length": 16, "llama.block_count": 2, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.feed_forward_length": 32,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
    });
    let described = json!({"gguf": "llama", "config": config, "tensors": tensors});
    Described::from_json(&described.to_string()).expect("a description")
}

#[test]
fn the_graph_of_a_tiny_llama() {
    let model = elaborated(text_of("llama.llm"), Some(&tiny_llama(["f32", "f32"])));
    insta::assert_snapshot!(print(&model));
}

#[test]
fn equal_layers_share_a_block_and_other_formats_do_not() {
    let alike = elaborated(text_of("llama.llm"), Some(&tiny_llama(["q4_0", "q4_0"])));
    assert_eq!((alike.blocks.len(), alike.steps.len()), (3, 4));
    let mixed = elaborated(text_of("llama.llm"), Some(&tiny_llama(["q4_0", "q8_0"])));
    assert_eq!((mixed.blocks.len(), mixed.steps.len()), (4, 4));
}

#[test]
fn angles_are_computed_before_the_layers() {
    let model = elaborated(text_of("llama.llm"), Some(&tiny_llama(["f32", "f32"])));
    let turns = |b: usize| {
        let graph = &model.blocks[b].graph;
        graph.ids().filter(|id| matches!(graph[*id].op, Op::Map(ScalarOp::Cos | ScalarOp::Sin))).count()
    };
    assert_eq!((turns(0), turns(1), turns(2)), (2, 0, 0));
}

#[test]
fn a_quantised_weight_is_never_dequantised_by_the_text() {
    let text = "model a for gguf \"a\" { axis m = 32, n = 2  seq t  input x[t, m]: real
        weight w[n, m] = gguf \"w\"
        output y[t, n] = sum[m](2 * w * x) }";
    let checkpoint = |f: &str| Described::from_json(&format!(r#"{{"gguf": "a", "tensors": {{"w": [2, 32, "{f}"]}}}}"#));
    let bound = |f: &str| {
        let model = elaborated(text, Some(&checkpoint(f).expect("a description")));
        model.weight_graph[model.weights[0].node].op.clone()
    };
    assert!(matches!(bound("q4_0"), Op::Tensor(_)));
    assert!(matches!(bound("f32"), Op::Map(ScalarOp::Mul)));
}

#[test]
fn what_is_unread_is_named() {
    let json = r#"{"gguf": "llama", "config": {}, "tensors": {"extra": [1]}}"#;
    let checkpoint = Described::from_json(json).expect("a description");
    // Weights are missing as well: that is said first, and what is unread only once nothing else is wrong.
    assert!(codes(text_of("llama.llm"), Some(&checkpoint)).iter().all(|c| *c == "E1001"));
    let text = "model a for gguf \"llama\" { seq t  input x[t]: real  output y[t] = x }";
    assert_eq!(codes(text, Some(&checkpoint)), ["E1003"]);
}

#[test]
fn config_lists_spread_over_layers_and_prefixes_are_dropped() {
    let text = "model a for hf \"a\" at \"text.\" drop \"lm.\" {
        layers l = hf \"n\"
        flag local[l] = hf \"kinds\" == \"near\"
        weight w[l][] = hf \"layers.{l}.w\"
        seq t  input x[t]: real
        let y = x
        for l { y = if local { y + w } else { y * w } }
        output z[t] = y }";
    let json = r#"{"hf": "a", "config": {"text": {"n": 3, "kinds": ["near", "far", "near"]}},
        "tensors": {"lm.layers.0.w": [], "lm.layers.1.w": [], "layers.2.w": []}}"#;
    let model = elaborated(text, Some(&Described::from_json(json).expect("a description")));
    let data = Constants(2.0f32.to_le_bytes());
    let out = Evaluator::new(&model, &data).run(&Inputs::one("x", &[1, 5])).expect("it runs");
    assert_eq!(out["z"].data, [(1.0 + 2.0) * 2.0 + 2.0, (5.0 + 2.0) * 2.0 + 2.0]);
    assert_eq!(model.steps[0].block, model.steps[2].block);
}

/// Every tensor is this one number.
struct Constants([u8; 4]);

impl llmc_artifact::TensorData for Constants {
    fn tensor_bytes(&self, _: &str) -> Option<&[u8]> {
        Some(&self.0)
    }
}

#[test]
fn experts_of_their_own_names_are_stacked() {
    let text = "model a for hf \"a\" { axis x = 3, m = 2  seq t  input i[t]: int < 3
        weight w[x, m] = hf \"expert.{x}.w\"
        output y[t, m] = w[x = i] }";
    let json = r#"{"hf": "a", "tensors": {"expert.0.w": [2], "expert.1.w": [2], "expert.2.w": [2]}}"#;
    let model = elaborated(text, Some(&Described::from_json(json).expect("a description")));
    let data = RandomTensors::new(&model, 1);
    let out = Evaluator::new(&model, &data).run(&Inputs::one("i", &[2, 0])).expect("it runs");
    let read = |name: &str, at: usize| {
        let bytes = llmc_artifact::TensorData::tensor_bytes(&data, name).expect("a tensor");
        f32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes")) as f64
    };
    assert_eq!(
        out["y"].data,
        [read("expert.2.w", 0), read("expert.2.w", 1), read("expert.0.w", 0), read("expert.0.w", 1)]
    );
}

#[test]
fn every_model_of_the_compiler_checks_without_a_checkpoint() {
    for (name, text) in MODELS {
        let c = compile_text(name, text, None);
        let report = render_text(&c.diagnostics, &c.sources, Style::Plain);
        assert!(c.diagnostics.is_empty(), "{name}\n{report}");
    }
}

/// Configs that make each model as small as it can be, as Hugging Face writes them.
fn tiny_configs() -> Vec<Described> {
    let list: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/cases/smallest.json")).expect("a list");
    let describe = |d: &serde_json::Value| Described::from_json(&d.to_string()).expect("a description");
    list.as_array().expect("a list").iter().map(describe).collect()
}

#[test]
fn every_model_runs_on_random_weights() {
    for checkpoint in tiny_configs() {
        let (name, text) = select_model(MODELS.iter().copied(), &checkpoint).expect("a text fits");
        let model = elaborated(text, Some(&checkpoint));
        let data = RandomTensors::new(&model, 5);
        let inputs = Inputs::one("tokens", &[3, 1, 18, 0, 7]).with("source", &[2, 2, 9]);
        let out = Evaluator::new(&model, &data).run(&inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let lazy = Evaluator::new(&model, &data).keeping(0).run(&inputs).expect("it runs");
        for (output, value) in &out {
            let spread = value.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(value.data.iter().all(|x| x.is_finite()) && spread > 0.0, "{name}: {output}");
            let far = value.data.iter().zip(&lazy[output].data).any(|(a, b)| (a - b).abs() > 1e-9 * spread);
            assert!(!far, "{name}: {output} depends on what is kept");
        }
    }
}

/// A causal model's logits do not change when tokens follow.
#[test]
fn later_tokens_change_nothing_in_causal_models() {
    for checkpoint in tiny_configs().into_iter().filter(|c| c.architecture() != "bert") {
        let (name, text) = select_model(MODELS.iter().copied(), &checkpoint).expect("a text fits");
        let model = elaborated(text, Some(&checkpoint));
        let data = RandomTensors::new(&model, 5);
        let logits = |tokens: &[i64]| {
            let inputs = Inputs::one("tokens", tokens).with("source", &[2, 2, 9]);
            Evaluator::new(&model, &data).run(&inputs).expect("it runs")["logits"].data.clone()
        };
        let (short, long) = (logits(&[3, 1, 18]), logits(&[3, 1, 18, 0, 7]));
        let error = short.iter().zip(&long).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 1e-9, "{name}: {error}");
    }
}

#[test]
fn a_text_is_chosen_by_its_header() {
    let (name, _) = select_model(MODELS.iter().copied(), &tiny_llama(["f32", "f32"])).expect("a text fits");
    assert_eq!(name, "llama.llm");
    let unknown = Described::from_json(r#"{"hf": "lama"}"#).expect("a description");
    let wrong = select_model(MODELS.iter().copied(), &unknown).expect_err("no text fits");
    assert_eq!(wrong.code.code(), "E1006");
    assert_eq!(wrong.help.as_deref(), Some("did you mean `hf \"llama\"`?"));
}

#[test]
fn an_annotation_licenses_an_outer_sum() {
    let text = |bind: &str| {
        format!(
            "model a {{ axis m = 2, n = 3  seq t  input x[t]: real
             let a = x * m, b = x * n
             let {bind} = a + b
             output y[t] = sum[m, n](c) }}"
        )
    };
    assert_eq!(codes(&text("c[t, m, n]"), None), [""; 0]);
    assert_eq!(codes(&text("c"), None), ["E0401"]);
}

/// Byte ranges of the words of a text.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices() {
        match (c.is_whitespace(), start) {
            (true, Some(s)) => {
                found.push((s, i));
                start = None;
            }
            (false, None) => start = Some(i),
            _ => {}
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is left out or put elsewhere, there is a model or there are errors, and never a panic.
    #[test]
    fn damaged_texts_never_panic(
        model in 0..MODELS.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 1..4),
    ) {
        let mut text = MODELS[model].1.to_owned();
        for (from, to, replace) in cuts {
            let places = words(&text);
            let (a, b) = places[from.index(places.len())];
            let (c, d) = places[to.index(places.len())];
            let new = if replace { text[c..d].to_owned() } else { String::new() };
            text.replace_range(a..b, &new);
        }
        let c = compile_text("damaged.llm", &text, None);
        prop_assert_eq!(c.model.is_none(), crate::diag::has_errors(&c.diagnostics));
    }
}
