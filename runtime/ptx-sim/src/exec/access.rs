//! Loads and stores, with every check.

use super::Machine;
use super::copy::not_waited;
use super::shadow::{Record, Who};
use super::traffic;
use super::warp::{Warp, space_of};
use crate::fault::{FaultKind, Problem};
use crate::program::{Access, Address, LANES};
use crate::syntax::ast::Space;
use crate::types::{mask, sign_extend};

/// Bytes that one thread moves at most.
pub const WIDEST: usize = 64;

/// Where the lanes of a request went.
pub struct Request {
    pub space: Space,
    pub addresses: [u64; LANES],
    pub lanes: u32,
}

impl Request {
    pub fn new() -> Request {
        Request { space: Space::Local, addresses: [0; LANES], lanes: 0 }
    }

    pub fn note(&mut self, lane: usize, space: Space, address: u64) {
        if matches!(space, Space::Global | Space::Shared) {
            self.space = space;
            self.addresses[lane] = address;
            self.lanes |= 1 << lane;
        }
    }
}

/// The place that a lane's address names.
pub fn locate(warp: &Warp, address: &Address, lane: usize) -> (Space, u64) {
    let base = warp.reg(address.base)[lane];
    let sum = base.wrapping_add(address.offset as u64);
    let sum = if address.narrow { sum & 0xffff_ffff } else { sum };
    match address.space {
        Space::Generic => space_of(sum),
        space => (space, sum),
    }
}

fn aligned(address: u64, size: usize, verb: &str) -> Result<(), Box<Problem>> {
    if size.is_power_of_two() && !address.is_multiple_of(size as u64) {
        let message = format!("a {verb} of {size} bytes at {address:#x}, which is not a multiple of {size}");
        return Err(Problem::new(FaultKind::Misaligned, message));
    }
    Ok(())
}

