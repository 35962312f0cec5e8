//! Sizes that the CPU target chooses.

/// Lanes of the vectors that families work with: one AVX-512 register of f32, two of AVX2, four of SSE.
pub const WIDTH: u32 = 16;

/// Elements of a map's innermost axis that one work item computes.
pub const MAP_CHUNK: u64 = 512;

/// Vectors of a state that stay in registers while a block of keys is folded in.
pub const STATE_VECTORS: u64 = 4;

/// Independent chains of an inner product: they hide the latency of the multiply-add.
pub const DOT_CHAINS: i64 = 4;

/// Elements of an inner product's invariant factor that are computed once per item and kept.
pub const KEPT_FACTOR: u64 = 4096;

/// Bytes of an array that a stream keeps on the stack; larger ones are in scratch memory.
pub const STACK_BYTES: u64 = 16 << 10;

/// A processor level: what `--target cpu:NAME` means.
pub struct Level {
    /// After `cpu:`.
    pub name: &'static str,
    /// LLVM's name of the processor to schedule for.
    pub cpu: &'static str,
    /// What the processor must have, as its vendor names it; also LLVM's names.
    pub features: &'static [&'static str],
}

const V2: &[&str] = &["sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"];
const V3: &[&str] =
    &["sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"];
const V4: &[&str] = &[
    "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe",
    "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
];

/// The levels of the x86-64 psABI.
pub static LEVELS: &[Level] = &[
    Level { name: "v2", cpu: "x86-64-v2", features: V2 },
    Level { name: "v3", cpu: "x86-64-v3", features: V3 },
    Level { name: "v4", cpu: "x86-64-v4", features: V4 },
];

/// Features of the host that code is allowed to use: those that kernels gain from, so that the list which a stored
/// artifact demands stays short.
pub static NATIVE: &[&str] = &[
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "popcnt",
    "avx",
    "avx2",
    "bmi",
    "bmi2",
    "f16c",
    "fma",
    "lzcnt",
    "movbe",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512vnni",
    "avxvnni",
];

/// Output rows that one work item of a contraction computes, where nothing asks for more: few enough that the items of
/// a small projection spread over threads.
pub const GROUP_ROWS: u64 = 32;

/// What a contraction keeps in registers. None of it changes a bit of a result but `chains`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Tokens that share each load of a weight: a power of two.
    pub tokens: u32,
    /// Rows of a quantised panel at once, where several tokens need registers; otherwise it is all 16.
    pub quantised_lanes: u32,
    /// Partial sums of a row and token: they hide the latency of the multiply-add.
    pub chains: u32,
}

/// Tiles by the feature that gives the registers, best first; the last needs none.
pub static TILES: &[(Option<&str>, Tile)] = &[
    (Some("avx512f"), Tile { tokens: 4, quantised_lanes: 16, chains: 4 }),
    (Some("avx2"), Tile { tokens: 4, quantised_lanes: 8, chains: 1 }),
    (None, Tile { tokens: 4, quantised_lanes: 4, chains: 1 }),
];

/// The tile for a processor with these features.
pub fn tile(has: impl Fn(&str) -> bool) -> Tile {
    let fits = TILES.iter().find(|(needs, _)| needs.is_none_or(&has));
    fits.expect("the last tile needs nothing").1
}
