//! The reference evaluator: slow, obvious, in f64. What it computes is what a graph means; everything fast answers
//! to it.
//!
//! Values of at most [`KEPT`] elements are stored when they are first needed; larger ones exist only a row at a time,
//! where they are read, so that `sum[m](w * x)` never holds `w * x`. Real arithmetic that ends in `floor`, `ceil` or
//! `trunc` is rounded to f32 after every operation: it is discontinuous, and f32 is what checkpoints were made with.

mod random;
mod rows;
mod tensor;
#[cfg(test)]
mod tests;

pub use random::RandomTensors;
pub use tensor::{Tensor, decode};

use crate::graph::{AxisId, AxisTable, Block, Extent, Graph, Model, ModelValue, Op};
use indexmap::IndexMap;
use llmc_artifact::TensorData;
use petgraph::graph::NodeIndex;
use rows::Rows;
use std::collections::HashMap;
use std::rc::Rc;

/// Values with more elements are not stored, but computed again where they are read.
pub const KEPT: usize = 1 << 22;

/// What goes in: for every input its elements in the order of its axes, and the sequences' lengths.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// By the input's name. An input with a default may be absent.
    pub values: HashMap<String, Vec<i64>>,
    /// By the name of the `seq`; taken from an input over that axis alone when absent.
    pub lengths: HashMap<String, usize>,
}

impl Inputs {
    /// One input.
    pub fn one(name: &str, values: &[i64]) -> Inputs {
        Inputs::default().with(name, values)
    }

    /// One more.
    pub fn with(mut self, name: &str, values: &[i64]) -> Inputs {
        self.values.insert(name.to_owned(), values.to_vec());
        self
    }
}

/// Runs a model on one sequence of each `seq` from its beginning.
pub struct Evaluator<'a> {
    model: &'a Model,
    data: &'a dyn TensorData,
    kept: usize,
}

impl<'a> Evaluator<'a> {
    /// For a verified model and the tensors that its weights are made of.
    pub fn new(model: &'a Model, data: &'a dyn TensorData) -> Evaluator<'a> {
        Evaluator { model, data, kept: KEPT }
    }

    /// With another limit on what is stored: for tests that the limit does not matter.
    pub fn keeping(mut self, elements: usize) -> Evaluator<'a> {
        self.kept = elements;
        self
    }

    /// Every output by its name, its dimensions in the order of the text.
    ///
    /// # Errors
    /// A sentence for an input that is missing, out of its bound or of the wrong length, and for a missing tensor.
    pub fn run(&self, inputs: &Inputs) -> Result<IndexMap<String, Tensor>, String> {
        let lengths = self.lengths(inputs)?;
        let sizes = Sizes::new(&self.model.axes, &lengths);
        let mut values: HashMap<u32, Rc<Tensor>> = HashMap::new();
        for input in &self.model.inputs {
            let value = &self.model.values[input.value.0 as usize];
            values.insert(input.value.0, Rc::new(self.input(input, value, inputs, &sizes.axes)?));
        }
        let last_use = self.last_uses();
        for (number, step) in self.model.steps.iter().enumerate() {
            let block = &self.model.blocks[step.block.0 as usize];
            let params: Vec<_> = step.args.iter().map(|v| values[&v.0].clone()).collect();
            let weights = step.weights.iter().map(|w| self.weight(self.model.weights[w.0 as usize].node, &sizes));
            let weights = weights.collect::<Result<Vec<_>, _>>()?;
            let results = self.block(block, &sizes, params, weights);
            values.extend(step.results.iter().map(|v| v.0).zip(results));
            values.retain(|v, _| last_use.get(v).is_some_and(|last| *last > number));
        }
        let outputs = self.model.outputs.iter();
        Ok(outputs.map(|o| (o.name.clone(), values[&o.value.0].ordered(&o.order))).collect())
    }

    fn block(
        &self,
        block: &Block,
        sizes: &Sizes,
        params: Vec<Rc<Tensor>>,
        weights: Vec<Rc<Tensor>>,
    ) -> Vec<Rc<Tensor>> {
        let roots: Vec<_> = block.results.iter().map(|(_, id)| *id).collect();
        evaluate(&block.graph, sizes, &Leaves { params, weights, tensors: HashMap::new() }, &roots, self.kept)
    }

    /// A weight, computed from the tensors that it needs.
    fn weight(&self, node: NodeIndex, sizes: &Sizes) -> Result<Rc<Tensor>, String> {
        let graph = &self.model.weight_graph;
        let mut tensors = HashMap::new();
        for id in cone(graph, &[node]) {
            if let Op::Tensor(view) = &graph[id].op {
                tensors.insert(id, Rc::new(decode(view, &sizes.axes, self.data)?));
            }
        }
        if let Some(whole) = tensors.remove(&node) {
            return Ok(whole);
        }
        let leaves = Leaves { params: vec![], weights: vec![], tensors };
        Ok(evaluate(graph, sizes, &leaves, &[node], self.kept).remove(0))
    }

    fn lengths(&self, inputs: &Inputs) -> Result<Vec<usize>, String> {
        let of = |seq: &crate::graph::Seq| {
            let stated = inputs.lengths.get(&seq.name).copied();
            let n = stated.or_else(|| self.model.inputs.iter().find_map(|i| self.length_by(seq, i, inputs)));
            let n = n.ok_or_else(|| format!("the length of `{}` is not known: no input over it is given", seq.name))?;
            match seq.bound {
                _ if n == 0 => Err(format!("`{}` has no tokens", seq.name)),
                Some(bound) if n as u64 > bound => {
                    Err(format!("`{}` has {n} tokens, at most {bound} are allowed", seq.name))
                }
                _ => Ok(n),
            }
        };
        self.model.seqs.iter().map(of).collect()
    }

    /// The length of a sequence that an input over it and constant axes has been given.
    fn length_by(&self, seq: &crate::graph::Seq, input: &crate::graph::Input, inputs: &Inputs) -> Option<usize> {
        let value = &self.model.values[input.value.0 as usize];
        let others = value.axes.iter().filter(|a| *a != seq.axis);
        let row: u64 = others.map(|a| self.model.axes.len_of(a)).product::<Option<u64>>()?;
        value.axes.contains(seq.axis).then_some(inputs.values.get(&value.name)?.len() / row as usize)
    }

    fn input(
        &self,
        input: &crate::graph::Input,
        value: &ModelValue,
        inputs: &Inputs,
        axes: &[usize],
    ) -> Result<Tensor, String> {
        let order: Vec<AxisId> = value.axes.iter().collect();
        let count: usize = order.iter().map(|a| axes[a.0 as usize]).product();
        let data = match (inputs.values.get(&value.name), input.default) {
            (Some(given), _) if given.len() == count => given.iter().map(|n| *n as f64).collect(),
            (Some(given), _) => {
                return Err(format!("input `{}` has {} elements, should have {count}", value.name, given.len()));
            }
            (None, Some(default)) => vec![default.real(); count],
            (None, None) => return Err(format!("input `{}` is missing", value.name)),
        };
        let inside = |x: &f64| input.bound.is_none_or(|b| (0.0..b as f64).contains(x));
        match data.iter().find(|x| !inside(x)) {
            Some(x) => {
                Err(format!("input `{}` holds {x}, which is not in 0..{}", value.name, input.bound.unwrap_or(0)))
            }
            None => Ok(Tensor::new(order, axes, data)),
        }
    }

    /// The last step that reads each value; outputs are read after all steps.
    fn last_uses(&self) -> HashMap<u32, usize> {
        let steps = self.model.steps.iter().enumerate();
        let mut last: HashMap<_, _> = steps.flat_map(|(n, s)| s.args.iter().map(move |v| (v.0, n))).collect();
        last.extend(self.model.outputs.iter().map(|o| (o.value.0, usize::MAX)));
        last
    }
}

