//! Places in a host buffer that a device copies from while the host writes on.
//!
//! The buffer has two sides. Bytes go to one of them piece after piece; where a piece does not fit, the other side is
//! taken, which the device must have read by then. Only places are handed out here: the buffer, the copies and the
//! waiting are the device's.

use std::ops::Range;

/// Pieces begin at multiples of this.
const ALIGN: usize = 64;

/// Hands out places in a buffer of two sides.
#[derive(Debug)]
pub struct Staging {
    side: usize,
    /// Whether the second side is in use.
    second: bool,
    next: usize,
}

/// A place for some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where, in the buffer.
    pub place: Range<usize>,
    /// The side that is taken from now on: what was copied from it before must be done, and copies from the other side
    /// are all under way. `None` while the side stays.
    pub turned: Option<usize>,
}

impl Staging {
    /// A buffer of `bytes` bytes, of which nothing is in use.
    ///
    /// # Panics
    /// When a side would be empty.
    pub fn new(bytes: usize) -> Staging {
        let side = bytes / 2 / ALIGN * ALIGN;
        assert!(side > 0, "a staging buffer has two sides");
        Staging { side, second: false, next: 0 }
    }

    /// A place for the first of `bytes` bytes: for all of them, or for as many as fit a side.
    pub fn take(&mut self, bytes: usize) -> Piece {
        let length = bytes.min(self.side);
        let turns = self.next + length > self.side;
        if turns {
            (self.second, self.next) = (!self.second, 0);
        }
        let start = self.next + if self.second { self.side } else { 0 };
        self.next += length.next_multiple_of(ALIGN);
        Piece { place: start..start + length, turned: turns.then_some(self.second as usize) }
    }
}

/// Part of a piece on its way back to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which piece.
    pub piece: usize,
    /// Its first byte in the piece.
    pub at: usize,
    /// Where it passes through the buffer.
    pub place: Range<usize>,
}

/// The way of pieces of these lengths through a buffer of `room` bytes: rounds, after each of which it is emptied.
pub fn rounds(lengths: &[usize], room: usize) -> Vec<Vec<Part>> {
    let mut all = vec![Vec::new()];
    let mut used = 0;
    for (piece, length) in lengths.iter().enumerate() {
        let mut at = 0;
        while at < *length {
            if used == room {
                all.push(Vec::new());
                used = 0;
            }
            let end = room.min(used + length - at);
            all.last_mut().expect("there is a round").push(Part { piece, at, place: used..end });
            (at, used) = (at + end - used, end);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A device that copies as late as it may: when a side is taken that it has not read yet.
    struct Late {
        host: Vec<u8>,
        device: Vec<u8>,
        /// Copies not done, by side: from where to where.
        pending: [Vec<(Range<usize>, usize)>; 2],
        side: usize,
    }

    impl Late {
        fn wait_for(&mut self, side: usize) {
            for (from, to) in self.pending[side].drain(..) {
                self.device[to..][..from.len()].copy_from_slice(&self.host[from]);
            }
        }

        fn write(&mut self, staging: &mut Staging, mut to: usize, mut bytes: &[u8]) {
            while !bytes.is_empty() {
                let Piece { place, turned } = staging.take(bytes.len());
                if let Some(side) = turned {
                    self.wait_for(side);
                    self.side = side;
                }
                let (now, later) = bytes.split_at(place.len());
                self.host[place.clone()].copy_from_slice(now);
                self.pending[self.side].push((place, to));
                (to, bytes) = (to + now.len(), later);
            }
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_overwritten_before_it_was_copied(sizes in prop::collection::vec(0usize..700, 1..40)) {
            let total: usize = sizes.iter().sum();
            let want: Vec<u8> = (0..total).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut staging = Staging::new(512);
            let mut late = Late { host: vec![0; 512], device: vec![0; total], pending: Default::default(), side: 0 };
            let mut at = 0;
            for size in sizes {
                late.write(&mut staging, at, &want[at..at + size]);
                at += size;
            }
            late.wait_for(0);
            late.wait_for(1);
            prop_assert_eq!(late.device, want);
        }
    }

    #[test]
    fn pieces_come_back_in_as_few_rounds_as_there_is_room_for() {
        let part = |piece, at, place| Part { piece, at, place };
        assert_eq!(rounds(&[4, 0, 8], 100), [vec![part(0, 0, 0..4), part(2, 0, 4..12)]]);
        let want = [vec![part(0, 0, 0..4), part(1, 0, 4..10)], vec![part(1, 6, 0..10)], vec![part(1, 16, 0..4)]];
        assert_eq!(rounds(&[4, 20], 10), want);
        assert_eq!(rounds(&[], 10), [vec![]]);
    }

    #[test]
    fn small_pieces_share_a_side() {
        let mut staging = Staging::new(1000); // sides of 448
        let taken: Vec<_> = [8, 64, 65, 300, 1000, 1].map(|n| staging.take(n)).into();
        let want = [
            (0..8, None),
            (64..128, None),
            (128..193, None),
            (448..748, Some(1)),
            (0..448, Some(0)),
            (448..449, Some(1)),
        ];
        assert_eq!(taken, want.map(|(place, turned)| Piece { place, turned }));
    }
}
