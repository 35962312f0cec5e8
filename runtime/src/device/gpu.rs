//! What every device that runs PTX shares: which target it takes, how launches are laid out, and when they are replayed.
//!
//! Lengths are words in the device's memory that kernels read, and grids are as large as a length may become before it
//! counts as another, so that the launches of one step are those of the next but for what those words say. What stays
//! is a [`Program`]; a device records one that comes again and replays it from then on.

use super::{Calls, Memory, target_names};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::Dim;
use llmc_artifact::plan::{KernelInfo, TargetCode};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of the targets: `sm_80`, `sm_90a`.
const TARGET: &str = "sm_";

/// How a kernel is launched: blocks and threads along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks: one a work item, and some that find nothing to do.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// Lengths up to this are rounded up to a power of two, longer ones to a multiple of it.
const CAPACITY_STEP: u64 = 64;

/// The length that a grid is made for: the same for all lengths that may take turns in one captured launch.
fn capacity(length: u64) -> u64 {
    match length {
        0 => 0,
        1..=CAPACITY_STEP => length.next_power_of_two(),
        _ => length.next_multiple_of(CAPACITY_STEP),
    }
}

/// The launch of a kernel whose dims are these; `None` when there are no work items.
///
/// # Errors
/// More items than a grid can have blocks.
///
/// # Panics
/// When the items are by a length that the kernel does not ask for: a validated plan's are not.
fn geometry(info: &KernelInfo, dims: &[i64]) -> Result<Option<Geometry>, RunError> {
    let length = |dim: &Dim| {
        dim.as_const().unwrap_or_else(|| {
            let at = info.dims.iter().position(|d| *d == dim.base());
            dim.at(dims[at.expect("a validated plan's items are lengths of the kernel")] as u64)
        })
    };
    let grid = |count: fn(u64) -> u64| {
        let all = info.items.iter().try_fold(1u64, |n, d| {
            let length = length(d);
            n.checked_mul(if d.as_const().is_some() { length } else { count(length) })
        });
        all.and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= i32::MAX as u32)
    };
    let blocks = grid(capacity).or_else(|| grid(|exact| exact)).ok_or_else(|| {
        let part = format!("kernel `{}`", info.symbol);
        RunError::new(RunCode::Device, part, "more thread blocks than a grid can have")
            .expected(format_args!("at most {}", i32::MAX))
            .help("give fewer tokens at a time")
    })?;
    let shared = u32::try_from(info.scratch).expect("a validated plan's scratch is at most a gigabyte");
    Ok((blocks > 0).then_some(Geometry { blocks, threads: info.threads, shared }))
}

/// One launch of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which kernel.
    pub kernel: u32,
    /// Its parameters, each one word: a range of [`Program::params`].
    pub params: Range<usize>,
    /// Where its tensors lie, which are parameters after those: a range of [`Program::places`].
    pub places: Range<usize>,
    /// Its grid.
    pub shape: Geometry,
}

/// Launches with every address in them: all that a device needs to run them but the lengths, which lie in its memory.
/// Equal programs do the same to the same memory, so that one may be replayed for the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In order.
    pub launches: Vec<Launch>,
    /// Words of all of them.
    pub params: Vec<u64>,
    /// The memory of each of [`KernelInfo::tensor_maps`] of all of them.
    pub places: Vec<Place>,
}

/// A piece of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

impl Program {
    /// Lays out launches. `place` finds memory, and `lengths` is where [`Calls::dims`] lie in the device's.
    ///
    /// # Errors
    /// More items than a grid can have blocks.
    pub fn new(
        calls: &Calls,
        kernels: &[KernelInfo],
        lengths: u64,
        place: impl Fn(Memory) -> Place,
    ) -> Result<Program, RunError> {
        let mut program = Program::default();
        for call in &calls.calls {
            let info = &kernels[call.kernel as usize];
            let Some(shape) = geometry(info, &calls.dims[call.dims.clone()])? else {
                continue;
            };
            let pointers = &calls.pointers[call.pointers.clone()];
            let (param, tensor) = (program.params.len(), program.places.len());
            program.params.extend(pointers.iter().map(|m| place(*m).start));
            program.params.push(lengths + 8 * call.dims.start as u64);
            program.places.extend(info.tensor_maps.iter().map(|map| place(pointers[map.operand as usize])));
            let (params, places) = (param..program.params.len(), tensor..program.places.len());
            program.launches.push(Launch { kernel: call.kernel, params, places, shape });
        }
        Ok(program)
    }
}

