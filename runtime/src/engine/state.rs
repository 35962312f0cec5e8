//! The device's memory behind an engine: weights, caches, buffers and tables, and one batch's way through it.

use super::batch::{self, Lengths, Piece};
use super::inputs::{self, Prepared};
use super::{Best, Feed, Output, Search, Wanted, operand};
use crate::device::{Calls, Device, Memory};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::Dim;
use llmc_artifact::plan::{Arg, Launch, PAGE_TOKENS, Plan, Storage, Table};
use std::collections::BTreeSet;

/// The fewest bytes of a table.
const LEAST_TABLE: u64 = 1024;

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
    /// What some launches touch.
    fn of(device: &dyn Device, launches: &[Launch]) -> Needs {
        let args = launches.iter().flat_map(|l| &l.args).filter_map(|arg| match arg {
            Arg::Buffer(b) => Some(*b),
            Arg::Weight(_) | Arg::Cache(_) => None,
        });
        let kernels: BTreeSet<u32> = launches.iter().map(|l| l.kernel).collect();
        let tables = kernels.iter().flat_map(|k| device.kernels()[*k as usize].tables.iter().copied());
        Needs { buffers: args.collect(), tables: tables.collect() }
    }

    /// With the inputs and outputs, which every step touches.
    fn with_ends(mut self, plan: &Plan) -> Needs {
        self.buffers.extend(plan.inputs.iter().map(|i| i.buffer).chain(plan.outputs.iter().map(|o| o.buffer)));
        self
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
        let needs = [&plan.prefill, &plan.decode].map(|role| Needs::of(&*device, &role.launches).with_ends(plan));
        let searches = plan.best.iter().flat_map(|search| Needs::of(&*device, &search.launches).tables);
        let tables: BTreeSet<Table> = needs.iter().flat_map(|n| n.tables.iter().copied()).chain(searches).collect();
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
            if room.memory.is_some() && room.bytes >= pages as u64 * page {
                continue;
            }
            // By a quarter: growing copies, but room that is never used counts too.
            let (least, ahead) = (pages as u64, (have + have / 4 + 1).min(self.page_limit as u64));
            let grown = room.grow(&mut *self.device, least.max(ahead) * page);
            let grown = grown.or_else(|_| room.grow(&mut *self.device, least * page));
            if let Err(e) = grown {
                let part =
                    format!("caches for {} tokens, at `{}`", least * PAGE_TOKENS as u64, plan.caches[cache].name);
                let help = "shorten or drop sequences, or give the caches fewer bytes";
                return Err(e.without_room(part, least * page, self.device.free_memory(), help));
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

    /// What a wanted search touches beyond its role.
    fn needs_of_search(&self, wanted: Wanted) -> Needs {
        Needs::of(&*self.device, wanted.search.map_or(&[], |search| &search.launches))
    }

    /// Room for every buffer that is wanted at these lengths; buffers of one slot share it.
    pub(super) fn ensure_buffers(&mut self, plan: &Plan, wanted: Wanted, lengths: &Lengths) -> Result<(), RunError> {
        let mut sizes = vec![None; self.slots.len()];
        let searched = self.needs_of_search(wanted);
        for buffer in self.needs[wanted.role as usize].buffers.union(&searched.buffers) {
            let buffer = &plan.buffers[*buffer as usize];
            let storage = Storage::Dense { dims: buffer.dims.clone() };
            let bytes = storage.bytes(buffer.format, |d| lengths.of(d)).ok_or_else(|| {
                RunError::new(RunCode::Memory, format_args!("buffer `{}`", buffer.name), "more than any memory")
                    .help("give fewer tokens at a time")
            })?;
            let size = &mut sizes[buffer.slot as usize];
            *size = (*size).max(Some(bytes));
        }
        for (slot, bytes) in sizes.into_iter().enumerate() {
            let Some(bytes) = bytes else { continue };
            if let Err(e) = self.slots[slot].ensure(&mut *self.device, bytes) {
                let buffer = plan.buffers.iter().find(|b| b.slot as usize == slot).expect("a slot is some buffer's");
                let part = format!("workspace of a step of {} tokens, at `{}`", lengths.tokens(), buffer.name);
                let help = "give fewer tokens at a time: a smaller chunk, fewer sequences";
                return Err(e.without_room(part, bytes, self.device.free_memory(), help));
            }
        }
        Ok(())
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
        wanted: Wanted,
        lengths: &Lengths,
    ) -> Result<(), RunError> {
        let searched = self.needs_of_search(wanted).tables;
        let needed = &self.needs[wanted.role as usize].tables;
        let asked = |table: &Table| needed.contains(table) || searched.contains(table);
        for (table, room) in self.tables.iter_mut().filter(|(table, _)| asked(table)) {
            self.words.clear();
            batch::fill_table(*table, pieces, feeds, lengths, &mut self.words);
            let bytes: &[u8] = bytemuck::cast_slice(&self.words);
            // Room that grows seldom stays at its address, which launches that are replayed have in them.
            room.ensure(&mut *self.device, (bytes.len() as u64).next_power_of_two().max(LEAST_TABLE))?;
            self.device.write(room.memory(), 0, bytes)?;
        }
        Ok(())
    }

    pub(super) fn run(&mut self, plan: &Plan, wanted: Wanted, lengths: &Lengths) -> Result<(), RunError> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.clear();
        let search = wanted.search.into_iter().flat_map(|s| &s.launches);
        for launch in wanted.plan.launches.iter().chain(search) {
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
                match first {
                    // One value for the whole sequence, or for the whole batch: what the last piece saw holds.
                    Some(Dim::Sequences) | None => {
                        result.data.clear();
                        let at = if first.is_some() { number } else { 0 };
                        result.data.extend_from_slice(&values[at * width..][..width]);
                        result.rows = 1;
                    }
                    Some(dim) => {
                        for at in rows_of(piece, dim, &mut row) {
                            result.data.extend_from_slice(&values[at * width..][..width]);
                            result.rows += 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends what a search found in every wanted row to its feeds' results.
    pub(super) fn read_best(
        &mut self,
        plan: &Plan,
        search: &Search,
        pieces: &[Piece],
        lengths: &Lengths,
        results: &mut [Vec<Best>],
    ) -> Result<(), RunError> {
        let (places, values) = (&plan.buffers[search.places as usize], &plan.buffers[search.values as usize]);
        let (dim, width) = (places.dims[0], search.count as usize);
        let rows = lengths.of(dim) as usize;
        let (mut at, mut what) = (vec![0u32; rows * width], vec![0f32; rows * width]);
        if rows > 0 {
            let memory = |slot: u32| self.slots[slot as usize].memory();
            let (from, also) = (memory(places.slot), memory(values.slot));
            let (at, what) = (bytemuck::cast_slice_mut(&mut at), bytemuck::cast_slice_mut(&mut what));
            self.device.read_all(&mut [(from, at), (also, what)])?;
        }
        let mut row = 0;
        for piece in pieces {
            results[piece.feed].extend(rows_of(piece, dim, &mut row).into_iter().map(|row| {
                let range = row * width..(row + 1) * width;
                Best { places: at[range.clone()].to_vec(), values: what[range].to_vec() }
            }));
        }
        Ok(())
    }
}

/// The rows of a buffer over tokens that a piece asked for; `next` is the piece's first row and becomes the one after it.
fn rows_of(piece: &Piece, dim: Dim, next: &mut usize) -> Vec<usize> {
    let first = *next;
    match dim {
        Dim::Picked(s) => {
            *next += piece.picked[s.0 as usize].len();
            (first..*next).collect()
        }
        Dim::Rows(s) => {
            *next += piece.count[s.0 as usize];
            piece.picked[s.0 as usize].iter().map(|row| first + row).collect()
        }
        Dim::Const(_)
        | Dim::Blocks(_)
        | Dim::Tokens(_)
        | Dim::Pages(_)
        | Dim::Sequences
        | Dim::Parts(..)
        | Dim::Tiles(..) => {
            unreachable!("a validated plan's outputs")
        }
    }
}
