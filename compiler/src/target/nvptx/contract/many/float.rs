//! Real weights, or quantised ones with a real activation: products that are as exact as f32.
//!
//! A weight of 16 bits is exact as TF32; an activation in f32 is the sum of two TF32 numbers but for its last bits, so that
//! two instructions give the product. A weight in f32 is cut in two as well, and the product of the two lower parts left out.

use super::{COLUMNS, PER_WARP, Slot, Stage};
use crate::kernel::OperandRef;
use crate::llvm::{CHUNK, Cmp, Emitter, Mma, Ty, Val, WARP};
use crate::target::nvptx::contract::{Kernel, Tile};
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{DType, Format};

/// Elements of an f32 chunk.
const SINGLES: u64 = 4;
/// Elements along the reduced axis between two loads of a lane.
const SPAN: u64 = 16;

/// How a panel lies in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panel {
    /// Elements of 16 bits, copied.
    Half(DType),
    /// Elements of 32 bits, copied.
    Single,
    /// Elements of 32 bits, decoded on the way.
    Decoded,
}

pub(super) struct Float<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    e: &'k Emitter<'c>,
    weight: (OperandRef, Format),
    panel: Panel,
    tile: Tile<'c>,
    lane: Val<'c>,
    /// `g` and `t` of this lane.
    g: Val<'c>,
    t: Val<'c>,
}

impl<'k, 'a, 'c> Float<'k, 'a, 'c> {
    pub fn new(kernel: &'k Kernel<'a, 'c>, product: usize, tile: Tile<'c>) -> Self {
        let (e, weight) = (kernel.e, kernel.weight(product));
        let panel = match weight.1.plain() {
            Some(DType::F32) => Panel::Single,
            Some(half @ (DType::F16 | DType::BF16)) => Panel::Half(half),
            Some(DType::I32 | DType::I8 | DType::U8) => panic!("emission: a weight of integers"),
            None => Panel::Decoded,
        };
        let lane = e.lane_index();
        let (g, t) = (e.lshr(lane, e.int32(2)), e.and(lane, e.int32(3)));
        Float { kernel, e, weight, panel, tile, lane, g, t }
    }

