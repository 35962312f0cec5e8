//! The stream family: a fold with a tuple of states, and its finish.

use super::expr::Place;
use super::{AxisRef, Body, Expr, ExprRef, Kernel, KernelExtent, Operand, ResultRef};
use crate::alpha;
use crate::group::{Fold, Work};
use crate::kernel::{Dot, Repair, State as KernelState, Stream as KernelStream};
use crate::normal::{Term, TermId};
use crate::stream::{Moved, Shift, State};
use llmc_artifact::plan::Storage;
use llmc_artifact::{DType, ScalarOp, Type};
use llmc_frontend::graph::{Axes, AxisId, Extent};

impl Kernel<'_, '_> {
    pub(super) fn stream(&mut self, values: &[u32]) -> Body {
        let fold = self.joined(values);
        let order = self.walk_order(values[0]);
        let parallel_ids: Vec<_> = order.iter().copied().filter(|a| fold.parallel.contains(*a)).collect();
        let parallel = self.all_axes(&parallel_ids);
        let over = self.over(&fold);
        let over_axes: Axes = fold.stream.over.iter().copied().collect();

        let mut place = Place { scope: 1, ..Place::default() };
        let mut dots = Vec::new();
        for d in &fold.dots {
            dots.push(self.dot(*d, &over_axes));
            place.results.push((*d, ResultRef(dots.len() as u16 - 1), vec![]));
        }
        let mut states = Vec::new();
        let mut after = Place { scope: 1000, ..Place::default() };
        for state in &fold.stream.states {
            // Each state sees one more earlier state than the one before.
            place.scope += 1;
            let free = self.l.terms.free(state.source).minus(&fold.parallel);
            let axes: Vec<_> = order.iter().copied().filter(|a| free.contains(*a)).collect();
            states.push(self.state(state, &axes, &place));
            let number = ResultRef((dots.len() + states.len() - 1) as u16);
            place.results.push((state.source, number, axes.clone()));
            after.results.push((state.source, number, axes));
        }
        let visit = over.first().and_then(|key| self.visit(*key, &states));
        let mut finish = Vec::new();
        for n in values {
            let value = self.expr(self.value(*n).term, &after);
            finish.extend(self.stores(*n, value));
        }
        let rest: Vec<_> = order.iter().copied().filter(|a| !fold.parallel.contains(*a)).collect();
        let finish_axes = self.all_axes(&rest);
        Body::Stream(KernelStream { parallel, over, part: None, visit, dots, states, finish, finish_axes })
    }

    /// The loop of several values: every state and dot once.
    fn joined(&self, values: &[u32]) -> Fold {
        let folds = values.iter().map(|n| match &self.value(*n).work {
            Work::Stream(f) => f.clone(),
            _ => panic!("lower: a stream's values are streams"),
        });
        let join = |mut all: Fold, f: Fold| {
            for s in f.stream.states {
                if all.stream.state_of(s.source).is_none() {
                    all.stream.states.push(s);
                }
            }
            all.dots.extend(f.dots.into_iter().filter(|d| !all.dots.contains(d)).collect::<Vec<_>>());
            all.sight = all.sight.zip(f.sight).map(|(a, b)| a.join(b));
            all
        };
        folds.reduce(join).expect("lower: a group has a value")
    }

    fn over(&mut self, fold: &Fold) -> Vec<AxisRef> {
        let over = fold.stream.over.clone();
        let Some(sight) = fold.sight else { return self.all_axes(&over) };
        let key = over[0];
        let own = self.l.terms.views[&key];
        let looking = crate::group::row_axis(&self.l.terms, &fold.parallel);
        let row = if fold.parallel.contains(own) { own } else { looking.expect("lower: a token looks at the keys") };
        let Extent::View(seq) = self.l.terms.axes[key].extent else { panic!("lower: keys are a view's tokens") };
        let of = self.axis(row);
        let extent =
            KernelExtent::Keys { seq, of, causal: sight.causal, window: sight.window.filter(|_| sight.causal) };
        vec![self.new_axis(key, extent)]
    }

    /// An inner contraction: factors without the folded axis on the left, the others on the right.
    fn dot(&mut self, dot: TermId, over: &Axes) -> Dot {
        let Term::Sum(bound, factors) = self.l.terms.term(dot).clone() else {
            panic!("lower: a reduction inside a loop is a sum of products")
        };
        let reduce: Vec<AxisId> = bound.iter().collect();
        let reduce = self.all_axes(&reduce);
        let moving = |k: &Self, f: &TermId| !k.l.terms.free(*f).intersect(over).is_empty();
        let (right, left): (Vec<_>, Vec<_>) = factors.into_iter().partition(|f| moving(self, f));
        let left = self.side(left);
        self.lanes = over.iter().collect();
        let right = self.side(right);
        self.lanes.clear();
        let left = self.factor_of(right, left);
        Dot { reduce, left, right }
    }

    fn side(&mut self, factors: Vec<TermId>) -> ExprRef {
        let term = alpha::product(&mut self.l.terms, factors);
        self.expr(term, &Place::default())
    }

