//! Devices: memory, and kernels that run on it.
//!
//! What enters is an artifact's code and lists of launches by number; what leaves is bytes. A device knows nothing of
//! plans, sequences or caches. Memory is named, never pointed to, so that nothing outside a device can misuse it.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod double;
mod features;
mod gpu;
mod modules;
pub mod sim;
mod staging;

use crate::run_error::RunError;
use cpu::HostBytes;
use llmc_artifact::file::MappedBytes;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use std::ops::{Deref, Range};

/// A piece of a device's memory, aligned to at least 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Memory(pub(crate) u32);

impl Memory {
    /// The piece that a device calls by this number.
    pub const fn new(number: u32) -> Memory {
        Memory(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Bytes of a weight on their way to a device.
#[derive(Debug)]
pub enum Bytes {
    /// Packed in memory.
    Owned(HostBytes),
    /// In an artifact's file.
    Mapped(MappedBytes),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(b) => b,
            Bytes::Mapped(b) => b,
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index into [`Device::kernels`].
    pub kernel: u32,
    /// Its operands, then its tables: a range of [`Calls::pointers`].
    pub pointers: Range<usize>,
    /// Its lengths: a range of [`Calls::dims`].
    pub dims: Range<usize>,
    /// Number of work items.
    pub items: u64,
}

/// Launches in order; each sees everything the earlier ones wrote.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// The launches.
    pub calls: Vec<Call>,
    /// Memory of all of them.
    pub pointers: Vec<Memory>,
    /// Lengths of all of them.
    pub dims: Vec<i64>,
}

impl Calls {
    /// Forgets all launches and keeps the room.
    pub fn clear(&mut self) {
        self.calls.clear();
        self.pointers.clear();
        self.dims.clear();
    }

    /// Adds a launch.
    pub fn push(
        &mut self,
        kernel: u32,
        pointers: impl IntoIterator<Item = Memory>,
        dims: impl IntoIterator<Item = i64>,
        items: u64,
    ) {
        let (first_pointer, first_dim) = (self.pointers.len(), self.dims.len());
        self.pointers.extend(pointers);
        self.dims.extend(dims);
        self.calls.push(Call {
            kernel,
            pointers: first_pointer..self.pointers.len(),
            dims: first_dim..self.dims.len(),
            items,
        });
    }
}

/// A device with an artifact's code on it. Opened by [`open`].
///
/// Operations take effect in the order they are asked for. An unknown [`Memory`] or an offset outside it is a fault of
/// the caller's and panics.
pub trait Device: Send {
    /// The device and what it runs, for people.
    fn describe(&self) -> String;

    /// The kernels of the target it chose.
    fn kernels(&self) -> &[KernelInfo];

    /// Bytes that could still be allocated, roughly.
    fn free_memory(&self) -> u64;

    /// Zeroed memory.
    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError>;

    /// Memory with these bytes in it, which kernels only read; used in place where the device can.
    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError>;

    /// Gives memory back.
    fn release(&mut self, memory: Memory);

    /// Copies bytes into memory from [`Device::allocate`].
    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError>;

    /// Copies bytes out of memory.
    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError>;

    /// Copies several pieces out of memory; a device that runs behind is waited for once.
    fn read_all(&mut self, pieces: &mut [(Memory, &mut [u8])]) -> Result<(), RunError> {
        pieces.iter_mut().try_for_each(|(from, bytes)| self.read(*from, 0, bytes))
    }

    /// Copies `bytes` bytes between two places that do not overlap.
    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError>;

    /// Runs the launches.
    fn run(&mut self, calls: &Calls) -> Result<(), RunError>;
}

/// Which device to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor that this runs on.
    Cpu {
        /// Number of threads; `None` for one per core that this process may use.
        threads: Option<usize>,
    },
    /// An NVIDIA GPU.
    Cuda {
        /// Which, as the driver counts them.
        ordinal: usize,
    },
    /// The simulator of PTX.
    Sim,
}

impl Default for DeviceKind {
    fn default() -> DeviceKind {
        DeviceKind::Cpu { threads: None }
    }
}

/// Opens a device and loads the best of the targets it can run.
///
/// # Errors
/// No such device, no code for it, a processor that lacks a feature, or code that its loader refuses.
pub fn open(kind: DeviceKind, targets: &[TargetCode]) -> Result<Box<dyn Device>, RunError> {
    Ok(match kind {
        DeviceKind::Cpu { threads } => Box::new(cpu::Cpu::open(targets, threads)?),
        DeviceKind::Cuda { ordinal } => Box::new(cuda::Cuda::open(targets, ordinal)?),
        DeviceKind::Sim => Box::new(sim::Sim::open(targets)?),
    })
}

/// The names of an artifact's targets, for messages.
fn target_names(targets: &[TargetCode]) -> String {
    match targets {
        [] => "code for no target".into(),
        _ => format!("code for {}", targets.iter().map(|t| t.target.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

/// Memory by number, with the numbers of what was given back used again.
#[derive(Debug)]
struct Slab<T>(Vec<Option<T>>);

impl<T> Slab<T> {
    const fn new() -> Slab<T> {
        Slab(Vec::new())
    }

    fn insert(&mut self, value: T) -> Memory {
        let free = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[free] = Some(value);
        Memory(free as u32)
    }

    fn get(&self, memory: Memory) -> &T {
        self.0[memory.0 as usize].as_ref().expect("device memory is used after it was given back")
    }

    fn get_mut(&mut self, memory: Memory) -> &mut T {
        self.0[memory.0 as usize].as_mut().expect("device memory is used after it was given back")
    }

    fn remove(&mut self, memory: Memory) -> T {
        self.0[memory.0 as usize].take().expect("device memory is given back twice")
    }
}

/// Whether the device is there: what takes long can wait until it is known.
///
/// # Errors
/// [`crate::RunCode::NoDevice`] with the way out.
pub fn check(kind: DeviceKind) -> Result<(), RunError> {
    match kind {
        DeviceKind::Cpu { .. } | DeviceKind::Sim => Ok(()),
        DeviceKind::Cuda { ordinal } => cuda::check(ordinal),
    }
}
