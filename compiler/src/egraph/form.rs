//! A form as a graph says it, to be looked for in an e-graph: is it there, and was it chosen?
//!
//! Some values of the graph are *parts*: what a part is made of is brought into normal form, and what uses it takes it
//! as it is. So `let wg = w * gain` and `sum[m](wg * x)` ask for a product of weights within a sum, which normal form
//! alone would flatten. A parameter that the searched block does not have stands for anything with its axes, the same
//! thing each time. Nothing is added to the e-graph: a form is matched against its nodes, bound axes by what they
//! stand for.

use super::Optimized;
use super::node::{Head, Node};
use crate::normal::build::normalise;
use crate::normal::{Term, TermId, Terms};
use egg::Id;
use llmc_artifact::{ScalarOp, Type, Value};
use llmc_frontend::graph::{
    Axes, AxisId, AxisTable, Block, Graph, Model, ModelValue, Node as GraphNode, Op, WeightSlot,
};
use petgraph::graph::NodeIndex;
use std::collections::{BTreeMap, HashMap};

/// Where a form is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Everything that the laws found equal.
    All,
    /// What was extracted.
    Chosen,
}

/// A form: parts in normal form, the last of which is the result.
pub struct Form {
    parts: Vec<Part>,
    axes: AxisTable,
    results: Vec<(String, usize)>,
}

struct Part {
    terms: Terms,
    root: TermId,
    params: Vec<Param>,
}

/// What a parameter of a part is.
#[derive(Clone, Debug)]
enum Param {
    Part(usize),
    Named(String),
}

impl Form {
    /// The form that block `block` of a model says. Values named in `parts` are parts; weights named in `weights` are
    /// leaves, others are what the model computes them from.
    pub fn new(model: &Model, block: usize, parts: &[String], weights: &[String]) -> Form {
        let of = &model.blocks[block];
        let step = model.steps.iter().find(|s| s.block.0 as usize == block).expect("a step runs every block");
        let slots = step.weights.iter().map(|w| model.weights[w.0 as usize].node).collect();
        let mut cut = Cutting { model, block: of, slots, parts, weights, made: Vec::new(), known: HashMap::new() };
        let results = of.results.iter().map(|(name, id)| (name.clone(), cut.part(Place::Block(*id)))).collect();
        Form { parts: cut.made, axes: model.axes.clone(), results }
    }
}

/// A node of the block's graph or of the model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Block(NodeIndex),
    Weights(NodeIndex),
}

struct Cutting<'a> {
    model: &'a Model,
    block: &'a Block,
    /// For every weight slot, its node among the weights.
    slots: Vec<NodeIndex>,
    parts: &'a [String],
    weights: &'a [String],
    made: Vec<Part>,
    known: HashMap<Place, usize>,
}

/// The graph of one part while it is copied.
#[derive(Default)]
struct Copy {
    graph: Graph,
    done: HashMap<Place, NodeIndex>,
    params: Vec<(Param, ModelValue)>,
    weights: Vec<WeightSlot>,
}

