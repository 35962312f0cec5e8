//! What a kernel costs whole: the bytes it moves and its operations on the machine's roofline, and its launch.

use super::{Contraction, Facts, Fold, Form, Fused, Group, Value, Work, parts, row_axis};
use crate::alpha;
use crate::cost::{Arithmetic, Cost, Kernel, element_bytes};
use crate::normal::{TermId, Terms};
use llmc_artifact::Format;
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::BTreeSet;

/// What all kernels of a block cost, one after another, in the role and on the machine of `facts`: folds cut into parts as
/// that role would have them.
pub fn whole(fused: &Fused, facts: &Facts) -> Cost {
    let Fused { terms, values, groups, .. } = fused;
    let cost = |g: &Group| match parts::consider(terms, values, &g.values, facts) {
        Some(choice) => choice.best(),
        None => kernel(terms, values, &g.values, facts),
    };
    groups.iter().map(cost).sum()
}

/// What a group's kernel costs, or its two where it is cut into parts.
pub fn group(terms: &Terms, values: &[Value], group: &Group, facts: &Facts) -> Cost {
    match group.parts {
        Some(size) => in_parts(terms, values, &group.values, size, facts),
        None => kernel(terms, values, &group.values, facts),
    }
}

/// What one kernel costs which computes all of `members`: what they share is paid once.
pub fn kernel(terms: &Terms, values: &[Value], members: &[u32], facts: &Facts) -> Cost {
    let mut of = Counted::new(terms, values, facts);
    of.folded(members);
    members.iter().for_each(|n| of.stores(*n));
    if let Work::Stream(f) = &values[members[0] as usize].work {
        of.kernel.spread(of.points(&f.parallel));
    }
    of.kernel.cost()
}

/// What the two kernels cost that compute all of `members` in parts of `size`: the folds of the parts with their states
/// stored, and the fold over those.
pub fn in_parts(terms: &Terms, values: &[Value], members: &[u32], size: u64, facts: &Facts) -> Cost {
    let Work::Stream(f) = &values[members[0] as usize].work else { panic!("group: only a fold has parts") };
    let (mut parts, mut whole) = (Counted::new(terms, values, facts), Counted::new(terms, values, facts));
    let folds = parts.points(&f.parallel);
    let window = f.sight.and_then(|s| s.window).map_or(f64::INFINITY, |w| w as f64);
    let number = (parts.length(f.stream.over[0]).min(window) / size as f64).ceil();
    parts.folded(members);
    parts.kernel.spread(folds * number);
    let over: Axes = f.stream.over.iter().copied().collect();
    for n in members {
        whole.stores(*n);
        let Work::Stream(f) = &values[*n as usize].work else { continue };
        for s in &f.stream.states {
            let stored = number * parts.points(&terms.free(s.source).minus(&over).union(&f.parallel));
            // Loaded, repaired and folded in.
            if whole.once(s.source, Arithmetic::Scalar, 4.0 * stored) {
                parts.kernel.value(4.0 * stored);
                whole.kernel.value(4.0 * stored);
            }
        }
    }
    whole.kernel.spread(folds);
    parts.kernel.cost() + whole.kernel.cost()
}

/// The folds of a group: points of their parallel axes.
pub fn folds(terms: &Terms, values: &[Value], members: &[u32], facts: &Facts) -> f64 {
    match &values[members[0] as usize].work {
        Work::Stream(f) => Counted::new(terms, values, facts).points(&f.parallel),
        Work::Map | Work::Contract(_) | Work::TopK => 0.0,
    }
}

struct Counted<'a> {
    terms: &'a Terms,
    values: &'a [Value],
    facts: &'a Facts,
    kernel: Kernel<'a>,
    /// Reductions that are counted already.
    reduced: BTreeSet<TermId>,
}

impl<'a> Counted<'a> {
    fn new(terms: &'a Terms, values: &'a [Value], facts: &'a Facts) -> Counted<'a> {
        Counted { terms, values, facts, kernel: Kernel::new(&facts.machine), reduced: BTreeSet::new() }
    }

    /// The reductions of some values, and what they and the values' formulas read.
    fn folded(&mut self, members: &[u32]) {
        members.iter().for_each(|n| self.reductions(&self.values[*n as usize].work));
        let read: BTreeSet<u32> = members.iter().flat_map(|n| self.values[*n as usize].loads.iter().copied()).collect();
        read.iter().for_each(|n| self.read(*n));
    }

    fn length(&self, axis: AxisId) -> f64 {
        let lengths = self.facts.role.lengths();
        match self.terms.axes.len_of(axis) {
            Some(n) => n as f64,
            None if self.terms.views.contains_key(&axis) => lengths.keys as f64,
            None => lengths.rows as f64,
        }
    }

    fn points(&self, axes: &Axes) -> f64 {
        axes.iter().map(|a| self.length(a)).product()
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
                Form::Dense { format, .. } | Form::Workspace { format, .. } => {
                    self.kernel.value(points * element_bytes(*format));
                }
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
        for p in &c.products {
            let size = self.points(self.terms.free(p.weight));
            let rows = self.points(&row_axis(self.terms, self.terms.free(p.term)).into_iter().collect());
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
        let mut stack: Vec<TermId> = f.stream.states.iter().map(|s| s.body).collect();
        // Earlier states stand for their values.
        let mut seen: BTreeSet<TermId> = f.stream.states.iter().map(|s| s.source).collect();
        while let Some(x) = stack.pop() {
            if !seen.insert(x) {
                continue;
            }
            match super::leaves::weight_below(self.terms, x) {
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
        let forms = &self.values[n as usize].forms;
        let cached = forms.iter().find_map(|f| match f {
            Form::Cache { format, .. } => Some(*format),
            Form::Dense { .. } | Form::Workspace { .. } => None,
        });
        let bytes = forms.iter().map(|f| match f {
            Form::Workspace { format, .. } => element_bytes(*format),
            Form::Dense { .. } | Form::Cache { .. } => 4.0,
        });
        let bytes = bytes.reduce(f64::min).unwrap_or(4.0);
        let points = self.points(self.axes(n));
        match cached {
            Some(format) => {
                let lengths = self.facts.role.lengths();
                let seen = points / lengths.rows as f64 * lengths.keys as f64;
                self.kernel.memory(seen * element_bytes(format));
            }
            None => self.kernel.value(points * bytes),
        }
    }
}
