//! How a segment's output rows are cut into groups, and how many tokens a block takes with one.
//!
//! A group is whole panels, whole ranges of every axis that an epilogue reads at another index, and whole blocks of what is
//! stored. Its sums lie in shared memory, one row of them for each product and token.

use crate::kernel::{AxisRef, KernelSpec, Segment};
use crate::target::cpu::contract::group::moved_range;
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
    /// Tokens whose sums lie in shared memory at once.
    pub tokens: u32,
}

/// What a form of the family aims at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Sums of one token over all products of a segment.
    pub rows: u64,
    /// Tokens, a power of two.
    pub tokens: u32,
    /// Bytes of sums.
    pub bytes: u64,
}

/// Padding between two tokens' sums, in elements: the lanes that hold a fragment write without a conflict.
pub(super) const PAD: u64 = 4;

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

impl Groups {
    pub fn new(spec: &KernelSpec, segment: &Segment, aim: Aim) -> Groups {
        let length = |a: &AxisRef| spec.dim(*a).and_then(Dim::as_const).expect("emission: an output axis varies");
        let lengths: Vec<u64> = segment.axes.iter().map(length).collect();
        let blocks = segment.stores.iter().map(|s| spec.operands[s.operand.0 as usize].format.block() as u64);
        let unit = blocks.chain([moved_range(spec, segment, &lengths)]).fold(PANEL_LANES as u64, lcm);
        Groups::cut(lengths.iter().product(), unit, segment.products.len() as u64, aim)
    }

    /// Cuts rows into groups of a multiple of `unit`, for so many products.
    fn cut(rows: u64, unit: u64, products: u64, aim: Aim) -> Groups {
        let products = products.max(1);
        let size = unit * (aim.rows / products / unit).max(1);
        let size = size.min(rows.next_multiple_of(PANEL_LANES as u64));
        let bytes = |tokens: u32| 4 * products * tokens as u64 * (size + PAD);
        let mut tokens = aim.tokens;
        while tokens > 1 && bytes(tokens) > aim.bytes {
            tokens /= 2;
        }
        Groups { rows, size, count: rows.div_ceil(size), tokens }
    }

    /// Panels of a group.
    pub fn panels(&self) -> u64 {
        self.size / PANEL_LANES as u64
    }

    /// Panels of a whole weight.
    pub fn all_panels(&self) -> u64 {
        self.rows.div_ceil(PANEL_LANES as u64)
    }

    /// Elements from one token's sums to the next one's.
    pub fn stride(&self) -> u64 {
        self.size + PAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_their_epilogue_needs() {
        let aim = Aim { rows: 128, tokens: 64, bytes: 1 << 16 };
        // rows, unit, products -> size, count, tokens
        let cases = [
            (2048, 16, 1, 128, 16, 64),
            (2048, 16, 2, 64, 32, 64),
            (100, 16, 1, 112, 1, 64),
            (1, 16, 1, 16, 1, 64),
            (576, 48, 1, 96, 6, 64),
            (960, 80, 1, 80, 12, 64),
            (2048, 512, 1, 512, 4, 16),
            (2048, 16, 3, 32, 64, 64),
            (1, 16, 0, 16, 1, 64),
        ];
        for (rows, unit, products, size, count, tokens) in cases {
            let g = Groups::cut(rows, unit, products, aim);
            assert_eq!((g.size, g.count, g.tokens), (size, count, tokens), "{rows} {unit} {products}");
            assert!(g.size * g.count >= g.rows && g.size.is_multiple_of(PANEL_LANES as u64));
        }
    }
}
