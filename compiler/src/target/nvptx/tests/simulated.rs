//! Emitted PTX on the simulator, held to the interpreter.
//!
//! A kernel finds the operands and tables of a [`Memory`], each an allocation of exactly its bytes, so that one byte past
//! an end is a fault; operands that it does not write cannot be written. What the simulator reports is a failure as
//! a wrong value is.

use crate::kernel::KernelSpec;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::verify::Verified;
use crate::llvm::testing::difference;
use crate::target::Target;
use crate::target::nvptx::Nvptx;
use crate::target::nvptx::tuning::LEVELS;
use llmc_artifact::plan::KernelInfo;
use llmc_artifact::tensor::TensorMap;
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, Kernel, Launch, Memory as Global, Program, PtxError, Swizzle};

/// Kernels in the simulator.
pub(crate) struct Simulated {
    kernels: Vec<Loaded>,
    global: Global,
    /// Instructions of warps after which a launch is given up.
    pub limit: u64,
}

struct Loaded {
    kernel: Kernel,
    info: KernelInfo,
    /// Name of each operand, and whether it is written.
    operands: Vec<(String, bool)>,
}

impl Simulated {
    /// Loads PTX that was emitted for these kernels, whatever has happened to it since.
    ///
    /// # Errors
    /// Text that is no PTX, or an instruction that the simulator does not know.
    pub fn new(specs: &[Verified<KernelSpec>], infos: &[KernelInfo], text: &str) -> Result<Simulated, PtxError> {
        let mut global = Global::new();
        let program = Program::load(Module::parse(text)?, &mut global)?;
        let load = |(spec, info): (&Verified<KernelSpec>, &KernelInfo)| {
            let operands = spec.operands.iter().map(|o| (o.name.clone(), o.write)).collect();
            Ok(Loaded { kernel: program.kernel(&info.symbol)?, info: info.clone(), operands })
        };
        let kernels = specs.iter().zip(infos).map(load).collect::<Result<_, PtxError>>()?;
        Ok(Simulated { kernels, global, limit: 1 << 32 })
    }

    /// Runs every block of a kernel, its warps in turns that `seed` draws.
    ///
    /// # Errors
    /// The first thing that the kernel does wrong.
    pub fn run(&mut self, kernel: usize, memory: &mut Memory, seed: u64) -> Result<Counters, Box<Fault>> {
        let Loaded { kernel, info, operands } = &self.kernels[kernel];
        let global = &mut self.global;
        let mut values: Vec<u64> = Vec::new();
        for ((name, write), bytes) in operands.iter().zip(&memory.operands) {
            values.push(match write {
                true => global.upload(name, bytes.clone()),
                false => global.constant(name, Box::new(bytes.clone())),
            });
        }
        for table in &info.tables {
            let bytes: Vec<u8> = memory.tables[table].iter().flat_map(|x| x.to_le_bytes()).collect();
            values.push(global.constant(&format!("{table:?}"), Box::new(bytes)));
        }
        let lengths: Vec<u8> = info.dims.iter().flat_map(|d| memory.dim(*d).to_le_bytes()).collect();
        values.push(global.constant("lengths", Box::new(lengths)));
        let addresses = values.clone();
        // Where lengths decide, one block more than there are items: it must find nothing to do.
        let more = info.items.iter().any(|d| d.as_const().is_none()) as u64;
        let blocks = info.items.iter().map(|d| memory.dim(*d)).product::<u64>() + more;
        let words = values.iter().map(|v| v.to_le_bytes().to_vec());
        let place = |o: u32| (addresses[o as usize], memory.operands[o as usize].len() as u64);
        let maps = info.tensor_maps.iter().map(|map| described(map, place(map.operand)));
        let params: Vec<Vec<u8>> = words.chain(maps).collect();
        let params = kernel.pack_bytes(&params.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let params = params.expect("the kernel takes what its info says");
        let sizes = ([blocks as u32, 1, 1], [info.threads, 1, 1]);
        let limit = self.limit;
        let launch = Launch { shared: info.scratch as u32, seed, limit, ..Launch::new(sizes.0, sizes.1, params) };
        // A launch of nothing is left out, as devices do.
        let result = if blocks == 0 { Ok(Counters::default()) } else { kernel.launch(global, &launch) };
        for (bytes, address) in memory.operands.iter_mut().zip(&addresses) {
            let found = global.bytes(*address, bytes.len()).expect("an allocation of this size");
            bytes.copy_from_slice(found);
        }
        addresses.iter().for_each(|a| global.free(*a));
        result
    }
}

/// The simulator's description of an operand of so many bytes from an address on.
fn described(map: &TensorMap, (address, bytes): (u64, u64)) -> Vec<u8> {
    let described = llmc_ptx_sim::TensorMap {
        address,
        element: map.element as u8,
        sizes: map.lengths(bytes),
        strides: map.strides(),
        tile: map.tile.iter().map(|n| *n as u16).collect(),
        swizzle: Swizzle::of_span(map.turns.span()),
    };
    described.encode().unwrap_or_else(|e| panic!("{e}")).to_vec()
}

/// The same kernels under names that differ.
pub(crate) fn numbered(cases: &[(Verified<KernelSpec>, Memory)]) -> Vec<Verified<KernelSpec>> {
    cases.iter().enumerate().map(|(i, (k, _))| super::named(k.clone(), format!("{}_{i}", k.name))).collect()
}

/// Compiles kernels for every level, runs each on its memory and holds what it writes to the interpreter, within
/// `tolerance` of the largest magnitude. The result is what the first level's kernels counted.
pub(crate) fn simulate(cases: &[(Verified<KernelSpec>, Memory)], tolerance: f64) -> Vec<Counters> {
    let specs = numbered(cases);
    let wanted: Vec<Memory> = cases
        .iter()
        .map(|(spec, memory)| {
            let mut want = memory.clone();
            interpret(spec, &mut want);
            want
        })
        .collect();
    let (mut counted, mut seen) = (Vec::new(), Vec::new());
    for level in LEVELS {
        let target = Nvptx::new(level.name).expect("a level");
        let code = target.emit(&specs).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8(code.code).expect("PTX is text");
        // Code that differs in its head alone has run.
        let body = text.lines().filter(|l| ![".version", ".target", "//"].iter().any(|h| l.starts_with(h)));
        let body = body.collect::<Vec<_>>().join("\n");
        if seen.contains(&body) {
            continue;
        }
        let mut simulated = Simulated::new(&specs, &code.kernels, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let run = cases.iter().zip(&wanted).enumerate().map(|(i, ((_, memory), want))| {
            let place = format!("{} on the simulator, {}", specs[i].name, level.name);
            let mut got = memory.clone();
            let counters = simulated.run(i, &mut got, 0).unwrap_or_else(|fault| panic!("{place}: {fault}"));
            if let Some(what) = differs(&specs[i], &got, want, tolerance) {
                panic!("{place}, {what}");
            }
            counters
        });
        let run: Vec<_> = run.collect();
        if seen.is_empty() {
            counted = run;
        }
        seen.push(body);
    }
    counted
}

/// The first element of what a kernel writes that is not near the wanted one.
pub(crate) fn differs(spec: &KernelSpec, got: &Memory, want: &Memory, tolerance: f64) -> Option<String> {
    let mut written = spec.operands.iter().enumerate().filter(|(_, o)| o.write);
    written.find_map(|(i, o)| {
        let what = difference(o.format, &got.operands[i], &want.operands[i], tolerance)?;
        Some(format!("operand `{}`: {what}", o.name))
    })
}
