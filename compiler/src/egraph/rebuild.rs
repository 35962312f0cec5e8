//! From a choice back to terms.

use super::extract::{Choice, order};
use super::node::{Algebra, Head};
use crate::normal::{Term, TermId, Terms};
use egg::Id;
use indexmap::IndexMap;
use llmc_frontend::graph::{Axes, AxisId, Place};

/// The terms of a choice, with the names that people gave to classes. Bound axes take the lowest level that their
/// bodies leave; nothing is normalised again.
#[cfg(test)]
pub fn rebuild(egraph: &Algebra, choice: &Choice, people: &People, roots: &[Id]) -> (Terms, Vec<TermId>) {
    let (terms, roots, _) = rebuild_caching(egraph, choice, people, roots, &[]);
    (terms, roots)
}

/// The terms of a choice for some results and for values that are cached, the latter under the model's own axes; with the
/// names that people gave to classes. Bound axes take the lowest level that their bodies leave; nothing is normalised
/// again.
pub fn rebuild_caching(
    egraph: &Algebra,
    choice: &Choice,
    people: &People,
    roots: &[Id],
    caches: &[Id],
) -> (Terms, Vec<TermId>, Vec<TermId>) {
    let all: Vec<_> = roots.iter().chain(caches).copied().collect();
    let order = order(egraph, choice, &all).expect("extract: the choice has no circle");
    let mut terms = egraph.analysis.terms.emptied();
    let names = binder_names(egraph, choice, &order, roots, &mut terms);
    let mut build = Build { egraph, choice, people, names, terms, done: IndexMap::new() };
    let roots = roots.iter().map(|r| build.class(*r, &[])).collect();
    let caches = caches.iter().map(|c| build.class(*c, &own_names(egraph, *c))).collect();
    (build.terms, roots, caches)
}

/// The axes of a class that stand for one of the model's, and that, where it is not taken.
fn own_names(egraph: &Algebra, class: Id) -> Vec<(AxisId, AxisId)> {
    let (free, terms) = (&egraph[class].data.axes, &egraph.analysis.terms);
    let mut names: Vec<(AxisId, AxisId)> = Vec::new();
    for a in free.iter().filter(|a| !terms.is_seq(*a)) {
        let own = terms.stem(a);
        if own != a && !free.contains(own) && names.iter().all(|(_, b)| *b != own) {
            names.push((a, own));
        }
    }
    names
}

/// The names that the text gave to some classes.
pub type People = IndexMap<Id, (Option<String>, Option<Place>)>;

/// For every class that binds axes, what each is called.
type Names = IndexMap<Id, Vec<(AxisId, AxisId)>>;

fn binder_names(egraph: &Algebra, choice: &Choice, order: &[Id], roots: &[Id], terms: &mut Terms) -> Names {
    let mut heights: IndexMap<Id, IndexMap<AxisId, u32>> = IndexMap::new();
    let mut names = Names::new();
    // A part of a block may have bound axes free: names start above theirs.
    let mut lowest: IndexMap<AxisId, u32> = IndexMap::new();
    for (stem, level) in roots.iter().flat_map(|r| egraph[*r].data.axes.iter()).filter_map(|a| terms.binders.get(&a)) {
        let low = lowest.entry(*stem).or_default();
        *low = (*low).max(*level);
    }
    for class in order {
        let node = &choice[class];
        let mut height = lowest.clone();
        for child in &node.children {
            for (stem, h) in &heights[&egraph.find(*child)] {
                let top = height.entry(*stem).or_default();
                *top = (*top).max(*h);
            }
        }
        let bound = match &node.head {
            Head::Sum(bound) | Head::Reduce(_, bound) => bound.clone(),
            Head::TopK(axis, _) => Axes::from_iter([*axis]),
            _ => Axes::none(),
        };
        for a in bound.iter() {
            let stem = terms.stem(a);
            let level = height.entry(stem).or_default();
            *level += 1;
            let name = terms.binder(stem, *level);
            names.entry(*class).or_default().push((a, name));
        }
        heights.insert(*class, height);
    }
    names
}

struct Build<'a> {
    egraph: &'a Algebra,
    choice: &'a Choice,
    people: &'a People,
    names: Names,
    terms: Terms,
    done: IndexMap<(Id, Vec<(AxisId, AxisId)>), TermId>,
}

