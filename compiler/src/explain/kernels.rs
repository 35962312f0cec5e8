//! The checker of kernels: what grouping stores, loads and takes in its loops is what the block means.
//!
//! A grouped block is its own certificate: every value carries what it means by the block's own leaves, the formula that
//! its kernel computes over stored values, and the reductions of its loop. This checker calls nothing of the stage that
//! wrote it. Formulas are read by [`Denote`] with stored values unfolded to their meanings; what is loaded, taken and read at
//! other tokens is found by walks of its own.
//!
//! | claim | held to |
//! |---|---|
//! | what the block hands on, what it was asked to cache | the form of the terms that were given |
//! | the formula of a value | the form of its meaning |
//! | a product, a statistic, a state of a loop | the reduction that the formula has there |
//! | what a loop takes | every reduction of the formula, and no other |
//! | what is loaded | values of earlier kernels |
//! | what is stored | no pairs of tokens; in pages where another token reads it |
//! | how a loop skips keys | the bodies at tokens that it skips |
//!
//! One equation is not of the algebra: a reciprocal of a sum that is zero or at least one may be held at one, so that a row
//! to which nothing contributed gives zeros. That the sum is such is the claim of the stream, whose verifier tries it.

use super::dead;
use super::denote::{Denote, Form};
use crate::egraph::Extracted;
use crate::group::{self, Contraction, Fold, Fused, Input, Value, Work};
use crate::normal::{Literal, Term, TermId, Terms};
use crate::rules::{Law, Laws};
use crate::stream;
use llmc_artifact::{ReduceOp, ScalarOp};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What a grouped formula may differ by from what it means: how products, sums and reductions nest, and units.
const LAWS: Laws = Laws::NONE.with(Law::Flatten).with(Law::Unit).with(Law::Hoist).with(Law::Merge);

/// Checks the kernels of one role against the terms that they were formed of. Gives the number of claims that were held to
/// something.
///
/// # Errors
/// The first claim that does not hold.
pub fn kernels(given: &Extracted, fused: &Fused) -> Result<usize, String> {
    let mut check = Check { fused, turn: turns(fused)?, claims: 0 };
    check.ends(given)?;
    for n in 0..fused.values.len() as u32 {
        check.value(n).map_err(|e| format!("`{}` {e}", fused.values[n as usize].name))?;
    }
    fused.groups.iter().try_for_each(|g| check.one_loop(&g.values))?;
    check.caches(given)?;
    Ok(check.claims)
}

/// Checks that two roles keep the same values in the same pages: by what they mean, under the laws by which the forms of
/// both were found.
///
/// # Errors
/// The first cache that differs.
pub fn roles(a: &Fused, b: &Fused, laws: Laws) -> Result<(), String> {
    if a.caches.len() != b.caches.len() {
        return Err(format!("prompts keep {} values and generated tokens {}", a.caches.len(), b.caches.len()));
    }
    for ((v, form), (w, other)) in a.caches.iter().zip(&b.caches) {
        let (x, y) = (&a.values[*v as usize], &b.values[*w as usize]);
        if x.forms[*form] != y.forms[*other] {
            return Err(format!("`{}` is laid out otherwise for generated tokens", x.name));
        }
        let mut read = Denote::new(&a.terms, laws);
        let first = read.of(x.meaning)?;
        if read.within(&b.terms, vec![], HashMap::new()).of(y.meaning)? != first {
            return Err(format!("`{}` is another value for generated tokens", x.name));
        }
    }
    Ok(())
}

/// When each value is computed: the number of its kernel. Every value has one.
fn turns(fused: &Fused) -> Result<Vec<usize>, String> {
    let mut turn = vec![None; fused.values.len()];
    for (n, group) in fused.groups.iter().enumerate() {
        for v in &group.values {
            if turn[*v as usize].replace(n).is_some() {
                return Err(format!("`{}` is computed twice", fused.values[*v as usize].name));
            }
        }
    }
    let name = |n: usize| &fused.values[n].name;
    turn.into_iter().enumerate().map(|(n, t)| t.ok_or_else(|| format!("`{}` is never computed", name(n)))).collect()
}

struct Check<'a> {
    fused: &'a Fused,
    turn: Vec<usize>,
    claims: usize,
}

