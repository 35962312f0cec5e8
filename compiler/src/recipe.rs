//! From a weight-only term to the recipe that the runtime evaluates at load.
//!
//! What enters is a term over a block's weight slots and a step that binds them; what leaves is a scalar expression
//! over the file's tensors. An index is a substitution: a term is translated under an environment that says, for
//! each of its free axes, at which index it is read.

use crate::group::Unsupported;
use crate::normal::{Term, TermId, Terms};
use llmc_artifact::recipe::{Recipe, RecipeAxis, RecipeNode, RecipeOp, RecipeTensor};
use llmc_artifact::{ReduceOp, ScalarOp, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable, Model, Op, Step, TensorView};
use petgraph::graph::NodeIndex;
use std::collections::BTreeMap;

/// Where each free axis is read.
type Environment = BTreeMap<AxisId, RecipeNode>;

/// The recipe of a weight-only term for one step. `order` lists the axes of the stored weight, outermost first.
///
/// # Errors
/// When the term searches with `topk`, which recipes do not.
pub fn build(model: &Model, step: &Step, terms: &Terms, term: TermId, order: &[AxisId]) -> Result<Recipe, Unsupported> {
    let mut builder = Builder { model, step, terms, recipe: Recipe::default() };
    let mut environment = Environment::new();
    for axis in order {
        let (number, node) = builder.axis(&terms.axes, *axis);
        builder.recipe.order.push(number);
        environment.insert(*axis, node);
    }
    builder.recipe.root = builder.term(term, &environment)?;
    Ok(builder.recipe)
}

struct Builder<'a> {
    model: &'a Model,
    step: &'a Step,
    terms: &'a Terms,
    recipe: Recipe,
}

