//! An explanation as text: one screen, which unfolds.

use super::value::{Explained, Price, Reason};
use std::fmt::Write;

/// Columns of a screen.
const WIDE: usize = 118;

impl Explained {
    /// One screen; `full` spells everything out.
    pub fn text(&self, full: bool) -> String {
        let place = self.place.as_ref().map_or_else(String::new, |p| format!("  ({p})"));
        let mut out = format!("{}/{}: {}{place}\n\n", self.block, self.value, self.kernel);
        for l in self.formula.lines() {
            let _ = writeln!(out, "{}", line(l, full));
        }
        out += &self.steps_text(full);
        let _ = writeln!(out, "\n{}", if self.stored { "why it is stored" } else { "why it is not stored" });
        out += &self.reasons_text();
        out + &self.costs_text()
    }

    fn steps_text(&self, full: bool) -> String {
        let mut out = String::from("\nlaws, in order");
        let _ = match (&self.checked, &self.kernels) {
            (Ok(n), Ok(m)) => writeln!(
                out,
                ": all {n} steps of the block were checked, and {m} claims of its kernels, by a checker of their own"
            ),
            (Err(e), _) | (_, Err(e)) => writeln!(out, "; NOT ALL HOLDS: {e}"),
        };
        for (n, s) in self.steps.iter().enumerate() {
            let place = s.place.as_ref().map_or_else(String::new, |p| format!("  at {p}"));
            let _ = writeln!(out, "{:3}. {} ({}): {}{place}", n + 1, s.law, s.stage, s.equation);
            let [before, after] = if full { [&s.before, &s.after] } else { [&s.short[0], &s.short[1]] };
            let _ = writeln!(out, "{}", line(&format!("       {before}"), full));
            let _ = writeln!(out, "{}", line(&format!("     = {after}"), full));
        }
        if self.steps.is_empty() {
            let _ = writeln!(out, "  none: it is computed as the text has it");
        }
        for (n, (letter, meaning)) in self.letters.iter().filter(|_| !full).enumerate() {
            let head = if n == 0 { "where" } else { "     " };
            let _ = writeln!(out, "{}", line(&format!("  {head} {letter} = {meaning}"), full));
        }
        out
    }

    /// Only the reasons: what kept it from being fused or cached.
    pub fn reasons_text(&self) -> String {
        let mut out = String::new();
        let mut shown: Option<&String> = None;
        for Reason { sentence, place } in &self.reasons {
            let _ = writeln!(out, "  {sentence}");
            if place.as_ref() != shown {
                for l in place.iter().flat_map(|p| p.lines()) {
                    let _ = writeln!(out, "    {l}");
                }
            }
            shown = place.as_ref().or(shown);
        }
        out
    }

    fn costs_text(&self) -> String {
        let width = self.prices.iter().map(|p| p.of.chars().count()).max().unwrap_or(0);
        let mut out =
            format!("\n{:width$}  {:>12} {:>10} {:>10} {:>8}\n", "costs", "us", "bytes", "operations", "launches");
        for Price { of, bytes, operations, launches, seconds } in &self.prices {
            let us = seconds * 1e6;
            let _ = writeln!(out, "{of:width$}  {us:12.1} {bytes:10.3e} {operations:10.3e} {launches:8}");
        }
        out
    }
}

/// A line, cut where the screen ends.
fn line(text: &str, full: bool) -> String {
    if full || text.chars().count() <= WIDE {
        return text.to_owned();
    }
    text.chars().take(WIDE - 4).chain(" ...".chars()).collect()
}
