//! Artifact to tokens: checkpoints, tokenizers, devices, sessions, sampling.
//!
//! Needs no compiler: what it shares with one is the leaf crate `llmc-artifact`.

mod beam;
pub mod chat;
pub mod device;
pub mod engine;
pub mod error;
pub mod generate;
mod kv_cache;
mod mapping;
mod pool;
mod run_error;
pub mod sample;
mod session;
pub mod tokenizer;
pub mod utf8;
pub mod weights;

pub use device::{Device, DeviceKind};
pub use engine::{Best, Engine, EngineOptions, Feed, Inputs, Output, Role, Sequence, Values, Want};
pub use error::{FileCode, FileError};
pub use generate::{Finish, GenerateOptions, Generation, GenerationStats, peak_memory};
pub use llmc_artifact::Artifact;
pub use run_error::{RunCode, RunError};
pub use session::Session;
