//! Sizes that the NVPTX target chooses.

/// Threads of a block, a power of two.
pub const THREADS: u32 = 128;

/// Threads of a block of a contraction for generated tokens: its warps share the reduced axis.
pub const FEW_THREADS: u32 = 256;

/// Sums of one token that a block of a contraction makes, for prompts: eight panels.
pub const MANY_ROWS: u64 = 128;

/// Tokens of a tile of a contraction, for prompts.
pub const MANY_TOKENS: u32 = 64;

/// Blocks of a contraction for prompts that share a multiprocessor: as many as shared memory has room for.
pub const RESIDENT: u32 = 2;

/// Stages of the pipeline from global to shared memory.
pub const STAGES: u64 = 3;

/// Blocks for each group of output rows, that walk over the tiles of tokens together.
pub const WALKERS: u64 = 16;

/// Sums of one token that a block makes, for generated tokens: one panel, so that many blocks read at once.
pub const FEW_ROWS: u64 = 16;

/// Tokens whose sums fit into registers beside the weights that they share.
pub const FEW_TOKENS: u32 = 8;

/// Panels whose parts of sums lie in shared memory at once.
pub const FEW_PANELS: u64 = 4;

/// Loads that a lane has on their way for a single token.
pub const FEW_AHEAD: i64 = 4;

/// Bytes of shared memory for the sums of a tile.
pub const SUMS_BYTES: u64 = 1 << 16;

/// Elements of an inner product's invariant factor that are computed once per block and shared.
pub const KEPT_FACTOR: u64 = 2048;

/// Threads of a block that multiply by fours of warps: two warpgroups, each with four panels of a pass.
pub const GROUP_THREADS: u32 = 256;

/// Threads beside them that bring what they multiply.
pub const GROUP_HELPERS: u32 = 128;

/// Tokens of a tile that is multiplied by fours of warps.
pub const GROUP_TOKENS: u32 = 128;

/// Bytes of shared memory for the sums of such a tile, beside a ring of stages.
pub const GROUP_SUMS_BYTES: u64 = 72 << 10;

/// Stages of the ring, a power of two: 128 KiB at most.
pub const GROUP_STAGES: u32 = 4;

/// Stages of the ring of a stream, a power of two, each a block of keys.
pub const STREAM_STAGES: u32 = 2;

/// Registers of a thread that folds a stream and of one that brings its pages, which surveys rows as the others do: together no more
/// than a multiprocessor has. A head of 256 needs so many.
pub const STREAM_REGISTERS: [u32; 2] = [224, 56];

/// Registers of a thread that multiplies and of one that brings: together no more than a multiprocessor has.
pub const GROUP_REGISTERS: [u32; 2] = [216, 72];

/// What multiplies matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// A warp: `mma.sync`, with operands in registers that `cp.async` and `ldmatrix` brought.
    Warps,
    /// Also four warps together: `wgmma`, fed by bulk copies that mbarriers count.
    Warpgroups,
}

/// A compute capability: what `--target sm_80` means.
pub struct Level {
    /// The target's name, also LLVM's processor.
    pub name: &'static str,
    /// PTX features for LLVM; empty takes the lowest version that knows the processor, for older drivers.
    pub features: &'static str,
    /// Its matrix instructions.
    pub units: Units,
}

/// Compute capabilities that kernels are generated for.
pub static LEVELS: &[Level] = &[
    Level { name: "sm_80", features: "", units: Units::Warps },
    Level { name: "sm_90a", features: "", units: Units::Warpgroups },
];
