//! A value's formula over stored values: what is loaded and what is recomputed.

use super::value::Former;
use super::{Unsupported, Why, Work};
use crate::alpha;
use crate::normal::{Term, TermId};
use crate::stream;
use llmc_artifact::Type;
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::{BTreeSet, HashMap};

/// Terms already resolved for one formula.
type Memo = HashMap<TermId, TermId>;

impl Former<'_> {
    /// Rewrites a formula: `keep` are the loop's own reductions, every other reduction becomes a load.
    pub(super) fn resolve(&mut self, term: TermId, keep: &[TermId]) -> Result<TermId, Unsupported> {
        self.visit(term, keep, &mut Memo::new())
    }

    fn visit(&mut self, id: TermId, keep: &[TermId], memo: &mut Memo) -> Result<TermId, Unsupported> {
        if keep.contains(&id) || self.terms.info(id).weight_only {
            return Ok(id);
        }
        if let Some(done) = memo.get(&id) {
            return Ok(*done);
        }
        if let Some(view) = self.made_again(id, keep) {
            let new = self.load_again(id, view)?;
            memo.insert(id, new);
            return Ok(new);
        }
        let whole = self.is_foreign(id, keep) && self.fits(id) && self.worth_storing(id);
        let new = if whole && !self.is_contracted_here(id) {
            self.load(id, Why::Loop, id)?
        } else {
            self.rebuild(id, keep, memo)?
        };
        memo.insert(id, new);
        Ok(new)
    }

    /// What a search looks through: it evaluates each element once, so that what is pointwise over stored values takes no
    /// kernel of its own.
    pub(super) fn searched(&mut self, id: TermId) -> Result<TermId, Unsupported> {
        let (base, names) = self.unbound(id);
        if !self.number.contains_key(&base) && self.is_foreign(base, &[]) {
            let (loads, demands) = (self.loads.last().cloned(), self.demands.len());
            self.inline.push(base);
            let planned = self.plan(base);
            self.inline.pop();
            if let Ok((Work::Map, resolved)) = planned {
                return Ok(alpha::rename(&mut self.terms, resolved, &names));
            }
            if let (Some(now), Some(loads)) = (self.loads.last_mut(), loads) {
                *now = loads;
            }
            self.demands.truncate(demands);
        }
        self.resolve(id, &[])
    }

    /// Whether a term holds a product that is contracted in the loop at hand.
    fn is_contracted_here(&mut self, id: TermId) -> bool {
        if self.contracted.is_empty() {
            return false;
        }
        let parts = crate::causality::reachable(&self.terms, &[id]);
        parts.into_iter().any(|x| {
            alpha::reduction(&self.terms, x).is_some() && {
                let (base, _) = self.unbound(x);
                self.contracted.contains(&base)
            }
        })
    }

    fn all(&mut self, xs: &[TermId], keep: &[TermId], memo: &mut Memo) -> Result<Vec<TermId>, Unsupported> {
        xs.iter().map(|x| self.visit(*x, keep, memo)).collect()
    }

    fn rebuild(&mut self, id: TermId, keep: &[TermId], memo: &mut Memo) -> Result<TermId, Unsupported> {
        match self.terms.term(id).clone() {
            Term::Const(_) | Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => {
                Ok(id)
            }
            Term::Sum(bound, xs) => {
                if !bound.is_empty() && self.terms.info(id).ty != Type::Real {
                    return Err(self.no_family(id));
                }
                let xs = self.operands(&xs, keep, memo, alpha::product)?;
                Ok(alpha::sum(&mut self.terms, bound, xs))
            }
            Term::Plus(xs) => {
                let xs = self.operands(&xs, keep, memo, alpha::plus)?;
                Ok(alpha::plus(&mut self.terms, xs))
            }
            Term::Map(op, xs) => {
                let xs = self.all(&xs, keep, memo)?;
                Ok(self.terms.add(Term::Map(op, xs)))
            }
            Term::Index(x, at) => {
                if let Some((t, _)) = at.iter().find(|(a, _)| self.terms.is_seq(*a)) {
                    let name = &self.terms.axes[*t].name;
                    return Err(Unsupported(format!("a token of {name} is read at an index: not supported yet")));
                }
                let x = self.visit(x, keep, memo)?;
                let indices: Vec<_> = at.iter().map(|(_, i)| *i).collect();
                let indices = self.all(&indices, keep, memo)?;
                let at: Vec<_> = at.iter().map(|(a, _)| *a).zip(indices).collect();
                if keep.contains(&x) {
                    return Ok(self.terms.add(Term::Index(x, at)));
                }
                Ok(alpha::substitute(&mut self.terms, x, &at))
            }
            Term::Read(x, view) => {
                let x = self.load(x, Why::OtherToken, id)?;
                Ok(self.terms.add(Term::Read(x, view)))
            }
            Term::Reduce(..) | Term::TopK(..) => Err(self.no_family(id)),
        }
    }

    fn no_family(&self, id: TermId) -> Unsupported {
        Unsupported(format!("{} is searched or reduced for every pair of tokens: no kernel does that", self.shown(id)))
    }

    /// Operands of an n-ary term: those that hold foreign reductions are loaded together where a stored value covers
    /// several, or where together they are no larger than one of them.
    fn operands(
        &mut self,
        xs: &[TermId],
        keep: &[TermId],
        memo: &mut Memo,
        join: fn(&mut crate::normal::Terms, Vec<TermId>) -> TermId,
    ) -> Result<Vec<TermId>, Unsupported> {
        let whole = |s: &Self, x: TermId| !s.looks(x) && !stream::holds(&s.terms, x, keep);
        let (mut rest, own): (Vec<_>, Vec<_>) = xs.iter().partition(|x| whole(self, **x));
        let mut out = self.all(&own, keep, memo)?;
        while let Some(value) = self.cover(&rest, join) {
            let meaning = self.values[value as usize].meaning;
            let covered = if rest.contains(&meaning) { vec![meaning] } else { self.terms.operands(meaning) };
            for c in covered {
                let at = rest.iter().position(|x| *x == c).expect("group: a cover is part of what it covers");
                rest.remove(at);
            }
            out.push(self.load(meaning, Why::Loop, meaning)?);
        }
        // All of them, or else those that reduce: a weight between them is multiplied with where they are read.
        let reducing: Vec<_> = rest.iter().copied().filter(|x| self.reduces(*x)).collect();
        for parts in [rest.clone(), reducing] {
            if let Some(together) = self.together(&parts, join) {
                parts.iter().for_each(|x| {
                    let at = rest.iter().position(|y| y == x).expect("group: they are among the operands");
                    rest.remove(at);
                });
                out.push(self.load(together, Why::Loop, together)?);
                break;
            }
        }
        out.extend(self.all(&rest, keep, memo)?);
        Ok(out)
    }

    /// Several operands as one value, where that is no larger than one of their reductions.
    fn together(
        &mut self,
        parts: &[TermId],
        join: fn(&mut crate::normal::Terms, Vec<TermId>) -> TermId,
    ) -> Option<TermId> {
        let apart = parts.len() < 2 || !parts.iter().any(|x| self.reduces(*x));
        if apart || parts.iter().any(|x| self.is_contracted_here(*x)) {
            return None;
        }
        let together = join(&mut self.terms, parts.to_vec());
        (self.fits(together) && self.worth_storing(together)).then_some(together)
    }

    /// Whether a term is stored as it is, rather than what it is made of: not a square, nor a product with something
    /// that every reader can multiply with as well, nor a few operations on what a search found, which has no epilogue.
    pub(super) fn worth_storing(&mut self, id: TermId) -> bool {
        let search = |s: &Self, x: TermId| matches!(s.terms.term(x), Term::TopK(..));
        let parts = self.frontier(id);
        if !search(self, id) && !parts.is_empty() && parts.into_iter().all(|r| search(self, r)) {
            return false;
        }
        let Term::Sum(bound, xs) = self.terms.term(id).clone() else { return true };
        if !bound.is_empty() {
            return true;
        }
        let distinct: BTreeSet<_> = xs.iter().copied().collect();
        let (reducing, others): (Vec<_>, Vec<_>) = distinct.iter().copied().partition(|x| self.reduces(*x));
        let literals = others.iter().all(|x| matches!(self.terms.term(*x), Term::Const(_)));
        reducing.len() > 1 || distinct.len() == xs.len() && literals
    }

    /// The largest stored value that is made of some of these operands and of a reduction.
    fn cover(&mut self, rest: &[TermId], join: fn(&mut crate::normal::Terms, Vec<TermId>) -> TermId) -> Option<u32> {
        let mut best: Option<(usize, u32)> = None;
        for n in 0..self.values.len() as u32 {
            let meaning = self.values[n as usize].meaning;
            if !self.reduces(meaning) {
                continue;
            }
            let size = if rest.contains(&meaning) {
                1
            } else {
                let parts = self.terms.operands(meaning);
                if !is_part(&parts, rest) || join(&mut self.terms, parts.clone()) != meaning {
                    continue;
                }
                parts.len()
            };
            if best.is_none_or(|(s, _)| size > s) {
                best = Some((size, n));
            }
        }
        best.map(|(_, n)| n)
    }

    /// A term with a reduction of another loop in it, the same for every token that looks.
    fn is_foreign(&mut self, id: TermId, keep: &[TermId]) -> bool {
        self.reduces(id) && !self.looks(id) && !stream::holds(&self.terms, id, keep)
    }

    /// Whether a view of a sequence is free: the term differs from token to token that is looked at.
    fn looks(&self, id: TermId) -> bool {
        self.terms.free(id).iter().any(|a| matches!(self.terms.axes[a].extent, Extent::View(_)))
    }

    /// Whether storing the term takes no more than storing one of its reductions.
    pub(super) fn fits(&mut self, id: TermId) -> bool {
        if self.planning.contains(&id) || self.inline.contains(&id) {
            return false;
        }
        if let Term::Index(x, _) = self.terms.term(id) {
            // An index of a reduction: the reduction is stored, and read at the index. So is a weight read at one: no copy
            // of what is read, such as a token's experts, is ever made.
            let x = *x;
            return self.reduces(x) && alpha::reduction(&self.terms, x).is_none();
        }
        let free = self.terms.free(id).clone();
        self.frontier(id).into_iter().any(|r| free.is_subset(self.terms.free(r)))
    }

    /// Stores a term under the model's own axes and reads it here; `at` is what demands it.
    pub(super) fn load(&mut self, id: TermId, why: Why, at: TermId) -> Result<TermId, Unsupported> {
        let (base, names) = self.unbound(id);
        let value = self.store(base)?;
        self.note_load(value);
        self.demand(value, why, at);
        let leaf = self.terms.add(Term::Stored(value));
        Ok(alpha::rename(&mut self.terms, leaf, &names))
    }

    /// A term with bound axes renamed to the model's own, and how: (the model's axis, the axis here).
    pub(super) fn unbound(&mut self, id: TermId) -> (TermId, Vec<(AxisId, AxisId)>) {
        let free = self.terms.free(id).clone();
        let mut names: Vec<(AxisId, AxisId)> = Vec::new();
        for a in free.iter() {
            let own = alpha::origin(&self.terms, a);
            let view = matches!(self.terms.axes[a].extent, Extent::View(_));
            if own != a && !view && !free.contains(own) && names.iter().all(|(o, _)| *o != own) {
                names.push((own, a));
            }
        }
        let back: Vec<_> = names.iter().map(|(own, a)| (*a, *own)).collect();
        (alpha::rename(&mut self.terms, id, &back), names)
    }

    // ---- reductions in a formula -----------------------------------------------------------------------

    /// Whether a term has a reduction in it that is not of weights alone.
    pub(super) fn reduces(&mut self, id: TermId) -> bool {
        if self.terms.info(id).weight_only {
            return false;
        }
        if let Some(known) = self.reducing.get(&id) {
            return *known;
        }
        let found = alpha::reduction(&self.terms, id).is_some()
            || matches!(self.terms.term(id), Term::TopK(..))
            || self.terms.operands(id).into_iter().any(|x| self.reduces(x));
        self.reducing.insert(id, found);
        found
    }

    /// The outermost reductions of a formula, joined with constants where they are.
    pub(super) fn frontier(&mut self, id: TermId) -> Vec<TermId> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut stack = vec![id];
        while let Some(x) = stack.pop() {
            // What another token has is read, not reduced here.
            if !seen.insert(x) || !self.reduces(x) || matches!(self.terms.term(x), Term::Read(..)) {
                continue;
            }
            if stream::behind(&self.terms, x).is_some() || matches!(self.terms.term(x), Term::TopK(..)) {
                found.insert(x);
            } else {
                stack.extend(self.terms.operands(x));
            }
        }
        found.into_iter().collect()
    }

    /// How many kernels stand before a term's value, one after another, at least.
    pub(super) fn depth(&mut self, id: TermId) -> u32 {
        self.depth_in(id, false)
    }

    /// `inside` a loop over tokens, the loop's other reductions and its dots take no kernel of their own.
    fn depth_in(&mut self, id: TermId, inside: bool) -> u32 {
        if !self.reduces(id) && !inside {
            return 0;
        }
        if let Some(known) = self.depths.get(&(id, inside)) {
            return *known;
        }
        let operands = self.terms.operands(id);
        let tokens = |s: &Self, bound: &Axes| bound.iter().any(|a| s.terms.axes.len_of(a).is_none());
        let below = |s: &mut Self, inside| operands.iter().map(|x| s.depth_in(*x, inside)).max().unwrap_or(0);
        let depth = match (alpha::reduction(&self.terms, id), inside) {
            (Some((_, bound)), false) if tokens(self, &bound) => 1 + below(self, true),
            (Some(_), false) => 1 + below(self, false),
            (Some((_, bound)), true) if tokens(self, &bound) => below(self, true),
            (Some(_), true) if self.looks(id) => below(self, true),
            (Some(_), true) => 1 + below(self, false),
            (None, _) if matches!(self.terms.term(id), Term::TopK(..)) => 1 + below(self, false),
            (None, _) if matches!(self.terms.term(id), Term::Read(..)) => below(self, false),
            (None, inside) => below(self, inside),
        };
        self.depths.insert((id, inside), depth);
        depth
    }
}

/// Whether `parts` is a sub-multiset of `of`.
fn is_part(parts: &[TermId], of: &[TermId]) -> bool {
    let count = |xs: &[TermId], x: TermId| xs.iter().filter(|y| **y == x).count();
    !parts.is_empty() && parts.iter().all(|x| count(parts, *x) <= count(of, *x))
}
