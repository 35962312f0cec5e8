//! Cutting: the universe becomes blocks, steps and the weight graph.
//!
//! Every node is computed in one region, its home, and handed on from there, except what is cheap to compute again from
//! positions and literals. What every turn of a loop would compute alike moves before the loop if it is work, and is
//! computed again in each turn if it is not. Turns that are equal but for the names of their tensors share a block.

use super::universe::is_transcendental;
use super::*;
use crate::graph::{Block, BlockId, Graph, Node, Op, Step, ValueId, Weight, WeightId, WeightSlot};
use std::collections::BTreeSet;

impl<'a> Elaborator<'a> {
    /// The model, once nothing is wrong.
    pub(super) fn finish(self, model: &ast::Model) -> Model {
        let homes = homes(&self.u);
        let demands = demands(&self.u, &homes, &self.outputs);
        let mut cut = Cut {
            u: &self.u,
            labels: &self.labels,
            homes: &homes,
            demands: &demands,
            values: self.input_values.clone(),
            value_of: HashMap::new(),
            weight_graph: Graph::default(),
            copies: HashMap::new(),
            weights: IndexMap::new(),
            looks: HashMap::new(),
            look_of: Vec::new(),
            blocks: Vec::new(),
            keys: HashMap::new(),
            steps: Vec::new(),
        };
        let busy: Vec<_> = (0..demands.len()).filter(|r| !demands[*r].is_empty()).collect();
        for region in &busy {
            cut.region(*region, (busy.first() == Some(region), busy.last() == Some(region)));
        }
        let outputs =
            self.outputs.iter().map(|(o, node, _)| Output { value: cut.value_of[node], ..o.clone() }).collect();
        let weights = cut.weights.iter().map(|(_, w)| w.clone()).collect();
        let (values, weight_graph, blocks, steps) = (cut.values, cut.weight_graph, cut.blocks, cut.steps);
        Model {
            name: model.name.text.clone(),
            axes: self.u.axes,
            seqs: self.u.seqs,
            inputs: self.inputs,
            values,
            weight_graph,
            weights,
            blocks,
            steps,
            outputs,
        }
    }
}

/// Where a node is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Home {
    /// Where it is needed, again each time.
    Anywhere,
    Region(usize),
}

fn homes(u: &Universe) -> Vec<Home> {
    let mut homes: Vec<Home> = Vec::new();
    // The first region in which all operands can be had, and whether the node is work beyond its weights.
    let (mut since, mut work): (Vec<usize>, Vec<bool>) = (Vec::new(), Vec::new());
    for id in u.graph.ids() {
        let operands = u.graph.operands(id);
        let available = |x: &NodeIndex| match homes[x.index()] {
            Home::Region(r) => r,
            Home::Anywhere => since[x.index()],
        };
        let from = operands.iter().map(available).max().unwrap_or(0);
        let leaf = operands.is_empty() || u.is_weight(id);
        let own_work = match &u.graph[id].op {
            Op::Map(op) => is_transcendental(*op),
            Op::Reduce(..) | Op::TopK { .. } => true,
            Op::Const(_) | Op::Iota(_) | Op::Length(_) | Op::Param(_) | Op::Weight(_) => false,
            Op::Tensor(_) | Op::Index(_) => false,
        };
        let is_work = !leaf && (own_work || operands.iter().any(|x| work[x.index()]));
        let facts = u.facts(id);
        let before = u.regions[facts.region].before;
        let hoist = facts.repeated && from <= before;
        let square = u.node_axes(id).iter().filter(|a| u.seq_of(*a).is_some()).count() > 1;
        homes.push(if leaf || facts.floating && (!is_work || square) {
            Home::Anywhere
        } else if hoist && own_work || hoist && is_work && keeps_shape(u, id, &operands, &work) {
            Home::Region(before)
        } else if hoist {
            Home::Anywhere
        } else {
            Home::Region(facts.region)
        });
        since.push(if leaf { 0 } else { from });
        work.push(is_work);
    }
    homes
}

/// Pointwise, and no larger than an operand that is work: worth handing on in its operand's place.
fn keeps_shape(u: &Universe, id: NodeIndex, operands: &[NodeIndex], work: &[bool]) -> bool {
    matches!(u.graph[id].op, Op::Map(_))
        && operands.iter().any(|x| work[x.index()] && u.node_axes(*x) == u.node_axes(id))
}

