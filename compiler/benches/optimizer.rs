//! What the optimizer takes: e-nodes, classes and seconds of every stage, for each distinct block of the texts in
//! `models/` at their default sizes, and for the whole of DeepSeek-V3's 61 layers.
//!
//! `make bench-optimizer`. Times are the least of some runs.

use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::{MODELS, compile_text};
use std::time::{Duration, Instant};

/// Runs of each model.
const RUNS: usize = 5;

const STAGES: [&str; 6] = ["normalise", "saturate", "extract", "stream", "group", "lower"];

fn main() {
    println!("milliseconds of each stage; the least of {RUNS} runs\n");
    print!("| block | e-nodes | classes | rounds | fixed point |");
    STAGES.iter().for_each(|s| print!(" {s} |"));
    println!(" total |\n|---|---|---|---|---|{}---|", "---|".repeat(STAGES.len()));
    let mut whole = Vec::new();
    for (name, text) in MODELS {
        let runs: Vec<Option<(Stages, Duration)>> = (0..RUNS).map(|_| run(name, text)).collect();
        let Some(runs) = runs.into_iter().collect::<Option<Vec<_>>>() else { continue };
        for block in 0..runs[0].0.blocks.len() {
            print_block(name, &runs, block);
        }
        let least = runs.iter().map(|(_, time)| *time).min().expect("there are runs");
        whole.push((*name, runs[0].0.model.steps.len(), least));
    }
    println!("\n| model | steps | text to plan |\n|---|---|---|");
    for (name, steps, time) in whole {
        println!("| {name} | {steps} | {:.0} |", time.as_secs_f64() * 1e3);
    }
}

/// A text through all stages, and the time from its graph to its plan.
fn run(name: &str, text: &str) -> Option<(Stages, Duration)> {
    let model = compile_text(name, text, None).model.expect("the texts check");
    let start = Instant::now();
    match pipeline::run(model, &Options::default()) {
        Ok(stages) => Some((stages, start.elapsed())),
        Err(e) => {
            println!("{name}: {e}");
            None
        }
    }
}

fn print_block(name: &str, runs: &[(Stages, Duration)], block: usize) {
    let first = &runs[0].0.blocks[block];
    let s = &first.optimised.saturation;
    let least = |of: &dyn Fn(usize) -> Duration| (0..runs.len()).map(of).min().expect("there are runs");
    let times = |run: usize| &runs[run].0.blocks[block].times;
    let fixed = if s.saturated { "yes" } else { "NO" };
    print!("| {name} {} | {} | {} | {} | {fixed} |", first.name, s.nodes, s.classes, s.rounds);
    for stage in STAGES {
        print!(" {:.1} |", least(&|run| times(run).get(stage)).as_secs_f64() * 1e3);
    }
    println!(" {:.1} |", least(&|run| times(run).total()).as_secs_f64() * 1e3);
}
