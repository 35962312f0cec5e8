//! Left factors of matrix instructions: rows of numbers in shared memory or in registers.
//!
//! An `f32` is given to the TF32 instruction in two parts, its first 11 bits and the rest's first 11, so that a product with an
//! element of two bytes is as exact as one of `f32`s. Depth is counted in eights: `values[h]` are columns `8 h + 2 t`, `8 h + 2 t + 1`
//! of row `g`, then of row `g + 8`, as a sum of matrices lies in registers, so that sums are left factors as they are.
//! Along the depth the instruction's own columns `t` and `t + 4` stand for `2 t` and `2 t + 1`, on both sides.

use crate::llvm::{Emitter, Mma, Ty, Val};
use crate::target::nvptx::abi::Entry;
use llmc_artifact::DType;

/// Numbers from one row to the next: rows of a fragment fall into different banks.
fn stride(width: u64) -> u64 {
    let padded = width.next_multiple_of(16);
    padded + (40 - padded % 32) % 32
}

/// Bytes of an array of rows.
pub fn bytes(rows: u64, width: u64) -> u64 {
    rows * stride(width) * 4
}

/// Rows in shared memory.
#[derive(Clone, Copy)]
pub struct LeftRows<'c> {
    array: Val<'c>,
    stride: u64,
}

impl<'c> LeftRows<'c> {
    /// Room for rows.
    pub fn new(entry: &Entry<'_, 'c>, rows: u64, width: u64) -> LeftRows<'c> {
        LeftRows::within(entry.shared(Ty::F32, rows * stride(width)), width)
    }

    /// Rows in an array of as many bytes as [`bytes`] says.
    pub fn within(array: Val<'c>, width: u64) -> LeftRows<'c> {
        LeftRows { array, stride: stride(width) }
    }

    /// The place of an element; both `i64`s.
    pub fn place(&self, e: &Emitter<'c>, row: Val<'c>, column: Val<'c>) -> Val<'c> {
        e.element(self.array, Ty::F32, e.add(e.mul(row, e.int(self.stride as i64)), column))
    }

    /// Writes two numbers side by side, from an even column on.
    pub fn store(&self, e: &Emitter<'c>, row: Val<'c>, column: Val<'c>, pair: [Val<'c>; 2]) {
        let both = e.insert(e.insert(e.undefined(Ty::F32, 2), 0, pair[0]), 1, pair[1]);
        e.store_aligned(self.place(e, row, column), both, 8);
    }

    /// The fragment of 16 rows from where this lane's `place` of row `g`, column `2 t` is, and eights of columns from `first` on.
    pub fn fragment(&self, e: &Emitter<'c>, place: Val<'c>, first: u64) -> Left<'c> {
        let at = |row: u64, eight: u64| {
            let bytes = 4 * (row * self.stride + 8 * (first + eight));
            let both = e.load_aligned(Ty::F32, 2, e.offset(place, e.int(bytes as i64)), 8);
            [e.extract(both, 0), e.extract(both, 1)]
        };
        Left::of(e, [0, 1].map(|h| [at(0, h), at(8, h)]).map(|[a, b]| [a[0], a[1], b[0], b[1]]))
    }
}

/// A fragment of 16 rows and 16 columns.
pub struct Left<'c> {
    parts: [[[Val<'c>; 4]; 2]; 2],
}

impl<'c> Left<'c> {
    /// From numbers in registers.
    pub fn of(e: &Emitter<'c>, values: [[Val<'c>; 4]; 2]) -> Left<'c> {
        let halves = values.map(|x| {
            let split = [x[0], x[2], x[1], x[3]].map(|v| {
                let high = e.to_tf32(v);
                let rest = e.sub(v, e.bits(high, Ty::F32));
                [e.to_tf32(rest), high]
            });
            [0, 1].map(|part| split.map(|s| s[part]))
        });
        Left { parts: halves }
    }

    /// `sum + self * right`, where `right` has elements of two bytes: a register of each eight of the depth.
    pub fn multiply(&self, e: &Emitter<'c>, dtype: DType, right: [Val<'c>; 2], sum: [Val<'c>; 4]) -> [Val<'c>; 4] {
        let mut sum = sum;
        for (parts, pair) in self.parts.iter().zip(right) {
            let (low, high) = e.unpack_halves(dtype, pair);
            let right = [low, high].map(|x| e.bits(x, Ty::I32));
            for part in parts {
                sum = e.mma(Mma::TF32, *part, right, sum);
            }
        }
        sum
    }
}
