//! Weight products that loops contract for themselves.
//!
//! A product whose every use lies in one fold over its own output axis is contracted at every step of the fold, and the
//! tensor of all of them is never stored: the logits of a loss.

use super::value::{Candidate, Former};
use crate::normal::{Term, TermId};
use crate::{alpha, causality, stream};
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::{BTreeSet, HashMap};

impl Former<'_> {
    /// Notes who uses each product of a plain weight, and gives the roots in which no other use of a product that loops
    /// contract stands in the way: one that is read at an index is a row of the weight times the activation.
    pub(super) fn users_of_products(&mut self, roots: &[TermId]) -> Vec<TermId> {
        let picked = self.note_users(roots);
        let looped = |p: &TermId| self.users[p].as_ref().is_some_and(|users| !users.is_empty());
        let picked: BTreeSet<_> = picked.into_iter().filter(looped).collect();
        let mut by = HashMap::new();
        for x in causality::reachable(&self.terms, roots) {
            if let Term::Index(p, at) = self.terms.term(x).clone()
                && picked.contains(&p)
                && let Some(row) = self.row_of(p, &at)
            {
                by.insert(x, row);
            }
        }
        roots.iter().map(|r| alpha::replace(&mut self.terms, *r, &by)).collect()
    }

    /// `sum(weight * activation)[a = i]` with the index inside.
    fn row_of(&mut self, p: TermId, at: &[(AxisId, TermId)]) -> Option<TermId> {
        let Term::Sum(bound, factors) = self.terms.term(p).clone() else { return None };
        let free = at.iter().any(|(_, i)| !self.terms.free(*i).intersect(&bound).is_empty());
        if free {
            return None;
        }
        let factors: Vec<_> = factors.iter().map(|f| alpha::substitute(&mut self.terms, *f, at)).collect();
        Some(alpha::sum(&mut self.terms, bound, factors))
    }

    /// Whether a term is used, and only as what an index reads that each token has of its own: a fixed rearrangement is
    /// an epilogue of the product.
    fn is_picked(&self, p: TermId, all: &[TermId], roots: &[TermId]) -> bool {
        let users: Vec<_> = all.iter().filter(|x| self.terms.operands(**x).contains(&p)).collect();
        let own = |i: &TermId| *i != p && self.terms.info(*i).token_dependent;
        let index = |x: &&TermId| matches!(self.terms.term(**x), Term::Index(y, at) if *y == p && at.iter().all(|(_, i)| own(i)));
        !roots.contains(&p) && !users.is_empty() && users.iter().all(index)
    }

    /// Fills [`Former::users`]; gives the products that are read at an index, which counts as no use.
    fn note_users(&mut self, roots: &[TermId]) -> Vec<TermId> {
        let all = causality::reachable(&self.terms, roots);
        let mut loops: Vec<(TermId, Axes, BTreeSet<TermId>)> = Vec::new();
        for r in &all {
            let Some((_, bound)) = alpha::reduction(&self.terms, *r) else { continue };
            if bound.iter().all(|a| self.terms.axes.len_of(a).is_some()) && !self.terms.info(*r).weight_only {
                let inside = causality::reachable(&self.terms, &self.terms.operands(*r)).into_iter().collect();
                loops.push((*r, bound, inside));
            }
        }
        let mut picked = Vec::new();
        for p in all.iter().copied() {
            let plain = |c: Candidate| (!c.format.is_quantised()).then_some(c.term);
            let Some((_, names)) = alpha::reduction(&self.terms, p).map(|_| self.unbound(p)) else { continue };
            let (base, _) = self.unbound(p);
            let Some(base) = self.candidate(base).and_then(plain) else { continue };
            let looped = |(r, bound, inside): &(TermId, Axes, BTreeSet<TermId>)| {
                (names.iter().any(|(_, here)| bound.contains(*here)) && inside.contains(&p)).then_some(*r)
            };
            let here: BTreeSet<_> = loops.iter().filter_map(looped).collect();
            let folds = !here.is_empty() && here.iter().all(|r| self.candidate(*r).is_none());
            if here.is_empty() && p == base && self.is_picked(p, &all, roots) {
                self.users.entry(base).or_insert_with(|| Some(BTreeSet::new()));
                picked.push(base);
                continue;
            }
            let entry = self.users.entry(base).or_insert_with(|| Some(BTreeSet::new()));
            match entry {
                Some(users) if folds => users.extend(here),
                Some(_) | None => *entry = None,
            }
        }
        picked
    }

    /// `sum[r](w * f) * g` as `sum[r](w * (f * g))` where `f` and `g` end one loop over tokens: apart, each of them would take
    /// that loop again for the scores that both need.
    pub(super) fn scaled_within(&mut self, term: TermId) -> TermId {
        let Term::Sum(none, factors) = self.terms.term(term).clone() else { return term };
        if !none.is_empty() {
            return term;
        }
        for sum in &factors {
            let Term::Sum(bound, inner) = self.terms.term(*sum).clone() else { continue };
            let constant = bound.iter().all(|a| self.terms.axes.len_of(a).is_some());
            let once = factors.iter().filter(|f| *f == sum).count() == 1;
            let scores: BTreeSet<_> = inner.iter().flat_map(|f| self.scores(*f)).collect();
            if bound.is_empty() || !constant || !once || scores.is_empty() {
                continue;
            }
            let (mut scales, mut rest) = (Vec::new(), Vec::new());
            for g in factors.iter().copied().filter(|g| g != sum) {
                let outside = self.terms.free(g).intersect(&bound).is_empty();
                let joins = outside && !self.scores(g).is_disjoint(&scores);
                if joins { scales.push(g) } else { rest.push(g) }
            }
            if scales.is_empty() {
                continue;
            }
            rest.push(alpha::sum(&mut self.terms, bound, inner.into_iter().chain(scales)));
            return alpha::product(&mut self.terms, rest);
        }
        term
    }

    /// What the loops over tokens that end in a term contract for every pair.
    fn scores(&mut self, id: TermId) -> BTreeSet<TermId> {
        let mut found = BTreeSet::new();
        for r in self.frontier(id) {
            let Some((_, bound)) = stream::behind(&self.terms, r).and_then(|r| alpha::reduction(&self.terms, r)) else {
                continue;
            };
            let views: Axes = bound.iter().filter(|a| self.terms.is_seq(*a)).collect();
            let inside = |x: &TermId| !self.terms.free(*x).intersect(&views).is_empty();
            let scores = causality::reachable(&self.terms, &[r]).into_iter().filter(inside);
            found.extend(scores.filter(|x| alpha::reduction(&self.terms, *x).is_some()));
        }
        found
    }

    /// Products that these reductions use and nobody else: contracted in their loop at every step, the tensor of all of
    /// them is never stored.
    pub(super) fn products_of(&self, folded: &BTreeSet<TermId>) -> BTreeSet<TermId> {
        let here = |users: &BTreeSet<TermId>| !users.is_empty() && users.is_subset(folded);
        let own =
            self.users.iter().filter(|(p, users)| users.as_ref().is_some_and(here) && !self.number.contains_key(*p));
        own.map(|(p, _)| *p).collect()
    }
}
