//! The normal form of a block: sum-products over named axes.
//!
//! What enters is a verified block; what leaves is one hash-consed arena of [`Term`]s in which every reduction binds
//! axes of its own, products and sums are n-ary, division is multiplication by a reciprocal, and a token is read
//! by another only through [`Term::Read`]. Every later stage of the optimizer speaks of terms.

use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, SeqId, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable};

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
    /// The n-ary sum of two or more terms, sorted. (A difference is a sum with a factor -1.)
    Plus(Vec<TermId>),
    /// A reduction other than a sum.
    Reduce(ReduceOp, Axes, TermId),
    /// Any other scalar operation; never `+`, `-`, `*`, `/` or `neg` on reals. Ints keep all of theirs.
    Map(ScalarOp, Vec<TermId>),
    /// `x[a = i, ...]`, axes ascending; `x` is no `Index` and no pointwise operation of leaves it could be pushed to.
    Index(TermId, Vec<(AxisId, TermId)>),
    /// `x[t = s]`: a token-wise value of the sequence's own axis, read at a view axis. `x` has the sequence's axis
    /// free and no view of it; it is as large a term as can be written so: what may be cached.
    Read(TermId, AxisId),
    /// `topk[axis, rank](x)`.
    TopK(AxisId, AxisId, TermId),
}

/// What the arena knows about a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermInfo {
    /// Free axes.
    pub axes: Axes,
    /// Type.
    pub ty: Type,
    /// Whether it depends on weights, literals and constant axes only: computed once, at load.
    pub weight_only: bool,
    /// The name the text gave it, if any: for people.
    pub name: Option<String>,
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
    /// Axes and types of stored values, by number.
    pub stored: Vec<(Axes, Type)>,
    arena: IndexMap<Term, TermInfo>,
}

impl Terms {
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

    fn infer(&self, term: &Term) -> TermInfo {
        let union = |xs: &[TermId]| xs.iter().fold(Axes::none(), |a, x| a.union(self.free(*x)));
        let pure = |xs: &[TermId]| xs.iter().all(|x| self.info(*x).weight_only);
        let seq = |a: &AxisId| self.axes.len_of(*a).is_none();
        let (axes, ty, weight_only) = match term {
            Term::Const(l) => (Axes::none(), Value::from(*l).ty(), true),
            Term::Iota(a) => (Axes::from_iter([*a]), Type::Int, !seq(a)),
            Term::Length(_) => (Axes::none(), Type::Int, false),
            Term::Param(n) => (self.params[*n as usize].0.clone(), self.params[*n as usize].1, false),
            Term::Weight(n) => (self.weights[*n as usize].0.clone(), self.weights[*n as usize].1, true),
            Term::Stored(n) => (self.stored[*n as usize].0.clone(), self.stored[*n as usize].1, false),
            Term::Sum(bound, xs) => {
                (union(xs).minus(bound), self.info(xs[0]).ty, pure(xs) && !bound.iter().any(|a| seq(&a)))
            }
            Term::Plus(xs) => (union(xs), self.info(xs[0]).ty, pure(xs)),
            Term::Reduce(_, bound, x) => {
                (self.free(*x).minus(bound), self.info(*x).ty, pure(&[*x]) && !bound.iter().any(|a| seq(&a)))
            }
            Term::Map(op, xs) => (union(xs), self.map_type(*op, xs), pure(xs)),
            Term::Index(x, at) => {
                let read: Axes = at.iter().map(|(a, _)| *a).collect();
                let indices: Vec<_> = at.iter().map(|(_, i)| *i).collect();
                (self.free(*x).minus(&read).union(&union(&indices)), self.info(*x).ty, pure(&[*x]) && pure(&indices))
            }
            Term::Read(x, view) => {
                let own = Axes::from_iter([self.views[view]]);
                (self.free(*x).minus(&own).union(&Axes::from_iter([*view])), self.info(*x).ty, false)
            }
            Term::TopK(axis, rank, x) => (
                self.free(*x).minus(&Axes::from_iter([*axis])).union(&Axes::from_iter([*rank])),
                Type::Int,
                pure(&[*x]),
            ),
        };
        TermInfo { axes, ty, weight_only, name: None }
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
