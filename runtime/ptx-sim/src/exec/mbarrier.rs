//! Mbarriers: objects of 64 bits in shared memory that count arrivals and bytes. A phase is over when nothing is missing; what
//! came by copies belongs to those who then ask for that phase, and to nobody before.

use super::Machine;
use super::access::{locate, shared_range};
use super::agent::{Task, unit};
use super::shadow::{Record, Times, UNITS, Who, merge};
use super::warp::Warp;
use crate::fault::{FaultKind, Problem};
use crate::program::{Address, LANES, MBarrier, MBarrierOp};
use crate::syntax::ast::Space;

/// Bytes of an mbarrier.
const SIZE: usize = 8;
/// Arrivals that a phase can wait for.
const ARRIVALS_LIMIT: u64 = (1 << 20) - 1;

/// Sixteen bytes on their way to shared memory.
pub type Piece = (usize, [u8; 16]);

/// What a copy brings.
#[derive(Debug)]
pub struct Landing {
    pub pieces: Vec<Piece>,
    pub record: Record,
}

/// An mbarrier.
#[derive(Debug)]
pub struct State {
    expected: u64,
    pending: u64,
    /// Bytes that are still to come.
    pub bytes: i64,
    phase: u64,
    pub agent: usize,
    made: Record,
    /// Whether copies see that it was made.
    shown: bool,
    /// What those know who arrived, and what who sees the last phase's end learns.
    known: Box<Times>,
    done: Box<Times>,
    pub landings: Vec<Landing>,
    /// The instruction that first asked for a phase whose copies have all come. They are there for the next one: who
    /// asks once, and does not ask again, did not wait.
    asked: Option<u64>,
}

impl State {
    fn is_complete(&self) -> bool {
        self.pending == 0 && self.bytes == 0
    }

    /// What the phase still waits for.
    pub fn missing(&self) -> String {
        format!("phase {} lacks {} arrivals and {} bytes", self.phase, self.pending, self.bytes)
    }
}

fn operand(message: String) -> Box<Problem> {
    Problem::new(FaultKind::Operand, message)
}

