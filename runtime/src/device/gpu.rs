//! What every device that runs PTX shares: which target it takes, and how a launch is cut into blocks.

use super::target_names;
use crate::run_error::{RunCode, RunError};
use llmc_artifact::plan::{KernelInfo, TargetCode};

/// Prefix of the targets: `sm_80`, `sm_90a`.
const TARGET: &str = "sm_";

/// How a kernel is launched: blocks and threads along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks: one a work item.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// The launch of so many work items; `None` when there are none.
///
/// # Errors
/// More items than a grid can have blocks.
pub fn geometry(info: &KernelInfo, items: u64) -> Result<Option<Geometry>, RunError> {
    if items == 0 {
        return Ok(None);
    }
    let blocks = u32::try_from(items).ok().filter(|n| *n <= i32::MAX as u32).ok_or_else(|| {
        let part = format!("kernel `{}`", info.symbol);
        RunError::new(RunCode::Device, part, format_args!("{items} thread blocks"))
            .expected("at most 2147483647")
            .help("give fewer tokens at a time")
    })?;
    let shared = u32::try_from(info.scratch).expect("a validated plan's scratch is at most a gigabyte");
    Ok(Some(Geometry { blocks, threads: info.threads, shared }))
}

/// The version in `sm_90a`, and whether it is for that very architecture only.
fn parse_target(target: &str) -> Option<(i32, bool)> {
    let version = target.strip_prefix(TARGET)?;
    let digits = version.trim_end_matches(['a', 'f']);
    Some((digits.parse().ok()?, digits.len() < version.len()))
}

/// Of the targets that a GPU of this capability runs, the newest, and of those the most specific.
pub fn choose_target<'a>(
    targets: &'a [TargetCode],
    (major, minor): (i32, i32),
    gpu: &str,
) -> Result<&'a TargetCode, RunError> {
    let have = major * 10 + minor;
    let runs = |t: &&TargetCode| {
        parse_target(&t.target).is_some_and(|(version, exact)| if exact { version == have } else { version <= have })
    };
    targets.iter().filter(runs).max_by_key(|t| parse_target(&t.target)).ok_or_else(|| {
        RunError::new(RunCode::NoTarget, gpu, target_names(targets))
            .expected(format_args!("code for sm_{have} or older"))
            .help("build the artifact with `--target sm_80`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> TargetCode {
        TargetCode { target: name.into(), features: vec![], kernels: vec![], code: vec![] }
    }

    #[test]
    fn the_newest_target_that_runs_is_chosen() {
        let targets = ["cpu:v3", "sm_80", "sm_90a", "sm_90", "sm_100"].map(target);
        let chosen = |capability| choose_target(&targets, capability, "a GPU").map(|t| t.target.as_str());
        assert_eq!(chosen((8, 0)), Ok("sm_80"));
        assert_eq!(chosen((8, 9)), Ok("sm_80"));
        assert_eq!(chosen((9, 0)), Ok("sm_90a"));
        assert_eq!(chosen((12, 0)), Ok("sm_100"));
        let error = chosen((7, 5)).unwrap_err();
        assert_eq!(error.code(), "E0801");
        assert!(error.to_string().contains("code for cpu:v3, sm_80"), "{error}");
    }
}