/// What a walk over a formula came upon.
#[derive(Default)]
struct Seen {
    /// Results of the loop.
    taken: BTreeSet<TermId>,
    /// Other reductions and searches.
    reductions: BTreeSet<TermId>,
    /// Stored values, wherever they are read.
    loads: BTreeSet<u32>,
    /// Reads of other tokens, with the value that is read.
    reads: BTreeSet<(TermId, u32)>,
}

impl<'a> Check<'a> {
    fn terms(&self) -> &'a Terms {
        &self.fused.terms
    }

    fn name(&self, n: u32) -> &'a str {
        &self.fused.values[n as usize].name
    }

    fn hold(&mut self, holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
        self.claims += 1;
        if holds { Ok(()) } else { Err(otherwise()) }
    }

    /// A reader of this block's formulas in which `others` are read as what they are equal to.
    fn reader(&self, others: HashMap<TermId, TermId>) -> Denote<'a> {
        self.over(Denote::new(self.terms(), LAWS), others)
    }

    fn over(&self, denote: Denote<'_>, others: HashMap<TermId, TermId>) -> Denote<'a> {
        denote.within(self.terms(), self.fused.values.iter().map(|v| v.meaning).collect(), others)
    }

    // ---- the block's ends ------------------------------------------------------------------------------

    /// What was given is what the values mean.
    fn ends(&mut self, given: &Extracted) -> Result<(), String> {
        let asked = asked(given);
        let mut read = Denote::new(&given.terms, LAWS).within(&given.terms, vec![], HashMap::new());
        let mut wanted = Vec::new();
        for id in given.roots.iter().map(|r| r.1).chain(asked.iter().copied()) {
            wanted.push(read.renamed(id, &own_names(&given.terms, id))?);
        }
        let mut read = self.over(read, HashMap::new());
        for (n, want) in wanted.iter().enumerate() {
            let values = &self.fused.values;
            let (what, value) = match n.checked_sub(given.roots.len()) {
                None => ("handed on", values.iter().position(|v| v.results.contains(&(n as u32)))),
                Some(n) => ("cached", self.fused.caches.get(n).map(|c| c.0 as usize)),
            };
            let Some(value) = value else { return Err(format!("what is to be {what} as number {n} is not stored")) };
            let found = read.of(values[value].meaning)?;
            self.hold(found == *want, || format!("`{}` is not the value that is to be {what}", values[value].name))?;
        }
        Ok(())
    }

    // ---- values ----------------------------------------------------------------------------------------

    fn value(&mut self, n: u32) -> Result<(), String> {
        let value = &self.fused.values[n as usize];
        self.axes(n)?;
        let mut read = self.reader(self.held(value));
        let (means, computes) = (read.of(value.meaning)?, read.of(value.term)?);
        self.hold(means == computes, || "is computed by a formula that is not what it means".to_owned())?;
        match &value.work {
            Work::Map | Work::TopK => {}
            Work::Contract(c) => self.contraction(c, &mut read)?,
            Work::Stream(f) => self.fold(n, f, &mut read)?,
        }
        self.walks(n)
    }

    /// A value is stored for a token of one sequence, or for a sequence, and its formula has no other axes.
    fn axes(&mut self, n: u32) -> Result<(), String> {
        let (value, terms) = (&self.fused.values[n as usize], self.terms());
        let axes = &terms.stored[n as usize].0;
        let pairs = axes.iter().filter(|a| terms.is_seq(*a)).count() > 1;
        let view = axes.iter().any(|a| matches!(terms.axes[a].extent, Extent::View(_)));
        self.hold(!pairs && !view, || "is stored for pairs of tokens".to_owned())?;
        let known: Axes = axes.iter().chain(terms.each.values().copied()).collect();
        let within = [value.meaning, value.term].iter().all(|x| terms.free(*x).is_subset(&known));
        self.hold(within, || "has a formula over axes that it is not stored with".to_owned())
    }

    /// Reciprocals of the sums of a loop that are zero or at least one, with the sums held at one.
    fn held(&self, value: &Value) -> HashMap<TermId, TermId> {
        let Work::Stream(f) = &value.work else { return HashMap::new() };
        let sums: HashSet<_> = f.stream.states.iter().filter(|s| s.reaches_one).map(|s| s.source).collect();
        let terms = self.terms();
        let one = Term::Const(Literal::Real(1f64.to_bits()));
        let mut found = HashMap::new();
        for x in below(terms, &[value.term]) {
            let Term::Map(ScalarOp::Recip, ys) = terms.term(x) else { continue };
            let Term::Map(ScalarOp::Max, zs) = terms.term(ys[0]) else { continue };
            let ends = (zs.iter().find(|z| sums.contains(z)), zs.iter().any(|z| *terms.term(*z) == one));
            if let (Some(sum), true) = ends {
                found.extend(self.recip(*sum).map(|plain| (plain, x)));
            }
        }
        found
    }

    /// The reciprocal of a sum, where some formula has it.
    fn recip(&self, sum: TermId) -> Option<TermId> {
        let terms = self.terms();
        let is = |x: &TermId| *terms.term(*x) == Term::Map(ScalarOp::Recip, vec![sum]);
        (0..terms.len() as u32).map(TermId).find(is)
    }

    /// Follows a value's formulas: what they load, and what they reduce.
    fn walks(&mut self, n: u32) -> Result<(), String> {
        let value = &self.fused.values[n as usize];
        let (results, bodies) = self.results(value);
        let mut found = Seen::default();
        self.walk(&[value.term], &results, &mut found);
        let mut inside = Seen::default();
        self.walk(&bodies, &results, &mut inside);
        let (extra, used) = match &value.work {
            Work::Map => (BTreeSet::new(), true),
            Work::TopK => (BTreeSet::from([value.term]), true),
            Work::Contract(_) => (BTreeSet::new(), found.taken == results),
            Work::Stream(f) => {
                self.dots(f, &inside)?;
                let used = found.taken.union(&inside.taken).copied().collect::<BTreeSet<_>>();
                (BTreeSet::new(), used == results)
            }
        };
        self.hold(used, || "takes a reduction that its formula does not have".to_owned())?;
        self.hold(found.reductions == extra, || "has a reduction that its loop does not take".to_owned())?;
        let fold = matches!(value.work, Work::Stream(_));
        self.hold(fold || inside.reductions.is_empty(), || "reduces within a body of its loop".to_owned())?;
        let mut loads: BTreeSet<u32> = found.loads.union(&inside.loads).copied().collect();
        if let Work::Contract(Contraction { input: Input::Stored { value, .. }, .. }) = &value.work {
            loads.insert(*value);
        }
        for load in &loads {
            let (here, there) = (self.turn[n as usize], self.turn[*load as usize]);
            let name = self.name(*load);
            self.hold(there < here, || format!("loads `{name}`, which is computed later"))?;
        }
        self.hold(loads.is_subset(&value.loads), || "loads more than it says".to_owned())?;
        let reads: Vec<_> = found.reads.union(&inside.reads).copied().collect();
        reads.into_iter().try_for_each(|(at, of)| self.read(value, at, of))
    }

    /// The results of a value's loop, and the formulas that the loop evaluates.
    fn results(&self, value: &Value) -> (BTreeSet<TermId>, Vec<TermId>) {
        match &value.work {
            Work::Map => (BTreeSet::new(), vec![]),
            Work::TopK => (BTreeSet::from([value.term]), self.terms().operands(value.term)),
            Work::Contract(c) => {
                let terms = c.products.iter().map(|p| p.term).chain(c.stats.iter().map(|s| s.0)).collect();
                (terms, c.stats.iter().map(|s| s.1).collect())
            }
            Work::Stream(f) => {
                let states = &f.stream.states;
                let moved = states.iter().flat_map(|s| s.repair.moving());
                let shifted = states.iter().flat_map(|s| &s.repair.shifts).map(|s| s.of);
                let bodies = states.iter().map(|s| s.body).chain(moved).chain(shifted).collect();
                (states.iter().map(|s| s.source).collect(), bodies)
            }
        }
    }

    fn walk(&self, from: &[TermId], results: &BTreeSet<TermId>, seen: &mut Seen) {
        let terms = self.terms();
        let (mut stack, mut done) = (from.to_vec(), HashSet::new());
        while let Some(x) = stack.pop() {
            // A search is what its value is: its own operands are walked as the loop's body.
            if results.contains(&x) && !matches!(terms.term(x), Term::TopK(..)) {
                seen.taken.insert(x);
                continue;
            }
            if !done.insert(x) {
                continue;
            }
            // Weights are reduced when they are packed; a state that has nothing of tokens, a count, may stand among them.
            let weights = terms.info(x).weight_only;
            match terms.term(x) {
                _ if weights => {}
                Term::Stored(n) => drop(seen.loads.insert(*n)),
                Term::Read(y, _) => {
                    if let Some(n) = leaf(terms, *y) {
                        seen.loads.insert(n);
                        seen.reads.insert((x, n));
                    } else {
                        seen.reads.insert((x, u32::MAX));
                    }
                }
                Term::Sum(bound, _) if !bound.is_empty() => drop(seen.reductions.insert(x)),
                Term::Reduce(..) | Term::TopK(..) => drop(seen.reductions.insert(x)),
                Term::Const(_)
                | Term::Iota(_)
                | Term::Length(_)
                | Term::Param(_)
                | Term::Weight(_)
                | Term::Sum(..)
                | Term::Plus(_)
                | Term::Map(..)
                | Term::Index(..) => {}
            }
            stack.extend(terms.operands(x));
        }
    }

    /// Another token is read where the value that it has is kept in pages, as far as its readers look.
    fn read(&mut self, reader: &Value, at: TermId, of: u32) -> Result<(), String> {
        if of == u32::MAX {
            return self.hold(false, || "reads what another token has not stored".to_owned());
        }
        let Term::Read(_, view) = *self.terms().term(at) else { unreachable!("reads are found by their term") };
        let value = &self.fused.values[of as usize];
        let rows = self.terms().stored[of as usize].0.contains(self.terms().views[&view]);
        let form = value.forms.iter().position(|f| matches!(f, group::Form::Cache { .. }));
        let kept = form.filter(|f| rows && self.fused.caches.contains(&(of, *f)));
        let Some(form) = kept else {
            return self.hold(false, || format!("reads `{}` at other tokens, which is not cached", value.name));
        };
        let group::Form::Cache { sight, .. } = value.forms[form] else { unreachable!("found above") };
        // A kernel over every cached token reads each as it is kept, and no further.
        let every = self.terms().every.values().any(|e| *e == view);
        let wide = match &reader.work {
            Work::Stream(f) => f.sight.is_some_and(|s| s.join(sight) == sight),
            Work::Map | Work::Contract(_) => every,
            Work::TopK => false,
        };
        self.hold(wide, || format!("sees more tokens of `{}` than are kept", value.name))
    }

    // ---- loops -----------------------------------------------------------------------------------------

    /// Values of one kernel have one loop.
    fn one_loop(&mut self, values: &[u32]) -> Result<(), String> {
        let terms = self.terms();
        let work = |n: u32| &self.fused.values[n as usize].work;
        let lens = |axes: &[AxisId]| axes.iter().map(|a| terms.axes[*a].extent).collect::<Vec<_>>();
        let stored = |n: u32| &terms.stored[n as usize].0;
        let same = |n: u32, m: u32| match (work(n), work(m)) {
            (Work::Map, Work::Map) => stored(n) == stored(m),
            (Work::Contract(a), Work::Contract(b)) => a.input == b.input && a.reduce == b.reduce,
            (Work::Stream(a), Work::Stream(b)) => {
                lens(&a.stream.over) == lens(&b.stream.over) && a.parallel == b.parallel && a.sight == b.sight
            }
            (Work::Map | Work::Contract(_) | Work::Stream(_) | Work::TopK, _) => false,
        };
        let Some(odd) = values[1..].iter().copied().find(|n| !same(values[0], *n)) else { return Ok(()) };
        let (a, b) = (self.name(values[0]), self.name(odd));
        self.hold(false, || format!("`{a}` and `{b}` are computed in one kernel and have other loops"))
    }

    fn contraction(&mut self, c: &Contraction, read: &mut Denote) -> Result<(), String> {
        let terms = self.terms();
        let (input, order) = self.input(c.input)?;
        let rows_first = order.first().is_some_and(|t| terms.is_seq(*t)) && order[1..] == c.reduce;
        self.hold(rows_first, || "has an activation that lies along other axes than are reduced".to_owned())?;
        for p in &c.products {
            let found = read.reduced(ReduceOp::Sum, &c.reduce, &[p.weight, input])?;
            let own = read.of(p.term)?;
            self.hold(found == own, || "has a product that is not the one of its formula".to_owned())?;
            let reduce: Axes = c.reduce.iter().copied().collect();
            let out: Axes = p.axes.iter().copied().collect();
            let weight = terms.free(p.weight);
            let split = out == weight.minus(&reduce) && reduce.is_subset(weight) && p.axes.len() == out.len();
            self.hold(split && terms.info(p.weight).weight_only, || "has a weight over other axes".to_owned())?;
            let kept = !p.format.is_quantised() || self.is_kept(p.weight, p.format);
            self.hold(kept, || format!("has a product with a weight that no file has as {}", p.format))?;
        }
        let lens = |axes: &mut dyn Iterator<Item = AxisId>| {
            let mut all: Vec<_> = axes.map(|a| terms.axes.len_of(a)).collect();
            all.sort_unstable();
            all
        };
        for (stat, body) in &c.stats {
            let Some((op, bound)) = reduction(terms, *stat) else {
                return Err("has a statistic that is no reduction".to_owned());
            };
            let steps = lens(&mut bound.iter()) == lens(&mut c.reduce.iter().copied());
            let found = read.reduced(op, bound.as_slice(), &[*body])?;
            let own = read.of(*stat)?;
            self.hold(steps && found == own, || "has a statistic that is not the one of its formula".to_owned())?;
        }
        Ok(())
    }

    /// What an activation is, and the axes in the order in which it lies.
    fn input(&self, input: Input) -> Result<(TermId, Vec<AxisId>), String> {
        let terms = self.terms();
        match input {
            Input::Param(n) => {
                let is = |x: &TermId| *terms.term(*x) == Term::Param(n);
                let id = (0..terms.len() as u32).map(TermId).find(is).ok_or("reads a parameter that there is not")?;
                let (mut order, rest): (Vec<_>, Vec<_>) = terms.free(id).iter().partition(|a| terms.is_seq(*a));
                order.extend(rest);
                Ok((id, order))
            }
            Input::Stored { value, form } => match self.fused.values.get(value as usize).map(|v| v.forms.get(form)) {
                Some(Some(group::Form::Dense { axes, .. })) => {
                    Ok((self.fused.values[value as usize].meaning, axes.clone()))
                }
                _ => Err("has an activation that is not stored as a matrix".to_owned()),
            },
        }
    }

    /// Whether a weight is a slot whose file has it in this format.
    fn is_kept(&self, weight: TermId, format: llmc_artifact::Format) -> bool {
        let terms = self.terms();
        let slot = match terms.term(weight) {
            Term::Index(x, at) if at.iter().all(|(_, i)| matches!(terms.term(*i), Term::Iota(_))) => *x,
            _ => weight,
        };
        match terms.term(slot) {
            Term::Weight(n) => self.fused.facts.weights.get(*n as usize).is_some_and(|w| w.format == format),
            _ => false,
        }
    }

    /// The states of a loop are those that its verifier saw, over stored values.
    fn fold(&mut self, n: u32, f: &Fold, read: &mut Denote) -> Result<(), String> {
        stream::verify::verify(&mut self.terms().clone(), &f.derived)?;
        let (a, b) = (&f.derived, &f.stream);
        self.hold(a.over == b.over && a.states.len() == b.states.len(), || "has another loop than was derived".into())?;
        for (was, is) in a.states.iter().zip(&b.states) {
            let fixed = (was.source, was.op, was.init, was.reaches_one) == (is.source, is.op, is.init, is.reaches_one);
            let bodies = read.of(was.body)? == read.of(is.body)?;
            self.hold(fixed && bodies, || "has a state that is not the one that was derived".to_owned())?;
            let shape = |s: &stream::State| {
                let shifts: Vec<_> = s.repair.shifts.iter().map(|s| (s.factor.to_bits(), s.by.len(), s.of)).collect();
                let scales: Vec<_> = s.repair.scales.iter().map(|m| m.op).collect();
                (s.repair.anew.len(), shifts, scales)
            };
            let moved = |s: &stream::State, read: &mut Denote| -> Result<Vec<Form>, String> {
                s.repair.moving().map(|x| read.of(x)).collect()
            };
            let same = shape(was) == shape(is) && moved(was, read)? == moved(is, read)?;
            self.hold(same, || "has a repair that is not the one that was derived".to_owned())?;
        }
        let value = &self.terms().stored[n as usize].0;
        self.hold(f.parallel.is_subset(value), || "has more loops than elements".to_owned())?;
        self.claims += 1;
        dead::skipped(self.terms(), f)
    }

    /// Contractions within a loop's bodies are those that it says it has, over axes of the loop, one deep.
    fn dots(&mut self, f: &Fold, inside: &Seen) -> Result<(), String> {
        let terms = self.terms();
        // The walk goes on below a dot: what it finds there would be a dot within a dot.
        let dots: BTreeSet<_> = f.dots.iter().copied().collect();
        self.hold(inside.reductions == dots, || "contracts something else in its loop than it says".to_owned())?;
        let outer: Axes = f.parallel.iter().chain(f.stream.over.iter().copied()).collect();
        for d in &f.dots {
            let operands = terms.operands(*d);
            let nested = below(terms, &operands).into_iter().any(|x| dots.contains(&x));
            let loops = terms.free(*d).is_subset(&outer);
            self.hold(!nested && loops, || "contracts for other points than its loop has".to_owned())?;
        }
        Ok(())
    }

    // ---- caches ----------------------------------------------------------------------------------------

    /// Pages hold what was asked for, then what is read at other tokens; each with every axis once.
    fn caches(&mut self, given: &Extracted) -> Result<(), String> {
        let terms = self.terms();
        let (asked, mut read) = (asked(given).len(), Seen::default());
        for value in &self.fused.values {
            let (results, bodies) = self.results(value);
            self.walk(&bodies, &results, &mut read);
        }
        let read: BTreeSet<u32> = read.reads.into_iter().map(|r| r.1).collect();
        for (n, (value, form)) in self.fused.caches.iter().enumerate() {
            let name = self.name(*value);
            let Some(group::Form::Cache { outer, inner, .. }) = self.fused.values[*value as usize].forms.get(*form)
            else {
                return Err(format!("`{name}` is kept and has no pages"));
            };
            self.hold(n < asked || read.contains(value), || format!("`{name}` is kept and nobody reads it"))?;
            let (row, own): (Vec<_>, Vec<_>) =
                terms.stored[*value as usize].0.iter().partition(|a| matches!(terms.axes[*a].extent, Extent::Seq(_)));
            let mut paged: Vec<_> = outer.iter().chain(inner).copied().collect();
            paged.sort_unstable();
            let whole = row.len() == 1 && paged == own;
            self.hold(whole, || format!("`{name}` is kept in pages over other axes than its own"))?;
        }
        for (n, value) in self.fused.values.iter().enumerate() {
            for (f, form) in value.forms.iter().enumerate() {
                let cache = matches!(form, group::Form::Cache { .. });
                let listed = !cache || self.fused.caches.contains(&(n as u32, f));
                self.hold(listed, || format!("`{}` has pages and is not among what is kept", value.name))?;
            }
        }
        Ok(())
    }
}

