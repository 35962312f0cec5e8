//! Keys that a loop over tokens does not visit, tried: the bodies at such keys have to leave every state as it is.
//!
//! What is proved by intervals elsewhere is evaluated here, at positions drawn at random. What is no scalar operation is worth a
//! number of its own.

use crate::causality::MASKED;
use crate::group::Fold;
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use llmc_frontend::graph::AxisId;
use std::collections::HashMap;

/// Draws for each distance.
const DRAWS: u64 = 16;
/// Positions behind what is seen.
const BEHIND: [i64; 5] = [0, 1, 2, 63, 5000];

/// Checks that what a loop skips leaves its states as they are.
///
/// # Errors
/// The first state that a skipped key would change.
pub(super) fn skipped(terms: &Terms, fold: &Fold) -> Result<(), String> {
    let (Some(sight), Some(key)) = (fold.sight, fold.stream.over.first()) else { return Ok(()) };
    let Some(row) = terms.views.get(key) else { return Ok(()) };
    let ahead = BEHIND.iter().filter(|_| sight.causal).map(|d| d + 1);
    let back = BEHIND.iter().filter_map(|d| Some(-(i64::try_from(sight.window?).ok()?.checked_add(*d)?)));
    for distance in ahead.chain(back) {
        for draw in 0..DRAWS {
            let here = 10_000 + 977 * draw as i64 + distance.saturating_neg().max(0);
            let at = HashMap::from([(*row, here), (*key, here + distance)]);
            for state in &fold.stream.states {
                let mut point = Point { terms, at: &at, draw, done: HashMap::new() };
                let earlier = fold.stream.states.iter().map(|s| s.source);
                point.done = earlier.map(|s| (s, point.number(s))).collect();
                let value = point.value(state.body);
                if !leaves(state.op, value) {
                    return Err(format!("skips keys at {distance} from the row, where a body is {value:?}"));
                }
            }
        }
    }
    Ok(())
}

/// Whether folding a value in changes nothing.
fn leaves(op: ReduceOp, value: Value) -> bool {
    match (op, value) {
        (ReduceOp::Sum, Value::Real(x)) => x == 0.0,
        (ReduceOp::Sum, Value::Int(n)) => n == 0,
        (ReduceOp::Max, Value::Real(x)) => x <= MASKED,
        (ReduceOp::Min, Value::Real(x)) => x >= -MASKED,
        (ReduceOp::Max | ReduceOp::Min, v @ Value::Int(_)) => v == op.identity(Type::Int),
        (ReduceOp::Any, v) => v == Value::Bool(false),
        (ReduceOp::All, v) => v == Value::Bool(true),
        (ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min, Value::Bool(_)) => false,
    }
}

/// One key of one row.
struct Point<'a> {
    terms: &'a Terms,
    at: &'a HashMap<AxisId, i64>,
    draw: u64,
    done: HashMap<TermId, Value>,
}

impl Point<'_> {
    fn value(&mut self, id: TermId) -> Value {
        if let Some(v) = self.done.get(&id) {
            return *v;
        }
        let v = match self.terms.term(id).clone() {
            Term::Const(l) => l.into(),
            Term::Iota(a) => self.at.get(&a).map_or_else(|| self.number(id), |i| Value::Int(*i)),
            Term::Sum(bound, xs) if bound.is_empty() => self.joined(ScalarOp::Mul, &xs),
            Term::Plus(xs) => self.joined(ScalarOp::Add, &xs),
            Term::Map(op, xs) => {
                let xs: Vec<_> = xs.iter().map(|x| self.value(*x)).collect();
                op.evaluate(&xs)
            }
            Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Reduce(..)
            | Term::Index(..)
            | Term::Read(..)
            | Term::TopK(..) => self.number(id),
        };
        self.done.insert(id, v);
        v
    }

    fn joined(&mut self, op: ScalarOp, xs: &[TermId]) -> Value {
        let all: Vec<_> = xs.iter().map(|x| self.value(*x)).collect();
        all[1..].iter().fold(all[0], |a, b| op.evaluate(&[a, *b]))
    }

    /// A value of a term of its own.
    fn number(&self, id: TermId) -> Value {
        let mixed =
            (u64::from(id.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.draw.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let bits = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40;
        match self.terms.info(id).ty {
            Type::Real => Value::Real(bits as f64 / f64::from(1 << 22) - 2.0),
            Type::Int => Value::Int((bits % 7) as i64),
            Type::Bool => Value::Bool(bits.is_multiple_of(2)),
        }
    }
}
