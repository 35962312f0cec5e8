//! One value's story: the laws that made its form, why it is stored, what it costs and what else there was.

use super::check;
use crate::cost::{Cost, Role};
use crate::egraph::proof::Join;
use crate::group::parts::{self, Choice};
use crate::group::{Demand, Facts, Fused, Group, Value, Why, Work, fused_text, group_cost};
use crate::normal::build::normalise_by;
use crate::normal::text::expression;
use crate::normal::{Term, TermId, Terms};
use crate::pipeline::{BlockStages, Stages};
use crate::rules::{Law, Laws, Stage};
use llmc_artifact::Format;
use llmc_frontend::diag::{FileId, SourceMap, Span, render_place};
use llmc_frontend::graph::Place;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;

/// One law applied.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The stage that applied it.
    pub stage: &'static str,
    /// Its name.
    pub law: &'static str,
    /// What it says.
    pub equation: &'static str,
    /// What was there.
    pub before: String,
    /// What came.
    pub after: String,
    /// `file:line:column` of what the text has there.
    pub place: Option<String>,
}

/// Why a value is stored, or not fused into a reader.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// In one sentence.
    pub sentence: String,
    /// The place, as diagnostics show it.
    pub place: Option<String>,
}

/// What a form costs.
#[derive(Clone, Debug, Serialize)]
pub struct Price {
    /// What is priced.
    pub of: String,
    /// Bytes moved.
    pub bytes: f64,
    /// Operations.
    pub operations: f64,
    /// Launches.
    pub launches: f64,
    /// On the machine's roofline.
    pub seconds: f64,
}

/// A value and all that is known of how it came about.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// The block.
    pub block: String,
    /// The value.
    pub value: String,
    /// The kernel that computes it, and its loop.
    pub kernel: String,
    /// The kernel in the notation of the fused form.
    pub formula: String,
    /// The laws in their order.
    pub steps: Vec<Step>,
    /// Whether every step was checked to differ by its law alone; otherwise the first that does not.
    pub checked: Result<usize, String>,
    /// Why it is stored.
    pub reasons: Vec<Reason>,
    /// What its kernel costs for each role, then the alternatives of its block.
    pub prices: Vec<Price>,
}

/// What the laws made of a block, found once for all of its values.
pub struct Proofs {
    normal: Terms,
    joined: Terms,
    chains: Vec<Vec<Join>>,
    checked: Result<usize, String>,
}

impl Proofs {
    /// Runs a block's laws again with everything written down, and checks it.
    pub fn new(stages: &Stages, block: usize, laws: Laws) -> Proofs {
        let (normal, _) = normalise_by(&stages.model.blocks[block], &stages.model.axes, laws, true);
        let firings = normal.trace.firings.as_deref().unwrap_or_default();
        let (joined, chains) = stages.blocks[block].optimised.chosen_joins();
        let all: Vec<Join> = chains.iter().flatten().cloned().collect();
        let checked = check::normal(&normal, &normal.trace.built, firings)
            .and_then(|()| check::joins(&joined, &all))
            .map(|()| firings.len() + all.len());
        Proofs { normal, joined, chains, checked }
    }

    /// The steps at places of the text that `here` accepts.
    fn steps(&self, sources: &SourceMap, here: &dyn Fn(Place) -> bool) -> Vec<Step> {
        let mut out: Vec<Step> = Vec::new();
        let mut seen = HashSet::new();
        let mut push = |stage, law: Law, before: String, after: String, place: Option<Place>| {
            if before != after && seen.insert((law, before.clone(), after.clone())) {
                let place = place.map(|p| spot(sources, p));
                out.push(Step { stage, law: law.name(), equation: law.equation(), before, after, place });
            }
        };
        for f in self.normal.trace.firings.iter().flatten().filter(|f| f.place.is_some_and(here)) {
            let show = |id| expression(&self.normal, id);
            push("normalise", f.law, show(f.before), show(f.after), f.place);
        }
        for join in self.chains.iter().flatten().filter(|j| j.place.is_some_and(here)) {
            let show = |id| expression(&self.joined, id);
            push("saturate", join.law, show(join.before), show(join.after), join.place);
        }
        out
    }
}

