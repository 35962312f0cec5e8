//! KernelSpec: what one kernel computes, as plain data.
//!
//! What enters is a group of the fused graph, lowered by `lower/`; what leaves goes to every target alike. A spec
//! names its family, its axes, its operands with their storage, and the scalar expressions fused into it. Absent on
//! purpose: tiles, threads, vectors and registers, which belong to a target.
//!
//! | family | computes |
//! |---|---|
//! | map | stores of pointwise expressions over parallel axes |
//! | contract | products of packed weights with an activation, statistics of the activation in the same loop, and an epilogue |
//! | stream | a fold over an axis, or a part of it, with a tuple of states that repair each other, inner contractions per step, and a finish |
//! | topk | the indices of the largest values |

pub mod abi;
pub mod interpret;
pub mod lower;
#[cfg(test)]
pub mod sample;
mod text;
pub mod verify;

pub use abi::Abi;
pub use verify::{SpecError, Verified, verify};

use crate::cost::Role;
use llmc_artifact::plan::Storage;
use llmc_artifact::{DType, Dim, Format, ReduceOp, ScalarOp, SeqId, Type, Value};
use serde::{Deserialize, Serialize};

/// Index into [`KernelSpec::axes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AxisRef(pub u16);
/// Index into [`KernelSpec::operands`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OperandRef(pub u16);
/// Index into [`KernelSpec::exprs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExprRef(pub u32);
/// A reduction's value within a kernel: stats then products (contract), dots then states (stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResultRef(pub u16);

/// An axis of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelAxis {
    /// The axis's name in the text; for people.
    pub name: String,
    /// Which indices it runs over.
    pub extent: KernelExtent,
}

/// The indices of a kernel's axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelExtent {
    /// `0..n`.
    Const(u64),
    /// The tokens of this step.
    Rows(SeqId),
    /// The tokens of this step whose outputs were asked for.
    Picked(SeqId),
    /// Every token of the batch's sequences that the caches hold, those of earlier steps too.
    Tokens(SeqId),
    /// The sequences of the batch; where lengths are asked for, their tokens of this `seq` count.
    Sequences(SeqId),
    /// Positions in the sequence that the token of row axis `of` belongs to. Not a mask: the body masks for itself;
    /// this only says which positions a mask has proved dead and so need no visit.
    Keys {
        /// Whose tokens they are.
        seq: SeqId,
        /// The row axis of the token that looks, or the axis of sequences that are looked through whole.
        of: AxisRef,
        /// Positions after the row's own are dead: visit `..= position`; otherwise all of the sequence.
        causal: bool,
        /// Positions `window` or more before the row's own are dead.
        window: Option<u64>,
    },
    /// Runs of `size` indices of another axis, by number: index `i` of that axis is in run `i / size`, wherever its range
    /// begins. It runs over those that hold any of that range.
    Parts {
        /// The axis that is cut.
        of: AxisRef,
        /// Indices of a run: whole pages of tokens.
        size: u64,
    },
}

/// Something a kernel reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operand {
    /// The value's name; for people.
    pub name: String,
    /// Whether it is written. A written operand is not read, except through results.
    pub write: bool,
    /// Element format: real values in any; ints in `I32`. A written block format is quantised on the way out.
    pub format: Format,
    /// Where its elements lie.
    pub storage: Storage,
}

