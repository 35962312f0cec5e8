//! From the states of a tile's rows to what is stored.

use super::left::LeftRows;
use super::rows::TileRows;
use crate::kernel::{AxisRef, ResultRef, Store, Stream};
use crate::llvm::{Cmp, Lane, Results, Scope, Ty, Val};
use crate::target::nvptx::abi::Entry;
use crate::target::nvptx::stores::{points, store_all, width_of};
use crate::target::points::bind_point;

/// A state's values in shared memory, row after row of the tile.
pub enum Kept<'c> {
    /// One a row.
    Scalar(Val<'c>, Ty),
    /// Those of a product.
    Product(LeftRows<'c>),
}

/// What a store reads: the states of one row.
struct States<'f, 'c> {
    stream: &'f Stream,
    kept: &'f [Kept<'c>],
    row: Val<'c>,
}

/// Performs stores over the tile's rows and these axes.
pub fn finish<'c>(
    entry: &Entry<'_, 'c>,
    stream: &Stream,
    rows: &TileRows<'_, 'c>,
    (count, kept): (u64, &[Kept<'c>]),
    (axes, stores): (&[AxisRef], &[Store]),
) {
    let (e, width) = (entry.emitter, width_of(entry.spec, stores));
    let units = points(entry.spec, axes).expect("emission: a finish over an unknown length") / width as u64;
    if stores.is_empty() {
        return;
    }
    entry.for_each(e.int((count * units) as i64), |n| {
        let (row, unit) = e.lane_div_rem(Lane::uniform(n), Lane::uniform(e.int(units as i64)), 1);
        let (number, exists) = rows.number(row.value);
        e.when(exists, || {
            let results = States { stream, kept, row: row.value };
            let at = rows.bind(number).widened(width);
            let at = at.with_results(&results);
            store_all(&bind_point(&at, axes, e.mul(unit.value, e.int(width as i64))), stores);
        });
    });
}

impl<'c> Results<'c> for States<'_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        let (e, state) = (scope.emitter(), result.0 as usize - self.stream.dots.len());
        match &self.kept[state] {
            Kept::Scalar(array, ty) => {
                let value = e.load(*ty, 1, e.element(*array, *ty, self.row));
                Lane::uniform(if *ty == Ty::I8 { e.compare(Cmp::Ne, value, e.like_int(value, 0)) } else { value })
            }
            Kept::Product(array) => {
                let w = scope.width();
                let column = self.stream.states[state].axes.iter().fold(Lane::uniform(e.int(0)), |at, axis| {
                    let length = scope.dim(scope.spec().dim(*axis).expect("emission: a state over keys"));
                    let there = moved.iter().find(|(a, _)| a == axis).map_or_else(|| scope.axis(*axis), |(_, i)| *i);
                    e.lane_add(e.lane_mul(at, Lane::uniform(length), w), there, w)
                });
                let row = array.place(e, self.row, e.int(0));
                e.load_elements(row, Ty::F32, column, w)
            }
        }
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        panic!("emission: `{}` finishes with the old result {}", scope.spec().name, result.0)
    }
}
