//! Reductions in normal form: what leaves them, what merges into them, and what their axes are called.

use super::build::WIDEST;
use super::{Literal, Term, TermId, Terms};
use crate::rules::{Firing, Law};
use llmc_artifact::{ReduceOp, ScalarOp, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, Extent};

impl Terms {
    /// `S[axes](product of factors)`.
    pub fn sum(&mut self, axes: &Axes, factors: &[TermId]) -> TermId {
        let (axes, mut factors) = self.bind_views(axes, factors);
        if factors.iter().any(|f| self.info(*f).ty == Type::Real) {
            let product = self.product(&factors);
            factors = match self.term(product) {
                Term::Sum(bound, xs) if bound.is_empty() => xs.clone(),
                _ => vec![product],
            };
        }
        let whole = factors.clone();
        let mut outside = Vec::new();
        let used = factors.iter().fold(Axes::none(), |a, f| a.union(self.free(*f)));
        for unused in axes.minus(&used).iter() {
            outside.push(self.length(unused));
        }
        let mut bound = axes.intersect(&used);
        if !outside.is_empty() {
            let (counted, sum) = (outside.clone(), bound.clone());
            self.fire_raw(Law::Length, (&axes, &whole), counted, (&sum, &whole));
        }
        if let Some(done) = self.one_hot(&bound, &factors) {
            outside.push(done);
            return self.sum_done(&outside);
        }
        let apart = bound.clone();
        if self.merge(&mut bound, &mut factors) {
            self.fire_raw(Law::Merge, (&apart, &whole), vec![], (&bound, &factors));
        }
        let (left, mut inside): (Vec<_>, Vec<_>) =
            factors.iter().copied().partition(|f| self.leaves(*f, &bound, &factors));
        if !left.is_empty() && !bound.is_empty() {
            self.fire_raw(Law::Hoist, (&bound, &factors), left.clone(), (&bound, &inside));
        }
        outside.extend(left);
        if !inside.is_empty() {
            self.group_reads(&mut inside, Terms::product, |xs| Term::Sum(Axes::none(), xs));
            let sum = self.bind(&bound, inside);
            outside.push(sum);
        }
        self.sum_done(&outside)
    }

    /// Counts a law that takes a sum-product to factors beside another sum-product, and records both sides as they are.
    fn fire_raw(&mut self, law: Law, from: (&Axes, &[TermId]), beside: Vec<TermId>, to: (&Axes, &[TermId])) {
        self.trace.count(law);
        if self.trace.firings.is_some() {
            let before = self.raw_sum(from.0, from.1);
            let sum = (!to.1.is_empty()).then(|| self.raw_sum(to.0, to.1));
            let after: Vec<_> = beside.into_iter().chain(sum).collect();
            let after = self.raw_sum(&Axes::none(), &after);
            self.trace.firings.as_mut().expect("asked for").push(Firing { law, before, after, place: self.here });
        }
    }

    /// `S[bound](factors)` without any law.
    pub(crate) fn raw_sum(&mut self, bound: &Axes, factors: &[TermId]) -> TermId {
        let mut factors = factors.to_vec();
        if factors.len() == 1 && bound.is_empty() {
            return factors[0];
        }
        if factors.iter().any(|f| self.info(*f).ty == Type::Real) {
            factors = factors.into_iter().map(|f| self.to_real(f)).collect();
        } else if factors.len() > 1 {
            // Ints are multiplied two at a time.
            let product = factors[1..].iter().fold(factors[0], |a, b| self.add(Term::Map(ScalarOp::Mul, vec![a, *b])));
            return self.raw_sum(bound, &[product]);
        }
        factors.sort_unstable();
        self.add(Term::Sum(bound.clone(), factors))
    }

    /// Whether a factor leaves a sum over `bound`. It does not where it scales another reduction among the factors: a
    /// norm's scale stays with the projection it scales, so that no product of two unscaled ones is ever stored.
    fn leaves(&self, factor: TermId, bound: &Axes, factors: &[TermId]) -> bool {
        if !self.laws.require(Law::Hoist, self.free(factor).intersect(bound).is_empty()) {
            return false;
        }
        let scaled = |f: &TermId| {
            *f != factor
                && matches!(self.term(*f), Term::Sum(..))
                && !self.free(*f).intersect(bound).is_empty()
                && self.free(factor).is_subset(self.free(*f))
        };
        bound.is_empty() || self.laws.has(Law::Hoist) && (self.free(factor).is_empty() || !factors.iter().any(scaled))
    }

