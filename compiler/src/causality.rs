//! Which tokens a value depends on.
//!
//! A token sees another only through a reduction over a view of its sequence. What enters is the body of such a
//! reduction; what leaves is which positions contribute nothing to it, proved from the conditions in the body by
//! intervals over the distance between key and row, however the mask is spelled. Nothing is proved by pattern: the
//! body is evaluated with what is known under the assumption "this key is dead", and has to come out as the
//! reduction's identity.
//!
//! A finite mask value at or below [`MASKED`] counts as minus infinity: beside any score worth the name its
//! exponential is zero in f32.

use crate::alpha;
use crate::normal::{Literal, Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use llmc_frontend::graph::{AxisId, Extent, Place};
use std::collections::{BTreeMap, HashMap};

/// Mask values from here down are read as minus infinity, and from its negation up as infinity.
pub const MASKED: f64 = -1e8;

/// Which keys a reduction can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Keys after the row's own position contribute nothing.
    pub causal: bool,
    /// Keys this many positions or more before the row's own contribute nothing.
    pub window: Option<u64>,
}

impl Sight {
    /// What two reductions in one loop see together.
    pub fn join(self, other: Sight) -> Sight {
        let window = match (self.window, other.window) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (None, _) | (_, None) => None,
        };
        Sight { causal: self.causal && other.causal, window }
    }
}

/// A read of other tokens that no mask confines to the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The term that looks: a read, a reduction over all tokens, a length.
    pub term: TermId,
    /// What it is called in the text, or `None`: for finding the place.
    pub name: Option<String>,
    /// What a user reads who asks for generation.
    pub sentence: String,
    /// Where the text has the term.
    pub place: Option<Place>,
}

/// What the reduction `op` over the view `key` of `row`'s sequence can see through its body.
pub fn sight(terms: &Terms, op: ReduceOp, body: TermId, key: AxisId, row: AxisId) -> Sight {
    let dead = |low, high| Assume::new(terms, key, row, Interval { low, high }).contributes_nothing(op, body);
    let causal = dead(1, MAX);
    let mut candidates: Vec<i64> = constants(terms, body)
        .into_iter()
        .flat_map(|c| [c.saturating_abs(), c.saturating_abs().saturating_add(1)])
        .filter(|c| *c > 0)
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    let window = candidates.into_iter().find(|w| dead(MIN, -w)).map(|w| w as u64);
    Sight { causal, window }
}

/// Sequences to which no token may be appended, for some reduction over another token looks ahead: the first such of each
/// in the order of the terms.
pub fn leaks(terms: &Terms, roots: &[TermId]) -> BTreeMap<SeqId, Leak> {
    let mut found = BTreeMap::new();
    for id in reachable(terms, roots) {
        for (seq, leak) in leaks_at(terms, id) {
            found.entry(seq).or_insert(leak);
        }
    }
    found
}

fn leaks_at(terms: &Terms, id: TermId) -> Vec<(SeqId, Leak)> {
    let named = |t: TermId| terms.info(t).name.clone();
    let leak = |sentence| Leak { term: id, name: named(id), sentence, place: terms.place(id) };
    if let Term::Length(seq) = terms.term(id) {
        let axis = seq_name(terms, *seq);
        let sentence = format!("`len({axis})` depends on tokens that are yet to come, so nothing can be appended");
        return vec![(*seq, leak(sentence))];
    }
    let Some((op, bound)) = alpha::reduction(terms, id) else { return vec![] };
    let of_axis = |axis: AxisId| {
        let text = &terms.axes[alpha::origin(terms, axis)].name;
        match terms.axes[axis].extent {
            Extent::Const(_) => None,
            Extent::Seq(seq) => {
                Some((seq, leak(format!("`{}[{text}]` takes in every token of the sequence", op.keyword()))))
            }
            Extent::View(seq) => {
                let row = terms.views[&axis];
                let past = terms.free(id).contains(row) && sees_past_only(terms, id, op, axis, row);
                // A token of another sequence looks at all of this one.
                let elsewhere = !terms.free(id).contains(row) && terms.free(id).iter().any(|a| terms.is_seq(a));
                match (past, elsewhere) {
                    (true, _) => None,
                    (_, true) => {
                        let own = &terms.axes[row].name;
                        let sentence = format!("`{}[{own}]` of another sequence takes in every token", op.keyword());
                        Some((seq, leak(sentence)))
                    }
                    _ => Some((seq, leak_ahead(terms, id, op, axis, row))),
                }
            }
        }
    };
    bound.iter().filter_map(of_axis).collect()
}

