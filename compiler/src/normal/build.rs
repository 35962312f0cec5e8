//! The constructors that normalise, and the walk from a block's graph to terms.
//!
//! Every constructor takes terms in normal form and gives one: spellings that the one-way laws of `rules` identify
//! become the same term. Linear in the graph, up to the renaming of bound axes.

use super::{Literal, Term, TermId, Terms};
use crate::rules::{Built, Firing, Law, Laws};
use indexmap::IndexMap;
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisTable, Block, Graph, Op};
use petgraph::graph::NodeIndex;

/// More operands than this are left nested: repeated squaring must not grow exponentially.
pub(super) const WIDEST: usize = 64;

/// The terms of a block and what it hands on, in normal form.
pub fn normalise(block: &Block, axes: &AxisTable) -> (Terms, Vec<(String, TermId)>) {
    normalise_by(block, axes, Laws::ALL, false)
}

/// As [`normalise`] by some of the laws, recording both sides of every law that fires when `record` is set.
pub fn normalise_by(block: &Block, axes: &AxisTable, laws: Laws, record: bool) -> (Terms, Vec<(String, TermId)>) {
    let params = block.params.iter().map(|p| (p.axes.clone(), p.ty)).collect();
    let weights = block.weights.iter().map(|w| (w.axes.clone(), w.ty)).collect();
    let mut terms = Terms::new(axes.clone(), params, weights);
    terms.param_names = block.params.iter().map(|p| p.name.clone()).collect();
    terms.weight_names = block.weights.iter().map(|w| w.name.clone()).collect();
    terms.laws = laws;
    terms.trace.firings = record.then(Vec::new);
    let mut walk = Walk { graph: &block.graph, exact: exact_nodes(&block.graph), done: IndexMap::new() };
    for id in block.graph.ids() {
        walk.node(&mut terms, id, false);
    }
    let roots = block.results.iter().map(|(name, id)| (name.clone(), walk.done[&(*id, false)])).collect();
    (terms, roots)
}

/// Nodes whose value is rounded to an int: their arithmetic keeps the text's order.
fn exact_nodes(graph: &Graph) -> Vec<bool> {
    let mut exact = vec![false; graph.len()];
    for id in graph.ids().rev() {
        let rounds = matches!(&graph[id].op, Op::Map(op) if op.signature() == Signature::Round);
        if rounds || (exact[id.index()] && matches!(graph[id].op, Op::Map(_))) {
            for operand in graph.operands(id) {
                exact[operand.index()] = true;
            }
        }
    }
    exact
}

struct Walk<'a> {
    graph: &'a Graph,
    exact: Vec<bool>,
    done: IndexMap<(NodeIndex, bool), TermId>,
}

impl Walk<'_> {
    /// The term of a node whose operands are done; `exact` ones keep the text's arithmetic as it is.
    fn node(&mut self, terms: &mut Terms, id: NodeIndex, exact: bool) -> TermId {
        if let Some(done) = self.done.get(&(id, exact)) {
            return *done;
        }
        if self.exact[id.index()] && !exact {
            self.node(terms, id, true);
        }
        let node = &self.graph[id];
        let keeps = match &node.op {
            Op::Map(op) => exact || op.signature() == Signature::Round,
            _ => false,
        };
        let xs: Vec<_> = self.graph.operands(id).into_iter().map(|x| self.node(terms, x, keeps)).collect();
        terms.here = node.span;
        let recorded = terms.trace.firings.as_ref().map(|f| (f.len(), xs.clone()));
        let term = match &node.op {
            Op::Const(v) => terms.add(Term::Const((*v).into())),
            Op::Iota(a) => terms.add(Term::Iota(*a)),
            Op::Length(s) => terms.add(Term::Length(*s)),
            Op::Param(n) => terms.add(Term::Param(*n)),
            Op::Weight(n) => terms.add(Term::Weight(*n)),
            Op::Tensor(_) => panic!("normalise: a tensor of the file within a block"),
            Op::Map(op) if exact => terms.add(Term::Map(*op, xs)),
            Op::Map(op) => terms.map(*op, xs),
            Op::Reduce(op, axes) => terms.reduce(*op, axes, xs[0]),
            Op::Index(axes) => {
                let at: Vec<_> = axes.iter().copied().zip(xs[1..].iter().copied()).collect();
                terms.index(xs[0], &at)
            }
            Op::TopK { axis, rank } => terms.topk(*axis, *rank, xs[0]),
        };
        if let Some(name) = &node.name
            && !terms.operands(term).is_empty()
        {
            terms.set_name(term, name);
        }
        terms.set_place(term, node.span);
        if let Some((from, xs)) = recorded.filter(|(_, xs)| !xs.is_empty()) {
            let raw = raw(terms, &node.op, xs);
            let firings = from..terms.trace.firings.as_ref().map_or(from, Vec::len);
            let (name, place) = (node.name.clone(), node.span);
            terms.trace.built.push(Built { raw, made: term, firings, name, place });
        }
        self.done.insert((id, exact), term);
        term
    }
}

