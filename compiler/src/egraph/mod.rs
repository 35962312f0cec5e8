//! The optimizer's heart: a block's normal form, every form that the laws say is equal, and the cheapest of them: first
//! which values are cached, once for both roles, then for each role the best forms that read nothing else.

pub mod alike;
pub mod caches;
#[cfg(test)]
mod careless;
pub mod cost;
pub mod extract;
pub mod form;
pub mod node;
pub mod proof;
mod reads;
pub mod rebuild;
pub mod saturate;
pub mod show;
#[cfg(test)]
mod tests;

use crate::cost::{Machine, Role};
use crate::normal::build::normalise_by;
use crate::normal::text::{expression, print};
use crate::normal::verify::verify;
use crate::normal::{TermId, Terms};
use crate::rules::{Law, Laws};
use alike::{Renamings, alike};
use caches::{CacheSet, Choosing};
use cost::{Bases, Prices, Subject};
use egg::{EGraph, Id};
use extract::{Choice, Form, order};
use indexmap::IndexMap;
use llmc_frontend::graph::{AxisTable, Block};
use node::{Algebra, Facts, insert};
use reads::{looked, same_reads};
use rebuild::{People, rebuild_caching};
use saturate::{NODE_LIMIT, Saturation, commuted, saturate};
use std::fmt::Write;

/// Forms of each role that the extraction hands on: grouping costs each of them whole.
const FORMS: usize = 4;

/// Nodes with which the law `Look` may make a block saturate.
const LOOK_LIMIT: usize = 12_000;

/// What is known of a block beside its graph.
#[derive(Clone, Debug, Default)]
pub struct BlockFacts {
    /// For every weight slot, whether its format is quantised: such a weight is never changed.
    pub quantised: Vec<bool>,
    /// The laws that may be applied.
    pub laws: Laws,
}

/// What a block is costed by.
#[derive(Clone, Debug, Default)]
pub struct Costing {
    /// The roofline.
    pub machine: Machine,
    /// Bytes of an element of each weight slot; slots beyond the list hold plain f32.
    pub weight_bytes: Vec<f64>,
}

/// An optimized block.
pub struct Optimized {
    /// The terms of the cheapest set's cheapest form for prompts.
    pub terms: Terms,
    /// What the block hands on, in its order.
    pub roots: Vec<(String, TermId)>,
    /// The normal form it was made from.
    pub normal: (Terms, Vec<(String, TermId)>),
    /// How saturation went.
    pub saturation: Saturation,
    /// The cost of what was chosen, in seconds.
    pub cost: f64,
    /// The sets of cached values that were considered, cheapest first.
    pub sets: Vec<CacheSet>,
    egraph: Algebra,
    prices: [Prices; 2],
    people: People,
    choice: Choice,
    classes: Vec<Id>,
}

/// A form as terms.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The arena.
    pub terms: Terms,
    /// What the block hands on, in its order.
    pub roots: Vec<(String, TermId)>,
    /// What is cached, in the set's order.
    pub caches: Vec<TermId>,
    /// Seconds, by the estimate that ranks forms.
    pub seconds: f64,
}

/// Optimizes a block: normal form, laws to a fixed point, the cheapest forms on the generic machine.
///
/// # Panics
/// When a stage breaks an invariant of the terms.
pub fn optimize(block: &Block, axes: &AxisTable, facts: &BlockFacts) -> Optimized {
    optimize_for(block, axes, facts, &Costing::default())
}

