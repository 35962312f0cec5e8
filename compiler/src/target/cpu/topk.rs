//! The topk family: the largest values of an axis by repeated search.

use super::abi::{Entry, Work};
use super::nest::vectors;
use super::tuning::WIDTH;
use crate::kernel::TopK;
use crate::llvm::{Cmp, Emitter, Lane, Ty, Val};
use crate::target::order::{index_of, search_key};

/// Keys that fit on the stack; longer axes use scratch memory.
const STACK_KEYS: u64 = 1024;

/// A work item is one point of the parallel axes.
pub fn emit(entry: &Entry, topk: &TopK) -> Work {
    let (e, scope) = (entry.emitter, entry.scope());
    let items: Vec<_> = topk.parallel.iter().map(|a| entry.spec.dim(*a).expect("emission: topk over keys")).collect();
    let length = entry.spec.dim(topk.axis).expect("emission: topk searches keys");
    let known = length.as_const().expect("emission: topk searches an axis of unknown length");
    let keys = if known <= STACK_KEYS { e.local(Ty::I64, known.max(1)) } else { entry.scratch };
    entry.for_each_item(&scope, &items, |index| {
        let at = topk.parallel.iter().zip(index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
        at.hoist(&[topk.value], &[topk.axis]);
        let n = e.int(known as i64);
        vectors(&at, topk.axis, (e.int(0), n), WIDTH, |s| {
            let place = s.axis(topk.axis);
            let key = search_key(e, e.materialise(s.real(topk.value), s.width()), e.materialise(place, s.width()));
            e.store(e.element(keys, Ty::I64, place.value), key);
        });
        let ranks = at.dim(entry.spec.dim(topk.rank).expect("emission: topk ranks keys"));
        e.for_each(e.int(0), ranks, 1, &[e.int(i64::MAX)], |rank, last| {
            let best = largest_below(e, keys, known, last[0]);
            let winner = index_of(e, best);
            let there = at.bind(topk.rank, Lane::uniform(rank));
            there.store_value(topk.operand, &topk.index, Lane::uniform(winner));
            vec![best]
        });
    });
    let items = if items.is_empty() { vec![llmc_artifact::Dim::Const(1)] } else { items };
    Work { items, scratch: if known <= STACK_KEYS { 0 } else { 8 * known } }
}

/// The largest of the first `n` keys that is below `last`.
fn largest_below<'c>(e: &Emitter<'c>, keys: Val<'c>, n: u64, last: Val<'c>) -> Val<'c> {
    let least = e.int(i64::MIN);
    let better = |best: Val<'c>, key: Val<'c>| {
        let allowed = e.select(e.compare(Cmp::Lt, key, last), key, e.like_int(key, i64::MIN));
        e.max(best, allowed)
    };
    let whole = n / WIDTH as u64 * WIDTH as u64;
    let mut best = least;
    if whole > 0 {
        let lanes = e.for_each(e.int(0), e.int(whole as i64), WIDTH as i64, &[e.splat(least, WIDTH)], |i, best| {
            vec![better(best[0], e.load(Ty::I64, WIDTH, e.element(keys, Ty::I64, i)))]
        });
        best = e.fold_lanes(lanes[0], |a, b| e.max(a, b));
    }
    let rest = e.for_each(e.int(whole as i64), e.int(n as i64), 1, &[best], |i, best| {
        vec![better(best[0], e.load(Ty::I64, 1, e.element(keys, Ty::I64, i)))]
    });
    rest[0]
}
