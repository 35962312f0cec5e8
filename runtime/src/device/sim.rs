//! The simulator as a device: PTX executed on the processor, every access checked. Slow, and for machines without a GPU.
//!
//! Memory starts as zeros that count as written, as the other devices promise, so that what the simulator calls never
//! written is shared memory only.

use super::gpu::{Counts, Place, Program, Replays, Runs, choose_target};
use super::{Bytes, Calls, Device, Memory, Slab};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_artifact::tensor::TensorMap;
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{self as ptx_sim, Counters, Kernel, Launch, Memory as Global, Swizzle};
use std::sync::Arc;

/// The compute capability that is simulated.
const CAPABILITY: (i32, i32) = (9, 0);
const NAME: &str = "the simulator";

/// The simulator with an artifact's code on it.
pub struct Sim {
    target: TargetCode,
    kernels: Vec<Kernel>,
    global: Global,
    memory: Slab<Allocation>,
    /// Where the lengths of the launches lie, and how many fit.
    lengths: Option<Allocation>,
    replays: Option<Replays<Program>>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Allocation {
    start: u64,
    length: u64,
}

impl Allocation {
    fn place(&self) -> Place {
        Place { start: self.start, length: self.length }
    }

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
        let program = ptx_sim::Program::load(module, &mut global).map_err(|e| refused(&e))?;
        let kernel = |info: &KernelInfo| program.kernel(&info.symbol).map_err(|e| refused(&e));
        let kernels = chosen.kernels.iter().map(kernel).collect::<Result<_, _>>()?;
        let target = TargetCode { code: Vec::new(), ..chosen.clone() };
        let (memory, counters) = (Slab::new(), Counters::default());
        Ok(Sim { target, kernels, global, memory, lengths: None, replays: Some(Replays::new()), counters })
    }

    /// What all launches did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How launches were run, for as long as this lives.
    pub fn replays(&self) -> Arc<Counts> {
        self.replays.as_ref().expect("no step is running").counts()
    }

    fn zeros(&mut self, what: &str, length: u64) -> Result<Allocation, RunError> {
        let mut zeros = Vec::new();
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if zeros.try_reserve_exact(size).is_err() {
            return Err(RunError::new(RunCode::Memory, NAME, format_args!("{length} bytes asked for")));
        }
        zeros.resize(size, 0);
        Ok(Allocation { start: self.global.upload(what, zeros), length })
    }

    fn store(&mut self, place: u64, bytes: &[u8]) {
        self.global.bytes_mut(place, bytes.len()).expect("memory from `allocate` is written").copy_from_slice(bytes);
    }

    /// Puts the lengths of the launches where kernels read them.
    fn write_lengths(&mut self, dims: &[i64]) -> Result<u64, RunError> {
        let bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        let length = bytes.len() as u64;
        let fits = |place: &Allocation| place.length >= length;
        if !self.lengths.as_ref().is_some_and(fits) {
            self.lengths.take().into_iter().for_each(|old| self.global.free(old.start));
            self.lengths = Some(self.zeros("the lengths", length.next_power_of_two())?);
        }
        let place = self.lengths.expect("made above");
        self.store(place.start, &bytes);
        Ok(place.start)
    }
}

/// The simulator's description of a tensor in its memory.
fn described(map: &TensorMap, place: Place) -> Result<Vec<u8>, String> {
    let described = ptx_sim::TensorMap {
        address: place.start,
        element: map.element as u8,
        sizes: map.lengths(place.length),
        strides: map.strides(),
        tile: map.tile.iter().map(|n| *n as u16).collect(),
        swizzle: Swizzle::of_span(map.turns.span()),
    };
    Ok(described.encode()?.to_vec())
}

/// A recording is the program itself: what a GPU does with a captured graph, step by step.
impl Runs for Sim {
    type Recording = Program;

    fn launch(&mut self, program: &Program) -> Result<(), RunError> {
        for launch in &program.launches {
            let kernel = &self.kernels[launch.kernel as usize];
            let part = || format!("kernel `{}`", self.target.kernels[launch.kernel as usize].symbol);
            let words = program.params[launch.params.clone()].iter().map(|w| w.to_le_bytes().to_vec());
            let maps = &self.target.kernels[launch.kernel as usize].tensor_maps;
            let maps =
                maps.iter().zip(&program.places[launch.places.clone()]).map(|(map, place)| described(map, *place));
            let params = words.map(Ok).chain(maps).collect::<Result<Vec<_>, _>>();
            let params = params.and_then(|p| kernel.pack_bytes(&p.iter().map(Vec::as_slice).collect::<Vec<_>>()));
            let params = params.map_err(|e| RunError::new(RunCode::Code, part(), e))?;
            let shape = launch.shape;
            let grid = Launch::new([shape.blocks, 1, 1], [shape.threads, 1, 1], params);
            let counted = kernel.launch(&mut self.global, &Launch { shared: shape.shared, ..grid });
            self.counters.add(&counted.map_err(|fault| RunError::new(RunCode::Device, part(), fault))?);
        }
        Ok(())
    }

