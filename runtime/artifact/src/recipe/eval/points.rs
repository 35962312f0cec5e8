//! Computing: every point of the stored axes in turn, in f64.
//!
//! A node is evaluated when an axis it depends on moves and not otherwise, so what a row shares is computed once
//! a row. Nodes under a reduction that depend on its axes belong to the reduction and are evaluated by it.

use super::check::Checked;
use super::{Nodes, RecipeError, RecipeNode, unravel};
use crate::dtype::DType;
use crate::format::{read_scalar, write_scalar};
use crate::recipe::{RecipeAxis, RecipeOp};
use crate::scalar::{ReduceOp, Value};

/// The evaluator of one worker.
pub(super) struct Points<'a> {
    source: &'a Checked<'a>,
    /// Current index along each of the recipe's axes.
    at: Vec<u64>,
    /// Current value of each node.
    values: Vec<Value>,
    /// Nodes to evaluate when the stored axis before this place moved: `levels[0]` depend on no axis.
    levels: Vec<Nodes>,
    /// For each reduction, the nodes of its body that depend on its axes.
    bodies: Vec<Nodes>,
}

impl<'a> Points<'a> {
    /// An evaluator of the root.
    pub fn new(source: &'a Checked<'a>) -> Points<'a> {
        Points::of(source, &[source.recipe.root])
    }

    /// An evaluator of some nodes.
    pub fn of(source: &'a Checked<'a>, roots: &[RecipeNode]) -> Points<'a> {
        let recipe = source.recipe;
        let mut levels = vec![Vec::new(); recipe.order.len() + 1];
        let mut bodies = vec![Vec::new(); recipe.nodes.len()];
        let mut binder = vec![None; recipe.axes.len()];
        for (i, node) in recipe.nodes.iter().enumerate() {
            if let RecipeOp::Reduce(_, axes, _) = node {
                axes.iter().for_each(|a| binder[*a as usize] = Some(i));
            }
        }
        for node in reachable(source, roots) {
            let free = |a: usize| source.free[node as usize] >> a & 1 == 1;
            // The innermost of the reductions it lies under has the lowest number: operands come before users.
            match (0..recipe.axes.len()).filter(|a| free(*a)).filter_map(|a| binder[a]).min() {
                Some(reduction) => bodies[reduction].push(node),
                None => {
                    let level = recipe.order.iter().rposition(|a| free(*a as usize)).map_or(0, |p| p + 1);
                    levels[level].push(node);
                }
            }
        }
        let values = vec![Value::Int(0); recipe.nodes.len()];
        Points { source, at: vec![0; recipe.axes.len()], values, levels, bodies }
    }

    /// Moves to a point of the stored axes and evaluates there.
    pub fn seek(&mut self, point: &[u64]) -> Result<(), RecipeError> {
        for (axis, i) in self.source.recipe.order.iter().zip(point) {
            self.at[*axis as usize] = *i;
        }
        self.refresh(0)
    }

    /// The value of an index node at the current point.
    pub fn index(&self, node: RecipeNode) -> i64 {
        match self.values[node as usize] {
            Value::Int(i) => i,
            other => panic!("recipe evaluation: an index of type {}", other.ty()),
        }
    }

    /// Computes elements `start..`, as many as `row` holds.
    pub fn write(&mut self, start: u64, dtype: DType, row: &mut [u8]) -> Result<(), RecipeError> {
        let order = &self.source.recipe.order;
        let mut point = vec![0; order.len()];
        unravel(start, order.iter().map(|a| self.source.length(*a)), &mut point);
        self.seek(&point)?;
        let root = self.source.recipe.root as usize;
        let mut elements = row.chunks_exact_mut(dtype.bytes()).peekable();
        while let Some(element) = elements.next() {
            write_scalar(dtype, self.values[root].real(), element);
            if elements.peek().is_some() {
                self.step()?;
            }
        }
        Ok(())
    }

    /// Moves to the next point in row-major order.
    fn step(&mut self) -> Result<(), RecipeError> {
        let source = self.source;
        for (p, axis) in source.recipe.order.iter().enumerate().rev() {
            let at = &mut self.at[*axis as usize];
            *at += 1;
            if *at < source.length(*axis) {
                return self.refresh(p + 1);
            }
            *at = 0;
        }
        Ok(())
    }

    /// Evaluates what depends on the stored axes from this level inwards.
    fn refresh(&mut self, level: usize) -> Result<(), RecipeError> {
        for level in level..self.levels.len() {
            for i in 0..self.levels[level].len() {
                self.evaluate(self.levels[level][i])?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, node: RecipeNode) -> Result<(), RecipeError> {
        let source = self.source;
        let value = match &source.recipe.nodes[node as usize] {
            RecipeOp::Const(v) => *v,
            RecipeOp::Axis(a) => Value::Int(self.at[*a as usize] as i64),
            RecipeOp::Load { tensor, index } => self.load(*tensor, index)?,
            RecipeOp::Map(op, args) => match args.as_slice() {
                [a] => op.evaluate(&[self.values[*a as usize]]),
                [a, b] => op.evaluate(&[self.values[*a as usize], self.values[*b as usize]]),
                [a, b, c] => op.evaluate(&[a, b, c].map(|n| self.values[*n as usize])),
                _ => panic!("recipe evaluation: `{}` with {} operands", op.keyword(), args.len()),
            },
            RecipeOp::Reduce(op, axes, body) => self.reduce(node, *op, axes, *body)?,
        };
        self.values[node as usize] = value;
        Ok(())
    }

    fn reduce(
        &mut self,
        node: RecipeNode,
        op: ReduceOp,
        axes: &[RecipeAxis],
        body: RecipeNode,
    ) -> Result<Value, RecipeError> {
        let points: u64 = axes.iter().map(|a| self.source.length(*a)).product();
        let mut index = vec![0; axes.len()];
        let mut total: Option<Value> = None;
        for point in 0..points {
            unravel(point, axes.iter().map(|a| self.source.length(*a)), &mut index);
            for (axis, i) in axes.iter().zip(&index) {
                self.at[*axis as usize] = *i;
            }
            for i in 0..self.bodies[node as usize].len() {
                self.evaluate(self.bodies[node as usize][i])?;
            }
            let value = self.values[body as usize];
            total = Some(total.map_or(value, |t| op.combine().evaluate(&[t, value])));
        }
        Ok(total.unwrap_or_else(|| op.identity(self.source.types[body as usize])))
    }

    fn load(&self, tensor: u16, index: &[RecipeNode]) -> Result<Value, RecipeError> {
        let tensor = &self.source.tensors[tensor as usize];
        let (mut part, mut element) = (0, 0);
        for (d, node) in index.iter().enumerate() {
            let (i, length) = (self.index(*node), tensor.shape[d]);
            if i < 0 || i as u64 >= length {
                return Err(RecipeError::OutOfRange { name: tensor.name.into(), dimension: d, length, index: i });
            }
            if tensor.parts.len() > 1 && d == 0 {
                part = i as usize;
            } else {
                element += i as u64 * tensor.strides[d];
            }
        }
        let (bytes, element) = (tensor.parts[part], element as usize);
        Ok(match tensor.format.plain() {
            Some(DType::I32) => {
                let at = element * DType::I32.bytes();
                let bytes = bytes[at..at + DType::I32.bytes()].try_into().expect("four bytes");
                Value::Int(i32::from_le_bytes(bytes) as i64)
            }
            Some(dtype) => Value::Real(read_scalar(dtype, &bytes[element * dtype.bytes()..]) as f64),
            None => {
                let block = tensor.format.block();
                let at = element / block * tensor.format.block_bytes();
                Value::Real(tensor.format.spec().decode(&bytes[at..], element % block) as f64)
            }
        })
    }
}

/// Every node that some roots need, operands first.
fn reachable(source: &Checked, roots: &[RecipeNode]) -> Nodes {
    let nodes = &source.recipe.nodes;
    let mut needed = vec![false; nodes.len()];
    roots.iter().for_each(|r| needed[*r as usize] = true);
    for i in (0..nodes.len()).rev() {
        if !needed[i] {
            continue;
        }
        match &nodes[i] {
            RecipeOp::Const(_) | RecipeOp::Axis(_) => {}
            RecipeOp::Load { index: args, .. } | RecipeOp::Map(_, args) => {
                args.iter().for_each(|n| needed[*n as usize] = true);
            }
            RecipeOp::Reduce(_, _, body) => needed[*body as usize] = true,
        }
    }
    (0..nodes.len() as RecipeNode).filter(|i| needed[*i as usize]).collect()
}
