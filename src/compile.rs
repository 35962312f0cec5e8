//! From a model text, perhaps with a checkpoint, to an artifact.

use crate::source::{Source, Text};
use crate::{Error, Loaded};
use llmc_artifact::{Artifact, Checkpoint, Format};
use llmc_compiler::cost::{self, Machine};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_compiler::rules::{Law, Laws};
use llmc_frontend::FileId;
use llmc_frontend::diag::{Span, did_you_mean, render_place};
use llmc_frontend::graph::{Model, Verified};
use llmc_frontend::{SourceMap, compile_text};
use llmc_runtime::weights::CheckpointFile;
use std::path::{Path, PathBuf};

/// What to compile a model for.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// A GGUF file or a Hugging Face folder: sizes, storage formats and the tokenizer come from it.
    pub weights: Option<PathBuf>,
    /// `cpu`, `cpu:native`, `cpu:v2`, `cpu:v3`, `cpu:v4`, `sm_80`.
    pub targets: Vec<String>,
    /// A folder of further model texts to choose from by architecture.
    pub models: Option<PathBuf>,
    /// The laws that the optimizer may apply: fewer change kernels and never results.
    pub laws: Laws,
    /// What costs are measured by.
    pub machine: Machine,
    /// How activations of plain weights are stored for their products, and what computed factors of cached elements of two bytes
    /// are rounded to: `F32` keeps them, `F16` and `BF16` are multiplied in one step on GPUs.
    pub activations: Format,
}

impl Default for CompileOptions {
    fn default() -> CompileOptions {
        CompileOptions {
            weights: None,
            targets: vec!["cpu".to_owned()],
            models: None,
            laws: Laws::ALL,
            machine: Machine::default(),
            activations: Format::F32,
        }
    }
}

impl CompileOptions {
    /// For the host's processor and these weights.
    pub fn with_weights(weights: impl Into<PathBuf>) -> CompileOptions {
        CompileOptions { weights: Some(weights.into()), ..CompileOptions::default() }
    }
}

/// Compiles a model: a text, a GGUF file or a Hugging Face folder. An artifact is only opened.
///
/// # Errors
/// Diagnostics about the text and the checkpoint; files that cannot be read; an unknown target.
pub fn compile(model: impl AsRef<Path>, options: &CompileOptions) -> Result<Loaded, Error> {
    match Source::open(model.as_ref(), options.weights.as_deref(), options.models.as_deref())? {
        Source::Artifact(_) if options.laws != Laws::ALL => {
            Err(Error::Usage("an artifact is compiled already: rules are disabled when it is built".to_owned()))
        }
        Source::Artifact(_) if options.activations != Format::F32 => Err(Error::Usage(
            "an artifact is compiled already: how activations are stored is settled when it is built".to_owned(),
        )),
        Source::Artifact(artifact) => {
            let checkpoint = options.weights.as_deref().map(llmc_runtime::weights::open).transpose()?;
            Ok(Loaded { artifact: *artifact, checkpoint })
        }
        Source::Text(text, checkpoint) => {
            let (laws, machine, activations) = (options.laws, options.machine.clone(), options.activations);
            let asked = Options { laws, machine, activations, ..Options::default() };
            let stages = stages_for(&text, checkpoint.as_deref(), &asked)?;
            let targets = (options.targets.iter())
                .map(|t| stages.emit(t))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| Error::Compile(e.to_string()))?;
            let tokenizer = checkpoint.as_deref().map(|c| c.tokenizer_data()).transpose()?.flatten();
            let artifact = Artifact {
                plan: stages.plan.clone(),
                targets,
                text: text.text,
                tokenizer: tokenizer.map(|t| serde_json::to_string(&t).expect("a tokenizer's data becomes JSON")),
                ..Artifact::default()
            };
            Ok(Loaded { artifact, checkpoint })
        }
    }
}

/// Every law but the named ones.
///
/// # Errors
/// A name that no law has, or one that cannot be switched off.
pub fn laws_without<S: AsRef<str>>(names: &[S]) -> Result<Laws, Error> {
    names.iter().try_fold(Laws::ALL, |laws, name| Ok(laws.without(switchable(name.as_ref())?)))
}

