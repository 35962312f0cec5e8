//! The contract family: packed weights times the step's activations, and epilogues.
//!
//! A block takes a group of a segment's output rows and walks over tiles of tokens. The role picks the form: for prompts
//! [`many`] keeps tiles of weights and tokens in shared memory and multiplies with matrix instructions; for generated tokens
//! [`few`] reads each weight once, straight into registers, its warps sharing the reduced axis. In both, the order of each
//! sum is a function of the reduced index alone, and no token sees another. The grid does not depend on the number of
//! tokens, so that a launch can be replayed with another one.

mod few;
mod groups;
mod many;
mod quants;
mod stat;
mod sums;
#[cfg(test)]
mod tests;

use super::abi::Entry;
use super::tuning::{FEW_ROWS, FEW_TOKENS, MANY_ROWS, MANY_TOKENS, RESIDENT, SUMS_BYTES, WALKERS};
use crate::cost::Role;
use crate::kernel::{AxisRef, Contract, Expr, OperandRef, ResultRef, Segment};
use crate::llvm::{Cmp, Emitter, Scope, Ty, Val};
use crate::target::cpu::nest::roots;
use groups::{Aim, Groups};
use llmc_artifact::{DType, Dim, Format};
use stat::Stats;
use sums::Sums;

impl Aim {
    fn of(role: Role) -> Aim {
        match role {
            Role::Prefill => Aim { rows: MANY_ROWS, tokens: MANY_TOKENS, bytes: SUMS_BYTES },
            Role::Decode => Aim { rows: FEW_ROWS, tokens: FEW_TOKENS, bytes: SUMS_BYTES },
        }
    }
}

/// A block is a group of rows of one segment, and a walker over tiles of tokens.
pub fn emit(entry: &Entry, contract: &Contract) -> Vec<Dim> {
    let (e, role) = (entry.emitter, entry.spec.role);
    let cut = |s: &Segment| Groups::new(entry.spec, s, Aim::of(role));
    let groups: Vec<Groups> = contract.segments.iter().map(cut).collect();
    let walkers = match role {
        Role::Prefill => {
            e.resident_blocks(RESIDENT);
            WALKERS
        }
        Role::Decode => 1,
    };
    let items = vec![Dim::Const(groups.iter().map(|g| g.count).sum()), Dim::Const(walkers)];
    let index = entry.item_index(&entry.scope(), &items);
    let mut first = 0;
    for (segment, groups) in contract.segments.iter().zip(groups) {
        let group = e.sub(index[0].value, e.int(first as i64));
        let inside = e.compare(Cmp::Lt, group, e.int(groups.count as i64));
        let inside = e.and(inside, e.compare(Cmp::Ge, group, e.int(0)));
        entry.alone(|| {
            e.when(inside, || Kernel::new(entry, contract, segment, groups).walk(group, index[1].value, walkers))
        });
        first += groups.count;
    }
    items
}

/// The kernel of one segment.
struct Kernel<'a, 'c> {
    entry: &'a Entry<'a, 'c>,
    e: &'a Emitter<'c>,
    contract: &'a Contract,
    segment: &'a Segment,
    groups: Groups,
    scope: Scope<'a, 'c>,
    /// Columns of the weights.
    reduce: u64,
}

/// Tokens that are multiplied at once.
#[derive(Clone, Copy)]
struct Tile<'c> {
    /// The first one.
    first: Val<'c>,
    /// Tokens from there on.
    rest: Val<'c>,
    /// Tokens that the tile has room for.
    room: u32,
}

impl<'a, 'c> Kernel<'a, 'c> {
    fn new(entry: &'a Entry<'a, 'c>, contract: &'a Contract, segment: &'a Segment, groups: Groups) -> Self {
        let scope = entry.scope();
        let length = |a: &AxisRef| entry.spec.dim(*a).and_then(Dim::as_const).expect("emission: a reduced axis varies");
        let reduce = contract.reduce.iter().map(length).product();
        Kernel { entry, e: entry.emitter, contract, segment, groups, scope, reduce }
    }

    /// All tiles of a walker.
    fn walk(&self, group: Val<'c>, walker: Val<'c>, walkers: u64) {
        let (e, room) = (self.e, self.groups.tokens);
        let tokens = self.scope.dim(self.entry.spec.dim(self.contract.row).expect("emission: rows of keys"));
        let begin = e.mul(walker, e.int(room as i64));
        let sums = self.segment.products.len() as u64 * room as u64 * self.groups.stride();
        let sums = self.entry.shared(Ty::F32, sums.max(1));
        let stats = Stats::new(self.entry, self.stats(), room);
        e.repeat(begin, tokens, room as i64 * walkers as i64, |first| {
            let tile = Tile { first, rest: e.sub(tokens, first), room };
            self.tile(group, tile, sums, &stats);
        });
    }

