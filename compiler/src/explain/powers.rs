//! The law of powers over their own sum, as the checker reads it: powers of sums are products of powers, so that what
//! both sides of a quotient are lowered by cancels. Nothing here is ever computed with: as arithmetic it would overflow.

use super::denote::{Form, Shape};
use super::rewrite::Rewriter;
use crate::rules::Law;
use crate::stream::{FLOOR, RATIOS};
use llmc_artifact::{ReduceOp, ScalarOp, Value};

fn is_power(op: ScalarOp) -> bool {
    RATIOS.iter().any(|r| r.op == op)
}

impl Rewriter {
    /// What an operation is under the law, where that says more than the operation.
    pub(super) fn by_powers(&mut self, op: ScalarOp, xs: &[Form]) -> Option<Form> {
        if !self.has(Law::Stabilise) {
            return None;
        }
        match (op, xs) {
            (op, [x]) if is_power(op) => self.power_of_sum(op, *x),
            (ScalarOp::Recip, [x]) => self.recip_of_powers(*x),
            (ScalarOp::Max, [a, b]) => self.reaching_one(*a, *b).or_else(|| self.reaching_one(*b, *a)),
            (ScalarOp::Log | ScalarOp::Log2, [x]) => self.log_of_powers(op, *x),
            _ => None,
        }
    }

    /// `H(x + y) = H(x) * H(y)`, `H(-x) = 1 / H(x)`, `H(where(c, x, -inf)) = where(c, H(x), 0)`.
    fn power_of_sum(&mut self, op: ScalarOp, x: Form) -> Option<Form> {
        match self.shape(x).clone() {
            Shape::Plus(xs) => {
                let powers = xs.into_iter().map(|x| self.map(op, vec![x])).collect();
                Some(self.product(powers))
            }
            Shape::Product(xs) => {
                let minus = xs.iter().position(|x| self.as_real(*x) == Some(-1.0))?;
                let rest = xs.iter().enumerate().filter(|(n, _)| *n != minus).map(|(_, x)| *x).collect();
                let rest = self.product(rest);
                let power = self.map(op, vec![rest]);
                Some(self.map(ScalarOp::Recip, vec![power]))
            }
            Shape::Map(ScalarOp::Where, xs) => {
                let dead = self.as_real(xs[2]) == Some(f64::NEG_INFINITY);
                dead.then(|| {
                    let (power, zero) = (self.map(op, vec![xs[1]]), self.real(0.0));
                    self.map(ScalarOp::Where, vec![xs[0], power, zero])
                })
            }
            _ => None,
        }
    }

    fn is_power_form(&self, x: Form) -> bool {
        matches!(self.shape(x), Shape::Map(op, _) if is_power(*op))
    }

    /// The power that a factor divides by.
    fn divisor(&self, x: Form) -> Option<Form> {
        match self.shape(x) {
            Shape::Map(ScalarOp::Recip, ys) if self.is_power_form(ys[0]) => Some(ys[0]),
            _ => None,
        }
    }

    /// Divisors leave what is divided by.
    fn recip_of_powers(&mut self, x: Form) -> Option<Form> {
        if let Shape::Map(ScalarOp::Recip, ys) = self.shape(x).clone()
            && self.is_power_form(ys[0])
        {
            return Some(ys[0]);
        }
        let (powers, rest) = self.apart(x)?;
        let mut factors = vec![self.map(ScalarOp::Recip, vec![rest])];
        factors.extend(powers);
        Some(self.product(factors))
    }

    /// A product, or a sum of products, as the powers that it is divided by throughout and the rest.
    fn apart(&mut self, x: Form) -> Option<(Vec<Form>, Form)> {
        let (bound, body) = match self.shape(x).clone() {
            Shape::Fold(ReduceOp::Sum, height, lens, body) => self.opened(height, &lens, body),
            Shape::Product(_) => (vec![], x),
            _ => return None,
        };
        let (mut powers, mut rest) = (Vec::new(), Vec::new());
        for factor in self.factors(body) {
            match self.divisor(factor).filter(|p| !bound.iter().any(|n| self.mentions(*p, *n))) {
                Some(power) => powers.push(power),
                None => rest.push(factor),
            }
        }
        if powers.is_empty() {
            return None;
        }
        let rest = self.product(rest);
        Some((powers, if bound.is_empty() { rest } else { self.fold(ReduceOp::Sum, bound, rest) }))
    }

