//! The e-graph as boxes, one for every form of every class, and one class as a screen.

use super::{Node, Section, Use, View};
use crate::cost::Role;
use crate::egraph::extract::Change;
use crate::egraph::show::{Picks, Shown, ShownForm};
use crate::pipeline::{BlockStages, Stages};
use crate::rules::Law;
use llmc_frontend::diag::{FileId, SourceMap, Span};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Forms that a screen has room for.
const ROOM: usize = 10;

/// Every block's classes.
pub fn egraph(stages: &Stages) -> View {
    View { stage: "egraph", sections: stages.blocks.iter().map(section).collect() }
}

/// The forms that the block's kernels were made of.
fn picks(block: &BlockStages) -> Picks {
    let best = &block.considered[0];
    let chosen = best.chosen.as_ref().expect("view: kernels were formed of the best set");
    chosen.map(|p| (best.set, p.of, p.form))
}

fn section(block: &BlockStages) -> Section {
    let mut nodes = Vec::new();
    for class in block.optimised.shown(picks(block)) {
        for (n, form) in class.forms.iter().enumerate() {
            nodes.push(boxed(&class, n, form));
        }
    }
    let o = &block.optimised;
    let s = &o.saturation;
    let sets: Vec<_> = (0..o.sets.len())
        .map(|n| json!({ "caches": o.cached(n), "bytes": o.sets[n].bytes, "seconds": o.sets[n].seconds }))
        .collect();
    let fired = |law: &Law| s.trace.fired(*law) + o.normal.0.trace.fired(*law);
    let laws: Map<_, _> =
        Law::ALL.iter().filter(|l| fired(l) > 0).map(|l| (l.name().to_owned(), json!(fired(l)))).collect();
    let facts = [
        ("nodes", json!(s.nodes)),
        ("classes", json!(s.classes)),
        ("rounds", json!(s.rounds)),
        ("saturated", json!(s.saturated)),
        ("laws", json!(laws)),
        ("cache sets", json!(sets)),
    ];
    let facts = facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Section { name: format!("block {}", block.name), nodes, facts }
}

fn boxed(class: &Shown, n: usize, form: &ShownForm) -> Node {
    let roles = Role::ALL.iter().zip(&form.change);
    let changes: Map<String, Value> = roles.map(|(r, c)| (r.name().to_owned(), change(c))).collect();
    let facts = [
        ("axes", json!(class.axes)),
        ("law", json!(form.law.map(Law::name))),
        ("at load", json!(class.at_load)),
        ("change", json!(changes)),
    ];
    Node {
        id: format!("{}.{n}", class.id),
        name: class.name.clone(),
        does: form.does.clone(),
        class: Some(class.id.clone()),
        of: form.of.iter().map(Use::of).collect(),
        facts: facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        marked: form.change.contains(&Change::Chosen),
        ..Node::default()
    }
}

fn change(change: &Change) -> Value {
    match change {
        Change::Seconds(s) => json!(s),
        other => json!(in_words(other)),
    }
}

fn in_words(change: &Change) -> String {
    match change {
        Change::Chosen => "chosen".to_owned(),
        Change::Unused => "not in use".to_owned(),
        Change::Circle => "made of itself".to_owned(),
        Change::NotCached => "reads what is not cached".to_owned(),
        Change::Forbidden => "costs a weight".to_owned(),
        Change::Seconds(s) if s.abs() < 5e-9 => "the same".to_owned(),
        Change::Seconds(s) => format!("{:+.2} us", s * 1e6),
    }
}

/// The classes of a name, or the one of a number, on a screen; the names that there are where there is none.
///
/// # Errors
/// Every name and number of a class.
pub fn screen(block: &BlockStages, name: &str, sources: &SourceMap) -> Result<String, Vec<String>> {
    let classes = block.optimised.shown(picks(block));
    let asked = |c: &&Shown| c.name.as_deref() == Some(name) || c.id == name;
    let found: Vec<_> = classes.iter().filter(asked).collect();
    if found.is_empty() {
        return Err(classes.iter().flat_map(|c| c.name.iter().chain([&c.id])).cloned().collect());
    }
    let one = |c: &&Shown| class_text(block, c, &classes, sources);
    Ok(found.iter().map(one).collect::<Vec<_>>().join("\n"))
}

fn class_text(block: &BlockStages, class: &Shown, all: &[Shown], sources: &SourceMap) -> String {
    let name = class.name.as_ref().map_or_else(String::new, |n| format!(" `{n}`"));
    let load = if class.at_load { ", made when weights are loaded" } else { "" };
    let mut out = format!(
        "block {}: class {}{name} over [{}]{load}; one of {}\n",
        block.name,
        class.id,
        class.axes.join(", "),
        block.optimised.saturation.classes
    );
    if let Some((file, start, end)) = class.place {
        let at = sources.locate(Span::new(FileId(file), start, end));
        let _ = writeln!(out, "  at {}:{}:{}", sources.file(FileId(file)).name, at.line, at.column);
    }
    let mut forms: Vec<&ShownForm> = class.forms.iter().collect();
    forms.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    let _ = writeln!(out, "\nforms, and what the block would cost with each: for a prompt | for a generated token");
    for form in forms.iter().take(ROOM) {
        let law = form.law.map_or("as the text has it, in normal form", Law::name);
        let _ = writeln!(out, "  {}", form.does);
        let [a, b] = form.change.each_ref().map(in_words);
        let _ = writeln!(out, "      {a} | {b}    ({law})");
    }
    if forms.len() > ROOM {
        let _ = writeln!(out, "  and {} more: `--format json` has them all", forms.len() - ROOM);
    }
    below(&mut out, &forms, all);
    let users: Vec<_> = all.iter().filter(|c| c.forms.iter().any(|f| f.of.contains(&class.id))).map(label).collect();
    if !users.is_empty() {
        let _ = writeln!(out, "\nused by {}", users.join(", "));
    }
    out
}

/// What forms are made of, one level down: the form that each class has.
fn below(out: &mut String, forms: &[&ShownForm], all: &[Shown]) {
    let mut of: Vec<&String> = forms.iter().take(ROOM).flat_map(|f| &f.of).collect();
    let mut seen = std::collections::HashSet::new();
    of.retain(|id| seen.insert(*id));
    let children = of.iter().filter_map(|id| all.iter().find(|c| c.id == **id));
    for (n, child) in children.enumerate() {
        if n == 0 {
            let _ = writeln!(out, "\nmade of");
        }
        let chosen = child.forms.iter().min_by(|a, b| rank(a).total_cmp(&rank(b))).map_or("", |f| f.does.as_str());
        let others = match child.forms.len() {
            1 => String::new(),
            n => format!("    (and {} more)", n - 1),
        };
        let _ = writeln!(out, "  {}[{}] = {chosen}{others}", label(child), child.axes.join(", "));
    }
}

fn label(class: &Shown) -> String {
    class.name.as_ref().map_or_else(|| class.id.clone(), |n| format!("{} `{n}`", class.id))
}

/// The chosen form first, then the cheapest, then those that cannot be.
fn rank(form: &ShownForm) -> f64 {
    let of = |role: Role| match form.change[role as usize] {
        Change::Chosen => -1e6,
        Change::Seconds(s) => role.steps() * s,
        Change::Unused => 1e3,
        Change::Circle | Change::NotCached | Change::Forbidden => 1e9,
    };
    of(Role::Prefill) + of(Role::Decode)
}
