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
    // Keys and values are kept in f16: sums in another order round a few of them to other neighbours (11 bits), as in `tiny`.
    let most = cpu.iter().zip(&sim).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 2e-3, "{most}");
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
}

/// A changed kernel in a file of its own, run with arguments that the first kernel takes.
fn changed(from: &str, to: &str, options: &[&str]) -> Ended {
    let text = std::fs::read_to_string(path("runtime/ptx-sim/tests/ptx/reduce.ptx")).expect("the kernel");
    assert!(text.contains(from), "{from}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("changed.ptx").to_string_lossy().into_owned();
    std::fs::write(&file, text.replacen(from, to, 1)).expect("written");
    llmc(&[&["sim", &file, "--block", "128", "--args", "f32[200]=iota", "f32[2]", "u32:200"][..], options].concat())
}

#[test]
fn what_a_person_can_do_wrong_is_told() {
    let told = |ended: Ended, what: &[&str]| {
        assert_eq!(ended.code, 1, "{} {}", ended.out, ended.err);
        let all = ended.out + &ended.err;
        what.iter().for_each(|w| assert!(all.contains(w), "`{w}` is not in: {all}"));
    };
    // A file that is no PTX, and one that is no text.
    told(llmc(&["sim", &path("README.md")]), &["README.md:1:1: '#' is not part of PTX"]);
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("kernel.cubin").to_string_lossy().into_owned();
    std::fs::write(&binary, [0x7f, b'E', b'L', b'F', 0xff, 0xfe]).expect("written");
    told(llmc(&["sim", &binary]), &["byte 4 is not text", "reads PTX"]);
    told(llmc(&["sim", "/no/such/file.ptx"]), &["/no/such/file.ptx"]);
    // A typo, shown with its line.
    let typo = changed("add.rn.f32 \t%r6", "add.rn.f23 \t%r6", &[]);
    told(typo, &["changed.ptx:", "add.rn.f23", "not known to the simulator", "^"]);
    // Kernels and arguments.
    told(changed(".version", ".version", &["--kernel", "sum"]), &["no kernel `sum`; there are reduce"]);
    let few = llmc(&["sim", &path("runtime/ptx-sim/tests/ptx/reduce.ptx"), "--args", "f32[200]=iota"]);
    told(few, &["takes 3 parameters, 1 are given", "a value for each of: "]);
    // Launches that no GPU has, that have no end, or whose end is too far.
    told(changed(".version", ".version", &["--grid", "1,1,70000"]), &["launch: a grid of [1, 1, 70000] blocks"]);
    told(changed(".version", ".version", &["--grid", "0"]), &["launch: a grid of [0, 1, 1] blocks"]);
    let endless = changed("setp.ne.s32 \t%p3, %r9, 0;", "setp.ge.u32 \t%p3, %r9, 0;", &["--limit", "100000"]);
    told(endless, &["endless: no end after 100000 instructions of warps", "`--limit` allows more"]);
    let empty = ["ret;", "--grid", "2000000000", "--limit", "1000000"];
    told(changed("mov.u32 \t%r1, %tid.x;", empty[0], &empty[1..]), &["endless", "`--limit` allows more"]);
}
