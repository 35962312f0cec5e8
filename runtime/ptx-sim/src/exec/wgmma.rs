//! Products of four warps (`wgmma`). They read shared memory while the warps go on; their results are in registers only for who
//! waited, and until then nobody may touch what they use.
//!
//! Layouts are those of the PTX ISA, section "Asynchronous warpgroup level matrix instructions". Each warp computes its 16 of
//! the 64 rows. Sums are rounded once, as in [`super::matrix`].

use super::Machine;
use super::agent::{Task, unit};
use super::matrix::{Fragment, position, whole_warp};
use super::shadow::Record;
use super::warp::Warp;
use crate::fault::{FaultKind, Problem};
use crate::number::{Rounding, narrow, widen};
use crate::program::{LANES, Lanes, Left, Product, Slot};
use crate::tensor_map::Swizzle;
use crate::types::{Type, mask};
use std::collections::{HashMap, HashSet, VecDeque};

/// Warps that multiply together.
const GROUP: u32 = 4;
/// Rows of a warp, and the length of the sum.
const ROWS: usize = 16;
const INNER: usize = 16;
/// Columns at most.
const COLUMNS: usize = 256;

/// Matrices of 16-bit elements in shared memory, as a descriptor of 64 bits tells.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
}

impl Descriptor {
    fn new(bits: u64) -> Result<Descriptor, Box<Problem>> {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        if bits >> 49 & 7 != 0 {
            let message = format!("a descriptor {bits:#x} with a base offset, which the simulator does not know");
            return Err(Problem::new(FaultKind::Operand, message));
        }
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// Where eight elements lie side by side that start at `row` (of the matrix' outer axis) and `inner` (along the sum):
    /// along the sum, or along the rows where the matrix is transposed.
    fn address(&self, row: usize, inner: usize, transposed: bool) -> u64 {
        let (row, inner) = (row as u64, inner as u64);
        let (eights, span) = (self.swizzle.span() / 16, self.swizzle.span());
        let offset = match (transposed, self.swizzle) {
            (false, Swizzle::None) => row % 8 * 16 + row / 8 * self.stride + inner / 8 * self.leading,
            (false, _) => row % 8 * span + row / 8 * self.stride + inner / 8 * 16,
            (true, Swizzle::None) => row / 8 * self.stride + inner % 8 * 16 + inner / 8 * self.leading,
            (true, _) => {
                let chunk = row / 8;
                chunk % eights * 16 + chunk / eights * self.leading + inner % 8 * span + inner / 8 * self.stride
            }
        };
        self.swizzle.apply(self.start + offset)
    }
}

/// A register that a product uses.
#[derive(Clone, Debug)]
struct Busy {
    /// The group of products, and the instruction.
    group: u64,
    pc: u32,
    /// What it will hold; `None` where it is only read.
    result: Option<Box<Lanes>>,
    /// Columns of the product, of which others may follow.
    n: usize,
}

/// The products of a warp.
#[derive(Clone, Debug, Default)]
pub struct Products {
    /// Whether there was a `wgmma.fence`, and which registers were used since.
    fenced: bool,
    used: HashSet<Slot>,
    busy: HashMap<Slot, Busy>,
    /// Groups that were closed, and the times of those that are under way.
    closed: u64,
    times: VecDeque<u32>,
    /// Products so far, for the other warps to be compared with.
    count: u64,
}

/// What the warps of a group multiplied: instruction and descriptors, until all of them were there.
#[derive(Clone, Debug, Default)]
pub struct Log {
    first: u64,
    entries: VecDeque<([u64; 3], u32)>,
}

impl Machine<'_> {
    pub fn product(&mut self, warp: &mut Warp, p: &Product) -> Result<(), Box<Problem>> {
        whole_warp(warp)?;
        self.together(warp, p)?;
        check_registers(warp, p)?;
        self.counters.matrix_instructions += 1;
        self.counters.matrix_flops += 2 * (ROWS * p.n * INNER) as u64;
        let agent = self.agent(Task::Products(warp.index), warp.index)?;
        let record = self.agent_record(agent, 0, warp.pc);
        let a = self.left(warp, p, record)?;
        let b = self.right(warp, p, record)?;
        multiply(warp, p, &a, &b);
        if let Left::Registers(registers) = &p.a {
            for slot in registers {
                let busy = Busy { group: warp.products.closed, pc: warp.pc, result: None, n: p.n };
                warp.products.busy.entry(*slot).or_insert(busy).group = warp.products.closed;
            }
        }
        Ok(())
    }

