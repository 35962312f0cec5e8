//! Right factors of matrix instructions: a block of keys' pages in shared memory.
//!
//! A tile is lines of chunks of 16 bytes. Where chunks are elements of one key, a line is a key; where they are keys of one column,
//! a line is a column. Lines are an odd number of chunks apart, so that eight lines' chunks fall into different banks; or, where
//! fours of warps read them, cut into spans whose chunks take turns line by line: as boxes of a tensor come. What a matrix needs
//! beyond the pages' width is zeros, and so is what lies past the last key that counts.

use super::boxes::turns;
use super::plan::{COLUMNS, Kind, Pages, Plan, ROWS, Run, Shape};
use crate::llvm::{CHUNK, Cmp, Described, Emitter, Lane, Scope, Ty, Val};
use crate::target::nvptx::abi::Entry;
use crate::target::points::bind_point;
use llmc_artifact::plan::PAGE_TOKENS;
use llmc_artifact::tensor::TensorMap;

/// Elements of a chunk.
const ELEMENTS: u64 = CHUNK as u64 / 2;

/// Lines, and bytes from one to the next.
fn lines(pages: &Pages, keys: u64, padded: u64) -> (u64, u64) {
    let (lines, along) = match pages.run {
        Run::Columns | Run::Single => (keys, padded),
        Run::Keys => (padded, keys),
    };
    (lines, (along.div_ceil(ELEMENTS) | 1) * CHUNK as u64)
}

/// Bytes of a tile.
pub fn bytes(pages: &Pages, keys: u64, padded: u64) -> u64 {
    let (lines, stride) = lines(pages, keys, padded);
    lines * stride
}

/// Every load of pages with the width that its tile is padded to.
pub fn sized(plan: &Plan, shape: Shape) -> impl Iterator<Item = (&Pages, u64)> {
    let dots = plan.dots.iter().map(|p| (p, p.width.next_multiple_of(ROWS)));
    dots.chain(plan.states.iter().filter_map(Kind::pages).map(move |p| (p, shape.columns(p.width) * shape.sharers())))
}

/// What the pages of every tile for fours of warps are boxes of.
pub fn tensor_maps(plan: &Plan, shape: Shape) -> Vec<TensorMap> {
    let map = |(p, padded): (&Pages, u64)| {
        let boxes = p.boxes.as_ref().expect("emission: fours of warps fold pages that come in no boxes");
        boxes.tensor_map(p.operand, padded)
    };
    sized(plan, shape).map(map).collect()
}

/// Bytes of a line's part whose chunks take turns.
fn span(pages: &Pages) -> u64 {
    turns(pages.run).span().expect("emission: lines whose chunks take no turns")
}

/// Spans of a line of a tile for fours of warps, and bytes from one to the next.
fn spans(pages: &Pages, keys: u64, padded: u64) -> (u64, u64) {
    let (lines, along) = match pages.run {
        Run::Columns | Run::Single => (keys, padded),
        Run::Keys => (padded, keys),
    };
    (along.div_ceil(span(pages) / 2), (lines * span(pages)).next_multiple_of(8 * span(pages)))
}

/// Bytes of a tile for fours of warps.
pub fn turned(pages: &Pages, keys: u64, padded: u64) -> u64 {
    let (count, apart) = spans(pages, keys, padded);
    count * apart
}

/// How the lines of a tile lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// One after another, so many bytes apart.
    Apart(u64),
    /// In spans that are so many bytes apart, their chunks in turns.
    Turned(u64),
}

/// Threads that share a copy: this one's number, and how many there are.
#[derive(Clone, Copy)]
pub struct Copiers<'c> {
    /// An `i64`.
    pub thread: Val<'c>,
    /// Their number.
    pub count: u64,
    /// Whether they have few registers: then copies are a loop.
    pub spare: bool,
}

/// A tile.
pub struct RightTile<'p, 'c> {
    pages: &'p Pages,
    array: Val<'c>,
    keys: u64,
    bytes: u64,
    lines: Lines,
    padded: u64,
}