/// As [`optimize`], costed by a machine.
///
/// # Panics
/// When a stage breaks an invariant of the terms.
pub fn optimize_for(block: &Block, axes: &AxisTable, facts: &BlockFacts, costing: &Costing) -> Optimized {
    // Chains of statements make terms as deep as the text is long: recursion gets room for them.
    std::thread::scope(|scope| {
        let run = std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn_scoped(scope, || optimize_here(block, axes, facts, costing))
            .expect("the optimizer's thread starts");
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn optimize_here(block: &Block, axes: &AxisTable, facts: &BlockFacts, costing: &Costing) -> Optimized {
    let (mut normal, named) = normalise_by(block, axes, facts.laws, false);
    let ids: Vec<_> = named.iter().map(|(_, id)| *id).collect();
    verify(&normal, &ids).unwrap_or_else(|e| panic!("normalise: {e}"));
    let Grown { egraph, done, classes, bases, renamings, saturation } = grow(&mut normal, &ids, facts);
    let prices = Role::ALL.map(|role| Prices::of(&egraph, &subject(facts, costing, role), &bases, &renamings));
    let roots: Vec<_> = classes.iter().map(|c| prices[0].number(&egraph, *c)).collect();
    let sets = Choosing { prices: &prices, roots: &roots, forms: FORMS, machine: &costing.machine }.sets();
    let mut people = People::new();
    for (term, class) in &done {
        let info = normal.info(*term);
        let (name, place) = people.entry(egraph.find(*class)).or_default();
        *name = name.take().or_else(|| info.name.clone());
        *place = place.or(info.place);
    }
    for (class, renaming) in &renamings {
        if let Some(name) = people.get(class).cloned() {
            people.entry(renaming.children[0]).or_insert(name);
        }
    }
    let best = &sets[0].forms[0][0];
    let (terms, cost, choice) = (normal.emptied(), best.seconds, best.plain(&prices[0]));
    let normal = (normal, named);
    let mut optimized =
        Optimized { terms, roots: vec![], normal, saturation, cost, sets, egraph, prices, people, choice, classes };
    let chosen = optimized.form(0, Role::Prefill, 0);
    (optimized.terms, optimized.roots) = (chosen.terms, chosen.roots);
    optimized
}

/// A block's e-graph after saturation.
struct Grown {
    egraph: Algebra,
    done: IndexMap<TermId, Id>,
    classes: Vec<Id>,
    bases: Bases,
    renamings: Renamings,
    saturation: Saturation,
}

/// Every form of a block. Where smaller reads make a block so large that it does not saturate, it is left with those of
/// normal form.
fn grow(normal: &mut Terms, ids: &[TermId], facts: &BlockFacts) -> Grown {
    let commuted: Vec<_> = commuted(normal, ids).into_iter().map(|p| (Law::Commute, p)).collect();
    let looked: Vec<_> = looked(normal, ids).into_iter().map(|p| (Law::Look, p)).collect();
    if !looked.is_empty() {
        let pairs: Vec<_> = commuted.iter().chain(&looked).copied().collect();
        let grown = grow_from(normal, ids, facts, &pairs, LOOK_LIMIT);
        if grown.saturation.saturated {
            return grown;
        }
    }
    grow_from(normal, ids, facts, &commuted, NODE_LIMIT)
}

/// The e-graph of a block and of pairs of terms that laws say are equal, up to so many nodes.
fn grow_from(
    normal: &mut Terms,
    ids: &[TermId],
    facts: &BlockFacts,
    pairs: &[(Law, (TermId, TermId))],
    limit: usize,
) -> Grown {
    let sides = pairs.iter().flat_map(|(_, (a, b))| [*a, *b]);
    let same = same_reads(normal, ids.iter().copied().chain(sides));
    let mut egraph: Algebra = EGraph::new(Facts { terms: normal.clone(), quantised: facts.quantised.clone() });
    let mut done = IndexMap::new();
    let mut classes: Vec<Id> = ids.iter().map(|id| insert(&mut egraph, normal, *id, &mut done)).collect();
    let mut joins = Vec::new();
    for (law, (before, after)) in pairs {
        let sides = [*before, *after].map(|x| insert(&mut egraph, normal, x, &mut done));
        let [a, b] = sides.map(|x| egraph[x].nodes[0].clone());
        if egraph.union(sides[0], sides[1]) {
            joins.push((*law, a, b));
        }
    }
    let mut saturation = saturate(&mut egraph, limit);
    joins.iter().for_each(|(law, ..)| saturation.trace.count(*law));
    saturation.joins.extend(joins);
    let bases = same.into_iter().map(|(of, base)| (egraph.find(done[&of]), egraph.find(done[&base]))).collect();
    classes.iter_mut().for_each(|c| *c = egraph.find(*c));
    let renamings = alike(&mut egraph);
    Grown { egraph, done, classes, bases, renamings, saturation }
}

fn subject(facts: &BlockFacts, costing: &Costing, role: Role) -> Subject {
    let slots = facts.quantised.iter().enumerate();
    // Without a format, a quantised weight has five bits and scales.
    let bytes =
        |n: usize, quantised: bool| costing.weight_bytes.get(n).copied().unwrap_or(if quantised { 0.625 } else { 4.0 });
    let weights = slots.map(|(n, quantised)| (bytes(n, *quantised), *quantised)).collect();
    Subject { machine: costing.machine.clone(), role, weights }
}

fn name_like(terms: &mut Terms, roots: &[TermId], named: &[(String, TermId)]) {
    for (id, (name, _)) in roots.iter().zip(named) {
        if !terms.operands(*id).is_empty() {
            terms.set_name(*id, name);
        }
    }
}

impl Optimized {
    /// A form of a role under a set of caches, both by number.
    ///
    /// # Panics
    /// When there is no such form.
    pub fn form(&self, set: usize, role: Role, number: usize) -> Extracted {
        let (set, prices) = (&self.sets[set], &self.prices[role as usize]);
        let form: &Form = &set.forms[role as usize][number];
        let choice = form.choice(prices);
        let values: Vec<Id> = set.values.iter().map(|v| prices.id(*v)).collect();
        let (mut terms, roots, caches) = rebuild_caching(&self.egraph, &choice, &self.people, &self.classes, &values);
        verify(&terms, &roots).unwrap_or_else(|e| panic!("extract: {e}"));
        name_like(&mut terms, &roots, &self.normal.1);
        let roots = self.normal.1.iter().zip(roots).map(|((name, _), id)| (name.clone(), id)).collect();
        Extracted { terms, roots, caches, seconds: form.seconds }
    }

    /// What a set's cached values are, as expressions.
    pub fn cached(&self, set: usize) -> Vec<String> {
        let form = self.form(set, Role::Prefill, 0);
        let shown = |id: &TermId| match &form.terms.info(*id).name {
            Some(name) => name.clone(),
            None => expression(&form.terms, *id),
        };
        form.caches.iter().map(shown).collect()
    }

    /// The normal form as text: `inspect --stage normal`.
    pub fn normal_text(&self) -> String {
        print(&self.normal.0, &self.normal.1)
    }

    /// What was chosen, what it costs, and which laws brought what: `inspect --stage egraph`.
    pub fn egraph_text(&self) -> String {
        let mut out = print(&self.terms, &self.roots);
        let s = &self.saturation;
        let _ = writeln!(
            out,
            "\n# {} nodes in {} classes after {} rounds, {}; {} classes chosen, {:.3e} s",
            s.nodes,
            s.classes,
            s.rounds,
            if s.saturated { "saturated" } else { "a limit was reached" },
            order(&self.egraph, &self.choice, &self.classes).map_or(0, |o| o.len()),
            self.cost
        );
        for n in 0..self.sets.len() {
            let (set, names) = (&self.sets[n], self.cached(n).join(", "));
            let _ = writeln!(out, "# caches {{{names}}}: {} bytes a token, {:.3e} s together", set.bytes, set.seconds);
        }
        for law in Law::ALL {
            let fired = s.trace.fired(*law) + self.normal.0.trace.fired(*law);
            if fired > 0 {
                let _ = writeln!(out, "# {:10} {fired:4}  {}", law.name(), law.equation());
            }
        }
        out
    }
}
