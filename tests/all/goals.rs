//! Goals: what the optimizer must make of a naive text, however it is spelled.
//!
//! A file of `tests/cases/goals` is a list of sections, each with a head `--- kind word formats: title`:
//!
//! - `model`: the declarations all texts share, `  @` on a line of its own where statements go.
//! - `spelling`: statements. At least three; each is also tried with every name of the text changed.
//! - `goal NAME FORMATS`: the form wanted when matrices are stored so (f32 where no format is named), as statements of
//!   the same language. A `let` is one node: `let wg = w * gain` asks for a product of weights by itself, while a
//!   single expression may be arranged in any way that normal form does not distinguish. Bound axes may have any name,
//!   and an `input` that only the goal declares stands for anything with its axes. The form must stand in the e-graph,
//!   in the class of the output of that name, and it must be what was extracted.
//! - `refused NAME FORMATS`: statements that break the law's condition; the goal must not be in the e-graph. Without
//!   statements the first spelling, stored otherwise. Every goal has one.
//! - `fused FORMATS`, `kernels FORMATS`: lines `N PATTERN`, how many lines of the stage's text contain the pattern; `*` in
//!   it is any text, and names are those of the first spelling. `prefill` and `decode` are the groups that each role
//!   runs, `caches` what outlives a step: a line each, with its name, its axes and its bound.
//! - `instead KIND`: lines before a line `===` that are expected of the statements after it: where a choice falls otherwise.
//!
//! Wherever a text is optimized, its value is compared with the reference evaluator's on random inputs; wherever a
//! stage is printed, no stored value may have two axes of tokens. `LLMC_GOAL=NAME` runs one file alone.

use super::fused::{renamed, weight_facts};
use super::support::goal::{GoalCase, Section, lets, load, names};
use llmc_artifact::{Format, Type};
use llmc_compiler::choose::{Chosen, choose, optimise};
use llmc_compiler::cost::Role;
use llmc_compiler::egraph::Optimized;
use llmc_compiler::egraph::form::{Among, Form};
use llmc_compiler::group::{Facts, Fused, Machine, fused_text};
use llmc_compiler::kernel::lower::lower;
use llmc_compiler::normal::to_graph::to_graph;
use llmc_compiler::plan::CachedValue;
use llmc_compiler::rules::Laws;
use llmc_frontend::compile_text;
use llmc_frontend::graph::{Axes, AxisTable, Block, Model, Verified};
use llmc_frontend::reference::{Tensor, evaluate_graph};
use std::fmt::Write;

/// Tokens that texts are evaluated with.
const TOKENS: usize = 7;
/// Relative to the largest element: both sides are f64.
const CLOSE: f64 = 1e-9;

#[test]
fn goals_are_found_and_chosen() {
    let wanted = std::env::var("LLMC_GOAL").ok();
    let mut failures = String::new();
    for case in load("tests/cases/goals") {
        if wanted.as_ref().is_some_and(|w| *w != case.name) {
            continue;
        }
        check_case(&case, &mut failures);
    }
    assert!(failures.is_empty(), "\n{failures}");
}

fn check_case(case: &GoalCase, failures: &mut String) {
    for format in case.formats() {
        for spelling in &case.spellings {
            for other in [false, true] {
                let what =
                    format!("{}, {format}{}: {}", case.name, if other { ", renamed" } else { "" }, spelling.title);
                check_spelling(case, spelling, format, other, &what, failures);
            }
        }
    }
    check_instead(case, failures);
    for refused in &case.refused {
        let body = if refused.body.trim().is_empty() { &case.spellings[0].body } else { &refused.body };
        for format in &refused.formats {
            let made = Made::new(&case.text(body), *format, &refused.title);
            let goals = case.goals.iter().filter(|g| g.word == refused.word);
            let mut any = false;
            for goal in goals {
                any = true;
                let form = made.form(&case.text(&goal.body));
                if made.optimised.has(&form, Among::All) {
                    let _ = writeln!(failures, "{}, {format}: {}: the goal is there", case.name, refused.title);
                }
            }
            assert!(any, "{}: `refused` names no goal", case.name);
            made.check_value(failures);
        }
    }
}

