//! Every text of `models/` at tiny sizes, with random weights: by the reference evaluator, by kernels that are
//! interpreted, and compiled; beside transformers and beside each other.

use crate::support::interpreted::Interpreted;
use crate::support::tiny::{self, Outputs, Tiny, error};
use llmc::{Artifact, DeviceKind, Engine, EngineOptions, Feed, Inputs, Role, Sequence, Values, Want};
use llmc_artifact::plan::{Launch, RolePlan};
use llmc_artifact::{Format, TensorData};
use llmc_compiler::cost::Machine;
use llmc_compiler::kernel::{Expr, KernelExtent, KernelSpec, Verified};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::graph::{Model, Op};
use llmc_frontend::reference::RandomTensors;
use llmc_runtime::device::{self, Device};
use std::collections::HashMap;

/// Between f64 and transformers' f32.
const ORACLE: f64 = 2e-5;

/// Kernels in f32 beside f64.
pub(crate) const PLAIN: f64 = 2e-5;

/// The same with caches in f16 (11 bits).
pub(crate) const F16_CACHE: f64 = 2e-3;

/// Activations of 8 bits a block, where f32 and f64 round a few to other neighbours.
pub(crate) const QUANTISED: f64 = 1e-4;

pub(crate) fn stages(tiny: &Tiny, cache: Format) -> Stages {
    pipeline::run(tiny.model(), &Options { cache, ..Options::default() })
        .unwrap_or_else(|e| panic!("{}: {e}", tiny.name))
}

pub(crate) fn engine(stages: &Stages, device: Box<dyn Device>) -> Engine {
    engine_with(stages, device, &Tiny::weights(&stages.model))
}

fn engine_with(stages: &Stages, device: Box<dyn Device>, weights: &dyn TensorData) -> Engine {
    chunked(stages, device, weights, EngineOptions::default().chunk)
}

/// An engine that cuts prompts after so many rows.
fn chunked(stages: &Stages, device: Box<dyn Device>, weights: &dyn TensorData, chunk: usize) -> Engine {
    let artifact = Artifact { plan: stages.plan.clone(), ..Artifact::default() };
    let options = EngineOptions { chunk, ..EngineOptions::default() };
    Engine::on(device, &artifact, Some(weights), &options).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn interpreted(stages: &Stages) -> Engine {
    engine(stages, Box::new(Interpreted::new(&stages.kernels)))
}

fn compiled(stages: &Stages) -> Engine {
    let code = stages.emit("cpu").unwrap_or_else(|e| panic!("{e}"));
    let kind = DeviceKind::Cpu { threads: Some(2) };
    engine(stages, device::open(kind, &[code]).unwrap_or_else(|e| panic!("{e}")))
}

/// All outputs: the first `prompt` tokens as a prompt, the rest one at a time as generated ones, `count` in all. A model
/// that takes no further tokens gets all of them at once.
pub(crate) fn run(engine: &Engine, tiny: &Tiny, prompt: usize, count: usize) -> Outputs {
    let prompt = if engine.check_generates().is_ok() { prompt } else { count };
    let ints = |input: &str| tiny.tokens(input).iter().map(|t| *t as i32).collect::<Vec<_>>();
    let (tokens, source) = (ints("tokens"), ints("source"));
    let (first, rest) = tokens[..count].split_at(prompt);
    let mut sequence = engine.sequence();
    let mut all = Outputs::new();
    let parts = std::iter::once((first, Role::Prompt)).chain(rest.chunks(1).map(|t| (t, Role::Generated)));
    for (n, (part, role)) in parts.enumerate() {
        let mut named = vec![("tokens", Values::Int(part))];
        if n == 0 && !source.is_empty() {
            named.push(("source", Values::Int(&source)));
        }
        let feed = Feed { sequence: &mut sequence, inputs: Inputs::Named(named), role, want: Want::All };
        for output in engine.feed(feed).unwrap_or_else(|e| panic!("{}: {e}", tiny.name)) {
            let values = output.data.iter().map(|x| f64::from(*x));
            all.entry(output.name).or_default().extend(values);
        }
    }
    all
}

/// The model of the tiny checkpoint, evaluated in f64.
pub(crate) fn reference(tiny: &Tiny, stages: &Stages, count: usize) -> Outputs {
    tiny.reference(&stages.model, count)
}

#[test]
fn the_reference_gives_what_transformers_gives() {
    for tiny in tiny::all() {
        let error = error(&tiny.reference(&tiny.model(), tiny.tokens("tokens").len()), &tiny.wanted());
        println!("{}: {error:.2e}", tiny.name);
        assert!(error < ORACLE, "{}: relative error {error}", tiny.name);
    }
}

#[test]
fn interpreted_kernels_give_the_reference_s_outputs() {
    for tiny in tiny::all() {
        let stages = stages(&tiny, Format::F32);
        let found = run(&interpreted(&stages), &tiny, 6, 7);
        let error = error(&found, &reference(&tiny, &stages, 7));
        println!("{}: {error:.2e}", tiny.name);
        assert!(error < PLAIN, "{}: relative error {error}", tiny.name);
    }
}

#[test]
fn compiled_kernels_give_the_reference_s_outputs() {
    for tiny in tiny::all() {
        let stages = stages(&tiny, Format::F32);
        let engine = compiled(&stages);
        let count = tiny.tokens("tokens").len();
        let want = reference(&tiny, &stages, count);
        for prompt in [count, 5, 1] {
            let error = error(&run(&engine, &tiny, prompt, count), &want);
            println!("{} after {prompt}: {error:.2e}", tiny.name);
            assert!(error < PLAIN, "{} after {prompt} of {count}: relative error {error}", tiny.name);
        }
    }
}

/// Matrices this many times as large: scores of some ten thousand, or products below the least normal float.
struct Scaled {
    plain: RandomTensors,
    scaled: HashMap<String, Vec<u8>>,
}

impl Scaled {
    fn new(model: &Model, by: f32) -> Scaled {
        let plain = Tiny::weights(model);
        let mut scaled = HashMap::new();
        for id in model.weight_graph.ids() {
            let Op::Tensor(view) = &model.weight_graph[id].op else { continue };
            for name in view.names.iter().filter(|_| view.info.shape.len() > 1) {
                let bytes = plain.tensor_bytes(name).expect("a tensor of the model").chunks_exact(4);
                let value = |b: &[u8]| (f32::from_le_bytes(b.try_into().expect("four bytes")) * by).to_le_bytes();
                scaled.insert(name.clone(), bytes.flat_map(value).collect());
            }
        }
        Scaled { plain, scaled }
    }
}

impl TensorData for Scaled {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        self.scaled.get(name).map(Vec::as_slice).or_else(|| self.plain.tensor_bytes(name))
    }
}

