//! Who touched a byte last, and which accesses a barrier puts in order.
//!
//! Order is kept by vector clocks of warps: a record of time `c` by warp `w` comes before everything that a warp does
//! which has seen more than `c` of `w` (FastTrack, Flanagan and Freund, 2009, with warps for threads). Lanes of one warp are
//! in order only after the warp has met: lockstep is no promise.

use crate::fault::{FaultKind, Problem};
use crate::program::LANES;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Warps of a block.
pub const WARPS: usize = 32;
/// Warps, and what works beside them: copies and products under way (see [`super::agent`]).
pub const UNITS: usize = 128;
/// A time of every unit.
pub type Times = [u32; UNITS];
/// Bytes of a page of records of global memory.
const PAGE: u64 = 512;
/// Pages that are kept from block to block.
const PAGES_KEPT: usize = 1 << 13;

/// An access: time, unit, lane, instruction, and whether it is ordered by itself. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record(u64);

impl Record {
    pub fn new(time: u32, unit: u32, lane: u32, pc: u32, strong: bool) -> Record {
        let who = (unit as u64 & 0x7f) << 5 | lane as u64 & 0x1f;
        Record((time as u64) << 32 | who << 20 | (pc as u64 & 0x7_ffff) << 1 | strong as u64)
    }

    pub fn time(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn unit(self) -> usize {
        (self.0 >> 25) as usize & 0x7f
    }

    pub fn lane(self) -> usize {
        (self.0 >> 20) as usize & 0x1f
    }

    fn pc(self) -> u32 {
        (self.0 >> 1) as u32 & 0x7_ffff
    }

    pub fn strong(self) -> bool {
        self.0 & 1 == 1
    }

    /// Of a copy or a product, not of an instruction that is over when the next one starts.
    pub fn is_async(self) -> bool {
        self.unit() >= WARPS
    }

    /// Instruction, and thread as a unit and its lane.
    pub fn origin(self) -> (u32, u32) {
        (self.pc(), (self.unit() * LANES + self.lane()) as u32)
    }
}

/// The last write of a byte and two reads by different threads, of different warps if there are, that nothing ordered yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    pub writer: Record,
    readers: [Record; 2],
    /// The copy that is on its way here; the making of an mbarrier that lies here where it is marked as strong.
    pub copy: Record,
}

/// What a warp knows of the others' time.
#[derive(Clone, Debug)]
pub struct Order {
    warp: u32,
    /// Its own time, which grows whenever it meets others.
    pub own: u32,
    /// Accesses of each unit before this time are in order with this warp; its own entry is about its other lanes.
    pub seen: Times,
    /// The same between pairs of lanes that met without the rest of the warp.
    pairs: Option<Box<[[u32; LANES]; LANES]>>,
}

impl Order {
    pub fn new(warp: u32, start: u32) -> Order {
        Order { warp, own: start, seen: [start; UNITS], pairs: None }
    }

    /// Lanes of the warp meet.
    pub fn meet(&mut self, members: u32, all: u32) {
        self.own += 1;
        if members & all == all {
            self.seen[self.warp as usize] = self.own;
            return;
        }
        let pairs = self.pairs.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let inside = |i: &usize| members >> i & 1 == 1;
        for i in (0..LANES).filter(inside) {
            (0..LANES).filter(inside).for_each(|j| pairs[i][j] = self.own);
        }
    }

    /// What others learn from this warp now.
    pub fn publish(&mut self) -> Times {
        self.own += 1;
        let mut known = self.seen;
        known[self.warp as usize] = self.own;
        known
    }

    /// Learns what others published.
    pub fn learn(&mut self, known: &Times) {
        merge(&mut self.seen, known);
    }

    /// Learns that a unit has got as far as this.
    pub fn reach(&mut self, unit: usize, time: u32) {
        self.seen[unit] = self.seen[unit].max(time);
    }

    pub fn before(&self, record: Record, lane: u32) -> bool {
        let unit = record.unit();
        if record.time() < self.seen[unit] {
            return true;
        }
        if unit != self.warp as usize {
            return false;
        }
        let other = record.lane();
        other == lane as usize || self.pairs.as_ref().is_some_and(|p| record.time() < p[lane as usize][other])
    }
}

/// The later of two times of every unit.
pub fn merge(into: &mut Times, other: &Times) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a = (*a).max(*b));
}

/// Who accesses.
pub struct Who<'a> {
    pub order: &'a Order,
    pub lane: u32,
    pub pc: u32,
    pub strong: bool,
}

