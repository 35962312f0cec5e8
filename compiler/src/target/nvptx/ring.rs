//! A ring of stages in shared memory: some threads fill them, others use them, and mbarriers hand them over.
//!
//! What happens in round `r` happens in stage `r % stages`; both sides count rounds for themselves. A stage is full once a phase
//! of its first mbarrier is over, and free again once one of its second is.

use super::abi::Entry;
use crate::llvm::{Cmp, Emitter, MBARRIER, TURNS, Ty, Val};

/// The ring.
pub struct Ring<'a, 'c> {
    e: &'a Emitter<'c>,
    memory: Val<'c>,
    mbarriers: Val<'c>,
    stages: u32,
    bytes: u64,
}

/// The stage of a round.
pub struct Turn<'c> {
    /// Its first byte, at a multiple of [`TURNS`].
    pub memory: Val<'c>,
    /// Whose phase ends when it is full.
    pub full: Val<'c>,
    /// Whose phase ends when it is free again.
    pub free: Val<'c>,
    /// The parity of the round's phase of `full`; that of the one before of `free` is the other.
    pub parity: Val<'c>,
}

impl<'a, 'c> Ring<'a, 'c> {
    /// Room for so many stages, a power of two, each of at least so many bytes, and arrivals of who fills one and of who used it.
    /// All threads meet before they use it.
    pub fn new(entry: &Entry<'a, 'c>, stages: u32, bytes: u64, (full, free): (u32, u32)) -> Ring<'a, 'c> {
        assert!(stages.is_power_of_two(), "emission: a ring of {stages} stages");
        let e = entry.emitter;
        let bytes = bytes.next_multiple_of(TURNS as u64);
        let memory = entry.shared_aligned(Ty::I8, stages as u64 * bytes, TURNS);
        let mbarriers = entry.shared(Ty::I64, 2 * stages as u64);
        let ring = Ring { e, memory, mbarriers, stages, bytes };
        e.when(e.compare(Cmp::Eq, e.thread_index32(), e.int32(0)), || {
            for stage in 0..stages {
                let turn = ring.turn(e.int32(stage as i32));
                e.mbarrier(turn.full, full);
                e.mbarrier(turn.free, free);
            }
            e.show_mbarriers();
        });
        ring
    }

    /// The stage of a round, an `i32`.
    pub fn turn(&self, round: Val<'c>) -> Turn<'c> {
        let e = self.e;
        let stage = e.and(round, e.int32(self.stages as i32 - 1));
        let parity = e.and(e.lshr(round, e.int32(self.stages.trailing_zeros() as i32)), e.int32(1));
        let full = e.offset(self.mbarriers, e.mul(stage, e.int32(MBARRIER as i32)));
        let free = e.offset(full, e.int((self.stages as u64 * MBARRIER) as i64));
        let memory = e.offset(self.memory, e.mul(stage, e.int32(self.bytes as i32)));
        Turn { memory, full, free, parity }
    }

    /// Waits until the round's stage is full.
    pub fn wait_full(&self, turn: &Turn<'c>) {
        self.e.wait_phase(turn.full, turn.parity);
    }

    /// Waits until whoever used the stage before is done with it.
    pub fn wait_free(&self, turn: &Turn<'c>) {
        self.e.wait_phase(turn.free, self.e.xor(turn.parity, self.e.int32(1)));
    }

    /// This warp is done with a stage: one arrival. All lanes have waited for products of what they read there, which they
    /// do as one.
    pub fn release(&self, turn: &Turn<'c>) {
        let e = self.e;
        e.when(e.compare(Cmp::Eq, e.lane_index(), e.int32(0)), || e.arrive(turn.free));
    }
}
