//! Powers over their own sum, in range: `H(x) / S[s](H(x))` for the operations H of the ratio table.
//!
//! What enters is a product or a logarithm whose operands are in normal form; what leaves, where the law holds, is the
//! same with x lowered by its greatest value. Over the reals nothing changes, whatever x is lowered by: numerator and
//! denominator lose the same factor. In floats nothing overflows, and a row that is masked as a whole gives zeros. A sum
//! that is lowered already stays as it is, so that the law ends.

use super::text::reachable;
use super::{Literal, Term, TermId, Terms};
use crate::rules::Law;
use crate::stream::{FLOOR, RATIOS};
use llmc_artifact::{ReduceOp, ScalarOp, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};

/// What a sum of powers is lowered by.
struct Lowering {
    /// H.
    op: ScalarOp,
    /// Its argument, over the axes that the sum binds.
    x: TermId,
    /// Those axes that x has.
    over: Axes,
    /// The greatest x, held finite from both sides.
    by: TermId,
}

impl Terms {
    /// Factors of a product, one of which divides by a sum of powers, and another is made of the same powers.
    pub(super) fn stabilised(&mut self, factors: &[TermId]) -> Option<Vec<TermId>> {
        if factors.len() < 2 || !self.laws.has(Law::Stabilise) {
            return None;
        }
        (0..factors.len()).find_map(|n| {
            let Term::Map(ScalarOp::Recip, xs) = self.term(factors[n]) else { return None };
            let below = xs[0];
            let lowering = self.lowering(below)?;
            let (k, above) = (0..factors.len())
                .filter(|k| *k != n)
                .find_map(|k| self.lowered(factors[k], &lowering).map(|x| (k, x)))?;
            let mut out = factors.to_vec();
            let below = self.divisor(below, &lowering)?;
            (out[k], out[n]) = (above, self.map(ScalarOp::Recip, vec![below]));
            Some(out)
        })
    }

    /// `log(S[s](H(x)))` as the greatest x and a logarithm that is in range.
    pub(super) fn stabilised_log(&mut self, log: ScalarOp, sum: TermId) -> Option<TermId> {
        if !self.laws.has(Law::Stabilise) {
            return None;
        }
        let parts = match self.term(sum) {
            Term::Sum(bound, xs) if bound.is_empty() => xs.clone(),
            _ => vec![sum],
        };
        let lowering = parts.iter().find_map(|x| self.lowering(*x))?;
        let inside = self.lowered(sum, &lowering)?;
        let unit = log.evaluate(&[lowering.op.evaluate(&[Value::Real(1.0)])]).real();
        let (unit, log) = (self.real(unit), self.map(log, vec![inside]));
        let by = self.product(&[unit, lowering.by]);
        Some(self.plus(&[by, log]))
    }

    /// The sum that is divided by, lowered. One of its addends is 1 unless it has none; then what it divides is zero.
    fn divisor(&mut self, sum: TermId, lowering: &Lowering) -> Option<TermId> {
        let alone = matches!(self.term(sum), Term::Sum(_, ys) if ys.len() == 1);
        let lowered = self.lowered(sum, lowering)?;
        let one = self.real(1.0);
        Some(if alone { self.map(ScalarOp::Max, vec![lowered, one]) } else { lowered })
    }

    /// What a sum of powers is to be lowered by; none where it is no such sum, or is lowered already.
    fn lowering(&mut self, sum: TermId) -> Option<Lowering> {
        let Term::Sum(bound, ys) = self.term(sum).clone() else { return None };
        ys.into_iter().find_map(|y| {
            let (op, x) = self.power_of(y)?;
            let over = self.free(x).intersect(&bound);
            if over.is_empty() || self.is_lowered(x, &over) {
                return None;
            }
            let greatest = self.reduce(ReduceOp::Max, &over, x);
            let by = self.held_finite(greatest);
            let lowering = Lowering { op, x, over, by };
            // What would not be seen to be lowered would be lowered again.
            let lower = self.lower(x, &lowering);
            self.is_lowered(lower, &lowering.over).then_some(lowering)
        })
    }

