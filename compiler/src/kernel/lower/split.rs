//! A fold over a long axis cut into parts: a kernel that folds each part, and one that combines them.
//!
//! What enters is the kernel of a fold and the size of a part; what leaves are two kernels. The first folds one part a
//! work item and stores its states as they are. The second is a fold over the parts: the tuple of states is a monoid
//! ([`crate::stream::check::Meaning::combine`]), so that what a part folds in is its own stored state, repaired from what
//! the earlier states of the part were to what they have become, and the running state follows them by the same
//! repair. It then does what the fold did at its end.
//!
//! A part begins at a multiple of its size, whatever the range, and parts are combined in their order: no bit depends on
//! how the work is dealt out. A part that nothing counts in leaves its states as they began, which the combination
//! takes for nothing. Absent on purpose: any knowledge of what is folded.

use super::{AxisRef, Body, ExprRef, KernelExtent, OperandRef, ResultRef, Store};
use crate::cost::Role;
use crate::kernel::{Dot, Expr, Exprs, KernelAxis, KernelSpec, Operand, Part, Repair, State, Stream, Visit};
use crate::plan::{Binding, LoweredKernel, StoredValue};
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, Format, ScalarOp, Type, Value};
use std::collections::HashMap;

/// A fold as two kernels, and the values that they hand to each other.
pub(crate) struct Split {
    /// A value for each state of every part: numbers of the block's stored values from the one that was asked for.
    pub stored: Vec<StoredValue>,
    /// The folds of the parts, and the fold over them.
    pub kernels: [LoweredKernel; 2],
}

/// Cuts the kernel of a fold along its outermost axis. Values are stored from number `first` on.
pub(crate) fn split(whole: &LoweredKernel, size: u64, first: u32) -> Split {
    let Body::Stream(stream) = &whole.spec.body else { panic!("lower: only a fold has parts") };
    let work = workspace(&whole.spec, stream, size, first);
    let kernels = [fold_parts(whole, stream, size, &work), combine(whole, stream, size, &work)];
    let stored = |w: Workspace| StoredValue { name: w.name, format: w.format, dims: w.dims };
    Split { stored: work.into_iter().map(stored).collect(), kernels }
}

/// A value for each state of every part.
fn workspace(spec: &KernelSpec, stream: &Stream, size: u64, first: u32) -> Vec<Workspace> {
    let dim = |a: &AxisRef| spec.dim(*a).expect("lower: what a state is stored over has a length");
    let parts = spec.parts(stream.over[0], size).expect("lower: a long axis has parts");
    let one = |(n, state): (usize, &State)| {
        let dims = stream.parallel.iter().map(dim).chain([parts]).chain(state.axes.iter().map(dim)).collect();
        let ty = spec.exprs.0[state.body.0 as usize].1;
        let (name, format) = (format!("part_state{n}"), crate::group::plain_format(ty));
        Workspace { name, ty, init: state.init, format, dims, binding: Binding::Stored(first + n as u32) }
    };
    stream.states.iter().enumerate().map(one).collect()
}

/// Where a state of every part is stored.
struct Workspace {
    name: String,
    ty: Type,
    init: Value,
    format: Format,
    dims: Vec<Dim>,
    binding: Binding,
}

impl Workspace {
    fn operand(&self, write: bool) -> Operand {
        let storage = Storage::Dense { dims: self.dims.clone() };
        Operand { name: self.name.clone(), write, format: self.format, storage }
    }

    /// An initial int that 32 bits do not hold, and what stands for it: the end of the range on its side, which no index
    /// and no count of tokens reaches.
    fn edge(&self) -> Option<(i64, i64)> {
        match self.init {
            Value::Int(n) if i32::try_from(n).is_err() => {
                Some((n, if n > 0 { i32::MAX as i64 } else { i32::MIN as i64 }))
            }
            Value::Int(_) | Value::Real(_) | Value::Bool(_) => None,
        }
    }
}

