//! An NVIDIA GPU as a device. The only file that knows CUDA; the driver's library is looked for when it is asked for.
//!
//! Everything goes through one stream: copies through pinned host memory, launches, and the replay of graphs. The host
//! waits where it reads. It has not met a GPU yet: what can be decided without one is in `gpu`, `modules` and `staging`,
//! which are tested.

use super::gpu::{Place, Program, Replays, Runs, choose_target};
use super::modules::{Linker, Modules};
use super::staging::{Piece, Staging, rounds};
use super::{Bytes, Calls, Device, Memory, Slab};
use crate::run_error::{RunCode, RunError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, sys};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_artifact::tensor::{TensorMap, Turns};
use std::ffi::{CStr, CString, c_void};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Dynamic shared memory that a kernel gets without asking for more.
const PLAIN_SHARED: u64 = 48 << 10;
/// Pinned bytes for the ways to the GPU and back.
const TO_GPU: usize = 8 << 20;
const FROM_GPU: usize = 4 << 20;
/// The first driver that describes tensors.
const DESCRIBES_TENSORS: i32 = 12_000;
/// Bytes for what the linker has to say.
const LINK_LOG: usize = 8 << 10;

/// A GPU with an artifact's code on it.
pub struct Cuda {
    target: TargetCode,
    name: String,
    functions: Vec<sys::CUfunction>,
    module: sys::CUmodule,
    memory: Slab<Allocation>,
    /// Where the lengths of the launches lie.
    lengths: Option<Allocation>,
    replays: Option<Replays<CudaGraph>>,
    to_gpu: Pinned,
    staging: Staging,
    /// For each side of the staging buffer, when the copies that left it are done.
    copied: [Option<CudaEvent>; 2],
    from_gpu: Pinned,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

// SAFETY: the handles belong to a context that any thread may use once it is bound there, and each operation binds it.
unsafe impl Send for Cuda {}

/// Host memory that the GPU copies from and to by itself.
struct Pinned {
    start: NonNull<u8>,
    length: usize,
}

impl Pinned {
    /// A context is bound to this thread.
    fn new(length: usize) -> Result<Pinned, RunError> {
        // SAFETY: allocates; the bytes are set below before anybody sees them.
        let start = unsafe { result::malloc_host(length, 0) }.map_err(|e| {
            RunError::new(
                RunCode::Memory,
                "pinned memory of this machine",
                format_args!("{length} bytes: {}", reason(e)),
            )
        })?;
        let start = NonNull::new(start.cast::<u8>()).expect("what was allocated has an address");
        // SAFETY: the range was just allocated.
        unsafe { start.write_bytes(0, length) };
        Ok(Pinned { start, length })
    }

    /// A part of it, and no more: the GPU may be at work on the others.
    fn part(&mut self, place: Range<usize>) -> &mut [u8] {
        assert!(place.start <= place.end && place.end <= self.length, "pinned memory is used past its end");
        // SAFETY: owned, initialised, inside, and borrowed alone. The GPU reads or writes a part only between a copy's
        // start and the wait after it, and nobody borrows it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(place.start), place.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` and freed once; its device has waited for its stream.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

#[derive(Debug)]
struct Allocation {
    start: sys::CUdeviceptr,
    length: u64,
}

impl Allocation {
    fn place(&self) -> Place {
        Place { start: self.start, length: self.length }
    }

    /// # Panics
    /// When the range is not inside.
    fn at(&self, offset: u64, bytes: u64) -> sys::CUdeviceptr {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.length), "device memory is used past its end");
        self.start + offset
    }
}

impl Cuda {
    /// Loads the best target that the GPU can run.
    ///
    /// # Errors
    /// As [`super::open`]; a machine without a driver or a GPU is [`RunCode::NoDevice`].
    pub fn open(targets: &[TargetCode], ordinal: usize) -> Result<Cuda, RunError> {
        let context = open_context(ordinal)?;
        let capability = context.compute_capability().map_err(|e| failed("compute capability", e))?;
        let name = context.name().map_err(|e| failed("name", e))?;
        let chosen = choose_target(targets, capability, &name)?;
        let stream = context.new_stream().map_err(|e| failed("stream", e))?;
        let driver = driver_version()?;
        if driver < DESCRIBES_TENSORS && chosen.kernels.iter().any(|k| !k.tensor_maps.is_empty()) {
            return Err(refused(
                &chosen.target,
                &format!("kernels that copy boxes of tensors, on CUDA driver {driver}"),
            ));
        }
        let (to_gpu, from_gpu) = (Pinned::new(TO_GPU)?, Pinned::new(FROM_GPU)?);
        let (major, minor) = capability;
        let mut cuda = Cuda {
            target: TargetCode { code: Vec::new(), ..chosen.clone() },
            module: load_module(chosen, &format!("{name} ({major}.{minor})"))?,
            name,
            functions: Vec::new(),
            memory: Slab::new(),
            lengths: None,
            replays: Some(Replays::new()),
            staging: Staging::new(to_gpu.length),
            to_gpu,
            copied: [None, None],
            from_gpu,
            stream,
            context,
        };
        for info in &chosen.kernels {
            let function = load_function(cuda.module, info)?; // on an error `cuda` is dropped, and unloads the module
            cuda.functions.push(function);
        }
        Ok(cuda)
    }

