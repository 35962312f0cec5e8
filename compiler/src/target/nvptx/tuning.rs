//! Sizes that the NVPTX target chooses.

/// Threads of a block, a power of two.
pub const THREADS: u32 = 128;

/// Output rows that a block of a contraction computes, or a little more.
pub const GROUP_ROWS: u64 = 64;

/// Elements of an inner product's invariant factor that are computed once per block and shared.
pub const KEPT_FACTOR: u64 = 2048;

/// A compute capability: what `--target sm_80` means.
pub struct Level {
    /// The target's name, also LLVM's processor.
    pub name: &'static str,
    /// PTX features for LLVM; empty takes the lowest version that knows the processor, for older drivers.
    pub features: &'static str,
}

/// Compute capabilities that kernels are generated for.
pub static LEVELS: &[Level] = &[Level { name: "sm_80", features: "" }, Level { name: "sm_90a", features: "" }];
