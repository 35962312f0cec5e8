//! The model language: from text to a verified graph, and the reference evaluator that says what a graph means.
#![forbid(unsafe_code)]

pub mod diag;
pub mod graph;
pub mod program;
pub mod syntax;

pub use diag::{Code, Diagnostic, FileId, SourceMap, Span};
pub use program::Program;