/// A scalar expression at one point of the kernel's axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// A literal.
    Const(Value),
    /// The index along an axis: an int. For `Keys` the position in the sequence; for rows the row of this step.
    Axis(AxisRef),
    /// The position, in its own sequence, of the token of a row axis: an int.
    Position(AxisRef),
    /// The row of this step that a `Picked` row is: an int.
    Row(AxisRef),
    /// Tokens of the sequence of a row axis's token, or of an axis of sequences: an int.
    Length(AxisRef),
    /// Which sequence of the batch a row axis's token belongs to: an int.
    Sequence(AxisRef),
    /// An element of an operand. Dense: one int per dimension. Panel: the row, then the column. Paged and workspace:
    /// first the axis itself (when writing the row axis, or the axis of tokens of a workspace; when reading a `Keys` axis or
    /// an axis of tokens), then one int per `PageDim::Axis`.
    Load {
        /// From where.
        operand: OperandRef,
        /// Which element.
        index: Vec<ExprRef>,
    },
    /// A reduction's value: at this point, or with some of its axes moved (`acc[e = partner]`, an index within the
    /// kernel's tile of that axis). In a state's body: a dot at this key, or an earlier state's value with this key
    /// (and its whole block) already folded in.
    Result {
        /// Which.
        result: ResultRef,
        /// Axes read at another index.
        moved: Vec<(AxisRef, ExprRef)>,
    },
    /// Only in a state's repair: another state's value before this block was folded in.
    Old(ResultRef),
    /// A real rounded, to nearest even, to what an element type holds: a factor that is multiplied in that type.
    Rounded(DType, ExprRef),
    /// A scalar operation.
    Map(ScalarOp, Vec<ExprRef>),
}

/// An arena of expressions with their types; operands before users, equal expressions once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exprs(pub Vec<(Expr, Type)>);

impl Exprs {
    /// Adds an expression, or finds the equal one.
    pub fn add(&mut self, expr: Expr, ty: Type) -> ExprRef {
        if let Some(i) = self.0.iter().position(|(e, t)| *e == expr && *t == ty) {
            return ExprRef(i as u32);
        }
        self.0.push((expr, ty));
        ExprRef(self.0.len() as u32 - 1)
    }
}

impl Exprs {
    /// Operands of an expression.
    pub fn operands(&self, e: ExprRef) -> Vec<ExprRef> {
        match &self[e] {
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

    /// The factors of a product, in order.
    pub fn factors(&self, e: ExprRef) -> Vec<ExprRef> {
        match &self[e] {
            Expr::Map(ScalarOp::Mul, xs) => xs.iter().flat_map(|x| self.factors(*x)).collect(),
            _ => vec![e],
        }
    }

    /// Every expression that some roots need, operands first.
    pub fn reachable(&self, roots: &[ExprRef]) -> Vec<ExprRef> {
        let mut needed = vec![false; self.0.len()];
        roots.iter().for_each(|r| needed[r.0 as usize] = true);
        for i in (0..needed.len()).rev() {
            if needed[i] {
                self.operands(ExprRef(i as u32)).iter().for_each(|o| needed[o.0 as usize] = true);
            }
        }
        (0..needed.len() as u32).filter(|i| needed[*i as usize]).map(ExprRef).collect()
    }
}

impl std::ops::Index<ExprRef> for Exprs {
    type Output = Expr;
    fn index(&self, e: ExprRef) -> &Expr {
        &self.0[e.0 as usize].0
    }
}

/// A value written to an operand. Its axes are those of the enclosing family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Store {
    /// Where to.
    pub operand: OperandRef,
    /// Which element, as in [`Expr::Load`].
    pub index: Vec<ExprRef>,
    /// What.
    pub value: ExprRef,
}

/// `op` over some axes of a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// The reduction.
    pub op: ReduceOp,
    /// Evaluated at every point.
    pub body: ExprRef,
}

/// One weight product: `sum[reduce](weight * input)` over its axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// The weight, stored in panels: rows are `axes` row-major, columns are the contraction's `reduce` row-major.
    pub weight: OperandRef,
    /// Its output axes, outermost first.
    pub axes: Vec<AxisRef>,
}

/// Products with the same output axes and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Output axes, outermost first: the work is cut along them, row-major.
    pub axes: Vec<AxisRef>,
    /// Results that are products over exactly these axes.
    pub products: Vec<ResultRef>,
    /// Epilogue: over the rows and `axes`, may use this segment's products and every stat.
    pub stores: Vec<Store>,
}

