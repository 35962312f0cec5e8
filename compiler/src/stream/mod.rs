//! Streams: reductions over one loop, tupled and repaired, so that one pass over the loop computes them all.
//!
//! What enters are reductions over the same axes, some of whose bodies read others of them; what leaves is a
//! [`Stream`]: a tuple of states, each with what is folded in and, where the body reads an earlier state, the factor
//! that corrects the running value when that state moves. The list of states is the certificate: each names the
//! reduction it computes, its body and its repair; [`verify`] holds it to the reductions' own meaning before any kernel is
//! lowered from it. Most streams are of forms that are not chosen: those are verified in debug builds alone.
//! A body that does not separate is refused with a reason and takes a pass of its own.
//!
//! | an earlier result is read | the running value |
//! |---|---|
//! | in `H(x + y)`, H a ratio homomorphism | is multiplied by `H(new - old)` |
//! | in factors `x + c * y` | is added the rest of Taylor's formula, whose sums of lower degree are states too |
//! | as a running bound that decides what counts | is kept while the bound stays, and begins anew when it moves |

pub mod check;
mod ratio;
mod restart;
mod separate;
#[cfg(test)]
mod tests;
pub mod verify;

pub use ratio::{RATIOS, Ratio};
use separate::factors;
pub use separate::{Moved, holds};

use crate::alpha;
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::HashMap;

/// The largest magnitude at which a running bound starts, so that the difference of two bounds is never that of
/// infinities. No f32 score lies between it and infinity but the largest one in eight.
pub const FLOOR: f64 = 3e38;

/// One component of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// What it holds at the loop's end: a reduction, or one joined with a constant by its own operation.
    pub source: TermId,
    /// How values are folded in.
    pub op: ReduceOp,
    /// Before the first step.
    pub init: Value,
    /// What is folded in at each step, over [`Stream::over`]; it holds earlier sources as subterms.
    pub body: TermId,
    /// What becomes of the running value when earlier states move.
    pub repair: Repair,
    /// Whether the sum is at least 1 as soon as a step contributes: one of its terms is `H(0)`. It is 0 otherwise.
    pub reaches_one: bool,
}

/// How a running value follows the earlier states that its body reads. In this order: it begins anew, shifts are added,
/// and it is scaled. Empty where nothing that it depends on moves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repair {
    /// Running bounds: when one moves, nothing that was folded counts any more.
    pub anew: Vec<TermId>,
    /// Terms of Taylor's formula.
    pub shifts: Vec<Shift>,
    /// `H(new) / H(old)` for each of these.
    pub scales: Vec<Moved>,
}

/// `factor * (new - old of each y) * old of a state`; nothing where that state is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Shift {
    /// A number.
    pub factor: f64,
    /// What moved, each as often as its distance is multiplied: terms free of the folded axes.
    pub by: Vec<TermId>,
    /// The source of the state, a sum of lower degree.
    pub of: TermId,
}

impl Repair {
    /// Whether the running value stays as it is.
    pub fn is_empty(&self) -> bool {
        self.anew.is_empty() && self.shifts.is_empty() && self.scales.is_empty()
    }

    /// Every term that is evaluated before and after a block.
    pub fn moving(&self) -> impl Iterator<Item = TermId> + '_ {
        let shifts = self.shifts.iter().flat_map(|s| s.by.iter().copied());
        self.anew.iter().copied().chain(shifts).chain(self.scales.iter().map(|m| m.by))
    }

    /// The same, to be replaced.
    pub fn moving_mut(&mut self) -> impl Iterator<Item = &mut TermId> + '_ {
        let shifts = self.shifts.iter_mut().flat_map(|s| &mut s.by);
        self.anew.iter_mut().chain(shifts).chain(self.scales.iter_mut().map(|m| &mut m.by))
    }
}

/// Reductions over one loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    /// The folded axes, bound by every state.
    pub over: Vec<AxisId>,
    /// Earlier states first.
    pub states: Vec<State>,
    /// Reductions over the same loop that a state could not be repaired for: they take a pass before this one.
    pub refused: Vec<Refused>,
}

