//! Warps: 32 threads in step, their lanes and what they tell each other without memory.
//!
//! Blocks are one-dimensional, so that a thread's lane follows from its index. Every exchange names the whole warp: it may
//! not stand where some lanes are absent.

use super::{Cmp, Emitter, Ty, Val};

/// Threads of a warp.
pub const WARP: u32 = 32;
/// Every lane of a warp takes part.
const ALL: i32 = -1;
/// Lanes are picked from the whole warp.
const WHOLE: i32 = WARP as i32 - 1;

impl<'c> Emitter<'c> {
    /// This thread's lane in its warp, an `i32`.
    pub fn lane_index(&self) -> Val<'c> {
        self.and(self.thread_index32(), self.int32(WARP as i32 - 1))
    }

    /// This thread's warp in its block, an `i32`; the same in all lanes.
    pub fn warp_index(&self) -> Val<'c> {
        self.lshr(self.thread_index32(), self.int32(WARP.trailing_zeros() as i32))
    }

    /// The value of the lane whose number differs in the bits of `mask`. Lanes exchange 32 bits at a time.
    pub fn exchange(&self, v: Val<'c>, mask: u32) -> Val<'c> {
        match v.ty() {
            Ty::I1 => self.compare(Cmp::Ne, self.exchange(self.zext(v, Ty::I32), mask), self.int32(0)),
            Ty::I8 => self.trunc(self.exchange(self.zext(v, Ty::I32), mask), Ty::I8),
            Ty::I64 => {
                let halves = [v, self.lshr(v, self.int(32))].map(|half| self.trunc(half, Ty::I32));
                let [low, high] = halves.map(|half| self.zext(self.exchange(half, mask), Ty::I64));
                self.or(low, self.shl(high, 32))
            }
            _ => self.shuffled("bfly", v, self.int32(mask as i32)),
        }
    }

    /// The value of a lane: an `f32` or `i32`.
    pub fn of_lane(&self, v: Val<'c>, lane: Val<'c>) -> Val<'c> {
        self.shuffled("idx", v, lane)
    }

    fn shuffled(&self, kind: &str, v: Val<'c>, lane: Val<'c>) -> Val<'c> {
        let ty = match v.ty() {
            Ty::F32 => "f32",
            Ty::I32 => "i32",
            ty => panic!("emission: lanes exchange 32 bits, not {ty:?}"),
        };
        let name = format!("llvm.nvvm.shfl.sync.{kind}.{ty}");
        self.target_intrinsic(&name, &[self.int32(ALL), v, lane, self.int32(WHOLE)])
    }

    /// Folds one value of each of `lanes` neighbouring lanes, a power of two, with a commutative operation; each of them gets
    /// the result. The order is a tree of halves that does not depend on who asks.
    pub fn fold_warp(&self, v: Val<'c>, lanes: u32, combine: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
        assert!(lanes.is_power_of_two() && lanes <= WARP, "emission: {lanes} lanes of a warp");
        let mut v = v;
        let mut half = lanes / 2;
        while half > 0 {
            v = combine(v, self.exchange(v, half));
            half /= 2;
        }
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llvm::testing::sim::{run_block, words};

    #[test]
    fn lanes_exchange_and_fold() {
        let input: Vec<u8> = (0..64).flat_map(|i: i32| i.to_le_bytes()).collect();
        let (out, _) = run_block(64, 0, &[input, vec![0; 4 * 64], vec![0; 4 * 64], vec![0; 4 * 64]], |e, p| {
            let thread = e.thread_index();
            let x = e.load(Ty::I32, 1, e.element(p[0], Ty::I32, thread));
            e.store(e.element(p[1], Ty::I32, thread), e.exchange(x, 5));
            e.store(e.element(p[2], Ty::I32, thread), e.fold_warp(x, 8, |a, b| e.add(a, b)));
            let reversed = e.sub(e.int32(31), e.lane_index());
            let float = e.int_to_float(e.add(x, e.mul(e.warp_index(), e.int32(100))), Ty::F32);
            e.store(e.element(p[3], Ty::F32, thread), e.of_lane(float, reversed));
        });
        let want: Vec<u32> = (0..64).map(|i| i ^ 5).collect();
        assert_eq!(words(&out[1]), want);
        let want: Vec<u32> = (0..64).map(|i| (i / 8 * 8..i / 8 * 8 + 8).sum()).collect();
        assert_eq!(words(&out[2]), want);
        let want: Vec<u32> = (0..64).map(|i| ((i / 32 * 132 + 31 - i % 32) as f32).to_bits()).collect();
        assert_eq!(words(&out[3]), want);
    }

    /// Long integers in two halves, bytes and truth values in a word each.
    #[test]
    fn lanes_exchange_values_of_other_widths() {
        let input: Vec<u8> = (0..32).flat_map(|i: i64| (i * 0x1_0000_0007 - 9).to_le_bytes()).collect();
        let (out, _) = run_block(32, 0, &[input, vec![0; 8 * 32], vec![0; 4 * 32], vec![0; 4 * 32]], |e, p| {
            let thread = e.thread_index();
            let x = e.load(Ty::I64, 1, e.element(p[0], Ty::I64, thread));
            e.store(e.element(p[1], Ty::I64, thread), e.fold_warp(x, 16, |a, b| e.max(a, b)));
            let byte = e.exchange(e.trunc(x, Ty::I8), 3);
            e.store(e.element(p[2], Ty::I32, thread), e.zext(byte, Ty::I32));
            let small = e.compare(Cmp::Lt, e.lane_index(), e.int32(5));
            let any = e.fold_warp(small, 4, |a, b| e.or(a, b));
            e.store(e.element(p[3], Ty::I32, thread), e.zext(any, Ty::I32));
        });
        let number = |i: i64| i * 0x1_0000_0007 - 9;
        let longs: Vec<i64> = out[1].chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(longs, (0..32).map(|i| number(i / 16 * 16 + 15)).collect::<Vec<_>>());
        assert_eq!(words(&out[2]), (0..32).map(|i| number(i ^ 3) as u8 as u32).collect::<Vec<_>>());
        assert_eq!(words(&out[3]), (0..32).map(|i| (i < 8) as u32).collect::<Vec<_>>());
    }
}
