//! From kernels to a plan: what is allocated, what shares memory, and what is launched in which order.
//!
//! What enters is every block's kernels with what their operands are, and the model's steps; what leaves is a
//! [`Plan`], the same for every target. A block's kernels are compiled once; each step launches them again with the
//! weights, caches and values of its own layer.

pub mod slots;
mod text;

use crate::group::Unsupported;
use crate::kernel::KernelSpec;
use llmc_artifact::plan::{
    Arg, Buffer, Cache, Launch, PackedWeight, Plan, PlanInput, PlanOutput, RolePlan, Sequence, Storage,
};
use llmc_artifact::recipe::Recipe;
use llmc_artifact::{DType, Dim, Format, SeqId, Type};
use llmc_frontend::graph::{Axes, Extent, Model, ModelValue, Step, ValueId};
use slots::Lifetime;
use std::collections::HashMap;
pub use text::plan_text;

/// What an operand of a block's kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// A parameter of the block.
    Param(u32),
    /// A result of the block.
    Result(u32),
    /// [`LoweredBlock::stored`].
    Stored(u32),
    /// [`LoweredBlock::caches`].
    Cache(u32),
    /// [`LoweredBlock::weights`].
    Weight(u32),
}

/// A kernel and what it touches.
#[derive(Clone, Debug)]
pub struct LoweredKernel {
    /// What it computes.
    pub spec: KernelSpec,
    /// One for each of the spec's operands.
    pub operands: Vec<Binding>,
}

/// A value that a block's kernels hand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// For people.
    pub name: String,
    /// How it is stored.
    pub format: Format,
    /// Lengths, outermost first.
    pub dims: Vec<Dim>,
}

/// A value that outlives the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedValue {
    /// For people.
    pub name: String,
    /// How it is stored.
    pub format: Format,
    /// Always paged.
    pub storage: Storage,
    /// Tokens that are ever read back, when a mask bounds them.
    pub window: Option<u64>,
}

/// A packed weight of a block; which tensors it is made of follows from a step's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeight {
    /// For people.
    pub name: String,
    /// How it is stored.
    pub format: Format,
    /// Dense or panels.
    pub storage: Storage,
}

/// A block after lowering.
#[derive(Clone, Debug, Default)]
pub struct LoweredBlock {
    /// In order of execution.
    pub kernels: Vec<LoweredKernel>,
    /// Values inside a step.
    pub stored: Vec<StoredValue>,
    /// Values that later steps read.
    pub caches: Vec<CachedValue>,
    /// Weights as the kernels read them.
    pub weights: Vec<BlockWeight>,
    /// Whether it runs on the rows whose outputs were asked for, instead of on every row.
    pub picked: bool,
}

/// Dimensions of a value that passes between blocks: its sequence first, then its other axes in the model's order.
pub fn value_dims(model: &Model, axes: &Axes, picked: bool) -> Vec<Dim> {
    let rows = |seq: SeqId| if picked { Dim::Picked(seq) } else { Dim::Rows(seq) };
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for axis in axes.iter() {
        match model.axes[axis].extent {
            Extent::Const(n) => rest.push(Dim::Const(n)),
            Extent::Seq(seq) | Extent::View(seq) => first.push(rows(seq)),
        }
    }
    first.append(&mut rest);
    first
}

/// How values of a type pass between blocks.
pub fn value_format(ty: Type) -> Format {
    match ty {
        Type::Real => Format::F32,
        Type::Int => Format::I32,
        Type::Bool => Format::of(DType::U8).unwrap_or(Format::I32),
    }
}

/// Lays out a model.
///
/// `recipe(step, weight)` says how weight number `weight` of the step's block follows from the checkpoint.
///
/// # Errors
/// When it cannot say.
pub fn build(
    model: &Model,
    blocks: &[LoweredBlock],
    appendable: &[Result<(), String>],
    recipe: impl Fn(&Step, usize) -> Result<Recipe, Unsupported>,
) -> Result<Plan, Unsupported> {
    let mut planner = Planner::new(model, blocks);
    for step in &model.steps {
        planner.step(step, &recipe)?;
    }
    Ok(planner.finish(appendable))
}

struct Planner<'a> {
    model: &'a Model,
    blocks: &'a [LoweredBlock],
    /// Number of the first kernel of each block among all kernels.
    first_kernel: Vec<u32>,
    buffers: Vec<Buffer>,
    of_value: HashMap<ValueId, u32>,
    /// Weights already packed, by what they are.
    known_weights: HashMap<String, u32>,
    weights: Vec<PackedWeight>,
    caches: Vec<Cache>,
    launches: Vec<Launch>,
}

/// Arguments of one step, by kind and number.
struct StepArgs {
    stored: Vec<u32>,
    caches: Vec<u32>,
    weights: Vec<u32>,
}

impl<'a> Planner<'a> {
    fn new(model: &'a Model, blocks: &'a [LoweredBlock]) -> Self {
        let first_kernel = blocks
            .iter()
            .scan(0, |next, b| {
                let first = *next;
                *next += b.kernels.len() as u32;
                Some(first)
            })
            .collect();
        let mut planner = Planner {
            model,
            blocks,
            first_kernel,
            buffers: Vec::new(),
            of_value: HashMap::new(),
            known_weights: HashMap::new(),
            weights: Vec::new(),
            caches: Vec::new(),
            launches: Vec::new(),
        };
        for input in &model.inputs {
            planner.value_buffer(input.value, false);
        }
        planner
    }

