//! Everything that can go wrong, as one type: what a person did is told with its code, its place and the way out.

use llmc_artifact::ArtifactError;
use llmc_frontend::diag::{Diagnostic, SourceMap, Style, render_json, render_text};
use llmc_runtime::{FileError, RunError};
use std::fmt;

/// Why there is no result.
#[derive(Debug)]
pub enum Error {
    /// The model text is at fault, perhaps together with a checkpoint.
    Model(Box<ModelError>),
    /// A checkpoint's file is at fault.
    File(FileError),
    /// An artifact's file is at fault.
    Artifact(ArtifactError),
    /// What was asked of a running model cannot be done.
    Run(RunError),
    /// What was asked of the compiler cannot be done.
    Compile(String),
    /// What was asked for contradicts itself or the model.
    Usage(String),
    /// A file or stream of the caller's own.
    Io(String),
}

/// Diagnostics with the texts they point into.
#[derive(Debug)]
pub struct ModelError {
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
    /// Where.
    pub sources: SourceMap,
}

impl Error {
    /// Diagnostics about a model's texts.
    pub fn model(diagnostics: Vec<Diagnostic>, sources: SourceMap) -> Error {
        Error::Model(Box::new(ModelError { diagnostics, sources }))
    }

    /// An operating system's refusal.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Error {
        Error::Io(format!("{what}: {error}"))
    }

    /// The error for a terminal, in colour or not.
    pub fn render(&self, style: Style) -> String {
        match self {
            Error::Model(m) => render_text(&m.diagnostics, &m.sources, style),
            other => format!("error: {other}\n"),
        }
    }

    /// The error as JSON: an array of diagnostics.
    pub fn render_json(&self) -> String {
        match self {
            Error::Model(m) => render_json(&m.diagnostics, &m.sources),
            other => format!("{}\n", serde_json::json!([{ "severity": "error", "message": other.to_string() }])),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(m) => f.write_str(render_text(&m.diagnostics, &m.sources, Style::Plain).trim_end()),
            Error::File(e) => e.fmt(f),
            Error::Artifact(e) => e.fmt(f),
            Error::Run(e) => e.fmt(f),
            Error::Compile(e) | Error::Usage(e) | Error::Io(e) => f.write_str(e),
        }
    }
}

impl std::error::Error for Error {}

impl From<FileError> for Error {
    fn from(e: FileError) -> Error {
        Error::File(e)
    }
}

impl From<ArtifactError> for Error {
    fn from(e: ArtifactError) -> Error {
        Error::Artifact(e)
    }
}

impl From<RunError> for Error {
    fn from(e: RunError) -> Error {
        Error::Run(e)
    }
}
