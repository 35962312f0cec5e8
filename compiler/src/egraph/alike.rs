//! Classes that differ by the names of their axes alone.
//!
//! A norm over the channels of a projection sums `f[e = e'1]` while the projection goes on as `f[e]`: two classes, one
//! computation. Here every such class is said to be another one under other names, so that a choice is made once, and
//! costs once. What leaves is a renaming for every class but one of each kind; the e-graph gains nothing but the names.
//!
//! Two classes are alike when they have nodes that are: the same operation on alike classes, their axes met in the same
//! order. Found from the leaves upwards until nothing new follows. Where the order of a product's factors depends on
//! names, a likeness may be missed; none is ever found that does not hold.

use super::node::{Algebra, Head, Node, add};
use crate::normal::Term;
use egg::Id;
use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::{Axes, AxisId, Extent};

/// For a class, the node that renames another: its only form.
pub type Renamings = IndexMap<Id, Node>;

/// Passes over the e-graph, at most: each finds a level of what the one before missed.
const PASSES: usize = 12;

/// A class, and which of its axes have which names in another.
type Renamed = (Id, Vec<(AxisId, AxisId)>);

/// Finds the renamings of a saturated e-graph.
pub fn alike(egraph: &mut Algebra) -> Renamings {
    let mut kinds = Kinds::new(egraph);
    for _ in 0..PASSES {
        if !kinds.pass() {
            break;
        }
    }
    let found = kinds.renamings();
    let mut out = Renamings::new();
    for (class, (of, names)) in found {
        let mut children = vec![of];
        children.extend(names.iter().map(|(_, b)| add(egraph, Head::Leaf(Term::Iota(*b)), vec![])));
        out.insert(class, Node { head: Head::Index(names.iter().map(|(a, _)| *a).collect()), children });
    }
    egraph.rebuild();
    out
}

/// What a node does, but for names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shape {
    Leaf(Term),
    Index,
    Product,
    Sum,
    Plus,
    Reduce(ReduceOp),
    Map(ScalarOp),
    Read,
    TopK,
}

/// A part of a node: a class by its kind, or an axis. Axes are numbered in the order in which they are met.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Class(usize, Vec<u32>),
    Axis(u32),
}

/// A node but for names: nodes with equal ones are alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Likeness {
    shape: Shape,
    parts: Vec<Part>,
    bound: Vec<u32>,
    extents: Vec<Extent>,
}

/// The kind of a class, and which of its axes is which of the kind's.
#[derive(Clone, Debug)]
struct Place {
    kind: usize,
    slots: Vec<AxisId>,
}

/// What a node says of its class.
enum Said {
    /// It is the class of this node under other names: pairs of the node's child and here.
    Renames(usize, Vec<(AxisId, AxisId)>),
    /// It has this likeness, with these axes.
    Like(Likeness, Vec<AxisId>),
}

struct Kinds<'a> {
    egraph: &'a Algebra,
    ids: Vec<Id>,
    numbers: IndexMap<Id, usize>,
    /// For every class, the leaf tensor it is, if it is one, and the axis it names, if it does.
    tensors: Vec<Option<Term>>,
    names: Vec<Option<AxisId>>,
    places: Vec<Place>,
    members: Vec<Vec<usize>>,
}

