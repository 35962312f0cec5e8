//! Values across the lanes of a vectorised axis, with what is known about them.
//!
//! An index expression along a vectorised axis is most often `base + lane * step`. Keeping it in that form, with a
//! number that divides the base, turns loads into vector loads, page lookups into one lookup, and comparisons that
//! cannot differ between lanes into scalars, whatever expression the index was spelled as.

use super::{Cmp, Emitter, Ty, Val};

/// How a value varies over the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The same in all lanes: the value is a scalar.
    Uniform,
    /// The int `value + lane * step`; the step is not 0 and the value a scalar.
    Affine(i64),
    /// A vector.
    Vector,
}

/// A value across lanes.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'c> {
    /// The scalar, the first lane or the vector, as the form says.
    pub value: Val<'c>,
    /// How it varies.
    pub form: Form,
    /// An int's scalar is a multiple of it; 0 for a scalar that is 0.
    pub multiple: u64,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'c> Lane<'c> {
    /// The same scalar in every lane.
    pub fn uniform(value: Val<'c>) -> Lane<'c> {
        let multiple = value.constant().map_or(1, i64::unsigned_abs);
        Lane { value, form: Form::Uniform, multiple }
    }

    /// A uniform int that is known to be a multiple of something.
    pub fn multiple_of(value: Val<'c>, multiple: u64) -> Lane<'c> {
        Lane { multiple, ..Lane::uniform(value) }
    }

    /// `base, base + 1, ...`, the base a multiple of `multiple`.
    pub fn range(base: Val<'c>, multiple: u64) -> Lane<'c> {
        Lane { value: base, form: Form::Affine(1), multiple }
    }

    /// A vector; a scalar counts as uniform.
    pub fn vector(value: Val<'c>) -> Lane<'c> {
        if value.lanes() == 1 { Lane::uniform(value) } else { Lane { value, form: Form::Vector, multiple: 1 } }
    }

    /// The scalar, where all lanes agree.
    pub fn scalar(self) -> Option<Val<'c>> {
        (self.form == Form::Uniform).then_some(self.value)
    }

    /// Type of a lane.
    pub fn ty(self) -> Ty {
        self.value.ty()
    }

    fn step(self) -> Option<i64> {
        match self.form {
            Form::Uniform => Some(0),
            Form::Affine(step) => Some(step),
            Form::Vector => None,
        }
    }

    fn affine(value: Val<'c>, step: i64, multiple: u64) -> Lane<'c> {
        let multiple = value.constant().map_or(multiple, i64::unsigned_abs);
        Lane { value, form: if step == 0 { Form::Uniform } else { Form::Affine(step) }, multiple }
    }
}

/// Integer arithmetic across `lanes` lanes.
impl<'c> Emitter<'c> {
    /// All lanes as one vector; a scalar for one lane.
    pub fn materialise(&self, x: Lane<'c>, lanes: u32) -> Val<'c> {
        match x.form {
            Form::Uniform => self.splat(x.value, lanes),
            Form::Vector => x.value,
            Form::Affine(step) => {
                let steps = self.int_lanes(x.ty(), (0..lanes as i64).map(|l| l * step));
                self.add(self.splat(x.value, lanes), steps)
            }
        }
    }

    /// One lane's scalar.
    pub fn lane(&self, x: Lane<'c>, lane: u32) -> Val<'c> {
        match x.form {
            Form::Uniform => x.value,
            Form::Vector => self.extract(x.value, lane),
            Form::Affine(step) => self.add(x.value, self.like_int(x.value, lane as i64 * step)),
        }
    }

    /// Applies an operation lane by lane: on scalars where all operands are uniform.
    pub fn lanewise(&self, x: &[Lane<'c>], lanes: u32, op: impl FnOnce(&[Val<'c>]) -> Val<'c>) -> Lane<'c> {
        if let Some(scalars) = x.iter().map(|v| v.scalar()).collect::<Option<Vec<_>>>() {
            return Lane::uniform(op(&scalars));
        }
        Lane::vector(op(&x.iter().map(|v| self.materialise(*v, lanes)).collect::<Vec<_>>()))
    }

    /// Sum of ints.
    pub fn lane_add(&self, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> Lane<'c> {
        match (a.step(), b.step()) {
            (Some(s), Some(t)) => Lane::affine(self.add(a.value, b.value), s + t, gcd(a.multiple, b.multiple)),
            _ => self.lanewise(&[a, b], lanes, |v| self.add(v[0], v[1])),
        }
    }

    /// Difference of ints.
    pub fn lane_sub(&self, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> Lane<'c> {
        match (a.step(), b.step()) {
            (Some(s), Some(t)) => Lane::affine(self.sub(a.value, b.value), s - t, gcd(a.multiple, b.multiple)),
            _ => self.lanewise(&[a, b], lanes, |v| self.sub(v[0], v[1])),
        }
    }

    /// Product of ints.
    pub fn lane_mul(&self, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> Lane<'c> {
        for (x, k) in [(a, b), (b, a)] {
            let constant = if k.form == Form::Uniform { k.value.constant() } else { None };
            if let (Some(step), Some(c)) = (x.step(), constant) {
                let multiple = x.multiple.saturating_mul(c.unsigned_abs());
                return Lane::affine(self.mul(x.value, k.value), step * c, multiple);
            }
        }
        let mut product = self.lanewise(&[a, b], lanes, |v| self.mul(v[0], v[1]));
        if product.form == Form::Uniform {
            product.multiple = a.multiple.saturating_mul(b.multiple);
        }
        product
    }

    /// Floor quotient and remainder of ints; 0 and the dividend where the divisor is 0.
    pub fn lane_div_rem(&self, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> (Lane<'c>, Lane<'c>) {
        let divisor = if b.form == Form::Uniform { b.value.constant().filter(|n| *n > 0) } else { None };
        if divisor == Some(1) {
            return (a, Lane::uniform(self.like_int(b.value, 0)));
        }
        if let (Some(n), Some(step)) = (divisor, a.step()) {
            // The base is a multiple of `g`, and so is its remainder: where the lanes stay below the next multiple of
            // `g` they cannot carry into the quotient.
            let g = gcd(a.multiple, n as u64);
            if step >= 0 && step * (lanes as i64 - 1) < g as i64 {
                let (q, r) = self.div_rem_const(a.value, n);
                let r = if g == n as u64 { self.like_int(r, 0) } else { r };
                return (Lane::affine(q, 0, (a.multiple / n as u64).max(1)), Lane::affine(r, step, g));
            }
        }
        let parts = |first: bool| {
            self.lanewise(&[a, b], lanes, |v| {
                let (q, r) = match divisor {
                    Some(n) => self.div_rem_const(v[0], n),
                    None => self.div_rem(v[0], v[1]),
                };
                if first { q } else { r }
            })
        };
        (parts(true), parts(false))
    }

    fn div_rem_const(&self, a: Val<'c>, n: i64) -> (Val<'c>, Val<'c>) {
        if n & (n - 1) == 0 {
            return (self.ashr(a, n.trailing_zeros()), self.and(a, self.like_int(a, n - 1)));
        }
        self.div_rem(a, self.like_int(a, n))
    }

    fn div_rem(&self, a: Val<'c>, b: Val<'c>) -> (Val<'c>, Val<'c>) {
        let (a, b) = self.widen(a, b);
        let (zero, one) = (self.like_int(b, 0), self.like_int(b, 1));
        let by_zero = self.compare(Cmp::Eq, b, zero);
        // -1 is taken apart as well: the smallest int divided by it would trap.
        let by_minus_one = self.compare(Cmp::Eq, b, self.like_int(b, -1));
        let safe = self.select(self.or(by_zero, by_minus_one), one, b);
        let towards_zero = self.div(a, safe);
        let rest = self.sub(a, self.mul(towards_zero, safe));
        let inexact = self.compare(Cmp::Ne, rest, zero);
        let opposite = self.compare(Cmp::Lt, self.xor(a, safe), zero);
        let floor = self.select(self.and(inexact, opposite), self.sub(towards_zero, one), towards_zero);
        let q = self.select(by_zero, zero, self.select(by_minus_one, self.sub(zero, a), floor));
        (q, self.sub(a, self.mul(q, b)))
    }

    /// A comparison of ints.
    pub fn lane_compare(&self, cmp: Cmp, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> Lane<'c> {
        if let (Some(s), Some(t)) = (a.step(), b.step()) {
            let difference = self.sub(a.value, b.value);
            let g = gcd(a.multiple, b.multiple) as i64;
            let reach = (s - t) * (lanes as i64 - 1);
            // The difference is a multiple of `g` in lane 0 and moves by less than `g`: its sign is decided there.
            let decided = reach >= 0 && reach < g && matches!(cmp, Cmp::Lt | Cmp::Ge)
                || reach <= 0 && -reach < g && matches!(cmp, Cmp::Gt | Cmp::Le);
            if s == t || decided {
                return Lane::uniform(self.compare(cmp, difference, self.like_int(difference, 0)));
            }
        }
        self.lanewise(&[a, b], lanes, |v| self.compare(cmp, v[0], v[1]))
    }

    /// `a` where the condition holds, else `b`; both of one type.
    pub fn lane_select(&self, c: Lane<'c>, a: Lane<'c>, b: Lane<'c>, lanes: u32) -> Lane<'c> {
        if let (Some(c), Some(s), Some(t)) = (c.scalar(), a.step(), b.step())
            && s == t
        {
            return Lane::affine(self.select(c, a.value, b.value), s, gcd(a.multiple, b.multiple));
        }
        let (x, y) = (self.materialise(a, lanes), self.materialise(b, lanes));
        match c.scalar() {
            Some(c) => Lane::vector(self.select(c, x, y)),
            None => Lane::vector(self.select(c.value, x, y)),
        }
    }
}
