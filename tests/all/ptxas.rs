//! NVIDIA's assembler takes every kernel of every text, at tiny sizes and at those of the text, and keeps it in registers.

use crate::support::cases::{golden, root};
use crate::support::ptxas;
use crate::support::tiny::{self, Tiny};
use crate::tiny::stages;
use llmc_artifact::Format;
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::{MODELS, compile_text};
use std::fmt::Write;

/// What code is emitted for, and what it is assembled for.
const LEVELS: [(&str, &str); 4] = [("sm_80", "sm_80"), ("sm_80", "sm_90"), ("sm_80", "sm_100"), ("sm_90a", "sm_90a")];

/// A text at the sizes that it names itself.
fn shipped(file: &str, text: &str) -> Stages {
    let compiled = compile_text(file, text, None);
    let model = compiled.model.unwrap_or_else(|| panic!("{file}: {:#?}", compiled.diagnostics));
    pipeline::run(model, &Options::default()).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Registers of each kernel, a line each.
fn table(assembler: &ptxas::Ptxas, name: &str, stages: &Stages) -> String {
    let emit = |level: &str| {
        let code = stages.emit(level).unwrap_or_else(|e| panic!("{name} for {level}: {e}"));
        String::from_utf8(code.code).expect("PTX is text")
    };
    let assembled = LEVELS.map(|(level, arch)| assembler.assemble(&emit(level), arch));
    let mut lines = String::new();
    for (kernel, _) in &assembled[0] {
        let registers = assembled.iter().zip(LEVELS).map(|(used, (_, arch))| {
            let (registers, spilled) = used[kernel];
            assert_eq!(spilled, 0, "{name}: `{kernel}` spills for {arch}");
            registers.to_string()
        });
        let _ = writeln!(lines, "| {name} | {kernel} | {} |", registers.collect::<Vec<_>>().join(" | "));
    }
    lines
}

#[test]
fn every_kernel_is_assembled_without_spills() {
    let Some(assembler) = ptxas::find() else {
        println!("skipped: ptxas is not installed; set PTXAS to its path");
        return;
    };
    let heads = LEVELS.map(|(_, arch)| arch).join(" | ");
    let mut text = format!("Registers of a thread, by ptxas {}.\n\n", assembler.version);
    let _ = writeln!(text, "| model | kernel | {heads} |\n|---|---|---|---|---|---|");
    for tiny in tiny::all() {
        text += &table(&assembler, &format!("{}, tiny", tiny.name), &stages(&tiny, Format::F16));
    }
    for tiny in [Format::BF16, Format::Q4_1].map(|f| (f, Tiny::named("llama").stored_in(f))) {
        text += &table(&assembler, &format!("llama, tiny, {}", tiny.0), &stages(&tiny.1, Format::F16));
    }
    for (file, model) in MODELS {
        text += &table(&assembler, file.trim_end_matches(".llm"), &shipped(file, model));
    }
    let path = root().join("tests/cases/ptxas.md");
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    if !held.is_empty() && !held.starts_with(text.lines().next().unwrap_or_default()) {
        println!("registers are not compared: {} is of another version of ptxas", path.display());
        return;
    }
    golden(&path, &text);
}