/// The contract family: `acc_p[row, axes_p] = sum[reduce](weight_p[axes_p, reduce] * input[row, reduce])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// The row axis: tokens.
    pub row: AxisRef,
    /// Reduced axes, outermost first, in the order in which the input stores them.
    pub reduce: Vec<AxisRef>,
    /// The activation: dense `[row, reduce...]`, in `F32`, 16 bits, or a quantised block format for integer dots.
    pub input: OperandRef,
    /// Reductions over `reduce` that use no packed weight, one scalar a row: `sum[m](x * x)`.
    pub stats: Vec<Fold>,
    /// Weight products; results are numbered after the stats.
    pub products: Vec<Product>,
    /// Products grouped by axes, with their epilogues; each product is in exactly one.
    pub segments: Vec<Segment>,
}

/// An inner contraction of a stream: `sum[reduce](left * right)` at every step of the fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dot {
    /// Reduced axes.
    pub reduce: Vec<AxisRef>,
    /// The factor that does not depend on the folded axis.
    pub left: ExprRef,
    /// The factor that does.
    pub right: ExprRef,
}

/// A condition on a block of keys. Not a mask: the bodies mask for themselves; where it is false, every body is its
/// operation's identity at every key of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// The first key of the block that is in the range: an axis that stands nowhere else.
    pub first: AxisRef,
    /// The last one.
    pub last: AxisRef,
    /// A truth value over the parallel axes and those two.
    pub condition: ExprRef,
}

/// One component of a stream's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How values are folded in.
    pub op: ReduceOp,
    /// The value before the first step: the operation's identity, or a floor that the text's algebra proved.
    pub init: Value,
    /// Axes it has beyond the parallel ones.
    pub axes: Vec<AxisRef>,
    /// What is folded in at each step; may use dots and earlier states.
    pub body: ExprRef,
    /// What becomes of the running value when earlier states moved.
    pub repair: Repair,
}

/// How a running value follows earlier states, in this order: it is kept or begins anew, is added to, is multiplied.
/// Expressions over earlier states, before and after the block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Whether what was folded still counts: a truth value. Where it does not, the running value is the initial one.
    pub keep: Option<ExprRef>,
    /// A summand.
    pub shift: Option<ExprRef>,
    /// A factor: `H(new) / H(old)` in closed form.
    pub scale: Option<ExprRef>,
}

impl Repair {
    /// Its expressions.
    pub fn exprs(&self) -> impl Iterator<Item = ExprRef> + '_ {
        [self.keep, self.shift, self.scale].into_iter().flatten()
    }
}

/// A fold of one part of a long axis by a work item of its own. Its states are stored as they are, for another fold, over
/// the parts, to combine and to finish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The last of the parallel axes: the parts of the outermost folded axis, of which each fold takes its own alone.
    pub axis: AxisRef,
    /// One for each state, over the parallel axes and the state's own.
    pub stores: Vec<Store>,
}

/// The stream family: one fold per point of the parallel axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// One independent fold for each point.
    pub parallel: Vec<AxisRef>,
    /// The folded axes, outermost first; a single `Keys` axis, or constant ones, or rows.
    pub over: Vec<AxisRef>,
    /// Where a fold takes a part of the outermost folded axis. It has no finish then.
    pub part: Option<Part>,
    /// Which blocks of keys are visited; all of the range where it is missing.
    pub visit: Option<Visit>,
    /// Inner contractions: results `0..dots.len()`.
    pub dots: Vec<Dot>,
    /// States: results after the dots.
    pub states: Vec<State>,
    /// Stores over the parallel axes and `finish_axes`.
    pub finish: Vec<Store>,
    /// Axes of the finish beyond the parallel ones, outermost first.
    pub finish_axes: Vec<AxisRef>,
}

/// The topk family: `index[parallel, rank]` into `axis` of the largest values, largest first, ties to the lower index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// One search for each point.
    pub parallel: Vec<AxisRef>,
    /// The searched axis.
    pub axis: AxisRef,
    /// The axis that counts the winners.
    pub rank: AxisRef,
    /// The value at each index.
    pub value: ExprRef,
    /// Where the winners go.
    pub operand: OperandRef,
    /// Index of the store, over `parallel` and `rank`.
    pub index: Vec<ExprRef>,
}

