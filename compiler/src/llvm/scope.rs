//! The one scalar-expression emitter: from a spec's [`Expr`] at a point of its axes to LLVM values.
//!
//! A [`Scope`] says where each axis stands, one of them perhaps over the lanes of a vector, and remembers what has been
//! computed. Entering a loop makes an inner scope with the loop's axis bound anew; what does not depend on that axis
//! is kept, so it is computed once if it was asked for outside.

use super::{Cmp, Emitter, Form, Lane, Ty, Val};
use crate::kernel::{AxisRef, Body, Expr, ExprRef, KernelExtent, KernelSpec, OperandRef, ResultRef};
use llmc_artifact::plan::Table;
use llmc_artifact::{Dim, ScalarOp, SeqId, Type, Value};
use std::cell::RefCell;
use std::collections::HashMap;

/// The precision that a real expression is evaluated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32: everything but angles and powers.
    Single,
    /// f64.
    Double,
}

impl Precision {
    fn ty(self) -> Ty {
        match self {
            Precision::Single => Ty::F32,
            Precision::Double => Ty::F64,
        }
    }
}

/// A kernel's parameters as values.
#[derive(Clone, Debug)]
pub struct Args<'c> {
    /// A pointer per operand.
    pub operands: Vec<Val<'c>>,
    /// A pointer per table.
    pub tables: Vec<(Table, Val<'c>)>,
    /// Lengths of the step.
    pub dims: Vec<(Dim, Val<'c>)>,
}

impl<'c> Args<'c> {
    /// An operand's pointer.
    pub fn operand(&self, operand: OperandRef) -> Val<'c> {
        self.operands[operand.0 as usize]
    }

    /// A table's pointer.
    pub fn table(&self, table: Table) -> Val<'c> {
        let found = self.tables.iter().find(|(t, _)| *t == table);
        found.unwrap_or_else(|| panic!("emission: the kernel does not take {table:?}")).1
    }
}

/// Where a family keeps the values of its reductions.
pub trait Results<'c> {
    /// A reduction's value at the scope's point, some axes read elsewhere.
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c>;
    /// A state's value before the current block.
    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c>;
}

/// The results of a family that has none.
pub struct NoResults;

impl<'c> Results<'c> for NoResults {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, _: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        panic!("emission: `{}` reads result {} where there is none", scope.spec().name, result.0)
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        panic!("emission: `{}` reads the old result {} where there is none", scope.spec().name, result.0)
    }
}

/// What an expression depends on: bits of axes, whether it reads a result, whether it loads.
#[derive(Clone, Copy, Default)]
struct Dependence {
    axes: u64,
    results: bool,
    loads: bool,
}

fn dependences(spec: &KernelSpec) -> Vec<Dependence> {
    assert!(spec.axes.len() <= 64, "emission: `{}` has more than 64 axes", spec.name);
    let axis = |a: AxisRef| {
        let of = match spec.axes[a.0 as usize].extent {
            KernelExtent::Keys { of, .. } => 1 << of.0,
            KernelExtent::Const(_)
            | KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_)
            | KernelExtent::Parts { .. } => 0,
        };
        1u64 << a.0 | of
    };
    let mut all: Vec<Dependence> = Vec::with_capacity(spec.exprs.0.len());
    for (expr, _) in &spec.exprs.0 {
        let join = |refs: &[ExprRef]| {
            refs.iter().fold(Dependence::default(), |d, r| {
                let x = all[r.0 as usize];
                Dependence { axes: d.axes | x.axes, results: d.results | x.results, loads: d.loads | x.loads }
            })
        };
        all.push(match expr {
            Expr::Const(_) => Dependence::default(),
            Expr::Axis(a) | Expr::Position(a) | Expr::Row(a) | Expr::Length(a) | Expr::Sequence(a) => {
                Dependence { axes: axis(*a), ..Dependence::default() }
            }
            Expr::Load { index, .. } => Dependence { loads: true, ..join(index) },
            Expr::Result { result, moved } => {
                let indices = join(&moved.iter().map(|(_, e)| *e).collect::<Vec<_>>());
                let kept = moved.iter().fold(result_axes(spec, *result), |axes, (a, _)| axes & !(1 << a.0));
                Dependence { results: true, axes: kept | indices.axes, loads: indices.loads }
            }
            Expr::Old(r) => Dependence { results: true, axes: result_axes(spec, *r), loads: false },
            Expr::Rounded(_, x) => join(&[*x]),
            Expr::Map(_, args) => join(args),
        });
    }
    all
}

