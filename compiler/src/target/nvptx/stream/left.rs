//! Left factors of matrix instructions: rows of numbers in shared memory or in registers.
//!
//! A factor that the spec rounds to the type of what it is multiplied with is given to the instruction of that type. Any other is
//! an `f32`, given to the TF32 instruction in two parts, its first 11 bits and the rest's first 11, so that a product with an
//! element of two bytes is as exact as one of `f32`s; along the depth that instruction's columns `t` and `t + 4` then
//! stand for `2 t` and `2 t + 1`, on both sides. Depth is counted in eights: `values[h]` are columns `8 h + 2 t`, `8 h + 2 t + 1` of
//! row `g`, then of row `g + 8`, as a sum of matrices lies in registers, so that sums are left factors as they are.

use super::fold::Place;
use crate::llvm::{CHUNK, Described, Emitter, Mma, SPAN, TURNS, Ty, Val};
use crate::target::nvptx::abi::Entry;
use llmc_artifact::DType;
use llmc_artifact::tensor::Turns;

/// How a left factor is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As an `f32`.
    Split,
    /// As a number of two bytes, which it is.
    Halves(DType),
}

impl Precision {
    fn bytes(self) -> u64 {
        match self {
            Precision::Split => 4,
            Precision::Halves(_) => 2,
        }
    }

    /// Numbers from one row to the next: rows of a fragment fall into different banks.
    fn stride(self, width: u64) -> u64 {
        let padded = width.next_multiple_of(16);
        match self {
            Precision::Split => padded + (40 - padded % 32) % 32,
            Precision::Halves(_) => ((padded / 8) | 1) * 8,
        }
    }
}

/// Bytes of an array of rows.
pub fn bytes(precision: Precision, rows: u64, width: u64) -> u64 {
    rows * precision.stride(width) * precision.bytes()
}

/// Bytes of rows of two bytes in turns.
pub fn turned(rows: u64, width: u64) -> u64 {
    width.div_ceil(SPAN as u64 / 2) * rows * SPAN as u64
}

/// How rows lie.
#[derive(Clone, Copy)]
enum Lines {
    /// So many numbers apart.
    Apart(u64),
    /// Cut into spans that are so many bytes apart, their chunks in turns: as fours of warps read them.
    Turned(u64),
}

/// Rows in shared memory.
#[derive(Clone, Copy)]
pub struct LeftRows<'c> {
    array: Val<'c>,
    precision: Precision,
    lines: Lines,
}

