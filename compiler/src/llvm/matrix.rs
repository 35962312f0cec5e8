//! Matrix instructions: a warp multiplies small matrices whose elements its lanes hold.
//!
//! An [`Mma`] is `D = A * B + C` with `A` of 16 rows, `B` of 8 columns and the depth `k` of its kind. With `g = lane / 4` and
//! `t = lane % 4`, and `p` elements in a register of 32 bits (the lowest bits first), a lane holds
//!
//! | registers | hold |
//! |---|---|
//! | `a[0], a[1]` | row `g`, row `g + 8`: columns `p t ..` |
//! | `a[2], a[3]` | the same rows: columns `p (t + 4) ..` |
//! | `b[0], b[1]` | column `g`: rows `p t ..`, rows `p (t + 4) ..` |
//! | `c[0], c[1]`, also `d` | row `g`: columns `2 t`, `2 t + 1` |
//! | `c[2], c[3]` | row `g + 8`: the same columns |
//!
//! `p` is 2 for halves, 1 for TF32, 4 for bytes, so that `k = 8 p`.

use super::{Emitter, Ty, Val, built};
use llmc_artifact::DType;

/// A matrix instruction: the type of `A` and `B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mma {
    /// Binary16, sums in binary32.
    F16,
    /// Bfloat16, sums in binary32.
    BF16,
    /// Binary32 of which the first 10 bits of the mantissa count, sums in binary32.
    TF32,
    /// Signed bytes, sums in 32 bits.
    S8,
}

impl Mma {
    /// Every kind.
    pub const ALL: [Mma; 4] = [Mma::F16, Mma::BF16, Mma::TF32, Mma::S8];

    /// Elements in a register: `p`.
    pub const fn packed(self) -> u32 {
        match self {
            Mma::F16 | Mma::BF16 => 2,
            Mma::TF32 => 1,
            Mma::S8 => 4,
        }
    }

    /// Columns of `A` and rows of `B`: `k`.
    pub const fn depth(self) -> u32 {
        8 * self.packed()
    }

    /// Type of `C` and `D`.
    pub const fn sum(self) -> Ty {
        match self {
            Mma::F16 | Mma::BF16 | Mma::TF32 => Ty::F32,
            Mma::S8 => Ty::I32,
        }
    }

    const fn intrinsic(self) -> &'static str {
        match self {
            Mma::F16 => "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
            Mma::BF16 => "llvm.nvvm.mma.m16n8k16.row.col.bf16",
            Mma::TF32 => "llvm.nvvm.mma.m16n8k8.row.col.tf32",
            Mma::S8 => "llvm.nvvm.mma.m16n8k32.row.col.s8",
        }
    }
}

