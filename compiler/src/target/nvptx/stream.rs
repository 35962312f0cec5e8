//! The stream family: by matrix instructions where the stream has a place for them (`plan`), else a block of threads for every
//! point of the parallel axes.
//!
//! In the general form, which stands here, the innermost folded axis is cut into blocks of one index per thread, at multiples of
//! the number of threads. Each thread computes the inner products of its own index; a state without axes is folded over
//! the threads in a fixed tree, a state with axes by threads that own its elements and visit the block's indices in order.

mod block;
mod boxes;
mod finish;
mod fold;
mod left;
pub(crate) mod plan;
mod right;
mod rows;
mod together;

use super::abi::{Entry, Threads};
use super::stores::{points, store_points, width_of};
use super::tuning::{GROUP_HELPERS, GROUP_THREADS, KEPT_FACTOR, THREADS, Units};
use crate::cost::Role;
use crate::kernel::{AxisRef, Dot, Expr, ExprRef, KernelExtent, KernelSpec, ResultRef, State, Store, Stream};
use crate::llvm::{Cmp, Emitter, Lane, Precision, Results, Scope, Ty, Val};
use crate::target::cpu::nest::roots;
use crate::target::points::bind_point;
use llmc_artifact::tensor::TensorMap;
use llmc_artifact::{Dim, ReduceOp, Type, Value};
use std::cell::RefCell;

/// A state's values in shared memory, row-major over its own axes.
struct Slots<'c> {
    array: Val<'c>,
    /// The values before the current block, where a repair asks for them.
    old: Option<Val<'c>>,
    /// What each warp found in the current block, of a state without axes.
    found: Option<Val<'c>>,
    ty: Ty,
    count: u64,
}

/// A stream being emitted.
struct Fold<'s, 'e, 'c> {
    entry: &'s Entry<'e, 'c>,
    stream: &'s Stream,
    inner: AxisRef,
    kept: Vec<Option<Val<'c>>>,
    states: Vec<Slots<'c>>,
    /// For each state with axes, the parts of its body that do not vary along them.
    parts: Vec<Vec<Part<'c>>>,
    meetings: Meetings,
}

/// A block of the innermost folded axis.
struct Block<'f, 's, 'e, 'c> {
    fold: &'f Fold<'s, 'e, 'c>,
    base: Val<'c>,
    /// Indices that count.
    valid: (Val<'c>, Val<'c>),
    /// The dots at this thread's index, which no other thread reads.
    dots: RefCell<Vec<Val<'c>>>,
}

/// Where all threads wait for each other, since some read what others made or replace what others read. They also do in every state
/// without axes, whose values they fold together, and in one that has parts.
struct Meetings {
    /// Before the first block.
    start: bool,
    /// Before every block.
    block: bool,
    /// Before each state.
    states: Vec<bool>,
    /// Before the finish.
    finish: bool,
}

impl Meetings {
    fn of(spec: &KernelSpec, stream: &Stream, parts: &[Vec<Part>], keeps_factors: bool) -> Meetings {
        let count = stream.states.len();
        if each_alone(spec, stream, parts) {
            return Meetings { start: false, block: false, states: vec![false; count], finish: false };
        }
        // Threads meet in it before it is replaced.
        let inside = |i: usize| stream.states[i].axes.is_empty() || !parts[i].is_empty();
        let reads: Vec<Vec<usize>> = stream.states.iter().map(|s| read_by(spec, stream, s)).collect();
        let mut replaced: Vec<usize> = Vec::new();
        let before = |i: usize| {
            let meets = reads[i].iter().any(|r| replaced.contains(r));
            if meets || inside(i) {
                replaced.clear();
            }
            replaced.push(i);
            meets
        };
        let states: Vec<bool> = (0..count).map(before).collect();
        let met = |until: usize| (0..until).any(inside) || states[..until].contains(&true);
        let times = (0..count).filter(|i| inside(*i)).count() + states.iter().filter(|m| **m).count();
        // What is replaced at once may still be read for the block before.
        let at_once = |i: usize| !inside(i) && !met(i) && reads[i + 1..].iter().any(|r| r.contains(&i));
        // Of two meetings one stands between a read of what is kept for one block and its replacement for the next.
        let block = times < 2 || (0..count).any(at_once);
        let finish = replaced.iter().any(|i| !stored_by_its_own(spec, stream, *i));
        // Where no block comes, what was there at the start is stored.
        let initial = || !finish && (0..count).any(|i| !stored_by_its_own(spec, stream, i));
        Meetings { start: initial() || keeps_factors && !block, block, states, finish }
    }
}

