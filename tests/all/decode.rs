//! Whole logits of the compiled SmolLM2 beside those of transformers in f32 on the de-quantised weights.

use crate::support::models::{golden_values, smollm2_or_skip};
use llmc::{CompileOptions, EngineOptions, Session, compile};
use serde_json::Value;

/// Activations are quantised to 8 bits for dots with quantised weights, so single logits move; their shape does not.
const CORRELATION: f64 = 0.99;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Pearson's; NaN where either side is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let dot = |x: &[f64], mx, y: &[f64], my| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>();
    dot(a, ma, b, mb) / (dot(a, ma, a, ma) * dot(b, mb, b, mb)).sqrt()
}

#[test]
fn logits_of_smollm2_correlate_with_those_in_f32() {
    let Some(model) = smollm2_or_skip("logits_of_smollm2_correlate") else { return };
    let compiled = compile(model, &CompileOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let engine = compiled.engine(&EngineOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let golden = golden_values("smollm2.json");
    let positions = numbers(&golden["positions"]);
    for prompt in golden["prompts"].as_array().expect("prompts") {
        let tokens: Vec<u32> = numbers(&prompt["tokens"]).iter().map(|t| *t as u32).collect();
        let logits = Session::new(&engine).evaluate(&tokens).unwrap_or_else(|e| panic!("{e}"));
        let width = logits.data.len() / logits.rows;
        for last in prompt["last"].as_array().expect("positions") {
            let row = last["position"].as_u64().expect("a position") as usize * width;
            let found: Vec<f64> = positions.iter().map(|p| f64::from(logits.data[row + *p as usize])).collect();
            let found = correlation(&found, &numbers(&last["values"]));
            assert!(found >= CORRELATION, "{} at {}: correlation {found}", prompt["name"], last["position"]);
        }
    }
}
