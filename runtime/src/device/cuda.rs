//! An NVIDIA GPU as a device. The only file that knows CUDA; the driver's library is looked for when it is asked for.

use super::gpu::{choose_target, geometry};
use super::{Bytes, Calls, Device, Memory, Slab};
use crate::run_error::{RunCode, RunError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Dynamic shared memory that a kernel gets without asking for more.
const PLAIN_SHARED: u64 = 48 << 10;

/// A GPU with an artifact's code on it.
pub struct Cuda {
    target: TargetCode,
    name: String,
    functions: Vec<sys::CUfunction>,
    module: sys::CUmodule,
    memory: Slab<Allocation>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

// SAFETY: the handles belong to a context that any thread may use once it is bound there, and each operation binds it.
unsafe impl Send for Cuda {}

#[derive(Debug)]
struct Allocation {
    start: sys::CUdeviceptr,
    length: u64,
}

impl Allocation {
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
        let module = load_module(chosen)?;
        let target = TargetCode { code: Vec::new(), ..chosen.clone() };
        let memory = Slab::new();
        let mut cuda = Cuda { target, name, functions: Vec::new(), module, memory, stream, context };
        for info in &chosen.kernels {
            let function = load_function(module, info)?; // on an error `cuda` is dropped, and unloads the module
            cuda.functions.push(function);
        }
        Ok(cuda)
    }

    fn bind(&self) -> Result<(), RunError> {
        self.context.bind_to_thread().map_err(|e| failed("context", e))
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

fn load_module(target: &TargetCode) -> Result<sys::CUmodule, RunError> {
    let refused = |what: &dyn std::fmt::Display| {
        RunError::new(RunCode::Code, &target.target, what).help("a newer driver may be needed")
    };
    let text = CString::new(target.code.as_slice()).map_err(|_| refused(&"PTX with a zero byte in it"))?;
    // SAFETY: the text ends with a zero byte and outlives the call; a context is bound to this thread.
    unsafe { result::module::load_data(text.as_ptr().cast::<c_void>()) }.map_err(|e| refused(&reason(e)))
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
        let memory = self.allocate(bytes.len() as u64)?;
        self.write(memory, 0, &bytes)?;
        Ok(memory)
    }

    fn release(&mut self, memory: Memory) {
        let place = self.memory.remove(memory);
        // Freeing waits for the device. A failure here was or will be reported by an operation that has a result.
        let _ = self.bind();
        // SAFETY: allocated by `place` and removed from the slab, so freed once.
        let _ = unsafe { result::free_sync(place.start) };
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.bind()?;
        let target = self.memory.get(to).at(offset, bytes.len() as u64);
        // SAFETY: the target range is inside its allocation; the driver has taken pageable bytes when this returns.
        unsafe { result::memcpy_htod_async(target, bytes, self.stream.cu_stream()) }.map_err(|e| failed("write", e))
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        self.bind()?;
        let source = self.memory.get(from).at(offset, bytes.len() as u64);
        // SAFETY: the source range is inside its allocation; the stream is waited for before `bytes` is given back.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, source, self.stream.cu_stream()) };
        let done = self.stream.synchronize();
        copied.and(done).map_err(|e| failed("read", e))
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
        let mut pointers: Vec<u64> = calls.pointers.iter().map(|m| self.memory.get(*m).start).collect();
        let mut dims = calls.dims.clone();
        let mut params: Vec<*mut c_void> = Vec::new();
        for call in &calls.calls {
            let info = &self.target.kernels[call.kernel as usize];
            let Some(shape) = geometry(info, call.items)? else { continue };
            params.clear();
            params.extend(pointers[call.pointers.clone()].iter_mut().map(|p| (p as *mut u64).cast::<c_void>()));
            params.extend(dims[call.dims.clone()].iter_mut().map(|d| (d as *mut i64).cast::<c_void>()));
            let function = self.functions[call.kernel as usize];
            let (grid, block) = ((shape.blocks, 1, 1), (shape.threads, 1, 1));
            // SAFETY: the parameters are those of `KernelInfo`, by which the engine laid them out; the driver copies
            // them before this returns. An artifact is a program; beyond that it is trusted.
            unsafe { result::launch_kernel(function, grid, block, shape.shared, self.stream.cu_stream(), &mut params) }
                .map_err(|e| failed(&format!("kernel `{}`", info.symbol), e))?;
        }
        Ok(())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.bind().and_then(|()| self.stream.synchronize().map_err(|e| failed("stream", e)));
        for place in self.memory.0.drain(..).flatten() {
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
