//! The plan: what a compiled model allocates and launches, without anything about how a kernel computes.

use crate::dim::{Dim, SeqId};
use crate::dtype::Type;
use crate::format::Format;
use crate::recipe::Recipe;
use crate::scalar::Value;
use crate::tensor::TensorMap;
use serde::{Deserialize, Serialize};

/// Tokens of one page of every cache: caches are paged behind one block table per sequence.
pub const PAGE_TOKENS: u32 = 64;

/// Rows that a weight panel interleaves: one vector lane each.
pub const PANEL_LANES: u32 = 16;

/// Where the elements of an operand lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Storage {
    /// Row-major. A block format's blocks lie along the last dimension.
    Dense {
        /// Lengths, outermost first.
        dims: Vec<Dim>,
    },
    /// A weight matrix `[rows, reduce]` cut into panels of [`PANEL_LANES`] rows, the last one padded with zero
    /// bytes. A panel is, for each block along `reduce`, for each field of the format, for each group of four
    /// bytes of the field (or all its bytes where it has fewer), the group of row 0, of row 1, ... of row 15.
    Panel {
        /// Number of rows: the product of the output axes.
        rows: u64,
        /// Elements of a row: the product of the reduced axes.
        reduce: u64,
    },
    /// Pages of [`PAGE_TOKENS`] tokens found through the block table of a sequence. A page is row-major over `page`.
    Paged {
        /// Whose tokens.
        seq: SeqId,
        /// Dimensions of a page, outermost first.
        page: Vec<PageDim>,
    },
    /// Pages as a cache's, in a buffer of the step: those of each sequence of the batch one after another, found through
    /// [`Table::Bases`]. What is computed for every token of its sequences, and forgotten after the step.
    Workspace {
        /// Whose tokens.
        seq: SeqId,
        /// Dimensions of a page, outermost first.
        page: Vec<PageDim>,
    },
}

/// A dimension of a cache's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PageDim {
    /// The cached value's next axis (in the operand's index order), of this length.
    Axis(u64),
    /// Part of the token's slot in its page: `position / step % count`. The parts of one page multiply to
    /// [`PAGE_TOKENS`].
    Slot {
        /// Length of the dimension.
        count: u32,
        /// Tokens from one index to the next.
        step: u32,
    },
}

impl PageDim {
    /// Its length.
    pub const fn length(self) -> u64 {
        match self {
            PageDim::Axis(n) => n,
            PageDim::Slot { count, .. } => count as u64,
        }
    }
}

impl Storage {
    /// Bytes it takes under these lengths of the step, a page for a cache; `None` on overflow or a broken block.
    pub fn bytes(&self, format: Format, length: impl Fn(Dim) -> u64) -> Option<u64> {
        match self {
            Storage::Dense { dims } => {
                let count = dims.iter().try_fold(1u64, |n, d| n.checked_mul(length(*d)))?;
                format.bytes(count)
            }
            Storage::Panel { rows, reduce } => {
                let padded = rows.checked_next_multiple_of(PANEL_LANES as u64)?;
                format.bytes(*reduce)?.checked_mul(padded)
            }
            Storage::Paged { page, .. } => {
                let count = page.iter().try_fold(1u64, |n, d| n.checked_mul(d.length()))?;
                format.bytes(count)
            }
            Storage::Workspace { seq, page } => {
                let count = page.iter().try_fold(length(Dim::Pages(*seq)), |n, d| n.checked_mul(d.length()))?;
                format.bytes(count)
            }
        }
    }

    /// The dimensions of the step's buffer that is stored so; `None` for what no step allocates.
    pub fn buffer_dims(&self) -> Option<Vec<Dim>> {
        match self {
            Storage::Dense { dims } => Some(dims.clone()),
            Storage::Workspace { seq, page } => {
                let within = page.iter().map(|d| Dim::Const(d.length()));
                Some(std::iter::once(Dim::Pages(*seq)).chain(within).collect())
            }
            Storage::Panel { .. } | Storage::Paged { .. } => None,
        }
    }
}

/// A table that the runtime fills before each step and kernels read; one `i32` per entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Table {
    /// `[rows]`: each row's position in its own sequence.
    Positions(SeqId),
    /// `[rows]`: which sequence of the batch each row belongs to.
    RowSeq(SeqId),
    /// `[sequences]`: tokens of each sequence once this step is done.
    Lengths(SeqId),
    /// `[sequences, Dim::Blocks]`: the page of each run of [`PAGE_TOKENS`] tokens.
    Blocks(SeqId),
    /// `[picked]`: the row behind each picked row.
    Picked(SeqId),
    /// `[Dim::Tokens]`: each token's position in its own sequence.
    TokenPositions(SeqId),
    /// `[Dim::Tokens]`: which sequence of the batch each token belongs to.
    TokenSeq(SeqId),
    /// `[sequences]`: the page of a workspace where each sequence's position 0 lies, or would lie.
    Bases(SeqId),
}

impl Table {
    /// Whose tokens it is about.
    pub const fn seq(self) -> SeqId {
        match self {
            Table::Positions(s)
            | Table::RowSeq(s)
            | Table::Lengths(s)
            | Table::Blocks(s)
            | Table::Picked(s)
            | Table::TokenPositions(s)
            | Table::TokenSeq(s)
            | Table::Bases(s) => s,
        }
    }
}

