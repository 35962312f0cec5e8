//! Code for the host's processors: explicit vectors, linked into a shared object that needs no library.

pub mod abi;
pub mod contract;
pub mod dot;
mod link;
mod map;
pub mod nest;
mod stream;
mod topk;
pub mod tuning;

use super::{Target, TargetError, Text};
use crate::kernel::abi::Abi;
use crate::kernel::verify::Verified;
use crate::kernel::{Body, KernelSpec};
use crate::llvm::{Emitter, Isa, Machine, Stage};
use abi::Work;
use inkwell::context::Context;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use tuning::{LEVELS, NATIVE};

/// A CPU target: `cpu:v2`, `cpu:v3`, `cpu:v4` or `cpu:native`.
#[derive(Clone, Debug)]
pub struct Cpu {
    name: String,
    triple: String,
    cpu: String,
    features: Vec<String>,
}

impl Cpu {
    /// The target with this name; `cpu` is `cpu:native`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(name: &str) -> Result<Cpu, TargetError> {
        let level = name.strip_prefix("cpu:").unwrap_or(if name == "cpu" { "native" } else { name });
        let triple = "x86_64-unknown-linux-gnu".to_string();
        if level == "native" {
            let (_, cpu, features) = Machine::host();
            let has = |f: &&&str| features.split(',').any(|h| h.strip_prefix('+') == Some(**f));
            let features = NATIVE.iter().filter(has).map(|f| f.to_string()).collect();
            return Ok(Cpu { name: "cpu:native".into(), triple, cpu, features });
        }
        let found = LEVELS.iter().find(|l| l.name == level).ok_or_else(|| TargetError::Unknown {
            found: name.into(),
            known: "cpu:native, cpu:v2, cpu:v3, cpu:v4".into(),
        })?;
        let features = found.features.iter().map(|f| f.to_string()).collect();
        Ok(Cpu { name: format!("cpu:{level}"), triple, cpu: found.cpu.into(), features })
    }

    /// Whether the code may use a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// What the code may use, as the processor's vendor names it.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    fn isa(&self) -> Isa {
        Isa { fma: self.has("fma"), f16: self.has("f16c"), space: 0 }
    }

    fn multiplier(&self) -> contract::Multiplier {
        contract::Multiplier { dot: dot::Dot::best(|f| self.has(f)), tile: tuning::tile(|f| self.has(f)) }
    }

    fn machine(&self) -> Result<Machine, String> {
        // 512-bit registers are used where they exist; some processors' tuning would prefer halves.
        let mut features: Vec<String> = self.features.iter().map(|f| format!("+{f}")).collect();
        features.push("-prefer-256-bit".into());
        // The processor's name is for scheduling only: what it has beyond the list must not be used.
        let cpu = if self.name == "cpu:native" { "x86-64" } else { &self.cpu };
        Machine::new(&self.triple, cpu, &features.join(","))
    }

    /// Emits all kernels into one module and gives its code in one form.
    fn compile(&self, kernels: &[Verified<KernelSpec>], stage: Stage) -> Result<(Vec<KernelInfo>, Vec<u8>), String> {
        let context = Context::create();
        let emitter = Emitter::new(&context, "kernels", self.isa());
        let mut infos: Vec<KernelInfo> = Vec::with_capacity(kernels.len());
        for (n, kernel) in kernels.iter().enumerate() {
            let known = kernels[..n].iter().position(|k| alike(k, kernel));
            infos.push(known.map_or_else(|| self.kernel(&emitter, kernel), |k| infos[k].clone()));
        }
        let machine = self.machine()?;
        machine.optimise(&emitter)?;
        Ok((infos, machine.emit(&emitter, stage)?))
    }

    fn kernel(&self, emitter: &Emitter, spec: &KernelSpec) -> KernelInfo {
        let work: Work = abi::kernel(emitter, spec, |entry| match &spec.body {
            Body::Map { axes, stores } => map::emit(entry, axes, stores),
            Body::Contract(c) => contract::emit(entry, c, self.multiplier()),
            Body::Stream(s) => stream::emit(entry, s),
            Body::TopK(t) => topk::emit(entry, t),
        });
        Abi::of(spec).info(spec, work.items, work.scratch, 1)
    }

    fn llvm(&self, message: String) -> TargetError {
        TargetError::Llvm { target: self.name.clone(), message }
    }
}

/// Whether two kernels are one for a processor, which takes tokens as they come: they differ by their role alone.
fn alike(a: &KernelSpec, b: &KernelSpec) -> bool {
    a.role != b.role && a.axes == b.axes && a.operands == b.operands && a.exprs == b.exprs && a.body == b.body
}

impl Target for Cpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn emit(&self, kernels: &[Verified<KernelSpec>]) -> Result<TargetCode, TargetError> {
        let (infos, object) = self.compile(kernels, Stage::Object).map_err(|m| self.llvm(m))?;
        let code =
            link::shared_object(&object).map_err(|message| TargetError::Link { target: self.name.clone(), message })?;
        Ok(TargetCode { target: self.name.clone(), features: self.features.clone(), kernels: infos, code })
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
