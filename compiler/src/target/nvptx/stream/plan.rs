//! Which streams matrix instructions can fold, read off the spec, and how their work is cut.
//!
//! What enters is a stream over keys; what leaves is a [`Plan`] where every dot and every state with axes has a place:
//! a dot's right factor and one factor of such a state are loads of pages whose elements have two bytes. Nothing is said
//! about what the other expressions are.

use super::boxes::Boxes;
use super::left::Precision;
use crate::kernel::{
    AxisRef, Dot, Expr, ExprRef, KernelExtent, KernelSpec, Operand, OperandRef, ResultRef, State, Stream,
};
use crate::target::nvptx::stores::points;
use crate::target::nvptx::tuning::{GROUP_THREADS, STREAM_STAGES, THREADS};
use llmc_artifact::plan::{PAGE_TOKENS, PageDim, Storage};
use llmc_artifact::{DType, Format, ReduceOp};

/// Rows of a matrix instruction.
pub const ROWS: u64 = 16;
/// Columns of a matrix instruction, and elements of a chunk of 16 bytes.
pub const COLUMNS: u64 = 8;
/// Keys of a block are folded in so many groups, whoever folds them: the order of sums is the same for every shape.
pub const GROUPS: u64 = 4;
/// Warps of a block.
const WARPS: u64 = THREADS as u64 / 32;
/// Those of a block that multiply by fours.
const GROUP_WARPS: u64 = GROUP_THREADS as u64 / 32;

/// Bytes of shared memory that a block has on every GPU since sm_80, and on the larger ones.
const SHARED: [u64; 2] = [99 << 10, 163 << 10];
/// Bytes of shared memory of a block that has a multiprocessor of sm_90a for itself.
const GROUP_SHARED: u64 = 227 << 10;
/// Sums that a thread keeps in registers beside factors of four bytes, each of which takes two.
const SUMS: u64 = 48;
/// The same beside factors of two bytes.
const SUMS_OF_HALVES: u64 = 64;
/// The same where helpers gave up some of theirs: beyond these the assembler keeps values in memory.
const GROUP_SUMS: u64 = 128;

/// Which way the elements of a tile of pages are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Chunks of elements of one key.
    Columns,
    /// Chunks of keys of one column.
    Keys,
    /// One by one, laid out as for [`Run::Columns`].
    Single,
}

/// A load of pages whose elements over a block of keys and over some axes make a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// From where.
    pub operand: OperandRef,
    /// Which element, the key's axis first.
    pub index: Vec<ExprRef>,
    /// Axes of a key's elements, outermost first.
    pub columns: Vec<AxisRef>,
    /// Their number.
    pub width: u64,
    /// The elements' type.
    pub dtype: DType,
    /// How they lie.
    pub run: Run,
    /// Where a block of keys is boxes of a tensor, which.
    pub boxes: Option<Boxes>,
    /// Whether what they are multiplied with is rounded to their type.
    pub halves: bool,
}

/// What a state needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No axes: one value a row.
    Scalar,
    /// A sum of products: factors without the state's axes, and pages that have them.
    Product {
        /// Multiplied in this order; none is 1.
        factors: Vec<ExprRef>,
        /// What they weigh.
        pages: Pages,
    },
}

/// How a block's warps share the work on a tile of rows and a block of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Warps of a block.
    pub warps: u64,
    /// Of which so many stand side by side along rows, with [`ROWS`] rows each.
    pub row_warps: u64,
    /// Keys of a block: they begin at multiples.
    pub keys: u64,
}

impl Shape {
    /// Rows of a tile.
    pub fn rows(self) -> u64 {
        ROWS * self.row_warps
    }

    /// Warps that share a row: along keys for dots, along columns for products.
    pub fn sharers(self) -> u64 {
        self.warps / self.row_warps
    }

    /// Columns of a product that one warp computes.
    pub fn columns(self, width: u64) -> u64 {
        width.div_ceil(COLUMNS).div_ceil(self.sharers()) * COLUMNS
    }
}

