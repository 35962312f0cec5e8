//! The rows of a tile: which points of the parallel axes they are, and which keys they look at.
//!
//! Rows are numbered token by token, the packed axes within each. Those of one tile may belong to several sequences, whose pages are
//! not the same: a tile is folded run by run, a run for each sequence in order of its number, and a row takes part in one.
//! Every warp surveys all rows of the tile, so that all of them decide alike without asking each other.

use super::plan::{Plan, Shape};
use super::range;
use crate::kernel::{AxisRef, Visit};
use crate::llvm::{Cmp, Lane, Precision, Scope, Ty, Val, WARP};
use crate::target::nvptx::abi::Entry;
use crate::target::points::bind_point;

/// The rows of one tile.
pub struct TileRows<'e, 'c> {
    entry: &'e Entry<'e, 'c>,
    /// The row axis, then the packed ones.
    axes: Vec<AxisRef>,
    /// At the work item's point of the other axes.
    fixed: Scope<'e, 'c>,
    /// The numbers of the first row and of the one after the last, `i32`s as all numbers of rows are.
    first: Val<'c>,
    end: Val<'c>,
}

/// A row at its point.
pub struct Row<'e, 'c> {
    scope: Scope<'e, 'c>,
    number: Val<'c>,
    exists: Val<'c>,
    /// An `i32`.
    sequence: Val<'c>,
}

/// A row's part in a run: the keys that it looks at, `i32`s; none where it belongs to another sequence.
#[derive(Clone, Copy)]
pub struct Sight<'c> {
    inside: Val<'c>,
    /// The first key.
    pub begin: Val<'c>,
    /// The one after the last.
    pub end: Val<'c>,
}

/// The rows of a tile that belong to one sequence.
pub struct SequenceRun<'r, 'e, 'c> {
    rows: &'r TileRows<'e, 'c>,
    shape: Shape,
    key: AxisRef,
    /// The number of one of its rows.
    pub some: Val<'c>,
    /// Whose rows: an `i32`.
    pub sequence: Val<'c>,
    /// The first key that any of them looks at, an `i64`.
    pub begin: Val<'c>,
    /// The key after the last, an `i64`.
    pub end: Val<'c>,
}

impl<'e, 'c> TileRows<'e, 'c> {
    /// Rows `first..` of a tile, as far as `end`.
    pub fn new(
        entry: &'e Entry<'e, 'c>,
        plan: &Plan,
        fixed: Scope<'e, 'c>,
        first: Val<'c>,
        end: Val<'c>,
    ) -> TileRows<'e, 'c> {
        let axes = [plan.row].into_iter().chain(plan.packed.iter().copied()).collect();
        let [first, end] = [first, end].map(|v| entry.emitter.trunc(v, Ty::I32));
        TileRows { entry, axes, fixed, first, end }
    }

    /// The scope at the row with this number.
    pub fn bind(&self, number: Val<'c>) -> Scope<'e, 'c> {
        bind_point(&self.fixed, &self.axes, number)
    }

    /// The number of row `at` of the tile, and whether there is one; a row past the end stands where the last one does.
    pub fn number(&self, at: Val<'c>) -> (Val<'c>, Val<'c>) {
        let e = self.entry.emitter;
        let number = e.add(self.first, e.trunc(at, Ty::I32));
        let held = e.min(number, e.sub(self.end, e.int32(1)));
        (e.zext(held, Ty::I64), e.compare(Cmp::Lt, number, self.end))
    }

    /// Row `at` of the tile.
    pub fn row(&self, at: Val<'c>) -> Row<'e, 'c> {
        let e = self.entry.emitter;
        let (number, exists) = self.number(at);
        let scope = self.bind(number);
        let sequence = e.trunc(scope.sequence_of(self.axes[0]).value, Ty::I32);
        Row { scope, number, exists, sequence }
    }

