//! What a term denotes: an element as a function of indices, written down without names of bound axes.
//!
//! This is the checker's own reading of terms. It shares nothing with the stages that it checks: an index is a
//! substitution here, carried out; an axis that is bound is a number; operands of sums and products have no order. So
//! what the laws of indices say holds by itself, and a law that captures an axis gives another form. Which of the
//! other laws may be used in addition is said by a set of them: two terms have one form under a set of laws if,
//! and only as far as the forms go, these laws make them equal.

use super::rewrite::Rewriter;
use crate::normal::{Literal, Term, TermId, Terms};
use crate::rules::Laws;
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type};
use llmc_frontend::graph::{AxisId, Extent};
use std::collections::HashMap;

/// A form: equal numbers of one [`Denote`] are equal forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form(pub(super) u32);

/// How long an axis is: a view of a sequence is as long as the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Len {
    Const(u64),
    Seq(SeqId),
}

/// Which leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Leaf {
    Param,
    Weight,
    Stored,
}

/// A node of a form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shape {
    Const(Literal),
    /// The index along a free axis.
    Axis(AxisId),
    /// The index along an axis that is being bound; a number of [`Rewriter::lengths`].
    Open(u32),
    /// The index along axis number `.1` of the reduction of height `.0` around it.
    Bound(u32, u32),
    Length(SeqId),
    /// A leaf's element.
    Leaf(Leaf, u32, Vec<Form>),
    Product(Vec<Form>),
    Plus(Vec<Form>),
    Map(ScalarOp, Vec<Form>),
    /// A reduction: its height, one more than the greatest in its body, and its axes.
    Fold(ReduceOp, u32, Vec<Len>, Form),
    /// A search: its height, how far it searches, which winner, of what.
    TopK(u32, Len, Form, Form),
}

/// What axes stand for: what is not listed stands for itself.
type Scope = Vec<(AxisId, Form)>;

/// Reads terms of one arena under a set of laws.
pub struct Denote<'a> {
    terms: &'a Terms,
    rewriter: Rewriter,
    done: HashMap<(TermId, Scope), Form>,
    /// What stored values mean, by number; leaves where there is none.
    meanings: Vec<TermId>,
    /// Terms that are read as others.
    others: HashMap<TermId, TermId>,
    /// Whether a token at a computed position is read as the sum over all tokens that picks it.
    picks: bool,
}