impl<'c> LeftRows<'c> {
    /// Room for rows.
    pub fn new(entry: &Entry<'_, 'c>, precision: Precision, rows: u64, width: u64) -> LeftRows<'c> {
        LeftRows::within(entry.shared(Ty::I8, bytes(precision, rows, width)), precision, width)
    }

    /// Rows in an array of as many bytes as [`bytes`] says.
    pub fn within(array: Val<'c>, precision: Precision, width: u64) -> LeftRows<'c> {
        LeftRows { array, precision, lines: Lines::Apart(precision.stride(width)) }
    }

    /// Room for rows of two bytes that fours of warps read.
    pub fn in_turns(entry: &Entry<'_, 'c>, precision: Precision, rows: u64, width: u64) -> LeftRows<'c> {
        let array = entry.shared_aligned(Ty::I8, turned(rows, width), TURNS);
        LeftRows { array, precision, lines: Lines::Turned(rows * SPAN as u64) }
    }

    /// The place of an element; both `i64`s.
    pub fn place(&self, e: &Emitter<'c>, row: Val<'c>, column: Val<'c>) -> Val<'c> {
        let bytes = self.precision.bytes() as i64;
        match self.lines {
            Lines::Apart(stride) => {
                let at = e.add(e.mul(row, e.int(stride as i64)), column);
                e.offset(self.array, e.mul(at, e.int(bytes)))
            }
            Lines::Turned(apart) => {
                let (elements, chunks) = (CHUNK as i64 / bytes, SPAN / CHUNK);
                let chunk = e.lshr(column, e.int(elements.trailing_zeros() as i64));
                let turn = e.swizzled(row, e.and(chunk, e.int(chunks as i64 - 1)), chunks);
                let span = e.mul(e.lshr(chunk, e.int(chunks.trailing_zeros() as i64)), e.int(apart as i64));
                let line = e.add(e.mul(row, e.int(SPAN as i64)), span);
                let within = e.mul(e.and(column, e.int(elements - 1)), e.int(bytes));
                e.offset(self.array, e.add(e.add(line, e.mul(turn, e.int(CHUNK as i64))), within))
            }
        }
    }

    /// Describes 64 rows from `first` on, a multiple of eight, to the units that fours of warps share: of each 16 columns the rows.
    pub fn described(&self, e: &Emitter<'c>, first: Val<'c>, sixteens: u64) -> Vec<Described<'c>> {
        let Lines::Turned(apart) = self.lines else { panic!("emission: rows in no turns that four warps read") };
        let all = e.describe_rows(e.offset(self.array, e.mul(first, e.int(SPAN as i64))), Turns::Of128);
        let of_span = SPAN as u64 / 32;
        (0..sixteens).map(|deep| all.further(deep / of_span * apart + deep % of_span * 32)).collect()
    }

    /// Writes two numbers side by side, from an even column on.
    pub fn store(&self, e: &Emitter<'c>, row: Val<'c>, column: Val<'c>, pair: [Val<'c>; 2]) {
        let place = self.place(e, row, column);
        match self.precision {
            Precision::Split => {
                let both = e.insert(e.insert(e.undefined(Ty::F32, 2), 0, pair[0]), 1, pair[1]);
                e.store_aligned(place, both, 8);
            }
            Precision::Halves(dtype) => e.store(place, e.pack_halves(dtype, pair[0], pair[1])),
        }
    }

    /// Where this lane begins to read fragments of its warp's rows.
    pub fn lane_place(&self, e: &Emitter<'c>, at: Place<'c>) -> Val<'c> {
        match self.precision {
            Precision::Split => self.place(e, e.add(at.row, at.group), e.mul(at.pair, e.int(2))),
            Precision::Halves(_) => {
                let lane = e.zext(e.lane_index(), Ty::I64);
                let row = e.add(at.row, e.and(lane, e.int(15)));
                self.place(e, row, e.mul(e.lshr(lane, e.int(4)), e.int(8)))
            }
        }
    }

    /// The fragment of 16 rows behind a lane's place, and of 16 columns from `first` eights on.
    pub fn fragment(&self, e: &Emitter<'c>, place: Val<'c>, first: u64) -> Left<'c> {
        match self.precision {
            Precision::Split => {
                let Lines::Apart(stride) = self.lines else { panic!("emission: numbers of four bytes in turns") };
                let at = |row: u64, eight: u64| {
                    let bytes = 4 * (row * stride + 8 * (first + eight));
                    let both = e.load_aligned(Ty::F32, 2, e.offset(place, e.int(bytes as i64)), 8);
                    [e.extract(both, 0), e.extract(both, 1)]
                };
                let values = [0, 1].map(|h| [at(0, h), at(8, h)]).map(|[a, b]| [a[0], a[1], b[0], b[1]]);
                Left::of(e, self.precision, values)
            }
            Precision::Halves(dtype) => {
                let words = e.load_matrices(4, false, e.offset(place, e.int((first * CHUNK as u64) as i64)));
                Left::Halves(dtype, [words[0], words[1], words[2], words[3]])
            }
        }
    }
}

/// A fragment of 16 rows and 16 columns.
pub enum Left<'c> {
    /// Of each eight columns the lower part, then the higher.
    Split([[[Val<'c>; 4]; 2]; 2]),
    /// As the instruction takes them.
    Halves(DType, [Val<'c>; 4]),
}

impl<'c> Left<'c> {
    /// From numbers in registers.
    pub fn of(e: &Emitter<'c>, precision: Precision, values: [[Val<'c>; 4]; 2]) -> Left<'c> {
        match precision {
            Precision::Split => Left::Split(values.map(|x| {
                let split = [x[0], x[2], x[1], x[3]].map(|v| {
                    let high = e.to_tf32(v);
                    let rest = e.sub(v, e.bits(high, Ty::F32));
                    [e.to_tf32(rest), high]
                });
                [0, 1].map(|part| split.map(|s| s[part]))
            })),
            Precision::Halves(dtype) => {
                let pairs = [(0, 0), (0, 2), (1, 0), (1, 2)];
                Left::Halves(dtype, pairs.map(|(h, i)| e.pack_halves(dtype, values[h][i], values[h][i + 1])))
            }
        }
    }

    /// The registers of numbers of two bytes.
    ///
    /// # Panics
    /// For those in two parts.
    pub fn halves(&self) -> [Val<'c>; 4] {
        match self {
            Left::Halves(_, words) => *words,
            Left::Split(_) => panic!("emission: a factor in two parts where one of two bytes is multiplied"),
        }
    }

    /// `sum + self * right`, where `right` has elements of two bytes: a register of each eight of the depth.
    pub fn multiply(&self, e: &Emitter<'c>, dtype: DType, right: [Val<'c>; 2], sum: [Val<'c>; 4]) -> [Val<'c>; 4] {
        match self {
            Left::Split(parts) => {
                let mut sum = sum;
                for (parts, pair) in parts.iter().zip(right) {
                    let (low, high) = e.unpack_halves(dtype, pair);
                    let right = [low, high].map(|x| e.bits(x, Ty::I32));
                    for part in parts {
                        sum = e.mma(Mma::TF32, *part, right, sum);
                    }
                }
                sum
            }
            Left::Halves(DType::BF16, left) => e.mma(Mma::BF16, *left, right, sum),
            Left::Halves(_, left) => e.mma(Mma::F16, *left, right, sum),
        }
    }
}
