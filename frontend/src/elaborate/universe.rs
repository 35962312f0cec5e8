//! The universe: one graph of the whole model, layers unrolled, equal nodes once, with what is known of each node.
//!
//! Elaboration builds it; [`super::layers`] cuts it into blocks. In it [`Op::Param`] is an input of the model and
//! [`Op::Tensor`] may stand anywhere.

use crate::graph::{Axes, AxisId, AxisTable, Graph, Node, Op, Seq};
use crate::interval::{self, Range};
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use petgraph::graph::NodeIndex;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// What is known of a node.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Bounds of its elements.
    pub range: Range,
    /// Depends on tensors, literals and axes of constant length alone.
    pub weight_only: bool,
    /// Depends on a tensor of the checkpoint.
    pub tensor: bool,
    /// A tensor in a block format, or elements picked from one.
    pub quantised: bool,
    /// De-quantises: computes with a quantised tensor's elements, and so is no weight.
    pub dequantises: bool,
    /// Depends on no input: iotas, lengths, literals and weights alone.
    pub floating: bool,
    /// Contains a reduction, a transcendental function or a `topk`.
    pub expensive: bool,
    /// Where it was written first.
    pub region: usize,
    /// Written again in another turn of the same loop.
    pub repeated: bool,
}

/// A stretch of the model that becomes one step: statements between loops, or one turn of a loop.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// The turn: layer axis, layer number, and the number of the loop.
    pub turn: Option<(String, u64, usize)>,
    /// The statements before the loop that this turn belongs to.
    pub before: usize,
}

/// Operation and operands, compared bit by bit.
#[derive(PartialEq)]
struct Key(Op, Vec<NodeIndex>);

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, h: &mut H) {
        std::mem::discriminant(&self.0).hash(h);
        match &self.0 {
            Op::Const(v) => v.real().to_bits().hash(h),
            Op::Iota(a) => a.hash(h),
            Op::Length(s) => s.hash(h),
            Op::Param(n) | Op::Weight(n) => n.hash(h),
            Op::Tensor(view) => view.hash(h),
            Op::Map(op) => op.hash(h),
            Op::Reduce(op, axes) => (op, axes).hash(h),
            Op::Index(axes) => axes.hash(h),
            Op::TopK { axis, rank } => (axis, rank).hash(h),
        }
        self.1.hash(h);
    }
}

pub(super) struct Universe {
    pub graph: Graph,
    pub axes: AxisTable,
    pub seqs: Vec<Seq>,
    pub regions: Vec<Region>,
    /// Span that new nodes get.
    pub span: Option<(u32, u32, u32)>,
    facts: Vec<Facts>,
    memo: HashMap<Key, NodeIndex>,
}

impl Universe {
    pub fn new() -> Universe {
        Universe {
            graph: Graph::default(),
            axes: AxisTable::default(),
            seqs: Vec::new(),
            regions: vec![Region { turn: None, before: 0 }],
            span: None,
            facts: Vec::new(),
            memo: HashMap::new(),
        }
    }

    pub fn facts(&self, id: NodeIndex) -> &Facts {
        &self.facts[id.index()]
    }

    pub fn node_axes(&self, id: NodeIndex) -> &Axes {
        &self.graph[id].axes
    }

    pub fn ty(&self, id: NodeIndex) -> Type {
        self.graph[id].ty
    }

    /// The literal a node is, if it is one.
    pub fn literal(&self, id: NodeIndex) -> Option<Value> {
        match self.graph[id].op {
            Op::Const(v) => Some(v),
            _ => None,
        }
    }

    fn longest(&self, seq: SeqId) -> Option<u64> {
        self.seqs[seq.0 as usize].bound
    }

    pub fn constant(&mut self, value: Value) -> NodeIndex {
        // A zero's sign and a NaN's payload would make equal keys unequal; NaN equals nothing and is built anew.
        let value = if value == Value::Real(0.0) { Value::Real(0.0) } else { value };
        let facts = Facts { weight_only: true, ..self.leaf(Range::of_value(value)) };
        self.add(Op::Const(value), vec![], Axes::none(), value.ty(), facts)
    }

