//! What every later stage may rely on, checked: a broken invariant is a bug of the stage that made the terms.

use super::text::{expression, reachable};
use super::{Literal, Term, TermId, Terms};
use llmc_artifact::{ScalarOp, Type};
use llmc_frontend::graph::Axes;

/// Checks the terms that `roots` need.
///
/// # Errors
/// A sentence that names the first term that breaks an invariant, and which.
pub fn verify(terms: &Terms, roots: &[TermId]) -> Result<(), String> {
    for id in reachable(terms, roots.iter().copied()) {
        check(terms, id).map_err(|what| format!("{what}: {}", expression(terms, id)))?;
    }
    for root in roots {
        if let Some(a) = terms.free(*root).iter().find(|a| terms.binders.contains_key(a)) {
            return Err(format!("bound axis {} is free in a result", terms.axes[a].name));
        }
    }
    Ok(())
}

fn check(terms: &Terms, id: TermId) -> Result<(), String> {
    let ty = |x: &TermId| terms.info(*x).ty;
    if terms.operands(id).iter().any(|x| *x >= id) {
        return Err("an operand comes after its user".into());
    }
    match terms.term(id) {
        Term::Sum(bound, xs) => {
            if xs.is_empty() || (bound.is_empty() && xs.len() == 1) {
                return Err("a sum-product of nothing, or of one factor without axes".into());
            }
            if xs.len() > 1 && xs.iter().any(|x| ty(x) != Type::Real) {
                return Err("a product of other than reals".into());
            }
            binds(terms, bound, xs)
        }
        Term::Plus(xs) if xs.len() < 2 => Err("a sum of fewer than two terms".into()),
        Term::Plus(xs) if xs.iter().any(|x| ty(x) != Type::Real) => Err("a sum of other than reals".into()),
        Term::Plus(_) => Ok(()),
        Term::Reduce(_, bound, x) if !bound.is_empty() => binds(terms, bound, &[*x]),
        Term::Reduce(..) => Err("a reduction over no axis".into()),
        Term::TopK(axis, _, x) => binds(terms, &Axes::from_iter([*axis]), &[*x]),
        Term::Map(op, xs) if xs.len() != op.arity() => Err(format!("`{}` of {} operands", op.keyword(), xs.len())),
        Term::Map(ScalarOp::Where, xs) if ty(&xs[0]) != Type::Bool || ty(&xs[1]) != ty(&xs[2]) => {
            Err("a choice by other than a truth value, or between types".into())
        }
        Term::Map(..) => Ok(()),
        Term::Index(x, at) => {
            if at.is_empty() || at.windows(2).any(|w| w[0].0 >= w[1].0) {
                return Err("indices that are not ascending".into());
            }
            let lacking = at.iter().any(|(a, _)| !terms.free(*x).contains(*a));
            let other = at.iter().any(|(_, i)| ty(i) != Type::Int);
            if lacking || other { Err("an index of an axis that is not there, or no int".into()) } else { Ok(()) }
        }
        Term::Read(x, s) => {
            let own = terms.views[s];
            let views = terms.views_in(terms.free(*x)).iter().any(|v| terms.views[v] == own);
            if views || !terms.free(*x).contains(own) { Err("a read of what is no token's own".into()) } else { Ok(()) }
        }
        Term::Const(Literal::Real(_) | Literal::Int(_) | Literal::Bool(_)) => Ok(()),
        Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => Ok(()),
    }
}

/// Every bound axis is fresh and used, and not bound again where it is used.
fn binds(terms: &Terms, bound: &Axes, xs: &[TermId]) -> Result<(), String> {
    for a in bound.iter() {
        let name = &terms.axes[a].name;
        if !terms.binders.contains_key(&a) {
            return Err(format!("{name} is bound although it is the model's"));
        }
        if !xs.iter().any(|x| terms.free(*x).contains(a)) {
            return Err(format!("{name} is bound and not used"));
        }
        if xs.iter().any(|x| terms.free(*x).contains(a) && terms.info(*x).bound.contains(a)) {
            return Err(format!("{name} is bound again inside"));
        }
    }
    Ok(())
}
