//! NVIDIA's assembler takes every kernel of every text, at tiny sizes and at those of the text, and keeps it in registers.
//!
//! A kernel that several models have, or several layers, or both levels, is assembled once.

use crate::support::cases::{golden, root};
use crate::support::checkpoint::stored;
use crate::support::ptxas::{self, Kernel, Ptxas};
use crate::support::tiny::{self, Tiny};
use crate::tiny::stages;
use llmc_artifact::Format;
use llmc_artifact::plan::{Launch, Plan};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::{Compiled, MODELS, compile_text};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What code is emitted for.
const LEVELS: [&str; 2] = ["sm_80", "sm_90a"];

/// What code of each level is assembled for.
type Architectures = [&'static [&'static str]; 2];
const FIRST: Architectures = [&["sm_80"], &["sm_90a"]];
const OTHERS: Architectures = [&["sm_90", "sm_100"], &[]];
const ALL: Architectures = [&["sm_80", "sm_90", "sm_100"], &["sm_90a"]];

/// Kernels of a module that the assembler is given.
const TOGETHER: usize = 6;

/// A model to compile, by a name.
type Text = (String, Box<dyn Fn() -> Stages + Send + Sync>);

/// A kernel that is unlike the others.
struct Found {
    /// The first model that has it.
    model: String,
    name: String,
    role: &'static str,
    level: usize,
    threads: u32,
    shared: u64,
    declarations: String,
    kernel: Kernel,
}

/// Calls `work` for `0..count` on two threads; results in order.
fn two_at_a_time<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            let one = work(n);
            done.lock().expect("the other thread is well").push((n, one));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
    let mut done = done.into_inner().expect("both threads are done");
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, one)| one).collect()
}

/// Whose tokens a kernel computes.
fn role(plan: &Plan, kernel: usize) -> &'static str {
    let runs = |launches: &[Launch]| launches.iter().any(|l| l.kernel as usize == kernel);
    match (runs(&plan.prefill.launches), runs(&plan.decode.launches)) {
        (true, true) => "both",
        (true, false) => "prompt",
        (false, true) => "generated",
        (false, false) => "search",
    }
}

