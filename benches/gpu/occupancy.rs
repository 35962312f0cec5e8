//! How many blocks of a kernel fit a multiprocessor at once: arithmetic of published limits, not a measurement.

/// What a multiprocessor has for the blocks on it.
#[derive(Clone, Copy, Debug)]
pub struct Multiprocessor {
    /// Bytes of shared memory for all blocks.
    pub shared: u64,
}

/// Registers of 32 bits, warps and blocks of a multiprocessor, equal on all below.
const REGISTERS: u32 = 65536;
const WARPS: u32 = 64;
const BLOCKS: u32 = 32;

/// A warp's registers are given in units of this many, its multiprocessor's warps in fours: one of each quarter.
const REGISTERS_UNIT: u32 = 256;
const QUARTERS: u32 = 4;

/// Shared memory is given in units of this many bytes, and each block's has so many of the system's own beside it.
const SHARED_UNIT: u64 = 128;
const SHARED_RESERVED: u64 = 1024;

/// An A100: what runs code for `sm_80`.
pub const A100: Multiprocessor = Multiprocessor { shared: 164 << 10 };
/// An H100 or H200: what runs code for `sm_90a`.
pub const HOPPER: Multiprocessor = Multiprocessor { shared: 228 << 10 };

/// What a block asks of a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub threads: u32,
    /// Registers of a thread, as the assembler gives them.
    pub registers: u32,
    /// Bytes of shared memory.
    pub shared: u64,
}

impl Block {
    pub fn warps(self) -> u32 {
        self.threads.div_ceil(32)
    }
}

impl Multiprocessor {
    /// Blocks that it holds at once: as many as warps, registers, shared memory and the limit of blocks allow.
    pub fn blocks(self, block: Block) -> u32 {
        let of_warp = (32 * block.registers.max(1)).next_multiple_of(REGISTERS_UNIT);
        let warps = QUARTERS * (REGISTERS / QUARTERS / of_warp);
        let by_registers = warps / block.warps();
        let shared = (block.shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let by_shared = u32::try_from(self.shared / shared).unwrap_or(BLOCKS);
        BLOCKS.min(WARPS / block.warps()).min(by_registers).min(by_shared)
    }
}
