//! One value's story: the laws that made its form, why it is stored, what it costs and what else there was.

use super::short::Letters;
use super::{check, kernels};
use crate::choose::Candidate;
use crate::cost::{Cost, Role};
use crate::egraph::proof::Join;
use crate::group::parts::{self, Choice};
use crate::group::{Demand, Facts, Fold, Fused, Group, Value, Why, Work, group_cost, kernel_text};
use crate::normal::build::normalise_by;
use crate::normal::text::{expression, reachable};
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
    /// Both sides, with letters for what they share.
    #[serde(skip)]
    pub short: [String; 2],
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
    /// `file:line:column` of it in the text.
    pub place: Option<String>,
    /// Whether it is stored.
    pub stored: bool,
    /// The kernel that computes it, and its loop.
    pub kernel: String,
    /// The kernel in the notation of the fused form.
    pub formula: String,
    /// The laws in their order.
    pub steps: Vec<Step>,
    /// What letters in short formulas stand for.
    #[serde(skip)]
    pub letters: Vec<(String, String)>,
    /// Whether every step was checked to differ by its law alone; otherwise the first that does not.
    pub checked: Result<usize, String>,
    /// Whether the kernels of both roles were checked to compute what the block means; otherwise the first claim that fails.
    pub kernels: Result<usize, String>,
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
    kernels: Result<usize, String>,
}

/// What is explained: places of the text, and the leaves that it is made of.
struct Subject {
    places: BTreeSet<Place>,
    leaves: HashSet<Leaf>,
}

/// A parameter or a weight, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Leaf {
    Param(u32),
    Weight(u32),
}

fn leaves(terms: &Terms, id: TermId) -> HashSet<Leaf> {
    let leaf = |x: TermId| match terms.term(x) {
        Term::Param(n) => Some(Leaf::Param(*n)),
        Term::Weight(n) => Some(Leaf::Weight(*n)),
        _ => None,
    };
    reachable(terms, [id]).into_iter().filter_map(leaf).collect()
}

impl Subject {
    /// Whether a step is about it: at its place, and made of nothing that it is not made of.
    fn has(&self, terms: &Terms, before: TermId, place: Option<Place>) -> bool {
        let here = |p: Place| self.places.iter().any(|q| p.0 == q.0 && q.1 <= p.1 && p.2 <= q.2);
        place.is_some_and(here) && leaves(terms, before).is_subset(&self.leaves)
    }
}

/// Checks the kernels of both roles of a block, and that they keep the same. Gives the number of claims.
///
/// # Errors
/// The first claim that does not hold.
pub fn check_kernels(block: &BlockStages) -> Result<usize, String> {
    let best = &block.considered[0];
    let chosen = best.chosen.as_ref().expect("explain: kernels were formed of the best set");
    let given = |role: Role| {
        let picked = &chosen[role as usize];
        block.optimised.form(best.set, picked.of, picked.form)
    };
    let prefill = kernels::kernels(&given(Role::Prefill), &block.fused)?;
    let Some(decode) = &block.decode else { return Ok(prefill) };
    kernels::roles(&block.fused, &decode.fused, Laws::ALL)?;
    Ok(prefill + kernels::kernels(&given(Role::Decode), &decode.fused)?)
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
        let kernels = check_kernels(&stages.blocks[block]);
        Proofs { normal, joined, chains, checked, kernels }
    }

    /// The steps about a subject, with what letters in them stand for.
    fn steps(&self, sources: &SourceMap, subject: &Subject) -> (Vec<Step>, Vec<(String, String)>) {
        let mut out: Vec<Step> = Vec::new();
        let mut seen = HashSet::new();
        let mut letters = Letters::new(&[&self.normal, &self.joined]);
        let normal = self.normal.trace.firings.iter().flatten();
        let firings = normal.map(|f| (0, f.law, f.before, f.after, f.place));
        let joins = self.chains.iter().flatten().map(|j| (1, j.law, j.before, j.after, j.place));
        for (arena, law, before, after, place) in firings.chain(joins) {
            let terms = if arena == 0 { &self.normal } else { &self.joined };
            if !subject.has(terms, before, place) {
                continue;
            }
            let texts = [before, after].map(|x| expression(terms, x));
            if texts[0] == texts[1] || !seen.insert((law, texts.clone())) {
                continue;
            }
            let short = letters.step(arena, [before, after]);
            let [before, after] = texts;
            let place = place.map(|p| spot(sources, p));
            let stage = if arena == 0 { "normalise" } else { "saturate" };
            out.push(Step { stage, law: law.name(), equation: law.equation(), before, after, place, short });
        }
        (out, letters.meanings())
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
    let places = own_terms(fused, value).into_iter().filter_map(|x| fused.terms.info(x).place).collect();
    let subject = Subject { places, leaves: leaves(&fused.terms, value.meaning) };
    let (mut steps, letters) = proofs.steps(sources, &subject);
    if let Work::Stream(f) = &value.work {
        steps.extend(repairs(fused, f, sources));
    }
    for format in packed(value) {
        steps.push(in_blocks(format));
    }
    Explained {
        block: block.name.clone(),
        value: value.name.clone(),
        place: fused.terms.place(value.meaning).map(|p| spot(sources, p)),
        stored: true,
        kernel: format!("kernel {group} `{}`, {}", fused.groups[group].name, law_of_loop(value)),
        formula: kernel_text(fused, group),
        steps,
        letters,
        checked: proofs.checked.clone(),
        kernels: proofs.kernels.clone(),
        reasons: reasons(fused, number, sources),
        prices: prices(block, &[number]),
    }
}

