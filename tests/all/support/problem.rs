//! The one list of problems that every device runs: texts of `tests/cases/problems`, and every text of `models/` at a tiny
//! size. What is wanted is the reference evaluator's; how near is a property of the problem and of how its matrices are
//! stored, never of the device.
//!
//! A text's head says how it is run, a line each:
//!
//! - `# tokens: 1 70/66`: so many tokens, the first so many of them as a prompt, the rest one by one as generated ones;
//! - `# tolerance: f32 2e-5 f16 2e-3`: for each format of its matrices, the largest difference over the largest value.
//!   Caches are stored as matrices are, where those are plain, else in f32;
//! - `# each: 40 64`: the text once for each, in place of `@`.
//!
//! Activations beside quantised matrices are rounded to 8 bits a block, by every device alike: there the interpreter of
//! kernels is what is wanted.

use super::cases::{Case, load};
use super::checkpoint::stored;
use super::interpreted::Interpreted;
use super::tiny::{self, Outputs, Tiny, error};
use llmc::{Artifact, Engine, EngineOptions, Feed, Inputs, Role, Values, Want};
use llmc_artifact::format::FORMATS;
use llmc_artifact::plan::TargetCode;
use llmc_artifact::{Format, TensorData};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::diag::render_text;
use llmc_frontend::graph::{Model, Verified};
use llmc_frontend::reference::{Evaluator, Inputs as Given, RandomTensors};
use llmc_frontend::{Described, compile_text};
use llmc_runtime::device::Device;
use llmc_runtime::{Best, RunError};
use std::collections::BTreeMap;

/// What weights are made of.
const SEED: u64 = 11;

/// A problem in one format.
pub struct Problem {
    /// The file's name, with what stands for `@`, and the format.
    pub name: String,
    /// The largest difference over the largest wanted value.
    pub tolerance: f64,
    stages: Stages,
    runs: Vec<Run>,
    /// Values of each integer input over tokens; of one that is not named, numbers that look random.
    inputs: BTreeMap<String, Vec<u32>>,
    quantised: bool,
}

/// So many tokens, the first so many of them as a prompt.
#[derive(Clone, Copy)]
struct Run {
    tokens: usize,
    prompt: usize,
}

/// Every problem, in the order of its file's name. A part of a name picks some.
pub fn all(part: Option<&str>) -> Vec<Problem> {
    let picked = |name: &str| part.is_none_or(|p| name.contains(p));
    let mut all = Vec::new();
    for case in load("tests/cases/problems") {
        let each: Vec<_> = case.directive("each").map_or(vec![""], |list| list.split(' ').collect());
        for value in each {
            for (format, tolerance) in tolerances(&case) {
                let name = format!("{} {value} {format}", case.name).replace("  ", " ");
                if picked(&name) {
                    all.push(of_text(name, &case, value, format, tolerance));
                }
            }
        }
    }
    for tiny in tiny::all().into_iter().filter(|t| picked(&format!("models/{} f32", t.name))) {
        all.push(of_model(&tiny));
    }
    all
}

fn tolerances(case: &Case) -> Vec<(Format, f64)> {
    let words: Vec<_> = case.directive("tolerance").expect("a problem has tolerances").split(' ').collect();
    let of = |pair: &[&str]| {
        let format = FORMATS.iter().find(|(f, _)| f.to_string() == pair[0]).unwrap_or_else(|| panic!("{}", pair[0]));
        (format.0, pair[1].parse().expect("a number"))
    };
    words.chunks(2).map(of).collect()
}

fn of_text(name: String, case: &Case, value: &str, format: Format, tolerance: f64) -> Problem {
    let text = case.text.replace('@', value);
    let plain = compiled(&name, &text, None);
    let stages = stages(compiled(&name, &text, Some(&stored(&plain, "problem", format))), format);
    let run = |word: &str| {
        let (tokens, prompt) = word.split_once('/').unwrap_or((word, word));
        let number = |n: &str| n.parse().expect("a number of tokens");
        Run { tokens: number(tokens), prompt: number(prompt) }
    };
    let runs = case.directive("tokens").expect("a problem has numbers of tokens").split(' ').map(run).collect();
    Problem { name, tolerance, stages, runs, inputs: BTreeMap::new(), quantised: format.is_quantised() }
}

fn of_model(tiny: &Tiny) -> Problem {
    let inputs = ["tokens", "source"].map(|n| (n.to_owned(), tiny.tokens(n)));
    let inputs: BTreeMap<_, _> = inputs.into_iter().filter(|(_, tokens)| !tokens.is_empty()).collect();
    let tokens = inputs["tokens"].len();
    let runs = vec![Run { tokens, prompt: tokens / 2 }];
    let stages = stages(tiny.model(), Format::F32);
    Problem { name: format!("models/{} f32", tiny.name), tolerance: 2e-5, stages, runs, inputs, quantised: false }
}

fn compiled(name: &str, text: &str, checkpoint: Option<&Described>) -> Verified<Model> {
    let c = compile_text(name, text, checkpoint.map(|c| c as _));
    c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Default::default())))
}

fn stages(model: Verified<Model>, format: Format) -> Stages {
    let cache = if [Format::F16, Format::BF16].contains(&format) { format } else { Format::F32 };
    let name = model.name.clone();
    pipeline::run(model, &Options { cache, ..Options::default() }).unwrap_or_else(|e| panic!("{name}: {e}"))
}