/// Texts of which a stage says something else than of the spellings.
fn check_instead(case: &GoalCase, failures: &mut String) {
    for instead in &case.instead {
        let (lines, statements) = instead.body.split_once("===\n").expect("lines, `===`, statements");
        let stage = instead.word.as_deref().expect("`instead` names a stage");
        for format in &instead.formats {
            let made = Made::new(&case.text(statements), *format, &instead.title);
            made.check_value(failures);
            check_lines(lines, &made.stage(stage), &instead.title, str::to_owned, failures);
        }
    }
}

fn check_lines(lines: &str, text: &str, what: &str, rename: impl Fn(&str) -> String, failures: &mut String) {
    for line in lines.lines().filter(|l| !l.trim().is_empty()) {
        let (count, pattern) = line.split_once(' ').unwrap_or_else(|| panic!("{what}: `{line}`"));
        let pattern = rename(pattern);
        let found = text.lines().filter(|l| contains(l, &pattern)).count();
        let wanted: usize = count.parse().unwrap_or_else(|_| panic!("{what}: `{line}`"));
        if found != wanted {
            let _ = writeln!(failures, "{what}: {found} lines have `{pattern}`, not {wanted}\n{text}");
        }
    }
}

fn check_spelling(case: &GoalCase, spelling: &Section, format: Format, other: bool, what: &str, failures: &mut String) {
    let text = case.text(&spelling.body);
    let goals: Vec<_> = case.goals.iter().filter(|g| g.formats.contains(&format)).collect();
    let all: Vec<String> =
        goals.iter().map(|g| case.text(&g.body)).chain([text.clone()]).flat_map(|t| names(&t)).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let rename = |text: &str| if other { renamed(text, &all) } else { text.to_owned() };
    let made = Made::new(&rename(&text), format, what);
    made.check_value(failures);
    for goal in goals {
        let form = made.form(&rename(&case.text(&goal.body)));
        for (among, where_) in [(Among::All, "in the e-graph"), (Among::Chosen, "chosen")] {
            if !made.optimised.has(&form, among) {
                let _ = writeln!(failures, "{what}: {} is not {where_}\n{}", goal.title, made.optimised.egraph_text());
                break;
            }
        }
    }
    for stage in case.stages.iter().filter(|s| s.formats.contains(&format)) {
        check_lines(&stage.body, &made.stage(&stage.kind), what, rename, failures);
    }
}