    /// The product of what left a sum and of what stayed.
    fn sum_done(&mut self, outside: &[TermId]) -> TermId {
        match outside {
            [only] => *only,
            _ if self.info(outside[0]).ty == Type::Int => {
                outside[1..].iter().fold(outside[0], |a, b| self.map(ScalarOp::Mul, vec![a, *b]))
            }
            _ => self.product(outside),
        }
    }

    /// The number of indices of an axis, as an int.
    fn length(&mut self, axis: AxisId) -> TermId {
        match self.axes[axis].extent {
            Extent::Const(n) => self.add(Term::Const(Literal::Int(n as i64))),
            Extent::Seq(s) | Extent::View(s) => self.add(Term::Length(s)),
        }
    }

    /// Reducing over a sequence's own axis looks at all its tokens: the axis becomes a view of itself.
    fn bind_views(&mut self, axes: &Axes, xs: &[TermId]) -> (Axes, Vec<TermId>) {
        let (mut bound, mut xs) = (Vec::new(), xs.to_vec());
        for a in axes.iter() {
            if self.views.contains_key(&a) || !self.is_seq(a) {
                bound.push(a);
                continue;
            }
            let level = self.level(a, &xs);
            let view = self.binder(a, level);
            xs = xs.iter().map(|x| self.rename(*x, a, view)).collect();
            bound.push(view);
        }
        (bound.into_iter().collect(), xs)
    }

    /// `S[i](where(i == f, a, 0) * g) = a[i = f] * g[i = f]`, or a sum of such where the choice has several cases.
    fn one_hot(&mut self, bound: &Axes, factors: &[TermId]) -> Option<TermId> {
        let whole = (0..factors.len()).find_map(|n| match self.cases(factors[n], bound)?.as_slice() {
            [(a, at, value)] => self.one_case(bound, factors, n, (*a, *at, *value)),
            cases => self.several_cases(bound, factors, n, cases),
        });
        whole.or_else(|| (0..factors.len()).find_map(|n| self.sum_of_cases(bound, factors, n)))
    }

    /// A rotation written as a sum of matrices, each with one element in a row: each sums alone.
    fn sum_of_cases(&mut self, bound: &Axes, factors: &[TermId], n: usize) -> Option<TermId> {
        let Term::Plus(addends) = self.term(factors[n]).clone() else { return None };
        let chooses = |x: &TermId| match self.term(*x) {
            Term::Sum(b, xs) if b.is_empty() => xs.iter().any(|f| self.cases(*f, bound).is_some()),
            _ => self.cases(*x, bound).is_some(),
        };
        if factors.len() < 2 || !self.laws.has(Law::Cases) || !addends.iter().all(chooses) {
            return None;
        }
        let expected = factors.iter().fold(Axes::none(), |a, f| a.union(self.free(*f))).minus(bound);
        let mut sums = Vec::new();
        for addend in addends {
            let mut one = factors.to_vec();
            one[n] = addend;
            sums.push(self.sum(bound, &one));
        }
        let result = self.plus(&sums);
        if *self.free(result) != expected {
            return None;
        }
        let (bound, factors) = (bound.clone(), factors.to_vec());
        self.fire(Law::Cases, |t| t.add(Term::Sum(bound, factors)), result);
        Some(result)
    }

    /// The cases of `where(i == f, a, where(j == g, b, ... 0))`: the bound axis, its index, the value there.
    fn cases(&self, factor: TermId, bound: &Axes) -> Option<Vec<(AxisId, TermId, TermId)>> {
        let (mut cases, mut rest) = (Vec::new(), factor);
        while !matches!(self.term(rest), Term::Const(l) if Value::from(*l).real() == 0.0) {
            let Term::Map(ScalarOp::Where, xs) = self.term(rest) else { return None };
            let Term::Map(ScalarOp::Eq, ys) = self.term(xs[0]) else { return None };
            let (a, at) =
                [(ys[0], ys[1]), (ys[1], ys[0])].into_iter().find_map(|(axis, at)| match self.term(axis) {
                    Term::Iota(a) if bound.contains(*a) && self.within(*a, at) => Some((*a, at)),
                    _ => None,
                })?;
            cases.push((a, at, xs[1]));
            rest = xs[2];
        }
        (!cases.is_empty()).then_some(cases)
    }

