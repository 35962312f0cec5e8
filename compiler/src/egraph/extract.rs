//! One form out of the many: a node for every class that the results need, so that the whole is cheapest.
//!
//! Shared terms are paid once. A bottom-up pass that counts them again and again gives a first choice; then each choice
//! is changed alone, as long as that makes the whole cheaper: classes count their users, so that a change costs what it
//! touches. Every change that comes out nearly as cheap is kept as one of the next best forms. No choice ever goes round
//! in a circle, which is asserted.

use super::cost::{Class, FORBIDDEN, Priced, Prices};
use super::node::{Algebra, Node};
use egg::Id;
use indexmap::IndexMap;
use std::cell::RefCell;

/// The chosen node of every class.
pub type Choice = IndexMap<Id, Node>;

/// Sweeps over all classes in use; each makes the whole cheaper, and few are ever needed.
const SWEEPS: usize = 12;

/// A form: which node each class takes, and what the whole costs.
#[derive(Clone, Debug)]
pub struct Form {
    /// By class; `None` where a class has no form.
    picks: Vec<Option<u16>>,
    /// Seconds, by the estimate of `cost`.
    pub seconds: f64,
}

impl Form {
    /// The classes that it reads at other tokens to make `roots`, ascending.
    pub fn read_classes(&self, prices: &Prices, roots: &[Class]) -> Vec<Class> {
        let mut seen = vec![false; prices.count()];
        let (mut found, mut stack) = (Vec::new(), roots.to_vec());
        while let Some(c) = stack.pop() {
            let Some(pick) = self.picks[c as usize].filter(|_| !std::mem::replace(&mut seen[c as usize], true)) else {
                continue;
            };
            let node = &prices.nodes(c)[pick as usize];
            found.extend(node.reads);
            stack.extend(&node.children);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The form as nodes by class, as terms are made of it: a value that is read under several names is one.
    pub fn choice(&self, prices: &Prices) -> Choice {
        self.nodes(prices, |node| &node.node)
    }

    /// The form as nodes of the e-graph by class.
    pub fn plain(&self, prices: &Prices) -> Choice {
        self.nodes(prices, |node| &node.plain)
    }

    fn nodes(&self, prices: &Prices, which: fn(&Priced) -> &Node) -> Choice {
        let of = |c: usize| {
            let node = &prices.nodes(c as Class)[self.picks[c]? as usize];
            Some((prices.id(c as Class), which(node).clone()))
        };
        (0..prices.count()).filter_map(of).collect()
    }
}

/// What may be chosen.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The classes that may be read at other tokens; all of them where there is no list.
    pub readable: Option<&'a [Class]>,
    /// Forms to keep.
    pub forms: usize,
}

/// The cheapest forms for `roots` that were found, the best first; none where the roots cannot be made.
pub fn extract(prices: &Prices, roots: &[Class], limits: Limits, start: Option<&Form>) -> Vec<Form> {
    let mut search = Search::new(prices, roots, limits);
    search.start(start);
    if roots.iter().any(|r| search.picks[*r as usize].is_none()) {
        return vec![];
    }
    for _ in 0..SWEEPS {
        search.refresh();
        let before = search.total();
        search.sweep();
        if !search.total().beats(before) {
            break;
        }
    }
    search.nearby(limits.forms)
}

/// A choice with the number of users of every class, and the cost of those that have one.
struct Search<'a> {
    prices: &'a Prices,
    roots: Vec<Class>,
    limits: Limits<'a>,
    picks: Vec<Option<u16>>,
    users: Vec<u32>,
    /// What nodes in use cost beside prologues.
    sum: Sum,
    /// Classes with a node that takes a sum, ascending.
    sums: Vec<Class>,
    /// For each class the prologues of its node, as long as no choice that they were found by has changed.
    prologues: Vec<Prologues>,
}

/// What a sum pays for its factors.
#[derive(Clone, Default)]
struct Prologues {
    seconds: Option<f64>,
    /// The classes whose choices that hangs on, a bit each.
    asked: Vec<u64>,
}

/// A sum of seconds from which seconds are taken away again: what is forbidden is counted apart, it would swallow them.
#[derive(Clone, Copy, Default)]
struct Sum {
    seconds: f64,
    forbidden: i32,
    /// Nodes, heavier ones with more children: what decides between equals.
    weight: i64,
}

