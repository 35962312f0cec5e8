//! Many tokens, weights and activations of the same 16 bits: two warpgroups multiply while a third one brings what they need.
//!
//! A stage of the ring is [`DEPTH`] columns of eight panels and of a tile's tokens. Panels are contiguous in memory and come
//! by bulk copies, one each; tokens are rows of a tensor and come as a box of it, which puts the chunks of a row in turns, as the
//! units read them: one thread starts all of that. Who multiplies has a panel for each warp: its 16 rows are this warp's part of `A`, in registers. `B` are the tokens.
//! The sums are added up along the reduced axis alone, sixteen columns after another, whoever else is in the tile.
//!
//! The helper goes on to the next tile while the sums of this one are still in the epilogue. Absent: weights in `A` from shared
//! memory, which wants their rows in turns that panels do not have, and more than one group of products under way in a warpgroup.

use super::many::{COLUMNS, PANELS, Place, each_pass, passes, slot, store_sums};
use super::sums::Sums;
use super::{Kernel, Tile, reduced, weight_of};
use crate::kernel::{Contract, KernelSpec, OperandRef, ResultRef};
use crate::llvm::{CHUNK, Cmp, Emitter, GroupLeft, GroupProduct, Meeting, Mma, SPAN, Ty, Val, WARP};
use crate::target::nvptx::ring::{Ring, Turn};
use crate::target::nvptx::tuning::{GROUP_REGISTERS, GROUP_STAGES};
use llmc_artifact::DType;
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::tensor::{TensorMap, Turns};

/// Bytes of an element.
const ELEMENT: u32 = 2;
/// Columns of a stage: a token's are one span.
const DEPTH: u32 = SPAN / ELEMENT;
/// Columns of an instruction.
const PART: u32 = 16;
/// Bytes of a column of a panel.
const COLUMN: u32 = PANEL_LANES * ELEMENT;
/// Bytes of a panel's part of a stage.
const PANEL: u32 = DEPTH * COLUMN;

/// The matrix instruction of a type, where there is one.
fn kind(dtype: Option<DType>) -> Option<Mma> {
    match dtype {
        Some(DType::F16) => Some(Mma::F16),
        Some(DType::BF16) => Some(Mma::BF16),
        Some(DType::F32 | DType::I32 | DType::I8 | DType::U8) | None => None,
    }
}

/// Whether a contraction has this form: everything is of the same 16 bits, and rows are whole chunks.
pub(super) fn fits(spec: &KernelSpec, contract: &Contract) -> bool {
    let stored = |o: OperandRef| spec.operands[o.0 as usize].format.plain();
    let input = stored(contract.input);
    let all = contract.stats.len()..contract.stats.len() + contract.products.len();
    let alike = all.map(|p| weight_of(contract, ResultRef(p as u16))).all(|w| stored(w) == input);
    let whole = reduced(spec, contract).is_multiple_of((CHUNK / ELEMENT) as u64);
    kind(input).is_some() && alike && whole && !contract.products.is_empty()
}

/// The tokens of a contraction as rows of a tensor, a box of which is a stage's part of a tile of so many tokens. Past the last
/// column it is zeros, so that no weight counts twice; what it has of rows past the last token is multiplied and not stored.
pub(super) fn tokens_map(spec: &KernelSpec, contract: &Contract, tokens: u32) -> TensorMap {
    let tile = vec![DEPTH, tokens.next_multiple_of(COLUMNS)];
    let (operand, sizes) = (contract.input.0 as u32, vec![reduced(spec, contract)]);
    TensorMap { operand, element: ELEMENT, sizes, tile, turns: Turns::Of128 }
}

/// All tiles of a walker; `tile` is what the threads make of one that share the work, given how its sums are multiplied.
pub(super) fn walk<'c>(
    kernel: &Kernel<'_, 'c>,
    group: Val<'c>,
    walker: Val<'c>,
    tile: impl Fn(Tile<'c>, &dyn Fn(&Sums<'_, 'c>)),
) {
    let (entry, e) = (kernel.entry, kernel.e);
    let groups = Warpgroups::new(kernel, group, walker);
    e.barrier();
    let works = e.compare(Cmp::Lt, e.thread_index32(), e.int32(entry.threads as i32));
    let [work, help] = GROUP_REGISTERS;
    e.when(works, || {
        e.take_registers(work);
        let products = |t: Tile<'c>, sums: &Sums<'_, 'c>| {
            if sums.stats.is_empty() {
                e.barrier();
            }
            groups.multiply(t, sums);
            e.barrier();
        };
        e.among(Meeting { number: 1, threads: entry.threads }, || {
            kernel.tiles(walker, |t| tile(t, &|sums| products(t, sums)))
        });
    });
    e.when(e.not(works), || {
        e.give_registers(help);
        let leads = e.compare(Cmp::Eq, e.thread_index32(), e.int32(entry.threads as i32));
        e.when(leads, || groups.bring());
    });
}