fn span((file, start, end): Place) -> Span {
    Span::new(FileId(file), start, end)
}

fn spot(sources: &SourceMap, place: Place) -> String {
    let at = sources.locate(span(place));
    format!("{}:{}:{}", sources.file(FileId(place.0)).name, at.line, at.column)
}

/// Terms of a value's own formula and of its loop: not those of what its loop folds, nor of values that it reads.
fn own_terms(fused: &Fused, value: &Value) -> Vec<TermId> {
    let mut stack = vec![value.term];
    let mut ends: HashSet<TermId> = fused.values.iter().map(|v| v.meaning).filter(|m| *m != value.meaning).collect();
    match &value.work {
        Work::Map | Work::TopK => {}
        Work::Contract(c) => {
            ends.extend(c.products.iter().map(|p| p.term).chain(c.stats.iter().map(|s| s.0)));
            stack.extend(c.products.iter().map(|p| p.weight).chain(c.stats.iter().map(|s| s.1)));
        }
        Work::Stream(f) => {
            ends.extend(f.stream.states.iter().map(|s| s.source));
            stack.extend(f.stream.states.iter().map(|s| s.body));
        }
    }
    let (mut seen, mut out) = (HashSet::new(), Vec::new());
    while let Some(x) = stack.pop() {
        if seen.insert(x) {
            out.push(x);
            if !ends.contains(&x) {
                stack.extend(fused.terms.operands(x));
            }
        }
    }
    out
}

/// A kernel as `inspect --stage fused` shows it.
fn kernel_text(fused: &Fused, number: usize) -> String {
    let all = fused_text(fused);
    let from = all.find(&format!("kernel {number}: ")).unwrap_or(0);
    let to = all[from..].find("\n}\n").map_or(all.len(), |n| from + n + 2);
    all[from..to].to_owned()
}

fn law_of_loop(value: &Value) -> &'static str {
    match &value.work {
        Work::Map => "pointwise",
        Work::TopK => "a search",
        Work::Contract(_) => "a product with weights",
        Work::Stream(_) => "a fold",
    }
}

fn price(of: String, cost: Cost) -> Price {
    let Cost { bytes, operations, launches, seconds } = cost;
    Price { of, bytes, operations, launches, seconds }
}

/// The formats in blocks that a value's products are taken of, each once.
fn packed(value: &Value) -> impl Iterator<Item = Format> {
    let products = match &value.work {
        Work::Contract(c) => c.products.as_slice(),
        Work::Map | Work::TopK | Work::Stream(_) => &[],
    };
    products.iter().map(|p| p.format).filter(|f| f.is_quantised()).collect::<BTreeSet<_>>().into_iter()
}

/// Everything about one stored value of a block.
pub fn explain(block: &BlockStages, number: u32, proofs: &Proofs, sources: &SourceMap) -> Explained {
    let fused = &block.fused;
    let value = &fused.values[number as usize];
    let group = fused.groups.iter().position(|g| g.values.contains(&number)).expect("explain: a value has a kernel");
    let places: BTreeSet<Place> =
        own_terms(fused, value).into_iter().filter_map(|x| fused.terms.info(x).place).collect();
    let here = |p: Place| places.iter().any(|q| p.0 == q.0 && q.1 <= p.1 && p.2 <= q.2);
    let mut steps = proofs.steps(sources, &here);
    if let Work::Stream(f) = &value.work {
        for state in &f.stream.states {
            for moved in &state.repair.scales {
                let law = crate::stream::RATIOS.iter().find(|r| r.op == moved.op).map_or("", |r| r.law);
                steps.push(Step {
                    stage: "stream",
                    law: "Repair",
                    equation: law,
                    before: expression(&fused.terms, state.body),
                    after: format!(
                        "the running sum times {}(new - old) of {}",
                        moved.op.keyword(),
                        expression(&fused.terms, moved.by)
                    ),
                    place: fused.terms.place(state.body).map(|p| spot(sources, p)),
                });
            }
        }
    }
    for format in packed(value) {
        let blocks = crate::blocks::product(format, Format::Act8);
        steps.push(Step {
            stage: "lower",
            law: Law::Blocks.name(),
            equation: Law::Blocks.equation(),
            before: expression(&blocks.terms, blocks.before),
            after: format!("{}, for each block of {format}", expression(&blocks.terms, blocks.after)),
            place: None,
        });
    }
    Explained {
        block: block.name.clone(),
        value: value.name.clone(),
        kernel: format!("kernel {group} `{}`: {}", fused.groups[group].name, law_of_loop(value)),
        formula: kernel_text(fused, group),
        steps,
        checked: proofs.checked.clone(),
        reasons: reasons(fused, number, sources),
        prices: prices(block, number),
    }
}

