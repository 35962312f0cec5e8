//! `llmc inspect`: what each stage made, as text on standard output.

use super::args::{InspectArgs, Stage};
use super::failure::Failure;
use llmc::source::{Source, Text};
use llmc::{Error, laws_without, machine, model, stages_for};
use llmc_artifact::Checkpoint;
use llmc_compiler::cost::Role;
use llmc_compiler::pipeline::{BlockStages, Options};
use llmc_compiler::target::Text as CodeText;
use llmc_compiler::{group, plan};
use llmc_frontend::{SourceMap, graph, syntax};
use llmc_runtime::weights::CheckpointFile;
use std::io::Write;

/// Prints the stage.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let source = Source::open(&args.model.model, args.model.weights.as_deref(), args.model.models.as_deref())?;
    let text = match source {
        Source::Artifact(artifact) => {
            let checkpoint = args.model.weights.as_deref().map(llmc_runtime::weights::open).transpose()?;
            let name = format!("the text in {}", args.model.model.display());
            show(args, &Text { name, text: artifact.text }, checkpoint.as_deref())?
        }
        Source::Text(text, checkpoint) => show(args, &text, checkpoint.as_deref())?,
    };
    // A reader that stops early (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// A block's kernels for prompts, and those for generated tokens where they are others.
fn fused_text(block: &BlockStages) -> String {
    if block.decode.is_none() {
        return group::fused_text(&block.fused);
    }
    let of = |role: Role| format!("for {}\n{}", role.name(), group::fused_text(block.fused(role)));
    Role::ALL.map(of).join("\n")
}

fn show(args: &InspectArgs, text: &Text, checkpoint: Option<&dyn CheckpointFile>) -> Result<String, Error> {
    let laws = laws_without(&args.model.disable_rule)?;
    let machine = machine(args.model.machine.as_deref(), std::slice::from_ref(&args.target))?;
    let activations = args.model.activations.format();
    let options = Options { laws, machine, activations, ..Options::default() };
    let code = |form| {
        stages_for(text, checkpoint, &options)?.code_text(&args.target, form).map_err(|e| Error::Compile(e.to_string()))
    };
    let blocks = |show: fn(&BlockStages) -> String| -> Result<String, Error> {
        let blocks = stages_for(text, checkpoint, &options)?.blocks;
        Ok(blocks.iter().map(|b| format!("block {}\n{}\n", b.name, show(b))).collect())
    };
    match args.stage {
        Stage::Ast => {
            let mut sources = SourceMap::new();
            let id = sources.add(&text.name, &text.text);
            Ok(format!("{:#?}\n", syntax::parse(id, &text.text).0))
        }
        Stage::Graph => Ok(graph::text::print(&model(text, checkpoint.map(|c| c as &dyn Checkpoint))?.0)),
        Stage::Normal => blocks(|b| b.optimised.normal_text()),
        Stage::Egraph => blocks(|b| b.optimised.egraph_text()),
        Stage::Fused => blocks(fused_text),
        Stage::Kernels => {
            let kernels = stages_for(text, checkpoint, &options)?.kernels;
            Ok(kernels.iter().map(|k| format!("{}\n", **k)).collect())
        }
        Stage::Plan => {
            let stages = stages_for(text, checkpoint, &options)?;
            let names: Vec<_> = stages.kernels.iter().map(|k| k.name.clone()).collect();
            Ok(plan::plan_text(&stages.plan, &names))
        }
        Stage::Llvm => code(CodeText::Llvm),
        Stage::Ptx | Stage::Asm => code(CodeText::Assembly),
    }
}