struct Warpgroups<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    e: &'k Emitter<'c>,
    group: Val<'c>,
    walker: Val<'c>,
    products: Vec<usize>,
    ring: Ring<'a, 'c>,
    /// A chunk of zeros: what a lane reads where there is no weight.
    zeros: Val<'c>,
}

impl<'k, 'a, 'c> Warpgroups<'k, 'a, 'c> {
    /// Makes the ring; all threads meet before they use it.
    fn new(kernel: &'k Kernel<'a, 'c>, group: Val<'c>, walker: Val<'c>) -> Self {
        let (entry, e) = (kernel.entry, kernel.e);
        let columns = kernel.groups.tokens.next_multiple_of(COLUMNS);
        let bytes = PANELS as u32 * PANEL + columns * SPAN;
        // One thread brings all of a stage.
        let ring = Ring::new(entry, GROUP_STAGES, bytes as u64, (1, entry.threads / WARP));
        let zeros = entry.shared(Ty::I8, CHUNK as u64);
        e.when(e.compare(Cmp::Eq, e.thread_index32(), e.int32(0)), || e.store_chunk(zeros, e.zero(Ty::I32, 4)));
        let products = (0..kernel.segment.products.len()).collect();
        Warpgroups { kernel, e, group, walker, products, ring, zeros }
    }

