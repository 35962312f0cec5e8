//! Bulk copies: many bytes, started by one thread. What goes to shared memory is counted by an mbarrier and arrives with its
//! phase; what comes from shared memory belongs to a group that the thread waits for.

use super::Machine;
use super::access::{locate, never_written, shared_range};
use super::agent::{Task, not_fenced, unit};
use super::copy::not_waited;
use super::mbarrier::{Landing, Piece};
use super::shadow::{Record, Who};
use super::warp::Warp;
use crate::fault::{FaultKind, Problem};
use crate::program::{Address, Bulk, Far, LANES, Slot};
use crate::syntax::ast::Space;
use crate::tensor_map::{BYTES, Swizzle, TensorMap};
use std::collections::VecDeque;

/// Bytes that are copied as one.
const UNIT: u64 = 16;

/// Groups of bulk copies of one thread, as times of its agents.
#[derive(Clone, Debug, Default)]
struct Groups {
    /// Agents of what is read and what is written.
    agents: Option<[usize; 2]>,
    /// Whether a copy was started since the last group was closed, and by which instruction the last one was.
    open: bool,
    pc: u32,
    reads: VecDeque<u32>,
    writes: VecDeque<u32>,
}

/// The groups of a warp.
#[derive(Clone, Debug, Default)]
pub struct Bulks(Vec<Groups>);

impl Bulks {
    fn of(&mut self, lane: usize) -> &mut Groups {
        if self.0.is_empty() {
            self.0.resize(LANES, Groups::default());
        }
        &mut self.0[lane]
    }
}

/// Bytes that lie side by side on both sides. `far` is `None` outside a tensor.
struct Row {
    near: u64,
    far: Option<u64>,
    bytes: u64,
}

/// What is copied.
struct Plan {
    rows: Vec<Row>,
    swizzle: Swizzle,
    bytes: u64,
}

fn operand(message: String) -> Box<Problem> {
    Problem::new(FaultKind::Operand, message)
}

fn aligned(address: u64, to: u64, what: &str) -> Result<(), Box<Problem>> {
    if !address.is_multiple_of(to) {
        let message = format!("a bulk copy {what} {address:#x}, which is not a multiple of {to}");
        return Err(Problem::new(FaultKind::Misaligned, message));
    }
    Ok(())
}

