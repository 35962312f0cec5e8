//! Operands seen as tensors, of which a kernel copies boxes to shared memory (`cp.async.bulk.tensor`).
//!
//! A kernel gets each as a parameter of 128 bytes that the device makes where it knows the operand's memory: the driver of a GPU
//! in its own form (`cuTensorMapEncodeTiled`), the simulator in another.

use serde::{Deserialize, Serialize};

/// Bytes of a description.
pub const TENSOR_BYTES: usize = 128;
/// Bytes that change places in shared memory as one.
const CHUNK: u64 = 16;
/// Axes that a tensor can have.
const AXES: std::ops::RangeInclusive<usize> = 2..=5;
/// Elements along an axis of a box at most.
const MOST: u32 = 256;

/// Which chunk of 16 bytes of a box lies where in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Turns {
    /// As in the tensor.
    None,
    /// The two chunks of 32 bytes take turns every fourth time.
    Of32,
    /// The four chunks of 64 bytes take turns every second time.
    Of64,
    /// The eight chunks of 128 bytes take turns each time.
    Of128,
}

impl Turns {
    /// Bytes of a row of a box at most; none where any number is right.
    pub const fn span(self) -> Option<u64> {
        match self {
            Turns::None => None,
            Turns::Of32 => Some(32),
            Turns::Of64 => Some(64),
            Turns::Of128 => Some(128),
        }
    }
}

/// An operand as a tensor: elements side by side, as many along the outermost axis as its memory holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorMap {
    /// The kernel's operand.
    pub operand: u32,
    /// Bytes of an element.
    pub element: u32,
    /// Elements along every axis but the outermost, innermost first.
    pub sizes: Vec<u64>,
    /// Elements of a box along every axis, innermost first. What of it is outside the tensor is zeros.
    pub tile: Vec<u32>,
    /// How a box lies in shared memory.
    pub turns: Turns,
}

impl TensorMap {
    /// Bytes from one index to the next along every axis but the innermost; the last is that of the outermost.
    ///
    /// # Panics
    /// On overflow: a validated plan's do not.
    pub fn strides(&self) -> Vec<u64> {
        let mut bytes = self.element as u64;
        let step = |n: &u64| {
            bytes = bytes.checked_mul(*n).expect("a validated plan's tensors have sizes");
            bytes
        };
        self.sizes.iter().map(step).collect()
    }

    /// Elements along every axis, innermost first, of an operand of so many bytes; at least one.
    pub fn lengths(&self, bytes: u64) -> Vec<u64> {
        let outermost = self.strides().last().map_or(1, |each| bytes / each);
        self.sizes.iter().copied().chain([outermost.clamp(1, u32::MAX as u64)]).collect()
    }

    /// What is wrong with it, and what would be right.
    pub(crate) fn fault(&self) -> Option<(String, &'static str)> {
        let axes = self.tile.len();
        if !AXES.contains(&axes) || self.sizes.len() + 1 != axes {
            return Some((format!("{axes} and {} axes", self.sizes.len() + 1), "the same number, of 2 to 5"));
        }
        if !matches!(self.element, 1 | 2 | 4 | 8) {
            return Some((format!("elements of {} bytes", self.element), "1, 2, 4 or 8"));
        }
        if let Some(n) = self.sizes.iter().find(|n| **n == 0 || **n > u32::MAX as u64) {
            return Some((format!("an axis of {n} elements"), "one of 32 bits"));
        }
        if let Some(n) = self.tile.iter().find(|n| **n == 0 || **n > MOST) {
            return Some((format!("a box of {n} elements along an axis"), "1 to 256"));
        }
        let step = |bytes: u64, n: &u64| bytes.checked_mul(*n).filter(|b| b.is_multiple_of(CHUNK) && *b < 1 << 40);
        if self.sizes.iter().try_fold(self.element as u64, step).is_none() {
            return Some((format!("axes of {:?} elements", self.sizes), "whole chunks of 16 bytes, below 2^40"));
        }
        let row = self.tile[0] as u64 * self.element as u64;
        if !row.is_multiple_of(CHUNK) || self.turns.span().is_some_and(|span| row > span) {
            return Some((format!("a box's rows of {row} bytes"), "whole chunks of 16, no more than take turns"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages `[pages, 3 heads, 64 tokens, 80 columns]` of two bytes.
    fn pages() -> TensorMap {
        TensorMap { operand: 1, element: 2, sizes: vec![80, 64, 3], tile: vec![64, 64, 1, 1], turns: Turns::Of128 }
    }

    #[test]
    fn the_memory_says_how_many_there_are() {
        let map = pages();
        assert_eq!(map.strides(), [160, 160 * 64, 160 * 64 * 3]);
        assert_eq!(map.lengths(7 * 160 * 64 * 3 + 5), [80, 64, 3, 7]);
        assert_eq!(map.lengths(0), [80, 64, 3, 1], "no tensor is empty");
        assert_eq!(map.fault(), None);
    }

    #[test]
    fn what_no_driver_takes_is_told() {
        let damaged: [fn(&mut TensorMap); 9] = [
            |m| m.element = 3,
            |m| m.sizes[0] = 81,
            |m| m.sizes[1] = 0,
            |m| m.sizes = vec![80, u64::MAX, u64::MAX],
            |m| m.sizes = vec![1 << 32, 64, 3],
            |m| m.tile[0] = 72,
            |m| m.tile[1] = 257,
            |m| m.tile = vec![64, 64, 1],
            |m| (m.sizes, m.tile) = (vec![], vec![64]),
        ];
        for damage in damaged {
            let mut map = pages();
            damage(&mut map);
            assert!(map.fault().is_some(), "{map:?}");
        }
    }
}
