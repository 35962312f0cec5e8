//! A warp: its registers, the paths its threads are on, one instruction after another.

use super::Machine;
use super::agent::Views;
use super::bulk::Bulks;
use super::copy::Flights;
use super::shadow::Order;
use super::wgmma::{Products, product_fence, use_registers};
use crate::fault::{FaultKind, Problem};
use crate::flow::NEVER;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::program::{Barrier, Guard, Initial, Instr, LANES, Lanes, Op, Slot, Special};
use crate::syntax::ast::Space;
use crate::types::mask as ones;
use std::cmp::Ordering;

/// What registers hold before anything is written to them: small enough for any of them, and not zero.
const POISON: u64 = 0xa5;

/// Threads on one path: where they are, and where they wait for the others.
#[derive(Clone, Copy, Debug)]
struct Path {
    pc: u32,
    meet: u32,
    lanes: u32,
}

/// Why a warp does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Waiting(Arrival),
    Done,
}

/// A warp at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub id: u32,
    /// Warps that the barrier waits for; `None` for all of the block.
    pub warps: Option<u32>,
    pub pc: u32,
    pub wait: bool,
    /// Threads, and those for which the predicate of a reduction holds.
    pub votes: (u32, u32),
}

pub struct Warp {
    pub index: u32,
    pub regs: Vec<Lanes>,
    pub predicates: Vec<u32>,
    paths: Vec<Path>,
    /// Threads that the warp has.
    pub all: u32,
    /// Threads that have not ended.
    pub live: u32,
    pub carry: u32,
    pub order: Order,
    pub flights: Flights,
    pub bulks: Bulks,
    pub products: Products,
    pub views: Views,
    pub state: State,
    /// What had happened when the warp last asked for a phase that was not over.
    pub stalled: Option<u64>,
    /// The instruction that is executed, and for which threads.
    pub pc: u32,
    pub mask: u32,
}

impl Warp {
    /// A warp at the start of a kernel.
    pub fn new(machine: &Machine, index: u32) -> Warp {
        let threads: u32 = machine.launch.block.iter().product();
        let count = (threads - index * LANES as u32).min(LANES as u32);
        let all = ones(count) as u32;
        let mut warp = Warp {
            index,
            regs: Vec::new(),
            predicates: vec![0; machine.kernel.predicates as usize],
            paths: vec![Path { pc: 0, meet: NEVER, lanes: all }],
            all,
            live: all,
            carry: 0,
            order: Order::new(index, machine.clock),
            flights: Flights::default(),
            bulks: Bulks::default(),
            products: Products::default(),
            views: Views::default(),
            stalled: None,
            state: State::Ready,
            pc: 0,
            mask: all,
        };
        warp.predicates[0] = u32::MAX;
        warp.regs = machine.kernel.slots.iter().map(|s| initial(machine, index, *s)).collect();
        warp
    }

    pub fn guard(&self, guard: Guard) -> u32 {
        self.predicates[guard.index as usize] ^ if guard.negated { u32::MAX } else { 0 }
    }

    pub fn reg(&self, slot: Slot) -> &Lanes {
        &self.regs[slot as usize]
    }

    /// Writes a register for the threads that take part.
    pub fn put(&mut self, slot: Slot, value: &Lanes) {
        put(&mut self.regs[slot as usize], value, self.mask);
    }

    pub fn put_predicate(&mut self, index: u32, bits: u32) {
        let p = &mut self.predicates[index as usize];
        *p = (*p & !self.mask) | (bits & self.mask);
    }

    /// Lanes that take part, lowest first.
    pub fn lanes(&self) -> LaneSet {
        lanes_of(self.mask)
    }

    /// An operand that all threads have to give the same.
    pub fn uniform(&self, slot: Slot) -> Result<u64, Box<Problem>> {
        let first = self.mask.trailing_zeros() as usize % LANES;
        let value = self.reg(slot)[first];
        match self.lanes().find(|l| self.reg(slot)[*l] != value) {
            None => Ok(value),
            Some(lane) => {
                let message = "an operand that differs between the threads of a warp";
                Err(Problem::new(FaultKind::Operand, message).of_lane(lane as u32))
            }
        }
    }

    fn end_threads(&mut self, lanes: u32) {
        self.live &= !lanes;
        for path in &mut self.paths {
            path.lanes &= !lanes;
        }
    }

