//! What the optimizer takes: e-nodes, classes and processor time stage by stage, for each distinct block of the texts in
//! `models/` at their default sizes, and from the graph to the plan for whole models, DeepSeek-V3's 61 layers among them.
//!
//! `make bench-optimizer`. Times are of the processor, so that other work on the machine does not count: one thread does all of
//! it. The limits are what a block and DeepSeek-V3 may take. An argument, `-- deepseek`, takes the models whose names begin with it.

use llmc_compiler::choose::{choose, optimise};
use llmc_compiler::cost::{Machine, Role};
use llmc_compiler::facts;
use llmc_compiler::group::Facts;
use llmc_compiler::kernel::lower::lower;
use llmc_compiler::normal::build::normalise;
use llmc_compiler::pipeline::{self, Options, compile_block};
use llmc_compiler::rules::Laws;
use llmc_frontend::graph::{BlockId, Model};
use llmc_frontend::{MODELS, compile_text};

/// Milliseconds that a block may take, all stages together.
const BLOCK: f64 = 500.0;
/// Milliseconds that a whole model may take.
const WHOLE: f64 = 2000.0;
/// Milliseconds for which each measurement is repeated: the clock has ticks of ten.
const LONG: f64 = 400.0;

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let models = || MODELS.iter().copied().filter(|(name, _)| name.starts_with(&wanted));
    println!(
        "| block | e-nodes | classes | fixed point | normalise | saturate, extract | stream, group, choose | lower | all, ms \
         | at most {BLOCK} |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for (name, text) in models() {
        let model = compile_text(name, text, None).model.expect("the texts check");
        for (n, block) in model.blocks.iter().enumerate() {
            let shown = format!("{} {}", name.trim_end_matches(".llm"), block.name);
            println!("| {shown} | {} |", row(&model, BlockId(n as u32)).join(" | "));
        }
    }
    println!("\n| model | blocks | steps | graph to plan, ms | at most {WHOLE} |\n|---|---|---|---|---|");
    for (name, text) in models() {
        let model = || compile_text(name, text, None).model.expect("the texts check");
        let (blocks, steps) = (model().blocks.len(), model().steps.len());
        let parsed = milliseconds(|| drop(model()));
        let whole = milliseconds(|| drop(pipeline::run(model(), &Options::default()))) - parsed;
        println!("| {name} | {blocks} | {steps} | {whole:.0} | {} |", within(whole, WHOLE));
    }
}

/// A block's figures.
fn row(model: &Model, id: BlockId) -> Vec<String> {
    let block = &model.blocks[id.0 as usize];
    let facts = Facts {
        weights: facts::of_weights(model, id),
        picked: false,
        cache: llmc_artifact::Format::F16,
        activations: llmc_artifact::Format::F32,
        machine: Machine::default(),
        role: Role::Prefill,
    };
    let best = optimise(block, &model.axes, &facts, Laws::ALL);
    let chosen = choose(&best, &facts).expect("the texts compile");
    let normal = milliseconds(|| drop(normalise(block, &model.axes)));
    let extracted = milliseconds(|| drop(optimise(block, &model.axes, &facts, Laws::ALL))) - normal;
    let grouped = milliseconds(|| drop(choose(&best, &facts)));
    let lowered = milliseconds(|| {
        drop(lower(&chosen.prefill, "block"));
        drop(chosen.decode.as_ref().map(|d| lower(d, "next")));
    });
    let all = milliseconds(|| drop(compile_block(block, &model.axes, facts.clone(), Laws::ALL, "block")));
    let s = &best.saturation;
    let fixed = if s.saturated { "yes" } else { "NO" };
    let times = [normal, extracted, grouped, lowered, all].map(|t| format!("{t:.1}"));
    let counts = [s.nodes.to_string(), s.classes.to_string(), fixed.to_owned()];
    counts.into_iter().chain(times).chain([within(all, BLOCK)]).collect()
}

fn within(time: f64, limit: f64) -> String {
    if time <= limit { "yes".to_owned() } else { format!("NO, {:.1} times", time / limit) }
}

/// Processor time of one run, in milliseconds.
fn milliseconds(mut run: impl FnMut()) -> f64 {
    let (start, mut runs) = (processor(), 0.0);
    loop {
        run();
        runs += 1.0;
        let taken = processor() - start;
        if taken >= LONG {
            return taken / runs;
        }
    }
}

/// Milliseconds of processor time of this process so far, by all of its threads.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the kernel says what a process has used");
    let after_name = stat.rsplit(')').next().expect("a name ends");
    let fields: Vec<f64> = after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    fields.iter().sum::<f64>() * 10.0
}
