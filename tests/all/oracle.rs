//! Parity of the reference evaluator with an independent implementation: transformers in fp32, whose logits are kept
//! in `tests/oracle` beside the scripts that made them.

use crate::support::models::{self, golden_values};
use llmc_frontend::reference::{Evaluator, Inputs};
use llmc_frontend::{MODELS, Model, Verified, compile_text, select_model};
use llmc_runtime::weights::{self, CheckpointFile};
use serde_json::Value;
use std::path::Path;

/// Largest difference allowed, as a part of the largest logit.
const TOLERANCE: f64 = 2e-4;

fn open(path: &Path) -> (Box<dyn CheckpointFile>, Verified<Model>) {
    let file = weights::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (name, text) = select_model(MODELS.iter().copied(), &*file).expect("a text fits");
    let compiled = compile_text(name, text, Some(&*file));
    let report = llmc_frontend::diag::render_text(&compiled.diagnostics, &compiled.sources, Default::default());
    (file, compiled.model.unwrap_or_else(|| panic!("{report}")))
}

fn ints(v: &Value) -> Vec<i64> {
    v.as_array().expect("a list").iter().map(|x| x.as_i64().expect("a whole number")).collect()
}

fn reals(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// The largest difference over the largest wanted value.
fn error(found: &[f64], want: &[f64]) -> f64 {
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let worst = found.iter().zip(want).map(|(a, b)| (a - b).abs());
    // A NaN must not be lost in a maximum.
    worst.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / scale
}

#[test]
fn tiny_llama_gives_the_logits_of_transformers() {
    let (file, model) = open(&models::tiny_llama());
    let golden = golden_values("tiny_llama.json");
    let tokens = ints(&golden["tokens"]);
    let out = Evaluator::new(&model, &*file).run(&Inputs::one("tokens", &tokens)).expect("it runs");
    let want: Vec<f64> = golden["logits"].as_array().expect("rows").iter().flat_map(reals).collect();
    assert_eq!(out["logits"].shape, [tokens.len(), 64]);
    let error = error(&out["logits"].data, &want);
    assert!(error < TOLERANCE, "relative error {error}");
}

#[test]
fn smollm2_gives_the_logits_of_transformers_on_dequantised_weights() {
    let (file, model) = open(&models::smollm2());
    assert_eq!(model.steps.len(), 32);
    assert_eq!(model.blocks.len(), 3, "30 layers are one block");
    let golden = golden_values("smollm2.json");
    let positions = ints(&golden["positions"]);
    for prompt in golden["prompts"].as_array().expect("prompts") {
        let tokens = ints(&prompt["tokens"]);
        let out = Evaluator::new(&model, &*file).run(&Inputs::one("tokens", &tokens)).expect("it runs");
        let logits = &out["logits"];
        let vocab = logits.shape[1];
        let row = |t: usize| &logits.data[t * vocab..(t + 1) * vocab];
        for last in prompt["last"].as_array().expect("positions") {
            let row = row(last["position"].as_u64().expect("a position") as usize);
            let found: Vec<_> = positions.iter().map(|p| row[*p as usize]).collect();
            let error = error(&found, &reals(&last["values"]));
            assert!(error < TOLERANCE, "{}: relative error {error}", prompt["name"]);
        }
        let argmax = |t| (0..vocab).max_by(|a, b| row(t)[*a].total_cmp(&row(t)[*b])).expect("logits") as i64;
        let found: Vec<_> = (0..tokens.len()).map(argmax).collect();
        assert_eq!(found, ints(&prompt["argmax"]), "{}", prompt["name"]);
    }
}
