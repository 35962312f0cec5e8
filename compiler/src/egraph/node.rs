//! The e-graph's language: n-ary sum-products, and what is known of every class.

use crate::normal::bounds::{Bounds, of_operation};
use crate::normal::{Literal, Term, TermId, Terms};
use egg::{Analysis, DidMerge, EGraph, Id, Language};
use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::{Axes, AxisId};

/// What a node does with its children.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Head {
    /// A term without operands.
    Leaf(Term),
    /// The product of the children, sorted.
    Product,
    /// The sum over some axes of the product of the children, sorted. At least one axis.
    Sum(Axes),
    /// The sum of the children, sorted.
    Plus,
    /// Another reduction.
    Reduce(ReduceOp, Axes),
    /// Another pointwise operation.
    Map(ScalarOp),
    /// The first child read at the others.
    Index(Vec<AxisId>),
    /// Another token's value.
    Read(AxisId),
    /// A search.
    TopK(AxisId, AxisId),
}

/// A node: [`crate::normal::Term`] over classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// What it does.
    pub head: Head,
    /// With what.
    pub children: Vec<Id>,
}

impl Language for Node {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head.clone()
    }
    fn matches(&self, other: &Node) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }
    fn children(&self) -> &[Id] {
        &self.children
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl Node {
    /// Whether it computes each element from the same element of its children.
    pub fn is_pointwise(&self) -> bool {
        match self.head {
            Head::Product | Head::Plus | Head::Map(_) => true,
            Head::Leaf(_) | Head::Sum(_) | Head::Reduce(..) | Head::Index(_) | Head::Read(_) | Head::TopK(..) => false,
        }
    }
}

/// What is known of a class: the same of all its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Free axes.
    pub axes: Axes,
    /// Type.
    pub ty: Type,
    /// Whether it is computed once, at load.
    pub weight_only: bool,
    /// Whether a quantised weight takes part in it.
    pub quantised: bool,
    /// What an int lies within, whatever the inputs.
    pub bounds: Option<Bounds>,
}

/// Derives the facts; also the source of every extent.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The terms the e-graph was made from: axes, params and weights.
    pub terms: Terms,
    /// For every weight slot, whether its format is quantised.
    pub quantised: Vec<bool>,
}

/// The e-graph of a block.
pub type Algebra = EGraph<Node, Facts>;

impl Analysis<Node> for Facts {
    type Data = Fact;

    fn make(egraph: &mut Algebra, node: &Node, _: Id) -> Fact {
        let terms = &egraph.analysis.terms;
        let of = |x: Id| &egraph[x].data;
        let union = |xs: &[Id]| xs.iter().fold(Axes::none(), |a, x| a.union(&of(*x).axes));
        let xs = &node.children;
        let all = union(xs);
        let quantised = xs.iter().any(|x| of(*x).quantised);
        let pure = xs.iter().all(|x| of(*x).weight_only);
        let with = |axes: Axes, ty: Type| Fact { axes, ty, weight_only: pure, quantised, bounds: None };
        let closed = |bound: &Axes, ty: Type| Fact {
            weight_only: pure && !bound.iter().any(|a| terms.is_seq(a)),
            ..with(all.minus(bound), ty)
        };
        match &node.head {
            Head::Leaf(term) => leaf(terms, &egraph.analysis.quantised, term),
            Head::Product | Head::Plus => with(all, Type::Real),
            Head::Sum(bound) => closed(bound, of(xs[0]).ty),
            Head::Reduce(_, bound) => closed(bound, of(xs[0]).ty),
            Head::Map(op) => {
                let types: Vec<_> = xs.iter().map(|x| of(*x).ty).collect();
                let ty = result_type(*op, &types);
                let bounds = if ty == Type::Int { of_operation(*op, |i| of(xs[i]).bounds) } else { None };
                Fact { bounds, ..with(all, ty) }
            }
            Head::Index(read) => {
                let read: Axes = read.iter().copied().collect();
                let axes = of(xs[0]).axes.minus(&read).union(&union(&xs[1..]));
                Fact { bounds: of(xs[0]).bounds, ..with(axes, of(xs[0]).ty) }
            }
            Head::Read(s) => {
                let own = Axes::from_iter([terms.views[s]]);
                let axes = all.minus(&own).union(&Axes::from_iter([*s]));
                Fact { weight_only: false, bounds: of(xs[0]).bounds, ..with(axes, of(xs[0]).ty) }
            }
            Head::TopK(axis, rank) => {
                let axes = all.minus(&Axes::from_iter([*axis])).union(&Axes::from_iter([*rank]));
                Fact { bounds: within(terms, *axis), ..with(axes, Type::Int) }
            }
        }
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        assert_eq!(a.axes, b.axes, "e-graph: a law joined terms of different axes");
        let before = a.clone();
        a.weight_only |= b.weight_only;
        a.quantised &= b.quantised;
        a.bounds = match (a.bounds, b.bounds) {
            (Some((low, high)), Some((l, h))) => Some((low.max(l), high.min(h))),
            (one, other) => one.or(other),
        };
        DidMerge(*a != before, *a != b)
    }
}