/// Huge scores leave every output a number; small weights leave it what it is.
#[test]
fn weights_at_the_ends_of_the_range_give_numbers() {
    for tiny in tiny::all() {
        let stages = stages(&tiny, Format::F32);
        let code = stages.emit("cpu").unwrap_or_else(|e| panic!("{e}"));
        // Below 1e-20 a product of two has lost its digits, and is still a number.
        for (by, tolerance) in [(300.0, 1e-3), (1e-18, 1e-4), (1e-22, f64::MAX)] {
            let weights = Scaled::new(&stages.model, by);
            let device = device::open(DeviceKind::Cpu { threads: Some(1) }, std::slice::from_ref(&code));
            let engine = engine_with(&stages, device.unwrap_or_else(|e| panic!("{e}")), &weights);
            let found = run(&engine, &tiny, 8, 8);
            let error = error(&found, &tiny.reference_with(&stages.model, &weights, 8));
            println!("{} by {by}: {error:.2e}", tiny.name);
            assert!(error < tolerance, "{} by {by}: relative error {error}", tiny.name);
        }
    }
}

/// A token that sees no other, not even itself, gets zeros from attention and never NaN.
#[test]
fn rows_that_see_nobody_are_the_reference_s() {
    let tiny = Tiny::named("llama");
    let text = tiny.text().replacen("let seen = s <= t and", "let seen = s < t and", 1);
    let model = tiny.model_of(&text);
    let stages = pipeline::run(model, &Options { cache: Format::F32, ..Options::default() }).expect("it compiles");
    for engine in [interpreted(&stages), compiled(&stages)] {
        let error = error(&run(&engine, &tiny, 3, 6), &reference(&tiny, &stages, 6));
        assert!(error < PLAIN, "relative error {error}");
    }
}