/// The fold of a part.
fn fold_parts(whole: &LoweredKernel, stream: &Stream, size: u64, work: &[Workspace]) -> LoweredKernel {
    let mut to = Copy::of(whole, "parts");
    let mut parallel = to.axes(&stream.parallel);
    let over = to.axes(&stream.over);
    let axis = to.parts(stream.over[0], size);
    parallel.push(axis);
    let visit =
        stream.visit.map(|v| Visit { first: to.axis(v.first), last: to.axis(v.last), condition: to.expr(v.condition) });
    let dots =
        stream.dots.iter().map(|d| Dot { reduce: to.axes(&d.reduce), left: to.expr(d.left), right: to.expr(d.right) });
    let dots: Vec<Dot> = dots.collect();
    let states = stream.states.iter().map(|s| State { body: to.expr(s.body), ..to.state(s) });
    let states: Vec<State> = states.collect();
    let mut stores = Vec::new();
    for (n, (state, work)) in states.iter().zip(work).enumerate() {
        let operand = to.operand_at(work.binding, work.operand(true));
        let index = to.place(parallel.iter().chain(&state.axes).copied());
        let result = Expr::Result { result: ResultRef((dots.len() + n) as u16), moved: Vec::new() };
        let value = to.exprs.add(result, work.ty);
        stores.push(Store { operand, index, value: to.packed(work, value) });
    }
    let part = Some(Part { axis, stores });
    to.kernel(Stream { parallel, over, part, visit, dots, states, finish: Vec::new(), finish_axes: Vec::new() })
}

/// The fold over the parts, and what the whole fold did at its end.
fn combine(whole: &LoweredKernel, stream: &Stream, size: u64, work: &[Workspace]) -> LoweredKernel {
    let mut to = Copy::of(whole, "whole");
    to.first_state = stream.dots.len() as u16;
    let parallel = to.axes(&stream.parallel);
    let part = to.parts(stream.over[0], size);
    let mut states: Vec<State> = Vec::new();
    for (state, work) in stream.states.iter().zip(work) {
        // The part's own states: with their axes where this one's are, for a repair reads them at the same point.
        let own = to.axes(&state.axes);
        let operand = to.operand_at(work.binding, work.operand(false));
        let index = to.place(parallel.iter().chain([&part]).chain(&own).copied());
        let loaded =
            to.exprs.add(Expr::Load { operand, index }, if work.ty == Type::Real { Type::Real } else { Type::Int });
        let stored = to.unpacked(work, loaded);
        to.of_part.push(stored);
        let body = to.repaired(state, stored);
        states.push(State { body, ..to.state(state) });
    }
    let finish = stream.finish.iter().map(|s| to.store(s)).collect();
    let finish_axes = to.axes(&stream.finish_axes);
    let (over, dots) = (vec![part], Vec::new());
    to.kernel(Stream { parallel, over, part: None, visit: None, dots, states, finish, finish_axes })
}

/// Whose states an expression reads as its old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Old {
    /// Those of the fold at hand.
    Running,
    /// Those that the part stored.
    OfPart,
}

/// A kernel that takes over what it needs of another.
struct Copy<'a> {
    from: &'a KernelSpec,
    bindings_from: &'a [Binding],
    name: String,
    axes: Vec<KernelAxis>,
    operands: Vec<Operand>,
    bindings: Vec<Binding>,
    exprs: Exprs,
    axis_of: HashMap<AxisRef, AxisRef>,
    expr_of: HashMap<(ExprRef, Old), ExprRef>,
    /// The number that the first state had, where it has none before it here.
    first_state: u16,
    /// For each state so far, what the part stored of it.
    of_part: Vec<ExprRef>,
}

