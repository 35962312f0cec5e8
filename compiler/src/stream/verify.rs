//! The verifier of streams: every claim of a certificate, tried on elements drawn at random.
//!
//! It shares nothing with the derivation, nor with the laws that it used. A repair is right if it is right for every
//! element that was folded, whatever the earlier results were and have become; so a single element is drawn, earlier
//! results before and after, and the repaired value is held to the body's own. Two functions made of products, sums and
//! powers that differ at all differ almost everywhere (Schwartz 1980), so a few draws decide.
//!
//! | claim | held to |
//! |---|---|
//! | a state's body | the body of the reduction that it computes, earlier results at their final values |
//! | its initial value | the operation's identity, what the source joins, or what every element absorbs |
//! | its repair | the body before and after, element by element |
//! | that the states are a monoid | the fold of two steps, where each has a fold of its own and the repairs join them |
//! | that a sum reaches one | the body where the element is the bound itself |

use super::{FLOOR, State, Stream, behind, same_loop};
use crate::alpha;
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use llmc_frontend::graph::AxisId;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::convert::Infallible;

/// Draws for each state.
const DRAWS: u64 = 48;

/// Checks a stream's certificate.
///
/// # Errors
/// The first claim that does not hold.
pub fn verify(terms: &mut Terms, stream: &Stream) -> Result<(), String> {
    let still = still(terms, stream);
    for at in 0..stream.states.len() {
        let (earlier, state) = (&stream.states[..at], &stream.states[at]);
        let fault = |what: String| format!("state {at} of a stream {what}");
        let own = source_body(terms, stream, state).map_err(fault)?;
        in_order(terms, stream, at).map_err(fault)?;
        for draw in 0..DRAWS {
            let check = Check { terms, still: &still, earlier, state, steps: steps(terms, stream) };
            check.meaning(own, draw).and_then(|()| check.repair(draw)).map_err(fault)?;
        }
        if state.reaches_one {
            Check { terms, still: &still, earlier, state, steps: None }.reaches_one().map_err(fault)?;
        }
    }
    (0..DRAWS).try_for_each(|draw| Joined { terms, still: &still, stream, draw }.agrees(&repaired))
}

/// A state's value, brought up from earlier results to what they have become.
pub(super) type Follow = dyn Fn(&State, &Known, &dyn Fn(TermId) -> [Value; 2]) -> Value;

/// By the state's own repair: from `old`, where each term that it reads has a value before and after.
pub(super) fn repaired(state: &State, old: &Known, at: &dyn Fn(TermId) -> [Value; 2]) -> Value {
    let value = old[&state.source];
    let far = |y: TermId| at(y)[1].real() - at(y)[0].real();
    if state.repair.anew.iter().any(|y| at(*y)[0] != at(*y)[1]) {
        return state.init;
    }
    if state.repair.shifts.is_empty() && state.repair.scales.is_empty() {
        return value;
    }
    let shift = |s: &super::Shift| match old[&s.of].real() {
        0.0 => 0.0,
        of => s.factor * of * s.by.iter().map(|y| far(*y)).product::<f64>(),
    };
    let shifted = value.real() + state.repair.shifts.iter().map(shift).sum::<f64>();
    let ratio = |m: &super::Moved| m.op.evaluate(&[Value::Real(far(m.by))]).real();
    Value::Real(state.repair.scales.iter().map(ratio).fold(shifted, |a, b| a * b))
}

/// A stream's states as a monoid under scrutiny: folds of one step each, of none, and of both.
pub(super) struct Joined<'a> {
    pub(super) terms: &'a Terms,
    pub(super) still: &'a [bool],
    pub(super) stream: &'a Stream,
    pub(super) draw: u64,
}

