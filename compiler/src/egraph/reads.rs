//! What else could be read at other tokens: the law `Look`, and the names of what is read.
//!
//! Normal form reads as large a value as can be: `S[r](w * f)[t = s]`. Where a smaller value can be read instead, the
//! rest is computed where it is read: `S[r](w * f[t = s])`. Both are kept; which of them is cached is chosen by cost, for
//! both roles at once. Only reads that become smaller are looked at, and of the cuts through one sum only the smallest,
//! so that the e-graph stays small.

use crate::normal::{Term, TermId, Terms};
use crate::rules::Law;
use indexmap::IndexMap;
use llmc_frontend::graph::{Axes, AxisId};

/// The law `Look`, as terms: what reads other tokens, and the same with a smaller value read.
pub fn looked(terms: &mut Terms, roots: &[TermId]) -> Vec<(TermId, TermId)> {
    let mut pairs = Vec::new();
    if !terms.laws.has(Law::Look) {
        return pairs;
    }
    let all = crate::normal::text::reachable(terms, roots.iter().copied());
    let mut inside: IndexMap<TermId, TermId> = IndexMap::new();
    for id in all.iter().copied() {
        if let Term::Read(x, s) = *terms.term(id)
            && let Some(smaller) = look(terms, x, s)
        {
            inside.insert(id, smaller);
            pairs.push((id, smaller));
        }
    }
    // A sum over such a read is one sum with it: then it can be taken in any order.
    for id in all {
        let Term::Sum(bound, xs) = terms.term(id).clone() else { continue };
        if !bound.is_empty() && xs.iter().any(|x| inside.contains_key(x)) {
            let xs: Vec<_> = xs.iter().map(|x| inside.get(x).copied().unwrap_or(*x)).collect();
            pairs.push((id, terms.sum(&bound, &xs)));
        }
    }
    pairs
}

/// `x[t = s]` for a sum `x`, times what scales it: as a sum of weights and a smaller read.
fn look(terms: &mut Terms, x: TermId, s: AxisId) -> Option<TermId> {
    let (scales, sum) = scaled_sum(terms, x)?;
    let Term::Sum(bound, factors) = terms.term(sum).clone() else { return None };
    let cut = smallest_cut(terms, &bound, &factors)?;
    if size(terms, &cut.axes) >= size(terms, terms.free(x)) {
        return None;
    }
    let mut read = cut.inside.clone();
    let mut outside = Vec::new();
    for scale in scales {
        // A scale of the token goes with what is read; one with axes of its own would make that larger.
        if terms.free(scale).is_subset(&cut.axes) { read.push(scale) } else { outside.push(terms.read(scale, s)) }
    }
    let read = if cut.first.is_empty() { terms.product(&read) } else { summed(terms, &cut, read) };
    let read = terms.read(read, s);
    let mut factors = cut.outside.clone();
    factors.push(read);
    let (bound, mut factors) = terms.canonical_binders(&bound.minus(&cut.first), factors);
    factors.sort_unstable();
    let sum = terms.add(Term::Sum(bound, factors));
    outside.push(sum);
    Some(match outside[..] {
        [only] => only,
        _ => {
            outside.sort_unstable();
            terms.add(Term::Sum(Axes::none(), outside))
        }
    })
}

/// The factors of a cut summed over its axes; those without them beside the sum.
fn summed(terms: &mut Terms, cut: &Cut, factors: Vec<TermId>) -> TermId {
    let has = |t: &Terms, x: TermId| !t.free(x).intersect(&cut.first).is_empty();
    let (with, mut rest): (Vec<_>, Vec<_>) = factors.into_iter().partition(|x| has(terms, *x));
    let sum = terms.sum(&cut.first, &with);
    rest.push(sum);
    terms.product(&rest)
}

