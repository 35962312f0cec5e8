//! Elements of operands: from an index in the operand's storage to a load or store.

use super::format::Block;
use super::{Cmp, Emitter, Form, Lane, Scope, Ty, Val};
use crate::kernel::{AxisRef, Expr, ExprRef, KernelExtent, OperandRef};
use llmc_artifact::plan::{PAGE_TOKENS, PANEL_LANES, PageDim, Storage, Table};
use llmc_artifact::{DType, Dim, Format};

impl<'a, 'c> Scope<'a, 'c> {
    /// The element's number in the operand, counted over its dense dimensions, its panels or its pages.
    fn element(&self, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        match &self.spec().operands[operand.0 as usize].storage {
            Storage::Dense { dims } => self.dense_element(dims, index),
            Storage::Panel { reduce, .. } => {
                let e = self.emitter();
                let (row, column) = (self.index_within(index[0], None), self.index_within(index[1], None));
                let lanes = Lane::uniform(e.int(PANEL_LANES as i64));
                let (panel, row) = e.lane_div_rem(row, lanes, self.width());
                let panel = self.times(panel, *reduce as i64);
                let at = e.lane_add(panel, column, self.width());
                e.lane_add(self.times(at, PANEL_LANES as i64), row, self.width())
            }
            Storage::Paged { .. } | Storage::Workspace { .. } => self.paged_element(operand, index),
        }
    }

    fn times(&self, x: Lane<'c>, n: i64) -> Lane<'c> {
        self.emitter().lane_mul(x, Lane::uniform(self.emitter().int(n)), self.width())
    }

    fn dense_element(&self, dims: &[Dim], index: &[ExprRef]) -> Lane<'c> {
        let e = self.emitter();
        let mut at = Lane::uniform(e.int(0));
        for (dim, i) in dims.iter().zip(index) {
            let length = self.dim(*dim);
            let i = self.index_within(*i, Some(length));
            at = e.lane_add(e.lane_mul(at, Lane::uniform(length), self.width()), i, self.width());
        }
        at
    }

    /// An index, held within a dimension where only data or the end of a block of keys bounds it: a lane that is
    /// masked afterwards must not read outside.
    fn index_within(&self, i: ExprRef, length: Option<Val<'c>>) -> Lane<'c> {
        let (e, lane) = (self.emitter(), self.int(i));
        match length {
            Some(length) if self.needs_clamp(i) => e.lanewise(&[lane, Lane::uniform(length)], self.width(), |v| {
                let last = e.sub(v[1], e.like_int(v[1], 1));
                e.max(e.min(v[0], last), e.like_int(v[0], 0))
            }),
            _ => lane,
        }
    }

    fn paged_element(&self, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        let (e, w) = (self.emitter(), self.width());
        let (_, position) = self.token(index);
        let slot = e.lane_div_rem(position, Lane::uniform(e.int(PAGE_TOKENS as i64)), w).1;
        e.lane_add(self.start_of_page(operand, index), self.slot_element(self.page(operand), index, slot), w)
    }

    /// The sequence and the position of the token that a cache or a workspace is read or written at.
    fn token(&self, index: &[ExprRef]) -> (Lane<'c>, Lane<'c>) {
        let Expr::Axis(axis) = self.spec().exprs[index[0]] else {
            panic!("emission: pages are indexed by an axis of tokens first")
        };
        match self.spec().axes[axis.0 as usize].extent {
            KernelExtent::Keys { of, .. } => (self.sequence_of(of), self.axis(axis)),
            _ => (self.sequence_of(axis), self.position(axis)),
        }
    }

    fn start_of_page(&self, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        self.times(self.number_of_page(operand, index), self.page(operand).iter().map(|d| d.length() as i64).product())
    }

    /// A cache's page is found through the table of blocks; those of a workspace lie one after another.
    fn number_of_page(&self, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        let (e, w) = (self.emitter(), self.width());
        let (sequence, position) = self.token(index);
        let block = e.lane_div_rem(position, Lane::uniform(e.int(PAGE_TOKENS as i64)), w).0;
        match &self.spec().operands[operand.0 as usize].storage {
            Storage::Paged { seq, .. } => {
                let blocks = Lane::uniform(self.dim(Dim::Blocks(*seq)));
                let entry = e.lane_add(e.lane_mul(sequence, blocks, w), block, w);
                self.table(Table::Blocks(*seq), entry)
            }
            Storage::Workspace { seq, .. } => e.lane_add(self.table(Table::Bases(*seq), sequence), block, w),
            Storage::Dense { .. } | Storage::Panel { .. } => panic!("emission: a page of what has none"),
        }
    }

    /// An element's number within its page.
    fn slot_element(&self, page: &[PageDim], index: &[ExprRef], slot: Lane<'c>) -> Lane<'c> {
        let (e, w) = (self.emitter(), self.width());
        let mut at = Lane::uniform(e.int(0));
        let mut kept = index[1..].iter();
        for dim in page {
            let i = match *dim {
                PageDim::Axis(n) => {
                    let i = kept.next().expect("emission: a cache with more dimensions than indices");
                    self.index_within(*i, Some(e.int(n as i64)))
                }
                PageDim::Slot { count, step } => {
                    let (by_step, _) = e.lane_div_rem(slot, Lane::uniform(e.int(step as i64)), w);
                    e.lane_div_rem(by_step, Lane::uniform(e.int(count as i64)), w).1
                }
            };
            at = e.lane_add(self.times(at, dim.length() as i64), i, w);
        }
        at
    }

    fn page(&self, operand: OperandRef) -> &'a [PageDim] {
        match &self.spec().operands[operand.0 as usize].storage {
            Storage::Paged { page, .. } | Storage::Workspace { page, .. } => page,
            Storage::Dense { .. } | Storage::Panel { .. } => panic!("emission: a page of what has none"),
        }
    }

    /// Which of the operand's pages holds the scope's token.
    pub fn page_number(&self, operand: OperandRef, index: &[ExprRef]) -> Val<'c> {
        self.number_of_page(operand, index).value
    }

