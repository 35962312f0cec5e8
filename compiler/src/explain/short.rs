//! Long formulas, short: what both sides of a step have in common gets a letter, and only what the law changed is spelled out.

use crate::normal::text::{expression, reachable};
use crate::normal::{TermId, Terms};
use std::collections::{HashMap, HashSet};

/// A formula at least this long is worth a letter.
const LONG: usize = 24;

/// Letters and what they stand for, in the order in which they came.
pub(super) struct Letters<'a> {
    arenas: Vec<(&'a Terms, Terms)>,
    of: HashMap<String, String>,
    all: Vec<(String, usize, TermId)>,
}

impl<'a> Letters<'a> {
    /// No letter yet, for terms of these arenas.
    pub(super) fn new(arenas: &[&'a Terms]) -> Letters<'a> {
        let arenas = arenas.iter().map(|t| (*t, (*t).clone())).collect();
        Letters { arenas, of: HashMap::new(), all: Vec::new() }
    }

    /// Both sides of a step, with letters for what they share.
    pub(super) fn step(&mut self, arena: usize, sides: [TermId; 2]) -> [String; 2] {
        let terms = self.arenas[arena].0;
        let [a, b] = sides.map(|x| reachable(terms, [x]).into_iter().collect::<HashSet<_>>());
        let inner = |x: &TermId| !sides.contains(x) && expression(terms, *x).len() >= LONG;
        let mut shared: Vec<TermId> = a.intersection(&b).copied().filter(inner).collect();
        shared.sort_unstable();
        let within: HashSet<TermId> = shared.iter().flat_map(|x| terms.operands(*x)).collect();
        // The largest of them; a smaller one within may stand alone as well, and keeps its letter.
        for x in shared.into_iter().filter(|x| !within.contains(x)) {
            self.letter(arena, x);
        }
        sides.map(|x| self.shown(arena, x, false))
    }

    fn letter(&mut self, arena: usize, id: TermId) {
        let text = expression(self.arenas[arena].0, id);
        if !self.of.contains_key(&text) {
            let n = self.all.len();
            let letter = char::from(b'A' + (n % 26) as u8).to_string();
            let letter = if n < 26 { letter } else { format!("{letter}{}", n / 26) };
            self.of.insert(text, letter.clone());
            self.all.push((letter, arena, id));
        }
    }

    /// A formula with letters; `whole` ones are spelled out themselves.
    fn shown(&mut self, arena: usize, id: TermId, whole: bool) -> String {
        let mut done = HashMap::new();
        let short = self.swap(arena, id, whole, &mut done);
        expression(&self.arenas[arena].1, short)
    }

    fn swap(&mut self, arena: usize, id: TermId, whole: bool, done: &mut HashMap<TermId, TermId>) -> TermId {
        if let Some(known) = done.get(&id) {
            return *known;
        }
        let terms = self.arenas[arena].0;
        let letter = if whole { None } else { self.of.get(&expression(terms, id)).cloned() };
        let new = match letter {
            Some(letter) => self.leaf(arena, id, letter),
            None if terms.operands(id).is_empty() => id,
            None => {
                let term = terms.term(id).over(&mut |x| self.swap(arena, x, false, done));
                self.arenas[arena].1.add(term)
            }
        };
        done.insert(id, new);
        new
    }

    fn leaf(&mut self, arena: usize, id: TermId, letter: String) -> TermId {
        let (terms, short) = &mut self.arenas[arena];
        let info = terms.info(id);
        short.stand_in(letter, info.axes.clone(), info.ty)
    }

    /// What each letter stands for.
    pub(super) fn meanings(mut self) -> Vec<(String, String)> {
        let all = self.all.clone();
        all.into_iter().map(|(letter, arena, id)| (letter, self.shown(arena, id, true))).collect()
    }
}
