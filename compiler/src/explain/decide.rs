//! Conditions that hold everywhere or nowhere.

use super::denote::{Form, Len, Shape};
use super::rewrite::Rewriter;
use crate::normal::Literal;
use indexmap::IndexMap;
use llmc_artifact::{ScalarOp, Value};

/// Indices that are tried one by one, at most.
const TRIED: u64 = 4096;

impl Rewriter {
    /// Whether a condition holds everywhere, or nowhere.
    pub(super) fn decided(&self, x: Form) -> Option<bool> {
        self.by_bounds(x).or_else(|| self.by_trying(x))
    }

    fn by_bounds(&self, x: Form) -> Option<bool> {
        match self.shape(x) {
            Shape::Const(Literal::Bool(b)) => Some(*b),
            Shape::Map(op, ys) => {
                let known = |always: bool, never: bool| if always { Some(true) } else { never.then_some(false) };
                let bounds = || Some((self.bounds(ys[0])?, self.bounds(ys[1])?));
                match op {
                    ScalarOp::Not => self.decided(ys[0]).map(|b| !b),
                    ScalarOp::And => Some(self.decided(ys[0])? && self.decided(ys[1])?),
                    ScalarOp::Or => Some(self.decided(ys[0])? || self.decided(ys[1])?),
                    ScalarOp::Lt => bounds().and_then(|((a, b), (c, d))| known(b < c, a >= d)),
                    ScalarOp::Le => bounds().and_then(|((a, b), (c, d))| known(b <= c, a > d)),
                    ScalarOp::Gt => bounds().and_then(|((a, b), (c, d))| known(a > d, b <= c)),
                    ScalarOp::Ge => bounds().and_then(|((a, b), (c, d))| known(a >= d, b < c)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The least and the greatest value of an int.
    pub(super) fn bounds(&self, x: Form) -> Option<(i64, i64)> {
        let of = |len: Len| match len {
            Len::Const(n) => Some((0, i64::try_from(n).ok()? - 1)),
            Len::Seq(_) => None,
        };
        match self.shape(x) {
            Shape::Const(Literal::Int(n)) => Some((*n, *n)),
            Shape::Axis(a) => of(self.axes[a.0 as usize]),
            Shape::Open(n) => of(self.lengths[*n as usize]),
            Shape::TopK(_, len, ..) => of(*len),
            Shape::Map(op, ys) => {
                let at = |n: usize| self.bounds(ys[n]);
                match op {
                    ScalarOp::Add => Some((at(0)?.0.checked_add(at(1)?.0)?, at(0)?.1.checked_add(at(1)?.1)?)),
                    ScalarOp::Sub => Some((at(0)?.0.checked_sub(at(1)?.1)?, at(0)?.1.checked_sub(at(1)?.0)?)),
                    ScalarOp::Mul => {
                        let ((a, b), (c, d)) = (at(0)?, at(1)?);
                        let all = [a.checked_mul(c)?, a.checked_mul(d)?, b.checked_mul(c)?, b.checked_mul(d)?];
                        Some((*all.iter().min()?, *all.iter().max()?))
                    }
                    ScalarOp::FloorDiv => {
                        let (c, d) = at(1)?;
                        let (a, b) = at(0)?;
                        (c == d && c > 0).then(|| (a.div_euclid(c), b.div_euclid(c)))
                    }
                    ScalarOp::Mod => at(1).and_then(|(c, d)| (c == d && c > 0).then_some((0, c - 1))),
                    ScalarOp::Max | ScalarOp::Min => {
                        // What one side is known by bounds the result on that side.
                        let any = (i64::MIN, i64::MAX);
                        let ((a, b), (c, d)) = (at(0).or(at(1).map(|_| any))?, at(1).or(at(0).map(|_| any))?);
                        Some(if *op == ScalarOp::Max { (a.max(c), b.max(d)) } else { (a.min(c), b.min(d)) })
                    }
                    ScalarOp::Where => Some((at(1)?.0.min(at(2)?.0), at(1)?.1.max(at(2)?.1))),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// By every index of the axes that it looks at, where these are few and all of the rest is literals.
    fn by_trying(&self, x: Form) -> Option<bool> {
        let mut axes = IndexMap::new();
        self.looked_at(x, &mut axes)?;
        let points = axes.values().try_fold(1u64, |n, len| n.checked_mul(*len)).filter(|n| *n <= TRIED)?;
        let mut seen = None;
        for point in 0..points {
            let (mut rest, mut at) = (point, IndexMap::new());
            for (axis, len) in &axes {
                at.insert(*axis, (rest % len) as i64);
                rest /= len;
            }
            let Value::Bool(here) = self.tried(x, &at)? else { return None };
            if *seen.get_or_insert(here) != here {
                return None;
            }
        }
        seen
    }

    /// The axes of constant length in a form of scalar operations, with their lengths; `None` if there is more in it.
    fn looked_at(&self, x: Form, axes: &mut IndexMap<Form, u64>) -> Option<()> {
        let len = match self.shape(x) {
            Shape::Const(_) => return Some(()),
            Shape::Map(_, ys) => return ys.iter().try_for_each(|y| self.looked_at(*y, axes)),
            Shape::Axis(a) => self.axes[a.0 as usize],
            Shape::Open(n) => self.lengths[*n as usize],
            Shape::Bound(..)
            | Shape::Length(_)
            | Shape::Leaf(..)
            | Shape::Product(_)
            | Shape::Plus(_)
            | Shape::Fold(..)
            | Shape::TopK(..) => return None,
        };
        match len {
            Len::Const(n) => {
                axes.insert(x, n);
                Some(())
            }
            Len::Seq(_) => None,
        }
    }

    fn tried(&self, x: Form, at: &IndexMap<Form, i64>) -> Option<Value> {
        match self.shape(x) {
            Shape::Const(l) => Some(Value::from(*l)),
            Shape::Map(op, ys) => {
                let ys: Option<Vec<_>> = ys.iter().map(|y| self.tried(*y, at)).collect();
                Some(op.evaluate(&ys?))
            }
            _ => at.get(&x).map(|i| Value::Int(*i)),
        }
    }
}