/// Which of a tile's dimensions is the depth of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Columns are summed: keys are the result's columns.
    Columns,
    /// Keys are summed.
    Keys,
}

impl<'p, 'c> RightTile<'p, 'c> {
    /// A tile in an array of as many bytes as [`bytes`] says.
    pub fn new(pages: &'p Pages, array: Val<'c>, keys: u64, padded: u64) -> RightTile<'p, 'c> {
        let (count, stride) = lines(pages, keys, padded);
        RightTile { pages, array, keys, bytes: count * stride, lines: Lines::Apart(stride), padded }
    }

    /// A tile for fours of warps, in an array of as many bytes as [`turned`] says that starts at a multiple of [`TURNS`].
    pub fn in_turns(pages: &'p Pages, array: Val<'c>, keys: u64, padded: u64) -> RightTile<'p, 'c> {
        let (count, apart) = spans(pages, keys, padded);
        RightTile { pages, array, keys, bytes: count * apart, lines: Lines::Turned(apart), padded }
    }

    /// Bytes that come with its boxes.
    pub fn box_bytes(&self) -> u64 {
        self.bytes
    }

    /// Starts copying a page as boxes of a tensor, one thread for all. The scope's key is the page's first; all of its keys count.
    pub fn copy_boxes(&self, tensor: Val<'c>, scope: &Scope<'_, 'c>, mbarrier: Val<'c>) {
        let (e, pages) = (scope.emitter(), self.pages);
        let Lines::Turned(apart) = self.lines else { panic!("emission: boxes of a tile whose lines take no turns") };
        let boxes = pages.boxes.as_ref().expect("emission: pages that come in no boxes");
        let page = scope.page_number(pages.operand, &pages.index);
        for (n, coordinates) in boxes.coordinates(scope, page, self.padded).iter().enumerate() {
            e.copy_box(e.offset(self.array, e.int((n as u64 * apart) as i64)), tensor, coordinates, mbarrier);
        }
    }

    /// Whether there are places where copies never write.
    pub fn is_padded(&self) -> bool {
        self.padded > self.pages.width
    }

    /// Zeros in those.
    pub fn clear(&self, entry: &Entry<'_, 'c>) {
        let e = entry.emitter;
        if self.is_padded() {
            let chunks = self.bytes / CHUNK as u64;
            entry.for_each(e.int(chunks as i64), |i| {
                let at = e.offset(self.array, e.mul(i, e.int(CHUNK as i64)));
                e.store_chunk(at, e.zero(Ty::I32, CHUNK / 4));
            });
        }
    }

    /// Starts copying a block of keys. The scope's key is the block's first; keys from `end` on become zeros.
    pub fn copy(&self, entry: &Entry<'_, 'c>, by: Copiers<'c>, scope: &Scope<'_, 'c>, (base, end): (Val<'c>, Val<'c>)) {
        let e = entry.emitter;
        let (count, along) = match self.pages.run {
            Run::Columns => (self.keys, self.pages.width / ELEMENTS),
            Run::Keys => (self.pages.width, self.keys / ELEMENTS),
            Run::Single => (self.keys, self.pages.width),
        };
        let operand = entry.args.operand(self.pages.operand);
        let start = scope.page_start(self.pages.operand, &self.pages.index);
        let page = e.element(operand, Ty::I16, start);
        // Blocks begin at multiples of their keys: where they are whole pages, with a page's first slot.
        let whole = self.keys.is_multiple_of(PAGE_TOKENS as u64);
        let slot = if whole { e.int(0) } else { e.and(base, e.int(PAGE_TOKENS as i64 - 1)) };
        let one = |line: Val<'c>, at: Val<'c>| match self.pages.run {
            Run::Columns => self.copy_columns(scope, page, (line, at), e.add(slot, line), e.add(base, line), end),
            Run::Keys => self.copy_keys(scope, page, (line, at), slot, e.sub(end, base)),
            Run::Single => self.copy_one(scope, page, (line, at), e.add(slot, line), e.add(base, line), end),
        };
        deal_out(e, by, count, along, one);
    }