/// What a form costs, and how large it is.
#[derive(Clone, Copy)]
struct Total {
    seconds: f64,
    weight: i64,
}

impl Total {
    /// Whether it is cheaper than another, or as cheap and smaller. Sums of the same in another order differ by roundings.
    fn beats(self, other: Total) -> bool {
        let noise = 1e-10 * other.seconds;
        let equal = (self.seconds - other.seconds).abs() <= noise;
        if equal { self.weight < other.weight } else { self.seconds < other.seconds }
    }
}

impl Sum {
    fn add(&mut self, node: Option<&Priced>, times: i32) {
        self.seconds += node.map_or(0.0, |n| n.fixed) * f64::from(times);
        self.forbidden += if node.is_none_or(|n| n.forbidden) { times } else { 0 };
        self.weight += node.map_or(0, |n| 1000 + n.children.len() as i64) * i64::from(times);
    }
}

impl<'a> Search<'a> {
    fn new(prices: &'a Prices, roots: &[Class], limits: Limits<'a>) -> Search<'a> {
        let n = prices.count();
        let sums = (0..n as Class).filter(|c| prices.nodes(*c).iter().any(|node| node.sums)).collect();
        Search {
            prices,
            roots: roots.to_vec(),
            limits,
            picks: vec![None; n],
            users: vec![0; n],
            sum: Sum::default(),
            sums,
            prologues: vec![Prologues::default(); n],
        }
    }

    fn start(&mut self, from: Option<&Form>) {
        let fits = |f: &&Form| {
            let allowed = f.picks.iter().zip(0..).all(|(p, c)| p.is_none_or(|p| self.allowed(c, p)));
            allowed && self.roots.iter().all(|r| f.picks[*r as usize].is_some())
        };
        self.picks = match from.filter(fits) {
            Some(form) => form.picks.clone(),
            None => self.cheapest(&vec![false; self.prices.count()]),
        };
        self.count();
    }

    /// Whether a class may take a node.
    fn allowed(&self, class: Class, pick: u16) -> bool {
        let reads = self.prices.nodes(class)[pick as usize].reads;
        match (self.limits.readable, reads) {
            (Some(list), Some(of)) => list.contains(&of),
            _ => true,
        }
    }

    fn chosen(&self, class: Class) -> Option<&'a Priced> {
        self.picks[class as usize].map(|p| &self.prices.nodes(class)[p as usize])
    }

    /// Counts users anew, from the roots.
    fn count(&mut self) {
        self.users.fill(0);
        self.sum = Sum::default();
        self.prologues.iter_mut().for_each(|p| p.seconds = None);
        for root in self.roots.clone() {
            self.hold(root);
        }
    }

    /// One more user, and with the first of them what the class needs.
    fn hold(&mut self, class: Class) {
        let mut stack = vec![class];
        while let Some(c) = stack.pop() {
            self.users[c as usize] += 1;
            if self.users[c as usize] == 1 {
                let node = self.chosen(c);
                self.sum.add(node, 1);
                stack.extend_from_slice(node.map_or(&[], |n| &n.children));
            }
        }
    }

    /// One user fewer, and with the last of them what the class needed.
    fn release(&mut self, class: Class) {
        let mut stack = vec![class];
        while let Some(c) = stack.pop() {
            self.users[c as usize] -= 1;
            if self.users[c as usize] == 0 {
                let node = self.chosen(c);
                self.sum.add(node, -1);
                stack.extend_from_slice(node.map_or(&[], |n| &n.children));
            }
        }
    }

    fn total(&mut self) -> Total {
        let mut prologues = 0.0;
        for n in 0..self.sums.len() {
            let class = self.sums[n];
            if self.users[class as usize] > 0 {
                prologues += self.prologues_of(class);
            }
        }
        let seconds = self.sum.seconds + prologues + FORBIDDEN * f64::from(self.sum.forbidden);
        Total { seconds, weight: self.sum.weight }
    }

    fn prologues_of(&mut self, class: Class) -> f64 {
        let known = &mut self.prologues[class as usize];
        if let Some(seconds) = known.seconds {
            return seconds;
        }
        let mut asked = std::mem::take(&mut known.asked);
        asked.clear();
        asked.resize(self.picks.len().div_ceil(64), 0);
        let asked = RefCell::new(asked);
        let chosen = |c: Class| {
            asked.borrow_mut()[c as usize / 64] |= 1 << (c % 64);
            self.chosen(c)
        };
        let seconds = chosen(class).map_or(0.0, |node| self.prices.prologues(node, &chosen));
        self.prologues[class as usize] = Prologues { seconds: Some(seconds), asked: asked.into_inner() };
        seconds
    }

    /// Forgets the prologues that hang on what a class takes.
    fn forget(&mut self, class: Class) {
        for sum in &self.sums {
            let known = &mut self.prologues[*sum as usize];
            if known.asked.get(class as usize / 64).is_some_and(|word| word >> (class % 64) & 1 == 1) {
                known.seconds = None;
            }
        }
    }

    /// Takes another node for a class in use. Returns false, and changes nothing, where it would go in a circle.
    fn switch(&mut self, class: Class, pick: u16) -> bool {
        let old = self.chosen(class).expect("extract: a class in use has a node");
        let new = &self.prices.nodes(class)[pick as usize];
        if self.reaches(&new.children, class) {
            return false;
        }
        self.picks[class as usize] = Some(pick);
        self.forget(class);
        self.sum.add(Some(new), 1);
        self.sum.add(Some(old), -1);
        new.children.iter().for_each(|x| self.hold(*x));
        old.children.iter().for_each(|x| self.release(*x));
        true
    }

    /// Whether what is chosen below some classes needs `goal`.
    fn reaches(&self, from: &[Class], goal: Class) -> bool {
        let mut seen = vec![false; self.prices.count()];
        let mut stack = from.to_vec();
        while let Some(c) = stack.pop() {
            if c == goal {
                return true;
            }
            if !std::mem::replace(&mut seen[c as usize], true) {
                stack.extend_from_slice(self.chosen(c).map_or(&[], |n| &n.children));
            }
        }
        false
    }

    /// Every class in use takes the node that makes the whole cheapest.
    fn sweep(&mut self) {
        let mut best = self.total();
        for class in 0..self.prices.count() as Class {
            for pick in 0..self.prices.nodes(class).len() as u16 {
                let Some(old) = self.picks[class as usize] else { break };
                if self.users[class as usize] == 0 || old == pick || !self.allowed(class, pick) {
                    continue;
                }
                if !self.switch(class, pick) {
                    continue;
                }
                let total = self.total();
                if total.beats(best) {
                    best = total;
                } else {
                    assert!(self.switch(class, old), "extract: a change that is taken back makes no circle");
                }
            }
        }
    }

    /// Classes out of use take what is cheapest beside those in use.
    fn refresh(&mut self) {
        let there: Vec<_> = self.users.iter().map(|n| *n > 0).collect();
        self.picks = self.cheapest(&there);
        self.count();
    }

    /// The cheapest tree of every class, where classes that are `there` already are free, and stay as they are.
    fn cheapest(&self, there: &[bool]) -> Vec<Option<u16>> {
        let n = self.prices.count();
        let mut costs: Vec<f64> = (0..n).map(|c| if there[c] { 0.0 } else { f64::INFINITY }).collect();
        let mut picks: Vec<_> = (0..n).map(|c| self.picks[c].filter(|_| there[c])).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for c in (0..n).filter(|c| !there[*c]) {
                for (pick, node) in self.prices.nodes(c as Class).iter().enumerate() {
                    let own = node.fixed + if node.forbidden { FORBIDDEN } else { 0.0 };
                    let below = own + node.children.iter().map(|x| costs[*x as usize]).sum::<f64>();
                    if below >= costs[c] || !self.allowed(c as Class, pick as u16) {
                        continue;
                    }
                    let chosen = |x: Class| picks[x as usize].map(|p| &self.prices.nodes(x)[p as usize]);
                    let cost = below + self.prices.prologues(node, &chosen);
                    if cost < costs[c] {
                        (costs[c], picks[c], changed) = (cost, Some(pick as u16), true);
                    }
                }
            }
        }
        picks
    }

    fn form(&mut self) -> Form {
        Form { picks: self.picks.clone(), seconds: self.total().seconds }
    }

    /// This form, and the best of those that one change makes of it.
    fn nearby(mut self, count: usize) -> Vec<Form> {
        let mut forms = vec![self.form()];
        let mut others: Vec<(f64, Class, u16)> = Vec::new();
        for class in (0..self.prices.count() as Class).filter(|_| count > 1) {
            for pick in 0..self.prices.nodes(class).len() as u16 {
                let Some(old) = self.picks[class as usize] else { break };
                if self.users[class as usize] == 0 || old == pick || !self.allowed(class, pick) {
                    continue;
                }
                if self.switch(class, pick) {
                    others.push((self.total().seconds, class, pick));
                    assert!(self.switch(class, old), "extract: a change that is taken back makes no circle");
                }
            }
        }
        others.retain(|o| o.0 < FORBIDDEN);
        others.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (_, class, pick) in others.into_iter().take(count - 1) {
            let old = self.picks[class as usize].expect("extract: a class in use has a node");
            assert!(self.switch(class, pick), "extract: a change that was tried makes no circle");
            forms.push(self.form());
            assert!(self.switch(class, old), "extract: a change that is taken back makes no circle");
        }
        forms
    }
}