    fn buffer(&mut self, name: String, format: Format, dims: Vec<Dim>) -> u32 {
        self.buffers.push(Buffer { name, format, dims, slot: 0 });
        self.buffers.len() as u32 - 1
    }

    fn value_buffer(&mut self, value: ValueId, picked: bool) -> u32 {
        if let Some(known) = self.of_value.get(&value) {
            return *known;
        }
        let ModelValue { name, axes, ty } = &self.model.values[value.0 as usize];
        let dims = value_dims(self.model, axes, picked);
        let made = self.buffer(name.clone(), value_format(*ty), dims);
        self.of_value.insert(value, made);
        made
    }

    fn step(
        &mut self,
        step: &Step,
        recipe: &impl Fn(&Step, usize) -> Result<Recipe, Unsupported>,
    ) -> Result<(), Unsupported> {
        let block = &self.blocks[step.block.0 as usize];
        let args = self.step_args(step, block, recipe)?;
        for value in &step.results {
            self.value_buffer(*value, block.picked);
        }
        for (number, kernel) in block.kernels.iter().enumerate() {
            let args = kernel.operands.iter().map(|b| self.arg(*b, step, &args)).collect();
            self.launches.push(Launch { kernel: self.first_kernel[step.block.0 as usize] + number as u32, args });
        }
        Ok(())
    }

    fn step_args(
        &mut self,
        step: &Step,
        block: &LoweredBlock,
        recipe: &impl Fn(&Step, usize) -> Result<Recipe, Unsupported>,
    ) -> Result<StepArgs, Unsupported> {
        let layer = step.layer.as_ref().map_or(String::new(), |(_, n)| format!("[{n}]"));
        let stored = block.stored.iter().map(|s| self.buffer(s.name.clone(), s.format, s.dims.clone())).collect();
        let caches = (block.caches.iter())
            .map(|c| {
                let CachedValue { name, format, storage, window } = c.clone();
                self.caches.push(Cache { name: format!("{name}{layer}"), format, storage, window });
                self.caches.len() as u32 - 1
            })
            .collect();
        let weights = (block.weights.iter().enumerate())
            .map(|(number, w)| Ok(self.weight(format!("{}{layer}", w.name), w, recipe(step, number)?)))
            .collect::<Result<_, Unsupported>>()?;
        Ok(StepArgs { stored, caches, weights })
    }

    /// Weights that two steps or two kernels share are packed once.
    fn weight(&mut self, name: String, weight: &BlockWeight, recipe: Recipe) -> u32 {
        let identity = format!("{:?} {:?} {:?}", weight.format, weight.storage, recipe);
        if let Some(known) = self.known_weights.get(&identity) {
            return *known;
        }
        self.weights.push(PackedWeight { name, format: weight.format, storage: weight.storage.clone(), recipe });
        let made = self.weights.len() as u32 - 1;
        self.known_weights.insert(identity, made);
        made
    }

    fn arg(&self, binding: Binding, step: &Step, args: &StepArgs) -> Arg {
        let value =
            |v: &ValueId| Arg::Buffer(*self.of_value.get(v).expect("plan: a value is written before it is read"));
        match binding {
            Binding::Param(n) => value(&step.args[n as usize]),
            Binding::Result(n) => value(&step.results[n as usize]),
            Binding::Stored(n) => Arg::Buffer(args.stored[n as usize]),
            Binding::Cache(n) => Arg::Cache(args.caches[n as usize]),
            Binding::Weight(n) => Arg::Weight(args.weights[n as usize]),
        }
    }

    fn finish(mut self, appendable: &[Result<(), String>]) -> Plan {
        let inputs = self.inputs();
        let outputs = self.outputs();
        self.share_memory(&inputs, &outputs);
        let seqs = (self.model.seqs.iter().zip(appendable))
            .map(|(s, a)| Sequence { name: s.name.clone(), bound: s.bound, appendable: a.clone() })
            .collect();
        let role = RolePlan { launches: self.launches };
        Plan {
            model: self.model.name.clone(),
            seqs,
            inputs,
            outputs,
            weights: self.weights,
            buffers: self.buffers,
            caches: self.caches,
            prefill: role.clone(),
            decode: role,
        }
    }

    fn inputs(&self) -> Vec<PlanInput> {
        (self.model.inputs.iter())
            .map(|input| {
                let value = &self.model.values[input.value.0 as usize];
                PlanInput {
                    name: value.name.clone(),
                    ty: value.ty,
                    bound: input.bound,
                    default: input.default,
                    buffer: self.of_value[&input.value],
                }
            })
            .collect()
    }

    fn outputs(&self) -> Vec<PlanOutput> {
        (self.model.outputs.iter())
            .map(|o| PlanOutput { name: o.name.clone(), buffer: self.of_value[&o.value] })
            .collect()
    }

    fn share_memory(&mut self, inputs: &[PlanInput], outputs: &[PlanOutput]) {
        let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; self.buffers.len()];
        for (at, launch) in self.launches.iter().enumerate() {
            for arg in &launch.args {
                if let Arg::Buffer(b) = arg {
                    let life = &mut lives[*b as usize];
                    life.first = life.first.min(at);
                    life.last = life.last.max(at);
                }
            }
        }
        for input in inputs {
            lives[input.buffer as usize].first = 0;
        }
        for output in outputs {
            lives[output.buffer as usize].last = usize::MAX;
        }
        let shapes: Vec<_> = self.buffers.iter().zip(lives).map(|(b, l)| ((b.format, b.dims.clone()), l)).collect();
        for (buffer, slot) in self.buffers.iter_mut().zip(slots::assign(&shapes)) {
            buffer.slot = slot;
        }
    }
}