impl Who<'_> {
    pub fn record(&self) -> Record {
        Record::new(self.order.own, self.order.warp, self.lane, self.pc, self.strong)
    }

    pub fn conflicts(&self, record: Record) -> bool {
        !(self.order.before(record, self.lane) || (self.strong && record.strong()))
    }

    fn race(&self, what: &str, record: Record) -> Box<Problem> {
        let mut problem = match record.is_async() {
            false => Problem::new(FaultKind::Race, format!("{what}, and no barrier stands between")),
            true => Problem::new(FaultKind::NotWaited, format!("{what} that nobody waited for")),
        };
        problem.lane = Some(self.lane);
        problem.other = Some(record.origin());
        problem
    }
}

impl Cell {
    /// Notes a read.
    #[inline]
    pub fn read(&mut self, who: &Who) -> Result<(), Box<Problem>> {
        self.read_as(who, who.record())
    }

    /// Notes a read that another unit carries out for this thread.
    #[inline]
    pub fn read_as(&mut self, who: &Who, mine: Record) -> Result<(), Box<Problem>> {
        if who.conflicts(self.writer) {
            let async_write = self.writer.is_async();
            let what = if async_write { "reads what comes by a copy" } else { "reads what another thread writes" };
            return Err(who.race(what, self.writer));
        }
        let free = |r: Record| who.order.before(r, who.lane);
        let [first, second] = self.readers;
        // Whoever writes next is unordered with one of two warps; two lanes of its own it may have met.
        let tells_more = second.unit() == first.unit() && mine.unit() != first.unit();
        if free(first) {
            self.readers[0] = mine;
        } else if free(second) || tells_more {
            self.readers[1] = mine;
        }
        Ok(())
    }

    /// Notes a write; `same` when it leaves the byte as it is, which another thread's equal write does not spoil.
    #[inline]
    pub fn write(&mut self, who: &Who, same: bool) -> Result<(), Box<Problem>> {
        self.check_write(who, same)?;
        self.writer = who.record();
        Ok(())
    }

    /// Whether a write now would race.
    pub fn check_write(&self, who: &Who, same: bool) -> Result<(), Box<Problem>> {
        if !same && who.conflicts(self.writer) {
            let async_write = self.writer.is_async();
            let what = if async_write { "writes where a copy goes" } else { "writes where another thread writes" };
            return Err(who.race(what, self.writer));
        }
        match self.readers.iter().find(|r| !same && who.conflicts(**r)) {
            Some(reader) if reader.is_async() => Err(who.race("writes what is read by a copy or product", *reader)),
            Some(reader) => Err(who.race("writes what another thread reads", *reader)),
            None => Ok(()),
        }
    }
}

/// Records of global memory, page by page as it is touched.
#[derive(Default)]
pub struct Shadow {
    index: HashMap<u64, u32, BuildHasherDefault<PageHasher>>,
    pages: Vec<Box<[Cell; PAGE as usize]>>,
    last: (u64, u32),
}

/// Page numbers are spread well enough by one multiplication.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(*b as u64));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

impl Shadow {
    /// Applies `visit` to the record of each byte, with its number.
    pub fn visit(
        &mut self,
        address: u64,
        bytes: usize,
        mut visit: impl FnMut(usize, &mut Cell) -> Result<(), Box<Problem>>,
    ) -> Result<(), Box<Problem>> {
        let mut done = 0;
        while done < bytes {
            let at = address + done as u64;
            let inside = (at % PAGE) as usize;
            let here = (PAGE as usize - inside).min(bytes - done);
            let page = self.page(at / PAGE);
            for (i, cell) in self.pages[page][inside..inside + here].iter_mut().enumerate() {
                visit(done + i, cell)?;
            }
            done += here;
        }
        Ok(())
    }

    fn page(&mut self, number: u64) -> usize {
        if self.last.0 == number + 1 {
            return self.last.1 as usize;
        }
        let pages = &mut self.pages;
        let found = *self.index.entry(number).or_insert_with(|| {
            pages.push(Box::new([Cell::default(); PAGE as usize]));
            pages.len() as u32 - 1
        });
        self.last = (number + 1, found);
        found as usize
    }

    /// A new block: what older ones did does not matter to it.
    pub fn start_block(&mut self) {
        if self.pages.len() > PAGES_KEPT {
            *self = Shadow::default();
        }
    }
}
