//! Sums of a tile in shared memory, and the epilogue that reads them wherever its expressions moved to.

use super::Kernel;
use super::groups::Groups;
use super::stat::Stats;
use crate::kernel::{AxisRef, ResultRef, Segment};
use crate::llvm::{Cmp, Lane, Results, Scope, Ty, Val};
use crate::target::nvptx::stores::{store_all, width_of};
use crate::target::points::bind_point;

/// The sums of one tile: for each product and token a row of the group's output rows.
pub(super) struct Sums<'k, 'c> {
    pub segment: &'k Segment,
    pub groups: Groups,
    pub array: Val<'c>,
    pub stats: &'k Stats<'c>,
    /// The row axis, and the tile's first token on it.
    pub row: AxisRef,
    pub first_token: Val<'c>,
    /// The group's first output row.
    pub first: Val<'c>,
}

impl<'c> Sums<'_, 'c> {
    /// The number of the first sum of a token of the tile.
    pub fn token_row(&self, kernel: &Kernel<'_, 'c>, product: usize, token: Val<'c>) -> Val<'c> {
        let e = kernel.e;
        let row = e.add(token, e.like_int(token, (product as u64 * self.groups.tokens as u64) as i64));
        e.mul(row, e.like_int(token, self.groups.stride() as i64))
    }

    /// Stores what the segment makes of the sums of `count` tokens; the caller has put a barrier before.
    pub fn store(&self, kernel: &Kernel<'_, 'c>, count: Val<'c>) {
        let (entry, e) = (kernel.entry, kernel.e);
        let width = width_of(entry.spec, &self.segment.stores);
        let scope = kernel.scope.with_results(self).widened(width);
        // Neighbouring threads have neighbouring units of one token.
        let units = (self.groups.size / width as u64) as i64;
        let all = e.mul(count, e.int(units));
        entry.for_each(all, |i| {
            let i = Lane::uniform(e.trunc(i, Ty::I32));
            let (token, unit) = e.lane_div_rem(i, Lane::uniform(e.int32(units as i32)), 1);
            let within = e.mul(e.zext(unit.value, Ty::I64), e.int(width as i64));
            let number = e.add(self.first, within);
            let inside = e.compare(Cmp::Lt, number, e.int(self.groups.rows as i64));
            e.when(inside, || {
                let token = e.add(self.first_token, e.zext(token.value, Ty::I64));
                let at = scope.bind(self.row, Lane::uniform(token));
                store_all(&bind_point(&at, &self.segment.axes, number), &self.segment.stores);
            });
        });
    }
}

impl<'c> Results<'c> for Sums<'_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        let (e, lanes) = (scope.emitter(), scope.width());
        let token = e.sub(scope.axis(self.row).value, self.first_token);
        if let Some(stat) = self.stats.read(e, result, token) {
            return Lane::uniform(stat);
        }
        let product = self.segment.products.iter().position(|r| *r == result);
        let product = product.expect("emission: a result of another segment");
        let row = self.segment.axes.iter().fold(Lane::uniform(e.int(0)), |row, axis| {
            let length = scope.dim(scope.spec().dim(*axis).expect("emission: an output axis varies"));
            let index = moved.iter().find(|(a, _)| a == axis).map_or_else(|| scope.axis(*axis), |(_, i)| *i);
            e.lane_add(e.lane_mul(row, Lane::uniform(length), lanes), index, lanes)
        });
        let of_token = e.add(token, e.int(product as i64 * self.groups.tokens as i64));
        let of_token = e.mul(of_token, e.int(self.groups.stride() as i64));
        let at = e.lane_sub(row, Lane::uniform(self.first), lanes);
        e.load_elements(self.array, Ty::F32, e.lane_add(at, Lane::uniform(of_token), lanes), lanes)
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        panic!("emission: `{}` reads the old result {} outside a fold", scope.spec().name, result.0)
    }
}
