//! From groups to kernels: one file per family, one place for expressions.
//!
//! What enters is a fused block; what leaves are its [`KernelSpec`]s in order of execution with what each operand is,
//! and the weights that they read, each as a term that a step's own weights turn into a recipe. Layouts are decided
//! here: rows first, weights in panels, caches in pages laid out for what reads them.

mod contract;
mod expr;
mod map;
pub(crate) mod split;
mod stream;
mod topk;
mod visit;
mod weight;

use super::{
    AxisRef, Body, Expr, ExprRef, Exprs, KernelAxis, KernelExtent, KernelSpec, Operand, OperandRef, ResultRef, Store,
};
use crate::alpha;
use crate::cost::Role;
use crate::group::{Form, Fused, Value, Work, plain_format, standard_order};
use crate::normal::{TermId, Terms};
use crate::plan::{Binding, BlockWeight, CachedValue, LoweredBlock, LoweredKernel, StoredValue};
use expr::{Moved, Scope};
use llmc_artifact::plan::{PAGE_TOKENS, PANEL_LANES, PageDim, Storage};
use llmc_artifact::{Dim, ScalarOp, SeqId, Type};
use llmc_frontend::graph::{AxisId, Extent};
use std::collections::HashMap;

/// A weight of a block as its kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSource {
    /// Over the model's axes and the block's weight slots.
    pub term: TermId,
    /// Axes in the order in which it is stored: for panels rows first, then what is reduced.
    pub order: Vec<AxisId>,
}

/// A block's kernels, and where its weights come from.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Kernels and what they touch.
    pub block: LoweredBlock,
    /// One for each of [`LoweredBlock::weights`].
    pub weights: Vec<WeightSource>,
    /// The arena of the weights' terms.
    pub terms: Terms,
}

/// Lowers a block. `name` prefixes its kernels' names.
///
/// # Panics
/// When a stream does not mean what its reductions do: nothing else makes kernels, so none is made of a wrong one.
pub fn lower(fused: &Fused, name: &str) -> Lowered {
    let mut lowering = Lowering {
        fused,
        terms: fused.terms.clone(),
        block: LoweredBlock { picked: fused.facts.picked, ..LoweredBlock::default() },
        weights: Vec::new(),
        places: HashMap::new(),
    };
    verify_streams(fused);
    lowering.places();
    let stored = fused.values.iter().zip(&fused.terms.stored);
    let whole = stored.filter(|(_, (axes, _))| axes.iter().any(|a| lowering.counts_sequences(a)));
    lowering.block.per_sequence = whole.flat_map(|(v, _)| v.results.iter().copied()).collect();
    for (number, group) in fused.groups.iter().enumerate() {
        let name = symbol(&format!("{name}_{number}_{}", group.name));
        let kernel = lowering.kernel(name, &group.values);
        match group.parts {
            Some(size) => {
                let split = split::split(&kernel, size, lowering.block.stored.len() as u32);
                lowering.block.stored.extend(split.stored);
                lowering.block.kernels.extend(split.kernels);
            }
            None => lowering.block.kernels.push(kernel),
        }
    }
    Lowered { block: lowering.block, weights: lowering.weights, terms: lowering.terms }
}

fn verify_streams(fused: &Fused) {
    let mut terms = fused.terms.clone();
    for value in &fused.values {
        match &value.work {
            Work::Stream(fold) => crate::stream::verified(&mut terms, &fold.derived),
            Work::Map | Work::Contract(_) | Work::TopK => {}
        }
    }
}

/// A name that every target takes for a symbol.
fn symbol(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    clean.chars().take(64).collect()
}

struct Lowering<'a> {
    fused: &'a Fused,
    terms: Terms,
    block: LoweredBlock,
    weights: Vec<WeightSource>,
    /// Where each form of each value is.
    places: HashMap<(u32, usize), Vec<Binding>>,
}

