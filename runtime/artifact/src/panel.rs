//! Weight panels: the packing behind [`Storage::Panel`](crate::plan::Storage).
//!
//! A kernel that multiplies a weight computes [`PANEL_LANES`] output rows at once, one per vector lane, so the bytes
//! of those rows lie interleaved: for each block along `reduce`, for each field of the format, for each group of four
//! bytes of the field, the groups of all rows one after another. A plain `f32` weight becomes `[reduce, 16]`; the
//! nibbles of four neighbouring bytes of all rows of a `q4_1` block become one vector register.

use crate::format::Format;
use crate::plan::PANEL_LANES;

/// Bytes of a field that stay together; what a 32-bit integer dot instruction eats.
pub const GROUP: usize = 4;
const LANES: usize = PANEL_LANES as usize;

/// The byte layout of a weight `[rows, reduce]` in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    /// Element format.
    pub format: Format,
    /// Output rows.
    pub rows: usize,
    /// Elements of a row.
    pub reduce: usize,
}

impl PanelLayout {
    /// The layout, or `None` where a row is no whole number of blocks or the bytes do not fit an address space.
    pub fn new(format: Format, rows: u64, reduce: u64) -> Option<PanelLayout> {
        let padded = rows.checked_next_multiple_of(LANES as u64)?;
        let bytes = format.bytes(reduce)?.checked_mul(padded)?;
        isize::try_from(bytes).ok()?;
        Some(PanelLayout { format, rows: usize::try_from(rows).ok()?, reduce: usize::try_from(reduce).ok()? })
    }

    /// Bytes of one row before packing.
    pub fn row_bytes(&self) -> usize {
        self.reduce / self.format.block() * self.format.block_bytes()
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.row_bytes() * LANES
    }

    /// Number of panels; the last may have fewer rows than lanes.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Writes one row, `row_bytes()` long, into its lane of a panel.
    ///
    /// # Panics
    /// When a slice has another length than the layout says or `lane` is no lane.
    pub fn write_row(&self, panel: &mut [u8], lane: usize, row: &[u8]) {
        assert!(panel.len() == self.panel_bytes() && row.len() == self.row_bytes() && lane < LANES);
        let block = self.format.block_bytes();
        let mut at = 0;
        for field in self.format.spec().fields {
            let bytes = field.lanes.bytes(field.count);
            let whole = bytes / GROUP * GROUP;
            for group in (0..whole).step_by(GROUP) {
                scatter::<GROUP>(panel, row, block, at + group, lane);
            }
            match bytes - whole {
                0 => {}
                2 => scatter::<2>(panel, row, block, at + whole, lane),
                1 => scatter::<1>(panel, row, block, at + whole, lane),
                rest => panic!("panel packing: a field ends in a group of {rest} bytes"),
            }
            at += bytes;
        }
    }

    /// Where byte `byte` of the block `block` of a row lies in the packed weight.
    fn byte_at(&self, row: usize, block: usize, byte: usize) -> usize {
        let mut at = 0;
        for field in self.format.spec().fields {
            let bytes = field.lanes.bytes(field.count);
            if byte < at + bytes {
                let group = (byte - at) / GROUP * GROUP;
                let width = GROUP.min(bytes - group);
                return row / LANES * self.panel_bytes()
                    + block * self.format.block_bytes() * LANES
                    + (at + group) * LANES
                    + row % LANES * width
                    + (byte - at - group);
            }
            at += bytes;
        }
        panic!("panel layout: byte {byte} is outside a block of {}", self.format)
    }

    /// The value of one element: slow, for the reference and for tests.
    ///
    /// # Panics
    /// When the element is outside the weight or `packed` shorter than [`PanelLayout::bytes`].
    pub fn read(&self, packed: &[u8], row: usize, column: usize) -> f32 {
        assert!(row < self.rows && column < self.reduce);
        let (block, i) = (column / self.format.block(), column % self.format.block());
        let bytes: Vec<u8> = (0..self.format.block_bytes()).map(|b| packed[self.byte_at(row, block, b)]).collect();
        self.format.spec().decode(&bytes, i)
    }

