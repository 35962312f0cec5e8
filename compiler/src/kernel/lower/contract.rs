//! The contract family: products of weights with one activation, and their epilogues.

use super::expr::Place;
use super::{Body, Kernel, Operand, OperandRef, ResultRef};
use crate::alpha;
use crate::group::{Contraction, Input, Product, Work, plain_format, row_axis, standard_order};
use crate::kernel::{Contract, Fold, Product as KernelProduct, Segment};
use crate::normal::TermId;
use crate::plan::Binding;
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, Format};
use llmc_frontend::graph::{AxisId, Extent};
use std::collections::HashMap;

/// Values with products in common, and those products.
struct Part {
    axes: Vec<AxisId>,
    products: Vec<Product>,
    values: Vec<u32>,
}

impl Kernel<'_, '_> {
    pub(super) fn contract(&mut self, values: &[u32]) -> Body {
        let of = |k: &Self, n: u32| match &k.value(n).work {
            Work::Contract(c) => c.clone(),
            _ => panic!("lower: a contraction's values are contractions"),
        };
        let all: Vec<Contraction> = values.iter().map(|n| of(self, *n)).collect();
        let Contraction { input, reduce, .. } = all[0].clone();
        let row_id =
            row_axis(&self.l.terms, &self.l.terms.stored[values[0] as usize].0).expect("a contraction has rows");
        let row = self.axis(row_id);
        let reduce_refs: Vec<_> = reduce.iter().map(|a| self.reduced_axis(*a)).collect();
        let input = self.input(input);
        let (stats, mut place) = self.stats(&all, &reduce);
        let parts = parts(values, &all);
        let mut products = Vec::new();
        let mut numbers = HashMap::new();
        for part in &parts {
            for p in &part.products {
                let number = ResultRef((stats.len() + products.len()) as u16);
                numbers.insert(p.term, number);
                place.results.push((p.term, number, part.axes.clone()));
                products.push(self.product_of(p, &part.axes, &reduce));
            }
        }
        place.scope = 1;
        let segments = parts.iter().map(|p| self.segment(p, &numbers, &place)).collect();
        Body::Contract(Contract { row, reduce: reduce_refs, input, stats, products, segments })
    }

    /// A reduced axis is no output axis, even where both are the same axis of the model.
    fn reduced_axis(&mut self, axis: AxisId) -> super::AxisRef {
        let extent = super::KernelExtent::Const(self.l.length(&[axis]));
        let r = self.new_axis(axis, extent);
        self.refs.remove(&axis);
        r
    }

    fn input(&mut self, input: Input) -> OperandRef {
        match input {
            Input::Stored { value, form } => self.form_operand(value, form, 0, false),
            Input::Param(n) => {
                let (axes, ty) = self.l.terms.params[n as usize].clone();
                let dim = |a: &AxisId| match self.l.terms.axes[*a].extent {
                    Extent::Const(n) => Dim::Const(n),
                    Extent::Seq(s) | Extent::View(s) => Dim::Rows(s),
                };
                let dims = standard_order(&self.l.terms, &axes).iter().map(dim).collect();
                let name = self.l.terms.param_names.get(n as usize).cloned().unwrap_or_else(|| format!("param{n}"));
                let storage = Storage::Dense { dims };
                self.operand(Binding::Param(n), Operand { name, write: false, format: plain_format(ty), storage })
            }
        }
    }

    /// Every stat of the members once; each body runs over axes of its own, which are the kernel's reduced ones.
    fn stats(&mut self, all: &[Contraction], reduce: &[AxisId]) -> (Vec<Fold>, Place) {
        let mut folds = Vec::new();
        let mut place = Place::default();
        for (term, body) in all.iter().flat_map(|c| &c.stats) {
            if place.results.iter().any(|(t, ..)| t == term) {
                continue;
            }
            let (op, bound) = alpha::reduction(&self.l.terms, *term).expect("lower: a stat is a reduction");
            for axis in bound.iter() {
                let own = alpha::origin(&self.l.terms, axis);
                let at = reduce.iter().position(|r| *r == own).expect("lower: a stat reduces the kernel's axes");
                // Reduced axes are the first after the row.
                self.refs.insert(axis, super::AxisRef(1 + at as u16));
            }
            let body = self.expr(*body, &Place::default());
            folds.push(Fold { op, body });
            place.results.push((*term, ResultRef(folds.len() as u16 - 1), vec![]));
        }
        (folds, place)
    }

    fn product_of(&mut self, product: &Product, axes: &[AxisId], reduce: &[AxisId]) -> KernelProduct {
        let order: Vec<_> = axes.iter().chain(reduce).copied().collect();
        let storage = Storage::Panel { rows: self.l.length(axes), reduce: self.l.length(reduce) };
        let format: Format = product.format;
        let number = self.l.weight_number(product.weight, order, format, storage.clone());
        let name = self.l.block.weights[number as usize].name.clone();
        let weight = self.operand(Binding::Weight(number), Operand { name, write: false, format, storage });
        KernelProduct { weight, axes: self.all_axes(axes) }
    }

    fn segment(&mut self, part: &Part, numbers: &HashMap<TermId, ResultRef>, place: &Place) -> Segment {
        let mut stores = Vec::new();
        for n in &part.values {
            let value = self.expr(self.value(*n).term, place);
            stores.extend(self.stores(*n, value));
        }
        let products = part.products.iter().map(|p| numbers[&p.term]).collect();
        Segment { axes: self.all_axes(&part.axes), products, stores }
    }
}

/// Values that share a product are one part; every product is in one.
fn parts(values: &[u32], all: &[Contraction]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (n, c) in values.iter().zip(all) {
        let shares = |p: &Part| p.products.iter().any(|q| c.products.iter().any(|r| r.term == q.term));
        let (joined, apart): (Vec<_>, Vec<_>) = parts.into_iter().partition(shares);
        let mut part = Part { axes: c.products[0].axes.clone(), products: vec![], values: vec![] };
        if let Some(first) = joined.first() {
            part.axes.clone_from(&first.axes);
        }
        for j in joined {
            part.products.extend(j.products);
            part.values.extend(j.values);
        }
        for p in &c.products {
            if part.products.iter().all(|q| q.term != p.term) {
                part.products.push(p.clone());
            }
        }
        part.values.push(*n);
        parts = apart;
        parts.push(part);
    }
    parts
}