    fn number(&self, n: u64) -> Val<'c> {
        self.e.int32(n as i32)
    }

    /// Where a chunk of a token's part lies: two tokens of 128 bytes never in the same banks.
    fn token_chunk(&self, token: Val<'c>, chunk: Val<'c>) -> Val<'c> {
        let e = self.e;
        let chunk = match self.panel {
            Panel::Half(_) => e.xor(chunk, e.shl(e.and(token, self.number(1)), 2)),
            Panel::Single | Panel::Decoded => chunk,
        };
        let start = e.mul(token, self.number(self.token_bytes()));
        e.add(start, e.mul(chunk, self.number(CHUNK as u64)))
    }

    /// Where chunk `c` of a panel's part lies. Lanes read it at four places along the reduced axis at once: those fall into
    /// different banks.
    fn panel_chunk(&self, c: Val<'c>) -> Val<'c> {
        let e = self.e;
        let (line, position) = (e.lshr(c, self.number(3)), e.and(c, self.number(7)));
        let turn = match self.panel {
            Panel::Half(_) => e.or(e.and(line, self.number(1)), e.shl(e.and(line, self.number(2)), 1)),
            Panel::Single | Panel::Decoded => e.and(line, self.number(6)),
        };
        e.mul(e.add(e.mul(line, self.number(8)), e.xor(position, turn)), self.number(CHUNK as u64))
    }

    /// The element's number along the reduced axis; `within` an `i32`.
    fn column(&self, step: Val<'c>, within: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.add(e.mul(step, e.int(self.depth() as i64)), e.zext(within, Ty::I64))
    }

    /// Whether the reduced axis goes on at a column.
    fn goes_on(&self, column: Val<'c>, unit: u64) -> Option<Val<'c>> {
        let e = self.e;
        let whole = self.kernel.reduce.is_multiple_of(self.depth().max(unit));
        (!whole).then(|| e.compare(Cmp::Lt, column, e.int(self.kernel.reduce as i64)))
    }

    fn copy_chunks(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>) {
        let (e, row) = (self.e, self.panel_bytes() / self.depth());
        let start = e.offset(slot.start, e.mul(step, e.int(self.panel_bytes() as i64)));
        for first in (0..self.panel_bytes() / CHUNK as u64).step_by(WARP as usize) {
            let c = e.add(self.lane, self.number(first));
            let byte = e.mul(c, self.number(CHUNK as u64));
            let column = self.column(step, e.lshr(byte, self.number(row.trailing_zeros() as u64)));
            let valid = self.goes_on(column, 1).map_or(slot.inside, |on| e.and(on, slot.inside));
            let valid = e.select(valid, self.number(CHUNK as u64), self.number(0));
            e.copy_async(e.offset(to, self.panel_chunk(c)), e.offset(start, byte), CHUNK, Some(valid));
        }
    }

    /// Elements of a quantised weight, each decoded by one lane.
    fn decode(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>) {
        let (e, (weight, format)) = (self.e, self.weight);
        let (rows, block) = (PANEL_LANES as u64, format.block() as u64);
        let row = e.and(self.lane, self.number(rows - 1));
        for first in (0..self.depth() * rows).step_by(WARP as usize) {
            let k = e.lshr(e.add(self.lane, self.number(first)), self.number(rows.trailing_zeros() as u64));
            let column = self.column(step, k);
            let (number, within) =
                (e.lshr(column, e.int(block.trailing_zeros() as i64)), e.and(column, e.int(block as i64 - 1)));
            let all_rows = e.add(e.mul(slot.number, e.int(rows as i64)), e.zext(row, Ty::I64));
            let weight = (self.kernel.entry.args.operand(weight), self.kernel.reduce);
            let value =
                e.either(slot.inside, || e.panel_element(format, weight, all_rows, number, within), || e.f32(0.0));
            let chunk = e.add(e.mul(k, self.number(4)), e.lshr(row, self.number(2)));
            let byte = e.add(self.panel_chunk(chunk), e.mul(e.and(row, self.number(3)), self.number(4)));
            e.store(e.offset(to, byte), value);
        }
    }

    /// Runs `copy` for this thread's share of `count` pieces of the tile.
    fn share(&self, count: u64, copy: impl Fn(Val<'c>)) {
        let (e, threads) = (self.e, self.kernel.entry.threads as u64);
        let thread = e.thread_index32();
        for first in (0..count).step_by(threads as usize) {
            let i = e.add(thread, self.number(first));
            if first + threads <= count {
                copy(i);
            } else {
                e.when(e.compare(Cmp::Lt, i, self.number(count)), || copy(i));
            }
        }
    }

    /// Registers of `A` at columns `SPAN * s ..`, for each of two instructions: those of the upper, then of the lower parts.
    fn panel_parts(&self, panel: Val<'c>, s: u64) -> [Vec<[Val<'c>; 4]>; 2] {
        match self.panel {
            Panel::Half(dtype) => self.half_parts(dtype, panel, s),
            Panel::Single | Panel::Decoded => self.single_parts(panel),
        }
    }

    fn half_parts(&self, dtype: DType, panel: Val<'c>, s: u64) -> [Vec<[Val<'c>; 4]>; 2] {
        let e = self.e;
        // Matrix m of four: rows of the panel from 8 (m % 2), columns 4 i + 2 (m / 2) and the next of each lane i.
        let (m, r) = (e.lshr(self.lane, self.number(3)), e.and(self.lane, self.number(7)));
        let pair = e.add(e.shl(e.lshr(m, self.number(1)), 1), e.and(r, self.number(1)));
        let k = e.add(e.shl(e.lshr(r, self.number(1)), 2), pair);
        let c = e.add(e.shl(k, 1), e.and(m, self.number(1)));
        let at = e.add(self.panel_chunk(c), self.number(s * SPAN * 2 * CHUNK as u64));
        let loaded = e.load_matrices(4, true, e.offset(panel, at));
        let both: Vec<_> = loaded.into_iter().map(|pair| e.unpack_halves(dtype, pair)).collect();
        let word = |x: Val<'c>| e.bits(x, Ty::I32);
        let one = |i: usize| [both[i].0, both[i + 1].0, both[i].1, both[i + 1].1].map(word);
        [vec![one(0)], vec![one(2)]]
    }

    fn single_parts(&self, panel: Val<'c>) -> [Vec<[Val<'c>; 4]>; 2] {
        let e = self.e;
        let quad = e.lshr(self.g, self.number(2));
        let element = |j: u64, half: u64| {
            let k = e.add(e.shl(self.t, 2), self.number(j));
            let chunk = e.add(e.shl(k, 2), e.add(quad, self.number(2 * half)));
            let byte = e.add(self.panel_chunk(chunk), e.shl(e.and(self.g, self.number(3)), 2));
            e.load(Ty::F32, 1, e.offset(panel, byte))
        };
        [0, 2].map(|j| {
            let parts = [(j, 0), (j, 1), (j + 1, 0), (j + 1, 1)].map(|(j, half)| split(e, element(j, half)));
            vec![parts.map(|p| p[0]), parts.map(|p| p[1])]
        })
    }

    /// Registers of `B` of eight tokens, for each of two instructions: the upper, then the lower parts.
    fn token_parts(&self, tokens: Val<'c>, n: u64, s: u64) -> [[[Val<'c>; 2]; 2]; 2] {
        let e = self.e;
        let chunk = e.add(self.t, self.number(s * SPAN / SINGLES));
        let at = e.add(self.token_chunk(self.g, chunk), self.number(n * COLUMNS as u64 * self.token_bytes()));
        let four = e.bits(e.load_chunk(e.offset(tokens, at)), Ty::F32);
        let parts = [0, 1, 2, 3].map(|i| split(e, e.extract(four, i)));
        let pair = |i: usize, part: usize| [parts[i][part], parts[i + 1][part]];
        [[pair(0, 0), pair(0, 1)], [pair(2, 0), pair(2, 1)]]
    }
}