    /// The number of the first element of the page that holds the scope's token.
    pub fn page_start(&self, operand: OperandRef, index: &[ExprRef]) -> Val<'c> {
        self.start_of_page(operand, index).value
    }

    /// The number, within its page, of the element in this slot.
    pub fn within_page(&self, operand: OperandRef, index: &[ExprRef], slot: Lane<'c>) -> Lane<'c> {
        self.slot_element(self.page(operand), index, slot)
    }

    /// An element of a table.
    pub fn table(&self, table: Table, index: Lane<'c>) -> Lane<'c> {
        let e = self.emitter();
        let raw = e.load_elements(self.args().table(table), Ty::I32, index, self.width());
        Lane { value: e.sext(raw.value, Ty::I64), ..raw }
    }

    /// An element as a real (f32) or an int (i64); a truth value is whether the int is not 0.
    pub(super) fn load(&self, operand: OperandRef, index: &[ExprRef]) -> Lane<'c> {
        let (e, o) = (self.emitter(), &self.spec().operands[operand.0 as usize]);
        let pointer = self.args().operand(operand);
        if let Some(dtype) = o.format.plain() {
            let at = self.element(operand, index);
            let raw = e.load_elements(pointer, Emitter::stored_type(dtype), at, self.width());
            let value = e.widen_stored(dtype, raw.value);
            let value = if value.ty() == Ty::I32 { e.sext(value, Ty::I64) } else { value };
            return Lane { value, ..raw };
        }
        match &o.storage {
            Storage::Panel { reduce, .. } => {
                let (row, column) = (self.int(index[0]), self.int(index[1]));
                self.decode(o.format, row, column, |row, block| {
                    let (panel, row) = e.lane_div_rem(Lane::uniform(row), Lane::uniform(e.int(16)), 1);
                    let blocks = e.int((*reduce / o.format.block() as u64) as i64);
                    let at = e.add(e.mul(panel.value, blocks), block);
                    let bytes = e.int((o.format.block_bytes() * PANEL_LANES as usize) as i64);
                    Block::Panel { start: e.offset(pointer, e.mul(at, bytes)), row: row.value }
                })
            }
            Storage::Dense { .. } | Storage::Paged { .. } | Storage::Workspace { .. } => {
                let at = self.element(operand, index);
                self.decode(o.format, Lane::uniform(e.int(0)), at, |_, block| {
                    let bytes = e.int(o.format.block_bytes() as i64);
                    Block::Dense { start: e.offset(pointer, e.mul(block, bytes)) }
                })
            }
        }
    }

    /// Elements of blocks: all lanes of one block at once where they lie so, else one by one.
    fn decode(
        &self,
        format: Format,
        row: Lane<'c>,
        column: Lane<'c>,
        place: impl Fn(Val<'c>, Val<'c>) -> Block<'c>,
    ) -> Lane<'c> {
        let (e, w) = (self.emitter(), self.width());
        let length = Lane::uniform(e.int(format.block() as i64));
        let (block, within) = e.lane_div_rem(column, length, w);
        if let (Some(row), Some(block)) = (row.scalar(), block.scalar())
            && (within.form == Form::Uniform || Emitter::decodes_at_once(format, within, w))
        {
            return Lane::vector(e.decode_block(format, place(row, block), within, w));
        }
        let mut all = e.undefined(Ty::F32, w);
        for l in 0..w {
            let at = place(e.lane(row, l), e.lane(block, l));
            let one = e.decode_block(format, at, Lane::uniform(e.lane(within, l)), 1);
            all = e.insert(all, l, one);
        }
        Lane::vector(all)
    }

    /// Writes an expression's value to an element. The lanes of a block format are one block.
    pub fn store(&self, operand: OperandRef, index: &[ExprRef], value: ExprRef) {
        let quantised = self.spec().operands[operand.0 as usize].format.block() > 1;
        let value = if quantised { self.real(value) } else { self.value(value, super::Precision::Single) };
        self.store_value(operand, index, value);
    }

    /// Writes a value to an element: a real is narrowed, an int or a truth value converted where the operand is real.
    pub fn store_value(&self, operand: OperandRef, index: &[ExprRef], value: Lane<'c>) {
        let (e, o, w) = (self.emitter(), &self.spec().operands[operand.0 as usize], self.width());
        let pointer = self.args().operand(operand);
        let at = self.element(operand, index);
        let Some(dtype) = o.format.plain() else {
            let block = o.format.block() as i64;
            let aligned = at.form == Form::Affine(1) && at.multiple.is_multiple_of(block as u64) && w as i64 == block;
            assert!(aligned, "emission: a block of `{}` is not written at once", o.name);
            let (number, _) = e.lane_div_rem(Lane::multiple_of(at.value, at.multiple), Lane::uniform(e.int(block)), 1);
            let start = e.offset(pointer, e.mul(number.value, e.int(o.format.block_bytes() as i64)));
            return e.encode_block(o.format, start, e.materialise(value, w));
        };
        let stored = e.lanewise(&[value], w, |v| {
            let int = match v[0].ty() {
                Ty::I1 => e.zext(v[0], Ty::I32),
                Ty::I64 => e.trunc(v[0], Ty::I32),
                _ => v[0],
            };
            let real = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
            let number = if real && !int.ty().is_float() { e.int_to_float(int, Ty::F32) } else { int };
            e.narrow_stored(dtype, number)
        });
        e.store_elements(pointer, Emitter::stored_type(dtype), at, stored, w);
    }

    /// Whether lanes of the index may lie outside the dimension it reads.
    fn needs_clamp(&self, i: ExprRef) -> bool {
        let from_data = self.reaches_load(i);
        let past_keys = self.width() > 1 && self.axes_of(i).any(|a: AxisRef| self.is_keys(a));
        from_data || past_keys
    }
}