fn kept_as(ty: Type) -> Ty {
    match ty {
        Type::Real => Ty::F32,
        Type::Int => Ty::I64,
        Type::Bool => Ty::I8,
    }
}

fn combine<'c>(e: &Emitter<'c>, op: ReduceOp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match op {
        ReduceOp::Sum => e.add(a, b),
        ReduceOp::Max => e.max(a, b),
        ReduceOp::Min => e.min(a, b),
        ReduceOp::Any => e.or(a, b),
        ReduceOp::All => e.and(a, b),
    }
}

/// The value as it is kept: truth values widened to a byte.
fn keep<'c>(scope: &Scope<'_, 'c>, ty: Type, expr: ExprRef) -> Val<'c> {
    let e = scope.emitter();
    match ty {
        Type::Real => scope.real(expr).value,
        Type::Int => scope.value(expr, Precision::Single).value,
        Type::Bool => e.zext(scope.value(expr, Precision::Single).value, Ty::I8),
    }
}

fn constant<'c>(e: &Emitter<'c>, ty: Ty, value: Value) -> Val<'c> {
    let zero = e.zero(ty, 1);
    match value {
        Value::Real(x) => e.like(zero, x),
        Value::Int(n) => e.like_int(zero, n),
        Value::Bool(b) => e.like_int(zero, b as i64),
    }
}

/// A running value after earlier states have moved.
fn repaired<'c>(scope: &Scope<'_, 'c>, state: &State, ty: Ty, mut running: Val<'c>) -> Val<'c> {
    let e = scope.emitter();
    if let Some(keep) = state.repair.keep {
        running = e.select(scope.value(keep, Precision::Single).value, running, constant(e, ty, state.init));
    }
    if let Some(shift) = state.repair.shift {
        running = e.add(running, scope.real(shift).value);
    }
    if let Some(scale) = state.repair.scale {
        running = e.mul(running, scope.real(scale).value);
    }
    running
}

/// How a stream is folded.
pub enum Form {
    /// A block of threads for every point of the parallel axes.
    General,
    /// By matrix instructions of warps; whether a sequence has few tokens in a launch.
    Warps(plan::Plan, plan::Shape, bool),
    /// By those of fours of warps.
    Warpgroups(plan::Plan, plan::Shape),
}

impl Form {
    /// The form of a stream where these units are.
    pub fn of(spec: &KernelSpec, stream: &Stream, units: Units) -> Form {
        // A fold is cut into parts where there are few of them: one token's.
        let few = spec.role == Role::Decode || stream.part.is_some();
        let Some(plan) = plan::Plan::of(spec, stream) else { return Form::General };
        let together = match units {
            Units::Warpgroups if !few => plan.group_shape(),
            Units::Warps | Units::Warpgroups => None,
        };
        match (together, plan.shape(few)) {
            (Some(shape), _) => Form::Warpgroups(plan, shape),
            (None, Some(shape)) => Form::Warps(plan, shape, few),
            (None, None) => Form::General,
        }
    }

    /// Threads of its blocks.
    pub fn threads(&self) -> Threads {
        match self {
            Form::General | Form::Warps(..) => Threads::alike(THREADS),
            Form::Warpgroups(..) => Threads { work: GROUP_THREADS, help: GROUP_HELPERS },
        }
    }

    /// Operands whose boxes are copied: the pages of the dots, then those of the products.
    pub fn tensor_maps(&self) -> Vec<TensorMap> {
        match self {
            Form::General | Form::Warps(..) => Vec::new(),
            Form::Warpgroups(plan, shape) => right::tensor_maps(plan, *shape),
        }
    }
}

/// Folds in a form.
pub fn emit(entry: &Entry, stream: &Stream, form: &Form) -> Vec<Dim> {
    match form {
        Form::General => emit_general(entry, stream),
        Form::Warps(plan, shape, few) => fold::emit(entry, stream, (plan, *shape), Units::Warps, *few),
        Form::Warpgroups(plan, shape) => fold::emit(entry, stream, (plan, *shape), Units::Warpgroups, false),
    }
}

/// What a thread keeps of a body for the others: the expression, its array, and how it is kept.
type Part<'c> = (ExprRef, Val<'c>, Ty);

