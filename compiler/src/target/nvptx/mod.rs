//! Code for NVIDIA GPUs: PTX text, one thread block for each work item.

pub mod abi;
mod contract;
mod map;
mod ring;
mod stores;
mod stream;
mod topk;
pub mod tuning;

use super::{Target, TargetError, Text};
use crate::kernel::abi::Abi;
use crate::kernel::verify::Verified;
use crate::kernel::{Body, KernelSpec};
use crate::llvm::{Emitter, Isa, Machine, Stage};
use abi::{Entry, Threads};
use inkwell::context::Context;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use tuning::{LEVELS, Level, THREADS, Units};

/// A GPU target: `sm_80`, `sm_90a`.
pub struct Nvptx {
    level: &'static Level,
}

impl Nvptx {
    /// The target with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(name: &str) -> Result<Nvptx, TargetError> {
        let level = LEVELS.iter().find(|l| l.name == name).ok_or_else(|| TargetError::Unknown {
            found: name.into(),
            known: LEVELS.iter().map(|l| l.name).collect::<Vec<_>>().join(", "),
        })?;
        Ok(Nvptx { level })
    }

    /// Emits all kernels into one module and gives its code in one form.
    fn compile(&self, kernels: &[Verified<KernelSpec>], stage: Stage) -> Result<(Vec<KernelInfo>, Vec<u8>), String> {
        let context = Context::create();
        let isa = Isa { fma: true, f16: true, space: abi::GLOBAL };
        let emitter = Emitter::new(&context, "kernels", isa);
        let infos = kernels.iter().map(|k| kernel(&emitter, k, self.level.units)).collect();
        let machine = Machine::new("nvptx64-nvidia-cuda", self.level.name, self.level.features)?;
        machine.optimise(&emitter)?;
        Ok((infos, machine.emit(&emitter, stage)?))
    }

    fn llvm(&self, message: String) -> TargetError {
        TargetError::Llvm { target: self.level.name.into(), message }
    }
}

/// A kernel of a family.
fn kernel(emitter: &Emitter, spec: &KernelSpec, units: Units) -> KernelInfo {
    let alike = Threads::alike(THREADS);
    let (work, tensor_maps) = match &spec.body {
        Body::Map { axes, stores } => {
            (abi::kernel(emitter, spec, alike, 0, |entry| map::emit(entry, axes, stores)), Vec::new())
        }
        Body::Contract(c) => {
            let form = contract::Form::of(spec, c, units);
            let tensors = form.tensor_maps(spec, c);
            let emit = |entry: &Entry| contract::emit(entry, c, form);
            (abi::kernel(emitter, spec, form.threads(), tensors.len(), emit), tensors)
        }
        Body::Stream(s) => {
            let form = stream::Form::of(spec, s, units);
            let tensors = form.tensor_maps();
            let emit = |entry: &Entry| stream::emit(entry, s, &form);
            (abi::kernel(emitter, spec, form.threads(), tensors.len(), emit), tensors)
        }
        Body::TopK(t) => (abi::kernel(emitter, spec, alike, 0, |entry| topk::emit(entry, t)), Vec::new()),
    };
    KernelInfo { tensor_maps, ..Abi::of(spec).info(spec, work.items, work.scratch, work.threads) }
}

impl Target for Nvptx {
    fn name(&self) -> &str {
        self.level.name
    }

    fn emit(&self, kernels: &[Verified<KernelSpec>]) -> Result<TargetCode, TargetError> {
        let (infos, code) = self.compile(kernels, Stage::Assembly).map_err(|m| self.llvm(m))?;
        Ok(TargetCode { target: self.level.name.into(), features: Vec::new(), kernels: infos, code })
    }

    fn text(&self, kernels: &[Verified<KernelSpec>], form: Text) -> Result<String, TargetError> {
        let stage = match form {
            Text::Llvm => Stage::Llvm,
            Text::Assembly => Stage::Assembly,
        };
        let (_, bytes) = self.compile(kernels, stage).map_err(|m| self.llvm(m))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests;
