//! The device's memory behind an engine: weights, caches, buffers and tables, and one batch's way through it.

use super::batch::{self, Lengths, Piece};
use super::inputs::{self, Prepared};
use super::{Feed, Output, Role, operand};
use crate::device::{Calls, Device, Memory};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::Dim;
use llmc_artifact::plan::{Arg, Plan, RolePlan, Storage, Table};
use std::collections::BTreeSet;

/// Memory that grows when more is asked for.
#[derive(Debug, Default)]
pub(super) struct Room {
    memory: Option<Memory>,
    bytes: u64,
}

impl Room {
    /// The memory.
    ///
    /// # Panics
    /// When none was asked for yet.
    pub(super) fn memory(&self) -> Memory {
        self.memory.expect("engine: memory is used before its size is known")
    }

    /// At least `bytes` bytes; what was there is lost when it grows.
    fn ensure(&mut self, device: &mut dyn Device, bytes: u64) -> Result<(), RunError> {
        if self.memory.is_none() || self.bytes < bytes {
            if let Some(old) = self.memory.take() {
                device.release(old);
            }
            self.memory = Some(device.allocate(bytes)?);
            self.bytes = bytes;
        }
        Ok(())
    }

    /// At least `bytes` bytes; what was there stays.
    fn grow(&mut self, device: &mut dyn Device, bytes: u64) -> Result<(), RunError> {
        if self.memory.is_some() && self.bytes >= bytes {
            return Ok(());
        }
        let larger = device.allocate(bytes)?;
        if let Some(old) = self.memory.replace(larger) {
            device.copy((old, 0), (larger, 0), self.bytes)?;
            device.release(old);
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// Everything of an engine that changes.
pub(super) struct State {
    pub device: Box<dyn Device>,
    /// By the plan's weights.
    pub weights: Vec<Memory>,
    /// By the plan's caches.
    pub caches: Vec<Room>,
    /// By the slots of the plan's buffers.
    pub slots: Vec<Room>,
    /// The tables that some kernel reads.
    tables: Vec<(Table, Room)>,
    /// What a step of each role touches.
    needs: [Needs; 2],
    /// The most pages that each axis may have.
    page_limit: u32,
    calls: Calls,
    words: Vec<i32>,
}

/// What a step of one role touches: a role pays for no memory and no table that only the other's kernels use.
struct Needs {
    /// Buffers by number, inputs and outputs among them.
    buffers: BTreeSet<u32>,
    tables: BTreeSet<Table>,
}

impl Needs {
    fn of(device: &dyn Device, plan: &Plan, role: &RolePlan) -> Needs {
        let args = role.launches.iter().flat_map(|l| &l.args).filter_map(|arg| match arg {
            Arg::Buffer(b) => Some(*b),
            Arg::Weight(_) | Arg::Cache(_) => None,
        });
        let ends = plan.inputs.iter().map(|i| i.buffer).chain(plan.outputs.iter().map(|o| o.buffer));
        let kernels: BTreeSet<u32> = role.launches.iter().map(|l| l.kernel).collect();
        let tables = kernels.iter().flat_map(|k| device.kernels()[*k as usize].tables.iter().copied());
        Needs { buffers: args.chain(ends).collect(), tables: tables.collect() }
    }
}

/// Bytes of one page of a cache.
pub(super) fn page_bytes(plan: &Plan, cache: usize) -> u64 {
    let cache = &plan.caches[cache];
    let fixed = |d: Dim| d.as_const().expect("a page has constant dimensions");
    cache.storage.bytes(cache.format, fixed).expect("a validated plan's pages have sizes")
}

/// The caches of one sequence axis.
pub(super) fn caches_of(plan: &Plan, axis: usize) -> impl Iterator<Item = usize> + '_ {
    let of_axis = move |i: &usize| match &plan.caches[*i].storage {
        Storage::Paged { seq, .. } => seq.0 as usize == axis,
        Storage::Dense { .. } | Storage::Panel { .. } | Storage::Workspace { .. } => false,
    };
    (0..plan.caches.len()).filter(of_axis)
}

impl State {
    pub(super) fn new(device: Box<dyn Device>, plan: &Plan, weights: Vec<Memory>, page_limit: u32) -> State {
        let slots = plan.buffers.iter().map(|b| b.slot as usize + 1).max().unwrap_or(0);
        let needs = [&plan.prefill, &plan.decode].map(|role| Needs::of(&*device, plan, role));
        let tables: BTreeSet<Table> = needs.iter().flat_map(|n| n.tables.iter().copied()).collect();
        State {
            needs,
            weights,
            caches: plan.caches.iter().map(|_| Room::default()).collect(),
            slots: (0..slots).map(|_| Room::default()).collect(),
            tables: tables.into_iter().map(|t| (t, Room::default())).collect(),
            page_limit,
            calls: Calls::default(),
            words: Vec::new(),
            device,
        }
    }

    /// Memory for pages `0..pages` of every cache of the axis.
    pub(super) fn ensure_pages(&mut self, plan: &Plan, axis: usize, pages: u32) -> Result<(), RunError> {
        for cache in caches_of(plan, axis) {
            let (room, page) = (&mut self.caches[cache], page_bytes(plan, cache));
            let have = if room.memory.is_none() { 0 } else { room.bytes / page.max(1) };
            if room.memory.is_none() || room.bytes < pages as u64 * page {
                // By a quarter: growing copies, but room that is never used counts too.
                let ahead = (have + have / 4 + 1).min(self.page_limit as u64);
                let want = (pages as u64).max(ahead);
                room.grow(&mut *self.device, want * page)?;
            }
        }
        Ok(())
    }

    /// Copies a page in every cache of the axis.
    pub(super) fn copy_page(&mut self, plan: &Plan, axis: usize, from: u32, to: u32) -> Result<(), RunError> {
        self.ensure_pages(plan, axis, from.max(to) + 1)?;
        for cache in caches_of(plan, axis) {
            let (memory, page) = (self.caches[cache].memory(), page_bytes(plan, cache));
            self.device.copy((memory, from as u64 * page), (memory, to as u64 * page), page)?;
        }
        Ok(())
    }

    /// Room for every buffer of the role at these lengths; buffers of one slot share it.
    pub(super) fn ensure_buffers(&mut self, plan: &Plan, role: Role, lengths: &Lengths) -> Result<(), RunError> {
        let mut sizes = vec![None; self.slots.len()];
        for buffer in self.needs[role as usize].buffers.iter().map(|b| &plan.buffers[*b as usize]) {
            let storage = Storage::Dense { dims: buffer.dims.clone() };
            let bytes = storage.bytes(buffer.format, |d| lengths.of(d)).ok_or_else(|| {
                RunError::new(RunCode::Memory, format_args!("buffer `{}`", buffer.name), "more than any memory")
                    .help("give fewer tokens at a time")
            })?;
            let size = &mut sizes[buffer.slot as usize];
            *size = (*size).max(Some(bytes));
        }
        let wanted = self.slots.iter_mut().zip(sizes).filter_map(|(slot, bytes)| Some((slot, bytes?)));
        wanted.map(|(slot, bytes)| slot.ensure(&mut *self.device, bytes)).collect()
    }

    pub(super) fn write_inputs(
        &mut self,
        plan: &Plan,
        pieces: &[Piece],
        prepared: &[Prepared],
    ) -> Result<(), RunError> {
        for (i, input) in plan.inputs.iter().enumerate() {
            let (axis, width) = inputs::shape(plan, input);
            let mut words: Vec<u32> = Vec::new();
            match axis {
                None => words.extend(pieces.first().into_iter().flat_map(|p| &prepared[p.feed].words[i])),
                Some(axis) => {
                    for piece in pieces {
                        let start = piece.start[axis] * width;
                        words.extend(&prepared[piece.feed].words[i][start..start + piece.count[axis] * width]);
                    }
                }
            }
            let slot = plan.buffers[input.buffer as usize].slot as usize;
            self.device.write(self.slots[slot].memory(), 0, bytemuck::cast_slice(&words))?;
        }
        Ok(())
    }

    pub(super) fn write_tables(
        &mut self,
        pieces: &[Piece],
        feeds: &[Feed],
        role: Role,
        lengths: &Lengths,
    ) -> Result<(), RunError> {
        let needed = &self.needs[role as usize].tables;
        for (table, room) in self.tables.iter_mut().filter(|(table, _)| needed.contains(table)) {
            self.words.clear();
            batch::fill_table(*table, pieces, feeds, lengths, &mut self.words);
            let bytes: &[u8] = bytemuck::cast_slice(&self.words);
            room.ensure(&mut *self.device, bytes.len() as u64)?;
            self.device.write(room.memory(), 0, bytes)?;
        }
        Ok(())
    }

    pub(super) fn run(&mut self, plan: &Plan, role: &RolePlan, lengths: &Lengths) -> Result<(), RunError> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.clear();
        for launch in &role.launches {
            let kernel = &self.device.kernels()[launch.kernel as usize];
            let items = kernel.items.iter().try_fold(1u64, |n, d| n.checked_mul(lengths.of(*d)));
            let items = items.filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| {
                RunError::new(
                    RunCode::Memory,
                    format_args!("kernel `{}`", kernel.symbol),
                    "more work than can be counted",
                )
                .help("give fewer tokens at a time")
            })?;
            if items == 0 {
                continue;
            }
            let table = |t: &Table| {
                let (_, room) = self.tables.iter().find(|(have, _)| have == t).expect("every kernel's table is there");
                room.memory()
            };
            let operands = launch.args.iter().map(|arg| operand(plan, self, *arg));
            let pointers = operands.chain(kernel.tables.iter().map(table));
            calls.push(launch.kernel, pointers, kernel.dims.iter().map(|d| lengths.of(*d) as i64), items);
        }
        let done = self.device.run(&calls);
        self.calls = calls;
        done
    }

