//! Cutting feeds into batches that run together, and the lengths and tables of a batch.

use super::inputs::Prepared;
use super::{Feed, Role, Shared, Want};
use crate::kv_cache::Track;
use llmc_artifact::Dim;
use llmc_artifact::plan::{PAGE_TOKENS, Plan, Table};

/// The part of a feed that runs in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which feed.
    pub feed: usize,
    /// First of the feed's new tokens, along each sequence axis.
    pub start: Vec<usize>,
    /// How many of them.
    pub count: Vec<usize>,
    /// Those whose outputs are wanted, counted from `start`, along each axis.
    pub picked: Vec<Vec<usize>>,
}

/// The next batch of feeds of this role; empty when all have run.
///
/// Feeds are taken in order while the chunk has room. One whose tokens may see later ones, or that brings tokens along
/// several axes, runs whole.
pub(super) fn next(engine: &Shared, feeds: &[Feed], prepared: &[Prepared], role: Role) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut room = engine.chunk.max(1);
    for (feed, p) in prepared.iter().enumerate() {
        debug_assert_eq!(feeds[feed].sequence.tracks.len(), p.rows.len());
        let left: Vec<usize> = p.rows.iter().zip(&p.done).map(|(rows, done)| rows - done).collect();
        let total: usize = left.iter().sum();
        if p.role != role || total == 0 || room == 0 {
            continue;
        }
        let count = if total <= room {
            left
        } else if cuttable(engine, &p.rows) {
            left.iter().map(|n| (*n).min(room)).collect()
        } else if pieces.is_empty() {
            left
        } else {
            continue;
        };
        room = room.saturating_sub(count.iter().sum());
        pieces.push(Piece { feed, start: p.done.clone(), picked: picked(p, &count), count });
    }
    pieces
}

/// Whether a feed's tokens may run a part at a time.
fn cuttable(engine: &Shared, rows: &[usize]) -> bool {
    let mut axes = rows.iter().enumerate().filter(|(_, n)| **n > 0).map(|(axis, _)| axis);
    match (axes.next(), axes.next()) {
        (Some(axis), None) => engine.plan.seqs[axis].appendable.is_ok(),
        _ => false,
    }
}

fn picked(p: &Prepared, count: &[usize]) -> Vec<Vec<usize>> {
    let axes = p.rows.iter().zip(&p.done).zip(count);
    let pick = |((rows, done), count): ((&usize, &usize), &usize)| match p.want {
        Want::All => (0..*count).collect(),
        Want::Last if *count > 0 && done + count == *rows => vec![count - 1],
        Want::Last | Want::Nothing => Vec::new(),
    };
    axes.map(pick).collect()
}

/// The lengths of a batch, along each sequence axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    rows: Vec<u64>,
    picked: Vec<u64>,
    blocks: Vec<u64>,
    /// Tokens of the longest sequence, those of this batch counted.
    longest: Vec<u64>,
    tokens: Vec<u64>,
    pages: Vec<u64>,
    sequences: u64,
}

impl Lengths {
    /// The lengths once the pages are reserved.
    pub(super) fn new(plan: &Plan, pieces: &[Piece], feeds: &[Feed]) -> Lengths {
        let axes = 0..plan.seqs.len();
        let sum = |f: &dyn Fn(&Piece) -> usize| pieces.iter().map(|p| f(p) as u64).sum();
        let blocks = |axis: usize| pieces.iter().map(|p| feeds[p.feed].sequence.tracks[axis].blocks()).max();
        let longest = |axis: usize| {
            let tokens = |p: &Piece| feeds[p.feed].sequence.tracks[axis].length() + p.count[axis] as u64;
            pieces.iter().map(tokens).max()
        };
        let kept = |axis: usize, of: &dyn Fn(&Track, usize) -> u64| {
            pieces.iter().map(|p| of(&feeds[p.feed].sequence.tracks[axis], p.count[axis])).sum()
        };
        Lengths {
            rows: axes.clone().map(|axis| sum(&|p| p.count[axis])).collect(),
            picked: axes.clone().map(|axis| sum(&|p| p.picked[axis].len())).collect(),
            blocks: axes.clone().map(|axis| blocks(axis).unwrap_or(0)).collect(),
            longest: axes.clone().map(|axis| longest(axis).unwrap_or(0)).collect(),
            tokens: axes.clone().map(|axis| kept(axis, &|t, new| kept_tokens(t, new).count() as u64)).collect(),
            pages: axes.map(|axis| kept(axis, &|t, _| kept_pages(t))).collect(),
            sequences: pieces.len() as u64,
        }
    }

    /// Its tokens, along all axes.
    pub(super) fn tokens(&self) -> u64 {
        self.rows.iter().sum()
    }

    /// A dimension's length in this batch.
    pub(super) fn of(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Const(n) => n,
            Dim::Rows(s) => self.rows[s.0 as usize],
            Dim::Picked(s) => self.picked[s.0 as usize],
            Dim::Blocks(s) => self.blocks[s.0 as usize],
            Dim::Tokens(s) => self.tokens[s.0 as usize],
            Dim::Pages(s) => self.pages[s.0 as usize],
            Dim::Sequences => self.sequences,
            Dim::Parts(s, tokens) => self.longest[s.0 as usize].div_ceil(tokens as u64),
            Dim::Tiles(..) => dim.at(self.of(dim.base())),
        }
    }
}

/// Positions of a track that the caches hold once `new` tokens are appended.
fn kept_tokens(track: &Track, new: usize) -> std::ops::Range<i32> {
    (track.dropped() * PAGE_TOKENS as u64) as i32..(track.length() + new as u64) as i32
}

/// Pages of a track that the caches hold, once they are reserved.
fn kept_pages(track: &Track) -> u64 {
    track.blocks() - track.dropped()
}

/// Appends a table's entries for this batch to `out`. Positions fit an i32: the engine has checked each length.
pub(super) fn fill_table(table: Table, pieces: &[Piece], feeds: &[Feed], lengths: &Lengths, out: &mut Vec<i32>) {
    let axis = table.seq().0 as usize;
    let (mut first_row, mut first_page) = (0, 0);
    for (at, piece) in pieces.iter().enumerate() {
        let track = &feeds[piece.feed].sequence.tracks[axis];
        let (length, count) = (track.length() as i32, piece.count[axis]);
        match table {
            Table::Positions(_) => out.extend(length..length + count as i32),
            Table::RowSeq(_) => out.extend(std::iter::repeat_n(at as i32, count)),
            Table::Lengths(_) => out.push(length + count as i32),
            Table::Blocks(seq) => {
                let end = out.len() + lengths.of(Dim::Blocks(seq)) as usize;
                out.extend(track.block_row());
                out.resize(end, 0);
            }
            Table::Picked(_) => out.extend(piece.picked[axis].iter().map(|row| first_row + *row as i32)),
            Table::TokenPositions(_) => out.extend(kept_tokens(track, count)),
            Table::TokenSeq(_) => out.extend(kept_tokens(track, count).map(|_| at as i32)),
            Table::Bases(_) => out.push(first_page - track.dropped() as i32),
        }
        first_row += count as i32;
        first_page += kept_pages(track) as i32;
    }
}
