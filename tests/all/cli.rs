//! Every command of the `llmc` binary, on inputs that are right and on inputs that are wrong.

use crate::support::cases::root;
use crate::support::command::{llmc, llmc_on_full_disk};
use crate::support::models::{smollm2_or_skip, tiny_llama, tiny_llama_gguf};
use llmc_artifact::Format;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn string(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().expect("a path of these tests is text").to_owned()
}

/// A file of this content in a folder of its own.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a file can be written");
    (folder, string(path))
}

fn llama_text() -> String {
    string(root().join("models/llama.llm"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder can be listed");
    entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect()
}

#[test]
fn check_tells_right_from_wrong() {
    let said = llmc(&["check", &llama_text()]).done();
    assert!(said.contains("model llama is well formed"), "{said}");
    let text = fs::read_to_string(llama_text()).expect("the text is there");
    let (_folder, path) = file("typo.llm", text.replacen("for l {", "for l { let unused_y = attn_nrm", 1));
    let said = llmc(&["check", &path]).refused();
    assert!(said.contains("did you mean `attn_norm`?") && said.contains("typo.llm:"), "{said}");
    let json = llmc(&["check", &path, "--json"]);
    assert_eq!(json.code, 1);
    let list: serde_json::Value = serde_json::from_str(&json.out).expect("one JSON value");
    let first = &list[0];
    assert_eq!((first["severity"].as_str(), first["place"]["file"].as_str()), (Some("error"), Some(path.as_str())));
    assert!(first["help"].as_str().is_some_and(|h| h.contains("attn_norm")), "{first}");
}

#[test]
fn what_is_wrong_is_json_whatever_it_is() {
    let list: serde_json::Value =
        serde_json::from_str(&llmc(&["check", "/nonexistent.llm", "--json"]).refused()).expect("one JSON value");
    assert!(list[0]["message"].as_str().is_some_and(|m| m.contains("/nonexistent.llm")), "{list}");
    let list = llmc(&["check", &llama_text(), "--weights", &string(tiny_llama()), "--json"]).done();
    assert_eq!(list.trim(), "[]");
}

#[test]
fn fmt_rewrites_to_the_one_layout_once() {
    let text = fs::read_to_string(llama_text()).expect("the text is there");
    llmc(&["fmt", "--check", &llama_text()]).done();
    let (folder, path) = file("loose.llm", text.replace(" = ", "  =   "));
    let ended = llmc(&["fmt", "--check", &path]);
    assert!(ended.code == 1 && ended.err.contains("loose.llm"), "{ended:?}");
    llmc(&["fmt", &path]).done();
    assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
    assert_eq!(names(folder.path()), ["loose.llm"]);
    llmc(&["fmt", "--check", &path]).done();
}

#[test]
fn what_is_no_model_is_refused_by_every_command() {
    let (_folder, binary) = file("binary", [0x7f, b'E', b'L', b'F', 0, 0xff, 0xfe, 3].repeat(1000));
    let (_folder, empty) = file("empty.llm", "");
    let folder = tempfile::tempdir().expect("a folder");
    for path in [&binary, &empty, "/nonexistent/model.llm", &string(folder.path())] {
        for (command, rest) in [
            ("check", [].as_slice()),
            ("fmt", &[]),
            ("inspect", &[]),
            ("build", &["-o", "/dev/null/x"]),
            ("run", &["-p", "x"]),
            ("eval", &["--tokens", "1"]),
            ("bench", &[]),
        ] {
            if (command, path) == ("fmt", &empty) {
                continue; // An empty file is laid out well.
            }
            let said = llmc(&[[command, path].as_slice(), rest].concat()).refused();
            assert!(
                said.contains("help") || said.contains("os error") || said.contains("expected"),
                "{command} {path}: {said}"
            );
        }
    }
}

#[test]
fn hostile_texts_end_soon_with_a_message() {
    let deep = "(".repeat(1 << 20);
    let cyclic = "fn f(x) = g(x)\nfn g(x) = f(x)\n\
                  model m { axis a = 4 seq t input i[t]: int < 4 output o[t] = f(i) }\n";
    for (name, text) in [
        ("deep.llm", deep.clone()),
        ("nested.llm", format!("model m {{ axis a = 4 seq t input i[t]: int < 4 output o[t] = {deep}")),
        ("minus.llm", format!("fn f(x) = {} x", "-".repeat(1 << 20))),
        ("braces.llm", format!("model m {}", "{".repeat(1 << 20))),
        ("cyclic.llm", cyclic.to_owned()),
        ("huge.llm", "#".repeat(5 << 20)),
    ] {
        let (_folder, path) = file(name, text);
        let said = llmc(&["check", &path]).refused();
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_told_in_a_sentence() {
    let said = llmc(&["eval", &string(tiny_llama()), "--tokens", "1", "--device", "cuda"]).refused();
    assert!(said.contains("E0804") && said.contains("cuda") && said.contains("--device cpu"), "{said}");
}

#[test]
fn every_stage_can_be_looked_at() {
    let model = string(tiny_llama());
    let show = |stage: &str, target: &str| llmc(&["inspect", &model, "--stage", stage, "--target", target]).done();
    for (stage, target, expected) in [
        ("ast", "cpu", ["Model", "text: \"llama\"", "For"].as_slice()),
        ("graph", "cpu", &["model llama", "axis m = 32", "model.layers.1.mlp.down_proj.weight"]),
        ("normal", "cpu", &["block l\n", "exp(", "max[", "output x[m, t]"]),
        ("egraph", "cpu", &["block l\n", "# Flatten", "saturated"]),
        ("fused", "cpu", &["block l\n", "stream", "contract"]),
        ("kernels", "cpu", &["stream l_1_", "contract l_1_", "map first_0_", "f16"]),
        ("plan", "cpu", &["plan llama", "input tokens", "output logits", "caches"]),
        ("llvm", "cpu", &["target triple = \"x86_64", "define ", "@l_1_"]),
        ("asm", "cpu", &[".globl\tl_1_", "retq"]),
        ("ptx", "sm_80", &[".target sm_80", ".visible .entry l_1_"]),
    ] {
        let text = show(stage, target);
        for part in expected {
            assert!(text.contains(part), "--stage {stage}: no `{part}` in\n{}", &text[..text.len().min(4000)]);
        }
    }
    let said = llmc(&["inspect", &model, "--stage", "asm", "--target", "sm_12"]).refused();
    assert!(said.contains("sm_12") && said.contains("sm_80"), "{said}");
}

#[test]
fn a_build_that_fails_leaves_nothing_and_takes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = string(folder.path().join("tiny.llmc"));
    let model = string(tiny_llama());
    llmc_on_full_disk(8, &["build", &model, "-o", &output]).refused();
    assert_eq!(names(folder.path()), [""; 0], "after a full disk");
    llmc(&["build", &model, "-o", &output]).done();
    assert_eq!(names(folder.path()), ["tiny.llmc"], "after a build");
    let before = fs::read(&output).expect("it is there");
    llmc_on_full_disk(8, &["build", &model, "-o", &output]).refused();
    assert_eq!(names(folder.path()), ["tiny.llmc"], "after a full disk");
    assert!(fs::read(&output).expect("it is there") == before, "the earlier artifact has changed");
}

#[test]
fn an_artifact_says_what_its_checkpoint_says() {
    let (folder, gguf) = file("tiny.gguf", tiny_llama_gguf(Format::Q8_0));
    let artifact = string(folder.path().join("tiny.llmc"));
    llmc(&["build", &gguf, "-o", &artifact]).done();
    let run = |model: &str, more: &[&str]| {
        let args = [&["run", model, "-p", "hello world", "-n", "12", "--raw", "--json"], more].concat();
        let mut made: serde_json::Value = serde_json::from_str(&llmc(&args).done()).expect("one JSON value");
        (made["text"].take(), made["tokens"].take(), made["finish"].take())
    };
    let greedy = run(&artifact, &[]);
    assert_eq!(greedy, run(&gguf, &["--threads", "1"]));
    assert_eq!(greedy, run(&artifact, &["--verify"]));
    let sampled = ["--temperature", "1.5", "--top-k", "20", "--seed", "7"];
    assert_eq!(run(&artifact, &sampled), run(&gguf, &sampled), "the same seed");
    assert_ne!(run(&artifact, &sampled).1, greedy.1, "1.5 is warm for 64 random tokens");
    let streamed = llmc(&["run", &artifact, "-p", "hello world", "-n", "12", "--raw"]);
    assert!(streamed.err.contains("tokens/s"), "{}", streamed.err);
    assert_eq!(streamed.done().strip_suffix('\n'), greedy.0.as_str());
}

#[test]
fn smollm2_says_the_same_from_its_file_and_from_its_artifact() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifact = string(folder.path().join("smollm2.llmc"));
    let Some(gguf) = smollm2_or_skip("smollm2_says_the_same").map(string) else { return };
    llmc(&["build", &gguf, "-o", &artifact]).done();
    let run = |model: &str| llmc(&["run", model, "-p", "The capital of France is", "--raw", "-n", "8"]).done();
    let text = run(&artifact);
    assert_eq!(text, run(&gguf));
    assert!(text.starts_with(" Paris"), "{text}");
    let chat = |model: &str| llmc(&["run", model, "-p", "Hello! Who are you?", "-n", "8"]).done();
    assert_eq!(chat(&artifact), chat(&gguf));
}
