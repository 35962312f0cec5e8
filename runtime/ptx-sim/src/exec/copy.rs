//! Copies that arrive only when they are waited for. Until then their bytes belong to nobody.

use super::Machine;
use super::access::{locate, shared_range};
use super::shadow::{Record, Who};
use super::warp::Warp;
use crate::fault::{FaultKind, Problem};
use crate::program::{Copy, LANES};
use std::collections::VecDeque;

/// Bytes on their way to shared memory.
#[derive(Clone, Copy, Debug)]
struct Flight {
    to: usize,
    size: usize,
    bytes: [u8; 16],
    pc: u32,
}

/// The copies of one thread.
#[derive(Clone, Debug, Default)]
struct Copies {
    open: Vec<Flight>,
    groups: VecDeque<Vec<Flight>>,
}

/// The copies of a warp.
#[derive(Clone, Debug, Default)]
pub struct Flights(Vec<Copies>);

impl Flights {
    fn of(&mut self, lane: usize) -> &mut Copies {
        if self.0.is_empty() {
            self.0.resize(LANES, Copies::default());
        }
        &mut self.0[lane]
    }
}

/// The use of bytes that a copy may still write.
pub fn not_waited(copy: Record) -> Box<Problem> {
    let mut problem = match copy.strong() {
        false => {
            let message = "bytes of shared memory that a copy brings, which nobody waited for";
            Problem::new(FaultKind::NotWaited, message)
        }
        true => {
            let message = "bytes of an mbarrier, which only instructions for mbarriers may touch";
            Problem::new(FaultKind::Operand, message)
        }
    };
    problem.other = Some(copy.origin());
    problem
}

impl Machine<'_> {
    pub fn copy(&mut self, warp: &mut Warp, copy: &Copy) -> Result<(), Box<Problem>> {
        let ignored = copy.ignore.map_or(0, |g| warp.guard(g));
        for lane in warp.lanes() {
            let source = copy.source.map_or(copy.size as u64, |s| warp.reg(s)[lane]);
            let source = if ignored >> lane & 1 == 1 { 0 } else { source };
            self.copy_lane(warp, copy, lane, source).map_err(|p| p.of_lane(lane as u32))?;
        }
        Ok(())
    }

    fn copy_lane(&mut self, warp: &mut Warp, copy: &Copy, lane: usize, source: u64) -> Result<(), Box<Problem>> {
        let (size, source) = (copy.size as usize, source as usize);
        if source > size {
            let message = format!("{source} bytes to read for a copy of {size}");
            return Err(Problem::new(FaultKind::Operand, message));
        }
        let (_, to) = locate(warp, &copy.to, lane);
        let from = locate(warp, &copy.from, lane);
        for (address, what) in [(to, "to"), (from.1, "from")] {
            if address % size as u64 != 0 && (what == "to" || source > 0) {
                let message = format!("a copy of {size} bytes {what} {address:#x}, which is not a multiple of {size}");
                return Err(Problem::new(FaultKind::Misaligned, message));
            }
        }
        let mut bytes = [0; 16];
        // Alignment was checked for the whole; what is read may be less.
        for (i, byte) in bytes.iter_mut().enumerate().take(source) {
            *byte = self.read(warp, lane, (from.0, from.1 + i as u64), 1, false)?[0];
        }
        let range = shared_range(to, size, self.shared.len(), "copy")?;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        for cell in &mut self.shared_shadow[range.clone()] {
            if cell.copy != Record::default() {
                return Err(not_waited(cell.copy));
            }
            cell.check_write(&who, false)?;
            cell.copy = who.record();
        }
        warp.flights.of(lane).open.push(Flight { to: range.start, size, bytes, pc: warp.pc });
        self.counters.async_bytes += source as u64;
        Ok(())
    }

    pub fn commit_copies(&mut self, warp: &mut Warp) {
        for lane in warp.lanes() {
            let copies = warp.flights.of(lane);
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    /// Waits until at most `left` groups are under way; `None` for everything.
    pub fn wait_copies(&mut self, warp: &mut Warp, left: Option<u32>) {
        for lane in warp.lanes() {
            let copies = warp.flights.of(lane);
            let mut arrived = Vec::new();
            while copies.groups.len() > left.unwrap_or(0) as usize {
                arrived.extend(copies.groups.pop_front().unwrap_or_default());
            }
            if left.is_none() {
                arrived.append(&mut copies.open);
            }
            for flight in arrived {
                let range = flight.to..flight.to + flight.size;
                self.shared[range.clone()].copy_from_slice(&flight.bytes[..flight.size]);
                let who = Who { order: &warp.order, lane: lane as u32, pc: flight.pc, strong: false };
                for cell in &mut self.shared_shadow[range] {
                    cell.copy = Record::default();
                    cell.writer = who.record();
                }
            }
        }
    }

    /// The warp has ended: what it did not wait for arrives for nobody.
    pub fn drop_copies(&mut self, warp: &mut Warp) {
        for copies in &mut warp.flights.0 {
            for flight in copies.open.drain(..).chain(copies.groups.drain(..).flatten()) {
                for cell in &mut self.shared_shadow[flight.to..flight.to + flight.size] {
                    cell.copy = Record::default();
                }
            }
        }
    }
}