/// Whether one thread folds and stores an element of every state without the others: where states are over the axes that they
/// are stored over, and no body reads a state or has a part that is the same along those axes.
fn each_alone(spec: &KernelSpec, stream: &Stream, parts: &[Vec<Part>]) -> bool {
    let folds = |s: &State| !s.axes.is_empty() && read_by(spec, stream, s).is_empty();
    let alone = stream.dots.is_empty() && parts.iter().all(Vec::is_empty) && stream.states.iter().all(folds);
    alone && (0..stream.states.len()).all(|i| stored_by_its_own(spec, stream, i))
}

/// Whether each element of a state is stored by the thread that folds it, and none by another one.
fn stored_by_its_own(spec: &KernelSpec, stream: &Stream, state: usize) -> bool {
    let (own, number) = (&stream.states[state].axes, stream.dots.len() + state);
    let own_alone = |(axes, stores): (&[AxisRef], &[Store])| {
        let used = spec.exprs.reachable(&roots(stores));
        let mut reads = used.iter().filter_map(|x| match &spec.exprs[*x] {
            Expr::Result { result, moved } if result.0 as usize == number => Some(moved),
            _ => None,
        });
        // A state without axes is the first thread's, and so is the only point of what is stored.
        let same = if own.is_empty() { points(spec, axes) == Some(1) } else { own == axes };
        reads.all(|moved| same && moved.is_empty() && width_of(spec, stores) == 1)
    };
    ends(stream).into_iter().all(own_alone)
}

/// The states whose values, new or old, another one's body or repair reads.
fn read_by(spec: &KernelSpec, stream: &Stream, state: &State) -> Vec<usize> {
    let roots: Vec<ExprRef> = state.repair.exprs().chain([state.body]).collect();
    let of = |x: &ExprRef| match spec.exprs[*x] {
        Expr::Result { result, .. } | Expr::Old(result) => (result.0 as usize).checked_sub(stream.dots.len()),
        _ => None,
    };
    spec.exprs.reachable(&roots).iter().filter_map(of).collect()
}

/// A block of threads is one point of the parallel axes.
fn emit_general(entry: &Entry, stream: &Stream) -> Vec<Dim> {
    let scope = entry.scope();
    let fold = Fold::new(entry, stream, &scope);
    let items: Vec<Dim> =
        stream.parallel.iter().map(|a| entry.spec.dim(*a).expect("emission: a stream parallel over keys")).collect();
    let index = entry.item_index(&scope, &items);
    let at = stream.parallel.iter().zip(&index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
    fold.where_in_range(&at, || {
        fold.start(&at);
        fold.nest(&at, &stream.over);
        fold.finish(&at);
    });
    items
}

/// What a stream stores at its end, each over axes beyond the parallel ones: what it finishes with, or of a part its states.
fn ends(stream: &Stream) -> Vec<(&[AxisRef], &[Store])> {
    match &stream.part {
        Some(part) => {
            let each = stream.states.iter().zip(&part.stores);
            each.map(|(state, store)| (state.axes.as_slice(), std::slice::from_ref(store))).collect()
        }
        None => vec![(&stream.finish_axes, &stream.finish)],
    }
}

/// The indices that a folded axis runs over, the first and the one after the last: of one that is folded in parts, those of the
/// part, which may be none.
fn range<'c>(entry: &Entry<'_, 'c>, at: &Scope<'_, 'c>, axis: AxisRef) -> (Val<'c>, Val<'c>) {
    let (begin, end) = whole_range(entry, at, axis);
    let Some((part, size)) = entry.spec.cut(axis) else { return (begin, end) };
    let (e, size) = (entry.emitter, size as i64);
    let first = e.mul(at.axis(part).value, e.int(size));
    (e.max(begin, first), e.min(end, e.add(first, e.int(size))))
}

fn whole_range<'c>(entry: &Entry<'_, 'c>, at: &Scope<'_, 'c>, axis: AxisRef) -> (Val<'c>, Val<'c>) {
    let e = entry.emitter;
    match entry.spec.axes[axis.0 as usize].extent {
        KernelExtent::Keys { seq, of, causal, window } => {
            let next = || e.add(at.position(of).value, e.int(1));
            let end = if causal { next() } else { at.length(seq, of).value };
            (window.map_or(e.int(0), |w| e.max(e.sub(next(), e.int(w as i64)), e.int(0))), end)
        }
        KernelExtent::Const(_)
        | KernelExtent::Rows(_)
        | KernelExtent::Picked(_)
        | KernelExtent::Tokens(_)
        | KernelExtent::Sequences(_) => (e.int(0), at.dim(entry.spec.dim(axis).expect("not keys"))),
        KernelExtent::Parts { of, size } => {
            let (begin, end) = whole_range(entry, at, of);
            let number = |i: Val<'c>| e.lane_div_rem(Lane::uniform(i), Lane::uniform(e.int(size as i64)), 1).0.value;
            (number(begin), number(e.add(end, e.int(size as i64 - 1))))
        }
    }
}

