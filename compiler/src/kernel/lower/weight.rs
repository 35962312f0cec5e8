//! Weights in expressions: which subterms are computed at load, and how they are stored.

use super::expr::Moved;
use super::{BlockWeight, Kernel, Lowering, WeightSource};
use crate::group::weight_leaf;
use crate::kernel::{Expr, ExprRef, Operand};
use crate::normal::{Term, TermId};
use crate::plan::Binding;
use crate::{alpha, causality};
use llmc_artifact::plan::Storage;
use llmc_artifact::scalar::Signature;
use llmc_artifact::{Dim, Format, Type};
use llmc_frontend::graph::AxisId;

impl Lowering<'_> {
    /// The number of a weight of the block, added where it is new.
    pub(super) fn weight_number(&mut self, term: TermId, order: Vec<AxisId>, format: Format, storage: Storage) -> u32 {
        let name = self.weight_name(term);
        let source = WeightSource { term, order };
        let weight = BlockWeight { name, format, storage };
        let same = |(s, w): (&WeightSource, &BlockWeight)| *s == source && *w == weight;
        if let Some(at) = self.weights.iter().zip(&self.block.weights).position(same) {
            return at as u32;
        }
        self.weights.push(source);
        self.block.weights.push(weight);
        self.weights.len() as u32 - 1
    }

    /// The names of the slots that a weight is made of.
    fn weight_name(&self, term: TermId) -> String {
        let slots = causality::reachable(&self.terms, &[term]).into_iter().filter_map(|x| match self.terms.term(x) {
            Term::Weight(n) => Some(self.fused.facts.weights[*n as usize].name.clone()),
            _ => None,
        });
        let names: Vec<_> = slots.collect();
        if names.is_empty() { "constant".to_owned() } else { names.join("*") }
    }

    pub(super) fn length(&self, axes: &[AxisId]) -> u64 {
        axes.iter().map(|a| self.terms.axes.len_of(*a).expect("lower: a weight's axes are constant")).product()
    }
}

impl Kernel<'_, '_> {
    /// Whether a weight-only term is read from memory: it holds a weight, a reduction, or an operation that is worth
    /// a table; and storing it takes no more than storing its largest part.
    pub(super) fn is_stored_weight(&self, id: TermId) -> bool {
        let terms = &self.l.terms;
        if self.is_literal(id) || terms.info(id).ty != Type::Real || terms.free(id).is_empty() && self.slots(id) == 0 {
            return false;
        }
        let parts = causality::reachable(terms, &[id]);
        let dear = |x: &TermId| match terms.term(*x) {
            Term::Map(op, _) => op.signature() == Signature::Real,
            Term::Sum(bound, _) => !bound.is_empty(),
            Term::Weight(_) | Term::Reduce(..) | Term::TopK(..) => true,
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Stored(_)
            | Term::Plus(_)
            | Term::Index(..)
            | Term::Read(..) => false,
        };
        let size = |x: TermId| self.l.length(terms.free(x).as_slice());
        let largest = parts.iter().filter(|x| dear(x)).map(|x| size(*x)).max();
        largest.is_some_and(|l| size(id) <= l)
    }

    fn slots(&self, id: TermId) -> usize {
        let parts = causality::reachable(&self.l.terms, &[id]);
        parts.into_iter().filter(|x| matches!(self.l.terms.term(*x), Term::Weight(_))).count()
    }

