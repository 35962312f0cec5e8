//! Graphs drafted by hand: each method is one node, axes and types follow.

use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable, Block, Extent, Graph, ModelValue, Node, Op, WeightSlot};
use petgraph::graph::NodeIndex;

/// A block being written.
pub struct Draft {
    /// Its axes.
    pub axes: AxisTable,
    /// The block so far.
    pub block: Block,
}

/// A node of a draft.
pub type N = NodeIndex;

impl Draft {
    pub fn new() -> Draft {
        let block =
            Block { name: "draft".into(), params: vec![], weights: vec![], graph: Graph::default(), results: vec![] };
        Draft { axes: AxisTable::default(), block }
    }
    pub fn axis(&mut self, name: &str, len: u64) -> AxisId {
        self.axes.push(name, Extent::Const(len))
    }
    pub fn seq(&mut self, name: &str) -> AxisId {
        self.axes.push(name, Extent::Seq(SeqId(0)))
    }
    pub fn view(&mut self, name: &str) -> AxisId {
        self.axes.push(name, Extent::View(SeqId(0)))
    }
    fn add(&mut self, op: Op, axes: Axes, ty: Type, xs: &[N]) -> N {
        self.block.graph.add(Node { op, axes, ty, name: None, span: None }, xs)
    }
    pub fn free(&self, x: N) -> Axes {
        self.block.graph[x].axes.clone()
    }
    pub fn ty(&self, x: N) -> Type {
        self.block.graph[x].ty
    }
    pub fn param(&mut self, name: &str, axes: &[AxisId], ty: Type) -> N {
        let axes: Axes = axes.iter().copied().collect();
        self.block.params.push(ModelValue { name: name.into(), axes: axes.clone(), ty });
        self.add(Op::Param(self.block.params.len() as u32 - 1), axes, ty, &[])
    }
    pub fn weight(&mut self, name: &str, axes: &[AxisId]) -> N {
        let axes: Axes = axes.iter().copied().collect();
        self.block.weights.push(WeightSlot { name: name.into(), axes: axes.clone(), ty: Type::Real });
        self.add(Op::Weight(self.block.weights.len() as u32 - 1), axes, Type::Real, &[])
    }
    pub fn real(&mut self, x: f64) -> N {
        self.add(Op::Const(Value::Real(x)), Axes::none(), Type::Real, &[])
    }
    pub fn int(&mut self, n: i64) -> N {
        self.add(Op::Const(Value::Int(n)), Axes::none(), Type::Int, &[])
    }
    pub fn iota(&mut self, a: AxisId) -> N {
        self.add(Op::Iota(a), Axes::from_iter([a]), Type::Int, &[])
    }
    /// A scalar operation; ints among reals are converted, as the elaborator does.
    pub fn map(&mut self, op: ScalarOp, xs: &[N]) -> N {
        let mut xs = xs.to_vec();
        let first = usize::from(op == ScalarOp::Where);
        let any_real = xs[first..].iter().any(|x| self.ty(*x) == Type::Real);
        if op.signature() == Signature::Real || (any_real && op.signature() != Signature::Convert) {
            for x in &mut xs[first..] {
                if self.ty(*x) == Type::Int {
                    *x = self.map(ScalarOp::ToReal, &[*x]);
                }
            }
        }
        let ty = match op.signature() {
            Signature::Num => self.ty(xs[0]),
            Signature::Select => self.ty(xs[1]),
            Signature::Real | Signature::Convert => Type::Real,
            Signature::Int | Signature::Round => Type::Int,
            Signature::Compare | Signature::Logic => Type::Bool,
        };
        let axes = xs.iter().fold(Axes::none(), |a, x| a.union(&self.free(*x)));
        self.add(Op::Map(op), axes, ty, &xs)
    }
    pub fn mul(&mut self, a: N, b: N) -> N {
        self.map(ScalarOp::Mul, &[a, b])
    }
    pub fn add2(&mut self, a: N, b: N) -> N {
        self.map(ScalarOp::Add, &[a, b])
    }
    pub fn sub(&mut self, a: N, b: N) -> N {
        self.map(ScalarOp::Sub, &[a, b])
    }
    pub fn div(&mut self, a: N, b: N) -> N {
        self.map(ScalarOp::Div, &[a, b])
    }
    pub fn reduce(&mut self, op: ReduceOp, over: &[AxisId], x: N) -> N {
        let over: Axes = over.iter().copied().collect();
        let (axes, ty) = (self.free(x).minus(&over), self.ty(x));
        self.add(Op::Reduce(op, over), axes, ty, &[x])
    }
    pub fn sum(&mut self, over: &[AxisId], x: N) -> N {
        self.reduce(ReduceOp::Sum, over, x)
    }
    pub fn index(&mut self, x: N, a: AxisId, i: N) -> N {
        assert!(self.free(x).contains(a));
        let axes = self.free(x).minus(&Axes::from_iter([a])).union(&self.free(i));
        let ty = self.ty(x);
        self.add(Op::Index(vec![a]), axes, ty, &[x, i])
    }
    pub fn rename(&mut self, x: N, a: AxisId, b: AxisId) -> N {
        let i = self.iota(b);
        self.index(x, a, i)
    }
    pub fn result(&mut self, name: &str, x: N) {
        self.block.results.push((name.into(), x));
    }

