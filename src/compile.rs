//! From a model text, perhaps with a checkpoint, to an artifact.

use crate::source::{Source, Text};
use crate::{Error, Loaded};
use llmc_artifact::{Artifact, Checkpoint};
use llmc_compiler::pipeline::{self, Stages};
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
}

impl Default for CompileOptions {
    fn default() -> CompileOptions {
        CompileOptions { weights: None, targets: vec!["cpu".to_owned()], models: None }
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
        Source::Artifact(artifact) => {
            let checkpoint = options.weights.as_deref().map(llmc_runtime::weights::open).transpose()?;
            Ok(Loaded { artifact, checkpoint })
        }
        Source::Text(text, checkpoint) => {
            let stages = stages(&text, checkpoint.as_deref())?;
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

/// Every stage of the compiler up to the plan.
///
/// # Errors
/// Diagnostics, or what cannot be compiled.
pub fn stages(text: &Text, checkpoint: Option<&dyn CheckpointFile>) -> Result<Stages, Error> {
    let (model, sources) = model(text, checkpoint.map(|c| c as &dyn Checkpoint))?;
    pipeline::run(model).map_err(|e| Error::Compile(format!("{}: {e}", sources.file(llmc_frontend::FileId(1)).name)))
}
