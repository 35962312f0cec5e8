//! Loop nests over a kernel's axes, the innermost over vectors.

use super::tuning::WIDTH;
use crate::kernel::{AxisRef, ExprRef, KernelSpec, Store};
use crate::llvm::{Lane, Scope, Val};
use llmc_artifact::Dim;

/// Lanes that the innermost axis of these stores takes: a whole block where one is written, else a vector.
pub fn width_of(spec: &KernelSpec, stores: &[Store]) -> u32 {
    let blocks = stores.iter().map(|s| spec.operands[s.operand.0 as usize].format.block() as u32);
    blocks.filter(|b| *b > 1).fold(WIDTH, u32::max)
}

/// Every expression that stores evaluate.
pub fn roots(stores: &[Store]) -> Vec<ExprRef> {
    stores.iter().flat_map(|s| s.index.iter().copied().chain([s.value])).collect()
}

/// Performs stores at every point of the axes.
pub fn store_nest<'c>(scope: &Scope<'_, 'c>, axes: &[AxisRef], stores: &[Store]) {
    let spec = scope.spec();
    scope.hoist(&roots(stores), axes);
    let Some((first, rest)) = axes.split_first() else {
        return store_all(scope, stores);
    };
    let length = scope.dim(spec.dim(*first).expect("emission: stores do not run over keys"));
    if rest.is_empty() {
        return vectors(scope, *first, (scope.emitter().int(0), length), width_of(spec, stores), |s| {
            store_all(s, stores)
        });
    }
    scope.emitter().repeat(scope.emitter().int(0), length, 1, |i| {
        store_nest(&scope.bind(*first, Lane::uniform(i)), rest, stores);
    });
}

/// Performs stores at the scope's point.
pub fn store_all(scope: &Scope, stores: &[Store]) {
    for s in stores {
        scope.store(s.operand, &s.index, s.value);
    }
}

/// Runs `body` along an axis from `begin`, a multiple of `width`, to `end`: vectors of `width`, then single elements.
pub fn vectors<'c>(
    scope: &Scope<'_, 'c>,
    axis: AxisRef,
    (begin, end): (Val<'c>, Val<'c>),
    width: u32,
    body: impl Fn(&Scope<'_, 'c>),
) {
    let e = scope.emitter();
    let whole = match (begin.constant(), end.constant()) {
        (Some(b), Some(n)) => e.int(b + (n - b).max(0) / width as i64 * width as i64),
        _ => {
            let tail = e.and(e.sub(end, begin), e.int(width as i64 - 1));
            e.sub(end, tail)
        }
    };
    if whole.constant().is_none() || whole != begin {
        let wide = scope.widened(width);
        e.repeat(begin, whole, width as i64, |i| body(&wide.bind(axis, Lane::range(i, width as u64))));
    }
    // A length that is a known multiple leaves no tail; a dynamic end of a constant axis may be one as well.
    let no_tail = match scope.spec().dim(axis) {
        Some(Dim::Const(n)) => n % width as u64 == 0,
        _ => false,
    };
    if !no_tail {
        let single = scope.widened(1);
        e.repeat(whole, end, 1, |i| body(&single.bind(axis, Lane::uniform(i))));
    }
}