    /// Whether an index lacks an axis and lies within it, whatever the inputs.
    fn within(&self, a: AxisId, at: TermId) -> bool {
        let range = self.axes.len_of(a).zip(self.bounds(at));
        let within = range.is_some_and(|(n, (least, most))| least >= 0 && most < n as i64);
        self.laws.require(Law::OneHot, !self.free(at).contains(a) && within)
    }

    fn one_case(
        &mut self,
        bound: &Axes,
        factors: &[TermId],
        n: usize,
        (a, at, value): (AxisId, TermId, TermId),
    ) -> Option<TermId> {
        let mut rest = factors.to_vec();
        rest[n] = value;
        let has = |f: &TermId| self.free(*f).contains(a) || self.free(at).is_subset(self.free(*f));
        if !rest.iter().any(has) || !self.laws.has(Law::OneHot) {
            return None;
        }
        let read: Vec<_> = rest.iter().map(|x| self.index(*x, &[(a, at)])).collect();
        let others: Axes = bound.iter().filter(|b| *b != a).collect();
        let result = self.sum(&others, &read);
        let (bound, factors) = (bound.clone(), factors.to_vec());
        self.fire(Law::OneHot, |t| t.add(Term::Sum(bound, factors)), result);
        Some(result)
    }

    /// A rotation written as a matrix: each case sums alone, zero where an earlier one holds.
    fn several_cases(
        &mut self,
        bound: &Axes,
        factors: &[TermId],
        n: usize,
        cases: &[(AxisId, TermId, TermId)],
    ) -> Option<TermId> {
        // Every axis of the choice must be left in every addend.
        let kept = cases.iter().all(|(a, at, value)| {
            let others = factors.iter().enumerate().filter(|(k, _)| *k != n).map(|(_, f)| f);
            let mut there = others.chain([value]).map(|f| self.free(*f)).filter(|f| f.contains(*a));
            there.next().is_some() && self.free(*at).is_subset(self.free(factors[n]))
        });
        if !kept || self.info(factors[n]).ty != Type::Real || !self.laws.has(Law::Cases) {
            return None;
        }
        let zero = self.real(0.0);
        let (mut sums, mut before) = (Vec::new(), Vec::new());
        for (a, at, value) in cases {
            let here = self.add(Term::Iota(*a));
            let here = self.map(ScalarOp::Eq, vec![here, *at]);
            let alone = before.iter().fold(*value, |x, c| self.map(ScalarOp::Where, vec![*c, zero, x]));
            let mut one = factors.to_vec();
            one[n] = self.map(ScalarOp::Where, vec![here, alone, zero]);
            sums.push(self.sum(bound, &one));
            before.push(here);
        }
        let whole = self.free(factors[0]).clone();
        let expected = factors.iter().fold(whole, |a, f| a.union(self.free(*f))).minus(bound);
        let result = self.plus(&sums);
        if *self.free(result) != expected {
            return None;
        }
        let (bound, factors) = (bound.clone(), factors.to_vec());
        self.fire(Law::Cases, |t| t.add(Term::Sum(bound, factors)), result);
        Some(result)
    }

    /// Splices factors that are sums themselves, where their axes do not meet others.
    fn merge(&mut self, bound: &mut Axes, factors: &mut Vec<TermId>) -> bool {
        let (mut merged, mut n) = (false, 0);
        while n < factors.len() && self.laws.has(Law::Merge) {
            let Term::Sum(inner, xs) = self.term(factors[n]).clone() else {
                n += 1;
                continue;
            };
            let meets = |x: &TermId| !self.free(*x).intersect(&inner).is_empty();
            let others = factors.iter().enumerate().any(|(k, x)| k != n && meets(x));
            let touches = !self.free(factors[n]).intersect(bound).is_empty();
            let small = factors.len() + xs.len() <= WIDEST && self.info(xs[0]).ty == Type::Real;
            if inner.is_empty()
                || !self.laws.require(Law::Merge, !others)
                || !touches
                || !small
                || !bound.intersect(&inner).is_empty()
            {
                n += 1;
                continue;
            }
            factors.splice(n..=n, xs);
            *bound = bound.union(&inner);
            merged = true;
        }
        merged
    }

    /// `S[bound](factors)` under canonical names.
    fn bind(&mut self, bound: &Axes, factors: Vec<TermId>) -> TermId {
        let (bound, mut factors) = self.canonical_binders(bound, factors);
        factors.sort_unstable();
        let term = Term::Sum(bound, factors.clone());
        self.whole_read(&factors, term.clone(), |t, xs| {
            let Term::Sum(bound, _) = term else { unreachable!("made above") };
            t.sum(&bound, &xs)
        })
    }

