//! What every graph must be: later stages take only what has been verified.

use super::*;
use llmc_artifact::scalar::Signature;

/// Something that has been verified; only [`Verified::new`] and its kin make one.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// The value; what is done to it then is no longer verified.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Verified<Model> {
    /// Verifies a model.
    ///
    /// # Errors
    /// What is broken, in one sentence: an invariant of the stage that made the model.
    pub fn new(model: Model) -> Result<Verified<Model>, String> {
        verify(&model).map(|_| Verified(model))
    }

    /// Verifies a model that was just elaborated.
    ///
    /// # Panics
    /// When it is broken: an invariant of elaboration, never a user's mistake.
    pub fn model(model: Model) -> Verified<Model> {
        match Verified::new(model) {
            Ok(v) => v,
            Err(broken) => panic!("elaborate: {broken}"),
        }
    }
}

/// Checks a whole model: every node against its operation, every step against its block.
///
/// # Errors
/// The first thing that is broken.
pub fn verify(model: &Model) -> Result<(), String> {
    for (id, axis) in model.axes.iter() {
        let twice = model.axes.iter().any(|(other, a)| other < id && a.name == axis.name);
        ensure(!twice, || format!("two axes are called `{}`", axis.name))?;
        if let Extent::Seq(s) | Extent::View(s) = axis.extent {
            ensure((s.0 as usize) < model.seqs.len(), || format!("axis `{}` is of no sequence", axis.name))?;
        }
        ensure(axis.extent != Extent::Const(0), || format!("axis `{}` has length 0", axis.name))?;
    }
    let within = Within { axes: &model.axes, params: &[], weights: &[], tensors: true };
    within.graph(&model.weight_graph).map_err(|e| format!("the weight graph: {e}"))?;
    for weight in &model.weights {
        ensure(weight.node.index() < model.weight_graph.len(), || format!("weight `{}` has no node", weight.name))?;
    }
    for block in &model.blocks {
        verify_block(&model.axes, block)?;
    }
    verify_steps(model)
}

/// Checks one block.
///
/// # Errors
/// The first thing that is broken.
pub fn verify_block(axes: &AxisTable, block: &Block) -> Result<(), String> {
    let in_block = |e: String| format!("block `{}`: {e}", block.name);
    let within = Within { axes, params: &block.params, weights: &block.weights, tensors: false };
    within.graph(&block.graph).map_err(in_block)?;
    for (name, id) in &block.results {
        ensure(id.index() < block.graph.len(), || in_block(format!("result `{name}` has no node")))?;
    }
    Ok(())
}

/// Values are written once, before they are read, and fit the blocks that read them.
fn verify_steps(model: &Model) -> Result<(), String> {
    let mut written = vec![false; model.values.len()];
    for input in &model.inputs {
        let value = written.get_mut(input.value.0 as usize).ok_or("an input has no value")?;
        ensure(!std::mem::replace(value, true), || "two inputs write one value".into())?;
    }
    for (number, step) in model.steps.iter().enumerate() {
        verify_step(model, step, &mut written).map_err(|e| format!("step {number}: {e}"))?;
    }
    for output in &model.outputs {
        let there = written.get(output.value.0 as usize) == Some(&true);
        ensure(there, || format!("output `{}` is never computed", output.name))?;
        let axes: Axes = output.order.iter().copied().collect();
        let value = &model.values[output.value.0 as usize];
        ensure(value.axes == axes, || format!("output `{}` has other axes than its value", output.name))?;
    }
    Ok(())
}

fn verify_step(model: &Model, step: &Step, written: &mut [bool]) -> Result<(), String> {
    let block = model.blocks.get(step.block.0 as usize).ok_or("it has no block")?;
    ensure(step.args.len() == block.params.len(), || "it has not one value for each parameter".into())?;
    for (arg, param) in step.args.iter().zip(&block.params) {
        ensure(written.get(arg.0 as usize) == Some(&true), || {
            format!("`{}` is read before it is written", param.name)
        })?;
        let value = &model.values[arg.0 as usize];
        ensure((&value.axes, value.ty) == (&param.axes, param.ty), || format!("`{}` does not fit", param.name))?;
    }
    ensure(step.weights.len() == block.weights.len(), || "it has not one weight for each slot".into())?;
    for (weight, slot) in step.weights.iter().zip(&block.weights) {
        let weight = model.weights.get(weight.0 as usize).ok_or("it binds an unknown weight")?;
        let node = &model.weight_graph[weight.node];
        ensure((&node.axes, node.ty) == (&slot.axes, slot.ty), || format!("weight `{}` does not fit", weight.name))?;
    }
    ensure(step.results.len() == block.results.len(), || "it has not one value for each result".into())?;
    for (value, (name, id)) in step.results.iter().zip(&block.results) {
        let place = written.get_mut(value.0 as usize).ok_or("it writes an unknown value")?;
        ensure(!std::mem::replace(place, true), || format!("`{name}` is written twice"))?;
        let (value, node) = (&model.values[value.0 as usize], &block.graph[*id]);
        ensure((&value.axes, value.ty) == (&node.axes, node.ty), || format!("result `{name}` does not fit"))?;
    }
    Ok(())
}

/// What a graph's leaves may refer to.
struct Within<'a> {
    axes: &'a AxisTable,
    params: &'a [ModelValue],
    weights: &'a [WeightSlot],
    tensors: bool,
}

