//! Products in f32: plain weights, and quantised ones whose activation was not quantised.

use super::integer::Quants;
use super::{Kernel, Part};
use crate::llvm::{Emitter, Ty, Val};
use llmc_artifact::Format;
use llmc_artifact::plan::PANEL_LANES;

impl<'c> Kernel<'_, 'c> {
    /// `sum[m](w[m] * x[m])` for the rows of a plain weight's panel and each token. Column `m` goes to chain `m % chains`; the
    /// chains are added pairwise at the end.
    pub(super) fn plain_product(&self, format: Format, part: Part<'c>, rows: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, chains) = (self.e, self.multiplier.tile.chains as u64);
        let dtype = format.plain().expect("emission: a plain product of blocks");
        let column = |chain: u64, m: Val<'c>, sums: &mut [Val<'c>]| {
            let m = e.add(m, e.int(chain as i64));
            let column = part.moved(e, e.mul(m, e.int((dtype.bytes() * PANEL_LANES as usize) as i64)));
            let w = e.load(Emitter::stored_type(dtype), part.lanes, column.group(e, 0, dtype.bytes() as u64));
            let w = e.widen_stored(dtype, w);
            for (token, row) in rows.iter().enumerate() {
                let x = self.input_element(*row, m);
                let sum = &mut sums[token * chains as usize + chain as usize];
                *sum = e.fma(w, e.splat(x, part.lanes), *sum);
            }
        };
        let zero = vec![e.zero(Ty::F32, part.lanes); rows.len() * chains as usize];
        let whole = self.reduce / chains * chains;
        let mut sums = e.for_each(e.int(0), e.int(whole as i64), chains as i64, &zero, |m, now| {
            let mut sums = now.to_vec();
            (0..chains).for_each(|chain| column(chain, m, &mut sums));
            sums
        });
        (0..self.reduce - whole).for_each(|chain| column(chain, e.int(whole as i64), &mut sums));
        self.join_chains(sums)
    }

    /// The same for a block format, decoded on the way.
    pub(super) fn decoded_product(&self, format: Format, part: Part<'c>, rows: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, chains) = (self.e, self.multiplier.tile.chains as usize);
        let block = format.block() as i64;
        let bytes = format.block_bytes() as i64 * PANEL_LANES as i64;
        let zero = vec![e.zero(Ty::F32, part.lanes); rows.len() * chains];
        let sums = e.for_each(e.int(0), e.int(self.reduce as i64 / block), 1, &zero, |b, now| {
            let mut sums = now.to_vec();
            let formats = (format, self.input_format());
            let quants = Quants::new(e, formats, part.moved(e, e.mul(b, e.int(bytes))));
            let first = e.mul(b, e.int(block));
            quants.for_each_group(|at, word| {
                for i in 0..4 {
                    let q = e.int_to_float(quants.byte(word, i), Ty::F32);
                    let scaled = quants.scale.map_or(q, |d| e.mul(d, q));
                    let w = quants.offset.map_or(scaled, |m| e.add(scaled, m));
                    let m = e.add(first, e.int((at + i) as i64));
                    for (token, row) in rows.iter().enumerate() {
                        let x = self.input_element(*row, m);
                        let sum = &mut sums[token * chains + (at + i) as usize % chains];
                        *sum = e.fma(w, e.splat(x, part.lanes), *sum);
                    }
                }
            });
            sums
        });
        self.join_chains(sums)
    }

    /// An element of a token's plain activation.
    fn input_element(&self, row: Val<'c>, m: Val<'c>) -> Val<'c> {
        let e = self.e;
        let dtype = self.input_format().plain().expect("emission: a plain product with blocks");
        let ty = Emitter::stored_type(dtype);
        e.widen_stored(dtype, e.load(ty, 1, e.element(row, ty, m)))
    }

    fn join_chains(&self, sums: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let join = |chains: &[Val<'c>]| {
            let mut chains = chains.to_vec();
            while chains.len() > 1 {
                chains = chains.chunks(2).map(|c| if c.len() == 2 { self.e.add(c[0], c[1]) } else { c[0] }).collect();
            }
            chains[0]
        };
        sums.chunks(self.multiplier.tile.chains as usize).map(join).collect()
    }
}
