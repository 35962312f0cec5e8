//! `llmc explain`: the laws of the optimizer, what they did to a value, and why it is stored.

use super::args::ExplainArgs;
use super::failure::Failure;
use llmc::source::{Source, Text};
use llmc::{Error, compile_stages, laws_without};
use llmc_compiler::explain::value::{Proofs, explain, overview};
use llmc_compiler::group::Value;
use llmc_compiler::pipeline::{BlockStages, Options, Stages};
use llmc_compiler::rules;
use llmc_frontend::diag::did_you_mean;
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
    let options = Options { laws, ..Options::default() };
    let (stages, sources) = compile_stages(text, checkpoint, &options)?;
    let Some(name) = &args.value else {
        return Ok(stages.blocks.iter().map(overview).collect::<Vec<_>>().join("\n"));
    };
    let (block, number) = match find(&stages, name) {
        Found::Stored(block, number) => (block, number),
        Found::Fused(sentence) => return Ok(format!("{sentence}\n")),
        Found::Nothing(sentence) => return Err(Error::Usage(sentence)),
    };
    let proofs = Proofs::new(&stages, block, laws);
    let explained = explain(&stages.blocks[block], number, &proofs, &sources);
    Ok(match (args.json, args.why_not) {
        (true, _) => json(&explained),
        (_, true) => explained.reasons_text(),
        _ => explained.text(),
    })
}

fn json(explained: &llmc_compiler::explain::value::Explained) -> String {
    format!("{}\n", serde_json::to_string_pretty(explained).expect("an explanation becomes JSON"))
}

/// What a name means.
enum Found {
    /// A stored value: its block and number.
    Stored(usize, u32),
    /// A value that lives within a kernel.
    Fused(String),
    /// None, and what there is.
    Nothing(String),
}

/// A value by its name in the text, or `block/value`.
fn find(stages: &Stages, name: &str) -> Found {
    let (block, value) = name.split_once('/').map_or((None, name), |(b, v)| (Some(b), v));
    let blocks = || stages.blocks.iter().enumerate().filter(|(_, b)| block.is_none_or(|n| n == b.name));
    // A layer is asked about more often than what is before it.
    let stored = |b: &BlockStages| {
        let named = |v: &Value| b.fused.terms.info(v.meaning).name.as_deref() == Some(value);
        let values = &b.fused.values;
        values.iter().position(|v| v.name == value).or_else(|| values.iter().position(named))
    };
    if let Some((n, at)) = blocks()
        .max_by_key(|(n, b)| (stored(b).map(|_| b.fused.values.len()), std::cmp::Reverse(*n)))
        .and_then(|(n, b)| Some((n, stored(b)?)))
    {
        return Found::Stored(n, at as u32);
    }
    for (_, b) in blocks() {
        let (terms, roots) = &b.optimised.normal;
        let reached = llmc_compiler::normal::text::reachable(terms, roots.iter().map(|r| r.1));
        if reached.iter().any(|x| terms.info(*x).name.as_deref() == Some(value)) {
            return Found::Fused(format!(
                "`{}/{value}` is not stored: it is computed within the kernels that use it, and nothing keeps it apart",
                b.name
            ));
        }
    }
    let names: Vec<&str> = stages.blocks.iter().flat_map(|b| b.fused.values.iter().map(|v| v.name.as_str())).collect();
    let help = did_you_mean(value, names.iter().copied())
        .map_or_else(|| format!("stored are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    Found::Nothing(format!("no value is called `{name}`\n  help: {help}"))
}
