//! One cache for both roles: where they lay it out differently, the layout that a dot reads wins.

use super::{Form, Fused, Unsupported};
use crate::causality::Sight;
use llmc_frontend::graph::Axes;

/// Makes two roles' fused blocks store their caches alike, so that what one appends the other reads.
///
/// # Errors
/// When they do not cache the same values.
pub fn agree(a: &mut Fused, b: &mut Fused) -> Result<(), Unsupported> {
    if a.caches.len() != b.caches.len() {
        return Err(Unsupported("prompts and generated tokens would not cache the same values".to_owned()));
    }
    for n in 0..a.caches.len() {
        let (of_a, of_b) = (a.caches[n], b.caches[n]);
        let joined = joined(form(a, of_a), form(b, of_b)).ok_or_else(|| {
            let name = &a.values[of_a.0 as usize].name;
            Unsupported(format!("prompts and generated tokens would cache `{name}` with different axes"))
        })?;
        *form_mut(a, of_a) = joined.clone();
        *form_mut(b, of_b) = joined;
    }
    Ok(())
}

fn form(fused: &Fused, (value, form): (u32, usize)) -> &Form {
    &fused.values[value as usize].forms[form]
}

fn form_mut(fused: &mut Fused, (value, form): (u32, usize)) -> &mut Form {
    &mut fused.values[value as usize].forms[form]
}

/// The layout of the two that serves both, seen as far as either looks.
fn joined(a: &Form, b: &Form) -> Option<Form> {
    let (
        Form::Cache { outer, inner, keys_innermost, format, sight },
        Form::Cache { outer: outer_b, inner: inner_b, keys_innermost: innermost_b, format: format_b, sight: sight_b },
    ) = (a, b)
    else {
        return None;
    };
    let all = |x: &[_], y: &[_]| x.iter().chain(y).copied().collect::<Axes>();
    if all(outer, inner) != all(outer_b, inner_b) || format != format_b {
        return None;
    }
    // A role that only appends has no axis outside.
    let (mut best, other) =
        if (*keys_innermost, outer.len()) >= (*innermost_b, outer_b.len()) { (a, b) } else { (b, a) };
    if !is_read(best) && is_read(other) {
        best = other;
    }
    let mut best = best.clone();
    if let Form::Cache { sight: of, .. } = &mut best {
        *of = sight.join(*sight_b);
    }
    Some(best)
}

fn is_read(form: &Form) -> bool {
    matches!(form, Form::Cache { sight, .. } if *sight != UNREAD)
}

/// What a role sees of a cache that it only appends to.
pub(super) const UNREAD: Sight = Sight { causal: true, window: Some(1) };
