//! The contract family: packed weights times the step's activations, and epilogues.
//!
//! A work item is a group of a segment's output rows for every token of the step. Inside, tiles of tokens share each
//! load of a weight; the sums of a tile go to scratch memory, from which the epilogue, one token at a time, reads them
//! along the innermost output axis and at whatever row its expressions moved to. The order of each sum is a function of
//! the reduced index alone: a tile of one token adds in the order of a tile of four.

pub(in crate::target) mod group;
mod integer;
mod plain;
mod stat;

use super::abi::{Entry, Work};
use super::dot::Dot;
use super::nest::{roots, store_all, vectors, width_of};
use super::tuning::Tile;
use crate::kernel::{AxisRef, Contract, Expr, OperandRef, ResultRef, Segment};
use crate::llvm::{Emitter, Lane, Results, Scope, Ty, Val};
use group::Groups;
use llmc_artifact::panel::PanelLayout;
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{Dim, Format};

/// What the processor offers to products.
#[derive(Clone, Copy, Debug)]
pub struct Multiplier {
    /// Products of bytes.
    pub dot: &'static Dot,
    /// Registers' worth of tokens and chains.
    pub tile: Tile,
}

/// A work item is a group of rows of one segment.
pub fn emit(entry: &Entry, contract: &Contract, multiplier: Multiplier) -> Work {
    let e = entry.emitter;
    let (mut items, mut scratch) = (0, 0);
    for segment in &contract.segments {
        let kernel = Kernel::new(entry, contract, segment, multiplier);
        let (first, last) = (e.int(items as i64), e.int((items + kernel.groups.count) as i64));
        e.repeat(e.max(entry.begin, first), e.min(entry.end, last), 1, |item| {
            kernel.group(e.sub(item, first));
        });
        items += kernel.groups.count;
        scratch = scratch.max(kernel.scratch_bytes());
    }
    Work { items: vec![Dim::Const(items)], scratch }
}

/// Rows of a panel that are computed at once.
#[derive(Clone, Copy)]
struct Part<'c> {
    /// The first byte of the panel, or of its blocks at one place along the reduced axis.
    start: Val<'c>,
    /// The first row.
    first: Val<'c>,
    /// Number of rows.
    lanes: u32,
}

impl<'c> Part<'c> {
    /// The address of the first row's bytes in a group of `width` bytes a row that begins at byte `at` of a block.
    fn group(&self, e: &Emitter<'c>, at: usize, width: u64) -> Val<'c> {
        let begin = e.offset(self.start, e.int((at * PANEL_LANES as usize) as i64));
        e.offset(begin, e.mul(self.first, e.int(width as i64)))
    }

    /// The part moved by bytes along the reduced axis.
    fn moved(&self, e: &Emitter<'c>, bytes: Val<'c>) -> Part<'c> {
        Part { start: e.offset(self.start, bytes), ..*self }
    }
}

/// The kernel of one segment.
struct Kernel<'a, 'c> {
    entry: &'a Entry<'a, 'c>,
    e: &'a Emitter<'c>,
    contract: &'a Contract,
    segment: &'a Segment,
    groups: Groups,
    multiplier: Multiplier,
    scope: Scope<'a, 'c>,
    /// Columns of the weights.
    reduce: u64,
}

impl<'a, 'c> Kernel<'a, 'c> {
    fn new(entry: &'a Entry<'a, 'c>, contract: &'a Contract, segment: &'a Segment, multiplier: Multiplier) -> Self {
        let scope = entry.scope();
        let groups = Groups::new(entry.spec, segment);
        let length = |a: &AxisRef| entry.spec.dim(*a).and_then(Dim::as_const).expect("emission: a reduced axis varies");
        let reduce = contract.reduce.iter().map(length).product();
        Kernel { entry, e: entry.emitter, contract, segment, groups, multiplier, scope, reduce }
    }