/// What becomes of a choice where one class takes another of its nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Nothing: that is the node it has.
    Chosen,
    /// Nothing: the class is not in use.
    Unused,
    /// It cannot: it would be made of itself.
    Circle,
    /// It may not: it reads other tokens' values that are not cached.
    NotCached,
    /// It is taken only where there is nothing else: it makes a weight larger, or changes a quantised one.
    Forbidden,
    /// The whole takes this many seconds more, or fewer.
    Seconds(f64),
}

/// A choice, beside which others are tried.
pub struct Beside<'a> {
    search: Search<'a>,
    seconds: f64,
}

impl<'a> Beside<'a> {
    /// The choice of a form.
    pub fn new(prices: &'a Prices, roots: &[Class], limits: Limits<'a>, form: &Form) -> Beside<'a> {
        let mut search = Search::new(prices, roots, limits);
        search.picks = form.picks.clone();
        search.count();
        search.refresh();
        let seconds = search.total().seconds;
        Beside { search, seconds }
    }

    /// What a class's node would change; everything else is chosen as before.
    pub fn change(&mut self, class: Class, pick: u16) -> Change {
        let Some(old) = self.search.picks[class as usize].filter(|_| self.search.users[class as usize] > 0) else {
            return Change::Unused;
        };
        if old == pick {
            return Change::Chosen;
        }
        if !self.search.allowed(class, pick) {
            return Change::NotCached;
        }
        if !self.search.switch(class, pick) {
            return Change::Circle;
        }
        let seconds = self.search.total().seconds;
        assert!(self.search.switch(class, old), "extract: a change that is taken back makes no circle");
        if seconds >= FORBIDDEN { Change::Forbidden } else { Change::Seconds(seconds - self.seconds) }
    }
}

