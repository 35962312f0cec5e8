//! The simulator as a device: PTX executed on the processor, every access checked. Slow, and for machines without a GPU.
//!
//! Memory starts as zeros that count as written, as the other devices promise, so that what the simulator calls never
//! written is shared memory only.

use super::gpu::{choose_target, geometry};
use super::{Bytes, Calls, Device, Memory, Slab};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Kernel, Launch, Memory as Global, Program};

/// The compute capability that is simulated.
const CAPABILITY: (i32, i32) = (9, 0);
const NAME: &str = "the simulator";

/// The simulator with an artifact's code on it.
pub struct Sim {
    target: TargetCode,
    kernels: Vec<Kernel>,
    global: Global,
    memory: Slab<Allocation>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Allocation {
    start: u64,
    length: u64,
}

impl Allocation {
    /// # Panics
    /// When the range is not inside.
    fn at(&self, offset: u64, bytes: u64) -> u64 {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.length), "device memory is used past its end");
        self.start + offset
    }
}

/// Bytes of a weight, wherever they are.
struct Held(Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Sim {
    /// Reads the best target's PTX.
    ///
    /// # Errors
    /// As [`super::open`]; an instruction that the simulator does not know is [`RunCode::Code`] with its line.
    pub fn open(targets: &[TargetCode]) -> Result<Sim, RunError> {
        let chosen = choose_target(targets, CAPABILITY, NAME)?;
        let refused = |what: &dyn std::fmt::Display| RunError::new(RunCode::Code, &chosen.target, what);
        let text = std::str::from_utf8(&chosen.code).map_err(|e| refused(&e))?;
        let mut global = Global::new();
        let module = Module::parse(text).map_err(|e| refused(&e))?;
        let program = Program::load(module, &mut global).map_err(|e| refused(&e))?;
        let kernel = |info: &KernelInfo| program.kernel(&info.symbol).map_err(|e| refused(&e));
        let kernels = chosen.kernels.iter().map(kernel).collect::<Result<_, _>>()?;
        let target = TargetCode { code: Vec::new(), ..chosen.clone() };
        Ok(Sim { target, kernels, global, memory: Slab::new(), counters: Counters::default() })
    }

    /// What all launches did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Device for Sim {
    fn describe(&self) -> String {
        format!("{} on {NAME}", self.target.target)
    }

    fn kernels(&self) -> &[KernelInfo] {
        &self.target.kernels
    }

    fn free_memory(&self) -> u64 {
        super::cpu::available_memory()
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        let mut zeros = Vec::new();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if zeros.try_reserve_exact(length).is_err() {
            return Err(RunError::new(RunCode::Memory, NAME, format_args!("{bytes} bytes asked for")));
        }
        zeros.resize(length, 0);
        let start = self.global.upload("a buffer", zeros);
        Ok(self.memory.insert(Allocation { start, length: bytes }))
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        let length = bytes.len() as u64;
        let start = self.global.constant("a weight", Box::new(Held(bytes)));
        Ok(self.memory.insert(Allocation { start, length }))
    }

    fn release(&mut self, memory: Memory) {
        let place = self.memory.remove(memory);
        self.global.free(place.start);
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        let target = self.memory.get(to).at(offset, bytes.len() as u64);
        let place = self.global.bytes_mut(target, bytes.len()).expect("memory from `allocate` is written");
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        let source = self.memory.get(from).at(offset, bytes.len() as u64);
        bytes.copy_from_slice(self.global.bytes(source, bytes.len()).expect("the range was checked"));
        Ok(())
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        let source = self.memory.get(from.0).at(from.1, bytes);
        let held = self.global.bytes(source, bytes as usize).expect("the range was checked").to_vec();
        self.write(to.0, to.1, &held)
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        for call in &calls.calls {
            let info = &self.target.kernels[call.kernel as usize];
            let Some(shape) = geometry(info, call.items)? else { continue };
            let kernel = &self.kernels[call.kernel as usize];
            let part = || format!("kernel `{}`", info.symbol);
            let pointers = calls.pointers[call.pointers.clone()].iter().map(|m| self.memory.get(*m).start);
            let dims = calls.dims[call.dims.clone()].iter().map(|d| *d as u64);
            let values: Vec<u64> = pointers.chain(dims).collect();
            let params = kernel.pack(&values).map_err(|e| RunError::new(RunCode::Code, part(), e))?;
            let launch =
                Launch { shared: shape.shared, ..Launch::new([shape.blocks, 1, 1], [shape.threads, 1, 1], params) };
            let counted = kernel.launch(&mut self.global, &launch);
            self.counters.add(&counted.map_err(|fault| RunError::new(RunCode::Device, part(), fault))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmc_artifact::plan::KernelInfo;

    const TWICE: &str = ".version 7.0 .target sm_80 .address_size 64
        .visible .entry twice(.param .u64 x, .param .u64 y) {
            .reg .b32 %r<3>; .reg .b64 %rd<5>; .reg .pred %p<2>;
            mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 4; mov.u32 %r1, %tid.x;
            setp.ne.u32 %p1, %r1, 0; @%p1 ret;
            ld.param.u64 %rd2, [x]; add.u64 %rd2, %rd2, %rd1; ld.global.u32 %r2, [%rd2]; add.u32 %r2, %r2, %r2;
            ld.param.u64 %rd3, [y]; add.u64 %rd3, %rd3, %rd1; st.global.u32 [%rd3], %r2; ret; }";

    fn open(text: &str) -> Result<Sim, RunError> {
        let kernel = KernelInfo {
            symbol: "twice".into(),
            operands: 2,
            tables: vec![],
            dims: vec![],
            items: vec![],
            scratch: 0,
            threads: 32,
        };
        let code = text.as_bytes().to_vec();
        Sim::open(&[TargetCode { target: "sm_80".into(), features: vec![], kernels: vec![kernel], code }])
    }

    #[test]
    fn kernels_run_and_their_faults_are_told() {
        let mut sim = open(TWICE).unwrap_or_else(|e| panic!("{e}"));
        let (x, y) = (sim.allocate(8).unwrap(), sim.allocate(8).unwrap());
        sim.write(x, 4, &21u32.to_le_bytes()).unwrap();
        let mut calls = Calls::default();
        calls.push(0, [x, y], [], 2);
        sim.run(&calls).unwrap_or_else(|e| panic!("{e}"));
        let mut out = [0; 8];
        sim.read(y, 0, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 0, 42, 0, 0, 0]);
        assert_eq!(sim.counters().global_written_bytes, 8);
        calls.push(0, [x, y], [], 3);
        let error = sim.run(&calls).unwrap_err();
        assert_eq!(error.code(), "E0811");
        assert!(error.to_string().contains("line 6, block (2, 0, 0), thread (0, 0, 0)"), "{error}");
    }

    #[test]
    fn code_that_it_does_not_know_is_refused() {
        let error = open(&TWICE.replace("add.u32", "frob.u32")).err().expect("no such instruction");
        assert_eq!(error.code(), "E0803");
        assert!(error.to_string().contains("6:"), "{error}");
    }
}
