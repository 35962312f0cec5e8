//! Ranges: between which bounds every element of a value lies, as far as interval arithmetic can tell.
//!
//! The elaborator keeps a [`Range`] for every node so that an index can be *proved* to lie in its axis. Bounds may
//! speak of a sequence's length, which is known only when the model runs. Absent on purpose: reasoning about
//! guards; both sides of a `where` are evaluated, so both must be in range.

use crate::graph::Extent;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Value};

/// Bounds of a value. Integers are exact below 2^53, far beyond any axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// No element is below.
    pub lo: f64,
    /// No element is above.
    pub hi: f64,
    /// No element is above the sequence's length plus this.
    pub below_length: Option<(SeqId, f64)>,
}

impl Range {
    /// Nothing is known.
    pub const ANY: Range = Range { lo: f64::NEG_INFINITY, hi: f64::INFINITY, below_length: None };

    /// Between two bounds; a bound that is no number is none.
    pub fn new(lo: f64, hi: f64) -> Range {
        Range {
            lo: if lo.is_nan() { f64::NEG_INFINITY } else { lo },
            hi: if hi.is_nan() { f64::INFINITY } else { hi },
            below_length: None,
        }
    }

    /// A literal.
    pub fn of_value(value: Value) -> Range {
        match value {
            Value::Bool(_) => Range::ANY,
            Value::Int(_) | Value::Real(_) => Range::new(value.real(), value.real()),
        }
    }

    /// The index along an axis; `longest` is the greatest length of its sequence, if it is one's.
    pub fn of_axis(extent: Extent, longest: Option<u64>) -> Range {
        let last = |n: Option<u64>| n.map_or(f64::INFINITY, |n| n as f64 - 1.0);
        match extent {
            Extent::Const(n) => Range::new(0.0, last(Some(n))),
            Extent::Seq(s) | Extent::View(s) => {
                Range { below_length: Some((s, -1.0)), ..Range::new(0.0, last(longest)) }
            }
        }
    }

    /// A sequence's length: a run has at least one token of each sequence.
    pub fn of_length(seq: SeqId, longest: Option<u64>) -> Range {
        let hi = longest.map_or(f64::INFINITY, |n| n as f64);
        Range { below_length: Some((seq, 0.0)), ..Range::new(1.0, hi) }
    }

    /// Whether every element is an index of an axis of this extent.
    pub fn fits(self, extent: Extent) -> bool {
        let below = match extent {
            Extent::Const(n) => self.hi <= n as f64 - 1.0,
            Extent::Seq(s) | Extent::View(s) => self.above_length(s).is_some_and(|c| c <= -1.0),
        };
        self.lo >= 0.0 && below
    }

    /// The least `c` known such that no element is above the sequence's length plus `c`. A length is at least 1.
    fn above_length(self, seq: SeqId) -> Option<f64> {
        let stated = self.below_length.filter(|(s, _)| *s == seq).map(|(_, c)| c);
        let absolute = self.hi.is_finite().then_some(self.hi - 1.0);
        match (stated, absolute) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What holds for an element of either.
    pub fn union(self, other: Range) -> Range {
        let seq = self.below_length.or(other.below_length).map(|(s, _)| s);
        let below_length = seq.and_then(|s| Some((s, self.above_length(s)?.max(other.above_length(s)?))));
        Range { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi), below_length }
    }

    fn add(self, other: Range) -> Range {
        let shift = |a: Range, b: Range| a.below_length.filter(|_| b.hi.is_finite()).map(|(s, c)| (s, c + b.hi));
        let below_length = shift(self, other).or_else(|| shift(other, self));
        Range { below_length, ..Range::new(self.lo + other.lo, self.hi + other.hi) }
    }

    fn neg(self) -> Range {
        Range::new(-self.hi, -self.lo)
    }

    fn min(self, other: Range) -> Range {
        let below_length = match (self.below_length, other.below_length) {
            (Some((s, a)), Some((t, b))) if s == t => Some((s, a.min(b))),
            (a, b) => a.or(b),
        };
        Range { below_length, ..Range::new(self.lo.min(other.lo), self.hi.min(other.hi)) }
    }

    fn max(self, other: Range) -> Range {
        Range { lo: self.lo.max(other.lo), ..self.union(other) }
    }

