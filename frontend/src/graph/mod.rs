//! The graph: a model after elaboration, every size known, every name resolved, every function inlined.
//!
//! What enters is a typed syntax tree and a checkpoint's description; what leaves is a [`Model`]: blocks of
//! pointwise, reducing and indexing nodes over named axes. Layers with equal graphs are one [`Block`] that several
//! [`Step`]s run with other weights. Absent on purpose: layouts, positions of axes, broadcasts, caches, batches.

pub mod text;
pub mod verify;

pub use text::{dot, print, print_block};
pub use verify::{Verified, verify, verify_block};

use llmc_artifact::{ReduceOp, ScalarOp, SeqId, TensorInfo, Type, Value};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use serde::{Deserialize, Serialize};

/// An axis of the model. Nominal: equal lengths do not make two axes the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AxisId(pub u32);

/// How long an axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Extent {
    /// Known at build, positive.
    Const(u64),
    /// The tokens of a sequence: `seq t`.
    Seq(SeqId),
    /// The same tokens looked at from another token: `axis s = t`.
    View(SeqId),
}

/// An axis: its name for people, its extent for everything else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    /// Unique within the model.
    pub name: String,
    /// Its length.
    pub extent: Extent,
}

/// All axes of a model, in order of declaration; fresh ones made by later stages follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxisTable(pub Vec<Axis>);

impl AxisTable {
    /// Adds an axis.
    pub fn push(&mut self, name: impl Into<String>, extent: Extent) -> AxisId {
        self.0.push(Axis { name: name.into(), extent });
        AxisId(self.0.len() as u32 - 1)
    }

    /// Adds an axis of `like`'s extent under a new name derived from its name: `m` gives `m'1`, `m'2`...
    pub fn fresh(&mut self, like: AxisId) -> AxisId {
        let Axis { name, extent } = self[like].clone();
        let stem = name.split('\'').next().unwrap_or(&name).to_owned();
        let mut n = 1;
        while self.0.iter().any(|a| a.name == format!("{stem}'{n}")) {
            n += 1;
        }
        self.push(format!("{stem}'{n}"), extent)
    }

    /// The axis's constant length, if it has one.
    pub fn len_of(&self, id: AxisId) -> Option<u64> {
        match self[id].extent {
            Extent::Const(n) => Some(n),
            Extent::Seq(_) | Extent::View(_) => None,
        }
    }

    /// Every axis with its id.
    pub fn iter(&self) -> impl Iterator<Item = (AxisId, &Axis)> {
        self.0.iter().enumerate().map(|(i, a)| (AxisId(i as u32), a))
    }
}

impl std::ops::Index<AxisId> for AxisTable {
    type Output = Axis;
    fn index(&self, id: AxisId) -> &Axis {
        &self.0[id.0 as usize]
    }
}

/// A set of axes in canonical (ascending) order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Axes(Vec<AxisId>);

impl Axes {
    /// The empty set: a scalar.
    pub const fn none() -> Axes {
        Axes(Vec::new())
    }
    /// In ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = AxisId> + '_ {
        self.0.iter().copied()
    }
    /// As a slice in ascending order.
    pub fn as_slice(&self) -> &[AxisId] {
        &self.0
    }
    /// Number of axes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether it is a scalar's.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Membership.
    pub fn contains(&self, a: AxisId) -> bool {
        self.0.binary_search(&a).is_ok()
    }
    /// Whether every axis of `self` is in `other`.
    pub fn is_subset(&self, other: &Axes) -> bool {
        self.iter().all(|a| other.contains(a))
    }
    /// Axes in either.
    pub fn union(&self, other: &Axes) -> Axes {
        self.iter().chain(other.iter()).collect()
    }
    /// Axes in `self` only.
    pub fn minus(&self, other: &Axes) -> Axes {
        self.iter().filter(|a| !other.contains(*a)).collect()
    }
    /// Axes in both.
    pub fn intersect(&self, other: &Axes) -> Axes {
        self.iter().filter(|a| other.contains(*a)).collect()
    }
}

