//! Recipes: how a packed weight follows from the tensors of a checkpoint, as data that the runtime evaluates at load
//! without a compiler.

pub mod eval;

use crate::checkpoint::TensorInfo;
use crate::scalar::{ReduceOp, ScalarOp, Value};
use serde::{Deserialize, Serialize};

/// An axis of a recipe: an index into [`Recipe::axes`].
pub type RecipeAxis = u16;
/// A node of a recipe: an index into [`Recipe::nodes`]; operands come before users.
pub type RecipeNode = u32;

/// A file tensor that a recipe reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecipeTensor {
    /// Names in the file. With more than one they are the indices of an additional outermost dimension.
    pub names: Vec<String>,
    /// Shape and format of each of them.
    pub info: TensorInfo,
}

/// One step of a recipe, a scalar at one point of the axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RecipeOp {
    /// A literal.
    Const(Value),
    /// The index along an axis.
    Axis(RecipeAxis),
    /// An element of a tensor: one integer node per dimension of the file, the names' dimension first where there are several.
    Load {
        /// Index into [`Recipe::tensors`].
        tensor: u16,
        /// Index nodes, outermost first.
        index: Vec<RecipeNode>,
    },
    /// A scalar operation.
    Map(ScalarOp, Vec<RecipeNode>),
    /// A reduction over axes that occur nowhere outside the body.
    Reduce(ReduceOp, Vec<RecipeAxis>, RecipeNode),
}

/// A weight as a function of file tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name and length of every axis.
    pub axes: Vec<(String, u64)>,
    /// File tensors.
    pub tensors: Vec<RecipeTensor>,
    /// Nodes, operands first.
    pub nodes: Vec<RecipeOp>,
    /// The value.
    pub root: RecipeNode,
    /// Axes of the stored weight, outermost first: every free axis of the root.
    pub order: Vec<RecipeAxis>,
}