    fn record(&mut self, program: &Program) -> Result<Program, RunError> {
        Ok(program.clone())
    }

    fn replay(&mut self, recording: &Program) -> Result<(), RunError> {
        self.launch(recording)
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
        let place = self.zeros("a buffer", bytes)?;
        Ok(self.memory.insert(place))
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
        self.store(target, bytes);
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
        let lengths = self.write_lengths(&calls.dims)?;
        let program = Program::new(calls, &self.target.kernels, lengths, |m| self.memory.get(m).place())?;
        let mut replays = self.replays.take().expect("no step is running");
        let done = replays.run(self, program);
        self.replays = Some(replays);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmc_artifact::{Dim, SeqId};
    use std::sync::atomic::Ordering;

    const TWICE: &str = ".version 7.0 .target sm_80 .address_size 64
        .visible .entry twice(.param .u64 x, .param .u64 y, .param .u64 lengths) {
            .reg .b32 %r<3>; .reg .b64 %rd<5>; .reg .pred %p<2>;
            ld.param.u64 %rd1, [lengths]; ld.global.u32 %r2, [%rd1]; mov.u32 %r1, %ctaid.x;
            setp.ge.u32 %p1, %r1, %r2; @%p1 ret; mul.wide.u32 %rd1, %r1, 4; mov.u32 %r1, %tid.x;
            setp.ne.u32 %p1, %r1, 0; @%p1 ret;
            ld.param.u64 %rd2, [x]; add.u64 %rd2, %rd2, %rd1; ld.global.u32 %r2, [%rd2]; add.u32 %r2, %r2, %r2;
            ld.param.u64 %rd3, [y]; add.u64 %rd3, %rd3, %rd1; st.global.u32 [%rd3], %r2; ret; }";

    fn open(text: &str) -> Result<Sim, RunError> {
        let kernel = KernelInfo {
            symbol: "twice".into(),
            operands: 2,
            tables: vec![],
            dims: vec![Dim::Rows(SeqId(0))],
            items: vec![Dim::Rows(SeqId(0))],
            scratch: 0,
            threads: 32,
            tensor_maps: vec![],
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
        calls.push(0, [x, y], [2], 2);
        sim.run(&calls).unwrap_or_else(|e| panic!("{e}"));
        let mut out = [0; 8];
        sim.read(y, 0, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 0, 42, 0, 0, 0]);
        assert_eq!(sim.counters().global_written_bytes, 8);
        calls.push(0, [x, y], [3], 3);
        let error = sim.run(&calls).unwrap_err();
        assert_eq!(error.code(), "E0811");
        assert!(error.to_string().contains("line 7, block (2, 0, 0), thread (0, 0, 0)"), "{error}");
    }

    #[test]
    fn a_replay_reads_the_lengths_of_its_own_step() {
        let mut sim = open(TWICE).unwrap_or_else(|e| panic!("{e}"));
        let (x, y) = (sim.allocate(16).unwrap(), sim.allocate(16).unwrap());
        let ones: Vec<u8> = [1u32; 4].iter().flat_map(|n| n.to_le_bytes()).collect();
        sim.write(x, 0, &ones).unwrap();
        // Three items and four make a grid of four: the first step's last block must find nothing to do.
        for (rows, want) in [(3, [2, 2, 2, 0]), (4, [2, 2, 2, 2]), (3, [2, 2, 2, 0])] {
            sim.write(y, 0, &[0; 16]).unwrap();
            let mut calls = Calls::default();
            calls.push(0, [x, y], [rows], rows as u64);
            sim.run(&calls).unwrap_or_else(|e| panic!("{e}"));
            let mut out = [0; 16];
            sim.read(y, 0, &mut out).unwrap();
            assert_eq!(out.map(u32::from).chunks(4).map(|c| c[0]).collect::<Vec<_>>(), want);
        }
        let counts = sim.replays();
        assert_eq!(counts.recorded.load(Ordering::Relaxed), 1);
        assert_eq!(counts.replayed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn code_that_it_does_not_know_is_refused() {
        let error = open(&TWICE.replace("add.u32", "frob.u32")).err().expect("no such instruction");
        assert_eq!(error.code(), "E0803");
        assert!(error.to_string().contains("7:"), "{error}");
    }
}