/// A device that runs programs.
pub trait Runs {
    /// A program that was recorded.
    type Recording;

    /// Launches a program.
    ///
    /// # Errors
    /// What the device says.
    fn launch(&mut self, program: &Program) -> Result<(), RunError>;

    /// Records a program without running it.
    ///
    /// # Errors
    /// What the device says.
    fn record(&mut self, program: &Program) -> Result<Self::Recording, RunError>;

    /// Runs what was recorded.
    ///
    /// # Errors
    /// What the device says.
    fn replay(&mut self, recording: &Self::Recording) -> Result<(), RunError>;
}

/// Programs that are remembered: a few batch sizes of both roles.
const REMEMBERED: usize = 16;

/// How often programs were launched one by one, recorded and replayed.
#[derive(Debug, Default)]
pub struct Counts {
    /// Programs launched kernel by kernel.
    pub launched: AtomicU64,
    /// Programs recorded.
    pub recorded: AtomicU64,
    /// Programs run from a recording.
    pub replayed: AtomicU64,
}

/// The programs that ran lately, and the recordings of those that came more than once: the first time is no reason to
/// record, for prompts seldom come with the same number of tokens twice.
pub struct Replays<R> {
    /// The last used at the end.
    known: Vec<(Program, Option<R>)>,
    counts: Arc<Counts>,
}

impl<R> Replays<R> {
    /// Nothing has run.
    pub fn new() -> Replays<R> {
        Replays { known: Vec::new(), counts: Arc::default() }
    }

