//! Separability: what becomes of a running sum when earlier results that its body reads move.
//!
//! The body is a product. A factor is the loop's own, or `H(x + y)` of a ratio homomorphism, or a choice between such
//! factors and zero, or affine: a part x of the loop and parts `c * y` in which y has moved. `H` is repaired by a factor. Affine factors make the body a polynomial
//! in what moves, and a polynomial moves by Taylor's formula, which ends: each of its terms is a power of the distance
//! moved times a sum of lower degree, itself a state of the loop.

use super::ratio::{self, Ratio};
use super::{FLOOR, State};
use crate::alpha;
use crate::normal::text::reachable;
use crate::normal::{Literal, Term, TermId, Terms};
use llmc_artifact::{ReduceOp, ScalarOp};
use llmc_frontend::graph::Axes;
use std::collections::{BTreeMap, HashMap};

/// Affine factors of one body, at most: its Taylor terms are two to that power.
const DEGREE: usize = 4;

/// One factor `H(y)` of a body: its ratio's law, and y as a term free of the folded axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// H.
    pub op: ScalarOp,
    /// y, over earlier reductions.
    pub by: TermId,
}

/// A body in its factors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Separated {
    /// Factors that multiply the whole sum when they move.
    pub scales: Vec<Moved>,
    /// Those factors, and the ones that do not move.
    pub rest: Vec<TermId>,
    /// Factors that are sums of parts that move and parts that do not.
    pub affine: Vec<Affine>,
}

/// `own + sum of c * y`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affine {
    /// The part that does not move; zero where it is missing.
    pub own: Option<TermId>,
    /// (c, y): c over the loop, y free of it.
    pub moving: Vec<(TermId, TermId)>,
}

/// A term of Taylor's formula: the product of the distances moved, a number, and the factors whose sum they multiply.
#[derive(Clone, Debug, PartialEq)]
pub struct Taylor {
    /// Each y as often as its distance is multiplied.
    pub by: Vec<TermId>,
    /// The number.
    pub factor: f64,
    /// Factors of a body of lower degree.
    pub body: Vec<TermId>,
}

/// Splits the product `body` of a sum over `over` by what moves with the `earlier` reductions.
///
/// # Errors
/// Why it does not separate.
pub fn separate(terms: &mut Terms, body: TermId, over: &Axes, earlier: &[TermId]) -> Result<Separated, String> {
    let mut out = Separated::default();
    for factor in factors(terms, body) {
        if !holds(terms, factor, earlier) {
            out.rest.push(factor);
            continue;
        }
        if let Term::Map(op, xs) = terms.term(factor).clone()
            && let Some(Ratio { op, .. }) = ratio::ratio(op)
        {
            let (_, y) = split(terms, xs[0], over, earlier).ok_or_else(|| no_sum(*op))?;
            out.scales.extend(y.map(|by| Moved { op: *op, by }));
            out.rest.push(factor);
            continue;
        }
        if let Some(scales) = kept_or_nothing(terms, factor, over, earlier) {
            out.scales.extend(scales);
            out.rest.push(factor);
            continue;
        }
        out.affine.push(affine(terms, factor, over, earlier)?);
    }
    if out.affine.len() > DEGREE {
        return Err(format!("its degree in the earlier result is above {DEGREE}"));
    }
    Ok(out)
}

/// `where(c, x, 0)`, where c does not move: what multiplies x multiplies the choice, and zero stays zero.
fn kept_or_nothing(terms: &mut Terms, factor: TermId, over: &Axes, earlier: &[TermId]) -> Option<Vec<Moved>> {
    let Term::Map(ScalarOp::Where, xs) = terms.term(factor).clone() else { return None };
    let zero = |x: TermId| alpha::as_real(terms, x) == Some(0.0);
    let x = match (zero(xs[1]), zero(xs[2])) {
        (false, true) => xs[1],
        (true, false) => xs[2],
        (true, true) | (false, false) => return None,
    };
    if holds(terms, xs[0], earlier) {
        return None;
    }
    let inner = separate(terms, x, over, earlier).ok()?;
    inner.affine.is_empty().then_some(inner.scales)
}

