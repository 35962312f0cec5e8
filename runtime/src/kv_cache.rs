//! Pages of key/value caches: who holds which, shared and copied on write.
//!
//! Every cache of one sequence axis is cut into pages of [`PAGE_TOKENS`] tokens, and a page's number means the same
//! tokens in all of them. Here are the numbers only; the memory behind them is the engine's. A [`Track`] is the tokens of
//! one sequence: forking it shares its pages, and a shared page is copied when one of its holders appends to it.

use llmc_artifact::plan::PAGE_TOKENS;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = PAGE_TOKENS as u64;
/// Pages that are kept before a window, so that a sequence can be rewound a little.
const SLACK_PAGES: u64 = 4;

/// No page is free, and no more are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The most pages that may exist.
    pub limit: u32,
}

/// The page numbers of one sequence axis.
#[derive(Clone, Debug)]
pub struct PagePool(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    /// Holders of each page; 0 for a free one.
    holders: Vec<u32>,
    free: Vec<u32>,
    limit: u32,
}

impl PagePool {
    /// A pool of at most `limit` pages.
    pub fn new(limit: u32) -> PagePool {
        PagePool(Arc::new(Mutex::new(Counts { holders: Vec::new(), free: Vec::new(), limit })))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Page, Full> {
        let mut counts = self.counts();
        let number = match counts.free.pop() {
            Some(number) => number,
            None if counts.holders.len() < counts.limit as usize => {
                counts.holders.push(0);
                counts.holders.len() as u32 - 1
            }
            None => return Err(Full { limit: counts.limit }),
        };
        counts.holders[number as usize] = 1;
        drop(counts);
        Ok(Page { number, pool: self.clone() })
    }

    /// Pages that somebody holds.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let counts = self.counts();
        counts.holders.len() - counts.free.len()
    }

    /// Whether two handles are of one pool.
    pub fn is(&self, other: &PagePool) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One holder of a page.
#[derive(Debug)]
struct Page {
    number: u32,
    pool: PagePool,
}

impl Page {
    fn shared(&self) -> bool {
        self.pool.counts().holders[self.number as usize] > 1
    }
}

impl Clone for Page {
    fn clone(&self) -> Page {
        self.pool.counts().holders[self.number as usize] += 1;
        Page { number: self.number, pool: self.pool.clone() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut counts = self.pool.counts();
        let holders = &mut counts.holders[self.number as usize];
        *holders -= 1;
        if *holders == 0 {
            counts.free.push(self.number);
        }
    }
}

/// The tokens of one sequence along one sequence axis. A clone is a fork: it shares every page.
#[derive(Clone, Debug)]
pub struct Track {
    pool: PagePool,
    length: u64,
    /// Pages at the beginning that a window has left behind.
    dropped: u64,
    pages: VecDeque<Page>,
}

impl Track {
    /// No tokens.
    pub fn new(pool: &PagePool) -> Track {
        Track { pool: pool.clone(), length: 0, dropped: 0, pages: VecDeque::new() }
    }

