//! The optimizer's heart: a block's normal form, every form that the laws say is equal, and the cheapest of them.

pub mod cost;
pub mod extract;
pub mod form;
pub mod node;
pub mod saturate;
#[cfg(test)]
mod tests;

use crate::normal::build::normalise_by;
use crate::normal::text::print;
use crate::normal::verify::verify;
use crate::normal::{TermId, Terms};
use crate::rules::{Law, Laws};
use egg::{EGraph, Id};
use extract::{Choice, People, extract, rebuild};
use indexmap::IndexMap;
use llmc_frontend::graph::{AxisTable, Block};
use node::{Algebra, Facts, insert};
use saturate::{Saturation, commuted, saturate};
use std::fmt::Write;

/// What is known of a block beside its graph.
#[derive(Clone, Debug, Default)]
pub struct BlockFacts {
    /// For every weight slot, whether its format is quantised: such a weight is never changed.
    pub quantised: Vec<bool>,
    /// The laws that may be applied.
    pub laws: Laws,
}

/// An optimized block.
pub struct Optimized {
    /// The terms that were chosen.
    pub terms: Terms,
    /// What the block hands on, in its order.
    pub roots: Vec<(String, TermId)>,
    /// The normal form it was made from.
    pub normal: (Terms, Vec<(String, TermId)>),
    /// How saturation went.
    pub saturation: Saturation,
    /// The cost of what was chosen, in multiplications.
    pub cost: f64,
    egraph: Algebra,
    choice: Choice,
    classes: Vec<Id>,
}

/// Optimizes a block: normal form, laws to a fixed point, the cheapest form.
///
/// # Panics
/// When a stage breaks an invariant of the terms.
pub fn optimize(block: &Block, axes: &AxisTable, facts: &BlockFacts) -> Optimized {
    // Chains of statements make terms as deep as the text is long: recursion gets room for them.
    std::thread::scope(|scope| {
        let run = std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn_scoped(scope, || optimize_here(block, axes, facts))
            .expect("the optimizer's thread starts");
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn optimize_here(block: &Block, axes: &AxisTable, facts: &BlockFacts) -> Optimized {
    let (mut normal, named) = normalise_by(block, axes, facts.laws, false);
    let ids: Vec<_> = named.iter().map(|(_, id)| *id).collect();
    verify(&normal, &ids).unwrap_or_else(|e| panic!("normalise: {e}"));
    let commuted = commuted(&mut normal, &ids);
    let mut egraph: Algebra = EGraph::new(Facts { terms: normal.clone(), quantised: facts.quantised.clone() });
    let mut done = IndexMap::new();
    let mut classes: Vec<Id> = ids.iter().map(|id| insert(&mut egraph, &normal, *id, &mut done)).collect();
    let mut joined = 0;
    for (before, after) in commuted {
        let (a, b) = (insert(&mut egraph, &normal, before, &mut done), insert(&mut egraph, &normal, after, &mut done));
        joined += u64::from(egraph.union(a, b));
    }
    let mut saturation = saturate(&mut egraph);
    (0..joined).for_each(|_| saturation.trace.count(Law::Commute));
    for class in &mut classes {
        *class = egraph.find(*class);
    }
    let (choice, cost) = extract(&egraph, &classes);
    let mut people = People::new();
    for (term, class) in &done {
        if let Some(name) = &normal.info(*term).name {
            people.entry(egraph.find(*class)).or_insert_with(|| name.clone());
        }
    }
    let (mut terms, roots) = rebuild(&egraph, &choice, &people, &classes);
    verify(&terms, &roots).unwrap_or_else(|e| panic!("extract: {e}"));
    name_like(&mut terms, &roots, &named);
    let roots = named.iter().zip(roots).map(|((name, _), id)| (name.clone(), id)).collect();
    Optimized { terms, roots, normal: (normal, named), saturation, cost, egraph, choice, classes }
}

fn name_like(terms: &mut Terms, roots: &[TermId], named: &[(String, TermId)]) {
    for (id, (name, _)) in roots.iter().zip(named) {
        if !terms.operands(*id).is_empty() {
            terms.set_name(*id, name);
        }
    }
}

impl Optimized {
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
            "\n# {} nodes in {} classes after {} rounds, {}; {} classes chosen, {:.3e} multiplications",
            s.nodes,
            s.classes,
            s.rounds,
            if s.saturated { "saturated" } else { "a limit was reached" },
            extract::order(&self.egraph, &self.choice, &self.classes).map_or(0, |o| o.len()),
            self.cost
        );
        for law in crate::rules::Law::ALL {
            let fired = s.trace.fired(*law) + self.normal.0.trace.fired(*law);
            if fired > 0 {
                let _ = writeln!(out, "# {:10} {fired:4}  {}", law.name(), law.equation());
            }
        }
        out
    }
}