impl<'a> Copy<'a> {
    fn of(whole: &'a LoweredKernel, suffix: &str) -> Copy<'a> {
        Copy {
            from: &whole.spec,
            bindings_from: &whole.operands,
            name: format!("{}_{suffix}", whole.spec.name),
            axes: Vec::new(),
            operands: Vec::new(),
            bindings: Vec::new(),
            exprs: Exprs::default(),
            axis_of: HashMap::new(),
            expr_of: HashMap::new(),
            first_state: 0,
            of_part: Vec::new(),
        }
    }

    fn kernel(self, stream: Stream) -> LoweredKernel {
        let Copy { name, axes, operands, bindings, exprs, .. } = self;
        LoweredKernel {
            spec: KernelSpec { name, role: Role::Prefill, axes, operands, exprs, body: Body::Stream(stream) },
            operands: bindings,
        }
    }

    fn axis(&mut self, axis: AxisRef) -> AxisRef {
        if let Some(known) = self.axis_of.get(&axis) {
            return *known;
        }
        let KernelAxis { name, extent } = self.from.axes[axis.0 as usize].clone();
        let extent = match extent {
            KernelExtent::Keys { seq, of, causal, window } => {
                KernelExtent::Keys { seq, of: self.axis(of), causal, window }
            }
            KernelExtent::Parts { of, size } => KernelExtent::Parts { of: self.axis(of), size },
            KernelExtent::Const(_)
            | KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_) => extent,
        };
        self.axes.push(KernelAxis { name, extent });
        let made = AxisRef(self.axes.len() as u16 - 1);
        self.axis_of.insert(axis, made);
        made
    }

    fn axes(&mut self, axes: &[AxisRef]) -> Vec<AxisRef> {
        axes.iter().map(|a| self.axis(*a)).collect()
    }

    /// A new axis: the parts of one of the kernel's.
    fn parts(&mut self, of: AxisRef, size: u64) -> AxisRef {
        let of = self.axis(of);
        let name = format!("{}_part", self.axes[of.0 as usize].name);
        self.axes.push(KernelAxis { name, extent: KernelExtent::Parts { of, size } });
        AxisRef(self.axes.len() as u16 - 1)
    }

    fn operand(&mut self, operand: OperandRef) -> OperandRef {
        let at = operand.0 as usize;
        self.operand_at(self.bindings_from[at], self.from.operands[at].clone())
    }

    fn operand_at(&mut self, binding: Binding, operand: Operand) -> OperandRef {
        let same = |(b, o): (&Binding, &Operand)| *b == binding && o.write == operand.write;
        if let Some(known) = self.bindings.iter().zip(&self.operands).position(same) {
            return OperandRef(known as u16);
        }
        self.bindings.push(binding);
        self.operands.push(operand);
        OperandRef(self.operands.len() as u16 - 1)
    }

    /// The index at this kernel's own point.
    fn place(&mut self, axes: impl Iterator<Item = AxisRef>) -> Vec<ExprRef> {
        axes.map(|a| self.exprs.add(Expr::Axis(a), Type::Int)).collect()
    }

    fn expr(&mut self, e: ExprRef) -> ExprRef {
        self.expr_with(e, Old::Running)
    }

    fn expr_with(&mut self, e: ExprRef, old: Old) -> ExprRef {
        if let Some(known) = self.expr_of.get(&(e, old)) {
            return *known;
        }
        let (expr, ty) = self.from.exprs.0[e.0 as usize].clone();
        let made = match (expr, old) {
            (Expr::Old(r), Old::OfPart) => self.of_part[(r.0 - self.first_state) as usize],
            (Expr::Old(r), Old::Running) => self.exprs.add(Expr::Old(ResultRef(r.0 - self.first_state)), ty),
            (expr, _) => {
                let expr = self.copied(expr, old);
                self.exprs.add(expr, ty)
            }
        };
        self.expr_of.insert((e, old), made);
        made
    }

