//! Values with one loop share a kernel, unless that would make a cycle or cost more.

use super::cost::kernel;
use super::{Facts, Fold, Group, Input, Value, Work};
use crate::normal::{Term, TermId, Terms};
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::BTreeSet;

/// What values must agree on to share a kernel.
#[derive(Clone, PartialEq, Eq)]
enum Loop {
    Map(Axes),
    Contract {
        input: Input,
        reduce: Vec<AxisId>,
        quantised: bool,
    },
    Stream {
        over: Vec<AxisId>,
        parallel: Axes,
        axes: Axes,
    },
    /// Of its own.
    Single(u32),
}

/// Groups in order of execution.
pub(super) fn merge(terms: &Terms, values: &[Value], facts: &Facts, notes: &mut Vec<String>) -> Vec<Group> {
    let mut pass = Merge { terms, values, facts, members: Vec::new(), of: vec![usize::MAX; values.len()] };
    for n in 0..values.len() as u32 {
        pass.place(n, notes);
    }
    pass.ordered()
}

struct Merge<'a> {
    terms: &'a Terms,
    values: &'a [Value],
    facts: &'a Facts,
    members: Vec<Vec<u32>>,
    /// The group of each value placed so far.
    of: Vec<usize>,
}

impl Merge<'_> {
    fn key(&self, n: u32) -> Loop {
        match &self.values[n as usize].work {
            Work::Map => Loop::Map(self.terms.stored[n as usize].0.clone()),
            Work::Contract(c) => Loop::Contract {
                input: c.input,
                reduce: c.reduce.clone(),
                quantised: c.products[0].format.is_quantised(),
            },
            Work::Stream(f) => Loop::Stream {
                over: f.stream.over.clone(),
                parallel: f.parallel.clone(),
                axes: self.terms.stored[n as usize].0.clone(),
            },
            Work::TopK => Loop::Single(n),
        }
    }

    fn place(&mut self, n: u32, notes: &mut Vec<String>) {
        let key = self.key(n);
        let mut chosen = None;
        for g in 0..self.members.len() {
            let first = self.members[g][0];
            if self.key(first) != key || !self.shares(g, n) {
                continue;
            }
            let (a, b) = (&self.values[n as usize].name, &self.values[first as usize].name);
            if self.waits_for(n, g) {
                notes.push(format!("`{a}` is not computed together with `{b}`: it waits for it"));
                continue;
            }
            let together: Vec<_> = self.members[g].iter().copied().chain([n]).collect();
            let cost = |m: &[u32]| kernel(self.terms, self.values, m, self.facts).seconds;
            let (fused, apart) = (cost(&together), cost(&self.members[g]) + cost(&[n]));
            if fused <= apart {
                chosen = Some(g);
                break;
            }
            notes.push(format!(
                "`{a}` is not computed together with `{b}`: {:.1} us instead of {:.1} us",
                fused * 1e6,
                apart * 1e6
            ));
        }
        match chosen {
            Some(g) => self.members[g].push(n),
            None => self.members.push(vec![n]),
        }
        self.of[n as usize] = chosen.unwrap_or(self.members.len() - 1);
    }

    /// Streams are joined only where they have a reduction in common, or read the same at every step.
    fn shares(&self, g: usize, n: u32) -> bool {
        let sources = |n: u32| -> BTreeSet<TermId> {
            match &self.values[n as usize].work {
                Work::Stream(f) => f.stream.states.iter().map(|s| s.source).chain(self.steps(f)).collect(),
                Work::Map | Work::Contract(_) | Work::TopK => BTreeSet::new(),
            }
        };
        match &self.values[n as usize].work {
            Work::Map | Work::Contract(_) | Work::TopK => true,
            Work::Stream(_) => self.members[g].iter().any(|m| !sources(*m).is_disjoint(&sources(n))),
        }
    }

    /// What a loop reads at each of its steps.
    fn steps(&self, fold: &Fold) -> BTreeSet<TermId> {
        let over: Axes = fold.stream.over.iter().copied().collect();
        let bodies: Vec<_> = fold.stream.states.iter().map(|s| s.body).collect();
        let leaf = |x: &TermId| match self.terms.term(*x) {
            Term::Index(..) | Term::Read(..) => !self.terms.free(*x).intersect(&over).is_empty(),
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Sum(..)
            | Term::Plus(_)
            | Term::Reduce(..)
            | Term::Map(..)
            | Term::TopK(..) => false,
        };
        crate::causality::reachable(self.terms, &bodies).into_iter().filter(leaf).collect()
    }

    /// Whether something that `n` loads is computed in group `g` or after it.
    fn waits_for(&self, n: u32, g: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<_> = self.values[n as usize].loads.iter().map(|l| self.of[*l as usize]).collect();
        while let Some(h) = stack.pop() {
            if h == g {
                return true;
            }
            if seen.insert(h) {
                stack.extend(self.before(h));
            }
        }
        false
    }

    /// Groups that group `g` loads from.
    fn before(&self, g: usize) -> BTreeSet<usize> {
        let loads = self.members[g].iter().flat_map(|m| &self.values[*m as usize].loads);
        loads.map(|l| self.of[*l as usize]).filter(|h| *h != g).collect()
    }

    fn ordered(self) -> Vec<Group> {
        let mut done = vec![false; self.members.len()];
        let mut groups = Vec::new();
        while groups.len() < self.members.len() {
            let next = (0..self.members.len())
                .find(|g| !done[*g] && self.before(*g).iter().all(|h| done[*h]))
                .expect("group: kernels form no cycle");
            done[next] = true;
            let values = self.members[next].clone();
            let name = values.iter().map(|v| self.values[*v as usize].name.clone()).collect::<Vec<_>>().join("_");
            groups.push(Group { name, values, parts: None });
        }
        groups
    }
}