impl<'c> Emitter<'c> {
    /// `a * b + c`. Registers of `a` and `b` are `i32`s, those of `c` and the result of [`Mma::sum`].
    pub fn mma(&self, kind: Mma, a: [Val<'c>; 4], b: [Val<'c>; 2], c: [Val<'c>; 4]) -> [Val<'c>; 4] {
        let operand = |v: Val<'c>| if kind == Mma::F16 { self.bit_cast(v, Ty::F16, 2) } else { v };
        let args: Vec<Val> = a.into_iter().chain(b).map(operand).chain(c).collect();
        let d = self.target_intrinsic(kind.intrinsic(), &args);
        [0, 1, 2, 3].map(|i| self.part(d, i))
    }

    /// Loads `count` (1, 2 or 4) matrices of 8 rows of 16 bytes from shared memory; lanes `8 i .. 8 i + 8` give the rows' addresses
    /// of matrix `i`, multiples of 16 (lanes without a matrix still give one). A lane's register of each holds bytes `4 t .. 4 t + 4`
    /// of row `g`; transposed, where elements are of 2 bytes, elements `g` of rows `2 t` and `2 t + 1`.
    pub fn load_matrices(&self, count: u32, transposed: bool, row: Val<'c>) -> Vec<Val<'c>> {
        let trans = if transposed { ".trans" } else { "" };
        let name = format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{count}{trans}.b16");
        let loaded = self.call_intrinsic(&name, &[row.0.get_type()], &[row]);
        if count == 1 { vec![loaded] } else { (0..count).map(|i| self.part(loaded, i)).collect() }
    }

    /// A part of what an instruction with several results gave.
    fn part(&self, v: Val<'c>, i: u32) -> Val<'c> {
        Val(built(self.builder.build_extract_value(v.0.into_struct_value(), i, "")))
    }

    /// Two `f32`s as halves of an `i32`, rounded to nearest even.
    ///
    /// # Panics
    /// For a type that is not of two bytes.
    pub fn pack_halves(&self, dtype: DType, low: Val<'c>, high: Val<'c>) -> Val<'c> {
        let name = match dtype {
            DType::F16 => "llvm.nvvm.ff2f16x2.rn",
            DType::BF16 => "llvm.nvvm.ff2bf16x2.rn",
            DType::F32 | DType::I32 | DType::I8 | DType::U8 => panic!("emission: halves of {dtype:?}"),
        };
        self.bit_cast(self.target_intrinsic(name, &[high, low]), Ty::I32, 1)
    }

    /// The two halves of an `i32` as `f32`s, the lower first.
    ///
    /// # Panics
    /// For a type that is not of two bytes.
    pub fn unpack_halves(&self, dtype: DType, pair: Val<'c>) -> (Val<'c>, Val<'c>) {
        match dtype {
            DType::F16 => {
                let both = self.bit_cast(pair, Ty::F16, 2);
                let one = |i| self.float_cast(self.extract(both, i), Ty::F32);
                (one(0), one(1))
            }
            DType::BF16 => {
                let high = self.and(pair, self.int32(0xffff_0000u32 as i32));
                (self.bits(self.shl(pair, 16), Ty::F32), self.bits(high, Ty::F32))
            }
            DType::F32 | DType::I32 | DType::I8 | DType::U8 => panic!("emission: halves of {dtype:?}"),
        }
    }

    /// An `f32` as an operand of [`Mma::TF32`], an `i32`: rounded to nearest, halves away from zero.
    pub fn to_tf32(&self, x: Val<'c>) -> Val<'c> {
        self.target_intrinsic("llvm.nvvm.f2tf32.rna", &[x])
    }

    /// The sum of `c` and the products of four signed bytes each of `a` and `b`; all `i32`s.
    pub fn dot_bytes(&self, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Val<'c> {
        self.target_intrinsic("llvm.nvvm.idp4a.s.s", &[a, b, c])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llvm::testing::sim::{run_block, words};

    /// Small whole numbers, exact in every type.
    fn number(i: u32, j: u32) -> i32 {
        (i * 5 + j * 3) as i32 % 7 - 3
    }

    fn encode(kind: Mma, x: i32) -> Vec<u8> {
        match kind {
            Mma::F16 => half::f16::from_f32(x as f32).to_le_bytes().to_vec(),
            Mma::BF16 => half::bf16::from_f32(x as f32).to_le_bytes().to_vec(),
            Mma::TF32 => (x as f32).to_le_bytes().to_vec(),
            Mma::S8 => (x as i8).to_le_bytes().to_vec(),
        }
    }

    /// A word of a matrix whose rows are eight words.
    fn word<'c>(e: &Emitter<'c>, matrix: Val<'c>, row: Val<'c>, column: Val<'c>) -> Val<'c> {
        e.load(Ty::I32, 1, e.element(matrix, Ty::I32, e.add(e.mul(row, e.int(8)), column)))
    }

    /// `A [16, k]` and `B^T [8, k]`, both row-major, multiplied with fragments loaded as the table says.
    #[test]
    fn fragments_lie_as_documented() {
        for kind in Mma::ALL {
            let k = kind.depth();
            let matrix = |rows: u32, turn: u32| -> Vec<u8> {
                let at = |i: u32| number(i / k + turn, i % k);
                (0..rows * k).flat_map(|i| encode(kind, at(i))).collect()
            };
            let (a, b) = (matrix(16, 0), matrix(8, 3));
            let (out, counters) = run_block(32, 0, &[a, b, vec![0; 4 * 16 * 8]], |e, p| {
                let lane = e.zext(e.lane_index(), Ty::I64);
                let (g, t) = (e.lshr(lane, e.int(2)), e.and(lane, e.int(3)));
                let below = e.add(g, e.int(8));
                let a = [(g, 0), (below, 0), (g, 4), (below, 4)]
                    .map(|(row, from)| word(e, p[0], row, e.add(t, e.int(from))));
                let b = [0, 4].map(|from| word(e, p[1], g, e.add(t, e.int(from))));
                let d = e.mma(kind, a, b, [e.zero(kind.sum(), 1); 4]);
                for (i, d) in d.into_iter().enumerate() {
                    let row = if i < 2 { g } else { below };
                    let column = e.add(e.mul(t, e.int(2)), e.int(i as i64 % 2));
                    e.store(e.element(p[2], kind.sum(), e.add(e.mul(row, e.int(8)), column)), d);
                }
            });
            assert_eq!((counters.matrix_instructions, counters.matrix_flops), (1, 2 * 16 * 8 * k as u64));
            let want = |i: u32| (0..k).map(|x| number(i / 8, x) * number(i % 8 + 3, x)).sum::<i32>();
            let bits = |x: i32| if kind == Mma::S8 { x as u32 } else { (x as f32).to_bits() };
            let want: Vec<u32> = (0..16 * 8).map(|i| bits(want(i))).collect();
            assert_eq!(words(&out[2]), want, "{kind:?}");
        }
    }

    /// Matrices of elements of two bytes, as they lie and transposed.
    #[test]
    fn matrices_load_as_documented() {
        for (count, transposed) in [(1, false), (2, true), (4, false), (4, true)] {
            let input: Vec<u8> = (0..count * 64).flat_map(|i| (i as u16).to_le_bytes()).collect();
            let bytes = input.len() as u32;
            let (out, counters) = run_block(32, bytes, &[input, vec![0; 4 * 32 * count as usize]], |e, p| {
                let (lane, shared) = (e.zext(e.lane_index(), Ty::I64), e.shared_memory());
                // Lane by lane a row; those without one give the last again.
                let row = e.min(lane, e.int(8 * count as i64 - 1));
                let at = e.mul(row, e.int(16));
                e.when(e.compare(crate::llvm::Cmp::Lt, lane, e.int(8 * count as i64)), || {
                    e.copy_async(e.offset(shared, at), e.offset(p[0], at), 16, None);
                });
                e.commit_copies();
                e.wait_copies(0);
                e.barrier();
                for (i, word) in e.load_matrices(count, transposed, e.offset(shared, at)).into_iter().enumerate() {
                    e.store(e.element(p[1], Ty::I32, e.add(lane, e.int(32 * i as i64))), word);
                }
            });
            assert_eq!(counters.bank_conflicts, 0);
            let element = |m: u32, row: u32, column: u32| m * 64 + row * 8 + column;
            let want = |i: u32| {
                let (m, g, t) = (i / 32, i % 32 / 4, i % 4);
                let pair = match transposed {
                    true => [element(m, 2 * t, g), element(m, 2 * t + 1, g)],
                    false => [element(m, g, 2 * t), element(m, g, 2 * t + 1)],
                };
                pair[0] | pair[1] << 16
            };
            let want: Vec<u32> = (0..32 * count).map(want).collect();
            assert_eq!(words(&out[1]), want, "{count} matrices, transposed {transposed}");
        }
    }

    #[test]
    fn conversions_round_and_bytes_multiply() {
        let values = [1.0f32, -2.5, 3.0e-5, 65504.0, 1.0 / 3.0, -1.0e-8, 7.0, 0.1];
        let input: Vec<u8> = values.into_iter().cycle().take(32).flat_map(f32::to_le_bytes).collect();
        let sizes = [vec![0; 128], vec![0; 128], vec![0; 128], vec![0; 128], vec![0; 128]];
        let buffers: Vec<Vec<u8>> = [input].into_iter().chain(sizes).collect();
        let (out, _) = run_block(32, 0, &buffers, |e, p| {
            let thread = e.thread_index();
            let x = e.load(Ty::F32, 1, e.element(p[0], Ty::F32, thread));
            let halves = e.pack_halves(DType::F16, x, e.neg(x));
            let pair = e.pack_halves(DType::BF16, x, e.f32(1.0));
            let (low, high) = e.unpack_halves(DType::F16, halves);
            let (same, one) = e.unpack_halves(DType::BF16, pair);
            let sum = e.add(e.sub(low, high), e.mul(same, one));
            let dot = e.dot_bytes(e.bits(x, Ty::I32), e.int32(0x01ff_0280), e.int32(9));
            for (v, to) in [halves, pair, sum, e.to_tf32(x), dot].into_iter().zip(&p[1..]) {
                e.store(e.element(*to, v.ty(), thread), v);
            }
        });
        for (i, x) in values.into_iter().enumerate() {
            let half = |x: f32| half::f16::from_f32(x).to_bits() as u32;
            let bfloat = |x: f32| half::bf16::from_f32(x);
            assert_eq!(words(&out[1])[i], half(x) | half(-x) << 16, "{x}");
            assert_eq!(words(&out[2])[i], bfloat(x).to_bits() as u32 | 0x3f80_0000, "{x}");
            let sum = 2.0 * half::f16::from_f32(x).to_f32() + bfloat(x).to_f32();
            assert_eq!(words(&out[3])[i], sum.to_bits(), "{x}");
            assert_eq!(words(&out[4])[i], (x.to_bits() + 0x1000) & !0x1fff, "{x}");
            let dot: i32 = x.to_le_bytes().into_iter().zip([-128, 2, -1, 1]).map(|(b, w)| b as i8 as i32 * w).sum();
            assert_eq!(words(&out[5])[i] as i32, dot + 9, "{x}");
        }
    }
}
