//! Which blocks of keys a mask leaves anything of.
//!
//! What enters are the bodies of a fold's states; what leaves is a condition over the first and the last key of a block,
//! false only where every body is its operation's identity at every key between: such a block need not be visited.
//! No mask is recognised. Conditions are evaluated over intervals: the key lies between the block's ends, all else is
//! what it is, and every bound is again an expression, which the kernel computes once for a block.
//!
//! As in [`crate::causality`], real values are finite but for a mask's infinities, and a mask value at or below
//! [`MASKED`] is one of them.

use super::{AxisRef, ExprRef, Kernel};
use crate::causality::MASKED;
use crate::kernel::{Expr, Exprs, KernelAxis, KernelExtent, State, Visit};
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};

impl Kernel<'_, '_> {
    /// The condition under which a block of keys is visited; none where the range that is visited has no block without
    /// a key that counts.
    pub(super) fn visit(&mut self, key: AxisRef, states: &[State]) -> Option<Visit> {
        let extent = self.axes[key.0 as usize].extent;
        let KernelExtent::Keys { causal, window, .. } = extent else { return None };
        let name = self.axes[key.0 as usize].name.clone();
        let (axes, exprs) = (self.axes.len(), self.exprs.clone());
        let mut end = |which: &str| {
            self.axes.push(KernelAxis { name: format!("{name}_{which}"), extent });
            AxisRef(self.axes.len() as u16 - 1)
        };
        let (first, last) = (end("first"), end("last"));
        let mut blocks = Blocks { exprs: &mut self.exprs, key, first, last };
        let condition = blocks.counts(states);
        let needed = condition.filter(|c| skips(&self.exprs, *c, (first, last), causal, window));
        if needed.is_none() {
            // Nothing is gained: the kernel stays as it was.
            self.axes.truncate(axes);
            self.exprs = exprs;
        }
        needed.map(|condition| Visit { first, last, condition })
    }
}

/// Expressions over a block of keys.
struct Blocks<'a> {
    exprs: &'a mut Exprs,
    key: AxisRef,
    first: AxisRef,
    last: AxisRef,
}

