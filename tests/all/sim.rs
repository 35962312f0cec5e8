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
