//! Copying: a value that is an element of one tensor, read so that the innermost stored axes run through the file
//! in order.

use super::check::{Axes, Checked, Tensor};
use super::points::Points;
use super::{Recipe, RecipeError, RecipeNode, unravel};
use crate::format::Format;
use crate::recipe::RecipeOp;
use crate::scalar::{ScalarOp, Value};

/// The copy of one tensor, run by run.
pub(super) struct Runs<'a> {
    source: &'a Checked<'a>,
    tensor: &'a Tensor<'a>,
    index: &'a [RecipeNode],
    /// How much each index grows to the end of a run.
    grows: Vec<u64>,
    /// Stored axes outside a run.
    outer: usize,
    /// Elements of a run.
    run: u64,
    points: Points<'a>,
}

impl<'a> Runs<'a> {
    /// `None` where the weight cannot be copied.
    pub fn new(source: &'a Checked<'a>, format: Format) -> Option<Runs<'a>> {
        let RecipeOp::Load { tensor, index } = &source.recipe.nodes[source.recipe.root as usize] else { return None };
        let tensor = &source.tensors[*tensor as usize];
        if tensor.format != format {
            return None;
        }
        let all = Slopes::of_nodes(source.recipe);
        let slopes: Vec<_> = index.iter().map(|n| &all[*n as usize]).collect();
        let (outer, run) = longest_run(source, tensor, &slopes)?;
        let inner = &source.recipe.order[outer..];
        let grow = |s: &&Slopes| {
            let steps = inner.iter().map(|a| s.along[*a as usize].saturating_mul(source.length(*a) - 1));
            steps.fold(0, u64::saturating_add)
        };
        let grows = slopes.iter().map(grow).collect();
        Some(Runs { source, tensor, index, grows, outer, run, points: Points::of(source, index) })
    }

    /// Copies elements `start..`, as many as `row` holds; both are whole blocks.
    pub fn write(&mut self, start: u64, row: &mut [u8]) -> Result<(), RecipeError> {
        let (block, block_bytes) = (self.tensor.format.block(), self.tensor.format.block_bytes());
        let mut at = start;
        let mut row = row;
        while !row.is_empty() {
            let within = at % self.run;
            let count = (self.run - within).min((row.len() / block_bytes * block) as u64);
            let (part, first) = self.begin(at / self.run)?;
            let from = (first + within) as usize / block * block_bytes;
            let (to, rest) = row.split_at_mut(count as usize / block * block_bytes);
            to.copy_from_slice(&self.tensor.parts[part][from..from + to.len()]);
            row = rest;
            at += count;
        }
        Ok(())
    }

    /// Where run number `run` begins: which name, which element.
    fn begin(&mut self, run: u64) -> Result<(usize, u64), RecipeError> {
        let order = &self.source.recipe.order;
        let mut at = vec![0; order.len()];
        unravel(run, order[..self.outer].iter().map(|a| self.source.length(*a)), &mut at[..self.outer]);
        self.points.seek(&at)?;
        let (mut part, mut element) = (0, 0);
        for (d, node) in self.index.iter().enumerate() {
            let first = self.points.index(*node);
            let length = self.tensor.shape[d];
            let last = first.saturating_add_unsigned(self.grows[d]);
            if first < 0 || last as u64 >= length {
                let index = if first < 0 { first } else { last };
                return Err(RecipeError::OutOfRange { name: self.tensor.name.into(), dimension: d, length, index });
            }
            if self.tensor.parts.len() > 1 && d == 0 {
                part = first as usize;
            } else {
                element += first as u64 * self.tensor.strides[d];
            }
        }
        // A run is whole blocks long; here it is seen to begin at one.
        if element % self.tensor.format.block() as u64 != 0 {
            return Err(RecipeError::NotCopied(self.tensor.format));
        }
        Ok((part, element))
    }
}

/// How an integer depends on the axes.
struct Slopes {
    /// Its increase from one index of an axis to the next.
    along: Vec<u64>,
    /// Axes on which it depends in another way.
    other: Axes,
}

