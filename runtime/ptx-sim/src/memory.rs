//! Global memory: allocations far apart, so that a stray address belongs to none of them.

use crate::fault::{FaultKind, Problem};
use std::fmt;

/// Allocations lie this far apart.
const SPACING: u32 = 40;
/// Where an allocation starts in its range: aligned as `cudaMalloc` aligns, and no more.
const START: u64 = 256;
/// Addresses of shared memory among generic ones.
pub(crate) const SHARED_WINDOW: u64 = 0x4000_0000_0000_0000;
/// Addresses of local memory among generic ones.
pub(crate) const LOCAL_WINDOW: u64 = 0x5000_0000_0000_0000;
/// Addresses of a kernel's parameters among generic ones.
pub(crate) const PARAM_WINDOW: u64 = 0x6000_0000_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 1 << 32;

/// Bytes that somebody else keeps.
pub type Kept = Box<dyn AsRef<[u8]> + Send + Sync>;

enum Data {
    Own(Vec<u8>),
    Kept(Kept),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(bytes) => bytes,
            Data::Kept(bytes) => (**bytes).as_ref(),
        }
    }
}

struct Allocation {
    name: String,
    data: Data,
    /// A bit for every byte that was written; `None` when all were.
    written: Option<Vec<u64>>,
}

/// Global memory.
#[derive(Default)]
pub struct Memory {
    allocations: Vec<Option<Allocation>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.allocations.iter().flatten().map(|a| (&a.name, a.data.bytes().len()));
        f.debug_map().entries(names).finish()
    }
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Bytes that nobody wrote yet, by a name for messages. The result is their address.
    pub fn allocate(&mut self, name: &str, bytes: usize) -> u64 {
        self.insert(name, Data::Own(vec![0; bytes]), Some(vec![0; bytes.div_ceil(64)]))
    }

    /// These bytes, which kernels may overwrite.
    pub fn upload(&mut self, name: &str, bytes: Vec<u8>) -> u64 {
        self.insert(name, Data::Own(bytes), None)
    }

    /// These bytes, which kernels only read.
    pub fn constant(&mut self, name: &str, bytes: Kept) -> u64 {
        self.insert(name, Data::Kept(bytes), None)
    }

    fn insert(&mut self, name: &str, data: Data, written: Option<Vec<u64>>) -> u64 {
        let free = self.allocations.iter().position(Option::is_none).unwrap_or_else(|| {
            self.allocations.push(None);
            self.allocations.len() - 1
        });
        self.allocations[free] = Some(Allocation { name: name.to_string(), data, written });
        ((free as u64 + 1) << SPACING) + START
    }

    /// Gives an allocation back. Unknown addresses are ignored.
    pub fn free(&mut self, address: u64) {
        if let Some((index, _)) = self.find(address) {
            self.allocations[index] = None;
        }
    }

    fn find(&self, address: u64) -> Option<(usize, u64)> {
        let index = (address >> SPACING).checked_sub(1)? as usize;
        self.allocations.get(index)?.as_ref()?;
        Some((index, (address & ((1 << SPACING) - 1)).wrapping_sub(START)))
    }

    /// Bytes that the host reads, whether written or not; `None` outside an allocation.
    pub fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let (index, offset) = self.find(address)?;
        let bytes = self.allocations[index].as_ref()?.data.bytes();
        bytes.get(usize::try_from(offset).ok()?..)?.get(..length)
    }

    /// Bytes for the host to write, as written from now on; `None` outside an allocation or where it is read only.
    pub fn bytes_mut(&mut self, address: u64, length: usize) -> Option<&mut [u8]> {
        let (index, offset) = self.find(address)?;
        let allocation = self.allocations[index].as_mut()?;
        let Data::Own(bytes) = &mut allocation.data else { return None };
        let offset = usize::try_from(offset).ok()?;
        let found = bytes.get_mut(offset..)?.get_mut(..length)?;
        if let Some(written) = &mut allocation.written {
            (offset..offset + length).for_each(|i| written[i / 64] |= 1 << (i % 64));
        }
        Some(found)
    }

    /// Whether kernels may write here at all.
    pub(crate) fn is_writable(&self, address: u64) -> bool {
        let found = self.find(address).and_then(|(index, _)| self.allocations[index].as_ref());
        found.is_none_or(|a| matches!(a.data, Data::Own(_)))
    }

    /// Bytes that a kernel reads.
    pub(crate) fn load(&self, address: u64, length: usize) -> Result<&[u8], Box<Problem>> {
        let (index, offset) = self.place(address, length, "read")?;
        let allocation = self.allocations[index].as_ref().expect("found a moment ago");
        if let Some(written) = &allocation.written {
            let bit = |i: usize| written[i / 64] >> (i % 64) & 1;
            if let Some(byte) = (offset..offset + length).find(|i| bit(*i) == 0) {
                let message = format!("byte {byte} of `{}` is read and was never written", allocation.name);
                return Err(Problem::new(FaultKind::NeverWritten, message));
            }
        }
        Ok(&allocation.data.bytes()[offset..offset + length])
    }

    /// Bytes that a kernel writes.
    pub(crate) fn store(&mut self, address: u64, length: usize) -> Result<&mut [u8], Box<Problem>> {
        let (index, offset) = self.place(address, length, "write")?;
        let allocation = self.allocations[index].as_mut().expect("found a moment ago");
        if let Some(written) = &mut allocation.written {
            (offset..offset + length).for_each(|i| written[i / 64] |= 1 << (i % 64));
        }
        match &mut allocation.data {
            Data::Own(bytes) => Ok(&mut bytes[offset..offset + length]),
            Data::Kept(_) => {
                let message = format!("a write to `{}`, which kernels only read", allocation.name);
                Err(Problem::new(FaultKind::ReadOnly, message))
            }
        }
    }

    fn place(&self, address: u64, length: usize, verb: &str) -> Result<(usize, usize), Box<Problem>> {
        let outside = |message: String| Problem::new(FaultKind::OutOfBounds, message);
        let Some((index, offset)) = self.find(address) else {
            return Err(outside(format!("a {verb} of {length} bytes at {address:#x}, where no allocation is")));
        };
        let allocation = self.allocations[index].as_ref().expect("find looks for one");
        let size = allocation.data.bytes().len();
        if offset.checked_add(length as u64).is_none_or(|end| end > size as u64) {
            let (name, offset) = (&allocation.name, offset as i64);
            return Err(outside(format!("a {verb} of {length} bytes at byte {offset} of `{name}`, which has {size}")));
        }
        Ok((index, offset as usize))
    }
}
