//! An artifact on a device, stepping any batch of sequences.
//!
//! What enters is new tokens of some sequences and which of their outputs are wanted; what leaves is those outputs.
//! Between stand the tables that kernels read (positions, lengths, pages) and the memory of a step. The role of a token
//! picks its plan, and a prompt is cut into chunks: neither the cut nor the rest of the batch changes a bit of any result.

mod batch;
mod inputs;
mod load;
mod state;
#[cfg(test)]
mod tests;

use crate::device::{self, Device, DeviceKind};
use crate::kv_cache::{PagePool, Track};
use crate::run_error::{RunCode, RunError};
use batch::Piece;
use inputs::Prepared;
use llmc_artifact::plan::{Arg, Best as Search, Plan, PlanInput, RolePlan};
use llmc_artifact::{Artifact, Dim, SeqId, TensorData, Type};
use state::State;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// What runs in a step: a role's launches, and a search where the best of the first output are asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    role: Role,
    plan: &'a RolePlan,
    search: Option<&'a Search>,
}

/// What an engine is made with.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where it runs.
    pub device: DeviceKind,
    /// The most rows of a step that are computed together; a longer prompt is cut. It sets the memory of a step.
    pub chunk: usize,
    /// The most bytes that all caches may take; `None` for half of what is free when the engine is made.
    pub cache_bytes: Option<u64>,
    /// Hears how many bytes of how many are loaded.
    pub progress: Option<Progress>,
}

/// Hears how many bytes of how many are loaded.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { device: DeviceKind::default(), chunk: 256, cache_bytes: None, progress: None }
    }
}

/// What the tokens of a feed are: it picks their plan, whatever their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of a prompt.
    Prompt,
    /// Chosen from the model's own output.
    Generated,
}

/// Which of a feed's tokens give outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the tokens are only to be seen by later ones.
    Nothing,
    /// The last one.
    Last,
    /// Every one.
    All,
}

/// Values of one input for the new tokens of a feed, token by token, or of an input that is not over tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values<'a> {
    /// Integers; truth values as 0 and 1.
    Int(&'a [i32]),
    /// Real numbers.
    Real(&'a [f32]),
}

/// A feed's inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs<'a> {
    /// The model's main input, the first integer one over its output's tokens; other inputs take their defaults.
    Tokens(&'a [u32]),
    /// Inputs by name; those left out take their defaults.
    Named(Vec<(&'a str, Values<'a>)>),
}

/// What one sequence brings to a step.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The sequence that the tokens are appended to.
    pub sequence: &'a mut Sequence,
    /// The tokens.
    pub inputs: Inputs<'a>,
    /// What they are.
    pub role: Role,
    /// Which outputs are wanted.
    pub want: Want,
}

/// An output's values.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The name in the text.
    pub name: String,
    /// Number of tokens it was wanted for, or 1 when it is not over tokens.
    pub rows: usize,
    /// Lengths of the dimensions of one row, outermost first.
    pub dims: Vec<u64>,
    /// `[rows, dims...]`.
    pub data: Vec<f32>,
}

/// The greatest values of one row of an output and their places, greatest first, the lower place first among equals. NaN
/// counts as minus infinity, and both zeros are equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Best {
    /// Places along the output's axis: tokens, for a language model.
    pub places: Vec<u32>,
    /// The values there.
    pub values: Vec<f32>,
}

/// What a step gives: for each feed, its outputs, or the best of each of its wanted rows.
struct Results {
    outputs: Vec<Vec<Output>>,
    best: Vec<Vec<Best>>,
}

/// The tokens of one sequence that an engine has seen: what its caches hold. Dropping it frees their pages.
#[derive(Clone, Debug)]
pub struct Sequence {
    tracks: Vec<Track>,
    windows: Vec<Option<u64>>,
    main: usize,
}

