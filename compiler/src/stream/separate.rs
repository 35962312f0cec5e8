//! Separability: whether a body is `G(x) * H(y)`, where x runs with the folded axes and y is what earlier
//! reductions of the same loop have found so far.

use super::State;
use super::ratio::{self, Ratio};
use crate::alpha;
use crate::normal::{Literal, Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp};
use llmc_frontend::graph::Axes;
use std::collections::HashMap;

/// One factor `H(y)` of a body: its ratio's law, and y as a term free of the folded axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// H.
    pub op: ScalarOp,
    /// y, over earlier reductions.
    pub by: TermId,
}

/// Splits the product `body` of a sum over `over`: the factors that move with the `earlier` reductions.
///
/// # Errors
/// Why it does not separate.
pub fn separate(terms: &mut Terms, body: TermId, over: &Axes, earlier: &[TermId]) -> Result<Vec<Moved>, String> {
    let mut moved = Vec::new();
    for factor in factors(terms, body) {
        if !holds(terms, factor, earlier) {
            continue;
        }
        let Term::Map(op, xs) = terms.term(factor).clone() else {
            return Err("a factor mixes the loop's own values with the earlier result, and is no power of it".into());
        };
        let Some(Ratio { op, .. }) = ratio::ratio(op) else {
            return Err(format!("`{}` of the earlier result has no ratio that repairs it", op.keyword()));
        };
        let (_, y) = split(terms, xs[0], over, earlier).ok_or_else(|| {
            format!(
                "the argument of `{}` is no sum of a part of the loop and a part of the earlier result",
                op.keyword()
            )
        })?;
        let Some(by) = y else { continue };
        moved.push(Moved { op: *op, by });
    }
    Ok(moved)
}

/// Whether a sum over `body` has `H(0)` among its terms: `H(c * (x - y))` where y is the largest x, or the smallest.
/// Every H of the table is 1 at 0 and positive.
pub fn reaches_one(terms: &mut Terms, body: TermId, over: &Axes, repair: &[Moved], states: &[State]) -> bool {
    let ([moved], Term::Map(op, xs)) = (repair, terms.term(body).clone()) else { return false };
    if ratio::ratio(op).is_none() {
        return false;
    }
    let earlier: Vec<_> = states.iter().map(|s| s.source).collect();
    let Some((Some(own), _)) = split(terms, xs[0], over, &earlier) else { return false };
    let bounds = states.iter().filter(|s| matches!(s.op, ReduceOp::Max | ReduceOp::Min)).map(|s| (s.source, s.body));
    for (source, of) in bounds.collect::<Vec<_>>() {
        // Where x is the bound itself, the loop's own part and `by[y := x]` cancel.
        let at_bound = alpha::replace(terms, moved.by, &HashMap::from([(source, of)]));
        let opposite = alpha::negate(terms, at_bound);
        if holds(terms, moved.by, &[source]) && cancel_signs(terms, opposite) == own {
            return true;
        }
    }
    false
}

/// A product without pairs of -1.
fn cancel_signs(terms: &mut Terms, id: TermId) -> TermId {
    let all = factors(terms, id);
    let (signs, mut rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|f| alpha::as_real(terms, *f) == Some(-1.0));
    rest.extend(signs.iter().take(signs.len() % 2));
    alpha::product(terms, rest)
}

/// The factors of a product.
pub fn factors(terms: &Terms, body: TermId) -> Vec<TermId> {
    match terms.term(body) {
        Term::Sum(bound, xs) if bound.is_empty() => xs.clone(),
        _ => vec![body],
    }
}

/// Whether a term holds one of the given ones.
pub fn holds(terms: &Terms, id: TermId, what: &[TermId]) -> bool {
    let mut seen = vec![false; terms.len()];
    let mut stack = vec![id];
    while let Some(x) = stack.pop() {
        if what.contains(&x) {
            return true;
        }
        if !std::mem::replace(&mut seen[x.0 as usize], true) {
            stack.extend(terms.operands(x));
        }
    }
    false
}

/// `a = x + y` with x free of the earlier results and y free of the folded axes; a missing part is zero.
type Split = (Option<TermId>, Option<TermId>);

fn split(terms: &mut Terms, a: TermId, over: &Axes, earlier: &[TermId]) -> Option<Split> {
    if !holds(terms, a, earlier) {
        return Some((Some(a), None));
    }
    if terms.free(a).intersect(over).is_empty() {
        return Some((None, Some(a)));
    }
    match terms.term(a).clone() {
        Term::Plus(xs) => {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for x in xs {
                let (l, r) = split(terms, x, over, earlier)?;
                left.extend(l);
                right.extend(r);
            }
            Some((joined(terms, left), joined(terms, right)))
        }
        // A scale free of the folded axes and of what moves multiplies both parts.
        Term::Sum(bound, xs) if bound.is_empty() => {
            let (inner, outer): (Vec<_>, Vec<_>) =
                xs.iter().partition(|x| !terms.free(**x).intersect(over).is_empty() || holds(terms, **x, earlier));
            let [inner] = inner[..] else { return None };
            let (l, r) = split(terms, inner, over, earlier)?;
            let mut scaled =
                |part: Option<TermId>| part.map(|p| alpha::product(terms, outer.iter().copied().chain([p])));
            Some((scaled(l), scaled(r)))
        }
        Term::Map(ScalarOp::Where, xs) if !holds(terms, xs[0], earlier) => {
            let (a, y) = split(terms, xs[1], over, earlier)?;
            let (b, z) = split(terms, xs[2], over, earlier)?;
            // Minus infinity takes up whatever finite part the other branch moves by.
            let y = match (y, z) {
                (y, z) if y == z => y,
                (Some(y), None) if is_minus_infinity(terms, xs[2]) => Some(y),
                (None, Some(z)) if is_minus_infinity(terms, xs[1]) => Some(z),
                _ => return None,
            };
            let zero = alpha::real(terms, 0.0);
            let choice = vec![xs[0], a.unwrap_or(zero), b.unwrap_or(zero)];
            Some((Some(terms.add(Term::Map(ScalarOp::Where, choice))), y))
        }
        _ => None,
    }
}

fn joined(terms: &mut Terms, xs: Vec<TermId>) -> Option<TermId> {
    if xs.is_empty() { None } else { Some(alpha::plus(terms, xs)) }
}

fn is_minus_infinity(terms: &Terms, id: TermId) -> bool {
    matches!(terms.term(id), Term::Const(Literal::Real(bits)) if f64::from_bits(*bits) == f64::NEG_INFINITY)
}
