//! The contract family: a block of threads for a row of the activation and a group of output rows.
//!
//! Neighbouring threads take neighbouring rows of a panel, so their loads of a weight fall side by side. Sums go to
//! shared memory, from which the epilogue reads them wherever its expressions moved to.

use super::abi::Entry;
use super::stores::{points, store_points};
use super::tuning::{GROUP_ROWS, THREADS};
use crate::kernel::{AxisRef, Contract, Expr, ResultRef, Segment};
use crate::llvm::{Cmp, Lane, Results, Scope, Ty, Val};
use crate::target::cpu::contract::group::moved_range;
use crate::target::cpu::nest::roots;
use crate::target::points::bind_point;
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{Dim, ReduceOp};

/// Output rows of a group: whole panels, whole ranges of every axis read elsewhere, whole blocks of what is stored.
fn group_rows(entry: &Entry, segment: &Segment) -> u64 {
    let length = |a: &AxisRef| entry.spec.dim(*a).and_then(Dim::as_const).expect("emission: an output axis varies");
    let lengths: Vec<u64> = segment.axes.iter().map(length).collect();
    let blocks = segment.stores.iter().map(|s| entry.spec.operands[s.operand.0 as usize].format.block() as u64);
    let unit = blocks.chain([moved_range(entry.spec, segment, &lengths)]).fold(PANEL_LANES as u64, lcm);
    unit * GROUP_ROWS.div_ceil(unit)
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// A block is a row and a group of rows of one segment.
pub fn emit(entry: &Entry, contract: &Contract) -> Vec<Dim> {
    let (e, scope) = (entry.emitter, entry.scope());
    let rows = |s: &Segment| points(entry.spec, &s.axes).expect("emission: an output axis varies").max(1);
    let counts: Vec<u64> = contract.segments.iter().map(|s| rows(s).div_ceil(group_rows(entry, s))).collect();
    let row_dim = entry.spec.dim(contract.row).expect("emission: rows of keys");
    let items = vec![row_dim, Dim::Const(counts.iter().sum())];
    let index = entry.item_index(&scope, &items);
    let at = scope.bind(contract.row, index[0]);
    let mut first = 0;
    for (segment, count) in contract.segments.iter().zip(counts) {
        let group = e.sub(index[1].value, e.int(first as i64));
        let inside = e.and(e.compare(Cmp::Ge, group, e.int(0)), e.compare(Cmp::Lt, group, e.int(count as i64)));
        e.when(inside, || self::segment(entry, contract, segment, &at, group, rows(segment)));
        first += count;
    }
    items
}

/// One group of a segment's rows.
fn segment<'c>(
    entry: &Entry<'_, 'c>,
    contract: &Contract,
    segment: &Segment,
    at: &Scope<'_, 'c>,
    group: Val<'c>,
    rows: u64,
) {
    let (e, size) = (entry.emitter, group_rows(entry, segment));
    let used = entry.spec.exprs.reachable(&roots(&segment.stores));
    let is_read = |r: ResultRef| {
        used.iter().any(|x| matches!(&entry.spec.exprs[*x], Expr::Result { result, .. } if *result == r))
    };
    let stats: Vec<(ResultRef, Val)> = (0..contract.stats.len() as u16)
        .map(ResultRef)
        .filter(|r| is_read(*r))
        .map(|r| (r, stat(entry, contract, r, at)))
        .collect();
    let first = e.mul(group, e.int(size as i64));
    let end = e.min(e.add(first, e.int(size as i64)), e.int(rows as i64));
    let sums: Vec<Val> = segment.products.iter().map(|_| entry.shared(Ty::F32, size)).collect();
    entry.for_each(e.sub(end, first), |i| {
        let row = e.add(first, i);
        for (product, array) in segment.products.iter().zip(&sums) {
            e.store(e.element(*array, Ty::F32, i), self::product(entry, contract, *product, at, row));
        }
    });
    e.barrier();
    let results = Sums { segment, sums: &sums, first, stats };
    store_points(entry, &at.with_results(&results), &segment.axes, (first, end), &segment.stores);
    e.barrier();
}

