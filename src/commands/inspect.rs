//! `llmc inspect`: what each stage made, on standard output.

use super::args::{InspectArgs, Stage, View as Format};
use super::failure::Failure;
use super::named::Asked;
use llmc::source::{Source, Text};
use llmc::{Error, compile_stages, laws_without, machine, model};
use llmc_artifact::Checkpoint;
use llmc_compiler::cost::Role;
use llmc_compiler::group::{self, Fused};
use llmc_compiler::normal::text::{print, reachable};
use llmc_compiler::pipeline::{BlockStages, Options, Stages};
use llmc_compiler::plan;
use llmc_compiler::target::Text as CodeText;
use llmc_compiler::view::{self, View};
use llmc_frontend::{SourceMap, graph, syntax};
use llmc_runtime::weights::CheckpointFile;
use std::io::Write;

/// Prints the stage.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    has_format(args)?;
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

/// The formats that a stage has, and whether it can be asked about one value.
fn formats(stage: Stage) -> (&'static [Format], bool) {
    match stage {
        Stage::Ast => (&[Format::Text, Format::Json], false),
        Stage::Graph => (&[Format::Text, Format::Json, Format::Dot, Format::Html], false),
        Stage::Normal | Stage::Egraph | Stage::Fused => {
            (&[Format::Text, Format::Json, Format::Dot, Format::Html], true)
        }
        Stage::Kernels | Stage::Plan => (&[Format::Text, Format::Json, Format::Html], false),
        Stage::Llvm | Stage::Ptx | Stage::Asm => (&[Format::Text], false),
    }
}

