//! The stages in their order, each of whose results can be looked at.
//!
//! What enters is a verified model; what leaves is [`Stages`]: every block in normal form, optimised, grouped and
//! lowered for each role, the plan of the whole model, and its verified kernels, ready for any target.

use crate::choose::{self, Considered};
use crate::cost::{Machine, Role};
use crate::egraph::Optimized;
use crate::facts;
use crate::group::{Facts, Fused, Unsupported};
use crate::kernel::lower::{self, Lowered, WeightSource};
use crate::kernel::{KernelSpec, Verified as VerifiedKernel, verify};
use crate::plan::{self, KernelList, PlannedBlock};
use crate::recipe;
use crate::rules::Laws;
use crate::target::{self, TargetError, Text};
use llmc_artifact::plan::{Plan, TargetCode};
use llmc_artifact::{Format, SeqId};
use llmc_frontend::graph::{AxisTable, Block, BlockId, Model, Op, Verified};

/// A block on its way through the stages.
pub struct BlockStages {
    /// The block's name, for people.
    pub name: String,
    /// The normal form, every form the laws found equal, and the cheapest.
    pub optimised: Optimized,
    /// Sets of caches and forms as whole kernels, with what each costs; the first set was chosen.
    pub considered: Vec<Considered>,
    /// Kernels as groups of values: for prompts, and for generated tokens unless they have their own.
    pub fused: Fused,
    /// Kernels as data, and what their operands are.
    pub lowered: Lowered,
    /// For generated tokens, where that is cheaper.
    pub decode: Option<RoleStages>,
}

/// A block's kernels for one role.
pub struct RoleStages {
    /// Kernels as groups of values.
    pub fused: Fused,
    /// Kernels as data, and what their operands are.
    pub lowered: Lowered,
}

impl BlockStages {
    /// A role's groups.
    pub fn fused(&self, role: Role) -> &Fused {
        match (role, &self.decode) {
            (Role::Decode, Some(own)) => &own.fused,
            (Role::Prefill | Role::Decode, _) => &self.fused,
        }
    }

    /// A role's kernels.
    pub fn lowered(&self, role: Role) -> &Lowered {
        match (role, &self.decode) {
            (Role::Decode, Some(own)) => &own.lowered,
            (Role::Prefill | Role::Decode, _) => &self.lowered,
        }
    }

    fn planned(&self) -> PlannedBlock<'_> {
        PlannedBlock { prefill: &self.lowered.block, decode: self.decode.as_ref().map(|d| &d.lowered.block) }
    }
}

/// A model after every stage that no target takes part in.
pub struct Stages {
    /// What entered.
    pub model: Verified<Model>,
    /// Its blocks.
    pub blocks: Vec<BlockStages>,
    /// What is allocated and launched.
    pub plan: Plan,
    /// The plan's kernels.
    pub kernels: Vec<VerifiedKernel<KernelSpec>>,
}

/// What may be asked of the stages.
#[derive(Clone, Debug)]
pub struct Options {
    /// The laws that the optimizer may apply.
    pub laws: Laws,
    /// How cached reals are stored.
    pub cache: Format,
    /// How activations of plain weights are stored for their products, and what factors that are computed, and multiplied with
    /// cached elements of two bytes, are rounded to: [`Format::F32`] keeps them, `F16` and `BF16` let a GPU multiply in one step.
    pub activations: Format,
    /// The machine that every choice is costed by.
    pub machine: Machine,
}

impl Default for Options {
    fn default() -> Options {
        let (laws, machine) = (Laws::default(), Machine::default());
        Options { laws, cache: Format::F16, activations: Format::F32, machine }
    }
}