/// A reduction over the view `key` of `row`'s sequence that no mask confines to the past, by what it reads there.
fn leak_ahead(terms: &Terms, id: TermId, op: ReduceOp, key: AxisId, row: AxisId) -> Leak {
    let named = |t: TermId| terms.info(t).name.clone();
    let text = &terms.axes[alpha::origin(terms, key)].name;
    let read = reads_at(terms, id, key).into_iter().next().unwrap_or(id);
    let shown = match terms.term(read) {
        Term::Read(x, _) => named(*x).or_else(|| named(read)),
        _ => named(read),
    };
    let own = &terms.axes[row].name;
    let what =
        shown.clone().map_or_else(|| format!("a value read at {own} = {text}"), |n| format!("`{n}[{own} = {text}]`"));
    let sentence = format!(
        "{what} under `{}[{text}]` sees tokens after its own: no condition proves {text} <= {own}",
        op.keyword()
    );
    Leak { term: read, name: shown, sentence, place: terms.place(read).or(terms.place(id)) }
}

fn sees_past_only(terms: &Terms, id: TermId, op: ReduceOp, key: AxisId, row: AxisId) -> bool {
    let assume = Assume::new(terms, key, row, Interval { low: 1, high: MAX });
    match terms.term(id) {
        Term::Sum(_, factors) => factors.iter().any(|f| assume.contributes_nothing(op, *f)),
        Term::Reduce(_, _, x) => assume.contributes_nothing(op, *x),
        other => panic!("causality: {other:?} is no reduction"),
    }
}

fn seq_name(terms: &Terms, seq: SeqId) -> String {
    let found = terms.axes.iter().find(|(_, a)| a.extent == Extent::Seq(seq));
    found.map_or_else(|| "?".to_owned(), |(_, a)| a.name.clone())
}

/// Every term below the roots, operands first, in the arena's order.
pub fn reachable(terms: &Terms, roots: &[TermId]) -> Vec<TermId> {
    let mut seen = vec![false; terms.len()];
    let mut stack = roots.to_vec();
    while let Some(x) = stack.pop() {
        if !std::mem::replace(&mut seen[x.0 as usize], true) {
            stack.extend(terms.operands(x));
        }
    }
    (0..terms.len() as u32).map(TermId).filter(|x| seen[x.0 as usize]).collect()
}

/// Reads at the view `axis` below a term.
fn reads_at(terms: &Terms, id: TermId, axis: AxisId) -> Vec<TermId> {
    reachable(terms, &[id]).into_iter().filter(|x| matches!(terms.term(*x), Term::Read(_, v) if *v == axis)).collect()
}