/// Why a reduction's earlier result is not streamed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The earlier reduction.
    pub earlier: TermId,
    /// The reduction whose body reads it.
    pub reader: TermId,
    /// Why.
    pub reason: String,
}

impl Stream {
    /// The state that computes a term.
    pub fn state_of(&self, source: TermId) -> Option<usize> {
        self.states.iter().position(|s| s.source == source)
    }
}

/// Tuples the reductions `targets`, and the earlier ones of the same loop that their bodies read, over one loop's axes:
/// the same for every stream over such a loop, so that streams can be joined.
///
/// # Panics
/// When a target is no reduction, or binds axes of other extents than the first.
pub fn derive(terms: &mut Terms, targets: &[TermId]) -> Stream {
    let first = loop_reduction(terms, targets[0]).expect("a stream's target is a reduction");
    let mut refused: Vec<Refused> = Vec::new();
    // A refusal takes a reduction out of the tuple for everybody, so it is known before any state is made.
    loop {
        let over = loop_axes(terms, &first.1);
        let mut pass =
            Derive { terms, stream: Stream { over, refused: refused.clone(), ..Stream::default() }, nested: 0 };
        for target in targets {
            if !pass.banned(*target) {
                pass.state(*target);
            }
        }
        let stream = pass.stream;
        if stream.refused.len() == refused.len() {
            if cfg!(debug_assertions) {
                verified(terms, &stream);
            }
            return stream;
        }
        refused = stream.refused;
    }
}

/// Holds a stream to what its reductions mean.
///
/// # Panics
/// When the derivation made a wrong one.
pub fn verified(terms: &mut Terms, stream: &Stream) {
    verify::verify(terms, stream).unwrap_or_else(|fault| panic!("stream: {fault}"));
}

/// The axes of a loop like this one, which no reduction binds.
fn loop_axes(terms: &mut Terms, bound: &Axes) -> Vec<AxisId> {
    let origins: Vec<_> = bound.iter().map(|a| alpha::origin(terms, a)).collect();
    let distinct = origins.iter().enumerate().all(|(i, a)| !origins[..i].contains(a));
    if !distinct {
        return bound.iter().collect();
    }
    let viewed = |terms: &Terms, own: AxisId| {
        let known = |(a, (_, level)): (&AxisId, &(AxisId, u32))| {
            (*level == 0 && terms.axes[*a].extent == terms.axes[own].extent).then_some(*a)
        };
        if terms.is_seq(own) { terms.binders.iter().find_map(known) } else { None }
    };
    origins.into_iter().map(|own| viewed(terms, own).unwrap_or_else(|| terms.binder(own, 0))).collect()
}

/// The reduction behind a possible state: the term itself, or what it joins with a constant.
fn loop_reduction(terms: &Terms, id: TermId) -> Option<(ReduceOp, Axes, TermId, Option<Value>)> {
    if let Some((op, bound)) = alpha::reduction(terms, id) {
        return Some((op, bound, id, None));
    }
    let Term::Map(join, xs) = terms.term(id) else { return None };
    let [a, b] = xs[..] else { return None };
    let (inner, constant) = match (terms.term(a), terms.term(b)) {
        (_, Term::Const(c)) => (a, Value::from(*c)),
        (Term::Const(c), _) => (b, Value::from(*c)),
        _ => return None,
    };
    let (op, bound) = alpha::reduction(terms, inner)?;
    (op.combine() == *join && op != ReduceOp::Sum).then_some((op, bound, inner, Some(constant)))
}

/// The reduction behind what can be a state: the term itself, or what it joins with a constant by the reduction's own
/// operation.
pub fn behind(terms: &Terms, id: TermId) -> Option<TermId> {
    loop_reduction(terms, id).map(|(_, _, reduction, _)| reduction)
}

/// Whether axes can be one loop: the same extents in the same order.
pub fn same_loop(terms: &Terms, a: &[AxisId], b: &[AxisId]) -> bool {
    let extents = |x: &[AxisId]| x.iter().map(|i| terms.axes[*i].extent).collect::<Vec<Extent>>();
    extents(a) == extents(b)
}