    fn input_format(&self) -> Format {
        self.entry.spec.operands[self.contract.input.0 as usize].format
    }

    /// Bytes of a row of the activation.
    fn input_stride(&self) -> u64 {
        self.input_format().bytes(self.reduce).expect("emission: an activation of whole blocks")
    }

    /// Where the sums of a token of a tile and of a product begin in scratch memory, in `f32`s.
    fn sums_at(&self, token: u32, product: usize) -> u64 {
        (token as u64 * self.segment.products.len() as u64 + product as u64) * self.groups.padded()
    }

    fn scratch_bytes(&self) -> u64 {
        let sums = 4 * self.sums_at(self.multiplier.tile.tokens, 0);
        sums.next_multiple_of(64) + 4 * self.multiplier.tile.tokens as u64 * self.reduce.div_ceil(32)
    }

    /// One group of rows for all tokens of the step.
    fn group(&self, group: Val<'c>) {
        let e = self.e;
        let tokens = self.scope.dim(self.entry.spec.dim(self.contract.row).expect("emission: rows of keys"));
        let tile = self.multiplier.tile.tokens as i64;
        let whole = e.sub(tokens, e.and(tokens, e.int(tile - 1)));
        if tile > 1 {
            e.repeat(e.int(0), whole, tile, |first| self.tile(group, first, tile as u32));
        }
        e.repeat(if tile > 1 { whole } else { e.int(0) }, tokens, 1, |first| self.tile(group, first, 1));
    }

    /// One group of rows for a tile of tokens: sums, then the epilogue.
    fn tile(&self, group: Val<'c>, first: Val<'c>, tokens: u32) {
        let e = self.e;
        let input =
            e.offset(self.entry.args.operand(self.contract.input), e.mul(first, e.int(self.input_stride() as i64)));
        let rows: Vec<Val> =
            (0..tokens).map(|t| e.offset(input, e.int((t as u64 * self.input_stride()) as i64))).collect();
        let sums = self.quant_sums(&rows);
        let panels = self.groups.padded() / PANEL_LANES as u64;
        let begin = e.mul(group, e.int(panels as i64));
        let end = e.min(e.add(begin, e.int(panels as i64)), e.int(self.groups.panels() as i64));
        e.repeat(begin, end, 1, |panel| {
            let row = e.shl(e.sub(panel, begin), PANEL_LANES.trailing_zeros());
            for product in 0..self.segment.products.len() {
                let shared = tokens > 1 && self.weight(product).1.is_quantised();
                let lanes = if shared { self.multiplier.tile.quantised_lanes } else { PANEL_LANES };
                let part = |first| {
                    let part = self.part(product, panel, first, lanes);
                    let totals = self.product(product, part, &rows, sums);
                    for (token, total) in totals.into_iter().enumerate() {
                        let at = e.add(e.add(row, first), e.int(self.sums_at(token as u32, product) as i64));
                        e.store(e.element(self.entry.scratch, Ty::F32, at), total);
                    }
                };
                match lanes {
                    PANEL_LANES => part(e.int(0)),
                    _ => e.repeat(e.int(0), e.int(PANEL_LANES as i64), lanes as i64, part),
                }
            }
        });
        e.repeat(e.int(0), e.int(tokens as i64), 1, |t| self.epilogue(group, e.add(first, t), t));
    }

    /// A product's weight and its format.
    fn weight(&self, product: usize) -> (OperandRef, Format) {
        let number = self.segment.products[product].0 as usize - self.contract.stats.len();
        let weight = self.contract.products[number].weight;
        (weight, self.entry.spec.operands[weight.0 as usize].format)
    }

