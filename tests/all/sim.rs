//! The simulator through the command: a model's logits on it beside the processor's, and a PTX file by itself.

use crate::support::command::{Ended, llmc};

fn path(inside: &str) -> String {
    format!("{}/{inside}", env!("CARGO_MANIFEST_DIR"))
}

/// The logits of a few tokens of a tiny model on a device.
#[cfg(feature = "compiler")]
fn logits(device: &str) -> Vec<f32> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("logits.safetensors").to_string_lossy().into_owned();
    let model = path("tests/cases/checkpoints/tiny_llama");
    // A prompt, then tokens one by one: both plans run.
    let shape = ["--tokens", "1,2,3,4,5,6,7", "--prompt-tokens", "4"];
    let ended = llmc(&[&["eval", &model, "--device", device, "--logits", &file][..], &shape[..]].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let bytes = std::fs::read(file).expect("the logits");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a file of tensors");
    let data = tensors.tensor("logits").expect("the logits").data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

#[cfg(feature = "compiler")]
#[test]
fn a_model_on_the_simulator_agrees_with_the_processor() {
    let (cpu, sim) = (logits("cpu"), logits("sim"));
    assert_eq!((cpu.len(), sim.len()), (7 * 64, 7 * 64));
    let most = cpu.iter().zip(&sim).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "{most}");
}

/// The tiny llama's code on a simulator, and how its launches are run.
#[cfg(feature = "compiler")]
fn simulated() -> (llmc::Engine, impl Fn() -> [u64; 3]) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let options = llmc::CompileOptions { targets: vec!["sm_80".into()], ..llmc::CompileOptions::default() };
    let loaded = llmc::compile(path("tests/cases/checkpoints/tiny_llama"), &options).unwrap_or_else(|e| panic!("{e}"));
    let sim = llmc_runtime::device::sim::Sim::open(&loaded.artifact.targets).unwrap_or_else(|e| panic!("{e}"));
    let counts = sim.replays();
    let checkpoint = loaded.checkpoint.as_deref().expect("a folder with weights");
    let options = llmc::EngineOptions { cache_bytes: Some(16 << 20), ..llmc::EngineOptions::default() };
    let engine = llmc::Engine::on(Box::new(sim), &loaded.artifact, Some(checkpoint as _), &options);
    let now = move || {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        [read(&counts.launched), read(&counts.recorded), read(&counts.replayed)]
    };
    (engine.unwrap_or_else(|e| panic!("{e}")), now)
}

#[cfg(feature = "compiler")]
#[test]
fn decoding_is_recorded_once_and_replayed_until_memory_moves() {
    let (engine, counts) = simulated();
    let mut session = llmc::Session::new(&engine);
    session.prefill(&[7; 58]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(counts(), [1, 0, 0]);
    for token in 0..6 {
        session.step(token).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(counts(), [2, 1, 5], "recorded the second time");
    // The next token needs another page, for which the caches move.
    for token in 6..12 {
        session.step(token).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(counts(), [3, 2, 10]);
    let (again, _) = simulated();
    let mut whole = llmc::Session::new(&again);
    let tokens: Vec<u32> = [7; 58].into_iter().chain(0..12).collect();
    let want = whole.prefill(&tokens).unwrap_or_else(|e| panic!("{e}")).to_vec();
    let far = want.iter().zip(session.logits()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
}

#[cfg(feature = "compiler")]
#[test]
fn batches_of_one_capacity_share_a_recording() {
    use llmc::{Feed, Inputs, Role, Want};
    let (engine, counts) = simulated();
    let mut all: Vec<_> = (0..4).map(|_| engine.sequence()).collect();
    let step = |all: &mut [llmc::Sequence], tokens: &[[u32; 1]], role| {
        let mut feeds = Vec::new();
        for (sequence, token) in all.iter_mut().zip(tokens) {
            feeds.push(Feed { sequence, inputs: Inputs::Tokens(token), role, want: Want::Last });
        }
        let made = engine.step(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
        made.into_iter().map(|o| o[0].data.clone()).collect::<Vec<_>>()
    };
    step(&mut all, &[[1], [2], [3], [4]], Role::Prompt);
    let mut alone: Vec<_> = all.iter().map(|s| s.fork()).collect();
    let rounds: [&[[u32; 1]]; 4] =
        [&[[5], [6], [7], [8]], &[[9], [10], [11]], &[[12], [13], [14], [15]], &[[16], [17], [18]]];
    let found = rounds.map(|tokens| step(&mut all, tokens, Role::Generated));
    let [_, recorded, replayed] = counts();
    assert_eq!((recorded, replayed), (1, 3), "three and four sequences are one program");
    for (n, sequence) in alone.iter_mut().enumerate() {
        for (tokens, logits) in rounds.iter().zip(&found) {
            let (Some(token), Some(logits)) = (tokens.get(n), logits.get(n)) else { continue };
            let want = step(std::slice::from_mut(sequence), &[*token], Role::Generated);
            assert_eq!(want[0], *logits, "sequence {n} alone: other bits");
        }
    }
}

#[test]
fn a_kernel_of_a_file_is_run_and_counted() {
    let file = path("runtime/ptx-sim/tests/ptx/reduce.ptx");
    let run = |x: &str, json: &[&str]| -> Ended {
        let sizes = ["sim", &file, "--grid", "2", "--block", "128", "--show", "2"];
        llmc(&[&sizes[..], json, &["--args", x, "f32[2]", "u32:200"]].concat())
    };
    let good = run("f32[200]=iota", &[]);
    assert_eq!(good.code, 0, "{}", good.err);
    assert!(good.out.contains("out: [8128.0, 11772.0]"), "{}", good.out);
    assert!(good.out.contains("barriers                 16"), "{}", good.out);
    let bad = run("f32[199]=iota", &["--json"]);
    assert_eq!(bad.code, 1);
    let report: serde_json::Value = serde_json::from_str(&bad.out).expect("JSON");
    assert_eq!(report["fault"]["kind"], "out of bounds");
    assert_eq!(report["fault"]["thread"], serde_json::json!([71, 0, 0]));
    let page = llmc(&["sim", &path("README.md")]);
    assert!(page.code == 1 && page.err.contains("README.md:1:1: '#' is not part of PTX"), "{}", page.err);
}