    /// `min(max(x, -FLOOR), FLOOR)`: what is lowered by it is infinite only where it was before, and never undefined.
    fn held_finite(&mut self, x: TermId) -> TermId {
        let (least, most) = (self.real(-FLOOR), self.real(FLOOR));
        let above = self.map(ScalarOp::Max, vec![x, least]);
        self.map(ScalarOp::Min, vec![above, most])
    }

    /// H and x of `H(x)`; of `where(c, H(y), 0)`, which is `H(where(c, y, -inf))`; of a power read at another token.
    fn power_of(&mut self, y: TermId) -> Option<(ScalarOp, TermId)> {
        match self.term(y).clone() {
            Term::Map(op, xs) if RATIOS.iter().any(|r| r.op == op) => Some((op, xs[0])),
            Term::Map(ScalarOp::Where, xs) if self.is_real(xs[2], 0.0) => {
                let (op, x) = self.power_of(xs[1])?;
                let dead = self.real(f64::NEG_INFINITY);
                Some((op, self.map(ScalarOp::Where, vec![xs[0], x, dead])))
            }
            Term::Read(y, s) => {
                let (op, x) = self.power_of(y)?;
                Some((op, self.read(x, s)))
            }
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Plus(_)
            | Term::Reduce(..)
            | Term::Map(..)
            | Term::Index(..)
            | Term::TopK(..) => None,
        }
    }

    fn is_real(&self, x: TermId, value: f64) -> bool {
        *self.term(x) == Term::Const(Literal::from(Value::Real(value)))
    }

    /// `x - by`.
    fn lower(&mut self, x: TermId, lowering: &Lowering) -> TermId {
        let minus = self.real(-1.0);
        let below = self.product(&[minus, lowering.by]);
        self.plus(&[x, below])
    }

    /// The term divided by `H(by)`, where it is made of the same powers.
    fn lowered(&mut self, y: TermId, lowering: &Lowering) -> Option<TermId> {
        if let Some((op, x)) = self.power_of(y)
            && op == lowering.op
            && self.is_same(x, lowering)
        {
            let lower = self.lower(x, lowering);
            return Some(self.map(op, vec![lower]));
        }
        match self.term(y).clone() {
            Term::Sum(bound, mut ys) => {
                if !self.free(lowering.by).intersect(&bound).is_empty() {
                    return None;
                }
                let (n, lower) = (0..ys.len()).find_map(|n| self.lowered(ys[n], lowering).map(|z| (n, z)))?;
                ys[n] = lower;
                Some(if bound.is_empty() { self.product(&ys) } else { self.sum(&bound, &ys) })
            }
            Term::Plus(ys) => {
                let lower = ys.iter().map(|y| self.lowered(*y, lowering)).collect::<Option<Vec<_>>>()?;
                Some(self.plus(&lower))
            }
            Term::Read(y, s) if !self.free(lowering.by).contains(self.views[&s]) => {
                let lower = self.lowered(y, lowering)?;
                Some(self.read(lower, s))
            }
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Reduce(..)
            | Term::Map(..)
            | Term::Index(..)
            | Term::Read(..)
            | Term::TopK(..) => None,
        }
    }

    /// Whether `y` is the lowered argument, up to the names of the axes that the sum binds.
    fn is_same(&mut self, y: TermId, lowering: &Lowering) -> bool {
        let outer = self.free(lowering.x).minus(&lowering.over);
        let names = self.free(y).minus(&outer);
        names.len() == lowering.over.len() && self.is_renamed(lowering.x, lowering.over.as_slice(), &names, y)
    }

    /// Whether `x` is `y` under some names for these axes of x.
    fn is_renamed(&mut self, x: TermId, axes: &[AxisId], names: &Axes, y: TermId) -> bool {
        let Some((a, rest)) = axes.split_first() else { return x == y };
        names.iter().any(|b| {
            let others: Axes = names.iter().filter(|c| *c != b).collect();
            // A name may be that of another axis which is renamed later.
            let free = *a == b || !self.free(x).contains(b);
            if !free || !self.is_as_long(*a, b) {
                return false;
            }
            let renamed = self.rename(x, *a, b);
            self.is_renamed(renamed, rest, &others, y)
        })
    }

    fn is_as_long(&self, a: AxisId, b: AxisId) -> bool {
        let of = |x: AxisId| match self.axes[x].extent {
            Extent::Const(n) => Ok(n),
            Extent::Seq(s) | Extent::View(s) => Err(s),
        };
        of(a) == of(b)
    }

