//! A stream folded by fours of warps: two warpgroups have half of a tile's rows each, a third one brings blocks of keys.
//!
//! A stage of the ring is a block of keys: right factors of dots and of products, their lines in turns, and a note of what block it
//! is. The helpers find out which runs and blocks the tile's rows visit, and put them into the stages one after another; who folds
//! takes a stage when it is full, multiplies, folds, multiplies again, and gives it back. The two warpgroups do not wait for each
//! other.
//!
//! Whole pages come as boxes of a tensor, all of a block's started by one thread. A page that ends with the keys that count comes by
//! copies of 16 bytes from all helpers, since what lies past them may be anything, and has to be zeros.

use super::block::{Block, Held, Memory, Right};
use super::fold::Tile;
use super::left::LeftRows;
use super::plan::Pages;
use super::right::{self, Copiers, RightTile};
use super::rows::{SequenceRun, TileRows};
use crate::llvm::{CHUNK, Cmp, Emitter, Lane, Meeting, Ty, Val, WARP};
use crate::target::nvptx::abi::Entry;
use crate::target::nvptx::ring::Ring;
use crate::target::nvptx::tuning::{STREAM_REGISTERS, STREAM_STAGES};
use std::ops::Deref;

impl<'t, 'e, 'c> Tile<'t, 'e, 'c> {
    /// Folds the tile's rows.
    pub fn fold_together(&self, rows: &TileRows<'e, 'c>) {
        let (e, entry) = (self.entry.emitter, self.entry);
        let of = |p: &Pages| LeftRows::in_turns(entry, p.precision(), self.shape.rows(), p.width);
        let left = self.plan.dots.iter().map(of).collect();
        let stage: u64 = right::sized(self.plan, self.shape).map(|(p, padded)| self.turned(p, padded)).sum();
        // In the end the sums of the products lie where the stages were.
        let bytes = stage.max(self.out_bytes().div_ceil(STREAM_STAGES as u64));
        let ring = Ring::new(entry, STREAM_STAGES, bytes, (1, entry.threads / WARP));
        let ring = Notes::new(entry, ring);
        let stages = |s: u32| ring.turn(e.int32(s as i32)).memory;
        // The other warpgroup may be a block behind.
        let memory = self.memory_with(left, Vec::new(), (stages(0), 0));
        let works = e.compare(Cmp::Lt, e.thread_index32(), e.int32(entry.threads as i32));
        e.when(works, || {
            for s in 0..STREAM_STAGES {
                let right = self.right(stages(s));
                right.dots.iter().chain(&right.products).for_each(|t| t.clear(entry));
            }
            e.show_to_units();
        });
        e.barrier();
        let [work, help] = STREAM_REGISTERS;
        e.when(works, || {
            e.take_registers(work);
            e.among(Meeting { number: 1, threads: entry.threads }, || self.take(rows, &memory, &ring));
        });
        e.when(e.not(works), || {
            e.give_registers(help);
            e.among(Meeting { number: 2, threads: entry.helpers }, || self.bring(rows, &ring));
        });
    }

    fn turned(&self, pages: &Pages, padded: u64) -> u64 {
        right::turned(pages, self.shape.keys, padded)
    }

    /// A block of keys in a stage.
    fn right(&self, stage: Val<'c>) -> Right<'t, 'c> {
        let e = self.entry.emitter;
        let mut at = 0;
        let mut tiles: Vec<RightTile> = Vec::new();
        for (pages, padded) in right::sized(self.plan, self.shape) {
            tiles.push(RightTile::in_turns(pages, e.offset(stage, e.int(at as i64)), self.shape.keys, padded));
            at += self.turned(pages, padded);
        }
        let products = tiles.split_off(self.plan.dots.len());
        Right { dots: tiles, products }
    }