/// What the value's kernel costs in each role, what the block does, and what other sets of caches and forms would have.
fn prices(block: &BlockStages, number: u32) -> Vec<Price> {
    let name = &block.fused.values[number as usize].name;
    let mut out = Vec::new();
    for role in Role::ALL {
        let fused = block.fused(role);
        let in_it = |g: &&Group| g.values.iter().any(|v| fused.values[*v as usize].name == *name);
        if let Some(group) = fused.groups.iter().find(in_it) {
            let of = format!("its kernel `{}` for {}", group.name, role.name());
            let facts = Facts { role, ..fused.facts.clone() };
            out.push(price(of, group_cost(&fused.terms, &fused.values, group, &facts)));
            out.extend(instead(fused, group, &facts));
        }
    }
    for (n, set) in block.considered.iter().enumerate() {
        let caches = if set.caches.is_empty() { "nothing".to_owned() } else { set.caches.join(", ") };
        let chosen = if n == 0 { "chosen" } else { "alternative" };
        for (role, candidates) in Role::ALL.iter().zip(&set.candidates) {
            for candidate in candidates {
                let of = format!("{chosen}: the block caching {caches}, form {} for {}", candidate.form, role.name());
                if let Ok(cost) = candidate.cost {
                    out.push(price(of, cost));
                }
            }
        }
    }
    out
}

/// A fold's other form: one kernel where it is cut into parts, parts where it is one kernel.
fn instead(fused: &Fused, group: &Group, facts: &Facts) -> Option<Price> {
    let choice = parts::consider(&fused.terms, &fused.values, &group.values, facts)?;
    let Choice { whole, parts, size, folds } = choice;
    let (name, role, slots) = (&group.name, facts.role.name(), facts.machine.slots);
    let many = format!("{folds} folds for {slots} items at once");
    Some(match group.parts {
        Some(size) => price(format!("instead of parts of {size}, one kernel `{name}` for {role}: {many}"), whole),
        None => price(format!("instead of one kernel `{name}` for {role}, parts of {size}: {many}"), parts),
    })
}

/// Why a value is stored, a sentence for each reader.
pub fn reasons(fused: &Fused, number: u32, sources: &SourceMap) -> Vec<Reason> {
    let value = &fused.values[number as usize];
    let mut out: Vec<Reason> = value.demands.iter().map(|d| reason(fused, value, d, sources)).collect();
    let readers: BTreeSet<u32> = value.demands.iter().filter_map(|d| d.reader).collect();
    if readers.len() > 1 {
        let names: Vec<_> = readers.iter().map(|r| format!("`{}`", fused.values[*r as usize].name)).collect();
        let sentence =
            format!("`{}` is stored because {} values read it: {}", value.name, names.len(), names.join(", "));
        out.push(Reason { sentence, place: None });
    }
    if let Work::Contract(c) = &value.work
        && let Some(p) = c.products.iter().find(|p| p.format.is_quantised())
    {
        let weight = expression(&fused.terms, p.weight);
        let sentence =
            format!("nothing is absorbed into `{weight}`: it is quantised as {} and stays as it is", p.format);
        out.push(at(fused, sentence, p.term, sources));
    }
    let cached = value.forms.iter().any(|f| matches!(f, crate::group::Form::Cache { .. }));
    for leak in fused.leaks.values().filter(|_| cached) {
        let place = leak.place.map(|p| render_place(sources, span(p), "read here"));
        out.push(Reason { sentence: format!("not appendable: {}", leak.sentence), place });
    }
    let mine = |n: &&String| n.contains(&format!("`{}`", value.name));
    out.extend(fused.notes.iter().filter(mine).map(|n| Reason { sentence: n.clone(), place: None }));
    out
}

