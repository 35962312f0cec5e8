//! The normal form of a block: sum-products over named axes.
//!
//! What enters is a verified block; what leaves is one hash-consed arena of [`Term`]s in which every reduction binds
//! axes of its own, products and sums are n-ary, division is multiplication by a reciprocal, and a token is read
//! by another only through [`Term::Read`]. Every later stage of the optimizer speaks of terms.
//!
//! Names of bound axes: a reduction over `m` binds `m'1`, or `m'2` where its body already binds an `m'1`, and so on.
//! They are never axes of the model, so `m` free and `m` summed cannot be confused, and terms that are equal up to
//! bound names are equal. A parameter or weight read at a bound axis is an `Index` of pure renames at the leaf:
//! `S[m'1](w[m = m'1] * x[m = m'1])`. Reducing over a sequence's axis binds a view of it.

pub mod bounds;
pub mod build;
mod decide;
pub mod read;
pub mod reduce;
mod stabilise;
pub mod subst;
#[cfg(test)]
mod tests;
pub mod text;
pub mod to_graph;
pub mod verify;

use crate::rules::{Laws, Trace};
use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable, Extent, Place};
use rustc_hash::FxBuildHasher;

/// Index of a term in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermId(pub u32);

/// A literal with equality and order on its bits, so that terms can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Literal {
    /// The bits of an f64.
    Real(u64),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl From<Value> for Literal {
    fn from(v: Value) -> Literal {
        match v {
            Value::Real(x) => Literal::Real(x.to_bits()),
            Value::Int(n) => Literal::Int(n),
            Value::Bool(b) => Literal::Bool(b),
        }
    }
}

impl From<Literal> for Value {
    fn from(l: Literal) -> Value {
        match l {
            Literal::Real(bits) => Value::Real(f64::from_bits(bits)),
            Literal::Int(n) => Value::Int(n),
            Literal::Bool(b) => Value::Bool(b),
        }
    }
}

/// A value over named axes. A term's meaning depends on its free axes alone: bound ones are fresh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// A literal.
    Const(Literal),
    /// The index along an axis; the token's position for a sequence's axis or a view of it.
    Iota(AxisId),
    /// Tokens of a sequence.
    Length(SeqId),
    /// A parameter of the block.
    Param(u32),
    /// A weight slot of the block.
    Weight(u32),
    /// A value that a kernel of this block has stored: only after grouping (`group`).
    Stored(u32),
    /// `S[axes](factors)`: the sum over `axes` of the product of a multiset of factors, sorted. With no axes it is
    /// the product, with one factor the plain sum; never both.
    Sum(Axes, Vec<TermId>),
    /// The n-ary sum of two or more terms of type real, sorted. (A difference is a sum with a factor -1.)
    Plus(Vec<TermId>),
    /// A reduction other than a sum.
    Reduce(ReduceOp, Axes, TermId),
    /// Any other scalar operation; never `+`, `-`, `*`, `/`, `^` or `neg` on reals, except in the operand of a `floor`,
    /// `ceil` or `trunc`, which keeps the text's order because it is discontinuous. Ints keep all of theirs.
    Map(ScalarOp, Vec<TermId>),
    /// `x[a = i, ...]`, axes ascending; `x` is no `Index` and no pointwise operation of leaves it could be pushed to.
    Index(TermId, Vec<(AxisId, TermId)>),
    /// `x[t = s]`: a token-wise value of the sequence's own axis, read at a view axis. `x` has the sequence's axis
    /// free and no view of it; it is as large a term as can be written so: what may be cached.
    Read(TermId, AxisId),
    /// `topk[axis, rank](x)`.
    TopK(AxisId, AxisId, TermId),
}