/// The values of a graph's nodes, for given parameters and weights. `lengths` has one entry for each sequence.
pub fn evaluate_graph(
    table: &AxisTable,
    graph: &Graph,
    params: Vec<Tensor>,
    weights: Vec<Tensor>,
    lengths: &[usize],
    roots: &[NodeIndex],
) -> Vec<Tensor> {
    let shared = |list: Vec<Tensor>| list.into_iter().map(Rc::new).collect();
    let leaves = Leaves { params: shared(params), weights: shared(weights), tensors: HashMap::new() };
    let values = evaluate(graph, &Sizes::new(table, lengths), &leaves, roots, KEPT);
    values.into_iter().map(Rc::unwrap_or_clone).collect()
}

/// Lengths of all axes and of all sequences.
struct Sizes {
    axes: Vec<usize>,
    /// Axes whose length is a number of tokens.
    tokens: Vec<bool>,
    seqs: Vec<usize>,
}

impl Sizes {
    fn new(table: &AxisTable, lengths: &[usize]) -> Sizes {
        let of = |extent| match extent {
            Extent::Const(n) => n as usize,
            Extent::Seq(s) | Extent::View(s) => lengths[s.0 as usize],
        };
        let tokens = table.iter().map(|(id, _)| table.len_of(id).is_none()).collect();
        Sizes { axes: table.iter().map(|(_, a)| of(a.extent)).collect(), tokens, seqs: lengths.to_vec() }
    }
}

/// What a graph's leaves stand for.
struct Leaves {
    params: Vec<Rc<Tensor>>,
    weights: Vec<Rc<Tensor>>,
    tensors: HashMap<NodeIndex, Rc<Tensor>>,
}

/// Nodes that the roots need, operands before users.
fn cone(graph: &Graph, roots: &[NodeIndex]) -> Vec<NodeIndex> {
    let mut needed = vec![false; graph.len()];
    roots.iter().for_each(|r| needed[r.index()] = true);
    for id in graph.ids().rev() {
        if needed[id.index()] {
            graph.operands(id).iter().for_each(|x| needed[x.index()] = true);
        }
    }
    graph.ids().filter(|id| needed[id.index()]).collect()
}

fn evaluate(graph: &Graph, sizes: &Sizes, leaves: &Leaves, roots: &[NodeIndex], kept: usize) -> Vec<Rc<Tensor>> {
    let axes = &sizes.axes;
    let mut rows = Rows::new(graph, axes, &sizes.tokens);
    for id in cone(graph, roots) {
        let node = &graph[id];
        let value = match &node.op {
            Op::Const(v) => Rc::new(Tensor::scalar(v.real())),
            Op::Iota(a) => {
                let n = axes[a.0 as usize];
                Rc::new(Tensor::new(vec![*a], axes, (0..n).map(|i| i as f64).collect()))
            }
            Op::Length(s) => Rc::new(Tensor::scalar(sizes.seqs[s.0 as usize] as f64)),
            Op::Param(n) => leaves.params[*n as usize].clone(),
            Op::Weight(n) => leaves.weights[*n as usize].clone(),
            Op::Tensor(_) => leaves.tensors[&id].clone(),
            Op::Map(_) | Op::Index(_) if rows.size(id) > kept && !roots.contains(&id) => continue,
            Op::Map(_) | Op::Index(_) | Op::Reduce(..) | Op::TopK { .. } => Rc::new(rows.whole(id)),
        };
        rows.keep(id, value);
    }
    roots.iter().map(|r| rows.kept(*r)).collect()
}
