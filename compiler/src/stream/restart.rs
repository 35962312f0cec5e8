//! Bodies that a running bound decides: `where(x == y, g, e)` with y the largest x so far.
//!
//! When y moves, every x folded so far lies below it, so what was folded is what the body is worth below its bound. If
//! the state's initial value takes that up, the running value begins anew.

use super::State;
use crate::normal::{Literal, Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use std::cmp::Ordering;

/// A running bound: the state's source, what it bounds, and where that lies once the bound has moved.
struct Bound {
    source: TermId,
    of: TermId,
    side: Ordering,
}

/// Whether a body over a moved bound is worth something that `op` takes up without a trace, and the initial value
/// that does: the operation's own, or the literal where no value of the body exceeds it.
pub fn begins_anew(terms: &Terms, op: ReduceOp, body: TermId, bound: &State) -> Option<Value> {
    let side = match bound.op {
        ReduceOp::Max => Ordering::Less,
        ReduceOp::Min => Ordering::Greater,
        ReduceOp::Sum | ReduceOp::Any | ReduceOp::All => return None,
    };
    let bound = Bound { source: bound.source, of: bound.body, side };
    let left = value(terms, body, &bound)?;
    let identity = op.identity(terms.info(body).ty);
    if left == identity {
        return Some(identity);
    }
    // A literal beside values that it bounds: with it as the initial value nothing is lost.
    let (Value::Int(e), Some((least, most))) = (left, kept(terms, body, &bound)) else { return None };
    let taken = match op {
        ReduceOp::Min => e >= most,
        ReduceOp::Max => e <= least,
        ReduceOp::Sum | ReduceOp::Any | ReduceOp::All => false,
    };
    taken.then_some(left)
}

/// What a term is worth where the bounded value lies strictly on the bound's side.
fn value(terms: &Terms, id: TermId, bound: &Bound) -> Option<Value> {
    match terms.term(id) {
        Term::Const(l) => Some((*l).into()),
        Term::Sum(axes, xs) if axes.is_empty() => {
            let zero = |x: &TermId| value(terms, *x, bound) == Some(Value::Real(0.0));
            xs.iter().any(zero).then_some(Value::Real(0.0))
        }
        Term::Map(ScalarOp::Where, xs) => match decide(terms, xs[0], bound)? {
            true => value(terms, xs[1], bound),
            false => value(terms, xs[2], bound),
        },
        Term::Map(ScalarOp::ToReal, xs) => value(terms, xs[0], bound).map(|v| Value::Real(v.real())),
        Term::Map(..) if terms.info(id).ty == Type::Bool => decide(terms, id, bound).map(Value::Bool),
        _ => None,
    }
}

/// The truth of a condition there, where it follows.
fn decide(terms: &Terms, id: TermId, bound: &Bound) -> Option<bool> {
    match terms.term(id) {
        Term::Const(Literal::Bool(b)) => Some(*b),
        Term::Map(ScalarOp::Not, xs) => decide(terms, xs[0], bound).map(|b| !b),
        Term::Map(ScalarOp::And, xs) => match (decide(terms, xs[0], bound), decide(terms, xs[1], bound)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (a, b) => a.zip(b).map(|(a, b)| a && b),
        },
        Term::Map(ScalarOp::Or, xs) => match (decide(terms, xs[0], bound), decide(terms, xs[1], bound)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (a, b) => a.zip(b).map(|(a, b)| a || b),
        },
        Term::Map(op, xs) if xs.len() == 2 => {
            let order = match (xs[0], xs[1]) {
                (x, y) if x == bound.of && y == bound.source => bound.side,
                (y, x) if x == bound.of && y == bound.source => bound.side.reverse(),
                _ => return None,
            };
            compared(*op, order)
        }
        _ => None,
    }
}

/// A comparison of two values in this order.
fn compared(op: ScalarOp, order: Ordering) -> Option<bool> {
    match op {
        ScalarOp::Lt => Some(order.is_lt()),
        ScalarOp::Le => Some(order.is_le()),
        ScalarOp::Gt => Some(order.is_gt()),
        ScalarOp::Ge => Some(order.is_ge()),
        ScalarOp::Eq => Some(order.is_eq()),
        ScalarOp::Ne => Some(order.is_ne()),
        _ => None,
    }
}

/// The range of an int body's other branch, where the bound decides the outermost choice.
fn kept(terms: &Terms, body: TermId, bound: &Bound) -> Option<(i64, i64)> {
    let Term::Map(ScalarOp::Where, xs) = terms.term(body) else { return None };
    let other = if decide(terms, xs[0], bound)? { xs[2] } else { xs[1] };
    terms.bounds(other)
}