impl Blocks<'_> {
    fn apply(&mut self, op: ScalarOp, xs: &[ExprRef]) -> ExprRef {
        let ty = match op {
            ScalarOp::And | ScalarOp::Or | ScalarOp::Not | ScalarOp::Lt | ScalarOp::Le | ScalarOp::Eq => Type::Bool,
            _ => self.exprs.0[xs[0].0 as usize].1,
        };
        self.exprs.add(Expr::Map(op, xs.to_vec()), ty)
    }

    fn truth(&mut self, b: bool) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Bool(b)), Type::Bool)
    }

    fn literal(&self, e: ExprRef) -> Option<Value> {
        match self.exprs[e] {
            Expr::Const(v) => Some(v),
            _ => None,
        }
    }

    /// Conditions in which literals are gone.
    fn and(&mut self, a: ExprRef, b: ExprRef) -> ExprRef {
        match (self.literal(a), self.literal(b)) {
            (Some(Value::Bool(true)), _) | (_, Some(Value::Bool(false))) => b,
            (Some(Value::Bool(false)), _) | (_, Some(Value::Bool(true))) => a,
            _ => self.apply(ScalarOp::And, &[a, b]),
        }
    }

    fn or(&mut self, a: ExprRef, b: ExprRef) -> ExprRef {
        match (self.literal(a), self.literal(b)) {
            (Some(Value::Bool(false)), _) | (_, Some(Value::Bool(true))) => b,
            (Some(Value::Bool(true)), _) | (_, Some(Value::Bool(false))) => a,
            _ => self.apply(ScalarOp::Or, &[a, b]),
        }
    }

    fn not(&mut self, a: ExprRef) -> ExprRef {
        match self.literal(a) {
            Some(Value::Bool(b)) => self.truth(!b),
            _ => self.apply(ScalarOp::Not, &[a]),
        }
    }

    /// Whether some state may take something from the block; none where that is not known to be ever false.
    fn counts(&mut self, states: &[State]) -> Option<ExprRef> {
        let mut dead = self.truth(true);
        for s in states {
            let identity = s.op.identity(self.exprs.0[s.body.0 as usize].1);
            let nothing = match (s.op, identity) {
                (ReduceOp::Any, _) => self.never(s.body),
                (ReduceOp::All, _) => self.always(s.body),
                (_, identity) => self.is(s.body, identity),
            };
            dead = self.and(dead, nothing);
        }
        (self.literal(dead) != Some(Value::Bool(false))).then(|| self.not(dead))
    }

    /// Whether a number is this value, 0 or an infinity, at every key of the block, as far as is known.
    fn is(&mut self, e: ExprRef, value: Value) -> ExprRef {
        let zero = value.real() == 0.0;
        match self.exprs[e].clone() {
            Expr::Const(v) => {
                let same = v == value || matches!((v, value), (Value::Real(x), Value::Real(y)) if masked(x) == y);
                self.truth(same)
            }
            Expr::Map(op, xs) => match op {
                ScalarOp::Where => {
                    let (a, b) = (self.is(xs[1], value), self.is(xs[2], value));
                    let (taken, left) = (self.always(xs[0]), self.never(xs[0]));
                    let (x, y, z) = (self.and(taken, a), self.and(left, b), self.and(a, b));
                    let either = self.or(x, y);
                    self.or(either, z)
                }
                ScalarOp::Mul if zero => {
                    let (a, b) = (self.is(xs[0], value), self.is(xs[1], value));
                    self.or(a, b)
                }
                ScalarOp::Mul => self.scaled(&xs, value),
                ScalarOp::Add if !zero => {
                    let (a, b) = (self.is(xs[0], value), self.is(xs[1], value));
                    self.or(a, b)
                }
                ScalarOp::Sub if !zero => self.is(xs[0], value),
                ScalarOp::Neg if zero => self.is(xs[0], value),
                ScalarOp::ToReal if zero => self.is(xs[0], Value::Int(0)),
                // What takes minus infinity to nothing.
                op if zero && xs.len() == 1 && op.evaluate(&[Value::Real(f64::NEG_INFINITY)]) == value => {
                    self.is(xs[0], Value::Real(f64::NEG_INFINITY))
                }
                _ => self.truth(false),
            },
            Expr::Rounded(_, x) => self.is(x, value),
            Expr::Axis(_)
            | Expr::Position(_)
            | Expr::Row(_)
            | Expr::Length(_)
            | Expr::Sequence(_)
            | Expr::Load { .. }
            | Expr::Result { .. }
            | Expr::Old(_) => self.truth(false),
        }
    }

    /// An infinity times a positive literal.
    fn scaled(&mut self, xs: &[ExprRef], value: Value) -> ExprRef {
        let positive = |s: &Self, e: ExprRef| s.literal(e).is_some_and(|v| v.real() > 0.0);
        match (positive(self, xs[0]), positive(self, xs[1])) {
            (true, _) => self.is(xs[1], value),
            (_, true) => self.is(xs[0], value),
            (false, false) => self.truth(false),
        }
    }

    /// Whether a condition holds at every key of the block, as far as is known.
    fn always(&mut self, c: ExprRef) -> ExprRef {
        self.decided(c, true)
    }

    /// Whether a condition holds at no key of the block, as far as is known.
    fn never(&mut self, c: ExprRef) -> ExprRef {
        self.decided(c, false)
    }

    fn decided(&mut self, c: ExprRef, wanted: bool) -> ExprRef {
        if !self.runs(c) {
            return if wanted { c } else { self.not(c) };
        }
        let Expr::Map(op, xs) = self.exprs[c].clone() else { return self.truth(false) };
        match op {
            ScalarOp::Not => self.decided(xs[0], !wanted),
            ScalarOp::And | ScalarOp::Or => {
                let (a, b) = (self.decided(xs[0], wanted), self.decided(xs[1], wanted));
                if wanted == (op == ScalarOp::And) { self.and(a, b) } else { self.or(a, b) }
            }
            ScalarOp::Where => {
                let (taken, left) = (self.always(xs[0]), self.never(xs[0]));
                let (a, b) = (self.decided(xs[1], wanted), self.decided(xs[2], wanted));
                let (x, y, z) = (self.and(taken, a), self.and(left, b), self.and(a, b));
                let either = self.or(x, y);
                self.or(either, z)
            }
            ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge | ScalarOp::Eq | ScalarOp::Ne => {
                self.compared(op, &xs, wanted)
            }
            _ => self.truth(false),
        }
    }

    fn compared(&mut self, op: ScalarOp, xs: &[ExprRef], wanted: bool) -> ExprRef {
        let (Some(a), Some(b)) = (self.between(xs[0]), self.between(xs[1])) else { return self.truth(false) };
        use ScalarOp::{Eq, Ge, Gt, Le, Lt, Ne};
        match (op, wanted) {
            (Lt, true) | (Ge, false) => self.apply(Lt, &[a.1, b.0]),
            (Le, true) | (Gt, false) => self.apply(Le, &[a.1, b.0]),
            (Gt, true) | (Le, false) => self.apply(Lt, &[b.1, a.0]),
            (Ge, true) | (Lt, false) => self.apply(Le, &[b.1, a.0]),
            (Eq, false) | (Ne, true) => {
                let (below, above) = (self.apply(Lt, &[a.1, b.0]), self.apply(Lt, &[b.1, a.0]));
                self.or(below, above)
            }
            (Eq, true) | (Ne, false) => {
                let (low, high) = (self.apply(Eq, &[a.0, b.1]), self.apply(Eq, &[a.1, b.0]));
                self.and(low, high)
            }
            (other, _) => panic!("lower: `{}` compares nothing", other.keyword()),
        }
    }

    /// Whether an expression differs from key to key.
    fn runs(&self, e: ExprRef) -> bool {
        self.exprs.reachable(&[e]).into_iter().any(|x| match &self.exprs[x] {
            Expr::Axis(a) => *a == self.key,
            Expr::Result { .. } | Expr::Old(_) => true,
            Expr::Const(_) | Expr::Position(_) | Expr::Row(_) | Expr::Length(_) => false,
            Expr::Sequence(_) | Expr::Load { .. } | Expr::Rounded(..) | Expr::Map(..) => false,
        })
    }

    /// The least and the largest value of an expression in the block.
    fn between(&mut self, e: ExprRef) -> Option<(ExprRef, ExprRef)> {
        if !self.runs(e) {
            return Some((e, e));
        }
        let (op, xs) = match self.exprs[e].clone() {
            Expr::Axis(_) => {
                let (first, last) = (Expr::Axis(self.first), Expr::Axis(self.last));
                return Some((self.exprs.add(first, Type::Int), self.exprs.add(last, Type::Int)));
            }
            Expr::Map(op, xs) => (op, xs),
            _ => return None,
        };
        if op == ScalarOp::Where {
            let (a, b) = (self.between(xs[1])?, self.between(xs[2])?);
            return Some((self.apply(ScalarOp::Min, &[a.0, b.0]), self.apply(ScalarOp::Max, &[a.1, b.1])));
        }
        let a = self.between(xs[0])?;
        let second = |s: &mut Self| s.between(xs[1]);
        let positive = |s: &Self| xs.get(1).and_then(|x| s.literal(*x)).map(|v| v.real());
        match op {
            ScalarOp::Add | ScalarOp::Max | ScalarOp::Min => {
                let b = second(self)?;
                Some((self.apply(op, &[a.0, b.0]), self.apply(op, &[a.1, b.1])))
            }
            ScalarOp::Sub => {
                let b = second(self)?;
                Some((self.apply(op, &[a.0, b.1]), self.apply(op, &[a.1, b.0])))
            }
            ScalarOp::Neg => Some((self.apply(op, &[a.1]), self.apply(op, &[a.0]))),
            ScalarOp::Abs => {
                let (low, high) = (self.apply(ScalarOp::Neg, &[a.1]), self.apply(ScalarOp::Neg, &[a.0]));
                let zero = self.exprs.add(Expr::Const(Value::Int(0)), Type::Int);
                let least = self.apply(ScalarOp::Max, &[a.0, low]);
                let least = if self.exprs.0[e.0 as usize].1 == Type::Int {
                    self.apply(ScalarOp::Max, &[least, zero])
                } else {
                    return None;
                };
                Some((least, self.apply(ScalarOp::Max, &[a.1, high])))
            }
            ScalarOp::ToReal => {
                let mut real = |x| self.exprs.add(Expr::Map(op, vec![x]), Type::Real);
                Some((real(a.0), real(a.1)))
            }
            ScalarOp::Mul | ScalarOp::FloorDiv if positive(self).is_some_and(|n| n > 0.0) => {
                Some((self.apply(op, &[a.0, xs[1]]), self.apply(op, &[a.1, xs[1]])))
            }
            ScalarOp::Mul if self.literal(xs[0]).is_some_and(|n| n.real() > 0.0) => {
                let b = second(self)?;
                Some((self.apply(op, &[xs[0], b.0]), self.apply(op, &[xs[0], b.1])))
            }
            _ => None,
        }
    }
}