/// A node's operation on terms, by no law.
fn raw(terms: &mut Terms, op: &Op, xs: Vec<TermId>) -> TermId {
    let term = match op {
        Op::Map(op) => Term::Map(*op, xs),
        Op::Reduce(ReduceOp::Sum, axes) => Term::Sum(axes.clone(), xs),
        Op::Reduce(op, axes) => Term::Reduce(*op, axes.clone(), xs[0]),
        Op::Index(axes) => {
            let mut at: Vec<_> = axes.iter().copied().zip(xs[1..].iter().copied()).collect();
            at.sort_unstable();
            Term::Index(xs[0], at)
        }
        Op::TopK { axis, rank } => Term::TopK(*axis, *rank, xs[0]),
        Op::Const(_) | Op::Iota(_) | Op::Length(_) | Op::Param(_) | Op::Weight(_) | Op::Tensor(_) => {
            panic!("normalise: {op:?} has no operands")
        }
    };
    terms.add(term)
}

impl Terms {
    /// Counts a law that rewrote `before` to `after`, and records both when they are asked for.
    pub(crate) fn fire(&mut self, law: Law, before: impl FnOnce(&mut Terms) -> TermId, after: TermId) {
        self.trace.count(law);
        if self.trace.firings.is_some() {
            let before = before(self);
            self.trace.firings.as_mut().expect("asked for").push(Firing { law, before, after, place: self.here });
        }
    }

    /// A real literal.
    pub fn real(&mut self, x: f64) -> TermId {
        self.add(Term::Const(Literal::Real(x.to_bits())))
    }

    /// A term that is an int, as a real.
    pub fn to_real(&mut self, x: TermId) -> TermId {
        if self.info(x).ty == Type::Int { self.map(ScalarOp::ToReal, vec![x]) } else { x }
    }

    pub(super) fn as_real(&self, x: TermId) -> Option<f64> {
        match self.term(x) {
            Term::Const(Literal::Real(bits)) => Some(f64::from_bits(*bits)),
            _ => None,
        }
    }

    /// The product of real factors.
    pub fn product(&mut self, factors: &[TermId]) -> TermId {
        let flat = self.flatten(factors, |t, x| match t.term(x) {
            Term::Sum(bound, xs) if bound.is_empty() => Some(xs),
            _ => None,
        });
        let (c, mut rest) = self.fold(&flat, 1.0, |a, b| a * b);
        self.group_reads(&mut rest, Terms::product, |xs| Term::Sum(Axes::none(), xs));
        if let Some(mut stable) = self.stabilised(&rest) {
            stable.push(self.real(c));
            let product = self.product(&stable);
            let from = factors.to_vec();
            self.fire(Law::Stabilise, |t| t.raw_sum(&Axes::none(), &from), product);
            return product;
        }
        let product = match (c, rest.as_slice()) {
            (-1.0, [only]) if self.negates(*only) => {
                return self.negated_sum(*only);
            }
            (1.0, [only]) => *only,
            (c, []) => self.real(c),
            (c, _) => {
                if c != 1.0 {
                    rest.push(self.real(c));
                }
                rest.sort_unstable();
                self.add(Term::Sum(Axes::none(), rest))
            }
        };
        self.fire_associative((1.0, |a, b| a * b), factors, &flat, product, |xs| Term::Sum(Axes::none(), xs));
        product
    }