/// A product with packed blocks as integer dots.
fn in_blocks(format: Format) -> Step {
    let blocks = crate::blocks::product(format, Format::Act8);
    let (law, before) = (Law::Blocks, expression(&blocks.terms, blocks.before));
    let after = format!("{}, for each block of {format}", expression(&blocks.terms, blocks.after));
    let short = [before.clone(), after.clone()];
    Step { stage: "lower", law: law.name(), equation: law.equation(), before, after, place: None, short }
}

/// What a stream's repairs say, as steps.
fn repairs(fused: &Fused, fold: &Fold, sources: &SourceMap) -> Vec<Step> {
    let mut out = Vec::new();
    for state in &fold.stream.states {
        for moved in &state.repair.scales {
            let law = crate::stream::RATIOS.iter().find(|r| r.op == moved.op).map_or("", |r| r.law);
            let (before, by) = (expression(&fused.terms, state.body), expression(&fused.terms, moved.by));
            let after = format!("the running sum times {}(new - old) of {by}", moved.op.keyword());
            let short = [before.clone(), after.clone()];
            let place = fused.terms.place(state.body).map(|p| spot(sources, p));
            out.push(Step { stage: "stream", law: "Repair", equation: law, before, after, place, short });
        }
    }
    out
}

/// Everything about a value that the text names and that lives within kernels; none where the block has no such value.
pub fn explain_fused(
    stages: &Stages,
    number: usize,
    name: &str,
    proofs: &Proofs,
    sources: &SourceMap,
) -> Option<Explained> {
    let (block, graph) = (&stages.blocks[number], &stages.model.blocks[number].graph);
    let named = graph.ids().filter(|n| graph[*n].name.as_deref() == Some(name));
    let places: BTreeSet<Place> = named.filter_map(|n| graph[n].span).collect();
    let first = *places.first()?;
    let terms = &proofs.normal;
    let built = terms.trace.built.iter().filter(|b| b.place.is_some_and(|p| places.contains(&p)));
    let subject = Subject { leaves: built.flat_map(|b| leaves(terms, b.made)).collect(), places };
    let (steps, letters) = proofs.steps(sources, &subject);
    let fused = &block.fused;
    let has = |v: &Value| {
        let here = |p: Place| subject.places.iter().any(|q| p.0 == q.0 && q.1 <= p.1 && p.2 <= q.2);
        own_terms(fused, v).into_iter().any(|x| fused.terms.info(x).place.is_some_and(here))
    };
    let within: Vec<u32> = (0..fused.values.len() as u32).filter(|n| has(&fused.values[*n as usize])).collect();
    let group_of =
        |v: &u32| fused.groups.iter().position(|g| g.values.contains(v)).expect("explain: a value has a kernel");
    let groups: BTreeSet<usize> = within.iter().map(group_of).collect();
    let users: Vec<_> = within.iter().map(|v| format!("`{}`", fused.values[*v as usize].name)).collect();
    let kernel = match &groups.iter().map(|g| format!("kernel {g} `{}`", fused.groups[*g].name)).collect::<Vec<_>>()[..]
    {
        [] => "not computed: nothing that is stored is made of it as it stands".to_owned(),
        all => format!("not stored; computed within {}", all.join(", ")),
    };
    let sentence = match users.len() {
        0 => format!("`{name}` has no kernel: the laws made something else of what reads it"),
        _ => format!(
            "`{name}` is not stored and not cached: {} is computed of it element by element or in a loop of its own, and no \
             other token reads it",
            users.join(", ")
        ),
    };
    let place = Some(render_place(sources, span(first), ""));
    Some(Explained {
        block: block.name.clone(),
        value: name.to_owned(),
        place: Some(spot(sources, first)),
        stored: false,
        kernel,
        formula: groups.iter().map(|g| kernel_text(fused, *g)).collect(),
        steps,
        letters,
        checked: proofs.checked.clone(),
        kernels: proofs.kernels.clone(),
        reasons: vec![Reason { sentence, place }],
        prices: prices(block, &within),
    })
}