impl Cutting<'_> {
    fn node(&self, at: Place) -> &GraphNode {
        match at {
            Place::Block(id) => &self.block.graph[id],
            Place::Weights(id) => &self.model.weight_graph[id],
        }
    }

    fn operands(&self, at: Place) -> Vec<Place> {
        match at {
            Place::Block(id) => self.block.graph.operands(id).into_iter().map(Place::Block).collect(),
            Place::Weights(id) => self.model.weight_graph.operands(id).into_iter().map(Place::Weights).collect(),
        }
    }

    /// The part that computes a node, made once.
    fn part(&mut self, root: Place) -> usize {
        if let Some(done) = self.known.get(&root) {
            return *done;
        }
        let mut copy = Copy::default();
        let id = self.copy(root, true, &mut copy);
        let (params, values): (Vec<_>, Vec<_>) = copy.params.into_iter().unzip();
        let results = vec![(String::new(), id)];
        let block = Block { name: String::new(), params: values, weights: copy.weights, graph: copy.graph, results };
        let (terms, roots) = normalise(&block, &self.model.axes);
        self.made.push(Part { terms, root: roots[0].1, params });
        self.known.insert(root, self.made.len() - 1);
        self.made.len() - 1
    }

    fn copy(&mut self, at: Place, is_root: bool, into: &mut Copy) -> NodeIndex {
        if let Some(done) = into.done.get(&at) {
            return *done;
        }
        let node = self.node(at).clone();
        let name = node.name.clone().unwrap_or_default();
        let copied = if !is_root && self.parts.contains(&name) {
            let part = self.part(at);
            self.param(Param::Part(part), &node, into)
        } else {
            match (&node.op, at) {
                (Op::Param(n), _) => {
                    let name = self.block.params[*n as usize].name.clone();
                    self.param(Param::Named(name), &node, into)
                }
                (Op::Weight(n), _) if !self.weights.contains(&self.block.weights[*n as usize].name) => {
                    self.copy(Place::Weights(self.slots[*n as usize]), is_root, into)
                }
                (Op::Weight(_) | Op::Tensor(_), _) => self.leaf(&name, &node, into),
                (_, Place::Weights(_)) if self.weights.contains(&name) => self.leaf(&name, &node, into),
                _ => {
                    let xs: Vec<_> = self.operands(at).into_iter().map(|x| self.copy(x, false, into)).collect();
                    into.graph.add(node, &xs)
                }
            }
        };
        into.done.insert(at, copied);
        copied
    }

    fn param(&self, kind: Param, node: &GraphNode, into: &mut Copy) -> NodeIndex {
        let number = into.params.len() as u32;
        let name = node.name.clone().unwrap_or_default();
        into.params.push((kind, ModelValue { name, axes: node.axes.clone(), ty: node.ty }));
        into.graph.add(GraphNode { op: Op::Param(number), ..node.clone() }, &[])
    }

    fn leaf(&self, name: &str, node: &GraphNode, into: &mut Copy) -> NodeIndex {
        let number = into.weights.len() as u32;
        into.weights.push(WeightSlot { name: name.to_owned(), axes: node.axes.clone(), ty: node.ty });
        into.graph.add(GraphNode { op: Op::Weight(number), ..node.clone() }, &[])
    }
}

/// What each axis of a form is called in the e-graph.
type Names = BTreeMap<AxisId, AxisId>;
/// What each parameter that the block lacks stands for.
type Wild = BTreeMap<String, (Id, Vec<AxisId>)>;

/// More ways than this in which a part matches are not tried.
const WAYS: usize = 16;

impl Optimized {
    /// Whether every result of the form stands in the class of the result of the same name.
    pub fn has(&self, form: &Form, among: Among) -> bool {
        let search = Search { of: self, form, among };
        let names = search.model_names();
        form.results.iter().all(|(name, part)| {
            let class = self.roots.iter().position(|(n, _)| n == name).map(|n| self.classes[n]);
            class.is_some_and(|c| !search.part(*part, c, &names, &Wild::new()).is_empty())
        })
    }
}

struct Search<'a> {
    of: &'a Optimized,
    form: &'a Form,
    among: Among,
}

/// One thing to be matched: a term of a part, under names.
#[derive(Clone, Copy)]
struct Sought<'a> {
    part: usize,
    term: TermId,
    names: &'a Names,
}

impl<'a> Search<'a> {
    /// The searched block's axes by the names of the form's.
    fn model_names(&self) -> Names {
        let there: HashMap<&str, AxisId> =
            self.of.egraph.analysis.terms.axes.iter().map(|(id, a)| (a.name.as_str(), id)).collect();
        self.form.axes.iter().filter_map(|(id, a)| there.get(a.name.as_str()).map(|b| (id, *b))).collect()
    }

