//! Executes PTX on the processor.
//!
//! What enters is PTX text, whoever made it. The crate knows nothing of llmc's compiler, so that it cannot share its
//! mistakes.
#![forbid(unsafe_code)]

pub mod syntax;
pub mod types;