impl Term {
    /// The same over other operands.
    #[must_use]
    pub fn over(&self, f: &mut dyn FnMut(TermId) -> TermId) -> Term {
        let mut all = |xs: &[TermId]| xs.iter().map(|x| f(*x)).collect::<Vec<_>>();
        match self {
            Term::Const(_) | Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => {
                self.clone()
            }
            Term::Sum(bound, xs) => Term::Sum(bound.clone(), all(xs)),
            Term::Plus(xs) => Term::Plus(all(xs)),
            Term::Map(op, xs) => Term::Map(*op, all(xs)),
            Term::Reduce(op, bound, x) => Term::Reduce(*op, bound.clone(), f(*x)),
            Term::Index(x, at) => {
                let x = f(*x);
                Term::Index(x, at.iter().map(|(a, i)| (*a, f(*i))).collect())
            }
            Term::Read(x, s) => Term::Read(f(*x), *s),
            Term::TopK(axis, rank, x) => Term::TopK(*axis, *rank, f(*x)),
        }
    }
}

/// What the arena knows about a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermInfo {
    /// Free axes.
    pub axes: Axes,
    /// Type.
    pub ty: Type,
    /// Axes bound anywhere inside.
    pub bound: Axes,
    /// Whether it depends on weights, literals and constant axes only: computed once, at load.
    pub weight_only: bool,
    /// Whether it depends on more of a token than its position: on a parameter with a sequence's axis.
    pub token_dependent: bool,
    /// The name the text gave it, if any: for people.
    pub name: Option<String>,
    /// Where the text has it, if it does: for people.
    pub place: Option<Place>,
}

/// An arena of terms, equal ones once, operands before users.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The model's axes and the fresh ones made since.
    pub axes: AxisTable,
    /// Axes of the sequence a view looks at: view axis to sequence axis.
    pub views: IndexMap<AxisId, AxisId>,
    /// Axes and types of params, by number.
    pub params: Vec<(Axes, Type)>,
    /// Axes and types of weight slots, by number.
    pub weights: Vec<(Axes, Type)>,
    /// Names of params and of weight slots, by number: for people, and empty where terms are made by hand.
    pub param_names: Vec<String>,
    /// As `param_names`.
    pub weight_names: Vec<String>,
    /// Axes and types of stored values, by number.
    pub stored: Vec<(Axes, Type)>,
    /// As `param_names`.
    pub stored_names: Vec<String>,
    /// For each axis that a reduction binds: the axis of the model it stands for, and its level (the `1` of `m'1`).
    pub binders: IndexMap<AxisId, (AxisId, u32)>,
    /// For each sequence the axis that counts the sequences of a batch: what grouping gives a value that no token has.
    pub each: IndexMap<SeqId, AxisId>,
    /// For each sequence the axis of every token that the caches hold: what grouping gives a value that is made again for
    /// tokens of earlier steps. It is a sequence's axis, and a view: what it stands at is read like another token.
    pub every: IndexMap<SeqId, AxisId>,
    /// Which laws the constructors apply.
    pub laws: Laws,
    /// Which laws have fired.
    pub trace: Trace,
    /// Where the text has what is being built.
    pub(crate) here: Option<Place>,
    arena: IndexMap<Term, TermInfo, FxBuildHasher>,
}

impl Terms {
    /// An empty arena over the model's axes.
    pub fn new(axes: AxisTable, params: Vec<(Axes, Type)>, weights: Vec<(Axes, Type)>) -> Terms {
        let mut terms = Terms { params, weights, ..Terms::default() };
        let own: Vec<_> = axes.iter().filter_map(|(id, a)| matches!(a.extent, Extent::Seq(_)).then_some(id)).collect();
        for (id, axis) in axes.iter() {
            if let Extent::View(seq) = axis.extent {
                let of = own.iter().find(|t| axes[**t].extent == Extent::Seq(seq));
                terms.views.insert(id, *of.expect("normal: a view axis looks at a sequence of the model"));
            }
        }
        terms.axes = axes;
        terms
    }

