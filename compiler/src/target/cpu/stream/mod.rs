//! The stream family: a fold over an axis in blocks of vector lanes.
//!
//! The innermost folded axis is cut into blocks at multiples of the vector's width, whatever its range, so that the
//! order of every reduction is a function of absolute index alone. A block computes the inner products of all of its
//! lanes, then brings the states up to date one after another: repair, fold the block in. Lanes outside the range are
//! replaced by the operation's identity before anything reads them.
//!
//! | file | does |
//! |---|---|
//! | `mod` | items, ranges, blocks, the finish |
//! | `dot` | inner products |
//! | `state` | repair and folding |

mod dot;
mod state;

use super::abi::{Entry, Work};
use super::nest::store_nest;
use super::tuning::{KEPT_FACTOR, STACK_BYTES, WIDTH};
use crate::kernel::{AxisRef, ExprRef, KernelExtent, ResultRef, Stream};
use crate::llvm::{Cmp, Lane, Precision, Results, Scope, Ty, Val};
use llmc_artifact::{Dim, Type, Value};
use std::cell::{Cell, RefCell};

/// Where a state's values are kept: an array over its own axes, row-major.
struct Slots<'c> {
    array: Val<'c>,
    /// The values before the current block, where a repair asks for them.
    old: Option<Val<'c>>,
    ty: Ty,
    count: u64,
}

/// A stream being emitted: memory of one work item.
struct Fold<'s, 'e, 'c> {
    entry: &'s Entry<'e, 'c>,
    stream: &'s Stream,
    /// The innermost folded axis.
    inner: AxisRef,
    /// Each dot's values at the lanes of the block.
    dots: Vec<Val<'c>>,
    /// Each dot's left factor at its reduced axes, where it is computed once.
    kept: Vec<Option<Val<'c>>>,
    states: Vec<Slots<'c>>,
    /// Bytes of scratch in use.
    scratch: Cell<u64>,
}

/// A block of the innermost folded axis.
struct Block<'f, 's, 'e, 'c> {
    fold: &'f Fold<'s, 'e, 'c>,
    /// Index of the first lane.
    base: Val<'c>,
    /// Indices that count: within the block and the range.
    valid: (Val<'c>, Val<'c>),
    /// Whether every lane counts.
    full: bool,
    /// Whether all lanes are computed at once, or those that count one after another.
    at_once: bool,
    /// Dots of this block as vectors.
    vectors: RefCell<Vec<Option<Val<'c>>>>,
}

/// How values of a type are kept.
fn kept_as(ty: Type) -> Ty {
    match ty {
        Type::Real => Ty::F32,
        Type::Int => Ty::I64,
        Type::Bool => Ty::I8,
    }
}

/// A work item is one point of the parallel axes.
pub fn emit(entry: &Entry, stream: &Stream) -> Work {
    let scope = entry.scope();
    let fold = Fold::new(entry, stream);
    let items: Vec<Dim> =
        stream.parallel.iter().map(|a| entry.spec.dim(*a).expect("emission: a stream parallel over keys")).collect();
    entry.for_each_item(&scope, &items, |index| {
        let at = stream.parallel.iter().zip(index).fold(scope.widened(1), |s, (axis, i)| s.bind(*axis, *i));
        at.hoist(&fold.roots(), &fold.varying());
        fold.where_in_range(&at, || {
            fold.start(&at);
            fold.nest(&at, &stream.over);
            fold.finish(&at);
        });
    });
    Work { items: if items.is_empty() { vec![Dim::Const(1)] } else { items }, scratch: fold.scratch.get() }
}

