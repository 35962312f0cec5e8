//! Runs compiled kernels in tests, on the memory that the interpreter takes.

use crate::kernel::KernelSpec;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::verify::Verified;
use crate::target::Target;
use crate::target::cpu::Cpu;
use llmc_artifact::plan::{KernelInfo, Storage, TargetCode};
use llmc_artifact::{Format, Type};
use std::io::Write;

pub mod ptxas;
pub mod sim;

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    /// A sequence.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits (xorshift64*).
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in `-1..1`.
    pub fn real(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `count` elements of a format: whole random blocks with small scales.
    pub fn elements(&mut self, format: Format, count: usize) -> Vec<u8> {
        let mut out = self.noise(format, count);
        if format == Format::Act8 {
            // The sum that a block holds is that of its quants.
            for block in out.chunks_exact_mut(format.block_bytes()) {
                let scale = f32::from_le_bytes(block[..4].try_into().expect("four bytes"));
                let sum: i32 = block[8..].iter().map(|q| *q as i8 as i32).sum();
                block[4..8].copy_from_slice(&(scale * sum as f32).to_le_bytes());
            }
        }
        out
    }

    fn noise(&mut self, format: Format, count: usize) -> Vec<u8> {
        let spec = format.spec();
        let mut out = Vec::new();
        for _ in 0..count / spec.block {
            for field in spec.fields {
                let one = |d: llmc_artifact::DType, x: f32| match d {
                    llmc_artifact::DType::F32 => x.to_le_bytes().to_vec(),
                    llmc_artifact::DType::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                    llmc_artifact::DType::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
                    llmc_artifact::DType::I32 => ((x * 100.0) as i32).to_le_bytes().to_vec(),
                    llmc_artifact::DType::I8 | llmc_artifact::DType::U8 => vec![(x * 127.0) as i8 as u8],
                };
                let bytes = field.lanes.bytes(field.count);
                match field.lanes {
                    llmc_artifact::format::Lanes::Plain(d) => {
                        for _ in 0..field.count {
                            let scale = if field.count == 1 && spec.block > 1 { 0.05 } else { 1.0 };
                            out.extend(one(d, self.real() * scale));
                        }
                    }
                    _ => out.extend((0..bytes).map(|_| self.bits() as u8)),
                }
            }
        }
        out
    }
}

/// A compiled kernel, loaded into this process.
pub struct Loaded {
    library: libloading::Library,
    info: KernelInfo,
    _file: tempfile::NamedTempFile,
}

/// Every CPU target that this machine can run.
pub fn runnable() -> Vec<Cpu> {
    let native = Cpu::new("cpu:native").expect("the host is a target");
    let levels = ["cpu:v2", "cpu:v3", "cpu:v4"].map(|n| Cpu::new(n).expect("a level"));
    let fits = levels.into_iter().filter(|l| l.features().iter().all(|f| native.has(f)));
    fits.chain([native.clone()]).collect()
}

impl Loaded {
    /// Compiles and loads one kernel.
    pub fn new(target: &Cpu, spec: &Verified<KernelSpec>) -> Loaded {
        let code = target.emit(std::slice::from_ref(spec)).unwrap_or_else(|e| panic!("{}: {e}", spec.name));
        Loaded::of(&code, 0)
    }

    /// Loads one kernel of emitted code.
    pub fn of(code: &TargetCode, kernel: usize) -> Loaded {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&code.code).expect("room for a kernel");
        // SAFETY: the object was linked a moment ago from code without initialisers.
        let library = unsafe { libloading::Library::new(file.path()) }.expect("a shared object");
        Loaded { library, info: code.kernels[kernel].clone(), _file: file }
    }

    /// What the kernel says about itself.
    pub fn info(&self) -> &KernelInfo {
        &self.info
    }

    /// Runs all work items, cut at `cuts`.
    pub fn run(&self, memory: &mut Memory, cuts: &[i64]) {
        let mut launch = Launch::new(&self.info, memory);
        let mut bounds: Vec<i64> = cuts.iter().copied().filter(|c| *c < launch.items).collect();
        bounds.insert(0, 0);
        bounds.push(launch.items);
        for pair in bounds.windows(2) {
            self.call(&mut launch, pair[0], pair[1]);
        }
        launch.check_guards(memory);
    }

    fn call(&self, launch: &mut Launch, begin: i64, end: i64) {
        type Kernel = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, *mut u8);
        let scratch = launch.scratch.pointer();
        // SAFETY: the symbol has this signature by construction; operands, tables, dims and scratch are as large as
        // the spec says, which the caller built them for.
        unsafe {
            let f: libloading::Symbol<Kernel> = self.library.get(self.info.symbol.as_bytes()).expect("the symbol");
            f(launch.pointers.as_ptr(), launch.dims.as_ptr(), begin, end, scratch);
        }
    }
}

/// Aligned memory between bytes that must stay as they are.
struct Guarded {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Guarded {
    const GUARD: usize = 256;

    fn new(content: &[u8]) -> Guarded {
        let mut bytes = vec![0xa5u8; content.len() + 2 * Guarded::GUARD + 64];
        let start = Guarded::GUARD + bytes[Guarded::GUARD..].as_ptr().align_offset(64);
        bytes[start..start + content.len()].copy_from_slice(content);
        Guarded { bytes, start, length: content.len() }
    }

    fn pointer(&mut self) -> *mut u8 {
        self.bytes[self.start..].as_mut_ptr()
    }

