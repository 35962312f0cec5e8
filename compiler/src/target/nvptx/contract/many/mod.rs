//! Many tokens: tiles of weights and tokens stream through shared memory and meet in matrix instructions.
//!
//! A stage of the pipeline is a few columns of eight panels and of a tile's tokens. Copies of later stages are on their way while
//! one is multiplied. A warp owns two panels, so that it alone copies and reads their weights, and multiplies them with
//! every token; its sums stay in registers until the reduced axis ends.
//!
//! `A` of an instruction is a panel's sixteen rows, `B` eight tokens. Which columns an instruction takes is free as long as
//! both agree: lane `t` of four takes columns `4 t .. 4 t + 4` of sixteen, so that a token's are one load of 16 bytes.

mod bytes;
mod float;

use super::sums::Sums;
use super::{Kernel, Tile};
use crate::llvm::{Cmp, Ty, Val};
use crate::target::nvptx::tuning::STAGES;
use llmc_artifact::Format;
use llmc_artifact::plan::PANEL_LANES;

/// Panels of a warp.
const PER_WARP: usize = 2;
/// Warps of a block.
const WARPS: usize = 4;
/// Panels of a stage.
pub(super) const PANELS: usize = WARPS * PER_WARP;
/// Columns of an instruction: tokens.
pub(super) const COLUMNS: u32 = 8;

/// How one format of weights and of activations is copied and multiplied.
trait Stage<'c> {
    /// Elements along the reduced axis.
    fn depth(&self) -> u64;
    /// Bytes of a panel's part.
    fn panel_bytes(&self) -> u64;
    /// Bytes of a token's part.
    fn token_bytes(&self) -> u64;
    /// Copies this warp's part of a panel.
    fn copy_panel(&self, to: Val<'c>, slot: &Slot<'c>, step: Val<'c>);
    /// Copies the block's tokens.
    fn copy_tokens(&self, to: Val<'c>, step: Val<'c>);
    /// Adds the products of this warp's panels with all tokens: for each panel and eight tokens four sums.
    fn multiply(&self, panels: [Val<'c>; PER_WARP], tokens: Val<'c>, sums: &mut [Val<'c>]);
}

/// A panel that a warp owns during a pass.
#[derive(Clone, Copy)]
pub(super) struct Slot<'c> {
    /// Its first byte.
    start: Val<'c>,
    /// Its number in the whole weight.
    number: Val<'c>,
    /// Whether there is such a panel.
    pub inside: Val<'c>,
    /// Where the sums of its first row and of token 0 go.
    at: Val<'c>,
}

/// A panel of a pass: of which product, and which of the group.
pub(super) type Place<'c> = Option<(usize, Val<'c>)>;

/// The sums of every product of the segment.
pub(super) fn products<'c>(kernel: &Kernel<'_, 'c>, group: Val<'c>, tile: Tile<'c>, sums: &Sums<'_, 'c>) {
    for (format, products) in classes(kernel) {
        each_pass(kernel, &products, |_, places| {
            kernel.entry.alone(|| pass(kernel, format, products[0], group, places, tile, sums));
        });
    }
}

/// Whether one pass has the panels of all these products.
fn is_one_pass(kernel: &Kernel, products: &[usize]) -> bool {
    products.len() as u64 * kernel.groups.panels() <= PANELS as u64
}

/// Passes over the panels of these products.
pub(super) fn passes(kernel: &Kernel, products: &[usize]) -> u64 {
    match is_one_pass(kernel, products) {
        true => 1,
        false => products.len() as u64 * kernel.groups.panels().div_ceil(PANELS as u64),
    }
}

