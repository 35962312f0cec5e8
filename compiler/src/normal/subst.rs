//! Substitution of indices for axes: what `x[a = i]` means, carried to the leaves.
//!
//! Simultaneous and capture-avoiding. A pure rename goes everywhere; any other index goes through pointwise
//! operations and stops at a reduction, which then is read at that index: the rotation of RoPE reads a projection at its
//! partner's index, and the projection is computed once.

use super::{Term, TermId, Terms};
use crate::rules::Law;
use indexmap::IndexMap;
use llmc_frontend::graph::{Axes, AxisId};

/// An index for each of some axes, ascending.
pub type Indices = Vec<(AxisId, TermId)>;

impl Terms {
    /// `x[a = i, ...]` in normal form: simultaneous substitution.
    pub fn index(&mut self, x: TermId, at: &[(AxisId, TermId)]) -> TermId {
        let mut at = at.to_vec();
        at.sort_unstable();
        let mut memo = IndexMap::new();
        self.substitute(x, &at, &mut memo)
    }

    /// `x[a = b]` for another axis `b`.
    pub fn rename(&mut self, x: TermId, a: AxisId, b: AxisId) -> TermId {
        let b = self.add(Term::Iota(b));
        self.index(x, &[(a, b)])
    }

    fn substitute(&mut self, x: TermId, at: &Indices, memo: &mut IndexMap<(TermId, Indices), TermId>) -> TermId {
        let at = self.restrict(x, at);
        if at.is_empty() {
            return x;
        }
        let key = (x, at);
        if let Some(done) = memo.get(&key) {
            return *done;
        }
        let (x, at) = &key;
        let result = match self.as_read(*x, at, memo) {
            Some(read) => read,
            None => self.substitute_inside(*x, at, memo),
        };
        if let Some(name) = self.info(key.0).name.clone()
            && !self.operands(result).is_empty()
        {
            self.set_name(result, &name);
        }
        self.set_place(result, self.info(key.0).place);
        memo.insert(key, result);
        result
    }

    /// The indices that matter to `x`: of its free axes, and not themselves.
    fn restrict(&self, x: TermId, at: &Indices) -> Indices {
        let free = self.free(x);
        at.iter().filter(|(a, i)| free.contains(*a) && *self.term(*i) != Term::Iota(*a)).copied().collect()
    }

    /// `x[t = s]` of a token-wise value is a read; further indices apply to what is read where they do not look
    /// at the sequence, else to the read.
    fn as_read(&mut self, x: TermId, at: &Indices, memo: &mut IndexMap<(TermId, Indices), TermId>) -> Option<TermId> {
        let views = self.views_in(&self.free(x).clone());
        let (t, s) = at.iter().find_map(|(a, i)| match self.term(*i) {
            Term::Iota(s) if self.views.get(s) == Some(a) => Some((*a, *s)),
            _ => None,
        })?;
        if !self.info(x).token_dependent || views.iter().any(|v| self.views[v] == t) {
            return None;
        }
        let rest: Indices = at.iter().filter(|(a, _)| *a != t).copied().collect();
        let looks = |i: TermId| self.free(i).iter().any(|a| a == t || self.views.get(&a) == Some(&t));
        Some(if rest.iter().any(|(_, i)| looks(*i)) {
            let read = self.read(x, s);
            self.substitute(read, &rest, memo)
        } else {
            let x = self.substitute(x, &rest, memo);
            self.read(x, s)
        })
    }

