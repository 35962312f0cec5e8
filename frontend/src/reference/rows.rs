//! A graph's values, whole or a row at a time.

use super::tensor::{Tensor, advance};
use crate::graph::{Axes, AxisId, Graph, Op};
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use petgraph::graph::NodeIndex;
use std::borrow::Cow;
use std::rc::Rc;

/// No axis of any model: a row along it is one element.
const NOWHERE: AxisId = AxisId(u32::MAX);

/// The elements of a value along one axis.
#[derive(Clone, Debug)]
enum Row<'r> {
    /// Equal all along.
    One(f64),
    Many(Cow<'r, [f64]>),
}

impl Row<'_> {
    fn get(&self, i: usize) -> f64 {
        match self {
            Row::One(x) => *x,
            Row::Many(xs) => xs[i],
        }
    }

    fn is_one(&self) -> bool {
        matches!(self, Row::One(_))
    }
}

pub(super) struct Rows<'g> {
    graph: &'g Graph,
    lengths: &'g [usize],
    /// Axes whose length is a number of tokens.
    tokens: &'g [bool],
    operands: Vec<Vec<NodeIndex>>,
    /// Nodes whose results are rounded to f32.
    rounded: Vec<bool>,
    kept: Vec<Option<Rc<Tensor>>>,
}

