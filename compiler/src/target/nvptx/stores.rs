//! Stores at the points of a block's axes.

use super::abi::Entry;
use crate::kernel::{AxisRef, KernelSpec, Store};
use crate::llvm::{Scope, Val};
use crate::target::points::bind_point;
use llmc_artifact::Dim;

/// Elements that one thread stores at once: a whole block where one is written, else one.
pub fn width_of(spec: &KernelSpec, stores: &[Store]) -> u32 {
    stores.iter().map(|s| spec.operands[s.operand.0 as usize].format.block() as u32).fold(1, u32::max)
}

/// Performs stores at the scope's point.
pub fn store_all(scope: &Scope, stores: &[Store]) {
    for s in stores {
        scope.store(s.operand, &s.index, s.value);
    }
}

/// Performs stores at points `first..end` of the axes, dealt out to the block's threads.
pub fn store_points<'c>(
    entry: &Entry<'_, 'c>,
    scope: &Scope<'_, 'c>,
    axes: &[AxisRef],
    (first, end): (Val<'c>, Val<'c>),
    stores: &[Store],
) {
    let (e, width) = (entry.emitter, width_of(entry.spec, stores));
    let scope = scope.widened(width);
    let count = e.lane_div_rem(
        crate::llvm::Lane::uniform(e.sub(end, first)),
        crate::llvm::Lane::uniform(e.int(width as i64)),
        1,
    );
    entry.for_each(count.0.value, |unit| {
        let number = e.add(first, e.mul(unit, e.int(width as i64)));
        store_all(&bind_point(&scope, axes, number), stores);
    });
}

/// The number of points of constant axes.
pub fn points(spec: &KernelSpec, axes: &[AxisRef]) -> Option<u64> {
    axes.iter().map(|a| spec.dim(*a).and_then(Dim::as_const)).product()
}