/// Every value that the texts of a model name, with its block.
pub fn named(stages: &Stages) -> Vec<(usize, String)> {
    let mut all = BTreeSet::new();
    for (n, block) in stages.model.blocks.iter().enumerate() {
        all.extend(block.graph.ids().filter_map(|id| Some((n, block.graph[id].name.clone()?))));
        all.extend(stages.blocks[n].fused.values.iter().map(|v| (n, v.name.clone())));
    }
    all.into_iter().collect()
}

/// What the values' kernels cost in each role, what the block does, and what other sets of caches and forms would have.
fn prices(block: &BlockStages, numbers: &[u32]) -> Vec<Price> {
    let names: HashSet<_> = numbers.iter().map(|n| &block.fused.values[*n as usize].name).collect();
    let mut out = Vec::new();
    for role in Role::ALL {
        let fused = block.fused(role);
        let whose = tokens(role);
        let facts = Facts { role, ..fused.facts.clone() };
        for (n, group) in fused.groups.iter().enumerate() {
            if group.values.iter().any(|v| names.contains(&fused.values[*v as usize].name)) {
                let cost = group_cost(&fused.terms, &fused.values, group, &facts);
                out.push(price(format!("{whose}: its kernel {n} `{}`", group.name), cost));
                out.extend(instead(fused, group, &facts));
            }
        }
        for (n, set) in block.considered.iter().enumerate() {
            let caches = if set.caches.is_empty() { "nothing".to_owned() } else { set.caches.join(", ") };
            let own = set.chosen.as_ref().map(|c| c[role as usize]);
            if let (0, Some(picked)) = (n, own) {
                out.push(price(format!("{whose}: the block as chosen, caching {caches}"), picked.cost));
            }
            let is_own = |c: &Candidate| n == 0 && own.is_some_and(|p| p.of == role && p.form == c.form);
            let others: Vec<_> = set.candidates[role as usize].iter().filter(|c| !is_own(c)).collect();
            // Forms that differ in what costs nothing are one line.
            let mut costs: Vec<Cost> = others.into_iter().filter_map(|c| c.cost.clone().ok()).collect();
            costs.dedup();
            costs.retain(|c| own.is_none_or(|p| n > 0 || *c != p.cost));
            for cost in costs.into_iter().take(if n == 0 { 3 } else { 1 }) {
                out.push(price(format!("{whose}: another form, caching {caches}"), cost));
            }
        }
    }
    out
}

/// A fold's other form: one kernel where it is cut into parts, parts where it is one kernel.
fn instead(fused: &Fused, group: &Group, facts: &Facts) -> Option<Price> {
    let choice = parts::consider(&fused.terms, &fused.values, &group.values, facts)?;
    let Choice { whole, parts, size, folds } = choice;
    let (name, whose, slots) = (&group.name, tokens(facts.role), facts.machine.slots);
    let many = format!("{folds} folds for {slots} items at once");
    Some(match group.parts {
        Some(size) => price(format!("{whose}: instead of parts of {size}, one kernel `{name}`: {many}"), whole),
        None => price(format!("{whose}: instead of one kernel `{name}`, parts of {size}: {many}"), parts),
    })
}

/// The tokens that a role's costs are for.
fn tokens(role: Role) -> String {
    let lengths = role.lengths();
    match role {
        Role::Prefill => format!("{} tokens of a prompt", lengths.rows),
        Role::Decode => format!("a generated token after {}", lengths.keys),
    }
}

/// Why a value is stored, a sentence for each reader.
pub fn reasons(fused: &Fused, number: u32, sources: &SourceMap) -> Vec<Reason> {
    let value = &fused.values[number as usize];
    let here = value.demands.iter().any(|d| d.why == Why::OtherToken);
    let demands = value.demands.iter().filter(|d| d.why != Why::Role || !here);
    let mut out: Vec<Reason> = demands.map(|d| reason(fused, value, d, sources)).collect();
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
    if !cached {
        let sentence = format!("`{}` is not cached: no other token reads it", value.name);
        out.push(Reason { sentence, place: None });
    }
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
    let _ = match check_kernels(block) {
        Ok(n) => writeln!(out, "  checked: {n} claims of its kernels"),
        Err(e) => writeln!(out, "  NOT ALL HOLDS: {e}"),
    };
    out
}