fn no_sum(op: ScalarOp) -> String {
    format!("the argument of `{}` is no sum of a part of the loop and a part of the earlier result", op.keyword())
}

/// A factor as a sum in which the earlier results are multiplied with nothing but parts of the loop.
fn affine(terms: &mut Terms, factor: TermId, over: &Axes, earlier: &[TermId]) -> Result<Affine, String> {
    if !holds(terms, factor, earlier) {
        return Ok(Affine { own: Some(factor), moving: vec![] });
    }
    match terms.term(factor).clone() {
        Term::Plus(xs) => {
            let mut own = Vec::new();
            let mut moving: BTreeMap<TermId, Vec<TermId>> = BTreeMap::new();
            for x in xs {
                let part = affine(terms, x, over, earlier)?;
                own.extend(part.own);
                part.moving.into_iter().for_each(|(c, y)| moving.entry(y).or_default().push(c));
            }
            let moving = moving.into_iter().map(|(y, c)| (alpha::plus(terms, c), y)).collect();
            Ok(Affine { own: joined(terms, own), moving })
        }
        Term::Map(ScalarOp::Where, xs) if !holds(terms, xs[0], earlier) => choice(terms, &xs, over, earlier),
        _ => monomial(terms, factor, over, earlier),
    }
}

/// `c * y`.
fn monomial(terms: &mut Terms, x: TermId, over: &Axes, earlier: &[TermId]) -> Result<Affine, String> {
    let loops = |t: &Terms, f: TermId| !t.free(f).intersect(over).is_empty();
    let (c, y): (Vec<_>, Vec<_>) = factors(terms, x).into_iter().partition(|f| loops(terms, *f));
    if let Some(mixed) = c.iter().find(|f| holds(terms, **f, earlier)) {
        return Err(match terms.term(*mixed) {
            Term::Map(op, _) => format!(
                "`{}` mixes the loop's own values with the earlier result, and no law takes it apart",
                op.keyword()
            ),
            _ => "a factor mixes the loop's own values with the earlier result".into(),
        });
    }
    let (c, y) = (alpha::product(terms, c), alpha::product(terms, y));
    Ok(Affine { own: None, moving: vec![(c, y)] })
}

/// `where(seen, a, b)`: part by part.
fn choice(terms: &mut Terms, xs: &[TermId], over: &Axes, earlier: &[TermId]) -> Result<Affine, String> {
    let (a, b) = (affine(terms, xs[1], over, earlier)?, affine(terms, xs[2], over, earlier)?);
    let zero = alpha::real(terms, 0.0);
    let mut either = |a: Option<TermId>, b: Option<TermId>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(terms.add(Term::Map(ScalarOp::Where, vec![xs[0], a.unwrap_or(zero), b.unwrap_or(zero)]))),
    };
    let own = either(a.own, b.own);
    let of = |x: &Affine, y: TermId| x.moving.iter().find(|(_, z)| *z == y).map(|(c, _)| *c);
    let mut ys: Vec<_> = a.moving.iter().chain(&b.moving).map(|(_, y)| *y).collect();
    ys.sort_unstable();
    ys.dedup();
    let moving = ys.into_iter().filter_map(|y| either(of(&a, y), of(&b, y)).map(|c| (c, y))).collect();
    Ok(Affine { own, moving })
}

impl Affine {
    /// The factor itself.
    pub fn term(&self, terms: &mut Terms) -> TermId {
        let moving: Vec<_> = self.moving.iter().map(|(c, y)| alpha::product(terms, [*c, *y])).collect();
        alpha::plus(terms, self.own.into_iter().chain(moving))
    }
}

