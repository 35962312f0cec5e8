//! Which values are cached: one set for both roles, chosen before the forms.
//!
//! A form reads other tokens through some classes of the e-graph; those are what it needs cached. A cache serves both
//! roles, so a set is judged by the cheapest forms of both that read nothing else, by what appending to it costs, and by
//! the bytes it keeps. Sets are found by taking away: from the values that the best forms read, each is forbidden in
//! turn, and what the best forms read then is the next set.

use super::cost::{Class, Prices};
use super::extract::{Form, Limits, extract};
use crate::cost::{Machine, Role};
use std::collections::{BTreeSet, VecDeque};

/// Sets that are looked at, at most. A layer has two cached values and a few alternatives for each.
const SETS: usize = 24;

/// A set of values that are cached, with the forms that read nothing else.
#[derive(Clone, Debug)]
pub struct CacheSet {
    /// What is cached, ascending.
    pub values: Vec<Class>,
    /// Bytes of one token in all of its caches together.
    pub bytes: f64,
    /// For each role the best forms, cheapest first.
    pub forms: [Vec<Form>; 2],
    /// Seconds of a conversation: both roles' steps and what is kept.
    pub seconds: f64,
}

/// Finds sets of caches.
pub struct Choosing<'a> {
    /// Prices of each role.
    pub prices: &'a [Prices; 2],
    /// What the block hands on.
    pub roots: &'a [Class],
    /// Forms to keep for each role.
    pub forms: usize,
    /// What bytes are kept by.
    pub machine: &'a Machine,
}

impl Choosing<'_> {
    /// The sets that were looked at, the cheapest first: at least one.
    pub fn sets(&self) -> Vec<CacheSet> {
        let readable: BTreeSet<Class> = self.readable();
        let mut queue = VecDeque::from([BTreeSet::new()]);
        let (mut asked, mut known) = (BTreeSet::from([BTreeSet::new()]), BTreeSet::new());
        let mut sets: Vec<CacheSet> = Vec::new();
        while let Some(forbidden) = queue.pop_front() {
            let allowed: Vec<Class> = readable.difference(&forbidden).copied().collect();
            let Some(values) = self.needed(&allowed) else { continue };
            for v in &values {
                let mut more = forbidden.clone();
                more.insert(*v);
                if asked.len() < SETS && asked.insert(more.clone()) {
                    queue.push_back(more);
                }
            }
            if known.insert(values.clone()) {
                sets.extend(self.judge(values));
            }
        }
        sets.sort_by(|a, b| a.seconds.total_cmp(&b.seconds).then_with(|| a.values.cmp(&b.values)));
        assert!(!sets.is_empty(), "extract: a block can always be made");
        sets
    }

    fn readable(&self) -> BTreeSet<Class> {
        let prices = &self.prices[0];
        (0..prices.count() as Class).flat_map(|c| prices.nodes(c)).filter_map(|n| n.reads).collect()
    }

    /// What the best forms of both roles read, if they may read these.
    fn needed(&self, allowed: &[Class]) -> Option<Vec<Class>> {
        let mut all = BTreeSet::new();
        for prices in self.prices {
            let best = extract(prices, self.roots, Limits { readable: Some(allowed), forms: 1 }, None);
            all.extend(best.first()?.read_classes(prices, self.roots));
        }
        Some(all.into_iter().collect())
    }

    /// A set with its forms and what it costs; none where it does not suffice.
    fn judge(&self, values: Vec<Class>) -> Option<CacheSet> {
        let roots: Vec<Class> = self.roots.iter().chain(&values).copied().collect();
        let limits = Limits { readable: Some(&values), forms: self.forms };
        let forms = self.prices.each_ref().map(|prices| extract(prices, &roots, limits, None));
        let bytes: f64 = values.iter().map(|v| self.prices[0].cached_bytes(*v)).sum();
        let mut seconds = self.machine.kept(bytes);
        for ((role, prices), forms) in Role::ALL.into_iter().zip(self.prices).zip(&forms) {
            let appended: f64 = values.iter().map(|v| prices.appended(*v)).sum();
            seconds += role.steps() * (forms.first()?.seconds + appended);
        }
        Some(CacheSet { values, bytes, forms, seconds })
    }
}