impl Within<'_> {
    fn graph(&self, graph: &Graph) -> Result<(), String> {
        for id in graph.ids() {
            let operands: Vec<_> = graph.operands(id).into_iter().map(|x| &graph[x]).collect();
            let node = &graph[id];
            let describe = |e: String| format!("node {} ({:?}): {e}", id.index(), node.op);
            ensure(node.axes.iter().all(|a| (a.0 as usize) < self.axes.0.len()), || describe("unknown axis".into()))?;
            let (axes, ty) = self.infer(node, &operands).map_err(describe)?;
            ensure(axes == node.axes, || describe(format!("axes {:?}, should be {axes:?}", node.axes)))?;
            ensure(ty == node.ty, || describe(format!("type {}, should be {ty}", node.ty)))?;
        }
        Ok(())
    }

    /// The axes and the type that the operation gives for these operands.
    fn infer(&self, node: &Node, x: &[&Node]) -> Result<(Axes, Type), String> {
        let count = |n: usize| ensure(x.len() == n, || format!("{} operands, should be {n}", x.len()));
        match &node.op {
            Op::Const(v) => count(0).map(|_| (Axes::none(), v.ty())),
            Op::Iota(a) => count(0).map(|_| (Axes::from_iter([*a]), Type::Int)),
            Op::Length(_) => count(0).map(|_| (Axes::none(), Type::Int)),
            Op::Param(n) => {
                count(0)?;
                let p = self.params.get(*n as usize).ok_or("no such parameter")?;
                Ok((p.axes.clone(), p.ty))
            }
            Op::Weight(n) => {
                count(0)?;
                let w = self.weights.get(*n as usize).ok_or("no such weight slot")?;
                Ok((w.axes.clone(), w.ty))
            }
            Op::Tensor(view) => count(0).and_then(|_| self.infer_tensor(view)),
            Op::Map(op) => {
                count(op.arity())?;
                let axes = x.iter().fold(Axes::none(), |a, n| a.union(&n.axes));
                Ok((axes, map_type(*op, &x.iter().map(|n| n.ty).collect::<Vec<_>>())?))
            }
            Op::Reduce(op, axes) => {
                count(1)?;
                ensure(axes.is_subset(&x[0].axes), || "the body lacks an axis that is reduced".into())?;
                ensure(!axes.is_empty(), || "it reduces nothing".into())?;
                let logical = matches!(op, ReduceOp::Any | ReduceOp::All);
                ensure((x[0].ty == Type::Bool) == logical, || format!("`{}` of a {}", op.keyword(), x[0].ty))?;
                Ok((x[0].axes.minus(axes), x[0].ty))
            }
            Op::Index(read) => self.infer_index(read, x),
            Op::TopK { axis, rank } => {
                count(1)?;
                let (one, won) = (Axes::from_iter([*axis]), Axes::from_iter([*rank]));
                ensure(x[0].axes.contains(*axis) && !x[0].axes.contains(*rank), || "wrong axes".into())?;
                ensure(x[0].ty == Type::Real, || "not of reals".into())?;
                Ok((x[0].axes.minus(&one).union(&won), Type::Int))
            }
        }
    }

    fn infer_tensor(&self, view: &TensorView) -> Result<(Axes, Type), String> {
        ensure(self.tensors, || "a tensor outside the weight graph".into())?;
        let lengths: Option<Vec<u64>> =
            view.dims.iter().map(|d| d.iter().map(|a| self.axes.len_of(*a)).product()).collect();
        ensure(lengths.as_ref() == Some(&view.info.shape), || "its dimensions are not its axes".into())?;
        let stack = view.stacked.map_or(Some(1), |a| self.axes.len_of(a));
        ensure(stack == Some(view.names.len() as u64), || "it has not one name for each of the stack".into())?;
        let list: Vec<_> = view.stacked.into_iter().chain(view.dims.iter().flatten().copied()).collect();
        let axes: Axes = list.iter().copied().collect();
        ensure(axes.len() == list.len(), || "it has an axis twice".into())?;
        Ok((axes, Type::Real))
    }

    fn infer_index(&self, read: &[AxisId], x: &[&Node]) -> Result<(Axes, Type), String> {
        ensure(x.len() == read.len() + 1 && !read.is_empty(), || "not one index for each axis".into())?;
        let set: Axes = read.iter().copied().collect();
        ensure(set.len() == read.len(), || "an axis is read twice".into())?;
        ensure(set.is_subset(&x[0].axes), || "an axis is read that is not there".into())?;
        ensure(x[1..].iter().all(|i| i.ty == Type::Int), || "an index is no integer".into())?;
        let axes = x[1..].iter().fold(x[0].axes.minus(&set), |a, i| a.union(&i.axes));
        Ok((axes, x[0].ty))
    }
}

/// The type that a scalar operation gives, if it takes operands of these types.
fn map_type(op: ScalarOp, x: &[Type]) -> Result<Type, String> {
    let all = |t: Type| x.iter().all(|y| *y == t);
    let (fits, ty) = match op.signature() {
        Signature::Num => (x[0] != Type::Bool && all(x[0]), x[0]),
        Signature::Real => (all(Type::Real), Type::Real),
        Signature::Int => (all(Type::Int), Type::Int),
        Signature::Round => (all(Type::Real), Type::Int),
        Signature::Compare => (x[0] != Type::Bool && all(x[0]), Type::Bool),
        Signature::Logic => (all(Type::Bool), Type::Bool),
        Signature::Select => (x[0] == Type::Bool && x[1] == x[2], x[1]),
        Signature::Convert => (all(Type::Int), Type::Real),
    };
    ensure(fits, || format!("`{}` of {x:?}", op.keyword()))?;
    Ok(ty)
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
