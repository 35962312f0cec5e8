//! What a compiled kernel takes besides its operands: tables and lengths, derived from the spec in one place, so that
//! every target's code and the runtime agree.

use super::{AxisRef, Expr, KernelExtent, KernelSpec, OperandRef};
use llmc_artifact::plan::{KernelInfo, Storage, Table};
use llmc_artifact::{Dim, SeqId};
use std::collections::BTreeSet;

/// Tables and lengths of a kernel, each in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abi {
    /// Number of operands; their pointers come first.
    pub operands: u32,
    /// Tables, whose pointers come after the operands'.
    pub tables: Vec<Table>,
    /// Lengths of the step.
    pub dims: Vec<Dim>,
}

impl Abi {
    /// What the kernel takes.
    pub fn of(spec: &KernelSpec) -> Abi {
        let mut needs = Needs { spec, tables: BTreeSet::new(), dims: BTreeSet::new() };
        for axis in 0..spec.axes.len() {
            needs.axis(AxisRef(axis as u16));
        }
        for (operand, o) in spec.operands.iter().enumerate() {
            match &o.storage {
                Storage::Dense { dims } => dims.iter().for_each(|d| needs.dim(*d)),
                Storage::Panel { .. } => {}
                Storage::Paged { seq, .. } => needs.paged(OperandRef(operand as u16), *seq),
                Storage::Workspace { seq, .. } => needs.workspace(OperandRef(operand as u16), *seq),
            }
        }
        for (expr, _) in &spec.exprs.0 {
            match expr {
                Expr::Position(a) => needs.position(*a),
                Expr::Row(a) => {
                    needs.row(*a);
                }
                Expr::Length(a) => needs.length(*a),
                Expr::Sequence(a) => needs.sequence_of(*a),
                Expr::Const(_) | Expr::Axis(_) | Expr::Load { .. } => {}
                Expr::Result { .. } | Expr::Old(_) | Expr::Rounded(..) | Expr::Map(..) => {}
            }
        }
        let (tables, dims) = (needs.tables.into_iter().collect(), needs.dims.into_iter().collect());
        Abi { operands: spec.operands.len() as u32, tables, dims }
    }

    /// Where a table's pointer stands among the pointers.
    ///
    /// # Panics
    /// When the kernel does not take the table.
    pub fn table(&self, table: Table) -> usize {
        let i = self.tables.iter().position(|t| *t == table);
        self.operands as usize + i.unwrap_or_else(|| panic!("kernel interface: {table:?} was not foreseen"))
    }

    /// Where a length stands among the lengths.
    ///
    /// # Panics
    /// When the kernel does not take the length, or it is a constant.
    pub fn dim(&self, dim: Dim) -> usize {
        let i = self.dims.iter().position(|d| *d == dim);
        i.unwrap_or_else(|| panic!("kernel interface: length {dim} was not foreseen"))
    }

    /// The description that the runtime launches by, of a kernel without tensors.
    pub fn info(&self, spec: &KernelSpec, items: Vec<Dim>, scratch: u64, threads: u32) -> KernelInfo {
        KernelInfo {
            symbol: spec.name.clone(),
            operands: self.operands,
            tables: self.tables.clone(),
            dims: self.dims.clone(),
            items,
            scratch,
            threads,
            tensor_maps: Vec::new(),
        }
    }
}

struct Needs<'a> {
    spec: &'a KernelSpec,
    tables: BTreeSet<Table>,
    dims: BTreeSet<Dim>,
}

impl Needs<'_> {
    fn dim(&mut self, dim: Dim) {
        if dim.as_const().is_none() {
            self.dims.insert(dim);
        }
    }

    fn axis(&mut self, axis: AxisRef) {
        if let Some(dim) = self.spec.dim(axis) {
            self.dim(dim);
        }
        if let KernelExtent::Keys { seq, of, causal, window } = self.spec.axes[axis.0 as usize].extent {
            self.sequence_of(of);
            self.tables.insert(Table::Lengths(seq));
            if causal || window.is_some() {
                self.position(of);
            }
        }
    }

    /// The row of the step behind a row axis, and its sequence.
    fn row(&mut self, axis: AxisRef) -> Option<SeqId> {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Rows(seq) => Some(seq),
            KernelExtent::Picked(seq) => {
                self.tables.insert(Table::Picked(seq));
                Some(seq)
            }
            KernelExtent::Const(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_)
            | KernelExtent::Keys { .. }
            | KernelExtent::Parts { .. } => None,
        }
    }

    fn position(&mut self, axis: AxisRef) {
        if let KernelExtent::Tokens(seq) = self.spec.axes[axis.0 as usize].extent {
            self.tables.insert(Table::TokenPositions(seq));
        }
        if let Some(seq) = self.row(axis) {
            self.tables.insert(Table::Positions(seq));
        }
    }

    fn sequence_of(&mut self, axis: AxisRef) {
        if let KernelExtent::Tokens(seq) = self.spec.axes[axis.0 as usize].extent {
            self.tables.insert(Table::TokenSeq(seq));
        }
        if let Some(seq) = self.row(axis) {
            self.tables.insert(Table::RowSeq(seq));
        }
    }

    fn length(&mut self, axis: AxisRef) {
        self.sequence_of(axis);
        if let KernelExtent::Sequences(seq) | KernelExtent::Tokens(seq) = self.spec.axes[axis.0 as usize].extent {
            self.tables.insert(Table::Lengths(seq));
        }
        if let Some(seq) = self.row(axis) {
            self.tables.insert(Table::Lengths(seq));
        }
    }

    /// A cache is found through its block table; where it is written, at the row's own position.
    fn paged(&mut self, operand: OperandRef, seq: SeqId) {
        self.tables.insert(Table::Blocks(seq));
        self.dims.insert(Dim::Blocks(seq));
        if self.spec.operands[operand.0 as usize].write {
            self.tables.insert(Table::Positions(seq));
            self.tables.insert(Table::RowSeq(seq));
            for axis in 0..self.spec.axes.len() {
                self.row(AxisRef(axis as u16));
            }
        }
        self.tokens();
    }

    /// A workspace is found through the page that each sequence begins with; where it is written, at each token's own
    /// position.
    fn workspace(&mut self, operand: OperandRef, seq: SeqId) {
        self.tables.insert(Table::Bases(seq));
        if self.spec.operands[operand.0 as usize].write {
            self.tokens();
        }
    }

    /// What places tokens in pages.
    fn tokens(&mut self) {
        for axis in (0..self.spec.axes.len()).map(|a| AxisRef(a as u16)) {
            if let KernelExtent::Tokens(_) = self.spec.axes[axis.0 as usize].extent {
                self.position(axis);
                self.sequence_of(axis);
            }
        }
    }
}