impl Machine<'_> {
    /// Bytes that a thread reads.
    pub fn read(
        &mut self,
        warp: &Warp,
        lane: usize,
        (space, address): (Space, u64),
        size: usize,
        strong: bool,
    ) -> Result<[u8; WIDEST], Box<Problem>> {
        aligned(address, size, "read")?;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong };
        let mut out = [0; WIDEST];
        let bytes = match space {
            Space::Global | Space::Const | Space::Generic => {
                let bytes = self.memory.load(address, size)?;
                out[..size].copy_from_slice(bytes);
                if self.memory.is_writable(address) {
                    self.global_shadow.visit(address, size, |_, cell| cell.read(&who))?;
                }
                return Ok(out);
            }
            Space::Shared => {
                let range = shared_range(address, size, self.shared.len(), "read")?;
                let start = self.clock;
                for (i, cell) in self.shared_shadow[range.clone()].iter_mut().enumerate() {
                    if cell.copy != Record::default() {
                        return Err(not_waited(cell.copy));
                    }
                    if cell.writer.time() < start {
                        return Err(never_written(address + i as u64));
                    }
                    cell.read(&who)?;
                }
                &self.shared[range]
            }
            Space::Local => self.local_bytes(warp, lane, address, size)?,
            Space::Param => param_bytes(&self.launch.params, address, size)?,
        };
        out[..size].copy_from_slice(bytes);
        Ok(out)
    }

    /// Bytes that a thread writes.
    pub fn write(
        &mut self,
        warp: &Warp,
        lane: usize,
        (space, address): (Space, u64),
        bytes: &[u8],
        strong: bool,
    ) -> Result<(), Box<Problem>> {
        let size = bytes.len();
        aligned(address, size, "write")?;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong };
        match space {
            Space::Global | Space::Generic => {
                let place = self.memory.store(address, size)?;
                self.global_shadow.visit(address, size, |i, cell| cell.write(&who, place[i] == bytes[i]))?;
                place.copy_from_slice(bytes);
            }
            Space::Shared => {
                let range = shared_range(address, size, self.shared.len(), "write")?;
                let (place, start) = (&mut self.shared[range.clone()], self.clock);
                for (i, cell) in self.shared_shadow[range].iter_mut().enumerate() {
                    if cell.copy != Record::default() {
                        return Err(not_waited(cell.copy));
                    }
                    let same = place[i] == bytes[i] && cell.writer.time() >= start;
                    cell.write(&who, same)?;
                }
                place.copy_from_slice(bytes);
            }
            Space::Local => self.local_bytes(warp, lane, address, size)?.copy_from_slice(bytes),
            Space::Const | Space::Param => {
                return Err(Problem::new(FaultKind::ReadOnly, "a write to constants or parameters"));
            }
        }
        Ok(())
    }

    fn local_bytes(&mut self, warp: &Warp, lane: usize, at: u64, size: usize) -> Result<&mut [u8], Box<Problem>> {
        let each = self.kernel.local;
        if at.checked_add(size as u64).is_none_or(|end| end > each) {
            let message = format!("{size} bytes at {at:#x} of local memory, of which a thread has {each}");
            return Err(Problem::new(FaultKind::OutOfBounds, message));
        }
        let thread = warp.index as usize * LANES + lane;
        Ok(&mut self.local[thread * each as usize + at as usize..][..size])
    }

    pub fn load(&mut self, warp: &mut Warp, access: &Access) -> Result<(), Box<Problem>> {
        let step = access.ty.bytes() as usize;
        let size = step * access.elements.len();
        let mut request = Request::new();
        let (ty, bits) = (access.ty, access.register_bits);
        for lane in warp.lanes() {
            let (space, address) = locate(warp, &access.address, lane);
            request.note(lane, space, address);
            let at = (space, address);
            let bytes = self.read(warp, lane, at, size, access.strong).map_err(|p| p.of_lane(lane as u32))?;
            for (i, slot) in access.elements.iter().enumerate() {
                let Some(slot) = slot else { continue };
                let raw = little_endian(&bytes[i * step..][..step]);
                let value = if ty.is_signed() { sign_extend(raw, ty.bits()) & mask(bits) } else { raw };
                warp.regs[*slot as usize][lane] = value;
            }
        }
        traffic::count(&mut self.counters, &request, size as u64, false);
        Ok(())
    }

    pub fn store(&mut self, warp: &mut Warp, access: &Access) -> Result<(), Box<Problem>> {
        let step = access.ty.bytes() as usize;
        let size = step * access.elements.len();
        let mut request = Request::new();
        for lane in warp.lanes() {
            let (space, address) = locate(warp, &access.address, lane);
            request.note(lane, space, address);
            let mut bytes = [0; WIDEST];
            for (i, slot) in access.elements.iter().enumerate() {
                let value = warp.reg(slot.unwrap_or(0))[lane].to_le_bytes();
                bytes[i * step..][..step].copy_from_slice(&value[..step]);
            }
            let written = self.write(warp, lane, (space, address), &bytes[..size], access.strong);
            written.map_err(|p| p.of_lane(lane as u32))?;
        }
        traffic::count(&mut self.counters, &request, size as u64, true);
        Ok(())
    }
}

/// Up to eight bytes as a number.
pub fn little_endian(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}

pub fn shared_range(
    address: u64,
    size: usize,
    shared: usize,
    verb: &str,
) -> Result<std::ops::Range<usize>, Box<Problem>> {
    match address.checked_add(size as u64) {
        Some(end) if end <= shared as u64 => Ok(address as usize..end as usize),
        _ => {
            let message = format!("a {verb} of {size} bytes at {address:#x} of shared memory, which has {shared}");
            Err(Problem::new(FaultKind::OutOfBounds, message))
        }
    }
}

pub fn never_written(address: u64) -> Box<Problem> {
    let message = format!("byte {address:#x} of shared memory is read and was never written");
    Problem::new(FaultKind::NeverWritten, message)
}

fn param_bytes(params: &[u8], address: u64, size: usize) -> Result<&[u8], Box<Problem>> {
    let found = usize::try_from(address).ok().and_then(|at| params.get(at..)?.get(..size));
    found.ok_or_else(|| {
        let message = format!("{size} bytes at {address:#x} of the parameters, which have {}", params.len());
        Problem::new(FaultKind::OutOfBounds, message)
    })
}