impl<'g> Rows<'g> {
    pub fn new(graph: &'g Graph, lengths: &'g [usize], tokens: &'g [bool]) -> Rows<'g> {
        Rows {
            graph,
            lengths,
            tokens,
            operands: graph.ids().map(|id| graph.operands(id)).collect(),
            rounded: in_f32(graph),
            kept: vec![None; graph.len()],
        }
    }

    pub fn keep(&mut self, id: NodeIndex, value: Rc<Tensor>) {
        self.kept[id.index()] = Some(value);
    }

    pub fn kept(&self, id: NodeIndex) -> Rc<Tensor> {
        self.kept[id.index()].clone().expect("reference: a root is kept")
    }

    fn length(&self, axis: AxisId) -> usize {
        self.lengths.get(axis.0 as usize).copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn size(&self, id: NodeIndex) -> usize {
        self.graph[id].axes.iter().map(|a| self.length(a)).product()
    }

    /// All elements of a node.
    pub fn whole(&self, id: NodeIndex) -> Tensor {
        let node = &self.graph[id];
        match &node.op {
            Op::Reduce(op, over) => self.each_point(id, NOWHERE, |rows, point, out| {
                out.push(rows.reduce(*op, over, rows.operands[id.index()][0], point));
            }),
            Op::TopK { axis, rank } => self.each_point(id, *rank, |rows, point, out| {
                rows.winners(rows.operands[id.index()][0], *axis, rows.length(*rank), point, out);
            }),
            _ => {
                let along = self.storage(id, NOWHERE).last().copied().unwrap_or(NOWHERE);
                self.each_point(id, along, |rows, point, out| match rows.computed(id, point, along) {
                    Row::One(x) => out.extend(std::iter::repeat_n(x, rows.length(along))),
                    Row::Many(xs) => out.extend_from_slice(&xs[..rows.length(along)]),
                })
            }
        }
    }

    /// A node's axes, tokens first, `along` last: rows over features lie side by side.
    fn storage(&self, id: NodeIndex, along: AxisId) -> Vec<AxisId> {
        let mut axes: Vec<_> = self.graph[id].axes.iter().filter(|a| *a != along).collect();
        axes.sort_by_key(|a| !self.tokens[a.0 as usize]);
        axes.extend(self.graph[id].axes.contains(along).then_some(along));
        axes
    }

    /// Calls `f` at each point of the node's axes but `along`, to append the elements along it. Tokens are visited
    /// innermost, so that a weight's row is used for all of them while it is at hand.
    fn each_point(&self, id: NodeIndex, along: AxisId, f: impl Fn(&Self, &mut Vec<usize>, &mut Vec<f64>)) -> Tensor {
        let axes = self.storage(id, along);
        let mut value = Tensor::new(axes.clone(), self.lengths, vec![0.0; self.size(id)]);
        let mut order: Vec<_> = axes.into_iter().filter(|a| *a != along).collect();
        order.sort_by_key(|a| self.tokens[a.0 as usize]);
        let shape: Vec<_> = order.iter().map(|a| self.length(*a)).collect();
        let strides: Vec<_> = order.iter().map(|a| value.stride(*a)).collect();
        let (mut point, mut index, mut row) = (vec![0; self.lengths.len()], vec![0; order.len()], Vec::new());
        for _ in 0..shape.iter().product() {
            order.iter().zip(&index).for_each(|(a, i)| point[a.0 as usize] = *i);
            row.clear();
            f(self, &mut point, &mut row);
            let start: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
            value.data[start..start + row.len()].copy_from_slice(&row);
            advance(&mut index, &shape);
        }
        value
    }

    /// The reduction of `body` over the axes at one point: row by row along the longest of them.
    fn reduce(&self, op: ReduceOp, over: &Axes, body: NodeIndex, point: &mut Vec<usize>) -> f64 {
        let along = over.iter().max_by_key(|a| self.length(*a)).unwrap_or(NOWHERE);
        let others: Vec<_> = over.iter().filter(|a| *a != along).collect();
        let shape: Vec<_> = others.iter().map(|a| self.length(*a)).collect();
        let mut index = vec![0; others.len()];
        let mut value = op.identity(self.graph[body].ty).real();
        for _ in 0..shape.iter().product() {
            others.iter().zip(&index).for_each(|(a, i)| point[a.0 as usize] = *i);
            value = self.fold(op, value, body, point, along);
            advance(&mut index, &shape);
        }
        value
    }

    fn fold(&self, op: ReduceOp, start: f64, body: NodeIndex, point: &mut Vec<usize>, along: AxisId) -> f64 {
        // A sum of products needs no row of products.
        if let (ReduceOp::Sum, None, Op::Map(ScalarOp::Mul)) = (op, &self.kept[body.index()], &self.graph[body].op) {
            let [a, b] = self.operands[body.index()][..] else { unreachable!("reference: a product of two") };
            let (a, b) = (self.row(a, point, along), self.row(b, point, along));
            if let (Row::Many(a), Row::Many(b)) = (&a, &b) {
                return start + dot(a, b);
            }
            return (0..self.length(along)).fold(start, |sum, i| sum + a.get(i) * b.get(i));
        }
        let row = self.row(body, point, along);
        let elements = (0..self.length(along)).map(|i| row.get(i));
        match op {
            ReduceOp::Sum => elements.fold(start, |a, b| a + b),
            ReduceOp::Max | ReduceOp::Any => elements.fold(start, f64::max),
            ReduceOp::Min | ReduceOp::All => elements.fold(start, f64::min),
        }
    }

    /// Indices of the largest elements along an axis: largest first, ties to the lower index, what is no number last.
    fn winners(&self, body: NodeIndex, axis: AxisId, count: usize, point: &mut Vec<usize>, out: &mut Vec<f64>) {
        let row = self.row(body, point, axis);
        let key = |i: usize| if row.get(i).is_nan() { f64::NEG_INFINITY } else { row.get(i) };
        let mut order: Vec<_> = (0..self.length(axis)).collect();
        order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
        out.extend(order.iter().take(count).map(|i| *i as f64));
    }

    /// A node's elements along an axis, at a point of the others.
    fn row(&self, id: NodeIndex, point: &mut Vec<usize>, along: AxisId) -> Row<'_> {
        let Some(tensor) = &self.kept[id.index()] else { return self.computed(id, point, along) };
        let stride = tensor.stride(along);
        if stride == 0 {
            return Row::One(tensor.at(point));
        }
        let was = std::mem::replace(&mut point[along.0 as usize], 0);
        let start = tensor.axes.iter().zip(&tensor.shape).fold(0, |o, (a, n)| o * n + point[a.0 as usize]);
        point[along.0 as usize] = was;
        let n = self.length(along);
        Row::Many(match stride {
            1 => Cow::Borrowed(&tensor.data[start..start + n]),
            _ => Cow::Owned((0..n).map(|i| tensor.data[start + i * stride]).collect()),
        })
    }

    fn computed(&self, id: NodeIndex, point: &mut Vec<usize>, along: AxisId) -> Row<'_> {
        let node = &self.graph[id];
        let operands = &self.operands[id.index()];
        match &node.op {
            Op::Map(op) => {
                let rows: Vec<_> = operands.iter().map(|x| self.row(*x, point, along)).collect();
                let types: Vec<_> = operands.iter().map(|x| self.graph[*x].ty).collect();
                apply(*op, &types, &rows, self.length(along), self.rounded[id.index()])
            }
            Op::Index(read) => self.indexed(read, operands, point, along),
            other => unreachable!("reference: {other:?} is kept"),
        }
    }