impl Sequence {
    /// Number of tokens along the axis of the model's output.
    pub fn len(&self) -> usize {
        self.tracks[self.main].length() as usize
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Another sequence with the same tokens; copies nothing until one of them grows.
    pub fn fork(&self) -> Sequence {
        self.clone()
    }

    /// Forgets all tokens from position `len` on.
    ///
    /// # Errors
    /// When there are fewer, or when a bounded window has left behind what the next token would read.
    pub fn rewind(&mut self, len: usize) -> Result<(), RunError> {
        let (have, window) = (self.len(), self.windows[self.main]);
        if self.tracks[self.main].rewind(len as u64, window) {
            return Ok(());
        }
        let why = if len > have { "it has fewer" } else { "tokens before a window are not kept" };
        Err(RunError::new(RunCode::Rewind, "sequence", format_args!("{have} tokens, of which to keep {len}: {why}"))
            .help("begin a new sequence"))
    }
}

/// How loading went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadStats {
    /// Seconds from the artifact to an engine that is ready.
    pub seconds: f64,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Bytes that one more token takes in the caches.
    pub cache_bytes_per_token: f64,
}

/// An artifact on a device. Clones are the same engine; steps of several threads take turns.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    plan: Plan,
    axes: Vec<Axis>,
    main: usize,
    main_input: Option<usize>,
    chunk: usize,
    description: String,
    load: LoadStats,
    state: Mutex<State>,
}

/// What the engine knows of a sequence axis beyond the plan.
struct Axis {
    pool: PagePool,
    /// Where every cache of the axis is bounded: the widest bound.
    window: Option<u64>,
}

impl Engine {
    /// Loads an artifact onto the device of the options. `weights` gives the checkpoint's tensors for an artifact built
    /// without weights; where given, they replace the artifact's own.
    ///
    /// # Errors
    /// No device, no code for it, weights that are missing or of other shapes, or no memory.
    pub fn new(
        artifact: &Artifact,
        weights: Option<&dyn TensorData>,
        options: &EngineOptions,
    ) -> Result<Engine, RunError> {
        artifact.plan.validate(&artifact.targets)?;
        let device = device::open(options.device, &artifact.targets)?;
        Engine::on(device, artifact, weights, options)
    }

