//! Terms written by hand, for tests: the naive formulas of a small model, each node by its definition.

use crate::alpha;
use crate::normal::{Literal, Term, TermId, Terms};
use crate::stream::check::{Leaf, Meaning, Point};
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::HashMap;

/// A builder over an arena.
#[derive(Default)]
pub struct Fixture {
    pub terms: Terms,
}

impl Fixture {
    /// An axis of constant length.
    pub fn axis(&mut self, name: &str, len: u64) -> AxisId {
        self.terms.axes.push(name, Extent::Const(len))
    }
    /// A sequence and a view of it.
    pub fn seq(&mut self, name: &str, view: &str) -> (AxisId, AxisId) {
        let t = self.terms.axes.push(name, Extent::Seq(SeqId(0)));
        let s = self.terms.axes.push(view, Extent::View(SeqId(0)));
        self.terms.views.insert(s, t);
        (t, s)
    }
    /// A real parameter.
    pub fn param(&mut self, axes: &[AxisId]) -> TermId {
        self.terms.params.push((axes.iter().copied().collect(), Type::Real));
        let id = self.terms.params.len() as u32 - 1;
        self.terms.add(Term::Param(id))
    }
    /// A real weight slot.
    pub fn weight(&mut self, axes: &[AxisId]) -> TermId {
        self.terms.weights.push((axes.iter().copied().collect(), Type::Real));
        let id = self.terms.weights.len() as u32 - 1;
        self.terms.add(Term::Weight(id))
    }
    pub fn real(&mut self, x: f64) -> TermId {
        alpha::real(&mut self.terms, x)
    }
    pub fn int(&mut self, n: i64) -> TermId {
        self.terms.add(Term::Const(Literal::Int(n)))
    }
    pub fn iota(&mut self, a: AxisId) -> TermId {
        self.terms.add(Term::Iota(a))
    }
    pub fn map(&mut self, op: ScalarOp, xs: &[TermId]) -> TermId {
        self.terms.add(Term::Map(op, xs.to_vec()))
    }
    pub fn mul(&mut self, xs: &[TermId]) -> TermId {
        alpha::product(&mut self.terms, xs.iter().copied())
    }
    pub fn add(&mut self, xs: &[TermId]) -> TermId {
        alpha::plus(&mut self.terms, xs.iter().copied())
    }
    pub fn sub(&mut self, a: TermId, b: TermId) -> TermId {
        let b = alpha::negate(&mut self.terms, b);
        self.add(&[a, b])
    }
    pub fn div(&mut self, a: TermId, b: TermId) -> TermId {
        let b = self.map(ScalarOp::Recip, &[b]);
        self.mul(&[a, b])
    }
    /// A reduction that binds fresh axes, as the normal form demands.
    pub fn reduce(&mut self, op: ReduceOp, axes: &[AxisId], x: TermId) -> TermId {
        let mut pairs = Vec::new();
        for a in axes {
            let fresh = self.terms.axes.fresh(*a);
            if let Some(own) = self.terms.views.get(a).copied() {
                self.terms.views.insert(fresh, own);
            }
            pairs.push((*a, fresh));
        }
        let bound: Axes = pairs.iter().map(|(_, b)| *b).collect();
        let body = alpha::rename(&mut self.terms, x, &pairs);
        match op {
            ReduceOp::Sum => alpha::sum(&mut self.terms, bound, [body]),
            op => self.terms.add(Term::Reduce(op, bound, body)),
        }
    }
    pub fn total(&mut self, axes: &[AxisId], xs: &[TermId]) -> TermId {
        let x = self.mul(xs);
        self.reduce(ReduceOp::Sum, axes, x)
    }
    pub fn read(&mut self, x: TermId, view: AxisId) -> TermId {
        self.terms.add(Term::Read(x, view))
    }
    pub fn index(&mut self, x: TermId, at: &[(AxisId, TermId)]) -> TermId {
        alpha::substitute(&mut self.terms, x, at)
    }
    /// `where(seen, score, -inf)`.
    pub fn masked(&mut self, seen: TermId, score: TermId) -> TermId {
        let dead = self.real(f64::NEG_INFINITY);
        self.map(ScalarOp::Where, &[seen, score, dead])
    }
    /// The standard library's softmax over `s`.
    pub fn softmax(&mut self, x: TermId, s: AxisId) -> TermId {
        let (floor, one) = (self.real(-3e38), self.real(1.0));
        let top = self.reduce(ReduceOp::Max, &[s], x);
        let top = self.map(ScalarOp::Max, &[top, floor]);
        let shifted = self.sub(x, top);
        let z = self.map(ScalarOp::Exp, &[shifted]);
        let total = self.total(&[s], &[z]);
        let total = self.map(ScalarOp::Max, &[total, one]);
        self.div(z, total)
    }
    /// Canonical binders.
    pub fn canonical(&mut self, roots: &[TermId]) -> Vec<TermId> {
        let (terms, roots) = alpha::canonical(&self.terms, roots);
        self.terms = terms;
        roots
    }
}

/// A leaf whose elements are a fixed scramble of their place, in -1..1.
pub fn scrambled(leaf: Leaf, index: &[i64]) -> Value {
    let (kind, n) = match leaf {
        Leaf::Param(n) => (1, n),
        Leaf::Weight(n) => (2, n),
        Leaf::Stored(n) => (3, n),
    };
    let mut h = 0x9e37_79b9_7f4a_7c15u64 ^ (kind * 77 + n as u64);
    for i in index {
        h = (h ^ (*i as u64 + 1)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 29;
    }
    Value::Real((h >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
}

/// A term at every point of its free axes.
pub fn everywhere(meaning: &Meaning, id: TermId) -> Vec<f64> {
    let axes: Vec<_> = meaning.terms.free(id).iter().collect();
    meaning.points(&axes, &Point::new()).iter().map(|p| meaning.of(id, p, &HashMap::new()).real()).collect()
}

pub fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0) || (a.is_nan() && b.is_nan())
}
