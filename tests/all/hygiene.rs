//! Invariants of the source tree that a reader relies on and no compiler checks.

use std::fs;
use std::path::Path;

/// Every Rust file of the product without tests and benches: path relative to the root, and text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["src", "frontend/src", "compiler/src", "runtime/src", "runtime/artifact/src", "runtime/ptx-sim/src"]
            .map(|f| root.join(f))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be listed") {
            let path = entry.expect("a source folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).expect("sources lie below the root").to_string_lossy().into_owned();
                if name.ends_with("/tests.rs") || name.contains("/tests/") || name.contains("/testing/") {
                    continue;
                }
                found.push((name, fs::read_to_string(&path).expect("a source file is text")));
            }
        }
    }
    assert!(found.len() > 20, "the source folders were not found");
    found
}

/// Lines of code with their numbers: comments stripped, the file's unit tests cut off.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    let strip = |(i, l): (usize, &'_ str)| (i + 1, l.len(), l.find("//").unwrap_or(l.len()));
    text[..end]
        .lines()
        .enumerate()
        .map(move |(i, l)| (strip((i, l)).0, &l[..strip((i, l)).2]))
        .filter(|(_, l)| !l.trim().is_empty())
}

/// Sources below one of these paths; at least one must exist.
fn below<'a>(all: &'a [(String, String)], folders: &[&str]) -> Vec<&'a (String, String)> {
    let hits: Vec<_> = all.iter().filter(|(n, _)| folders.iter().any(|f| n.starts_with(f))).collect();
    assert!(!hits.is_empty(), "none of {folders:?} was found");
    hits
}

#[test]
fn unsafe_stays_at_the_border() {
    let border =
        ["compiler/src/llvm/", "runtime/src/device/", "runtime/src/mapping.rs", "runtime/artifact/src/mapping.rs"];
    for (name, text) in sources().iter().filter(|(n, _)| !border.iter().any(|b| n.starts_with(b))) {
        for (line, code) in code_lines(text) {
            let found = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"].iter().any(|w| code.contains(w));
            assert!(!found, "{name}:{line}: unsafe code outside the border: {code}");
        }
    }
}

#[test]
fn attention_is_derived_and_never_matched() {
    // A pattern that recognised softmax would have to name its three operations in one place.
    let all = sources();
    for (name, text) in
        below(&all, &["compiler/src/rules/", "compiler/src/stream/", "compiler/src/egraph/", "compiler/src/group/"])
    {
        let lines: Vec<_> = code_lines(text).collect();
        for window in lines.windows(12) {
            let has = |word: &str| window.iter().any(|(_, l)| l.contains(word));
            let spelled =
                has("ScalarOp::Exp") && (has("ReduceOp::Max") || has("ScalarOp::Max")) && has("ReduceOp::Sum");
            assert!(!spelled, "{name}:{}: max, exp and sum stand together", window[0].0);
        }
    }
}

#[test]
fn shared_code_names_no_target() {
    let all = sources();
    let shared = ["normal", "rules", "egraph", "stream", "group", "kernel"].map(|f| format!("compiler/src/{f}/"));
    for (name, text) in below(&all, &shared.each_ref().map(String::as_str)) {
        for (line, code) in code_lines(text) {
            let lower = code.to_lowercase();
            let found = ["nvptx", "cuda", "avx", "sm_80", "x86"].iter().find(|w| lower.contains(**w));
            assert!(found.is_none(), "{name}:{line}: shared code names a target: {code}");
        }
    }
}

#[test]
fn no_model_is_known_by_name() {
    let all = sources();
    for (name, text) in below(&all, &["compiler/src/", "runtime/src/device/"]) {
        for (line, code) in code_lines(text) {
            let lower = code.to_lowercase();
            let found = ["llama", "gemma", "mixtral", "smollm", "deepseek"].iter().find(|w| lower.contains(**w));
            assert!(found.is_none(), "{name}:{line}: the compiler knows a model by name: {code}");
        }
    }
}
