//! What must hold of a recipe before it is evaluated: operands come first, types agree, axes are bound once and do not
//! escape, and the file's tensors are as large as they should be.

use super::{Recipe, RecipeError, RecipeNode, malformed};
use crate::checkpoint::{TensorData, TensorInfo};
use crate::dtype::{DType, Type};
use crate::format::Format;
use crate::recipe::{RecipeAxis, RecipeOp, RecipeTensor};
use crate::scalar::ReduceOp;

/// Most points that reductions may visit for one element: far above any model's, far below a hang.
const MOST_REDUCED: u64 = 1 << 32;

/// Axes as a bit set.
pub(super) type Axes = u64;
const MOST_AXES: usize = 64;

/// A tensor with its bytes.
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    /// Lengths, the names' dimension first where there are several.
    pub shape: Vec<u64>,
    /// The same dimensions' strides in elements, within the bytes of one name.
    pub strides: Vec<u64>,
    pub format: Format,
    /// One slice for each name.
    pub parts: Vec<&'a [u8]>,
}

/// A recipe that may be evaluated.
pub(super) struct Checked<'a> {
    pub recipe: &'a Recipe,
    pub tensors: Vec<Tensor<'a>>,
    /// Type of each node.
    pub types: Vec<Type>,
    /// Free axes of each node.
    pub free: Vec<Axes>,
    /// Elements of the value.
    pub elements: u64,
}

impl<'a> Checked<'a> {
    pub fn new(recipe: &'a Recipe, data: &'a dyn TensorData) -> Result<Checked<'a>, RecipeError> {
        if recipe.axes.len() > MOST_AXES {
            return Err(malformed(format!("more than {MOST_AXES} axes")));
        }
        let tensors: Vec<_> = recipe.tensors.iter().map(|t| tensor(t, data)).collect::<Result<_, _>>()?;
        let types = node_types(recipe, &tensors)?;
        let free = free_axes(recipe)?;
        let elements = order(recipe, free[recipe.root as usize])?;
        Ok(Checked { recipe, tensors, types, free, elements })
    }

    pub fn length(&self, axis: RecipeAxis) -> u64 {
        self.recipe.axes[axis as usize].1
    }
}

fn shown(info: &TensorInfo) -> String {
    format!("{} {:?}", info.format, info.shape)
}

fn tensor<'a>(t: &'a RecipeTensor, data: &'a dyn TensorData) -> Result<Tensor<'a>, RecipeError> {
    let Some(first) = t.names.first() else { return Err(malformed("a tensor without a name")) };
    let format = t.info.format;
    let elements = t.info.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let innermost = t.info.shape.last().copied().unwrap_or(1);
    let expected = elements.filter(|_| innermost % format.block() as u64 == 0).and_then(|n| format.bytes(n));
    let expected = expected.ok_or_else(|| malformed(format!("tensor `{first}` has an impossible shape")))?;
    let part = |name: &'a String| {
        let bytes = data.tensor_bytes(name).ok_or_else(|| RecipeError::MissingTensor(name.clone()))?;
        if let Some(found) = data.stored_as(name).filter(|found| *found != t.info) {
            let (name, found, expected) = (name.clone(), shown(&found), shown(&t.info));
            return Err(RecipeError::TensorInfo { name, found, expected });
        }
        let found = bytes.len() as u64;
        if found == expected { Ok(bytes) } else { Err(RecipeError::TensorSize { name: name.clone(), found, expected }) }
    };
    let parts = t.names.iter().map(part).collect::<Result<_, _>>()?;
    let mut shape = t.info.shape.clone();
    // A stride may overflow only beside a dimension of length zero, which no index is inside of.
    let mut strides: Vec<u64> =
        shape.iter().rev().scan(1u64, |s, d| Some(std::mem::replace(s, s.saturating_mul(*d)))).collect();
    strides.reverse();
    if t.names.len() > 1 {
        shape.insert(0, t.names.len() as u64);
        strides.insert(0, 0);
    }
    Ok(Tensor { name: first, shape, strides, format, parts })
}

/// The type of every node, whose operands must come before it and have the types it takes.
fn node_types(recipe: &Recipe, tensors: &[Tensor]) -> Result<Vec<Type>, RecipeError> {
    let mut types: Vec<Type> = Vec::with_capacity(recipe.nodes.len());
    for (i, node) in recipe.nodes.iter().enumerate() {
        let ty = node_type(recipe, tensors, node, &types);
        types.push(ty.ok_or_else(|| malformed(format!("node {i} has operands that do not fit it")))?);
    }
    match types.get(recipe.root as usize) {
        Some(Type::Real | Type::Int) => Ok(types),
        Some(Type::Bool) => Err(malformed("its value is no number")),
        None => Err(malformed("it has no root")),
    }
}

