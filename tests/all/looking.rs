//! What can be seen of the compiler: every stage in every format that it has, one value of it, and why it is as it is.

use crate::support::cases::{golden, root};
use crate::support::command::llmc;
use crate::support::models::{text, tiny_llama};

const STAGES: [(&str, &[&str]); 10] = [
    ("ast", &["text", "json"]),
    ("graph", &["text", "json", "dot", "html"]),
    ("normal", &["text", "json", "dot", "html"]),
    ("egraph", &["text", "json", "dot", "html"]),
    ("fused", &["text", "json", "dot", "html"]),
    ("kernels", &["text", "json", "html"]),
    ("plan", &["text", "json", "html"]),
    ("llvm", &["text"]),
    ("ptx", &["text"]),
    ("asm", &["text"]),
];

fn tiny() -> String {
    tiny_llama().to_str().expect("a plain path").to_owned()
}

fn inspect(rest: &[&str]) -> String {
    llmc(&[["inspect", &tiny()].as_slice(), rest].concat()).done()
}

#[test]
fn every_stage_has_its_formats_and_says_which() {
    for (stage, has) in STAGES {
        for format in ["json", "dot", "html"] {
            let args = ["inspect", &tiny(), "--stage", stage, "--format", format];
            if !has.contains(&format) {
                let said = llmc(&args).refused();
                let help = format!("help: it has {}", has.join(", "));
                assert!(said.contains(&format!("cannot be shown as {format}")) && said.contains(&help), "{said}");
                continue;
            }
            let shown = llmc(&args).done();
            match format {
                "json" => {
                    let value: serde_json::Value = serde_json::from_str(&shown).expect("one JSON value");
                    assert!(value["stage"] == stage || stage == "ast", "{stage}");
                }
                "dot" => {
                    assert!(shown.starts_with(&format!("digraph \"{stage}\" {{")) && shown.ends_with("}\n"));
                    assert_eq!(shown.matches('{').count(), shown.matches('}').count(), "--stage {stage}");
                    assert!(shown.contains(" -> "), "--stage {stage}");
                }
                _ => {
                    assert!(shown.starts_with("<!doctype html>") && shown.ends_with("</html>\n"));
                    assert_eq!(shown.matches("<details").count(), shown.matches("</details>").count());
                    let outside = ["http:", "https:", "src=", "@import", "<script", "<link"];
                    assert!(outside.iter().all(|o| !shown.contains(o)), "--stage {stage} needs something from outside");
                    links_lead_somewhere(stage, &shown);
                }
            }
        }
    }
}

fn links_lead_somewhere(stage: &str, page: &str) {
    let targets: std::collections::HashSet<_> =
        page.split("id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(targets.contains(link), "--stage {stage}: nothing is at #{link}");
    }
}

#[test]
fn small_values_look_like_this() {
    let value = "first/x";
    for (stage, format) in [
        ("normal", "text"),
        ("normal", "json"),
        ("normal", "dot"),
        ("normal", "html"),
        ("fused", "text"),
        ("fused", "dot"),
    ] {
        let shown = inspect(&[value, "--stage", stage, "--format", format]);
        let name = format!("{stage}_first_x.{}", if format == "text" { "txt" } else { format });
        golden(&root().join("tests/cases/looking").join(name), &shown);
    }
}

/// One screen: the forms with what each would cost, the chosen one first, and what they are made of.
#[test]
fn a_class_of_the_egraph_is_one_screen() {
    let screen = inspect(&["l/c", "--stage", "egraph"]);
    assert!(screen.lines().count() < 60, "{screen}");
    for part in [
        "block l: class c",
        "`c` over [",
        "forms, and what the block would cost",
        "chosen | chosen",
        "made of",
        "used by",
    ] {
        assert!(screen.contains(part), "no `{part}` in\n{screen}");
    }
    // What it is made of can be asked for by its number.
    let below = screen.split("\nmade of\n").nth(1).and_then(|rest| rest.trim_start().split(['[', ' ']).next());
    let below = below.expect("it is made of something");
    let deeper = inspect(&[&format!("l/{below}"), "--stage", "egraph"]);
    assert!(deeper.contains(&format!("class {below}")), "{deeper}");
}

