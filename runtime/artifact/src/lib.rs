//! What a compiled model is: element types, formats, expressions, plan, code, and the file that holds them.
//!
//! A leaf crate: the compiler writes what is defined here and the runtime reads it, and neither sees the other.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod dim;
pub mod dtype;
pub mod error;
pub mod file;
pub mod format;
pub mod mapping;
pub mod panel;
pub mod plan;
pub mod recipe;
pub mod scalar;
pub mod tensor;
pub mod validate;

pub use checkpoint::{Checkpoint, ConfigValue, SourceKind, TensorData, TensorInfo};
pub use dim::{Dim, SeqId};
pub use dtype::{DType, Type};
pub use error::{ArtifactCode, ArtifactError};
pub use file::{Artifact, Weights};
pub use format::Format;
pub use scalar::{ReduceOp, ScalarOp, Value};
