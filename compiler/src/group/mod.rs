//! Kernels formed.
//!
//! What enters is a DAG of terms and what is known of its leaves; what leaves is [`Fused`]: the values that are
//! stored, and the groups that compute them, each one loop with everything pointwise that hangs on it. A value is
//! stored where it has to be: at the block's results, where other tokens read it, where a weight product needs its
//! activation as a matrix, and where a reduction's result is used by another loop. Everything else is recomputed.
//!
//! Groups are formed from the values up: a value takes the deepest loop in its formula, everything else in the
//! formula is loaded; values with one loop share a group, unless that would make a cycle or cost more. A fold that would
//! leave most of the machine without work is cut into parts ([`parts`]).

mod agree;
mod anew;
mod cost;
mod leaves;
mod merge;
pub mod parts;
mod products;
mod resolve;
mod share;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod verify;

pub use crate::cost::Machine;
pub use agree::agree;
pub use anew::every_axis;
pub use cost::{group as group_cost, whole as whole_cost};
pub(crate) use leaves::{stored_leaf, weight_leaf};
pub use text::{fused_text, kernel_text};
pub use verify::verify;

use crate::alpha;
use crate::causality::{self, Leak, Sight};
use crate::cost::Role;
use crate::normal::{TermId, Terms};
use crate::stream::Stream;
use llmc_artifact::{Format, SeqId, Type};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::{BTreeMap, BTreeSet};

/// What the compiler knows of a weight slot: the same for every step of the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFact {
    /// The name in the text.
    pub name: String,
    /// Its axes in the order of the file, outermost first.
    pub order: Vec<AxisId>,
    /// How the file stores it.
    pub format: Format,
    /// Whether the innermost axis of `order` is the file's own, so that rows can be copied block by block.
    pub whole_blocks: bool,
}

/// What is known of a block beyond its terms.
#[derive(Clone, Debug)]
pub struct Facts {
    /// One for each weight slot.
    pub weights: Vec<WeightFact>,
    /// Whether the block runs on the rows whose outputs were asked for.
    pub picked: bool,
    /// How cached reals are stored.
    pub cache: Format,
    /// How activations of plain weights are stored for their products, and what computed factors of cached elements of two
    /// bytes are rounded to.
    pub activations: Format,
    /// What costs are measured by.
    pub machine: Machine,
    /// Whose tokens run these kernels.
    pub role: Role,
}

/// Something that cannot be compiled yet, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// How a stored value lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Row-major over these axes, the token first.
    Dense {
        /// Outermost first.
        axes: Vec<AxisId>,
        /// Element format.
        format: Format,
    },
    /// Pages of tokens, for other tokens to read.
    Cache {
        /// Axes outside the tokens of a page, outermost first.
        outer: Vec<AxisId>,
        /// Axes within.
        inner: Vec<AxisId>,
        /// Whether tokens are innermost: what a dot over `inner` reads.
        keys_innermost: bool,
        /// Element format.
        format: Format,
        /// Which tokens readers can see.
        sight: Sight,
    },
    /// Pages as a cache's, of every token that the caches hold, for other tokens to read in this step.
    Workspace {
        /// Axes outside the tokens of a page, outermost first.
        outer: Vec<AxisId>,
        /// Axes within.
        inner: Vec<AxisId>,
        /// Whether tokens are innermost.
        keys_innermost: bool,
        /// Element format.
        format: Format,
    },
}

/// Why a value is stored and not recomputed where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The block hands it on.
    Result,
    /// A weight product reads it as a matrix.
    Activation,
    /// Other tokens read it.
    OtherToken,
    /// The other role's kernels read it from the cache that both share.
    Role,
    /// A reduction in it ends before the loop of its reader begins.
    Loop,
}

/// One demand for a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Why it is stored.
    pub why: Why,
    /// The stored value that reads it; `None` where the block hands it on.
    pub reader: Option<u32>,
    /// The term of the reader that demands it: the result, the product, the read, what is loaded.
    pub at: TermId,
}

/// A stored value.
#[derive(Clone, Debug)]
pub struct Value {
    /// For people.
    pub name: String,
    /// What it is, by the block's own leaves.
    pub meaning: TermId,
    /// What its group computes: stored values are leaves, and its loops' reductions stand for their results.
    pub term: TermId,
    /// The loop it hangs on.
    pub work: Work,
    /// How it is stored; more than one where readers differ.
    pub forms: Vec<Form>,
    /// Which of the block's results it is.
    pub results: Vec<u32>,
    /// Stored values that its group reads for it.
    pub loads: BTreeSet<u32>,
    /// Why it is stored: one demand for each reader, and for each way in which it reads it.
    pub demands: Vec<Demand>,
}

/// The loop a value hangs on.
#[derive(Clone, Debug)]
pub enum Work {
    /// None: pointwise.
    Map,
    /// Weight products of one activation.
    Contract(Contraction),
    /// A fold.
    Stream(Fold),
    /// A search; the value's term.
    TopK,
}

