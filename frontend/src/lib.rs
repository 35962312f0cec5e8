//! The model language: from text to a verified graph, and the reference evaluator that says what a graph means.
#![forbid(unsafe_code)]

pub mod compile;
pub mod described;
pub mod diag;
pub mod elaborate;
pub mod graph;
pub mod interval;
pub mod program;
pub mod reference;
pub mod syntax;

pub use compile::{Compiled, MODELS, compile_text, select_model};
pub use described::Described;
pub use diag::{Code, Diagnostic, FileId, SourceMap, Span};
pub use graph::{Model, Verified};
pub use program::{Program, STD};
