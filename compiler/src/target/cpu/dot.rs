//! Integer dot products: what instruction a processor has for four bytes times four bytes, as data.
//!
//! Everything here is exact, so which row is used changes no bit of a result.

use crate::llvm::{Emitter, Ty, Val};

/// The largest magnitude of an activation's quant.
const LARGEST_ACTIVATION: u32 = 127;

/// How four products become one sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Unsigned by signed bytes, summed into 32 bits at once.
    Fused { dot: &'static str },
    /// Unsigned by signed bytes, pairs summed into 16 bits, then pairs of those into 32. `sign` gives bytes the sign
    /// of others, where the processor has that.
    Pairs { bytes: &'static str, words: &'static str, sign: Option<&'static str> },
    /// Multiplications of 32 bits.
    Plain,
}

/// A row of [`DOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dot {
    /// Features it needs, all of them.
    pub needs: &'static [&'static str],
    /// Bytes of the instruction's registers.
    bytes: u32,
    how: How,
}

/// The ways to multiply bytes, best first; the last needs nothing.
pub static DOTS: &[Dot] = &[
    Dot {
        needs: &["avx512f", "avx512bw", "avx512vnni"],
        bytes: 64,
        how: How::Fused { dot: "llvm.x86.avx512.vpdpbusd.512" },
    },
    Dot { needs: &["avx2", "avxvnni"], bytes: 32, how: How::Fused { dot: "llvm.x86.avx512.vpdpbusd.256" } },
    Dot {
        needs: &["avx512f", "avx512bw"],
        bytes: 64,
        how: How::Pairs { bytes: "llvm.x86.avx512.pmaddubs.w.512", words: "llvm.x86.avx512.pmaddw.d.512", sign: None },
    },
    Dot {
        needs: &["avx2"],
        bytes: 32,
        how: How::Pairs {
            bytes: "llvm.x86.avx2.pmadd.ub.sw",
            words: "llvm.x86.avx2.pmadd.wd",
            sign: Some("llvm.x86.avx2.psign.b"),
        },
    },
    Dot {
        needs: &["ssse3"],
        bytes: 16,
        how: How::Pairs {
            bytes: "llvm.x86.ssse3.pmadd.ub.sw.128",
            words: "llvm.x86.sse2.pmadd.wd",
            sign: Some("llvm.x86.ssse3.psign.b.128"),
        },
    },
    Dot { needs: &[], bytes: 64, how: How::Plain },
];

impl Dot {
    /// The best way on a processor with these features.
    pub fn best(has: impl Fn(&str) -> bool) -> &'static Dot {
        DOTS.iter().find(|d| d.needs.iter().all(|f| has(f))).expect("the last row needs nothing")
    }

    /// Whether signed weights are taken as unsigned ones 128 larger, so that a sum must begin at `-128 * sum(x)`.
    pub fn offsets_signed(&self) -> bool {
        matches!(self.how, How::Fused { .. })
    }
}

/// The weight's bytes: what bounds them decides which instructions are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// `0..=largest`.
    Unsigned {
        /// The largest.
        largest: u32,
    },
    /// `-128..=127`.
    Signed,
}

