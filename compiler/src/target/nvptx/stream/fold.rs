//! A stream folded by matrix instructions: a block of threads has a tile of rows and visits blocks of keys.
//!
//! One block of keys' pages is in shared memory at a time, right factors of the dots and of the products apart, so that those of
//! the products arrive while the dots are computed, and the next block's while the products are. States stay in registers.
//!
//! Where fours of warps multiply, other threads bring whole blocks of keys into the stages of a ring (`bring`), and two warpgroups with
//! half of the rows each take them as they come, neither waiting for the other.

use super::block::{Block, Held, Memory, Right};
use super::finish::{Kept, finish};
use super::left::{self, LeftRows, Precision};
use super::plan::{GROUPS, Kind, Plan, ROWS, Shape};
use super::right::{self, Copiers, RightTile};
use super::rows::{Row, SequenceRun, Sight, TileRows};
use crate::kernel::{AxisRef, ExprRef, Stream};
use crate::llvm::{Cmp, Lane, Scope, Ty, Val, WARP};
use crate::target::nvptx::abi::Entry;
use crate::target::nvptx::tuning::{RESIDENT, THREADS, Units};
use crate::target::points::bind_point;
use llmc_artifact::Dim;

/// Where a thread stands in its block: all `i64`s.
#[derive(Clone, Copy)]
pub struct Place<'c> {
    /// The first row of its warp.
    pub row: Val<'c>,
    /// Which of the warps that share those rows it is in.
    pub share: Val<'c>,
    /// Its row in a fragment, and the other is 8 further.
    pub group: Val<'c>,
    /// Its pair of columns in a fragment.
    pub pair: Val<'c>,
}

/// A tile being folded.
pub struct Tile<'t, 'e, 'c> {
    /// The kernel.
    pub entry: &'e Entry<'e, 'c>,
    /// What is folded.
    pub stream: &'t Stream,
    /// How.
    pub plan: &'t Plan,
    /// In which shape.
    pub shape: Shape,
    /// By which units.
    pub units: Units,
    /// This thread.
    pub place: Place<'c>,
}