    fn nodes(&self, class: Id) -> &'a [Node] {
        match self.among {
            Among::All => &self.of.egraph[class].nodes,
            Among::Chosen => self.of.choice.get(&self.of.egraph.find(class)).map_or(&[], std::slice::from_ref),
        }
    }

    fn axes_of(&self, class: Id) -> &'a Axes {
        &self.of.egraph[class].data.axes
    }

    fn part(&self, part: usize, class: Id, names: &Names, wild: &Wild) -> Vec<Wild> {
        self.term(Sought { part, term: self.form.parts[part].root, names }, class, wild, 0)
    }

    /// Every way in which a class holds a term. `renames` counts the renamings gone through since the last other node.
    fn term(&self, s: Sought, class: Id, wild: &Wild, renames: u32) -> Vec<Wild> {
        let class = self.of.egraph.find(class);
        let part = &self.form.parts[s.part];
        let free = part.terms.free(s.term);
        let image: Option<Vec<AxisId>> = free.iter().map(|a| s.names.get(&a).copied()).collect();
        let Some(image) = image else { return vec![] };
        if image.iter().copied().collect::<Axes>() != *self.axes_of(class) {
            return vec![];
        }
        match part.terms.term(s.term) {
            Term::Param(n) => match &part.params[*n as usize] {
                Param::Part(p) => return self.part(*p, class, s.names, wild),
                Param::Named(name) if !self.of.egraph.analysis.terms.param_names.contains(name) => {
                    return hold(name, class, image, wild);
                }
                Param::Named(_) => {}
            },
            // A renamed term is the term under other names.
            Term::Index(x, at) => {
                let renaming: Option<Vec<_>> = at
                    .iter()
                    .map(|(a, i)| match part.terms.term(*i) {
                        Term::Iota(b) => s.names.get(b).map(|b| (*a, *b)),
                        _ => None,
                    })
                    .collect();
                if let Some(renaming) = renaming {
                    let mut names = s.names.clone();
                    names.extend(renaming);
                    return self.term(Sought { term: *x, names: &names, ..s }, class, wild, renames);
                }
            }
            _ => {}
        }
        let mut ways = Vec::new();
        for node in self.nodes(class) {
            for way in self.node(s, node, wild, renames) {
                if ways.len() < WAYS && !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
        ways
    }

    fn node(&self, s: Sought, node: &Node, wild: &Wild, renames: u32) -> Vec<Wild> {
        let part = &self.form.parts[s.part];
        let xs = &node.children;
        if let Some(inner) = self.renaming(node, s.names)
            && renames < 2
        {
            return self.term(Sought { names: &inner, ..s }, xs[0], wild, renames + 1);
        }
        match (part.terms.term(s.term), &node.head) {
            (Term::Sum(bound, ys), Head::Product) if bound.is_empty() => self.multiset(s, ys, xs, wild, &Head::Product),
            (Term::Plus(ys), Head::Plus) => self.multiset(s, ys, xs, wild, &Head::Plus),
            (Term::Sum(bound, ys), Head::Sum(there)) if !bound.is_empty() => {
                self.under(s, bound, there, |names| self.multiset(Sought { names, ..s }, ys, xs, wild, &Head::Product))
            }
            (Term::Reduce(op, bound, y), Head::Reduce(same, there)) if op == same => {
                self.under(s, bound, there, |names| self.term(Sought { part: s.part, term: *y, names }, xs[0], wild, 0))
            }
            (Term::TopK(axis, rank, y), Head::TopK(a, r)) if s.names.get(rank) == Some(r) => {
                self.under(s, &Axes::from_iter([*axis]), &Axes::from_iter([*a]), |names| {
                    self.term(Sought { part: s.part, term: *y, names }, xs[0], wild, 0)
                })
            }
            (Term::Map(op, ys), Head::Map(same)) if op == same => {
                let mut ways = self.sequence(s, ys, xs, wild);
                if commutes(*op) {
                    ways.extend(self.sequence(s, &[ys[1], ys[0]], xs, wild));
                }
                ways
            }
            (Term::Read(y, v), Head::Read(w)) if s.names.get(v) == Some(w) => {
                let mut names = self.read_names(s.names, xs[0]);
                names.insert(part.terms.views[v], self.of.egraph.analysis.terms.views[w]);
                self.term(Sought { part: s.part, term: *y, names: &names }, xs[0], wild, 0)
            }
            (Term::Index(y, at), Head::Index(read)) => self.index(s, *y, at, read, xs, wild),
            (leaf, Head::Leaf(there)) => self.leaf(s, leaf, there).then(|| wild.clone()).into_iter().collect(),
            _ => vec![],
        }
    }

    /// The names below a read: what is read may stand under other axes of the same stems.
    fn read_names(&self, names: &Names, of: Id) -> Names {
        let (own, terms) = (self.axes_of(of), &self.of.egraph.analysis.terms);
        let name = |b: AxisId| {
            let other = |c: &AxisId| !terms.is_seq(*c) && terms.stem(*c) == terms.stem(b);
            if own.contains(b) { b } else { own.iter().find(other).unwrap_or(b) }
        };
        names.iter().map(|(a, b)| (*a, name(*b))).collect()
    }

    fn leaf(&self, s: Sought, leaf: &Term, there: &Term) -> bool {
        let part = &self.form.parts[s.part];
        let graph = &self.of.egraph.analysis.terms;
        let same_axes = || part.terms.free(s.term).iter().all(|a| self.model_names().get(&a) == s.names.get(&a));
        match (leaf, there) {
            (Term::Const(a), Term::Const(b)) => close(Value::from(*a), Value::from(*b)),
            (Term::Iota(a), Term::Iota(b)) => s.names.get(a) == Some(b),
            (Term::Length(a), Term::Length(b)) => a == b,
            (Term::Weight(n), Term::Weight(m)) => {
                part.terms.weight_names[*n as usize] == graph.weight_names[*m as usize] && same_axes()
            }
            (Term::Param(n), Term::Param(m)) => {
                let named =
                    matches!(&part.params[*n as usize], Param::Named(a) if *a == graph.param_names[*m as usize]);
                named && same_axes()
            }
            _ => false,
        }
    }

    /// The axis that an index merely names, if it does.
    fn named(&self, index: Id) -> Option<AxisId> {
        self.of.egraph[index].nodes.iter().find_map(|n| match n.head {
            Head::Leaf(Term::Iota(b)) => Some(b),
            _ => None,
        })
    }

    /// The names below a node that only renames axes.
    fn renaming(&self, node: &Node, names: &Names) -> Option<Names> {
        let Head::Index(read) = &node.head else { return None };
        let all = node.children[1..].iter().all(|i| self.named(*i).is_some());
        all.then(|| self.below(read, &node.children[1..], names))
    }

    /// The names below an index: what it calls by another name has its own there.
    fn below(&self, read: &[AxisId], indices: &[Id], names: &Names) -> Names {
        let own = |b: AxisId| {
            let renamed = read.iter().zip(indices).find(|(_, i)| self.named(**i) == Some(b)).map(|(a, _)| *a);
            renamed.or_else(|| (!read.contains(&b)).then_some(b))
        };
        names.iter().filter_map(|(a, b)| own(*b).map(|b| (*a, b))).collect()
    }

    fn index(
        &self,
        s: Sought,
        y: TermId,
        at: &[(AxisId, TermId)],
        read: &[AxisId],
        xs: &[Id],
        wild: &Wild,
    ) -> Vec<Wild> {
        let terms = &self.form.parts[s.part].terms;
        let inner = self.below(read, &xs[1..], s.names);
        let (renamed, real): (Vec<_>, Vec<_>) =
            at.iter().copied().partition(|(_, i)| matches!(terms.term(*i), Term::Iota(_)));
        let there: Vec<_> = read.iter().zip(&xs[1..]).filter(|(_, i)| self.named(**i).is_none()).collect();
        if real.len() != there.len() {
            return vec![];
        }
        let mut out = Vec::new();
        for order in orders(real.len()) {
            let mut names = inner.clone();
            for (a, i) in &renamed {
                let Term::Iota(b) = terms.term(*i) else { unreachable!("partitioned above") };
                let Some(b) = inner.get(b).copied() else { return vec![] };
                names.insert(*a, b);
            }
            names.extend(real.iter().zip(&order).map(|((a, _), n)| (*a, *there[*n].0)));
            let mut ways = self.term(Sought { part: s.part, term: y, names: &names }, xs[0], wild, 0);
            for ((_, i), n) in real.iter().zip(&order) {
                let at = Sought { term: *i, ..s };
                ways = ways.iter().flat_map(|w| self.term(at, *there[*n].1, w, 0)).collect();
            }
            out.extend(ways);
        }
        out
    }

    /// Every pairing of bound axes that are equally long.
    fn under(&self, s: Sought, bound: &Axes, there: &Axes, f: impl Fn(&Names) -> Vec<Wild>) -> Vec<Wild> {
        if bound.len() != there.len() {
            return vec![];
        }
        let (own, graph) = (&self.form.parts[s.part].terms.axes, &self.of.egraph.analysis.terms.axes);
        let alike = |a: AxisId, b: AxisId| own[a].extent == graph[b].extent;
        let mut out = Vec::new();
        for order in orders(bound.len()) {
            let pairs: Vec<_> = bound.iter().zip(order.iter().map(|n| there.as_slice()[*n])).collect();
            if pairs.iter().all(|(a, b)| alike(*a, *b)) {
                let mut names = s.names.clone();
                names.extend(pairs);
                out.extend(f(&names));
            }
        }
        out
    }

    fn sequence(&self, s: Sought, ys: &[TermId], xs: &[Id], wild: &Wild) -> Vec<Wild> {
        let start = vec![wild.clone()];
        ys.iter().zip(xs).fold(start, |ways, (y, x)| {
            ways.iter().flat_map(|w| self.term(Sought { term: *y, ..s }, *x, w, 0)).collect()
        })
    }

    /// Operands in any order; those of the same operation below count as its own.
    fn multiset(&self, s: Sought, ys: &[TermId], xs: &[Id], wild: &Wild, nested: &Head) -> Vec<Wild> {
        let Some((x, rest)) = xs.split_first() else {
            return if ys.is_empty() { vec![wild.clone()] } else { vec![] };
        };
        if ys.len() < xs.len() {
            return vec![];
        }
        let mut out = Vec::new();
        for (n, y) in ys.iter().enumerate() {
            let others: Vec<_> = ys.iter().enumerate().filter(|(k, _)| *k != n).map(|(_, y)| *y).collect();
            for way in self.term(Sought { term: *y, ..s }, *x, wild, 0) {
                out.extend(self.multiset(s, &others, rest, &way, nested));
            }
        }
        if out.is_empty() && ys.len() > xs.len() {
            for node in self.nodes(*x).iter().filter(|n| n.head == *nested && !n.children.contains(x)) {
                let flat: Vec<_> = node.children.iter().chain(rest).copied().collect();
                out.extend(self.multiset(s, ys, &flat, wild, nested));
            }
        }
        out.truncate(WAYS);
        out
    }
}

/// A wildcard stands for the same value under the same names each time.
fn hold(name: &str, class: Id, image: Vec<AxisId>, wild: &Wild) -> Vec<Wild> {
    let mut wild = wild.clone();
    let held = wild.entry(name.to_owned()).or_insert_with(|| (class, image.clone()));
    if *held == (class, image) { vec![wild] } else { vec![] }
}

fn commutes(op: ScalarOp) -> bool {
    matches!(
        op,
        ScalarOp::Add
            | ScalarOp::Mul
            | ScalarOp::Max
            | ScalarOp::Min
            | ScalarOp::Eq
            | ScalarOp::Ne
            | ScalarOp::And
            | ScalarOp::Or
    )
}

/// Literals that were folded in another order differ in their last bits.
fn close(a: Value, b: Value) -> bool {
    let reals = a.ty() == Type::Real && b.ty() == Type::Real;
    a == b || reals && (a.real() - b.real()).abs() <= 1e-12 * a.real().abs()
}

/// Every order of `n` things.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = orders(n - 1);
    let at = |order: &Vec<usize>, k: usize| {
        let mut order = order.clone();
        order.insert(k, n - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..n).map(move |k| at(order, k))).collect()
}