/// A text's kernels for every level.
fn kernels((model, make): &Text) -> Vec<Found> {
    let stages = make();
    let of_level = |level: usize| {
        let code = stages.emit(LEVELS[level]).unwrap_or_else(|e| panic!("{model} for {}: {e}", LEVELS[level]));
        let module = String::from_utf8(code.code).expect("PTX is text");
        let declarations = ptxas::declarations(&module);
        let one = |(n, info): (usize, &llmc_artifact::plan::KernelInfo)| Found {
            model: model.clone(),
            name: info.symbol.clone(),
            role: role(&stages.plan, n),
            level,
            threads: info.threads,
            shared: info.scratch,
            declarations: declarations.clone(),
            kernel: Kernel::of(&module, &info.symbol),
        };
        code.kernels.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    (0..LEVELS.len()).flat_map(of_level).collect()
}

/// Registers of a thread of each kernel, on each architecture that its level is assembled for.
fn registers(assembler: &Ptxas, found: &[Found], architectures: Architectures) -> Vec<Vec<u32>> {
    // Kernels of one level, a few to a module.
    let mut modules: Vec<Vec<usize>> = Vec::new();
    for level in 0..LEVELS.len() {
        let of_level: Vec<usize> = (0..found.len()).filter(|n| found[*n].level == level).collect();
        modules.extend(of_level.chunks(TOGETHER).map(<[usize]>::to_vec));
    }
    let of = |m: &Vec<usize>| architectures[found[m[0]].level];
    let jobs: Vec<(&Vec<usize>, &str)> =
        modules.iter().flat_map(|m| of(m).iter().map(move |arch| (m, *arch))).collect();
    let used = two_at_a_time(jobs.len(), |n| {
        let (numbers, arch) = jobs[n];
        let first = &found[numbers[0]];
        let used =
            assembler.assemble(&ptxas::module(&first.declarations, numbers.iter().map(|n| &found[*n].kernel)), arch);
        let one = |(k, n): (usize, &usize)| (*n, used[&format!("k{k}")]);
        numbers.iter().enumerate().map(one).collect::<Vec<_>>()
    });
    let (mut all, mut spilled) = (vec![Vec::new(); found.len()], Vec::new());
    for ((n, (registers, spills)), arch) in used.iter().zip(&jobs).flat_map(|(u, j)| u.iter().map(|one| (*one, j.1))) {
        if spills > 0 {
            let Found { model, name, role, .. } = &found[n];
            spilled.push(format!(
                "`{name}` of {model} ({role}) for {arch}: {registers} registers, {spills} bytes spilled"
            ));
        }
        all[n].push(registers);
    }
    assert!(spilled.is_empty(), "{} kernels spill:\n{}", spilled.len(), spilled.join("\n"));
    all
}

/// No kernel of the texts spills; where there is a table, what the assembler says of them is held to it.
fn check(texts: &[Text], architectures: Architectures, table: Option<&str>) {
    let Some(assembler) = ptxas::find() else {
        println!("skipped: ptxas is not installed; set PTXAS to its path");
        return;
    };
    let mut seen = BTreeSet::new();
    let all = two_at_a_time(texts.len(), |n| kernels(&texts[n])).into_iter().flatten();
    let found: Vec<Found> = all.filter(|f| seen.insert(f.kernel.clone())).collect();
    let registers = registers(&assembler, &found, architectures);
    let Some(file) = table else { return };
    let mut text = format!("Registers of a thread, by ptxas {}; no kernel spills.\n\n", assembler.version);
    let columns = architectures.concat();
    let heads = columns.join(" | ");
    let _ = writeln!(text, "| model | kernel | role | level | threads | shared | {heads} |");
    let _ = writeln!(text, "|---|---|---|---|---|---|{}", "---|".repeat(columns.len()));
    for (f, registers) in found.iter().zip(registers) {
        let column = |arch: &&str| {
            let at = architectures[f.level].iter().position(|a| a == arch);
            at.map_or(String::new(), |at| registers[at].to_string())
        };
        let columns = columns.iter().map(column).collect::<Vec<_>>().join(" | ");
        let Found { model, name, role, threads, shared, level, .. } = f;
        let level = LEVELS[*level];
        let _ = writeln!(text, "| {model} | {name} | {role} | {level} | {threads} | {shared} | {columns} |");
    }
    let path = root().join("tests/cases/ptxas").join(file);
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    if !held.is_empty() && !held.starts_with(text.lines().next().unwrap_or_default()) {
        println!("registers are not compared: {} is of another version of ptxas", path.display());
        return;
    }
    golden(&path, &text);
}

/// A text at the sizes that it names itself.
fn at_its_own_sizes(file: &str, text: &str) -> Stages {
    stages_of(file, compile_text(file, text, None), &Options::default())
}

/// The same with weights, caches and activations of 16 bits.
fn in_sixteen_bits(file: &str, text: &str) -> Stages {
    let format = Format::BF16;
    let plain = compile_text(file, text, None);
    let plain = plain.model.unwrap_or_else(|| panic!("{file}: {:#?}", plain.diagnostics));
    // The first that the text is for.
    let architecture = text.split("hf \"").nth(1).and_then(|rest| rest.split('"').next());
    let described = stored(&plain, architecture.unwrap_or_else(|| panic!("{file} is for nothing")), format);
    let options = Options { cache: format, activations: format, ..Options::default() };
    stages_of(file, compile_text(file, text, Some(&described)), &options)
}

fn stages_of(file: &str, compiled: Compiled, options: &Options) -> Stages {
    let model = compiled.model.unwrap_or_else(|| panic!("{file}: {:#?}", compiled.diagnostics));
    pipeline::run(model, options).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Makes a text's kernels, given its file and itself.
type Make = fn(&str, &str) -> Stages;

fn shipped() -> Vec<Text> {
    let kinds: [(&str, Make); 2] = [("", at_its_own_sizes), (" in bf16", in_sixteen_bits)];
    let of = |(kind, make): (&str, Make)| -> Vec<Text> {
        let one = |(file, text): &(&'static str, &'static str)| -> Text {
            let (file, text) = (*file, *text);
            (format!("{}{kind}", file.trim_end_matches(".llm")), Box::new(move || make(file, text)))
        };
        MODELS.iter().map(one).collect()
    };
    kinds.into_iter().flat_map(of).collect()
}

#[test]
fn kernels_at_the_sizes_of_the_texts_do_not_spill() {
    check(&shipped(), FIRST, Some("shipped.md"));
}

#[test]
#[ignore = "takes minutes: `make test-ptxas` runs it"]
fn kernels_for_later_architectures_do_not_spill() {
    check(&shipped(), OTHERS, Some("later.md"));
}

#[test]
#[ignore = "takes minutes: `make test-ptxas` runs it"]
fn kernels_at_tiny_sizes_do_not_spill() {
    let plain = tiny::all().into_iter().map(|t| (t.name.to_owned(), t));
    let stored = [Format::BF16, Format::Q4_1, Format::Q8_0];
    let stored = stored.map(|f| (format!("llama in {f}"), Tiny::named("llama").stored_in(f)));
    let texts =
        plain.chain(stored).map(|(name, tiny)| -> Text { (name, Box::new(move || stages(&tiny, Format::F16))) });
    check(&texts.collect::<Vec<_>>(), ALL, None);
}
