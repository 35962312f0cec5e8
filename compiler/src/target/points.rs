//! Points of several axes by their row-major number.

use crate::kernel::AxisRef;
use crate::llvm::{Lane, Scope, Val};

/// Binds axes to the point with this number. With vectors of more than one lane the innermost axis runs over them; the
/// number is then a multiple of the width, and so is the axis's length.
pub fn bind_point<'b, 'c>(scope: &Scope<'b, 'c>, axes: &[AxisRef], number: Val<'c>) -> Scope<'b, 'c> {
    let (e, width) = (scope.emitter(), scope.width());
    let mut rest = Lane::multiple_of(number, width as u64);
    let mut at = scope.widened(width);
    for (i, axis) in axes.iter().enumerate().rev() {
        let length = scope.spec().dim(*axis).expect("emission: a point of keys");
        let (outer, index) = e.lane_div_rem(rest, Lane::uniform(scope.dim(length)), 1);
        let index = if i == 0 { rest } else { index };
        let lanes = width > 1 && i + 1 == axes.len();
        at = at.bind(*axis, if lanes { Lane::range(index.value, width as u64) } else { index });
        rest = outer;
    }
    at
}
