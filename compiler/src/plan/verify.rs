//! What a plan promises: each kernel is given what its spec says.

use crate::kernel::{KernelSpec, Operand, Verified};
use llmc_artifact::Format;
use llmc_artifact::plan::{Arg, Launch, Plan, Storage};

/// Checks every launch of a plan against the kernel it launches: as many operands as the kernel takes, each stored as
/// the kernel reads or writes it, and no weight or input written.
///
/// # Errors
/// A sentence about the first operand that is wrong.
pub fn verify(plan: &Plan, kernels: &[Verified<KernelSpec>]) -> Result<(), String> {
    let best = plan.best.iter().flat_map(|b| &b.launches);
    for launch in plan.prefill.launches.iter().chain(&plan.decode.launches).chain(best) {
        let Some(spec) = kernels.get(launch.kernel as usize) else {
            return Err(format!("there is no kernel {}", launch.kernel));
        };
        if launch.args.len() != spec.operands.len() {
            return Err(format!("`{}` takes {} operands, not {}", spec.name, spec.operands.len(), launch.args.len()));
        }
        of_launch(plan, spec, launch)?;
    }
    Ok(())
}

fn of_launch(plan: &Plan, spec: &KernelSpec, launch: &Launch) -> Result<(), String> {
    for (arg, operand) in launch.args.iter().zip(&spec.operands) {
        let found = stored(plan, *arg).ok_or_else(|| format!("`{}`: there is no {arg:?}", spec.name))?;
        // A workspace is a buffer: its first dimension counts pages, the others are those of a page.
        let taken = match &operand.storage {
            Storage::Workspace { .. } => operand.storage.buffer_dims().map(|dims| Storage::Dense { dims }),
            Storage::Dense { .. } | Storage::Panel { .. } | Storage::Paged { .. } => None,
        };
        if found != (operand.format, taken.unwrap_or_else(|| operand.storage.clone())) {
            let Operand { name, format, storage, .. } = operand;
            return Err(format!("`{}` is given {found:?} as `{name}`, which is {format} in {storage:?}", spec.name));
        }
        let input = matches!(arg, Arg::Buffer(b) if plan.inputs.iter().any(|i| i.buffer == *b));
        if operand.write && (input || matches!(arg, Arg::Weight(_))) {
            return Err(format!("`{}` writes `{}`, which is only read", spec.name, operand.name));
        }
    }
    Ok(())
}

/// How an operand is stored.
fn stored(plan: &Plan, arg: Arg) -> Option<(Format, Storage)> {
    match arg {
        Arg::Buffer(i) => plan.buffers.get(i as usize).map(|b| (b.format, Storage::Dense { dims: b.dims.clone() })),
        Arg::Weight(i) => plan.weights.get(i as usize).map(|w| (w.format, w.storage.clone())),
        Arg::Cache(i) => plan.caches.get(i as usize).map(|c| (c.format, c.storage.clone())),
    }
}
