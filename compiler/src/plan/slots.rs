//! Which buffers may share memory: those whose lifetimes over the launches do not overlap and that have one shape.

use std::collections::HashMap;
use std::hash::Hash;

/// First and last launch that touches a buffer, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The launch that writes it, or 0 for a buffer the runtime fills.
    pub first: usize,
    /// The last launch that touches it, or `usize::MAX` for one the runtime reads.
    pub last: usize,
}

/// A slot number for each buffer. Buffers of one slot have equal shapes and disjoint lifetimes, so that one
/// allocation serves them all. Interval colouring in order of first use, which is optimal for each shape.
pub fn assign<S: Hash + Eq>(buffers: &[(S, Lifetime)]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|b| (buffers[*b].1.first, *b));
    // For each shape, the slots made so far and when each becomes free.
    let mut slots: HashMap<&S, Vec<(u32, usize)>> = HashMap::new();
    let mut assigned = vec![0; buffers.len()];
    let mut next = 0;
    for b in order {
        let (shape, life) = &buffers[b];
        let of_shape = slots.entry(shape).or_default();
        let slot = match of_shape.iter_mut().find(|(_, busy_until)| *busy_until < life.first) {
            Some(free) => {
                free.1 = life.last;
                free.0
            }
            None => {
                of_shape.push((next, life.last));
                next += 1;
                next - 1
            }
        };
        assigned[b] = slot;
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life(first: usize, last: usize) -> Lifetime {
        Lifetime { first, last }
    }

    #[test]
    fn a_chain_of_residuals_needs_two_slots() {
        let buffers: Vec<_> = (0..10).map(|i| ("[rows, 8]", life(i, i + 1))).collect();
        assert_eq!(assign(&buffers), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn shapes_never_share() {
        assert_eq!(assign(&[("a", life(0, 1)), ("b", life(5, 6))]), [0, 1]);
    }

    proptest! {
        #[test]
        fn buffers_of_one_slot_never_live_together(lives in prop::collection::vec((0usize..20, 0usize..6, 0u8..3), 1..30)) {
            let buffers: Vec<_> = lives.iter().map(|(f, n, s)| (*s, life(*f, f + n))).collect();
            let slots = assign(&buffers);
            for i in 0..buffers.len() {
                for j in 0..i {
                    if slots[i] == slots[j] {
                        let (a, b) = (buffers[i].1, buffers[j].1);
                        prop_assert!(a.last < b.first || b.last < a.first);
                        prop_assert_eq!(buffers[i].0, buffers[j].0);
                    }
                }
            }
        }
    }
}