/// What a compiled kernel takes, in this order: operand pointers, table pointers, dims; and how it is launched.
///
/// A CPU kernel is `extern "C" fn(pointers: *const *mut u8, dims: *const i64, begin: i64, end: i64, scratch: *mut u8)`
/// with operands and tables in one array, and computes work items `begin..end`. A CUDA kernel takes the pointers as
/// separate parameters, after them the address of its dims in the device's memory, so that a captured launch is
/// replayed with other lengths, and then the description of each of its tensors; one thread block computes one work item, and blocks beyond the last item do nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// Symbol in the target's code.
    pub symbol: String,
    /// Number of operands.
    pub operands: u32,
    /// Tables after the operands.
    pub tables: Vec<Table>,
    /// Lengths of the step that it asks for.
    pub dims: Vec<Dim>,
    /// Number of work items: the product of constants and of lengths that it asks for.
    pub items: Vec<Dim>,
    /// Bytes of scratch memory for each worker (cpu) or bytes of dynamic shared memory for each block (cuda).
    pub scratch: u64,
    /// Threads of a block (cuda); 1 on the cpu.
    pub threads: u32,
    /// Operands seen as tensors, each a parameter after the others (cuda); none on the cpu.
    #[serde(default)]
    pub tensor_maps: Vec<TensorMap>,
}

/// What an operand of a launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arg {
    /// [`Plan::buffers`].
    Buffer(u32),
    /// [`Plan::weights`].
    Weight(u32),
    /// [`Plan::caches`].
    Cache(u32),
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Which kernel, in every target's list.
    pub kernel: u32,
    /// Its operands in order.
    pub args: Vec<Arg>,
}

/// A buffer of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// For people.
    pub name: String,
    /// Element format.
    pub format: Format,
    /// Lengths, outermost first.
    pub dims: Vec<Dim>,
    /// Buffers with one number share memory: their lifetimes do not overlap.
    pub slot: u32,
}

/// A packed weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedWeight {
    /// The name in the text with its layer.
    pub name: String,
    /// Element format as kernels read it.
    pub format: Format,
    /// Dense or panels.
    pub storage: Storage,
    /// How it follows from the checkpoint's tensors.
    pub recipe: Recipe,
}

impl PackedWeight {
    /// Its packed bytes.
    ///
    /// # Panics
    /// When the plan was not validated.
    pub fn bytes(&self) -> u64 {
        let length = |d: Dim| d.as_const().expect("a validated plan's weights have constant lengths");
        self.storage.bytes(self.format, length).expect("a validated plan's weights have sizes")
    }
}

/// A cache of one value of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// For people: the cached value and its layer.
    pub name: String,
    /// Element format.
    pub format: Format,
    /// Always [`Storage::Paged`].
    pub storage: Storage,
    /// Tokens that are ever read back, when a mask bounds them.
    pub window: Option<u64>,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The name of its axis in the text.
    pub name: String,
    /// The largest length the text allows.
    pub bound: Option<u64>,
    /// Whether tokens may be appended: every read of another token looks back. Otherwise why not: the sentence a
    /// user sees who asks for generation.
    pub appendable: Result<(), String>,
}

/// An input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanInput {
    /// The name in the text.
    pub name: String,
    /// Type of its elements: int as i32, real as f32, bool as i32 (0 or 1).
    pub ty: Type,
    /// Integers must lie in `0..bound`.
    pub bound: Option<u64>,
    /// Used where the caller gives none.
    pub default: Option<Value>,
    /// Where it goes.
    pub buffer: u32,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOutput {
    /// The name in the text.
    pub name: String,
    /// Where it comes out, f32, dims outermost first. For an output over tokens the first is `Picked`, or `Rows` of which
    /// those are taken that were asked for; for a value of a whole sequence `Sequences`.
    pub buffer: u32,
}

/// What runs for tokens of one role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolePlan {
    /// In order; each sees everything the earlier ones wrote.
    pub launches: Vec<Launch>,
}

/// The greatest values of every row of an output, found where the output is. They come greatest first, the lower place
/// first among equals; NaN counts as minus infinity, and both zeros are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// [`Plan::outputs`]: one of rows with one more axis.
    pub output: u32,
    /// How many.
    pub count: u32,
    /// Run after either role's launches, where they are asked for. Only they touch the buffers that no role does.
    pub launches: Vec<Launch>,
    /// The buffer of their places along the axis, i32 `[rows, count]`.
    pub places: u32,
    /// The buffer of the values, f32 `[rows, count]`.
    pub values: u32,
}

/// A compiled model's plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The model's name.
    pub model: String,
    /// Its sequences, by [`SeqId`].
    pub seqs: Vec<Sequence>,
    /// Its inputs.
    pub inputs: Vec<PlanInput>,
    /// Its outputs.
    pub outputs: Vec<PlanOutput>,
    /// Every packed weight.
    pub weights: Vec<PackedWeight>,
    /// Every buffer.
    pub buffers: Vec<Buffer>,
    /// Every cache.
    pub caches: Vec<Cache>,
    /// Tokens of a prompt.
    pub prefill: RolePlan,
    /// Tokens that were generated; nothing where no sequence grows.
    pub decode: RolePlan,
    /// Searches that may follow either.
    #[serde(default)]
    pub best: Vec<Best>,
}

/// Code for one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetCode {
    /// `cpu:v3`, `cpu:native`, `sm_80`...
    pub target: String,
    /// Processor features the code needs, as the processor's vendor names them; the runtime checks them.
    pub features: Vec<String>,
    /// One per kernel of the plan, the same kernels in the same order for every target.
    pub kernels: Vec<KernelInfo>,
    /// A shared object (cpu) or PTX text (cuda, sim).
    #[serde(skip)]
    pub code: Vec<u8>,
}
