//! Lengths that may be known only while a step runs.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which `seq` of the model: 0 is the first declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqId(pub u8);

/// The length of one dimension of a buffer or of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dim {
    /// Known when the model was compiled.
    Const(u64),
    /// Tokens of sequence `t` in this step, of all sequences of the batch packed one after another.
    Rows(SeqId),
    /// The tokens of this step whose outputs were asked for, a subset of `Rows` in the same order.
    Picked(SeqId),
    /// Entries of one sequence's row of the block table.
    Blocks(SeqId),
    /// Tokens of sequence `t` that the caches hold once the step is done, of all sequences of the batch one after another:
    /// those of earlier steps too, unless every window has left them behind.
    Tokens(SeqId),
    /// Pages that those tokens take in a workspace, each sequence's beginning with one of its own.
    Pages(SeqId),
    /// The sequences of the batch.
    Sequences,
    /// Runs of so many tokens, from a sequence's first on, that hold the longest sequence of the batch.
    Parts(SeqId, u32),
    /// Tiles that hold the tokens of sequence `t` in this step, each of which takes so many rows (the first number), of so many rows
    /// each (the second).
    Tiles(SeqId, u32, u32),
}

impl Dim {
    /// The length, if it does not depend on the step.
    pub const fn as_const(self) -> Option<u64> {
        match self {
            Dim::Const(n) => Some(n),
            Dim::Rows(_)
            | Dim::Picked(_)
            | Dim::Blocks(_)
            | Dim::Tokens(_)
            | Dim::Pages(_)
            | Dim::Sequences
            | Dim::Parts(..)
            | Dim::Tiles(..) => None,
        }
    }

    /// The length that this one is computed from: most stand for themselves.
    pub const fn base(self) -> Dim {
        match self {
            Dim::Tiles(s, ..) => Dim::Rows(s),
            Dim::Const(_)
            | Dim::Rows(_)
            | Dim::Picked(_)
            | Dim::Blocks(_)
            | Dim::Tokens(_)
            | Dim::Pages(_)
            | Dim::Sequences
            | Dim::Parts(..) => self,
        }
    }

    /// This length, where [`Dim::base`] is `base`.
    pub const fn at(self, base: u64) -> u64 {
        match self {
            Dim::Tiles(_, each, size) => base.saturating_mul(each as u64).div_ceil(size as u64),
            Dim::Const(_)
            | Dim::Rows(_)
            | Dim::Picked(_)
            | Dim::Blocks(_)
            | Dim::Tokens(_)
            | Dim::Pages(_)
            | Dim::Sequences
            | Dim::Parts(..) => base,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Rows(s) => write!(f, "rows{}", s.0),
            Dim::Picked(s) => write!(f, "picked{}", s.0),
            Dim::Blocks(s) => write!(f, "blocks{}", s.0),
            Dim::Tokens(s) => write!(f, "tokens{}", s.0),
            Dim::Pages(s) => write!(f, "pages{}", s.0),
            Dim::Sequences => write!(f, "sequences"),
            Dim::Parts(s, n) => write!(f, "parts{} of {n}", s.0),
            Dim::Tiles(s, each, n) => write!(f, "rows{} * {each} / {n}", s.0),
        }
    }
}
