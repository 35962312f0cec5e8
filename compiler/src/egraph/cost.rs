//! What an extracted form costs, before kernels are formed: seconds of the one roofline (`crate::cost`), node by node.
//!
//! A first estimate that ranks algebraic alternatives; the stage that forms kernels costs them whole. Tokens have the
//! lengths of the role. What depends on weights alone is free at run time, but may not be larger than the largest
//! weight there is, nor de-quantise one; where a product reads it, its bytes count.

use super::alike::Renamings;
use super::node::{Algebra, Fact, Head, Node};
use crate::cost::{Arithmetic, Lengths, Machine, Role};
use crate::normal::Term;
use egg::Id;
use indexmap::IndexMap;
use llmc_frontend::graph::{Axes, Extent};
use std::cell::RefCell;

/// An operation within a loop over pairs of tokens has no store to hide behind.
const IN_LOOP: f64 = 4.0;
/// Seconds of what may be chosen only where there is no choice: more than anything else costs.
pub const FORBIDDEN: f64 = 1e9;
/// Every node costs something, so that the cheapest tree has no circle: seconds.
const LEAST: f64 = 1e-14;
/// Bytes of an activation's element, and of a weight made at load.
const PLAIN: f64 = 4.0;
/// Bytes of a cached element.
pub const CACHED: f64 = 2.0;

/// Classes of values that are read under several names, and the class that stands for them.
pub type Bases = IndexMap<Id, Id>;

/// What costs are measured by.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The roofline.
    pub machine: Machine,
    /// The lengths of tokens.
    pub role: Role,
    /// Bytes of an element of each weight slot, and whether it is quantised. Slots beyond the list hold plain f32.
    pub weights: Vec<(f64, bool)>,
}

/// A class's number among the priced ones.
pub type Class = u32;

/// A node over class numbers, with what it costs beside its prologues.
#[derive(Clone, Debug)]
pub struct Priced {
    /// The node, whose read value may stand under other names.
    pub node: Node,
    /// The node as it is in the e-graph.
    pub plain: Node,
    /// Its children.
    pub children: Vec<Class>,
    /// Seconds.
    pub fixed: f64,
    /// Whether it is taken only where there is nothing else.
    pub forbidden: bool,
    /// Whether it takes the sum of a product: its pointwise factors must be made before it starts.
    pub sums: bool,
    /// Whether it computes each element from the same element of its children.
    pub pointwise: bool,
    /// Whether it reduces.
    pub reduces: bool,
    /// The class whose value at other tokens it reads.
    pub reads: Option<Class>,
    /// Whether it is its first child under other names.
    pub renames: bool,
}

/// The nodes of an e-graph with their prices for one role: classes by number, in the order of their ids.
pub struct Prices {
    ids: Vec<Id>,
    numbers: IndexMap<Id, Class>,
    nodes: Vec<Vec<Priced>>,
    axes: Vec<Axes>,
    weight_only: Vec<bool>,
    /// Seconds of storing a class's value and reading it back.
    stored: Vec<f64>,
    /// Seconds of appending the tokens of a step to a cache of the class's value.
    appended: Vec<f64>,
    /// Bytes of a token in such a cache.
    cached: Vec<f64>,
    launch: f64,
    /// For a class, what any of its forms is made of: found when it is asked for.
    below: RefCell<IndexMap<Class, Vec<u64>>>,
}

impl Prices {
    /// Prices of a prompt's tokens on the generic machine.
    #[cfg(test)]
    pub fn new(egraph: &Algebra) -> Prices {
        let weights = egraph.analysis.quantised.iter().map(|q| (PLAIN, *q)).collect();
        Prices::of(
            egraph,
            &Subject { machine: Machine::default(), role: Role::Prefill, weights },
            &Bases::new(),
            &Renamings::new(),
        )
    }