impl Slopes {
    fn of_nodes(recipe: &Recipe) -> Vec<Slopes> {
        let mut all: Vec<Slopes> = Vec::with_capacity(recipe.nodes.len());
        for node in &recipe.nodes {
            let slopes = match node {
                RecipeOp::Const(_) => Slopes { along: vec![0; recipe.axes.len()], other: 0 },
                RecipeOp::Axis(a) => {
                    let mut along = vec![0; recipe.axes.len()];
                    along[*a as usize] = 1;
                    Slopes { along, other: 0 }
                }
                RecipeOp::Map(ScalarOp::Add, args) => all[args[0] as usize].plus(&all[args[1] as usize]),
                RecipeOp::Map(ScalarOp::Mul, args) => match (literal(recipe, args[0]), literal(recipe, args[1])) {
                    (Some(c), _) => all[args[1] as usize].times(c),
                    (None, Some(c)) => all[args[0] as usize].times(c),
                    (None, None) => Slopes::opaque(&all, args),
                },
                RecipeOp::Load { index: args, .. } | RecipeOp::Map(_, args) => {
                    if args.is_empty() {
                        Slopes { along: vec![0; recipe.axes.len()], other: 0 }
                    } else {
                        Slopes::opaque(&all, args)
                    }
                }
                RecipeOp::Reduce(_, _, body) => Slopes::opaque(&all, &[*body]),
            };
            all.push(slopes);
        }
        all
    }

    fn plus(&self, other: &Slopes) -> Slopes {
        let sums = self.along.iter().zip(&other.along).map(|(a, b)| a.checked_add(*b));
        Slopes::checked(sums.collect(), self.other | other.other)
    }

    fn times(&self, factor: u64) -> Slopes {
        Slopes::checked(self.along.iter().map(|a| a.checked_mul(factor)).collect(), self.other)
    }

    /// A slope that overflowed is no slope.
    fn checked(along: Vec<Option<u64>>, mut other: Axes) -> Slopes {
        for (a, slope) in along.iter().enumerate() {
            if slope.is_none() {
                other |= 1 << a;
            }
        }
        Slopes { along: along.into_iter().map(|s| s.unwrap_or(0)).collect(), other }
    }

    fn opaque(all: &[Slopes], args: &[RecipeNode]) -> Slopes {
        let mut other = 0;
        for n in args {
            let arg = &all[*n as usize];
            other |= arg.other;
            for (a, slope) in arg.along.iter().enumerate() {
                if *slope != 0 {
                    other |= 1 << a;
                }
            }
        }
        Slopes { along: vec![0; all[args[0] as usize].along.len()], other }
    }
}

fn literal(recipe: &Recipe, node: RecipeNode) -> Option<u64> {
    match recipe.nodes[node as usize] {
        RecipeOp::Const(Value::Int(c)) => u64::try_from(c).ok(),
        _ => None,
    }
}

/// The longest suffix of the stored order along which elements lie one after another in the file: the number of axes
/// outside of it, and its elements. `None` where no run holds whole blocks.
fn longest_run(source: &Checked, tensor: &Tensor, slopes: &[&Slopes]) -> Option<(usize, u64)> {
    let several = tensor.parts.len() > 1;
    let order = &source.recipe.order;
    let (mut outer, mut run) = (order.len(), 1u64);
    while outer > 0 {
        let axis = order[outer - 1] as usize;
        let opaque = slopes.iter().any(|s| s.other >> axis & 1 == 1);
        let across_names = several && slopes.first().is_some_and(|s| s.along[axis] != 0);
        let step = slopes
            .iter()
            .zip(&tensor.strides)
            .try_fold(0u64, |n, (s, stride)| n.checked_add(s.along[axis].checked_mul(*stride)?));
        // An axis of length one steps nowhere.
        let in_order = step == Some(run) || source.length(order[outer - 1]) == 1;
        if opaque || across_names || !in_order {
            break;
        }
        run *= source.length(order[outer - 1]);
        outer -= 1;
    }
    (run > 0 && run % tensor.format.block() as u64 == 0).then_some((outer, run))
}