/// What each region must hand on: found from the outputs backwards.
fn demands(u: &Universe, homes: &[Home], outputs: &[(Output, NodeIndex, usize)]) -> Vec<BTreeSet<NodeIndex>> {
    let mut demands = vec![BTreeSet::new(); u.regions.len()];
    for (_, node, region) in outputs {
        match homes[node.index()] {
            Home::Region(home) => demands[home].insert(*node),
            Home::Anywhere => demands[*region].insert(*node),
        };
    }
    for region in (0..u.regions.len()).rev() {
        let mut stack: Vec<_> = demands[region].iter().copied().collect();
        let mut seen: HashSet<_> = stack.iter().copied().collect();
        while let Some(id) = stack.pop() {
            if u.is_weight(id) {
                continue;
            }
            for x in u.graph.operands(id).into_iter().filter(|x| seen.insert(*x)) {
                match homes[x.index()] {
                    Home::Region(home) if home != region => {
                        demands[home].insert(x);
                    }
                    _ => stack.push(x),
                }
            }
        }
    }
    demands
}

struct Cut<'e> {
    u: &'e Universe,
    labels: &'e HashMap<NodeIndex, String>,
    homes: &'e [Home],
    demands: &'e [BTreeSet<NodeIndex>],
    values: Vec<ModelValue>,
    value_of: HashMap<NodeIndex, ValueId>,
    weight_graph: Graph,
    /// Nodes of the universe in the weight graph.
    copies: HashMap<NodeIndex, NodeIndex>,
    /// By node of the weight graph.
    weights: IndexMap<NodeIndex, Weight>,
    /// What a node of the weight graph looks like but for the names of tensors, numbered.
    looks: HashMap<String, u32>,
    look_of: Vec<u32>,
    blocks: Vec<Block>,
    keys: HashMap<String, BlockId>,
    steps: Vec<Step>,
}

/// A block being built.
struct Draft {
    graph: Graph,
    ids: HashMap<NodeIndex, NodeIndex>,
    params: IndexMap<ValueId, ModelValue>,
    weights: IndexMap<WeightId, WeightSlot>,
}