    // What the standard library has, as its text has it.

    pub fn mean(&mut self, m: AxisId, x: N) -> N {
        let n = self.axes.len_of(m).expect("a constant axis");
        let (sum, n) = (self.sum(&[m], x), self.int(n as i64));
        self.div(sum, n)
    }
    pub fn rms_norm(&mut self, m: AxisId, x: N, gain: N) -> N {
        let (square, eps) = (self.mul(x, x), self.real(1e-5));
        let mean = self.mean(m, square);
        let shifted = self.add2(mean, eps);
        let root = self.map(ScalarOp::Sqrt, &[shifted]);
        let scaled = self.mul(gain, x);
        self.div(scaled, root)
    }
    pub fn layer_norm(&mut self, m: AxisId, x: N, gain: N, bias: N) -> N {
        let (mean, eps) = (self.mean(m, x), self.real(1e-5));
        let d = self.sub(x, mean);
        let square = self.mul(d, d);
        let variance = self.mean(m, square);
        let shifted = self.add2(variance, eps);
        let root = self.map(ScalarOp::Sqrt, &[shifted]);
        let scaled = self.mul(gain, d);
        let normed = self.div(scaled, root);
        self.add2(normed, bias)
    }
    /// Scores to weights along `s`; `divide` says whether the division is written before or after what follows.
    pub fn softmax_parts(&mut self, s: AxisId, x: N) -> (N, N) {
        let (low, one) = (self.real(-3e38), self.real(1.0));
        let most = self.reduce(ReduceOp::Max, &[s], x);
        let most = self.map(ScalarOp::Max, &[most, low]);
        let shifted = self.sub(x, most);
        let z = self.map(ScalarOp::Exp, &[shifted]);
        let total = self.sum(&[s], z);
        (z, self.map(ScalarOp::Max, &[total, one]))
    }
    /// Half-split rotation of `x[t, e]` by angles `position * freq[f]`, as `rope_half` of the standard library.
    pub fn rope(&mut self, e: AxisId, f: AxisId, t: AxisId, x: N, freq: N) -> N {
        let n = self.axes.len_of(f).expect("a constant axis") as i64;
        let (n, two_n, ie, it) = (self.int(n), self.int(2 * n), self.iota(e), self.iota(t));
        let wrapped = self.map(ScalarOp::Mod, &[ie, n]);
        let w = self.index(freq, f, wrapped);
        let a = self.mul(it, w);
        let (shifted, below) = (self.add2(ie, n), self.map(ScalarOp::Lt, &[ie, n]));
        let partner = self.map(ScalarOp::Mod, &[shifted, two_n]);
        let y = self.index(x, e, partner);
        let (minus, plus) = (self.int(-1), self.int(1));
        let sign = self.map(ScalarOp::Where, &[below, minus, plus]);
        let (cos, sin) = (self.map(ScalarOp::Cos, &[a]), self.map(ScalarOp::Sin, &[a]));
        let straight = self.mul(x, cos);
        let signed = self.mul(sign, y);
        let crossed = self.mul(signed, sin);
        self.add2(straight, crossed)
    }
}