impl Machine<'_> {
    pub fn bulk(&mut self, warp: &mut Warp, bulk: &Bulk) -> Result<(), Box<Problem>> {
        for lane in warp.lanes() {
            let done = match &bulk.barrier {
                Some(barrier) => self.bulk_load(warp, bulk, barrier, lane),
                None => self.bulk_store(warp, bulk, lane),
            };
            done.map_err(|p| p.of_lane(lane as u32))?;
        }
        Ok(())
    }

    fn bulk_load(&mut self, warp: &mut Warp, bulk: &Bulk, barrier: &Address, lane: usize) -> Result<(), Box<Problem>> {
        if let Some(mask) = bulk.multicast.map(|m| warp.reg(m)[lane]).filter(|m| *m != 1) {
            return Err(operand(format!("bytes for the blocks {mask:#x} of a cluster, which has one")));
        }
        let at = self.copy_barrier(warp, lane, barrier)?;
        let plan = self.plan(warp, bulk, lane)?;
        let agent = self.mbarriers[&at].agent;
        self.agent(Task::Barrier(at), warp.index)?;
        let record = self.agent_record(agent, lane, warp.pc);
        let mut pieces: Vec<Piece> = Vec::with_capacity((plan.bytes / UNIT) as usize);
        let mut row_bytes = Vec::new();
        for row in &plan.rows {
            row_bytes.clear();
            row_bytes.resize(row.bytes as usize, 0u8);
            if let Some(far) = row.far {
                self.bulk_read(warp, lane, far, &mut row_bytes)?;
                self.counters.async_bytes += row.bytes;
            }
            // Rows inside a tensor are cut at its ends, not at units; several fill one unit.
            for (i, byte) in row_bytes.iter().enumerate() {
                let near = row.near + i as u64;
                let to = plan.swizzle.apply(near & !(UNIT - 1)) as usize;
                if pieces.last().is_none_or(|p| p.0 != to) {
                    pieces.push((to, [0; 16]));
                }
                if let Some(piece) = pieces.last_mut() {
                    piece.1[(near % UNIT) as usize] = *byte;
                }
            }
        }
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        for (to, _) in &pieces {
            let range = shared_range(*to as u64, UNIT as usize, self.shared.len(), "copy")?;
            for index in range {
                let cell = self.shared_shadow[index];
                if cell.copy != Record::default() {
                    return Err(not_waited(cell.copy));
                }
                cell.check_write(&who, false)?;
                if !self.is_shown(warp, lane, cell.writer) {
                    return Err(not_fenced(cell.writer, lane));
                }
                self.shared_shadow[index].copy = record;
            }
        }
        if let Some(state) = self.mbarriers.get_mut(&at) {
            state.landings.push(Landing { pieces, record });
        }
        self.change(warp, lane, at, 0, -(plan.bytes as i64))
    }

    fn bulk_store(&mut self, warp: &mut Warp, bulk: &Bulk, lane: usize) -> Result<(), Box<Problem>> {
        let plan = self.plan(warp, bulk, lane)?;
        let thread = warp.index * LANES as u32 + lane as u32;
        let agents = match warp.bulks.of(lane).agents {
            Some(agents) => agents,
            None => [self.agent(Task::Reads(thread), warp.index)?, self.agent(Task::Writes(thread), warp.index)?],
        };
        let pc = warp.pc;
        let groups = warp.bulks.of(lane);
        (groups.agents, groups.open, groups.pc) = (Some(agents), true, pc);
        let (reads, writes) = (self.agent_record(agents[0], lane, pc), self.agent_record(agents[1], lane, pc));
        for row in &plan.rows {
            // What lies outside a tensor is not even read.
            let Some(far) = row.far else { continue };
            let (first, end) = (row.near & !(UNIT - 1), row.near + row.bytes);
            let mut bytes = Vec::with_capacity(row.bytes as usize + 2 * UNIT as usize);
            for near in (first..end).step_by(UNIT as usize) {
                bytes.extend(self.async_read(warp, lane, plan.swizzle.apply(near), reads)?);
            }
            let skipped = (row.near - first) as usize;
            self.bulk_write(warp, lane, far, &bytes[skipped..skipped + row.bytes as usize], writes)?;
        }
        Ok(())
    }

    /// Sixteen bytes of shared memory, read by an agent for a thread.
    pub fn async_read(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        record: Record,
    ) -> Result<[u8; 16], Box<Problem>> {
        let range = shared_range(address, UNIT as usize, self.shared.len(), "read")?;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        let (start, mut shown) = (self.clock, Record::default());
        let cells = &mut self.shared_shadow[range.clone()];
        for (i, cell) in cells.iter_mut().enumerate() {
            if cell.copy != Record::default() {
                return Err(not_waited(cell.copy));
            }
            if cell.writer.time() < start {
                return Err(never_written(address + i as u64));
            }
            cell.read_as(&who, record)?;
        }
        // Neighbours mostly have one writer.
        for i in range.clone() {
            let writer = self.shared_shadow[i].writer;
            if writer != shown && !self.is_shown(warp, lane, writer) {
                return Err(not_fenced(writer, lane));
            }
            shown = writer;
        }
        Ok(self.shared[range].try_into().expect("sixteen bytes"))
    }

    fn bulk_read(&mut self, warp: &Warp, lane: usize, address: u64, into: &mut [u8]) -> Result<(), Box<Problem>> {
        let bytes = self.memory.load(address, into.len())?;
        into.copy_from_slice(bytes);
        if !self.memory.is_writable(address) {
            return Ok(());
        }
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        let mut writers = Vec::new();
        self.global_shadow.visit(address, into.len(), |_, cell| {
            cell.read(&who)?;
            if cell.writer != Record::default() && writers.last() != Some(&cell.writer) {
                writers.push(cell.writer);
            }
            Ok(())
        })?;
        match writers.into_iter().find(|w| !self.is_shown(warp, lane, *w)) {
            Some(writer) => Err(not_fenced(writer, lane)),
            None => Ok(()),
        }
    }

    fn bulk_write(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: &[u8],
        record: Record,
    ) -> Result<(), Box<Problem>> {
        self.memory.store(address, bytes.len())?.copy_from_slice(bytes);
        self.counters.async_stored_bytes += bytes.len() as u64;
        let who = Who { order: &warp.order, lane: lane as u32, pc: warp.pc, strong: false };
        self.global_shadow.visit(address, bytes.len(), |_, cell| {
            cell.check_write(&who, false)?;
            cell.writer = record;
            Ok(())
        })
    }

    /// What a bulk copy moves where.
    fn plan(&mut self, warp: &Warp, bulk: &Bulk, lane: usize) -> Result<Plan, Box<Problem>> {
        let (_, near) = locate(warp, &bulk.near, lane);
        match &bulk.far {
            Far::Bytes { address, size } => {
                let ((_, far), bytes) = (locate(warp, address, lane), warp.reg(*size)[lane] & 0xffff_ffff);
                aligned(near, UNIT, "with shared memory at")?;
                aligned(far, UNIT, "with global memory at")?;
                if bytes % UNIT != 0 {
                    return Err(operand(format!("a bulk copy of {bytes} bytes, which is not a multiple of {UNIT}")));
                }
                shared_range(near, bytes as usize, self.shared.len(), "copy")?;
                let rows = vec![Row { near, far: Some(far), bytes }];
                Ok(Plan { rows, swizzle: Swizzle::None, bytes })
            }
            Far::Tile { map, coordinates } => {
                let map = self.tensor_map(warp, map, lane)?;
                aligned(near, 128, "of a tensor with shared memory at")?;
                shared_range(near, map.tile_bytes() as usize, self.shared.len(), "copy")?;
                tile(warp, &map, near, coordinates, lane)
            }
        }
    }

    fn tensor_map(&mut self, warp: &Warp, address: &Address, lane: usize) -> Result<TensorMap, Box<Problem>> {
        let (space, at) = locate(warp, address, lane);
        if matches!(space, Space::Shared | Space::Local) || at % 64 != 0 {
            return Err(operand(format!(
                "a tensor map at {at:#x}; it is in global memory or a parameter, at a multiple of 64"
            )));
        }
        let mut bytes = [0; BYTES];
        for (i, part) in bytes.chunks_exact_mut(16).enumerate() {
            let read = self.read(warp, lane, (space, at + 16 * i as u64), 16, false)?;
            part.copy_from_slice(&read[..16]);
        }
        TensorMap::decode(&bytes).map_err(operand)
    }

    pub fn commit_bulk(&mut self, warp: &mut Warp) {
        for lane in warp.lanes() {
            let agents = warp.bulks.of(lane).agents;
            let times = agents.map(|a| a.map(|agent| self.advance(agent)));
            let groups = warp.bulks.of(lane);
            // A group without copies is over at once.
            let [read, write] = times.unwrap_or([0; 2]);
            groups.reads.push_back(read);
            groups.writes.push_back(write);
            groups.open = false;
        }
    }

    pub fn wait_bulk(&mut self, warp: &mut Warp, left: u32, read: bool) {
        for lane in warp.lanes() {
            let groups = warp.bulks.of(lane);
            let mut reached = [0; 2];
            while groups.reads.len() > left as usize {
                reached[0] = groups.reads.pop_front().unwrap_or(0);
            }
            while !read && groups.writes.len() > left as usize {
                reached[1] = groups.writes.pop_front().unwrap_or(0);
            }
            let agents = groups.agents;
            if let Some(agents) = agents {
                agents.iter().zip(reached).for_each(|(a, time)| warp.order.reach(unit(*a), time));
            }
        }
    }

    /// The warp ends: shared memory that a copy may still read is gone.
    pub fn end_bulk(&self, warp: &Warp) -> Result<(), Box<Problem>> {
        let unread = |g: &&Groups| g.agents.is_some() && (g.open || !g.reads.is_empty());
        match warp.bulks.0.iter().find(unread) {
            None => Ok(()),
            Some(groups) => {
                let message = "the thread ends while a bulk copy may still read its block's shared memory";
                let lane = warp.bulks.0.iter().position(|g| unread(&g)).unwrap_or(0);
                let mut problem = Problem::new(FaultKind::NotWaited, message).of_lane(lane as u32);
                problem.other = Some((groups.pc, warp.index * LANES as u32 + lane as u32));
                Err(problem)
            }
        }
    }
}