    fn substitute_inside(&mut self, x: TermId, at: &Indices, memo: &mut IndexMap<(TermId, Indices), TermId>) -> TermId {
        let term = self.term(x).clone();
        if self.stays_outside(&term, at) {
            return self.add(Term::Index(x, at.clone()));
        }
        let mut each = |terms: &mut Terms, xs: &[TermId]| -> Vec<TermId> {
            xs.iter().map(|y| terms.substitute(*y, at, memo)).collect()
        };
        let (result, law) = match term {
            Term::Iota(_) => return at[0].1,
            Term::Const(_) | Term::Length(_) => return x,
            Term::Param(_) | Term::Weight(_) | Term::Stored(_) => return self.add(Term::Index(x, at.clone())),
            Term::Map(op, xs) => {
                let ys = each(self, &xs);
                (self.map_again(op, ys), Law::Push)
            }
            Term::Plus(xs) => {
                let ys = each(self, &xs);
                (self.plus(&ys), Law::Push)
            }
            Term::Sum(bound, xs) if bound.is_empty() => {
                let ys = each(self, &xs);
                (self.product(&ys), Law::Push)
            }
            Term::Sum(bound, _) | Term::Reduce(_, bound, _) => {
                let (mut inner, mut outer) = self.under(at, &bound);
                self.move_within(x, &bound, &mut inner, &mut outer);
                if inner.is_empty() {
                    return self.add(Term::Index(x, outer));
                }
                let renamed = match self.term(x).clone() {
                    Term::Sum(_, xs) => {
                        let ys: Vec<_> = xs.iter().map(|y| self.substitute(*y, &inner, memo)).collect();
                        self.sum(&bound, &ys)
                    }
                    Term::Reduce(op, _, y) => {
                        let y = self.substitute(y, &inner, memo);
                        self.reduce(op, &bound, y)
                    }
                    _ => unreachable!("matched above"),
                };
                (if outer.is_empty() { renamed } else { self.add(Term::Index(renamed, outer)) }, Law::Rename)
            }
            Term::TopK(axis, rank, y) => match self.rename_of_search(x, rank, at) {
                Some(rank_to) => {
                    let y = each(self, &[y])[0];
                    (self.topk(axis, rank_to, y), Law::Rename)
                }
                None => return self.add(Term::Index(x, at.clone())),
            },
            Term::Index(y, inner) => (self.compose(y, inner, at, memo), Law::Compose),
            Term::Read(y, s) => return self.index_read(x, y, s, at, memo),
        };
        if self.laws.has(law) {
            self.fire(law, |t| t.add(Term::Index(x, at.clone())), result);
        }
        result
    }