/// Factors of cached elements rounded to their type: kernels say so, every target rounds alike, and few digits are lost.
#[test]
fn rounded_activations_agree() {
    let tiny = Tiny::named("llama");
    for (cache, tolerance) in [(Format::F16, F16_CACHE), (Format::BF16, 8.0 * F16_CACHE)] {
        let options = Options { cache, activations: cache, ..Options::default() };
        let stages = pipeline::run(tiny.model(), &options).unwrap_or_else(|e| panic!("{e}"));
        let rounded = |k: &&Verified<KernelSpec>| k.exprs.0.iter().any(|(e, _)| matches!(e, Expr::Rounded(..)));
        assert!(stages.kernels.iter().filter(rounded).count() > 0, "nothing is rounded");
        let code = stages.emit("sm_80").unwrap_or_else(|e| panic!("{e}"));
        let simulated = engine(&stages, device::open(DeviceKind::Sim, &[code]).unwrap_or_else(|e| panic!("{e}")));
        let want = reference(&tiny, &stages, 6);
        for (by, engine) in [("interpreter", interpreted(&stages)), ("cpu", compiled(&stages)), ("sim", simulated)] {
            let error = error(&run(&engine, &tiny, 3, 6), &want);
            assert!(error < tolerance, "{cache} by {by}: relative error {error}");
        }
    }
}

/// Tokens whose last one's outputs are wanted.
fn prompt<'a>(sequence: &'a mut Sequence, tokens: &'a [u32]) -> Feed<'a> {
    Feed { sequence, inputs: Inputs::Tokens(tokens), role: Role::Prompt, want: Want::Last }
}

