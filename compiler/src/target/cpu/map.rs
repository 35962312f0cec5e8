//! The map family: stores at every point, vectors along the innermost axis.

use super::abi::{Entry, Work};
use super::nest::{roots, store_all, store_nest, vectors, width_of};
use super::tuning::MAP_CHUNK;
use crate::kernel::{AxisRef, Store};
use crate::llvm::Val;
use llmc_artifact::Dim;

/// A work item is a point of the outer axes and, where the innermost axis is long, a chunk of it.
pub fn emit(entry: &Entry, axes: &[AxisRef], stores: &[Store]) -> Work {
    let (e, scope) = (entry.emitter, entry.scope());
    scope.hoist(&roots(stores), axes);
    let dim = |a: &AxisRef| entry.spec.dim(*a).expect("emission: a map does not run over keys");
    let Some((inner, outer)) = axes.split_last() else {
        entry.for_each_item(&scope, &[], |_| store_all(&scope, stores));
        return Work { items: vec![Dim::Const(1)], scratch: 0 };
    };
    let mut items: Vec<Dim> = outer.iter().map(dim).collect();
    let chunks = dim(inner).as_const().map(|n| n.div_ceil(MAP_CHUNK).max(1));
    items.push(Dim::Const(chunks.unwrap_or(1)));
    entry.for_each_item(&scope, &items, |index| {
        let at = outer.iter().zip(index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
        let Some(chunks) = chunks.filter(|n| *n > 1) else {
            return store_nest(&at, &[*inner], stores);
        };
        at.hoist(&roots(stores), &[*inner]);
        let length = scope.dim(dim(inner));
        let begin: Val = e.mul(index[outer.len()].value, e.int(MAP_CHUNK as i64));
        let end = e.min(e.add(begin, e.int(MAP_CHUNK as i64)), length);
        debug_assert!(chunks > 1);
        vectors(&at, *inner, (begin, end), width_of(entry.spec, stores), |s| store_all(s, stores));
    });
    Work { items, scratch: 0 }
}