    /// Prices for a subject. `bases` are the classes that stand for others under other names: what is read at other tokens is
    /// one value, whatever its axes are called. A class with a renaming has no other form.
    pub fn of(egraph: &Algebra, subject: &Subject, bases: &Bases, renamings: &Renamings) -> Prices {
        let mut ids: Vec<_> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        let numbers: IndexMap<Id, Class> = ids.iter().enumerate().map(|(n, id)| (*id, n as Class)).collect();
        let pricing = Pricing::new(egraph, subject, bases, renamings);
        let of = |f: &dyn Fn(&Fact) -> f64| ids.iter().map(|id| f(&egraph[*id].data)).collect::<Vec<_>>();
        Prices {
            nodes: ids.iter().map(|id| pricing.class(*id, &numbers)).collect(),
            axes: ids.iter().map(|id| egraph[*id].data.axes.clone()).collect(),
            weight_only: ids.iter().map(|id| egraph[*id].data.weight_only).collect(),
            stored: of(&|fact| pricing.stored(&fact.axes)),
            appended: of(&|fact| subject.machine.from_memory(pricing.points(&fact.axes) * CACHED)),
            cached: of(&|fact| pricing.of_token(&fact.axes) * CACHED),
            launch: subject.machine.launch,
            below: RefCell::default(),
            numbers,
            ids,
        }
    }

    /// Number of classes.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// A class's number.
    pub fn number(&self, egraph: &Algebra, id: Id) -> Class {
        self.numbers[&egraph.find(id)]
    }

    /// A class's id.
    pub fn id(&self, class: Class) -> Id {
        self.ids[class as usize]
    }

    /// The nodes of a class, in order.
    pub fn nodes(&self, class: Class) -> &[Priced] {
        &self.nodes[class as usize]
    }

    /// Seconds of appending a step's tokens to a cache of this class.
    pub fn appended(&self, class: Class) -> f64 {
        self.appended[class as usize]
    }

    /// Bytes of one token in a cache of this class.
    pub fn cached_bytes(&self, class: Class) -> f64 {
        self.cached[class as usize]
    }

    /// What a sum pays for its factors, under a choice for them.
    pub fn prologues<'a>(&'a self, node: &Priced, chosen: &dyn Fn(Class) -> Option<&'a Priced>) -> f64 {
        if node.sums { node.children.iter().map(|x| self.prologue(*x, chosen)).sum() } else { 0.0 }
    }

    /// A pointwise factor is written and read again, unless it is what becomes of a reduction before that is stored;
    /// where it waits for a reduction over itself, it takes another pass.
    fn prologue<'a>(&'a self, x: Class, chosen: &dyn Fn(Class) -> Option<&'a Priced>) -> f64 {
        let x = through(x, chosen);
        if self.weight_only[x as usize] || !chosen(x).is_some_and(|n| n.pointwise) {
            return 0.0;
        }
        let mut wide = vec![x];
        let (mut narrow, mut ends_reduction, mut at) = (Vec::new(), false, 0);
        while at < wide.len() {
            let (of, node) = (wide[at], chosen(wide[at]).filter(|n| n.pointwise));
            at += 1;
            for y in node.iter().flat_map(|n| &n.children) {
                let own = through(*y, chosen);
                if self.axes[*y as usize] != self.axes[of as usize] {
                    narrow.push(*y);
                } else if !wide.contains(&own) {
                    wide.push(own);
                    ends_reduction |= chosen(own).is_some_and(|n| n.reduces);
                }
            }
        }
        let waits = narrow.iter().any(|y| self.is_made_of(*y, &wide));
        let store = self.stored[x as usize];
        match (ends_reduction, waits) {
            (true, false) => 0.0,
            (false, false) => store + self.launch,
            (_, true) => 2.0 * store + self.launch,
        }
    }

    /// Whether some form of a class is made of one of these.
    fn is_made_of(&self, class: Class, of: &[Class]) -> bool {
        let mut known = self.below.borrow_mut();
        let below = known.entry(class).or_insert_with(|| self.everything_below(class));
        of.iter().any(|w| below[*w as usize / 64] >> (w % 64) & 1 == 1)
    }

    fn everything_below(&self, class: Class) -> Vec<u64> {
        let mut seen = vec![0u64; self.count().div_ceil(64)];
        let mut stack = vec![class];
        while let Some(c) = stack.pop() {
            for x in self.nodes(c).iter().flat_map(|n| &n.children) {
                let (word, bit) = (*x as usize / 64, 1u64 << (x % 64));
                if seen[word] & bit == 0 {
                    seen[word] |= bit;
                    stack.push(*x);
                }
            }
        }
        seen
    }
}

/// The class that a chosen renaming renames.
fn through<'a>(mut x: Class, chosen: &dyn Fn(Class) -> Option<&'a Priced>) -> Class {
    while let Some(node) = chosen(x).filter(|n| n.renames) {
        x = node.children[0];
    }
    x
}