    fn copy_columns(
        &self,
        scope: &Scope<'_, 'c>,
        page: Val<'c>,
        (line, chunk): (Val<'c>, Val<'c>),
        slot: Val<'c>,
        key: Val<'c>,
        end: Val<'c>,
    ) {
        let e = scope.emitter();
        let first = e.mul(chunk, e.int(ELEMENTS as i64));
        let from = self.element(scope, page, first, slot);
        let valid = e.select(e.compare(Cmp::Lt, key, end), e.int32(CHUNK as i32), e.int32(0));
        e.copy_async(self.place(e, line, chunk), from, CHUNK, Some(valid));
    }

    fn copy_keys(
        &self,
        scope: &Scope<'_, 'c>,
        page: Val<'c>,
        (line, chunk): (Val<'c>, Val<'c>),
        slot: Val<'c>,
        left: Val<'c>,
    ) {
        let e = scope.emitter();
        let first = e.mul(chunk, e.int(ELEMENTS as i64));
        let from = self.element(scope, page, line, e.add(slot, first));
        let keys = e.min(e.max(e.sub(left, first), e.int(0)), e.int(ELEMENTS as i64));
        let valid = e.trunc(e.mul(keys, e.int(2)), Ty::I32);
        e.copy_async(self.place(e, line, chunk), from, CHUNK, Some(valid));
    }

    fn copy_one(
        &self,
        scope: &Scope<'_, 'c>,
        page: Val<'c>,
        (line, column): (Val<'c>, Val<'c>),
        slot: Val<'c>,
        key: Val<'c>,
        end: Val<'c>,
    ) {
        let e = scope.emitter();
        let from = self.element(scope, page, column, slot);
        let value = e.either(e.compare(Cmp::Lt, key, end), || e.load(Ty::I16, 1, from), || e.zero(Ty::I16, 1));
        e.store(e.element(self.place(e, line, e.int(0)), Ty::I16, column), value);
    }