/// A product as its one sum and what scales that, or a sum.
fn scaled_sum(terms: &Terms, x: TermId) -> Option<(Vec<TermId>, TermId)> {
    match terms.term(x) {
        Term::Sum(bound, _) if !bound.is_empty() => Some((vec![], x)),
        Term::Sum(_, xs) => {
            let is_sum = |y: &TermId| matches!(terms.term(*y), Term::Sum(bound, _) if !bound.is_empty());
            let (sums, scales): (Vec<_>, Vec<_>) = xs.iter().copied().partition(is_sum);
            let [sum] = sums[..] else { return None };
            Some((scales, sum))
        }
        _ => None,
    }
}

/// Where a sum is cut: what is summed before it is read, and the weights that multiply what was read.
#[derive(Clone)]
struct Cut {
    /// Axes that are summed before.
    first: Axes,
    inside: Vec<TermId>,
    outside: Vec<TermId>,
    /// What is read has these free.
    axes: Axes,
}

/// The cut through a sum after which the least is read.
fn smallest_cut(terms: &Terms, bound: &Axes, factors: &[TermId]) -> Option<Cut> {
    let whole = cut(terms, bound, factors, Axes::none());
    let cuts = bound.iter().filter_map(|a| {
        let with = |x: &&TermId| terms.free(**x).contains(a);
        let others: Vec<_> = factors.iter().filter(|x| !with(x)).collect();
        let own = |b: &AxisId| !others.iter().any(|x| terms.free(**x).contains(*b));
        cut(terms, bound, factors, bound.iter().filter(own).collect())
    });
    let size = |c: &Cut| size(terms, &c.axes);
    whole.into_iter().chain(cuts).min_by(|a, b| size(a).total_cmp(&size(b)))
}

/// The cut that sums over `first` before the read. There is none where what stays outside depends on tokens.
fn cut(terms: &Terms, bound: &Axes, factors: &[TermId], first: Axes) -> Option<Cut> {
    let apart = |x: &TermId| terms.laws.require(Law::Look, terms.free(*x).intersect(&first).is_empty());
    let stays = |x: &TermId| terms.info(*x).weight_only && apart(x);
    let (outside, inside): (Vec<_>, Vec<_>) = factors.iter().copied().partition(stays);
    let axes = inside.iter().fold(Axes::none(), |a, x| a.union(terms.free(*x))).minus(&first);
    let whole = outside.is_empty() || inside.is_empty() || first == *bound;
    (!whole).then_some(Cut { first, inside, outside, axes })
}

/// Elements of one token.
fn size(terms: &Terms, axes: &Axes) -> f64 {
    axes.iter().filter_map(|a| terms.axes.len_of(a)).map(|n| n as f64).product()
}

/// What is read at other tokens below some terms under several names: each with the first that is the same value.
pub fn same_reads(terms: &mut Terms, roots: impl Iterator<Item = TermId>) -> Vec<(TermId, TermId)> {
    let of = |id: &TermId| match terms.term(*id) {
        Term::Read(x, _) => Some(*x),
        _ => None,
    };
    let read: Vec<TermId> = crate::normal::text::reachable(terms, roots).iter().filter_map(of).collect();
    let mut first: IndexMap<TermId, TermId> = IndexMap::new();
    let mut same = Vec::new();
    for x in read {
        let base = unbound(terms, x);
        // An axis that keeps a bound name shares it with another: which of them is which could not be told.
        if terms.free(base).iter().any(|a| !terms.is_seq(a) && terms.stem(a) != a) {
            continue;
        }
        let first = *first.entry(base).or_insert(x);
        if first != x {
            same.push((x, first));
        }
    }
    same
}

/// A term with its bound axes renamed to those of the model they stand for, where these are not taken.
fn unbound(terms: &mut Terms, x: TermId) -> TermId {
    let free = terms.free(x).clone();
    let mut names: Vec<(AxisId, AxisId)> = Vec::new();
    for a in free.iter().filter(|a| !terms.is_seq(*a)) {
        let own = terms.stem(a);
        if own != a && !free.contains(own) && names.iter().all(|(_, b)| *b != own) {
            names.push((a, own));
        }
    }
    let at: Vec<_> = names.into_iter().map(|(a, own)| (a, terms.add(Term::Iota(own)))).collect();
    terms.index(x, &at)
}