    /// Rows `first..first + lanes` of a panel of a product's weight.
    fn part(&self, product: usize, panel: Val<'c>, first: Val<'c>, lanes: u32) -> Part<'c> {
        let (e, (weight, format)) = (self.e, self.weight(product));
        let layout = PanelLayout::new(format, self.groups.rows, self.reduce);
        let bytes = layout.expect("emission: a weight that the verifier refused").panel_bytes();
        let start = e.offset(self.entry.args.operand(weight), e.mul(panel, e.int(bytes as i64)));
        Part { start, first, lanes }
    }

    /// The sums of some rows of a product with each token's activation.
    fn product(&self, product: usize, part: Part<'c>, rows: &[Val<'c>], sums: Option<Val<'c>>) -> Vec<Val<'c>> {
        let (_, format) = self.weight(product);
        match (format.is_quantised(), self.input_format().is_quantised()) {
            (true, false) => self.decoded_product(format, part, rows),
            (true, true) => self.integer_product(format, part, rows, sums),
            (false, _) => self.plain_product(format, part, rows),
        }
    }

    /// Statistics and stores of one token, from the sums in scratch memory.
    fn epilogue(&self, group: Val<'c>, row: Val<'c>, token: Val<'c>) {
        let e = self.e;
        let at = self.scope.bind(self.contract.row, Lane::uniform(row));
        let stride = self.sums_at(1, 0) as i64;
        let sums = e.element(self.entry.scratch, Ty::F32, e.mul(token, e.int(stride)));
        let stats = self.used_stats().map(|r| (r, stat::emit(&at, self.contract, r))).collect();
        let first = e.mul(group, e.int(self.groups.padded() as i64));
        let results = Sums { kernel: self, sums, first, stats };
        let at = at.with_results(&results);
        self.groups.for_each_row(&at, group, &self.segment.axes, |at, axis, range| match axis {
            None => store_all(at, &self.segment.stores),
            Some(axis) => {
                at.hoist(&roots(&self.segment.stores), &[axis]);
                let width = width_of(self.entry.spec, &self.segment.stores);
                vectors(at, axis, range, width, |at| store_all(at, &self.segment.stores));
            }
        });
    }

    /// Statistics that this segment's stores read.
    fn used_stats(&self) -> impl Iterator<Item = ResultRef> {
        let exprs = &self.entry.spec.exprs;
        let used = exprs.reachable(&roots(&self.segment.stores));
        (0..self.contract.stats.len() as u16).map(ResultRef).filter(move |stat| {
            used.iter().any(|e| matches!(&exprs[*e], Expr::Result { result, .. } if result == stat))
        })
    }
}

/// The results of one token in one group of rows.
struct Sums<'k, 'a, 'c> {
    kernel: &'k Kernel<'a, 'c>,
    /// The token's sums.
    sums: Val<'c>,
    /// The group's first row.
    first: Val<'c>,
    stats: Vec<(ResultRef, Val<'c>)>,
}

impl<'c> Results<'c> for Sums<'_, '_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        if let Some((_, stat)) = self.stats.iter().find(|(r, _)| *r == result) {
            return Lane::uniform(*stat);
        }
        let (e, lanes) = (scope.emitter(), scope.width());
        let segment = self.kernel.segment;
        let product = segment.products.iter().position(|r| *r == result);
        let product = product.expect("emission: a result of another segment");
        let mut row = Lane::uniform(e.int(0));
        for axis in &segment.axes {
            let length = scope.spec().dim(*axis).and_then(Dim::as_const).expect("emission: an output axis varies");
            let index = moved.iter().find(|(a, _)| a == axis).map_or_else(|| scope.axis(*axis), |(_, i)| *i);
            row = e.lane_add(e.lane_mul(row, Lane::uniform(e.int(length as i64)), lanes), index, lanes);
        }
        let begin = Lane::uniform(e.sub(self.first, e.int(self.kernel.sums_at(0, product) as i64)));
        e.load_elements(self.sums, Ty::F32, e.lane_sub(row, begin, lanes), lanes)
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        panic!("emission: `{}` reads the old result {} outside a fold", scope.spec().name, result.0)
    }
}

#[cfg(test)]
pub(in crate::target) mod tests;
