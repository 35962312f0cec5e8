//! One form out of the many: a node for every class that the results need, so that the whole is cheapest.
//!
//! Shared terms are paid once. A bottom-up pass that counts them again and again gives a first choice; then each choice
//! is changed alone, as long as that makes the whole cheaper. No choice ever goes round in a circle, which is asserted.

use super::cost::Prices;
use super::node::{Algebra, Head, Node};
use crate::normal::{Term, TermId, Terms};
use egg::Id;
use indexmap::IndexMap;
use llmc_frontend::graph::{Axes, AxisId};

/// The chosen node of every class.
pub type Choice = IndexMap<Id, Node>;

/// The cheapest choice for `roots` that was found, and its cost.
pub fn extract(egraph: &Algebra, roots: &[Id]) -> (Choice, f64) {
    let prices = Prices::new(egraph);
    let mut choice = cheapest(egraph, &prices, &Choice::new());
    let mut best = total(egraph, &prices, &choice, roots).expect("extract: the first choice has no circle");
    loop {
        let before = best;
        let mut used = order(egraph, &choice, roots).expect("extract: choices have no circle");
        let mut beside = what_else(egraph, &prices, &choice, &used);
        for class in used.clone() {
            if egraph[class].nodes.len() < 2 || !used.contains(&class) {
                continue;
            }
            if let Some((better, cost)) = improve(egraph, &prices, roots, class, &beside, best) {
                (choice, best) = (better, cost);
                used = order(egraph, &choice, roots).expect("extract: choices have no circle");
                beside = what_else(egraph, &prices, &choice, &used);
            }
        }
        if best >= before {
            return (choice, best);
        }
    }
}

/// The choice for the classes in use, and for every other class what is cheapest beside those.
fn what_else(egraph: &Algebra, prices: &Prices, choice: &Choice, used: &[Id]) -> Choice {
    let there: Choice = used.iter().map(|c| (*c, choice[c].clone())).collect();
    cheapest(egraph, prices, &there)
}

/// The best other node for a class in use, if it makes the whole cheaper than `best`.
fn improve(
    egraph: &Algebra,
    prices: &Prices,
    roots: &[Id],
    class: Id,
    beside: &Choice,
    best: f64,
) -> Option<(Choice, f64)> {
    let mut better: Option<(Choice, f64)> = None;
    for node in sorted_nodes(egraph, class) {
        let mut trial = beside.clone();
        trial.insert(class, node);
        let least = better.as_ref().map_or(best, |b| b.1);
        if let Some(cost) = total(egraph, prices, &trial, roots).filter(|cost| *cost < least) {
            better = Some((trial, cost));
        }
    }
    better
}

fn sorted_nodes(egraph: &Algebra, class: Id) -> Vec<Node> {
    let mut nodes = egraph[class].nodes.clone();
    nodes.sort_unstable();
    nodes
}

fn sorted_classes(egraph: &Algebra) -> Vec<Id> {
    let mut classes: Vec<_> = egraph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    classes
}

/// The cheapest tree of every class, where classes that are `there` already are free, and stay as they are.
pub(super) fn cheapest(egraph: &Algebra, prices: &Prices, there: &Choice) -> Choice {
    let classes = sorted_classes(egraph);
    let mut costs: IndexMap<Id, f64> = there.keys().map(|c| (*c, 0.0)).collect();
    let mut choice = there.clone();
    loop {
        let mut changed = false;
        for class in classes.iter().filter(|c| !there.contains_key(*c)) {
            for node in &egraph[*class].nodes {
                let below: Option<f64> = node.children.iter().map(|x| costs.get(&egraph.find(*x)).copied()).sum();
                let Some(below) = below else { continue };
                let cost = below + prices.node(egraph, *class, node, &|x| choice.get(&egraph.find(x)));
                if costs.get(class).is_none_or(|c| cost < *c) {
                    costs.insert(*class, cost);
                    choice.insert(*class, node.clone());
                    changed = true;
                }
            }
        }
        if !changed {
            return choice;
        }
    }
}

/// The classes that `roots` need under a choice, children first; `None` where it goes round in a circle.
pub fn order(egraph: &Algebra, choice: &Choice, roots: &[Id]) -> Option<Vec<Id>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Open,
        Done,
    }
    let (mut marks, mut out) = (IndexMap::new(), Vec::new());
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|r| (egraph.find(*r), false)).collect();
    while let Some((class, done)) = stack.pop() {
        if done {
            marks.insert(class, Mark::Done);
            out.push(class);
            continue;
        }
        match marks.get(&class) {
            Some(Mark::Done) => continue,
            Some(Mark::Open) => return None,
            None => {}
        }
        marks.insert(class, Mark::Open);
        stack.push((class, true));
        for child in choice.get(&class)?.children.iter().rev() {
            let child = egraph.find(*child);
            match marks.get(&child) {
                Some(Mark::Open) => return None,
                Some(Mark::Done) => {}
                None => stack.push((child, false)),
            }
        }
    }
    Some(out)
}

/// What a choice costs, each class once.
fn total(egraph: &Algebra, prices: &Prices, choice: &Choice, roots: &[Id]) -> Option<f64> {
    let order = order(egraph, choice, roots)?;
    let chosen = |x: Id| choice.get(&egraph.find(x));
    Some(order.iter().map(|c| prices.node(egraph, *c, &choice[c], &chosen)).sum())
}

/// The terms of a choice, with the names that people gave to classes. Bound axes take the lowest level that their
/// bodies leave; nothing is normalised again.
pub fn rebuild(egraph: &Algebra, choice: &Choice, people: &People, roots: &[Id]) -> (Terms, Vec<TermId>) {
    let order = order(egraph, choice, roots).expect("extract: the choice has no circle");
    let mut terms = egraph.analysis.terms.emptied();
    let names = binder_names(egraph, choice, &order, roots, &mut terms);
    let mut build = Build { egraph, choice, people, names, terms, done: IndexMap::new() };
    let roots = roots.iter().map(|r| build.class(*r, &[])).collect();
    (build.terms, roots)
}

/// The names that the text gave to some classes.
pub type People = IndexMap<Id, String>;

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
        if let Some(name) = self.people.get(&class)
            && !self.terms.operands(term).is_empty()
        {
            self.terms.set_name(term, name);
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
                let s = to.iter().find(|(a, _)| a == s).map_or(*s, |(_, b)| *b);
                Term::Read(self.class(node.children[0], to), s)
            }
            Head::Index(read) => return self.index(&node.children, read, to),
        };
        self.terms.add(term)
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

    /// A read axis that is renamed elsewhere is renamed here too, so that what is read stays one term.
    fn index(&mut self, children: &[Id], read: &[AxisId], to: &[(AxisId, AxisId)]) -> TermId {
        let of = self.egraph.find(children[0]);
        let leaf = matches!(self.choice[&of].head, Head::Leaf(_));
        let free = self.egraph[of].data.axes.clone();
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
