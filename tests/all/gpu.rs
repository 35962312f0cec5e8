//! What a GPU is asked when one is there: `make test-gpu`. Without one each test says so and is done; what the simulator
//! can take in its place runs on it, here and always.

use super::problems;
use super::support::fragments::corpus;
use super::support::models;
use llmc::{CompileOptions, DeviceKind, Engine, EngineOptions, Feed, Inputs, Role, Want, compile};
use llmc_artifact::plan::TargetCode;
use llmc_runtime::RunError;
use llmc_runtime::device::{self, Device};

const GPU: DeviceKind = DeviceKind::Cuda { ordinal: 0 };

/// Whether a GPU is there; a word where none is.
fn gpu(test: &str) -> bool {
    match device::check(GPU) {
        Ok(()) => true,
        Err(e) => {
            println!("{test}: skipped. {e}");
            false
        }
    }
}

fn open(code: TargetCode) -> Result<Box<dyn Device>, RunError> {
    device::open(GPU, &[code])
}

#[test]
fn problems_on_a_gpu() {
    if gpu("problems") {
        problems::run("sm_80", open);
    }
}

#[test]
fn problems_on_a_gpu_in_code_for_hopper_alone() {
    if !gpu("problems for sm_90a") {
        return;
    }
    let none = TargetCode { target: "sm_90a".into(), features: vec![], kernels: vec![], code: EMPTY.into() };
    match device::open(GPU, &[none]) {
        Err(e) if e.code() == "E0801" => println!("problems for sm_90a: skipped. {e}"),
        _ => problems::run("sm_90a", open),
    }
}

/// A module without kernels.
const EMPTY: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n";

fn multiply(kind: DeviceKind) {
    let all = corpus();
    assert!(all.len() >= 8, "the corpus");
    for fragments in all {
        let mut device = device::open(kind, &[fragments.code()]).unwrap_or_else(|e| panic!("{}: {e}", fragments.name));
        let differs = fragments.differs_on(&mut *device).unwrap_or_else(|e| panic!("{}: {e}", fragments.name));
        assert_eq!(differs, None);
        println!("{}: as the corpus says", fragments.name);
    }
}

#[test]
fn fragments_on_the_simulator() {
    multiply(DeviceKind::Sim);
}

#[test]
fn fragments_on_a_gpu() {
    if gpu("fragments") {
        multiply(GPU);
    }
}

/// Between devices: activations beside quantised weights are rounded to 8 bits a block, and sums in another order round
/// a few to their neighbours.
const SMOLLM2: f32 = 3e-2;

/// SmolLM2's logits on a device: a prompt, then tokens one by one, so that both plans run.
fn smollm2(kind: DeviceKind, target: &str, tokens: &[u32], prompt: usize) -> Vec<f32> {
    let options = CompileOptions { targets: vec![target.into()], ..CompileOptions::default() };
    let loaded = compile(models::smollm2(), &options).unwrap_or_else(|e| panic!("{e}"));
    let engine =
        loaded.engine(&EngineOptions { device: kind, cache_bytes: Some(64 << 20), ..EngineOptions::default() });
    let engine: Engine = engine.unwrap_or_else(|e| panic!("{e}"));
    let mut sequence = engine.sequence();
    let parts = std::iter::once((&tokens[..prompt], Role::Prompt));
    let parts = parts.chain(tokens[prompt..].chunks(1).map(|t| (t, Role::Generated)));
    let mut all = Vec::new();
    for (part, role) in parts {
        let feed = Feed { sequence: &mut sequence, inputs: Inputs::Tokens(part), role, want: Want::All };
        all.extend(engine.feed(feed).unwrap_or_else(|e| panic!("{e}")).swap_remove(0).data);
    }
    all
}

fn near(found: &[f32], want: &[f32]) {
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let far = found.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
    println!("largest difference over the largest logit: {far:.2e}");
    assert!(far < SMOLLM2, "{far}");
}

const CPU: DeviceKind = DeviceKind::Cpu { threads: None };

#[test]
fn smollm2_on_a_gpu() {
    if gpu("SmolLM2") {
        let tokens: Vec<u32> = (0..90).map(|n| n * 531 % 49_152).collect();
        near(&smollm2(GPU, "sm_80", &tokens, 80), &smollm2(CPU, "cpu", &tokens, 80));
    }
}

#[test]
#[ignore = "takes minutes: `make test-gpu` runs it"]
fn smollm2_on_the_simulator() {
    let tokens = [504, 3575, 282];
    near(&smollm2(DeviceKind::Sim, "sm_80", &tokens, 2), &smollm2(CPU, "cpu", &tokens, 2));
}