    /// An element of a weight. A weight read at an index that is known only when it runs lies in panels, the axes
    /// so read as rows: the same panels in which products read it. So does one that is contracted at every step of a
    /// loop, the folded axis as rows.
    pub(super) fn weight(&mut self, id: TermId, moved: &Moved) -> ExprRef {
        let (term, names) = self.own_axes(id);
        let here = |a: AxisId| names.iter().find(|(own, _)| *own == a).map_or(a, |(_, b)| *b);
        let gathered =
            |k: &Self, a: AxisId| moved.iter().any(|(b, e)| *b == here(a) && !matches!(k.exprs[*e], Expr::Axis(_)));
        let row = |k: &Self, a: AxisId| gathered(k, a) || k.lanes.contains(&here(a));
        let order = self.file_order(term);
        let (rows, rest): (Vec<_>, Vec<_>) = order.iter().partition(|a| row(self, **a));
        let order: Vec<_> = rows.iter().chain(&rest).copied().collect();
        let ty = self.l.terms.info(term).ty;
        let format = self.weight_format(term, &order);
        let in_panels = !rows.is_empty() && !rest.is_empty() && ty == Type::Real;
        let storage = if in_panels {
            Storage::Panel { rows: self.l.length(&rows), reduce: self.l.length(&rest) }
        } else {
            let len = |a: &AxisId| Dim::Const(self.l.length(&[*a]));
            Storage::Dense { dims: order.iter().map(len).collect() }
        };
        let number = self.l.weight_number(term, order, format, storage.clone());
        let name = self.l.block.weights[number as usize].name.clone();
        let operand = self.operand(Binding::Weight(number), Operand { name, write: false, format, storage });
        let mut at = |axes: &[AxisId]| axes.iter().map(|a| self.index(here(*a), None, moved)).collect::<Vec<_>>();
        let (row, column) = (at(&rows), at(&rest));
        let index = if in_panels {
            vec![self.flat(&rows, row), self.flat(&rest, column)]
        } else {
            row.into_iter().chain(column).collect()
        };
        self.load(operand, index, ty)
    }

    /// A row-major index over several axes.
    fn flat(&mut self, axes: &[AxisId], at: Vec<ExprRef>) -> ExprRef {
        use llmc_artifact::ScalarOp::{Add, Mul};
        let mut pairs = axes.iter().zip(at);
        let (_, first) = pairs.next().expect("lower: a flat index has an axis");
        pairs.fold(first, |sum, (a, i)| {
            let len = self.int(self.l.length(&[*a]) as i64);
            let scaled = self.apply(Mul, vec![sum, len], Type::Int);
            self.apply(Add, vec![scaled, i], Type::Int)
        })
    }

    /// A weight over the model's own axes, and the names they have here.
    fn own_axes(&mut self, id: TermId) -> (TermId, Vec<(AxisId, AxisId)>) {
        let free = self.l.terms.free(id).clone();
        let mut names: Vec<(AxisId, AxisId)> = Vec::new();
        for a in free.iter() {
            let own = alpha::origin(&self.l.terms, a);
            if own != a && !free.contains(own) && names.iter().all(|(o, _)| *o != own) {
                names.push((own, a));
            }
        }
        let back: Vec<_> = names.iter().map(|(own, a)| (*a, *own)).collect();
        (alpha::rename(&mut self.l.terms, id, &back), names)
    }

    /// Axes of a weight, a slot's in the order of its file.
    fn file_order(&self, term: TermId) -> Vec<AxisId> {
        match self.l.terms.term(term) {
            Term::Weight(n) => self.l.fused.facts.weights[*n as usize].order.clone(),
            _ => self.l.terms.free(term).iter().collect(),
        }
    }

    /// How a weight that is read element by element is stored: as in the file, where its innermost axis stays
    /// innermost; decoded otherwise.
    fn weight_format(&self, term: TermId, order: &[AxisId]) -> Format {
        let Some((slot, _)) = weight_leaf(&self.l.terms, term) else { return Format::F32 };
        let fact = &self.l.fused.facts.weights[slot as usize];
        let as_in_file = fact.whole_blocks && fact.order.last() == order.last();
        if fact.format.plain().is_some() || as_in_file && self.whole_rows(order, fact.format) {
            fact.format
        } else {
            Format::F32
        }
    }

    /// Whether blocks do not cross rows.
    fn whole_rows(&self, order: &[AxisId], format: Format) -> bool {
        order.last().is_some_and(|a| self.l.length(&[*a]).is_multiple_of(format.block() as u64))
    }
}
