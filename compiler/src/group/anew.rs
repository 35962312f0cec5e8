//! Values that are made again for every token that the caches hold: keys of a cached latent.
//!
//! A loop over tokens may multiply what it reads with a weight: `sum[r](w * c[t = s])` differs from key to key and not from
//! row to row. Within the loop it would be multiplied for every pair; here it becomes a value of its own, over an axis of
//! every token of the batch's sequences, those of earlier steps too. It is made of what is cached and nothing else, so that
//! how a prompt is cut changes none of its bits, and it lies in a workspace: pages like a cache's that end with the step.

use super::leaves::{formulas, stored_leaf};
use super::value::Former;
use super::{Form, Unsupported, Why};
use crate::alpha;
use crate::causality::Sight;
use crate::normal::{Term, TermId, Terms};
use crate::stream;
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::BTreeSet;

/// The axis of every token among a stored value's axes, if it has one.
pub fn every_axis(terms: &Terms, axes: &Axes) -> Option<AxisId> {
    axes.iter().find(|a| is_every(terms, *a))
}

fn is_every(terms: &Terms, axis: AxisId) -> bool {
    terms.every.values().any(|e| *e == axis)
}

/// The stored value that a term reads at another token out of a workspace.
pub(super) fn read_again(terms: &Terms, id: TermId) -> Option<u32> {
    let Term::Index(x, at) = terms.term(id) else { return None };
    let Term::Stored(n) = terms.term(*x) else { return None };
    let elsewhere = |(a, i): &(AxisId, TermId)| is_every(terms, *a) && *terms.term(*i) != Term::Iota(*a);
    at.iter().any(elsewhere).then_some(*n)
}

impl Former<'_> {
    /// The view whose tokens a term is made again for: it looks at one token and no other, is a weight product or what becomes
    /// of one, and holds nothing of the loop at hand.
    pub(super) fn made_again(&mut self, id: TermId, keep: &[TermId]) -> Option<AxisId> {
        let free = self.terms.free(id).clone();
        let mut tokens = free.iter().filter(|a| self.terms.is_seq(*a));
        let (view, None) = (tokens.next()?, tokens.next()) else { return None };
        let looks = matches!(self.terms.axes[view].extent, Extent::View(_));
        if !looks || !self.terms.info(id).token_dependent || matches!(self.terms.term(id), Term::Read(..)) {
            return None;
        }
        if stream::holds(&self.terms, id, keep) || !self.reduces(id) {
            return None;
        }
        let term = self.at_every(id, view);
        let (term, _) = self.unbound(term);
        let parts = self.frontier(term);
        let products = !parts.is_empty() && parts.iter().all(|r| self.candidate(*r).is_some());
        let fits = products && !self.planning.contains(&term) && self.fits(term) && self.worth_storing(term);
        fits.then_some(view)
    }

    /// Stores a term for every token and reads it at the view.
    pub(super) fn load_again(&mut self, id: TermId, view: AxisId) -> Result<TermId, Unsupported> {
        let term = self.at_every(id, view);
        let (base, mut names) = self.unbound(term);
        let value = self.store(base)?;
        self.note_load(value);
        self.demand(value, Why::OtherToken, id);
        names.push((self.every(view), view));
        let leaf = self.terms.add(Term::Stored(value));
        Ok(alpha::rename(&mut self.terms, leaf, &names))
    }

    fn at_every(&mut self, id: TermId, view: AxisId) -> TermId {
        let every = self.every(view);
        alpha::rename(&mut self.terms, id, &[(view, every)])
    }

    /// The axis of every token of the sequence that a view looks at.
    fn every(&mut self, view: AxisId) -> AxisId {
        let own = self.terms.views[&view];
        let Extent::Seq(seq) = self.terms.axes[own].extent else { panic!("group: a view of what is no sequence") };
        if let Some(known) = self.terms.every.get(&seq) {
            return *known;
        }
        // No name of the text has a space in it.
        let name = format!("every {}", self.terms.axes[own].name);
        let axis = self.terms.axes.push(name, Extent::Seq(seq));
        self.terms.views.insert(axis, own);
        self.terms.every.insert(seq, axis);
        axis
    }

    /// Caches that a value over every token is made of, seen as far as its reader looks.
    pub(super) fn cached_for(&mut self, value: u32, sight: Sight) {
        let mut stack = vec![value];
        let mut seen = BTreeSet::new();
        while let Some(n) = stack.pop() {
            if !seen.insert(n) {
                continue;
            }
            for read in reads_of(&self.terms, formulas(&self.values[n as usize])) {
                let Term::Read(x, _) = *self.terms.term(read) else { unreachable!("only reads are found") };
                let (of, _) = stored_leaf(&self.terms, x);
                let (axes, ty) = self.terms.stored[of as usize].clone();
                let inner = axes.iter().filter(|a| !self.terms.is_seq(*a)).collect();
                let format = self.cache_format(ty);
                self.form_of(of, Form::Cache { outer: vec![], inner, keys_innermost: false, format, sight });
            }
            let made_again = |l: &u32| every_axis(&self.terms, &self.terms.stored[*l as usize].0).is_some();
            stack.extend(self.values[n as usize].loads.iter().filter(|l| made_again(l)));
        }
    }
}

/// Reads below some formulas, but not in the reductions that their loop takes.
fn reads_of(terms: &Terms, (mut stack, done): (Vec<TermId>, Vec<TermId>)) -> Vec<TermId> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(x) = stack.pop() {
        if !seen.insert(x) || done.contains(&x) {
            continue;
        }
        match terms.term(x) {
            Term::Read(..) => found.push(x),
            _ => stack.extend(terms.operands(x)),
        }
    }
    found
}