/// One row of a product: `sum[reduce](weight * input)` in the order of the reduced index.
fn product<'c>(
    entry: &Entry<'_, 'c>,
    contract: &Contract,
    result: ResultRef,
    at: &Scope<'_, 'c>,
    row: Val<'c>,
) -> Val<'c> {
    let e = entry.emitter;
    let weight = contract.products[result.0 as usize - contract.stats.len()].weight;
    let format = entry.spec.operands[weight.0 as usize].format;
    let input_format = entry.spec.operands[contract.input.0 as usize].format;
    let reduce = points(entry.spec, &contract.reduce).expect("emission: a reduced axis varies");
    let (weight, input) = (entry.args.operand(weight), entry.args.operand(contract.input));
    let token = at.axis(contract.row).value;
    // The longer block of the two is a whole number of the shorter's.
    let step = format.block().max(input_format.block()) as u64;
    let part = |block: usize, outer: Val<'c>, i: Val<'c>, first: Val<'c>| {
        if block == 1 {
            (e.add(first, e.add(e.mul(outer, e.int(step as i64)), i)), e.int(0))
        } else {
            (e.add(first, outer), i)
        }
    };
    let row_start = e.mul(token, e.int((reduce / input_format.block() as u64) as i64));
    let sum = e.for_each(e.int(0), e.int((reduce / step) as i64), 1, &[e.f32(0.0)], |outer, sum| {
        e.for_each(e.int(0), e.int(step as i64), 1, sum, |i, sum| {
            let (block, within) = part(format.block(), outer, i, e.int(0));
            let w = e.panel_element(format, (weight, reduce), row, block, within);
            let (block, within) = part(input_format.block(), outer, i, row_start);
            let x = e.dense_element(input_format, input, block, within);
            vec![e.fma(w, x, sum[0])]
        })
    });
    sum[0]
}

/// A statistic of a row: every thread folds its share, then the threads are folded.
fn stat<'c>(entry: &Entry<'_, 'c>, contract: &Contract, r: ResultRef, at: &Scope<'_, 'c>) -> Val<'c> {
    let (e, fold) = (entry.emitter, &contract.stats[r.0 as usize]);
    let reduce = points(entry.spec, &contract.reduce).expect("emission: a reduced axis varies");
    let combine = |a: Val<'c>, b: Val<'c>| match fold.op {
        ReduceOp::Sum => e.add(a, b),
        ReduceOp::Max => e.max(a, b),
        ReduceOp::Min => e.min(a, b),
        ReduceOp::Any | ReduceOp::All => panic!("emission: a statistic of truth values"),
    };
    let identity = e.f32(fold.op.identity(llmc_artifact::Type::Real).real());
    let array = entry.shared(Ty::F32, THREADS as u64);
    let mine = e.for_each(entry.thread, e.int(reduce as i64), THREADS as i64, &[identity], |i, found| {
        vec![combine(found[0], bind_point(at, &contract.reduce, i).real(fold.body).value)]
    });
    entry.fold_threads(array, mine[0], combine)
}

/// The results of one row in one group.
struct Sums<'k, 'c> {
    segment: &'k Segment,
    /// Each product's sums, from the group's first row on.
    sums: &'k [Val<'c>],
    first: Val<'c>,
    stats: Vec<(ResultRef, Val<'c>)>,
}

impl<'c> Results<'c> for Sums<'_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        if let Some((_, stat)) = self.stats.iter().find(|(r, _)| *r == result) {
            return Lane::uniform(*stat);
        }
        let (e, lanes) = (scope.emitter(), scope.width());
        let product = self.segment.products.iter().position(|r| *r == result);
        let array = self.sums[product.expect("emission: a result of another segment")];
        let row = self.segment.axes.iter().fold(Lane::uniform(e.int(0)), |row, axis| {
            let length = scope.dim(scope.spec().dim(*axis).expect("emission: an output axis varies"));
            let index = moved.iter().find(|(a, _)| a == axis).map_or_else(|| scope.axis(*axis), |(_, i)| *i);
            e.lane_add(e.lane_mul(row, Lane::uniform(length), lanes), index, lanes)
        });
        e.load_elements(array, Ty::F32, e.lane_sub(row, Lane::uniform(self.first), lanes), lanes)
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        panic!("emission: `{}` reads the old result {} outside a fold", scope.spec().name, result.0)
    }
}