/// The axes that a reduction's value varies over.
fn result_axes(spec: &KernelSpec, result: ResultRef) -> u64 {
    let r = result.0 as usize;
    let bits = |axes: &[AxisRef]| axes.iter().fold(0, |bits, a| bits | 1u64 << a.0);
    match &spec.body {
        Body::Stream(s) => match r.checked_sub(s.dots.len()) {
            None => bits(&s.parallel) | bits(&s.over),
            Some(state) => bits(&s.parallel) | bits(&s.states[state].axes),
        },
        Body::Contract(c) => {
            let product = r.checked_sub(c.stats.len()).map_or(0, |p| bits(&c.products[p].axes));
            bits(&[c.row]) | product
        }
        Body::Map { .. } | Body::TopK(_) => 0,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Known {
    Expr(ExprRef, Precision),
    Row(AxisRef),
    Sequence(AxisRef),
    Position(AxisRef),
}

/// A point of a kernel's axes, with the values already computed there.
pub struct Scope<'a, 'c> {
    emitter: &'a Emitter<'c>,
    spec: &'a KernelSpec,
    args: &'a Args<'c>,
    results: &'a dyn Results<'c>,
    depends: std::rc::Rc<Vec<Dependence>>,
    width: u32,
    axes: Vec<Option<Lane<'c>>>,
    known: RefCell<HashMap<Known, Lane<'c>>>,
}

impl<'a, 'c> Scope<'a, 'c> {
    /// A scope with no axis bound and vectors of one lane.
    pub fn new(emitter: &'a Emitter<'c>, spec: &'a KernelSpec, args: &'a Args<'c>) -> Scope<'a, 'c> {
        Scope {
            emitter,
            spec,
            args,
            results: &NoResults,
            depends: std::rc::Rc::new(dependences(spec)),
            width: 1,
            axes: vec![None; spec.axes.len()],
            known: RefCell::default(),
        }
    }

    fn derive(&self, keep: impl Fn(Known, Dependence) -> bool) -> Scope<'a, 'c> {
        let known = self.known.borrow();
        let known = known.iter().filter(|(k, _)| {
            let d = match k {
                Known::Expr(e, _) => self.depends[e.0 as usize],
                Known::Row(a) | Known::Sequence(a) | Known::Position(a) => {
                    Dependence { axes: 1 << a.0, ..Dependence::default() }
                }
            };
            keep(**k, d)
        });
        Scope {
            known: RefCell::new(known.map(|(k, v)| (*k, *v)).collect()),
            depends: self.depends.clone(),
            axes: self.axes.clone(),
            ..*self
        }
    }

    /// The scope with an axis at these indices. What depends on the axis is forgotten.
    pub fn bind(&self, axis: AxisRef, at: Lane<'c>) -> Scope<'a, 'c> {
        let mut inner = self.derive(|_, d| d.axes & 1 << axis.0 == 0);
        inner.axes[axis.0 as usize] = Some(at);
        inner
    }

    /// The scope at vectors of another width. Values of the old width are forgotten, uniform ones kept.
    pub fn widened(&self, width: u32) -> Scope<'a, 'c> {
        let inner = self.derive(|_, _| true);
        if width != self.width {
            inner.known.borrow_mut().retain(|_, v| v.form == Form::Uniform);
        }
        Scope { width, ..inner }
    }

    /// The scope with a family's results, those seen before forgotten.
    pub fn with_results<'b>(&self, results: &'b dyn Results<'c>) -> Scope<'b, 'c>
    where
        'a: 'b,
    {
        Scope { results, ..self.derive(|_, d| !d.results) }
    }

    /// Says that an expression has this value here: computed elsewhere, for all lanes.
    pub fn assume(&self, expr: ExprRef, value: Lane<'c>) {
        self.known.borrow_mut().insert(Known::Expr(expr, Precision::Single), value);
    }

    /// Computes, now, the largest parts of expressions that depend on none of the axes and on no result, so that an
    /// inner scope finds them.
    pub fn hoist(&self, roots: &[ExprRef], varying: &[AxisRef]) {
        let varying = varying.iter().fold(0, |bits, a| bits | 1u64 << a.0);
        let mut stack = roots.to_vec();
        let mut seen = std::collections::HashSet::new();
        while let Some(e) = stack.pop() {
            let d = self.depends[e.0 as usize];
            let known = self.known.borrow().contains_key(&Known::Expr(e, Precision::Single));
            if known || !seen.insert(e) {
                continue;
            }
            match &self.spec.exprs[e] {
                Expr::Const(_) => {}
                _ if d.axes & varying == 0 && !d.results => {
                    self.value(e, Precision::Single);
                }
                expr => stack.extend(operands_of(expr)),
            }
        }
    }

    /// The emitter.
    pub fn emitter(&self) -> &'a Emitter<'c> {
        self.emitter
    }

    /// The kernel.
    pub fn spec(&self) -> &'a KernelSpec {
        self.spec
    }

    /// The kernel's parameters.
    pub fn args(&self) -> &'a Args<'c> {
        self.args
    }

    /// Lanes of the scope's vectors.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Where an axis stands.
    pub fn axis(&self, axis: AxisRef) -> Lane<'c> {
        self.axes[axis.0 as usize]
            .unwrap_or_else(|| panic!("emission: `{}` reads an axis outside its loop", self.spec.name))
    }

    /// A length of the step.
    pub fn dim(&self, dim: Dim) -> Val<'c> {
        let e = self.emitter;
        if let Dim::Const(n) = dim {
            return e.int(n as i64);
        }
        if let Dim::Tiles(s, each, size) = dim {
            let rows = e.mul(self.dim(Dim::Rows(s)), e.int(each as i64));
            return e.div(e.add(rows, e.int(size as i64 - 1)), e.int(size as i64));
        }
        let found = self.args.dims.iter().find(|(d, _)| *d == dim);
        found.unwrap_or_else(|| panic!("emission: `{}` does not take the length {dim}", self.spec.name)).1
    }

    /// Whether an expression depends on an axis.
    pub fn depends_on(&self, e: ExprRef, axis: AxisRef) -> bool {
        self.depends[e.0 as usize].axes & 1 << axis.0 != 0
    }

    /// Whether an expression reads a result.
    pub fn reads_result(&self, e: ExprRef) -> bool {
        self.depends[e.0 as usize].results
    }

    pub(super) fn reaches_load(&self, e: ExprRef) -> bool {
        self.depends[e.0 as usize].loads
    }

    pub(super) fn axes_of(&self, e: ExprRef) -> impl Iterator<Item = AxisRef> + use<> {
        let axes = self.depends[e.0 as usize].axes;
        (0..self.spec.axes.len() as u16).filter(move |a| axes & 1 << a != 0).map(AxisRef)
    }

    /// The largest parts of an expression that `wanted` holds for.
    pub fn largest_parts(&self, root: ExprRef, wanted: impl Fn(ExprRef) -> bool) -> Vec<ExprRef> {
        let (mut stack, mut found) = (vec![root], Vec::new());
        while let Some(e) = stack.pop() {
            if wanted(e) {
                if !found.contains(&e) {
                    found.push(e);
                }
            } else {
                stack.extend(operands_of(&self.spec.exprs[e]));
            }
        }
        found
    }

    pub(super) fn is_keys(&self, axis: AxisRef) -> bool {
        matches!(self.spec.axes[axis.0 as usize].extent, KernelExtent::Keys { .. })
    }

    fn remember(&self, key: Known, compute: impl FnOnce() -> Lane<'c>) -> Lane<'c> {
        if let Some(v) = self.known.borrow().get(&key) {
            return *v;
        }
        let v = compute();
        self.known.borrow_mut().insert(key, v);
        v
    }

    fn seq_of(&self, axis: AxisRef) -> SeqId {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Rows(s) | KernelExtent::Picked(s) | KernelExtent::Tokens(s) | KernelExtent::Sequences(s) => s,
            _ => panic!("emission: `{}` asks for the token of an axis that has none", self.spec.name),
        }
    }

    /// The row of this step at a row axis.
    pub fn row(&self, axis: AxisRef) -> Lane<'c> {
        self.remember(Known::Row(axis), || match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Picked(s) => self.table(Table::Picked(s), self.axis(axis)),
            _ => self.axis(axis),
        })
    }

    /// Which sequence of the batch the token of a row axis belongs to.
    /// An axis of sequences is it itself.
    pub fn sequence_of(&self, axis: AxisRef) -> Lane<'c> {
        self.remember(Known::Sequence(axis), || match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Sequences(_) => self.axis(axis),
            KernelExtent::Tokens(s) => self.table(Table::TokenSeq(s), self.axis(axis)),
            _ => self.table(Table::RowSeq(self.seq_of(axis)), self.row(axis)),
        })
    }

    /// The position of the token of a row axis.
    pub fn position(&self, axis: AxisRef) -> Lane<'c> {
        self.remember(Known::Position(axis), || match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Tokens(s) => self.table(Table::TokenPositions(s), self.axis(axis)),
            _ => self.table(Table::Positions(self.seq_of(axis)), self.row(axis)),
        })
    }

    /// Tokens that sequence `seq` has, of the batch entry that the token of a row axis belongs to.
    pub fn length(&self, seq: SeqId, axis: AxisRef) -> Lane<'c> {
        self.table(Table::Lengths(seq), self.sequence_of(axis))
    }

    /// An integer expression.
    pub fn int(&self, e: ExprRef) -> Lane<'c> {
        self.value(e, Precision::Single)
    }

    /// A real expression in f32; an int is converted.
    pub fn real(&self, e: ExprRef) -> Lane<'c> {
        self.real_in(e, Precision::Single)
    }

    fn real_in(&self, e: ExprRef, p: Precision) -> Lane<'c> {
        let v = self.value(e, p);
        let emit = self.emitter;
        match v.ty() {
            Ty::I64 => emit.lanewise(&[v], self.width, |x| emit.int_to_float(x[0], p.ty())),
            Ty::I1 => emit.lanewise(&[v], self.width, |x| emit.int_to_float(emit.zext(x[0], Ty::I32), p.ty())),
            ty if ty == p.ty() => v,
            _ => emit.lanewise(&[v], self.width, |x| emit.float_cast(x[0], p.ty())),
        }
    }

    /// An expression's value: f32 or f64 for reals, i64 for ints, i1 for truth values.
    pub fn value(&self, e: ExprRef, p: Precision) -> Lane<'c> {
        self.remember(Known::Expr(e, p), || match &self.spec.exprs[e] {
            Expr::Const(Value::Real(x)) => {
                let zero = self.emitter.zero(p.ty(), 1);
                Lane::uniform(self.emitter.like(zero, *x))
            }
            Expr::Const(Value::Int(n)) => Lane::uniform(self.emitter.int(*n)),
            Expr::Const(Value::Bool(b)) => Lane::uniform(self.emitter.bool(*b)),
            Expr::Axis(a) => self.axis(*a),
            Expr::Position(a) => self.position(*a),
            Expr::Row(a) => self.row(*a),
            Expr::Length(a) => self.length(self.seq_of(*a), *a),
            Expr::Sequence(a) => self.sequence_of(*a),
            Expr::Load { operand, index } => self.typed_load(e, *operand, index),
            Expr::Result { result, moved } => {
                let moved: Vec<_> = moved.iter().map(|(a, i)| (*a, self.int(*i))).collect();
                self.results.result(self, *result, &moved)
            }
            Expr::Old(r) => self.results.old(self, *r),
            Expr::Rounded(dtype, x) => {
                let e = self.emitter;
                let round = |v: &[Val<'c>]| e.widen_stored(*dtype, e.narrow_stored(*dtype, v[0]));
                e.lanewise(&[self.real(*x)], self.width, round)
            }
            Expr::Map(op, args) => self.map(*op, args, self.spec.exprs.0[e.0 as usize].1, p),
        })
    }

    fn typed_load(&self, e: ExprRef, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        let (emit, v) = (self.emitter, self.load(operand, index));
        match (self.spec.exprs.0[e.0 as usize].1, v.ty()) {
            (Type::Bool, Ty::I64) => {
                emit.lanewise(&[v], self.width, |x| emit.compare(Cmp::Ne, x[0], emit.like_int(x[0], 0)))
            }
            _ => v,
        }
    }

    fn map(&self, op: ScalarOp, args: &[ExprRef], ty: Type, p: Precision) -> Lane<'c> {
        let (e, w) = (self.emitter, self.width);
        let ints = || args.iter().map(|a| self.int(*a)).collect::<Vec<_>>();
        let reals = |p: Precision| args.iter().map(|a| self.real_in(*a, p)).collect::<Vec<_>>();
        let real1 = |f: &dyn Fn(Val<'c>) -> Val<'c>| e.lanewise(&reals(p), w, |v| f(v[0]));
        let real2 = |f: &dyn Fn(Val<'c>, Val<'c>) -> Val<'c>| e.lanewise(&reals(p), w, |v| f(v[0], v[1]));
        let in_f64 = |f: &dyn Fn(&[Val<'c>]) -> Val<'c>| {
            e.lanewise(&reals(Precision::Double), w, |v| e.float_cast(f(v), p.ty()))
        };
        let int = ty == Type::Int;
        match op {
            ScalarOp::Add if int => e.lane_add(ints()[0], ints()[1], w),
            ScalarOp::Sub if int => e.lane_sub(ints()[0], ints()[1], w),
            ScalarOp::Mul if int => e.lane_mul(ints()[0], ints()[1], w),
            ScalarOp::FloorDiv => e.lane_div_rem(ints()[0], ints()[1], w).0,
            ScalarOp::Mod => e.lane_div_rem(ints()[0], ints()[1], w).1,
            ScalarOp::Neg if int => e.lane_sub(Lane::uniform(e.int(0)), ints()[0], w),
            ScalarOp::Max if int => e.lanewise(&ints(), w, |v| e.max(v[0], v[1])),
            ScalarOp::Min if int => e.lanewise(&ints(), w, |v| e.min(v[0], v[1])),
            ScalarOp::Abs if int => e.lanewise(&ints(), w, |v| e.abs(v[0])),
            ScalarOp::Add => real2(&|a, b| e.add(a, b)),
            ScalarOp::Sub => real2(&|a, b| e.sub(a, b)),
            ScalarOp::Mul => real2(&|a, b| e.mul(a, b)),
            ScalarOp::Div => real2(&|a, b| e.div(a, b)),
            ScalarOp::Pow => self.pow(args, p),
            ScalarOp::Neg => real1(&|a| e.neg(a)),
            ScalarOp::Max => real2(&|a, b| e.max(a, b)),
            ScalarOp::Min => real2(&|a, b| e.min(a, b)),
            ScalarOp::Abs => real1(&|a| e.abs(a)),
            ScalarOp::Exp => real1(&|a| e.exp(a)),
            ScalarOp::Exp2 => real1(&|a| e.exp2(a)),
            ScalarOp::Log => real1(&|a| e.log(a)),
            ScalarOp::Log2 => real1(&|a| e.log2(a)),
            ScalarOp::Sqrt => real1(&|a| e.sqrt(a)),
            ScalarOp::Recip => real1(&|a| e.div(e.like(a, 1.0), a)),
            ScalarOp::Sin => in_f64(&|v| e.sin_cos(v[0]).0),
            ScalarOp::Cos => in_f64(&|v| e.sin_cos(v[0]).1),
            ScalarOp::Tanh => real1(&|a| e.tanh(a)),
            ScalarOp::Erf => e.lanewise(&reals(Precision::Single), w, |v| e.float_cast(e.erf(v[0]), p.ty())),
            ScalarOp::Floor => self.round_to_int(args[0], Cmp::Gt, -1),
            ScalarOp::Ceil => self.round_to_int(args[0], Cmp::Lt, 1),
            ScalarOp::Trunc => e.lanewise(&reals(Precision::Single), w, |v| e.truncate_to_int(v[0], Ty::I64)),
            ScalarOp::Eq => self.comparison(Cmp::Eq, args, p),
            ScalarOp::Ne => self.comparison(Cmp::Ne, args, p),
            ScalarOp::Lt => self.comparison(Cmp::Lt, args, p),
            ScalarOp::Le => self.comparison(Cmp::Le, args, p),
            ScalarOp::Gt => self.comparison(Cmp::Gt, args, p),
            ScalarOp::Ge => self.comparison(Cmp::Ge, args, p),
            ScalarOp::And => e.lanewise(&ints(), w, |v| e.and(v[0], v[1])),
            ScalarOp::Or => e.lanewise(&ints(), w, |v| e.or(v[0], v[1])),
            ScalarOp::Not => e.lanewise(&ints(), w, |v| e.not(v[0])),
            ScalarOp::Where => {
                let side = |a: ExprRef| if ty == Type::Real { self.real_in(a, p) } else { self.int(a) };
                e.lane_select(self.int(args[0]), side(args[1]), side(args[2]), w)
            }
            ScalarOp::ToReal => self.real_in(args[0], p),
        }
    }

    /// Small whole powers and the square root by themselves, the others in f64: `b log a` needs more digits than the
    /// result has.
    fn pow(&self, args: &[ExprRef], p: Precision) -> Lane<'c> {
        let (e, w) = (self.emitter, self.width);
        let exponent = match self.spec.exprs[args[1]] {
            Expr::Const(v) => Some(v.real()),
            _ => None,
        };
        match exponent {
            Some(n) if n.fract() == 0.0 && n.abs() <= 16.0 => {
                e.lanewise(&[self.real_in(args[0], p)], w, |v| e.power(v[0], n as i32))
            }
            Some(0.5) => e.lanewise(&[self.real_in(args[0], p)], w, |v| e.sqrt(v[0])),
            _ => {
                let both = [self.real_in(args[0], Precision::Double), self.real_in(args[1], Precision::Double)];
                e.lanewise(&both, w, |v| e.float_cast(e.pow(v[0], v[1]), p.ty()))
            }
        }
    }

    /// Towards zero first, then one step where that went the wrong way.
    fn round_to_int(&self, arg: ExprRef, wrong: Cmp, step: i64) -> Lane<'c> {
        let e = self.emitter;
        e.lanewise(&[self.real(arg)], self.width, |v| {
            let n = e.truncate_to_int(v[0], Ty::I64);
            let back = e.int_to_float(n, Ty::F32);
            let moved = e.add(n, e.like_int(n, step));
            e.select(e.compare(wrong, back, v[0]), moved, n)
        })
    }

    fn comparison(&self, cmp: Cmp, args: &[ExprRef], p: Precision) -> Lane<'c> {
        let types = [args[0], args[1]].map(|a| self.spec.exprs.0[a.0 as usize].1);
        if types == [Type::Int, Type::Int] {
            return self.emitter.lane_compare(cmp, self.int(args[0]), self.int(args[1]), self.width);
        }
        let both = [self.real_in(args[0], p), self.real_in(args[1], p)];
        self.emitter.lanewise(&both, self.width, |v| self.emitter.compare(cmp, v[0], v[1]))
    }
}

/// The expressions that an expression is made of.
pub fn operands_of(expr: &Expr) -> Vec<ExprRef> {
    match expr {
        Expr::Const(_)
        | Expr::Axis(_)
        | Expr::Position(_)
        | Expr::Row(_)
        | Expr::Length(_)
        | Expr::Sequence(_)
        | Expr::Old(_) => Vec::new(),
        Expr::Load { index, .. } => index.clone(),
        Expr::Result { moved, .. } => moved.iter().map(|(_, e)| *e).collect(),
        Expr::Rounded(_, x) => vec![*x],
        Expr::Map(_, args) => args.clone(),
    }
}