/// What was asked to be cached: what has tokens of two sequences is kept in its parts.
fn asked(given: &Extracted) -> Vec<TermId> {
    let tokens = |id: &TermId| given.terms.free(*id).iter().filter(|a| given.terms.is_seq(*a)).count();
    given.caches.iter().copied().filter(|id| tokens(id) == 1).collect()
}

/// Bound axes that are free in a term, under the names of the model that they stand for.
fn own_names(terms: &Terms, id: TermId) -> Vec<(AxisId, AxisId)> {
    let free = terms.free(id);
    let own = |a: AxisId| terms.binders.get(&a).map(|(stem, _)| (a, *stem));
    free.iter().filter_map(own).filter(|(_, stem)| !free.contains(*stem)).collect()
}

/// The stored value behind renamed axes.
fn leaf(terms: &Terms, id: TermId) -> Option<u32> {
    match terms.term(id) {
        Term::Stored(n) => Some(*n),
        Term::Index(x, at) if at.iter().all(|(_, i)| matches!(terms.term(*i), Term::Iota(_))) => leaf(terms, *x),
        _ => None,
    }
}

fn reduction(terms: &Terms, id: TermId) -> Option<(ReduceOp, Axes)> {
    match terms.term(id) {
        Term::Sum(bound, _) if !bound.is_empty() => Some((ReduceOp::Sum, bound.clone())),
        Term::Reduce(op, bound, _) => Some((*op, bound.clone())),
        _ => None,
    }
}

/// Every term below some.
fn below(terms: &Terms, from: &[TermId]) -> Vec<TermId> {
    let (mut stack, mut seen, mut out) = (from.to_vec(), vec![false; terms.len()], Vec::new());
    while let Some(x) = stack.pop() {
        if !std::mem::replace(&mut seen[x.0 as usize], true) {
            out.push(x);
            stack.extend(terms.operands(x));
        }
    }
    out
}