impl Lowering<'_> {
    /// Decides where every form of every value lives: a result of the block, a buffer, or a cache.
    fn places(&mut self) {
        for (value, form) in self.fused.caches.iter().copied() {
            let Value { name, forms, .. } = &self.fused.values[value as usize];
            let Form::Cache { format, sight, .. } = &forms[form] else { unreachable!("a cache is a cache") };
            let (name, format) = (name.clone(), *format);
            let window = sight.window.filter(|_| sight.causal);
            let storage = self.storage(value as usize, &forms[form]);
            self.places.insert((value, form), vec![Binding::Cache(self.block.caches.len() as u32)]);
            self.block.caches.push(CachedValue { name, format, storage, window });
        }
        for (n, value) in self.fused.values.iter().enumerate() {
            let mut results: Vec<_> = value.results.iter().map(|r| Binding::Result(*r)).collect();
            for (f, form) in value.forms.iter().enumerate() {
                let place = match form {
                    Form::Cache { .. } => continue,
                    Form::Workspace { format, .. } => {
                        let dims = self.storage(n, form).buffer_dims().expect("a workspace is a buffer");
                        self.block.stored.push(StoredValue { name: value.name.clone(), format: *format, dims });
                        vec![Binding::Stored(self.block.stored.len() as u32 - 1)]
                    }
                    Form::Dense { .. } if self.is_standard(n, form) && !results.is_empty() => {
                        std::mem::take(&mut results)
                    }
                    Form::Dense { format, .. } => {
                        let Storage::Dense { dims } = self.storage(n, form) else { unreachable!("a dense form") };
                        self.block.stored.push(StoredValue { name: value.name.clone(), format: *format, dims });
                        vec![Binding::Stored(self.block.stored.len() as u32 - 1)]
                    }
                };
                self.places.insert((n as u32, f), place);
            }
        }
    }

    /// Whether a form is the one in which values pass between blocks.
    fn is_standard(&self, n: usize, form: &Form) -> bool {
        let (axes, ty) = &self.terms.stored[n];
        *form == Form::Dense { axes: standard_order(&self.terms, axes), format: plain_format(*ty) }
    }

    fn storage(&self, n: usize, form: &Form) -> Storage {
        match form {
            Form::Dense { axes, .. } => Storage::Dense { dims: axes.iter().map(|a| self.dim(*a)).collect() },
            Form::Cache { outer, inner, keys_innermost, .. } | Form::Workspace { outer, inner, keys_innermost, .. } => {
                let row =
                    crate::group::row_axis(&self.terms, &self.terms.stored[n].0).expect("a cached value has a row");
                let seq = self.seq(row);
                let axis = |a: &AxisId| PageDim::Axis(self.terms.axes.len_of(*a).expect("a cache's axes are constant"));
                let mut page: Vec<_> = outer.iter().map(axis).collect();
                if *keys_innermost {
                    page.push(PageDim::Slot { count: PAGE_TOKENS / PANEL_LANES, step: PANEL_LANES });
                    page.extend(inner.iter().map(axis));
                    page.push(PageDim::Slot { count: PANEL_LANES, step: 1 });
                } else {
                    page.push(PageDim::Slot { count: PAGE_TOKENS, step: 1 });
                    page.extend(inner.iter().map(axis));
                }
                match form {
                    Form::Workspace { .. } => Storage::Workspace { seq, page },
                    Form::Dense { .. } | Form::Cache { .. } => Storage::Paged { seq, page },
                }
            }
        }
    }

    /// Whether an axis counts the sequences of a batch.
    fn counts_sequences(&self, axis: AxisId) -> bool {
        self.terms.each.values().any(|a| *a == axis)
    }

    /// Whether an axis counts every token that the caches hold.
    fn counts_every_token(&self, axis: AxisId) -> bool {
        self.terms.every.values().any(|a| *a == axis)
    }

    fn dim(&self, axis: AxisId) -> Dim {
        if self.counts_sequences(axis) {
            return Dim::Sequences;
        }
        if self.counts_every_token(axis) {
            return Dim::Tokens(self.seq(axis));
        }
        match self.terms.axes[axis].extent {
            Extent::Const(n) => Dim::Const(n),
            Extent::Seq(s) | Extent::View(s) if self.block.picked => Dim::Picked(s),
            Extent::Seq(s) | Extent::View(s) => Dim::Rows(s),
        }
    }

    fn seq(&self, axis: AxisId) -> SeqId {
        match self.terms.axes[axis].extent {
            Extent::Seq(s) | Extent::View(s) => s,
            Extent::Const(_) => panic!("lower: a constant axis counts no tokens"),
        }
    }

    fn kernel(&mut self, name: String, values: &[u32]) -> LoweredKernel {
        let work = self.fused.values[values[0] as usize].work.clone();
        let mut kernel = Kernel {
            l: self,
            axes: Vec::new(),
            operands: Vec::new(),
            bindings: Vec::new(),
            exprs: Exprs::default(),
            refs: HashMap::new(),
            memo: HashMap::new(),
            lanes: Vec::new(),
        };
        let body = match work {
            Work::Map => kernel.map(values),
            Work::Contract(_) => kernel.contract(values),
            Work::Stream(_) => kernel.stream(values),
            Work::TopK => kernel.topk(values),
        };
        let Kernel { axes, operands, bindings, exprs, .. } = kernel;
        let spec = KernelSpec { name, role: Role::Prefill, axes, operands, exprs, body };
        LoweredKernel { spec, operands: bindings }
    }
}

