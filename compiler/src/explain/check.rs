//! The checker of certificates: what every step says is equal, is equal by the laws that it names and no others.

use super::denote::{Denote, Form};
use crate::egraph::proof::Join;
use crate::normal::text::expression;
use crate::normal::{TermId, Terms};
use crate::rules::{Built, Firing, Law, Laws};
use std::collections::HashMap;

/// Checks steps over one arena. Terms are read once for each set of laws.
pub struct Checker<'a> {
    terms: &'a Terms,
    readers: HashMap<Laws, Denote<'a>>,
}

impl<'a> Checker<'a> {
    /// A checker of one arena.
    pub fn new(terms: &'a Terms) -> Checker<'a> {
        Checker { terms, readers: HashMap::new() }
    }

    /// The form of a term under some laws.
    ///
    /// # Errors
    /// When it is too large.
    pub fn form(&mut self, id: TermId, laws: Laws) -> Result<Form, String> {
        let reader = self.readers.entry(laws).or_insert_with(|| Denote::new(self.terms, laws));
        reader.of(id)
    }

    /// Whether two terms differ by no more than some laws.
    ///
    /// # Errors
    /// Both sides, where they differ by more.
    pub fn equal(&mut self, before: TermId, after: TermId, laws: Laws) -> Result<(), String> {
        if self.terms.free(before) != self.terms.free(after) && !laws.has(Law::Length) && !laws.has(Law::Choose) {
            return Err("the sides have other axes".to_owned());
        }
        if self.readers.get(&laws).is_some_and(Denote::is_long) {
            self.readers.remove(&laws);
        }
        if self.form(before, laws)? == self.form(after, laws)? {
            return Ok(());
        }
        let names: Vec<_> = Law::ALL.iter().filter(|l| laws.has(**l)).map(|l| l.name()).collect();
        let show = |id| expression(self.terms, id);
        Err(format!("by {names:?} these are not equal:\n  {}\n  {}", show(before), show(after)))
    }
}

/// Checks what normalise wrote down: every node of the graph became its term by the laws that fired for it.
///
/// # Errors
/// The first step that does not hold.
pub fn normal(terms: &Terms, built: &[Built], firings: &[Firing]) -> Result<(), String> {
    let mut checker = Checker::new(terms);
    let mut next = 0;
    for step in built {
        let Some(own) = firings.get(step.firings.clone()).filter(|_| step.firings.start == next) else {
            return Err("normalise: a step's firings are not those that follow".to_owned());
        };
        next = step.firings.end;
        let laws = own.iter().fold(Laws::NONE, |laws, f| laws.with(f.law));
        for firing in own {
            let wrong = |e| format!("normalise: {}: {e}", firing.law.name());
            checker.equal(firing.before, firing.after, laws).map_err(wrong)?;
        }
        checker.equal(step.raw, step.made, laws).map_err(|e| format!("normalise: {e}"))?;
    }
    if next == firings.len() { Ok(()) } else { Err("normalise: a firing belongs to no step".to_owned()) }
}

/// Checks what the e-graph joined: the sides of each join differ by its law alone.
///
/// # Errors
/// The first join that does not hold.
pub fn joins(terms: &Terms, joins: &[Join]) -> Result<(), String> {
    let mut checker = Checker::new(terms);
    joins.iter().try_for_each(|join| {
        let wrong = |e| format!("saturate: {}: {e}", join.law.name());
        checker.equal(join.before, join.after, Laws::NONE.with(join.law)).map_err(wrong)
    })
}
