//! The processor as a device: a shared object loaded from memory, and threads that share each launch's work items.

use super::{Bytes, Calls, Device, Memory, Slab, features, target_names};
use crate::pool::{BarrierHandle, Pool};
use crate::run_error::{RunCode, RunError};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, memfd_create};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::io::Write;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kernel, as [`KernelInfo`] describes it.
type Kernel = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, *mut u8);

/// Prefix of the targets that this device runs.
const TARGET: &str = "cpu:";

/// Zeroed bytes of this process, aligned to 64. Large ones take real memory only where they are touched.
#[derive(Debug)]
pub struct HostBytes {
    start: NonNull<u8>,
    length: usize,
    block: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the bytes are owned, like a `Box<[u8]>`'s.
unsafe impl Send for HostBytes {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for HostBytes {}

impl HostBytes {
    const ALIGN: usize = 64;

    /// `length` zeros.
    ///
    /// # Errors
    /// [`RunCode::Memory`] when the system has no room.
    pub fn zeroed(length: u64) -> Result<HostBytes, RunError> {
        let refused =
            || RunError::new(RunCode::Memory, "memory of this machine", format_args!("{length} bytes asked for"));
        // Aligned by hand: only the allocator's own alignment gets pages that are zero without being touched.
        let padded = usize::try_from(length).ok().and_then(|n| n.checked_add(Self::ALIGN)).ok_or_else(refused)?;
        let layout = Layout::from_size_align(padded, 16).map_err(|_| refused())?;
        // SAFETY: the layout's size is at least ALIGN, so not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        let shift = block.as_ptr().align_offset(Self::ALIGN);
        // SAFETY: the shift is below ALIGN, which the block has beyond `length`.
        let start = unsafe { block.add(shift) };
        prefer_huge_pages(start, length as usize);
        Ok(HostBytes { start, length: length as usize, block, layout })
    }

