//! Specs built by hand, for tests.

use super::*;
use llmc_artifact::plan::PageDim;

/// A spec in the making; every method gives the reference of what it added.
pub struct Sample {
    /// The spec so far; the body is a placeholder until [`Sample::finish`].
    pub spec: KernelSpec,
}

impl Sample {
    /// An empty spec.
    pub fn new(name: &str) -> Sample {
        let body = Body::Map { axes: Vec::new(), stores: Vec::new() };
        let (axes, operands) = (Vec::new(), Vec::new());
        let (name, role) = (name.into(), Role::Prefill);
        Sample { spec: KernelSpec { name, role, axes, operands, exprs: Exprs::default(), body } }
    }

    /// An axis.
    pub fn axis(&mut self, name: &str, extent: KernelExtent) -> AxisRef {
        self.spec.axes.push(KernelAxis { name: name.into(), extent });
        AxisRef(self.spec.axes.len() as u16 - 1)
    }

    /// An axis of constant length.
    pub fn length(&mut self, name: &str, n: u64) -> AxisRef {
        self.axis(name, KernelExtent::Const(n))
    }

    fn operand(&mut self, name: &str, write: bool, format: Format, storage: Storage) -> OperandRef {
        self.spec.operands.push(Operand { name: name.into(), write, format, storage });
        OperandRef(self.spec.operands.len() as u16 - 1)
    }

    /// A dense operand that is read.
    pub fn read(&mut self, name: &str, format: Format, dims: &[Dim]) -> OperandRef {
        self.operand(name, false, format, Storage::Dense { dims: dims.to_vec() })
    }

    /// A dense operand that is written.
    pub fn write(&mut self, name: &str, format: Format, dims: &[Dim]) -> OperandRef {
        self.operand(name, true, format, Storage::Dense { dims: dims.to_vec() })
    }

    /// A weight in panels.
    pub fn panel(&mut self, name: &str, format: Format, rows: u64, reduce: u64) -> OperandRef {
        self.operand(name, false, format, Storage::Panel { rows, reduce })
    }

    /// A cache of sequence 0.
    pub fn paged(&mut self, name: &str, write: bool, format: Format, page: &[PageDim]) -> OperandRef {
        self.operand(name, write, format, Storage::Paged { seq: SeqId(0), page: page.to_vec() })
    }

    /// Any expression.
    pub fn expr(&mut self, expr: Expr, ty: Type) -> ExprRef {
        self.spec.exprs.add(expr, ty)
    }

    /// A real literal.
    pub fn real(&mut self, x: f64) -> ExprRef {
        self.expr(Expr::Const(Value::Real(x)), Type::Real)
    }

    /// An int literal.
    pub fn int(&mut self, n: i64) -> ExprRef {
        self.expr(Expr::Const(Value::Int(n)), Type::Int)
    }

    /// The index along an axis.
    pub fn at(&mut self, axis: AxisRef) -> ExprRef {
        self.expr(Expr::Axis(axis), Type::Int)
    }

    /// An element, ints from `I32`.
    pub fn load(&mut self, operand: OperandRef, index: &[ExprRef]) -> ExprRef {
        let int = self.spec.operands[operand.0 as usize].format == Format::I32;
        let ty = if int { Type::Int } else { Type::Real };
        self.expr(Expr::Load { operand, index: index.to_vec() }, ty)
    }

    /// A scalar operation; its type follows from its operands.
    pub fn map(&mut self, op: ScalarOp, args: &[ExprRef]) -> ExprRef {
        let types: Vec<_> = args.iter().map(|a| self.spec.exprs.0[a.0 as usize].1).collect();
        let ty = op.result(&types).expect("a sample's operands fit");
        self.expr(Expr::Map(op, args.to_vec()), ty)
    }

    /// A real result at this point.
    pub fn result(&mut self, r: u16) -> ExprRef {
        self.expr(Expr::Result { result: ResultRef(r), moved: Vec::new() }, Type::Real)
    }

    /// A real result with one axis moved.
    pub fn moved(&mut self, r: u16, axis: AxisRef, to: ExprRef) -> ExprRef {
        self.expr(Expr::Result { result: ResultRef(r), moved: vec![(axis, to)] }, Type::Real)
    }

