//! The topk family: repeated search, every thread over its share of the axis.

use super::abi::Entry;
use super::tuning::THREADS;
use crate::kernel::TopK;
use crate::llvm::{Cmp, Lane, Ty};
use crate::target::order::{index_of, search_key};
use llmc_artifact::Dim;

/// A block is one point of the parallel axes. Values are computed again for every winner: they are read, not made.
pub fn emit(entry: &Entry, topk: &TopK) -> Vec<Dim> {
    let (e, scope) = (entry.emitter, entry.scope());
    let dim = |a| entry.spec.dim(a).expect("emission: topk over keys");
    let items: Vec<Dim> = topk.parallel.iter().map(|a| dim(*a)).collect();
    let index = entry.item_index(&scope, &items);
    let at = topk.parallel.iter().zip(&index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
    // Two arrays in turn: a warp may still read the winner of one rank while another keeps what it found for the next.
    let best = [(); 2].map(|()| entry.shared(Ty::I64, entry.warps() as u64));
    let (length, ranks) = (at.dim(dim(topk.axis)), at.dim(dim(topk.rank)));
    e.for_each(e.int(0), ranks, 1, &[e.int(i64::MAX)], |rank, last| {
        let mine = e.for_each(entry.thread, length, THREADS as i64, &[e.int(i64::MIN)], |i, found| {
            let value = at.bind(topk.axis, Lane::uniform(i)).real(topk.value).value;
            let key = search_key(e, value, i);
            let allowed = e.select(e.compare(Cmp::Lt, key, last[0]), key, e.int(i64::MIN));
            vec![e.max(found[0], allowed)]
        });
        let odd = e.compare(Cmp::Eq, e.and(rank, e.int(1)), e.int(1));
        let winner = entry.fold_threads(e.select(odd, best[1], best[0]), mine[0], |a, b| e.max(a, b));
        e.when(e.compare(Cmp::Eq, entry.thread, e.int(0)), || {
            let there = at.bind(topk.rank, Lane::uniform(rank));
            there.store_value(topk.operand, &topk.index, Lane::uniform(index_of(e, winner)));
        });
        vec![winner]
    });
    items
}