    /// An arena over the same axes, params and weights, without terms.
    pub fn emptied(&self) -> Terms {
        Terms {
            axes: self.axes.clone(),
            views: self.views.clone(),
            params: self.params.clone(),
            weights: self.weights.clone(),
            param_names: self.param_names.clone(),
            weight_names: self.weight_names.clone(),
            stored: self.stored.clone(),
            stored_names: self.stored_names.clone(),
            binders: self.binders.clone(),
            each: self.each.clone(),
            every: self.every.clone(),
            laws: self.laws,
            trace: Trace::default(),
            here: self.here,
            arena: IndexMap::default(),
        }
    }

    /// Adds a term, or finds the equal one. Keeps the arena's canonical order but rewrites nothing: the
    /// constructors that normalise are in `build.rs`.
    ///
    /// # Panics
    /// When an operand has a type or axes the term does not allow: an invariant of the stage that made it.
    pub fn add(&mut self, term: Term) -> TermId {
        if let Some(i) = self.arena.get_index_of(&term) {
            return TermId(i as u32);
        }
        let info = self.infer(&term);
        let (i, _) = self.arena.insert_full(term, info);
        TermId(i as u32)
    }

    /// The term.
    pub fn term(&self, id: TermId) -> &Term {
        self.arena.get_index(id.0 as usize).expect("a term's id belongs to its arena").0
    }

    /// What is known about it.
    pub fn info(&self, id: TermId) -> &TermInfo {
        &self.arena[id.0 as usize]
    }

    /// Its free axes.
    pub fn free(&self, id: TermId) -> &Axes {
        &self.info(id).axes
    }

    /// Names it for people, where it has no name yet.
    pub fn set_name(&mut self, id: TermId, name: &str) {
        self.arena[id.0 as usize].name.get_or_insert_with(|| name.to_owned());
    }

    /// Says where the text has it, where that is not known yet. Leaves are everywhere.
    pub fn set_place(&mut self, id: TermId, place: Option<Place>) {
        let leaf = self.operands(id).is_empty() && !matches!(self.term(id), Term::Length(_));
        if let Some(place) = place.filter(|_| !leaf) {
            self.arena[id.0 as usize].place.get_or_insert(place);
        }
    }

    /// Where the text has it, or else the nearest that it is made of.
    pub fn place(&self, id: TermId) -> Option<Place> {
        let (mut near, mut seen) = (vec![id], vec![false; self.len()]);
        while !near.is_empty() {
            if let Some(place) = near.iter().find_map(|x| self.info(*x).place) {
                return Some(place);
            }
            let below = near.iter().flat_map(|x| self.operands(*x));
            near = below.filter(|x| !std::mem::replace(&mut seen[x.0 as usize], true)).collect();
        }
        None
    }

    /// Number of terms.
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    /// A term's operands in order.
    pub fn operands(&self, id: TermId) -> Vec<TermId> {
        match self.term(id) {
            Term::Const(_) | Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => {
                vec![]
            }
            Term::Sum(_, xs) | Term::Plus(xs) | Term::Map(_, xs) => xs.clone(),
            Term::Reduce(_, _, x) | Term::Read(x, _) | Term::TopK(_, _, x) => vec![*x],
            Term::Index(x, at) => std::iter::once(*x).chain(at.iter().map(|(_, i)| *i)).collect(),
        }
    }

    /// A leaf of this name that stands for a term of these axes and type, to be shown.
    pub(crate) fn stand_in(&mut self, name: String, axes: Axes, ty: Type) -> TermId {
        let n = self.stored_names.iter().position(|s| *s == name).unwrap_or_else(|| {
            self.stored.push((axes, ty));
            self.stored_names.resize(self.stored.len() - 1, String::new());
            self.stored_names.push(name);
            self.stored.len() - 1
        });
        self.add(Term::Stored(n as u32))
    }

    /// Whether the axis counts tokens, or looks at them.
    pub fn is_seq(&self, axis: AxisId) -> bool {
        self.axes.len_of(axis).is_none()
    }

