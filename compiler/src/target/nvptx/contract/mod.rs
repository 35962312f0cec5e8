//! The contract family: packed weights times the step's activations, and epilogues.
//!
//! A block takes a group of a segment's output rows and walks over tiles of tokens. Role, formats and level pick the form: for
//! prompts [`many`] keeps tiles of weights and tokens in shared memory and multiplies with matrix instructions of warps, and
//! [`warpgroups`] with those of four warps, fed by threads of their own; for generated tokens
//! [`few`] reads each weight once, straight into registers, its warps sharing the reduced axis. In all, the order of each
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
mod warpgroups;

use super::abi::{Entry, Threads};
use super::stores::width_of;
use super::tuning::{
    FEW_ROWS, FEW_THREADS, FEW_TOKENS, GROUP_HELPERS, GROUP_SUMS_BYTES, GROUP_THREADS, GROUP_TOKENS, MANY_ROWS,
    MANY_TOKENS, RESIDENT, SUMS_BYTES, THREADS, Units, WALKERS,
};
use crate::cost::Role;
use crate::kernel::{AxisRef, Contract, Expr, ExprRef, KernelSpec, OperandRef, ResultRef, Segment};
use crate::llvm::{Cmp, Emitter, Scope, Ty, Val};
use crate::target::cpu::nest::roots;
use groups::{Aim, Groups};
use llmc_artifact::tensor::TensorMap;
use llmc_artifact::{DType, Dim, Format};
use stat::Stats;
use sums::Sums;

/// How a contraction is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Generated tokens: [`few`].
    Few,
    /// Prompts, by warps: [`many`].
    Warps,
    /// Prompts, by fours of warps: [`warpgroups`].
    Warpgroups,
}

impl Form {
    /// The form of a contraction where these units are.
    pub fn of(spec: &KernelSpec, contract: &Contract, units: Units) -> Form {
        match (spec.role, units) {
            (Role::Decode, _) => Form::Few,
            (Role::Prefill, Units::Warpgroups) if warpgroups::fits(spec, contract) => Form::Warpgroups,
            (Role::Prefill, Units::Warps | Units::Warpgroups) => Form::Warps,
        }
    }

    /// Threads of its blocks.
    pub fn threads(self) -> Threads {
        match self {
            Form::Few => Threads::alike(FEW_THREADS),
            Form::Warps => Threads::alike(THREADS),
            Form::Warpgroups => Threads { work: GROUP_THREADS, help: GROUP_HELPERS },
        }
    }

    /// Operands whose boxes are copied.
    pub fn tensor_maps(self, spec: &KernelSpec, contract: &Contract) -> Vec<TensorMap> {
        match self {
            Form::Few | Form::Warps => Vec::new(),
            Form::Warpgroups => {
                let tokens = contract.segments.iter().map(|s| Groups::new(spec, s, self.aim()).tokens);
                tokens.map(|tokens| warpgroups::tokens_map(spec, contract, tokens)).collect()
            }
        }
    }

    fn aim(self) -> Aim {
        match self {
            Form::Few => Aim { rows: FEW_ROWS, tokens: FEW_TOKENS, bytes: SUMS_BYTES },
            Form::Warps => Aim { rows: MANY_ROWS, tokens: MANY_TOKENS, bytes: SUMS_BYTES },
            Form::Warpgroups => Aim { rows: MANY_ROWS, tokens: GROUP_TOKENS, bytes: GROUP_SUMS_BYTES },
        }
    }

    /// Blocks that share a group of rows.
    fn walkers(self) -> u64 {
        match self {
            Form::Few => 1,
            Form::Warps | Form::Warpgroups => WALKERS,
        }
    }

    /// Blocks that a multiprocessor is meant to hold at once, where registers are bounded by it.
    fn resident(self) -> Option<u32> {
        match self {
            Form::Few => None,
            Form::Warps => Some(RESIDENT),
            Form::Warpgroups => Some(1),
        }
    }
}