    fn number(&self, n: u32) -> Val<'c> {
        self.e.int32(n as i32)
    }

    fn steps(&self) -> u64 {
        self.kernel.reduce.div_ceil(DEPTH as u64)
    }

    /// Tokens from a tile of the walker to its next one, a power of two.
    fn stride(&self) -> u64 {
        self.kernel.groups.tokens as u64 * self.kernel.form.walkers()
    }

    /// Rounds of one tile.
    fn rounds(&self) -> u64 {
        passes(self.kernel, &self.products) * self.steps()
    }

    /// The number of the first round of a tile's pass, an `i32`.
    fn first_round(&self, tile: Tile<'c>, pass: Val<'c>) -> Val<'c> {
        let e = self.e;
        let number = e.lshr(tile.first, e.int(self.stride().trailing_zeros() as i64));
        let rounds = e.mul(number, e.int(self.rounds() as i64));
        e.trunc(e.add(rounds, e.mul(pass, e.int(self.steps() as i64))), Ty::I32)
    }

    fn round(&self, first: Val<'c>, step: Val<'c>) -> Val<'c> {
        self.e.add(first, self.e.trunc(step, Ty::I32))
    }

    /// Columns that are left at a step.
    fn left(&self, step: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.sub(e.int(self.kernel.reduce as i64), e.mul(step, e.int(DEPTH as i64)))
    }

    fn is_whole(&self) -> bool {
        self.kernel.reduce.is_multiple_of(DEPTH as u64)
    }

    /// The sums of every pass.
    fn multiply(&self, tile: Tile<'c>, sums: &Sums<'_, 'c>) {
        let (kernel, e) = (self.kernel, self.e);
        let columns = tile.room.next_multiple_of(COLUMNS);
        let input = kernel.input_type();
        let kind = kind(Some(input)).unwrap_or_else(|| panic!("emission: four warps multiply {input:?}"));
        let product = GroupProduct { kind, columns, columns_side_by_side: false };
        each_pass(kernel, &self.products, |pass, places| {
            let slot = slot(kernel, self.group, places, sums, (0, 1));
            let first = self.first_round(tile, pass);
            let zero = vec![e.f32(0.0); columns as usize / 2];
            let found = e.for_each(e.int(0), e.int(self.steps() as i64), 1, &zero, |step, now| {
                let turn = self.ring.turn(self.round(first, step));
                self.ring.wait_full(&turn);
                let a = self.panel(turn.memory, slot.inside, step);
                let tokens = e.offset(turn.memory, e.int((PANELS as u32 * PANEL) as i64));
                let tokens = e.describe_rows(tokens, Turns::Of128);
                let b = |s: usize| tokens.further(s as u64 * (PART * ELEMENT) as u64);
                let pairs: Vec<_> = a.into_iter().enumerate().map(|(s, a)| (GroupLeft::Registers(a), b(s))).collect();
                let next = e.multiply_group(product, now, &pairs);
                self.ring.release(&turn);
                next
            });
            store_sums(kernel, &slot, sums, &found);
        });
    }

    /// This warp's panel of a stage: `A` of each instruction.
    fn panel(&self, stage: Val<'c>, inside: Val<'c>, step: Val<'c>) -> Vec<[Val<'c>; 4]> {
        let e = self.e;
        let lane = e.lane_index();
        // A matrix of eight columns has rows 0 to 7 of the first four and 8 to 15 of the others, the next one the rest: the
        // chunks that lanes load at once lie in different banks.
        let (m, r) = (e.lshr(lane, self.number(3)), e.and(lane, self.number(7)));
        let k = e.add(r, e.shl(e.lshr(m, self.number(1)), 3));
        let half = e.xor(e.lshr(r, self.number(2)), e.and(m, self.number(1)));
        let at = e.add(e.mul(k, self.number(COLUMN)), e.mul(half, self.number(CHUNK)));
        let own = e.offset(stage, e.add(e.mul(e.warp_index(), self.number(PANEL)), at));
        let low = e.compare(Cmp::Lt, e.and(lane, self.number(3)), self.number(2));
        let part = |s: u32| {
            let valid = match self.is_whole() {
                true => inside,
                false => {
                    let column = e.zext(e.add(k, self.number(s * PART)), Ty::I64);
                    e.and(inside, e.compare(Cmp::Lt, column, self.left(step)))
                }
            };
            let from = e.offset(own, e.int((s * PART * COLUMN) as i64));
            let v = e.load_matrices(4, true, e.select(valid, from, self.zeros));
            [(0, 1), (1, 0), (2, 3), (3, 2)].map(|(a, b)| e.select(low, v[a], v[b]))
        };
        (0..DEPTH / PART).map(part).collect()
    }

    /// Brings everything that the walker's tiles need, stage after stage.
    fn bring(&self) {
        let (kernel, e) = (self.kernel, self.e);
        kernel.tiles(self.walker, |tile| {
            each_pass(kernel, &self.products, |pass, places| {
                let first = self.first_round(tile, pass);
                e.repeat(e.int(0), e.int(self.steps() as i64), 1, |step| {
                    let turn = self.ring.turn(self.round(first, step));
                    self.ring.wait_free(&turn);
                    self.copy_stage(&turn, tile, places, step);
                });
            });
        });
    }

    /// Starts the copies of a pass's panels and of a tile's tokens.
    fn copy_stage(&self, turn: &Turn<'c>, tile: Tile<'c>, places: &[Place<'c>], step: Val<'c>) {
        let (kernel, e) = (self.kernel, self.e);
        let groups = kernel.groups;
        let bytes = match self.is_whole() {
            true => self.number(PANEL),
            false => {
                let columns = e.trunc(e.min(self.left(step), e.int(DEPTH as i64)), Ty::I32);
                e.mul(columns, self.number(COLUMN))
            }
        };
        let present: Vec<_> = places.iter().enumerate().filter_map(|(n, p)| p.map(|p| (n, p))).collect();
        let tokens = self.number(tile.room.next_multiple_of(COLUMNS) * SPAN);
        e.arrive_expecting(turn.full, e.add(e.mul(bytes, self.number(present.len() as u32)), tokens));
        let column = e.trunc(e.mul(step, e.int(DEPTH as i64)), Ty::I32);
        let to = e.offset(turn.memory, e.int((PANELS as u32 * PANEL) as i64));
        let tensor = kernel.entry.tensors[kernel.number];
        e.copy_box(to, tensor, &[column, e.trunc(tile.first, Ty::I32)], turn.full);
        for (n, (product, within)) in present {
            // A panel beyond the last is that one again, and nobody reads it.
            let number = e.add(e.mul(self.group, e.int(groups.panels() as i64)), within);
            let number = e.min(number, e.int(groups.all_panels() as i64 - 1));
            let from = e.offset(kernel.panel(product, number), e.mul(step, e.int(PANEL as i64)));
            e.copy_bulk(e.offset(turn.memory, e.int(n as i64 * PANEL as i64)), from, bytes, turn.full);
        }
    }
}