fn switchable(name: &str) -> Result<Law, Error> {
    let Some(law) = Law::from_name(name) else {
        let help = match did_you_mean(name, Law::ALL.iter().map(|l| l.name())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`llmc explain --list-rules` lists them".to_owned(),
        };
        return Err(Error::Usage(format!("no law is called `{name}`\n  help: {help}")));
    };
    match law.needed() {
        None => Ok(law),
        Some(why) => Err(Error::Usage(format!(
            "the law `{name}` cannot be switched off: {why}\n  help: `llmc explain --list-rules` says which can"
        ))),
    }
}

/// A text's model, verified.
///
/// # Errors
/// Diagnostics.
pub fn model(text: &Text, checkpoint: Option<&dyn Checkpoint>) -> Result<(Verified<Model>, SourceMap), Error> {
    let compiled = compile_text(&text.name, &text.text, checkpoint);
    match compiled.model {
        Some(model) => Ok((model, compiled.sources)),
        None => Err(Error::model(compiled.diagnostics, compiled.sources)),
    }
}

/// A refusal to append tokens says where the text has the read that keeps it from being done.
fn show_leaks(stages: &mut Stages, sources: &SourceMap) {
    let leaks = stages.blocks.iter().flat_map(|b| b.fused.leaks.values());
    for leak in leaks {
        let Some((file, start, end)) = leak.place else { continue };
        let span = Span::new(FileId(file), start, end);
        for seq in &mut stages.plan.seqs {
            if let Err(sentence) = &mut seq.appendable
                && *sentence == leak.sentence
            {
                *sentence = format!("{sentence}\n{}", render_place(sources, span, "read here").trim_end());
            }
        }
    }
}

/// Every stage of the compiler up to the plan.
///
/// # Errors
/// Diagnostics, or what cannot be compiled.
pub fn stages(text: &Text, checkpoint: Option<&dyn CheckpointFile>, laws: Laws) -> Result<Stages, Error> {
    stages_for(text, checkpoint, &Options { laws, ..Options::default() })
}

/// As [`stages`], with everything that may be asked of them.
///
/// # Errors
/// As [`stages`].
pub fn stages_for(text: &Text, checkpoint: Option<&dyn CheckpointFile>, options: &Options) -> Result<Stages, Error> {
    Ok(compile_stages(text, checkpoint, options)?.0)
}

/// As [`stages_for`], and the texts that places are in.
///
/// # Errors
/// As [`stages`].
pub fn compile_stages(
    text: &Text,
    checkpoint: Option<&dyn CheckpointFile>,
    options: &Options,
) -> Result<(Stages, SourceMap), Error> {
    let (model, sources) = model(text, checkpoint.map(|c| c as &dyn Checkpoint))?;
    let mut stages = pipeline::run(model, options)
        .map_err(|e| Error::Compile(format!("{}: {e}", sources.file(llmc_frontend::FileId(1)).name)))?;
    show_leaks(&mut stages, &sources);
    Ok((stages, sources))
}

/// The machine of this name, or in this file; without one, the first target's where none is a processor, else a generic
/// processor, so that a build does not depend on where it runs.
///
/// # Errors
/// A name that is unknown, a file that cannot be read or says no machine.
pub fn machine(name: Option<&str>, targets: &[String]) -> Result<Machine, Error> {
    let Some(name) = name else {
        let known: Option<Vec<_>> = targets.iter().map(|t| cost::by_name(t).ok()).collect();
        return Ok(known.and_then(|k| k.into_iter().next()).unwrap_or_default());
    };
    match (name, cost::by_name(name)) {
        ("host", _) => Ok(cost::host()),
        (_, Ok(machine)) => Ok(machine),
        (file, Err(_)) if Path::new(file).exists() => {
            let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
            Machine::parse(&text).map_err(|e| Error::Usage(format!("{file}: {e}\n  help: {}", example())))
        }
        (name, Err(known)) => Err(Error::Usage(format!(
            "no machine and no file is called `{name}`\n  help: known are host, {known}; {}",
            example()
        ))),
    }
}

fn example() -> String {
    format!("a file is like {}", Machine::default().text().split_whitespace().collect::<String>())
}