/// Runs every stage up to the plan.
///
/// # Errors
/// When a value of the model has no kernel family that computes it.
pub fn run(model: Verified<Model>, options: &Options) -> Result<Stages, Unsupported> {
    let ids = (0..model.blocks.len() as u32).map(BlockId);
    let mut blocks = ids.map(|b| block_stages(&model, b, options)).collect::<Result<Vec<_>, _>>()?;
    let appendable = appendable(&model, &blocks);
    let generates = appendable.iter().any(Result::is_ok);
    if !generates {
        blocks.iter_mut().for_each(|b| b.decode = None);
    }
    let planned: Vec<_> = blocks.iter().map(BlockStages::planned).collect();
    let list = KernelList::of(&planned, &appendable);
    let mut plan = plan::build(&model, &planned, &list, &appendable, |step, role, weight| {
        let block = blocks[step.block.0 as usize].lowered(role);
        let WeightSource { term, order } = &block.weights[weight];
        recipe::build(&model, step, &block.terms, *term, order)
    })?;
    let mut specs = list.specs;
    plan::best::add(&mut plan, &mut specs);
    let kernels: Vec<_> = specs.into_iter().map(|s| verify(s).unwrap_or_else(|e| panic!("lowering: {e}"))).collect();
    plan::verify(&plan, &kernels).unwrap_or_else(|e| panic!("plan: {e}"));
    Ok(Stages { model, blocks, plan, kernels })
}

/// For each sequence, whether tokens can be appended to it, or why not.
fn appendable(model: &Model, blocks: &[BlockStages]) -> Vec<Result<(), String>> {
    let leak = |seq| blocks.iter().find_map(|b| b.fused.leaks.get(&seq)).map(|leak| leak.sentence.clone());
    (0..model.seqs.len() as u8).map(|s| leak(SeqId(s)).map_or(Ok(()), Err)).collect()
}

fn block_stages(model: &Model, id: BlockId, options: &Options) -> Result<BlockStages, Unsupported> {
    let block = &model.blocks[id.0 as usize];
    let facts = Facts {
        weights: facts::of_weights(model, id),
        picked: is_picked(model, id, block),
        cache: options.cache,
        activations: options.activations,
        machine: options.machine.clone(),
        role: Role::Prefill,
    };
    compile_block(block, &model.axes, facts, options.laws, &format!("{}_{}", block.name, id.0))
}

/// One block through every stage up to its kernels, whose names start with `prefix`.
///
/// # Errors
/// When a value of the block has no kernel family that computes it.
pub fn compile_block(
    block: &Block,
    axes: &AxisTable,
    facts: Facts,
    laws: Laws,
    prefix: &str,
) -> Result<BlockStages, Unsupported> {
    let optimised = choose::optimise(block, axes, &facts, laws);
    let choose::Chosen { prefill, decode, considered } = choose::choose(&optimised, &facts)?;
    let lowered = lower::lower(&prefill, prefix);
    let decode = decode.map(|fused| RoleStages { lowered: lower::lower(&fused, &format!("{prefix}_next")), fused });
    Ok(BlockStages { name: block.name.clone(), optimised, considered, fused: prefill, lowered, decode })
}

/// Whether a block needs to run only on rows whose outputs were asked for: no token in it looks at another, and all
/// that it makes leaves the model.
fn is_picked(model: &Model, id: BlockId, block: &Block) -> bool {
    let reads_tokens = block.graph.ids().any(|n| match &block.graph[n].op {
        Op::Index(axes) => axes.iter().any(|a| model.axes.len_of(*a).is_none()),
        Op::Reduce(_, axes) => axes.iter().any(|a| model.axes.len_of(a).is_none()),
        Op::Length(_) => true,
        Op::Const(_) | Op::Iota(_) | Op::Param(_) | Op::Weight(_) | Op::Tensor(_) | Op::Map(_) | Op::TopK { .. } => {
            false
        }
    });
    let leaves = |v| model.outputs.iter().any(|o| o.value == v) && !model.steps.iter().any(|s| s.args.contains(&v));
    let only_outputs = model.steps.iter().filter(|s| s.block == id).all(|s| s.results.iter().all(|r| leaves(*r)));
    only_outputs && !reads_tokens
}

impl Stages {
    /// Code for a target.
    ///
    /// # Errors
    /// An unknown target, or what LLVM or the linker say.
    pub fn emit(&self, target: &str) -> Result<TargetCode, TargetError> {
        target::by_name(target)?.emit(&self.kernels)
    }

    /// A target's code as text.
    ///
    /// # Errors
    /// As [`Stages::emit`].
    pub fn code_text(&self, target: &str, form: Text) -> Result<String, TargetError> {
        target::by_name(target)?.text(&self.kernels, form)
    }
}