    /// Number of tokens.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The pool that its pages are from.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Makes the pages exist that `length` tokens need, and the page that the next token goes to its own: `copy(from, to)`
    /// then copies a shared one. Tokens and their number stay as they are, also on an error.
    ///
    /// # Errors
    /// When no page is free, or what `copy` says.
    pub fn reserve<E: From<Full>>(
        &mut self,
        length: u64,
        mut copy: impl FnMut(u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        self.truncate_pages();
        if let Some(last) = self.pages.back()
            && !self.length.is_multiple_of(PAGE)
            && length > self.length
            && last.shared()
        {
            let own = self.pool.take()?;
            copy(last.number, own.number)?;
            *self.pages.back_mut().expect("the track has a last page") = own;
        }
        while self.dropped + (self.pages.len() as u64) < length.div_ceil(PAGE) {
            self.pages.push_back(self.pool.take()?);
        }
        Ok(())
    }

    /// Appends tokens to pages that were reserved.
    ///
    /// # Panics
    /// When the pages were not reserved or the sequence would become shorter.
    pub fn advance(&mut self, length: u64) {
        assert!(self.length <= length && length <= self.blocks() * PAGE, "kv cache: no pages were reserved");
        self.length = length;
    }

    /// Gives back pages that lie well before the `window` tokens that the next token reads.
    pub fn leave_behind(&mut self, window: u64) {
        let first_read = (self.length + 1).saturating_sub(window) / PAGE;
        while self.dropped + SLACK_PAGES < first_read {
            self.pages.pop_front();
            self.dropped += 1;
        }
    }

    /// Forgets all tokens from position `length` on. Returns false, and changes nothing, when there are fewer or when a
    /// next token would read what a window has left behind.
    pub fn rewind(&mut self, length: u64, window: Option<u64>) -> bool {
        let first_read = (length + 1).saturating_sub(window.unwrap_or(u64::MAX)) / PAGE;
        if length > self.length || first_read < self.dropped {
            return false;
        }
        self.length = length;
        self.truncate_pages();
        true
    }

    fn truncate_pages(&mut self) {
        self.pages.truncate((self.length.div_ceil(PAGE) - self.dropped) as usize);
    }

    /// Pages at its beginning that a window has left behind.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Entries of its row of the block table.
    pub fn blocks(&self) -> u64 {
        self.dropped + self.pages.len() as u64
    }

    /// Its row of the block table; page 0 stands for those that nothing reads any more.
    pub fn block_row(&self) -> impl Iterator<Item = i32> + '_ {
        let left_behind = std::iter::repeat_n(0, self.dropped as usize);
        left_behind.chain(self.pages.iter().map(|p| p.number as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    /// Appends tokens the way the engine does, to a memory that is a map.
    fn append(track: &mut Track, memory: &mut HashMap<(u32, u64), u32>, tokens: &[u32], window: Option<u64>) -> bool {
        let length = track.length() + tokens.len() as u64;
        let reserved = track.reserve(length, |from, to| {
            assert_ne!(from, to);
            for slot in 0..PAGE {
                if let Some(token) = memory.get(&(from, slot)).copied() {
                    memory.insert((to, slot), token);
                }
            }
            Ok::<(), Full>(())
        });
        if reserved.is_err() {
            return false;
        }
        let row: Vec<i32> = track.block_row().collect();
        for (at, token) in (track.length()..).zip(tokens) {
            memory.insert((row[(at / PAGE) as usize] as u32, at % PAGE), *token);
        }
        track.advance(length);
        if let Some(window) = window {
            track.leave_behind(window);
        }
        true
    }

    fn contents(track: &Track, memory: &HashMap<(u32, u64), u32>) -> Vec<u32> {
        let row: Vec<i32> = track.block_row().collect();
        (0..track.length()).map(|at| memory[&(row[(at / PAGE) as usize] as u32, at % PAGE)]).collect()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Append(prop::sample::Index, Vec<u32>),
        Fork(prop::sample::Index),
        Rewind(prop::sample::Index, prop::sample::Index),
        Drop(prop::sample::Index),
    }

    fn op() -> impl Strategy<Value = Op> {
        let which = any::<prop::sample::Index>;
        prop_oneof![
            4 => (which(), prop::collection::vec(any::<u32>(), 0..150)).prop_map(|(i, t)| Op::Append(i, t)),
            2 => which().prop_map(Op::Fork),
            2 => (which(), which()).prop_map(|(i, n)| Op::Rewind(i, n)),
            1 => which().prop_map(Op::Drop),
        ]
    }

    proptest! {
        #[test]
        fn tracks_are_lists_of_tokens(ops in prop::collection::vec(op(), 1..40), limit in 1..20u32) {
            let pool = PagePool::new(limit);
            let mut memory = HashMap::new();
            let mut all = vec![(Track::new(&pool), Vec::new())];
            for op in ops {
                match op {
                    Op::Append(i, tokens) => {
                        let i = i.index(all.len());
                        let (track, list) = &mut all[i];
                        if append(track, &mut memory, &tokens, None) {
                            list.extend(tokens);
                        } else {
                            prop_assert_eq!(pool.held(), limit as usize);
                        }
                    }
                    Op::Fork(i) => {
                        let fork = all[i.index(all.len())].clone();
                        all.push(fork);
                    }
                    Op::Rewind(i, n) => {
                        let i = i.index(all.len());
                        let (track, list) = &mut all[i];
                        let n = n.index(list.len() + 1);
                        prop_assert!(track.rewind(n as u64, None));
                        prop_assert!(!track.rewind(n as u64 + 1, None));
                        list.truncate(n);
                    }
                    Op::Drop(i) => {
                        if all.len() > 1 {
                            let i = i.index(all.len());
                            all.swap_remove(i);
                        }
                    }
                }
                for (track, list) in &all {
                    prop_assert_eq!(&contents(track, &memory), list);
                }
                // A failed append may leave pages behind its tokens; everything else holds what it needs.
                let needed: HashSet<i32> = all.iter().flat_map(|(t, _)| t.block_row()).collect();
                prop_assert_eq!(pool.held(), needed.len());
            }
            drop(all);
            prop_assert_eq!(pool.held(), 0);
        }
    }

    #[test]
    fn forks_share_until_they_write() {
        let pool = PagePool::new(100);
        let mut memory = HashMap::new();
        let mut a = Track::new(&pool);
        append(&mut a, &mut memory, &[7; 100], None);
        let mut b = a.clone();
        assert_eq!(pool.held(), 2);
        append(&mut b, &mut memory, &[8], None);
        assert_eq!(pool.held(), 3, "only the last page was copied");
        append(&mut a, &mut memory, &[9], None);
        assert_eq!(pool.held(), 3, "the last holder writes in place");
        assert_eq!((contents(&a, &memory)[100], contents(&b, &memory)[100]), (9, 8));
        let c = b.clone();
        append(&mut b, &mut memory, &[], None);
        assert_eq!(pool.held(), 3, "nothing appended, nothing copied");
        drop((a, b, c));
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn a_window_bounds_the_pages() {
        let pool = PagePool::new(8);
        let mut memory = HashMap::new();
        let mut track = Track::new(&pool);
        for i in 0..2000 {
            assert!(append(&mut track, &mut memory, &[i], Some(100)), "token {i}");
        }
        // Everything that a next token may see is still there.
        let row: Vec<i32> = track.block_row().collect();
        for at in 1901..2000u64 {
            assert_eq!(memory[&(row[(at / PAGE) as usize] as u32, at % PAGE)], at as u32);
        }
        assert!(track.clone().rewind(1800, Some(100)));
        assert!(!track.rewind(1000, Some(100)), "tokens before 1000 are gone");
        assert_eq!(track.length(), 2000);
    }
}