    /// The address of an element of the page.
    fn element(&self, scope: &Scope<'_, 'c>, page: Val<'c>, column: Val<'c>, slot: Val<'c>) -> Val<'c> {
        let at = bind_point(scope, &self.pages.columns, column);
        let within = at.within_page(self.pages.operand, &self.pages.index, Lane::uniform(slot));
        scope.emitter().element(page, Ty::I16, within.value)
    }

    fn place(&self, e: &Emitter<'c>, line: Val<'c>, chunk: Val<'c>) -> Val<'c> {
        let (line, chunk) = match self.lines {
            Lines::Apart(stride) => (e.mul(line, e.int(stride as i64)), chunk),
            Lines::Turned(apart) => {
                let span = span(self.pages);
                let chunks = span as u32 / CHUNK;
                let within = e.swizzled(line, e.and(chunk, e.int(chunks as i64 - 1)), chunks);
                let before = e.mul(e.lshr(chunk, e.int(chunks.trailing_zeros() as i64)), e.int(apart as i64));
                (e.add(e.mul(line, e.int(span as i64)), before), within)
            }
        };
        e.offset(self.array, e.add(line, e.mul(chunk, e.int(CHUNK as i64))))
    }

    /// Whether columns of a product of this depth lie side by side, and what describes each 16 of so many sixteens of the depth to
    /// the units that fours of warps share.
    pub fn described(&self, e: &Emitter<'c>, depth: Depth, sixteens: u64) -> (bool, Vec<Described<'c>>) {
        let Lines::Turned(apart) = self.lines else { panic!("emission: a tile whose lines take no turns") };
        let (span, turns) = (span(self.pages), turns(self.pages.run));
        let is_along = self.is_along(depth);
        let (all, of_span) = match is_along {
            true => (e.describe_rows(self.array, turns), span / 2 / ROWS),
            false => (e.describe_columns(self.array, turns, apart as u32), 1),
        };
        let (within, next) = if is_along { (2 * ROWS, apart) } else { (0, ROWS * span) };
        let one = |deep: u64| all.further(deep / of_span * next + deep % of_span * within);
        (!is_along, (0..sixteens).map(one).collect())
    }

    /// Whether chunks lie along the depth.
    fn is_along(&self, depth: Depth) -> bool {
        match self.pages.run {
            Run::Columns | Run::Single => depth == Depth::Columns,
            Run::Keys => depth == Depth::Keys,
        }
    }

    /// Where this lane's row of a matrix begins, for the result's columns from `first` on, an `i64` that is a multiple of
    /// [`COLUMNS`].
    pub fn lane_place(&self, e: &Emitter<'c>, depth: Depth, first: Val<'c>) -> Val<'c> {
        let lane = e.zext(e.lane_index(), Ty::I64);
        let bit = |n: i64| e.and(e.lshr(lane, e.int(n)), e.int(1));
        let within = e.and(lane, e.int(7));
        // Matrices 0 and 1 are the halves of the depth, 2 and 3 those of the next columns.
        let (deep, next) = (bit(3), bit(4));
        let eight = |v: Val<'c>| e.mul(v, e.int(COLUMNS as i64));
        let (line, chunk) = match self.is_along(depth) {
            true => (e.add(e.add(first, within), eight(next)), deep),
            false => (e.add(within, eight(deep)), e.add(e.lshr(first, e.int(3)), next)),
        };
        self.place(e, line, chunk)
    }

    /// Fragments of 16 of the depth, from `deep` sixteens on, and of `count` (1 or 2) times [`COLUMNS`] columns from `right`
    /// eights on behind the lane's place.
    pub fn fragments(
        &self,
        e: &Emitter<'c>,
        depth: Depth,
        place: Val<'c>,
        deep: u64,
        right: u64,
        count: u64,
    ) -> Vec<[Val<'c>; 2]> {
        let along = self.is_along(depth);
        let (lines, chunks) = if along { (COLUMNS * right, 2 * deep) } else { (ROWS * deep, right) };
        let Lines::Apart(stride) = self.lines else { panic!("emission: fragments of a tile in turns") };
        let at = e.offset(place, e.int((lines * stride + chunks * CHUNK as u64) as i64));
        let words = e.load_matrices(2 * count as u32, !along, at);
        words.chunks_exact(2).map(|w| [w[0], w[1]]).collect()
    }

    /// What it is a tile of.
    pub fn pages(&self) -> &Pages {
        self.pages
    }
}

/// Deals `count` lines of `along` pieces out to threads, neighbours side by side.
fn deal_out<'c>(e: &Emitter<'c>, by: Copiers<'c>, count: u64, along: u64, body: impl Fn(Val<'c>, Val<'c>)) {
    let threads = by.count;
    let number = |n: u64| e.int(n as i64);
    let total = count * along;
    let split = |n: Val<'c>| {
        let (line, at) = e.lane_div_rem(Lane::uniform(n), Lane::uniform(number(along)), 1);
        (line.value, at.value)
    };
    if by.spare {
        e.repeat(by.thread, number(total), threads as i64, |n| {
            let (line, at) = split(n);
            body(line, at);
        });
        return;
    }
    let (line, at) = split(by.thread);
    let even = threads.is_multiple_of(along);
    let round = |n: u64| match even {
        // The threads are whole lines: the place in a line stays.
        true => body(e.add(line, number(n * (threads / along))), at),
        false => {
            let (line, at) = split(e.add(by.thread, number(n * threads)));
            body(line, at);
        }
    };
    (0..total / threads).for_each(&round);
    let rest = total % threads;
    if rest > 0 {
        e.when(e.compare(Cmp::Lt, by.thread, number(rest)), || round(total / threads));
    }
}