impl Build<'_> {
    /// The term of a class, some of its free axes renamed.
    fn class(&mut self, class: Id, to: &[(AxisId, AxisId)]) -> TermId {
        let class = self.egraph.find(class);
        let free = &self.egraph[class].data.axes;
        let mut to: Vec<_> = to.iter().filter(|(a, b)| a != b && free.contains(*a)).copied().collect();
        to.sort_unstable();
        if let Some(done) = self.done.get(&(class, to.clone())) {
            return *done;
        }
        let term = self.node(class, &to);
        if let Some((name, place)) = self.people.get(&class) {
            if let Some(name) = name.as_ref().filter(|_| !self.terms.operands(term).is_empty()) {
                self.terms.set_name(term, name);
            }
            self.terms.set_place(term, *place);
        }
        self.done.insert((class, to), term);
        term
    }

    fn all(&mut self, xs: &[Id], to: &[(AxisId, AxisId)]) -> Vec<TermId> {
        xs.iter().map(|x| self.class(*x, to)).collect()
    }

    /// `to` extended by what a class calls the axes it binds, and those.
    fn bind(&self, class: Id, to: &[(AxisId, AxisId)]) -> (Vec<(AxisId, AxisId)>, Axes) {
        let names = self.names.get(&class).cloned().unwrap_or_default();
        let bound = names.iter().map(|(_, b)| *b).collect();
        let outer = to.iter().filter(|(a, _)| !names.iter().any(|(b, _)| a == b)).copied();
        (outer.chain(names.iter().copied()).collect(), bound)
    }

    fn node(&mut self, class: Id, to: &[(AxisId, AxisId)]) -> TermId {
        let choice = self.choice;
        let node = &choice[&class];
        let sorted = |mut xs: Vec<TermId>| {
            xs.sort_unstable();
            xs
        };
        let term = match &node.head {
            Head::Leaf(term) => return self.leaf(term, to),
            Head::Product => Term::Sum(Axes::none(), sorted(self.all(&node.children, to))),
            Head::Plus => Term::Plus(sorted(self.all(&node.children, to))),
            Head::Map(op) => Term::Map(*op, self.all(&node.children, to)),
            Head::Sum(_) => {
                let (inner, bound) = self.bind(class, to);
                Term::Sum(bound, sorted(self.all(&node.children, &inner)))
            }
            Head::Reduce(op, _) => {
                let (inner, bound) = self.bind(class, to);
                Term::Reduce(*op, bound, self.class(node.children[0], &inner))
            }
            Head::TopK(_, rank) => {
                let (inner, bound) = self.bind(class, to);
                let rank = to.iter().find(|(a, _)| a == rank).map_or(*rank, |(_, b)| *b);
                Term::TopK(bound.as_slice()[0], rank, self.class(node.children[0], &inner))
            }
            Head::Read(s) => {
                let inner = self.names_of_read(class, node.children[0], to);
                let s = to.iter().find(|(a, _)| a == s).map_or(*s, |(_, b)| *b);
                Term::Read(self.class(node.children[0], &inner), s)
            }
            Head::Index(read) => return self.index(&node.children, read, to),
        };
        self.terms.add(term)
    }

    /// What is read may stand under other bound axes than those of the read: ones of the same stem.
    fn names_of_read(&self, class: Id, of: Id, to: &[(AxisId, AxisId)]) -> Vec<(AxisId, AxisId)> {
        let (seen, own) = (&self.egraph[class].data.axes, &self.egraph[of].data.axes);
        let terms = &self.egraph.analysis.terms;
        let target = |a: AxisId| to.iter().find(|(b, _)| *b == a).map_or(a, |(_, b)| *b);
        let name = |a: AxisId| {
            let other = |b: &AxisId| !own.contains(*b) && terms.stem(*b) == terms.stem(a) && !terms.is_seq(*b);
            if seen.contains(a) || terms.is_seq(a) { target(a) } else { seen.iter().find(other).map_or(a, target) }
        };
        own.iter().map(|a| (a, name(a))).filter(|(a, b)| a != b).collect()
    }

    fn leaf(&mut self, term: &Term, to: &[(AxisId, AxisId)]) -> TermId {
        if let (Term::Iota(_), [(_, b)]) = (term, to) {
            return self.terms.add(Term::Iota(*b));
        }
        let leaf = self.terms.add(term.clone());
        if to.is_empty() {
            return leaf;
        }
        let at = to.iter().map(|(a, b)| (*a, self.terms.add(Term::Iota(*b)))).collect();
        self.terms.add(Term::Index(leaf, at))
    }

    /// What the axes of a class that is only renamed are called.
    fn names_below(
        &self,
        of: Id,
        children: &[Id],
        read: &[AxisId],
        to: &[(AxisId, AxisId)],
    ) -> Option<Vec<(AxisId, AxisId)>> {
        let target = |a: AxisId| to.iter().find(|(b, _)| *b == a).map_or(a, |(_, b)| *b);
        let named = |i: &Id| match self.choice[&self.egraph.find(*i)].head {
            Head::Leaf(Term::Iota(b)) => Some(b),
            _ => None,
        };
        let here: Vec<AxisId> = children[1..].iter().map(named).collect::<Option<_>>()?;
        let name = |a: AxisId| target(read.iter().position(|b| *b == a).map_or(a, |n| here[n]));
        Some(self.egraph[of].data.axes.iter().map(|a| (a, name(a))).filter(|(a, b)| a != b).collect())
    }

    /// A read axis that is renamed elsewhere is renamed here too, so that what is read stays one term.
    fn index(&mut self, children: &[Id], read: &[AxisId], to: &[(AxisId, AxisId)]) -> TermId {
        let of = self.egraph.find(children[0]);
        let leaf = matches!(self.choice[&of].head, Head::Leaf(_));
        let free = self.egraph[of].data.axes.clone();
        if let Some(names) = self.names_below(of, children, read, to).filter(|_| !leaf) {
            return self.class(of, &names);
        }
        let (mut inner, mut at) = (Vec::new(), Vec::new());
        for (a, i) in read.iter().zip(&children[1..]) {
            let i = self.class(*i, to);
            let renamed = to.iter().find(|(b, _)| a == b).map(|(_, b)| *b).filter(|b| !leaf && !free.contains(*b));
            if let Some(b) = renamed {
                inner.push((*a, b));
            }
            at.push((renamed.unwrap_or(*a), i));
        }
        if leaf {
            let Head::Leaf(term) = &self.choice[&of].head else { unreachable!("asked above") };
            let leaf = self.terms.add(term.clone());
            for (a, b) in to.iter().filter(|(a, _)| free.contains(*a) && !read.contains(a)) {
                at.push((*a, self.terms.add(Term::Iota(*b))));
            }
            at.sort_unstable();
            return self.terms.add(Term::Index(leaf, at));
        }
        inner.extend(to.iter().filter(|(a, _)| !read.contains(a)));
        let x = self.class(of, &inner);
        at.sort_unstable();
        self.terms.add(Term::Index(x, at))
    }
}