    /// Threads part: those of `taken` go to `to`, the others go on, and all meet at `meet`.
    fn part(&mut self, taken: u32, to: u32, meet: u32, swap: bool) {
        let Some(path) = self.paths.pop() else { return };
        let sides = [(to, taken), (path.pc + 1, path.lanes & !taken)];
        if meet != NEVER && path.meet != meet {
            self.paths.push(Path { pc: meet, ..path });
        }
        let meet = if meet == NEVER { path.meet } else { meet };
        let order = if swap { [0, 1] } else { [1, 0] };
        for (pc, lanes) in order.map(|i| sides[i]) {
            if pc != meet && lanes != 0 {
                self.paths.push(Path { pc, meet, lanes });
            }
        }
    }
}

/// Lanes of a mask, lowest first.
pub fn lanes_of(mask: u32) -> LaneSet {
    LaneSet(mask)
}

/// Iterates over the lanes of a mask.
#[derive(Clone, Copy)]
pub struct LaneSet(u32);

impl Iterator for LaneSet {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    }
}

#[inline]
fn put(to: &mut Lanes, value: &Lanes, mask: u32) {
    if mask == u32::MAX {
        *to = *value;
        return;
    }
    for lane in 0..LANES {
        if mask >> lane & 1 == 1 {
            to[lane] = value[lane];
        }
    }
}

fn initial(machine: &Machine, warp: u32, initial: Initial) -> Lanes {
    match initial {
        Initial::Register => [POISON; LANES],
        Initial::Constant(value) => [value; LANES],
        Initial::Dynamic(offset) => [machine.kernel.dynamic_start().wrapping_add(offset); LANES],
        Initial::Special(s) => std::array::from_fn(|lane| special(machine, warp, lane as u32, s)),
    }
}

fn special(machine: &Machine, warp: u32, lane: u32, s: Special) -> u64 {
    let (launch, kernel) = (machine.launch, machine.kernel);
    let threads: u32 = launch.block.iter().product();
    let value = match s {
        Special::Thread(axis) => machine.thread(warp * LANES as u32 + lane)[axis],
        Special::Threads(axis) => launch.block[axis],
        Special::Block(axis) => machine.block[axis],
        Special::Blocks(axis) => launch.grid[axis],
        Special::Lane => lane,
        Special::Warp => warp,
        Special::Warps => threads.div_ceil(LANES as u32),
        Special::LaneMask(order, equal) => {
            let below = ones(lane) as u32;
            let own = if equal { 1 << lane } else { 0 };
            match order {
                Ordering::Less => below | own,
                Ordering::Equal => own,
                Ordering::Greater => !below & !(1 << lane) | own,
            }
        }
        Special::DynamicShared => launch.shared,
        Special::TotalShared => kernel.shared_bytes(launch) as u32,
        Special::Zero => 0,
        Special::One => 1,
    };
    value as u64
}

