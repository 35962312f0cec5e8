//! States of a stream: repaired where earlier states moved, then the block folded in.

use super::super::tuning::{STATE_VECTORS, WIDTH};
use super::{Block, Fold, kept_as};
use crate::kernel::{AxisRef, Expr, ExprRef, State};
use crate::llvm::{Cmp, Emitter, Lane, Precision, Scope, Ty, Val};
use llmc_artifact::{Dim, ReduceOp, ScalarOp, Type, Value};

/// Folds two values with a reduction's operation.
fn combine<'c>(e: &Emitter<'c>, op: ReduceOp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match op {
        ReduceOp::Sum => e.add(a, b),
        ReduceOp::Max => e.max(a, b),
        ReduceOp::Min => e.min(a, b),
        ReduceOp::Any => e.or(a, b),
        ReduceOp::All => e.and(a, b),
    }
}

/// A literal of a value's type.
fn like<'c>(e: &Emitter<'c>, of: Val<'c>, literal: Value) -> Val<'c> {
    match literal {
        Value::Real(x) => e.like(of, x),
        Value::Int(n) => e.like_int(of, n),
        Value::Bool(b) => e.like_int(of, b as i64),
    }
}

/// The scope at vector `c` of those that begin at `start`.
fn place<'x, 'c>(scope: &Scope<'x, 'c>, axis: AxisRef, start: Val<'c>, c: u64) -> Scope<'x, 'c> {
    let (e, width) = (scope.emitter(), scope.width());
    let first = e.add(start, e.int((c * width as u64) as i64));
    scope.bind(axis, if width == 1 { Lane::uniform(first) } else { Lane::range(first, width as u64) })
}

/// A part of a body that does not depend on a state's own axes, computed for all lanes and kept.
struct Part<'c> {
    expr: ExprRef,
    array: Val<'c>,
    ty: Ty,
}

impl<'s, 'e, 'c> Fold<'s, 'e, 'c> {
    fn body_type(&self, e: ExprRef) -> Type {
        self.entry.spec.exprs.0[e.0 as usize].1
    }
}

impl<'f, 's, 'e, 'c> Block<'f, 's, 'e, 'c> {
    /// Brings a state up to date with the block.
    pub(super) fn state(&self, at: &Scope<'_, 'c>, i: usize, state: &State) {
        let (e, slots) = (at.emitter(), &self.fold.states[i]);
        if let Some(old) = slots.old {
            e.repeat(e.int(0), e.int(slots.count as i64), 1, |n| {
                e.store(e.element(old, slots.ty, n), e.load(slots.ty, 1, e.element(slots.array, slots.ty, n)));
            });
        }
        // What earlier states were worth before this one is forgotten with every new set of results.
        let scope = at.with_results(self);
        if state.axes.is_empty() {
            return self.scalar_state(&scope, i, state);
        }
        let parts = self.parts(&scope, state);
        let (last, outer) = state.axes.split_last().expect("not empty");
        self.outer_axes(&scope, outer, &|s| self.vector_state(s, i, state, *last, &parts));
    }

    fn outer_axes(&self, at: &Scope<'_, 'c>, axes: &[AxisRef], body: &dyn Fn(&Scope<'_, 'c>)) {
        let Some((first, rest)) = axes.split_first() else { return body(at) };
        let (e, length) = (at.emitter(), at.dim(at.spec().dim(*first).expect("emission: a state over keys")));
        e.repeat(e.int(0), length, 1, |i| self.outer_axes(&at.bind(*first, Lane::uniform(i)), rest, body));
    }