    fn state(&mut self, state: &State, axes: &[AxisId], place: &Place) -> KernelState {
        let body = self.expr(state.body, place);
        let repair = self.repair(state, place);
        let axes = self.all_axes(axes);
        let body = self.rounded_factors(body, &axes);
        KernelState { op: state.op, init: state.init, axes, body, repair }
    }

    /// Whether an expression is elements of two bytes as they are, cached or made again from what is cached.
    fn is_of_two_bytes(&self, e: ExprRef) -> bool {
        let Expr::Load { operand, .. } = &self.exprs[e] else { return false };
        let Operand { format, storage, .. } = &self.operands[operand.0 as usize];
        let pages = matches!(storage, Storage::Paged { .. } | Storage::Workspace { .. });
        pages && matches!(format.plain(), Some(DType::F16 | DType::BF16))
    }

    /// What factors of elements of two bytes are rounded to, if they are.
    fn rounding(&self) -> Option<DType> {
        self.l.fused.facts.activations.plain().filter(|to| matches!(to, DType::F16 | DType::BF16))
    }

    /// A factor of an expression as it is multiplied.
    fn factor_of(&mut self, right: ExprRef, factor: ExprRef) -> ExprRef {
        match self.rounding().filter(|_| self.is_of_two_bytes(right)) {
            Some(to) => self.exprs.add(Expr::Rounded(to, factor), Type::Real),
            None => factor,
        }
    }

    /// A body that is a product of cached elements along a state's axes with factors that have none of these: the factors' product
    /// rounded.
    fn rounded_factors(&mut self, body: ExprRef, axes: &[AxisRef]) -> ExprRef {
        let factors = self.exprs.factors(body);
        let varies = |k: &Self, e: ExprRef| {
            k.exprs.reachable(&[e]).iter().any(|x| matches!(&k.exprs[*x], Expr::Axis(a) if axes.contains(a)))
        };
        let (with, without): (Vec<_>, Vec<_>) = factors.into_iter().partition(|f| varies(self, *f));
        let [cached] = with[..] else { return body };
        if self.rounding().is_none() || !self.is_of_two_bytes(cached) {
            return body;
        }
        let mut times = |a, b| self.apply(ScalarOp::Mul, vec![a, b], Type::Real);
        let Some(factor) = without.into_iter().reduce(&mut times) else { return body };
        let factor = self.factor_of(cached, factor);
        self.apply(ScalarOp::Mul, vec![factor, cached], Type::Real)
    }

    fn repair(&mut self, state: &State, place: &Place) -> Repair {
        let keep = state.repair.anew.iter().map(|y| self.unmoved(*y, place)).collect::<Vec<_>>();
        let shift = state.repair.shifts.iter().map(|s| self.shift(s, place)).collect::<Vec<_>>();
        let scale = state.repair.scales.iter().map(|m| self.scale(m, place)).collect::<Vec<_>>();
        let mut all =
            |op: ScalarOp, xs: Vec<ExprRef>, ty: Type| xs.into_iter().reduce(|a, b| self.apply(op, vec![a, b], ty));
        let (keep, shift) = (all(ScalarOp::And, keep, Type::Bool), all(ScalarOp::Add, shift, Type::Real));
        Repair { keep, shift, scale: all(ScalarOp::Mul, scale, Type::Real) }
    }

    fn before_and_after(&mut self, y: TermId, place: &Place) -> (ExprRef, ExprRef) {
        let new = self.expr(y, place);
        (self.expr(y, &Place { old: true, ..place.clone() }), new)
    }

    /// `old == new`.
    fn unmoved(&mut self, y: TermId, place: &Place) -> ExprRef {
        let (old, new) = self.before_and_after(y, place);
        self.apply(ScalarOp::Eq, vec![old, new], Type::Bool)
    }

    /// `new - old`.
    fn distance(&mut self, y: TermId, place: &Place) -> ExprRef {
        let (old, new) = self.before_and_after(y, place);
        self.apply(ScalarOp::Sub, vec![new, old], Type::Real)
    }

    /// `H(new - old)`.
    fn scale(&mut self, moved: &Moved, place: &Place) -> ExprRef {
        let by = self.distance(moved.by, place);
        self.apply(moved.op, vec![by], Type::Real)
    }

    /// A term of Taylor's formula. A state that is 0 adds nothing, however far something has moved: from an initial
    /// value the distance may be infinite.
    fn shift(&mut self, shift: &Shift, place: &Place) -> ExprRef {
        let of = self.expr(shift.of, &Place { old: true, ..place.clone() });
        let mut product = of;
        for y in &shift.by {
            let by = self.distance(*y, place);
            product = self.apply(ScalarOp::Mul, vec![product, by], Type::Real);
        }
        if shift.factor != 1.0 {
            let factor = self.real(shift.factor);
            product = self.apply(ScalarOp::Mul, vec![product, factor], Type::Real);
        }
        let zero = self.real(0.0);
        let none = self.apply(ScalarOp::Eq, vec![of, zero], Type::Bool);
        self.apply(ScalarOp::Where, vec![none, zero, product], Type::Real)
    }
}
