//! What the e-graph joined, as terms: each join is a law between two of them.
//!
//! A class is shown as the node that first was in it; classes that are equal since are so by earlier joins.

use super::Optimized;
use super::node::{Algebra, Head, Node};
use crate::normal::{Term, TermId, Terms};
use crate::rules::Law;
use egg::Id;
use llmc_frontend::graph::{Axes, Place};

/// Two terms that a law joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The law.
    pub law: Law,
    /// What was there.
    pub before: TermId,
    /// What joined it.
    pub after: TermId,
    /// Where the text has it.
    pub place: Option<Place>,
}

/// Every class as a term.
pub(super) struct Witness<'a> {
    egraph: &'a Algebra,
    pub(super) terms: Terms,
    of: Vec<TermId>,
}

impl<'a> Witness<'a> {
    /// The first node of every class there ever was, as a term.
    pub(super) fn new(egraph: &'a Algebra) -> Witness<'a> {
        let mut all = Witness { egraph, terms: egraph.analysis.terms.clone(), of: Vec::new() };
        for node in egraph.nodes() {
            let term = all.node(node);
            all.of.push(term);
        }
        all
    }

    /// A class's term.
    pub(super) fn class(&self, id: Id) -> TermId {
        self.of[usize::from(id)]
    }

    /// A node over the terms of its children, by no law.
    pub(super) fn node(&mut self, node: &Node) -> TermId {
        let xs: Vec<TermId> = node.children.iter().map(|x| self.class(*x)).collect();
        let sorted = |mut xs: Vec<TermId>| {
            xs.sort_unstable();
            xs
        };
        let term = match &node.head {
            Head::Leaf(term) => term.clone(),
            Head::Product => Term::Sum(Axes::none(), sorted(xs)),
            Head::Sum(bound) => Term::Sum(bound.clone(), sorted(xs)),
            Head::Plus => Term::Plus(sorted(xs)),
            Head::Reduce(op, bound) => Term::Reduce(*op, bound.clone(), xs[0]),
            Head::Map(op) => Term::Map(*op, xs),
            Head::Index(read) => {
                let mut at: Vec<_> = read.iter().copied().zip(xs[1..].iter().copied()).collect();
                at.sort_unstable();
                Term::Index(xs[0], at)
            }
            Head::Read(s) => Term::Read(xs[0], *s),
            Head::TopK(axis, rank) => Term::TopK(*axis, *rank, xs[0]),
        };
        let of = self.egraph.lookup(node.clone()).map(usize::from).filter(|id| *id < self.of.len());
        let id = self.terms.add(term);
        if let Some(place) = of.and_then(|n| self.terms.info(self.of[n]).place) {
            self.terms.set_place(id, Some(place));
        }
        id
    }
}

impl Optimized {
    /// Every join of saturation, in order, and the arena of their terms.
    pub fn joins(&self) -> (Terms, Vec<Join>) {
        let mut all = Witness::new(&self.egraph);
        let mut joins = Vec::new();
        for (law, before, after) in &self.saturation.joins {
            let (before, after) = (all.node(before), all.node(after));
            let place = all.terms.place(before);
            joins.push(Join { law: *law, before, after, place });
        }
        (all.terms, joins)
    }
}

impl Optimized {
    /// For each class of the chosen form that a law made: the joins from the node of normal form to the chosen one.
    pub fn chosen_joins(&self) -> (Terms, Vec<Vec<Join>>) {
        let mut all = Witness::new(&self.egraph);
        let canonical = |node: &Node| {
            let mut node = node.clone();
            node.children.iter_mut().for_each(|x| *x = self.egraph.find(*x));
            node
        };
        let steps: Vec<_> =
            (self.saturation.joins.iter()).map(|(law, a, b)| (*law, canonical(a), canonical(b), a, b)).collect();
        let order = super::extract::order(&self.egraph, &self.choice, &self.classes).unwrap_or_default();
        let mut chains = Vec::new();
        for class in order {
            let mut chain = Vec::new();
            let mut node = canonical(&self.choice[&class]);
            // Every join is taken once, so that a chain ends.
            let mut left: Vec<_> = steps.iter().collect();
            while let Some(at) = left.iter().position(|(_, before, after, ..)| *after == node && *before != node) {
                let (law, before, _, a, b) = left.swap_remove(at);
                let (from, to) = (all.node(a), all.node(b));
                let place = all.terms.place(from);
                chain.push(Join { law: *law, before: from, after: to, place });
                node = before.clone();
            }
            chain.reverse();
            if !chain.is_empty() {
                chains.push(chain);
            }
        }
        (all.terms, chains)
    }
}
