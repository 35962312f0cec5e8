//! Damaged files: cut short, with flipped bits, with parts missing or of wrong shapes. A message and exit code 1, or the
//! damage does not matter; never a panic, a signal, a hang or memory without bound.

use crate::support::command::{Ended, llmc};
use crate::support::models::{tiny_llama, tiny_llama_gguf};
use llmc_artifact::Format;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

const FLIPS: u64 = 12;

/// What is compiled once: the tiny llama with its weights outside, from a folder and from a GGUF file.
struct Compiled {
    folder: TempDir,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let compiled = Compiled { folder: tempfile::tempdir().expect("a folder") };
    fs::write(compiled.path("tiny.gguf"), tiny_llama_gguf(Format::F32)).expect("a file can be written");
    let build = |model: &Path, output: &str| {
        let output = compiled.path(output);
        llmc(&["build", string(model), "--without-weights", "-o", string(&output)]).done();
    };
    build(&tiny_llama(), "hf.llmc");
    build(&compiled.path("tiny.gguf"), "gguf.llmc");
    compiled
});

impl Compiled {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn eval(&self, artifact: &str, weights: &Path) -> Ended {
        llmc(&["eval", string(&self.path(artifact)), "--tokens", "1,2,3", "--weights", string(weights)])
    }
}

fn string(path: &Path) -> &str {
    path.to_str().expect("a path of these tests is text")
}

/// Numbers that are the same in every run.
fn random(seed: u64, below: usize) -> usize {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as usize % below
}

/// Copies with one bit flipped, within the first `head` bytes.
fn flipped(bytes: &[u8], head: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..FLIPS).map(move |seed| {
        let mut copy = bytes.to_vec();
        copy[random(seed, head)] ^= 1 << random(seed + 1000, 8);
        copy
    })
}

/// The first parts of a file, down to nothing.
fn cut(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let len = bytes.len();
    [len - 1, len * 2 / 3, 300, 20, 5, 0].into_iter().map(|n| &bytes[..n])
}

/// Exit code 1 with a message, or 0; how many were refused.
#[track_caller]
fn refused_or_harmless(ended: Ended) -> usize {
    if ended.code == 0 {
        return 0;
    }
    ended.refused();
    1
}

/// The folder with its safetensors replaced.
fn folder_with(safetensors: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(tiny_llama().join("config.json"), folder.path().join("config.json")).expect("the folder is committed");
    fs::write(folder.path().join("model.safetensors"), safetensors).expect("a file can be written");
    folder
}

fn safetensors() -> Vec<u8> {
    fs::read(tiny_llama().join("model.safetensors")).expect("the folder is committed")
}

#[test]
fn damaged_gguf_files() {
    let bytes = fs::read(COMPILED.path("tiny.gguf")).expect("it was written");
    COMPILED.eval("gguf.llmc", &COMPILED.path("tiny.gguf")).done();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.gguf");
    for short in cut(&bytes) {
        fs::write(&path, short).expect("a file can be written");
        COMPILED.eval("gguf.llmc", &path).refused();
        llmc(&["run", string(&path), "-p", "x"]).refused();
    }
    let mut refused = 0;
    for damaged in flipped(&bytes, 5000) {
        fs::write(&path, damaged).expect("a file can be written");
        refused += refused_or_harmless(COMPILED.eval("gguf.llmc", &path));
        refused += refused_or_harmless(llmc(&["check", "models/llama.llm", "--weights", string(&path)]));
    }
    assert!(refused > 0, "no flip of a header was noticed");
}

#[test]
fn damaged_safetensors() {
    let bytes = safetensors();
    COMPILED.eval("hf.llmc", folder_with(&bytes).path()).done();
    for short in cut(&bytes) {
        COMPILED.eval("hf.llmc", folder_with(short).path()).refused();
    }
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let refused: usize = flipped(&bytes, head)
        .map(|damaged| refused_or_harmless(COMPILED.eval("hf.llmc", folder_with(&damaged).path())))
        .sum();
    assert!(refused > 0, "no flip of a header was noticed");
}

#[test]
fn damaged_tokenizers() {
    let folder = folder_with(&safetensors());
    let path = folder.path().join("tokenizer.json");
    let json = tokenizer_json();
    let run = |json: &[u8]| {
        fs::write(&path, json).expect("a file can be written");
        let artifact = COMPILED.path("hf.llmc");
        llmc(&["run", string(&artifact), "-p", "hello", "-n", "2", "--raw", "--weights", string(folder.path())])
    };
    run(&json).done();
    for short in cut(&json) {
        run(short).refused();
    }
    let refused: usize = flipped(&json, json.len()).map(|damaged| refused_or_harmless(run(&damaged))).sum();
    assert!(refused > 0, "no flip was noticed");
}

/// A byte-level tokenizer of the 62 characters from `A` to `~`, one merge and the space.
fn tokenizer_json() -> Vec<u8> {
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        ('A'..='~').map(String::from).zip(0..).map(|(t, n)| (t, n.into())).collect();
    vocab.insert("he".to_owned(), 62.into());
    vocab.insert("Ġ".to_owned(), 63.into());
    serde_json::to_vec_pretty(&serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [["h", "e"]] },
    }))
    .expect("plain data becomes JSON")
}

#[test]
fn damaged_artifacts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.llmc");
    let bytes = fs::read(COMPILED.path("hf.llmc")).expect("it was written");
    let eval = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("a file can be written");
        llmc(&["eval", string(&path), "--tokens", "1", "--weights", string(&tiny_llama())])
    };
    eval(&bytes).done();
    for short in cut(&bytes) {
        eval(short).refused();
    }
    // Everything that is there is covered by a hash, but for the zeros between sections.
    let refused: usize = flipped(&bytes, bytes.len()).map(|damaged| refused_or_harmless(eval(&damaged))).sum();
    assert!(refused as u64 >= FLIPS - 1, "{refused} of {FLIPS} flips were noticed");
}

#[test]
fn weights_that_are_not_there() {
    let artifact = COMPILED.path("hf.llmc");
    let said = llmc(&["eval", string(&artifact), "--tokens", "1"]).refused();
    assert!(said.contains("--weights") || said.contains("weights"), "{said}");
}

/// The tiny llama with each tensor as `change` says: its name, its shape, or nothing.
fn changed(change: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>) -> TempDir {
    let bytes = safetensors();
    let tensors = SafeTensors::deserialize(&bytes).expect("it is whole");
    let views = tensors.iter().filter_map(|(name, view)| {
        let shape = change(name, view.shape().to_vec())?;
        let length = shape.iter().product::<usize>() * 4;
        Some((name.to_owned(), TensorView::new(Dtype::F32, shape, &view.data()[..length]).expect("they fit")))
    });
    folder_with(&safetensors::serialize(views, None).expect("it can be written"))
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let missing = changed(|n, shape| (n != name).then_some(shape));
    let short = changed(|n, shape| Some(if n == name { vec![shape[0] - 1, shape[1]] } else { shape }));
    let turned = changed(|n, shape| Some(if n == name { vec![shape[1], shape[0]] } else { shape }));
    for (what, folder) in [("missing", missing), ("short", short), ("turned", turned)] {
        for args in [["check", "models/llama.llm", "--weights"].as_slice(), &["build", "-o", "/dev/null/x"]] {
            let said = llmc(&[args, &[string(folder.path())]].concat()).refused();
            assert!(said.contains(name), "{what}: {said}");
        }
        let said = COMPILED.eval("hf.llmc", folder.path()).refused();
        assert!(said.contains(name) || said.contains("up"), "{what}: {said}");
    }
}