/// A value of a whole sequence is its own sequence's, whoever else is in the batch.
#[test]
fn sequences_of_a_batch_are_pooled_apart() {
    let tiny = Tiny::named("bert");
    let stages = stages(&tiny, Format::F32);
    for engine in [interpreted(&stages), compiled(&stages)] {
        let tokens = tiny.tokens("tokens");
        let feeds = [&tokens[..3], &tokens[..7], &tokens[4..]];
        let mut sequences = feeds.map(|_| engine.sequence());
        let mut all: Vec<Feed> = sequences.iter_mut().zip(feeds).map(|(s, t)| prompt(s, t)).collect();
        let together = engine.step(&mut all).unwrap_or_else(|e| panic!("{e}"));
        for (found, tokens) in together.iter().zip(feeds) {
            let mut sequence = engine.sequence();
            let alone = engine.feed(prompt(&mut sequence, tokens)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(*found, alone);
            assert!(found.iter().all(|o| o.rows == 1), "one row of each output: the last token's, or the sequence's");
        }
        assert_ne!(together[0], together[1]);
    }
}

#[test]
fn plain_formats_of_weights_and_caches_lose_what_they_say() {
    for (weights, cache, tolerance) in [(Format::BF16, Format::F32, PLAIN), (Format::F16, Format::F16, F16_CACHE)] {
        for tiny in tiny::all().into_iter().map(|t| t.stored_in(weights)) {
            let stages = stages(&tiny, cache);
            let count = tiny.tokens("tokens").len();
            let error = error(&run(&compiled(&stages), &tiny, count, count), &reference(&tiny, &stages, count));
            println!("{} in {weights}, caches in {cache}: {error:.2e}", tiny.name);
            assert!(error < tolerance, "{} in {weights}, caches in {cache}: relative error {error}", tiny.name);
        }
    }
}

/// Beside quantised weights activations are rounded to 8 bits a block, by the interpreter as by compiled kernels. That
/// moves what a search finds, so the interpreter is what compiled kernels are compared with.
#[test]
fn quantised_weights_give_what_interpreted_kernels_give() {
    for format in [Format::Q8_0, Format::Q4_1] {
        for tiny in tiny::all().into_iter().map(|t| t.stored_in(format)) {
            let stages = stages(&tiny, Format::F32);
            let want = run(&interpreted(&stages), &tiny, 5, 5);
            let error = error(&run(&compiled(&stages), &tiny, 5, 5), &want);
            let rounding = tiny::error(&want, &reference(&tiny, &stages, 5));
            println!("{} in {format}: {error:.2e}, and {rounding:.2e} of the reference", tiny.name);
            assert!(error < QUANTISED, "{} in {format}: relative error {error}", tiny.name);
        }
    }
}

/// The logits of a prompt, and of the tokens after it one at a time, beside those of another sequence in the same steps.
fn logits_of(engine: &Engine, tokens: &[u32], prompt: usize, company: &[u32]) -> Vec<f32> {
    let (mut sequence, mut other) = (engine.sequence(), engine.sequence());
    let mut all = Vec::new();
    let (first, rest) = tokens.split_at(prompt);
    let parts = std::iter::once((first, Role::Prompt)).chain(rest.chunks(1).map(|t| (t, Role::Generated)));
    for (n, (part, role)) in parts.enumerate() {
        let with = if n == 0 { company } else { &company[..company.len().min(1)] };
        let feed = |sequence, tokens, want| Feed { sequence, inputs: Inputs::Tokens(tokens), role, want };
        let mut feeds = vec![feed(&mut sequence, part, Want::All)];
        if !with.is_empty() {
            feeds.insert(0, feed(&mut other, with, Want::Last));
        }
        let mut outputs = engine.step(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
        all.extend(outputs.pop().expect("one for each feed").swap_remove(0).data);
    }
    all
}

/// On a machine that has more slots than there are folds, contexts are folded in parts, for prompts and for generated
/// tokens: to the same logits, by one compilation for every length, and whatever cuts, threads and company there are.
#[test]
fn a_context_in_parts_is_the_context() {
    let tiny = Tiny::named("llama");
    let on = |machine: Machine| {
        let options = Options { cache: Format::F32, machine, ..Options::default() };
        pipeline::run(tiny.model(), &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let wide = on(Machine { slots: 1e9, launch: 0.0, ..Machine::default() });
    let narrow = on(Machine { slots: 1.0, ..Machine::default() });
    let cut = |stages: &Stages, role: &RolePlan| {
        let parts =
            |k: u32| stages.kernels[k as usize].axes.iter().any(|a| matches!(a.extent, KernelExtent::Parts { .. }));
        role.launches.iter().filter(|l| parts(l.kernel)).count()
    };
    for plan in [&wide.plan.prefill, &wide.plan.decode] {
        assert!(cut(&wide, plan) >= 4, "two kernels for the attention of each of two layers");
    }
    assert_eq!(cut(&narrow, &narrow.plan.prefill) + cut(&narrow, &narrow.plan.decode), 0);

    let weights = Tiny::weights(&wide.model);
    let code = wide.emit("cpu").unwrap_or_else(|e| panic!("{e}"));
    let on_threads = |threads: usize, chunk: usize| {
        let kind = DeviceKind::Cpu { threads: Some(threads) };
        let device = device::open(kind, std::slice::from_ref(&code)).unwrap_or_else(|e| panic!("{e}"));
        chunked(&wide, device, &weights, chunk)
    };
    let bound = wide.plan.inputs[0].bound.expect("tokens are of a vocabulary") as u32;
    let tokens: Vec<u32> = (0..150).map(|i| (i * 7 + i / 5) % bound).collect();
    let want = logits_of(&compiled(&narrow), &tokens, 135, &[]);
    let found = logits_of(&on_threads(2, 256), &tokens, 135, &[]);
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let far = |found: &[f32]| want.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
    assert!(f64::from(far(&found)) < PLAIN, "{}", far(&found));
    assert!(f64::from(far(&logits_of(&interpreted(&wide), &tokens, 135, &[]))) < PLAIN);

    // The simulator executes PTX of the same kernels, as long a context as crosses one border.
    let ptx = wide.emit("sm_80").unwrap_or_else(|e| panic!("{e}"));
    let sim = engine(&wide, device::open(DeviceKind::Sim, &[ptx]).unwrap_or_else(|e| panic!("{e}")));
    let short = logits_of(&sim, &tokens[..70], 67, &[]);
    assert_eq!(short.len(), want.len() * 70 / 150);
    assert!(f64::from(far(&short)) < PLAIN, "{}", far(&short));

    let same = |engine: Engine, company: &[u32]| {
        let other = logits_of(&engine, &tokens, 135, company);
        assert!(found.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "a bit has changed");
    };
    same(on_threads(1, 256), &[]);
    same(on_threads(2, 50), &[]);
    same(on_threads(2, 256), &tokens[..3]);
    same(on_threads(2, 500), &[&tokens[..], &tokens[..]].concat());
}

/// An encoder's sequence does not grow: what computes its tokens runs for prompts alone, the caches of cross-attention included.
#[test]
fn generated_tokens_leave_the_encoder_alone() {
    let stages = stages(&Tiny::named("t5"), Format::F32);
    let launched = |launches: &[Launch]| -> Vec<String> {
        launches.iter().map(|l| stages.kernels[l.kernel as usize].name.clone()).collect()
    };
    let (prefill, decode) = (launched(&stages.plan.prefill.launches), launched(&stages.plan.decode.launches));
    let of_encoder =
        |names: &[String]| names.iter().filter(|n| n.starts_with("l_1_") || n.starts_with("first_0_")).count();
    let fills = |names: &[String]| names.iter().filter(|n| n.starts_with("d_3_0_")).count();
    assert!(of_encoder(&prefill) > 4 && fills(&prefill) > 0, "{prefill:?}");
    assert_eq!((of_encoder(&decode), fills(&decode)), (0, 0), "{decode:?}");
    assert!(decode.iter().any(|n| n.starts_with("d_3_")), "{decode:?}");
}