impl<'s, 'e, 'c> Fold<'s, 'e, 'c> {
    fn new(entry: &'s Entry<'e, 'c>, stream: &'s Stream, scope: &Scope<'_, 'c>) -> Fold<'s, 'e, 'c> {
        let spec = entry.spec;
        let inner = *stream.over.last().expect("emission: a stream folds over an axis");
        let threads = THREADS as u64;
        let ty = |e: ExprRef| kept_as(spec.exprs.0[e.0 as usize].1);
        let kept = stream.dots.iter().map(|d| {
            let size = points(spec, &d.reduce).filter(|n| *n <= KEPT_FACTOR);
            size.map(|n| entry.shared(Ty::F32, n.max(1)))
        });
        let repairs: Vec<ExprRef> = stream.states.iter().flat_map(|s| s.repair.exprs()).collect();
        let olds = spec.exprs.reachable(&repairs);
        let is_old = |r: u16| olds.iter().any(|x| matches!(spec.exprs[*x], Expr::Old(o) if o.0 == r));
        let states = stream.states.iter().enumerate().map(|(i, s)| {
            let count = points(spec, &s.axes).expect("emission: a state over an axis of unknown length").max(1);
            let old = is_old((stream.dots.len() + i) as u16).then(|| entry.shared(ty(s.body), count));
            let found = s.axes.is_empty().then(|| entry.shared(ty(s.body), entry.warps() as u64));
            Slots { array: entry.shared(ty(s.body), count), old, found, ty: ty(s.body), count }
        });
        let parts = stream.states.iter().map(|s| {
            let own = |x: ExprRef| s.axes.iter().any(|a| scope.depends_on(x, *a));
            let leaf = |x: ExprRef| matches!(spec.exprs[x], Expr::Axis(_) | Expr::Const(_));
            let wanted = |x| !leaf(x) && !own(x) && (scope.depends_on(x, inner) || scope.reads_result(x));
            let found = if s.axes.is_empty() { Vec::new() } else { scope.largest_parts(s.body, wanted) };
            found.into_iter().map(|x| (x, entry.shared(ty(x), threads), ty(x))).collect()
        });
        let (kept, parts): (Vec<_>, Vec<_>) = (kept.collect(), parts.collect());
        let states = states.collect();
        let meetings = Meetings::of(spec, stream, &parts, kept.iter().any(Option::is_some));
        Fold { entry, stream, inner, kept, states, parts, meetings }
    }

    /// States at their initial values, left factors computed.
    fn start(&self, at: &Scope<'_, 'c>) {
        let e = self.entry.emitter;
        for (slots, state) in self.states.iter().zip(&self.stream.states) {
            let init = constant(e, slots.ty, state.init);
            self.entry.for_each(e.int(slots.count as i64), |i| e.store(e.element(slots.array, slots.ty, i), init));
        }
        for (dot, kept) in self.stream.dots.iter().zip(&self.kept) {
            if let Some(array) = kept {
                let count = points(self.entry.spec, &dot.reduce).expect("kept factors are constant");
                self.entry.for_each(e.int(count as i64), |i| {
                    let left = bind_point(at, &dot.reduce, i).real(dot.left).value;
                    e.store(e.element(*array, Ty::F32, i), left);
                });
            }
        }
        self.meet(self.meetings.start);
    }

    /// All threads wait for each other where they have to.
    fn meet(&self, have_to: bool) {
        if have_to {
            self.entry.emitter.barrier();
        }
    }

    fn finish(&self, at: &Scope<'_, 'c>) {
        let (e, stream) = (self.entry.emitter, self.stream);
        let zero = e.int(0);
        self.meet(self.meetings.finish);
        let results = Block { fold: self, base: zero, valid: (zero, zero), dots: RefCell::default() };
        let at = at.with_results(&results);
        for (axes, stores) in ends(stream) {
            let count = points(self.entry.spec, axes).expect("emission: a finish over an unknown length");
            store_points(self.entry, &at, axes, (zero, e.int(count as i64)), stores);
        }
    }

    /// A fold of a part, unless its row has none of it: the same for all threads of the block.
    fn where_in_range(&self, at: &Scope<'_, 'c>, fold: impl FnOnce()) {
        if self.stream.part.is_none() {
            return fold();
        }
        let e = self.entry.emitter;
        let (begin, end) = range(self.entry, at, self.stream.over[0]);
        e.when(e.compare(Cmp::Lt, begin, end), fold);
    }

    fn nest(&self, at: &Scope<'_, 'c>, over: &[AxisRef]) {
        let (e, threads) = (self.entry.emitter, THREADS as i64);
        let (axis, rest) = over.split_first().expect("emission: a stream folds over an axis");
        let (begin, end) = range(self.entry, at, *axis);
        if !rest.is_empty() {
            return e.repeat(begin, end, 1, |i| self.nest(&at.bind(*axis, Lane::uniform(i)), rest));
        }
        e.repeat(e.and(begin, e.int(-threads)), end, threads, |base| {
            let (first, end) = (e.max(base, begin), e.min(e.add(base, e.int(threads)), end));
            let block = || Block { fold: self, base, valid: (first, end), dots: RefCell::default() }.fold_in(at);
            let Some(visit) = self.stream.visit else { return block() };
            let last = Lane::uniform(e.sub(end, e.int(1)));
            let ends = at.bind(visit.first, Lane::uniform(first)).bind(visit.last, last);
            e.when(ends.value(visit.condition, Precision::Single).value, block);
        });
    }

    fn slot(&self, scope: &Scope<'_, 'c>, axes: &[AxisRef], moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        let (e, w) = (self.entry.emitter, scope.width());
        axes.iter().fold(Lane::uniform(e.int(0)), |at, axis| {
            let length = scope.dim(self.entry.spec.dim(*axis).expect("emission: a state over keys"));
            let there = moved.iter().find(|(a, _)| a == axis).map_or_else(|| scope.axis(*axis), |(_, i)| *i);
            e.lane_add(e.lane_mul(at, Lane::uniform(length), w), there, w)
        })
    }

    fn read(&self, scope: &Scope<'_, 'c>, array: Val<'c>, ty: Ty, at: Lane<'c>) -> Lane<'c> {
        let (e, w) = (self.entry.emitter, scope.width());
        let raw = e.load_elements(array, ty, at, w);
        if ty == Ty::I8 { e.lanewise(&[raw], w, |v| e.compare(Cmp::Ne, v[0], e.like_int(v[0], 0))) } else { raw }
    }
}

