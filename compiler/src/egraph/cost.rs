//! What an extracted form costs, before kernels are formed: arithmetic, and elements that must exist in memory.
//!
//! A first estimate that ranks algebraic alternatives; the stage that forms kernels costs them whole. One unit is a
//! multiplication. Tokens have representative lengths. What depends on weights alone is free at run time, but may not be
//! larger than the largest weight there is, nor de-quantise one.

use super::node::{Algebra, Fact, Head, Node};
use crate::normal::Term;
use egg::Id;
use indexmap::{IndexMap, IndexSet};
use llmc_frontend::graph::{Axes, AxisId, Extent};

/// Tokens of a prompt.
const PROMPT: f64 = 512.0;
/// Tokens that one token looks at.
const CONTEXT: f64 = 1024.0;
/// Multiplications in the time in which one element is written or read.
const PER_ELEMENT: f64 = 20.0;
/// An operation on a value that is in a register already: it hides behind the store.
const EPILOGUE: f64 = 0.25;
/// More than anything that may be chosen where there is a choice.
const FORBIDDEN: f64 = 1e18;

/// The number of points of some axes.
pub fn points(egraph: &Algebra, axes: &Axes) -> f64 {
    axes.iter().map(|a| length(egraph, a)).product()
}

fn length(egraph: &Algebra, axis: AxisId) -> f64 {
    match egraph.analysis.terms.axes[axis].extent {
        Extent::Const(n) => n as f64,
        Extent::Seq(_) => PROMPT,
        Extent::View(_) => CONTEXT,
    }
}

/// Prices nodes of one e-graph.
pub struct Prices {
    largest_weight: f64,
    /// For every class, what any of its forms is made of.
    below: IndexMap<Id, IndexSet<Id>>,
}

/// How a class is computed under a choice, where that is settled.
pub type Chosen<'a> = &'a dyn Fn(Id) -> Option<&'a Node>;

impl Prices {
    /// Prices for a block: its weights bound what may be made at load.
    pub fn new(egraph: &Algebra) -> Prices {
        let weights = &egraph.analysis.terms.weights;
        let largest_weight = weights.iter().map(|(axes, _)| points(egraph, axes)).fold(0.0, f64::max);
        Prices { largest_weight, below: egraph.classes().map(|c| (c.id, below(egraph, c.id))).collect() }
    }

    /// What a node costs beyond its children: a pointwise factor of a sum must be made before the sum starts, where
    /// anything else is there already.
    pub fn node(&self, egraph: &Algebra, class: Id, node: &Node, chosen: Chosen) -> f64 {
        let fact = &egraph[class].data;
        // Every node costs something, so that no choice can go round in a circle.
        let least = 1e-3 + 1e-6 * node.children.len() as f64;
        if fact.weight_only {
            return least + self.at_load(egraph, fact, node);
        }
        let size = points(egraph, &fact.axes);
        let elements = |bound: &Axes| points(egraph, &fact.axes.union(bound));
        least
            + match &node.head {
                Head::Leaf(_) | Head::Read(_) => 0.0,
                Head::Product | Head::Plus => pointwise(egraph, &fact.axes) * size * (node.children.len() as f64 - 1.0),
                Head::Map(_) | Head::Index(_) => pointwise(egraph, &fact.axes) * size,
                Head::Sum(bound) => {
                    let factors = node.children.len() as f64;
                    let prologues: f64 = node.children.iter().map(|x| self.prologue(egraph, *x, chosen)).sum();
                    elements(bound) * factors + stored(egraph, &fact.axes) + prologues
                }
                Head::Reduce(_, bound) => elements(bound),
                Head::TopK(axis, _) => elements(&Axes::from_iter([*axis])) * 4.0,
            }
    }

    /// A pointwise factor is written and read again, unless it is what becomes of a reduction before that is stored;
    /// where it waits for a reduction over itself, it takes another pass.
    fn prologue(&self, egraph: &Algebra, x: Id, chosen: Chosen) -> f64 {
        let x = egraph.find(x);
        let fact = &egraph[x].data;
        if fact.weight_only || !chosen(x).is_some_and(Node::is_pointwise) {
            return 0.0;
        }
        let mut wide = IndexSet::from([x]);
        let (mut narrow, mut ends_reduction, mut at) = (Vec::new(), false, 0);
        while at < wide.len() {
            let node = chosen(wide[at]).filter(|n| n.is_pointwise());
            at += 1;
            for y in node.iter().flat_map(|n| &n.children).map(|y| egraph.find(*y)) {
                let of = &egraph[y].data;
                if of.axes != fact.axes {
                    narrow.push(y);
                } else if wide.insert(y) {
                    ends_reduction |= chosen(y).is_some_and(|n| matches!(n.head, Head::Sum(_) | Head::Reduce(..)));
                }
            }
        }
        let waits = narrow.iter().any(|y| wide.iter().any(|w| self.below[y].contains(w)));
        let store = stored(egraph, &fact.axes);
        match (ends_reduction, waits) {
            (true, false) => 0.0,
            (false, false) => store,
            (_, true) => 2.0 * store,
        }
    }

    fn at_load(&self, egraph: &Algebra, fact: &Fact, node: &Node) -> f64 {
        let plain = match &node.head {
            Head::Leaf(_) => true,
            Head::Index(_) => {
                egraph[node.children[0]].nodes.iter().any(|n| matches!(n.head, Head::Leaf(Term::Weight(_))))
            }
            _ => false,
        };
        let rewritten = !plain && fact.quantised;
        let grown = !plain && points(egraph, &fact.axes) > self.largest_weight.max(65_536.0);
        if rewritten || grown { FORBIDDEN } else { 0.0 }
    }
}

/// Every class that some form of a class is made of.
fn below(egraph: &Algebra, class: Id) -> IndexSet<Id> {
    let mut seen = IndexSet::new();
    let mut stack = vec![class];
    while let Some(c) = stack.pop() {
        for x in egraph[c].nodes.iter().flat_map(|n| &n.children).map(|x| egraph.find(*x)) {
            if seen.insert(x) {
                stack.push(x);
            }
        }
    }
    seen
}

/// One pointwise operation: within a loop over pairs of tokens there is no store to hide behind.
fn pointwise(egraph: &Algebra, axes: &Axes) -> f64 {
    if of_pairs(egraph, axes) { 1.0 } else { EPILOGUE }
}

fn of_pairs(egraph: &Algebra, axes: &Axes) -> bool {
    axes.iter().filter(|a| egraph.analysis.terms.is_seq(*a)).count() > 1
}

/// Writing and reading a value once; pairs of tokens are never stored, they live within a loop.
fn stored(egraph: &Algebra, axes: &Axes) -> f64 {
    if of_pairs(egraph, axes) { 0.0 } else { points(egraph, axes) * PER_ELEMENT }
}