/// Work items: points of the fixed axes, and tiles of rows. Where a tile has many tokens that are not all of a sequence, there are
/// as many items as there are tokens, and those past the last tile have nothing to do.
pub fn emit(entry: &Entry, stream: &Stream, (plan, shape): (&Plan, Shape), units: Units, few: bool) -> Vec<Dim> {
    let (e, spec) = (entry.emitter, entry.spec);
    // Shared memory, of which the assembler does not know, leaves room for no more.
    e.resident_blocks(if units == Units::Warpgroups { 1 } else { RESIDENT });
    let dim = |a: &AxisRef| spec.dim(*a).expect("emission: a stream parallel over keys");
    let (row, parts) = (dim(&plan.row), plan.group.div_ceil(shape.rows()));
    let (tiled, parts) = match (few, row) {
        (false, Dim::Rows(s)) => (Dim::Tiles(s, plan.group as u32, shape.rows() as u32), 1),
        _ => (row, parts),
    };
    let items: Vec<Dim> = plan.fixed.iter().map(dim).chain([tiled, Dim::Const(parts)]).collect();
    let scope = entry.scope();
    let index = entry.item_index(&scope, &items);
    let fixed = plan.fixed.iter().zip(&index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
    let (token, part) = (index[plan.fixed.len()].value, index[plan.fixed.len() + 1].value);
    let (group, size) = (e.int(plan.group as i64), e.int(shape.rows() as i64));
    let (first, end) = match few {
        true => {
            let first = e.mul(token, group);
            (e.add(first, e.mul(part, size)), e.add(first, group))
        }
        false => {
            let all = e.mul(scope.dim(row), group);
            // The last rows look back furthest: their tiles begin first.
            let tiles = e.div(e.add(all, e.sub(size, e.int(1))), size);
            let tile = e.add(e.mul(token, e.int(parts as i64)), part);
            let tile = e.sub(e.sub(tiles, e.int(1)), tile);
            (e.select(e.compare(Cmp::Ge, tile, e.int(0)), e.mul(tile, size), all), all)
        }
    };
    e.when(e.compare(Cmp::Lt, first, end), || {
        let rows = TileRows::new(entry, plan, fixed, first, end);
        let tile = Tile { entry, stream, plan, shape, units, place: place(entry, shape) };
        match units {
            Units::Warps => tile.fold(&rows),
            Units::Warpgroups => tile.fold_together(&rows),
        }
    });
    items
}

fn place<'c>(entry: &Entry<'_, 'c>, shape: Shape) -> Place<'c> {
    let e = entry.emitter;
    let wide = |v: Val<'c>| e.zext(v, Ty::I64);
    let (warp, lane) = (wide(e.warp_index()), wide(e.lane_index()));
    let sharers = e.int(shape.sharers() as i64);
    let (group, share) = e.lane_div_rem(Lane::uniform(warp), Lane::uniform(sharers), 1);
    Place {
        row: e.mul(group.value, e.int(ROWS as i64)),
        share: share.value,
        group: e.lshr(lane, e.int(2)),
        pair: e.and(lane, e.int(3)),
    }
}

impl<'t, 'e, 'c> Tile<'t, 'e, 'c> {
    fn fold(&self, rows: &TileRows<'e, 'c>) {
        let (e, entry, keys) = (self.entry.emitter, self.entry, self.shape.keys);
        let (memory, right) = self.memory();
        right.dots.iter().chain(&right.products).for_each(|t| t.clear(entry));
        if right.dots.iter().any(RightTile::is_padded) {
            // Copies come after the zeros around them. Threads meet before those for products.
            e.barrier();
        }
        self.fill_left(rows, &memory.left);
        let held = Held::flat(&Held::start(self));
        let last = self.runs(rows, &held, |run, now| {
            let looking = self.looking(run, &self.own_rows(rows));
            let some = run.some();
            let begin = self.first_block(run);
            let by = Copiers { thread: entry.thread, count: THREADS as u64, spare: false };
            let copy = |tiles: &[RightTile<'_, 'c>], base: Val<'c>| {
                let at = some.bind(self.plan.key, Lane::uniform(base));
                tiles.iter().for_each(|t| t.copy(entry, by, &at, (base, run.end)));
            };
            // Nobody reads the right factors of dots any more: threads have met since, in the last block of the run before.
            e.when(e.compare(Cmp::Lt, begin, run.end), || copy(&right.dots, begin));
            e.commit_copies();
            let carried: Vec<Val> = [begin].into_iter().chain(now.iter().copied()).collect();
            let more = |now: &[Val<'c>]| e.compare(Cmp::Lt, now[0], run.end);
            let after = e.while_each(&carried, more, |now| {
                let base = now[0];
                let next = run.next_block(self.stream.visit, keys, e.add(base, e.int(keys as i64)));
                let held = Held::of(self, &now[1..]);
                e.wait_copies(0);
                e.barrier();
                copy(&right.products, base);
                e.commit_copies();
                let block = Block::new(self, (&memory, &right), &looking, (base, run.end), held);
                block.dots();
                e.wait_copies(0);
                e.barrier();
                e.when(e.compare(Cmp::Lt, next, run.end), || copy(&right.dots, next));
                e.commit_copies();
                block.states();
                [next].into_iter().chain(Held::flat(&block.into_held())).collect()
            });
            after[1..].to_vec()
        });
        self.finish(rows, &memory, &last);
    }

    /// This lane's two rows.
    pub fn own_rows(&self, rows: &TileRows<'e, 'c>) -> [Row<'e, 'c>; 2] {
        let e = self.entry.emitter;
        let first = e.add(self.place.row, self.place.group);
        let first = e.zext(e.only_here(e.trunc(first, Ty::I32)), Ty::I64);
        [0, 8].map(|r| rows.row(e.add(first, e.int(r))))
    }

    /// Runs `run` for every sequence of the tile's rows, in order of its number.
    pub fn runs(
        &self,
        rows: &TileRows<'e, 'c>,
        carried: &[Val<'c>],
        run: impl FnOnce(&SequenceRun<'_, 'e, 'c>, &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.entry.emitter;
        let first = rows.next_sequence(self.shape, e.int32(-1));
        let carried: Vec<Val> = [first].into_iter().chain(carried.iter().copied()).collect();
        let some = |now: &[Val<'c>]| e.compare(Cmp::Ne, now[0], e.int32(i32::MAX));
        let last = e.while_each(&carried, some, |now| {
            // Before the run: what it is found by would take registers from the sums.
            let next = rows.next_sequence(self.shape, now[0]);
            let after = run(&rows.run(self.plan, self.shape, now[0]), &now[1..]);
            [next].into_iter().chain(after).collect()
        });
        last[1..].to_vec()
    }

    /// What this lane's rows look at in a run.
    pub fn looking(&self, run: &SequenceRun<'_, 'e, 'c>, own: &[Row<'e, 'c>; 2]) -> [(Scope<'e, 'c>, Sight<'c>); 2] {
        let looking = [0, 1].map(|r| run.row(&own[r], self.plan.key));
        let roots = self.hoisted();
        looking.iter().for_each(|(scope, _)| scope.hoist(&roots, &[self.plan.key]));
        looking
    }

    pub fn first_block(&self, run: &SequenceRun<'_, 'e, 'c>) -> Val<'c> {
        let (e, keys) = (self.entry.emitter, self.shape.keys);
        run.next_block(self.stream.visit, keys, e.and(run.begin, e.int(-(keys as i64))))
    }

    /// Stores what the states have become.
    pub fn finish(&self, rows: &TileRows<'e, 'c>, memory: &Memory<'c>, last: &[Val<'c>]) {
        let (e, entry, stream) = (self.entry.emitter, self.entry, self.stream);
        let held = Held::of(self, last);
        if self.out_bytes() > memory.spent {
            // Others still multiply with right factors of the last block where sums go.
            e.barrier();
        }
        let kept = self.keep(&held, memory);
        e.barrier();
        let out = (self.shape.rows(), kept.as_slice());
        super::ends(stream).into_iter().for_each(|end| finish(entry, stream, rows, out, end));
    }

    /// Expressions that are evaluated at every key.
    fn hoisted(&self) -> Vec<ExprRef> {
        let bodies = self.stream.states.iter().zip(&self.plan.states).flat_map(|(state, kind)| match kind {
            Kind::Scalar => vec![state.body],
            Kind::Product { factors, .. } => factors.clone(),
        });
        bodies.collect()
    }

    fn memory(&self) -> (Memory<'c>, Right<'t, 'c>) {
        let (entry, e, shape) = (self.entry, self.entry.emitter, self.shape);
        let rows = shape.rows();
        let left = self.plan.dots.iter().map(|p| LeftRows::new(self.entry, p.precision(), rows, p.width)).collect();
        let sized: Vec<_> = right::sized(self.plan, shape).collect();
        let right: u64 = sized.iter().map(|(p, padded)| right::bytes(p, shape.keys, *padded)).sum();
        let room = entry.shared(Ty::I8, right.max(self.out_bytes()));
        let mut at = 0;
        let mut tiles: Vec<RightTile> = Vec::new();
        for (pages, padded) in sized {
            tiles.push(RightTile::new(pages, e.offset(room, e.int(at as i64)), shape.keys, padded));
            at += right::bytes(pages, shape.keys, padded);
        }
        let dots = right::sized(self.plan, shape).take(self.plan.dots.len());
        let spent = dots.map(|(p, padded)| right::bytes(p, shape.keys, padded)).sum();
        let products = tiles.split_off(self.plan.dots.len());
        let factors = products.iter().filter(|_| shape.sharers() > 1);
        let factors = factors.map(|t| LeftRows::new(entry, t.pages().precision(), shape.rows(), shape.keys)).collect();
        // Threads have met since they multiplied with those of the dots.
        (self.memory_with(left, factors, (room, spent)), Right { dots: tiles, products })
    }

    /// Bytes of the products' sums in the end.
    pub fn out_bytes(&self) -> u64 {
        let products = self.plan.states.iter().filter_map(Kind::pages);
        products.map(|p| left::bytes(Precision::Split, self.shape.rows(), p.width)).sum()
    }

    pub fn memory_with(
        &self,
        left: Vec<LeftRows<'c>>,
        factors: Vec<LeftRows<'c>>,
        (room, spent): (Val<'c>, u64),
    ) -> Memory<'c> {
        let (entry, shape) = (self.entry, self.shape);
        let sharers = shape.sharers();
        let parts = self.stream.states.iter().zip(&self.plan.states).map(|(state, kind)| match kind {
            Kind::Scalar if sharers > 1 => Some(entry.shared(self.kept_type(state.body), GROUPS * shape.rows() * 4)),
            Kind::Scalar | Kind::Product { .. } => None,
        });
        let parts = parts.collect();
        let scalars = self.stream.states.iter().map(|s| match s.axes.is_empty() {
            true => Some(entry.shared(self.kept_type(s.body), shape.rows())),
            false => None,
        });
        Memory { left, factors, parts, scalars: scalars.collect(), room, spent }
    }

    /// How a value is kept in shared memory.
    pub fn kept_type(&self, body: ExprRef) -> Ty {
        super::kept_as(self.entry.spec.exprs.0[body.0 as usize].1)
    }

    /// Left factors of the dots, computed once; zeros past their width.
    pub fn fill_left(&self, rows: &TileRows<'e, 'c>, left: &[LeftRows<'c>]) {
        let e = self.entry.emitter;
        for ((dot, pages), to) in self.stream.dots.iter().zip(&self.plan.dots).zip(left) {
            let pairs = pages.width.next_multiple_of(ROWS) / 2;
            self.entry.for_each(e.int((self.shape.rows() * pairs) as i64), |n| {
                let (row, pair) = e.lane_div_rem(Lane::uniform(n), Lane::uniform(e.int(pairs as i64)), 1);
                let scope = rows.bind(rows.number(row.value).0);
                let column = e.mul(pair.value, e.int(2));
                let one = |i: i64| {
                    let column = e.add(column, e.int(i));
                    let value =
                        |scope: &Scope<'_, 'c>, column| bind_point(scope, &dot.reduce, column).real(dot.left).value;
                    if pages.width.is_multiple_of(ROWS) {
                        return value(&scope, column);
                    }
                    let inside = e.compare(Cmp::Lt, column, e.int(pages.width as i64));
                    e.either(inside, || value(&rows.bind(rows.number(row.value).0), column), || e.f32(0.0))
                };
                to.store(e, row.value, column, [one(0), one(1)]);
            });
        }
    }

    /// States to shared memory, from where the finish reads them.
    fn keep(&self, held: &[Held<'c>], memory: &Memory<'c>) -> Vec<Kept<'c>> {
        let (e, place) = (self.entry.emitter, self.place);
        let row = |r: i64| e.add(place.row, e.add(place.group, e.int(8 * r)));
        let mut at = 0;
        let mut kept = Vec::new();
        for ((state, held), kind) in self.stream.states.iter().zip(held).zip(&self.plan.states) {
            kept.push(match (held, kind) {
                (Held::Scalar(values), _) => {
                    let ty = self.kept_type(state.body);
                    let array = memory.scalars[kept.len()].expect("emission: a state without axes has room");
                    let speaks =
                        e.and(e.compare(Cmp::Eq, place.pair, e.int(0)), e.compare(Cmp::Eq, place.share, e.int(0)));
                    e.when(speaks, || {
                        for (r, value) in values.iter().enumerate() {
                            let value = if ty == Ty::I8 { e.zext(*value, Ty::I8) } else { *value };
                            e.store(e.element(array, ty, row(r as i64)), value);
                        }
                    });
                    Kept::Scalar(array, ty)
                }
                (Held::Product(sums), Kind::Product { pages, .. }) => {
                    let array =
                        LeftRows::within(e.offset(memory.room, e.int(at as i64)), Precision::Split, pages.width);
                    at += left::bytes(Precision::Split, self.shape.rows(), pages.width);
                    let columns = self.shape.columns(pages.width);
                    let first = e.add(e.mul(place.share, e.int(columns as i64)), e.mul(place.pair, e.int(2)));
                    for (j, sum) in sums.iter().enumerate() {
                        let column = e.add(first, e.int(8 * j as i64));
                        let inside = e.compare(Cmp::Lt, column, e.int(pages.width.next_multiple_of(ROWS) as i64));
                        e.when(inside, || {
                            array.store(e, row(0), column, [sum[0], sum[1]]);
                            array.store(e, row(1), column, [sum[2], sum[3]]);
                        });
                    }
                    Kept::Product(array)
                }
                (Held::Product(_), Kind::Scalar) => panic!("emission: a state with axes is a product"),
            });
        }
        kept
    }
}

/// Columns of a product that a warp computes, in eights.
pub fn eights(shape: Shape, width: u64) -> u64 {
    shape.columns(width) / 8
}

const _: () = assert!(THREADS.is_multiple_of(WARP));
