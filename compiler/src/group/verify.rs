//! What grouping promises to lowering.

use super::{Form, Fused, parts};
use crate::causality::reachable;
use crate::normal::Term;
use llmc_frontend::graph::{Axes, Extent};

/// Checks a fused block: every value is computed once, after what it loads, over axes that it is stored with.
///
/// # Errors
/// A sentence about the first value that is wrong.
pub fn verify(fused: &Fused) -> Result<(), String> {
    let mut done = vec![false; fused.values.len()];
    for group in &fused.groups {
        if group.parts.is_some() && parts::cut(&fused.terms, &fused.values, &group.values).is_none() {
            return Err(format!("`{}` is cut into parts and is no fold over a long axis", group.name));
        }
        for n in &group.values {
            of_value(fused, *n, &group.values, &done)?;
        }
        for n in &group.values {
            if std::mem::replace(&mut done[*n as usize], true) {
                return Err(format!("`{}` is computed twice", fused.values[*n as usize].name));
            }
        }
    }
    match done.iter().position(|d| !d) {
        Some(n) => Err(format!("`{}` is never computed", fused.values[n].name)),
        None => Ok(()),
    }
}

fn of_value(fused: &Fused, n: u32, group: &[u32], done: &[bool]) -> Result<(), String> {
    let (value, terms) = (&fused.values[n as usize], &fused.terms);
    let (axes, _) = &terms.stored[n as usize];
    let wrong = |what: String| Err(format!("`{}` {what}", value.name));
    if let Some(view) = axes.iter().find(|a| matches!(terms.axes[*a].extent, Extent::View(_))) {
        return wrong(format!("is stored over the view {}", terms.axes[view].name));
    }
    // What holds for a whole sequence is found through any of its tokens.
    let known: Axes = axes.iter().chain(terms.each.values().copied()).collect();
    for (what, term) in [("means", value.meaning), ("is computed by", value.term)] {
        if let Some(axis) = terms.free(term).iter().find(|a| !known.contains(*a)) {
            return wrong(format!("{what} a formula over {}, which it is not stored with", terms.axes[axis].name));
        }
    }
    for x in reachable(terms, &[value.term]) {
        if let Term::Stored(k) = terms.term(x)
            && !done[*k as usize]
            && !group.contains(k)
        {
            return wrong(format!("reads `{}` before it is computed", fused.values[*k as usize].name));
        }
    }
    for form in &value.forms {
        let Form::Dense { axes: order, .. } = form else { continue };
        if order.iter().copied().collect::<Axes>() != *axes || order.len() != axes.len() {
            return wrong("has a form over other axes than its own".to_owned());
        }
    }
    Ok(())
}