/// The rows of a box: inside the tensor cut at its ends, and what lies outside, which is zeros and not written.
fn tile(warp: &Warp, map: &TensorMap, near: u64, coordinates: &[Slot], lane: usize) -> Result<Plan, Box<Problem>> {
    if coordinates.len() != map.sizes.len() {
        return Err(operand(format!("{} coordinates of a tensor of {} axes", coordinates.len(), map.sizes.len())));
    }
    let start: Vec<i64> = coordinates.iter().map(|c| warp.reg(*c)[lane] as u32 as i32 as i64).collect();
    let (element, row_bytes) = (map.element as i64, map.row_bytes());
    let mut rows = Vec::new();
    let outer: u64 = map.tile[1..].iter().map(|n| *n as u64).product();
    for row in 0..outer {
        let (mut rest, mut inside, mut far) = (row, true, map.address as i64);
        for (axis, start) in start.iter().enumerate().skip(1) {
            let at = start + (rest % map.tile[axis] as u64) as i64;
            rest /= map.tile[axis] as u64;
            inside &= (0..map.sizes[axis] as i64).contains(&at);
            far = far.wrapping_add(at.wrapping_mul(map.strides[axis - 1] as i64));
        }
        let near = near + row * row_bytes;
        let (first, end) = (start[0], start[0] + map.tile[0] as i64);
        let (low, high) = (first.max(0), end.min(map.sizes[0] as i64));
        if !inside || low >= high {
            rows.push(Row { near, far: None, bytes: row_bytes });
            continue;
        }
        let mut part = |from: i64, to: i64, far: Option<u64>| {
            if from < to {
                let bytes = ((to - from) * element) as u64;
                rows.push(Row { near: near + ((from - first) * element) as u64, far, bytes });
            }
        };
        part(first, low, None);
        part(low, high, Some(far.wrapping_add(low * element) as u64));
        part(high, end, None);
    }
    Ok(Plan { rows, swizzle: map.swizzle, bytes: map.tile_bytes() })
}
