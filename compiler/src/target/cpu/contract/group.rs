//! How a segment's output rows are cut into work items.
//!
//! A group is whole panels. It holds whole ranges of every axis that an epilogue reads at another index, whole blocks
//! of every block format that is stored, and otherwise either whole ranges of the innermost axis or a part of one.

use crate::kernel::{AxisRef, Expr, KernelSpec, Segment};
use crate::llvm::{Lane, Scope, Val};
use crate::target::cpu::nest::roots;
use crate::target::cpu::tuning::GROUP_ROWS;
use llmc_artifact::Dim;
use llmc_artifact::plan::PANEL_LANES;

/// The cut of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// Output rows of the segment.
    pub rows: u64,
    /// Rows of a group; the last may have fewer.
    pub size: u64,
    /// Number of groups.
    pub count: u64,
    /// Length of the innermost axis; 1 for a segment without axes.
    inner: u64,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    a / gcd(a, b) * b
}

impl Groups {
    pub fn new(spec: &KernelSpec, segment: &Segment) -> Groups {
        let lengths: Vec<u64> = segment
            .axes
            .iter()
            .map(|a| spec.dim(*a).and_then(Dim::as_const).expect("emission: an output axis varies"))
            .collect();
        let blocks = segment.stores.iter().map(|s| spec.operands[s.operand.0 as usize].format.block() as u64);
        let blocks = blocks.fold(1, lcm);
        Groups::cut(&lengths, moved_range(spec, segment, &lengths), blocks)
    }

    /// Cuts axes of these lengths; a group is a multiple of `whole` rows and of `blocks` along the innermost axis.
    fn cut(lengths: &[u64], whole: u64, blocks: u64) -> Groups {
        let rows: u64 = lengths.iter().product();
        let inner = lengths.last().copied().unwrap_or(1);
        let unit = lcm(PANEL_LANES as u64, lcm(whole, blocks));
        let size = unit * GROUP_ROWS.div_ceil(unit);
        // With several axes a group must not end inside one range of the innermost and go on in the next.
        let fits = lengths.len() <= 1 || inner % size == 0;
        let size = if fits {
            size
        } else {
            let unit = lcm(unit, inner);
            unit * GROUP_ROWS.div_ceil(unit)
        };
        Groups { rows, size: size.min(rows.next_multiple_of(PANEL_LANES as u64)), count: rows.div_ceil(size), inner }
    }

    /// Rows of a group in scratch memory.
    pub fn padded(&self) -> u64 {
        self.size
    }

    /// Panels of the whole weight.
    pub fn panels(&self) -> u64 {
        self.rows.div_ceil(PANEL_LANES as u64)
    }

    /// Visits a group's rows: `body` with the outer axes bound, the innermost axis and its range.
    pub fn for_each_row<'c>(
        &self,
        scope: &Scope<'_, 'c>,
        group: Val<'c>,
        axes: &[AxisRef],
        body: impl Fn(&Scope<'_, 'c>, Option<AxisRef>, (Val<'c>, Val<'c>)),
    ) {
        let e = scope.emitter();
        let Some((inner, outer)) = axes.split_last() else {
            return body(scope, None, (e.int(0), e.int(1)));
        };
        let (size, length) = (e.int(self.size as i64), e.int(self.inner as i64));
        let first = e.mul(group, size);
        if outer.is_empty() {
            let end = if self.count == 1 { length } else { e.min(e.add(first, size), length) };
            let first = if self.count == 1 { e.int(0) } else { first };
            return body(scope, Some(*inner), (first, end));
        }
        if self.size < self.inner {
            let (range, begin) = e.lane_div_rem(Lane::uniform(first), Lane::uniform(length), 1);
            let at = bind_outer(scope, outer, range.value);
            return body(&at, Some(*inner), (begin.value, e.add(begin.value, size)));
        }
        let ranges = self.size / self.inner;
        let begin = e.mul(group, e.int(ranges as i64));
        let end = e.min(e.add(begin, e.int(ranges as i64)), e.int((self.rows / self.inner) as i64));
        e.repeat(begin, end, 1, |range| {
            body(&bind_outer(scope, outer, range), Some(*inner), (e.int(0), length));
        });
    }
}

/// Binds axes to the row-major point with this number.
fn bind_outer<'b, 'c>(scope: &Scope<'b, 'c>, axes: &[AxisRef], number: Val<'c>) -> Scope<'b, 'c> {
    let e = scope.emitter();
    let (mut rest, mut at) = (Lane::uniform(number), scope.widened(1));
    for (i, axis) in axes.iter().enumerate().rev() {
        let length = scope.spec().dim(*axis).expect("emission: an output axis varies");
        let (outer, index) = e.lane_div_rem(rest, Lane::uniform(scope.dim(length)), 1);
        at = at.bind(*axis, if i == 0 { rest } else { index });
        rest = outer;
    }
    at
}

/// Rows from the outermost axis inwards that an epilogue reads at another index; 1 where none is.
pub(in crate::target) fn moved_range(spec: &KernelSpec, segment: &Segment, lengths: &[u64]) -> u64 {
    let mut outermost = segment.axes.len();
    for e in spec.exprs.reachable(&roots(&segment.stores)) {
        if let Expr::Result { moved, .. } = &spec.exprs[e] {
            let places = moved.iter().filter_map(|(a, _)| segment.axes.iter().position(|s| s == a));
            outermost = places.fold(outermost, usize::min);
        }
    }
    lengths[outermost..].iter().product()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_their_epilogue_needs() {
        // lengths, moved range, blocks -> size, count
        let cases: &[(&[u64], u64, u64, u64, u64)] = &[
            (&[576], 1, 1, 32, 18),
            (&[577], 1, 1, 32, 19),
            (&[9, 64], 64, 1, 64, 9),
            (&[9, 64], 1, 1, 32, 18),
            (&[3, 24], 24, 1, 48, 2),
            (&[3, 20], 1, 1, 64, 1),
            (&[7], 7, 1, 16, 1),
            (&[], 1, 1, 16, 1),
            (&[1536], 1, 32, 32, 48),
            (&[2, 96], 1, 32, 32, 6),
            (&[40, 5], 1, 1, 80, 3),
        ];
        for &(lengths, whole, blocks, size, count) in cases {
            let g = Groups::cut(lengths, whole, blocks);
            assert_eq!((g.size, g.count), (size, count), "{lengths:?} {whole} {blocks}");
            assert_eq!(g.size % PANEL_LANES as u64, 0);
            assert!(g.size * g.count >= g.rows);
        }
    }
}
