//! What formulas are made of: weights and stored values behind renames, reads of other tokens, plain loads.

use super::anew::read_again;
use super::{Value, Work};
use crate::normal::{Term, TermId, Terms};
use llmc_frontend::graph::AxisId;
use std::collections::BTreeSet;

/// A weight slot behind pure renames: (slot, [(its axis, the name here)]).
pub(crate) fn weight_leaf(terms: &Terms, id: TermId) -> Option<(u32, Vec<(AxisId, AxisId)>)> {
    match terms.term(id) {
        Term::Weight(n) => Some((*n, vec![])),
        Term::Index(x, at) => {
            let Term::Weight(n) = terms.term(*x) else { return None };
            Some((*n, renames(terms, at)?))
        }
        _ => None,
    }
}

/// The weight slot that is read here, under any indices.
pub(crate) fn weight_below(terms: &Terms, id: TermId) -> Option<u32> {
    match terms.term(id) {
        Term::Weight(n) => Some(*n),
        Term::Index(x, _) => weight_below(terms, *x),
        _ => None,
    }
}

/// The stored value behind pure renames.
///
/// # Panics
/// When the term is something else: reads of stored values are made by this stage.
pub(crate) fn stored_leaf(terms: &Terms, id: TermId) -> (u32, Vec<(AxisId, AxisId)>) {
    let (leaf, names) = match terms.term(id) {
        Term::Index(x, at) => (*x, renames(terms, at).expect("group: a stored value is read under renames")),
        _ => (id, vec![]),
    };
    match terms.term(leaf) {
        Term::Stored(n) => (*n, names),
        other => panic!("group: {other:?} is no stored value"),
    }
}

fn renames(terms: &Terms, at: &[(AxisId, TermId)]) -> Option<Vec<(AxisId, AxisId)>> {
    at.iter()
        .map(|(a, i)| match terms.term(*i) {
            Term::Iota(b) => Some((*a, *b)),
            _ => None,
        })
        .collect()
}

/// Reads of other tokens below a loop's body but not in its own earlier results, each with the dot that it is in.
pub(super) fn reads(terms: &Terms, body: TermId, keep: &[TermId], dots: &[TermId]) -> Vec<(TermId, Option<TermId>)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![(body, None)];
    while let Some((x, within)) = stack.pop() {
        if keep.contains(&x) || !seen.insert((x, within)) {
            continue;
        }
        if matches!(terms.term(x), Term::Read(..)) || read_again(terms, x).is_some() {
            found.push((x, within));
            continue;
        }
        let within = if dots.contains(&x) { Some(x) } else { within };
        stack.extend(terms.operands(x).into_iter().map(|y| (y, within)));
    }
    found.sort_unstable();
    found
}

/// Stored values that a value's formula reads as plain numbers: everything but its activation and what it reads at
/// other tokens.
pub(super) fn plain_loads(terms: &Terms, value: &Value) -> BTreeSet<u32> {
    let (mut roots, done) = formulas(value);
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some(x) = roots.pop() {
        if !seen.insert(x) || done.contains(&x) {
            continue;
        }
        match terms.term(x) {
            Term::Stored(n) => {
                found.insert(*n);
            }
            Term::Read(..) => {}
            _ if read_again(terms, x).is_some() => {}
            _ => roots.extend(terms.operands(x)),
        }
    }
    found
}

/// What a value's kernel evaluates for it, and the reductions that its loop takes: in formulas they are results.
pub(super) fn formulas(value: &Value) -> (Vec<TermId>, Vec<TermId>) {
    let (mut roots, mut done) = (vec![value.term], vec![]);
    match &value.work {
        Work::Map | Work::TopK => {}
        Work::Contract(c) => {
            roots.extend(c.stats.iter().map(|s| s.1));
            done.extend(c.products.iter().map(|p| p.term).chain(c.stats.iter().map(|s| s.0)));
        }
        Work::Stream(f) => {
            for s in &f.stream.states {
                roots.push(s.body);
                roots.extend(s.repair.moving());
                done.push(s.source);
            }
        }
    }
    (roots, done)
}