    /// The sum of real terms.
    pub fn plus(&mut self, terms: &[TermId]) -> TermId {
        let flat = self.flatten(terms, |t, x| match t.term(x) {
            Term::Plus(xs) if t.info(x).bound.is_empty() => Some(xs),
            _ => None,
        });
        let (c, mut rest) = self.fold(&flat, 0.0, |a, b| a + b);
        self.group_reads(&mut rest, Terms::plus, Term::Plus);
        let plus = match (c, rest.as_slice()) {
            (0.0, [only]) => *only,
            (c, []) => self.real(c),
            (c, _) => {
                if c != 0.0 {
                    rest.push(self.real(c));
                }
                rest.sort_unstable();
                let plus = Term::Plus(rest.clone());
                self.whole_read(&rest, plus, |t, xs| t.plus(&xs))
            }
        };
        self.fire_associative((0.0, |a, b| a + b), terms, &flat, plus, Term::Plus);
        plus
    }

    /// Counts what [`Terms::product`] and [`Terms::plus`] have in common.
    fn fire_associative(
        &mut self,
        (unit, f): (f64, fn(f64, f64) -> f64),
        from: &[TermId],
        flat: &[TermId],
        to: TermId,
        make: fn(Vec<TermId>) -> Term,
    ) {
        if from.len() < 2 {
            return;
        }
        let literals: Vec<f64> = flat.iter().filter_map(|x| self.as_real(*x)).collect();
        let number = literals.iter().copied().fold(unit, f);
        let folds = literals.len() > 1 && self.laws.has(Law::Fold) && !number.is_nan();
        let drops = number == unit && self.laws.has(Law::Unit) && (folds || literals.len() == 1);
        for (law, fires) in [(Law::Unit, drops), (Law::Fold, folds), (Law::Flatten, flat.len() > from.len())] {
            if fires {
                let from = from.to_vec();
                self.fire(law, |t| t.add(make(from)), to);
            }
        }
    }

    /// Whether the law of differences takes a minus sign into a sum.
    fn negates(&self, x: TermId) -> bool {
        let sum = matches!(self.term(x), Term::Plus(_)) && self.info(x).bound.is_empty();
        sum && self.laws.has(Law::Difference)
    }

    fn negated_sum(&mut self, sum: TermId) -> TermId {
        let Term::Plus(xs) = self.term(sum).clone() else { unreachable!("only asked of a sum") };
        let minus = self.real(-1.0);
        let negated: Vec<_> = xs.iter().map(|x| self.product(&[minus, *x])).collect();
        let plus = self.plus(&negated);
        self.fire(Law::Difference, |t| t.add(Term::Sum(Axes::none(), vec![minus, sum])), plus);
        plus
    }

    /// Operands of the same operation spliced in, one level deep: theirs are flat already. Ints become reals.
    fn flatten(&mut self, xs: &[TermId], nested: fn(&Terms, TermId) -> Option<&Vec<TermId>>) -> Vec<TermId> {
        let mut flat = Vec::new();
        let splices = self.laws.has(Law::Flatten);
        for x in xs {
            let x = self.to_real(*x);
            match nested(self, x) {
                Some(ys) if splices && flat.len() + ys.len() + xs.len() <= WIDEST => flat.extend_from_slice(ys),
                _ => flat.push(x),
            }
        }
        flat
    }

    /// The literals folded to one number, and the rest. A literal that would make it NaN stays in the rest, and so do
    /// all of them where the laws that fold and drop them are switched off.
    fn fold(&mut self, xs: &[TermId], unit: f64, f: fn(f64, f64) -> f64) -> (f64, Vec<TermId>) {
        let (mut number, mut rest, mut folded) = (unit, Vec::new(), 0);
        for x in xs {
            match self.as_real(*x) {
                Some(c) if !f(number, c).is_nan() => {
                    number = f(number, c);
                    folded += 1;
                }
                _ => rest.push(*x),
            }
        }
        let law = match (folded, number == unit) {
            (0, _) | (1, false) => return (number, rest),
            (1, true) => Law::Unit,
            _ => Law::Fold,
        };
        if self.laws.has(law) { (number, rest) } else { (unit, xs.to_vec()) }
    }

    /// A pointwise operation.
    pub fn map(&mut self, op: ScalarOp, xs: Vec<TermId>) -> TermId {
        let from = xs.clone();
        let (result, law) = match self.map_law(op, xs) {
            Ok(law) => law,
            Err(xs) => return self.map_whole(op, xs),
        };
        // Sums and products are n-ary whether or not nested ones are spliced.
        if self.laws.has(law) {
            self.fire(law, |t| t.add(Term::Map(op, from)), result);
        }
        result
    }