impl<'s, 'e, 'c> Fold<'s, 'e, 'c> {
    fn new(entry: &'s Entry<'e, 'c>, stream: &'s Stream) -> Fold<'s, 'e, 'c> {
        let inner = *stream.over.last().expect("emission: a stream folds over an axis");
        let (dots, kept, states) = (Vec::new(), Vec::new(), Vec::new());
        let mut fold = Fold { entry, stream, inner, dots, kept, states, scratch: Cell::new(0) };
        let constant =
            |axes: &[AxisRef]| axes.iter().map(|a| entry.spec.dim(*a).and_then(Dim::as_const)).product::<Option<u64>>();
        for dot in &stream.dots {
            fold.dots.push(fold.memory(Ty::F32, WIDTH as u64));
            let size = constant(&dot.reduce).filter(|n| *n <= KEPT_FACTOR);
            fold.kept.push(size.map(|n| fold.memory(Ty::F32, n.max(1))));
        }
        for (i, state) in stream.states.iter().enumerate() {
            let count = constant(&state.axes).expect("emission: a state over an axis of unknown length").max(1);
            let ty = kept_as(entry.spec.exprs.0[state.body.0 as usize].1);
            let result = ResultRef((stream.dots.len() + i) as u16);
            let old = fold.is_read_old(result).then(|| fold.memory(ty, count));
            fold.states.push(Slots { array: fold.memory(ty, count), old, ty, count });
        }
        fold
    }

    /// An array of this work item: on the stack, or in scratch where it is large.
    fn memory(&self, ty: Ty, count: u64) -> Val<'c> {
        let e = self.entry.emitter;
        if count * ty.bytes() <= STACK_BYTES {
            return e.local(ty, count);
        }
        let at = self.scratch.get();
        self.scratch.set(at + (count * ty.bytes()).next_multiple_of(64));
        e.offset(self.entry.scratch, e.int(at as i64))
    }

    fn is_read_old(&self, result: ResultRef) -> bool {
        let scope = self.entry.scope();
        let reads = |root: ExprRef| {
            let is_old = |e: ExprRef| matches!(self.entry.spec.exprs[e], crate::kernel::Expr::Old(r) if r == result);
            !scope.largest_parts(root, is_old).is_empty()
        };
        self.stream.states.iter().flat_map(|s| s.repair.exprs()).any(reads)
    }

    fn roots(&self) -> Vec<ExprRef> {
        let s = self.stream;
        let states = s.states.iter().flat_map(|s| [s.body].into_iter().chain(s.repair.exprs()));
        let dots = s.dots.iter().flat_map(|d| [d.left, d.right]);
        let visit = s.visit.map(|v| v.condition);
        let parts = s.part.iter().flat_map(|p| super::nest::roots(&p.stores));
        states.chain(dots).chain(visit).chain(super::nest::roots(&s.finish)).chain(parts).collect()
    }

    /// Every axis that moves within a work item.
    fn varying(&self) -> Vec<AxisRef> {
        let s = self.stream;
        let dots = s.dots.iter().flat_map(|d| &d.reduce);
        let states = s.states.iter().flat_map(|s| &s.axes);
        let ends = s.visit.iter().flat_map(|v| [&v.first, &v.last]);
        s.over.iter().chain(ends).chain(dots).chain(states).chain(&s.finish_axes).copied().collect()
    }

    /// States at their initial values, left factors computed.
    fn start(&self, at: &Scope<'_, 'c>) {
        let e = self.entry.emitter;
        for (slots, state) in self.states.iter().zip(&self.stream.states) {
            let zero = e.zero(slots.ty, 1);
            let init = match state.init {
                Value::Real(x) => e.like(zero, x),
                Value::Int(n) => e.like_int(zero, n),
                Value::Bool(b) => e.like_int(zero, b as i64),
            };
            let whole = slots.count / WIDTH as u64 * WIDTH as u64;
            let (whole, count) = (e.int(whole as i64), e.int(slots.count as i64));
            if slots.count >= WIDTH as u64 {
                let lanes = e.splat(init, WIDTH);
                e.repeat(e.int(0), whole, WIDTH as i64, |i| e.store(e.element(slots.array, slots.ty, i), lanes));
            }
            if slots.count % WIDTH as u64 != 0 {
                e.repeat(whole, count, 1, |i| e.store(e.element(slots.array, slots.ty, i), init));
            }
        }
        for (dot, kept) in self.stream.dots.iter().zip(&self.kept) {
            if let Some(array) = kept {
                self.keep_left(at, dot, *array);
            }
        }
        for array in &self.dots {
            e.store(*array, e.zero(Ty::F32, WIDTH));
        }
    }

    /// A fold of a part, unless its row has none of it.
    fn where_in_range(&self, at: &Scope<'_, 'c>, fold: impl FnOnce()) {
        if self.stream.part.is_none() {
            return fold();
        }
        let e = self.entry.emitter;
        let (begin, end) = self.range(at, self.stream.over[0]);
        e.when(e.compare(Cmp::Lt, begin, end), fold);
    }

    /// Indices that an axis visits: of one that is folded in parts, those of the part.
    fn range(&self, at: &Scope<'_, 'c>, axis: AxisRef) -> (Val<'c>, Val<'c>) {
        let (begin, end) = self.whole_range(at, axis);
        let Some((part, size)) = self.entry.spec.cut(axis) else { return (begin, end) };
        let (e, size) = (self.entry.emitter, size as i64);
        let first = e.mul(at.axis(part).scalar().expect("emission: an item is one part"), e.int(size));
        (e.max(begin, first), e.min(end, e.add(first, e.int(size))))
    }

    fn whole_range(&self, at: &Scope<'_, 'c>, axis: AxisRef) -> (Val<'c>, Val<'c>) {
        let e = self.entry.emitter;
        let scalar = |l: Lane<'c>| l.scalar().expect("emission: the row of keys is one");
        match self.entry.spec.axes[axis.0 as usize].extent {
            KernelExtent::Keys { seq, of, causal, window } => {
                let next = || e.add(scalar(at.position(of)), e.int(1));
                let end = if causal { next() } else { scalar(at.length(seq, of)) };
                let begin = window.map_or(e.int(0), |w| e.max(e.sub(next(), e.int(w as i64)), e.int(0)));
                (begin, end)
            }
            KernelExtent::Const(_)
            | KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_) => (e.int(0), at.dim(self.entry.spec.dim(axis).expect("not keys"))),
            KernelExtent::Parts { of, size } => {
                let (begin, end) = self.whole_range(at, of);
                let number = |i: Val<'c>| e.lane_div_rem(Lane::uniform(i), Lane::uniform(e.int(size as i64)), 1).0;
                let scalar = |l: Lane<'c>| l.scalar().expect("emission: the row of keys is one");
                (scalar(number(begin)), scalar(number(e.add(end, e.int(size as i64 - 1)))))
            }
        }
    }

    fn nest(&self, at: &Scope<'_, 'c>, over: &[AxisRef]) {
        let e = self.entry.emitter;
        let (axis, rest) = over.split_first().expect("emission: a stream folds over an axis");
        let (begin, end) = self.range(at, *axis);
        if rest.is_empty() {
            return self.blocks(at, begin, end);
        }
        e.repeat(begin, end, 1, |i| {
            let inside = at.bind(*axis, Lane::uniform(i));
            inside.hoist(&self.roots(), &self.varying().into_iter().filter(|a| a != axis).collect::<Vec<_>>());
            self.nest(&inside, rest);
        });
    }

    /// Keys: whole blocks with lanes masked, for their pages can be read to the end. Parts: the indices of each block one
    /// by one. Other axes, whose range begins at a block: whole blocks, then the remaining indices one by one.
    fn blocks(&self, at: &Scope<'_, 'c>, begin: Val<'c>, end: Val<'c>) {
        let (e, width) = (self.entry.emitter, WIDTH as i64);
        let block = |base, valid, full, at_once| {
            let vectors = RefCell::new(vec![None; self.dots.len()]);
            self.block(at, &Block { fold: self, base, valid, full, at_once, vectors });
        };
        let aligned = |x: Val<'c>| e.and(x, e.int(-width));
        let masked = |at_once| {
            e.repeat(aligned(begin), end, width, |base| {
                let valid = (e.max(base, begin), e.min(e.add(base, e.int(width)), end));
                self.where_visited(at, valid, || block(base, valid, false, at_once));
            });
        };
        match self.entry.spec.axes[self.inner.0 as usize].extent {
            KernelExtent::Keys { .. } => return masked(true),
            KernelExtent::Parts { .. } => return masked(false),
            KernelExtent::Const(_)
            | KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_) => {}
        }
        let whole = match end.constant() {
            Some(n) => e.int(n / width * width),
            None => aligned(end),
        };
        if whole.constant() != Some(0) {
            e.repeat(begin, whole, width, |base| block(base, (base, e.add(base, e.int(width))), true, true));
        }
        if whole.constant().is_none() || whole.constant() != end.constant() {
            e.when(e.compare(Cmp::Lt, whole, end), || block(whole, (whole, end), false, false));
        }
    }

    /// A block of keys, unless its condition says that it has none that counts.
    fn where_visited(&self, at: &Scope<'_, 'c>, (first, end): (Val<'c>, Val<'c>), block: impl FnOnce()) {
        let Some(visit) = self.stream.visit else { return block() };
        let e = self.entry.emitter;
        let last = e.sub(end, e.int(1));
        let ends = at.bind(visit.first, Lane::uniform(first)).bind(visit.last, Lane::uniform(last));
        let seen = ends.value(visit.condition, Precision::Single);
        e.when(seen.scalar().expect("emission: a block is visited or not"), block);
    }

    fn block(&self, at: &Scope<'_, 'c>, block: &Block<'_, 's, 'e, 'c>) {
        for (i, dot) in self.stream.dots.iter().enumerate() {
            block.dot(at, i, dot);
        }
        for (i, state) in self.stream.states.iter().enumerate() {
            block.state(at, i, state);
        }
    }

    fn finish(&self, at: &Scope<'_, 'c>) {
        let zero = self.entry.emitter.int(0);
        let vectors = RefCell::new(vec![None; self.dots.len()]);
        let results = Block { fold: self, base: zero, valid: (zero, zero), full: false, at_once: false, vectors };
        let at = at.with_results(&results);
        if let Some(part) = &self.stream.part {
            let stores = self.stream.states.iter().zip(&part.stores);
            return stores.for_each(|(state, store)| store_nest(&at, &state.axes, std::slice::from_ref(store)));
        }
        store_nest(&at, &self.stream.finish_axes, &self.stream.finish);
    }

    /// The number of a state's value at the scope's point.
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

impl<'c> Results<'c> for Block<'_, '_, '_, 'c> {
    fn result(&self, scope: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        let (fold, r) = (self.fold, result.0 as usize);
        let Some(state) = r.checked_sub(fold.dots.len()) else {
            let e = fold.entry.emitter;
            let lane = scope.axis(fold.inner);
            if let (None, Some(vector)) = (lane.scalar(), self.vectors.borrow()[r]) {
                return Lane::vector(vector);
            }
            let at = e.lane_sub(lane, Lane::uniform(self.base), scope.width());
            return e.load_elements(fold.dots[r], Ty::F32, at, scope.width());
        };
        let slots = &fold.states[state];
        fold.read(scope, slots.array, slots.ty, fold.slot(scope, &fold.stream.states[state].axes, moved))
    }

    fn old(&self, scope: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        let fold = self.fold;
        let state = result.0 as usize - fold.dots.len();
        let slots = &fold.states[state];
        let array = slots.old.expect("emission: every old value that is read was foreseen");
        fold.read(scope, array, slots.ty, fold.slot(scope, &fold.stream.states[state].axes, &[]))
    }
}
