//! Evaluating a recipe: from the tensors of a checkpoint to a packed weight.
//!
//! Where the value is an element of one tensor and whole runs of the result lie in the file one after another, the
//! bytes are copied run by run, so a block format stays what it is. Everything else is evaluated point by point in
//! f64 and rounded to the target's plain format. A recipe comes from a file: whatever it says, the answer is a weight
//! or an error.

mod check;
mod points;
mod runs;

use super::{Recipe, RecipeNode};
use crate::checkpoint::TensorData;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::format::Format;
use crate::panel::PanelLayout;
use crate::plan::{PANEL_LANES, PackedWeight, Storage};
use check::Checked;
use points::Points;
use runs::Runs;

/// Why a recipe gave no weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// The recipe itself is malformed, whatever the checkpoint holds.
    #[error("the recipe is malformed: {0}")]
    Malformed(String),
    /// The file lacks a tensor that the recipe reads.
    #[error("the checkpoint has no tensor `{0}`, which the model was compiled for")]
    MissingTensor(String),
    /// A tensor is not as large as the model was compiled for.
    #[error("tensor `{name}` has {found} bytes, but the model was compiled for {expected}")]
    TensorSize {
        /// Its name in the file.
        name: String,
        /// Bytes in the file.
        found: u64,
        /// Bytes that its shape and format take.
        expected: u64,
    },
    /// A tensor is not of the shape or the format that the model was compiled for.
    #[error("tensor `{name}` is {found}, but the model was compiled for {expected}")]
    TensorInfo {
        /// Its name in the file.
        name: String,
        /// Format and shape in the file.
        found: String,
        /// Format and shape that the recipe reads.
        expected: String,
    },
    /// A computed index lies outside its tensor.
    #[error("index {index} is outside dimension {dimension} of tensor `{name}`, which is {length} long")]
    OutOfRange {
        /// The tensor.
        name: String,
        /// Which dimension, outermost first.
        dimension: usize,
        /// Its length.
        length: u64,
        /// What the recipe computed.
        index: i64,
    },
    /// Values that are computed, not copied, cannot be stored in a block format.
    #[error("computed values cannot be stored as `{0}`: only whole blocks of the file can")]
    NotCopied(Format),
}

/// Evaluates a weight's recipe into new memory, `threads` at a time.
///
/// # Errors
/// See [`RecipeError`].
pub fn packed(weight: &PackedWeight, data: &dyn TensorData, threads: usize) -> Result<Vec<u8>, RecipeError> {
    let target = Target::new(weight.format, &weight.storage)?;
    let source = Checked::new(&weight.recipe, data)?;
    target.fits(&source)?;
    let mut out = vec![0; target.bytes];
    fill(&source, &target, threads, &mut out)?;
    Ok(out)
}

/// Evaluates a weight's recipe into `out`, which is as long as the weight's storage; `threads` at a time.
///
/// # Errors
/// See [`RecipeError`]; also when `out` has another length than the storage.
pub fn pack_into(
    weight: &PackedWeight,
    data: &dyn TensorData,
    threads: usize,
    out: &mut [u8],
) -> Result<(), RecipeError> {
    let target = Target::new(weight.format, &weight.storage)?;
    let source = Checked::new(&weight.recipe, data)?;
    target.fits(&source)?;
    if out.len() != target.bytes {
        return Err(malformed(format!("its weight takes {} bytes, not {}", target.bytes, out.len())));
    }
    fill(&source, &target, threads, out)
}

fn malformed(what: impl Into<String>) -> RecipeError {
    RecipeError::Malformed(what.into())
}

/// The stored weight as a matrix: rows that are written one at a time.
struct Target {
    format: Format,
    rows: usize,
    columns: usize,
    panel: Option<PanelLayout>,
    bytes: usize,
}

impl Target {
    fn new(format: Format, storage: &Storage) -> Result<Target, RecipeError> {
        let (rows, columns, panel) = match storage {
            Storage::Dense { dims } => {
                let (rows, columns) = dense_matrix(dims)?;
                (rows, columns, None)
            }
            Storage::Panel { rows, reduce } => {
                let layout = PanelLayout::new(format, *rows, *reduce)
                    .ok_or_else(|| malformed(format!("no `{format}` weight is {rows} by {reduce}")))?;
                (*rows, *reduce, Some(layout))
            }
            Storage::Paged { .. } | Storage::Workspace { .. } => return Err(malformed("a weight is never paged")),
        };
        let row_bytes = format
            .bytes(columns)
            .ok_or_else(|| malformed(format!("a row of {columns} elements is no whole number of `{format}` blocks")))?;
        let padded = if panel.is_some() { rows.next_multiple_of(PANEL_LANES as u64) } else { rows };
        let bytes = padded
            .checked_mul(row_bytes)
            .and_then(|b| isize::try_from(b).ok())
            .ok_or_else(|| malformed("its weight does not fit an address space"))?;
        Ok(Target { format, rows: rows as usize, columns: columns as usize, panel, bytes: bytes as usize })
    }