impl Problem {
    /// Code for a target.
    pub fn code(&self, target: &str) -> TargetCode {
        self.stages.emit(target).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The largest error of its runs on a device, over its tolerance: at most 1 is right.
    ///
    /// # Errors
    /// What the device says.
    pub fn error_on(&self, device: Box<dyn Device>) -> Result<f64, RunError> {
        let engine = self.engine(device);
        let interpreted = self.quantised.then(|| self.engine(Box::new(Interpreted::new(&self.stages.kernels))));
        let mut worst = 0.0f64;
        for run in &self.runs {
            let want = match &interpreted {
                Some(slow) => self.outputs(slow, *run)?,
                None => self.reference(run.tokens),
            };
            worst = worst.max(error(&self.outputs(&engine, *run)?, &want));
        }
        self.check_best(&engine)?;
        Ok(worst / self.tolerance)
    }

    fn engine(&self, device: Box<dyn Device>) -> Engine {
        let artifact = Artifact { plan: self.stages.plan.clone(), ..Artifact::default() };
        let options = EngineOptions { cache_bytes: Some(64 << 20), ..EngineOptions::default() };
        Engine::on(device, &artifact, Some(&self.weights()), &options).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn weights(&self) -> RandomTensors {
        // The tiny models' weights are those that their golden values were made of.
        if self.inputs.is_empty() {
            RandomTensors::new(&self.stages.model, SEED)
        } else {
            Tiny::weights(&self.stages.model)
        }
    }

    /// Values of an input for this many tokens.
    fn input(&self, name: &str, bound: u64, tokens: usize) -> Vec<i32> {
        match self.inputs.get(name) {
            Some(list) => list.iter().map(|t| *t as i32).collect(),
            None => (0..tokens as u64).map(|i| ((i * i * 7 + i * 13 + 5) % 1009 % bound) as i32).collect(),
        }
    }

    /// The integer inputs without a default, and whether each is over the tokens that are cut into prompt and rest.
    fn given(&self, tokens: usize) -> Vec<(String, Vec<i32>, bool)> {
        let plan = &self.stages.plan;
        let needed = plan.inputs.iter().filter(|i| i.default.is_none());
        let value = |i: &llmc_artifact::plan::PlanInput| {
            let bound = i.bound.expect("a problem's inputs are tokens");
            (i.name.clone(), self.input(&i.name, bound, tokens), i.name != "source")
        };
        needed.map(value).collect()
    }

    fn reference(&self, tokens: usize) -> Outputs {
        let mut inputs = Given::default();
        for (name, values, cut) in self.given(tokens) {
            let values: Vec<i64> = values.iter().map(|n| *n as i64).collect();
            inputs = inputs.with(&name, if cut { &values[..tokens] } else { &values });
        }
        let weights = self.weights();
        let out = Evaluator::new(&self.stages.model, &weights as &dyn TensorData).run(&inputs);
        let out = out.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        out.into_iter().map(|(name, value)| (name, value.data)).collect()
    }

    /// All outputs of a run. A model that takes no further tokens gets all of them at once.
    fn outputs(&self, engine: &Engine, run: Run) -> Result<Outputs, RunError> {
        let prompt = if engine.check_generates().is_ok() { run.prompt } else { run.tokens };
        let given = self.given(run.tokens);
        let mut sequence = engine.sequence();
        let mut all = Outputs::new();
        let rest = (prompt..run.tokens).map(|at| (at..at + 1, Role::Generated));
        for (range, role) in std::iter::once((0..prompt, Role::Prompt)).chain(rest) {
            let whole = |cut: bool, values: &[i32]| if cut { values[range.clone()].to_vec() } else { values.to_vec() };
            let part: Vec<_> = given.iter().filter(|(.., cut)| *cut || range.start == 0).collect();
            let part: Vec<_> = part.into_iter().map(|(name, values, cut)| (name, whole(*cut, values))).collect();
            let named = part.iter().map(|(name, values)| (name.as_str(), Values::Int(values))).collect();
            let feed = Feed { sequence: &mut sequence, inputs: Inputs::Named(named), role, want: Want::All };
            for output in engine.feed(feed)? {
                all.entry(output.name).or_default().extend(output.data.iter().map(|x| f64::from(*x)));
            }
        }
        Ok(all)
    }

    /// Where the first output's best can be searched for: they are the best of the whole, and its bits.
    fn check_best(&self, engine: &Engine) -> Result<(), RunError> {
        let most = engine.most_best();
        let whole = self.given(1).into_iter().all(|(.., cut)| cut);
        if most == 0 || !whole {
            return Ok(());
        }
        let given = self.given(3);
        let step = |best: Option<usize>| {
            let mut sequence = engine.sequence();
            let named = given.iter().map(|(name, values, _)| (name.as_str(), Values::Int(&values[..3]))).collect();
            let inputs = Inputs::Named(named);
            let mut feeds = [Feed { sequence: &mut sequence, inputs, role: Role::Prompt, want: Want::All }];
            match best {
                None => engine.step(&mut feeds).map(|o| (o[0][0].data.clone(), Vec::new())),
                Some(count) => engine.step_best(&mut feeds, count).map(|b| (Vec::new(), b[0].clone())),
            }
        };
        let all = step(None)?.0;
        for count in [1, most] {
            let found = step(Some(count))?.1;
            let want: Vec<Best> = all.chunks(all.len() / 3).map(|row| best_of(row, count)).collect();
            assert_eq!(found, want, "{}: the best {count}", self.name);
        }
        Ok(())
    }
}

/// The greatest values of a row, as the runtime orders them.
pub fn best_of(row: &[f32], count: usize) -> Best {
    let key = |at: &u32| if row[*at as usize].is_nan() { f32::NEG_INFINITY } else { row[*at as usize] + 0.0 };
    let mut places: Vec<u32> = (0..row.len() as u32).collect();
    places.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
    places.truncate(count);
    Best { values: places.iter().map(|at| row[*at as usize]).collect(), places }
}
