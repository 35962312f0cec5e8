//! Targets: what turns verified kernels into code.
//!
//! Every target has the same shape: `abi` (how a kernel receives its arguments), `tuning` (sizes it chose), one file
//! per family, and `mod` (emit everything, then hand it to LLVM).

pub mod cpu;
pub mod nvptx;
mod order;
mod points;

use crate::kernel::KernelSpec;
use crate::kernel::verify::Verified;
use llmc_artifact::plan::TargetCode;
use thiserror::Error;

/// Why a target made no code.
#[derive(Debug, Error)]
pub enum TargetError {
    /// No target has this name.
    #[error("there is no target `{found}`; known are {known}")]
    Unknown {
        /// What was asked for.
        found: String,
        /// What exists.
        known: String,
    },
    /// LLVM refused: a defect of this compiler or of its installation.
    #[error("code generation for {target}: {message}")]
    Llvm {
        /// The target's name.
        target: String,
        /// LLVM's words.
        message: String,
    },
    /// The linker could not be run or failed.
    #[error("linking kernels for {target}: {message}")]
    Link {
        /// The target's name.
        target: String,
        /// What happened.
        message: String,
    },
}

/// A text form of a target's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// LLVM's intermediate representation, optimised.
    Llvm,
    /// The target's assembly: x86 or PTX.
    Assembly,
}

/// A processor to generate code for.
pub trait Target {
    /// Its name, as `--target` takes it.
    fn name(&self) -> &str;

    /// Code for all kernels of an artifact, in their order.
    ///
    /// # Errors
    /// When LLVM or the linker fails.
    fn emit(&self, kernels: &[Verified<KernelSpec>]) -> Result<TargetCode, TargetError>;

    /// The code as text.
    ///
    /// # Errors
    /// When LLVM fails.
    fn text(&self, kernels: &[Verified<KernelSpec>], form: Text) -> Result<String, TargetError>;
}

/// The target with this name: `cpu`, `cpu:v3`, `sm_80`...
///
/// # Errors
/// When there is none.
pub fn by_name(name: &str) -> Result<Box<dyn Target>, TargetError> {
    if name.starts_with("sm_") {
        return Ok(Box::new(nvptx::Nvptx::new(name)?));
    }
    if name == "cpu" || name.starts_with("cpu:") {
        return Ok(Box::new(cpu::Cpu::new(name)?));
    }
    let known = "cpu, cpu:native, cpu:v2, cpu:v3, cpu:v4, sm_80".into();
    Err(TargetError::Unknown { found: name.into(), known })
}