/// A block is a group of rows of one segment, and a walker over tiles of tokens.
pub fn emit(entry: &Entry, contract: &Contract, form: Form) -> Vec<Dim> {
    let e = entry.emitter;
    let cut = |s: &Segment| Groups::new(entry.spec, s, form.aim());
    let groups: Vec<Groups> = contract.segments.iter().map(cut).collect();
    if let Some(blocks) = form.resident() {
        e.resident_blocks(blocks);
    }
    let items = vec![Dim::Const(groups.iter().map(|g| g.count).sum()), Dim::Const(form.walkers())];
    let index = entry.item_index(&entry.scope(), &items);
    let mut first = 0;
    for (number, groups) in groups.into_iter().enumerate() {
        let group = e.sub(index[0].value, e.int(first as i64));
        let inside = e.compare(Cmp::Lt, group, e.int(groups.count as i64));
        let inside = e.and(inside, e.compare(Cmp::Ge, group, e.int(0)));
        entry.alone(|| {
            e.when(inside, || Kernel::new(entry, contract, number, groups, form).walk(group, index[1].value))
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
    /// Which of the contraction's segments.
    number: usize,
    segment: &'a Segment,
    groups: Groups,
    form: Form,
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

/// The weight of a product.
fn weight_of(contract: &Contract, product: ResultRef) -> OperandRef {
    contract.products[product.0 as usize - contract.stats.len()].weight
}

/// Columns of a contraction's weights.
fn reduced(spec: &KernelSpec, contract: &Contract) -> u64 {
    let length = |a: &AxisRef| spec.dim(*a).and_then(Dim::as_const).expect("emission: a reduced axis varies");
    contract.reduce.iter().map(length).product()
}

impl<'a, 'c> Kernel<'a, 'c> {
    fn new(entry: &'a Entry<'a, 'c>, contract: &'a Contract, number: usize, groups: Groups, form: Form) -> Self {
        let (segment, reduce) = (&contract.segments[number], reduced(entry.spec, contract));
        Kernel { entry, e: entry.emitter, contract, number, segment, groups, form, scope: entry.scope(), reduce }
    }

    /// All tiles of a walker.
    fn walk(&self, group: Val<'c>, walker: Val<'c>) {
        let room = self.groups.tokens as u64;
        let sums = self.segment.products.len() as u64 * room * self.groups.stride();
        let sums = self.entry.shared(Ty::F32, sums.max(1));
        let stats = Stats::new(self.entry, self.stats(), self.groups.tokens);
        let tile = |tile: Tile<'c>, products: &dyn Fn(&Sums<'_, 'c>)| self.tile(group, tile, sums, &stats, products);
        match self.form {
            Form::Few => self.tiles(walker, |t| tile(t, &|sums| self.few(group, t, sums))),
            Form::Warps => self.tiles(walker, |t| tile(t, &|sums| many::products(self, group, t, sums))),
            Form::Warpgroups => warpgroups::walk(self, group, walker, tile),
        }
    }

    /// Runs code for every tile of a walker.
    fn tiles(&self, walker: Val<'c>, code: impl FnOnce(Tile<'c>)) {
        let (e, room) = (self.e, self.groups.tokens);
        let tokens = self.scope.dim(self.entry.spec.dim(self.contract.row).expect("emission: rows of keys"));
        let begin = e.mul(walker, e.int(room as i64));
        e.repeat(begin, tokens, room as i64 * self.form.walkers() as i64, |first| {
            code(Tile { first, rest: e.sub(tokens, first), room });
        });
    }

    /// A group of rows for a tile of tokens: statistics, sums, then the epilogue. The threads meet in `products` before sums are
    /// kept, since some may still store those of the tile before, and after it.
    fn tile(
        &self,
        group: Val<'c>,
        tile: Tile<'c>,
        array: Val<'c>,
        stats: &Stats<'c>,
        products: impl FnOnce(&Sums<'_, 'c>),
    ) {
        let e = self.e;
        let count = e.min(tile.rest, e.int(tile.room as i64));
        let first = e.mul(group, e.int(self.groups.size as i64));
        let (segment, groups, row, first_token) = (self.segment, self.groups, self.contract.row, tile.first);
        let sums = Sums { segment, groups, array, stats, row, first_token, first };
        stats.compute(self, tile.first, count);
        products(&sums);
        if segment.products.is_empty() {
            e.barrier();
        }
        sums.store(self, count);
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

    /// Whether a thread that stores reads other sums than that of its own number.
    fn reads_elsewhere(&self) -> bool {
        let (exprs, stores) = (&self.entry.spec.exprs, &self.segment.stores);
        let moved = |x: &ExprRef| matches!(&exprs[*x], Expr::Result { moved, .. } if !moved.is_empty());
        width_of(self.entry.spec, stores) > 1 || exprs.reachable(&roots(stores)).iter().any(moved)
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
        let weight = weight_of(self.contract, self.segment.products[product]);
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
