//! Classes of the e-graph, to be looked at: their forms over other classes, the law that brought each, which was chosen,
//! and what the block would cost with another.

use super::Optimized;
use super::cost::Class;
use super::extract::{Beside, Change, Limits};
use super::node::{Head, Node};
use crate::cost::Role;
use crate::normal::text::expression;
use crate::normal::{Term, TermId, Terms};
use crate::rules::Law;
use egg::Id;
use llmc_frontend::graph::{Axes, Place};
use std::collections::{BTreeMap, HashMap};

/// A class.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `c` and its number.
    pub id: String,
    /// What the text calls it.
    pub name: Option<String>,
    /// Where the text has it.
    pub place: Option<Place>,
    /// Its axes.
    pub axes: Vec<String>,
    /// Whether it is made when weights are loaded.
    pub at_load: bool,
    /// Its forms, in the e-graph's order.
    pub forms: Vec<ShownForm>,
}

/// One form of a class.
#[derive(Clone, Debug)]
pub struct ShownForm {
    /// The form over other classes, by their names where these tell them apart.
    pub does: String,
    /// The classes that it is made of; leaves are none.
    pub of: Vec<String>,
    /// The law that brought it; none for the normal form's own.
    pub law: Option<Law>,
    /// For each role, what the choice has or would have.
    pub change: [Change; 2],
}

/// A form of a role: the set of caches, the role it was extracted for, its number.
pub type Picks = [(usize, Role, usize); 2];

impl Optimized {
    /// Every class that is no leaf, under the choice of some forms.
    pub fn shown(&self, picks: Picks) -> Vec<Shown> {
        let labels = self.labels();
        let laws = self.brought();
        let mut beside: Vec<Beside> = Vec::new();
        let mut lists = Vec::new();
        for (set, ..) in &picks {
            let values = self.sets[*set].values.clone();
            let roots = self.classes.iter().map(|c| self.prices[0].number(&self.egraph, *c));
            lists.push((roots.chain(values.iter().copied()).collect::<Vec<Class>>(), values));
        }
        for ((role, (roots, values)), (set, of, number)) in Role::ALL.iter().zip(&lists).zip(&picks) {
            let form = &self.sets[*set].forms[*of as usize][*number];
            let limits = Limits { readable: Some(values), forms: 1 };
            beside.push(Beside::new(&self.prices[*role as usize], roots, limits, form));
        }
        let [prefill, decode] = &mut beside[..] else { unreachable!("there are two roles") };
        let mut terms = self.egraph.analysis.terms.emptied();
        let mut out = Vec::new();
        for class in 0..self.prices[0].count() as Class {
            let id = self.prices[0].id(class);
            if self.leaf(id).is_some() {
                continue;
            }
            let data = &self.egraph[id].data;
            let (name, place) = self.people.get(&id).cloned().unwrap_or_default();
            let axes = data.axes.iter().map(|a| terms.axes[a].name.clone()).collect();
            let mut shown = Shown { id: number(id), name, place, axes, at_load: data.weight_only, forms: vec![] };
            for pick in 0..self.prices[0].nodes(class).len() as u16 {
                let node = &self.prices[0].nodes(class)[pick as usize].plain;
                let mut of: Vec<Id> = node.children.iter().map(|x| self.egraph.find(*x)).collect();
                of.retain(|x| self.leaf(*x).is_none());
                of.dedup();
                shown.forms.push(ShownForm {
                    does: self.text(&mut terms, node, &labels),
                    of: of.into_iter().map(number).collect(),
                    law: laws.get(&self.canonical(node)).copied(),
                    change: [prefill.change(class, pick), decode.change(class, pick)],
                });
            }
            out.push(shown);
        }
        out
    }

    fn canonical(&self, node: &Node) -> Node {
        let mut node = node.clone();
        node.children.iter_mut().for_each(|x| *x = self.egraph.find(*x));
        if matches!(node.head, Head::Product | Head::Sum(_) | Head::Plus) {
            node.children.sort_unstable();
        }
        node
    }

    /// The law that brought each node, where one did.
    fn brought(&self) -> HashMap<Node, Law> {
        let mut found = HashMap::new();
        for (law, _, after) in &self.saturation.joins {
            found.entry(self.canonical(after)).or_insert(*law);
        }
        found
    }

    fn leaf(&self, id: Id) -> Option<&Term> {
        self.egraph[id].nodes.iter().find_map(|n| match &n.head {
            Head::Leaf(term) => Some(term),
            _ => None,
        })
    }

    /// Names that belong to one class alone; other classes are called by their numbers.
    fn labels(&self) -> HashMap<Id, String> {
        let mut of: BTreeMap<&str, Vec<Id>> = BTreeMap::new();
        for (id, (name, _)) in &self.people {
            let id = self.egraph.find(*id);
            if let (Some(name), None) = (name, self.leaf(id)) {
                of.entry(name).or_default().push(id);
            }
        }
        of.values_mut().for_each(|ids| ids.dedup());
        of.into_iter().filter(|(_, ids)| ids.len() == 1).map(|(name, ids)| (ids[0], name.to_owned())).collect()
    }

    /// A node over the labels of its children.
    fn text(&self, terms: &mut Terms, node: &Node, labels: &HashMap<Id, String>) -> String {
        let children: Vec<TermId> = node.children.iter().map(|x| self.stand(terms, *x, labels)).collect();
        let term = match &node.head {
            Head::Leaf(term) => term.clone(),
            Head::Product => Term::Sum(Axes::none(), children),
            Head::Sum(bound) => Term::Sum(bound.clone(), children),
            Head::Plus => Term::Plus(children),
            Head::Reduce(op, bound) => Term::Reduce(*op, bound.clone(), children[0]),
            Head::Map(op) => Term::Map(*op, children),
            Head::Index(read) => {
                Term::Index(children[0], read.iter().copied().zip(children[1..].iter().copied()).collect())
            }
            Head::Read(s) => Term::Read(children[0], *s),
            Head::TopK(axis, rank) => Term::TopK(*axis, *rank, children[0]),
        };
        let id = terms.add(term);
        expression(terms, id)
    }

    fn stand(&self, terms: &mut Terms, id: Id, labels: &HashMap<Id, String>) -> TermId {
        let id = self.egraph.find(id);
        if let Some(leaf) = self.leaf(id) {
            return terms.add(leaf.clone());
        }
        let label = labels.get(&id).cloned().unwrap_or_else(|| number(id));
        let data = &self.egraph[id].data;
        terms.stand_in(label, data.axes.clone(), data.ty)
    }
}

fn number(id: Id) -> String {
    format!("c{id}")
}