    /// A pointwise operation over operands that replace those of a term in normal form: arithmetic that is
    /// there although normal form has none is exact, and stays.
    pub(crate) fn map_again(&mut self, op: ScalarOp, xs: Vec<TermId>) -> TermId {
        let arithmetic =
            matches!(op, ScalarOp::Add | ScalarOp::Sub | ScalarOp::Mul | ScalarOp::Div | ScalarOp::Neg | ScalarOp::Pow);
        if arithmetic && (op.signature() == Signature::Real || self.info(xs[0]).ty == Type::Real) {
            return self.add(Term::Map(op, xs));
        }
        self.map(op, xs)
    }

    /// The term that a law makes of a pointwise operation, or the operands back when it stays one.
    fn map_law(&mut self, op: ScalarOp, mut xs: Vec<TermId>) -> Result<(TermId, Law), Vec<TermId>> {
        if op.signature() == Signature::Real || xs.iter().any(|x| self.info(*x).ty == Type::Real) {
            let first = usize::from(op == ScalarOp::Where);
            for x in &mut xs[first..] {
                *x = self.to_real(*x);
            }
        }
        let laws = self.laws;
        if laws.has(Law::Fold)
            && let Some(folded) = self.fold_map(op, &xs)
        {
            return Ok((folded, Law::Fold));
        }
        let real = self.info(*xs.last().expect("an operation has operands")).ty == Type::Real;
        let minus = |t: &mut Terms, x| {
            let c = t.real(-1.0);
            t.product(&[c, x])
        };
        match op {
            ScalarOp::Add if real => Ok((self.plus(&xs), Law::Flatten)),
            ScalarOp::Mul if real => Ok((self.product(&xs), Law::Flatten)),
            ScalarOp::Sub if real && laws.has(Law::Difference) => {
                let b = minus(self, xs[1]);
                Ok((self.plus(&[xs[0], b]), Law::Difference))
            }
            ScalarOp::Neg if real && laws.has(Law::Difference) => Ok((minus(self, xs[0]), Law::Difference)),
            ScalarOp::Div if laws.has(Law::Quotient) => {
                let r = self.map(ScalarOp::Recip, vec![xs[1]]);
                Ok((self.product(&[xs[0], r]), Law::Quotient))
            }
            ScalarOp::Recip if laws.has(Law::Quotient) => self.recip(xs[0]).map(|r| (r, Law::Quotient)).ok_or(xs),
            ScalarOp::Pow if laws.has(Law::Power) => self.power(xs[0], xs[1]).map(|p| (p, Law::Power)).ok_or(xs),
            ScalarOp::Gt if laws.has(Law::Order) => Ok((self.map(ScalarOp::Lt, vec![xs[1], xs[0]]), Law::Order)),
            ScalarOp::Ge if laws.has(Law::Order) => Ok((self.map(ScalarOp::Le, vec![xs[1], xs[0]]), Law::Order)),
            ScalarOp::Max | ScalarOp::Min | ScalarOp::And | ScalarOp::Or if xs[0] == xs[1] && laws.has(Law::Choose) => {
                Ok((xs[0], Law::Choose))
            }
            ScalarOp::Add | ScalarOp::Mul => {
                self.int_unit(op, &xs).map(|x| (x, Law::Unit)).ok_or(xs).or_else(|xs| self.ordered(op, xs))
            }
            ScalarOp::And | ScalarOp::Or => match self.neutral(op, &xs) {
                Some(x) => Ok((x, Law::Choose)),
                None => self.ordered(op, xs),
            },
            ScalarOp::Max | ScalarOp::Min | ScalarOp::Eq | ScalarOp::Ne => self.ordered(op, xs),
            ScalarOp::Not if laws.has(Law::Order) => match self.term(xs[0]).clone() {
                Term::Map(ScalarOp::Not, ys) => Ok((ys[0], Law::Order)),
                Term::Map(ScalarOp::Lt, ys) if self.info(ys[0]).ty == Type::Int => {
                    Ok((self.map(ScalarOp::Le, vec![ys[1], ys[0]]), Law::Order))
                }
                Term::Map(ScalarOp::Le, ys) if self.info(ys[0]).ty == Type::Int => {
                    Ok((self.map(ScalarOp::Lt, vec![ys[1], ys[0]]), Law::Order))
                }
                _ => Err(xs),
            },
            ScalarOp::Where if laws.has(Law::Choose) => self.settled(&xs).map(|x| (x, Law::Choose)).ok_or(xs),
            ScalarOp::Log | ScalarOp::Log2 => self.stabilised_log(op, xs[0]).map(|x| (x, Law::Stabilise)).ok_or(xs),
            ScalarOp::Sub
            | ScalarOp::Neg
            | ScalarOp::Div
            | ScalarOp::Recip
            | ScalarOp::Pow
            | ScalarOp::Gt
            | ScalarOp::Ge
            | ScalarOp::Not
            | ScalarOp::Where
            | ScalarOp::FloorDiv
            | ScalarOp::Mod
            | ScalarOp::Abs
            | ScalarOp::Exp
            | ScalarOp::Exp2
            | ScalarOp::Sqrt
            | ScalarOp::Sin
            | ScalarOp::Cos
            | ScalarOp::Tanh
            | ScalarOp::Erf
            | ScalarOp::Floor
            | ScalarOp::Ceil
            | ScalarOp::Trunc
            | ScalarOp::Lt
            | ScalarOp::Le
            | ScalarOp::ToReal => Err(xs),
        }
    }

