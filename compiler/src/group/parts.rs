//! Folds cut into parts: where a fold has fewer work items than the machine can run at once, its longest axis is shared
//! out too.
//!
//! What enters are the groups of a block; what leaves is, for each that is a fold, the size of a part, or nothing where one
//! kernel costs no more. Roles decide apart, also where they run the same form: a prompt has folds enough.
//! The size is fixed when the model is compiled; how many parts there are follows from the lengths of a step.

use super::{Facts, Fold, Fused, Value, Work, cost};
use crate::cost::Cost;
use crate::normal::Terms;
use llmc_artifact::plan::PAGE_TOKENS;
use llmc_frontend::graph::{AxisId, Extent};

/// Sizes that are tried, in pages, the largest first: of equally cheap ones the one with the fewest parts.
const SIZES: [u64; 7] = [64, 32, 16, 8, 4, 2, 1];

/// A fold as one kernel, and in the parts that cost least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// One kernel.
    pub whole: Cost,
    /// Two.
    pub parts: Cost,
    /// Indices of a part.
    pub size: u64,
    /// Folds without parts: work items.
    pub folds: f64,
}

impl Choice {
    fn is_cut(&self) -> bool {
        self.parts.seconds < self.whole.seconds
    }

    /// What the cheaper of the two costs.
    pub fn best(&self) -> Cost {
        if self.is_cut() { self.parts } else { self.whole }
    }
}

/// Decides for every group of a block, as the role and the machine of its facts would have it.
pub fn cut_all(fused: &mut Fused) {
    let Fused { terms, values, groups, facts, .. } = fused;
    for group in groups {
        let choice = consider(terms, values, &group.values, facts);
        group.parts = choice.filter(Choice::is_cut).map(|c| c.size);
    }
}

/// What there is to choose from; nothing where no axis can be cut.
pub fn consider(terms: &Terms, values: &[Value], members: &[u32], facts: &Facts) -> Option<Choice> {
    let axis = cut(terms, values, members)?;
    let whole = cost::kernel(terms, values, members, facts);
    let fits = |size: &u64| terms.axes.len_of(axis).is_none_or(|n| *size < n);
    let sizes = SIZES.iter().map(|pages| pages * PAGE_TOKENS as u64).filter(fits);
    let tried = sizes.map(|size| (size, cost::in_parts(terms, values, members, size, facts)));
    let (size, parts) = tried.min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds))?;
    Some(Choice { whole, parts, size, folds: cost::folds(terms, values, members, facts) })
}

/// The axis along which a group can be cut: the outermost folded one, keys or a constant one that is longer than a page.
pub(super) fn cut(terms: &Terms, values: &[Value], members: &[u32]) -> Option<AxisId> {
    let Work::Stream(Fold { stream, sight, .. }) = &values[members[0] as usize].work else { return None };
    let axis = stream.over[0];
    let long = match terms.axes[axis].extent {
        Extent::Const(n) => n > PAGE_TOKENS as u64,
        Extent::Seq(_) | Extent::View(_) => sight.is_some(),
    };
    long.then_some(axis)
}