    /// The hull of a function's values at the four corners.
    fn corners(self, other: Range, f: impl Fn(f64, f64) -> f64) -> Range {
        let at = [f(self.lo, other.lo), f(self.lo, other.hi), f(self.hi, other.lo), f(self.hi, other.hi)];
        if at.iter().any(|x| x.is_nan()) {
            return Range::ANY;
        }
        Range::new(
            at.iter().copied().fold(f64::INFINITY, f64::min),
            at.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    }

    fn mul(self, other: Range) -> Range {
        // 0 * inf: an unbounded factor is finite all the same, so a bound of 0 stays 0.
        self.corners(other, |a, b| if a == 0.0 || b == 0.0 { 0.0 } else { a * b })
    }

    fn div(self, other: Range) -> Range {
        if other.lo > 0.0 || other.hi < 0.0 {
            self.corners(other, |a, b| if a == 0.0 || b.is_infinite() { 0.0 } else { a / b })
        } else {
            Range::ANY
        }
    }

    fn monotone(self, f: impl Fn(f64) -> f64) -> Range {
        Range::new(f(self.lo), f(self.hi))
    }

    /// Rounding is applied to what was computed in f32: bounds other than 0 give way by more than its error.
    fn round(self, f: impl Fn(f64) -> f64) -> Range {
        const SLACK: f64 = 1e-5;
        Range::new(f(self.lo - SLACK * self.lo.abs()), f(self.hi + SLACK * self.hi.abs()))
    }
}

/// The range of `op` applied to operands of these ranges.
pub fn of_map(op: ScalarOp, x: &[Range]) -> Range {
    match op {
        ScalarOp::Add => x[0].add(x[1]),
        ScalarOp::Sub => x[0].add(x[1].neg()),
        ScalarOp::Mul => x[0].mul(x[1]),
        ScalarOp::Div => x[0].div(x[1]),
        ScalarOp::Recip => Range::new(1.0, 1.0).div(x[0]),
        ScalarOp::FloorDiv => floor_division(x[0], x[1]),
        ScalarOp::Mod => modulo(x[0], x[1]),
        ScalarOp::Neg => x[0].neg(),
        ScalarOp::Max => x[0].max(x[1]),
        ScalarOp::Min => x[0].min(x[1]),
        ScalarOp::Abs => Range { lo: x[0].lo.max(-x[0].hi).max(0.0), ..x[0].union(x[0].neg()) },
        ScalarOp::Exp => x[0].monotone(f64::exp),
        ScalarOp::Exp2 => x[0].monotone(f64::exp2),
        ScalarOp::Log => x[0].monotone(f64::ln),
        ScalarOp::Log2 => x[0].monotone(f64::log2),
        ScalarOp::Sqrt => x[0].monotone(f64::sqrt),
        ScalarOp::Pow if x[0].lo > 0.0 => x[0].corners(x[1], f64::powf),
        ScalarOp::Pow => Range::ANY,
        ScalarOp::Sin | ScalarOp::Cos | ScalarOp::Tanh | ScalarOp::Erf => Range::new(-1.0, 1.0),
        ScalarOp::Floor => x[0].round(f64::floor),
        ScalarOp::Ceil => x[0].round(f64::ceil),
        ScalarOp::Trunc => x[0].round(f64::trunc),
        ScalarOp::Where => x[1].union(x[2]),
        ScalarOp::ToReal => x[0],
        ScalarOp::Eq | ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge => Range::ANY,
        ScalarOp::And | ScalarOp::Or | ScalarOp::Not => Range::ANY,
    }
}

/// `a // b`. An unbounded divisor takes any `a` to 0, or to -1 from below.
fn floor_division(a: Range, b: Range) -> Range {
    if b.lo <= 0.0 {
        return Range::ANY;
    }
    a.corners(b, |a, b| match (a, b.is_infinite()) {
        (a, true) if a < 0.0 => -1.0,
        (_, true) => 0.0,
        (a, false) => (a / b).floor(),
    })
}

/// `a % b` with the divisor's sign; for a positive divisor also no more than `a`, where `a` is not negative.
fn modulo(a: Range, b: Range) -> Range {
    if b.lo > 0.0 {
        let hi = if a.lo >= 0.0 { a.hi.min(b.hi - 1.0) } else { b.hi - 1.0 };
        Range::new(0.0, hi)
    } else {
        Range::ANY
    }
}

/// The range of a reduction over a body of this range.
pub fn of_reduce(op: ReduceOp, body: Range) -> Range {
    match op {
        ReduceOp::Max | ReduceOp::Min => body,
        ReduceOp::Sum if body.lo >= 0.0 => Range::new(0.0, f64::INFINITY),
        ReduceOp::Sum | ReduceOp::Any | ReduceOp::All => Range::ANY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(lo: i64, hi: i64) -> Range {
        Range::new(lo as f64, hi as f64)
    }

    fn map(op: ScalarOp, x: &[Range]) -> Range {
        of_map(op, x)
    }

    #[test]
    fn interleaved_rows_stay_in_their_axis() {
        let e = Range::of_axis(Extent::Const(64), None);
        let f = int(32, 32);
        let twice = map(ScalarOp::Mul, &[int(2, 2), map(ScalarOp::Mod, &[e, f])]);
        let row = map(ScalarOp::Add, &[twice, map(ScalarOp::FloorDiv, &[e, f])]);
        assert_eq!(row, int(0, 63));
        assert!(row.fits(Extent::Const(64)) && !row.fits(Extent::Const(63)));
    }

    #[test]
    fn positions_know_their_sequence_and_no_other() {
        let s = Range::of_axis(Extent::View(SeqId(0)), None);
        assert!(s.fits(Extent::Seq(SeqId(0))));
        assert!(!s.fits(Extent::Seq(SeqId(1))));
        assert!(!map(ScalarOp::Add, &[s, int(1, 1)]).fits(Extent::Seq(SeqId(0))));
        let before = map(ScalarOp::Max, &[map(ScalarOp::Sub, &[s, int(1, 1)]), int(0, 0)]);
        assert!(before.fits(Extent::Seq(SeqId(0))));
        let last = map(ScalarOp::Sub, &[Range::of_length(SeqId(0), None), int(1, 1)]);
        assert!(last.fits(Extent::Seq(SeqId(0))));
        assert!(int(0, 0).fits(Extent::Seq(SeqId(0))));
        assert!(Range::of_axis(Extent::Seq(SeqId(0)), Some(512)).fits(Extent::Const(512)));
    }

    #[test]
    fn clips_bound_what_nothing_bounds() {
        let clipped = map(ScalarOp::Min, &[map(ScalarOp::Max, &[Range::ANY, int(-4, -4)]), int(4, 4)]);
        assert_eq!(clipped, int(-4, 4));
    }

    #[test]
    fn rounding_leaves_room_for_f32() {
        let almost = Range::new(0.0, 7.9999999);
        assert_eq!(map(ScalarOp::Trunc, &[almost]), Range::new(0.0, 8.0));
    }
}