impl Machine<'_> {
    /// Runs a warp until it waits or ends, for `turns` instructions at most.
    pub fn run_warp(&mut self, warp: &mut Warp, turns: u64, random: &mut u64) -> Result<(), Box<Problem>> {
        let kernel = self.kernel;
        for _ in 0..turns {
            while let Some(top) = warp.paths.last() {
                if top.lanes == 0 || top.pc == top.meet {
                    warp.paths.pop();
                } else {
                    break;
                }
            }
            let Some(top) = warp.paths.last_mut() else {
                warp.state = State::Done;
                self.drop_copies(warp);
                self.end_bulk(warp)?;
                self.end_products(warp)?;
                return Ok(());
            };
            let instr = &kernel.code[top.pc as usize];
            warp.pc = top.pc;
            let lanes = top.lanes;
            warp.mask = lanes & warp.guard(instr.guard);
            self.spend(warp)?;
            let jumped = match &instr.op {
                Op::Branch { .. } | Op::BranchTable { .. } => {
                    self.branch(warp, instr, lanes, random)?;
                    true
                }
                _ if warp.mask == 0 => false,
                _ => {
                    self.execute(warp, instr)?;
                    false
                }
            };
            if !jumped && let Some(top) = warp.paths.last_mut() {
                top.pc += 1;
            }
            if warp.state != State::Ready || warp.stalled.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn spend(&mut self, warp: &Warp) -> Result<(), Box<Problem>> {
        self.counters.warp_instructions += 1;
        self.counters.thread_instructions += warp.mask.count_ones() as u64;
        self.fuel = self.fuel.saturating_sub(1);
        if self.fuel == 0 {
            let message = format!("no end after {} instructions of warps", self.launch.limit);
            return Err(Problem::new(FaultKind::Endless, message));
        }
        Ok(())
    }

    fn branch(&mut self, warp: &mut Warp, instr: &Instr, lanes: u32, random: &mut u64) -> Result<(), Box<Problem>> {
        match &instr.op {
            Op::Branch { to } => self.go(warp, lanes, warp.mask, *to, instr.meet, random),
            Op::BranchTable { targets, index } => {
                if warp.mask == 0 {
                    self.go(warp, lanes, 0, 0, instr.meet, random);
                    return Ok(());
                }
                let index = warp.uniform(*index)? as usize;
                let Some(to) = targets.get(index) else {
                    let message = format!("label {index} of a list of {}", targets.len());
                    return Err(Problem::new(FaultKind::Operand, message));
                };
                self.go(warp, lanes, warp.mask, *to, instr.meet, random);
            }
            _ => {}
        }
        Ok(())
    }

    fn go(&mut self, warp: &mut Warp, lanes: u32, taken: u32, to: u32, meet: u32, random: &mut u64) {
        let Some(top) = warp.paths.last_mut() else { return };
        if taken == lanes {
            top.pc = to;
        } else if taken == 0 {
            top.pc += 1;
        } else {
            self.counters.divergent_branches += 1;
            let swap = self.launch.seed != 0 && super::block::next_random(random) & 1 == 1;
            warp.part(taken, to, meet, swap);
        }
    }

    fn execute(&mut self, warp: &mut Warp, instr: &Instr) -> Result<(), Box<Problem>> {
        self.counters.flops += instr.flops as u64 * warp.mask.count_ones() as u64;
        if let Some(slots) = &instr.watched {
            use_registers(warp, slots)?;
        }
        match &instr.op {
            Op::Alu { f, to, from } => {
                let mut out = [0; LANES];
                f(&mut out, from.map(|s| warp.reg(s)));
                warp.put(*to, &out);
            }
            Op::Compare { f, from, p, q, with, combine } => {
                let (holds, other) = (f(warp.reg(from[0]), warp.reg(from[1])), warp.guard(*with));
                if let Some(p) = p {
                    warp.put_predicate(*p, combine.of(holds, other));
                }
                if let Some(q) = q {
                    warp.put_predicate(*q, combine.of(!holds, other));
                }
            }
            Op::Predicate { to, a, b, op } => {
                let value = op.of(warp.guard(*a), warp.guard(*b));
                warp.put_predicate(*to, value);
            }
            Op::Select { to, a, b, by } => {
                let by = warp.guard(*by);
                let (a, b) = (warp.reg(*a), warp.reg(*b));
                let out: Lanes = std::array::from_fn(|l| if by >> l & 1 == 1 { a[l] } else { b[l] });
                warp.put(*to, &out);
            }
            Op::Carry { .. } => carry(warp, &instr.op),
            Op::Pack { to, parts, bits } => pack(warp, *to, parts, *bits),
            Op::Unpack { parts, from, bits } => unpack(warp, parts, *from, *bits),
            Op::Load(access) => self.load(warp, access)?,
            Op::Store(access) => self.store(warp, access)?,
            Op::Atomic { access, f, from } => self.atomic(warp, access, f, *from)?,
            Op::Window { to, from, space, back } => window(warp, *to, *from, *space, *back),
            Op::IsSpace { to, from, space } => {
                let from = warp.reg(*from);
                let inside = (0..LANES).fold(0, |m, l| m | (is_space(from[l], *space) as u32) << l);
                warp.put_predicate(*to, inside);
            }
            Op::Branch { .. } | Op::BranchTable { .. } => {}
            Op::Exit => warp.end_threads(warp.mask),
            Op::Trap => return Err(Problem::new(FaultKind::Trap, "the kernel stopped itself")),
            Op::Barrier(barrier) => arrive(warp, barrier)?,
            Op::WarpBarrier { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Reduce { .. }
            | Op::ActiveMask { .. }
            | Op::Elect { .. } => super::collective::execute(warp, &instr.op)?,
            Op::Copy(copy) => self.copy(warp, copy)?,
            Op::CopyCommit => self.commit_copies(warp),
            Op::CopyWait(left) => self.wait_copies(warp, *left),
            Op::LoadMatrix(access) => self.load_matrix(warp, access)?,
            Op::StoreMatrix(access) => self.store_matrix(warp, access)?,
            Op::Mma(mma) => self.mma(warp, mma)?,
            Op::MBarrier(m) => self.mbarrier(warp, m)?,
            Op::Bulk(bulk) => self.bulk(warp, bulk)?,
            Op::BulkCommit => self.commit_bulk(warp),
            Op::BulkWait { left, read } => self.wait_bulk(warp, *left, *read),
            Op::Product(product) => self.product(warp, product)?,
            Op::ProductFence => product_fence(warp),
            Op::ProductCommit => self.commit_products(warp)?,
            Op::ProductWait(left) => self.wait_products(warp, *left)?,
            Op::ProxyFence { barriers } => self.proxy_fence(warp, *barriers),
            Op::Fence => {}
        }
        Ok(())
    }
}

fn carry(warp: &mut Warp, op: &Op) {
    let Op::Carry { to, a, b, bits, subtract, read, write } = op else { return };
    let (a, b, m) = (warp.reg(*a), warp.reg(*b), ones(*bits));
    let (mut out, mut flags) = ([0; LANES], 0u32);
    for lane in 0..LANES {
        let c = if *read { warp.carry >> lane & 1 } else { 0 } as u128;
        let (x, y) = (a[lane] as u128, b[lane] as u128);
        // A borrow is the carry of a subtraction.
        let full = if *subtract { x.wrapping_sub(y).wrapping_sub(c) } else { x + y + c };
        out[lane] = full as u64 & m;
        flags |= ((full >> bits & 1) as u32) << lane;
    }
    warp.put(*to, &out);
    if *write {
        warp.carry = (warp.carry & !warp.mask) | (flags & warp.mask);
    }
}

fn pack(warp: &mut Warp, to: Slot, parts: &[Slot], bits: u32) {
    let mut out = [0; LANES];
    for (i, part) in parts.iter().enumerate() {
        let part = warp.reg(*part);
        (0..LANES).for_each(|l| out[l] |= (part[l] & ones(bits)) << (bits * i as u32));
    }
    warp.put(to, &out);
}

fn unpack(warp: &mut Warp, parts: &[Option<Slot>], from: Slot, bits: u32) {
    let whole = *warp.reg(from);
    for (i, part) in parts.iter().enumerate() {
        if let Some(part) = part {
            let out = std::array::from_fn(|l| whole[l] >> (bits * i as u32) & ones(bits));
            warp.put(*part, &out);
        }
    }
}

/// Where a space lies among generic addresses.
fn base(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

fn window(warp: &mut Warp, to: Slot, from: Slot, space: Space, back: bool) {
    let (from, base) = (warp.reg(from), base(space));
    let out = std::array::from_fn(|l| if back { from[l].wrapping_sub(base) } else { from[l].wrapping_add(base) });
    warp.put(to, &out);
}

fn is_space(address: u64, space: Space) -> bool {
    let found = space_of(address).0;
    found == space || (found == Space::Global && space == Space::Const)
}

/// The space of a generic address, and the address in it.
pub fn space_of(address: u64) -> (Space, u64) {
    for space in [Space::Shared, Space::Local, Space::Param] {
        let offset = address.wrapping_sub(base(space));
        if offset < WINDOW {
            return (space, offset);
        }
    }
    (Space::Global, address)
}

/// A warp comes to a barrier of the block.
fn arrive(warp: &mut Warp, barrier: &Barrier) -> Result<(), Box<Problem>> {
    if warp.mask != warp.all {
        let missing = warp.all & !warp.mask;
        let lane = missing.trailing_zeros();
        let gone = missing & !warp.live != 0;
        let how = if gone { "has ended" } else { "is on another path" };
        let message = format!("a barrier that lane {lane} of the warp does not reach: it {how}");
        return Err(Problem::new(FaultKind::Divergence, message));
    }
    let id = warp.uniform(barrier.id)?;
    let refuse = |message: String| Err(Problem::new(FaultKind::Operand, message));
    if id > 16 {
        return refuse(format!("barrier {id}; there are 16"));
    }
    let warps = match barrier.threads {
        None => None,
        Some(threads) => match warp.uniform(threads)? {
            n if n == 0 || n % LANES as u64 != 0 || n > 1024 => {
                return refuse(format!("a barrier for {n} threads; whole warps take part"));
            }
            n => Some((n / LANES as u64) as u32),
        },
    };
    let votes = barrier.reduce.map_or(0, |(_, by, _)| (warp.guard(by) & warp.all).count_ones());
    let votes = (warp.all.count_ones(), votes);
    warp.state = State::Waiting(Arrival { id: id as u32, warps, pc: warp.pc, wait: barrier.wait, votes });
    Ok(())
}