    fn content(&self) -> &[u8] {
        let end = self.start + self.length;
        let around = self.bytes[..self.start].iter().chain(&self.bytes[end..]);
        assert!(around.copied().all(|b| b == 0xa5), "the kernel wrote outside an operand");
        &self.bytes[self.start..end]
    }
}

/// What one launch passes to a kernel.
struct Launch {
    operands: Vec<Guarded>,
    _tables: Vec<Vec<i32>>,
    pointers: Vec<*mut u8>,
    dims: Vec<i64>,
    scratch: Guarded,
    items: i64,
}

impl Launch {
    fn new(info: &KernelInfo, memory: &Memory) -> Launch {
        let mut operands: Vec<_> = memory.operands.iter().map(|b| Guarded::new(b)).collect();
        let mut tables: Vec<_> = info.tables.iter().map(|t| memory.tables[t].clone()).collect();
        let mut pointers: Vec<*mut u8> = operands.iter_mut().map(Guarded::pointer).collect();
        pointers.extend(tables.iter_mut().map(|t| t.as_mut_ptr() as *mut u8));
        let dims = info.dims.iter().map(|d| memory.dim(*d) as i64).collect();
        let items = info.items.iter().map(|d| memory.dim(*d) as i64).product();
        let scratch = Guarded::new(&vec![0xff; info.scratch as usize]);
        Launch { operands, _tables: tables, pointers, dims, scratch, items }
    }

    fn check_guards(&self, memory: &mut Memory) {
        for (from, to) in self.operands.iter().zip(&mut memory.operands) {
            to.copy_from_slice(from.content());
        }
        self.scratch.content();
    }
}

/// Compiles a kernel for every target that runs here, runs it and holds it to the interpreter: results within
/// `tolerance` of the largest magnitude, and the same bits however the work is cut.
pub fn check(spec: &Verified<KernelSpec>, memory: &Memory, tolerance: f64) {
    check_all(spec, std::slice::from_ref(memory), tolerance);
}

/// [`check`] on several memories.
pub fn check_all(spec: &Verified<KernelSpec>, memories: &[Memory], tolerance: f64) {
    let wanted: Vec<Memory> = memories
        .iter()
        .map(|m| {
            let mut want = m.clone();
            interpret(spec, &mut want);
            want
        })
        .collect();
    for target in runnable() {
        let loaded = Loaded::new(&target, spec);
        for (memory, want) in memories.iter().zip(&wanted) {
            let place = format!("{} on {}", spec.name, target.name());
            check_run(spec, &loaded, memory, want, tolerance, &place);
        }
    }
}

/// [`check`] on several kernels of different names, compiled together.
pub fn check_kernels(cases: &[(Verified<KernelSpec>, Memory)], tolerance: f64) {
    let specs: Vec<_> = cases.iter().map(|(spec, _)| spec.clone()).collect();
    for target in runnable() {
        let code = target.emit(&specs).unwrap_or_else(|e| panic!("{}: {e}", target.name()));
        for (i, (spec, memory)) in cases.iter().enumerate() {
            let mut want = memory.clone();
            interpret(spec, &mut want);
            let place = format!("{} on {}", spec.name, target.name());
            check_run(spec, &Loaded::of(&code, i), memory, &want, tolerance, &place);
        }
    }
}

fn check_run(spec: &KernelSpec, loaded: &Loaded, memory: &Memory, want: &Memory, tolerance: f64, place: &str) {
    let (mut got, mut cut) = (memory.clone(), memory.clone());
    loaded.run(&mut got, &[]);
    loaded.run(&mut cut, &[1, 2, 5, 6, 11]);
    assert_eq!(got.operands, cut.operands, "{place}: bits depend on the cut");
    for (i, o) in spec.operands.iter().enumerate().filter(|(_, o)| o.write) {
        let place = format!("{place}, operand `{}`", o.name);
        assert!(
            matches!(o.storage, Storage::Dense { .. } | Storage::Paged { .. } | Storage::Workspace { .. }),
            "{place}: a written panel"
        );
        compare(&place, o.format, &got.operands[i], &want.operands[i], tolerance);
    }
}

/// The elements of dense bytes.
pub fn decode(format: Format, bytes: &[u8]) -> Vec<f64> {
    let spec = format.spec();
    let blocks = bytes.chunks_exact(format.block_bytes());
    blocks.flat_map(|b| (0..spec.block).map(|i| spec.decode(b, i) as f64).collect::<Vec<_>>()).collect()
}

/// Compares dense bytes element by element.
pub fn compare(place: &str, format: Format, got: &[u8], want: &[u8], tolerance: f64) {
    if let Some(what) = difference(format, got, want, tolerance) {
        panic!("{place}: {what}");
    }
}

/// The first element of dense bytes that is not near the wanted one.
pub fn difference(format: Format, got: &[u8], want: &[u8], tolerance: f64) -> Option<String> {
    let (got, want) = (decode(format, got), decode(format, want));
    let finite = |x: &&f64| x.is_finite();
    let scale = want.iter().filter(finite).fold(0f64, |m, x| m.max(x.abs()));
    // A rounding to a step of the format may fall either way.
    let step = match format {
        Format::F16 => 1e-3,
        Format::BF16 => 8e-3,
        _ if format.is_quantised() => 1.01 / 127.0,
        _ => 0.0,
    };
    let far = |(g, w): &(&f64, &f64)| {
        let near =
            (*g - *w).abs() <= tolerance * scale.max(1e-30) + step * w.abs().max(if step > 5e-3 { scale } else { 0.0 });
        !(near || g == w || g.is_nan() && w.is_nan())
    };
    let found = got.iter().zip(&want).enumerate().find(|(_, pair)| far(pair));
    found.map(|(i, (g, w))| format!("element {i} is {g}, not {w} (largest {scale})"))
}

/// The type that an operand's elements load as.
pub fn type_of(format: Format) -> Type {
    if format == Format::I32 { Type::Int } else { Type::Real }
}
