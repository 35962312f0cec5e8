//! Few tokens: every weight is read once, into registers, by loads of 16 bytes that lie side by side.
//!
//! The warps of a block share the reduced axis: each lane takes places along it in turn, some rows of a panel and all
//! tokens. What the lanes found is folded by halves, then warp after warp. A tile of one token adds in the order of a tile of
//! eight.

mod bytes;
mod plain;

use super::sums::Sums;
use super::{Kernel, Tile};
use crate::kernel::OperandRef;
use crate::llvm::{CHUNK, Cmp, Emitter, Ty, Val, WARP};
use crate::target::nvptx::tuning::FEW_PANELS;
use llmc_artifact::plan::PANEL_LANES;

/// How one format of weights and of activations is multiplied.
trait Lanes<'c> {
    /// Lanes that share a place along the reduced axis: each has 16 bytes' worth of a panel's rows.
    fn sharing(&self) -> u32;
    /// This lane's sums of a panel: for each of its rows one for each token.
    fn panel(&self, start: Val<'c>, inside: Val<'c>) -> Vec<Val<'c>>;
}

/// The sums of every product of the segment.
pub(super) fn products<'c>(kernel: &Kernel<'_, 'c>, group: Val<'c>, tile: Tile<'c>, sums: &Sums<'_, 'c>) {
    let (entry, e) = (kernel.entry, kernel.e);
    let panels = kernel.groups.panels();
    let at_once = panels.min(FEW_PANELS);
    let warps = entry.warps() as u64;
    let rows = at_once * PANEL_LANES as u64;
    let parts = entry.shared(Ty::F32, warps * tile.room as u64 * rows);
    let warp = e.zext(e.warp_index(), Ty::I64);
    // A token that is alone where a tile has room for more is the last one. Before another tile threads meet for its statistics.
    let is_last_tile = tile.room == 1 && kernel.groups.tokens > 1;
    let meets_next = is_last_tile || !sums.stats.is_empty();
    for product in 0..kernel.segment.products.len() {
        let (_, format) = kernel.weight(product);
        let lanes: Box<dyn Lanes<'c> + '_> = match format.is_quantised() {
            true => Box::new(bytes::Bytes::new(kernel, format, tile)),
            false => Box::new(plain::Plain::new(kernel, format, tile)),
        };
        e.repeat(e.int(0), e.int(panels as i64), at_once as i64, |begin| {
            let end = e.min(e.add(begin, e.int(at_once as i64)), e.int(panels as i64));
            e.repeat(begin, end, 1, |within| {
                let number = e.add(e.mul(group, e.int(panels as i64)), within);
                let inside = e.compare(Cmp::Lt, number, e.int(kernel.groups.all_panels() as i64));
                let found = lanes.panel(kernel.panel(product, number), inside);
                let row = e.mul(e.sub(within, begin), e.int(PANEL_LANES as i64));
                let at = e.add(e.mul(warp, e.int((tile.room as u64 * rows) as i64)), row);
                keep(e, e.element(parts, Ty::F32, at), found, lanes.sharing(), tile.room, rows);
            });
            e.barrier();
            let count = e.mul(e.sub(end, begin), e.int((PANEL_LANES * tile.room) as i64));
            entry.for_each(count, |i| {
                // Rows of a token one after another, as the epilogue reads them.
                let (token, row) = match tile.room {
                    1 => (e.int(0), i),
                    _ => {
                        let all = e.mul(e.sub(end, begin), e.int(PANEL_LANES as i64));
                        let token = e.div(i, all);
                        (token, e.sub(i, e.mul(token, all)))
                    }
                };
                let from = e.element(parts, Ty::F32, e.add(e.mul(token, e.int(rows as i64)), row));
                let part =
                    |w: u64| e.load(Ty::F32, 1, e.element(from, Ty::F32, e.int((w * tile.room as u64 * rows) as i64)));
                let whole = (1..warps).fold(part(0), |sum, w| e.add(sum, part(w)));
                let row = e.add(row, e.mul(begin, e.int(PANEL_LANES as i64)));
                let to = e.add(sums.token_row(kernel, product, token), row);
                e.store(e.element(sums.array, Ty::F32, to), whole);
            });
            // Parts are kept again for what comes next, or sums are read by others than those who made them.
            let is_last = product + 1 == kernel.segment.products.len() && panels == at_once;
            if kernel.reads_elsewhere() || !(is_last && meets_next) {
                e.barrier();
            }
        });
    }
}

/// Folds lanes that have the same rows, and keeps what this warp found: a row of `rows` for each token.
fn keep<'c>(e: &Emitter<'c>, parts: Val<'c>, found: Vec<Val<'c>>, sharing: u32, tokens: u32, rows: u64) {
    let fold = |v: Val<'c>| {
        let mut v = v;
        let mut far = WARP / 2;
        while far >= sharing {
            v = e.add(v, e.exchange(v, far));
            far /= 2;
        }
        v
    };
    let folded: Vec<Val> = found.into_iter().map(fold).collect();
    let own = folded.len() as u32 / tokens;
    let lane = e.lane_index();
    e.when(e.compare(Cmp::Lt, lane, e.int32(sharing as i32)), || {
        let first = e.element(parts, Ty::F32, e.zext(e.mul(lane, e.int32(own as i32)), Ty::I64));
        for (i, v) in folded.iter().enumerate() {
            let (row, token) = (i as u64 / tokens as u64, i as u64 % tokens as u64);
            e.store(e.element(first, Ty::F32, e.int((token * rows + row) as i64)), *v);
        }
    });
}

/// The rows of the activation that a tile multiplies; where there are fewer tokens the last one stands for the others.
fn token_rows<'c>(kernel: &Kernel<'_, 'c>, input: OperandRef, tile: Tile<'c>) -> Vec<Val<'c>> {
    let e = kernel.e;
    let last = e.sub(tile.rest, e.int(1));
    let row = |t: u32| {
        let within = if t == 0 { e.int(0) } else { e.min(e.int(t as i64), last) };
        let start = e.mul(e.add(tile.first, within), e.int(kernel.input_stride() as i64));
        e.offset(kernel.entry.args.operand(input), start)
    };
    (0..tile.room).map(row).collect()
}

/// A place along the reduced axis at which a lane begins, and the block's step from one of its places to the next: warps take
/// neighbouring runs of lanes. Units of what a lane takes at once.
fn places<'c>(kernel: &Kernel<'_, 'c>, sharing: u32) -> (Val<'c>, i64) {
    let e = kernel.e;
    let first = e.lshr(e.thread_index32(), e.int32(sharing.trailing_zeros() as i32));
    (e.zext(first, Ty::I64), (kernel.entry.threads / sharing) as i64)
}

/// Which 16 bytes of a row of chunks are this lane's, in bytes.
fn own_chunk<'c>(e: &Emitter<'c>, sharing: u32) -> Val<'c> {
    let part = e.and(e.lane_index(), e.int32(sharing as i32 - 1));
    e.zext(e.mul(part, e.int32(CHUNK as i32)), Ty::I64)
}