    /// A copy of these bytes.
    ///
    /// # Errors
    /// [`RunCode::Memory`] when the system has no room.
    pub fn copy_of(bytes: &[u8]) -> Result<HostBytes, RunError> {
        let mut copy = HostBytes::zeroed(bytes.len() as u64)?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// Weights and caches are read from end to end: with huge pages the processor's prefetcher crosses 4 KiB bounds, and
/// fewer addresses are translated.
fn prefer_huge_pages(start: NonNull<u8>, length: usize) {
    const HUGE: usize = 2 << 20;
    let shift = start.as_ptr().align_offset(HUGE);
    if length < shift + HUGE {
        return;
    }
    // SAFETY: the range lies in the block, and the advice changes no byte. A refusal changes nothing at all.
    let _ = unsafe {
        rustix::mm::madvise(start.add(shift).as_ptr().cast(), length - shift, rustix::mm::Advice::LinuxHugepage)
    };
}

impl Deref for HostBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` lie in the block and were zeroed when it was made.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for HostBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the block is owned alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // SAFETY: the block came from the allocator with this layout.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

/// A shared object loaded from memory, and its kernels in order.
struct Code {
    kernels: Vec<Kernel>,
    // Dropped after everything that points into it. The loader knows a library by its path, and the path contains
    // the descriptor's number, so that stays open as long.
    _library: Library,
    _file: OwnedFd,
}

impl Code {
    fn load(target: &TargetCode) -> Result<Code, RunError> {
        let refused = |what: &dyn std::fmt::Display| {
            RunError::new(RunCode::Code, &target.target, what).help("build the artifact again on this machine")
        };
        let file = memfd_create("llmc", MemfdFlags::CLOEXEC).map_err(|e| refused(&e))?;
        let mut file = File::from(file);
        file.write_all(&target.code).map_err(|e| refused(&e))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: runs the object's initialisers. The artifact's code is a program that the user chose to run, and
        // its hash was verified; kernels have none.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| refused(&e))?;
        let mut kernels = Vec::with_capacity(target.kernels.len());
        for info in &target.kernels {
            // SAFETY: the compiler emits every symbol of the list with this signature; it is the ABI of a CPU kernel.
            let symbol = unsafe { library.get::<Kernel>(info.symbol.as_str()) }.map_err(|e| refused(&e))?;
            kernels.push(*symbol);
        }
        Ok(Code { kernels, _library: library, _file: file.into() })
    }
}

/// The processor.
pub struct Cpu {
    target: TargetCode,
    memory: Slab<Bytes>,
    scratch: Arc<Vec<HostBytes>>,
    // Before the code: its threads have ended when the code goes.
    pool: Pool,
    code: Code,
}

impl Cpu {
    /// Loads the best target that this processor can run.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open(targets: &[TargetCode], threads: Option<usize>) -> Result<Cpu, RunError> {
        let chosen = choose_target(targets)?;
        let code = Code::load(chosen)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = Pool::new(threads.unwrap_or(cores));
        let most = chosen.kernels.iter().map(|k| k.scratch).max().unwrap_or(0);
        let scratch: Result<Vec<_>, _> = (0..pool.workers()).map(|_| HostBytes::zeroed(most)).collect();
        let target = TargetCode { code: Vec::new(), ..chosen.clone() };
        Ok(Cpu { target, memory: Slab::new(), scratch: Arc::new(scratch?), pool, code })
    }

    fn owned(&mut self, memory: Memory) -> &mut HostBytes {
        match self.memory.get_mut(memory) {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(_) => panic!("device: imported memory is written to"),
        }
    }
}

/// Of the targets whose features the processor has, the one that uses most of them.
fn choose_target(targets: &[TargetCode]) -> Result<&TargetCode, RunError> {
    let mine: Vec<&TargetCode> = targets.iter().filter(|t| t.target.starts_with(TARGET)).collect();
    let runs = |t: &&&TargetCode| missing_features(t).is_empty();
    if let Some(best) = mine.iter().filter(runs).max_by_key(|t| t.features.len()) {
        return Ok(best);
    }
    let Some(nearest) = mine.iter().min_by_key(|t| missing_features(t).len()) else {
        return Err(RunError::new(RunCode::NoTarget, "cpu", target_names(targets))
            .expected("code for a `cpu:` target")
            .help("build the artifact with `--target cpu`"));
    };
    Err(RunError::new(RunCode::Features, &nearest.target, format_args!("no {}", missing_features(nearest).join(", ")))
        .expected("a processor with all that the code uses")
        .help("build the artifact with `--target cpu:v2` to run on any 64-bit processor"))
}

fn missing_features(target: &TargetCode) -> Vec<&str> {
    target.features.iter().map(String::as_str).filter(|f| features::has(f) != Some(true)).collect()
}

/// Bytes of the host's memory that could still be allocated, roughly.
pub(super) fn available_memory() -> u64 {
    let fields = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available =
        fields.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.strip_suffix("kB")?.trim().parse().ok());
    available.map_or(4 << 30, |kib: u64| kib << 10)
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("{}, {} threads", self.target.target, self.pool.workers())
    }

    fn kernels(&self) -> &[KernelInfo] {
        &self.target.kernels
    }

    fn free_memory(&self) -> u64 {
        available_memory()
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        Ok(self.memory.insert(Bytes::Owned(HostBytes::zeroed(bytes)?)))
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        Ok(self.memory.insert(bytes))
    }

    fn release(&mut self, memory: Memory) {
        self.memory.remove(memory);
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.owned(to)[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        bytes.copy_from_slice(&self.memory.get(from)[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        let (from_range, to_range) = (span(from.1, bytes), span(to.1, bytes));
        if from.0 == to.0 {
            self.owned(to.0).copy_within(from_range, to_range.start);
            return Ok(());
        }
        let source = self.memory.get(from.0)[from_range].as_ptr();
        let target = self.owned(to.0)[to_range].as_mut_ptr();
        // SAFETY: both ranges were checked by slicing, and different pieces of memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source, target, bytes as usize) };
        Ok(())
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        let launches = Launches {
            launches: calls
                .calls
                .iter()
                .map(|c| Launch {
                    kernel: self.code.kernels[c.kernel as usize],
                    pointers: c.pointers.start,
                    dims: c.dims.start,
                    items: c.items,
                    taken: AtomicU64::new(0),
                })
                .collect(),
            pointers: calls.pointers.iter().map(|m| address(self.memory.get(*m))).collect(),
            dims: calls.dims.clone(),
            scratch: self.scratch.clone(),
            barrier: self.pool.barrier(),
        };
        self.pool.run(Arc::new(move |worker| launches.work(worker)));
        Ok(())
    }
}

fn span(offset: u64, bytes: u64) -> Range<usize> {
    offset as usize..(offset + bytes) as usize
}

fn address(bytes: &Bytes) -> *mut u8 {
    match bytes {
        Bytes::Owned(b) => b.address(),
        Bytes::Mapped(b) => b.as_ptr().cast_mut(),
    }
}

/// A list of launches as the workers see it.
struct Launches {
    launches: Vec<Launch>,
    pointers: Vec<*mut u8>,
    dims: Vec<i64>,
    scratch: Arc<Vec<HostBytes>>,
    barrier: BarrierHandle,
}

struct Launch {
    kernel: Kernel,
    pointers: usize,
    dims: usize,
    items: u64,
    /// Work items that some worker has begun.
    taken: AtomicU64,
}

// SAFETY: the pointers are memory of the device, which is borrowed for as long as the job runs; which worker writes
// which element is the kernels' contract: different work items never write the same one.
unsafe impl Send for Launches {}
// SAFETY: as above.
unsafe impl Sync for Launches {}

impl Launches {
    fn work(&self, worker: usize) {
        for launch in &self.launches {
            while let Some(items) = launch.take(self.scratch.len() as u64) {
                // SAFETY: the kernel has the ABI of `KernelInfo`, by which the engine laid out pointers and dims, and
                // the plan sized what they point to. An artifact is a program; beyond that it is trusted.
                unsafe {
                    (launch.kernel)(
                        self.pointers.as_ptr().add(launch.pointers),
                        self.dims.as_ptr().add(launch.dims),
                        items.start as i64,
                        items.end as i64,
                        self.scratch[worker].address(),
                    );
                }
            }
            self.barrier.wait();
        }
    }
}

impl Launch {
    /// The next work items: a share of what remains, so that the last pieces are small and nobody waits long.
    fn take(&self, workers: u64) -> Option<Range<u64>> {
        let share = |left: u64| if workers == 1 { left } else { left.div_ceil(2 * workers) };
        let mut begin = self.taken.load(Ordering::Relaxed);
        while begin < self.items {
            let end = begin + share(self.items - begin);
            match self.taken.compare_exchange_weak(begin, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(begin..end),
                Err(now) => begin = now,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmc_artifact::Dim;
    use std::process::Command;

    const SOURCE: &str = r#"
        typedef long long i64;
        /* out[i] += dims[0] * in[i], and the number of calls' items is counted through scratch. */
        void axpy(unsigned char *const *p, const i64 *dims, i64 begin, i64 end, unsigned char *scratch) {
            const int *in = (const int *)p[0];
            int *out = (int *)p[1];
            i64 *count = (i64 *)scratch;
            for (i64 i = begin; i < end; i++) { out[i] += (int)dims[0] * in[i]; *count += 1; }
        }
        /* out[0] = sum of in: reads what all workers wrote in the launch before. */
        void sum(unsigned char *const *p, const i64 *dims, i64 begin, i64 end, unsigned char *scratch) {
            int total = 0;
            for (i64 i = 0; i < dims[0]; i++) total += ((const int *)p[0])[i];
            ((int *)p[1])[0] = total;
        }
    "#;

    fn kernel(symbol: &str) -> KernelInfo {
        KernelInfo {
            symbol: symbol.into(),
            operands: 2,
            tables: vec![],
            dims: vec![Dim::Const(0)],
            items: vec![Dim::Const(1)],
            scratch: 64,
            threads: 1,
            tensor_maps: vec![],
        }
    }

    /// What the compiler makes, made by the system's C compiler.
    fn target(symbols: &[&str]) -> TargetCode {
        let dir = tempfile::tempdir().unwrap();
        let (source, object) = (dir.path().join("k.c"), dir.path().join("k.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-nostdlib", "-o"]).args([&object, &source]);
        let made = cc.status().expect("a C compiler, which linking Rust needs too");
        assert!(made.success());
        TargetCode {
            target: "cpu:test".into(),
            features: vec!["sse2".into()],
            kernels: symbols.iter().map(|s| kernel(s)).collect(),
            code: std::fs::read(object).unwrap(),
        }
    }

    fn ints(bytes: &[u8]) -> Vec<i32> {
        bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn every_item_runs_once_and_launches_run_in_order() {
        let targets = [target(&["axpy", "sum"])];
        for threads in [1, 2, 5] {
            let mut cpu = Cpu::open(&targets, Some(threads)).unwrap();
            for n in [0u64, 1, 2, 7, 1000] {
                let bytes: Vec<u8> = (0..n as i32).flat_map(i32::to_le_bytes).collect();
                let input = cpu.import(Bytes::Owned(HostBytes::copy_of(&bytes).unwrap())).unwrap();
                let output = cpu.allocate(n * 4).unwrap();
                let total = cpu.allocate(4).unwrap();
                let mut calls = Calls::default();
                for _ in 0..20 {
                    calls.push(0, [input, output], [3], n);
                }
                calls.push(1, [output, total], [n as i64], 1);
                cpu.run(&calls).unwrap();
                let (mut out, mut sum) = (vec![0; n as usize * 4], [0; 4]);
                cpu.read(output, 0, &mut out).unwrap();
                cpu.read(total, 0, &mut sum).unwrap();
                assert_eq!(ints(&out), (0..n as i32).map(|i| 60 * i).collect::<Vec<_>>(), "{threads} threads");
                assert_eq!(ints(&sum), [60 * (n * n.saturating_sub(1) / 2) as i32], "{threads} threads");
                [input, output, total].into_iter().for_each(|m| cpu.release(m));
            }
            let counted: i64 = cpu.scratch.iter().map(|s| i64::from_le_bytes(s[..8].try_into().unwrap())).sum();
            assert_eq!(counted, 20 * (1 + 2 + 7 + 1000), "each worker has scratch memory of its own");
        }
    }

    #[test]
    fn two_libraries_do_not_become_one() {
        // The loader would give the first one again for a path that it knows.
        let first = Cpu::open(&[target(&["axpy"])], Some(1)).unwrap();
        drop(first);
        let one = Cpu::open(&[target(&["axpy"])], Some(1)).unwrap();
        let two = Cpu::open(&[target(&["sum"])], Some(1)).unwrap();
        assert_ne!(one.code.kernels[0] as usize, two.code.kernels[0] as usize);
    }

    #[test]
    fn memory_is_zeroed_aligned_and_copied() {
        let mut cpu = Cpu::open(&[target(&["sum"])], Some(1)).unwrap();
        let (a, b) = (cpu.allocate(100).unwrap(), cpu.allocate(100).unwrap());
        assert!((address(cpu.memory.get(a)) as usize).is_multiple_of(64));
        cpu.write(a, 10, b"hello").unwrap();
        cpu.copy((a, 10), (b, 50), 5).unwrap();
        cpu.copy((a, 10), (a, 90), 5).unwrap();
        let mut bytes = [1; 100];
        cpu.read(b, 0, &mut bytes).unwrap();
        assert_eq!((&bytes[50..55], bytes[..50].iter().any(|b| *b != 0)), (&b"hello"[..], false));
        cpu.read(a, 90, &mut bytes[..5]).unwrap();
        assert_eq!(&bytes[..5], b"hello");
        let error = cpu.allocate(1 << 62).unwrap_err();
        assert_eq!(error.code(), "E0805");
    }

    #[test]
    fn targets_are_chosen_by_what_the_processor_has() {
        let code = |name: &str, features: &[&str]| TargetCode {
            target: name.into(),
            features: features.iter().map(|f| f.to_string()).collect(),
            kernels: vec![],
            code: vec![],
        };
        let (plain, sse, magic) = (code("cpu:v1", &[]), code("cpu:v2", &["sse2"]), code("cpu:x", &["sse2", "magic"]));
        let all = [plain.clone(), magic.clone(), sse.clone()];
        assert_eq!(choose_target(&all).unwrap().target, "cpu:v2");
        let error = choose_target(std::slice::from_ref(&magic)).unwrap_err();
        assert_eq!(error.code(), "E0802");
        assert!(error.to_string().contains("found: no magic"), "{error}");
        let error = choose_target(&[code("sm_80", &[])]).unwrap_err();
        assert_eq!(error.code(), "E0801");
        assert!(error.to_string().contains("found: code for sm_80"), "{error}");
    }

    #[test]
    fn broken_code_is_refused() {
        let missing = target(&["axpy", "nowhere"]);
        let garbage = TargetCode { code: b"\x7fELF and no more".to_vec(), ..missing.clone() };
        for broken in [missing, garbage] {
            let error = Cpu::open(&[broken], Some(1)).err().expect("refused");
            assert_eq!(error.code(), "E0803", "{error}");
        }
    }
}