    /// Loads an artifact onto a device that is open.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn on(
        device: Box<dyn Device>,
        artifact: &Artifact,
        weights: Option<&dyn TensorData>,
        options: &EngineOptions,
    ) -> Result<Engine, RunError> {
        load::load(device, artifact, weights, options)
    }

    /// A sequence without tokens.
    pub fn sequence(&self) -> Sequence {
        Sequence {
            tracks: self.0.axes.iter().map(|a| Track::new(&a.pool)).collect(),
            windows: self.0.axes.iter().map(|a| a.window).collect(),
            main: self.0.main,
        }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// The device and what it runs, for people.
    pub fn describe(&self) -> &str {
        &self.0.description
    }

    /// How loading went.
    pub fn load_stats(&self) -> LoadStats {
        self.0.load
    }

    /// The most tokens that a sequence may have, where the model's text says.
    pub fn bound(&self) -> Option<u64> {
        self.0.plan.seqs[self.0.main].bound
    }

    /// The input that tokens go to: the first integer one over the output's sequence.
    pub fn token_input(&self) -> Option<&str> {
        self.0.main_input.map(|i| self.0.plan.inputs[i].name.as_str())
    }

    /// Where a model has a second sequence, the first integer input over it: what an encoder reads.
    pub fn source_input(&self) -> Option<&str> {
        let other = |i: &&PlanInput| match self.0.plan.buffers[i.buffer as usize].dims.first() {
            Some(Dim::Rows(s)) => i.ty == Type::Int && s.0 as usize != self.0.main,
            _ => false,
        };
        self.0.plan.inputs.iter().find(other).map(|i| i.name.as_str())
    }

    /// Whether tokens can be appended to a sequence of this model.
    ///
    /// # Errors
    /// [`RunCode::NotAppendable`] with the plan's reason.
    pub fn check_generates(&self) -> Result<(), RunError> {
        self.0.check_appendable(self.0.main)
    }

    /// Appends the feeds' tokens to their sequences and gives, for each feed, the wanted outputs in the plan's order.
    /// After an error every sequence is as it was before.
    ///
    /// # Errors
    /// Inputs that do not fit, a sequence that becomes too long or cannot be appended to, full caches, no memory, or
    /// a fault of the device.
    ///
    /// # Panics
    /// When a sequence is another engine's.
    pub fn step(&self, feeds: &mut [Feed]) -> Result<Vec<Vec<Output>>, RunError> {
        Ok(self.0.step(feeds, None)?.outputs)
    }

    /// How many of the greatest values [`Engine::step_best`] can give at most; 0 where the artifact searches for none.
    pub fn most_best(&self) -> usize {
        self.0.searches().map(|b| b.count as usize).max().unwrap_or(0)
    }

    /// As [`Engine::step`], but gives for each feed and each of its wanted rows of the first output only `count` of the
    /// greatest values. The device finds them, so that the rest is not copied.
    ///
    /// # Errors
    /// As [`Engine::step`].
    ///
    /// # Panics
    /// When `count` is 0 or more than [`Engine::most_best`].
    pub fn step_best(&self, feeds: &mut [Feed], count: usize) -> Result<Vec<Vec<Best>>, RunError> {
        let enough = self.0.searches().filter(|b| b.count as usize >= count).min_by_key(|b| b.count);
        let search = enough.filter(|_| count > 0).expect("as many as the engine's artifact searches for");
        let mut best = self.0.step(feeds, Some(search))?.best;
        for row in best.iter_mut().flatten() {
            row.places.truncate(count);
            row.values.truncate(count);
        }
        Ok(best)
    }

    /// One feed's step; see [`Engine::step`].
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn feed(&self, feed: Feed) -> Result<Vec<Output>, RunError> {
        Ok(self.step(&mut [feed])?.pop().expect("one feed gives one list of outputs"))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} on {})", self.0.plan.model, self.0.description)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("an earlier step has panicked")
    }

    fn check_appendable(&self, axis: usize) -> Result<(), RunError> {
        let seq = &self.plan.seqs[axis];
        let Err(why) = &seq.appendable else { return Ok(()) };
        Err(RunError::new(RunCode::NotAppendable, format_args!("sequence `{}`", seq.name), why)
            .expected("every read of another token looks back")
            .help("give the whole sequence at once, as `llmc eval` does"))
    }

    /// The searches over the first output.
    fn searches(&self) -> impl Iterator<Item = &Search> {
        self.plan.best.iter().filter(|b| b.output == 0)
    }

    fn step(&self, feeds: &mut [Feed], search: Option<&Search>) -> Result<Results, RunError> {
        let mut prepared = Vec::with_capacity(feeds.len());
        for feed in feeds.iter() {
            let fresh = Prepared::new(self, feed)?;
            self.check_growth(feed, &fresh)?;
            prepared.push(fresh);
        }
        inputs::check_shared(&self.plan, &prepared)?;
        let before: Vec<Vec<u64>> =
            feeds.iter().map(|f| f.sequence.tracks.iter().map(Track::length).collect()).collect();
        let result = self.run_all(feeds, &mut prepared, search);
        for (feed, lengths) in feeds.iter_mut().zip(before) {
            for ((track, length), axis) in feed.sequence.tracks.iter_mut().zip(lengths).zip(&self.axes) {
                match (&result, axis.window) {
                    // Nothing was left behind during the step, so this goes back to where it was.
                    (Err(_), window) => {
                        assert!(track.rewind(length, window), "engine: a failed step left pages behind")
                    }
                    (Ok(_), Some(window)) => track.leave_behind(window),
                    (Ok(_), None) => {}
                }
            }
        }
        result
    }

    /// Whether the feed's sequence may have as many tokens as it would.
    fn check_growth(&self, feed: &Feed, prepared: &Prepared) -> Result<(), RunError> {
        for (axis, (track, seq)) in feed.sequence.tracks.iter().zip(&self.plan.seqs).enumerate() {
            assert!(track.pool().is(&self.axes[axis].pool), "a sequence was given to an engine that it is not of");
            if prepared.rows[axis] == 0 {
                continue;
            }
            if track.length() > 0 || feed.role == Role::Generated {
                self.check_appendable(axis)?;
            }
            let (length, bound) = (track.length() + prepared.rows[axis] as u64, seq.bound.unwrap_or(i32::MAX as u64));
            if length > bound {
                let part = format!("sequence `{}`", seq.name);
                return Err(RunError::new(RunCode::TooLong, part, format_args!("{length} tokens"))
                    .expected(format_args!("at most {bound}, as the model's text says"))
                    .help("shorten the prompt, or generate fewer tokens"));
            }
        }
        Ok(())
    }

    fn run_all(
        &self,
        feeds: &mut [Feed],
        prepared: &mut [Prepared],
        search: Option<&Search>,
    ) -> Result<Results, RunError> {
        let outputs = feeds.iter().map(|_| self.empty_outputs()).collect();
        let mut results = Results { outputs, best: vec![Vec::new(); feeds.len()] };
        let mut state = self.state();
        for (role, plan) in [(Role::Prompt, &self.plan.prefill), (Role::Generated, &self.plan.decode)] {
            loop {
                let pieces = batch::next(self, feeds, prepared, role);
                if pieces.is_empty() {
                    break;
                }
                let wanted = Wanted { role, plan, search };
                self.run_batch(&mut state, wanted, &pieces, feeds, prepared, &mut results)?;
                for piece in &pieces {
                    prepared[piece.feed].take(piece);
                }
            }
        }
        Ok(results)
    }

    fn run_batch(
        &self,
        state: &mut State,
        wanted: Wanted,
        pieces: &[Piece],
        feeds: &mut [Feed],
        prepared: &[Prepared],
        results: &mut Results,
    ) -> Result<(), RunError> {
        for piece in pieces {
            for (axis, track) in feeds[piece.feed].sequence.tracks.iter_mut().enumerate() {
                let length = track.length() + piece.count[axis] as u64;
                track.reserve(length, |from, to| state.copy_page(&self.plan, axis, from, to))?;
                let pages = track.block_row().max().map_or(0, |page| page as u32 + 1);
                state.ensure_pages(&self.plan, axis, pages)?;
            }
        }
        let lengths = batch::Lengths::new(&self.plan, pieces, feeds);
        state.ensure_buffers(&self.plan, wanted, &lengths)?;
        state.write_inputs(&self.plan, pieces, prepared)?;
        state.write_tables(pieces, feeds, wanted, &lengths)?;
        state.run(&self.plan, wanted, &lengths)?;
        match wanted.search {
            None => state.read_outputs(&self.plan, pieces, &lengths, &mut results.outputs)?,
            Some(search) => state.read_best(&self.plan, search, pieces, &lengths, &mut results.best)?,
        }
        for piece in pieces {
            let tracks = feeds[piece.feed].sequence.tracks.iter_mut();
            for (axis, track) in tracks.enumerate() {
                track.advance(track.length() + piece.count[axis] as u64);
            }
        }
        Ok(())
    }

    fn empty_outputs(&self) -> Vec<Output> {
        let outputs = self.plan.outputs.iter().map(|o| {
            let dims = &self.plan.buffers[o.buffer as usize].dims;
            Output {
                name: o.name.clone(),
                rows: 0,
                dims: dims.iter().filter_map(|d| d.as_const()).collect(),
                data: Vec::new(),
            }
        });
        outputs.collect()
    }
}