    /// The spec, verified.
    pub fn finish(mut self, body: Body) -> Verified<KernelSpec> {
        self.spec.body = body;
        verify(self.spec).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A projection of queries with a rotation by halves, beside a plain one into a cache: two segments, a statistic
/// that scales them, moved results.
pub fn projections(weight: Format, input: Format, head: u64, model: u64) -> Sample {
    let mut s = Sample::new("projections");
    let seq = SeqId(0);
    let rows = Dim::Rows(seq);
    let t = s.axis("t", KernelExtent::Rows(seq));
    let (m, k, e) = (s.length("m", model), s.length("k", 3), s.length("e", head));
    let x = s.read("x", input, &[rows, Dim::Const(model)]);
    let raw = s.read("raw", Format::F32, &[rows, Dim::Const(model)]);
    let wq = s.panel("wq", weight, 3 * head, model);
    let wv = s.panel("wv", weight, 3 * head, model);
    let q = s.write("q", Format::F32, &[rows, Dim::Const(3), Dim::Const(head)]);
    let page = [PageDim::Axis(3), PageDim::Slot { count: 64, step: 1 }, PageDim::Axis(head)];
    let v = s.paged("v", true, Format::F16, &page);

    let (it, im, ik, ie) = (s.at(t), s.at(m), s.at(k), s.at(e));
    let element = s.load(raw, &[it, im]);
    let square = s.map(ScalarOp::Mul, &[element, element]);
    // scale = recip(sqrt(stat / model + eps))
    let stat = s.result(0);
    let (count, eps) = (s.real(model as f64), s.real(1e-5));
    let mean = s.map(ScalarOp::Div, &[stat, count]);
    let mean = s.map(ScalarOp::Add, &[mean, eps]);
    let root = s.map(ScalarOp::Sqrt, &[mean]);
    let scale = s.map(ScalarOp::Recip, &[root]);
    // angle = position * 10000 ^ (-(e % half) / half)
    let position = s.expr(Expr::Position(t), Type::Int);
    let half = s.int(head as i64 / 2);
    let pair = s.map(ScalarOp::Mod, &[ie, half]);
    let power = s.map(ScalarOp::Div, &[pair, half]);
    let power = s.map(ScalarOp::Neg, &[power]);
    let theta = s.real(10000.0);
    let frequency = s.map(ScalarOp::Pow, &[theta, power]);
    let position = s.map(ScalarOp::ToReal, &[position]);
    let angle = s.map(ScalarOp::Mul, &[position, frequency]);
    let (cos, sin) = (s.map(ScalarOp::Cos, &[angle]), s.map(ScalarOp::Sin, &[angle]));
    // q = (acc * cos + where(e < half, -1, 1) * acc[e = (e + half) % head] * sin) * scale
    let shifted = s.map(ScalarOp::Add, &[ie, half]);
    let length = s.int(head as i64);
    let partner = s.map(ScalarOp::Mod, &[shifted, length]);
    let (acc, other) = (s.result(1), s.moved(1, e, partner));
    let first = s.map(ScalarOp::Lt, &[ie, half]);
    let (minus, plus) = (s.real(-1.0), s.real(1.0));
    let sign = s.map(ScalarOp::Where, &[first, minus, plus]);
    let a = s.map(ScalarOp::Mul, &[acc, cos]);
    let b = s.map(ScalarOp::Mul, &[sign, other]);
    let b = s.map(ScalarOp::Mul, &[b, sin]);
    let rotated = s.map(ScalarOp::Add, &[a, b]);
    let rotated = s.map(ScalarOp::Mul, &[rotated, scale]);
    let value = s.result(2);
    let value = s.map(ScalarOp::Mul, &[value, scale]);

    let axes = vec![k, e];
    s.spec.body = Body::Contract(Contract {
        row: t,
        reduce: vec![m],
        input: x,
        stats: vec![Fold { op: ReduceOp::Sum, body: square }],
        products: vec![Product { weight: wq, axes: axes.clone() }, Product { weight: wv, axes: axes.clone() }],
        segments: vec![
            Segment {
                axes: axes.clone(),
                products: vec![ResultRef(1)],
                stores: vec![Store { operand: q, index: vec![it, ik, ie], value: rotated }],
            },
            Segment {
                axes,
                products: vec![ResultRef(2)],
                stores: vec![Store { operand: v, index: vec![it, ik, ie], value }],
            },
        ],
    });
    s
}