    /// All warps of a group execute the same products in the same order.
    fn together(&mut self, warp: &mut Warp, p: &Product) -> Result<(), Box<Problem>> {
        let threads: u32 = self.launch.block.iter().product();
        let group = warp.index / GROUP;
        if threads < (group + 1) * GROUP * LANES as u32 {
            let message = format!("a product of four warps, of which the block has not all: it has {threads} threads");
            return Err(Problem::new(FaultKind::Launch, message));
        }
        let a = match &p.a {
            Left::Registers(_) => 0,
            Left::Shared { descriptor, .. } => warp.uniform(*descriptor)?,
        };
        let mine = [warp.pc as u64, a, warp.uniform(p.b)?];
        let log = &mut self.logs[group as usize];
        let at = (warp.products.count - log.first) as usize;
        warp.products.count += 1;
        match log.entries.get_mut(at) {
            None => log.entries.push_back((mine, 1)),
            Some((other, count)) if *other == mine => *count += 1,
            Some((other, _)) => {
                let message = "a product with another instruction or other matrices than another warp of the four";
                let mut problem = Problem::new(FaultKind::Divergence, message);
                problem.other = Some((other[0] as u32, group * GROUP * LANES as u32));
                return Err(problem);
            }
        }
        while log.entries.front().is_some_and(|(_, count)| *count == GROUP) {
            log.entries.pop_front();
            log.first += 1;
        }
        Ok(())
    }

    /// The left matrix, row after row of this warp.
    fn left(&mut self, warp: &Warp, p: &Product, record: Record) -> Result<Vec<f64>, Box<Problem>> {
        let mut out = vec![0f64; ROWS * INNER];
        match &p.a {
            Left::Registers(registers) => {
                for (r, slot) in registers.iter().enumerate() {
                    for (lane, whole) in warp.reg(*slot).iter().enumerate() {
                        for part in 0..2 {
                            let (row, inner) = position(Fragment::A, p.ty, lane, r, part);
                            out[row * INNER + inner] = widen(whole >> (16 * part) & mask(16), p.ty);
                        }
                    }
                }
            }
            Left::Shared { descriptor, transposed } => {
                let first = (warp.index % GROUP) as usize * ROWS;
                let d = Descriptor::new(warp.uniform(*descriptor)?)?;
                self.matrix(warp, p.ty, &d, (first, ROWS), *transposed, record, |row, inner, x| {
                    out[row * INNER + inner] = x;
                })?;
            }
        }
        if p.negate[0] {
            out.iter_mut().for_each(|x| *x = -*x);
        }
        Ok(out)
    }

    /// The right matrix, a row of columns for each step of the sum.
    fn right(&mut self, warp: &Warp, p: &Product, record: Record) -> Result<Vec<f64>, Box<Problem>> {
        let mut out = vec![0f64; INNER * p.n];
        let d = Descriptor::new(warp.uniform(p.b)?)?;
        self.matrix(warp, p.ty, &d, (0, p.n), p.b_transposed, record, |column, inner, x| {
            out[inner * p.n + column] = x
        })?;
        if p.negate[1] {
            out.iter_mut().for_each(|x| *x = -*x);
        }
        Ok(out)
    }

    /// Reads rows of a matrix in shared memory, eight elements at a time.
    #[allow(clippy::too_many_arguments)]
    fn matrix(
        &mut self,
        warp: &Warp,
        ty: Type,
        d: &Descriptor,
        (first, rows): (usize, usize),
        transposed: bool,
        record: Record,
        mut put: impl FnMut(usize, usize, f64),
    ) -> Result<(), Box<Problem>> {
        let (row_step, inner_step) = if transposed { (8, 1) } else { (1, 8) };
        for row in (0..rows).step_by(row_step) {
            for inner in (0..INNER).step_by(inner_step) {
                let at = d.address(first + row, inner, transposed);
                let eight = self.async_read(warp, 0, at, record)?;
                for (i, pair) in eight.chunks_exact(2).enumerate() {
                    let x = widen(u16::from_le_bytes([pair[0], pair[1]]) as u64, ty);
                    if transposed { put(row + i, inner, x) } else { put(row, inner + i, x) }
                }
            }
        }
        self.counters.shared_read_bytes += (rows * INNER * 2) as u64;
        Ok(())
    }

    pub fn commit_products(&mut self, warp: &mut Warp) -> Result<(), Box<Problem>> {
        let agent = self.agent(Task::Products(warp.index), warp.index)?;
        let time = self.advance(agent);
        warp.products.closed += 1;
        warp.products.times.push_back(time);
        Ok(())
    }

