//! What the optimizer makes of every block of the texts, in figures that do not depend on the machine.

use crate::support::cases::{golden, root};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::{Described, MODELS, compile_text};
use std::fmt::Write;

fn stages(name: &str, text: &str, config: Option<&Described>) -> Stages {
    let compiled = compile_text(name, text, config.map(|c| c as _));
    let model = compiled.model.unwrap_or_else(|| panic!("{name}: {:#?}", compiled.diagnostics));
    pipeline::run(model, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// E-nodes and classes at the fixed point, and kernels, for each distinct block.
#[test]
fn every_block_reaches_its_fixed_point() {
    let mut table = String::from("| block | e-nodes | classes | rounds | kernels |\n|---|---|---|---|---|\n");
    for (name, text) in MODELS {
        for block in stages(name, text, None).blocks {
            let s = &block.optimised.saturation;
            assert!(s.saturated, "{name} {}: a limit was reached", block.name);
            let model = name.trim_end_matches(".llm");
            let kernels = block.lowered.block.kernels.len();
            let _ =
                writeln!(table, "| {model} {} | {} | {} | {} | {kernels} |", block.name, s.nodes, s.classes, s.rounds);
        }
    }
    golden(&root().join("tests/cases/optimizer.md"), &table);
}

/// What is optimised, lowered and emitted for a model of this many layers: blocks, e-nodes, kernels.
fn work(layers: u64) -> (usize, usize, usize) {
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("deepseek")).expect("it is built in");
    let config = format!(
        r#"{{"hf": "deepseek_v3", "config": {{"num_hidden_layers": {layers}, "first_k_dense_replace": 1,
        "n_routed_experts": 16, "num_experts_per_tok": 4}}}}"#
    );
    let made = stages(name, text, Some(&Described::from_json(&config).expect("a description")));
    assert_eq!(made.model.steps.len() as u64, layers + 2, "a step for each layer, before and after");
    let nodes = made.blocks.iter().map(|b| b.optimised.saturation.nodes).sum();
    (made.blocks.len(), nodes, made.kernels.len())
}

#[test]
fn a_deeper_model_takes_no_more_optimizing() {
    assert_eq!(work(2), work(61));
}
