//! A block of keys' pages as boxes of a tensor, which one thread copies.
//!
//! What enters is how a page lies; what leaves is a tensor of at most five axes: the columns that a matrix wants, the slots of a
//! page, and what stays where it is for a work item, the pages themselves among it. Neighbours that move together are one axis.

use super::plan::{ROWS, Run};
use crate::kernel::{AxisRef, Expr, ExprRef, Exprs, OperandRef};
use crate::llvm::{SPAN, Scope, Ty, Val};
use llmc_artifact::plan::PageDim;
use llmc_artifact::tensor::{TensorMap, Turns};

/// Bytes of an element.
const ELEMENT: u32 = 2;
/// Axes of a tensor at most.
const AXES: usize = 5;
/// Elements of a box along an axis at most.
const MOST: u64 = 256;

/// An axis of the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dimension {
    /// All of a page's slots, or the part of them that lies here: so many.
    Slots(u64),
    /// The columns.
    Columns,
    /// Indices that a work item does not change, each with its length, outermost first; of the outermost axis behind the page's number.
    Fixed(Vec<(ExprRef, u64)>),
}

/// A page's elements as a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boxes {
    /// Innermost first; the last is fixed and has the pages.
    dimensions: Vec<Dimension>,
    /// Number of columns.
    width: u64,
    turns: Turns,
}

/// Bytes of a page's elements that lie side by side in shared memory, and take turns.
pub fn turns(run: Run) -> Turns {
    match run {
        Run::Columns | Run::Single => Turns::Of128,
        // Sixteen keys of a column are side by side in a page.
        Run::Keys => Turns::Of32,
    }
}

impl Boxes {
    /// The boxes of a page with these dimensions, whose elements are found by `index` and whose columns are those axes; none where
    /// they are not the elements of one.
    pub fn of(exprs: &Exprs, page: &[PageDim], index: &[ExprRef], columns: &[AxisRef], run: Run) -> Option<Boxes> {
        let moves = |x: ExprRef| {
            exprs.reachable(&[x]).iter().any(|y| matches!(&exprs[*y], Expr::Axis(a) if columns.contains(a)))
        };
        let (mut dimensions, mut width) = (vec![Dimension::Fixed(Vec::new())], 1);
        let (mut index, mut next) = (index[1..].iter(), columns.iter());
        for dim in page {
            match *dim {
                PageDim::Slot { count, .. } => dimensions.push(Dimension::Slots(count as u64)),
                PageDim::Axis(n) => {
                    let i = *index.next()?;
                    match (moves(i), dimensions.last_mut()?) {
                        (false, Dimension::Fixed(all)) => all.push((i, n)),
                        (false, _) => dimensions.push(Dimension::Fixed(vec![(i, n)])),
                        (true, last) => {
                            let own = next.next().is_some_and(|a| exprs[i] == Expr::Axis(*a));
                            if !own {
                                return None;
                            }
                            width *= n;
                            if *last != Dimension::Columns {
                                dimensions.push(Dimension::Columns);
                            }
                        }
                    }
                }
            }
        }
        dimensions.reverse();
        let (boxes, all) = (Boxes { dimensions, width, turns: turns(run) }, next.next().is_none());
        (all && boxes.is_read_by_lines(run)).then_some(boxes)
    }

    /// Whether a box lies in shared memory as the lines of a matrix do.
    fn is_read_by_lines(&self, run: Run) -> bool {
        let moving: Vec<&Dimension> = self.dimensions.iter().filter(|d| !matches!(d, Dimension::Fixed(_))).collect();
        let sixteen = SPAN as u64 / 4 / ELEMENT as u64;
        let lines = match (run, moving.as_slice()) {
            (Run::Columns, [Dimension::Columns, Dimension::Slots(_)]) => true,
            (Run::Keys, [Dimension::Slots(n), Dimension::Columns, Dimension::Slots(_)]) => {
                *n == sixteen && self.width.next_multiple_of(ROWS) <= MOST
            }
            _ => false,
        };
        // Of what turns within a line nothing but its own elements.
        lines && !matches!(self.dimensions[0], Dimension::Fixed(_)) && self.dimensions.len() <= AXES
    }

    /// Elements of a box along the columns, where a tile has `padded` of them.
    fn columns(&self, padded: u64) -> u64 {
        match self.turns {
            Turns::Of128 => (SPAN / ELEMENT) as u64,
            Turns::Of32 | Turns::Of64 | Turns::None => padded,
        }
    }