impl FromIterator<AxisId> for Axes {
    fn from_iter<I: IntoIterator<Item = AxisId>>(iter: I) -> Axes {
        let mut v: Vec<_> = iter.into_iter().collect();
        v.sort_unstable();
        v.dedup();
        Axes(v)
    }
}

/// Index of a [`Model::values`] entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub u32);
/// Index of a [`Model::weights`] entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightId(pub u32);
/// Index of a [`Model::blocks`] entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId(pub u32);

/// What a node computes. Operands are the node's incoming edges, ordered by port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// A literal; no axes.
    Const(Value),
    /// An axis used as a value: its index. For a `seq` axis the token's position in its own sequence.
    Iota(AxisId),
    /// `len(t)` of a sequence: known only when it runs.
    Length(SeqId),
    /// The block's parameter of this number ([`Block::params`]): a value of an earlier block, or an input.
    Param(u32),
    /// The block's weight slot of this number ([`Block::weights`]); a step binds it.
    Weight(u32),
    /// A tensor of the checkpoint, seen through its `as` string: only in [`Model::weight_graph`].
    Tensor(TensorView),
    /// Pointwise: the result has the union of the operands' axes. Operands: the scalar operation's.
    Map(ScalarOp),
    /// Removes axes. Operand: the body.
    Reduce(ReduceOp, Axes),
    /// Simultaneous substitution `x[a1 = i1, ...]`. Operands: x, then one integer node per axis, in this order.
    Index(Vec<AxisId>),
    /// `topk[axis, rank](x)`: indices into `axis` of the largest, largest first, ties to the lower index. Operand: x.
    TopK {
        /// The axis that is searched, and removed.
        axis: AxisId,
        /// The axis of the result that counts the winners.
        rank: AxisId,
    },
}

/// A tensor of the file as the language sees it: each stored dimension merges the axes listed for it, outermost
/// first. `expert` names are already filled in. The tensor's name may run over an axis (`experts.{x}.w1`): then
/// `stacked` lists one file name for each index of the outermost axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorView {
    /// Names in the file: one, or one for each index of `stacked`.
    pub names: Vec<String>,
    /// The axis that counts `names`, when there is more than one.
    pub stacked: Option<AxisId>,
    /// For each stored dimension, outermost first, the axes merged in it, outermost first.
    pub dims: Vec<Vec<AxisId>>,
    /// Shape and format in the file (of each of `names`).
    pub info: TensorInfo,
}

/// A byte range of a text: file number, start, end.
pub type Place = (u32, u32, u32);

/// A node: what it computes, over which axes, of which type, and where the text says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The computation.
    pub op: Op,
    /// Axes of the result.
    pub axes: Axes,
    /// Type of the result.
    pub ty: Type,
    /// The name the text gave it, if any: for people only.
    pub name: Option<String>,
    /// Where the text says so: for people only.
    pub span: Option<Place>,
}

/// Port of an operand: its place in the operation's operand list.
pub type Port = u16;

/// A graph of nodes; edges run from operand to user. Acyclic by construction: a node is added after its operands.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    arena: DiGraph<Node, Port>,
}

impl Graph {
    /// Adds a node with its operands.
    ///
    /// # Panics
    /// When an operand is not of this graph.
    pub fn add(&mut self, node: Node, operands: &[NodeIndex]) -> NodeIndex {
        let id = self.arena.add_node(node);
        for (port, operand) in operands.iter().enumerate() {
            assert!(operand.index() < id.index(), "graph: an operand of a node comes before it");
            self.arena.add_edge(*operand, id, port as Port);
        }
        id
    }