/// Prices nodes one by one.
struct Pricing<'a> {
    egraph: &'a Algebra,
    subject: &'a Subject,
    bases: &'a Bases,
    renamings: &'a Renamings,
    lengths: Lengths,
    largest_weight: f64,
}

impl<'a> Pricing<'a> {
    fn new(egraph: &'a Algebra, subject: &'a Subject, bases: &'a Bases, renamings: &'a Renamings) -> Pricing<'a> {
        let mut pricing =
            Pricing { egraph, subject, bases, renamings, lengths: subject.role.lengths(), largest_weight: 0.0 };
        let weights = &egraph.analysis.terms.weights;
        pricing.largest_weight = weights.iter().map(|(axes, _)| pricing.points(axes)).fold(65_536.0, f64::max);
        pricing
    }

    fn class(&self, id: Id, numbers: &IndexMap<Id, Class>) -> Vec<Priced> {
        let renaming = self.renamings.get(&id);
        let mut nodes = renaming.map_or_else(|| self.egraph[id].nodes.clone(), |n| vec![n.clone()]);
        nodes.sort_unstable();
        let number = |x: &Id| numbers[&self.egraph.find(*x)];
        let read = |plain: Node| {
            let mut node = plain.clone();
            if matches!(node.head, Head::Read(_)) {
                let of = self.egraph.find(node.children[0]);
                node.children[0] = self.bases.get(&of).copied().unwrap_or(of);
            }
            (node, plain)
        };
        let priced = |(node, plain): (Node, Node)| Priced {
            children: node.children.iter().map(number).collect(),
            fixed: if renaming.is_some() { LEAST } else { self.node(id, &node) },
            renames: renaming.is_some(),
            forbidden: self.egraph[id].data.weight_only && self.is_forbidden_at_load(&self.egraph[id].data, &node),
            sums: matches!(node.head, Head::Sum(_)) && !self.egraph[id].data.weight_only,
            pointwise: node.is_pointwise(),
            reduces: matches!(node.head, Head::Sum(_) | Head::Reduce(..)),
            reads: matches!(node.head, Head::Read(_)).then(|| number(&node.children[0])),
            node,
            plain,
        };
        nodes.into_iter().map(read).map(priced).collect()
    }

    /// The number of points of some axes.
    fn points(&self, axes: &Axes) -> f64 {
        let terms = &self.egraph.analysis.terms;
        let length = |a| match terms.axes[a].extent {
            Extent::Const(n) => n as f64,
            Extent::Seq(_) => self.lengths.rows as f64,
            Extent::View(_) => self.lengths.keys as f64,
        };
        axes.iter().map(length).product()
    }

    /// The number of elements of one token.
    fn of_token(&self, axes: &Axes) -> f64 {
        axes.iter().filter_map(|a| self.egraph.analysis.terms.axes.len_of(a)).map(|n| n as f64).product()
    }

    fn of_pairs(&self, axes: &Axes) -> bool {
        axes.iter().filter(|a| self.egraph.analysis.terms.is_seq(*a)).count() > 1
    }

    /// Writing and reading a value once; pairs of tokens are never stored, they live within a loop.
    fn stored(&self, axes: &Axes) -> f64 {
        let bytes = self.points(axes) * PLAIN;
        if self.of_pairs(axes) { 0.0 } else { 2.0 * self.subject.machine.through(bytes) }
    }

    /// One pointwise operation at every point.
    fn pointwise(&self, axes: &Axes) -> f64 {
        let each = if self.of_pairs(axes) { IN_LOOP } else { 1.0 };
        each * self.points(axes) / self.subject.machine.rate(Arithmetic::Scalar)
    }

    /// What a node costs beyond its children and its prologues.
    fn node(&self, class: Id, node: &Node) -> f64 {
        let fact = &self.egraph[class].data;
        let least = LEAST * (1.0 + 1e-3 * node.children.len() as f64);
        if fact.weight_only {
            return least;
        }
        let elements = |bound: &Axes| self.points(&fact.axes.union(bound));
        let reduce = |n: f64| 2.0 * n / self.subject.machine.rate(Arithmetic::F32);
        least
            + match &node.head {
                Head::Leaf(_) => 0.0,
                Head::Read(_) => self.subject.machine.from_memory(self.points(&fact.axes) * CACHED),
                Head::Product | Head::Plus => self.pointwise(&fact.axes) * (node.children.len() as f64 - 1.0),
                Head::Map(_) | Head::Index(_) => self.pointwise(&fact.axes),
                Head::Sum(bound) => self.sum(fact, bound, &node.children),
                Head::Reduce(_, bound) => reduce(elements(bound)),
                Head::TopK(axis, _) => reduce(elements(&Axes::from_iter([*axis])) * 4.0),
            }
    }

    /// A sum of a product: its multiplications while its weights come from memory, and its result stored.
    fn sum(&self, fact: &Fact, bound: &Axes, factors: &[Id]) -> f64 {
        let machine = &self.subject.machine;
        let (mut bytes, mut kind) = (0.0, Arithmetic::F32);
        for x in factors {
            let (of, mut element, quantised) = self.weight(*x);
            if !quantised && element < PLAIN && self.is_computed_with(*x, factors, bound) {
                element = PLAIN;
            }
            bytes += of * element;
            if quantised {
                kind = Arithmetic::Int8;
            } else if element < PLAIN && of > 0.0 && kind == Arithmetic::F32 {
                kind = Arithmetic::F16;
            }
        }
        // Of n factors n - 1 multiplications and an addition.
        let operations = self.points(&fact.axes.union(bound)) * factors.len() as f64;
        let computing = operations / machine.rate(kind);
        computing.max(machine.from_memory(bytes)) + self.stored(&fact.axes)
    }

    /// Whether a weight is multiplied with others at load, and then has four bytes. A vector along what is summed goes with the
    /// activation instead, which other products share; scaled by a literal it would make another one.
    fn is_computed_with(&self, weight: Id, factors: &[Id], bound: &Axes) -> bool {
        let at_load = |x: Id| self.egraph[x].data.weight_only;
        let literal = |x: Id| at_load(x) && self.egraph[x].data.axes.is_empty();
        let is_scaled = |n: &Node| n.head == Head::Product && n.children.iter().any(|x| literal(*x));
        let goes = |x: Id| {
            let axes = &self.egraph[x].data.axes;
            !axes.is_empty() && axes.is_subset(bound) && !self.egraph[x].nodes.iter().any(is_scaled)
        };
        factors.iter().any(|x| *x != weight && at_load(*x) && !goes(*x))
    }

    /// How many elements of a weight a factor is, the bytes of each, and whether it is quantised. A weight that is
    /// read at what a token chose is read for every token, until all of it is.
    fn weight(&self, x: Id) -> (f64, f64, bool) {
        let class = &self.egraph[x];
        for node in &class.nodes {
            match (&node.head, node.children.first()) {
                (Head::Leaf(Term::Weight(n)), _) => {
                    let (bytes, quantised) = self.slot(*n);
                    return (self.points(&class.data.axes), bytes, quantised);
                }
                (Head::Index(_), Some(of)) => {
                    let slot = self.egraph[*of].nodes.iter().find_map(|n| match n.head {
                        Head::Leaf(Term::Weight(n)) => Some(n),
                        _ => None,
                    });
                    if let Some(n) = slot {
                        let (bytes, quantised) = self.slot(n);
                        let whole = self.points(&self.egraph[*of].data.axes);
                        return (self.points(&class.data.axes).min(whole), bytes, quantised);
                    }
                }
                _ => {}
            }
        }
        if class.data.weight_only { (self.points(&class.data.axes), PLAIN, false) } else { (0.0, PLAIN, false) }
    }

    fn slot(&self, n: u32) -> (f64, bool) {
        self.subject.weights.get(n as usize).copied().unwrap_or((PLAIN, false))
    }

    /// Whether a weight would be de-quantised, or made larger than any there is.
    fn is_forbidden_at_load(&self, fact: &Fact, node: &Node) -> bool {
        let plain = match &node.head {
            Head::Leaf(_) => true,
            Head::Index(_) => {
                let of = &self.egraph[node.children[0]].nodes;
                of.iter().any(|n| matches!(n.head, Head::Leaf(Term::Weight(_))))
            }
            _ => false,
        };
        !plain && (fact.quantised || self.points(&fact.axes) > self.largest_weight)
    }
}