/// Whether a line has the parts of a pattern between `*`s, in order.
fn contains(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// A text through the optimizer.
struct Made {
    what: String,
    model: Verified<Model>,
    format: Format,
    optimised: Optimized,
}

/// The model of a text, and the sizes of what it declares.
fn compiled(text: &str, what: &str) -> Verified<Model> {
    let compiled = compile_text("goal.llm", text, None);
    let model = compiled.model.unwrap_or_else(|| panic!("{what}: {:#?}\n{text}", compiled.diagnostics));
    assert_eq!(model.blocks.len(), 1, "{what}: more than one block");
    model
}

/// What is known of a model whose matrices are stored so.
fn facts(model: &Model, format: Format) -> Facts {
    let (cache, activations, machine) = (Format::F16, Format::F32, Machine::default());
    let weights = weight_facts(model, 0, format);
    Facts { weights, picked: false, cache, activations, machine, role: Role::Prefill }
}

impl Made {
    fn new(text: &str, format: Format, what: &str) -> Made {
        let model = compiled(text, what);
        let optimised = optimise(&model.blocks[0], &model.axes, &facts(&model, format), Laws::default());
        assert!(optimised.saturation.saturated, "{what}: a limit was reached");
        Made { what: what.to_owned(), model, format, optimised }
    }

    fn block(&self) -> &Block {
        &self.model.blocks[0]
    }

    fn form(&self, goal: &str) -> Form {
        let weights: Vec<_> = self.block().weights.iter().map(|w| w.name.clone()).collect();
        Form::new(&compiled(goal, &self.what), 0, &lets(goal), &weights)
    }

    fn stage(&self, stage: &str) -> String {
        let facts = facts(&self.model, self.format);
        let Chosen { prefill, decode, .. } =
            choose(&self.optimised, &facts).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let decode = decode.unwrap_or_else(|| prefill.clone());
        for fused in [&prefill, &decode] {
            for (axes, _) in &fused.terms.stored {
                assert!(axes.iter().filter(|a| fused.terms.is_seq(*a)).count() <= 1, "{}: pairs of tokens", self.what);
            }
        }
        match stage {
            "fused" | "prefill" => fused_text(&prefill),
            "decode" => fused_text(&decode),
            "caches" => caches(&prefill),
            _ => lower(&prefill, "goal").block.kernels.iter().map(|k| format!("{}\n", k.spec)).collect(),
        }
    }

    /// The optimized form against the text, by value.
    fn check_value(&self, failures: &mut String) {
        let block = self.block();
        let roots: Vec<_> = block.results.iter().map(|r| r.1).collect();
        let ids: Vec<_> = self.optimised.roots.iter().map(|r| r.1).collect();
        let (graph, nodes) = to_graph(&self.optimised.terms, &ids);
        let lengths = vec![TOKENS; self.model.seqs.len()];
        let run = |table: &AxisTable, graph, roots: &[_]| {
            let (params, weights) = leaves(&self.model, table);
            evaluate_graph(table, graph, params, weights, &lengths, roots)
        };
        let want = run(&self.model.axes, &block.graph, &roots);
        let got = run(&self.optimised.terms.axes, &graph, &nodes);
        for ((want, got), (name, _)) in want.iter().zip(&got).zip(&block.results) {
            let got = got.ordered(&want.axes);
            let scale = want.data.iter().filter(|x| x.is_finite()).fold(1e-30f64, |m, x| m.max(x.abs()));
            let far = want.data.iter().zip(&got.data).filter(|(a, b)| {
                a.is_finite() && !(*a - *b).abs().partial_cmp(&(CLOSE * scale)).is_some_and(|o| o.is_le())
            });
            if let Some((a, b)) = far.into_iter().next() {
                let _ = writeln!(failures, "{}: `{name}` is {b} instead of {a}", self.what);
            }
            assert!(want.data.iter().any(|x| x.is_finite() && *x != 0.0), "{}: `{name}` says nothing", self.what);
        }
    }
}

/// What outlives a step, a line each.
fn caches(fused: &Fused) -> String {
    let lowered = lower(fused, "goal");
    let line = |((value, _), cache): (&(u32, usize), &CachedValue)| {
        let axes = fused.terms.stored[*value as usize].0.iter().map(|a| fused.terms.axes[a].name.clone());
        let window = cache.window.map_or(String::new(), |w| format!(", the last {w}"));
        format!("{}[{}]{window}\n", cache.name, axes.collect::<Vec<_>>().join(", "))
    };
    fused.caches.iter().zip(&lowered.block.caches).map(line).collect()
}

/// Random params and weights of the model's only block, over a table that begins with the model's axes.
fn leaves(model: &Model, table: &AxisTable) -> (Vec<Tensor>, Vec<Tensor>) {
    let lengths: Vec<_> = table.iter().map(|(a, _)| table.len_of(a).map_or(TOKENS, |n| n as usize)).collect();
    let block = &model.blocks[0];
    let tensor = |seed: u64, axes: &Axes, make: &dyn Fn(f64) -> f64| {
        let size = axes.iter().map(|a| lengths[a.0 as usize]).product::<usize>() as u64;
        let data = (0..size).map(|n| make(noise(seed << 32 | n))).collect();
        Tensor::new(axes.iter().collect(), &lengths, data)
    };
    let params = (block.params.iter().enumerate()).map(|(n, p)| {
        let below = model.steps[0].args.get(n).and_then(|v| model.inputs.iter().find(|i| i.value == *v)?.bound);
        let make = move |x: f64| match p.ty {
            Type::Real => x,
            Type::Int | Type::Bool => ((x + 1.0) / 2.0 * below.unwrap_or(2) as f64).floor(),
        };
        tensor(n as u64 + 1, &p.axes, &make)
    });
    let params = params.collect();
    let weights = block.weights.iter().enumerate().map(|(n, w)| tensor(n as u64 + 1001, &w.axes, &|x| x)).collect();
    (params, weights)
}

/// Evenly from -1 to 1 (SplitMix64).
fn noise(seed: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}