    fn bind(&self) -> Result<(), RunError> {
        self.context.bind_to_thread().map_err(|e| failed("context", e))
    }

    /// Puts the lengths of the launches where kernels read them, after everything that still reads the last ones.
    fn write_lengths(&mut self, dims: &[i64]) -> Result<u64, RunError> {
        let length = 8 * dims.len() as u64;
        if self.lengths.as_ref().is_none_or(|place| place.length < length) {
            let larger = self.place(length.next_power_of_two())?;
            if let Some(old) = self.lengths.replace(larger) {
                self.free(old)?;
            }
        }
        let place = self.lengths.as_ref().expect("made above").at(0, length);
        self.send(place, bytemuck::cast_slice(dims))?;
        Ok(place)
    }

    /// Copies bytes to the GPU. They are taken when this returns; the range is inside an allocation.
    fn send(&mut self, mut to: sys::CUdeviceptr, mut bytes: &[u8]) -> Result<(), RunError> {
        while !bytes.is_empty() {
            let Piece { place, turned } = self.staging.take(bytes.len());
            if let Some(side) = turned {
                self.copied[1 - side] = Some(self.stream.record_event(None).map_err(|e| failed("event", e))?);
                if let Some(earlier) = self.copied[side].take() {
                    earlier.synchronize().map_err(|e| failed("event", e))?;
                }
            }
            let (now, later) = bytes.split_at(place.len());
            let staged = self.to_gpu.part(place);
            staged.copy_from_slice(now);
            // SAFETY: the target range is inside its allocation, and the staged bytes stay until their side's event.
            unsafe { result::memcpy_htod_async(to, staged, self.stream.cu_stream()) }
                .map_err(|e| failed("write", e))?;
            (to, bytes) = (to + now.len() as u64, later);
        }
        Ok(())
    }

    /// Copies from the GPU, waiting once for as much as fits the pinned memory. The ranges are inside allocations.
    fn fetch(&mut self, pieces: &mut [(sys::CUdeviceptr, &mut [u8])]) -> Result<(), RunError> {
        let lengths: Vec<usize> = pieces.iter().map(|(_, bytes)| bytes.len()).collect();
        for round in rounds(&lengths, self.from_gpu.length) {
            for part in &round {
                let from = pieces[part.piece].0 + part.at as u64;
                let through = self.from_gpu.part(part.place.clone());
                // SAFETY: the source range is inside its allocation; nobody looks before the stream was waited for.
                unsafe { result::memcpy_dtoh_async(through, from, self.stream.cu_stream()) }
                    .map_err(|e| failed("read", e))?;
            }
            self.stream.synchronize().map_err(|e| failed("read", e))?;
            for part in round {
                let to = &mut pieces[part.piece].1[part.at..][..part.place.len()];
                to.copy_from_slice(self.from_gpu.part(part.place));
            }
        }
        Ok(())
    }

    /// Gives memory back once everything that was launched is done with it.
    fn free(&mut self, place: Allocation) -> Result<(), RunError> {
        self.bind()?;
        let done = self.stream.synchronize();
        // SAFETY: allocated by `place` and given up by its owner, so freed once; nothing runs any more.
        done.and(unsafe { result::free_sync(place.start) }).map_err(|e| failed("free", e))
    }