/// Products of weights with one activation.
#[derive(Clone, Debug)]
pub struct Contraction {
    /// The activation.
    pub input: Input,
    /// The model's axes that are reduced, in the order in which the input stores them.
    pub reduce: Vec<AxisId>,
    /// The products, by the reduction that each one is.
    pub products: Vec<Product>,
    /// Reductions over the same axes without a packed weight: (reduction, its body over stored values).
    pub stats: Vec<(TermId, TermId)>,
}

/// One weight product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The reduction.
    pub term: TermId,
    /// The weight over the model's axes.
    pub weight: TermId,
    /// How the weight is packed.
    pub format: Format,
    /// Output axes, outermost first.
    pub axes: Vec<AxisId>,
}

/// A contraction's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// A parameter of the block as it is.
    Param(u32),
    /// A form of a stored value.
    Stored {
        /// [`Fused::values`].
        value: u32,
        /// [`Value::forms`].
        form: usize,
    },
}

/// A stream and where its states live.
#[derive(Clone, Debug)]
pub struct Fold {
    /// States with bodies over stored values.
    pub stream: Stream,
    /// The same over the block's own leaves, as it was derived: what the verifier of streams has seen.
    pub derived: Stream,
    /// Inner contractions, by the reduction that each one is in the bodies.
    pub dots: Vec<TermId>,
    /// One fold for each point of these.
    pub parallel: Axes,
    /// What the masks prove, where the loop is over tokens.
    pub sight: Option<Sight>,
}

/// Values computed in one loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// For people.
    pub name: String,
    /// [`Fused::values`], in order.
    pub values: Vec<u32>,
    /// Indices of a part, where a fold is cut along its outermost axis: a kernel folds each part, another combines them.
    pub parts: Option<u64>,
}

/// A block after grouping.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The arena of every term.
    pub terms: Terms,
    /// What is known of weights, and what the block runs on.
    pub facts: Facts,
    /// Stored values; a value's loads come before it.
    pub values: Vec<Value>,
    /// What outlives the step: a value and its form, first those that were asked for, in their order.
    pub caches: Vec<(u32, usize)>,
    /// In order of execution.
    pub groups: Vec<Group>,
    /// Why something was not fused.
    pub notes: Vec<String>,
    /// Sequences to which no token may be appended, and why.
    pub leaks: BTreeMap<SeqId, Leak>,
}

/// Forms the kernels of a block whose results are `roots`, in order.
///
/// # Errors
/// When a term has no kernel family that computes it.
pub fn fuse(terms: &Terms, roots: &[(String, TermId)], facts: Facts) -> Result<Fused, Unsupported> {
    fuse_caching(terms, roots, &[], facts)
}

/// As [`fuse`], where `caches` are appended to whether these kernels read them or not.
///
/// # Errors
/// As [`fuse`].
pub fn fuse_caching(
    terms: &Terms,
    roots: &[(String, TermId)],
    caches: &[TermId],
    facts: Facts,
) -> Result<Fused, Unsupported> {
    let names = roots.iter().map(|(name, _)| name.clone());
    let ids: Vec<_> = roots.iter().map(|(_, id)| *id).chain(caches.iter().copied()).collect();
    let (mut terms, mut ids) = alpha::canonical(terms, &ids);
    share::share(&mut terms, &mut ids);
    let (results, caches) = ids.split_at(roots.len());
    // What has tokens of two sequences is read in its parts, each of which is cached for itself.
    let of_one = |id: &&TermId| terms.free(**id).iter().filter(|a| terms.is_seq(*a)).count() == 1;
    let caches: Vec<_> = caches.iter().filter(of_one).copied().collect();
    let leaks = causality::leaks(&terms, results);
    let roots: Vec<_> = names.zip(results.iter().copied()).collect();
    let formed = value::form(terms, &roots, &caches, &facts)?;
    let value::Formed { terms, values, caches, mut notes } = formed;
    let groups = merge::merge(&terms, &values, &facts, &mut notes);
    let mut fused = Fused { terms, facts, values, caches, groups, notes, leaks };
    parts::cut_all(&mut fused);
    verify(&fused).unwrap_or_else(|e| panic!("group: {e}"));
    Ok(fused)
}

/// The axis of a block's rows among a value's axes: the tokens of its sequence.
pub fn row_axis(terms: &Terms, axes: &Axes) -> Option<AxisId> {
    axes.iter().find(|a| matches!(terms.axes[*a].extent, Extent::Seq(_)))
}

/// Axes in the order in which values pass between blocks: tokens first, then the model's order.
pub fn standard_order(terms: &Terms, axes: &Axes) -> Vec<AxisId> {
    let (mut rows, rest): (Vec<_>, Vec<_>) = axes.iter().partition(|a| terms.axes.len_of(*a).is_none());
    rows.extend(rest);
    rows
}

/// The plain format that holds a type's elements.
pub fn plain_format(ty: Type) -> Format {
    match ty {
        Type::Real => Format::F32,
        Type::Int | Type::Bool => Format::I32,
    }
}