/// Emits every pass: its number, and which panels are its own.
pub(super) fn each_pass<'c>(kernel: &Kernel<'_, 'c>, products: &[usize], pass: impl Fn(Val<'c>, &[Place<'c>])) {
    let (e, panels) = (kernel.e, kernel.groups.panels());
    if is_one_pass(kernel, products) {
        let all = products.iter().flat_map(|p| (0..panels).map(|n| Some((*p, e.int(n as i64)))));
        let places: Vec<Place> = all.chain(std::iter::repeat(None)).take(PANELS).collect();
        return pass(e.int(0), &places);
    }
    for (i, p) in products.iter().enumerate() {
        let before = i as u64 * panels.div_ceil(PANELS as u64);
        e.repeat(e.int(0), e.int(panels as i64), PANELS as i64, |first| {
            let places: Vec<Place> = (0..PANELS as i64).map(|n| Some((*p, e.add(first, e.int(n))))).collect();
            let number = e.add(e.lshr(first, e.int(PANELS.trailing_zeros() as i64)), e.int(before as i64));
            pass(number, &places);
        });
    }
}

/// Products by the format of their weight.
fn classes(kernel: &Kernel) -> Vec<(Format, Vec<usize>)> {
    let mut classes: Vec<(Format, Vec<usize>)> = Vec::new();
    for p in 0..kernel.segment.products.len() {
        let format = kernel.weight(p).1;
        match classes.iter_mut().find(|(f, _)| *f == format) {
            Some((_, all)) => all.push(p),
            None => classes.push((format, vec![p])),
        }
    }
    classes
}

/// What place `n` of so many of this warp's is in a pass.
pub(super) fn slot<'c>(
    kernel: &Kernel<'_, 'c>,
    group: Val<'c>,
    places: &[Place<'c>],
    sums: &Sums<'_, 'c>,
    (n, per_warp): (usize, usize),
) -> Slot<'c> {
    let (e, groups) = (kernel.e, kernel.groups);
    let warp = e.warp_index();
    let of = |place: &Place<'c>| match place {
        None => {
            let start = kernel.panel(0, e.int(0));
            Slot { start, number: e.int(0), inside: e.bool(false), at: e.int(0) }
        }
        Some((product, within)) => {
            let number = e.add(e.mul(group, e.int(groups.panels() as i64)), *within);
            let inside = e.compare(Cmp::Lt, *within, e.int(groups.panels() as i64));
            let inside = e.and(inside, e.compare(Cmp::Lt, number, e.int(groups.all_panels() as i64)));
            let row = e.mul(*within, e.int(PANEL_LANES as i64));
            let at = e.add(sums.token_row(kernel, *product, e.int(0)), row);
            Slot { start: kernel.panel(*product, number), number, inside, at }
        }
    };
    (1..places.len() / per_warp).fold(of(&places[n]), |so_far, w| {
        let (mine, other) = (e.compare(Cmp::Eq, warp, e.int32(w as i32)), of(&places[per_warp * w + n]));
        let pick = |a, b| e.select(mine, a, b);
        Slot {
            start: pick(other.start, so_far.start),
            number: pick(other.number, so_far.number),
            inside: pick(other.inside, so_far.inside),
            at: pick(other.at, so_far.at),
        }
    })
}

/// Multiplies eight panels with a tile of tokens.
fn pass<'c>(
    kernel: &Kernel<'_, 'c>,
    format: Format,
    product: usize,
    group: Val<'c>,
    places: &[Place<'c>],
    tile: Tile<'c>,
    sums: &Sums<'_, 'c>,
) {
    let slots = [0, 1].map(|n| slot(kernel, group, places, sums, (n, PER_WARP)));
    let found = match kernel.input_format().is_quantised() && format.is_quantised() {
        true => pipeline(kernel, &bytes::Bytes::new(kernel, format, tile), &slots, tile),
        false => pipeline(kernel, &float::Float::new(kernel, product, tile), &slots, tile),
    };
    for (slot, found) in slots.iter().zip(found.chunks(found.len() / PER_WARP)) {
        store_sums(kernel, slot, sums, found);
    }
    // Sums are kept, and what the stages held is free again.
    kernel.e.barrier();
}