struct Derive<'a> {
    terms: &'a mut Terms,
    stream: Stream,
    /// Repairs that wait for the sums they multiply.
    nested: u32,
}

/// Repairs within repairs, at most: a moment of a polynomial has one of lower degree.
const DEEPEST: u32 = 8;

impl Derive<'_> {
    fn banned(&self, id: TermId) -> bool {
        self.stream.refused.iter().any(|r| r.earlier == id)
    }

    fn over(&self) -> Axes {
        self.stream.over.iter().copied().collect()
    }

    /// Makes the state that computes `source`, after those it depends on.
    fn state(&mut self, source: TermId) -> usize {
        if let Some(found) = self.stream.state_of(source) {
            return found;
        }
        let (op, bound, reduction, floor) =
            loop_reduction(self.terms, source).expect("a state's source is a reduction");
        assert!(same_loop(self.terms, bound.as_slice(), &self.stream.over), "stream: a target of another loop");
        let body = alpha::body(self.terms, reduction);
        let pairs: Vec<_> = bound.iter().zip(self.stream.over.iter().copied()).collect();
        let body = alpha::rename(self.terms, body, &pairs);
        let init = floor.unwrap_or_else(|| op.identity(self.terms.info(body).ty));
        let mut state = State { source, op, init, body, repair: Repair::default(), reaches_one: false };
        let earlier = self.earlier(body);
        earlier.iter().for_each(|e| _ = self.state(*e));
        if let Err(reason) = self.repair(&mut state, &earlier) {
            let refuse = |e: &TermId| Refused { earlier: *e, reader: source, reason: reason.clone() };
            self.stream.refused.extend(earlier.iter().map(refuse));
        }
        let over = self.over();
        state.reaches_one =
            separate::reaches_one(self.terms, state.body, &over, &state.repair.scales, &self.stream.states);
        self.stream.states.push(state);
        self.stream.states.len() - 1
    }

    /// Reductions of the same loop that the body reads and that do not move with it, outermost ones only. What is the
    /// same for every token is none: it is found once, not in every token's loop.
    fn earlier(&mut self, body: TermId) -> Vec<TermId> {
        let over = self.over();
        let rows: Axes = self.terms.free(body).minus(&over).iter().filter(|a| self.terms.is_seq(*a)).collect();
        let mut found = Vec::new();
        let mut seen = vec![false; self.terms.len()];
        let mut stack = vec![body];
        while let Some(x) = stack.pop() {
            if std::mem::replace(&mut seen[x.0 as usize], true) {
                continue;
            }
            let free = self.terms.free(x);
            let own = rows.is_subset(free) || self.stream.state_of(x).is_some();
            let still = free.intersect(&over).is_empty() && !self.banned(x);
            match loop_reduction(self.terms, x) {
                Some((_, bound, ..)) if own && still && same_loop(self.terms, bound.as_slice(), &self.stream.over) => {
                    found.push(x);
                }
                // What another token computed is read from where it was stored.
                _ if matches!(self.terms.term(x), Term::Read(..)) => {}
                _ => stack.extend(self.terms.operands(x)),
            }
        }
        found.sort_unstable();
        found
    }

    /// Repairs a state under the earlier results that its body reads.
    fn repair(&mut self, state: &mut State, earlier: &[TermId]) -> Result<(), String> {
        let mut moving = earlier.to_vec();
        for e in earlier {
            let bound = &self.stream.states[self.stream.state_of(*e).expect("made before")];
            if let Some(init) = restart::begins_anew(self.terms, state.op, state.body, bound) {
                state.init = init;
                state.repair.anew.push(*e);
                moving.retain(|m| m != e);
            }
        }
        if moving.is_empty() {
            return Ok(());
        }
        if state.op != ReduceOp::Sum || self.terms.info(state.body).ty != Type::Real {
            let op = state.op.keyword();
            return Err(format!(
                "a running `{op}` follows an earlier result only where that decides what counts at all"
            ));
        }
        self.repair_sum(state, &moving)
    }

    /// Factors for powers, terms of Taylor's formula for polynomials.
    fn repair_sum(&mut self, state: &mut State, moving: &[TermId]) -> Result<(), String> {
        if self.nested == DEEPEST {
            return Err("its repair needs sums that need repairs themselves, and so on".to_owned());
        }
        let over = self.over();
        let mut parts = separate::separate(self.terms, state.body, &over, moving)?;
        self.nested += 1;
        if !parts.affine.is_empty() {
            self.project(&mut parts, moving);
            state.body = parts.body(self.terms);
        }
        for taylor in parts.taylor(self.terms) {
            let of = self.moment(&taylor.body);
            state.repair.shifts.push(Shift { factor: taylor.factor, by: taylor.by, of });
        }
        for bound in moving.iter().copied().filter(|m| parts.scales.iter().any(|s| holds(self.terms, s.by, &[*m]))) {
            let at = self.stream.state_of(bound).expect("made before");
            self.stream.states[at].init = finite(self.stream.states[at].init);
        }
        state.repair.scales = parts.scales;
        self.nested -= 1;
        Ok(())
    }

    /// A sum of the loop that a repair multiplies: a state of its own, unless one folds in the same.
    fn moment(&mut self, factors: &[TermId]) -> TermId {
        let body = alpha::product(self.terms, factors.iter().copied());
        let same = |s: &&State| s.op == ReduceOp::Sum && s.body == body;
        if let Some(state) = self.stream.states.iter().find(same) {
            return state.source;
        }
        let over = self.over();
        let source = alpha::sum(self.terms, over, factors.iter().copied());
        self.state(source);
        source
    }

    /// What an earlier sum over a loop of known length is expected to become: itself, times the whole length over the
    /// steps so far. At the end it is the sum itself; on the way it moves little, so that a spread around a mean is
    /// taken around the mean of what was seen (Welford 1962; Chan, Golub and LeVeque 1983).
    fn project(&mut self, parts: &mut separate::Separated, moving: &[TermId]) {
        let lengths: Option<Vec<u64>> = self.stream.over.iter().map(|a| self.terms.axes.len_of(*a)).collect();
        let Some(length) = lengths.map(|l| l.iter().product::<u64>()) else { return };
        let count = self.moment(&[]);
        let whole = alpha::real(self.terms, length as f64);
        let part = self.terms.add(Term::Map(ScalarOp::Recip, vec![count]));
        let sums = moving.iter().copied().filter(|m| {
            let state = &self.stream.states[self.stream.state_of(*m).expect("made before")];
            state.op == ReduceOp::Sum && *m != count
        });
        let sums: Vec<_> = sums.collect();
        let by: HashMap<_, _> = sums.iter().map(|s| (*s, alpha::product(self.terms, [*s, whole, part]))).collect();
        for (_, y) in parts.affine.iter_mut().flat_map(|a| &mut a.moving) {
            if !holds(self.terms, *y, &[count]) {
                *y = alpha::replace(self.terms, *y, &by);
                *y = one_number(self.terms, *y);
            }
        }
    }
}

/// A product with its literals multiplied.
fn one_number(terms: &mut Terms, id: TermId) -> TermId {
    let (numbers, rest): (Vec<_>, Vec<_>) =
        factors(terms, id).into_iter().partition(|f| alpha::as_real(terms, *f).is_some());
    let number: f64 = numbers.iter().filter_map(|f| alpha::as_real(terms, *f)).product();
    // The reciprocal of a length, times the length, is one but for its own rounding.
    let whole = if (number - number.round()).abs() < 1e-12 { number.round() } else { number };
    let number = alpha::real(terms, whole);
    alpha::product(terms, rest.into_iter().chain([number]))
}

/// A bound that a repair takes differences of starts at a finite value.
fn finite(init: Value) -> Value {
    match init {
        Value::Real(x) if x.is_infinite() => Value::Real(FLOOR.copysign(x)),
        other => other,
    }
}
