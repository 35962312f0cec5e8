//! Statistics of tokens: folds over the reduced axes that use no packed weight.
//!
//! All threads of a block share each token's elements, so that the order of a fold is a function of the number of threads
//! alone; what a warp found is folded by lanes, then warp after warp.

use crate::kernel::{Fold, ResultRef};
use crate::llvm::{Cmp, Emitter, Lane, Scope, Ty, Val, WARP};
use crate::target::nvptx::abi::Entry;
use crate::target::points::bind_point;
use llmc_artifact::{ReduceOp, Type};

use super::Kernel;

/// The statistics that a segment reads, in shared memory: a row of tokens for each.
pub(super) struct Stats<'c> {
    of: Vec<ResultRef>,
    array: Option<Val<'c>>,
    tokens: u32,
}

fn combine<'c>(e: &Emitter<'c>, op: ReduceOp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match op {
        ReduceOp::Sum => e.add(a, b),
        ReduceOp::Max => e.max(a, b),
        ReduceOp::Min => e.min(a, b),
        ReduceOp::Any | ReduceOp::All => panic!("emission: a statistic of truth values"),
    }
}

impl<'c> Stats<'c> {
    /// Room for these statistics.
    pub fn new(entry: &Entry<'_, 'c>, of: Vec<ResultRef>, tokens: u32) -> Stats<'c> {
        let array = (!of.is_empty()).then(|| entry.shared(Ty::F32, of.len() as u64 * tokens as u64));
        Stats { of, array, tokens }
    }

    /// Whether there are none: then nobody meets to compute them.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Computes them for `count` tokens from `first` on. Another barrier must come before they are read.
    pub fn compute(&self, kernel: &Kernel<'_, 'c>, first: Val<'c>, count: Val<'c>) {
        let (entry, e) = (kernel.entry, kernel.e);
        let Some(array) = self.array else { return };
        let warps = entry.warps();
        let parts = entry.shared(Ty::F32, self.of.len() as u64 * (self.tokens * warps) as u64);
        let (warp, leads) = (e.zext(e.warp_index(), Ty::I64), e.compare(Cmp::Eq, e.lane_index(), e.int32(0)));
        for (i, stat) in self.of.iter().enumerate() {
            let fold = &kernel.contract.stats[stat.0 as usize];
            e.repeat(e.int(0), count, 1, |token| {
                let at = kernel.scope.bind(kernel.contract.row, Lane::uniform(e.add(first, token)));
                let found = e.fold_warp(share(kernel, fold, &at), WARP, |a, b| combine(e, fold.op, a, b));
                let row = e.add(token, e.int(i as i64 * self.tokens as i64));
                let place = e.add(e.mul(row, e.int(warps as i64)), warp);
                e.when(leads, || e.store(e.element(parts, Ty::F32, place), found));
            });
        }
        e.barrier();
        for (i, stat) in self.of.iter().enumerate() {
            let op = kernel.contract.stats[stat.0 as usize].op;
            entry.for_each(count, |token| {
                let row = e.add(token, e.int(i as i64 * self.tokens as i64));
                let from = e.element(parts, Ty::F32, e.mul(row, e.int(warps as i64)));
                let part = |w: u32| e.load(Ty::F32, 1, e.element(from, Ty::F32, e.int(w as i64)));
                let whole = (1..warps).fold(part(0), |found, w| combine(e, op, found, part(w)));
                e.store(e.element(array, Ty::F32, row), whole);
            });
        }
    }

    /// A statistic of a token of the tile, where it is one.
    pub fn read(&self, e: &Emitter<'c>, result: ResultRef, token: Val<'c>) -> Option<Val<'c>> {
        let i = self.of.iter().position(|r| *r == result)?;
        let at = e.add(token, e.int(i as i64 * self.tokens as i64));
        Some(e.load(Ty::F32, 1, e.element(self.array?, Ty::F32, at)))
    }
}

/// This thread's share of a token's fold.
fn share<'c>(kernel: &Kernel<'_, 'c>, fold: &Fold, at: &Scope<'_, 'c>) -> Val<'c> {
    let (entry, e) = (kernel.entry, kernel.e);
    let identity = e.f32(fold.op.identity(Type::Real).real());
    let found = e.for_each(entry.thread, e.int(kernel.reduce as i64), entry.threads as i64, &[identity], |i, found| {
        let value = bind_point(at, &kernel.contract.reduce, i).real(fold.body).value;
        vec![combine(e, fold.op, found[0], value)]
    });
    found[0]
}