    /// Whether the law that would take an index inside is switched off. Mere names always go inside.
    fn stays_outside(&self, term: &Term, at: &Indices) -> bool {
        let law = match term {
            Term::Map(..) | Term::Plus(_) => Law::Push,
            Term::Sum(bound, _) if bound.is_empty() => Law::Push,
            Term::Index(..) => Law::Compose,
            Term::Sum(..)
            | Term::Reduce(..)
            | Term::TopK(..)
            | Term::Read(..)
            | Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_) => return false,
        };
        !self.laws.has(law) && !self.renames(at, &Axes::none())
    }

    /// What of `at` goes below a binder of `bound`, and what stays outside. Pure renames go below, unless they would be
    /// captured there, or be caught by an index that stays outside.
    fn under(&self, at: &Indices, bound: &Axes) -> (Indices, Indices) {
        let target = |i: TermId| match self.term(i) {
            Term::Iota(b) if self.laws.require(Law::Rename, !bound.contains(*b)) => Some(*b),
            _ => None,
        };
        let (inner, outer): (Indices, Indices) = at.iter().partition(|(_, i)| target(*i).is_some());
        let caught = inner.iter().any(|(_, i)| target(*i).is_some_and(|b| outer.iter().any(|(a, _)| *a == b)));
        if caught { (Vec::new(), at.clone()) } else { (inner, outer) }
    }

    /// A read at an index along an equal axis, `x[d = p(e)]`, is one along that axis, `x[d = e][e = p(e)]`: then it is
    /// the same `x` as beside `x[d = e]`.
    fn move_within(&mut self, x: TermId, bound: &Axes, inner: &mut Indices, outer: &mut Indices) {
        for n in 0..outer.len() {
            let (a, i) = outer[n];
            let extent = self.axes[a].extent;
            let is_other = |b: &AxisId| self.axes[*b].extent == extent && !self.is_seq(*b);
            let others: Vec<_> = self.free(i).iter().filter(is_other).collect();
            let [b] = others[..] else { continue };
            let target = |j: TermId| *self.term(j) == Term::Iota(b);
            let taken = b == a
                || self.free(x).contains(b)
                || bound.contains(b)
                || self.info(x).bound.contains(b)
                || inner.iter().chain(outer.iter()).any(|(c, j)| *c == b || target(*j));
            if !taken {
                inner.push((a, self.add(Term::Iota(b))));
                outer[n].0 = b;
            }
        }
        inner.sort_unstable();
        outer.sort_unstable();
    }

    /// Whether every index is an axis's own that no binder in `bound` holds.
    fn renames(&self, at: &Indices, bound: &Axes) -> bool {
        at.iter().all(|(_, i)| matches!(self.term(*i), Term::Iota(b) if !bound.contains(*b)))
    }

    /// The new rank axis of a search whose free axes are all renamed, if that keeps it apart from the others.
    fn rename_of_search(&self, x: TermId, rank: AxisId, at: &Indices) -> Option<AxisId> {
        let Term::TopK(axis, _, y) = self.term(x) else { unreachable!("only asked of a search") };
        if !self.renames(at, &Axes::from_iter([*axis])) {
            return None;
        }
        let to = |a: AxisId| match at.iter().find(|(b, _)| *b == a).map(|(_, i)| self.term(*i)) {
            Some(Term::Iota(b)) => *b,
            _ => a,
        };
        let rank_to = to(rank);
        let apart = !at.iter().any(|(a, _)| *a == rank && self.free(*y).contains(rank))
            && self.free(*y).iter().filter(|a| a != axis).all(|a| to(a) != rank_to);
        apart.then_some(rank_to)
    }

    /// `y[inner][at]`. A value read at an index of the same axis, then renamed, is the renamed value read at the
    /// renamed index, so that it stays the same value as beside it: `acc[e = p(e)][e = f]` is `acc[e = f][f = p(f)]`,
    /// where both axes are equally long.
    fn compose(
        &mut self,
        y: TermId,
        inner: Indices,
        at: &Indices,
        memo: &mut IndexMap<(TermId, Indices), TermId>,
    ) -> TermId {
        let leaf = matches!(self.term(y), Term::Param(_) | Term::Weight(_) | Term::Stored(_));
        let moved = |terms: &Terms, a: AxisId, b: AxisId| {
            let own = inner.iter().any(|(c, i)| *c == a && terms.free(*i).contains(a));
            let alike = terms.axes[a].extent == terms.axes[b].extent;
            own && alike && !terms.free(y).contains(b) && !terms.info(y).bound.contains(b)
        };
        let (mut renamed, mut outer) = (Vec::new(), Vec::new());
        for (a, i) in at {
            match self.term(*i) {
                Term::Iota(b) if !leaf && moved(self, *a, *b) && !renamed.iter().any(|(_, j)| j == i) => {
                    renamed.push((*a, *i));
                }
                _ => {}
            }
            outer.push((*a, *i));
        }
        let free = self.free(y).clone();
        let y = self.substitute(y, &renamed, memo);
        let name = |terms: &Terms, a: AxisId| match renamed.iter().find(|(b, _)| *b == a).map(|(_, i)| terms.term(*i)) {
            Some(Term::Iota(b)) => *b,
            _ => a,
        };
        let mut all = Vec::new();
        for (a, i) in &inner {
            let i = self.substitute(*i, &outer, memo);
            all.push((name(self, *a), i));
        }
        let read: Axes = inner.iter().map(|(a, _)| *a).collect();
        all.extend(outer.iter().filter(|(a, _)| free.contains(*a) && !read.contains(*a)));
        all.sort_unstable();
        self.substitute(y, &all, memo)
    }

    /// `Read(y, s)[at]`.
    fn index_read(
        &mut self,
        x: TermId,
        y: TermId,
        s: AxisId,
        at: &Indices,
        memo: &mut IndexMap<(TermId, Indices), TermId>,
    ) -> TermId {
        let t = self.views[&s];
        let looks = |terms: &Terms, i: TermId| terms.free(i).iter().any(|a| a == t || terms.views.get(&a) == Some(&t));
        let mut inside: Indices = at.iter().filter(|(a, _)| *a != s).copied().collect();
        let token = at.iter().find(|(a, _)| *a == s).map(|(_, i)| *i);
        match token {
            // Back to the token's own axis, or on to another view or position: what was read is indexed directly.
            Some(i) => {
                if inside.iter().any(|(_, i)| looks(self, *i)) {
                    return self.add(Term::Index(x, at.clone()));
                }
                inside.push((t, i));
                inside.sort_unstable();
                self.substitute(y, &inside, memo)
            }
            None if inside.iter().any(|(_, i)| looks(self, *i)) => self.add(Term::Index(x, at.clone())),
            None => {
                let y = self.substitute(y, &inside, memo);
                self.read(y, s)
            }
        }
    }

    /// The view axes among `axes`.
    pub fn views_in(&self, axes: &Axes) -> Vec<AxisId> {
        axes.iter().filter(|a| self.views.contains_key(a)).collect()
    }
}