impl Cut<'_> {
    /// One region becomes one step.
    fn region(&mut self, region: usize, (first, last): (bool, bool)) {
        let roots = &self.demands[region];
        let mut draft =
            Draft { graph: Graph::default(), ids: HashMap::new(), params: IndexMap::new(), weights: IndexMap::new() };
        for root in roots {
            self.compute(region, *root, &mut draft);
        }
        let results: Vec<_> = roots.iter().map(|r| (self.name_of(*r), draft.ids[r])).collect();
        let written: Vec<_> = roots.iter().map(|r| self.new_value(*r)).collect();
        let turn = self.u.regions[region].turn.clone();
        let name = match (&turn, first, last) {
            (Some((family, ..)), ..) => family.clone(),
            (None, true, _) => "first".into(),
            (None, _, true) => "last".into(),
            (None, ..) => format!("between{region}"),
        };
        let args = draft.params.keys().copied().collect();
        let weights: Vec<_> = draft.weights.keys().copied().collect();
        let block = Block {
            name,
            params: draft.params.into_values().collect(),
            weights: draft.weights.into_values().collect(),
            graph: draft.graph,
            results,
        };
        let block = self.share(block, &weights);
        let layer = turn.map(|(family, layer, _)| (family, layer));
        self.steps.push(Step { block, layer, args, weights, results: written });
    }

    /// Adds a node and what it needs, operands first, without recursion: a text can make a graph very deep.
    fn compute(&mut self, region: usize, root: NodeIndex, draft: &mut Draft) {
        let mut stack = vec![(root, false)];
        while let Some((id, ready)) = stack.pop() {
            if draft.ids.contains_key(&id) {
                continue;
            }
            let node = &self.u.graph[id];
            let elsewhere = matches!(self.homes[id.index()], Home::Region(home) if home != region);
            let new = if self.u.is_weight(id) {
                self.slot(id, draft)
            } else if elsewhere || matches!(node.op, Op::Param(_)) {
                self.param(id, draft)
            } else if ready {
                let operands: Vec<_> = self.u.graph.operands(id).iter().map(|x| draft.ids[x]).collect();
                draft.graph.add(self.rebuilt(node), &operands)
            } else {
                stack.push((id, true));
                stack.extend(self.u.graph.operands(id).into_iter().rev().map(|x| (x, false)));
                continue;
            };
            draft.ids.insert(id, new);
        }
    }

    fn rebuilt(&self, node: &Node) -> Node {
        assert!(!matches!(node.op, Op::Tensor(_)), "elaborate: a tensor that is no weight");
        node.clone()
    }

    fn param(&mut self, id: NodeIndex, draft: &mut Draft) -> NodeIndex {
        let node = &self.u.graph[id];
        let value = match node.op {
            Op::Param(n) => ValueId(n),
            _ => self.value_of[&id],
        };
        let known = self.values[value.0 as usize].clone();
        let name = Some(known.name.clone());
        let (number, _) = draft.params.insert_full(value, known);
        let leaf = Node { op: Op::Param(number as u32), name, ..node.clone() };
        draft.graph.add(leaf, &[])
    }

    fn slot(&mut self, id: NodeIndex, draft: &mut Draft) -> NodeIndex {
        let weight = self.weight(id);
        let node = &self.u.graph[id];
        let name = self.name_of(id);
        let slot = WeightSlot { name: name.clone(), axes: node.axes.clone(), ty: node.ty };
        let (number, _) = draft.weights.insert_full(weight, slot);
        draft.graph.add(Node { op: Op::Weight(number as u32), name: Some(name), ..node.clone() }, &[])
    }

    /// The weight that is this node of the universe, copied to the weight graph with all it needs.
    fn weight(&mut self, id: NodeIndex) -> WeightId {
        let mut cone = BTreeSet::new();
        let mut stack = vec![id];
        while let Some(x) = stack.pop() {
            if !self.copies.contains_key(&x) && cone.insert(x) {
                stack.extend(self.u.graph.operands(x));
            }
        }
        for x in cone {
            self.copy(x);
        }
        let node = self.copies[&id];
        let label = self.labels.get(&id).cloned().unwrap_or_else(|| self.name_of(id));
        let entry = self.weights.entry(node);
        let number = entry.index();
        entry.or_insert(Weight { name: label, node });
        WeightId(number as u32)
    }

    fn copy(&mut self, x: NodeIndex) {
        let operands: Vec<_> = self.u.graph.operands(x).iter().map(|o| self.copies[o]).collect();
        let node = self.u.graph[x].clone();
        let op = match &node.op {
            Op::Tensor(view) => format!("{:?} {:?} {:?}", view.dims, view.stacked, view.info),
            op => format!("{op:?}"),
        };
        let below: Vec<_> = operands.iter().map(|o| self.look_of[o.index()]).collect();
        let next = self.looks.len() as u32;
        let look = *self.looks.entry(format!("{op} {below:?}")).or_insert(next);
        let copy = self.weight_graph.add(node, &operands);
        self.look_of.push(look);
        self.copies.insert(x, copy);
    }

    fn new_value(&mut self, id: NodeIndex) -> ValueId {
        let node = &self.u.graph[id];
        let value = ValueId(self.values.len() as u32);
        self.values.push(ModelValue { name: self.name_of(id), axes: node.axes.clone(), ty: node.ty });
        self.value_of.insert(id, value);
        value
    }

    /// The name in the text, or one that says what it is.
    fn name_of(&self, id: NodeIndex) -> String {
        let node = &self.u.graph[id];
        if let Some(name) = &node.name {
            return name.clone();
        }
        let of = self.u.graph.operands(id).first().and_then(|x| self.u.graph[*x].name.clone());
        match (&node.op, of) {
            (Op::Map(op), _) => op.keyword().to_owned(),
            (Op::Index(_), Some(of)) => format!("{of}'"),
            (Op::Reduce(op, _), _) => op.keyword().to_owned(),
            (Op::TopK { .. }, _) => "topk".to_owned(),
            _ => "value".to_owned(),
        }
    }

    /// The block, or an equal one: same nodes, same axes, weights that look alike.
    fn share(&mut self, block: Block, weights: &[WeightId]) -> BlockId {
        let nodes: Vec<_> = block
            .graph
            .ids()
            .map(|id| (&block.graph[id].op, &block.graph[id].axes, block.graph[id].ty, block.graph.operands(id)))
            .collect();
        let params: Vec<_> = block.params.iter().map(|p| (&p.axes, p.ty)).collect();
        let looks: Vec<_> = weights
            .iter()
            .map(|w| self.look_of[self.weights[w.0 as usize].node.index()])
            .zip(block.weights.iter().map(|w| &w.name))
            .collect();
        let results: Vec<_> = block.results.iter().map(|(_, id)| id).collect();
        let key = format!("{nodes:?}{params:?}{looks:?}{results:?}");
        let next = BlockId(self.blocks.len() as u32);
        let id = *self.keys.entry(key).or_insert(next);
        if id == next {
            self.blocks.push(block);
        }
        id
    }
}