impl Joined<'_> {
    /// Two folds that have no step in common, joined, are the fold of both, and one without a step adds nothing: what the
    /// kernels rely on that fold a long axis in parts.
    pub(super) fn agrees(&self, follow: &Follow) -> Result<(), String> {
        let [one, other, none] = [&[1][..], &[2], &[]].map(|steps| self.fold(steps));
        for (sides, steps) in [([&one, &other], &[1, 2][..]), ([&none, &one], &[1]), ([&one, &none], &[1])] {
            let (joined, want) = (self.join(sides, follow), self.fold(steps));
            for (n, state) in self.stream.states.iter().enumerate() {
                let (got, want) = (joined[&state.source], want[&state.source]);
                if !near(got, want, magnitude(want).max(magnitude(got)).max(1.0)) {
                    return Err(format!(
                        "state {n} of a stream is joined to {got:?} where the fold of both has {want:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The fold of these steps in one block.
    fn fold(&self, steps: &[u64]) -> Known {
        let mut known = Known::default();
        for state in &self.stream.states {
            let bodies = steps.iter().map(|step| self.element(*step, &known).value(state.body));
            let value = bodies.fold(state.init, |a, b| state.op.combine().evaluate(&[a, b]));
            known.insert(state.source, value);
        }
        known
    }

    fn join(&self, sides: [&Known; 2], follow: &Follow) -> Known {
        let mut joined = Known::default();
        for state in &self.stream.states {
            let each = sides
                .map(|side| follow(state, side, &|y| [side, &joined].map(|known| self.element(0, known).value(y))));
            joined.insert(state.source, state.op.combine().evaluate(&each));
        }
        joined
    }

    fn element(&self, step: u64, known: &Known) -> Element<'_> {
        let Joined { terms, still, draw, .. } = *self;
        let step = Some((step, &self.stream.over[..]));
        Element { terms, still, draw, step, known: RefCell::new(known.clone()) }
    }
}

/// Terms of the arena that neither run with the loop nor hold a state: they are one number throughout.
pub(super) fn still(terms: &Terms, stream: &Stream) -> Vec<bool> {
    let mut still: Vec<bool> = Vec::with_capacity(terms.len());
    for id in (0..terms.len() as u32).map(TermId) {
        let looped = stream.over.iter().any(|a| terms.free(id).contains(*a));
        let state = stream.states.iter().any(|s| s.source == id);
        let inside = matches!(terms.term(id), Term::Read(..)) || terms.operands(id).iter().all(|x| still[x.0 as usize]);
        still.push(!looped && !state && inside);
    }
    still
}

/// Steps of the loop, where that is known.
fn steps(terms: &Terms, stream: &Stream) -> Option<f64> {
    stream.over.iter().map(|a| terms.axes.len_of(*a).map(|n| n as f64)).product()
}

/// The body of the reduction that a state says it computes, over the stream's axes.
fn source_body(terms: &mut Terms, stream: &Stream, state: &State) -> Result<TermId, String> {
    let reduction = behind(terms, state.source).ok_or("computes no reduction")?;
    let (op, bound) = alpha::reduction(terms, reduction).ok_or("computes no reduction")?;
    if op != state.op || !same_loop(terms, bound.as_slice(), &stream.over) {
        return Err("folds with another operation, or over other axes, than its reduction".into());
    }
    let body = alpha::body(terms, reduction);
    let pairs: Vec<_> = bound.iter().zip(stream.over.iter().copied()).collect();
    Ok(alpha::rename(terms, body, &pairs))
}

/// What a state reads of the stream comes before it.
fn in_order(terms: &Terms, stream: &Stream, at: usize) -> Result<(), String> {
    let (state, mut seen) = (&stream.states[at], vec![false; terms.len()]);
    let of = state.repair.shifts.iter().map(|s| s.of);
    let mut stack: Vec<_> = [state.body].into_iter().chain(state.repair.moving()).chain(of).collect();
    while let Some(x) = stack.pop() {
        match stream.states.iter().position(|s| s.source == x) {
            Some(other) if other >= at => return Err("reads a state that comes after it".into()),
            Some(_) => {}
            // What another token found is not of this fold.
            None if matches!(terms.term(x), Term::Read(..)) => {}
            None if std::mem::replace(&mut seen[x.0 as usize], true) => {}
            None => stack.extend(terms.operands(x)),
        }
    }
    Ok(())
}

/// One state under scrutiny.
struct Check<'a> {
    terms: &'a Terms,
    still: &'a [bool],
    earlier: &'a [State],
    state: &'a State,
    steps: Option<f64>,
}

impl Check<'_> {
    /// The body is the reduction's own once all has been seen, and nothing is lost to the initial value.
    fn meaning(&self, own: TermId, draw: u64) -> Result<(), String> {
        let mut known = Known::default();
        for s in self.earlier {
            let whole = self.steps.filter(|_| s.op == ReduceOp::Sum).zip(alpha::as_real(self.terms, s.body));
            let value = match whole {
                Some((steps, each)) => Value::Real(steps * each),
                None => self.drawn(s, draw, &known),
            };
            known.insert(s.source, value);
        }
        let element = self.element(draw, known);
        let (want, got) = (element.value(own), element.value(self.state.body));
        if !near(want, got, magnitude(want)) {
            return Err(format!("folds in {got:?} where its reduction has {want:?}"));
        }
        let joined = self.state.op.combine().evaluate(&[self.state.init, got]);
        if self.state.init == self.state.op.identity(self.ty()) || self.joins_or_floors() || joined == got {
            return Ok(());
        }
        Err(format!("begins at {:?}, which {got:?} does not absorb", self.state.init))
    }

    fn ty(&self) -> Type {
        self.terms.info(self.state.body).ty
    }

    /// Whether the initial value is the literal that the source joins, or the finite end of a running bound.
    fn joins_or_floors(&self) -> bool {
        let joined = match self.terms.term(self.state.source) {
            Term::Map(op, xs) if *op == self.state.op.combine() => xs.iter().any(|x| match self.terms.term(*x) {
                Term::Const(l) => Value::from(*l) == self.state.init,
                _ => false,
            }),
            _ => false,
        };
        let floor = match self.state.op {
            ReduceOp::Max => Value::Real(-FLOOR),
            ReduceOp::Min => Value::Real(FLOOR),
            ReduceOp::Sum | ReduceOp::Any | ReduceOp::All => return joined,
        };
        joined || self.state.init == floor
    }

    /// A value of a state that has already met this element.
    fn drawn(&self, s: &State, draw: u64, known: &Known) -> Value {
        let random = noise(draw ^ 0xb0d1, s.source);
        match s.op {
            ReduceOp::Max | ReduceOp::Min => {
                let met = self.element(draw, known.clone()).value(s.body);
                let far = match self.terms.info(s.body).ty {
                    Type::Int => Value::Int((random * 3.0) as i64),
                    Type::Real | Type::Bool => Value::Real(random),
                };
                s.op.combine().evaluate(&[s.init, s.op.combine().evaluate(&[met, far])])
            }
            ReduceOp::Sum if alpha::as_real(self.terms, s.body).is_some() => Value::Real((random * 4.0).abs().ceil()),
            ReduceOp::Sum if self.terms.info(s.body).ty == Type::Real => Value::Real(random),
            ReduceOp::Sum => Value::Int((random * 3.0) as i64),
            ReduceOp::Any | ReduceOp::All => Value::Bool(random > 0.0),
        }
    }

    /// Where earlier results have gone from there.
    fn moved(&self, s: &State, draw: u64, old: Value, known: &Known) -> Value {
        // Every other time a bound stays, which a body that it decides must be seen to survive.
        let stays = draw.is_multiple_of(2) && matches!(s.op, ReduceOp::Max | ReduceOp::Min);
        if stays {
            return old;
        }
        let next = self.drawn(s, draw ^ 0x5eed_0000, known);
        match s.op {
            ReduceOp::Max | ReduceOp::Min => match (s.op.combine().evaluate(&[old, next]), old) {
                (Value::Real(a), Value::Real(b)) if a == b => {
                    Value::Real(if s.op == ReduceOp::Max { b + 0.75 } else { b - 0.75 })
                }
                (Value::Int(a), Value::Int(b)) if a == b => {
                    Value::Int(if s.op == ReduceOp::Max { b + 2 } else { b - 2 })
                }
                (joined, _) => joined,
            },
            ReduceOp::Sum | ReduceOp::Any | ReduceOp::All => next,
        }
    }

    /// One element folded in under old results, then repaired, is the element under new ones.
    fn repair(&self, draw: u64) -> Result<(), String> {
        let (mut old, mut new) = (Known::default(), Known::default());
        for s in self.earlier {
            let before = self.drawn(s, draw, &old);
            new.insert(s.source, self.moved(s, draw, before, &new));
            old.insert(s.source, before);
        }
        let (old, new) = (self.element(draw, old), self.element(draw, new));
        let (state, body) = (self.state, self.state.body);
        let (was, want) = (old.value(body), new.value(body));
        if state.repair.anew.iter().any(|y| old.value(*y) != new.value(*y)) {
            let joined = state.op.combine().evaluate(&[state.init, want]);
            return if near(joined, state.init, magnitude(state.init)) {
                Ok(())
            } else {
                Err(format!("begins anew and forgets {want:?}"))
            };
        }
        if state.repair.shifts.is_empty() && state.repair.scales.is_empty() {
            return if near(was, want, magnitude(want)) {
                Ok(())
            } else {
                Err("is not repaired when others move".into())
            };
        }
        let Value::Real(mut got) = was else { return Err("repairs what is no number".into()) };
        if state.op != ReduceOp::Sum {
            return Err("repairs what is no sum".into());
        }
        let mut size = got.abs();
        for shift in &state.repair.shifts {
            let of = self.earlier.iter().find(|s| s.source == shift.of).ok_or("is shifted by no state")?;
            if of.op != ReduceOp::Sum || of.init != Value::Real(0.0) {
                return Err("is shifted by what is no sum".into());
            }
            let far = |y: &TermId| new.value(*y).real() - old.value(*y).real();
            let by = shift.factor * shift.by.iter().map(far).product::<f64>() * old.value(of.body).real();
            (got, size) = (got + by, size + by.abs());
        }
        for scale in &state.repair.scales {
            let by = Value::Real(new.value(scale.by).real() - old.value(scale.by).real());
            let ratio = scale.op.evaluate(&[by]).real();
            (got, size) = (got * ratio, size * ratio.abs());
        }
        if near(Value::Real(got), want, size) {
            Ok(())
        } else {
            Err(format!("is repaired to {got} instead of {want:?}"))
        }
    }

    /// One of the running bounds makes every element that attains it contribute one, and none contributes less than
    /// nothing. Draws at which something is undefined decide nothing.
    fn reaches_one(&self) -> Result<(), String> {
        let is_bound = |s: &&State| matches!(s.op, ReduceOp::Max | ReduceOp::Min);
        let proved = |bound: &State| {
            let draws: Vec<_> = (0..4 * DRAWS).filter_map(|d| self.at_bound(bound, d)).collect();
            draws.len() as u64 >= DRAWS / 4 && draws.iter().all(|x| near(*x, Value::Real(1.0), 1.0))
        };
        let positive = |draw: u64| {
            let known = self.earlier.iter().map(|s| (s.source, Value::Real(noise(draw, s.source)))).collect();
            let x = self.element(draw, known).value(self.state.body).real();
            x >= 0.0 || x.is_nan()
        };
        let sum = self.state.op == ReduceOp::Sum;
        let holds = sum && self.earlier.iter().filter(is_bound).any(proved) && (0..DRAWS).all(positive);
        if holds { Ok(()) } else { Err("is said to reach one and does not".into()) }
    }

    /// What an element contributes that attains a bound; none where it does not count.
    fn at_bound(&self, bound: &State, draw: u64) -> Option<Value> {
        let mut known = Known::default();
        for s in self.earlier {
            let met = self.element(draw, known.clone()).value(s.body);
            let value = if s.source == bound.source { met } else { Value::Real(noise(draw, s.source)) };
            known.insert(s.source, value);
        }
        known[&bound.source].real().is_finite().then(|| self.element(draw, known).value(self.state.body))
    }

    fn element(&self, draw: u64, known: Known) -> Element<'_> {
        Element { terms: self.terms, still: self.still, draw, step: None, known: RefCell::new(known) }
    }
}

pub(super) type Known = FxHashMap<TermId, Value>;

/// A step of the loop: what is no arithmetic is worth a number of its own.
struct Element<'a> {
    terms: &'a Terms,
    still: &'a [bool],
    draw: u64,
    /// Which of several steps of a loop over these axes; what does not run with them is the same at all.
    step: Option<(u64, &'a [AxisId])>,
    known: RefCell<Known>,
}

impl Element<'_> {
    fn value(&self, id: TermId) -> Value {
        if let Some(v) = self.known.borrow().get(&id) {
            return *v;
        }
        let folded = |op: ScalarOp, xs: &[TermId]| {
            xs[1..].iter().fold(self.value(xs[0]), |a, b| op.evaluate(&[a, self.value(*b)]))
        };
        let v = match self.terms.term(id) {
            Term::Const(l) => (*l).into(),
            Term::Sum(bound, xs) if bound.is_empty() => folded(ScalarOp::Mul, xs),
            Term::Plus(xs) => folded(ScalarOp::Add, xs),
            // A root or a reciprocal of what stays is a number that stays, and always defined.
            Term::Map(op, _) if op.signature() == Signature::Real && self.stays(id) => self.opaque(id),
            Term::Map(op, xs) => {
                let Ok(v) = op.try_applied(xs, |x| Ok::<_, Infallible>(self.value(*x)));
                v
            }
            Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Reduce(..)
            | Term::Index(..)
            | Term::Read(..)
            | Term::TopK(..) => self.opaque(id),
        };
        self.known.borrow_mut().insert(id, v);
        v
    }

    fn stays(&self, id: TermId) -> bool {
        self.still.get(id.0 as usize).is_some_and(|s| *s)
    }

    fn opaque(&self, id: TermId) -> Value {
        let looped = |(_, over): &(u64, &[AxisId])| over.iter().any(|a| self.terms.free(id).contains(*a));
        let step = self.step.filter(looped).map_or(0, |(step, _)| step);
        let x = noise(self.draw ^ (step << 32), id);
        match self.terms.info(id).ty {
            Type::Real => Value::Real(x),
            Type::Bool => Value::Bool(x > 0.0),
            Type::Int => {
                let (least, most) = self.terms.bounds(id).unwrap_or((0, 4));
                let wide = most.saturating_sub(least).clamp(0, 1 << 20) as f64;
                Value::Int(least.saturating_add(((x + 2.5) / 5.0 * (wide + 1.0)) as i64).min(most))
            }
        }
    }
}

/// A number in -2.5..-0.5 or 0.5..2.5 for a term and a draw.
fn noise(draw: u64, id: TermId) -> f64 {
    let mut h = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(id.0) + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 29;
    let x = (h >> 11) as f64 / (1u64 << 53) as f64;
    if h & 1 == 0 { 0.5 + 2.0 * x } else { -0.5 - 2.0 * x }
}

fn magnitude(v: Value) -> f64 {
    match v {
        Value::Real(x) if x.is_finite() => x.abs(),
        Value::Real(_) | Value::Int(_) | Value::Bool(_) => 1.0,
    }
}

/// Whether two values agree but for rounding among numbers of a size.
fn near(a: Value, b: Value, size: f64) -> bool {
    match (a, b) {
        (Value::Real(x), Value::Real(y)) => {
            x == y || (x - y).abs() <= 1e-7 * size.max(1e-3) || x.is_nan() && y.is_nan()
        }
        (a, b) => a == b,
    }
}
