//! `llmc build`: a model becomes one file.

use super::args::BuildArgs;
use super::failure::Failure;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use llmc::{CompileOptions, Error, compile, laws_without, machine};
use std::time::Instant;

/// Compiles, packs the weights and writes the artifact.
pub fn run(args: &BuildArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let options = CompileOptions {
        weights: args.model.weights.clone(),
        targets: args.target.clone(),
        models: args.model.models.clone(),
        laws: laws_without(&args.model.disable_rule)?,
        activations: args.model.activations.format(),
        machine: machine(args.model.machine.as_deref(), &args.target)?,
    };
    let compiled = compile(&args.model.model, &options)?;
    let kernels = compiled.artifact.targets.first().map_or(0, |t| t.kernels.len());
    eprintln!("compiled {} kernels in {:.1} s", kernels, started.elapsed().as_secs_f64());
    let output = args.output.clone().unwrap_or_else(|| format!("{}.llmc", compiled.artifact.plan.model).into());
    if args.without_weights {
        compiled.artifact.write(&output, None)?;
    } else {
        let bar = ProgressBar::new(compiled.artifact.plan.weights.len() as u64);
        bar.set_style(ProgressStyle::with_template("packing weights {bar:40} {pos}/{len}").expect("a valid template"));
        compiled.write(&output, &mut |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
    }
    let size = std::fs::metadata(&output).map_err(|e| Error::io(output.display(), e))?.len();
    eprintln!("wrote {} ({}) in {:.1} s", output.display(), HumanBytes(size), started.elapsed().as_secs_f64());
    Ok(())
}