impl<'a> Kinds<'a> {
    fn new(egraph: &'a Algebra) -> Kinds<'a> {
        let mut ids: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        let leaf = |id: &Id| {
            egraph[*id].nodes.iter().find_map(|n| match &n.head {
                Head::Leaf(term) => Some(term.clone()),
                _ => None,
            })
        };
        let tensor = |t: &Term| matches!(t, Term::Param(_) | Term::Weight(_) | Term::Stored(_));
        let name = |t: Term| match t {
            Term::Iota(a) => Some(a),
            _ => None,
        };
        Kinds {
            tensors: ids.iter().map(|id| leaf(id).filter(tensor)).collect(),
            names: ids.iter().map(|id| leaf(id).and_then(name)).collect(),
            places: (ids.iter().enumerate())
                .map(|(kind, id)| Place { kind, slots: egraph[*id].data.axes.iter().collect() })
                .collect(),
            members: (0..ids.len()).map(|n| vec![n]).collect(),
            numbers: ids.iter().enumerate().map(|(n, id)| (*id, n)).collect(),
            egraph,
            ids,
        }
    }

    fn number(&self, id: Id) -> usize {
        self.numbers[&self.egraph.find(id)]
    }

    /// One pass over all nodes; whether it found anything.
    fn pass(&mut self) -> bool {
        let mut known: IndexMap<Likeness, (usize, Vec<AxisId>)> = IndexMap::new();
        let mut found = false;
        for class in 0..self.ids.len() {
            for node in &self.egraph[self.ids[class]].nodes {
                match self.said(node) {
                    Said::Renames(of, pairs) => found |= self.join(class, of, &pairs),
                    Said::Like(likeness, axes) => match known.get(&likeness) {
                        Some((of, there)) => {
                            let (of, pairs) = (*of, there.iter().copied().zip(axes).collect::<Vec<_>>());
                            found |= self.join(class, of, &pairs);
                        }
                        None => {
                            known.insert(likeness, (class, axes));
                        }
                    },
                }
            }
        }
        found
    }

    fn said(&self, node: &Node) -> Said {
        let mut likeness = Likeness { shape: shape(&node.head), parts: vec![], bound: vec![], extents: vec![] };
        let mut met = Met { axes: vec![] };
        match &node.head {
            Head::Leaf(Term::Iota(a)) => {
                likeness.shape = Shape::Index;
                likeness.parts.push(Part::Axis(met.number(*a)));
            }
            Head::Leaf(term) => {
                let axes = self.places[self.number_of_leaf(term)].slots.clone();
                likeness.parts.extend(axes.into_iter().map(|a| Part::Axis(met.number(a))));
            }
            Head::Index(read) => {
                if let Some(renames) = self.index(node, read, &mut likeness, &mut met) {
                    return renames;
                }
            }
            Head::Read(s) => {
                let own = self.egraph.analysis.terms.views[s];
                let place = &self.places[self.number(node.children[0])];
                let at = place.slots.iter().map(|a| met.number(if *a == own { *s } else { *a })).collect();
                likeness.parts.extend([Part::Class(place.kind, at), Part::Axis(met.number(*s))]);
            }
            Head::TopK(_, rank) => {
                self.children(&node.children, &mut likeness, &mut met);
                likeness.parts.push(Part::Axis(met.number(*rank)));
            }
            Head::Product | Head::Plus | Head::Sum(_) => {
                let mut sorted = node.children.clone();
                sorted.sort_by_key(|x| {
                    let place = &self.places[self.number(*x)];
                    (place.kind, place.slots.clone())
                });
                self.children(&sorted, &mut likeness, &mut met);
            }
            Head::Reduce(..) | Head::Map(_) => self.children(&node.children, &mut likeness, &mut met),
        }
        likeness.bound = bound(&node.head).iter().map(|a| met.number(a)).collect();
        likeness.bound.sort_unstable();
        likeness.extents = met.axes.iter().map(|a| self.egraph.analysis.terms.axes[*a].extent).collect();
        Said::Like(likeness, met.axes)
    }

    fn number_of_leaf(&self, term: &Term) -> usize {
        let node = Node { head: Head::Leaf(term.clone()), children: vec![] };
        self.number(self.egraph.lookup(node).expect("alike: a leaf of the e-graph"))
    }

    fn children(&self, xs: &[Id], likeness: &mut Likeness, met: &mut Met) {
        for x in xs {
            let place = &self.places[self.number(*x)];
            let at = place.slots.iter().map(|a| met.number(*a)).collect();
            likeness.parts.push(Part::Class(place.kind, at));
        }
    }

    /// A read at indices: a renaming where all of them are names, of a tensor the tensor itself.
    fn index(&self, node: &Node, read: &[AxisId], likeness: &mut Likeness, met: &mut Met) -> Option<Said> {
        let of = self.number(node.children[0]);
        let at = |a: AxisId| read.iter().position(|b| *b == a).map(|n| self.number(node.children[n + 1]));
        let slots = &self.places[of].slots;
        let named: Option<Vec<AxisId>> =
            slots.iter().map(|a| at(*a).map_or(Some(*a), |i| self.names[i])).collect::<Option<_>>();
        match (&self.tensors[of], named) {
            (None, Some(named)) => {
                return Some(Said::Renames(of, slots.iter().copied().zip(named).collect()));
            }
            (Some(term), _) => likeness.shape = Shape::Leaf(term.clone()),
            (None, None) => likeness.parts.push(Part::Class(self.places[of].kind, vec![])),
        }
        for a in slots {
            likeness.parts.push(match at(*a) {
                None => Part::Axis(met.number(*a)),
                Some(i) => match self.names[i] {
                    Some(b) => Part::Axis(met.number(b)),
                    None => {
                        let place = &self.places[i];
                        Part::Class(place.kind, place.slots.iter().map(|b| met.number(*b)).collect())
                    }
                },
            });
        }
        None
    }

    /// `class` is `of` under other names, for pairs of an axis of `of` and one of `class`, bound ones among them.
    fn join(&mut self, class: usize, of: usize, pairs: &[(AxisId, AxisId)]) -> bool {
        let (from, to) = (self.places[class].kind, self.places[of].kind);
        let (a, b) = (&self.egraph[self.ids[class]].data, &self.egraph[self.ids[of]].data);
        let same = a.ty == b.ty && a.weight_only == b.weight_only && a.quantised == b.quantised;
        if from == to || !same {
            return false;
        }
        let here = |x: &AxisId| pairs.iter().find(|(y, _)| y == x).map(|(_, z)| *z);
        let renamed: Option<Vec<AxisId>> = self.places[of].slots.iter().map(here).collect();
        let order: Option<Vec<usize>> = renamed.and_then(|names| {
            names.iter().map(|a| self.places[class].slots.iter().position(|b| a == b)).collect::<Option<_>>()
        });
        let is_bijection = |o: &Vec<usize>| {
            o.len() == self.places[class].slots.len() && o.iter().enumerate().all(|(i, n)| !o[..i].contains(n))
        };
        let Some(order) = order.filter(is_bijection) else { return false };
        for member in std::mem::take(&mut self.members[from]) {
            let slots = order.iter().map(|n| self.places[member].slots[*n]).collect();
            self.places[member] = Place { kind: to, slots };
            self.members[to].push(member);
        }
        true
    }

    /// For every class that is worth it, the one of its kind that stands for it, and the names: there and here.
    fn renamings(&self) -> Vec<(Id, Renamed)> {
        let mut out = Vec::new();
        for members in self.members.iter().filter(|m| m.len() > 1 && m.iter().all(|c| self.is_work(*c))) {
            let rank = |c: &usize| {
                let class = &self.egraph[self.ids[*c]];
                (std::cmp::Reverse(class.nodes.len()), class.data.axes.clone(), *c)
            };
            let first = *members.iter().min_by_key(|c| rank(c)).expect("there are several");
            for class in members.iter().filter(|c| **c != first) {
                let pairs = self.places[first].slots.iter().zip(&self.places[*class].slots);
                let mut names: Vec<_> = pairs.filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect();
                names.sort_unstable();
                // Names that are the same and a class that is another: equal, though no law says so.
                if !names.is_empty() {
                    out.push((self.ids[*class], (self.ids[first], names)));
                }
            }
        }
        out
    }

    /// Whether computing it twice would cost anything.
    fn is_work(&self, class: usize) -> bool {
        let of = &self.egraph[self.ids[class]];
        let leaf = |n: &Node| match n.head {
            Head::Leaf(_) => true,
            Head::Index(_) => self.tensors[self.number(n.children[0])].is_some(),
            _ => false,
        };
        of.data.ty == Type::Real && !of.data.weight_only && !of.nodes.iter().any(leaf)
    }
}

/// Axes in the order in which they are met.
struct Met {
    axes: Vec<AxisId>,
}

impl Met {
    fn number(&mut self, a: AxisId) -> u32 {
        let at = self.axes.iter().position(|b| *b == a);
        at.unwrap_or_else(|| {
            self.axes.push(a);
            self.axes.len() - 1
        }) as u32
    }
}

fn bound(head: &Head) -> Axes {
    match head {
        Head::Sum(bound) | Head::Reduce(_, bound) => bound.clone(),
        Head::TopK(axis, _) => Axes::from_iter([*axis]),
        Head::Leaf(_) | Head::Product | Head::Plus | Head::Map(_) | Head::Index(_) | Head::Read(_) => Axes::none(),
    }
}

fn shape(head: &Head) -> Shape {
    match head {
        Head::Leaf(term) => Shape::Leaf(term.clone()),
        Head::Product => Shape::Product,
        Head::Sum(_) => Shape::Sum,
        Head::Plus => Shape::Plus,
        Head::Reduce(op, _) => Shape::Reduce(*op),
        Head::Map(op) => Shape::Map(*op),
        Head::Index(_) => Shape::Index,
        Head::Read(_) => Shape::Read,
        Head::TopK(..) => Shape::TopK,
    }
}