    /// The tensor, whose boxes are a tile's that has `padded` columns.
    pub fn tensor_map(&self, operand: OperandRef, padded: u64) -> TensorMap {
        let size = |d: &Dimension| match d {
            Dimension::Slots(n) => *n,
            Dimension::Columns => self.width,
            Dimension::Fixed(all) => all.iter().map(|(_, n)| n).product(),
        };
        let tile = |d: &Dimension| match d {
            Dimension::Slots(n) => *n as u32,
            Dimension::Columns => self.columns(padded) as u32,
            Dimension::Fixed(_) => 1,
        };
        // The device knows how many pages there are.
        let sizes = self.dimensions[..self.dimensions.len() - 1].iter().map(size).collect();
        let tile = self.dimensions.iter().map(tile).collect();
        TensorMap { operand: operand.0 as u32, element: ELEMENT, sizes, tile, turns: self.turns }
    }

    /// Where the boxes of a tile begin, of which `padded` columns are wanted, from this page on: coordinates, innermost first.
    pub fn coordinates<'c>(&self, scope: &Scope<'_, 'c>, page: Val<'c>, padded: u64) -> Vec<Vec<Val<'c>>> {
        let e = scope.emitter();
        let fixed = |from: Val<'c>, all: &[(ExprRef, u64)]| {
            let index = |at, (i, n): &(ExprRef, u64)| e.add(e.mul(at, e.int(*n as i64)), scope.int(*i).value);
            e.trunc(all.iter().fold(from, index), Ty::I32)
        };
        let outermost = self.dimensions.len() - 1;
        let begin = |(number, d): (usize, &Dimension), column: u64| match d {
            Dimension::Slots(_) => e.int32(0),
            Dimension::Columns => e.int32(column as i32),
            Dimension::Fixed(all) => fixed(if number == outermost { page } else { e.int(0) }, all),
        };
        let columns = (0..padded).step_by(self.columns(padded) as usize);
        columns.map(|column| self.dimensions.iter().enumerate().map(|d| begin(d, column)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sample::Sample;

    /// Two heads of 80 columns.
    fn boxes(run: Run, page: &[PageDim], order: [usize; 2]) -> Option<Boxes> {
        let mut s = Sample::new("k");
        let (h, c) = (s.length("h", 2), s.length("c", 80));
        let (zero, at) = (s.int(0), [s.at(h), s.at(c)]);
        Boxes::of(&s.spec.exprs, page, &[zero, at[order[0]], at[order[1]]], &[c], run)
    }

    fn map(boxes: Boxes, padded: u64) -> (Vec<u64>, Vec<u32>, Turns) {
        let map = boxes.tensor_map(OperandRef(0), padded);
        (map.sizes, map.tile, map.turns)
    }

    #[test]
    fn what_stays_where_it_is_counts_with_the_pages() {
        let (heads, columns, slots) = (PageDim::Axis(2), PageDim::Axis(80), PageDim::Slot { count: 64, step: 1 });
        let found = map(boxes(Run::Columns, &[heads, slots, columns], [0, 1]).unwrap(), 80);
        assert_eq!(found, (vec![80, 64], vec![64, 64, 1], Turns::Of128));
        let found = map(boxes(Run::Columns, &[slots, heads, columns], [0, 1]).unwrap(), 80);
        assert_eq!(found, (vec![80, 2, 64], vec![64, 1, 64, 1], Turns::Of128));
        let (outer, inner) = (PageDim::Slot { count: 4, step: 16 }, PageDim::Slot { count: 16, step: 1 });
        let found = map(boxes(Run::Keys, &[heads, outer, columns, inner], [0, 1]).unwrap(), 96);
        assert_eq!(found, (vec![16, 80, 4], vec![16, 96, 4, 1], Turns::Of32));
    }

    #[test]
    fn elements_of_no_box_are_told_apart() {
        let (heads, columns, slots) = (PageDim::Axis(2), PageDim::Axis(80), PageDim::Slot { count: 64, step: 1 });
        // Another head lies between two columns.
        assert_eq!(boxes(Run::Columns, &[slots, columns, heads], [1, 0]), None);
        // All keys of a column side by side: more than take turns.
        assert_eq!(boxes(Run::Keys, &[heads, columns, slots], [0, 1]), None);
        assert_eq!(boxes(Run::Single, &[heads, slots, columns], [0, 1]), None);
    }
}
