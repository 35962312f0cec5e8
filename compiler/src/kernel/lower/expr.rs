//! Terms to scalar expressions at a point of the kernel's axes.

use super::super::{Expr, ExprRef, Operand, ResultRef};
use super::{AxisRef, Kernel};
use crate::alpha;
use crate::group::{Form, plain_format, standard_order};
use crate::normal::{Literal, Term, TermId};
use crate::plan::Binding;
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, ScalarOp, Type, Value};
use llmc_frontend::graph::{AxisId, Extent};

/// Which results an expression may mention: the number of the place in [`Kernel`] where it stands, and the terms
/// that are results there.
pub(super) type Scope = u32;

/// Axes that stand elsewhere than at the kernel's own point.
pub(super) type Moved = Vec<(AxisId, ExprRef)>;

/// The place an expression stands in.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Distinguishes places with other results, for remembering expressions.
    pub scope: Scope,
    /// Terms that are results of the kernel here, and the axes each has of its own.
    pub results: Vec<(TermId, ResultRef, Vec<AxisId>)>,
    /// Whether results have their values from before the block was folded in.
    pub old: bool,
}

impl Kernel<'_, '_> {
    /// A term's value at the kernel's own point.
    pub(super) fn expr(&mut self, term: TermId, place: &Place) -> ExprRef {
        self.at(term, &Moved::new(), place)
    }

