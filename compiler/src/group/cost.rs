//! What a kernel costs whole: the bytes it moves and its operations on the machine's roofline, and its launch.

use super::{Contraction, Facts, Fold, Form, Fused, Value, Work};
use crate::alpha;
use crate::cost::{Arithmetic, Cost, Kernel, element_bytes};
use crate::normal::{TermId, Terms};
use llmc_artifact::Format;
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::BTreeSet;

/// What all kernels of a block cost, one after another, in the role and on the machine of `facts`.
pub fn whole(fused: &Fused, facts: &Facts) -> Cost {
    fused.groups.iter().map(|g| kernel(&fused.terms, &fused.values, &g.values, facts)).sum()
}

/// What one kernel costs which computes all of `members`: what they share is paid once.
pub fn kernel(terms: &Terms, values: &[Value], members: &[u32], facts: &Facts) -> Cost {
    let mut of = Counted { terms, values, facts, kernel: Kernel::new(&facts.machine), reduced: BTreeSet::new() };
    let mut read = BTreeSet::new();
    for n in members {
        let value = &values[*n as usize];
        of.stores(*n);
        of.reductions(&value.work);
        read.extend(value.loads.iter().copied());
    }
    read.iter().for_each(|n| of.read(*n));
    of.kernel.cost()
}

struct Counted<'a> {
    terms: &'a Terms,
    values: &'a [Value],
    facts: &'a Facts,
    kernel: Kernel<'a>,
    /// Reductions that are counted already.
    reduced: BTreeSet<TermId>,
}

impl Counted<'_> {
    fn points(&self, axes: &Axes) -> f64 {
        let lengths = self.facts.role.lengths();
        let length = |axis: AxisId| match self.terms.axes.len_of(axis) {
            Some(n) => n as f64,
            None if self.terms.views.contains_key(&axis) => lengths.keys as f64,
            None => lengths.rows as f64,
        };
        axes.iter().map(length).product()
    }

    fn axes(&self, n: u32) -> &Axes {
        &self.terms.stored[n as usize].0
    }

    /// What a value's formula costs at every point, and its forms written.
    fn stores(&mut self, n: u32) {
        let (value, points) = (&self.values[n as usize], self.points(self.axes(n)));
        let operations = self.terms.operands(value.term).len().max(1) as f64;
        self.kernel.compute(Arithmetic::Scalar, points * operations);
        for form in &value.forms {
            match form {
                Form::Dense { format, .. } => self.kernel.value(points * element_bytes(*format)),
                Form::Cache { format, .. } => self.kernel.memory(points * element_bytes(*format)),
            }
        }
    }

    /// A value's own reductions, those that are not counted already.
    fn reductions(&mut self, work: &Work) {
        match work {
            Work::Map | Work::TopK => {}
            Work::Contract(c) => self.products(c),
            Work::Stream(f) => {
                let over: Axes = f.stream.over.iter().copied().collect();
                let dots = Arithmetic::of(self.facts.cache);
                for s in &f.stream.states {
                    let free = self.terms.free(s.source).union(&over);
                    let points = self.points(&free);
                    // A state of one number for each fold takes exponentials; one with axes of its own multiplies and adds.
                    let own = !free.is_subset(&f.parallel.union(&over));
                    let (kind, each) = if own { (dots, 2.0) } else { (Arithmetic::Scalar, 4.0) };
                    self.once(s.source, kind, each * points);
                }
                for d in &f.dots {
                    let inner = alpha::reduction(self.terms, *d).map_or(Axes::none(), |(_, b)| b);
                    let points = self.points(&self.terms.free(*d).union(&inner));
                    self.once(*d, dots, 2.0 * points);
                }
                self.weights_of(f);
            }
        }
    }

    fn products(&mut self, c: &Contraction) {
        let rows = self.facts.role.lengths().rows as f64;
        for p in &c.products {
            let size = self.points(self.terms.free(p.weight));
            if self.once(p.term, Arithmetic::of(p.format), 2.0 * size * rows) {
                self.kernel.memory(size * element_bytes(p.format));
            }
        }
        for (term, body) in &c.stats {
            let points = self.points(self.terms.free(*body));
            self.once(*term, Arithmetic::Scalar, 2.0 * points);
        }
    }

    /// Counts a reduction's operations unless they are counted already.
    fn once(&mut self, reduction: TermId, kind: Arithmetic, operations: f64) -> bool {
        let first = self.reduced.insert(reduction);
        if first {
            self.kernel.compute(kind, operations);
        }
        first
    }

    /// Weights that a loop over constant axes multiplies with: each element once, those that tokens chose for every
    /// token until all of the weight is read.
    fn weights_of(&mut self, f: &Fold) {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<TermId> = f.stream.states.iter().map(|s| s.body).collect();
        while let Some(x) = stack.pop() {
            if !seen.insert(x) {
                continue;
            }
            match super::value::weight_below(self.terms, x) {
                Some(slot) => {
                    let whole = self.points(&self.terms.weights[slot as usize].0);
                    let read = self.points(self.terms.free(x)).min(whole);
                    let format = self.facts.weights.get(slot as usize).map_or(Format::F32, |w| w.format);
                    self.kernel.memory(read * element_bytes(format));
                }
                None => stack.extend(self.terms.operands(x)),
            }
        }
    }

    /// A stored value that the kernel reads: what other tokens appended comes from memory.
    fn read(&mut self, n: u32) {
        let cached = self.values[n as usize].forms.iter().find_map(|f| match f {
            Form::Cache { format, .. } => Some(*format),
            Form::Dense { .. } => None,
        });
        let points = self.points(self.axes(n));
        match cached {
            Some(format) => {
                let lengths = self.facts.role.lengths();
                let seen = points / lengths.rows as f64 * lengths.keys as f64;
                self.kernel.memory(seen * element_bytes(format));
            }
            None => self.kernel.value(points * 4.0),
        }
    }
}
