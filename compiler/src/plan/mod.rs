//! From kernels to a plan: what is allocated, what shares memory, and what is launched in which order.
//!
//! What enters is every block's kernels with what their operands are, and the model's steps; what leaves is a
//! [`Plan`], the same for every target. A block's kernels are compiled once; each step launches them again with the
//! weights, caches and values of its own layer.

pub mod best;
pub mod slots;
mod text;
mod verify;

use crate::cost::Role;
use crate::group::Unsupported;
use crate::kernel::KernelSpec;
use llmc_artifact::plan::{
    Arg, Buffer, Cache, Launch, PackedWeight, Plan, PlanInput, PlanOutput, RolePlan, Sequence, Storage,
};
use llmc_artifact::recipe::Recipe;
use llmc_artifact::{DType, Dim, Format, SeqId, Type};
use llmc_frontend::graph::{Axes, Extent, Model, ModelValue, Step, ValueId};
use slots::Lifetime;
use std::collections::{BTreeSet, HashMap};
pub use text::plan_text;
pub use verify::verify;

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
    /// Its results that have one value for each sequence of the batch.
    pub per_sequence: BTreeSet<u32>,
}

/// A block's kernels for each role; without a second list both roles run the first.
#[derive(Clone, Copy, Debug)]
pub struct PlannedBlock<'a> {
    /// For tokens of a prompt.
    pub prefill: &'a LoweredBlock,
    /// For generated tokens, where it differs. Its caches are those of `prefill`.
    pub decode: Option<&'a LoweredBlock>,
}

impl<'a> PlannedBlock<'a> {
    fn of(self, role: Role) -> &'a LoweredBlock {
        match role {
            Role::Prefill => self.prefill,
            Role::Decode => self.decode.unwrap_or(self.prefill),
        }
    }
}

/// The kernels of a plan in its order, and each block's numbers for them. Kernels that differ only in their names are
/// one.
pub struct KernelList {
    /// By number.
    pub specs: Vec<KernelSpec>,
    /// For each block and role, the numbers of its kernels.
    numbers: Vec<[Vec<u32>; 2]>,
    /// Whether there are generated tokens.
    generates: bool,
    /// Of each, whether generated tokens leave it nothing to do.
    rests: Vec<bool>,
}

impl KernelList {
    /// Numbers the kernels of all blocks: for both roles, or where no sequence grows for prompts alone.
    pub fn of(blocks: &[PlannedBlock], appendable: &[Result<(), String>]) -> KernelList {
        let generates = appendable.iter().any(Result::is_ok);
        let mut list = KernelList { specs: Vec::new(), numbers: Vec::new(), generates, rests: Vec::new() };
        let rests = |spec: &KernelSpec| spec.rests(|s| appendable[s.0 as usize].is_ok());
        for block in blocks {
            let first = list.specs.len();
            let all = |b: &LoweredBlock, role| -> Vec<KernelSpec> {
                // One that rests is not run for generated tokens, and needs no form for them.
                let of = |spec: &KernelSpec| if rests(spec) { Role::Prefill } else { role };
                b.kernels.iter().map(|k| k.spec.clone().for_role(of(&k.spec))).collect()
            };
            let prefill = all(block.prefill, Role::Prefill);
            list.specs.extend(prefill);
            let prefill: Vec<u32> = (first as u32..list.specs.len() as u32).collect();
            let decode = match generates {
                true => {
                    all(block.of(Role::Decode), Role::Decode).into_iter().map(|spec| list.shared(first, spec)).collect()
                }
                false => Vec::new(),
            };
            list.numbers.push([prefill, decode]);
        }
        list.rests = list.specs.iter().map(rests).collect();
        list
    }

    /// Whether a role has kernels of its own.
    fn roles_differ(&self) -> bool {
        self.numbers.iter().any(|[prefill, decode]| prefill != decode)
    }

