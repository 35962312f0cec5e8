//! `llmc check`: everything that is wrong with a model text.

use super::args::CheckArgs;
use super::failure::{Failure, style};
use llmc::{Error, source::Text};
use llmc_artifact::Checkpoint;
use llmc_frontend::compile_text;
use llmc_frontend::diag::{render_json, render_text};

/// Checks the text, against a checkpoint if one is given.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let wrap = |e: Error| if args.json { Failure::Json(Box::new(e)) } else { Failure::from(e) };
    let text = Text::read(&args.model).map_err(wrap)?;
    let checkpoint =
        args.weights.as_deref().map(llmc_runtime::weights::open).transpose().map_err(|e| wrap(e.into()))?;
    let checked = compile_text(&text.name, &text.text, checkpoint.as_deref().map(|c| c as &dyn Checkpoint));
    if args.json {
        println!("{}", render_json(&checked.diagnostics, &checked.sources));
    } else if !checked.diagnostics.is_empty() {
        eprint!("{}", render_text(&checked.diagnostics, &checked.sources, style()));
    }
    match checked.model {
        None => Err(Failure::Silent),
        Some(_) if args.json => Ok(()),
        Some(model) => {
            println!(
                "{}: model {} is well formed: {} steps of {} blocks",
                text.name,
                model.name,
                model.steps.len(),
                model.blocks.len()
            );
            Ok(())
        }
    }
}