    fn place(&mut self, length: u64) -> Result<Allocation, RunError> {
        self.bind()?;
        // SAFETY: allocates; the bytes are set before anybody sees them.
        let start = unsafe { result::malloc_sync(length.max(1) as usize) }.map_err(|e| {
            RunError::new(RunCode::Memory, &self.name, format_args!("{length} bytes asked for ({})", reason(e)))
                .help("shorten the sequences, or free memory of the GPU")
        })?;
        Ok(Allocation { start, length })
    }
}

/// Whether the driver and this GPU are there.
pub fn check(ordinal: usize) -> Result<(), RunError> {
    open_context(ordinal).map(drop)
}

fn open_context(ordinal: usize) -> Result<Arc<CudaContext>, RunError> {
    let absent = |what: &dyn std::fmt::Display| {
        RunError::new(RunCode::NoDevice, "cuda", what)
            .expected("an NVIDIA GPU and its driver")
            .help("run with `--device cpu`")
    };
    // SAFETY: looks for the driver's library and runs its initialisers, as any use of it would.
    if !unsafe { sys::is_culib_present() } {
        return Err(absent(&"no CUDA driver (libcuda) on this machine"));
    }
    result::init().map_err(|e| absent(&reason(e)))?;
    let count = CudaContext::device_count().map_err(|e| absent(&reason(e)))?;
    if ordinal >= count as usize {
        return Err(absent(&format!("GPU {ordinal} asked for, {count} there")));
    }
    CudaContext::new(ordinal).map_err(|e| absent(&reason(e)))
}

/// The driver's own translator of PTX.
struct Driver<'a> {
    identity: String,
    target: &'a str,
}

impl Linker for Driver<'_> {
    type Error = RunError;

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn link(&mut self, ptx: &[u8]) -> Result<Vec<u8>, RunError> {
        let text = CString::new(ptx).map_err(|_| refused(self.target, &"PTX with a zero byte in it"))?;
        let mut log = vec![0u8; LINK_LOG];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LINK_LOG as *mut c_void];
        let mut state = std::ptr::null_mut();
        let count = options.len() as u32;
        // SAFETY: as many options as values; the log outlives the linker's state, which is destroyed below.
        unsafe { sys::cuLinkCreate_v2(count, options.as_mut_ptr(), values.as_mut_ptr(), &mut state) }
            .result()
            .map_err(|e| refused(self.target, &reason(e)))?;
        // SAFETY: the state was made above.
        let code = unsafe { link(state, &text) };
        // SAFETY: made above, destroyed once; the code was copied out of it.
        let _ = unsafe { sys::cuLinkDestroy(state) };
        code.map_err(|e| {
            let end = log.iter().position(|b| *b == 0).unwrap_or(LINK_LOG);
            let said = String::from_utf8_lossy(&log[..end]);
            refused(self.target, &format!("{}: {}", reason(e), said.trim()))
        })
    }
}

/// # Safety
/// The state is a linker's.
unsafe fn link(state: sys::CUlinkState, ptx: &CStr) -> Result<Vec<u8>, DriverError> {
    let bytes = ptx.to_bytes_with_nul();
    let (mut code, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: the text ends with its zero byte and outlives the call, which reads it and takes no options. The code is
    // the state's, as long as it says, and copied before the state goes.
    unsafe {
        let (kind, data) = (sys::CUjitInputType::CU_JIT_INPUT_PTX, bytes.as_ptr().cast_mut().cast::<c_void>());
        let none = (std::ptr::null_mut(), std::ptr::null_mut());
        sys::cuLinkAddData_v2(state, kind, data, bytes.len(), c"kernels".as_ptr(), 0, none.0, none.1).result()?;
        sys::cuLinkComplete(state, &mut code, &mut length).result()?;
        Ok(std::slice::from_raw_parts(code.cast::<u8>(), length).to_vec())
    }
}

fn refused(target: &str, what: &dyn std::fmt::Display) -> RunError {
    RunError::new(RunCode::Code, target, what).help("a newer driver may be needed")
}

fn driver_version() -> Result<i32, RunError> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed("driver version", e))?;
    Ok(version)
}