/// Stores a panel's sums of all tokens, as lanes have them: four of each eight tokens.
pub(super) fn store_sums<'c>(kernel: &Kernel<'_, 'c>, slot: &Slot<'c>, sums: &Sums<'_, 'c>, found: &[Val<'c>]) {
    let e = kernel.e;
    let lane = e.zext(e.lane_index(), Ty::I64);
    let (g, t) = (e.lshr(lane, e.int(2)), e.and(lane, e.int(3)));
    let (stride, room) = (kernel.groups.stride() as i64, kernel.groups.tokens as i64);
    let first = e.add(e.mul(t, e.int(2 * stride)), g);
    e.when(slot.inside, || {
        let array = e.element(sums.array, Ty::F32, e.add(slot.at, first));
        for (n, four) in found.chunks(4).enumerate() {
            for (i, sum) in four.iter().enumerate() {
                let token = n as i64 * COLUMNS as i64 + i as i64 % 2;
                let at = token * stride + i as i64 / 2 * 8;
                // A tile of fewer than eight tokens has no room for the others.
                let store = || e.store(e.element(array, Ty::F32, e.int(at)), *sum);
                if room >= COLUMNS as i64 {
                    store();
                } else {
                    let token = e.add(e.mul(t, e.int(2)), e.int(token));
                    e.when(e.compare(Cmp::Lt, token, e.int(room)), store);
                }
            }
        }
    });
}

/// The loop over the reduced axis: this warp's sums.
fn pipeline<'c>(
    kernel: &Kernel<'_, 'c>,
    stage: &dyn Stage<'c>,
    slots: &[Slot<'c>; PER_WARP],
    tile: Tile<'c>,
) -> Vec<Val<'c>> {
    let (entry, e) = (kernel.entry, kernel.e);
    let columns = tile.room.next_multiple_of(COLUMNS);
    let panels = PANELS as u64 * stage.panel_bytes();
    let size = (panels + columns as u64 * stage.token_bytes()).next_multiple_of(128);
    let memory = entry.shared(Ty::I8, STAGES * size);
    let steps = kernel.reduce.div_ceil(stage.depth());
    let own = |n: usize| {
        let first = e.mul(e.warp_index(), e.int32(PER_WARP as i32));
        e.mul(e.add(first, e.int32(n as i32)), e.int32(stage.panel_bytes() as i32))
    };
    let own = [own(0), own(1)];
    let place = |at: Val<'c>, n: usize| e.offset(memory, e.add(at, own[n]));
    let tokens = |at: Val<'c>| e.offset(memory, e.add(at, e.int32(panels as i32)));
    let copy = |at: Val<'c>, step: Val<'c>| {
        for (n, slot) in slots.iter().enumerate() {
            stage.copy_panel(place(at, n), slot, step);
        }
        stage.copy_tokens(tokens(at), step);
    };
    for s in 0..STAGES - 1 {
        if s < steps {
            copy(e.int32((s * size) as i32), e.int(s as i64));
        }
        e.commit_copies();
    }
    let zero = vec![e.f32(0.0); PER_WARP * 4 * (columns / COLUMNS) as usize];
    let mut carried = zero.clone();
    carried.extend([e.int32(0), e.int32(((STAGES - 1) * size) as i32)]);
    let done = e.for_each(e.int(0), e.int(steps as i64), 1, &carried, |step, now| {
        let (read, write) = (now[zero.len()], now[zero.len() + 1]);
        e.wait_copies(STAGES as u32 - 2);
        e.barrier();
        let ahead = e.add(step, e.int(STAGES as i64 - 1));
        e.when(e.compare(Cmp::Lt, ahead, e.int(steps as i64)), || copy(write, ahead));
        e.commit_copies();
        let mut next = now[..zero.len()].to_vec();
        stage.multiply([place(read, 0), place(read, 1)], tokens(read), &mut next);
        let turn = |at: Val<'c>| {
            let moved = e.add(at, e.int32(size as i32));
            e.select(e.compare(Cmp::Eq, moved, e.int32((STAGES * size) as i32)), e.int32(0), moved)
        };
        next.extend([turn(read), turn(write)]);
        next
    });
    done[..zero.len()].to_vec()
}
