//! Quantised weights with a quantised activation: one instruction multiplies a block of 32 elements exactly; the scales are
//! outside.

use super::{COLUMNS, PER_WARP, Slot, Stage};
use crate::llvm::{CHUNK, Cmp, Emitter, Mma, Ty, Val, WARP};
use crate::target::nvptx::contract::quants::{ACT_BYTES, ACT_QUANTS, BLOCK, Blocks, Scalar, check_activation};
use crate::target::nvptx::contract::{Kernel, Tile};
use llmc_artifact::Format;

/// Blocks of a stage.
const BLOCKS: u32 = 2;

pub(super) struct Bytes<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    e: &'k Emitter<'c>,
    blocks: Blocks,
    tile: Tile<'c>,
    lane: Val<'c>,
    /// `g` and `t` of this lane.
    g: Val<'c>,
    t: Val<'c>,
}

/// What a block of a panel is to this lane: of its two rows, scales, what the activation's sum adds, and `A`.
struct Rows<'c> {
    scales: [Val<'c>; 2],
    shifts: [Option<Val<'c>>; 2],
    a: [Val<'c>; 4],
}

impl<'k, 'a, 'c> Bytes<'k, 'a, 'c> {
    pub fn new(kernel: &'k Kernel<'a, 'c>, format: Format, tile: Tile<'c>) -> Self {
        check_activation(kernel.input_format());
        let e = kernel.e;
        let lane = e.lane_index();
        let (g, t) = (e.lshr(lane, e.int32(2)), e.and(lane, e.int32(3)));
        Bytes { kernel, e, blocks: Blocks::of(format), tile, lane, g, t }
    }

    fn number(&self, n: u32) -> Val<'c> {
        self.e.int32(n as i32)
    }

    /// Blocks of a row.
    fn all_blocks(&self) -> u64 {
        self.kernel.reduce / BLOCK as u64
    }

    /// Whether a block of the stage, a constant or an `i32`, is one of the row's; `None` where all are.
    fn goes_on(&self, step: Val<'c>, block: Val<'c>) -> Option<Val<'c>> {
        let e = self.e;
        let number = e.add(e.mul(step, e.int(BLOCKS as i64)), e.zext(block, Ty::I64));
        let whole = self.all_blocks().is_multiple_of(BLOCKS as u64);
        (!whole).then(|| e.compare(Cmp::Lt, number, e.int(self.all_blocks() as i64)))
    }

    /// Where chunk `c` of the quants lies: lanes read words at four places along the reduced axis at once, which fall into
    /// different banks.
    fn turned(&self, c: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.xor(c, e.shl(e.and(e.lshr(c, self.number(3)), self.number(1)), 1))
    }

    /// A word of quants of row `g` or `g + 8`, counted from `t`.
    fn word(&self, block: Val<'c>, half: u32, words: u32) -> Val<'c> {
        let e = self.e;
        let quad = e.add(e.lshr(self.g, self.number(2)), self.number(2 * half));
        let c = e.add(e.shl(e.add(self.t, self.number(words)), 2), quad);
        let byte = e.add(e.mul(self.turned(c), self.number(CHUNK)), e.shl(e.and(self.g, self.number(3)), 2));
        e.load(Ty::I32, 1, e.offset(block, e.add(byte, self.number(self.blocks.quants))))
    }

    fn scalar(&self, block: Val<'c>, scalar: Scalar, half: u32) -> Val<'c> {
        let e = self.e;
        let at = Blocks::scalar_at(e, scalar, e.add(self.g, self.number(8 * half)));
        e.widen_stored(scalar.dtype, e.load(Emitter::stored_type(scalar.dtype), 1, e.offset(block, at)))
    }

    fn rows(&self, block: Val<'c>) -> Rows<'c> {
        let e = self.e;
        let scales = [0, 1].map(|half| self.scalar(block, self.blocks.scale, half));
        let shift = |half: usize| {
            let offset = self.blocks.offset.map(|o| self.scalar(block, o, half as u32));
            self.blocks.shift(e, scales[half], offset)
        };
        // Of each row the quants at 4 t and those 16 further.
        let quants = |half: u32| {
            let high = self.blocks.high.map(|at| {
                let row = e.shl(e.add(self.g, self.number(8 * half)), 2);
                e.load(Ty::I32, 1, e.offset(block, e.add(row, self.number(at))))
            });
            let mut found = self.blocks.quants(e, self.word(block, half, 0), high, e.shl(self.t, 2));
            if !self.blocks.nibbles {
                found.push(self.word(block, half, 4));
            }
            found
        };
        let (above, below) = (quants(0), quants(1));
        Rows { scales, shifts: [shift(0), shift(1)], a: [above[0], below[0], above[1], below[1]] }
    }

    /// Adds a block's exact sums, scaled, to those of a panel and eight tokens.
    fn add(&self, rows: &Rows<'c>, exact: [Val<'c>; 4], scales: &[[Val<'c>; 2]; 2], sums: &mut [Val<'c>]) {
        let e = self.e;
        for i in 0..4 {
            let (row, [scale, sum]) = (i / 2, scales[i % 2]);
            let both = e.mul(rows.scales[row], scale);
            sums[i] = e.fma(both, e.int_to_float(exact[i], Ty::F32), sums[i]);
            if let Some(shift) = rows.shifts[row] {
                sums[i] = e.fma(shift, sum, sums[i]);
            }
        }
    }
}

impl<'c> Stage<'c> for Bytes<'_, '_, 'c> {
    fn depth(&self) -> u64 {
        (BLOCKS * BLOCK) as u64
    }

    fn panel_bytes(&self) -> u64 {
        (BLOCKS * self.blocks.bytes) as u64
    }

    fn token_bytes(&self) -> u64 {
        (BLOCKS * ACT_BYTES) as u64
    }

    fn copy_panel(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>) {
        let e = self.e;
        let start = e.offset(slot.start, e.mul(step, e.int(self.panel_bytes() as i64)));
        let (chunks, scalars) = (self.blocks.bytes / CHUNK, self.blocks.quants / CHUNK);
        for first in (0..BLOCKS * chunks).step_by(WARP as usize) {
            let c = e.add(self.lane, self.number(first));
            let second = e.compare(Cmp::Ge, c, self.number(chunks));
            let block = e.select(second, self.number(1), self.number(0));
            let before = e.mul(block, self.number(chunks));
            let within = e.sub(c, before);
            let quant = e.sub(within, self.number(scalars));
            let turned = e.add(self.turned(quant), self.number(scalars));
            let place = e.select(e.compare(Cmp::Ge, quant, self.number(0)), turned, within);
            let place = e.mul(e.add(place, before), self.number(CHUNK));
            let valid = self.goes_on(step, block).map_or(slot.inside, |on| e.and(on, slot.inside));
            let valid = e.select(valid, self.number(CHUNK), self.number(0));
            let copy = || {
                let from = e.offset(start, e.mul(c, self.number(CHUNK)));
                e.copy_async(e.offset(to, place), from, CHUNK, Some(valid));
            };
            if first + WARP <= BLOCKS * chunks {
                copy();
            } else {
                e.when(e.compare(Cmp::Lt, c, self.number(BLOCKS * chunks)), copy);
            }
        }
    }

    fn copy_tokens(&self, to: Val<'c>, step: Val<'c>) {
        let (e, kernel) = (self.e, self.kernel);
        // Rows of an odd number of blocks are not aligned to whole chunks.
        let unit = if self.all_blocks().is_multiple_of(2) { CHUNK } else { CHUNK / 2 };
        let row = BLOCKS * ACT_BYTES;
        let units = row / unit;
        let count = self.tile.room.next_multiple_of(COLUMNS) * units;
        let threads = kernel.entry.threads;
        let input = kernel.entry.args.operand(kernel.contract.input);
        for first in (0..count).step_by(threads as usize) {
            let i = e.add(e.thread_index32(), self.number(first));
            let (token, piece) = divide(e, i, units);
            let within = e.mul(piece, self.number(unit));
            let block = e.select(e.compare(Cmp::Ge, within, self.number(ACT_BYTES)), self.number(1), self.number(0));
            let wide = e.zext(token, Ty::I64);
            let valid = e.compare(Cmp::Lt, wide, self.tile.rest);
            let valid = self.goes_on(step, block).map_or(valid, |on| e.and(on, valid));
            let valid = e.select(valid, self.number(unit), self.number(0));
            let start = e.mul(e.add(self.tile.first, wide), e.int(kernel.input_stride() as i64));
            let start = e.add(start, e.mul(step, e.int(row as i64)));
            let from = e.offset(input, e.add(start, e.zext(within, Ty::I64)));
            let place = e.offset(to, e.add(e.mul(token, self.number(row)), within));
            let copy = || e.copy_async(place, from, unit, Some(valid));
            if first + threads <= count {
                copy();
            } else {
                e.when(e.compare(Cmp::Lt, i, self.number(count)), copy);
            }
        }
    }

    fn multiply(&self, panels: [Val<'c>; PER_WARP], tokens: Val<'c>, sums: &mut [Val<'c>]) {
        let (e, columns) = (self.e, sums.len() / PER_WARP / 4);
        let row = BLOCKS * ACT_BYTES;
        for block in 0..BLOCKS {
            let at = self.number(block * self.blocks.bytes);
            let rows = panels.map(|p| self.rows(e.offset(p, at)));
            for n in 0..columns as u32 {
                let eight = e.offset(tokens, self.number(n * COLUMNS * row + block * ACT_BYTES));
                let own = e.add(e.mul(self.g, self.number(row)), e.shl(self.t, 2));
                let word = |i: u32| {
                    let at = e.add(own, self.number(ACT_QUANTS + 16 * i));
                    e.load(Ty::I32, 1, e.offset(eight, at))
                };
                let b = [word(0), word(1)];
                let scales = [0, 1].map(|i| {
                    let token = e.add(e.shl(self.t, 1), self.number(i));
                    let pair = e.load_aligned(Ty::F32, 2, e.offset(eight, e.mul(token, self.number(row))), 8);
                    [e.extract(pair, 0), e.extract(pair, 1)]
                });
                for (p, rows) in rows.iter().enumerate() {
                    let exact = e.mma(Mma::S8, rows.a, b, [self.number(0); 4]);
                    self.add(rows, exact, &scales, &mut sums[4 * (p * columns + n as usize)..][..4]);
                }
            }
        }
    }
}

/// Quotient and remainder of an `i32` that is not negative.
fn divide<'c>(e: &Emitter<'c>, a: Val<'c>, n: u32) -> (Val<'c>, Val<'c>) {
    let q = e.div(a, e.int32(n as i32));
    (q, e.sub(a, e.mul(q, e.int32(n as i32))))
}