    /// A group of rows for a tile of tokens: statistics, sums, then the epilogue.
    fn tile(&self, group: Val<'c>, tile: Tile<'c>, array: Val<'c>, stats: &Stats<'c>) {
        let e = self.e;
        let count = e.min(tile.rest, e.int(tile.room as i64));
        let first = e.mul(group, e.int(self.groups.size as i64));
        let (segment, groups, row, first_token) = (self.segment, self.groups, self.contract.row, tile.first);
        let sums = Sums { segment, groups, array, stats, row, first_token, first };
        stats.compute(self, tile.first, count);
        match self.entry.spec.role {
            Role::Prefill => many::products(self, group, tile, &sums),
            Role::Decode => self.few(group, tile, &sums),
        }
        e.barrier();
        sums.store(self, count);
        e.barrier();
    }

    /// A token that is generated alone has code of its own, which adds in the same order.
    fn few(&self, group: Val<'c>, tile: Tile<'c>, sums: &Sums<'_, 'c>) {
        let (entry, e) = (self.entry, self.e);
        if tile.room == 1 {
            return few::products(self, group, tile, sums);
        }
        let one = e.compare(Cmp::Eq, tile.rest, e.int(1));
        entry.alone(|| e.when(one, || few::products(self, group, Tile { room: 1, ..tile }, sums)));
        entry.alone(|| e.when(e.not(one), || few::products(self, group, tile, sums)));
    }

    /// The statistics that the segment's stores read.
    fn stats(&self) -> Vec<ResultRef> {
        let used = self.entry.spec.exprs.reachable(&roots(&self.segment.stores));
        let is_read = |r: &ResultRef| {
            used.iter().any(|x| matches!(&self.entry.spec.exprs[*x], Expr::Result { result, .. } if result == r))
        };
        (0..self.contract.stats.len() as u16).map(ResultRef).filter(is_read).collect()
    }

    /// A product's weight and how it is stored.
    fn weight(&self, product: usize) -> (OperandRef, Format) {
        let result = self.segment.products[product];
        let weight = self.contract.products[result.0 as usize - self.contract.stats.len()].weight;
        (weight, self.entry.spec.operands[weight.0 as usize].format)
    }

    fn input_format(&self) -> Format {
        self.entry.spec.operands[self.contract.input.0 as usize].format
    }

    /// Type of a plain activation's elements.
    fn input_type(&self) -> DType {
        self.input_format().plain().expect("emission: a plain product with blocks")
    }

    /// Elements `k .. k + 4` of a token's plain activation, as f32; a row is whole chunks of four.
    fn input_four(&self, row: Val<'c>, k: Val<'c>) -> [Val<'c>; 4] {
        let (e, dtype) = (self.e, self.input_type());
        let ty = Emitter::stored_type(dtype);
        let four = e.load_aligned(ty, 4, e.element(row, ty, k), 4 * dtype.bytes() as u32);
        let four = e.widen_stored(dtype, four);
        [0, 1, 2, 3].map(|i| e.extract(four, i))
    }

    /// Element `k` of a token's plain activation, as f32.
    fn input_one(&self, row: Val<'c>, k: Val<'c>) -> Val<'c> {
        let (e, dtype) = (self.e, self.input_type());
        let ty = Emitter::stored_type(dtype);
        e.widen_stored(dtype, e.load(ty, 1, e.element(row, ty, k)))
    }

    /// Bytes of a row of the activation.
    fn input_stride(&self) -> u64 {
        self.input_format().bytes(self.reduce).expect("emission: an activation of whole blocks")
    }

    /// Bytes of a panel of a weight.
    fn panel_bytes(&self, format: Format) -> u64 {
        let row = format.bytes(self.reduce).expect("emission: a weight of whole blocks");
        row * llmc_artifact::plan::PANEL_LANES as u64
    }

    /// The first byte of a panel, counted over the whole weight.
    fn panel(&self, product: usize, panel: Val<'c>) -> Val<'c> {
        let (weight, format) = self.weight(product);
        let e = self.e;
        e.offset(self.entry.args.operand(weight), e.mul(panel, e.int(self.panel_bytes(format) as i64)))
    }
}