    /// A node's operands in order.
    pub fn operands(&self, id: NodeIndex) -> Vec<NodeIndex> {
        let mut ports: Vec<_> =
            self.arena.edges_directed(id, Direction::Incoming).map(|e| (*e.weight(), e.source())).collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, n)| n).collect()
    }

    /// The nodes that use it.
    pub fn users(&self, id: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        self.arena.neighbors_directed(id, Direction::Outgoing)
    }

    /// All nodes, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeIndex> + use<> {
        self.arena.node_indices()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.arena.node_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The petgraph arena, for algorithms and drawing.
    pub fn arena(&self) -> &DiGraph<Node, Port> {
        &self.arena
    }

    /// Names a node for people.
    pub fn set_name(&mut self, id: NodeIndex, name: &str) {
        self.arena[id].name.get_or_insert_with(|| name.to_owned());
    }
}

impl std::ops::Index<NodeIndex> for Graph {
    type Output = Node;
    fn index(&self, id: NodeIndex) -> &Node {
        &self.arena[id]
    }
}

/// A value that passes between blocks, or an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelValue {
    /// Its name in the text; for people.
    pub name: String,
    /// Its axes.
    pub axes: Axes,
    /// Its type.
    pub ty: Type,
}

/// An `input` of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The value it provides.
    pub value: ValueId,
    /// Integers are checked to lie in `0..bound` at the door.
    pub bound: Option<u64>,
    /// What it is where the caller gives none.
    pub default: Option<Value>,
}

/// A weight slot of a block: what every step binds there has these axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightSlot {
    /// The weight's name in the text, without its layer.
    pub name: String,
    /// Its axes.
    pub axes: Axes,
    /// Its type.
    pub ty: Type,
}

/// A region of the model that is compiled once.
#[derive(Clone, Debug)]
pub struct Block {
    /// For people: the layer axis's name for a layer, `first`, `last`... otherwise.
    pub name: String,
    /// Values it reads; nodes refer to them by number.
    pub params: Vec<ModelValue>,
    /// Weights it reads; nodes refer to them by number.
    pub weights: Vec<WeightSlot>,
    /// Its nodes.
    pub graph: Graph,
    /// What it hands on.
    pub results: Vec<(String, NodeIndex)>,
}

/// One run of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which block.
    pub block: BlockId,
    /// Which layer this is, for people: (layer axis name, number).
    pub layer: Option<(String, u64)>,
    /// One value per parameter of the block.
    pub args: Vec<ValueId>,
    /// One weight per slot of the block.
    pub weights: Vec<WeightId>,
    /// One value per result of the block; each value is written by exactly one step.
    pub results: Vec<ValueId>,
}

/// A weight: a node of [`Model::weight_graph`].
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The name in the text with its layer, as in `wq[3]`.
    pub name: String,
    /// The node that computes it from tensors and constants.
    pub node: NodeIndex,
}

/// An `output` of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name in the text.
    pub name: String,
    /// The value.
    pub value: ValueId,
    /// Axes in the order in which the text lists them: the order of the result's dimensions.
    pub order: Vec<AxisId>,
}

/// A `seq` of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seq {
    /// The name of its axis.
    pub name: String,
    /// Its axis.
    pub axis: AxisId,
    /// The largest length the text allows.
    pub bound: Option<u64>,
}

/// A whole model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The name after `model`.
    pub name: String,
    /// Every axis.
    pub axes: AxisTable,
    /// Sequences, indexed by [`SeqId`].
    pub seqs: Vec<Seq>,
    /// Inputs.
    pub inputs: Vec<Input>,
    /// Values that pass between blocks, inputs included.
    pub values: Vec<ModelValue>,
    /// Everything that depends on weights alone, tensors included.
    pub weight_graph: Graph,
    /// The weights that steps bind.
    pub weights: Vec<Weight>,
    /// Regions, each compiled once.
    pub blocks: Vec<Block>,
    /// What runs, in order.
    pub steps: Vec<Step>,
    /// What comes out.
    pub outputs: Vec<Output>,
}