/// The cheapest tree of every class, where classes that are `there` already stay as they are.
#[cfg(test)]
pub(super) fn cheapest(egraph: &Algebra, prices: &Prices, there: &Choice) -> Choice {
    assert!(there.is_empty() && egraph.number_of_classes() == prices.count());
    let search = Search::new(prices, &[], Limits { readable: None, forms: 1 });
    let picks = search.cheapest(&vec![false; prices.count()]);
    Form { picks, seconds: 0.0 }.choice(prices)
}

/// The classes that `roots` need under a choice, children first; `None` where it goes round in a circle.
pub fn order(egraph: &Algebra, choice: &Choice, roots: &[Id]) -> Option<Vec<Id>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Open,
        Done,
    }
    let (mut marks, mut out) = (IndexMap::new(), Vec::new());
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|r| (egraph.find(*r), false)).collect();
    while let Some((class, done)) = stack.pop() {
        if done {
            marks.insert(class, Mark::Done);
            out.push(class);
            continue;
        }
        match marks.get(&class) {
            Some(Mark::Done) => continue,
            Some(Mark::Open) => return None,
            None => {}
        }
        marks.insert(class, Mark::Open);
        stack.push((class, true));
        for child in choice.get(&class)?.children.iter().rev() {
            let child = egraph.find(*child);
            match marks.get(&child) {
                Some(Mark::Open) => return None,
                Some(Mark::Done) => {}
                None => stack.push((child, false)),
            }
        }
    }
    Some(out)
}