/// A term at a place: where its axes stand, whether results are old ones, and which results there are.
type ExprKey = (TermId, Moved, bool, Scope);

/// A kernel under construction.
struct Kernel<'a, 'b> {
    l: &'a mut Lowering<'b>,
    axes: Vec<KernelAxis>,
    operands: Vec<Operand>,
    bindings: Vec<Binding>,
    exprs: Exprs,
    /// Axes of terms as axes of the kernel.
    refs: HashMap<AxisId, AxisRef>,
    memo: HashMap<ExprKey, ExprRef>,
    /// Axes along which weights are read side by side.
    lanes: Vec<AxisId>,
}

impl Kernel<'_, '_> {
    fn value(&self, n: u32) -> &Value {
        &self.l.fused.values[n as usize]
    }

    /// The kernel's axis for a constant or row axis of the terms.
    fn axis(&mut self, axis: AxisId) -> AxisRef {
        if let Some(r) = self.refs.get(&axis) {
            return *r;
        }
        let extent = match self.l.terms.axes[axis].extent {
            Extent::Seq(s) if self.l.counts_sequences(axis) => KernelExtent::Sequences(s),
            Extent::Seq(s) if self.l.counts_every_token(axis) => KernelExtent::Tokens(s),
            Extent::Const(n) => KernelExtent::Const(n),
            Extent::Seq(s) if self.l.block.picked => KernelExtent::Picked(s),
            Extent::Seq(s) => KernelExtent::Rows(s),
            Extent::View(_) => panic!("lower: a view axis outside the loop over it"),
        };
        self.new_axis(axis, extent)
    }

    fn new_axis(&mut self, axis: AxisId, extent: KernelExtent) -> AxisRef {
        let own = &self.l.terms.axes[alpha::origin(&self.l.terms, axis)].name;
        let mut name = own.clone();
        let mut n = 1;
        while self.axes.iter().any(|a| a.name == name) {
            n += 1;
            name = format!("{own}{n}");
        }
        self.axes.push(KernelAxis { name, extent });
        let r = AxisRef(self.axes.len() as u16 - 1);
        self.refs.insert(axis, r);
        r
    }

    fn all_axes(&mut self, axes: &[AxisId]) -> Vec<AxisRef> {
        axes.iter().map(|a| self.axis(*a)).collect()
    }