/// What a kernel computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Pointwise stores over these axes, outermost first.
    Map {
        /// Parallel axes.
        axes: Vec<AxisRef>,
        /// What is written at each point.
        stores: Vec<Store>,
    },
    /// Weight products.
    Contract(Contract),
    /// A fold.
    Stream(Stream),
    /// A search.
    TopK(TopK),
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// Unique within the artifact; becomes the symbol.
    pub name: String,
    /// Whose tokens it computes, where that is of use to a target: see [`KernelSpec::for_role`].
    pub role: Role,
    /// Its axes.
    pub axes: Vec<KernelAxis>,
    /// Its operands, in the order of a launch's arguments.
    pub operands: Vec<Operand>,
    /// Its expressions.
    pub exprs: Exprs,
    /// Its family.
    pub body: Body,
}

impl KernelSpec {
    /// The kernel for tokens of a role. Families whose work a target cuts by the number of tokens differ by it; of the others
    /// one kernel serves both roles. Which form of a kernel runs is thus settled in the plan, never by a launch's length.
    pub fn for_role(self, role: Role) -> KernelSpec {
        let keys = |a: &AxisRef| matches!(self.axes[a.0 as usize].extent, KernelExtent::Keys { .. });
        let own = match &self.body {
            Body::Contract(_) => true,
            // A part of a long axis has few tokens, whoever asks.
            Body::Stream(s) => s.part.is_none() && s.over.iter().any(keys),
            Body::Map { .. } | Body::TopK(_) => false,
        };
        KernelSpec { role: if own { role } else { Role::Prefill }, ..self }
    }

    /// Whether it has nothing to do in a step that has tokens only of sequences that grow: it computes tokens of the step, all of
    /// them of others.
    pub fn rests(&self, grows: impl Fn(SeqId) -> bool) -> bool {
        let mut rows = 0;
        for axis in &self.axes {
            match axis.extent {
                KernelExtent::Rows(s) | KernelExtent::Picked(s) if grows(s) => return false,
                KernelExtent::Rows(_) | KernelExtent::Picked(_) => rows += 1,
                // What the caches hold may have to be made again, and every sequence of a batch has its values.
                KernelExtent::Tokens(_) | KernelExtent::Sequences(_) => return false,
                KernelExtent::Const(_) | KernelExtent::Keys { .. } | KernelExtent::Parts { .. } => {}
            }
        }
        rows > 0
    }

    /// The length of a row-like or constant axis as a launch dimension; `None` for keys, whose number depends on the row.
    pub fn dim(&self, axis: AxisRef) -> Option<Dim> {
        match self.axes[axis.0 as usize].extent {
            KernelExtent::Const(n) => Some(Dim::Const(n)),
            KernelExtent::Rows(s) => Some(Dim::Rows(s)),
            KernelExtent::Picked(s) => Some(Dim::Picked(s)),
            KernelExtent::Tokens(s) => Some(Dim::Tokens(s)),
            KernelExtent::Sequences(_) => Some(Dim::Sequences),
            KernelExtent::Keys { .. } => None,
            KernelExtent::Parts { of, size } => self.parts(of, size),
        }
    }

    /// The axis of parts, and the indices of each, by which a fold takes an axis.
    pub fn cut(&self, axis: AxisRef) -> Option<(AxisRef, u64)> {
        let Body::Stream(Stream { part: Some(Part { axis: part, .. }), .. }) = &self.body else { return None };
        match self.axes[part.0 as usize].extent {
            KernelExtent::Parts { of, size } if of == axis => Some((*part, size)),
            _ => None,
        }
    }

    /// The number of parts of an axis. Of keys it is that of the longest sequence: each row has those of its own range.
    pub fn parts(&self, of: AxisRef, size: u64) -> Option<Dim> {
        match self.axes[of.0 as usize].extent {
            KernelExtent::Const(n) => Some(Dim::Const(n.div_ceil(size))),
            KernelExtent::Keys { seq, .. } => u32::try_from(size).ok().map(|size| Dim::Parts(seq, size)),
            KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_)
            | KernelExtent::Parts { .. } => None,
        }
    }
}