/// A stream that matrix instructions fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The folded axis.
    pub key: AxisRef,
    /// The axis of tokens, or of sequences, that look at keys.
    pub row: AxisRef,
    /// Parallel axes that no page depends on: with `row` they are the rows of tiles.
    pub packed: Vec<AxisRef>,
    /// Their number of points.
    pub group: u64,
    /// The other parallel axes: a work item has one point of them.
    pub fixed: Vec<AxisRef>,
    /// Right factors of the dots.
    pub dots: Vec<Pages>,
    /// One for each state.
    pub states: Vec<Kind>,
}

impl Plan {
    /// The plan of a stream; none where some part has no place among matrices.
    pub fn of(spec: &KernelSpec, stream: &Stream) -> Option<Plan> {
        let [key] = stream.over[..] else { return None };
        let KernelExtent::Keys { of: row, .. } = spec.axes[key.0 as usize].extent else { return None };
        let reader = Reader { spec, stream, key };
        let dots: Option<Vec<Pages>> = stream.dots.iter().map(|d| reader.dot(d)).collect();
        let states: Option<Vec<Kind>> = stream.states.iter().map(|s| reader.state(s)).collect();
        let (dots, states) = (dots?, states?);
        let pages: Vec<&Pages> = dots.iter().chain(states.iter().filter_map(Kind::pages)).collect();
        if pages.is_empty() {
            return None;
        }
        let moves = |a: &AxisRef| pages.iter().any(|p| reader.reads(&p.index[1..], &[*a]));
        let constant = |a: &AxisRef| matches!(spec.axes[a.0 as usize].extent, KernelExtent::Const(_));
        let others = || stream.parallel.iter().copied().filter(|a| *a != row);
        let packed: Vec<AxisRef> = others().filter(|a| constant(a) && !moves(a)).collect();
        let fixed = others().filter(|a| !packed.contains(a)).collect();
        let group = points(spec, &packed)?;
        (group > 0).then_some(Plan { key, row, packed, group, fixed, dots, states })
    }

    /// How the work is cut: for many tokens of a sequence at a time, or for few, where a tile has those of one token. The
    /// keys of a block, and with them the order of every sum, are the same for both.
    pub fn shape(&self, few: bool) -> Option<Shape> {
        let shapes = |row_warps: u64| [64, 32].map(|keys| Shape { warps: WARPS, row_warps, keys });
        let most = if self.all_pages().all(|p| p.halves) { SUMS_OF_HALVES } else { SUMS };
        let fits = |s: &Shape, limit: u64| self.shared_bytes(*s) <= limit && self.sums(*s) <= most;
        let limits = [(2, SHARED[0]), (1, SHARED[0]), (1, SHARED[1])];
        let narrow =
            limits.iter().find_map(|(w, limit)| Some((shapes(*w).into_iter().find(|s| fits(s, *limit))?, *limit)));
        let (narrow, limit) = narrow?;
        let with = |row_warps| Shape { row_warps, ..narrow };
        let wide = [4, 2, 1].map(with).into_iter().find(|s| fits(s, limit));
        if few { Some(with(1)) } else { wide }
    }

    /// How the work on many tokens is cut for fours of warps, each warp with rows of its own; none where a factor is not of two
    /// bytes, or pages come in no boxes.
    pub fn group_shape(&self) -> Option<Shape> {
        let shape = Shape { warps: GROUP_WARPS, row_warps: GROUP_WARPS, keys: PAGE_TOKENS as u64 };
        let whole = |p: &Pages| p.halves && p.boxes.is_some();
        let all = self.all_pages().all(whole) && self.sums(shape) <= GROUP_SUMS;
        (all && self.group_bytes(shape) <= GROUP_SHARED).then_some(shape)
    }

    /// Every load of pages.
    fn all_pages(&self) -> impl Iterator<Item = &Pages> {
        self.dots.iter().chain(self.states.iter().filter_map(Kind::pages))
    }