fn at(fused: &Fused, sentence: String, term: TermId, sources: &SourceMap) -> Reason {
    Reason { sentence, place: fused.terms.place(term).map(|p| render_place(sources, span(p), "")) }
}

fn reason(fused: &Fused, value: &Value, demand: &Demand, sources: &SourceMap) -> Reason {
    let name = &value.name;
    let reader = demand.reader.map_or_else(String::new, |r| format!("`{}`", fused.values[r as usize].name));
    let sentence = match demand.why {
        Why::Result => format!("`{name}` is stored because the block hands it on"),
        Why::Activation => format!(
            "`{name}` is stored because the product in {reader} reads it whole for each of its outputs: within that loop it \
             would be computed again for every one"
        ),
        Why::OtherToken => {
            let view = match fused.terms.term(demand.at) {
                Term::Read(_, s) => fused.terms.axes[crate::alpha::origin(&fused.terms, *s)].name.clone(),
                _ => "another".to_owned(),
            };
            format!("`{name}` is cached because {reader} reads it at other tokens, along {view}")
        }
        Why::Role => format!("`{name}` is cached because the other role's kernels read it"),
        Why::Loop => {
            format!("`{name}` is stored because a reduction in it ends before the loop of {reader} can begin")
        }
    };
    at(fused, sentence, demand.at, sources)
}

impl Explained {
    /// One screen, the steps in order.
    pub fn text(&self) -> String {
        let mut out = format!("{}/{}  {}\n\n{}\n", self.block, self.value, self.kernel, self.formula);
        match &self.checked {
            Ok(n) => drop(writeln!(out, "\nlaws, in order (all {n} steps of the block were checked)")),
            Err(e) => drop(writeln!(out, "\nlaws, in order; NOT ALL HOLD: {e}")),
        }
        for (n, s) in self.steps.iter().enumerate() {
            let place = s.place.as_ref().map_or(String::new(), |p| format!("  {p}"));
            let _ = writeln!(
                out,
                "{:3}. {} ({}): {}{place}\n       {}\n    => {}",
                n + 1,
                s.law,
                s.stage,
                s.equation,
                s.before,
                s.after
            );
        }
        let _ = writeln!(out, "\nwhy it is stored");
        out += &self.reasons_text();
        let _ = writeln!(out, "\ncosts");
        for p in &self.prices {
            let cost = Cost { bytes: p.bytes, operations: p.operations, launches: p.launches, seconds: p.seconds };
            let _ = writeln!(out, "  {}\n      {cost}", p.of);
        }
        out
    }

    /// Only the reasons: what kept it from being fused or cached.
    pub fn reasons_text(&self) -> String {
        let mut out = String::new();
        for r in &self.reasons {
            let _ = writeln!(out, "  {}", r.sentence);
            for line in r.place.iter().flat_map(|p| p.lines()) {
                let _ = writeln!(out, "    {line}");
            }
        }
        out
    }
}

/// A line for each kernel of a block: its loop, its values, what made them, what it costs.
pub fn overview(block: &BlockStages) -> String {
    let fused = &block.fused;
    let mut out = format!("block {}\n", block.name);
    for (n, group) in fused.groups.iter().enumerate() {
        let names: Vec<_> = group.values.iter().map(|v| fused.values[*v as usize].name.as_str()).collect();
        let first = &fused.values[group.values[0] as usize];
        let cost = group_cost(&fused.terms, &fused.values, group, &fused.facts);
        let _ = writeln!(out, "  kernel {n}: {} -> {}  ({cost})", law_of_loop(first), names.join(", "));
    }
    let o = &block.optimised;
    let fired = |l: &&Law| match l.stage() {
        Stage::Normalise => o.normal.0.trace.fired(**l) > 0,
        Stage::Saturate => o.saturation.trace.fired(**l) > 0,
        Stage::Lower => fused.values.iter().any(|v| packed(v).next().is_some()),
    };
    let laws: Vec<_> = Law::ALL.iter().filter(fired).map(|l| l.name()).collect();
    let _ = writeln!(out, "  laws: {}", laws.join(", "));
    out
}
