//! From global to shared memory without registers: asynchronous copies in groups, and where their pieces lie.
//!
//! A group is what was copied since the last [`Emitter::commit_copies`]. [`Emitter::wait_copies`] waits for this thread's own
//! copies; a barrier after it makes those of the whole block visible.

use super::{Emitter, Ty, Val};

/// Bytes of the largest copy, and of a row of a matrix that [`Emitter::load_matrices`] loads.
pub const CHUNK: u32 = 16;
/// Bytes that shared memory gives in one pass.
const PASS: u32 = 128;

impl<'c> Emitter<'c> {
    /// Copies `bytes` (16, 8 or 4; both addresses multiples of it). Where `valid` is given only so many of them, an `i32`, are
    /// read and the others become zeros: with 0 nothing is read, and the address need not be one.
    pub fn copy_async(&self, to: Val<'c>, from: Val<'c>, bytes: u32, valid: Option<Val<'c>>) {
        // What goes past the first-level cache is meant to be read once by the block: whole sectors only.
        let cache = match bytes {
            16 => "cg",
            4 | 8 => "ca",
            _ => panic!("emission: {bytes} bytes cannot be copied at once"),
        };
        let name = format!("llvm.nvvm.cp.async.{cache}.shared.global.{bytes}");
        match valid {
            None => self.target_intrinsic(&name, &[to, from]),
            Some(n) => self.target_intrinsic(&format!("{name}.s"), &[to, from, n]),
        };
    }

    /// Ends a group of copies; an empty one is a group too.
    pub fn commit_copies(&self) {
        self.target_intrinsic("llvm.nvvm.cp.async.commit.group", &[]);
    }

    /// Waits until all but the last `groups` groups of this thread have arrived.
    pub fn wait_copies(&self, groups: u32) {
        self.target_intrinsic("llvm.nvvm.cp.async.wait.group", &[self.int32(groups as i32)]);
    }

    /// Where chunk number `chunk` of row `row` lies, in chunks of 16 bytes from the row's start, in an array of rows of `chunks`
    /// chunks, a power of two: eight rows in a row and eight chunks side by side both fall into different banks. The first row
    /// begins at a multiple of 128 bytes. Both numbers and the result are `i32`s or `i64`s.
    pub fn swizzled(&self, row: Val<'c>, chunk: Val<'c>, chunks: u32) -> Val<'c> {
        assert!(chunks.is_power_of_two(), "emission: rows of {chunks} chunks");
        let pass = PASS / CHUNK;
        if chunks == 1 {
            return chunk;
        }
        let together = pass / chunks.min(pass);
        let turn = self.lshr(row, self.like_int(row, together.trailing_zeros() as i64));
        self.xor(chunk, self.and(turn, self.like_int(row, chunks.min(pass) as i64 - 1)))
    }

    /// Loads 16 bytes at a multiple of 16: four `i32`s.
    pub fn load_chunk(&self, pointer: Val<'c>) -> Val<'c> {
        self.load_aligned(Ty::I32, CHUNK / 4, pointer, CHUNK)
    }

    /// Stores 16 bytes at a multiple of 16, whatever their lanes are.
    pub fn store_chunk(&self, pointer: Val<'c>, v: Val<'c>) {
        self.store_aligned(pointer, v, CHUNK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llvm::testing::sim::run_block;

    /// Groups arrive in their order, and what is not valid becomes zeros.
    #[test]
    fn copies_arrive_in_groups() {
        let input: Vec<u8> = (0..1024u32).map(|i| (i * 7) as u8).collect();
        for bytes in [4u32, 8, 16] {
            let size = 32 * bytes as usize;
            let (out, counters) = run_block(32, 4 * size as u32, &[input.clone(), vec![0; 2 * size]], |e, p| {
                let at = e.mul(e.thread_index(), e.int(bytes as i64));
                let shared = e.shared_memory();
                let first = e.offset(shared, at);
                let second = e.offset(first, e.int(size as i64));
                e.copy_async(first, e.offset(p[0], at), bytes, None);
                e.commit_copies();
                let odd = e.and(e.trunc(e.thread_index(), Ty::I32), e.int32(1));
                let valid = e.mul(odd, e.int32(bytes as i32 / 2));
                e.copy_async(second, e.offset(p[0], at), bytes, Some(valid));
                e.commit_copies();
                for (place, waiting) in [(first, 1), (second, 0)] {
                    e.wait_copies(waiting);
                    let to = e.offset(p[1], e.add(at, e.int((1 - waiting as i64) * size as i64)));
                    for word in 0..bytes as i64 / 4 {
                        e.store(e.offset(to, e.int(4 * word)), e.load(Ty::I32, 1, e.offset(place, e.int(4 * word))));
                    }
                }
            });
            // All of the first group, and half of what every other lane copies in the second.
            assert_eq!(counters.async_bytes as usize, size + size / 4);
            assert_eq!(out[1][..size], input[..size]);
            for (i, pair) in out[1][size..].chunks(bytes as usize).enumerate() {
                let half = bytes as usize / 2;
                let at = i * bytes as usize;
                let want = if i % 2 == 1 { &input[at..at + half] } else { &[0; 8][..half] };
                assert_eq!((&pair[..half], &pair[half..]), (want, &[0; 8][..half]), "{bytes} bytes, thread {i}");
            }
        }
    }

    fn place<'c>(e: &Emitter<'c>, row: Val<'c>, chunk: u32, chunks: u32) -> Val<'c> {
        let chunk = e.swizzled(row, e.int32(chunk as i32), chunks);
        let at = e.add(e.mul(row, e.int32(chunks as i32)), chunk);
        e.zext(e.mul(at, e.int32(16)), Ty::I64)
    }

    /// Rows and columns of chunks are read without a conflict, whatever the rows' length.
    #[test]
    fn swizzled_chunks_do_not_conflict() {
        for chunks in [1u32, 2, 4, 8, 16] {
            let rows = 32u32;
            let size = rows * chunks * 16;
            let (out, counters) = run_block(32, size, &[vec![0; size as usize]], |e, p| {
                let (shared, lane) = (e.shared_memory(), e.lane_index());
                for chunk in 0..chunks {
                    let number = e.add(e.mul(lane, e.int32(chunks as i32)), e.int32(chunk as i32));
                    e.store_chunk(e.offset(shared, place(e, lane, chunk, chunks)), e.splat(number, 4));
                }
                e.barrier();
                // Each lane a row, one chunk of each: eight rows at a time.
                for chunk in 0..chunks {
                    let v = e.load_chunk(e.offset(shared, place(e, lane, chunk, chunks)));
                    let at = e.add(e.mul(lane, e.int32(chunks as i32)), e.int32(chunk as i32));
                    e.store_chunk(e.offset(p[0], e.zext(e.mul(at, e.int32(16)), Ty::I64)), v);
                }
            });
            assert_eq!(counters.bank_conflicts, 0, "{chunks} chunks");
            let want: Vec<u8> = (0..rows * chunks).flat_map(|n| [n; 4]).flat_map(u32::to_le_bytes).collect();
            assert_eq!(out[0], want, "{chunks} chunks");
        }
    }
}
