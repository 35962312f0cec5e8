//! Every text of `models/` at tiny sizes on the simulator: the PTX of each of its kernels is executed with every check on,
//! prompts and generated tokens, and what comes out is the reference's.

use crate::support::tiny::{self, Tiny, error};
use crate::tiny::{F16_CACHE, PLAIN, QUANTISED, engine, interpreted, reference, run, stages};
use llmc::DeviceKind;
use llmc_artifact::Format;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_runtime::RunError;
use llmc_runtime::device::{self, Bytes, Calls, Device, Memory};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What the kernels of a GPU are emitted for.
const LEVELS: [&str; 2] = ["sm_80", "sm_90a"];

/// The simulator, and which kernels were launched on it.
struct Watched {
    sim: Box<dyn Device>,
    launched: Arc<Mutex<BTreeSet<u32>>>,
}

impl Device for Watched {
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
        self.sim.import(bytes)
    }

    fn release(&mut self, memory: Memory) {
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
        self.launched.lock().expect("one thread").extend(calls.calls.iter().map(|c| c.kernel));
        self.sim.run(calls)
    }
}

/// Code without the lines that say what it is for.
fn body(code: &TargetCode) -> String {
    let text = String::from_utf8_lossy(&code.code);
    let head = |l: &&str| [".version", ".target", "//"].iter().any(|h| l.starts_with(h));
    text.lines().filter(|l| !head(l)).collect::<Vec<_>>().join("\n")
}

/// Runs a model's PTX for every level; `check` is given the place and the outputs. Every kernel has to be launched, but those of
/// searches, which run only where the best tokens are asked for.
fn simulate(tiny: &Tiny, stages: &Stages, prompt: usize, count: usize, check: impl Fn(&str, &tiny::Outputs)) {
    let mut seen = Vec::new();
    for level in LEVELS {
        let code = stages.emit(level).unwrap_or_else(|e| panic!("{} for {level}: {e}", tiny.name));
        // What differs in its head alone has run.
        if seen.contains(&body(&code)) {
            continue;
        }
        seen.push(body(&code));
        let launched = Arc::new(Mutex::new(BTreeSet::new()));
        let names: Vec<String> = code.kernels.iter().map(|k| k.symbol.clone()).collect();
        let sim = device::open(DeviceKind::Sim, &[code]).unwrap_or_else(|e| panic!("{} for {level}: {e}", tiny.name));
        let engine = engine(stages, Box::new(Watched { sim, launched: launched.clone() }));
        let place = format!("{} for {level}", tiny.name);
        check(&place, &run(&engine, tiny, prompt, count));
        let launched = launched.lock().expect("one thread");
        let searches: BTreeSet<u32> = stages.plan.best.iter().flat_map(|b| &b.launches).map(|l| l.kernel).collect();
        let idle = |i: usize| !launched.contains(&(i as u32)) && !searches.contains(&(i as u32));
        let never: Vec<_> = names.iter().enumerate().filter(|(i, _)| idle(*i)).collect();
        assert!(never.is_empty(), "{place}: never launched: {never:?}");
    }
}

#[test]
fn simulated_kernels_give_the_reference_s_outputs() {
    for tiny in tiny::all() {
        let stages = stages(&tiny, Format::F32);
        let want = reference(&tiny, &stages, 7);
        simulate(&tiny, &stages, 5, 7, |place, found| {
            let error = error(found, &want);
            println!("{place}: {error:.2e}");
            assert!(error < PLAIN, "{place}: relative error {error}");
        });
    }
}

#[test]
fn simulated_kernels_read_weights_and_caches_of_sixteen_bits() {
    for (weights, cache, tolerance) in [(Format::BF16, Format::F32, PLAIN), (Format::F16, Format::F16, F16_CACHE)] {
        for tiny in ["llama", "bert", "t5"].map(|name| Tiny::named(name).stored_in(weights)) {
            let stages = stages(&tiny, cache);
            let want = reference(&tiny, &stages, 6);
            simulate(&tiny, &stages, 4, 6, |place, found| {
                let error = error(found, &want);
                println!("{place} in {weights}, caches in {cache}: {error:.2e}");
                assert!(error < tolerance, "{place} in {weights}, caches in {cache}: relative error {error}");
            });
        }
    }
}

/// Weights, activations and caches of the same 16 bits: at the level that has products of four warps, prompts are multiplied by them.
#[test]
fn simulated_kernels_multiply_sixteen_bits_by_groups_of_warps() {
    for (format, tolerance) in [(Format::F16, F16_CACHE), (Format::BF16, 8.0 * F16_CACHE)] {
        for tiny in ["llama", "bert"].map(|name| Tiny::named(name).stored_in(format)) {
            let options = Options { cache: format, activations: format, ..Options::default() };
            let stages = pipeline::run(tiny.model(), &options).unwrap_or_else(|e| panic!("{}: {e}", tiny.name));
            let code = stages.emit("sm_90a").unwrap_or_else(|e| panic!("{e}"));
            assert!(body(&code).contains("wgmma.mma_async"), "{} in {format}: no warpgroup multiplies", tiny.name);
            let want = reference(&tiny, &stages, 6);
            simulate(&tiny, &stages, 4, 6, |place, found| {
                let error = error(found, &want);
                println!("{place} in {format}: {error:.2e}");
                assert!(error < tolerance, "{place} in {format}: relative error {error}");
            });
        }
    }
}

#[test]
fn simulated_kernels_read_quantised_weights() {
    for format in [Format::Q8_0, Format::Q4_1] {
        for tiny in ["llama", "mixtral"].map(|name| Tiny::named(name).stored_in(format)) {
            let stages = stages(&tiny, Format::F32);
            let want = run(&interpreted(&stages), &tiny, 4, 5);
            simulate(&tiny, &stages, 4, 5, |place, found| {
                let error = error(found, &want);
                println!("{place} in {format}: {error:.2e}");
                assert!(error < QUANTISED, "{place} in {format}: relative error {error}");
            });
        }
    }
}