    /// The number of an equal kernel of the same block, or a new one.
    fn shared(&mut self, first: usize, mut spec: KernelSpec) -> u32 {
        let nameless = |s: &KernelSpec| {
            let mut s = s.clone();
            s.name.clear();
            s.axes.iter_mut().for_each(|a| a.name.clear());
            s.operands.iter_mut().for_each(|o| o.name.clear());
            s
        };
        let wanted = nameless(&spec);
        let known = (first..self.specs.len()).find(|n| nameless(&self.specs[*n]) == wanted);
        known.unwrap_or_else(|| {
            while self.specs.iter().any(|s| s.name == spec.name) {
                spec.name.push_str("_next");
            }
            self.specs.push(spec);
            self.specs.len() - 1
        }) as u32
    }
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
/// `recipe(step, role, weight)` says how weight number `weight` of the step's block follows from the checkpoint.
///
/// # Errors
/// When it cannot say.
pub fn build(
    model: &Model,
    blocks: &[PlannedBlock],
    kernels: &KernelList,
    appendable: &[Result<(), String>],
    recipe: impl Fn(&Step, Role, usize) -> Result<Recipe, Unsupported>,
) -> Result<Plan, Unsupported> {
    let mut planner = Planner::new(model, blocks, kernels);
    let prefill = planner.role(Role::Prefill, &recipe)?;
    let decode = match (kernels.generates, kernels.roles_differ()) {
        (false, _) => RolePlan::default(),
        (true, true) => planner.role(Role::Decode, &recipe)?,
        (true, false) => prefill.clone(),
    };
    Ok(planner.finish(prefill, decode, appendable))
}

struct Planner<'a> {
    model: &'a Model,
    blocks: &'a [PlannedBlock<'a>],
    kernels: &'a KernelList,
    buffers: Vec<Buffer>,
    /// Inputs and outputs of the model, which both roles share.
    shared: HashMap<ValueId, u32>,
    /// Values of the role at hand.
    of_value: HashMap<ValueId, u32>,
    /// Weights already packed, by what they are.
    known_weights: HashMap<String, u32>,
    weights: Vec<PackedWeight>,
    caches: Vec<Cache>,
    /// For each step, the caches of its block.
    of_step: Vec<Vec<u32>>,
}

/// Arguments of one step, by kind and number.
struct StepArgs {
    stored: Vec<u32>,
    caches: Vec<u32>,
    weights: Vec<u32>,
}