impl<'a> Denote<'a> {
    /// Nothing read yet.
    pub fn new(terms: &'a Terms, laws: Laws) -> Denote<'a> {
        let rewriter = Rewriter::new(laws, lens(terms));
        Denote { terms, rewriter, done: HashMap::new(), meanings: Vec::new(), others: HashMap::new(), picks: false }
    }

    /// Goes on with another arena over the same axes of the model, params and weights. Stored values mean `meanings`, some
    /// terms are read as others, and a token at a computed position, which is one of the sequence's, is the sum over all
    /// tokens that picks it.
    pub fn within<'b>(
        mut self,
        terms: &'b Terms,
        meanings: Vec<TermId>,
        others: HashMap<TermId, TermId>,
    ) -> Denote<'b> {
        self.rewriter.axes = lens(terms);
        Denote { terms, rewriter: self.rewriter, done: HashMap::new(), meanings, others, picks: true }
    }

    /// Whether so much has been written down that it is better to begin anew.
    pub fn is_long(&self) -> bool {
        self.rewriter.len() > 20_000
    }

    /// The form of a term.
    ///
    /// # Errors
    /// When it grows too large to be written down.
    pub fn of(&mut self, id: TermId) -> Result<Form, String> {
        let form = self.read(id, &Scope::new());
        if self.rewriter.is_full() { Err("the form is too large".to_owned()) } else { Ok(form) }
    }

    /// The form of a term whose free axes are renamed.
    ///
    /// # Errors
    /// As [`Denote::of`].
    pub fn renamed(&mut self, id: TermId, to: &[(AxisId, AxisId)]) -> Result<Form, String> {
        let mut scope: Scope = to.iter().map(|(a, b)| (*a, self.rewriter.add(Shape::Axis(*b)))).collect();
        scope.sort_unstable();
        let form = self.read(id, &scope);
        if self.rewriter.is_full() { Err("the form is too large".to_owned()) } else { Ok(form) }
    }

    /// The form of a reduction of a product over free axes, which need not be a term.
    ///
    /// # Errors
    /// As [`Denote::of`].
    pub fn reduced(&mut self, op: ReduceOp, over: &[AxisId], factors: &[TermId]) -> Result<Form, String> {
        let form = self.fold(op, over, factors, &Scope::new());
        if self.rewriter.is_full() { Err("the form is too large".to_owned()) } else { Ok(form) }
    }

    fn read(&mut self, id: TermId, scope: &Scope) -> Form {
        let id = self.others.get(&id).copied().unwrap_or(id);
        let free = self.terms.free(id);
        let scope: Scope = scope.iter().filter(|(a, _)| free.contains(*a)).copied().collect();
        if let Some(done) = self.done.get(&(id, scope.clone())) {
            return *done;
        }
        let form = self.term(id, &scope);
        self.done.insert((id, scope), form);
        form
    }

    fn term(&mut self, id: TermId, scope: &Scope) -> Form {
        match self.terms.term(id).clone() {
            Term::Const(l) => self.rewriter.literal(l),
            Term::Iota(a) => self.axis(a, scope),
            Term::Length(s) => self.rewriter.add(Shape::Length(s)),
            Term::Param(n) => self.leaf(Leaf::Param, n, &self.terms.params[n as usize].0.clone(), scope),
            Term::Weight(n) => self.leaf(Leaf::Weight, n, &self.terms.weights[n as usize].0.clone(), scope),
            Term::Stored(n) if !self.meanings.is_empty() => self.read(self.meanings[n as usize], scope),
            Term::Stored(n) => self.leaf(Leaf::Stored, n, &self.terms.stored[n as usize].0.clone(), scope),
            Term::Sum(bound, xs) if bound.is_empty() => {
                let xs = self.reals(&xs, scope);
                self.rewriter.product(xs)
            }
            Term::Sum(bound, xs) => self.fold(ReduceOp::Sum, bound.as_slice(), &xs, scope),
            Term::Plus(xs) => {
                let xs = self.reals(&xs, scope);
                self.rewriter.plus(xs)
            }
            Term::Reduce(op, bound, x) => self.fold(op, bound.as_slice(), &[x], scope),
            Term::Map(op, xs) => self.map(op, &xs, scope),
            Term::Index(x, at) if self.picks && self.token_of(x, &at).is_some() => self.picked(x, &at, scope),
            Term::Index(x, at) => {
                let moved: Vec<_> = at.iter().map(|(a, i)| (*a, self.read(*i, scope))).collect();
                let inner = over(scope, moved);
                self.read(x, &inner)
            }
            Term::Read(x, s) => {
                let at = self.axis(s, scope);
                let inner = over(scope, vec![(self.terms.views[&s], at)]);
                self.read(x, &inner)
            }
            Term::TopK(axis, rank, x) => {
                let at = self.axis(rank, scope);
                let (open, inner) = self.open(&[axis], scope);
                let body = self.read(x, &inner);
                self.rewriter.topk(open[0], at, body)
            }
        }
    }

    fn fold(&mut self, op: ReduceOp, bound: &[AxisId], factors: &[TermId], scope: &Scope) -> Form {
        let (open, inner) = self.open(bound, scope);
        let body = match factors {
            [only] => self.read(*only, &inner),
            _ => {
                let xs = self.reals(factors, &inner);
                self.rewriter.product(xs)
            }
        };
        self.rewriter.fold(op, open, body)
    }

    /// The axis along which an index picks a token of a real value. Another name of the axis picks none.
    fn token_of(&self, x: TermId, at: &[(AxisId, TermId)]) -> Option<AxisId> {
        let token = |a: AxisId| matches!(self.terms.axes[a].extent, Extent::Seq(_));
        let picks = |(a, i): &&(AxisId, TermId)| token(*a) && !matches!(self.terms.term(*i), Term::Iota(_));
        at.iter().find(picks).map(|(a, _)| *a).filter(|_| self.terms.info(x).ty == Type::Real)
    }

    /// `x[t = i]` as `sum[s](where(s == i, x[t = s], 0))`.
    fn picked(&mut self, x: TermId, at: &[(AxisId, TermId)], scope: &Scope) -> Form {
        let token = self.token_of(x, at).expect("asked before");
        let open = self.rewriter.open(len(self.terms.axes[token].extent));
        let here = self.rewriter.add(Shape::Open(open));
        let mut moved: Scope = at.iter().map(|(a, i)| (*a, self.read(*i, scope))).collect();
        let (_, there) = moved.iter_mut().find(|(a, _)| *a == token).expect("found among them");
        let position = std::mem::replace(there, here);
        let hit = self.rewriter.map(ScalarOp::Eq, vec![here, position]);
        let value = self.read(x, &over(scope, moved));
        let zero = self.rewriter.literal(Literal::Real(0));
        let body = self.rewriter.map(ScalarOp::Where, vec![hit, value, zero]);
        self.rewriter.fold(ReduceOp::Sum, vec![open], body)
    }

    fn axis(&mut self, a: AxisId, scope: &Scope) -> Form {
        let known = scope.iter().find(|(b, _)| *b == a).map(|(_, form)| *form);
        known.unwrap_or_else(|| self.rewriter.add(Shape::Axis(a)))
    }

    fn leaf(&mut self, kind: Leaf, n: u32, axes: &llmc_frontend::graph::Axes, scope: &Scope) -> Form {
        let at = axes.iter().map(|a| self.axis(a, scope)).collect();
        self.rewriter.add(Shape::Leaf(kind, n, at))
    }

    /// New indices for axes that are bound, and the scope below.
    fn open(&mut self, bound: &[AxisId], scope: &Scope) -> (Vec<u32>, Scope) {
        let open: Vec<u32> = bound.iter().map(|a| self.rewriter.open(len(self.terms.axes[*a].extent))).collect();
        let here = bound.iter().zip(&open).map(|(a, n)| (*a, self.rewriter.add(Shape::Open(*n)))).collect();
        (open, over(scope, here))
    }

    /// Operands of real arithmetic: an int becomes a real by itself.
    fn reals(&mut self, xs: &[TermId], scope: &Scope) -> Vec<Form> {
        xs.iter().map(|x| self.real(*x, scope)).collect()
    }

    fn real(&mut self, x: TermId, scope: &Scope) -> Form {
        let form = self.read(x, scope);
        if self.terms.info(x).ty == Type::Int { self.rewriter.map(ScalarOp::ToReal, vec![form]) } else { form }
    }

    /// A pointwise operation. Sums and products of two reals are sums and products.
    fn map(&mut self, op: ScalarOp, xs: &[TermId], scope: &Scope) -> Form {
        let first = usize::from(op == ScalarOp::Where);
        let among = |t: Type| xs[first..].iter().any(|x| self.terms.info(*x).ty == t);
        let real = op != ScalarOp::ToReal && (op.signature() == Signature::Real || among(Type::Real));
        let xs: Vec<Form> = (xs.iter().enumerate())
            .map(|(n, x)| if real && n >= first { self.real(*x, scope) } else { self.read(*x, scope) })
            .collect();
        match op {
            ScalarOp::Add if real => self.rewriter.plus(xs),
            ScalarOp::Mul if real => self.rewriter.product(xs),
            _ => self.rewriter.map(op, xs),
        }
    }
}

fn lens(terms: &Terms) -> Vec<Len> {
    terms.axes.iter().map(|(_, a)| len(a.extent)).collect()
}

fn len(extent: Extent) -> Len {
    match extent {
        Extent::Const(n) => Len::Const(n),
        Extent::Seq(s) | Extent::View(s) => Len::Seq(s),
    }
}

fn over(scope: &Scope, here: Scope) -> Scope {
    let mut all: Scope = scope.iter().filter(|(a, _)| here.iter().all(|(b, _)| a != b)).copied().collect();
    all.extend(here);
    all.sort_unstable();
    all
}