/// An f32 as the sum of two TF32 numbers: its first 11 digits, then the next 11. Infinity is its own first part.
fn split<'c>(e: &Emitter<'c>, x: Val<'c>) -> [Val<'c>; 2] {
    let upper = e.and(e.bits(x, Ty::I32), e.int32(!0x1fff));
    let as_float = e.bits(upper, Ty::F32);
    let rest = e.select(e.compare(Cmp::Eq, as_float, x), e.f32(0.0), e.sub(x, as_float));
    [upper, e.to_tf32(rest)]
}

impl<'c> Stage<'c> for Float<'_, '_, 'c> {
    fn depth(&self) -> u64 {
        match self.panel {
            Panel::Half(_) => 2 * SPAN,
            Panel::Single | Panel::Decoded => SPAN,
        }
    }

    fn panel_bytes(&self) -> u64 {
        let element = match self.panel {
            Panel::Half(dtype) => dtype.bytes() as u64,
            Panel::Single | Panel::Decoded => 4,
        };
        self.depth() * PANEL_LANES as u64 * element
    }

    fn token_bytes(&self) -> u64 {
        4 * self.depth()
    }

    fn copy_panel(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>) {
        match self.panel {
            Panel::Half(_) | Panel::Single => self.copy_chunks(to, slot, step),
            Panel::Decoded => self.decode(to, slot, step),
        }
    }

    fn copy_tokens(&self, to: Val<'c>, step: Val<'c>) {
        let (e, kernel) = (self.e, self.kernel);
        // A row whose chunks are not aligned is copied element by element.
        let unit = if kernel.reduce.is_multiple_of(SINGLES) { SINGLES } else { 1 };
        let units = self.depth() / unit;
        let columns = self.tile.room.next_multiple_of(COLUMNS) as u64;
        let input = kernel.entry.args.operand(kernel.contract.input);
        self.share(columns * units, |i| {
            let (token, piece) =
                (e.lshr(i, self.number(units.trailing_zeros() as u64)), e.and(i, self.number(units - 1)));
            let within = e.mul(piece, self.number(unit));
            let column = self.column(step, within);
            let wide = e.zext(token, Ty::I64);
            let valid = e.compare(Cmp::Lt, wide, self.tile.rest);
            let valid = self.goes_on(column, unit).map_or(valid, |on| e.and(on, valid));
            let bytes = 4 * unit as u32;
            let valid = e.select(valid, e.int32(bytes as i32), self.number(0));
            let row = e.mul(e.add(self.tile.first, wide), e.int(kernel.input_stride() as i64));
            let from = e.offset(input, e.add(row, e.mul(column, e.int(4))));
            let chunk = self.token_chunk(token, e.lshr(within, self.number(2)));
            let byte = e.add(chunk, e.shl(e.and(within, self.number(3)), 2));
            e.copy_async(e.offset(to, byte), from, bytes, Some(valid));
        });
    }

    fn multiply(&self, panels: [Val<'c>; PER_WARP], tokens: Val<'c>, sums: &mut [Val<'c>]) {
        let columns = sums.len() / PER_WARP / 4;
        for s in 0..self.depth() / SPAN {
            let a = panels.map(|p| self.panel_parts(p, s));
            for n in 0..columns {
                let b = self.token_parts(tokens, n as u64, s);
                for (p, a) in a.iter().enumerate() {
                    let sums = &mut sums[4 * (p * columns + n)..][..4];
                    for (a, b) in a.iter().zip(&b) {
                        for (i, j) in [(0, 1), (1, 0), (0, 0)] {
                            let Some(a) = a.get(i) else { continue };
                            let d = self.e.mma(Mma::TF32, *a, b[j], [sums[0], sums[1], sums[2], sums[3]]);
                            sums.copy_from_slice(&d);
                        }
                    }
                }
            }
        }
    }
}