    /// The lanes of the block that count.
    fn mask(&self, e: &Emitter<'c>) -> Val<'c> {
        let lanes = e.int_lanes(Ty::I32, 0..WIDTH as i64);
        let bound = |x: Val<'c>| e.trunc(e.sub(x, self.base), Ty::I32);
        let from = e.compare(Cmp::Ge, lanes, bound(self.valid.0));
        e.and(from, e.compare(Cmp::Lt, lanes, bound(self.valid.1)))
    }

    /// A value as it is computed: truth values as `i1`.
    fn stored<'v>(e: &Emitter<'v>, ty: Ty, v: Val<'v>) -> Val<'v> {
        if ty == Ty::I8 { e.zext(v, Ty::I8) } else { v }
    }

    fn value_of(scope: &Scope<'_, 'c>, ty: Type, expr: ExprRef) -> Lane<'c> {
        if ty == Type::Real { scope.real(expr) } else { scope.value(expr, Precision::Single) }
    }

    /// An expression at all lanes of the block; those that do not count are undefined.
    fn lanes_of(&self, scope: &Scope<'_, 'c>, expr: ExprRef) -> Val<'c> {
        let (e, fold) = (scope.emitter(), self.fold);
        let ty = fold.body_type(expr);
        if self.at_once {
            let wide = scope.widened(WIDTH).bind(fold.inner, Lane::range(self.base, WIDTH as u64));
            return e.materialise(Self::value_of(&wide, ty, expr), WIDTH);
        }
        let array = e.local(kept_as(ty), WIDTH as u64);
        self.keep_lanes(scope, expr, array);
        let all = e.load(kept_as(ty), WIDTH, array);
        if ty == Type::Bool { e.trunc(all, Ty::I1) } else { all }
    }

    /// An expression at the lanes that count, one after another.
    fn keep_lanes(&self, scope: &Scope<'_, 'c>, expr: ExprRef, array: Val<'c>) {
        let (e, ty) = (scope.emitter(), self.fold.body_type(expr));
        e.repeat(self.valid.0, self.valid.1, 1, |key| {
            let one = scope.bind(self.fold.inner, Lane::uniform(key));
            let v = Self::value_of(&one, ty, expr).value;
            let place = e.element(array, kept_as(ty), e.sub(key, self.base));
            e.store(place, Self::stored(e, kept_as(ty), v));
        });
    }

    /// A state without axes of its own: the block's lanes are folded into one value, halves first.
    fn scalar_state(&self, scope: &Scope<'_, 'c>, i: usize, state: &State) {
        let (e, slots) = (scope.emitter(), &self.fold.states[i]);
        let ty = self.fold.body_type(state.body);
        let mut lanes = self.lanes_of(scope, state.body);
        if !self.full {
            let identity = like(e, lanes, state.op.identity(ty));
            lanes = e.select(self.mask(e), lanes, identity);
        }
        let block = e.fold_lanes(lanes, |a, b| combine(e, state.op, a, b));
        let mut running = e.load(slots.ty, 1, slots.array);
        if ty == Type::Bool {
            running = e.trunc(running, Ty::I1);
        }
        running = Self::repaired(scope, state, running);
        e.store(slots.array, Self::stored(e, slots.ty, combine(e, state.op, running, block)));
    }

    /// A running value after earlier states have moved.
    fn repaired(scope: &Scope<'_, 'c>, state: &State, mut running: Val<'c>) -> Val<'c> {
        let (e, width) = (scope.emitter(), scope.width());
        if let Some(keep) = state.repair.keep {
            let keep = e.materialise(scope.value(keep, Precision::Single), width);
            running = e.select(keep, running, like(e, running, state.init));
        }
        if let Some(shift) = state.repair.shift {
            running = e.add(running, e.materialise(scope.real(shift), width));
        }
        if let Some(scale) = state.repair.scale {
            running = e.mul(running, scope.real(scale).value);
        }
        running
    }

    /// The parts of a state's body that vary along the block but not along the state's own axes, at all lanes.
    fn parts(&self, scope: &Scope<'_, 'c>, state: &State) -> Vec<Part<'c>> {
        if !self.at_once {
            return Vec::new();
        }
        let (e, fold) = (scope.emitter(), self.fold);
        let wanted = |x: ExprRef| {
            let leaf = matches!(fold.entry.spec.exprs[x], Expr::Axis(_) | Expr::Const(_));
            let own = state.axes.iter().any(|a| scope.depends_on(x, *a));
            !leaf && !own && (scope.depends_on(x, fold.inner) || scope.reads_result(x))
        };
        let keep = |expr: ExprRef| {
            let ty = kept_as(fold.body_type(expr));
            let array = e.local(ty, WIDTH as u64);
            e.store(array, Self::stored(e, ty, self.lanes_of(scope, expr)));
            Part { expr, array, ty }
        };
        scope.largest_parts(state.body, wanted).into_iter().map(keep).collect()
    }

    /// A state over an axis of its own: vectors along it stay in registers while the block's indices are folded in,
    /// one after another.
    fn vector_state(&self, scope: &Scope<'_, 'c>, i: usize, state: &State, axis: AxisRef, parts: &[Part<'c>]) {
        let e = scope.emitter();
        let n = scope.spec().dim(axis).and_then(Dim::as_const).expect("emission: a state over an unknown length");
        let group = STATE_VECTORS * WIDTH as u64;
        let whole = n / group * group;
        let fold = |start, vectors, width| self.fold_group(scope, i, state, axis, parts, (start, vectors, width));
        if whole > 0 {
            e.repeat(e.int(0), e.int(whole as i64), group as i64, |start| fold(start, STATE_VECTORS, WIDTH));
        }
        let rest = (n - whole) / WIDTH as u64;
        if rest > 0 {
            fold(e.int(whole as i64), rest, WIDTH);
        }
        let tail = whole + rest * WIDTH as u64;
        if tail < n {
            e.repeat(e.int(tail as i64), e.int(n as i64), 1, |start| fold(start, 1, 1));
        }
    }

    /// Folds the block into `count` neighbouring vectors of a state.
    fn fold_group(
        &self,
        scope: &Scope<'_, 'c>,
        i: usize,
        state: &State,
        axis: AxisRef,
        parts: &[Part<'c>],
        (start, count, width): (Val<'c>, u64, u32),
    ) {
        let (e, fold) = (scope.emitter(), self.fold);
        let (slots, ty) = (&fold.states[i], fold.body_type(state.body));
        let wide = scope.widened(width);
        let running: Vec<Val> = (0..count)
            .map(|c| {
                let at = place(&wide, axis, start, c);
                let v = fold.read(&at, slots.array, slots.ty, fold.slot(&at, &state.axes, &[]));
                Self::repaired(&at, state, e.materialise(v, width))
            })
            .collect();
        let folded = e.for_each(self.valid.0, self.valid.1, 1, &running, |key, running| {
            let one = scope.bind(fold.inner, Lane::uniform(key));
            let lane = e.sub(key, self.base);
            for p in parts {
                one.assume(p.expr, fold.read(&one, p.array, p.ty, Lane::uniform(lane)));
            }
            one.hoist(&[state.body], &state.axes);
            let one = one.widened(width);
            let each = running.iter().enumerate();
            each.map(|(c, r)| self.fold_body(&place(&one, axis, start, c as u64), state, ty, *r)).collect()
        });
        for (c, v) in folded.into_iter().enumerate() {
            let at = place(&wide, axis, start, c as u64);
            let value = Lane::vector(Self::stored(e, slots.ty, v));
            e.store_elements(slots.array, slots.ty, fold.slot(&at, &state.axes, &[]), value, width);
        }
    }

    /// One index folded into one vector; a product into a sum by one multiply-add.
    fn fold_body(&self, at: &Scope<'_, 'c>, state: &State, ty: Type, running: Val<'c>) -> Val<'c> {
        let (e, width) = (at.emitter(), at.width());
        if let (ReduceOp::Sum, Type::Real, Expr::Map(ScalarOp::Mul, x)) = (state.op, ty, &at.spec().exprs[state.body]) {
            let (a, b) = (at.real(x[0]), at.real(x[1]));
            return e.fma(e.materialise(a, width), e.materialise(b, width), running);
        }
        let body = e.materialise(Self::value_of(at, ty, state.body), width);
        combine(e, state.op, running, body)
    }
}