    /// The axes of a reduction renamed to the lowest levels above what the operands that have them bind.
    pub(crate) fn canonical_binders(&mut self, bound: &Axes, xs: Vec<TermId>) -> (Axes, Vec<TermId>) {
        let free = xs.iter().fold(Axes::none(), |a, x| a.union(self.free(*x))).minus(bound);
        let mut order: Vec<_> =
            bound.iter().map(|a| (self.stem(a), self.binders.get(&a).map_or(0, |b| b.1), a)).collect();
        order.sort_unstable();
        let mut wanted: Vec<(AxisId, AxisId)> = Vec::new();
        for (stem, _, a) in order {
            let mut level = self.level(a, &xs);
            let mut to = self.binder(stem, level);
            while free.contains(to) || wanted.iter().any(|(_, b)| *b == to) {
                level += 1;
                to = self.binder(stem, level);
            }
            wanted.push((a, to));
        }
        let to: Axes = wanted.iter().map(|(_, b)| *b).collect();
        let at: Vec<_> = wanted.iter().map(|(a, b)| (*a, self.add(Term::Iota(*b)))).collect();
        (to, xs.into_iter().map(|x| self.index(x, &at)).collect())
    }

    /// The axis of the model that an axis stands for.
    pub fn stem(&self, a: AxisId) -> AxisId {
        self.binders.get(&a).map_or(a, |(stem, _)| *stem)
    }

    /// The lowest level above every binder of the same stem in those of `xs` that have `a`.
    fn level(&self, a: AxisId, xs: &[TermId]) -> u32 {
        let stem = self.stem(a);
        let of = |b: AxisId| self.binders.get(&b).filter(|(s, _)| *s == stem).map_or(0, |(_, level)| *level);
        let within = xs.iter().filter(|x| self.free(**x).contains(a)).flat_map(|x| self.info(*x).bound.iter());
        1 + within.map(of).max().unwrap_or(0)
    }

    /// The axis that a reduction over `stem` binds at this level.
    pub(crate) fn binder(&mut self, stem: AxisId, level: u32) -> AxisId {
        if let Some((a, _)) = self.binders.iter().find(|(_, b)| **b == (stem, level)) {
            return *a;
        }
        let extent = match self.axes[stem].extent {
            Extent::Seq(s) | Extent::View(s) => Extent::View(s),
            Extent::Const(n) => Extent::Const(n),
        };
        let name = format!("{}'{level}", self.axes[stem].name);
        let axis = self.axes.push(name, extent);
        if self.is_seq(axis) {
            let own = self.views.get(&stem).copied().unwrap_or(stem);
            self.views.insert(axis, own);
        }
        self.binders.insert(axis, (stem, level));
        axis
    }

    /// A reduction.
    pub fn reduce(&mut self, op: ReduceOp, axes: &Axes, x: TermId) -> TermId {
        if op == ReduceOp::Sum {
            return self.sum(axes, &[x]);
        }
        let (axes, xs) = self.bind_views(axes, &[x]);
        let (mut bound, mut body) = (axes.intersect(self.free(xs[0])), xs[0]);
        let mut law = (bound.len() < axes.len()).then_some(Law::Length);
        if let Term::Reduce(same, inner, y) = self.term(body).clone()
            && same == op
            && !bound.is_empty()
            && bound.intersect(&inner).is_empty()
            && self.laws.has(Law::Merge)
        {
            bound = bound.union(&inner);
            body = y;
            law = Some(Law::Merge);
        }
        let result = if bound.is_empty() {
            body
        } else {
            let (bound, ys) = self.canonical_binders(&bound, vec![body]);
            let term = Term::Reduce(op, bound.clone(), ys[0]);
            self.whole_read(&ys, term, |t, ys| t.reduce(op, &bound, ys[0]))
        };
        if let Some(law) = law {
            self.fire(law, |t| t.add(Term::Reduce(op, axes, xs[0])), result);
        }
        result
    }

    /// `topk[axis, rank](x)`.
    pub fn topk(&mut self, axis: AxisId, rank: AxisId, x: TermId) -> TermId {
        let (bound, xs) = self.canonical_binders(&Axes::from_iter([axis]), vec![x]);
        let axis = bound.as_slice()[0];
        let term = Term::TopK(axis, rank, xs[0]);
        self.whole_read(&xs, term, |t, xs| t.topk(axis, rank, xs[0]))
    }
}
