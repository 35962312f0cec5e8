//! What the optimizer takes: e-nodes, classes and seconds, for each distinct block of the texts in `models/` at their
//! default sizes, and from the graph to the plan for whole models, DeepSeek-V3's 61 layers among them.
//!
//! `make bench-optimizer`. Times are the least of some runs.

use llmc_compiler::egraph::{BlockFacts, optimize};
use llmc_compiler::normal::build::normalise;
use llmc_compiler::pipeline::{self, Options};
use llmc_frontend::{MODELS, compile_text};
use std::time::Instant;

/// Runs of each.
const RUNS: usize = 3;

fn main() {
    println!("Milliseconds, the least of {RUNS} runs; `optimise` is the e-graph with both roles' forms chosen.\n");
    println!(
        "| block | e-nodes | classes | rounds | fixed point | normalise | optimise |\n|---|---|---|---|---|---|---|"
    );
    for (name, text) in MODELS {
        let model = compile_text(name, text, None).model.expect("the texts check");
        for block in &model.blocks {
            let facts = BlockFacts { quantised: vec![false; block.weights.len()], ..BlockFacts::default() };
            let best = optimize(block, &model.axes, &facts);
            let s = &best.saturation;
            let fixed = if s.saturated { "yes" } else { "NO" };
            let normal = least(|| drop(normalise(block, &model.axes)));
            let whole = least(|| drop(optimize(block, &model.axes, &facts)));
            let shown = format!("{} {}", name.trim_end_matches(".llm"), block.name);
            println!("| {shown} | {} | {} | {} | {fixed} | {normal:.1} | {whole:.1} |", s.nodes, s.classes, s.rounds);
        }
    }
    println!("\n| model | blocks | steps | graph to plan |\n|---|---|---|---|");
    for (name, text) in MODELS {
        let model = || compile_text(name, text, None).model.expect("the texts check");
        let (blocks, steps) = (model().blocks.len(), model().steps.len());
        let plan = (0..RUNS).map(|_| {
            let model = model();
            milliseconds(|| drop(pipeline::run(model, &Options::default())))
        });
        println!("| {name} | {blocks} | {steps} | {:.0} |", plan.fold(f64::MAX, f64::min));
    }
}

fn least(mut run: impl FnMut()) -> f64 {
    (0..RUNS).map(|_| milliseconds(&mut run)).fold(f64::MAX, f64::min)
}

fn milliseconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e3
}