    /// `x[a = i, ...]`: all indices are taken at the point, then `x` is read there.
    fn indexed(&self, read: &[AxisId], operands: &[NodeIndex], point: &mut Vec<usize>, along: AxisId) -> Row<'_> {
        let (x, indices) = (operands[0], &operands[1..]);
        let rows: Vec<_> = indices.iter().map(|i| self.row(*i, point, along)).collect();
        if rows.iter().all(Row::is_one) && !read.contains(&along) {
            let before = point.clone();
            self.move_to(point, read, &rows, 0);
            let row = self.row(x, point, along);
            *point = before;
            return row;
        }
        let (before, mut out) = (point.clone(), Vec::with_capacity(self.length(along)));
        for i in 0..self.length(along) {
            if let Some(place) = point.get_mut(along.0 as usize) {
                *place = i;
            }
            self.move_to(point, read, &rows, i);
            out.push(self.row(x, point, NOWHERE).get(0));
        }
        *point = before;
        if along == NOWHERE { Row::One(out[0]) } else { Row::Many(Cow::Owned(out)) }
    }

    /// An index is proved to be in range; what is no number reads the nearest element.
    fn move_to(&self, point: &mut [usize], read: &[AxisId], rows: &[Row<'_>], i: usize) {
        for (axis, row) in read.iter().zip(rows) {
            point[axis.0 as usize] = (row.get(i).max(0.0) as usize).min(self.length(*axis) - 1);
        }
    }
}

/// Reals that end in a rounding to integers: pointwise all the way.
fn in_f32(graph: &Graph) -> Vec<bool> {
    let mut rounded = vec![false; graph.len()];
    for id in graph.ids().rev() {
        let rounds = matches!(&graph[id].op, Op::Map(op) if op.signature() == Signature::Round);
        if rounds || rounded[id.index()] {
            for x in graph.operands(id) {
                rounded[x.index()] |= matches!(graph[x].op, Op::Map(_)) && graph[x].ty == Type::Real;
            }
        }
    }
    rounded
}

/// A scalar operation along rows of `n` elements.
fn apply<'r>(op: ScalarOp, types: &[Type], x: &[Row<'_>], n: usize, rounded: bool) -> Row<'r> {
    if rounded {
        let x: Vec<_> = x.iter().map(|r| each(r, n, |x| x as f32 as f64)).collect();
        return each(&apply(op, types, &x, n, false), n, |x| x as f32 as f64);
    }
    if x.iter().all(Row::is_one) {
        return Row::One(general(op, types, x, 0));
    }
    let real = types[0] == Type::Real;
    let list: Vec<f64> = match (op, x) {
        (ScalarOp::Add, [a, b]) if real => zip(a, b, n, |a, b| a + b),
        (ScalarOp::Sub, [a, b]) if real => zip(a, b, n, |a, b| a - b),
        (ScalarOp::Mul, [a, b]) if real => zip(a, b, n, |a, b| a * b),
        (ScalarOp::Div, [a, b]) if real => zip(a, b, n, |a, b| a / b),
        (ScalarOp::Where, [c, a, b]) => (0..n).map(|i| if c.get(i) != 0.0 { a.get(i) } else { b.get(i) }).collect(),
        _ => (0..n).map(|i| general(op, types, x, i)).collect(),
    };
    Row::Many(Cow::Owned(list))
}

/// The sum of products, in eight parts that a processor can work on side by side.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut parts = [0.0; 8];
    for (a, b) in a.zip(b) {
        parts.iter_mut().zip(a.iter().zip(b)).for_each(|(p, (a, b))| *p += a * b);
    }
    parts.iter().sum::<f64>() + rest
}

/// Any operation, as the table of operations defines it.
fn general(op: ScalarOp, types: &[Type], x: &[Row<'_>], i: usize) -> f64 {
    let value = |(ty, row): (&Type, &Row<'_>)| match ty {
        Type::Real => Value::Real(row.get(i)),
        Type::Int => Value::Int(row.get(i) as i64),
        Type::Bool => Value::Bool(row.get(i) != 0.0),
    };
    let mut values = [Value::Bool(false); 3];
    values.iter_mut().zip(types.iter().zip(x)).for_each(|(v, operand)| *v = value(operand));
    op.evaluate(&values[..x.len()]).real()
}

fn each<'r>(row: &Row<'_>, n: usize, f: impl Fn(f64) -> f64) -> Row<'r> {
    match row {
        Row::One(x) => Row::One(f(*x)),
        Row::Many(xs) => Row::Many(Cow::Owned(xs[..n].iter().map(|x| f(*x)).collect())),
    }
}

fn zip(a: &Row<'_>, b: &Row<'_>, n: usize, f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    match (a, b) {
        (Row::Many(a), Row::Many(b)) => a.iter().zip(b.iter()).map(|(a, b)| f(*a, *b)).collect(),
        (Row::One(a), Row::Many(b)) => b.iter().map(|b| f(*a, *b)).collect(),
        (Row::Many(a), Row::One(b)) => a.iter().map(|a| f(*a, *b)).collect(),
        (Row::One(a), Row::One(b)) => vec![f(*a, *b); n],
    }
}