    /// Shared memory of a block of fours of warps, nearly.
    fn group_bytes(&self, shape: Shape) -> u64 {
        let left: u64 = self.dots.iter().map(|p| super::left::turned(shape.rows(), p.width)).sum();
        let stage: u64 =
            super::right::sized(self, shape).map(|(p, padded)| super::right::turned(p, shape.keys, padded)).sum();
        let products = self.states.iter().filter_map(Kind::pages);
        let out: u64 = products.map(|p| super::left::bytes(Precision::Split, shape.rows(), p.width)).sum();
        left + out.max(STREAM_STAGES as u64 * stage) + self.states.len() as u64 * shape.rows() * 8 + 256
    }

    /// Sums of products in a thread's registers.
    fn sums(&self, shape: Shape) -> u64 {
        let widths = self.states.iter().filter_map(Kind::pages).map(|p| p.width);
        widths.map(|w| shape.columns(w) / COLUMNS * 4).sum()
    }

    /// Shared memory of a block, nearly.
    fn shared_bytes(&self, shape: Shape) -> u64 {
        let left: u64 = self.dots.iter().map(|p| super::left::bytes(p.precision(), shape.rows(), p.width)).sum();
        let dots: u64 =
            self.dots.iter().map(|p| super::right::bytes(p, shape.keys, p.width.next_multiple_of(ROWS))).sum();
        let products = || self.states.iter().filter_map(Kind::pages);
        let padded = |p: &Pages| shape.columns(p.width) * shape.sharers();
        let right: u64 = dots + products().map(|p| super::right::bytes(p, shape.keys, padded(p))).sum::<u64>();
        let out: u64 = products().map(|p| super::left::bytes(Precision::Split, shape.rows(), p.width)).sum();
        let shared = products().map(|p| super::left::bytes(p.precision(), shape.rows(), shape.keys)).sum::<u64>();
        let shared = if shape.sharers() > 1 { shared } else { 0 };
        left + right.max(out) + shared + self.states.len() as u64 * shape.rows() * GROUPS * 4 * 8
    }
}

impl Pages {
    /// How a left factor is multiplied with them.
    pub fn precision(&self) -> Precision {
        if self.halves { Precision::Halves(self.dtype) } else { Precision::Split }
    }
}

impl Kind {
    /// The pages of a product.
    pub fn pages(&self) -> Option<&Pages> {
        match self {
            Kind::Scalar => None,
            Kind::Product { pages, .. } => Some(pages),
        }
    }
}

struct Reader<'a> {
    spec: &'a KernelSpec,
    stream: &'a Stream,
    key: AxisRef,
}