    /// Packs a row-major weight.
    ///
    /// # Panics
    /// When `rows` or `packed` has another length than the layout says.
    pub fn pack(&self, rows: &[u8], packed: &mut [u8]) {
        assert!(rows.len() == self.rows * self.row_bytes() && packed.len() == self.bytes());
        if rows.is_empty() {
            return;
        }
        let from = rows.chunks(self.panel_bytes());
        for (panel, rows) in packed.chunks_mut(self.panel_bytes()).zip(from) {
            if rows.len() < panel.len() {
                panel.fill(0);
            }
            for (lane, row) in rows.chunks(self.row_bytes()).enumerate() {
                self.write_row(panel, lane, row);
            }
        }
    }
}

/// Copies the `N` bytes at `at` of every block of a row to their place in the panel.
fn scatter<const N: usize>(panel: &mut [u8], row: &[u8], block: usize, at: usize, lane: usize) {
    for (to, from) in panel.chunks_exact_mut(block * LANES).zip(row.chunks_exact(block)) {
        let start = at * LANES + lane * N;
        to[start..start + N].copy_from_slice(&from[at..at + N]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FORMATS;

    /// Bytes that differ from their neighbours; small enough exponents that every block decodes to finite numbers.
    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(0x9E37) >> 3) as u8 & 0x3B).collect()
    }

    #[test]
    fn every_format_reads_back_what_was_packed() {
        for &(format, ref spec) in FORMATS {
            for (rows, blocks) in [(1, 1), (15, 2), (16, 3), (17, 1), (35, 5)] {
                let layout = PanelLayout::new(format, rows, blocks * spec.block as u64).expect("whole blocks");
                let source = noise(layout.rows * layout.row_bytes());
                let mut packed = vec![0xEE; layout.bytes()];
                layout.pack(&source, &mut packed);
                for row in 0..layout.rows {
                    for column in 0..layout.reduce {
                        let at = row * layout.row_bytes() + column / spec.block * format.block_bytes();
                        let want = spec.decode(&source[at..at + format.block_bytes()], column % spec.block);
                        let found = layout.read(&packed, row, column);
                        assert_eq!(found.to_bits(), want.to_bits(), "{format} [{rows}, {blocks}] at {row}, {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn missing_rows_of_the_last_panel_are_zero_bytes() {
        let layout = PanelLayout::new(Format::Q4_1, 17, 32).expect("whole blocks");
        let mut packed = vec![0xEE; layout.bytes()];
        layout.pack(&vec![0xFF; layout.rows * layout.row_bytes()], &mut packed);
        let last = &packed[layout.panel_bytes()..];
        assert_eq!(last.iter().filter(|b| **b == 0xFF).count(), layout.row_bytes());
        assert_eq!(last.iter().filter(|b| **b == 0).count(), 15 * layout.row_bytes());
    }

    #[test]
    fn f32_panels_are_columns_of_sixteen() {
        let layout = PanelLayout::new(Format::F32, 16, 2).expect("plain");
        let source: Vec<u8> = (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut packed = vec![0; layout.bytes()];
        layout.pack(&source, &mut packed);
        let want: Vec<u8> =
            (0..2).flat_map(|c| (0..16).flat_map(move |r| ((2 * r + c) as f32).to_le_bytes())).collect();
        assert_eq!(packed, want);
    }

    #[test]
    fn broken_sizes_are_refused() {
        assert_eq!(PanelLayout::new(Format::Q8_0, 4, 33), None);
        assert_eq!(PanelLayout::new(Format::F32, u64::MAX, 1), None);
        assert_eq!(PanelLayout::new(Format::F32, 1 << 40, 1 << 40), None);
    }
}