/// Sums under way for some rows and one token.
pub struct IntSum<'c> {
    dot: &'static Dot,
    lanes: u32,
    /// `i32` sums, chosen in turn: they hide the latency of the instruction.
    wide: [Option<Val<'c>>; 2],
    next: usize,
    /// 16-bit sums not yet widened, and how many more fit.
    narrow: Option<(Val<'c>, u32)>,
}

impl<'c> IntSum<'c> {
    /// The sum of nothing, or of what [`Dot::offsets_signed`] demands.
    pub fn new(dot: &'static Dot, lanes: u32, begin: Option<Val<'c>>) -> IntSum<'c> {
        IntSum { dot, lanes, wide: [begin, None], next: 0, narrow: None }
    }

    /// Adds four products in each row: `w` is the rows' bytes as `i32`s, `x` the token's four as one `i32`.
    pub fn add(&mut self, e: &Emitter<'c>, w: Val<'c>, x: Val<'c>, bytes: Bytes) {
        let x = e.splat(x, self.lanes);
        match self.dot.how {
            How::Fused { dot } => {
                let w = match bytes {
                    Bytes::Signed => e.xor(w, e.like_int(w, 0x8080_8080_u32 as i32 as i64)),
                    Bytes::Unsigned { .. } => w,
                };
                let sum = self.take(e);
                let sum = per_register(e, self.dot.bytes, [sum, w, x], |s, w, x| {
                    let (w, x) = (e.bit_cast(w, Ty::I8, 4 * w.lanes()), e.bit_cast(x, Ty::I8, 4 * x.lanes()));
                    e.target_intrinsic(dot, &[s, w, x])
                });
                self.put(sum);
            }
            How::Pairs { bytes: name, sign, .. } => self.add_pairs(e, name, sign, (w, x), bytes),
            How::Plain => {
                for b in 0..4 {
                    let x = e.ashr(e.shl(x, 24 - 8 * b), 24);
                    let top = e.shl(w, 24 - 8 * b);
                    let w = match bytes {
                        Bytes::Signed => e.ashr(top, 24),
                        Bytes::Unsigned { .. } => e.lshr(top, e.like_int(top, 24)),
                    };
                    let sum = e.add(self.take(e), e.mul(w, x));
                    self.put(sum);
                }
            }
        }
    }

    fn add_pairs(
        &mut self,
        e: &Emitter<'c>,
        name: &'static str,
        sign: Option<&'static str>,
        (w, x): (Val<'c>, Val<'c>),
        bytes: Bytes,
    ) {
        let (largest, signed) = match bytes {
            Bytes::Unsigned { largest } => (largest, false),
            Bytes::Signed => (128, true),
        };
        let products = per_register(e, self.dot.bytes, [w, w, x], |_, w, x| {
            let (mut w, mut x) = (e.bit_cast(w, Ty::I8, 4 * w.lanes()), e.bit_cast(x, Ty::I8, 4 * x.lanes()));
            if signed {
                // |w| * (x with w's sign): 128 * 127 * 2 still fits 16 bits, where the offset form would saturate.
                let negative = e.compare(crate::llvm::Cmp::Lt, w, e.like_int(w, 0));
                x = match sign {
                    Some(name) => e.target_intrinsic(name, &[x, w]),
                    None => e.select(negative, e.neg(x), x),
                };
                w = e.select(negative, e.neg(w), w);
            }
            e.target_intrinsic(name, &[w, x])
        });
        let room = i16::MAX as u32 / (largest * LARGEST_ACTIVATION * 2);
        self.narrow = match self.narrow.take() {
            None => Some((products, room - 1)),
            Some((sum, left)) => Some((e.add(sum, products), left - 1)),
        };
        if self.narrow.is_some_and(|(_, left)| left == 0) {
            self.widen(e);
        }
    }

    /// Moves the 16-bit sums into the 32-bit ones.
    fn widen(&mut self, e: &Emitter<'c>) {
        let (Some((narrow, _)), How::Pairs { words, .. }) = (self.narrow.take(), self.dot.how) else { return };
        let whole = e.bit_cast(narrow, Ty::I32, self.lanes);
        let pairs = per_register(e, self.dot.bytes, [whole, whole, whole], |_, _, n| {
            let n = e.bit_cast(n, Ty::I16, 2 * n.lanes());
            e.target_intrinsic(words, &[n, e.like_int(n, 1)])
        });
        let sum = match self.wide[self.next].take() {
            None => pairs,
            Some(sum) => e.add(sum, pairs),
        };
        self.put(sum);
    }

    fn take(&mut self, e: &Emitter<'c>) -> Val<'c> {
        self.wide[self.next].take().unwrap_or_else(|| e.zero(Ty::I32, self.lanes))
    }

    fn put(&mut self, sum: Val<'c>) {
        self.wide[self.next] = Some(sum);
        self.next = 1 - self.next;
    }

    /// The sums, `i32`.
    pub fn finish(mut self, e: &Emitter<'c>) -> Val<'c> {
        self.widen(e);
        match self.wide {
            [Some(a), Some(b)] => e.add(a, b),
            [Some(a), None] | [None, Some(a)] => a,
            [None, None] => e.zero(Ty::I32, self.lanes),
        }
    }
}

/// Applies an instruction to each of the registers that operands of `i32`s fill, and joins what it gives.
fn per_register<'c>(
    e: &Emitter<'c>,
    bytes: u32,
    [a, b, c]: [Val<'c>; 3],
    apply: impl Fn(Val<'c>, Val<'c>, Val<'c>) -> Val<'c>,
) -> Val<'c> {
    let lanes = bytes / 4;
    assert_eq!(a.lanes() % lanes, 0, "emission: a product of fewer bytes than a register has");
    let mut parts: Vec<Val> = (0..a.lanes() / lanes)
        .map(|i| {
            let part = |v: Val<'c>| if lanes == v.lanes() { v } else { e.lane_range(v, i * lanes, lanes) };
            apply(part(a), part(b), part(c))
        })
        .collect();
    while parts.len() > 1 {
        let pairs = parts.chunks(2);
        parts = pairs.map(|p| e.shuffle(p[0], p[1], 0..2 * p[0].lanes())).collect();
    }
    parts[0]
}