#[test]
fn a_value_that_there_is_not_is_told_with_the_nearest() {
    let model = tiny();
    for stage in ["normal", "egraph", "fused"] {
        for format in ["text", "json"] {
            let said = llmc(&["inspect", &model, "logist", "--stage", stage, "--format", format]).refused();
            assert_eq!(
                said, "error: no value is called `logist`\n  help: did you mean `logits`?\n",
                "{stage} {format}"
            );
        }
        let said = llmc(&["inspect", &model, "l/never", "--stage", stage]).refused();
        assert!(said.contains("no value is called `l/never`") && said.contains("there are "), "{said}");
        let said = llmc(&["inspect", &model, "nowhere/x", "--stage", stage]).refused();
        assert!(said.contains("there is no such block"), "{said}");
    }
    let said = llmc(&["inspect", &model, "x", "--stage", "plan"]).refused();
    assert!(said.contains("--stage plan is shown whole"), "{said}");
    let said = llmc(&["explain", &model, "logist"]).refused();
    assert!(said.contains("did you mean `logits`?"), "{said}");
}

/// A stored value, one that lives within kernels, and the reason alone.
#[test]
fn a_value_is_explained_on_one_screen() {
    let model = tiny();
    for (value, parts) in [
        ("l/c", ["why it is stored", "is cached because `", "costs", "as chosen, caching c, u"].as_slice()),
        ("l/q", &["not stored; computed within kernel", "why it is not stored", "costs"]),
        ("l/y", &["laws, in order", "costs"]),
    ] {
        let screen = llmc(&["explain", &model, value]).done();
        assert!(screen.lines().count() < 100, "{} lines\n{screen}", screen.lines().count());
        assert!(screen.lines().all(|l| l.chars().count() <= 150), "{screen}");
        for part in parts {
            assert!(screen.contains(part), "{value}: no `{part}` in\n{screen}");
        }
        let checked = " steps of the block were checked, and ";
        assert!(screen.contains(checked) && !screen.contains("NOT ALL HOLDS"), "{screen}");
        let full = llmc(&["explain", &model, value, "--full"]).done();
        assert!(full.len() > screen.len(), "{value} does not unfold");
    }
    let short = llmc(&["explain", &model, "l/c", "--why-not"]).done();
    assert!(short.contains("along s") && short.contains(".llm:") && short.lines().count() < 8, "{short}");
    let fused = llmc(&["explain", &model, "l/q", "--why-not"]).done();
    assert!(fused.contains("`q` is not stored and not cached: ") && fused.contains(".llm:"), "{fused}");
    let json = llmc(&["explain", &model, "l/c", "--json"]).done();
    let json: serde_json::Value = serde_json::from_str(&json).expect("one JSON value");
    assert!(json["kernels"]["Ok"].as_u64().is_some_and(|n| n > 20), "{}", json["kernels"]);
}

/// A model under other names is explained in the same words, but for the names.
#[test]
fn a_renamed_model_is_explained_alike() {
    let plain = std::fs::read_to_string(text("llama.llm")).expect("the text is there");
    let renamed = plain.replace("c[t, k, e]", "w_c[t, k, e]").replace("q * c[t = s]", "q * w_c[t = s]");
    let folder = tempfile::tempdir().expect("a folder");
    let explain = |content: &str, value: &str| {
        let path = folder.path().join("model.llm");
        std::fs::write(&path, content).expect("written");
        llmc(&["explain", path.to_str().expect("a plain path"), value, "--json"]).done()
    };
    let numbers = |json: &str| {
        let json: serde_json::Value = serde_json::from_str(json).expect("one JSON value");
        let laws: Vec<_> = json["steps"].as_array().expect("a list").iter().map(|s| s["law"].clone()).collect();
        let seconds: Vec<_> = json["prices"].as_array().expect("a list").iter().map(|p| p["seconds"].clone()).collect();
        (laws, seconds, json["kernels"].clone(), json["reasons"].as_array().map(Vec::len))
    };
    assert_eq!(numbers(&explain(&plain, "c")), numbers(&explain(&renamed, "w_c")));
}