/// The target's code, from the user's cache folder or linked now.
fn load_module(target: &TargetCode, gpu: &str) -> Result<sys::CUmodule, RunError> {
    let identity = format!("CUDA driver {}, {gpu}", driver_version()?);
    Modules::of_user().load(&target.code, &mut Driver { identity, target: &target.target }, |code| {
        // SAFETY: whole code of the driver's own linker; a context is bound to this thread.
        unsafe { result::module::load_data(code.as_ptr().cast::<c_void>()) }
            .map_err(|e| refused(&target.target, &reason(e)))
    })
}

fn load_function(module: sys::CUmodule, info: &KernelInfo) -> Result<sys::CUfunction, RunError> {
    let refused = |e: DriverError| RunError::new(RunCode::Code, format_args!("kernel `{}`", info.symbol), reason(e));
    let symbol = CString::new(info.symbol.as_str()).expect("a validated plan's symbols have no zero bytes");
    // SAFETY: the module was loaded and not unloaded.
    let function = unsafe { result::module::get_function(module, symbol) }.map_err(refused)?;
    if info.scratch > PLAIN_SHARED {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(info.scratch).expect("a validated plan's scratch is at most a gigabyte");
        // SAFETY: the function is of the loaded module.
        unsafe { result::function::set_function_attribute(function, attribute, bytes) }.map_err(refused)?;
    }
    Ok(function)
}

/// The driver's own words.
fn reason(e: DriverError) -> String {
    match e.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("CUDA error {}", e.0 as u32),
    }
}

fn failed(part: &str, e: DriverError) -> RunError {
    RunError::new(RunCode::Device, format_args!("cuda: {part}"), reason(e))
}

impl Device for Cuda {
    fn describe(&self) -> String {
        format!("{} on {}", self.target.target, self.name)
    }

    fn kernels(&self) -> &[KernelInfo] {
        &self.target.kernels
    }

    fn free_memory(&self) -> u64 {
        self.context.mem_get_info().map_or(0, |(free, _)| free as u64)
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        let place = self.place(bytes)?;
        // SAFETY: the range was just allocated.
        let zeroed = unsafe { result::memset_d8_async(place.start, 0, bytes as usize, self.stream.cu_stream()) };
        let memory = self.memory.insert(place);
        zeroed.map_err(|e| failed("memset", e))?;
        Ok(memory)
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        let place = self.place(bytes.len() as u64)?;
        let to = place.start;
        let memory = self.memory.insert(place);
        self.send(to, &bytes)?;
        Ok(memory)
    }

    fn release(&mut self, memory: Memory) {
        let place = self.memory.remove(memory);
        // A failure here was or will be reported by an operation that has a result.
        let _ = self.free(place);
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.bind()?;
        self.send(self.memory.get(to).at(offset, bytes.len() as u64), bytes)
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        self.bind()?;
        let source = self.memory.get(from).at(offset, bytes.len() as u64);
        self.fetch(&mut [(source, bytes)])
    }

    fn read_all(&mut self, pieces: &mut [(Memory, &mut [u8])]) -> Result<(), RunError> {
        self.bind()?;
        let place = |(from, bytes): &mut (Memory, &mut [u8])| self.memory.get(*from).at(0, bytes.len() as u64);
        let sources: Vec<_> = pieces.iter_mut().map(place).collect();
        let mut all: Vec<_> = sources.into_iter().zip(pieces.iter_mut().map(|(_, bytes)| &mut **bytes)).collect();
        self.fetch(&mut all)
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        self.bind()?;
        let (source, target) = (self.memory.get(from.0).at(from.1, bytes), self.memory.get(to.0).at(to.1, bytes));
        // SAFETY: both ranges are inside their allocations.
        unsafe { result::memcpy_dtod_async(target, source, bytes as usize, self.stream.cu_stream()) }
            .map_err(|e| failed("copy", e))
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        self.bind()?;
        let lengths = self.write_lengths(&calls.dims)?;
        let program = Program::new(calls, &self.target.kernels, lengths, |m| self.memory.get(m).place())?;
        let mut replays = self.replays.take().expect("no step is running");
        let done = replays.run(self, program);
        self.replays = Some(replays);
        done
    }
}

