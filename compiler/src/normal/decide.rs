//! Conditions that hold everywhere or nowhere, and what a choice by one is.

use super::{Literal, Term, TermId, Terms};
use crate::rules::Law;
use indexmap::IndexMap;
use llmc_artifact::{ScalarOp, Value};
use llmc_frontend::graph::AxisId;

/// Indices that are tried one by one, at most: a condition on more is left to run time.
const TRIED: u64 = 4096;

impl Terms {
    /// Whether a condition holds everywhere, or nowhere: by the bounds of what it compares, else by trying every index
    /// where it looks at nothing but a few constant axes.
    pub(super) fn decided(&self, x: TermId) -> Option<bool> {
        match self.term(x) {
            Term::Const(Literal::Bool(b)) => Some(*b),
            Term::Map(op, xs) => self.by_bounds(*op, xs).or_else(|| self.by_trying(x)),
            _ => None,
        }
    }

    fn by_bounds(&self, op: ScalarOp, xs: &[TermId]) -> Option<bool> {
        let truth = |i: usize| self.decided(xs[i]);
        let bounds = || Some((self.bounds(xs[0])?, self.bounds(xs[1])?));
        let known = |always: bool, never: bool| if always { Some(true) } else { never.then_some(false) };
        match op {
            ScalarOp::Not => truth(0).map(|b| !b),
            ScalarOp::And => known(truth(0)? && truth(1)?, !(truth(0)? && truth(1)?)),
            ScalarOp::Or => known(truth(0)? || truth(1)?, !(truth(0)? || truth(1)?)),
            ScalarOp::Lt => bounds().and_then(|((a, b), (c, d))| known(b < c, a >= d)),
            ScalarOp::Le => bounds().and_then(|((a, b), (c, d))| known(b <= c, a > d)),
            _ => None,
        }
    }

    fn by_trying(&self, x: TermId) -> Option<bool> {
        let axes: Vec<(AxisId, u64)> =
            self.free(x).iter().map(|a| Some((a, self.axes.len_of(a)?))).collect::<Option<_>>()?;
        let points = axes.iter().try_fold(1u64, |n, (_, len)| n.checked_mul(*len)).filter(|n| *n <= TRIED)?;
        let mut seen = None;
        for point in 0..points {
            let (mut rest, mut at) = (point, IndexMap::new());
            for (a, len) in &axes {
                at.insert(*a, (rest % len) as i64);
                rest /= len;
            }
            let Value::Bool(here) = self.tried(x, &at)? else { return None };
            if *seen.get_or_insert(here) != here {
                return None;
            }
        }
        seen
    }

    /// The value at an index, of what is made of literals and indices alone.
    fn tried(&self, x: TermId, at: &IndexMap<AxisId, i64>) -> Option<Value> {
        match self.term(x) {
            Term::Const(l) => Some(Value::from(*l)),
            Term::Iota(a) => at.get(a).map(|i| Value::Int(*i)),
            Term::Map(op, xs) => {
                let xs: Option<Vec<_>> = xs.iter().map(|y| self.tried(*y, at)).collect();
                Some(op.evaluate(&xs?))
            }
            Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Plus(_)
            | Term::Reduce(..)
            | Term::Index(..)
            | Term::Read(..)
            | Term::TopK(..) => None,
        }
    }

    /// The other operand of a conjunction or disjunction, where one is decided, does not decide the whole, and has no
    /// axis of its own.
    pub(super) fn neutral(&self, op: ScalarOp, xs: &[TermId]) -> Option<TermId> {
        if !self.laws.has(Law::Choose) {
            return None;
        }
        let unit = op == ScalarOp::And;
        let at = xs.iter().position(|x| self.decided(*x) == Some(unit))?;
        self.laws.require(Law::Choose, self.free(xs[at]).is_subset(self.free(xs[1 - at]))).then_some(xs[1 - at])
    }

    /// The branch that a choice takes in any case, if it has all the axes of the choice.
    pub(super) fn settled(&self, xs: &[TermId]) -> Option<TermId> {
        let branch = match self.decided(xs[0]) {
            Some(c) => xs[if c { 1 } else { 2 }],
            None if xs[1] == xs[2] => xs[1],
            None => return None,
        };
        let kept = xs.iter().all(|x| self.free(*x).is_subset(self.free(branch)));
        self.laws.require(Law::Choose, kept).then_some(branch)
    }
}
