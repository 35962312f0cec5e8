//! Terms back to a graph, so that the reference evaluator can say what an optimized form computes.

use super::text::reachable;
use super::{Term, TermId, Terms};
use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::{Axes, Graph, Node, Op};
use petgraph::graph::NodeIndex;

/// A graph over [`Terms::axes`] with the same params and weight slots, and the node of each root.
///
/// # Panics
/// When a term is [`Term::Stored`]: those have a meaning only beside the kernels that store them.
pub fn to_graph(terms: &Terms, roots: &[TermId]) -> (Graph, Vec<NodeIndex>) {
    let mut graph = Graph::default();
    let mut done: IndexMap<TermId, NodeIndex> = IndexMap::new();
    for id in reachable(terms, roots.iter().copied()) {
        let node = emit(terms, id, &mut graph, &done);
        done.insert(id, node);
    }
    let roots = roots.iter().map(|r| done[r]).collect();
    (graph, roots)
}

fn emit(terms: &Terms, id: TermId, graph: &mut Graph, done: &IndexMap<TermId, NodeIndex>) -> NodeIndex {
    let info = terms.info(id);
    let xs: Vec<_> = terms.operands(id).iter().map(|x| done[x]).collect();
    let leaf = |graph: &mut Graph, op: Op| add(graph, op, info.axes.clone(), info.ty, &[]);
    match terms.term(id) {
        Term::Const(l) => leaf(graph, Op::Const((*l).into())),
        Term::Iota(a) => leaf(graph, Op::Iota(*a)),
        Term::Length(s) => leaf(graph, Op::Length(*s)),
        Term::Param(n) => leaf(graph, Op::Param(*n)),
        Term::Weight(n) => leaf(graph, Op::Weight(*n)),
        Term::Stored(n) => panic!("to_graph: stored value {n} has no meaning in a graph"),
        Term::Sum(bound, _) => {
            let product = chain(graph, ScalarOp::Mul, &xs);
            if bound.is_empty() {
                return product;
            }
            add(graph, Op::Reduce(ReduceOp::Sum, bound.clone()), info.axes.clone(), info.ty, &[product])
        }
        Term::Plus(_) => chain(graph, ScalarOp::Add, &xs),
        Term::Reduce(op, bound, _) => add(graph, Op::Reduce(*op, bound.clone()), info.axes.clone(), info.ty, &xs),
        Term::Map(op, _) => add(graph, Op::Map(*op), info.axes.clone(), info.ty, &xs),
        Term::Index(_, at) => {
            let axes = at.iter().map(|(a, _)| *a).collect();
            add(graph, Op::Index(axes), info.axes.clone(), info.ty, &xs)
        }
        Term::Read(_, s) => {
            let view = add(graph, Op::Iota(*s), Axes::from_iter([*s]), Type::Int, &[]);
            add(graph, Op::Index(vec![terms.views[s]]), info.axes.clone(), info.ty, &[xs[0], view])
        }
        Term::TopK(axis, rank, _) => {
            let op = Op::TopK { axis: *axis, rank: *rank };
            add(graph, op, info.axes.clone(), info.ty, &xs)
        }
    }
}

/// A binary operation folded over two or more operands, or the one operand.
fn chain(graph: &mut Graph, op: ScalarOp, xs: &[NodeIndex]) -> NodeIndex {
    let mut result = xs[0];
    for x in &xs[1..] {
        let axes = graph[result].axes.union(&graph[*x].axes);
        let ty = graph[result].ty;
        result = add(graph, Op::Map(op), axes, ty, &[result, *x]);
    }
    result
}

fn add(graph: &mut Graph, op: Op, axes: Axes, ty: Type, operands: &[NodeIndex]) -> NodeIndex {
    graph.add(Node { op, axes, ty, name: None, span: None }, operands)
}