/// The axis of the model's output, and its first integer input over that axis, one without a default first.
fn main_axis_and_input(plan: &Plan) -> (usize, Option<usize>) {
    let first = |buffer: u32| plan.buffers[buffer as usize].dims.first().copied();
    let main = plan.outputs.iter().find_map(|o| match first(o.buffer) {
        Some(Dim::Picked(SeqId(s)) | Dim::Rows(SeqId(s))) => Some(s),
        _ => None,
    });
    let main = main.unwrap_or(0);
    let over_main =
        |i: &&usize| plan.inputs[**i].ty == Type::Int && first(plan.inputs[**i].buffer) == Some(Dim::Rows(SeqId(main)));
    let all: Vec<usize> = (0..plan.inputs.len()).collect();
    let candidates: Vec<usize> = all.iter().filter(over_main).copied().collect();
    let required = candidates.iter().find(|i| plan.inputs[**i].default.is_none());
    (main as usize, required.or(candidates.first()).copied())
}

/// What memory an operand is.
fn operand(plan: &Plan, state: &State, arg: Arg) -> device::Memory {
    match arg {
        Arg::Buffer(i) => state.slots[plan.buffers[i as usize].slot as usize].memory(),
        Arg::Weight(i) => state.weights[i as usize],
        Arg::Cache(i) => state.caches[i as usize].memory(),
    }
}
