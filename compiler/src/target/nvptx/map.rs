//! The map family: a thread for every element, or for every block of elements where one is quantised.

use super::abi::Entry;
use super::tuning::THREADS;
use crate::kernel::{AxisRef, Store};
use crate::llvm::{Cmp, Lane};
use crate::target::nvptx::stores::{store_all, width_of};
use crate::target::points::bind_point;
use llmc_artifact::Dim;

/// A block is a point of the outer axes and, where the innermost axis is constant, a run of it.
pub fn emit(entry: &Entry, axes: &[AxisRef], stores: &[Store]) -> Vec<Dim> {
    let (e, scope) = (entry.emitter, entry.scope());
    let width = width_of(entry.spec, stores);
    let dim = |a: &AxisRef| entry.spec.dim(*a).expect("emission: a map does not run over keys");
    let Some((inner, outer)) = axes.split_last() else {
        e.when(e.compare(Cmp::Eq, entry.thread, e.int(0)), || store_all(&scope, stores));
        return Vec::new();
    };
    let mut items: Vec<Dim> = outer.iter().map(dim).collect();
    let units = dim(inner).as_const().map(|n| n / width as u64);
    items.push(Dim::Const(units.map_or(1, |n| n.div_ceil(THREADS as u64).max(1))));
    let index = entry.item_index(&scope, &items);
    let at = outer.iter().zip(&index).fold(scope.widened(width), |s, (axis, i)| s.bind(*axis, *i));
    match units {
        Some(n) => {
            let unit = e.add(e.mul(index[outer.len()].value, e.int(THREADS as i64)), entry.thread);
            e.when(e.compare(Cmp::Lt, unit, e.int(n as i64)), || {
                store_all(&bind_point(&at, &[*inner], e.mul(unit, e.int(width as i64))), stores);
            });
        }
        None => entry.for_each(scope.dim(dim(inner)), |i| store_all(&at.bind(*inner, Lane::uniform(i)), stores)),
    }
    items
}
