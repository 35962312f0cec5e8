//! Real weights, or quantised ones with a real activation: products that are as exact as f32.
//!
//! A weight of 16 bits is exact as TF32; an activation in f32 is the sum of two TF32 numbers but for its last bits, so that
//! two instructions give the product. A weight in f32 is cut in two as well, and the product of the two lower parts left out.
//! Where weight and activation are of the same 16 bits one instruction of those is exact.

use super::{COLUMNS, PER_WARP, Slot, Stage};
use crate::kernel::OperandRef;
use crate::llvm::{CHUNK, Cmp, Emitter, Mma, Ty, Val, WARP};
use crate::target::nvptx::contract::{Kernel, Tile};
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{DType, Format};

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
    /// Type of the activation's elements.
    input: DType,
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
        Float { kernel, e, weight, panel, input: kernel.input_type(), tile, lane, g, t }
    }

    fn number(&self, n: u64) -> Val<'c> {
        self.e.int32(n as i32)
    }

    /// The instruction that multiplies weights and activations as they are stored, where there is one.
    fn as_stored(&self) -> Option<Mma> {
        match (self.panel, self.input) {
            (Panel::Half(DType::F16), DType::F16) => Some(Mma::F16),
            (Panel::Half(DType::BF16), DType::BF16) => Some(Mma::BF16),
            (Panel::Half(_) | Panel::Single | Panel::Decoded, _) => None,
        }
    }

    /// Where element `within` of a token's part lies. Lanes read those of eight tokens at once, at four places each: tokens
    /// whose rows are as long as the banks are wide, or half as long, take turns.
    fn token_element(&self, token: Val<'c>, within: Val<'c>) -> Val<'c> {
        let (e, bytes) = (self.e, self.input.bytes() as u64);
        let per_chunk = CHUNK as u64 / bytes;
        let chunk = e.lshr(within, self.number(per_chunk.trailing_zeros() as u64));
        let chunk = match self.token_bytes() {
            128 => e.xor(chunk, e.shl(e.and(token, self.number(1)), 2)),
            64 if bytes == 2 => e.xor(chunk, e.and(token, self.number(2))),
            _ => chunk,
        };
        let start = e.add(e.mul(token, self.number(self.token_bytes())), e.mul(chunk, self.number(CHUNK as u64)));
        e.add(start, e.mul(e.and(within, self.number(per_chunk - 1)), self.number(bytes)))
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

    /// Pairs of elements of a panel of 16 bits: `A` of one instruction.
    fn halves(&self, panel: Val<'c>, s: u64) -> [Val<'c>; 4] {
        let e = self.e;
        // Matrix m of four: rows of the panel from 8 (m % 2), columns 4 i + 2 (m / 2) and the next of each lane i.
        let (m, r) = (e.lshr(self.lane, self.number(3)), e.and(self.lane, self.number(7)));
        let pair = e.add(e.shl(e.lshr(m, self.number(1)), 1), e.and(r, self.number(1)));
        let k = e.add(e.shl(e.lshr(r, self.number(1)), 2), pair);
        let c = e.add(e.shl(k, 1), e.and(m, self.number(1)));
        let at = e.add(self.panel_chunk(c), self.number(s * SPAN * 2 * CHUNK as u64));
        let loaded = e.load_matrices(4, true, e.offset(panel, at));
        [loaded[0], loaded[1], loaded[2], loaded[3]]
    }

    fn half_parts(&self, dtype: DType, panel: Val<'c>, s: u64) -> [Vec<[Val<'c>; 4]>; 2] {
        let e = self.e;
        let both = self.halves(panel, s).map(|pair| e.unpack_halves(dtype, pair));
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

    /// What a lane has of eight tokens: four elements of one.
    fn token_words(&self, tokens: Val<'c>, n: u64, s: u64) -> Val<'c> {
        let e = self.e;
        let within = e.add(e.shl(self.t, 2), self.number(s * SPAN));
        let at = e.add(self.token_element(self.g, within), self.number(n * COLUMNS as u64 * self.token_bytes()));
        let bytes = 4 * self.input.bytes() as u32;
        e.load_aligned(Ty::I32, bytes / 4, e.offset(tokens, at), bytes)
    }

    /// Registers of `B` of eight tokens, for each of two instructions: the upper, then the lower parts.
    fn token_parts(&self, tokens: Val<'c>, n: u64, s: u64) -> [[[Val<'c>; 2]; 2]; 2] {
        let (e, words) = (self.e, self.token_words(tokens, n, s));
        let four: Vec<Val> = match self.input {
            DType::F16 | DType::BF16 => {
                let pairs = [0, 1].map(|i| e.unpack_halves(self.input, e.extract(words, i)));
                pairs.into_iter().flat_map(|(low, high)| [low, high]).collect()
            }
            _ => (0..4).map(|i| e.bits(e.extract(words, i), Ty::F32)).collect(),
        };
        let parts = [0, 1, 2, 3].map(|i| split(e, four[i]));
        let pair = |i: usize, part: usize| [parts[i][part], parts[i + 1][part]];
        [[pair(0, 0), pair(0, 1)], [pair(2, 0), pair(2, 1)]]
    }

    /// Products of weights and activations as they are stored.
    fn multiply_as_stored(&self, kind: Mma, panels: [Val<'c>; PER_WARP], tokens: Val<'c>, sums: &mut [Val<'c>]) {
        let (e, columns) = (self.e, sums.len() / PER_WARP / 4);
        for s in 0..self.depth() / SPAN {
            let a = panels.map(|p| self.halves(p, s));
            for n in 0..columns {
                let words = self.token_words(tokens, n as u64, s);
                let b = [e.extract(words, 0), e.extract(words, 1)];
                for (p, a) in a.iter().enumerate() {
                    let sums = &mut sums[4 * (p * columns + n)..][..4];
                    sums.copy_from_slice(&e.mma(kind, *a, b, [sums[0], sums[1], sums[2], sums[3]]));
                }
            }
        }
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
        self.input.bytes() as u64 * self.depth()
    }

    fn copy_panel(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>) {
        match self.panel {
            Panel::Half(_) | Panel::Single => self.copy_chunks(to, slot, step),
            Panel::Decoded => self.decode(to, slot, step),
        }
    }

    fn copy_tokens(&self, to: Val<'c>, step: Val<'c>) {
        let (e, kernel, bytes) = (self.e, self.kernel, self.input.bytes() as u64);
        // The most that rows are aligned to; an odd row of 16 bits goes through registers.
        let fits = |unit: &u64| kernel.reduce.is_multiple_of(*unit) && unit * bytes <= CHUNK as u64;
        let unit = [8, 4, 2, 1].into_iter().find(fits).expect("one divides every number");
        let size = (unit * bytes) as u32;
        let units = self.depth() / unit;
        let columns = self.tile.room.next_multiple_of(COLUMNS) as u64;
        let input = kernel.entry.args.operand(kernel.contract.input);
        self.share(columns * units, |i| {
            let shift = units.trailing_zeros() as u64;
            let (token, piece) = (e.lshr(i, self.number(shift)), e.and(i, self.number(units - 1)));
            let within = e.mul(piece, self.number(unit));
            let column = self.column(step, within);
            let wide = e.zext(token, Ty::I64);
            let valid = e.compare(Cmp::Lt, wide, self.tile.rest);
            let valid = self.goes_on(column, unit).map_or(valid, |on| e.and(on, valid));
            let row = e.mul(e.add(self.tile.first, wide), e.int(kernel.input_stride() as i64));
            let from = e.offset(input, e.add(row, e.mul(column, e.int(bytes as i64))));
            let to = e.offset(to, self.token_element(token, within));
            if size >= 4 {
                let valid = e.select(valid, e.int32(size as i32), self.number(0));
                e.copy_async(to, from, size, Some(valid));
            } else {
                e.store(to, e.either(valid, || e.load(Ty::I16, 1, from), || e.zero(Ty::I16, 1)));
            }
        });
    }

    fn multiply(&self, panels: [Val<'c>; PER_WARP], tokens: Val<'c>, sums: &mut [Val<'c>]) {
        if let Some(kind) = self.as_stored() {
            return self.multiply_as_stored(kind, panels, tokens, sums);
        }
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
