//! The laws that the e-graph keeps both sides of, applied until nothing new comes.
//!
//! Products and sums are n-ary, so there is no associativity and no commutativity to saturate: a sum is split along
//! one bound axis at a time, which takes with it exactly the factors that have the axis.

use super::node::{Algebra, Head, Node, add};
use crate::normal::{Term, TermId, Terms};
use crate::rules::{Law, Trace};
use egg::Id;
use llmc_artifact::{ScalarOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::HashSet;

/// More than this and a block is refused as not saturating: a whole layer takes a few hundred.
pub const NODE_LIMIT: usize = 50_000;
const ROUND_LIMIT: usize = 40;

/// How saturation went.
#[derive(Clone, Debug, Default)]
pub struct Saturation {
    /// Rounds over all nodes.
    pub rounds: usize,
    /// Nodes at the end.
    pub nodes: usize,
    /// Classes at the end.
    pub classes: usize,
    /// Whether nothing new came in the last round; otherwise a limit was reached.
    pub saturated: bool,
    /// How often each law joined something new.
    pub trace: Trace,
    /// Every join: the law, a node of the class as it was, and the node that came.
    pub joins: Vec<(Law, Node, Node)>,
}

/// Applies the laws to a fixed point, or until there are so many nodes.
pub fn saturate(egraph: &mut Algebra, nodes: usize) -> Saturation {
    let mut report = Saturation::default();
    let mut seen: indexmap::IndexSet<(Id, Node)> = indexmap::IndexSet::new();
    egraph.rebuild();
    while report.rounds < ROUND_LIMIT && egraph.total_size() < nodes {
        report.rounds += 1;
        let mut todo: Vec<(Id, Node)> =
            egraph.classes().flat_map(|c| c.nodes.iter().map(|n| (c.id, n.clone()))).collect();
        todo.sort_unstable();
        todo.retain(|pair| !seen.contains(pair));
        if todo.is_empty() {
            report.saturated = true;
            break;
        }
        for (class, node) in todo {
            let laws = egraph.analysis.terms.laws;
            for (law, new) in alternatives(egraph, &node).into_iter().filter(|(law, _)| laws.has(*law)) {
                let made = egraph[new].nodes[0].clone();
                if egraph.union(class, new) {
                    report.trace.count(law);
                    report.joins.push((law, node.clone(), made));
                }
            }
            seen.insert((class, node));
        }
        egraph.rebuild();
    }
    report.nodes = egraph.total_size();
    report.classes = egraph.number_of_classes();
    report
}

/// The classes that a node's laws say are equal to it.
fn alternatives(egraph: &mut Algebra, node: &Node) -> Vec<(Law, Id)> {
    match &node.head {
        Head::Sum(bound) if real(egraph, node) => {
            let (bound, xs) = (bound.clone(), node.children.clone());
            let mut out = split(egraph, &bound, &xs);
            out.extend(group(egraph, &bound, &xs));
            out.extend(absorb(egraph, &bound, &xs));
            out.extend(distribute(egraph, &bound, &xs));
            out.extend(gather(egraph, &bound, &xs));
            out.extend(tally(egraph, &bound, &xs));
            out
        }
        Head::Product => {
            let mut out = sink(egraph, &node.children);
            out.extend(within(egraph, &node.children));
            out.extend(scale(egraph, &node.children));
            out
        }
        Head::Sum(_)
        | Head::Leaf(_)
        | Head::Plus
        | Head::Reduce(..)
        | Head::Map(_)
        | Head::Index(_)
        | Head::Read(_)
        | Head::TopK(..) => vec![],
    }
}

fn real(egraph: &Algebra, node: &Node) -> bool {
    node.children.iter().all(|x| egraph[*x].data.ty == Type::Real)
}

fn axes(egraph: &Algebra, x: Id) -> &Axes {
    &egraph[x].data.axes
}

/// `S[bound](xs)`, factors without bound axes outside, unless they scale a reduction that stays inside.
fn sum(egraph: &mut Algebra, bound: &Axes, xs: Vec<Id>) -> Id {
    let has = |x: Id| !axes(egraph, x).intersect(bound).is_empty();
    let reduces = |x: Id| egraph[x].nodes.iter().any(|n| matches!(n.head, Head::Sum(_)));
    let scales = |x: Id| {
        let free = axes(egraph, x);
        !free.is_empty() && xs.iter().any(|y| *y != x && has(*y) && reduces(*y) && free.is_subset(axes(egraph, *y)))
    };
    let leaves = egraph.analysis.terms.laws.has(Law::Hoist) || bound.is_empty();
    let (inside, mut outside): (Vec<Id>, Vec<Id>) = xs.iter().partition(|x| has(**x) || scales(**x) || !leaves);
    if !inside.is_empty() {
        outside.push(if bound.is_empty() {
            product(egraph, inside)
        } else {
            add(egraph, Head::Sum(bound.clone()), inside)
        });
    }
    product(egraph, outside)
}

fn product(egraph: &mut Algebra, xs: Vec<Id>) -> Id {
    match xs[..] {
        [only] => only,
        _ => add(egraph, Head::Product, xs),
    }
}

/// Elimination of each bound axis: its factors become a sum of their own, over all the axes that only they have.
fn split(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    for a in bound.iter() {
        let (with, without): (Vec<Id>, Vec<Id>) = xs.iter().partition(|x| axes(egraph, **x).contains(a));
        if without.is_empty() || with.is_empty() {
            continue;
        }
        if without.iter().all(|x| axes(egraph, *x).intersect(bound).is_empty()) {
            // What is left has no bound axis: that would be the hoisting that `sum` decides about.
            continue;
        }
        let lacks = |b: AxisId| !without.iter().any(|x| axes(egraph, *x).contains(b));
        let laws = egraph.analysis.terms.laws;
        let own: Axes = bound.iter().filter(|b| laws.require(Law::Split, lacks(*b))).collect();
        let inner = sum(egraph, &own, with);
        let mut rest = without;
        rest.push(inner);
        out.push((Law::Split, sum(egraph, &bound.minus(&own), rest)));
    }
    out
}

/// What multiplies the weights becomes one factor: the activation.
fn group(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Option<(Law, Id)> {
    let (weights, rest): (Vec<Id>, Vec<Id>) = xs.iter().partition(|x| is_wide_weight(egraph, **x));
    if weights.is_empty() || rest.len() < 2 || rest.iter().all(|x| egraph[*x].data.weight_only) {
        return None;
    }
    let activation = product(egraph, rest);
    let mut all = weights;
    all.push(activation);
    Some((Law::Group, add(egraph, Head::Sum(bound.clone()), all)))
}

/// Whether a factor is a weight that is not merely a vector along what is summed: such go with the activation.
fn is_wide_weight(egraph: &Algebra, x: Id) -> bool {
    egraph[x].data.weight_only && axes(egraph, x).len() > 1
}

/// Factors that depend on weights alone become one weight, of the largest one's axes. Never a quantised one.
fn absorb(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Option<(Law, Id)> {
    let (weights, rest): (Vec<Id>, Vec<Id>) = xs.iter().partition(|x| egraph[**x].data.weight_only);
    if weights.len() < 2 || rest.is_empty() || weights.iter().any(|w| egraph[*w].data.quantised) {
        return None;
    }
    let all = weights.iter().fold(Axes::none(), |a, w| a.union(axes(egraph, *w)));
    if !weights.iter().any(|w| *axes(egraph, *w) == all) {
        return None;
    }
    let made = product(egraph, weights);
    let mut factors = rest;
    factors.push(made);
    Some((Law::Absorb, add(egraph, Head::Sum(bound.clone()), factors)))
}

/// A factor outside a sum goes into the first factor inside that has all of its axes, unless something of it is squared; a
/// literal into a weight.
fn sink(egraph: &mut Algebra, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    // Some of several equal factors changed and the others not are as many forms as there are ways to choose.
    let once = |f: Id| xs.iter().filter(|x| **x == f).count() == 1;
    for (i, sum_class) in xs.iter().enumerate().filter(|(_, s)| once(**s)) {
        let sums: Vec<Node> = egraph[*sum_class]
            .nodes
            .iter()
            .filter(|n| matches!(n.head, Head::Sum(_)) && real(egraph, n))
            .cloned()
            .collect();
        for (j, f) in xs.iter().enumerate().filter(|(j, f)| *j != i && once(**f)) {
            for node in &sums {
                let Head::Sum(bound) = &node.head else { unreachable!("filtered above") };
                if !egraph.analysis.terms.laws.require(Law::Sink, axes(egraph, *f).intersect(bound).is_empty()) {
                    continue;
                }
                let Some(k) = place_for(egraph, *f, &node.children) else { continue };
                // One of two equal factors changed alone would be computed apart.
                if node.children.iter().filter(|x| **x == node.children[k]).count() > 1 {
                    continue;
                }
                let mut inside = node.children.clone();
                inside[k] = product(egraph, vec![*f, inside[k]]);
                let sunk = add(egraph, Head::Sum(bound.clone()), inside);
                let mut rest: Vec<_> = (0..xs.len()).filter(|n| *n != i && *n != j).map(|n| xs[n]).collect();
                rest.push(sunk);
                out.push((Law::Sink, product(egraph, rest)));
            }
        }
    }
    out
}

/// The nodes of a class that sum a product over weights none of which is quantised, each with a weight's place.
fn sums_over_weights(egraph: &Algebra, x: Id) -> Vec<(Node, usize)> {
    let place = |n: &Node| {
        let plain = n.children.iter().all(|y| !egraph[*y].data.quantised);
        let weight = n.children.iter().position(|y| egraph[*y].data.weight_only);
        weight.filter(|_| plain).map(|k| (n.clone(), k))
    };
    let is_sum = |n: &&Node| matches!(n.head, Head::Sum(_)) && real(egraph, n);
    if egraph[x].data.weight_only { vec![] } else { egraph[x].nodes.iter().filter(is_sum).filter_map(place).collect() }
}

fn is_literal(egraph: &Algebra, x: Id) -> bool {
    egraph[x].data.weight_only && axes(egraph, x).is_empty()
}

/// A literal goes under an index, into the weight of what is read there.
fn within(egraph: &mut Algebra, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    let Some(j) = (0..xs.len()).find(|j| is_literal(egraph, xs[*j])) else { return out };
    for i in (0..xs.len()).filter(|i| *i != j) {
        let reads: Vec<Node> =
            egraph[xs[i]].nodes.iter().filter(|n| matches!(n.head, Head::Index(_))).cloned().collect();
        for read in reads {
            for (sum, k) in sums_over_weights(egraph, read.children[0]) {
                let mut inside = sum.children.clone();
                inside[k] = product(egraph, vec![xs[j], inside[k]]);
                let mut children = read.children.clone();
                children[0] = add(egraph, sum.head.clone(), inside);
                let mut rest: Vec<_> = (0..xs.len()).filter(|n| *n != i && *n != j).map(|n| xs[n]).collect();
                rest.push(add(egraph, read.head.clone(), children));
                out.push((Law::Within, product(egraph, rest)));
            }
        }
    }
    out
}

/// A literal times a sum, each of whose addends takes it into a weight.
fn scale(egraph: &mut Algebra, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    let Some(j) = (0..xs.len()).find(|j| is_literal(egraph, xs[*j])) else { return out };
    for i in (0..xs.len()).filter(|i| *i != j) {
        let sums: Vec<Node> = egraph[xs[i]].nodes.iter().filter(|n| n.head == Head::Plus).cloned().collect();
        for sum in sums {
            let addends: Vec<Vec<Id>> = sum.children.iter().map(|y| factors_of(egraph, *y)).collect();
            if !addends.iter().all(|factors| factors.iter().any(|f| takes_literal(egraph, *f))) {
                continue;
            }
            let scaled: Vec<Id> = addends
                .into_iter()
                .map(|mut factors| {
                    factors.push(xs[j]);
                    product(egraph, factors)
                })
                .collect();
            let mut rest: Vec<_> = (0..xs.len()).filter(|n| *n != i && *n != j).map(|n| xs[n]).collect();
            rest.push(add(egraph, Head::Plus, scaled));
            out.push((Law::Scale, product(egraph, rest)));
        }
    }
    out
}

/// Whether a literal beside it can go into a weight.
fn takes_literal(egraph: &Algebra, x: Id) -> bool {
    let reads = egraph[x].nodes.iter().filter(|n| matches!(n.head, Head::Index(_)));
    !sums_over_weights(egraph, x).is_empty()
        || reads.into_iter().any(|n| !sums_over_weights(egraph, n.children[0]).is_empty())
}

/// Which factor takes `f`: for what is made at load a plain weight, else one that is not made at load.
fn place_for(egraph: &Algebra, f: Id, xs: &[Id]) -> Option<usize> {
    let fact = &egraph[f].data;
    let takes = |x: Id, at_load: bool| {
        let to = &egraph[x].data;
        to.weight_only == at_load && !to.quantised && fact.axes.is_subset(&to.axes)
    };
    let same = xs.iter().position(|x| takes(*x, fact.weight_only));
    // A literal goes into the smallest factor that has no weight beside it.
    same.or_else(|| {
        let none_at_load = !xs.iter().any(|x| egraph[*x].data.weight_only);
        let fits = fact.weight_only && fact.axes.is_empty() && none_at_load;
        let views = |x: Id| egraph.analysis.terms.views_in(axes(egraph, x)).len();
        if fits { (0..xs.len()).find(|k| views(xs[*k]) == 0) } else { None }
    })
}

/// A product over a sum, where an addend then leaves the reduction or is made at load: the mean of a layer norm; or where
/// an addend is gathered from a table, and could be multiplied before: keys of relative positions.
fn distribute(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    for (i, x) in xs.iter().enumerate() {
        let others: Vec<Id> = (0..xs.len()).filter(|j| *j != i).map(|j| xs[j]).collect();
        if others.is_empty() {
            continue;
        }
        let plain = others.iter().all(|y| egraph[*y].data.weight_only && !egraph[*y].data.quantised);
        let Some(sum_node) = egraph[*x].nodes.iter().find(|n| n.head == Head::Plus).cloned() else { continue };
        let leaves = |y: &Id| {
            plain && (axes(egraph, *y).intersect(bound).is_empty() || egraph[*y].data.weight_only)
                || !plain && is_gathered(egraph, *y)
        };
        let (apart, kept): (Vec<Id>, Vec<Id>) = sum_node.children.iter().partition(|y| leaves(y));
        if apart.is_empty() || kept.is_empty() {
            continue;
        }
        let kept = match kept[..] {
            [only] => only,
            _ => add(egraph, Head::Plus, kept),
        };
        let mut parts = Vec::new();
        for part in std::iter::once(kept).chain(apart) {
            let mut factors = others.clone();
            factors.extend(factors_of(egraph, part));
            let covered = factors.iter().fold(Axes::none(), |a, f| a.union(axes(egraph, *f)));
            if !bound.is_subset(&covered) {
                return out;
            }
            parts.push(sum(egraph, bound, factors));
        }
        out.push((Law::Distribute, add(egraph, Head::Plus, parts)));
    }
    out
}

/// Whether a class is a table of weights, read at an index that is known only when it runs.
fn is_gathered(egraph: &Algebra, x: Id) -> bool {
    let table = |n: &Node| matches!(n.head, Head::Index(_)) && egraph[n.children[0]].data.weight_only;
    !egraph[x].data.weight_only && egraph[x].nodes.iter().any(table)
}

/// The factors of a class that holds a product, or the class.
fn factors_of(egraph: &Algebra, x: Id) -> Vec<Id> {
    match egraph[x].nodes.iter().find(|n| n.head == Head::Product) {
        Some(node) => node.children.clone(),
        None => vec![x],
    }
}

/// A factor that is read at an index is multiplied first and read afterwards: a small product, then a gather.
fn gather(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    for (i, x) in xs.iter().enumerate() {
        let reads: Vec<Node> = egraph[*x].nodes.iter().filter(|n| matches!(n.head, Head::Index(_))).cloned().collect();
        for node in reads {
            let Head::Index(read) = &node.head else { unreachable!("filtered above") };
            let others: Vec<Id> = (0..xs.len()).filter(|j| *j != i).map(|j| xs[j]).collect();
            if others.is_empty() {
                continue;
            }
            if let Some(new) = gathered(egraph, bound, &others, read, &node.children) {
                out.push((Law::Gather, new));
            }
        }
    }
    out
}

fn gathered(egraph: &mut Algebra, bound: &Axes, others: &[Id], read: &[AxisId], children: &[Id]) -> Option<Id> {
    let at: Vec<(AxisId, Id)> = read.iter().copied().zip(children[1..].iter().copied()).collect();
    let is_rename = |i: Id| egraph[i].nodes.iter().any(|n| matches!(n.head, Head::Leaf(Term::Iota(_))));
    let (outer, inner): (Vec<_>, Vec<_>) =
        at.into_iter().partition(|(_, i)| !is_rename(*i) && axes(egraph, *i).intersect(bound).is_empty());
    let names: Axes = outer.iter().map(|(a, _)| *a).collect();
    let meets = |a: &Axes| !a.intersect(&names).is_empty();
    let captured = meets(bound)
        || others.iter().any(|x| meets(axes(egraph, *x)))
        || inner.iter().any(|(_, i)| meets(axes(egraph, *i)));
    // The sequence's own axis is no table that could be multiplied beforehand.
    let tokens = names.iter().any(|a| egraph.analysis.terms.is_seq(a));
    if outer.is_empty() || !egraph.analysis.terms.laws.require(Law::Gather, !captured) || tokens {
        return None;
    }
    let x = if inner.is_empty() {
        children[0]
    } else {
        let xs = std::iter::once(children[0]).chain(inner.iter().map(|(_, i)| *i)).collect();
        add(egraph, Head::Index(inner.iter().map(|(a, _)| *a).collect()), xs)
    };
    if axes(egraph, x).intersect(bound).is_empty() {
        return None;
    }
    let mut factors = others.to_vec();
    factors.push(x);
    let product = sum(egraph, bound, factors);
    let xs = std::iter::once(product).chain(outer.iter().map(|(_, i)| *i)).collect();
    Some(add(egraph, Head::Index(outer.iter().map(|(a, _)| *a).collect()), xs))
}

/// A table that is read at an index of the sum is multiplied by what met each of its rows: `OneHot`, backwards. What comes
/// reads no table within the sum, so that the law ends; and no law of the e-graph takes it back.
fn tally(egraph: &mut Algebra, bound: &Axes, xs: &[Id]) -> Vec<(Law, Id)> {
    let mut out = Vec::new();
    for (i, x) in xs.iter().enumerate() {
        let others: Vec<Id> = (0..xs.len()).filter(|j| *j != i).map(|j| xs[j]).collect();
        if others.is_empty() || !is_gathered(egraph, *x) {
            continue;
        }
        let reads: Vec<Node> = egraph[*x].nodes.iter().filter(|n| matches!(n.head, Head::Index(_))).cloned().collect();
        for node in reads {
            let Head::Index(read) = &node.head else { unreachable!("filtered above") };
            if let Some(new) = tallied(egraph, bound, &others, read, &node.children) {
                out.push((Law::Tally, new));
            }
        }
    }
    out
}

fn tallied(egraph: &mut Algebra, bound: &Axes, others: &[Id], read: &[AxisId], children: &[Id]) -> Option<Id> {
    let (table, indices) = children.split_first()?;
    let runs = |i: &Id| !axes(egraph, *i).intersect(bound).is_empty();
    let running: Vec<usize> = (0..indices.len()).filter(|n| runs(&indices[*n])).collect();
    let [n] = running[..] else { return None };
    let (b, i) = (read[n], indices[n]);
    // A loop over tokens is longer than any table; over experts that were chosen it is shorter.
    if !axes(egraph, i).intersect(bound).iter().any(|a| egraph.analysis.terms.is_seq(a)) {
        return None;
    }
    let rows = egraph.analysis.terms.axes.len_of(b)?;
    let (least, most) = egraph[i].data.bounds?;
    let lacks = axes(egraph, *table).intersect(bound).is_empty() && egraph[*table].data.weight_only;
    if !lacks || least < 0 || most >= rows as i64 {
        return None;
    }
    let met = others.iter().fold(axes(egraph, i).clone(), |a, x| a.union(axes(egraph, *x)));
    let kept = indices.iter().fold(axes(egraph, *table).clone(), |a, x| a.union(axes(egraph, *x)));
    let carried = kept.minus(&read.iter().copied().collect()).minus(&met);
    let size: u64 = carried.iter().map(|a| egraph.analysis.terms.axes.len_of(a)).product::<Option<u64>>()?;
    if size <= rows {
        return None;
    }
    let row = row_axis(egraph, b, &met.union(&kept).union(bound));
    let here = add(egraph, Head::Leaf(Term::Iota(row)), vec![]);
    let mut at = children.to_vec();
    at[n + 1] = here;
    let rows_of_table = add(egraph, Head::Index(read.to_vec()), at);
    let zero = add(egraph, Head::Leaf(Term::Const(Value::Real(0.0).into())), vec![]);
    let is_row = add(egraph, Head::Map(ScalarOp::Eq), vec![here, i]);
    let product = product(egraph, others.to_vec());
    let counted = add(egraph, Head::Map(ScalarOp::Where), vec![is_row, product, zero]);
    let tally = add(egraph, Head::Sum(bound.clone()), vec![counted]);
    Some(add(egraph, Head::Sum(Axes::from_iter([row])), vec![rows_of_table, tally]))
}

/// An axis to bind that stands for the rows of a table, other than these.
fn row_axis(egraph: &mut Algebra, of: AxisId, taken: &Axes) -> AxisId {
    let terms = &mut egraph.analysis.terms;
    let stem = terms.stem(of);
    let laws = terms.laws;
    let free = |a: &AxisId| laws.require(Law::Tally, !taken.contains(*a));
    (1..).map(|level| terms.binder(stem, level)).find(free).expect("there is always a next level")
}

/// The law `Commute`, as terms: a sum that is read at an index, and the sum of what is read there; also within the
/// latter.
pub fn commuted(terms: &mut Terms, roots: &[TermId]) -> Vec<(TermId, TermId)> {
    let mut pairs = Vec::new();
    if !terms.laws.has(Law::Commute) {
        return pairs;
    }
    let mut todo = crate::normal::text::reachable(terms, roots.iter().copied());
    let mut seen: HashSet<TermId> = todo.iter().copied().collect();
    while let Some(id) = todo.pop() {
        let Some(inside) = commutes(terms, id) else { continue };
        pairs.push((id, inside));
        todo.extend(crate::normal::text::reachable(terms, [inside]).into_iter().filter(|x| seen.insert(*x)));
    }
    pairs
}

/// The sum of what is read, for a sum that is read where a token chose, or where only weights are: that moves their rows
/// about at load.
fn commutes(terms: &mut Terms, id: TermId) -> Option<TermId> {
    let Term::Index(x, at) = terms.term(id).clone() else { return None };
    let Term::Sum(bound, xs) = terms.term(x).clone() else { return None };
    let caught = at.iter().any(|(_, i)| !terms.free(*i).intersect(&bound).is_empty());
    let own = at.iter().any(|(a, _)| terms.is_seq(*a));
    let chosen = at.iter().any(|(_, i)| terms.info(*i).token_dependent);
    let weights = xs.iter().all(|f| {
        let read = at.iter().any(|(a, _)| terms.free(*f).contains(*a));
        !read || terms.info(*f).weight_only
    });
    if bound.is_empty() || !terms.laws.require(Law::Commute, !caught) || own || !(weights || chosen) {
        return None;
    }
    let inside: Vec<_> = xs.iter().map(|f| terms.index(*f, &at)).collect();
    Some(terms.sum(&bound, &inside))
}