    /// Whether x has been lowered by its greatest value over some axes, or by one that is no less: no power of it overflows.
    fn is_lowered(&mut self, x: TermId, over: &Axes) -> bool {
        match self.term(x).clone() {
            Term::Const(Literal::Real(bits)) => f64::from_bits(bits) <= 0.0,
            Term::Map(ScalarOp::Where, xs) => self.is_lowered(xs[1], over) && self.is_lowered(xs[2], over),
            Term::Sum(bound, xs) if bound.is_empty() => match self.scaled(&xs) {
                Some((c, y)) if c > 0.0 => self.is_lowered(y, over),
                _ => false,
            },
            Term::Plus(xs) => (0..xs.len()).any(|n| {
                let Term::Sum(bound, ys) = self.term(xs[n]).clone() else { return false };
                let Some((c, greatest)) = self.scaled(&ys).filter(|(c, _)| bound.is_empty() && *c < 0.0) else {
                    return false;
                };
                let rest: Vec<_> = (0..xs.len()).filter(|k| *k != n).map(|k| xs[k]).collect();
                let rest = self.plus(&rest);
                self.is_greatest(greatest, -c, rest, over)
            }),
            // A token's own axis stands for the view that it is read along.
            Term::Read(y, s) => {
                let own = self.views[&s];
                let over = over.iter().map(|a| if a == s { own } else { a }).collect();
                self.is_lowered(y, &over)
            }
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Reduce(..)
            | Term::Map(..)
            | Term::Index(..)
            | Term::TopK(..) => false,
        }
    }

    /// A literal and the one other factor.
    fn scaled(&self, xs: &[TermId]) -> Option<(f64, TermId)> {
        match xs {
            [a, b] => self.as_real(*a).map(|c| (c, *b)).or_else(|| self.as_real(*b).map(|c| (c, *a))),
            _ => None,
        }
    }

    /// Whether `c * greatest` is the greatest value of `y` over some axes, but for literals that hold it finite.
    fn is_greatest(&mut self, greatest: TermId, c: f64, y: TermId, over: &Axes) -> bool {
        let y = match self.term(y).clone() {
            _ if c == 1.0 => y,
            Term::Sum(bound, xs) if bound.is_empty() => match xs.iter().position(|x| self.as_real(*x) == Some(c)) {
                Some(n) => self.product(&[&xs[..n], &xs[n + 1..]].concat()),
                None => return false,
            },
            _ => return false,
        };
        let reduction = self.within_bounds(greatest);
        over.is_subset(self.free(y)) && self.reduce(ReduceOp::Max, over, y) == reduction || self.is_among(y, reduction)
    }

    /// What literals hold finite: from below whatever they are, since what is lowered by more does not overflow either;
    /// from above where they are beyond every score.
    fn within_bounds(&self, x: TermId) -> TermId {
        let Term::Map(op @ (ScalarOp::Max | ScalarOp::Min), xs) = self.term(x) else { return x };
        let [a, b] = xs[..] else { return x };
        let bounds = |x: TermId| self.as_real(x).is_some_and(|c| *op == ScalarOp::Max || c >= FLOOR);
        match (bounds(a), bounds(b)) {
            (_, true) => self.within_bounds(a),
            (true, false) => self.within_bounds(b),
            (false, false) => x,
        }
    }

    /// Whether `y` is one of those that a reduction takes the greatest of, read at an index: the weights of chosen experts
    /// are lowered by the greatest of all.
    fn is_among(&mut self, y: TermId, reduction: TermId) -> bool {
        let Term::Reduce(ReduceOp::Max, bound, body) = self.term(reduction).clone() else { return false };
        let [a] = *bound.as_slice() else { return false };
        let mut reads: Vec<(AxisId, TermId)> = Vec::new();
        for x in reachable(self, [y]) {
            if let Term::Index(_, at) = self.term(x) {
                reads.extend(at.iter().filter(|(b, _)| !self.free(body).contains(*b)));
            }
        }
        reads.retain(|(b, _)| self.is_as_long(a, *b));
        reads.into_iter().any(|(b, i)| {
            let renamed = self.rename(body, a, b);
            self.index(renamed, &[(b, i)]) == y
        })
    }
}