    /// The value of an operation on literals, unless it is NaN.
    fn fold_map(&mut self, op: ScalarOp, xs: &[TermId]) -> Option<TermId> {
        let values: Option<Vec<Value>> = xs
            .iter()
            .map(|x| match self.term(*x) {
                Term::Const(l) => Some(Value::from(*l)),
                _ => None,
            })
            .collect();
        let value = op.evaluate(&values?);
        (!value.real().is_nan()).then(|| self.add(Term::Const(value.into())))
    }

    fn int_unit(&mut self, op: ScalarOp, xs: &[TermId]) -> Option<TermId> {
        if !self.laws.has(Law::Unit) {
            return None;
        }
        let unit = Term::Const(Literal::Int(i64::from(op == ScalarOp::Mul)));
        let at = xs.iter().position(|x| *self.term(*x) == unit)?;
        Some(xs[1 - at])
    }

    fn ordered(&mut self, op: ScalarOp, xs: Vec<TermId>) -> Result<(TermId, Law), Vec<TermId>> {
        if xs[0] <= xs[1] || !self.laws.has(Law::Order) {
            Err(xs)
        } else {
            Ok((self.map_whole(op, vec![xs[1], xs[0]]), Law::Order))
        }
    }

    /// `1 / x`, where a literal factor can be inverted now, or two inversions meet.
    fn recip(&mut self, x: TermId) -> Option<TermId> {
        match self.term(x).clone() {
            Term::Map(ScalarOp::Recip, ys) => Some(ys[0]),
            Term::Sum(bound, ys) if bound.is_empty() => {
                let c =
                    ys.iter().copied().find(|y| self.as_real(*y).is_some_and(|c| c != 0.0 && (1.0 / c).is_normal()))?;
                let rest: Vec<_> = ys.iter().copied().filter(|y| *y != c).collect();
                let inverse = 1.0 / self.as_real(c).expect("found as a literal");
                let rest = self.product(&rest);
                let (c, r) = (self.real(inverse), self.map(ScalarOp::Recip, vec![rest]));
                Some(self.product(&[c, r]))
            }
            _ => None,
        }
    }

    fn power(&mut self, x: TermId, exponent: TermId) -> Option<TermId> {
        match self.as_real(exponent)? {
            1.0 => Some(x),
            2.0 => Some(self.product(&[x, x])),
            0.5 => Some(self.map(ScalarOp::Sqrt, vec![x])),
            -0.5 => {
                let root = self.map(ScalarOp::Sqrt, vec![x]);
                Some(self.map(ScalarOp::Recip, vec![root]))
            }
            -1.0 => Some(self.map(ScalarOp::Recip, vec![x])),
            _ => None,
        }
    }

    /// An operation that stays one, or the read of one.
    fn map_whole(&mut self, op: ScalarOp, xs: Vec<TermId>) -> TermId {
        let term = Term::Map(op, xs.clone());
        self.whole_read(&xs, term, |t, xs| t.map(op, xs))
    }
}