    /// The least of what all of the tile's rows have, `i32`s, the same for the whole warp. A lane looks after every 32nd row, one after
    /// another: few registers are enough.
    fn least<const N: usize>(&self, shape: Shape, of: impl FnOnce(&Row<'e, 'c>) -> [Val<'c>; N]) -> [Val<'c>; N] {
        let e = self.entry.emitter;
        let lane = e.zext(e.lane_index(), Ty::I64);
        let lane = e.and(lane, e.int(shape.rows().min(WARP as u64) as i64 - 1));
        let mine = match shape.rows() <= WARP as u64 {
            true => of(&self.row(lane)).to_vec(),
            false => e.for_each(lane, e.int(shape.rows() as i64), WARP as i64, &[e.int32(i32::MAX); N], |at, now| {
                of(&self.row(at)).into_iter().zip(now).map(|(a, b)| e.min(a, *b)).collect()
            }),
        };
        std::array::from_fn(|i| e.fold_warp(mine[i], WARP, |a, b| e.min(a, b)))
    }

    /// The next sequence of the tile's rows, by number; the largest `i32` after the last.
    pub fn next_sequence(&self, shape: Shape, after: Val<'c>) -> Val<'c> {
        let e = self.entry.emitter;
        let [next] = self.least(shape, |row| {
            let later = e.and(row.exists, e.compare(Cmp::Gt, row.sequence, after));
            [e.select(later, row.sequence, e.int32(i32::MAX))]
        });
        next
    }

    /// The rows of a sequence as others found them: its number, that of one of its rows, and the key after the last; `i32`s. The first
    /// key is not known.
    pub fn told<'r>(
        &'r self,
        plan: &Plan,
        shape: Shape,
        (sequence, some, end): (Val<'c>, Val<'c>, Val<'c>),
    ) -> SequenceRun<'r, 'e, 'c> {
        let e = self.entry.emitter;
        let [some, end] = [some, end].map(|v| e.zext(v, Ty::I64));
        SequenceRun { rows: self, shape, key: plan.key, some, sequence, begin: e.int(0), end }
    }

    /// The rows of a sequence.
    pub fn run<'r>(&'r self, plan: &Plan, shape: Shape, sequence: Val<'c>) -> SequenceRun<'r, 'e, 'c> {
        let (e, none) = (self.entry.emitter, self.entry.emitter.int32(i32::MAX));
        let key = plan.key;
        let [begin, end, some] = self.least(shape, |row| {
            let sight = row.sight(self.entry, key, sequence);
            let begin = e.select(sight.inside, sight.begin, none);
            let some = e.select(sight.inside, e.trunc(row.number, Ty::I32), none);
            [begin, e.sub(e.int32(0), sight.end), some]
        });
        let [begin, end, some] = [begin, e.sub(e.int32(0), end), some].map(|v| e.zext(v, Ty::I64));
        SequenceRun { rows: self, shape, key, some, sequence, begin, end }
    }
}

impl<'e, 'c> Row<'e, 'c> {
    /// Which keys of a sequence the row looks at.
    fn sight(&self, entry: &Entry<'_, 'c>, key: AxisRef, sequence: Val<'c>) -> Sight<'c> {
        let e = entry.emitter;
        let inside = e.and(self.exists, e.compare(Cmp::Eq, self.sequence, sequence));
        let (begin, end) = range(entry, &self.scope, key);
        let only = |v: Val<'c>| e.select(inside, e.trunc(v, Ty::I32), e.int32(0));
        Sight { inside, begin: only(begin), end: only(end) }
    }
}

impl<'e, 'c> SequenceRun<'_, 'e, 'c> {
    /// A row's scope in the run and the keys that it looks at; a row of another sequence stands where one of this does.
    pub fn row(&self, row: &Row<'e, 'c>, key: AxisRef) -> (Scope<'e, 'c>, Sight<'c>) {
        let e = self.rows.entry.emitter;
        let sight = row.sight(self.rows.entry, key, self.sequence);
        (self.rows.bind(e.select(sight.inside, row.number, self.some)), sight)
    }

    /// Some row of the run.
    pub fn some(&self) -> Scope<'e, 'c> {
        self.rows.bind(self.some)
    }

    /// The first block of keys from `base` on that some row visits; not below the run's end where none does.
    pub fn next_block(&self, visit: Option<Visit>, keys: u64, base: Val<'c>) -> Val<'c> {
        let Some(visit) = visit else { return base };
        let e = self.rows.entry.emitter;
        let empty = |at: &[Val<'c>]| e.and(e.compare(Cmp::Lt, at[0], self.end), e.not(self.visits(visit, keys, at[0])));
        e.while_each(&[base], empty, |at| vec![e.add(at[0], e.int(keys as i64))])[0]
    }

    fn visits(&self, visit: Visit, keys: u64, base: Val<'c>) -> Val<'c> {
        let e = self.rows.entry.emitter;
        let after = e.min(e.add(base, e.int(keys as i64)), self.end);
        // The least of -1 and 0.
        let [found] = self.rows.least(self.shape, |row| {
            let sight = row.sight(self.rows.entry, self.key, self.sequence);
            let begin = e.select(sight.inside, e.sext(sight.begin, Ty::I64), base);
            let end = e.select(sight.inside, e.sext(sight.end, Ty::I64), after);
            let (first, last) = (e.max(base, begin), e.sub(e.min(after, end), e.int(1)));
            let at = row.scope.bind(visit.first, Lane::uniform(first)).bind(visit.last, Lane::uniform(last));
            let any = e.and(sight.inside, e.compare(Cmp::Le, first, last));
            let wanted = e.and(any, at.value(visit.condition, Precision::Single).value);
            [e.select(wanted, e.int32(-1), e.int32(0))]
        });
        e.compare(Cmp::Ne, found, e.int32(0))
    }
}
