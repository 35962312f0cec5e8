//! The arithmetic of occupancy that the bench prints beside counts. A bench without a harness has no tests of its own.

#[path = "../../benches/gpu/occupancy.rs"]
mod arithmetic;

use arithmetic::{A100, Block, HOPPER, Multiprocessor};

fn blocks(of: Multiprocessor, threads: u32, registers: u32, shared: u64) -> u32 {
    of.blocks(Block { threads, registers, shared })
}

#[test]
fn each_limit_binds_where_it_is_the_least() {
    assert_eq!(blocks(A100, 32, 16, 0), 32, "blocks");
    assert_eq!(blocks(A100, 256, 32, 0), 8, "warps");
    assert_eq!(blocks(A100, 256, 33, 0), 6, "registers of a warp come in units of 256");
    assert_eq!(blocks(A100, 128, 255, 0), 2, "registers");
    assert_eq!(blocks(A100, 96, 168, 0), 4, "warps come in fours");
    assert_eq!(blocks(A100, 128, 32, 40 << 10), 4, "shared memory");
    assert_eq!(blocks(A100, 128, 32, 41 << 10), 3, "each block's reserved kilobyte");
    assert_eq!(blocks(HOPPER, 128, 32, 41 << 10), 5, "more shared memory");
    assert_eq!(blocks(HOPPER, 384, 168, 194 << 10), 1);
}