impl Separated {
    /// The body itself.
    pub fn body(&self, terms: &mut Terms) -> TermId {
        let affine: Vec<_> = self.affine.iter().map(|a| a.term(terms)).collect();
        alpha::product(terms, self.rest.iter().copied().chain(affine))
    }

    /// The terms of Taylor's formula beyond the body itself: from every affine factor either the factor as it was, or
    /// one of its parts times the distance that part has moved, but not the factor from all.
    pub fn taylor(&self, terms: &mut Terms) -> Vec<Taylor> {
        let mut all = vec![(Vec::new(), self.rest.clone())];
        for affine in &self.affine {
            let whole = affine.term(terms);
            let mut next = Vec::new();
            for (by, body) in all {
                let longer = |extra: TermId| body.iter().copied().chain([extra]).collect::<Vec<_>>();
                next.push((by.clone(), longer(whole)));
                for (c, y) in &affine.moving {
                    next.push((by.iter().copied().chain([*y]).collect(), longer(*c)));
                }
            }
            all = next;
        }
        let mut sums: BTreeMap<(Vec<TermId>, Vec<TermId>), f64> = BTreeMap::new();
        for (mut by, body) in all.into_iter().filter(|(by, _)| !by.is_empty()) {
            let product = alpha::product(terms, body);
            let (numbers, mut rest): (Vec<_>, Vec<_>) =
                factors(terms, product).into_iter().partition(|f| alpha::as_real(terms, *f).is_some());
            let number: f64 = numbers.iter().filter_map(|f| alpha::as_real(terms, *f)).product();
            by.sort_unstable();
            rest.sort_unstable();
            *sums.entry((by, rest)).or_insert(0.0) += number;
        }
        sums.into_iter().map(|((by, body), factor)| Taylor { by, factor, body }).collect()
    }
}

/// Whether a sum over `body` has `H(0)` among its terms: `H(c * (x - y))` where y is the largest x, or the smallest.
/// Every H of the table is 1 at 0 and positive.
pub fn reaches_one(terms: &mut Terms, body: TermId, over: &Axes, scales: &[Moved], states: &[State]) -> bool {
    let ([moved], Term::Map(op, xs)) = (scales, terms.term(body).clone()) else { return false };
    if ratio::ratio(op).is_none() {
        return false;
    }
    let earlier: Vec<_> = states.iter().map(|s| s.source).collect();
    let Some((Some(own), _)) = split(terms, xs[0], over, &earlier) else { return false };
    let bounds = states.iter().filter(|s| matches!(s.op, ReduceOp::Max | ReduceOp::Min)).map(|s| (s.source, s.body));
    for (source, of) in bounds.collect::<Vec<_>>() {
        // Where x is the bound itself, the loop's own part and `by[y := x]` cancel.
        let by = alpha::replace(terms, moved.by, &held_finite(terms, moved.by, source));
        let at_bound = alpha::replace(terms, by, &HashMap::from([(source, of)]));
        let opposite = alpha::negate(terms, at_bound);
        if holds(terms, moved.by, &[source]) && cancel_signs(terms, opposite) == own {
            return true;
        }
    }
    false
}

/// What holds a bound within [`FLOOR`] is the bound itself, at every score between.
fn held_finite(terms: &Terms, by: TermId, bound: TermId) -> HashMap<TermId, TermId> {
    let holds_it = |x: &TermId| {
        let Term::Map(op, xs) = terms.term(*x) else { return false };
        let beyond = |x: &TermId| match op {
            ScalarOp::Min => alpha::as_real(terms, *x).is_some_and(|c| c >= FLOOR),
            ScalarOp::Max => alpha::as_real(terms, *x).is_some_and(|c| c <= -FLOOR),
            _ => false,
        };
        xs.contains(&bound) && xs.iter().any(beyond)
    };
    reachable(terms, [by]).into_iter().filter(holds_it).map(|x| (x, bound)).collect()
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
