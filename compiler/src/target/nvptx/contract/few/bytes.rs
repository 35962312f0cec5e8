//! Quantised weights: a lane takes whole blocks, of four rows of a panel. With a quantised activation their dots are of
//! integers, with a real one each element is decoded.

use super::{Lanes, own_chunk, places, token_rows};
use crate::llvm::{CHUNK, Emitter, Ty, Val};
use crate::target::nvptx::contract::quants::{ACT_BYTES, ACT_QUANTS, BLOCK, Blocks, Scalar, check_activation, quant};
use crate::target::nvptx::contract::{Kernel, Tile};
use llmc_artifact::Format;
use llmc_artifact::plan::PANEL_LANES;

/// Rows of a lane: words of a chunk.
const ROWS: u32 = CHUNK / 4;

pub(super) struct Bytes<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    e: &'k Emitter<'c>,
    blocks: Blocks,
    /// Dots of integers.
    exact: bool,
    tokens: Vec<Val<'c>>,
}

/// A block of four rows.
struct Rows<'c> {
    scales: Vec<Val<'c>>,
    shifts: Vec<Option<Val<'c>>>,
    /// The block's first quant, and of each row four.
    quants: Vec<(u32, Vec<Val<'c>>)>,
}

impl<'k, 'a, 'c> Bytes<'k, 'a, 'c> {
    pub fn new(kernel: &'k Kernel<'a, 'c>, format: Format, tile: Tile<'c>) -> Self {
        let exact = kernel.input_format().is_quantised();
        if exact {
            check_activation(kernel.input_format());
        }
        let tokens = token_rows(kernel, kernel.contract.input, tile);
        Bytes { kernel, e: kernel.e, blocks: Blocks::of(format), exact, tokens }
    }

    /// A scalar of each of this lane's rows.
    fn scalars(&self, block: Val<'c>, scalar: Scalar) -> Vec<Val<'c>> {
        let (e, bytes) = (self.e, scalar.dtype.bytes() as u32);
        let row = e.mul(e.and(e.lane_index(), e.int32((self.sharing() - 1) as i32)), e.int32(ROWS as i32));
        let at = e.offset(block, Blocks::scalar_at(e, scalar, row));
        let all = e.load_aligned(Emitter::stored_type(scalar.dtype), ROWS, at, ROWS * bytes);
        let all = e.widen_stored(scalar.dtype, all);
        (0..ROWS).map(|i| e.extract(all, i)).collect()
    }

    fn rows(&self, block: Val<'c>) -> Rows<'c> {
        let e = self.e;
        let own = e.offset(block, own_chunk(e, self.sharing()));
        let chunk = |at: u32| {
            let words = e.load_chunk(e.offset(own, e.int(at as i64)));
            (0..ROWS).map(|i| e.extract(words, i)).collect::<Vec<_>>()
        };
        let scales = self.scalars(block, self.blocks.scale);
        let offsets = self.blocks.offset.map(|o| self.scalars(block, o));
        let high = self.blocks.high.map(chunk);
        let words: Vec<_> = (0..self.blocks.words).map(|w| chunk(self.blocks.quants + w * 4 * PANEL_LANES)).collect();
        let shifts = (scales.iter().enumerate())
            .map(|(i, scale)| self.blocks.shift(e, *scale, offsets.as_ref().map(|o| o[i])))
            .collect();
        let mut quants = Vec::new();
        for (w, words) in words.into_iter().enumerate() {
            let first = 4 * w as u32;
            let each: Vec<Vec<Val>> = (words.into_iter().enumerate())
                .map(|(i, word)| self.blocks.quants(e, word, high.as_ref().map(|h| h[i]), e.int32(first as i32)))
                .collect();
            for part in 0..each[0].len() {
                quants.push((first + part as u32 * BLOCK / 2, each.iter().map(|row| row[part]).collect()));
            }
        }
        Rows { scales, shifts, quants }
    }

    /// Adds the dots with each token's block of integers.
    fn add_exact(&self, rows: &Rows<'c>, block: Val<'c>, sums: &mut [Val<'c>]) {
        let (e, tokens) = (self.e, self.tokens.len());
        for (t, row) in self.tokens.iter().enumerate() {
            let x = e.offset(*row, e.mul(block, e.int(ACT_BYTES as i64)));
            let head = e.load_aligned(Ty::F32, 2, x, 8);
            let (scale, sum) = (e.extract(head, 0), e.extract(head, 1));
            let quants: Vec<Val> = (0..BLOCK / 8)
                .map(|i| e.load_aligned(Ty::I32, 2, e.offset(x, e.int((ACT_QUANTS + 8 * i) as i64)), 8))
                .flat_map(|pair| [e.extract(pair, 0), e.extract(pair, 1)])
                .collect();
            for i in 0..ROWS as usize {
                let dot = |dot, (first, quants_of): &(u32, Vec<Val<'c>>)| {
                    e.dot_bytes(quants_of[i], quants[*first as usize / 4], dot)
                };
                let exact = e.int_to_float(rows.quants.iter().fold(e.int32(0), dot), Ty::F32);
                let so_far = &mut sums[i * tokens + t];
                *so_far = e.fma(e.mul(rows.scales[i], scale), exact, *so_far);
                if let Some(shift) = rows.shifts[i] {
                    *so_far = e.fma(shift, sum, *so_far);
                }
            }
        }
    }

    /// Adds the products of decoded elements with each token's.
    fn add_decoded(&self, rows: &Rows<'c>, block: Val<'c>, sums: &mut [Val<'c>]) {
        let (e, tokens) = (self.e, self.tokens.len());
        for (first, quants) in &rows.quants {
            let k = e.add(e.mul(block, e.int(BLOCK as i64)), e.int(*first as i64));
            let xs: Vec<[Val; 4]> = self.tokens.iter().map(|x| self.kernel.input_four(*x, k)).collect();
            for (i, word) in quants.iter().enumerate() {
                for j in 0..4 {
                    let scaled = e.mul(rows.scales[i], quant(e, &self.blocks, *word, j));
                    let w = rows.shifts[i].map_or(scaled, |shift| e.add(scaled, shift));
                    for (t, x) in xs.iter().enumerate() {
                        let so_far = &mut sums[i * tokens + t];
                        *so_far = e.fma(w, x[j as usize], *so_far);
                    }
                }
            }
        }
    }
}

impl<'c> Lanes<'c> for Bytes<'_, '_, 'c> {
    fn sharing(&self) -> u32 {
        PANEL_LANES / ROWS
    }

    fn panel(&self, start: Val<'c>, inside: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let (first, step) = places(self.kernel, self.sharing());
        let blocks = e.select(inside, e.int((self.kernel.reduce / BLOCK as u64) as i64), e.int(0));
        let zero = vec![e.f32(0.0); ROWS as usize * self.tokens.len()];
        e.for_each(first, blocks, step, &zero, |block, now| {
            let rows = self.rows(e.offset(start, e.mul(block, e.int(self.blocks.bytes as i64))));
            let mut next = now.to_vec();
            match self.exact {
                true => self.add_exact(&rows, block, &mut next),
                false => self.add_decoded(&rows, block, &mut next),
            }
            next
        })
    }
}
