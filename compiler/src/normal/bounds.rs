//! Bounds of ints that hold whatever the inputs: what an index lies within.

use super::{Literal, Term, TermId, Terms};
use llmc_artifact::{ScalarOp, Type};
use std::cmp::{max, min};

/// The least and the greatest value.
pub type Bounds = (i64, i64);

impl Terms {
    /// Integer bounds of a term that hold whatever the inputs: `(least, greatest)`.
    pub fn bounds(&self, x: TermId) -> Option<Bounds> {
        match self.term(x) {
            Term::Const(Literal::Int(n)) => Some((*n, *n)),
            Term::Iota(a) => self.axes.len_of(*a).map(|n| (0, n as i64 - 1)),
            Term::TopK(axis, _, _) => self.axes.len_of(*axis).map(|n| (0, n as i64 - 1)),
            Term::Index(y, _) | Term::Read(y, _) => self.bounds(*y),
            Term::Map(op, xs) if self.info(x).ty == Type::Int => of_operation(*op, |i| self.bounds(xs[i])),
            Term::Const(_)
            | Term::Map(..)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Plus(_)
            | Term::Reduce(..) => None,
        }
    }
}

/// Bounds of an operation on ints, from those of its operands by number.
pub fn of_operation(op: ScalarOp, of: impl Fn(usize) -> Option<Bounds>) -> Option<Bounds> {
    match op {
        ScalarOp::Add => {
            let ((a, b), (c, d)) = (of(0)?, of(1)?);
            Some((a.checked_add(c)?, b.checked_add(d)?))
        }
        ScalarOp::Sub => {
            let ((a, b), (c, d)) = (of(0)?, of(1)?);
            Some((a.checked_sub(d)?, b.checked_sub(c)?))
        }
        ScalarOp::Mul => {
            let ((a, b), (c, d)) = (of(0)?, of(1)?);
            let all = [a.checked_mul(c)?, a.checked_mul(d)?, b.checked_mul(c)?, b.checked_mul(d)?];
            Some((*all.iter().min()?, *all.iter().max()?))
        }
        ScalarOp::Neg => of(0).and_then(|(a, b)| Some((b.checked_neg()?, a.checked_neg()?))),
        ScalarOp::FloorDiv => match of(1)? {
            (c, d) if c == d && c > 0 => of(0).map(|(a, b)| (a.div_euclid(c), b.div_euclid(c))),
            _ => None,
        },
        ScalarOp::Mod => match of(1)? {
            (c, d) if c == d && c > 0 => Some((0, c - 1)),
            _ => None,
        },
        ScalarOp::Max => match (of(0), of(1)) {
            (Some((a, b)), Some((c, d))) => Some((max(a, c), max(b, d))),
            (Some((a, _)), None) | (None, Some((a, _))) => Some((a, i64::MAX)),
            (None, None) => None,
        },
        ScalarOp::Min => match (of(0), of(1)) {
            (Some((a, b)), Some((c, d))) => Some((min(a, c), min(b, d))),
            (Some((_, b)), None) | (None, Some((_, b))) => Some((i64::MIN, b)),
            (None, None) => None,
        },
        ScalarOp::Where => {
            let ((a, b), (c, d)) = (of(1)?, of(2)?);
            Some((min(a, c), max(b, d)))
        }
        ScalarOp::Div
        | ScalarOp::Recip
        | ScalarOp::Pow
        | ScalarOp::Abs
        | ScalarOp::Exp
        | ScalarOp::Exp2
        | ScalarOp::Log
        | ScalarOp::Log2
        | ScalarOp::Sqrt
        | ScalarOp::Sin
        | ScalarOp::Cos
        | ScalarOp::Tanh
        | ScalarOp::Erf
        | ScalarOp::Floor
        | ScalarOp::Ceil
        | ScalarOp::Trunc
        | ScalarOp::Eq
        | ScalarOp::Ne
        | ScalarOp::Lt
        | ScalarOp::Le
        | ScalarOp::Gt
        | ScalarOp::Ge
        | ScalarOp::And
        | ScalarOp::Or
        | ScalarOp::Not
        | ScalarOp::ToReal => None,
    }
}
