//! Artifact to tokens: checkpoints, tokenizers, devices, sessions, sampling.
//!
//! Needs no compiler: what it shares with one is the leaf crate `llmc-artifact`.

pub mod error;
mod mapping;
pub mod tokenizer;
pub mod utf8;
pub mod weights;

pub use error::{FileCode, FileError};
