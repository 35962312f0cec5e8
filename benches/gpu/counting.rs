//! The simulator as a device that notes what each launch did.

use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_ptx_sim::Counters;
use llmc_runtime::RunError;
use llmc_runtime::device::sim::Sim;
use llmc_runtime::device::{Bytes, Calls, Device, Memory};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What one launch did.
#[derive(Clone, Copy)]
pub struct Launched {
    /// Index into the plan's kernels.
    pub kernel: usize,
    /// Bytes of the weights among its operands.
    pub weights: u64,
    pub counters: Counters,
}

/// What was launched, for who gave the device away.
#[derive(Default)]
pub struct Log {
    /// Launches are passed over: those of a prompt, whose results change no count.
    idle: AtomicBool,
    launched: Mutex<Vec<Launched>>,
}

impl Log {
    pub fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// The launches so far, in order.
    pub fn take(&self) -> Vec<Launched> {
        std::mem::take(&mut self.launched.lock().expect("nobody panicked"))
    }
}

/// The simulator, launch by launch.
pub struct Counting {
    sim: Sim,
    /// Bytes of each imported piece: weights.
    weights: HashMap<Memory, u64>,
    log: Arc<Log>,
}

impl Counting {
    /// # Panics
    /// When the simulator refuses the code.
    pub fn open(code: TargetCode) -> (Counting, Arc<Log>) {
        let log = Arc::<Log>::default();
        let sim = Sim::open(&[code]).unwrap_or_else(|e| panic!("{e}"));
        (Counting { sim, weights: HashMap::new(), log: log.clone() }, log)
    }

    /// Runs one of the calls.
    fn one(&mut self, calls: &Calls, n: usize) -> Result<(), RunError> {
        let call = &calls.calls[n];
        let before = *self.sim.counters();
        self.sim.run(&Calls { calls: vec![call.clone()], ..calls.clone() })?;
        let counters = self.sim.counters().since(&before);
        let weights = calls.pointers[call.pointers.clone()].iter().filter_map(|m| self.weights.get(m)).sum();
        let launched = Launched { kernel: call.kernel as usize, weights, counters };
        self.log.launched.lock().expect("nobody panicked").push(launched);
        Ok(())
    }
}

impl Device for Counting {
    fn describe(&self) -> String {
        self.sim.describe()
    }

    fn kernels(&self) -> &[KernelInfo] {
        self.sim.kernels()
    }

    fn free_memory(&self) -> u64 {
        self.sim.free_memory()
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        self.sim.allocate(bytes)
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        let length = bytes.len() as u64;
        let memory = self.sim.import(bytes)?;
        self.weights.insert(memory, length);
        Ok(memory)
    }

    fn release(&mut self, memory: Memory) {
        self.weights.remove(&memory);
        self.sim.release(memory);
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.sim.write(to, offset, bytes)
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        self.sim.read(from, offset, bytes)
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        self.sim.copy(from, to, bytes)
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        if self.log.idle.load(Ordering::Relaxed) {
            return Ok(());
        }
        (0..calls.calls.len()).try_for_each(|n| self.one(calls, n))
    }
}