fn masked(x: f64) -> f64 {
    if x <= MASKED {
        f64::NEG_INFINITY
    } else if x >= -MASKED {
        f64::INFINITY
    } else {
        x
    }
}

/// Keys of a block, rows that are tried, and how far apart: to see whether a condition is ever false.
const TRIED: (i64, i64, i64) = (16, 8192, 61);

/// Whether a condition is false for some block of the range that is visited anyway. What cannot be evaluated here,
/// because it depends on data, may be.
fn skips(exprs: &Exprs, condition: ExprRef, ends: (AxisRef, AxisRef), causal: bool, window: Option<u64>) -> bool {
    let (block, rows, step) = TRIED;
    (0..rows).step_by(step as usize).any(|row| {
        let begin = window.map_or(0, |w| (row + 1 - w as i64).max(0));
        let end = if causal { row + 1 } else { rows };
        (begin / block * block..end).step_by(block as usize).any(|base| {
            let keys = (base.max(begin), (base + block).min(end) - 1);
            evaluate(exprs, condition, row, (ends, keys), rows) != Some(Value::Bool(true))
        })
    })
}

type Keys = ((AxisRef, AxisRef), (i64, i64));

fn evaluate(exprs: &Exprs, e: ExprRef, row: i64, keys: Keys, rows: i64) -> Option<Value> {
    match &exprs[e] {
        Expr::Const(v) => Some(*v),
        Expr::Axis(a) if *a == keys.0.0 => Some(Value::Int(keys.1.0)),
        Expr::Axis(a) if *a == keys.0.1 => Some(Value::Int(keys.1.1)),
        Expr::Position(_) => Some(Value::Int(row)),
        Expr::Length(_) => Some(Value::Int(rows)),
        Expr::Map(op, xs) => op.try_applied(xs, |x| evaluate(exprs, *x, row, keys, rows).ok_or(())).ok(),
        Expr::Axis(_) | Expr::Row(_) | Expr::Sequence(_) => None,
        Expr::Load { .. } | Expr::Result { .. } | Expr::Old(_) | Expr::Rounded(..) => None,
    }
}