    pub fn iota(&mut self, axis: AxisId) -> NodeIndex {
        let extent = self.axes[axis].extent;
        let range = Range::of_axis(extent, self.seq_of(axis).and_then(|s| self.longest(s)));
        let facts = Facts { weight_only: self.seq_of(axis).is_none(), ..self.leaf(range) };
        self.add(Op::Iota(axis), vec![], Axes::from_iter([axis]), Type::Int, facts)
    }

    pub fn length(&mut self, seq: SeqId) -> NodeIndex {
        let facts = self.leaf(Range::of_length(seq, self.longest(seq)));
        self.add(Op::Length(seq), vec![], Axes::none(), Type::Int, facts)
    }

    /// The model's input of this number.
    pub fn input(&mut self, number: u32, axes: Axes, ty: Type, below: Option<u64>) -> NodeIndex {
        let range = below.map_or(Range::ANY, |n| Range::new(0.0, n as f64 - 1.0));
        let facts = Facts { floating: false, ..self.leaf(range) };
        self.add(Op::Param(number), vec![], axes, ty, facts)
    }

    pub fn tensor(&mut self, view: crate::graph::TensorView) -> NodeIndex {
        let axes = view.stacked.into_iter().chain(view.dims.iter().flatten().copied()).collect();
        let facts = Facts {
            weight_only: true,
            tensor: true,
            quantised: view.info.format.is_quantised(),
            ..self.leaf(Range::ANY)
        };
        self.add(Op::Tensor(view), vec![], axes, Type::Real, facts)
    }

    /// Operands have the types that the signature demands: [`super::typing`] has seen to it.
    pub fn map(&mut self, op: ScalarOp, operands: &[NodeIndex]) -> NodeIndex {
        if let Some(same) = self.simplify(op, operands) {
            return same;
        }
        let ranges: Vec<_> = operands.iter().map(|x| self.facts(*x).range).collect();
        let axes = operands.iter().fold(Axes::none(), |a, x| a.union(self.node_axes(*x)));
        let ty = match op.signature() {
            Signature::Num => self.ty(operands[0]),
            Signature::Real | Signature::Convert => Type::Real,
            Signature::Int | Signature::Round => Type::Int,
            Signature::Compare | Signature::Logic => Type::Bool,
            Signature::Select => self.ty(operands[1]),
        };
        let mut facts = self.combine(operands, interval::of_map(op, &ranges));
        facts.dequantises |= operands.iter().any(|x| self.facts(*x).quantised);
        facts.expensive |= is_transcendental(op);
        self.add(Op::Map(op), operands.to_vec(), axes, ty, facts)
    }

    /// Literals are folded; `x + 0`, `1 * x` and their like are `x`.
    fn simplify(&mut self, op: ScalarOp, x: &[NodeIndex]) -> Option<NodeIndex> {
        let literals: Vec<_> = x.iter().map(|n| self.literal(*n)).collect();
        if let Some(values) = literals.iter().copied().collect::<Option<Vec<_>>>() {
            return Some(self.constant(op.evaluate(&values)));
        }
        let is = |i: usize, n: f64| matches!(literals[i], Some(Value::Int(_) | Value::Real(_)) if literals[i].is_some_and(|v| v.real() == n));
        if let Some(known) = self.decided(op, x) {
            return Some(self.constant(Value::Bool(known)));
        }
        match op {
            ScalarOp::Where if literals[0] == Some(Value::Bool(true)) => Some(x[1]),
            ScalarOp::Where if literals[0] == Some(Value::Bool(false)) => Some(x[2]),
            ScalarOp::Add if is(0, 0.0) => Some(x[1]),
            ScalarOp::Add | ScalarOp::Sub if is(1, 0.0) => Some(x[0]),
            ScalarOp::Mul if is(0, 1.0) => Some(x[1]),
            ScalarOp::Mul | ScalarOp::Div | ScalarOp::Pow if is(1, 1.0) => Some(x[0]),
            ScalarOp::And if literals[0] == Some(Value::Bool(true)) => Some(x[1]),
            ScalarOp::And if literals[1] == Some(Value::Bool(true)) => Some(x[0]),
            ScalarOp::Or if literals[0] == Some(Value::Bool(false)) => Some(x[1]),
            ScalarOp::Or if literals[1] == Some(Value::Bool(false)) => Some(x[0]),
            _ => None,
        }
    }