impl Builder<'_> {
    fn add(&mut self, op: RecipeOp) -> RecipeNode {
        let known = self.recipe.nodes.iter().position(|n| *n == op);
        known.unwrap_or_else(|| {
            self.recipe.nodes.push(op);
            self.recipe.nodes.len() - 1
        }) as RecipeNode
    }

    /// A new axis of the recipe, as long as one of the table.
    fn axis(&mut self, table: &AxisTable, axis: AxisId) -> (RecipeAxis, RecipeNode) {
        let length = table.len_of(axis).expect("recipe: a weight's axes have constant lengths");
        self.recipe.axes.push((table[axis].name.clone(), length));
        let number = self.recipe.axes.len() as RecipeAxis - 1;
        (number, self.add(RecipeOp::Axis(number)))
    }

    fn map(&mut self, op: ScalarOp, operands: &[RecipeNode]) -> RecipeNode {
        self.add(RecipeOp::Map(op, operands.to_vec()))
    }

    fn fold(&mut self, op: ScalarOp, operands: Vec<RecipeNode>) -> RecipeNode {
        operands.into_iter().reduce(|a, b| self.map(op, &[a, b])).expect("recipe: a sum or product has operands")
    }

    fn all(&mut self, terms: &[TermId], env: &Environment) -> Result<Vec<RecipeNode>, Unsupported> {
        terms.iter().map(|t| self.term(*t, env)).collect()
    }

    fn term(&mut self, id: TermId, env: &Environment) -> Result<RecipeNode, Unsupported> {
        let terms = self.terms;
        Ok(match terms.term(id) {
            Term::Const(c) => self.add(RecipeOp::Const((*c).into())),
            Term::Iota(a) => env[a],
            Term::Weight(slot) => {
                let weight = self.step.weights[*slot as usize];
                self.node(self.model.weights[weight.0 as usize].node, env)?
            }
            Term::Sum(bound, factors) => {
                let (inner, axes) = self.bind(&terms.axes, bound, env);
                let factors = self.all(factors, &inner)?;
                let product = self.fold(ScalarOp::Mul, factors);
                self.reduce(ReduceOp::Sum, axes, product)
            }
            Term::Plus(xs) => {
                let xs = self.all(xs, env)?;
                self.fold(ScalarOp::Add, xs)
            }
            Term::Map(op, xs) => {
                let xs = self.all(xs, env)?;
                self.map(*op, &xs)
            }
            Term::Reduce(op, bound, x) => {
                let (inner, axes) = self.bind(&terms.axes, bound, env);
                let body = self.term(*x, &inner)?;
                self.reduce(*op, axes, body)
            }
            Term::Index(x, at) => {
                let mut inner = env.clone();
                for (axis, index) in at {
                    inner.insert(*axis, self.term(*index, env)?);
                }
                self.term(*x, &inner)?
            }
            Term::TopK(..) => return Err(searching()),
            other @ (Term::Length(_) | Term::Param(_) | Term::Stored(_) | Term::Read(..)) => {
                panic!("recipe: {other:?} is not known at load")
            }
        })
    }

    /// New axes for bound ones, and the environment inside.
    fn bind(&mut self, table: &AxisTable, bound: &Axes, env: &Environment) -> (Environment, Vec<RecipeAxis>) {
        let mut inner = env.clone();
        let mut axes = Vec::new();
        for axis in bound.iter() {
            let (number, node) = self.axis(table, axis);
            axes.push(number);
            inner.insert(axis, node);
        }
        (inner, axes)
    }

    fn reduce(&mut self, op: ReduceOp, axes: Vec<RecipeAxis>, body: RecipeNode) -> RecipeNode {
        if axes.is_empty() { body } else { self.add(RecipeOp::Reduce(op, axes, body)) }
    }

    /// A node of the model's weight graph.
    fn node(&mut self, id: NodeIndex, env: &Environment) -> Result<RecipeNode, Unsupported> {
        let graph = &self.model.weight_graph;
        let operands = graph.operands(id);
        Ok(match &graph[id].op {
            Op::Const(v) => self.add(RecipeOp::Const(*v)),
            Op::Iota(a) => env[a],
            Op::Tensor(view) => self.tensor(view, env),
            Op::Map(op) => {
                let xs = operands.iter().map(|x| self.node(*x, env)).collect::<Result<Vec<_>, _>>()?;
                self.map(*op, &xs)
            }
            Op::Reduce(op, bound) => {
                let (inner, axes) = self.bind(&self.model.axes, bound, env);
                let body = self.node(operands[0], &inner)?;
                self.reduce(*op, axes, body)
            }
            Op::Index(read) => {
                let mut inner = env.clone();
                for (axis, index) in read.iter().zip(&operands[1..]) {
                    inner.insert(*axis, self.node(*index, env)?);
                }
                self.node(operands[0], &inner)?
            }
            Op::TopK { .. } => return Err(searching()),
            other @ (Op::Length(_) | Op::Param(_) | Op::Weight(_)) => panic!("recipe: {other:?} in the weight graph"),
        })
    }

    /// An element of a tensor: each stored dimension's index is that of its merged axes, row-major.
    fn tensor(&mut self, view: &TensorView, env: &Environment) -> RecipeNode {
        let tensor = RecipeTensor { names: view.names.clone(), info: view.info.clone() };
        let known = self.recipe.tensors.iter().position(|t| *t == tensor);
        let number = known.unwrap_or_else(|| {
            self.recipe.tensors.push(tensor);
            self.recipe.tensors.len() - 1
        });
        let stacked = view.stacked.iter().map(std::slice::from_ref);
        let index = stacked.chain(view.dims.iter().map(Vec::as_slice)).map(|axes| self.merged(axes, env)).collect();
        self.add(RecipeOp::Load { tensor: number as u16, index })
    }

    fn merged(&mut self, axes: &[AxisId], env: &Environment) -> RecipeNode {
        let Some((first, rest)) = axes.split_first() else { return self.add(RecipeOp::Const(Value::Int(0))) };
        let mut index = env[first];
        for axis in rest {
            let length = self.model.axes.len_of(*axis).expect("recipe: a tensor's axes have constant lengths");
            let length = self.add(RecipeOp::Const(Value::Int(length as i64)));
            let outer = self.map(ScalarOp::Mul, &[index, length]);
            index = self.map(ScalarOp::Add, &[outer, env[axis]]);
        }
        index
    }
}

fn searching() -> Unsupported {
    Unsupported("a weight is chosen with `topk` over other weights; only values of tokens can be searched".to_owned())
}