fn node_type(recipe: &Recipe, tensors: &[Tensor], node: &RecipeOp, types: &[Type]) -> Option<Type> {
    let at = |n: &RecipeNode| types.get(*n as usize).copied();
    match node {
        RecipeOp::Const(v) => Some(v.ty()),
        RecipeOp::Axis(a) => recipe.axes.get(*a as usize).map(|_| Type::Int),
        RecipeOp::Load { tensor, index } => tensors
            .get(*tensor as usize)
            .filter(|t| t.shape.len() == index.len() && index.iter().all(|n| at(n) == Some(Type::Int)))
            .map(|t| if t.format.plain() == Some(DType::I32) { Type::Int } else { Type::Real }),
        RecipeOp::Map(op, args) => args.iter().map(at).collect::<Option<Vec<_>>>().and_then(|types| op.result(&types)),
        RecipeOp::Reduce(op, _, body) => at(body).filter(|ty| match op {
            ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => *ty != Type::Bool,
            ReduceOp::Any | ReduceOp::All => *ty == Type::Bool,
        }),
    }
}

/// Free axes of every node; each axis is bound by at most one reduction.
fn free_axes(recipe: &Recipe) -> Result<Vec<Axes>, RecipeError> {
    let mut free: Vec<Axes> = Vec::with_capacity(recipe.nodes.len());
    // Points that nested reductions visit for one value of a node.
    let mut work: Vec<u64> = Vec::with_capacity(recipe.nodes.len());
    let mut bound: Axes = 0;
    for node in &recipe.nodes {
        let (axes, points) = match node {
            RecipeOp::Const(_) => (0, 1),
            RecipeOp::Axis(a) => (1 << a, 1),
            RecipeOp::Load { index: args, .. } | RecipeOp::Map(_, args) => {
                let all = args.iter().fold(0, |all, n| all | free[*n as usize]);
                (all, args.iter().map(|n| work[*n as usize]).max().unwrap_or(1))
            }
            RecipeOp::Reduce(_, axes, body) => {
                let (mine, points) = bind(recipe, axes, &mut bound)?;
                (free[*body as usize] & !mine, points.saturating_mul(work[*body as usize]))
            }
        };
        if points > MOST_REDUCED {
            return Err(malformed("a reduction over too many points"));
        }
        free.push(axes);
        work.push(points);
    }
    Ok(free)
}

/// Binds a reduction's axes: the set of them and the number of their points.
fn bind(recipe: &Recipe, axes: &[RecipeAxis], bound: &mut Axes) -> Result<(Axes, u64), RecipeError> {
    let (mut mine, mut points) = (0, 1u64);
    for a in axes {
        let (name, length) =
            recipe.axes.get(*a as usize).ok_or_else(|| malformed("a reduction over an axis it lacks"))?;
        if *bound >> a & 1 == 1 {
            return Err(malformed(format!("axis `{name}` is bound twice")));
        }
        *bound |= 1 << a;
        mine |= 1 << a;
        points = points.saturating_mul(*length);
    }
    Ok((mine, points))
}

/// Checks the stored order against the root's free axes; gives the number of elements.
fn order(recipe: &Recipe, root: Axes) -> Result<u64, RecipeError> {
    let mut seen: Axes = 0;
    let mut elements = Some(1u64);
    for a in &recipe.order {
        let (name, length) = recipe.axes.get(*a as usize).ok_or_else(|| malformed("an order of axes it lacks"))?;
        if seen >> a & 1 == 1 {
            return Err(malformed(format!("axis `{name}` is stored twice")));
        }
        seen |= 1 << a;
        elements = elements.and_then(|n| n.checked_mul(*length));
    }
    let bound = recipe.nodes.iter().flat_map(|n| match n {
        RecipeOp::Reduce(_, axes, _) => axes.as_slice(),
        RecipeOp::Const(_) | RecipeOp::Axis(_) | RecipeOp::Load { .. } | RecipeOp::Map(..) => &[],
    });
    let bound = bound.fold(0, |all: Axes, a| all | 1 << a);
    if root & !seen != 0 || bound & seen != 0 {
        return Err(malformed("its free axes are not those it is stored by"));
    }
    elements.ok_or_else(|| malformed("its value does not fit an address space"))
}