    /// A comparison of integers whose ranges decide it.
    fn decided(&self, op: ScalarOp, x: &[NodeIndex]) -> Option<bool> {
        if op.signature() != Signature::Compare || self.ty(x[0]) != Type::Int {
            return None;
        }
        let (a, b) = (self.facts(x[0]).range, self.facts(x[1]).range);
        let (below, above) = (a.hi < b.lo, a.lo > b.hi);
        let (at_most, at_least) = (a.hi <= b.lo, a.lo >= b.hi);
        match op {
            ScalarOp::Lt => {
                if below {
                    Some(true)
                } else {
                    at_least.then_some(false)
                }
            }
            ScalarOp::Le => {
                if at_most {
                    Some(true)
                } else {
                    above.then_some(false)
                }
            }
            ScalarOp::Gt => {
                if above {
                    Some(true)
                } else {
                    at_most.then_some(false)
                }
            }
            ScalarOp::Ge => {
                if at_least {
                    Some(true)
                } else {
                    below.then_some(false)
                }
            }
            ScalarOp::Eq => (below || above).then_some(false),
            ScalarOp::Ne => (below || above).then_some(true),
            _ => None,
        }
    }

    /// `axes` are axes of the body.
    pub fn reduce(&mut self, op: ReduceOp, axes: Axes, body: NodeIndex) -> NodeIndex {
        if axes.is_empty() {
            return body;
        }
        let mut facts = self.combine(&[body], interval::of_reduce(op, self.facts(body).range));
        facts.weight_only &= axes.iter().all(|a| self.seq_of(a).is_none());
        facts.dequantises |= self.facts(body).quantised;
        facts.expensive = true;
        let (rest, ty) = (self.node_axes(body).minus(&axes), self.ty(body));
        self.add(Op::Reduce(op, axes), vec![body], rest, ty, facts)
    }

    /// `x[a = i, ...]`: axes of `x`, each with its index. Reading an axis at itself reads nothing.
    pub fn index(&mut self, x: NodeIndex, at: &[(AxisId, NodeIndex)]) -> NodeIndex {
        let at: Vec<_> = at.iter().copied().filter(|(a, i)| self.graph[*i].op != Op::Iota(*a)).collect();
        if at.is_empty() {
            return x;
        }
        let mut axes = self.node_axes(x).minus(&at.iter().map(|(a, _)| *a).collect());
        for (_, i) in &at {
            axes = axes.union(self.node_axes(*i));
        }
        let operands: Vec<_> = std::iter::once(x).chain(at.iter().map(|(_, i)| *i)).collect();
        let mut facts = self.combine(&operands, self.facts(x).range);
        facts.quantised = self.facts(x).quantised;
        let ty = self.ty(x);
        self.add(Op::Index(at.iter().map(|(a, _)| *a).collect()), operands, axes, ty, facts)
    }

    pub fn topk(&mut self, axis: AxisId, rank: AxisId, x: NodeIndex) -> NodeIndex {
        let range = Range::of_axis(self.axes[axis].extent, self.seq_of(axis).and_then(|s| self.longest(s)));
        let mut facts = self.combine(&[x], range);
        facts.weight_only &= self.seq_of(axis).is_none();
        facts.dequantises |= self.facts(x).quantised;
        facts.expensive = true;
        let axes = self.node_axes(x).minus(&Axes::from_iter([axis])).union(&Axes::from_iter([rank]));
        self.add(Op::TopK { axis, rank }, vec![x], axes, Type::Int, facts)
    }

    /// The value over more axes, equal along the new ones.
    pub fn broadcast(&mut self, x: NodeIndex, axes: &Axes) -> NodeIndex {
        axes.minus(&self.node_axes(x).clone()).iter().fold(x, |x, axis| {
            let (index, zero) = (self.iota(axis), self.constant(Value::Int(0)));
            let first = self.map(ScalarOp::Eq, &[index, zero]);
            self.map(ScalarOp::Where, &[first, x, x])
        })
    }

