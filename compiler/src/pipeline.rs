//! The stages in their order, each of whose results can be looked at.
//!
//! What enters is a verified model; what leaves is [`Stages`]: every block in normal form, optimised, grouped and
//! lowered, the plan of the whole model, and its verified kernels, ready for any target.

use crate::egraph::{self, BlockFacts, Optimized};
use crate::facts;
use crate::group::{self, Facts, Fused, Machine, Unsupported};
use crate::kernel::lower::{self, WeightSource};
use crate::kernel::{KernelSpec, Verified as VerifiedKernel, verify};
use crate::plan::{self, LoweredBlock};
use crate::recipe;
use crate::rules::Laws;
use crate::target::{self, TargetError, Text};
use llmc_artifact::plan::{Plan, TargetCode};
use llmc_artifact::{Format, SeqId};
use llmc_frontend::graph::{Block, BlockId, Model, Op, Verified};

/// A block on its way through the stages.
pub struct BlockStages {
    /// The block's name, for people.
    pub name: String,
    /// The normal form, every form the laws found equal, and the cheapest.
    pub optimised: Optimized,
    /// Kernels as groups of values.
    pub fused: Fused,
    /// Kernels as data, and what their operands are.
    pub lowered: lower::Lowered,
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
}

impl Default for Options {
    fn default() -> Options {
        Options { laws: Laws::default(), cache: Format::F16 }
    }
}

/// Runs every stage up to the plan.
///
/// # Errors
/// When a value of the model has no kernel family that computes it.
pub fn run(model: Verified<Model>, options: &Options) -> Result<Stages, Unsupported> {
    let ids = (0..model.blocks.len() as u32).map(BlockId);
    let blocks = ids.map(|b| block_stages(&model, b, options)).collect::<Result<Vec<_>, _>>()?;
    let lowered: Vec<LoweredBlock> = blocks.iter().map(|b| b.lowered.block.clone()).collect();
    let leak = |seq| blocks.iter().find_map(|b| b.fused.leaks.get(&seq)).map(|leak| leak.sentence.clone());
    let appendable: Vec<_> = (0..model.seqs.len() as u8).map(|s| leak(SeqId(s)).map_or(Ok(()), Err)).collect();
    let plan = plan::build(&model, &lowered, &appendable, |step, weight| {
        let block = &blocks[step.block.0 as usize].lowered;
        let WeightSource { term, order } = &block.weights[weight];
        recipe::build(&model, step, &block.terms, *term, order)
    })?;
    let specs = lowered.iter().flat_map(|b| &b.kernels).map(|k| k.spec.clone());
    let kernels = specs.map(|s| verify(s).unwrap_or_else(|e| panic!("lowering: {e}"))).collect();
    Ok(Stages { model, blocks, plan, kernels })
}

fn block_stages(model: &Model, id: BlockId, options: &Options) -> Result<BlockStages, Unsupported> {
    let block = &model.blocks[id.0 as usize];
    let facts = Facts {
        weights: facts::of_weights(model, id),
        picked: is_picked(model, id, block),
        cache: options.cache,
        machine: Machine::default(),
    };
    let quantised = facts.weights.iter().map(|w| w.format.is_quantised()).collect();
    let optimised = egraph::optimize(block, &model.axes, &BlockFacts { quantised, laws: options.laws });
    let fused = group::fuse(&optimised.terms, &optimised.roots, facts)?;
    let lowered = lower::lower(&fused, &format!("{}_{}", block.name, id.0));
    Ok(BlockStages { name: block.name.clone(), optimised, fused, lowered })
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