    /// What happened so far, and will.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Runs a program: as it is when it is new, else from its recording, which is made the second time.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&mut self, device: &mut impl Runs<Recording = R>, program: Program) -> Result<(), RunError> {
        let Some(at) = self.known.iter().rposition(|(p, _)| *p == program) else {
            self.counts.launched.fetch_add(1, Ordering::Relaxed);
            device.launch(&program)?;
            if self.known.len() == REMEMBERED {
                self.known.remove(0);
            }
            self.known.push((program, None));
            return Ok(());
        };
        self.known[at..].rotate_left(1);
        let (_, recording) = self.known.last_mut().expect("it was found");
        let recording = match recording {
            Some(made) => made,
            none => {
                self.counts.recorded.fetch_add(1, Ordering::Relaxed);
                none.insert(device.record(&program)?)
            }
        };
        self.counts.replayed.fetch_add(1, Ordering::Relaxed);
        device.replay(recording)
    }
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
    use llmc_artifact::SeqId;
    use llmc_artifact::tensor::{TensorMap, Turns};

    fn target(name: &str) -> TargetCode {
        TargetCode { target: name.into(), features: vec![], kernels: vec![], code: vec![] }
    }

    const T: SeqId = SeqId(0);

    fn kernel(items: &[Dim]) -> KernelInfo {
        KernelInfo {
            symbol: "k".into(),
            operands: 2,
            tables: vec![],
            dims: vec![Dim::Rows(T), Dim::Blocks(T)],
            items: items.into(),
            scratch: 96,
            threads: 128,
            tensor_maps: vec![],
        }
    }

    #[test]
    fn a_grid_serves_every_length_of_its_capacity() {
        let blocks = |items: &[Dim], dims: [i64; 2]| geometry(&kernel(items), &dims).map(|g| g.map(|g| g.blocks));
        let rows = [Dim::Rows(T), Dim::Const(3)];
        for (length, grid) in [(1, 1), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64), (65, 128), (129, 192)] {
            assert_eq!(blocks(&rows, [length, 0]), Ok(Some(3 * grid)), "{length}");
        }
        assert_eq!(blocks(&rows, [0, 5]), Ok(None));
        assert_eq!(blocks(&[Dim::Rows(T), Dim::Blocks(T)], [3, 5]), Ok(Some(32)));
        // Where only the exact grid is small enough, it is taken.
        let most = Dim::Const(i32::MAX as u64 / 3);
        assert_eq!(blocks(&[Dim::Rows(T), most], [3, 0]), Ok(Some(i32::MAX as u32 - 1)));
        assert_eq!(blocks(&[Dim::Rows(T), most], [4, 0]).unwrap_err().code(), "E0811");
    }

    /// What a device was told to do.
    #[derive(Default)]
    struct Told(Vec<String>);

    impl Runs for Told {
        type Recording = Program;

        fn launch(&mut self, program: &Program) -> Result<(), RunError> {
            self.0.push(format!("launch {:?}", program.params));
            Ok(())
        }

        fn record(&mut self, program: &Program) -> Result<Program, RunError> {
            self.0.push(format!("record {:?}", program.params));
            Ok(program.clone())
        }

        fn replay(&mut self, recording: &Program) -> Result<(), RunError> {
            self.0.push(format!("replay {:?}", recording.params));
            Ok(())
        }
    }

    /// A program of one launch over so many rows, whose operand is at an address.
    fn program(rows: i64, address: u64) -> Program {
        let mut calls = Calls::default();
        calls.push(0, [Memory(7)], [rows, 9], rows as u64);
        let place = |m: Memory| Place { start: address + m.0 as u64, length: 64 };
        let lay_out = Program::new(&calls, &[kernel(&[Dim::Rows(T)])], 4096, place);
        lay_out.unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn tensors_are_told_where_their_operands_lie() {
        let map = |operand| TensorMap { operand, element: 2, sizes: vec![64], tile: vec![64, 8], turns: Turns::Of128 };
        let kernel = KernelInfo { tensor_maps: vec![map(1), map(0)], ..kernel(&[Dim::Rows(T)]) };
        let mut calls = Calls::default();
        calls.push(0, [Memory(7), Memory(9)], [3, 9], 3);
        calls.push(0, [Memory(9), Memory(8)], [3, 9], 3);
        let place = |m: Memory| Place { start: 100 * m.0 as u64, length: m.0 as u64 };
        let program = Program::new(&calls, &[kernel], 4096, place).unwrap_or_else(|e| panic!("{e}"));
        let found: Vec<u64> = program.places.iter().map(|p| p.start).collect();
        assert_eq!(found, [900, 700, 800, 900]);
        assert_eq!(program.places[1].length, 7);
        assert_eq!(program.launches.iter().map(|l| l.places.clone()).collect::<Vec<_>>(), [0..2, 2..4]);
    }

    #[test]
    fn what_comes_again_is_recorded_once_and_replayed() {
        let (mut told, mut replays) = (Told::default(), Replays::new());
        for (rows, address) in [(3, 100), (4, 100), (3, 100), (2, 100), (4, 200), (3, 100)] {
            replays.run(&mut told, program(rows, address)).unwrap_or_else(|e| panic!("{e}"));
        }
        let a = "[107, 4096]";
        let want = ["launch", "record", "replay", "replay", "launch", "launch", "replay"];
        let places = [a, a, a, a, a, "[207, 4096]", a];
        let want: Vec<String> = want.iter().zip(places).map(|(what, p)| format!("{what} {p}")).collect();
        assert_eq!(told.0, want, "3 and 4 rows share a grid; 2 rows and another address do not");
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let counts = replays.counts();
        assert_eq!((count(&counts.launched), count(&counts.recorded), count(&counts.replayed)), (3, 1, 3));
    }

    #[test]
    fn what_has_not_run_for_long_is_forgotten() {
        let (mut told, mut replays) = (Told::default(), Replays::new());
        let mut run = |address| replays.run(&mut told, program(1, address)).unwrap_or_else(|e| panic!("{e}"));
        run(0);
        (1..REMEMBERED as u64).for_each(&mut run);
        run(0);
        run(1000); // in place of 1, for 0 has just been used
        run(0);
        run(1);
        let last: Vec<&str> = told.0.iter().rev().take(3).map(|s| &s[..6]).collect();
        assert_eq!(last, ["launch", "replay", "launch"]);
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