    fn copied(&mut self, expr: Expr, old: Old) -> Expr {
        let all = |c: &mut Self, es: Vec<ExprRef>| es.into_iter().map(|e| c.expr_with(e, old)).collect::<Vec<_>>();
        match expr {
            Expr::Const(v) => Expr::Const(v),
            Expr::Axis(a) => Expr::Axis(self.axis(a)),
            Expr::Position(a) => Expr::Position(self.axis(a)),
            Expr::Row(a) => Expr::Row(self.axis(a)),
            Expr::Length(a) => Expr::Length(self.axis(a)),
            Expr::Sequence(a) => Expr::Sequence(self.axis(a)),
            Expr::Load { operand, index } => {
                let index = all(self, index);
                Expr::Load { operand: self.operand(operand), index }
            }
            Expr::Result { result, moved } => {
                let (axes, at): (Vec<_>, Vec<_>) = moved.into_iter().unzip();
                let moved = self.axes(&axes).into_iter().zip(all(self, at)).collect();
                Expr::Result { result: ResultRef(result.0 - self.first_state), moved }
            }
            Expr::Old(r) => Expr::Old(ResultRef(r.0 - self.first_state)),
            Expr::Rounded(to, x) => Expr::Rounded(to, self.expr_with(x, old)),
            Expr::Map(op, args) => Expr::Map(op, all(self, args)),
        }
    }

    fn store(&mut self, store: &Store) -> Store {
        let index = store.index.iter().map(|i| self.expr(*i)).collect();
        let value = self.expr(store.value);
        Store { operand: self.operand(store.operand), index, value }
    }

    /// A state with everything but its body, which is left as it was.
    fn state(&mut self, state: &State) -> State {
        let Repair { keep, shift, scale } = state.repair;
        let mut copied = |e: Option<ExprRef>| e.map(|e| self.expr(e));
        let repair = Repair { keep: copied(keep), shift: copied(shift), scale: copied(scale) };
        State { op: state.op, init: state.init, axes: self.axes(&state.axes), body: state.body, repair }
    }

    /// What a part found, as if its earlier states had moved to what they are now.
    fn repaired(&mut self, state: &State, stored: ExprRef) -> ExprRef {
        let mut value = stored;
        let ty = state.init.ty();
        let Repair { keep, shift, scale } = state.repair;
        let [keep, shift, scale] = [keep, shift, scale].map(|e| e.map(|e| self.expr_with(e, Old::OfPart)));
        if let Some(keep) = keep {
            let init = self.exprs.add(Expr::Const(state.init), ty);
            value = self.exprs.add(Expr::Map(ScalarOp::Where, vec![keep, value, init]), ty);
        }
        if let Some(shift) = shift {
            value = self.exprs.add(Expr::Map(ScalarOp::Add, vec![value, shift]), ty);
        }
        if let Some(scale) = scale {
            value = self.exprs.add(Expr::Map(ScalarOp::Mul, vec![value, scale]), ty);
        }
        value
    }

    fn int(&mut self, n: i64) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Int(n)), Type::Int)
    }

    /// `there` where the value is `here`, which the other side of the workspace has in its place.
    fn exchanged(&mut self, value: ExprRef, here: i64, there: i64) -> ExprRef {
        let (here, there) = (self.int(here), self.int(there));
        let is = self.exprs.add(Expr::Map(ScalarOp::Eq, vec![value, here]), Type::Bool);
        self.exprs.add(Expr::Map(ScalarOp::Where, vec![is, there, value]), Type::Int)
    }

    /// A state as the workspace holds it.
    fn packed(&mut self, work: &Workspace, value: ExprRef) -> ExprRef {
        match (work.ty, work.edge()) {
            (Type::Int, Some((init, edge))) => self.exchanged(value, init, edge),
            (Type::Real | Type::Int, _) => value,
            (Type::Bool, _) => {
                let (one, zero) = (self.int(1), self.int(0));
                self.exprs.add(Expr::Map(ScalarOp::Where, vec![value, one, zero]), Type::Int)
            }
        }
    }

    /// And back.
    fn unpacked(&mut self, work: &Workspace, loaded: ExprRef) -> ExprRef {
        match (work.ty, work.edge()) {
            (Type::Int, Some((init, edge))) => self.exchanged(loaded, edge, init),
            (Type::Real | Type::Int, _) => loaded,
            (Type::Bool, _) => {
                let zero = self.int(0);
                self.exprs.add(Expr::Map(ScalarOp::Ne, vec![loaded, zero]), Type::Bool)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