    fn infer(&self, term: &Term) -> TermInfo {
        let one = |a: AxisId| Axes::from_iter([a]);
        let leaf = |axes: Axes, ty, weight_only, token_dependent| TermInfo {
            axes,
            ty,
            bound: Axes::none(),
            weight_only,
            token_dependent,
            name: None,
            place: None,
        };
        let value = |(axes, ty): &(Axes, Type)| {
            let token_dependent = axes.iter().any(|a| self.is_seq(a));
            leaf(axes.clone(), *ty, false, token_dependent)
        };
        match term {
            Term::Const(l) => leaf(Axes::none(), Value::from(*l).ty(), true, false),
            Term::Iota(a) => leaf(one(*a), Type::Int, !self.is_seq(*a), false),
            Term::Length(_) => leaf(Axes::none(), Type::Int, false, false),
            Term::Param(n) => value(&self.params[*n as usize]),
            Term::Weight(n) => leaf(self.weights[*n as usize].0.clone(), self.weights[*n as usize].1, true, false),
            Term::Stored(n) => value(&self.stored[*n as usize]),
            Term::Sum(bound, xs) => self.combine(xs, bound, &Axes::none(), self.info(xs[0]).ty),
            Term::Plus(xs) => self.combine(xs, &Axes::none(), &Axes::none(), self.info(xs[0]).ty),
            Term::Reduce(_, bound, x) => self.combine(&[*x], bound, &Axes::none(), self.info(*x).ty),
            Term::Map(op, xs) => self.combine(xs, &Axes::none(), &Axes::none(), self.map_type(*op, xs)),
            Term::TopK(axis, rank, x) => self.combine(&[*x], &one(*axis), &one(*rank), Type::Int),
            Term::Index(x, at) => {
                let read: Axes = at.iter().map(|(a, _)| *a).collect();
                let indices: Vec<_> = at.iter().map(|(_, i)| *i).collect();
                let of = self.combine(&[*x], &read, &Axes::none(), self.info(*x).ty);
                let by = self.combine(&indices, &Axes::none(), &Axes::none(), Type::Int);
                TermInfo {
                    axes: of.axes.union(&by.axes),
                    ty: of.ty,
                    bound: self.info(*x).bound.union(&by.bound),
                    weight_only: of.weight_only && by.weight_only,
                    token_dependent: of.token_dependent || by.token_dependent,
                    name: None,
                    place: None,
                }
            }
            Term::Read(x, view) => {
                let of = self.info(*x);
                let axes = of.axes.minus(&one(self.views[view])).union(&one(*view));
                TermInfo { axes, weight_only: false, token_dependent: true, name: None, place: None, ..of.clone() }
            }
        }
    }

    /// What is known of a term over `xs` that removes the axes `removed` and brings in `added`.
    fn combine(&self, xs: &[TermId], removed: &Axes, added: &Axes, ty: Type) -> TermInfo {
        let all = |pick: fn(&TermInfo) -> &Axes| xs.iter().fold(Axes::none(), |a, x| a.union(pick(self.info(*x))));
        TermInfo {
            axes: all(|i| &i.axes).minus(removed).union(added),
            ty,
            bound: all(|i| &i.bound).union(removed),
            weight_only: xs.iter().all(|x| self.info(*x).weight_only) && !removed.iter().any(|a| self.is_seq(a)),
            token_dependent: xs.iter().any(|x| self.info(*x).token_dependent),
            name: None,
            place: None,
        }
    }

    fn map_type(&self, op: ScalarOp, xs: &[TermId]) -> Type {
        use llmc_artifact::scalar::Signature;
        match op.signature() {
            Signature::Num => self.info(xs[0]).ty,
            Signature::Real | Signature::Convert => Type::Real,
            Signature::Int | Signature::Round => Type::Int,
            Signature::Compare | Signature::Logic => Type::Bool,
            Signature::Select => self.info(xs[1]).ty,
        }
    }
}