impl Machine<'_> {
    pub fn mbarrier(&mut self, warp: &mut Warp, m: &MBarrier) -> Result<(), Box<Problem>> {
        let (mut over, mut states, before) = (0u32, [0u64; LANES], self.progress);
        for lane in warp.lanes() {
            let done = self.mbarrier_lane(warp, m, lane).map_err(|p| p.of_lane(lane as u32))?;
            over |= (done.0 as u32) << lane;
            states[lane] = done.1;
        }
        match m.op {
            MBarrierOp::Arrive { state: Some(to), .. } => warp.put(to, &states),
            MBarrierOp::Wait { p, .. } => {
                if let Some(p) = p {
                    warp.put_predicate(p, over);
                }
                if over & warp.mask != warp.mask {
                    warp.stalled = Some(before);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the phase asked for is over, and the state before an arrival.
    fn mbarrier_lane(&mut self, warp: &mut Warp, m: &MBarrier, lane: usize) -> Result<(bool, u64), Box<Problem>> {
        let at = mbarrier_address(warp, &m.address, lane)?;
        let value = |slot| warp.reg(slot)[lane];
        match m.op {
            MBarrierOp::Init { count } => self.make(warp, lane, at, value(count) & 0xffff_ffff)?,
            MBarrierOp::Invalidate => self.unmake(warp, lane, at)?,
            MBarrierOp::Expect { bytes } => {
                let bytes = value(bytes) as u32 as i64;
                self.change(warp, lane, at, 0, bytes)?;
            }
            MBarrierOp::Complete { bytes } => {
                let bytes = value(bytes) as u32 as i64;
                self.change(warp, lane, at, 0, -bytes)?;
            }
            MBarrierOp::Arrive { count, expect, drop, last, .. } => {
                let (count, bytes) = (value(count) & 0xffff_ffff, expect.map_or(0, |b| value(b) as u32 as i64));
                let barrier = self.known_barrier(warp, lane, at)?;
                let state = barrier.pending << 32 | barrier.phase & 0xffff_ffff;
                if count == 0 || count > barrier.pending {
                    let message = format!("{count} arrivals at the mbarrier at {at:#x}: {}", barrier.missing());
                    return Err(operand(message));
                }
                if !last && count == barrier.pending {
                    return Err(operand(format!("the last arrival at the mbarrier at {at:#x}, by `.noComplete`")));
                }
                if drop {
                    barrier.expected -= count;
                }
                let known = warp.order.publish();
                merge(&mut self.known_barrier(warp, lane, at)?.known, &known);
                self.change(warp, lane, at, count, bytes)?;
                return Ok((false, state));
            }
            MBarrierOp::Wait { phase, parity, .. } => {
                let asked = value(phase);
                self.land(warp, lane, at)?;
                let barrier = self.known_barrier(warp, lane, at)?;
                let over = if parity { asked & 1 != barrier.phase & 1 } else { is_over(barrier, asked, at)? };
                if over {
                    warp.order.learn(&self.mbarriers[&at].done);
                }
                return Ok((over, 0));
            }
        }
        Ok((false, 0))
    }

    fn make(&mut self, warp: &Warp, lane: usize, at: u64, count: u64) -> Result<(), Box<Problem>> {
        if count == 0 || count > ARRIVALS_LIMIT {
            return Err(operand(format!("an mbarrier for {count} arrivals; 1 to {ARRIVALS_LIMIT} can be")));
        }
        if self.mbarriers.contains_key(&at) {
            return Err(operand(format!("an mbarrier at {at:#x}, where one is already; `mbarrier.inval` ends it")));
        }
        let range = shared_range(at, SIZE, self.shared.len(), "write")?;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        for cell in &mut self.shared_shadow[range] {
            if cell.copy != Record::default() {
                return Err(super::copy::not_waited(cell.copy));
            }
            cell.write(&who, false)?;
            cell.copy = Record::new(warp.order.own, warp.index, lane as u32, warp.pc, true);
        }
        let agent = self.agent(Task::Barrier(at), warp.index)?;
        let state = State {
            expected: count,
            pending: count,
            bytes: 0,
            phase: 0,
            agent,
            made: who.record(),
            shown: false,
            known: Box::new([0; UNITS]),
            done: Box::new([0; UNITS]),
            landings: Vec::new(),
            asked: None,
        };
        self.mbarriers.insert(at, state);
        self.progress += 1;
        Ok(())
    }

    fn unmake(&mut self, warp: &Warp, lane: usize, at: u64) -> Result<(), Box<Problem>> {
        let barrier = self.known_barrier(warp, lane, at)?;
        if !barrier.landings.is_empty() {
            return Err(super::copy::not_waited(barrier.landings[0].record));
        }
        self.mbarriers.remove(&at);
        // What the bytes are is not said: a read of them is a read of what nobody wrote.
        let cells = &mut self.shared_shadow[at as usize..at as usize + SIZE];
        cells.iter_mut().for_each(|c| (c.copy, c.writer) = Default::default());
        Ok(())
    }

    /// The mbarrier at an address, made before in the order of this thread.
    fn known_barrier(&mut self, warp: &Warp, lane: usize, at: u64) -> Result<&mut State, Box<Problem>> {
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        match self.mbarriers.get_mut(&at) {
            None => Err(operand(format!("no `mbarrier.init` was executed for the mbarrier at {at:#x}"))),
            Some(found) if who.conflicts(found.made) => {
                let message = "uses an mbarrier that another thread makes, and no barrier stands between";
                let mut problem = Problem::new(FaultKind::Race, message);
                problem.other = Some(found.made.origin());
                Err(problem)
            }
            Some(found) => Ok(found),
        }
    }

    /// The mbarrier that a copy is counted by.
    pub fn copy_barrier(&mut self, warp: &Warp, lane: usize, address: &Address) -> Result<u64, Box<Problem>> {
        let at = mbarrier_address(warp, address, lane)?;
        let barrier = self.known_barrier(warp, lane, at)?;
        let (shown, made) = (barrier.shown, barrier.made);
        if !shown && !self.is_shown(warp, lane, made) {
            let mut problem = super::agent::not_fenced(made, lane);
            problem.message = "a copy uses an mbarrier, and no `fence.mbarrier_init` or `fence.proxy.async` stands \
                               between it and `mbarrier.init`"
                .into();
            return Err(problem);
        }
        Ok(at)
    }

    /// A thread shows the mbarriers that it made.
    pub fn show_barriers(&mut self, warp: u32, lane: usize) {
        for barrier in self.mbarriers.values_mut() {
            barrier.shown |= (barrier.made.unit(), barrier.made.lane()) == (warp as usize, lane);
        }
    }

    /// Arrivals and bytes; the phase's end where nothing is missing then.
    pub fn change(&mut self, warp: &Warp, lane: usize, at: u64, count: u64, bytes: i64) -> Result<(), Box<Problem>> {
        let barrier = self.known_barrier(warp, lane, at)?;
        barrier.pending -= count;
        barrier.bytes += bytes;
        if barrier.is_complete() && barrier.landings.is_empty() {
            self.end_phase(at);
        }
        self.progress += 1;
        Ok(())
    }

    /// A thread asks for a phase: what comes by copies comes when it is asked for again.
    fn land(&mut self, warp: &Warp, lane: usize, at: u64) -> Result<(), Box<Problem>> {
        let now = self.counters.warp_instructions;
        let barrier = self.known_barrier(warp, lane, at)?;
        if barrier.is_complete() {
            match barrier.asked {
                Some(before) if before != now => self.end_phase(at),
                Some(_) => {}
                None => {
                    barrier.asked = Some(now);
                    self.progress += 1;
                }
            }
        }
        Ok(())
    }

    fn end_phase(&mut self, at: u64) {
        let Some(barrier) = self.mbarriers.get_mut(&at) else { return };
        let (agent, landings) = (barrier.agent, std::mem::take(&mut barrier.landings));
        for Landing { pieces, record } in landings {
            for (to, bytes) in pieces {
                self.shared[to..to + 16].copy_from_slice(&bytes);
                for cell in &mut self.shared_shadow[to..to + 16] {
                    cell.copy = Record::default();
                    cell.writer = record;
                }
            }
        }
        let time = self.advance(agent);
        let Some(barrier) = self.mbarriers.get_mut(&at) else { return };
        barrier.known[unit(agent)] = time;
        *barrier.done = *barrier.known;
        barrier.phase += 1;
        barrier.pending = barrier.expected;
        barrier.asked = None;
        self.counters.mbarrier_phases += 1;
    }

    /// The end of a block: mbarriers end with it. An error where a copy is still under way.
    pub fn end_barriers(&mut self) -> Result<(), Record> {
        let mut early = None;
        for (at, barrier) in std::mem::take(&mut self.mbarriers) {
            let pieces = barrier.landings.iter().flat_map(|l| l.pieces.iter().map(|(to, _)| (*to, 16)));
            for (to, size) in pieces.chain([(at as usize, SIZE)]) {
                self.shared_shadow[to..to + size].iter_mut().for_each(|c| c.copy = Record::default());
            }
            early = early.or(barrier.landings.first().map(|l| l.record));
        }
        early.map_or(Ok(()), Err)
    }
}

fn is_over(barrier: &State, asked: u64, at: u64) -> Result<bool, Box<Problem>> {
    let (asked, now) = (asked & 0xffff_ffff, barrier.phase & 0xffff_ffff);
    match now.wrapping_sub(asked) {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(operand(format!("a state of phase {asked} of the mbarrier at {at:#x}, which is in phase {now}"))),
    }
}

fn mbarrier_address(warp: &Warp, address: &Address, lane: usize) -> Result<u64, Box<Problem>> {
    let (space, at) = locate(warp, address, lane);
    if space != Space::Shared {
        return Err(operand(format!("an mbarrier at {at:#x}, which is not in shared memory")));
    }
    if at % SIZE as u64 != 0 {
        let message = format!("an mbarrier at {at:#x}, which is not a multiple of {SIZE}");
        return Err(Problem::new(FaultKind::Misaligned, message));
    }
    Ok(at)
}