/// The driver's description of a tensor in the GPU's memory. Its own limits are those of a validated plan's.
fn described(map: &TensorMap, place: Place) -> Result<sys::CUtensorMap, RunError> {
    use sys::CUtensorMapDataType_enum as Element;
    use sys::CUtensorMapSwizzle_enum as Swizzle;
    // What the elements mean does not matter: they are copied.
    let element = match map.element {
        1 => Element::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => Element::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        4 => Element::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        _ => Element::CU_TENSOR_MAP_DATA_TYPE_UINT64,
    };
    let swizzle = match map.turns {
        Turns::None => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Turns::Of32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Turns::Of64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Turns::Of128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let (lengths, strides) = (map.lengths(place.length), map.strides());
    let (axes, steps) = (map.tile.len() as u32, vec![1u32; map.tile.len()]);
    let mut described = sys::CUtensorMap { opaque: [0; 16] };
    let interleave = sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE;
    let promotion = sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
    let outside = sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    // SAFETY: the lists have an entry for each axis, strides for each but the innermost, and outlive the call, which writes
    // the description alone. That the driver has the function was asked when the kernels were loaded.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut described,
            element,
            axes,
            place.start as *mut c_void,
            lengths.as_ptr(),
            strides.as_ptr(),
            map.tile.as_ptr(),
            steps.as_ptr(),
            interleave,
            swizzle,
            promotion,
            outside,
        )
    }
    .result()
    .map_err(|e| failed("description of a tensor", e))?;
    Ok(described)
}

/// A recording is a captured graph. The context is bound: [`Device::run`] does it. What is recorded has run before, so that
/// every kernel is loaded: a driver that loads them lazily must not while it captures.
impl Runs for Cuda {
    type Recording = CudaGraph;

    fn launch(&mut self, program: &Program) -> Result<(), RunError> {
        let mut words = program.params.clone();
        let mut params: Vec<*mut c_void> = Vec::new();
        for launch in &program.launches {
            let maps = &self.target.kernels[launch.kernel as usize].tensor_maps;
            let maps = maps.iter().zip(&program.places[launch.places.clone()]);
            let mut tensors = maps.map(|(map, place)| described(map, *place)).collect::<Result<Vec<_>, _>>()?;
            params.clear();
            params.extend(words[launch.params.clone()].iter_mut().map(|w| (w as *mut u64).cast::<c_void>()));
            params.extend(tensors.iter_mut().map(|t| (t as *mut sys::CUtensorMap).cast::<c_void>()));
            let (function, shape) = (self.functions[launch.kernel as usize], launch.shape);
            let (grid, block) = ((shape.blocks, 1, 1), (shape.threads, 1, 1));
            // SAFETY: the parameters are those of `KernelInfo`, by which the engine laid them out; the driver copies
            // them before this returns. An artifact is a program; beyond that it is trusted.
            unsafe { result::launch_kernel(function, grid, block, shape.shared, self.stream.cu_stream(), &mut params) }
                .map_err(|e| {
                    let symbol = &self.target.kernels[launch.kernel as usize].symbol;
                    failed(&format!("kernel `{symbol}`"), e)
                })?;
        }
        Ok(())
    }

    fn record(&mut self, program: &Program) -> Result<CudaGraph, RunError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(|e| failed("begin of a graph", e))?;
        let launched = self.launch(program);
        // Also after an error: the stream must not stay in capture.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(|e| failed("graph", e));
        launched?;
        graph?.ok_or_else(|| RunError::new(RunCode::Device, "cuda: graph", "nothing was captured"))
    }

    fn replay(&mut self, recording: &CudaGraph) -> Result<(), RunError> {
        recording.launch().map_err(|e| failed("launch of a graph", e))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.bind().and_then(|()| self.stream.synchronize().map_err(|e| failed("stream", e)));
        self.replays = None;
        for place in self.memory.0.drain(..).flatten().chain(self.lengths.take()) {
            // SAFETY: allocated by `place` and freed once; nothing runs any more.
            let _ = unsafe { result::free_sync(place.start) };
        }
        // SAFETY: loaded by `load_module` and unloaded once; its functions are not used any more.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> TargetCode {
        TargetCode { target: name.into(), features: vec![], kernels: vec![], code: vec![] }
    }

    #[test]
    fn a_machine_without_a_gpu_hears_a_sentence() {
        match Cuda::open(&[target("sm_80")], 99) {
            Ok(_) => panic!("nobody has a hundred GPUs"),
            Err(e) => {
                assert_eq!(e.code(), "E0804");
                assert!(e.to_string().contains("expected: an NVIDIA GPU and its driver"), "{e}");
            }
        }
    }
}