    /// Appends the wanted rows of every output to its feeds' results.
    pub(super) fn read_outputs(
        &mut self,
        plan: &Plan,
        pieces: &[Piece],
        lengths: &Lengths,
        results: &mut [Vec<Output>],
    ) -> Result<(), RunError> {
        for (o, output) in plan.outputs.iter().enumerate() {
            let buffer = &plan.buffers[output.buffer as usize];
            let width: usize = buffer.dims.iter().filter_map(|d| d.as_const()).product::<u64>() as usize;
            let first = buffer.dims.first().copied().filter(|d| d.as_const().is_none());
            let rows = first.map_or(1, |d| lengths.of(d) as usize);
            let mut values = vec![0f32; rows * width];
            if !values.is_empty() {
                let memory = self.slots[buffer.slot as usize].memory();
                self.device.read(memory, 0, bytemuck::cast_slice_mut(&mut values))?;
            }
            let mut row = 0;
            for (number, piece) in pieces.iter().enumerate() {
                let result = &mut results[piece.feed][o];
                let mut take = |row: usize| result.data.extend_from_slice(&values[row * width..][..width]);
                match first {
                    Some(Dim::Picked(s)) => {
                        let count = piece.picked[s.0 as usize].len();
                        (row..row + count).for_each(take);
                        (row, result.rows) = (row + count, result.rows + count);
                    }
                    Some(Dim::Rows(s)) => {
                        let picked = &piece.picked[s.0 as usize];
                        picked.iter().for_each(|at| take(row + at));
                        (row, result.rows) = (row + piece.count[s.0 as usize], result.rows + picked.len());
                    }
                    // One value for the whole sequence, or for the whole batch: what the last piece saw holds.
                    Some(Dim::Sequences) | None => {
                        result.data.clear();
                        let at = if first.is_some() { number } else { 0 };
                        result.data.extend_from_slice(&values[at * width..][..width]);
                        result.rows = 1;
                    }
                    Some(Dim::Const(_) | Dim::Blocks(_) | Dim::Tokens(_) | Dim::Pages(_) | Dim::Parts(..)) => {
                        unreachable!("a validated plan's outputs")
                    }
                }
            }
        }
        Ok(())
    }
}