impl Reader<'_> {
    fn dot(&self, dot: &Dot) -> Option<Pages> {
        self.pages(dot.right, &dot.reduce, &[dot.left])
    }

    fn state(&self, state: &State) -> Option<Kind> {
        let repairs: Vec<ExprRef> = state.repair.exprs().collect();
        if self.reads(&repairs, &state.axes) || !self.is_plain(&repairs) {
            return None;
        }
        if state.axes.is_empty() {
            return self.is_plain(&[state.body]).then_some(Kind::Scalar);
        }
        let all = self.spec.exprs.factors(state.body);
        let (with, factors): (Vec<_>, Vec<_>) = all.into_iter().partition(|f| self.reads(&[*f], &state.axes));
        let [load] = with[..] else { return None };
        let pages = self.pages(load, &state.axes, &factors)?;
        (state.op == ReduceOp::Sum && self.is_plain(&factors)).then_some(Kind::Product { factors, pages })
    }

    /// Whether expressions depend on one of these axes themselves.
    fn reads(&self, roots: &[ExprRef], axes: &[AxisRef]) -> bool {
        let exprs = &self.spec.exprs;
        exprs.reachable(roots).iter().any(|x| matches!(&exprs[*x], Expr::Axis(a) if axes.contains(a)))
    }

    /// Whether every result that expressions read is one value a row, or a dot, where it stands.
    fn is_plain(&self, roots: &[ExprRef]) -> bool {
        let exprs = &self.spec.exprs;
        let scalar = |r: ResultRef| {
            let state = (r.0 as usize).checked_sub(self.stream.dots.len());
            state.is_none_or(|s| self.stream.states[s].axes.is_empty())
        };
        exprs.reachable(roots).iter().all(|x| match &exprs[*x] {
            Expr::Result { result, moved } => moved.is_empty() && scalar(*result),
            Expr::Old(r) => scalar(*r),
            Expr::Const(_)
            | Expr::Axis(_)
            | Expr::Position(_)
            | Expr::Row(_)
            | Expr::Length(_)
            | Expr::Sequence(_)
            | Expr::Load { .. }
            | Expr::Rounded(..)
            | Expr::Map(..) => true,
        })
    }

    /// A load of pages of two bytes at the key, the other indices made of constant axes alone.
    fn pages(&self, e: ExprRef, columns: &[AxisRef], left: &[ExprRef]) -> Option<Pages> {
        let Expr::Load { operand, index } = &self.spec.exprs[e] else { return None };
        let Operand { format, storage, .. } = &self.spec.operands[operand.0 as usize];
        let page = match storage {
            Storage::Paged { page, .. } | Storage::Workspace { page, .. } => page,
            Storage::Dense { .. } | Storage::Panel { .. } => return None,
        };
        let dtype = match format.plain()? {
            dtype @ (DType::F16 | DType::BF16) => dtype,
            DType::F32 | DType::I32 | DType::I8 | DType::U8 => return None,
        };
        let at_key = self.spec.exprs[index[0]] == Expr::Axis(self.key);
        let constant = |a: AxisRef| matches!(self.spec.axes[a.0 as usize].extent, KernelExtent::Const(_));
        let simple = self.spec.exprs.reachable(&index[1..]).iter().all(|x| match &self.spec.exprs[*x] {
            Expr::Const(_) | Expr::Map(..) => true,
            Expr::Axis(a) => constant(*a),
            Expr::Position(_)
            | Expr::Row(_)
            | Expr::Length(_)
            | Expr::Sequence(_)
            | Expr::Load { .. }
            | Expr::Result { .. }
            | Expr::Rounded(..)
            | Expr::Old(_) => false,
        });
        let width = points(self.spec, columns)?;
        let (operand, index, columns) = (*operand, index.clone(), columns.to_vec());
        let run = self.run(*format, page, &index, &columns);
        let boxes = Boxes::of(&self.spec.exprs, page, &index, &columns, run);
        let halves = matches!(left, [l] if matches!(self.spec.exprs[*l], Expr::Rounded(to, _) if to == dtype));
        (at_key && simple && width > 0).then_some(Pages { operand, index, columns, width, dtype, run, boxes, halves })
    }

    /// Which elements lie side by side in whole chunks.
    fn run(&self, format: Format, page: &[PageDim], index: &[ExprRef], columns: &[AxisRef]) -> Run {
        let chunk = 16 / format.block_bytes() as u64;
        match page.last() {
            Some(PageDim::Slot { count, step: 1 }) if (*count as u64).is_multiple_of(chunk) => Run::Keys,
            Some(PageDim::Axis(n)) if n % chunk == 0 => {
                let inner = columns.last().filter(|a| self.spec.dim(**a).and_then(|d| d.as_const()) == Some(*n));
                let last = index.last().map(|i| &self.spec.exprs[*i]);
                match (last, inner) {
                    (Some(Expr::Axis(a)), Some(inner)) if a == inner => Run::Columns,
                    _ => Run::Single,
                }
            }
            Some(PageDim::Slot { .. } | PageDim::Axis(_)) | None => Run::Single,
        }
    }
}

const _: () = assert!(PAGE_TOKENS == 64);