impl<'f, 's, 'e, 'c> Block<'f, 's, 'e, 'c> {
    /// The dots at every thread's index, then the states one after another.
    fn fold_in(&self, at: &Scope<'_, 'c>) {
        let (fold, e) = (self.fold, at.emitter());
        fold.meet(fold.meetings.block);
        let dots = fold.stream.dots.iter().enumerate();
        let one = |(i, dot): (usize, &Dot)| {
            let sum = || self.dot(&self.mine(at), &dot.reduce, i, dot, e.f32(0.0));
            e.either(self.counts(e), sum, || e.f32(0.0))
        };
        self.dots.replace(dots.map(one).collect());
        for (i, state) in fold.stream.states.iter().enumerate() {
            fold.meet(fold.meetings.states[i]);
            let scope = at.with_results(self);
            if state.axes.is_empty() { self.scalar_state(&scope, i, state) } else { self.array_state(&scope, i, state) }
        }
    }

    /// Zeros of the threads whose index does not count: nobody asks for them, but loads that LLVM joins into whole vectors reach
    /// past the last one that does.
    fn where_idle(&self, e: &Emitter<'c>, arrays: impl IntoIterator<Item = (Val<'c>, Ty)>) {
        e.when(e.not(self.counts(e)), || {
            for (array, ty) in arrays {
                e.store(e.element(array, ty, self.fold.entry.thread), e.zero(ty, 1));
            }
        });
    }

    /// Whether this thread's index counts.
    fn counts(&self, e: &Emitter<'c>) -> Val<'c> {
        let key = e.add(self.base, self.fold.entry.thread);
        e.and(e.compare(Cmp::Ge, key, self.valid.0), e.compare(Cmp::Lt, key, self.valid.1))
    }

    /// The scope at this thread's index.
    fn mine<'x>(&self, at: &Scope<'x, 'c>) -> Scope<'x, 'c> {
        let key = at.emitter().add(self.base, self.fold.entry.thread);
        at.bind(self.fold.inner, Lane::uniform(key))
    }

    fn dot(&self, at: &Scope<'_, 'c>, reduce: &[AxisRef], i: usize, dot: &Dot, sum: Val<'c>) -> Val<'c> {
        let (e, fold) = (at.emitter(), self.fold);
        let Some((axis, rest)) = reduce.split_first() else {
            let left = match fold.kept[i] {
                Some(array) => e.load_elements(array, Ty::F32, fold.slot(at, &dot.reduce, &[]), 1).value,
                None => at.real(dot.left).value,
            };
            return e.fma(left, at.real(dot.right).value, sum);
        };
        let length = at.dim(at.spec().dim(*axis).expect("emission: a dot over keys"));
        at.hoist(&[dot.right], reduce);
        let all = e.for_each(e.int(0), length, 1, &[sum], |k, sum| {
            vec![self.dot(&at.bind(*axis, Lane::uniform(k)), rest, i, dot, sum[0])]
        });
        all[0]
    }

    fn scalar_state(&self, scope: &Scope<'_, 'c>, i: usize, state: &State) {
        let (e, fold) = (scope.emitter(), self.fold);
        let (slots, ty) = (&fold.states[i], scope.spec().exprs.0[state.body.0 as usize].1);
        let identity = constant(e, slots.ty, state.op.identity(ty));
        let value = e.either(self.counts(e), || keep(&self.mine(scope), ty, state.body), || identity);
        let found = slots.found.expect("emission: a state without axes is folded by warps");
        let block = fold.entry.fold_threads(found, value, |a, b| combine(e, state.op, a, b));
        e.when(e.compare(Cmp::Eq, fold.entry.thread, e.int(0)), || {
            let old = e.load(slots.ty, 1, slots.array);
            let running = repaired(scope, state, slots.ty, old);
            e.store(slots.array, combine(e, state.op, running, block));
            slots.old.into_iter().for_each(|place| e.store(place, old));
        });
    }

    fn array_state(&self, scope: &Scope<'_, 'c>, i: usize, state: &State) {
        let (e, fold) = (scope.emitter(), self.fold);
        let (slots, ty) = (&fold.states[i], scope.spec().exprs.0[state.body.0 as usize].1);
        let parts = &fold.parts[i];
        e.when(self.counts(e), || {
            let mine = self.mine(scope);
            for (expr, array, kept) in parts {
                let value = keep(&mine, mine.spec().exprs.0[expr.0 as usize].1, *expr);
                e.store(e.element(*array, *kept, fold.entry.thread), value);
            }
        });
        self.where_idle(e, parts.iter().map(|(_, array, kept)| (*array, *kept)));
        fold.meet(!parts.is_empty());
        fold.entry.for_each(e.int(slots.count as i64), |n| {
            let at = bind_point(scope, &state.axes, n);
            let place = e.element(slots.array, slots.ty, n);
            let old = e.load(slots.ty, 1, place);
            slots.old.into_iter().for_each(|array| e.store(e.element(array, slots.ty, n), old));
            let running = repaired(&at, state, slots.ty, old);
            let folded = e.for_each(self.valid.0, self.valid.1, 1, &[running], |key, running| {
                let one = at.bind(fold.inner, Lane::uniform(key));
                let lane = Lane::uniform(e.sub(key, self.base));
                for (expr, array, kept) in parts {
                    one.assume(*expr, fold.read(&one, *array, *kept, lane));
                }
                vec![combine(e, state.op, running[0], keep(&one, ty, state.body))]
            });
            e.store(place, folded[0]);
        });
    }
}

impl<'c> Results<'c> for Block<'_, '_, '_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        let (fold, r) = (self.fold, result.0 as usize);
        let Some(state) = r.checked_sub(fold.stream.dots.len()) else {
            // Where a state has axes, a dot is in one of its parts: each thread reads its own.
            return Lane::uniform(self.dots.borrow()[r]);
        };
        let slots = &fold.states[state];
        fold.read(scope, slots.array, slots.ty, fold.slot(scope, &fold.stream.states[state].axes, moved))
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        let fold = self.fold;
        let state = result.0 as usize - fold.stream.dots.len();
        let slots = &fold.states[state];
        let array = slots.old.expect("emission: every old value that is read was foreseen");
        fold.read(scope, array, slots.ty, fold.slot(scope, &fold.stream.states[state].axes, &[]))
    }
}
