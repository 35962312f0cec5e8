//! A stream folded by fours of warps: two warpgroups have half of a tile's rows each, a third one brings blocks of keys.
//!
//! A stage of the ring is a block of keys: right factors of dots and of products, their lines in turns. The helpers visit the same
//! runs and blocks as those who fold, and put them into the stages one after another; who folds takes a stage when it is full,
//! multiplies, folds, multiplies again, and gives it back. The two warpgroups do not wait for each other.
//!
//! Whole pages come as boxes of a tensor, all of a block's started by one thread. A page that ends with the keys that count comes by
//! copies of 16 bytes from all helpers, since what lies past them may be anything, and has to be zeros.

use super::block::{Block, Held, Memory, Right};
use super::fold::Tile;
use super::left::LeftRows;
use super::plan::Pages;
use super::right::{self, Copiers, RightTile};
use super::rows::TileRows;
use crate::llvm::{Cmp, Lane, Meeting, Ty, Val, WARP};
use crate::target::nvptx::ring::{Ring, Turn};
use crate::target::nvptx::tuning::{STREAM_REGISTERS, STREAM_STAGES};

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
    fn take(&self, rows: &TileRows<'e, 'c>, memory: &Memory<'c>, ring: &Ring<'_, 'c>) {
        let (e, keys) = (self.entry.emitter, self.shape.keys);
        self.fill_left(rows, &memory.left);
        e.show_to_units();
        e.barrier();
        let carried: Vec<Val> = [e.int32(0)].into_iter().chain(Held::flat(&Held::start(self))).collect();
        let last = self.runs(rows, &carried, |run, now| {
            let looking = self.looking(run, &self.own_rows(rows));
            // Words of 32 bits while the products go on: registers are few.
            let short = |v: Val<'c>| e.trunc(v, Ty::I32);
            let carried: Vec<Val> = [short(self.first_block(run))].into_iter().chain(now.iter().copied()).collect();
            let more = |now: &[Val<'c>]| e.compare(Cmp::Lt, now[0], short(run.end));
            let after = e.while_each(&carried, more, |now| {
                let (base, round) = (e.sext(now[0], Ty::I64), now[1]);
                let turn: Turn = ring.turn(round);
                ring.wait_full(&turn);
                let right = self.right(turn.memory);
                let held = Held::of(self, &now[2..]);
                let block = Block::new(self, (memory, &right), &looking, (base, run.end), held);
                block.dots();
                block.states();
                ring.release(&turn);
                let next = run.next_block(self.stream.visit, keys, e.add(base, e.int(keys as i64)));
                let held = Held::flat(&block.into_held());
                [short(next), e.add(round, e.int32(1))].into_iter().chain(held).collect()
            });
            after[1..].to_vec()
        });
        self.finish(rows, memory, &last[1..]);
    }

    /// Brings block after block.
    fn bring(&self, rows: &TileRows<'e, 'c>, ring: &Ring<'_, 'c>) {
        let (e, entry, keys) = (self.entry.emitter, self.entry, self.shape.keys);
        let thread = e.sub(entry.thread, e.int(entry.threads as i64));
        let by = Copiers { thread, count: entry.helpers as u64, spare: true };
        let leads = e.compare(Cmp::Eq, thread, e.int(0));
        self.runs(rows, &[e.int32(0)], |run, now| {
            let more = |now: &[Val<'c>]| e.compare(Cmp::Lt, now[0], run.end);
            let after = e.while_each(&[self.first_block(run), now[0]], more, |now| {
                let (base, round) = (now[0], now[1]);
                let turn = ring.turn(round);
                ring.wait_free(&turn);
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
    }
}