    pub fn wait_products(&mut self, warp: &mut Warp, left: u32) -> Result<(), Box<Problem>> {
        let agent = self.agent(Task::Products(warp.index), warp.index)?;
        while warp.products.times.len() > left as usize {
            let time = warp.products.times.pop_front().unwrap_or(0);
            warp.order.reach(unit(agent), time);
        }
        let over = warp.products.closed - warp.products.times.len() as u64;
        let done: Vec<Slot> = warp.products.busy.iter().filter(|(_, b)| b.group < over).map(|(s, _)| *s).collect();
        for slot in done {
            if let Some(Busy { result: Some(value), .. }) = warp.products.busy.remove(&slot) {
                warp.regs[slot as usize] = *value;
            }
        }
        Ok(())
    }

    /// The warp ends.
    pub fn end_products(&self, warp: &Warp) -> Result<(), Box<Problem>> {
        if warp.products.busy.is_empty() {
            return Ok(());
        }
        let mut problem = Problem::new(FaultKind::NotWaited, "the warp ends while a product is under way");
        let pc = warp.products.busy.values().map(|b| b.pc).min().unwrap_or(0);
        problem.other = Some((pc, warp.index * LANES as u32));
        Err(problem)
    }
}

pub fn product_fence(warp: &mut Warp) {
    warp.products.fenced = true;
    warp.products.used.clear();
}

/// Another instruction uses registers of products.
pub fn use_registers(warp: &mut Warp, slots: &[Slot]) -> Result<(), Box<Problem>> {
    for slot in slots {
        if let Some(busy) = warp.products.busy.get(slot) {
            let message = "a register of a product under way, which nobody waited for";
            let mut problem = Problem::new(FaultKind::NotWaited, message);
            problem.other = Some((busy.pc, warp.index * LANES as u32));
            return Err(problem);
        }
        warp.products.used.insert(*slot);
    }
    Ok(())
}

/// Registers are used by a product only after a fence, or after products of the same shape.
fn check_registers(warp: &Warp, p: &Product) -> Result<(), Box<Problem>> {
    let products = &warp.products;
    let refuse = |message: &str, other: Option<u32>| {
        let mut problem = Problem::new(FaultKind::NotFenced, message);
        problem.other = other.map(|pc| (pc, warp.index * LANES as u32));
        Err(problem)
    };
    if !products.fenced {
        return refuse("a product before the first `wgmma.fence`", None);
    }
    if p.registers().any(|s| products.used.contains(&s)) {
        return refuse("a register of the product was used after the last `wgmma.fence`", None);
    }
    if let Some(other) = p.d.iter().find_map(|s| products.busy.get(s).filter(|b| b.result.is_none() || b.n != p.n)) {
        return refuse("the result's registers are those of a product of another shape under way", Some(other.pc));
    }
    if let Left::Registers(a) = &p.a
        && let Some(other) = a.iter().find_map(|s| products.busy.get(s).filter(|b| b.result.is_some()))
    {
        return refuse("the left matrix is the result of a product under way", Some(other.pc));
    }
    Ok(())
}

/// Results are kept until they are waited for; the registers hold what they held.
fn multiply(warp: &mut Warp, p: &Product, a: &[f64], b: &[f64]) {
    let mut sum = vec![0f64; ROWS * p.n];
    for row in 0..ROWS {
        let line = &mut sum[row * p.n..][..p.n];
        for inner in 0..INNER {
            let (factor, columns) = (a[row * INNER + inner], &b[inner * p.n..][..p.n]);
            line.iter_mut().zip(columns).for_each(|(s, x)| *s += factor * x);
        }
    }
    debug_assert!(p.n <= COLUMNS);
    let add = warp.guard(p.add);
    for (r, slot) in p.d.iter().enumerate() {
        let old = match warp.products.busy.get(slot) {
            Some(Busy { result: Some(value), .. }) => **value,
            _ => *warp.reg(*slot),
        };
        let value: Lanes = std::array::from_fn(|lane| {
            let (row, column) = accumulator(lane, r);
            let addend = if add >> lane & 1 == 1 { widen(old[lane], Type::F32) } else { 0.0 };
            narrow(sum[row * p.n + column] + addend, Type::F32, Rounding::Even, false)
        });
        let busy = Busy { group: warp.products.closed, pc: warp.pc, result: Some(Box::new(value)), n: p.n };
        warp.products.busy.insert(*slot, busy);
    }
}

/// Row of the warp and column of a lane's register of the result.
fn accumulator(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2 % 2), register / 4 * 8 + lane % 4 * 2 + register % 2)
}
