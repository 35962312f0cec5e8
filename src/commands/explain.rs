//! `llmc explain`: the laws of the optimizer, what they did to a value, and why it is stored.

use super::args::ExplainArgs;
use super::failure::Failure;
use super::named::Asked;
use llmc::source::{Source, Text};
use llmc::{Error, compile_stages, laws_without, machine};
use llmc_compiler::explain::value::{Explained, Proofs, explain, explain_fused, named, overview};
use llmc_compiler::group::Value;
use llmc_compiler::pipeline::{BlockStages, Options, Stages};
use llmc_compiler::rules::{self, Laws};
use llmc_frontend::SourceMap;
use std::io::Write;

/// Prints what was asked for.
pub fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let text = match (&args.model, args.list_rules) {
        (_, true) | (None, false) => rules::table(),
        (Some(model), false) => {
            let source = Source::open(model, args.weights.as_deref(), args.models.as_deref())?;
            match source {
                Source::Artifact(artifact) => {
                    let name = format!("the text in {}", model.display());
                    let checkpoint = args.weights.as_deref().map(llmc_runtime::weights::open).transpose()?;
                    show(args, &Text { name, text: artifact.text }, checkpoint.as_deref())?
                }
                Source::Text(text, checkpoint) => show(args, &text, checkpoint.as_deref())?,
            }
        }
    };
    // A reader that stops early (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn show(
    args: &ExplainArgs,
    text: &Text,
    checkpoint: Option<&dyn llmc_runtime::weights::CheckpointFile>,
) -> Result<String, Error> {
    let laws = laws_without(&args.disable_rule)?;
    let machine = machine(args.machine.as_deref(), &[])?;
    let options = Options { laws, machine, ..Options::default() };
    let (stages, sources) = compile_stages(text, checkpoint, &options)?;
    let Some(name) = &args.value else {
        return Ok(stages.blocks.iter().map(overview).collect::<Vec<_>>().join("\n"));
    };
    let explained = find(&stages, &sources, laws, &Asked::new(name))?;
    Ok(match (args.json, args.why_not) {
        (true, _) => json(&explained),
        (_, true) => explained.reasons_text(),
        _ => explained.text(args.full),
    })
}

fn json(explained: &Explained) -> String {
    format!("{}\n", serde_json::to_string_pretty(explained).expect("an explanation becomes JSON"))
}

/// The explanation of a value: of one that is stored before one that lives within kernels, of a layer's before one before
/// it, which is asked about less often.
fn find(stages: &Stages, sources: &SourceMap, laws: Laws, asked: &Asked) -> Result<Explained, Error> {
    let blocks = || stages.blocks.iter().enumerate().filter(|(_, b)| asked.block.is_none_or(|n| n == b.name));
    let stored = |b: &BlockStages| {
        let named = |v: &Value| b.fused.terms.info(v.meaning).name.as_deref() == Some(asked.value);
        let values = &b.fused.values;
        values.iter().position(|v| v.name == asked.value).or_else(|| values.iter().position(named))
    };
    let largest = |found: Vec<(usize, usize)>| {
        found.into_iter().max_by_key(|(n, _)| (stages.blocks[*n].fused.values.len(), std::cmp::Reverse(*n)))
    };
    if let Some((n, at)) = largest(blocks().filter_map(|(n, b)| Some((n, stored(b)?))).collect()) {
        return Ok(explain(&stages.blocks[n], at as u32, &Proofs::new(stages, n, laws), sources));
    }
    let all = named(stages);
    let here = blocks().filter(|(n, _)| all.iter().any(|(m, name)| m == n && name == asked.value));
    let fused = largest(here.map(|(n, _)| (n, 0)).collect())
        .and_then(|(n, _)| explain_fused(stages, n, asked.value, &Proofs::new(stages, n, laws), sources));
    let names: Vec<String> =
        all.into_iter().filter(|(n, _)| blocks().any(|(m, _)| m == *n)).map(|(_, name)| name).collect();
    fused.ok_or_else(|| asked.unknown(&names))
}