    pub fn seq_of(&self, axis: AxisId) -> Option<SeqId> {
        match self.axes[axis].extent {
            crate::graph::Extent::Const(_) => None,
            crate::graph::Extent::Seq(s) | crate::graph::Extent::View(s) => Some(s),
        }
    }

    /// Whether a weight of the model: computed from tensors once, when they are loaded, and never from the
    /// elements of a quantised one. Real constants that take work to make count as well.
    pub fn is_weight(&self, id: NodeIndex) -> bool {
        let f = self.facts(id);
        f.weight_only && !f.dequantises && (f.tensor || f.expensive) && self.ty(id) == Type::Real
    }

    fn leaf(&self, range: Range) -> Facts {
        Facts {
            range,
            weight_only: false,
            tensor: false,
            quantised: false,
            dequantises: false,
            floating: true,
            expensive: false,
            region: self.regions.len() - 1,
            repeated: false,
        }
    }

    fn combine(&self, operands: &[NodeIndex], range: Range) -> Facts {
        let of = |f: fn(&Facts) -> bool| (f, operands);
        let all = |(f, x): (fn(&Facts) -> bool, &[NodeIndex])| x.iter().all(|n| f(self.facts(*n)));
        let any = |(f, x): (fn(&Facts) -> bool, &[NodeIndex])| x.iter().any(|n| f(self.facts(*n)));
        Facts {
            weight_only: all(of(|f| f.weight_only)),
            tensor: any(of(|f| f.tensor)),
            dequantises: any(of(|f| f.dequantises)),
            floating: all(of(|f| f.floating)),
            expensive: any(of(|f| f.expensive)),
            ..self.leaf(range)
        }
    }

    fn add(&mut self, op: Op, operands: Vec<NodeIndex>, axes: Axes, ty: Type, facts: Facts) -> NodeIndex {
        let key = Key(op, operands);
        if let Some(id) = self.memo.get(&key).copied() {
            self.note_repetition(id);
            return id;
        }
        let node = Node { op: key.0.clone(), axes, ty, name: None, span: self.span };
        let id = self.graph.add(node, &key.1);
        self.facts.push(facts);
        self.memo.insert(key, id);
        id
    }

    fn note_repetition(&mut self, id: NodeIndex) {
        let (first, now) = (self.facts[id.index()].region, self.regions.len() - 1);
        let turn = |r: usize| self.regions[r].turn.as_ref().map(|(_, _, number)| *number);
        if first != now && turn(now).is_some() && turn(first) == turn(now) {
            self.facts[id.index()].repeated = true;
        }
    }
}

/// Functions that take a processor many instructions: worth computing once and handing on.
pub(super) fn is_transcendental(op: ScalarOp) -> bool {
    match op {
        ScalarOp::Pow
        | ScalarOp::Exp
        | ScalarOp::Exp2
        | ScalarOp::Log
        | ScalarOp::Log2
        | ScalarOp::Sin
        | ScalarOp::Cos
        | ScalarOp::Tanh
        | ScalarOp::Erf => true,
        ScalarOp::Add
        | ScalarOp::Sub
        | ScalarOp::Mul
        | ScalarOp::Div
        | ScalarOp::FloorDiv
        | ScalarOp::Mod
        | ScalarOp::Neg
        | ScalarOp::Max
        | ScalarOp::Min
        | ScalarOp::Abs
        | ScalarOp::Sqrt
        | ScalarOp::Recip
        | ScalarOp::Floor
        | ScalarOp::Ceil
        | ScalarOp::Trunc
        | ScalarOp::Eq
        | ScalarOp::Ne
        | ScalarOp::Lt
        | ScalarOp::Le
        | ScalarOp::Gt
        | ScalarOp::Ge
        | ScalarOp::And
        | ScalarOp::Or
        | ScalarOp::Not
        | ScalarOp::Where
        | ScalarOp::ToReal => false,
    }
}