    fn operand(&mut self, binding: Binding, operand: Operand) -> OperandRef {
        let same = |(b, o): (&Binding, &Operand)| *b == binding && o.write == operand.write;
        if let Some(at) = self.bindings.iter().zip(&self.operands).position(same) {
            return OperandRef(at as u16);
        }
        self.bindings.push(binding);
        self.operands.push(operand);
        OperandRef(self.operands.len() as u16 - 1)
    }

    /// The operand of one form of a stored value.
    fn form_operand(&mut self, n: u32, form: usize, at: usize, write: bool) -> OperandRef {
        let value = self.value(n);
        let (name, form_data) = (value.name.clone(), value.forms[form].clone());
        let format = match form_data {
            Form::Dense { format, .. } | Form::Cache { format, .. } | Form::Workspace { format, .. } => format,
        };
        let storage = self.l.storage(n as usize, &form_data);
        let binding = self.l.places[&(n, form)][at];
        self.operand(binding, Operand { name, write, format, storage })
    }

    /// Stores a value, already an expression, in each of its forms.
    fn stores(&mut self, n: u32, value: ExprRef) -> Vec<Store> {
        let value = match self.exprs.0[value.0 as usize].1 {
            Type::Bool => {
                let (one, zero) = (self.int(1), self.int(0));
                self.exprs.add(Expr::Map(ScalarOp::Where, vec![value, one, zero]), Type::Int)
            }
            Type::Real | Type::Int => value,
        };
        let mut stores = Vec::new();
        for form in 0..self.value(n).forms.len() {
            let order: Vec<_> = match self.value(n).forms[form].clone() {
                Form::Dense { axes, .. } => axes,
                Form::Cache { outer, inner, .. } | Form::Workspace { outer, inner, .. } => {
                    let axes = &self.l.terms.stored[n as usize].0;
                    let row = crate::group::row_axis(&self.l.terms, axes).expect("a cached value has a row");
                    [row].into_iter().chain(outer).chain(inner).collect()
                }
            };
            let value = match self.value(n).forms[form] {
                Form::Cache { .. } | Form::Workspace { .. } if self.exprs.0[value.0 as usize].1 == Type::Int => {
                    self.exprs.add(Expr::Map(ScalarOp::ToReal, vec![value]), Type::Real)
                }
                Form::Cache { .. } | Form::Workspace { .. } | Form::Dense { .. } => value,
            };
            for at in 0..self.l.places[&(n, form)].len() {
                let operand = self.form_operand(n, form, at, true);
                let index = order.iter().map(|a| self.place_of(*a)).collect();
                stores.push(Store { operand, index, value });
            }
        }
        stores
    }

    /// The index at which this kernel's own point is stored along an axis.
    fn place_of(&mut self, axis: AxisId) -> ExprRef {
        let axis = self.axis(axis);
        self.exprs.add(Expr::Axis(axis), Type::Int)
    }

    /// The order in which a value's axes are walked: that of its first dense form, rows first.
    fn walk_order(&self, n: u32) -> Vec<AxisId> {
        let dense = self.value(n).forms.iter().find_map(|f| match f {
            Form::Dense { axes, .. } => Some(axes.clone()),
            Form::Cache { .. } | Form::Workspace { .. } => None,
        });
        let cached = || {
            self.value(n).forms.iter().find_map(|f| match f {
                Form::Cache { outer, inner, .. } | Form::Workspace { outer, inner, .. } => {
                    let row = crate::group::row_axis(&self.l.terms, &self.l.terms.stored[n as usize].0)?;
                    Some([row].into_iter().chain(outer.iter().copied()).chain(inner.iter().copied()).collect())
                }
                Form::Dense { .. } => None,
            })
        };
        dense.or_else(cached).unwrap_or_else(|| standard_order(&self.l.terms, &self.l.terms.stored[n as usize].0))
    }
}
