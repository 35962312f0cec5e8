//! Real weights: a lane takes four places along the reduced axis at once, and 16 bytes of a panel's rows at each.

use super::{Lanes, own_chunk, places, token_rows};
use crate::llvm::{CHUNK, Cmp, Emitter, Ty, Val};
use crate::target::nvptx::contract::{Kernel, Tile};
use crate::target::nvptx::tuning::FEW_AHEAD;
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{DType, Format};

/// Places that a lane takes at once: an activation's 16 bytes.
const RUN: u64 = 4;

pub(super) struct Plain<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    e: &'k Emitter<'c>,
    dtype: DType,
    tokens: Vec<Val<'c>>,
}

impl<'k, 'a, 'c> Plain<'k, 'a, 'c> {
    pub fn new(kernel: &'k Kernel<'a, 'c>, format: Format, tile: Tile<'c>) -> Self {
        let dtype = format.plain().expect("emission: a plain weight");
        let tokens = token_rows(kernel, kernel.contract.input, tile);
        Plain { kernel, e: kernel.e, dtype, tokens }
    }

    /// Rows of a lane.
    fn rows(&self) -> u32 {
        CHUNK / self.dtype.bytes() as u32
    }

    /// A chunk's elements.
    fn elements(&self, chunk: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let words = (0..CHUNK / 4).map(|i| e.extract(chunk, i));
        match self.dtype {
            DType::F32 => words.map(|w| e.bits(w, Ty::F32)).collect(),
            DType::F16 | DType::BF16 => {
                words.map(|w| e.unpack_halves(self.dtype, w)).flat_map(|(low, high)| [low, high]).collect()
            }
            DType::I32 | DType::I8 | DType::U8 => panic!("emission: a weight of integers"),
        }
    }

    /// Loads that begin at place number `run` of this lane.
    fn load(&self, start: Val<'c>, run: Val<'c>) -> Run<'c> {
        let (e, reduce) = (self.e, self.kernel.reduce);
        let row = (PANEL_LANES as usize * self.dtype.bytes()) as i64;
        let k = e.mul(run, e.int(RUN as i64));
        let weights = e.offset(start, e.mul(k, e.int(row)));
        if reduce.is_multiple_of(RUN) {
            let chunk = |j: u64| e.load_chunk(e.offset(weights, e.int(j as i64 * row)));
            let token = |x: &Val<'c>| self.kernel.input_four(*x, k);
            return Run { weights: (0..RUN).map(chunk).collect(), tokens: self.tokens.iter().map(token).collect() };
        }
        // The last run may be cut: what is not there counts as zeros on both sides.
        let on = |j: u64| e.compare(Cmp::Lt, e.add(k, e.int(j as i64)), e.int(reduce as i64));
        let chunk = |j: u64| {
            let load = || e.load_chunk(e.offset(weights, e.int(j as i64 * row)));
            if j == 0 { load() } else { e.either(on(j), load, || e.zero(Ty::I32, 4)) }
        };
        let token = |x: &Val<'c>| {
            [0, 1, 2, 3].map(|j| {
                let load = || self.kernel.input_one(*x, e.add(k, e.int(j as i64)));
                if j == 0 { load() } else { e.either(on(j), load, || e.f32(0.0)) }
            })
        };
        Run { weights: (0..RUN).map(chunk).collect(), tokens: self.tokens.iter().map(token).collect() }
    }

    fn add(&self, run: &Run<'c>, sums: &mut [Val<'c>]) {
        let tokens = self.tokens.len();
        for (j, chunk) in run.weights.iter().enumerate() {
            for (row, w) in self.elements(*chunk).into_iter().enumerate() {
                for (t, x) in run.tokens.iter().enumerate() {
                    let sum = &mut sums[row * tokens + t];
                    *sum = self.e.fma(w, x[j], *sum);
                }
            }
        }
    }
}

/// What a lane loads at once: for each place a chunk, for each token four elements.
struct Run<'c> {
    weights: Vec<Val<'c>>,
    tokens: Vec<[Val<'c>; 4]>,
}

impl<'c> Lanes<'c> for Plain<'_, '_, 'c> {
    fn sharing(&self) -> u32 {
        PANEL_LANES / self.rows()
    }

    fn panel(&self, start: Val<'c>, inside: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let start = e.offset(start, own_chunk(e, self.sharing()));
        let (first, step) = places(self.kernel, self.sharing());
        let runs = e.select(inside, e.int(self.kernel.reduce.div_ceil(RUN) as i64), e.int(0));
        let zero = vec![e.f32(0.0); self.rows() as usize * self.tokens.len()];
        // Several runs are on their way at once where there is room for them in registers.
        let ahead = if self.tokens.len() == 1 { FEW_AHEAD } else { 1 };
        let together = |first: Val<'c>, end: Val<'c>, ahead: i64, sums: &[Val<'c>]| {
            let mut carried = sums.to_vec();
            carried.push(first);
            let done = e.for_each(first, end, ahead * step, &carried, |run, now| {
                let mut next = now.to_vec();
                let loads: Vec<_> = (0..ahead).map(|a| self.load(start, e.add(run, e.int(a * step)))).collect();
                let last = next.len() - 1;
                loads.iter().for_each(|run| self.add(run, &mut next[..last]));
                next[last] = e.add(run, e.int(ahead * step));
                next
            });
            let (next, sums) = done.split_last().expect("the place is carried");
            (*next, sums.to_vec())
        };
        if ahead == 1 {
            return together(first, runs, 1, &zero).1;
        }
        let (next, sums) = together(first, e.sub(runs, e.int((ahead - 1) * step)), ahead, &zero);
        together(next, runs, 1, &sums).1
    }
}