    pub(super) fn real(&mut self, x: f64) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Real(x)), Type::Real)
    }

    pub(super) fn int(&mut self, n: i64) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Int(n)), Type::Int)
    }

    pub(super) fn apply(&mut self, op: ScalarOp, args: Vec<ExprRef>, ty: Type) -> ExprRef {
        self.exprs.add(Expr::Map(op, args), ty)
    }

    /// A term's value where some axes are moved.
    fn at(&mut self, id: TermId, moved: &Moved, place: &Place) -> ExprRef {
        let free = self.l.terms.free(id).clone();
        let mut moved: Moved = moved.iter().filter(|(a, _)| free.contains(*a)).copied().collect();
        moved.sort_unstable();
        let key = (id, moved, place.old, place.scope);
        if let Some(done) = self.memo.get(&key) {
            return *done;
        }
        let made = self.build(id, &key.1, place);
        self.memo.insert(key, made);
        made
    }

    fn build(&mut self, id: TermId, moved: &Moved, place: &Place) -> ExprRef {
        if let Some((_, result, axes)) = place.results.iter().find(|(t, ..)| *t == id).cloned() {
            return self.result(id, result, &axes, moved, place);
        }
        if self.l.terms.info(id).weight_only && self.is_stored_weight(id) {
            return self.weight(id, moved);
        }
        let ty = self.l.terms.info(id).ty;
        match self.l.terms.term(id).clone() {
            Term::Const(l) => self.exprs.add(Expr::Const(l.into()), ty),
            Term::Iota(a) => self.position(a, moved),
            Term::Length(_) => {
                let row = self.row();
                self.exprs.add(Expr::Length(row), Type::Int)
            }
            Term::Param(n) => self.param(n, moved),
            Term::Stored(n) => self.stored(n, moved),
            Term::Weight(_) => self.weight(id, moved),
            Term::Sum(bound, xs) if bound.is_empty() => self.product(&xs, moved, place),
            Term::Plus(xs) => self.plus(&xs, moved, place),
            Term::Map(op, xs) => {
                let args: Vec<_> = xs.iter().map(|x| self.at(*x, moved, place)).collect();
                let args = self.converted(op, args);
                self.apply(op, args, ty)
            }
            Term::Index(x, at) => {
                let mut inner: Moved = at.iter().map(|(a, i)| (*a, self.at(*i, moved, place))).collect();
                inner.extend(moved.iter().filter(|(a, _)| at.iter().all(|(b, _)| a != b)));
                self.at(x, &inner, place)
            }
            Term::Read(x, view) => self.read(x, view, moved),
            Term::Sum(..) | Term::Reduce(..) | Term::TopK(..) => {
                panic!("lower: {:?} is no result of its kernel", self.l.terms.term(id))
            }
        }
    }

    fn result(&mut self, id: TermId, r: ResultRef, own: &[AxisId], moved: &Moved, place: &Place) -> ExprRef {
        let ty = self.l.terms.info(id).ty;
        if place.old {
            return self.exprs.add(Expr::Old(r), ty);
        }
        let moves: Vec<_> = moved.iter().filter(|(a, _)| own.contains(a)).copied().collect();
        let moved = moves.into_iter().map(|(a, e)| (self.axis(a), e)).collect();
        self.exprs.add(Expr::Result { result: r, moved }, ty)
    }

    /// The kernel's axis of tokens, if it has one: what holds for a token's sequence is found through it.
    fn own_row(&self) -> Option<AxisRef> {
        let token =
            |a: &super::KernelAxis| matches!(a.extent, super::KernelExtent::Rows(_) | super::KernelExtent::Picked(_));
        self.axes.iter().position(token).map(|at| AxisRef(at as u16))
    }

    /// The row axis of the kernel.
    fn row(&mut self) -> AxisRef {
        let sequences = |a: &super::KernelAxis| matches!(a.extent, super::KernelExtent::Sequences(_));
        if let Some(at) = self.axes.iter().position(sequences) {
            return AxisRef(at as u16);
        }
        let row = (self.l.terms.axes.iter()).find(|(_, a)| matches!(a.extent, Extent::Seq(_))).map(|(id, _)| id);
        self.axis(row.expect("lower: a length is asked for by a row"))
    }

    /// An axis used as a value: for tokens the position in their sequence.
    fn position(&mut self, axis: AxisId, moved: &Moved) -> ExprRef {
        if let Some((_, e)) = moved.iter().find(|(a, _)| *a == axis) {
            return *e;
        }
        let r = self.axis(axis);
        let expr = match self.l.terms.axes[axis].extent {
            Extent::Seq(_) => Expr::Position(r),
            Extent::Const(_) | Extent::View(_) => Expr::Axis(r),
        };
        self.exprs.add(expr, Type::Int)
    }

    /// The index along an axis of an operand whose dimension there is `dim`.
    pub(super) fn index(&mut self, axis: AxisId, dim: Option<Dim>, moved: &Moved) -> ExprRef {
        if let Some((_, e)) = moved.iter().find(|(a, _)| *a == axis) {
            return *e;
        }
        if self.l.counts_sequences(axis)
            && let Some(row) = self.own_row()
        {
            return self.exprs.add(Expr::Sequence(row), Type::Int);
        }
        let r = self.axis(axis);
        let expr = match dim {
            Some(Dim::Rows(_)) if self.l.block.picked => Expr::Row(r),
            _ => Expr::Axis(r),
        };
        self.exprs.add(expr, Type::Int)
    }

    fn param(&mut self, n: u32, moved: &Moved) -> ExprRef {
        let (axes, ty) = self.l.terms.params[n as usize].clone();
        let order = standard_order(&self.l.terms, &axes);
        // What comes from earlier blocks is there for every row of the step.
        let dims: Vec<_> = order
            .iter()
            .map(|a| match self.l.terms.axes[*a].extent {
                Extent::Const(n) => Dim::Const(n),
                Extent::Seq(s) | Extent::View(s) => Dim::Rows(s),
            })
            .collect();
        let name = self.l.terms.param_names.get(n as usize).cloned().unwrap_or_else(|| format!("param{n}"));
        let storage = Storage::Dense { dims: dims.clone() };
        let operand =
            self.operand(Binding::Param(n), Operand { name, write: false, format: plain_format(ty), storage });
        let index = order.iter().zip(dims).map(|(a, d)| self.index(*a, Some(d), moved)).collect();
        self.load(operand, index, ty)
    }

    fn stored(&mut self, n: u32, moved: &Moved) -> ExprRef {
        let (axes, ty) = self.l.terms.stored[n as usize].clone();
        let every = crate::group::every_axis(&self.l.terms, &axes);
        let elsewhere = every.and_then(|every| moved.iter().find(|(a, _)| *a == every));
        if let Some((_, token)) = elsewhere.copied() {
            return self.cached_element(n, token, |k, axis| k.index(axis, None, moved));
        }
        let plain = |f: &Form| matches!(f, Form::Dense { format, .. } if *format == plain_format(ty));
        let form = self.value(n).forms.iter().position(plain).expect("lower: a loaded value has a plain form");
        let Form::Dense { axes, .. } = self.value(n).forms[form].clone() else { unreachable!("a plain form") };
        let operand = self.form_operand(n, form, 0, false);
        let index = axes.iter().map(|a| self.index(*a, None, moved)).collect();
        self.load(operand, index, ty)
    }

    /// A load; truth values are kept as ints.
    pub(super) fn load(&mut self, operand: super::OperandRef, index: Vec<ExprRef>, ty: Type) -> ExprRef {
        let load = Expr::Load { operand, index };
        match ty {
            Type::Real => self.exprs.add(load, Type::Real),
            Type::Int => self.exprs.add(load, Type::Int),
            Type::Bool => {
                let (loaded, zero) = (self.exprs.add(load, Type::Int), self.int(0));
                self.apply(ScalarOp::Ne, vec![loaded, zero], Type::Bool)
            }
        }
    }

    fn read(&mut self, x: TermId, view: AxisId, moved: &Moved) -> ExprRef {
        let (n, names) = crate::group::stored_leaf(&self.l.terms, x);
        let token = self.index(view, None, &Moved::new());
        self.cached_element(n, token, |k, axis| {
            let here = names.iter().find(|(own, _)| *own == axis).map_or(axis, |(_, b)| *b);
            k.index(here, None, moved)
        })
    }

    /// A value of the token at the axis `token`, from a cache or a workspace.
    fn cached_element(&mut self, n: u32, token: ExprRef, at: impl Fn(&mut Self, AxisId) -> ExprRef) -> ExprRef {
        let ty = self.l.terms.stored[n as usize].1;
        let paged = self.value(n).forms.iter().enumerate().find_map(|(form, f)| match f {
            Form::Cache { outer, inner, .. } | Form::Workspace { outer, inner, .. } => {
                Some((form, [outer.as_slice(), inner].concat()))
            }
            Form::Dense { .. } => None,
        });
        let (form, axes) = paged.expect("lower: a value read elsewhere lies in pages");
        let operand = self.form_operand(n, form, 0, false);
        let mut index = vec![token];
        index.extend(axes.into_iter().map(|axis| at(self, axis)));
        let loaded = self.load(operand, index, Type::Real);
        match ty {
            Type::Real => loaded,
            Type::Int => self.apply(ScalarOp::Trunc, vec![loaded], Type::Int),
            Type::Bool => {
                let zero = self.real(0.0);
                self.apply(ScalarOp::Ne, vec![loaded, zero], Type::Bool)
            }
        }
    }

    // ---- arithmetic ------------------------------------------------------------------------------------

    /// Ints among reals are converted, as the operation's signature says.
    fn converted(&mut self, op: ScalarOp, args: Vec<ExprRef>) -> Vec<ExprRef> {
        use llmc_artifact::scalar::Signature;
        let ty = |k: &Self, e: ExprRef| k.exprs.0[e.0 as usize].1;
        let real = match op.signature() {
            Signature::Real => true,
            Signature::Num | Signature::Compare => args.iter().any(|a| ty(self, *a) == Type::Real),
            Signature::Int | Signature::Round | Signature::Logic | Signature::Select | Signature::Convert => false,
        };
        let convert = |k: &mut Self, a: ExprRef| match ty(k, a) {
            Type::Int if real => k.apply(ScalarOp::ToReal, vec![a], Type::Real),
            _ => a,
        };
        args.into_iter().map(|a| convert(self, a)).collect()
    }

    fn product(&mut self, xs: &[TermId], moved: &Moved, place: &Place) -> ExprRef {
        let minus = |k: &Self, x: &TermId| alpha::as_real(&k.l.terms, *x) == Some(-1.0);
        let (signs, rest): (Vec<_>, Vec<_>) = xs.iter().copied().partition(|x| minus(self, x));
        let mut value = match rest.split_first() {
            None => self.real(1.0),
            Some((first, more)) => {
                let first = self.at(*first, moved, place);
                more.iter().fold(first, |a, x| {
                    let b = self.at(*x, moved, place);
                    self.combine(ScalarOp::Mul, a, b)
                })
            }
        };
        if signs.len() % 2 == 1 {
            let ty = self.exprs.0[value.0 as usize].1;
            value = self.apply(ScalarOp::Neg, vec![value], ty);
        }
        value
    }

    fn combine(&mut self, op: ScalarOp, a: ExprRef, b: ExprRef) -> ExprRef {
        let args = self.converted(op, vec![a, b]);
        let ty = self.exprs.0[args[0].0 as usize].1;
        self.apply(op, args, ty)
    }

    /// A sum; summands with a factor -1 are subtracted.
    fn plus(&mut self, xs: &[TermId], moved: &Moved, place: &Place) -> ExprRef {
        let (mut added, mut taken) = (Vec::new(), Vec::new());
        for x in xs {
            match self.negated(*x) {
                Some(y) => taken.push(y),
                None => added.push(*x),
            }
        }
        let mut value = None;
        for x in added {
            let b = self.at(x, moved, place);
            value = Some(value.map_or(b, |a| self.combine(ScalarOp::Add, a, b)));
        }
        for x in taken {
            let b = self.at(x, moved, place);
            value = Some(match value {
                Some(a) => self.combine(ScalarOp::Sub, a, b),
                None => {
                    let ty = self.exprs.0[b.0 as usize].1;
                    self.apply(ScalarOp::Neg, vec![b], ty)
                }
            });
        }
        value.expect("lower: a sum has an operand")
    }

    /// `y` where the term is `-1 * y`.
    fn negated(&mut self, x: TermId) -> Option<TermId> {
        let Term::Sum(bound, xs) = self.l.terms.term(x).clone() else { return None };
        let at = xs.iter().position(|f| alpha::as_real(&self.l.terms, *f) == Some(-1.0))?;
        let whole = self.l.terms.info(x).weight_only && self.is_stored_weight(x);
        if !bound.is_empty() || whole {
            return None;
        }
        let rest = xs.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| *f).collect::<Vec<_>>();
        Some(alpha::product(&mut self.l.terms, rest))
    }

    /// Whether a term is a literal.
    pub(super) fn is_literal(&self, id: TermId) -> bool {
        matches!(self.l.terms.term(id), Term::Const(Literal::Real(_) | Literal::Int(_) | Literal::Bool(_)))
    }
}