fn word(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn has_format(args: &InspectArgs) -> Result<(), Error> {
    let (has, values) = formats(args.stage);
    let (stage, format) = (word(args.stage), word(args.format));
    if !has.contains(&args.format) {
        let has: Vec<_> = has.iter().map(|f| word(*f)).collect();
        return Err(Error::Usage(format!(
            "--stage {stage} cannot be shown as {format}\n  help: it has {}",
            has.join(", ")
        )));
    }
    if args.value.is_some() && !values {
        let with = "one value can be shown by --stage normal, egraph and fused";
        return Err(Error::Usage(format!("--stage {stage} is shown whole\n  help: {with}")));
    }
    Ok(())
}

fn show(args: &InspectArgs, text: &Text, checkpoint: Option<&dyn CheckpointFile>) -> Result<String, Error> {
    let laws = laws_without(&args.model.disable_rule)?;
    let machine = machine(args.model.machine.as_deref(), std::slice::from_ref(&args.target))?;
    let activations = args.model.activations.format();
    let options = Options { laws, machine, activations, ..Options::default() };
    if args.stage == Stage::Ast {
        return Ok(tree(args, text));
    }
    if args.stage == Stage::Graph {
        let model = model(text, checkpoint.map(|c| c as &dyn Checkpoint))?.0;
        return Ok(match args.format {
            Format::Text => graph::text::print(&model),
            Format::Json | Format::Dot | Format::Html => viewed(args, &view::graph(&model), text),
        });
    }
    let (stages, sources) = compile_stages(text, checkpoint, &options)?;
    match (&args.value, args.format) {
        (None, Format::Text) => whole(args, &stages),
        (Some(name), Format::Text) => value(args, &stages, &sources, &Asked::new(name)),
        (None, Format::Json) if args.stage == Stage::Kernels => Ok(pretty(&view::kernels_data(&stages))),
        (None, Format::Json) if args.stage == Stage::Plan => Ok(pretty(&view::plan_data(&stages))),
        (name, Format::Json | Format::Dot | Format::Html) => {
            let view = drawn(args.stage, &stages);
            let view = match name {
                None => view,
                Some(name) => only(view, args.stage, &Asked::new(name))?,
            };
            Ok(viewed(args, &view, text))
        }
    }
}

fn tree(args: &InspectArgs, text: &Text) -> String {
    let mut sources = SourceMap::new();
    let id = sources.add(&text.name, &text.text);
    let tree = syntax::parse(id, &text.text).0;
    match args.format {
        Format::Text => format!("{tree:#?}\n"),
        Format::Json | Format::Dot | Format::Html => {
            pretty(&serde_json::to_value(&tree).expect("a syntax tree becomes JSON"))
        }
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn viewed(args: &InspectArgs, view: &View, text: &Text) -> String {
    match args.format {
        Format::Text | Format::Json => view.json(),
        Format::Dot => view::dot(view),
        Format::Html => view::html(view, &format!("{}: {}", text.name, word(args.stage))),
    }
}

fn drawn(stage: Stage, stages: &Stages) -> View {
    match stage {
        Stage::Normal => view::normal(stages),
        Stage::Egraph => view::egraph(stages),
        Stage::Kernels => view::kernels(stages),
        Stage::Plan => view::plan(stages),
        Stage::Fused | Stage::Ast | Stage::Graph | Stage::Llvm | Stage::Ptx | Stage::Asm => view::fused(stages),
    }
}

/// A view of one value, and what it is made of.
fn only(mut view: View, stage: Stage, asked: &Asked) -> Result<View, Error> {
    let of_block = |name: &str| asked.block.is_none_or(|b| name.split(' ').nth(1) == Some(b));
    view.sections.retain(|s| of_block(&s.name));
    let names: Vec<String> = view.sections.iter().flat_map(|s| s.names()).collect();
    // A formula is shown whole, a class with what it is made of, a kernel with those before it.
    let steps = if stage == Stage::Normal { usize::MAX } else { 1 };
    let parts = view.sections.into_iter().filter_map(|s| {
        let roots = s.named(asked.value);
        (!roots.is_empty()).then(|| s.around(&roots, steps))
    });
    view.sections = parts.collect();
    if view.sections.is_empty() { Err(asked.unknown(&names)) } else { Ok(view) }
}

/// A stage's text form.
fn whole(args: &InspectArgs, stages: &Stages) -> Result<String, Error> {
    let code = |form| stages.code_text(&args.target, form).map_err(|e| Error::Compile(e.to_string()));
    let blocks = |show: fn(&BlockStages) -> String| -> String {
        stages.blocks.iter().map(|b| format!("block {}\n{}\n", b.name, show(b))).collect()
    };
    Ok(match args.stage {
        Stage::Normal => blocks(|b| b.optimised.normal_text()),
        Stage::Egraph => blocks(|b| b.optimised.egraph_text()),
        Stage::Fused | Stage::Ast | Stage::Graph => blocks(|b| roles(b, &group::fused_text)),
        Stage::Kernels => stages.kernels.iter().map(|k| format!("{}\n", **k)).collect(),
        Stage::Plan => {
            let names: Vec<_> = stages.kernels.iter().map(|k| k.name.clone()).collect();
            plan::plan_text(&stages.plan, &names)
        }
        Stage::Llvm => code(CodeText::Llvm)?,
        Stage::Ptx | Stage::Asm => code(CodeText::Assembly)?,
    })
}

/// A block's kernels for prompts, and those for generated tokens where they are others.
fn roles(block: &BlockStages, show: &dyn Fn(&Fused) -> String) -> String {
    if block.decode.is_none() {
        return show(&block.fused);
    }
    let of = |role: Role| format!("for {}\n{}", role.name(), show(block.fused(role)));
    Role::ALL.map(of).join("\n")
}

/// One value of a stage, in every block that has it.
fn value(args: &InspectArgs, stages: &Stages, sources: &SourceMap, asked: &Asked) -> Result<String, Error> {
    let (mut out, mut names) = (Vec::new(), Vec::new());
    for block in stages.blocks.iter().filter(|b| asked.block.is_none_or(|n| n == b.name)) {
        let found = match args.stage {
            Stage::Normal => formula(block, asked.value),
            Stage::Egraph => view::screen(block, asked.value, sources),
            Stage::Fused
            | Stage::Ast
            | Stage::Graph
            | Stage::Kernels
            | Stage::Plan
            | Stage::Llvm
            | Stage::Ptx
            | Stage::Asm => kernel(block, asked.value),
        };
        match found {
            Ok(text) => out.push(text),
            Err(more) => names.extend(more),
        }
    }
    if out.is_empty() { Err(asked.unknown(&names)) } else { Ok(out.join("\n")) }
}

/// A value's formula in normal form.
fn formula(block: &BlockStages, name: &str) -> Result<String, Vec<String>> {
    let (terms, roots) = &block.optimised.normal;
    let all = reachable(terms, roots.iter().map(|r| r.1));
    let named: Vec<_> = all.iter().filter_map(|x| Some((terms.info(*x).name.clone()?, *x))).collect();
    let found: Vec<_> = named.iter().filter(|(n, _)| n == name).cloned().collect();
    if found.is_empty() {
        return Err(named.into_iter().map(|(n, _)| n).collect());
    }
    Ok(format!("block {}\n{}", block.name, print(terms, &found)))
}

/// The kernel that stores a value.
fn kernel(block: &BlockStages, name: &str) -> Result<String, Vec<String>> {
    let of = |fused: &Fused| {
        let stores = |g: &group::Group| g.values.iter().any(|v| fused.values[*v as usize].name == name);
        fused.groups.iter().position(stores).map(|n| group::kernel_text(fused, n))
    };
    let mut parts = Vec::new();
    for role in Role::ALL {
        if role == Role::Prefill || block.decode.is_some() {
            let whose = if block.decode.is_some() { format!(" for {}", role.name()) } else { String::new() };
            parts.extend(of(block.fused(role)).map(|text| format!("block {}{whose}\n{text}", block.name)));
        }
    }
    if parts.is_empty() {
        return Err(block.fused.values.iter().map(|v| v.name.clone()).collect());
    }
    Ok(parts.join("\n"))
}