impl<'a> Planner<'a> {
    fn new(model: &'a Model, blocks: &'a [PlannedBlock<'a>], kernels: &'a KernelList) -> Self {
        let mut planner = Planner {
            model,
            blocks,
            kernels,
            buffers: Vec::new(),
            shared: HashMap::new(),
            of_value: HashMap::new(),
            known_weights: HashMap::new(),
            weights: Vec::new(),
            caches: Vec::new(),
            of_step: Vec::new(),
        };
        for input in &model.inputs {
            planner.value_buffer(input.value, false, false);
        }
        planner
    }

    /// The launches of one role.
    fn role(
        &mut self,
        role: Role,
        recipe: &impl Fn(&Step, Role, usize) -> Result<Recipe, Unsupported>,
    ) -> Result<RolePlan, Unsupported> {
        self.of_value = self.shared.clone();
        let mut launches = Vec::new();
        for (number, step) in self.model.steps.iter().enumerate() {
            self.step(number, step, role, recipe, &mut launches)?;
        }
        Ok(RolePlan { launches })
    }

    fn buffer(&mut self, name: String, format: Format, dims: Vec<Dim>) -> u32 {
        self.buffers.push(Buffer { name, format, dims, slot: 0 });
        self.buffers.len() as u32 - 1
    }

    fn value_buffer(&mut self, value: ValueId, picked: bool, per_sequence: bool) -> u32 {
        if let Some(known) = self.of_value.get(&value).or_else(|| self.shared.get(&value)) {
            return *known;
        }
        let ModelValue { name, axes, ty } = &self.model.values[value.0 as usize];
        let mut dims = value_dims(self.model, axes, picked);
        if per_sequence {
            dims.insert(0, Dim::Sequences);
        }
        let made = self.buffer(name.clone(), value_format(*ty), dims);
        self.of_value.insert(value, made);
        let input = self.model.inputs.iter().any(|i| i.value == value);
        if input || self.model.outputs.iter().any(|o| o.value == value) {
            self.shared.insert(value, made);
        }
        made
    }

    fn step(
        &mut self,
        number: usize,
        step: &Step,
        role: Role,
        recipe: &impl Fn(&Step, Role, usize) -> Result<Recipe, Unsupported>,
        launches: &mut Vec<Launch>,
    ) -> Result<(), Unsupported> {
        let block = self.blocks[step.block.0 as usize].of(role);
        let args = self.step_args(number, step, block, |weight| recipe(step, role, weight))?;
        for (result, value) in step.results.iter().enumerate() {
            let per_sequence = block.per_sequence.contains(&(result as u32));
            if per_sequence && self.model.steps.iter().any(|s| s.args.contains(value)) {
                let name = &self.model.values[value.0 as usize].name;
                return Err(Unsupported(format!(
                    "`{name}` has no tokens and is read by a later layer: not supported yet"
                )));
            }
            self.value_buffer(*value, block.picked, per_sequence);
        }
        let kernels = &self.kernels.numbers[step.block.0 as usize][role as usize];
        for (lowered, kernel) in block.kernels.iter().zip(kernels) {
            let args = lowered.operands.iter().map(|b| self.arg(*b, step, &args)).collect();
            if !(role == Role::Decode && self.kernels.rests[*kernel as usize]) {
                launches.push(Launch { kernel: *kernel, args });
            }
        }
        Ok(())
    }

    fn step_args(
        &mut self,
        number: usize,
        step: &Step,
        block: &LoweredBlock,
        recipe: impl Fn(usize) -> Result<Recipe, Unsupported>,
    ) -> Result<StepArgs, Unsupported> {
        let layer = step.layer.as_ref().map_or(String::new(), |(_, n)| format!("[{n}]"));
        let stored = block.stored.iter().map(|s| self.buffer(s.name.clone(), s.format, s.dims.clone())).collect();
        if self.of_step.len() == number {
            let caches = block.caches.iter().map(|c| self.cache(c, &layer)).collect();
            self.of_step.push(caches);
        }
        let weights = (block.weights.iter().enumerate())
            .map(|(number, w)| Ok(self.weight(format!("{}{layer}", w.name), w, recipe(number)?)))
            .collect::<Result<_, Unsupported>>()?;
        Ok(StepArgs { stored, caches: self.of_step[number].clone(), weights })
    }

    fn cache(&mut self, cache: &CachedValue, layer: &str) -> u32 {
        let CachedValue { name, format, storage, window } = cache.clone();
        self.caches.push(Cache { name: format!("{name}{layer}"), format, storage, window });
        self.caches.len() as u32 - 1
    }

    /// Weights that two steps, two kernels or both roles share are packed once.
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

    fn finish(mut self, prefill: RolePlan, decode: RolePlan, appendable: &[Result<(), String>]) -> Plan {
        let inputs = self.inputs();
        let outputs = self.outputs();
        self.share_memory(&prefill, &decode, &inputs, &outputs);
        let seqs = (self.model.seqs.iter().zip(appendable))
            .map(|(s, a)| Sequence { name: s.name.clone(), bound: s.bound, appendable: a.clone() })
            .collect();
        Plan {
            model: self.model.name.clone(),
            seqs,
            inputs,
            outputs,
            weights: self.weights,
            buffers: self.buffers,
            caches: self.caches,
            prefill,
            decode,
            best: Vec::new(),
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
                    buffer: self.shared[&input.value],
                }
            })
            .collect()
    }

    fn outputs(&self) -> Vec<PlanOutput> {
        (self.model.outputs.iter())
            .map(|o| PlanOutput { name: o.name.clone(), buffer: self.shared[&o.value] })
            .collect()
    }

    /// Roles share memory: a step runs one of them, so their launches stand one after another in time.
    fn share_memory(&mut self, prefill: &RolePlan, decode: &RolePlan, inputs: &[PlanInput], outputs: &[PlanOutput]) {
        let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; self.buffers.len()];
        let second = if decode == prefill { &[][..] } else { &decode.launches };
        for (at, launch) in prefill.launches.iter().chain(second).enumerate() {
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