impl<'c> Emitter<'c> {
    /// Elements of an array at these indices.
    pub fn load_elements(&self, array: Val<'c>, ty: Ty, index: Lane<'c>, lanes: u32) -> Lane<'c> {
        match index.form {
            Form::Uniform => Lane::uniform(self.load(ty, 1, self.element(array, ty, index.value))),
            Form::Affine(1) => Lane::vector(self.load(ty, lanes, self.element(array, ty, index.value))),
            Form::Affine(_) | Form::Vector => {
                let mut all = self.undefined(ty, lanes);
                for l in 0..lanes {
                    let one = self.load(ty, 1, self.element(array, ty, self.lane(index, l)));
                    all = self.insert(all, l, one);
                }
                Lane::vector(all)
            }
        }
    }

    /// Writes elements of an array at these indices; where lanes share an index the last wins.
    pub fn store_elements(&self, array: Val<'c>, ty: Ty, index: Lane<'c>, value: Lane<'c>, lanes: u32) {
        match index.form {
            Form::Uniform => {
                let last = self.lane(value, lanes - 1);
                self.store(self.element(array, ty, index.value), last);
            }
            Form::Affine(1) => {
                let all = self.materialise(value, lanes);
                self.store(self.element(array, ty, index.value), all);
            }
            Form::Affine(_) | Form::Vector => {
                for l in 0..lanes {
                    self.store(self.element(array, ty, self.lane(index, l)), self.lane(value, l));
                }
            }
        }
    }

    /// Whether a float is NaN.
    pub fn is_nan(&self, x: Val<'c>) -> Val<'c> {
        self.compare(Cmp::Ne, x, x)
    }
}
