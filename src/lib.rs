//! llmc compiles the mathematics of a transformer into fused kernels and runs them.
//!
//! A model is a text of equations over named axes, or a checkpoint for whose architecture a text is known. [`compile`]
//! makes an [`Artifact`] of it, an [`Engine`] is an artifact on a device, and a [`Session`] is one sequence of tokens.
//!
//! ```no_run
//! use llmc::{CompileOptions, Engine, EngineOptions, GenerateOptions, SampleOptions, Sampler, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let compiled = llmc::compile("models/llama.llm", &CompileOptions::with_weights("SmolLM2.gguf"))?;
//! let engine = compiled.engine(&EngineOptions::default())?;
//! let tokenizer = compiled.tokenizer()?;
//!
//! let prompt = tokenizer.encode("The capital of France is", true)?;
//! let mut sampler = Sampler::new(SampleOptions::default())?;
//! let mut text = tokenizer.stream();
//! Session::new(&engine).generate(&prompt, &mut sampler, &GenerateOptions::default(), |token| {
//!     print!("{}", text.push(token));
//!     std::ops::ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "compiler")]
mod compile;
mod error;
mod loaded;
pub mod source;

#[cfg(feature = "compiler")]
pub use compile::{CompileOptions, compile, compile_stages, laws_without, machine, model, stages, stages_for};
pub use error::{Error, ModelError};
pub use llmc_artifact::{Artifact, Format};
pub use llmc_runtime::chat::{ChatTemplate, Message};
pub use llmc_runtime::sample::{SampleOptions, Sampler};
pub use llmc_runtime::tokenizer::Tokenizer;
pub use llmc_runtime::{
    Best, DeviceKind, Engine, EngineOptions, Feed, Finish, GenerateOptions, Generation, Inputs, Output, Role, Sequence,
    Session, Values, Want,
};
pub use loaded::Loaded;
