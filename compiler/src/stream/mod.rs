//! Streams: reductions over one loop, tupled and repaired, so that one pass over the loop computes them all.
//!
//! What enters are reductions over the same axes, some of whose bodies read others of them; what leaves is a
//! [`Stream`]: a tuple of states, each with what is folded in and, where the body reads an earlier state, the factor
//! that corrects the running value when that state moves. The list of states is the certificate: each names the
//! reduction it computes, its body, its repair and the law; [`check`] evaluates it against the reductions' own
//! meaning. A body that does not separate is refused with a reason and takes a pass of its own.

pub mod check;
mod ratio;
mod separate;
#[cfg(test)]
mod tests;

pub use ratio::{RATIOS, Ratio};
pub use separate::{Moved, factors, holds};

use crate::alpha;
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::{ReduceOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};

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
    /// `H(new) / H(old)` for each of these: empty where nothing it depends on moves.
    pub repair: Vec<Moved>,
    /// Whether the sum is at least 1 as soon as a step contributes: one of its terms is `H(0)`. It is 0 otherwise.
    pub reaches_one: bool,
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

/// Tuples the reductions `targets`, and the earlier ones of the same loop that their bodies read, over the axes of the first.
///
/// # Panics
/// When a target is no reduction, or binds axes of other extents than the first.
pub fn derive(terms: &mut Terms, targets: &[TermId]) -> Stream {
    let first = loop_reduction(terms, targets[0]).expect("a stream's target is a reduction");
    let mut refused: Vec<Refused> = Vec::new();
    // A refusal takes a reduction out of the tuple for everybody, so it is known before any state is made.
    loop {
        let over = first.1.iter().collect();
        let mut pass = Derive { terms, stream: Stream { over, refused: refused.clone(), ..Stream::default() } };
        for target in targets {
            if !pass.banned(*target) {
                pass.state(*target);
            }
        }
        let stream = pass.stream;
        if stream.refused.len() == refused.len() {
            return stream;
        }
        refused = stream.refused;
    }
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
pub fn same_loop(terms: &Terms, a: &Axes, b: &Axes) -> bool {
    let extents = |x: &Axes| x.iter().map(|i| terms.axes[i].extent).collect::<Vec<Extent>>();
    extents(a) == extents(b)
}

struct Derive<'a> {
    terms: &'a mut Terms,
    stream: Stream,
}

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
        assert!(same_loop(self.terms, &bound, &self.over()), "stream: a target of another loop");
        let body = alpha::body(self.terms, reduction);
        let pairs: Vec<_> = bound.iter().zip(self.stream.over.iter().copied()).collect();
        let body = alpha::rename(self.terms, body, &pairs);
        let earlier = self.earlier(body);
        let repair = self.repair(op, body, &earlier, source);
        for e in &earlier {
            let at = self.state(*e);
            if !repair.is_empty() {
                self.stream.states[at].init = finite(self.stream.states[at].init);
            }
        }
        let init = floor.unwrap_or_else(|| op.identity(self.terms.info(body).ty));
        let over = self.over();
        let reaches_one = separate::reaches_one(self.terms, body, &over, &repair, &self.stream.states);
        self.stream.states.push(State { source, op, init, body, repair, reaches_one });
        self.stream.states.len() - 1
    }

    /// Reductions of the same loop that the body reads and that do not move with it, outermost ones only.
    fn earlier(&mut self, body: TermId) -> Vec<TermId> {
        let over = self.over();
        let mut found = Vec::new();
        let mut seen = vec![false; self.terms.len()];
        let mut stack = vec![body];
        while let Some(x) = stack.pop() {
            if std::mem::replace(&mut seen[x.0 as usize], true) {
                continue;
            }
            let free = self.terms.free(x).intersect(&over).is_empty();
            match loop_reduction(self.terms, x) {
                Some((_, bound, ..)) if free && same_loop(self.terms, &bound, &over) && !self.banned(x) => {
                    found.push(x)
                }
                // What another token computed is read from where it was stored.
                _ if matches!(self.terms.term(x), Term::Read(..)) => {}
                _ => stack.extend(self.terms.operands(x)),
            }
        }
        found.sort_unstable();
        found
    }

    /// The repair of a body under its earlier results; refuses all of them where there is none.
    fn repair(&mut self, op: ReduceOp, body: TermId, earlier: &[TermId], reader: TermId) -> Vec<Moved> {
        if earlier.is_empty() {
            return vec![];
        }
        let over = self.over();
        let found = if op == ReduceOp::Sum && self.terms.info(body).ty == Type::Real {
            separate::separate(self.terms, body, &over, earlier)
        } else {
            Err(format!("a running `{}` is repaired by no factor", op.keyword()))
        };
        match found {
            Ok(moved) => moved,
            Err(reason) => {
                for e in earlier {
                    self.stream.refused.push(Refused { earlier: *e, reader, reason: reason.clone() });
                }
                vec![]
            }
        }
    }
}

/// A bound that a repair takes differences of starts at a finite value.
fn finite(init: Value) -> Value {
    match init {
        Value::Real(x) if x.is_infinite() => Value::Real(FLOOR.copysign(x)),
        other => other,
    }
}