    /// `log(x / H(y)) = log(x) - y * log(H(1))`.
    fn log_of_powers(&mut self, log: ScalarOp, x: Form) -> Option<Form> {
        let (powers, rest) = self.apart(x)?;
        let mut parts = vec![self.map(log, vec![rest])];
        for power in powers {
            let Shape::Map(op, ys) = self.shape(power).clone() else { unreachable!("only powers are taken apart") };
            let unit = log.evaluate(&[op.evaluate(&[Value::Real(1.0)])]);
            let (unit, minus) = (self.literal(unit.into()), self.real(-1.0));
            parts.push(self.product(vec![minus, unit, ys[0]]));
        }
        Some(self.plus(parts))
    }

    /// `max(S[s](H(x - m)), 1)` is the sum: one of its addends is `H(0)`.
    fn reaching_one(&mut self, sum: Form, one: Form) -> Option<Form> {
        if self.as_real(one) != Some(1.0) {
            return None;
        }
        let Shape::Fold(ReduceOp::Sum, _, lens, _) = self.shape(sum).clone() else { return None };
        let (powers, _) = self.apart(sum)?;
        powers.into_iter().any(|p| self.is_lowered_sum(sum, p, &lens)).then_some(sum)
    }

    /// Whether a sum is that of `H(x)` for the x whose greatest value stands in the power that it is divided by.
    fn is_lowered_sum(&mut self, sum: Form, power: Form, lens: &[super::denote::Len]) -> bool {
        let Shape::Map(op, ys) = self.shape(power).clone() else { return false };
        let reduction = self.within_bounds(ys[0]);
        let Shape::Fold(ReduceOp::Max, height, same, x) = self.shape(reduction).clone() else { return false };
        if same != lens {
            return false;
        }
        let (open, x) = self.opened(height, &same, x);
        let lowered = self.map(op, vec![x]);
        let divided = self.map(ScalarOp::Recip, vec![power]);
        let body = self.product(vec![lowered, divided]);
        self.fold(ReduceOp::Sum, open, body) == sum
    }

    /// What literals hold finite: from above only those that are beyond every score.
    fn within_bounds(&self, x: Form) -> Form {
        let Shape::Map(op @ (ScalarOp::Max | ScalarOp::Min), xs) = self.shape(x) else { return x };
        let bounds = |x: &Form| self.as_real(*x).is_some_and(|c| *op == ScalarOp::Max || c >= FLOOR);
        match xs.iter().filter(|x| !bounds(x)).collect::<Vec<_>>()[..] {
            [inner] => self.within_bounds(*inner),
            _ => x,
        }
    }

    /// A power beside its reciprocal is none.
    pub(super) fn cancelled(&self, mut xs: Vec<Form>) -> Vec<Form> {
        if !self.has(Law::Stabilise) {
            return xs;
        }
        while let Some((n, k)) = xs.iter().enumerate().find_map(|(n, x)| {
            let power = self.divisor(*x)?;
            xs.iter().position(|y| *y == power).map(|k| (n, k))
        }) {
            xs.remove(n.max(k));
            xs.remove(n.min(k));
        }
        xs
    }

    /// An addend beside its opposite is none.
    pub(super) fn without_opposites(&self, mut xs: Vec<Form>) -> Vec<Form> {
        if !self.has(Law::Stabilise) {
            return xs;
        }
        while let Some((n, k)) = (0..xs.len()).find_map(|n| {
            let (c, rest) = self.coefficient(xs[n]);
            let opposite = |k: &usize| {
                let (d, others) = self.coefficient(xs[*k]);
                c + d == 0.0 && rest == others
            };
            (n + 1..xs.len()).find(opposite).map(|k| (n, k))
        }) {
            xs.remove(k);
            xs.remove(n);
        }
        xs
    }

    /// The product of a term's literals, and its other factors.
    fn coefficient(&self, x: Form) -> (f64, Vec<Form>) {
        let (literals, rest): (Vec<_>, Vec<_>) = self.factors(x).into_iter().partition(|f| self.as_real(*f).is_some());
        (literals.into_iter().filter_map(|f| self.as_real(f)).product(), rest)
    }
}