fn leaf(terms: &Terms, quantised: &[bool], term: &Term) -> Fact {
    let (axes, ty, weight_only) = match term {
        Term::Param(n) => (terms.params[*n as usize].0.clone(), terms.params[*n as usize].1, false),
        Term::Weight(n) => (terms.weights[*n as usize].0.clone(), terms.weights[*n as usize].1, true),
        Term::Stored(n) => (terms.stored[*n as usize].0.clone(), terms.stored[*n as usize].1, false),
        Term::Const(l) => (Axes::none(), llmc_artifact::Value::from(*l).ty(), true),
        Term::Iota(a) => (Axes::from_iter([*a]), Type::Int, !terms.is_seq(*a)),
        Term::Length(_) => (Axes::none(), Type::Int, false),
        other => panic!("e-graph: {other:?} is no leaf"),
    };
    let quantised = matches!(term, Term::Weight(n) if quantised.get(*n as usize).copied().unwrap_or(false));
    let bounds = match term {
        Term::Const(Literal::Int(n)) => Some((*n, *n)),
        Term::Iota(a) => within(terms, *a),
        _ => None,
    };
    Fact { axes, ty, weight_only, quantised, bounds }
}

/// What an index along an axis lies within.
fn within(terms: &Terms, axis: AxisId) -> Option<Bounds> {
    terms.axes.len_of(axis).map(|n| (0, n as i64 - 1))
}

/// The type of an operation's result, from its operands' types.
fn result_type(op: ScalarOp, xs: &[Type]) -> Type {
    use llmc_artifact::scalar::Signature;
    match op.signature() {
        Signature::Num => xs[0],
        Signature::Real | Signature::Convert => Type::Real,
        Signature::Int | Signature::Round => Type::Int,
        Signature::Compare | Signature::Logic => Type::Bool,
        Signature::Select => xs[1],
    }
}

/// Adds a term and everything below it.
pub fn insert(egraph: &mut Algebra, terms: &Terms, id: TermId, done: &mut IndexMap<TermId, Id>) -> Id {
    for x in crate::normal::text::reachable(terms, [id]) {
        if done.contains_key(&x) {
            continue;
        }
        let children: Vec<Id> = terms.operands(x).iter().map(|y| done[y]).collect();
        let head = match terms.term(x) {
            Term::Sum(bound, _) if bound.is_empty() => Head::Product,
            Term::Sum(bound, _) => Head::Sum(bound.clone()),
            Term::Plus(_) => Head::Plus,
            Term::Reduce(op, bound, _) => Head::Reduce(*op, bound.clone()),
            Term::Map(op, _) => Head::Map(*op),
            Term::Index(_, at) => Head::Index(at.iter().map(|(a, _)| *a).collect()),
            Term::Read(_, s) => Head::Read(*s),
            Term::TopK(axis, rank, _) => Head::TopK(*axis, *rank),
            leaf @ (Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)) => Head::Leaf(leaf.clone()),
        };
        let class = add(egraph, head, children);
        done.insert(x, class);
    }
    done[&id]
}

/// Adds a node, the children of a multiset in canonical order.
pub fn add(egraph: &mut Algebra, head: Head, mut children: Vec<Id>) -> Id {
    for x in &mut children {
        *x = egraph.find(*x);
    }
    if matches!(head, Head::Product | Head::Sum(_) | Head::Plus) {
        children.sort_unstable();
    }
    egraph.add(Node { head, children })
}
