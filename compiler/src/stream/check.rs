//! The checker of streams: a slow evaluator of terms, and of a stream as the fold it says it is.
//!
//! It shares nothing with the derivation. [`Meaning::of`] evaluates a term by its definition; [`Meaning::fold`] runs
//! the states block by block, in order, with their repairs.

use super::{State, Stream};
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::{ScalarOp, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::cell::RefCell;
use std::collections::HashMap;

/// A point: an index for each axis in scope.
pub type Point = HashMap<AxisId, i64>;

/// What earlier states are taken to be worth.
pub type Known = HashMap<TermId, Value>;

/// Which leaf is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// A parameter of the block.
    Param(u32),
    /// A weight slot.
    Weight(u32),
    /// A stored value.
    Stored(u32),
}

/// What terms mean under given leaves and token counts.
pub struct Meaning<'a> {
    /// The arena.
    pub terms: &'a Terms,
    /// Tokens of every sequence.
    pub tokens: u64,
    /// A leaf's element at an index for each of its axes, ascending.
    pub leaf: &'a dyn Fn(Leaf, &[i64]) -> Value,
    /// Values at points of a term's free axes, where nothing was given as known.
    memo: RefCell<HashMap<(TermId, Vec<i64>), Value>>,
}

impl<'a> Meaning<'a> {
    /// Nothing evaluated yet.
    pub fn new(terms: &'a Terms, tokens: u64, leaf: &'a dyn Fn(Leaf, &[i64]) -> Value) -> Meaning<'a> {
        Meaning { terms, tokens, leaf, memo: RefCell::default() }
    }

    /// The number of indices of an axis.
    pub fn len(&self, axis: AxisId) -> i64 {
        match self.terms.axes[axis].extent {
            Extent::Const(n) => n as i64,
            Extent::Seq(_) | Extent::View(_) => self.tokens as i64,
        }
    }

    /// Every point over `axes`, the last axis fastest, on top of `at`.
    pub fn points(&self, axes: &[AxisId], at: &Point) -> Vec<Point> {
        let mut all = vec![at.clone()];
        for a in axes {
            let longer = |p: &Point| (0..self.len(*a)).map(|i| with(p, *a, i)).collect::<Vec<_>>();
            all = all.iter().flat_map(longer).collect();
        }
        all
    }

    /// A term's value at a point, where `known` terms have the given values.
    pub fn of(&self, id: TermId, at: &Point, known: &Known) -> Value {
        if !known.is_empty() {
            return known.get(&id).copied().unwrap_or_else(|| self.evaluate(id, at, known));
        }
        let key = (id, self.terms.free(id).iter().map(|a| at[&a]).collect());
        if let Some(v) = self.memo.borrow().get(&key) {
            return *v;
        }
        let v = self.evaluate(id, at, known);
        self.memo.borrow_mut().insert(key, v);
        v
    }

    fn evaluate(&self, id: TermId, at: &Point, known: &Known) -> Value {
        let each = |xs: &[TermId]| xs.iter().map(|x| self.of(*x, at, known)).collect::<Vec<_>>();
        match self.terms.term(id) {
            Term::Const(l) => (*l).into(),
            Term::Iota(a) => Value::Int(at[a]),
            Term::Length(_) => Value::Int(self.tokens as i64),
            Term::Param(n) => self.leaf(Leaf::Param(*n), id, at),
            Term::Weight(n) => self.leaf(Leaf::Weight(*n), id, at),
            Term::Stored(n) => self.leaf(Leaf::Stored(*n), id, at),
            Term::Sum(bound, xs) if bound.is_empty() => chain(ScalarOp::Mul, &each(xs)),
            Term::Sum(bound, xs) => self.reduce(ScalarOp::Add, bound, at, |p| {
                chain(ScalarOp::Mul, &xs.iter().map(|x| self.of(*x, p, known)).collect::<Vec<_>>())
            }),
            Term::Plus(xs) => chain(ScalarOp::Add, &each(xs)),
            Term::Reduce(op, bound, x) => self.reduce(op.combine(), bound, at, |p| self.of(*x, p, known)),
            Term::Map(op, xs) => op.evaluate(&each(xs)),
            Term::Index(x, pairs) => {
                let moved = pairs.iter().map(|(a, i)| (*a, index(self.of(*i, at, known))));
                let mut point = at.clone();
                point.extend(moved.collect::<Vec<_>>());
                self.of(*x, &point, known)
            }
            Term::Read(x, view) => self.of(*x, &with(at, self.terms.views[view], at[view]), known),
            Term::TopK(axis, rank, x) => {
                let mut order: Vec<_> =
                    (0..self.len(*axis)).map(|i| (self.of(*x, &with(at, *axis, i), known).real(), i)).collect();
                order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                Value::Int(order[at[rank] as usize].1)
            }
        }
    }

    fn leaf(&self, leaf: Leaf, id: TermId, at: &Point) -> Value {
        let index: Vec<_> = self.terms.free(id).iter().map(|a| at[&a]).collect();
        (self.leaf)(leaf, &index)
    }

    fn reduce(&self, op: ScalarOp, bound: &Axes, at: &Point, body: impl Fn(&Point) -> Value) -> Value {
        let values: Vec<_> = self.points(bound.iter().collect::<Vec<_>>().as_slice(), at).iter().map(body).collect();
        chain(op, &values)
    }

    /// Runs a stream at one point of all axes its states have free, cutting the loop after each of `cuts` steps.
    /// Returns every source's value.
    pub fn fold(&self, stream: &Stream, at: &Point, cuts: &[usize]) -> Known {
        let steps = self.points(&stream.over, at);
        self.fold_steps(stream, at, &steps, cuts)
    }

    /// As above, over some of the steps.
    pub fn fold_steps(&self, stream: &Stream, at: &Point, steps: &[Point], cuts: &[usize]) -> Known {
        let mut running: Known = stream.states.iter().map(|s| (s.source, s.init)).collect();
        let mut begin = 0;
        for end in cuts.iter().copied().chain([steps.len()]) {
            let old = running.clone();
            for state in &stream.states {
                let mut value = self.repaired(state, at, &old, &running);
                // What refused reductions found comes from their own pass: their definition.
                for step in &steps[begin..end] {
                    let new = self.of(state.body, step, &running);
                    value = state.op.combine().evaluate(&[value, new]);
                }
                running.insert(state.source, value);
            }
            begin = end;
        }
        running
    }

    /// The tuple of states as a monoid: what two folds over steps that have none in common make together. Each side is
    /// repaired from its own earlier results to the joined ones, as if those had moved there; nothing else is needed.
    pub fn combine(&self, stream: &Stream, at: &Point, a: &Known, b: &Known) -> Known {
        let mut joined = Known::new();
        for state in &stream.states {
            let sides = [a, b].map(|side| self.repaired(state, at, side, &joined));
            joined.insert(state.source, state.op.combine().evaluate(&sides));
        }
        joined
    }

    /// A state's old value, brought up to what earlier states are now.
    fn repaired(&self, state: &State, at: &Point, old: &Known, new: &Known) -> Value {
        let distance = |y: TermId| self.of(y, at, new).real() - self.of(y, at, old).real();
        if state.repair.anew.iter().any(|y| self.of(*y, at, new) != self.of(*y, at, old)) {
            return state.init;
        }
        let mut value = old[&state.source];
        for shift in &state.repair.shifts {
            let of = old[&shift.of].real();
            let by: f64 = shift.by.iter().map(|y| distance(*y)).product();
            let moved = if of == 0.0 { 0.0 } else { shift.factor * of * by };
            value = ScalarOp::Add.evaluate(&[value, Value::Real(moved)]);
        }
        for scale in &state.repair.scales {
            let ratio = scale.op.evaluate(&[Value::Real(distance(scale.by))]);
            value = ScalarOp::Mul.evaluate(&[value, ratio]);
        }
        value
    }
}

fn chain(op: ScalarOp, values: &[Value]) -> Value {
    values[1..].iter().fold(values[0], |a, b| op.evaluate(&[a, *b]))
}

fn with(at: &Point, axis: AxisId, index: i64) -> Point {
    let mut p = at.clone();
    p.insert(axis, index);
    p
}

fn index(v: Value) -> i64 {
    match v {
        Value::Int(n) => n,
        other => panic!("check: an index is {other:?}"),
    }
}
