//! One product where two would differ by scales.
//!
//! What enters are the terms of a block in canonical form; what leaves are the same values. `S[a](f * g)` beside scales
//! s that lack a is `S[a](f * g * s)`, and where that sum is made anyway the two are one: the square of what a norm
//! takes has its scale in one factor and beside the other, and its matrix would be read twice. The laws are Sink and Hoist, and without
//! them nothing is shared; they are applied here and not in the e-graph, which has both forms in one class only where the whole
//! product is one node.

use crate::alpha;
use crate::normal::text::reachable;
use crate::normal::{Term, TermId, Terms};
use crate::rules::Law;
use llmc_frontend::graph::Axes;
use std::collections::HashMap;

/// A sum of a product with a weight: the factors but for a literal, sorted, and the literal.
struct Product {
    id: TermId,
    bound: Axes,
    factors: Vec<TermId>,
    scale: f64,
}

/// Rewrites the roots until no product is left that another one stands for.
pub(super) fn share(terms: &mut Terms, roots: &mut [TermId]) {
    if ![Law::Sink, Law::Hoist].into_iter().all(|law| terms.laws.has(law)) {
        return;
    }
    while let Some((old, new)) = next(terms, roots) {
        let by = HashMap::from([(old, new)]);
        roots.iter_mut().for_each(|r| *r = alpha::replace(terms, *r, &by));
    }
}

/// A term that has a product beside scales, and the same with the product that has them inside.
fn next(terms: &mut Terms, roots: &[TermId]) -> Option<(TermId, TermId)> {
    let all = reachable(terms, roots.iter().copied());
    let products: Vec<Product> = all.iter().filter_map(|id| product(terms, *id)).collect();
    for id in all {
        let Term::Sum(bound, factors) = terms.term(id).clone() else { continue };
        for a in products.iter().filter(|p| factors.contains(&p.id)) {
            for b in products.iter().filter(|b| b.id != a.id && b.bound == a.bound) {
                let Some(rest) = absorbed(terms, &factors, a, b) else { continue };
                let scale = alpha::real(terms, a.scale / b.scale);
                let new = alpha::sum(terms, bound, rest.into_iter().chain([b.id, scale]));
                return Some((id, new));
            }
        }
    }
    None
}

/// The other factors, where those beside `a` are all that `b` has more inside.
fn absorbed(terms: &Terms, factors: &[TermId], a: &Product, b: &Product) -> Option<Vec<TermId>> {
    let more = without(&b.factors, &a.factors)?;
    let lacks = |f: &TermId| terms.free(*f).intersect(&a.bound).is_empty();
    // Of two that differ by a literal the first stands for both.
    if more.is_empty() && b.id > a.id || !more.iter().all(lacks) {
        return None;
    }
    let rest = without(factors, &[a.id])?;
    without(&rest, &more)
}

/// What is left of `all` without each of `some` once; none where one is missing.
fn without(all: &[TermId], some: &[TermId]) -> Option<Vec<TermId>> {
    let mut left = all.to_vec();
    for x in some {
        left.remove(left.iter().position(|y| y == x)?);
    }
    Some(left)
}

/// A sum over constant axes of a weight and what depends on tokens.
fn product(terms: &Terms, id: TermId) -> Option<Product> {
    let Term::Sum(bound, xs) = terms.term(id) else { return None };
    let matrix = |x: &TermId| terms.info(*x).weight_only && !terms.free(*x).is_subset(bound);
    let is_product = !bound.is_empty()
        && bound.iter().all(|a| terms.axes.len_of(a).is_some())
        && xs.iter().any(matrix)
        && !terms.info(id).weight_only;
    let literals = xs.iter().filter_map(|x| alpha::as_real(terms, *x));
    let scale: f64 = literals.product();
    let factors = xs.iter().copied().filter(|x| alpha::as_real(terms, *x).is_none()).collect();
    (is_product && scale != 0.0 && scale.is_finite()).then(|| Product { id, bound: bound.clone(), factors, scale })
}