    /// Folds block after block, as they come.
    fn take(&self, rows: &TileRows<'e, 'c>, memory: &Memory<'c>, ring: &Notes<'_, 'c>) {
        let e = self.entry.emitter;
        self.fill_left(rows, &memory.left);
        e.show_to_units();
        e.barrier();
        let carried: Vec<Val> = [e.int32(0)].into_iter().chain(Held::flat(&Held::start(self))).collect();
        let more = |now: &[Val<'c>]| e.compare(Cmp::Ne, ring.wait(now[0]).sequence, e.int32(i32::MAX));
        let last = e.while_each(&carried, more, |now| {
            let Note { sequence, some, end, .. } = ring.read(now[0]);
            let run = rows.told(self.plan, self.shape, (sequence, some, end));
            let looking = self.looking(&run, &self.own_rows(rows));
            let same = |now: &[Val<'c>]| e.compare(Cmp::Eq, ring.wait(now[0]).sequence, sequence);
            e.while_each(now, same, |now| {
                let turn = ring.turn(now[0]);
                let right = self.right(turn.memory);
                let held = Held::of(self, &now[1..]);
                let base = e.sext(ring.read(now[0]).base, Ty::I64);
                let block = Block::new(self, (memory, &right), &looking, (base, run.end), held);
                block.dots();
                block.states();
                ring.release(&turn);
                let held = Held::flat(&block.into_held());
                [e.add(now[0], e.int32(1))].into_iter().chain(held).collect()
            })
        });
        self.finish(rows, memory, &last[1..]);
    }

    /// Brings block after block.
    fn bring(&self, rows: &TileRows<'e, 'c>, ring: &Notes<'_, 'c>) {
        let (e, entry, keys) = (self.entry.emitter, self.entry, self.shape.keys);
        let thread = e.sub(entry.thread, e.int(entry.threads as i64));
        let by = Copiers { thread, count: entry.helpers as u64, spare: true };
        let leads = e.compare(Cmp::Eq, thread, e.int(0));
        let rounds = self.runs(rows, &[e.int32(0)], |run, now| {
            let more = |now: &[Val<'c>]| e.compare(Cmp::Lt, now[0], run.end);
            let after = e.while_each(&[self.first_block(run), now[0]], more, |now| {
                let (base, round) = (now[0], now[1]);
                let turn = ring.turn(round);
                ring.wait_free(&turn);
                e.when(leads, || ring.write(round, Note::of(e, run, base)));
                let right = self.right(turn.memory);
                let tiles = || right.dots.iter().chain(&right.products);
                let at = || run.some().bind(self.plan.key, Lane::uniform(base));
                let next = e.add(base, e.int(keys as i64));
                let whole = e.compare(Cmp::Le, next, run.end);
                e.when(e.and(whole, leads), || {
                    let bytes: u64 = tiles().map(RightTile::box_bytes).sum();
                    e.arrive_expecting(turn.full, e.int32(bytes as i32));
                    let (tensors, at) = (tiles().zip(entry.tensors), at());
                    tensors.for_each(|(tile, tensor)| tile.copy_boxes(*tensor, &at, turn.full));
                });
                e.when(e.not(whole), || {
                    let at = at();
                    tiles().for_each(|t| t.copy(entry, by, &at, (base, run.end)));
                    e.commit_copies();
                    e.wait_copies(0);
                    e.show_to_units();
                    e.barrier();
                    e.when(leads, || e.arrive(turn.full));
                });
                vec![run.next_block(self.stream.visit, keys, next), e.add(round, e.int32(1))]
            });
            vec![after[1]]
        });
        // Nothing more comes.
        let turn = ring.turn(rounds[0]);
        ring.wait_free(&turn);
        e.when(leads, || {
            ring.write(rounds[0], Note::end(e));
            e.arrive(turn.full);
        });
    }
}

/// What comes in a stage, all of it `i32`s.
struct Note<'c> {
    /// Whose block of keys; the largest number where nothing more comes.
    sequence: Val<'c>,
    /// The block's first key.
    base: Val<'c>,
    /// The key after the last that counts.
    end: Val<'c>,
    /// The number of one of the sequence's rows.
    some: Val<'c>,
}

impl<'c> Note<'c> {
    fn of(e: &Emitter<'c>, run: &SequenceRun<'_, '_, 'c>, base: Val<'c>) -> Note<'c> {
        let [base, end, some] = [base, run.end, run.some].map(|v| e.trunc(v, Ty::I32));
        Note { sequence: run.sequence, base, end, some }
    }

    fn end(e: &Emitter<'c>) -> Note<'c> {
        let zero = e.int32(0);
        Note { sequence: e.int32(i32::MAX), base: zero, end: zero, some: zero }
    }
}

/// A ring whose stages have notes: who brings them has found out what who takes them need not ask again, and has no sums that
/// leave it few registers.
struct Notes<'a, 'c> {
    ring: Ring<'a, 'c>,
    e: &'a Emitter<'c>,
    /// A note of each stage.
    notes: Val<'c>,
}

impl<'a, 'c> Deref for Notes<'a, 'c> {
    type Target = Ring<'a, 'c>;

    fn deref(&self) -> &Ring<'a, 'c> {
        &self.ring
    }
}

impl<'a, 'c> Notes<'a, 'c> {
    fn new(entry: &Entry<'a, 'c>, ring: Ring<'a, 'c>) -> Notes<'a, 'c> {
        Notes { ring, e: entry.emitter, notes: entry.shared(Ty::I32, 4 * STREAM_STAGES as u64) }
    }

    fn place(&self, round: Val<'c>) -> Val<'c> {
        let e = self.e;
        let stage = e.and(round, e.int32(STREAM_STAGES as i32 - 1));
        e.offset(self.notes, e.mul(e.zext(stage, Ty::I64), e.int(CHUNK as i64)))
    }

    fn write(&self, round: Val<'c>, note: Note<'c>) {
        let (e, all) = (self.e, [note.sequence, note.base, note.end, note.some]);
        let one = |words, (i, word): (u32, Val<'c>)| e.insert(words, i, word);
        e.store_chunk(self.place(round), (0..).zip(all).fold(e.undefined(Ty::I32, 4), one));
    }

    /// The note of a stage that is full.
    fn read(&self, round: Val<'c>) -> Note<'c> {
        let e = self.e;
        let words = e.load_chunk(self.place(round));
        let [sequence, base, end, some] = [0, 1, 2, 3].map(|i| e.extract(words, i));
        Note { sequence, base, end, some }
    }

    /// The note of a stage once it is full.
    fn wait(&self, round: Val<'c>) -> Note<'c> {
        self.wait_full(&self.turn(round));
        self.read(round)
    }
}
