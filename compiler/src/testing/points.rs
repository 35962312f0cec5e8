//! A graph's value, one point at a time: what the nodes mean, and nothing else.

use super::draft::Draft;
use crate::normal::to_graph::to_graph;
use crate::normal::{TermId, Terms};
use llmc_artifact::{ReduceOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable, Extent, Graph, Op};
use llmc_frontend::reference::{Tensor, evaluate_graph};
use petgraph::graph::NodeIndex;
use std::collections::HashMap;

/// Values of params and weights, by kind, number and indices along the axes in ascending order.
pub type Leaves<'a> = &'a dyn Fn(bool, u32, &[i64]) -> Value;

/// Tokens that blocks are evaluated with.
pub const TOKENS: i64 = 3;

/// A graph with everything it needs to have values.
pub struct Points<'a> {
    axes: &'a AxisTable,
    graph: &'a Graph,
    leaves: Leaves<'a>,
    tokens: i64,
    memo: HashMap<(NodeIndex, Vec<i64>), Value>,
}

impl<'a> Points<'a> {
    pub fn new(axes: &'a AxisTable, graph: &'a Graph, tokens: i64, leaves: Leaves<'a>) -> Points<'a> {
        Points { axes, graph, leaves, tokens, memo: HashMap::new() }
    }

    fn len(&self, a: AxisId) -> i64 {
        match self.axes[a].extent {
            Extent::Const(n) => n as i64,
            Extent::Seq(_) | Extent::View(_) => self.tokens,
        }
    }

    /// All of a node's values, its axes ascending, the last fastest.
    pub fn all(&mut self, node: NodeIndex) -> Vec<Value> {
        let axes = self.graph[node].axes.clone();
        let mut out = Vec::new();
        self.each(&axes, &mut HashMap::new(), &mut |p, env| out.push(p.at(node, env)));
        out
    }

    fn each(
        &mut self,
        axes: &Axes,
        env: &mut HashMap<AxisId, i64>,
        f: &mut dyn FnMut(&mut Self, &mut HashMap<AxisId, i64>),
    ) {
        let Some(first) = axes.iter().next() else { return f(self, env) };
        let rest: Axes = axes.iter().skip(1).collect();
        let shadowed = env.get(&first).copied();
        for i in 0..self.len(first) {
            env.insert(first, i);
            self.each(&rest, env, f);
        }
        match shadowed {
            Some(i) => env.insert(first, i),
            None => env.remove(&first),
        };
    }

    fn at(&mut self, node: NodeIndex, env: &mut HashMap<AxisId, i64>) -> Value {
        let here: Vec<i64> = self.graph[node].axes.iter().map(|a| env[&a]).collect();
        let key = (node, here.clone());
        if let Some(v) = self.memo.get(&key) {
            return *v;
        }
        let xs = self.graph.operands(node);
        let value = match &self.graph[node].op {
            Op::Const(v) => *v,
            Op::Iota(a) => Value::Int(env[a]),
            Op::Length(_) => Value::Int(self.tokens),
            Op::Param(n) => (self.leaves)(false, *n, &here),
            Op::Weight(n) => (self.leaves)(true, *n, &here),
            Op::Tensor(_) => panic!("points: a tensor of the file"),
            Op::Map(op) => {
                let xs: Vec<_> = xs.iter().map(|x| self.at(*x, env)).collect();
                op.evaluate(&xs)
            }
            Op::Reduce(op, over) => {
                let mut total = op.identity(self.graph[node].ty);
                let (op, over) = (*op, over.clone());
                self.each(&over, env, &mut |p, env| total = fold(op, total, p.at(xs[0], env)));
                total
            }
            Op::Index(axes) => {
                let mut inner = env.clone();
                for (a, i) in axes.iter().zip(&xs[1..]) {
                    let Value::Int(i) = self.at(*i, env) else { panic!("points: an index is an int") };
                    assert!((0..self.len(*a)).contains(&i), "points: index {i} of {}", self.axes[*a].name);
                    inner.insert(*a, i);
                }
                self.at(xs[0], &mut inner)
            }
            Op::TopK { axis, rank } => {
                let (axis, rank) = (*axis, env[rank] as usize);
                let mut inner = env.clone();
                let mut values: Vec<(f64, i64)> = (0..self.len(axis))
                    .map(|i| {
                        inner.insert(axis, i);
                        (self.at(xs[0], &mut inner).real(), i)
                    })
                    .collect();
                values.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                Value::Int(values[rank].1)
            }
        };
        self.memo.insert(key, value);
        value
    }
}

fn fold(op: ReduceOp, a: Value, b: Value) -> Value {
    op.combine().evaluate(&[a, b])
}

/// A number for a leaf's element that depends on nothing else: uniform in -1..1, or an int in 0..2.
pub fn noise(seed: u64) -> impl Fn(bool, u32, &[i64]) -> f64 {
    move |weight, n, at| {
        let mut h = seed ^ 0x9e37_79b9_7f4a_7c15 ^ (u64::from(weight) << 40) ^ (u64::from(n) << 20);
        for i in at {
            h = (h ^ (*i as u64).wrapping_add(0x51)).wrapping_mul(0x2545_f491_4f6c_dd1d);
            h ^= h >> 29;
        }
        h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^= h >> 31;
        (h >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Leaves of a block whose params have these types.
fn leaves(params: Vec<Type>, seed: u64) -> impl Fn(bool, u32, &[i64]) -> Value {
    let noise = noise(seed);
    move |weight, n, at| match params.get(n as usize) {
        Some(Type::Int) if !weight => Value::Int((noise(weight, n, at).abs() * 2.0) as i64),
        _ => Value::Real(noise(weight, n, at)),
    }
}

/// The values of terms over random leaves, with three tokens.
pub fn values(terms: &Terms, ids: &[TermId], seed: u64) -> Vec<Vec<Value>> {
    let (graph, nodes) = to_graph(terms, ids);
    let leaves = leaves(terms.params.iter().map(|(_, ty)| *ty).collect(), seed);
    let mut points = Points::new(&terms.axes, &graph, TOKENS, &leaves);
    nodes.into_iter().map(|n| points.all(n)).collect()
}

/// The values of a draft's results as the reference evaluator has them, over the same leaves.
pub fn naive(draft: &Draft, seed: u64) -> Vec<Vec<Value>> {
    let lengths: Vec<usize> =
        draft.axes.iter().map(|(a, _)| draft.axes.len_of(a).map_or(TOKENS as usize, |n| n as usize)).collect();
    let leaves = leaves(draft.block.params.iter().map(|p| p.ty).collect(), seed);
    let tensor = |weight: bool, n: usize, axes: &Axes| {
        let mut points = vec![vec![]];
        for a in axes.iter() {
            let longer = |p: Vec<i64>| {
                (0..lengths[a.0 as usize] as i64).map(move |i| p.iter().copied().chain([i]).collect::<Vec<_>>())
            };
            points = points.into_iter().flat_map(longer).collect();
        }
        let data = points.iter().map(|p| leaves(weight, n as u32, p).real()).collect();
        Tensor::new(axes.iter().collect(), &lengths, data)
    };
    let block = &draft.block;
    let params = block.params.iter().enumerate().map(|(n, p)| tensor(false, n, &p.axes)).collect();
    let weights = block.weights.iter().enumerate().map(|(n, w)| tensor(true, n, &w.axes)).collect();
    let roots: Vec<_> = block.results.iter().map(|(_, id)| *id).collect();
    let seqs = draft.axes.iter().filter(|(_, a)| matches!(a.extent, Extent::Seq(_))).count();
    let tokens = vec![TOKENS as usize; seqs.max(1)];
    let results = evaluate_graph(&draft.axes, &block.graph, params, weights, &tokens, &roots);
    let ascending = |(t, id): (Tensor, &NodeIndex)| {
        let order: Vec<_> = block.graph[*id].axes.iter().collect();
        t.ordered(&order).data.into_iter().map(Value::Real).collect()
    };
    results.into_iter().zip(&roots).map(ascending).collect()
}

/// Whether two values agree where the first is a number that floats can hold: `within` of the larger, or of one.
pub fn agree(want: &[Value], got: &[Value], within: f64) -> Result<(), String> {
    if want.len() != got.len() {
        return Err(format!("{} values instead of {}", got.len(), want.len()));
    }
    for (i, (a, b)) in want.iter().zip(got).enumerate() {
        let (x, y) = (a.real(), b.real());
        let same = x == y || (x - y).abs() <= within * x.abs().max(1.0);
        if x.is_finite() && !same {
            return Err(format!("value {i} is {y} instead of {x}"));
        }
        if !x.is_nan() && x.is_infinite() && !same {
            return Err(format!("value {i} is {y} instead of {x}"));
        }
    }
    Ok(())
}