    /// Whether the recipe's value has as many elements as the storage.
    fn fits(&self, source: &Checked) -> Result<(), RecipeError> {
        let stored = self.rows as u64 * self.columns as u64;
        if source.elements == stored {
            Ok(())
        } else {
            Err(malformed(format!("it has {} elements where its storage has {stored}", source.elements)))
        }
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.format.block() * self.format.block_bytes()
    }
}

/// A dense weight's rows are all its dimensions but the last.
fn dense_matrix(dims: &[Dim]) -> Result<(u64, u64), RecipeError> {
    let lengths: Option<Vec<u64>> = dims.iter().map(|d| d.as_const()).collect();
    let lengths = lengths.ok_or_else(|| malformed("a weight's size never depends on the step"))?;
    let columns = lengths.last().copied().unwrap_or(1);
    let rows = lengths.iter().rev().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d));
    match rows {
        Some(rows) if rows.checked_mul(columns).is_some() => Ok((rows, columns)),
        _ => Err(malformed("its weight does not fit an address space")),
    }
}

/// One way of making rows; a worker has its own.
enum Rows<'a> {
    Copied(Runs<'a>),
    Computed(Box<Points<'a>>, DType),
}

impl<'a> Rows<'a> {
    fn new(source: &'a Checked<'a>, format: Format) -> Result<Rows<'a>, RecipeError> {
        if let Some(runs) = Runs::new(source, format) {
            return Ok(Rows::Copied(runs));
        }
        let dtype = format.plain().ok_or(RecipeError::NotCopied(format))?;
        Ok(Rows::Computed(Box::new(Points::new(source)), dtype))
    }

    /// Elements `start..` of the weight, as many as `row` holds.
    fn write(&mut self, start: u64, row: &mut [u8]) -> Result<(), RecipeError> {
        match self {
            Rows::Copied(runs) => runs.write(start, row),
            Rows::Computed(points, dtype) => points.write(start, *dtype, row),
        }
    }
}

fn fill(source: &Checked, target: &Target, threads: usize, out: &mut [u8]) -> Result<(), RecipeError> {
    if out.is_empty() {
        return Ok(());
    }
    Rows::new(source, target.format)?;
    let per_part = if target.panel.is_some() { PANEL_LANES as usize } else { 1 };
    let parts = target.rows.div_ceil(per_part);
    let parts_each = parts.div_ceil(threads.max(1));
    let bytes_each = parts_each * per_part * target.row_bytes();
    std::thread::scope(|scope| {
        let workers: Vec<_> = out
            .chunks_mut(bytes_each)
            .enumerate()
            .map(|(i, out)| scope.spawn(move || fill_rows(source, target, i * parts_each * per_part, out)))
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("recipe evaluation: a worker panicked"))
    })
}

/// Fills `out` with the rows from `first` on.
fn fill_rows(source: &Checked, target: &Target, first: usize, out: &mut [u8]) -> Result<(), RecipeError> {
    let mut rows = Rows::new(source, target.format)?;
    let start = |row: usize| row as u64 * target.columns as u64;
    let Some(layout) = &target.panel else {
        for (i, row) in out.chunks_mut(target.row_bytes()).enumerate() {
            rows.write(start(first + i), row)?;
        }
        return Ok(());
    };
    let lanes = PANEL_LANES as usize;
    let mut row = vec![0; target.row_bytes()];
    for (i, panel) in out.chunks_mut(layout.panel_bytes()).enumerate() {
        let first = first + i * lanes;
        let held = lanes.min(target.rows - first);
        if held < lanes {
            panel.fill(0);
        }
        for lane in 0..held {
            rows.write(start(first + lane), &mut row)?;
            layout.write_row(panel, lane, &row);
        }
    }
    Ok(())
}

/// Row-major indices of element `at` along axes of these lengths, outermost first.
fn unravel(mut at: u64, lengths: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator, to: &mut [u64]) {
    for (slot, length) in to.iter_mut().rev().zip(lengths.rev()) {
        *slot = at % length;
        at /= length;
    }
}

/// A list of nodes, operands before users.
type Nodes = Vec<RecipeNode>;

#[cfg(test)]
mod tests;
