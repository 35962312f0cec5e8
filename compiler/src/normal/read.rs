//! Reading other tokens, in normal form: `x[t = s]` of as large an `x` as can be.

use super::{Term, TermId, Terms};
use crate::rules::Law;
use llmc_frontend::graph::{Axes, AxisId};

impl Terms {
    /// `x[t = s]` of a token-wise value without views of the sequence.
    pub fn read(&mut self, x: TermId, s: AxisId) -> TermId {
        let t = self.views[&s];
        if !self.free(x).contains(t) {
            return x;
        }
        if !self.info(x).token_dependent {
            return self.rename(x, t, s);
        }
        if let Term::Sum(bound, xs) = self.term(x).clone()
            && bound.is_empty()
        {
            let (inside, mut outside): (Vec<_>, Vec<_>) = xs.into_iter().partition(|f| self.free(*f).contains(t));
            if !outside.is_empty() {
                let inside = self.product(&inside);
                outside.push(self.read(inside, s));
                let result = self.product(&outside);
                if self.trace.firings.is_some() {
                    let own = self.add(Term::Iota(s));
                    self.fire(Law::Push, |terms| terms.add(Term::Index(x, vec![(t, own)])), result);
                }
                return result;
            }
        }
        self.add(Term::Read(x, s))
    }

    /// The view axis that all of a term looks through, when it is token-wise and has something of a token.
    fn looks_through(&self, axes: &Axes, xs: &[TermId]) -> Option<AxisId> {
        let [s] = self.views_in(axes)[..] else { return None };
        let own = self.views[&s];
        let hidden = xs.iter().any(|x| self.info(*x).axes.contains(own));
        let value = xs.iter().any(|x| self.info(*x).token_dependent && self.free(*x).contains(s));
        (self.laws.require(Law::Read, !hidden) && value).then_some(s)
    }

    /// `term`, or where it looks at another token as a whole, the read of the same operation on the token itself.
    pub(super) fn whole_read(
        &mut self,
        xs: &[TermId],
        term: Term,
        again: impl FnOnce(&mut Terms, Vec<TermId>) -> TermId,
    ) -> TermId {
        let bound = match &term {
            Term::Sum(bound, _) | Term::Reduce(_, bound, _) => bound.clone(),
            Term::TopK(axis, ..) => Axes::from_iter([*axis]),
            _ => Axes::none(),
        };
        let axes = xs.iter().fold(Axes::none(), |a, x| a.union(self.free(*x)));
        match self.looks_through(&axes, xs) {
            Some(s) if !bound.contains(s) && self.laws.has(Law::Read) => {
                let own = self.views[&s];
                let inner: Vec<_> = xs.iter().map(|x| self.rename(*x, s, own)).collect();
                let x = again(self, inner);
                let read = self.read(x, s);
                self.fire(Law::Read, |t| t.add(term), read);
                read
            }
            _ => self.add(term),
        }
    }

    /// Within an n-ary operation, the operands that look at the same other token become one read.
    pub(super) fn group_reads(
        &mut self,
        xs: &mut Vec<TermId>,
        join: fn(&mut Terms, &[TermId]) -> TermId,
        make: fn(Vec<TermId>) -> Term,
    ) {
        let axes = xs.iter().fold(Axes::none(), |a, x| a.union(self.free(*x)));
        let views = if self.laws.has(Law::Read) { self.views_in(&axes) } else { vec![] };
        for s in views {
            let own = self.views[&s];
            let looks = |t: &Terms, x: TermId| {
                let free = t.free(x);
                free.contains(s) && t.laws.require(Law::Read, !free.contains(own)) && t.views_in(free).len() == 1
            };
            let (seen, rest): (Vec<_>, Vec<_>) = xs.iter().copied().partition(|x| looks(self, *x));
            let value = seen.iter().any(|x| matches!(self.term(*x), Term::Read(..)));
            if seen.len() < 2 || !value {
                continue;
            }
            let inner: Vec<_> = seen.iter().map(|x| self.rename(*x, s, own)).collect();
            let joined = join(self, &inner);
            *xs = rest;
            let read = self.read(joined, s);
            xs.push(read);
            self.fire(Law::Read, |t| t.add(make(seen)), read);
        }
    }
}