/// Integer literals below a term: where a window's bound comes from.
fn constants(terms: &Terms, id: TermId) -> Vec<i64> {
    let mut found: Vec<_> = reachable(terms, &[id])
        .into_iter()
        .filter_map(|x| match terms.term(x) {
            Term::Const(Literal::Int(n)) => Some(*n),
            Term::Const(Literal::Real(bits)) => integral(f64::from_bits(*bits)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn integral(x: f64) -> Option<i64> {
    (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64)
}

const MIN: i64 = i64::MIN;
const MAX: i64 = i64::MAX;

/// Integers from `low` to `high`; the extreme values stand for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    low: i64,
    high: i64,
}

impl Interval {
    const ALL: Interval = Interval { low: MIN, high: MAX };

    fn point(n: i64) -> Interval {
        Interval { low: n, high: n }
    }
    fn add(self, other: Interval) -> Interval {
        let low = if self.low == MIN || other.low == MIN { MIN } else { self.low.saturating_add(other.low) };
        let high = if self.high == MAX || other.high == MAX { MAX } else { self.high.saturating_add(other.high) };
        Interval { low, high }
    }
    fn scale(self, by: i64) -> Interval {
        let times = |x: i64| match (x, by.signum()) {
            (_, 0) => 0,
            (MIN, 1) | (MAX, -1) => MIN,
            (MAX, 1) | (MIN, -1) => MAX,
            _ => x.saturating_mul(by),
        };
        let (a, b) = (times(self.low), times(self.high));
        Interval { low: a.min(b), high: a.max(b) }
    }
    fn hull(self, other: Interval) -> Interval {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// A sum of integer atoms with coefficients, and a constant.
#[derive(Default)]
struct Linear {
    atoms: BTreeMap<TermId, i64>,
    constant: i64,
}

/// What is known of terms when `key - row` lies in `distance`.
struct Assume<'a> {
    terms: &'a Terms,
    key: AxisId,
    row: AxisId,
    distance: Interval,
    known: std::cell::RefCell<HashMap<TermId, Option<Value>>>,
}

impl<'a> Assume<'a> {
    fn new(terms: &'a Terms, key: AxisId, row: AxisId, distance: Interval) -> Self {
        Assume { terms, key, row, distance, known: Default::default() }
    }

    /// Whether the body is the reduction's identity. Real values are finite but for the masks' infinities, which is
    /// what makes zero times anything zero and minus infinity plus anything minus infinity.
    fn contributes_nothing(&self, op: ReduceOp, body: TermId) -> bool {
        let identity = op.identity(self.terms.info(body).ty);
        self.value(body) == Some(identity)
    }

    fn value(&self, id: TermId) -> Option<Value> {
        if let Some(v) = self.known.borrow().get(&id) {
            return *v;
        }
        let v = self.evaluate(id).map(clamp);
        self.known.borrow_mut().insert(id, v);
        v
    }

    fn evaluate(&self, id: TermId) -> Option<Value> {
        let zero = |v: &Option<Value>| *v == Some(Value::Real(0.0));
        match self.terms.term(id) {
            Term::Const(l) => Some((*l).into()),
            Term::Sum(bound, xs) => {
                let values: Vec<_> = xs.iter().map(|x| self.value(*x)).collect();
                if values.iter().any(zero) {
                    return Some(Value::Real(0.0));
                }
                // A factor -1 or a literal scale keeps an infinity; an unknown factor may flip its sign.
                if !bound.is_empty() { None } else { fold(ScalarOp::Mul, &values) }
            }
            Term::Plus(xs) => {
                let values: Vec<_> = xs.iter().map(|x| self.value(*x)).collect();
                let infinite = |v: &Option<Value>| v.is_some_and(|v| v.real().is_infinite());
                match values.iter().find(|v| infinite(v)) {
                    Some(v) if values.iter().filter(|w| infinite(w)).all(|w| w == v) => *v,
                    Some(_) => None,
                    None => fold(ScalarOp::Add, &values),
                }
            }
            Term::Map(ScalarOp::Where, xs) => match self.decide(xs[0]) {
                Some(true) => self.value(xs[1]),
                Some(false) => self.value(xs[2]),
                None => self.value(xs[1]).filter(|v| Some(*v) == self.value(xs[2])),
            },
            Term::Map(..) if self.terms.info(id).ty == Type::Bool => self.decide(id).map(Value::Bool),
            Term::Map(op, xs) => {
                let values: Option<Vec<_>> = xs.iter().map(|x| self.value(*x)).collect();
                values.map(|v| op.evaluate(&v))
            }
            Term::Reduce(op, _, x) => self.value(*x).filter(|v| *v == op.identity(self.terms.info(*x).ty)),
            Term::Index(x, _) if self.terms.free(*x).is_empty() => self.value(*x),
            Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Index(..)
            | Term::Read(..)
            | Term::TopK(..) => None,
        }
    }

    /// The truth of a condition, where it follows.
    fn decide(&self, id: TermId) -> Option<bool> {
        match self.terms.term(id) {
            Term::Const(Literal::Bool(b)) => Some(*b),
            Term::Map(op, xs) => match op {
                ScalarOp::And => match (self.decide(xs[0]), self.decide(xs[1])) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                },
                ScalarOp::Or => match (self.decide(xs[0]), self.decide(xs[1])) {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                },
                ScalarOp::Not => self.decide(xs[0]).map(|b| !b),
                ScalarOp::Where => match self.decide(xs[0]) {
                    Some(true) => self.decide(xs[1]),
                    Some(false) => self.decide(xs[2]),
                    None => self.decide(xs[1]).filter(|b| Some(*b) == self.decide(xs[2])),
                },
                ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge | ScalarOp::Eq | ScalarOp::Ne => {
                    self.compare(*op, xs[0], xs[1])
                }
                _ => None,
            },
            Term::Reduce(ReduceOp::Any, _, x) => self.decide(*x).filter(|b| !b),
            Term::Reduce(ReduceOp::All, _, x) => self.decide(*x).filter(|b| *b),
            _ => None,
        }
    }

    fn compare(&self, op: ScalarOp, a: TermId, b: TermId) -> Option<bool> {
        let d = self.difference(a, b);
        let (always, never) = match op {
            ScalarOp::Lt => (d.high < 0, d.low >= 0),
            ScalarOp::Le => (d.high <= 0, d.low > 0),
            ScalarOp::Gt => (d.low > 0, d.high <= 0),
            ScalarOp::Ge => (d.low >= 0, d.high < 0),
            ScalarOp::Eq => (d.low == 0 && d.high == 0, d.low > 0 || d.high < 0),
            ScalarOp::Ne => (d.low > 0 || d.high < 0, d.low == 0 && d.high == 0),
            _ => (false, false),
        };
        if always {
            Some(true)
        } else if never {
            Some(false)
        } else {
            None
        }
    }

    /// The interval of `a - b`, common parts cancelled.
    fn difference(&self, a: TermId, b: TermId) -> Interval {
        let mut sum = Linear::default();
        if self.linear(a, 1, &mut sum).is_none() || self.linear(b, -1, &mut sum).is_none() {
            return Interval::ALL;
        }
        self.bound(&sum)
    }

    fn bound(&self, sum: &Linear) -> Interval {
        let coefficient = |axis: AxisId| {
            sum.atoms.iter().find(|(x, _)| *self.terms.term(**x) == Term::Iota(axis)).map_or(0, |(_, c)| *c)
        };
        let (key, row) = (coefficient(self.key), coefficient(self.row));
        // key * s + row * t = key * (s - t) + (key + row) * t: exact where the mask is about the distance alone.
        let mut total = Interval::point(sum.constant).add(self.distance.scale(key));
        total = total.add(Interval { low: 0, high: MAX }.scale(key.saturating_add(row)));
        for (atom, c) in &sum.atoms {
            if !matches!(self.terms.term(*atom), Term::Iota(a) if *a == self.key || *a == self.row) {
                total = total.add(self.range(*atom).scale(*c));
            }
        }
        total
    }

    fn linear(&self, id: TermId, by: i64, out: &mut Linear) -> Option<()> {
        match self.terms.term(id) {
            Term::Const(Literal::Int(n)) => out.constant = out.constant.checked_add(n.checked_mul(by)?)?,
            Term::Const(Literal::Real(bits)) => {
                let n = integral(f64::from_bits(*bits))?;
                out.constant = out.constant.checked_add(n.checked_mul(by)?)?;
            }
            Term::Plus(xs) | Term::Map(ScalarOp::Add, xs) => {
                for x in xs {
                    self.linear(*x, by, out)?;
                }
            }
            Term::Map(ScalarOp::Sub, xs) => {
                self.linear(xs[0], by, out)?;
                self.linear(xs[1], by.checked_neg()?, out)?;
            }
            Term::Map(ScalarOp::Neg, xs) => self.linear(xs[0], by.checked_neg()?, out)?,
            Term::Map(ScalarOp::ToReal, xs) => self.linear(xs[0], by, out)?,
            Term::Map(ScalarOp::Mul, xs) => self.scaled(id, xs, by, out)?,
            Term::Sum(bound, xs) if bound.is_empty() => self.scaled(id, xs, by, out)?,
            _ => self.atom(id, by, out)?,
        }
        Some(())
    }

    /// A product is linear in its one factor that is no literal.
    fn scaled(&self, id: TermId, xs: &[TermId], by: i64, out: &mut Linear) -> Option<()> {
        let literal = |x: TermId| match self.terms.term(x) {
            Term::Const(Literal::Int(n)) => Some(*n),
            Term::Const(Literal::Real(bits)) => integral(f64::from_bits(*bits)),
            _ => None,
        };
        let mut rest = xs.iter().filter(|x| literal(**x).is_none());
        let scale = xs.iter().filter_map(|x| literal(*x)).try_fold(by, |a, b| a.checked_mul(b))?;
        match (rest.next(), rest.next()) {
            (Some(x), None) => self.linear(*x, scale, out),
            (None, _) => {
                out.constant = out.constant.checked_add(scale)?;
                Some(())
            }
            (Some(_), Some(_)) => self.atom(id, by, out),
        }
    }

    fn atom(&self, id: TermId, by: i64, out: &mut Linear) -> Option<()> {
        let c = out.atoms.entry(id).or_insert(0);
        *c = c.checked_add(by)?;
        Some(())
    }

    /// The interval of a term that is no sum.
    fn range(&self, id: TermId) -> Interval {
        let whole = |x: TermId| {
            let mut sum = Linear::default();
            match self.linear(x, 1, &mut sum) {
                Some(()) if !sum.atoms.contains_key(&id) => self.bound(&sum),
                _ => Interval::ALL,
            }
        };
        let positive = |x: TermId| match self.terms.term(x) {
            Term::Const(Literal::Int(n)) if *n > 0 => Some(*n),
            _ => None,
        };
        match self.terms.term(id) {
            Term::Iota(a) => {
                Interval { low: 0, high: self.terms.axes.len_of(*a).map_or(MAX, |n| (n as i64).saturating_sub(1)) }
            }
            Term::Length(_) => Interval { low: 1, high: MAX },
            Term::Map(ScalarOp::Max, xs) => {
                let (a, b) = (whole(xs[0]), whole(xs[1]));
                Interval { low: a.low.max(b.low), high: a.high.max(b.high) }
            }
            Term::Map(ScalarOp::Min, xs) => {
                let (a, b) = (whole(xs[0]), whole(xs[1]));
                Interval { low: a.low.min(b.low), high: a.high.min(b.high) }
            }
            Term::Map(ScalarOp::Abs, xs) => {
                let a = whole(xs[0]);
                let b = a.scale(-1);
                Interval { low: if a.low > 0 { a.low } else { b.low.max(0) }, high: a.high.max(b.high) }
            }
            Term::Map(ScalarOp::Where, xs) => match self.decide(xs[0]) {
                Some(true) => whole(xs[1]),
                Some(false) => whole(xs[2]),
                None => whole(xs[1]).hull(whole(xs[2])),
            },
            Term::Map(ScalarOp::Mod, xs) => positive(xs[1]).map_or(Interval::ALL, |n| Interval { low: 0, high: n - 1 }),
            Term::Map(ScalarOp::FloorDiv, xs) => positive(xs[1]).map_or(Interval::ALL, |n| {
                let a = whole(xs[0]);
                let div = |x: i64| if x == MIN || x == MAX { x } else { x.div_euclid(n) };
                Interval { low: div(a.low), high: div(a.high) }
            }),
            _ => Interval::ALL,
        }
    }
}

/// Mask values become the infinities they stand for.
fn clamp(v: Value) -> Value {
    match v {
        Value::Real(x) if x <= MASKED => Value::Real(f64::NEG_INFINITY),
        Value::Real(x) if x >= -MASKED => Value::Real(f64::INFINITY),
        other => other,
    }
}

fn fold(op: ScalarOp, values: &[Option<Value>]) -> Option<Value> {
    let mut all = values.iter();
    let first = (*all.next()?)?;
    all.try_fold(first, |a, b| b.map(|b| op.evaluate(&[a, b])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    /// The sum over s of a token's value where the condition holds.
    fn sum_where(f: &mut Fixture, seen: impl Fn(&mut Fixture, TermId, TermId) -> TermId) -> (TermId, AxisId) {
        let (t, s) = f.seq("t", "s");
        let x = f.param(&[t]);
        f.terms.set_name(x, "k");
        let (x, zero) = (f.read(x, s), f.real(0.0));
        let (si, ti) = (f.iota(s), f.iota(t));
        let seen = seen(f, si, ti);
        let body = f.map(ScalarOp::Where, &[seen, x, zero]);
        let sum = f.reduce(ReduceOp::Sum, &[s], body);
        (f.canonical(&[sum])[0], t)
    }

    fn seen_by(condition: impl Fn(&mut Fixture, TermId, TermId) -> TermId) -> Sight {
        let mut f = Fixture::default();
        let (sum, row) = sum_where(&mut f, condition);
        let (op, bound) = alpha::reduction(&f.terms, sum).expect("a sum");
        let body = alpha::body(&mut f.terms, sum);
        sight(&f.terms, op, body, bound.as_slice()[0], row)
    }

    type Condition = fn(&mut Fixture, TermId, TermId) -> TermId;
    use ScalarOp::*;

    #[test]
    fn causal_in_any_spelling() {
        let spellings: [Condition; 8] = [
            |f, s, t| f.map(Le, &[s, t]),
            |f, s, t| f.map(Ge, &[t, s]),
            |f, s, t| {
                let c = f.map(Gt, &[s, t]);
                f.map(Not, &[c])
            },
            |f, s, t| {
                let (d, zero) = (f.map(Sub, &[t, s]), f.int(0));
                f.map(Le, &[zero, d])
            },
            |f, s, t| {
                let one = f.int(1);
                let next = f.map(Add, &[t, one]);
                f.map(Lt, &[s, next])
            },
            |f, s, t| {
                let (d, zero) = (f.map(Sub, &[s, t]), f.int(0));
                let ahead = f.map(Max, &[d, zero]);
                f.map(Eq, &[ahead, zero])
            },
            |f, s, t| {
                let (a, b) = (f.map(Le, &[s, t]), f.map(Ne, &[s, t]));
                f.map(And, &[b, a])
            },
            |f, s, t| {
                let two = f.int(2);
                let (a, b) = (f.map(Mul, &[two, s]), f.map(Mul, &[t, two]));
                f.map(Le, &[a, b])
            },
        ];
        for (i, c) in spellings.into_iter().enumerate() {
            assert_eq!(seen_by(c), Sight { causal: true, window: None }, "spelling {i}");
        }
    }

    #[test]
    fn a_window_is_found_with_its_exact_length() {
        let spellings: [Condition; 3] = [
            |f, s, t| {
                let (a, d, w) = (f.map(Le, &[s, t]), f.map(Sub, &[t, s]), f.int(4));
                let b = f.map(Lt, &[d, w]);
                f.map(And, &[a, b])
            },
            |f, s, t| {
                let (a, d, w) = (f.map(Ge, &[t, s]), f.map(Sub, &[s, t]), f.int(-4));
                let b = f.map(Gt, &[d, w]);
                f.map(And, &[a, b])
            },
            |f, s, t| {
                let (a, d, w) = (f.map(Le, &[s, t]), f.map(Sub, &[t, s]), f.int(3));
                let b = f.map(Gt, &[d, w]);
                let b = f.map(Not, &[b]);
                f.map(And, &[a, b])
            },
        ];
        for c in spellings {
            assert_eq!(seen_by(c), Sight { causal: true, window: Some(4) });
        }
        let both_ways: Condition = |f, s, t| {
            let (d, w) = (f.map(Sub, &[s, t]), f.int(2));
            let d = f.map(Abs, &[d]);
            f.map(Le, &[d, w])
        };
        assert_eq!(seen_by(both_ways), Sight { causal: false, window: Some(3) });
    }

    #[test]
    fn a_mask_that_leaks_the_future_is_refused_by_name() {
        let masks: [Condition; 3] = [
            |f, s, t| {
                let one = f.int(1);
                let next = f.map(Add, &[t, one]);
                f.map(Le, &[s, next])
            },
            |f, s, t| {
                let (a, b) = (f.map(Le, &[s, t]), f.int(0));
                let first = f.map(Eq, &[t, b]);
                f.map(Or, &[a, first])
            },
            |f, s, _| {
                let n = f.int(7);
                f.map(Le, &[s, n])
            },
        ];
        for c in masks {
            assert!(!seen_by(c).causal);
            let mut f = Fixture::default();
            let (sum, _) = sum_where(&mut f, c);
            let leak = leaks(&f.terms, &[sum]).remove(&SeqId(0)).expect("the future leaks");
            assert_eq!(leak.name.as_deref(), Some("k"));
            assert_eq!(
                leak.sentence,
                "`k[t = s]` under `sum[s]` sees tokens after its own: no condition proves s <= t"
            );
        }
    }

    #[test]
    fn the_length_of_a_sequence_is_refused_by_name() {
        let mut f = Fixture::default();
        f.seq("t", "s");
        let n = f.terms.add(Term::Length(SeqId(0)));
        let leak = leaks(&f.terms, &[n]).remove(&SeqId(0)).expect("a length is not known while tokens are appended");
        assert!(leak.sentence.starts_with("`len(t)`"));
    }
}
