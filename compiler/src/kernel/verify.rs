//! What must hold of a KernelSpec before any back-end sees it. Back-ends take [`Verified`] and nothing else.
//!
//! Types agree, operands come before users, an index has one int for every dimension, an expression mentions only the
//! axes and reductions of the place it stands in, and each operand is stored in a way its use allows.

mod family;
mod operand;

use super::{AxisRef, Expr, ExprRef, KernelExtent, KernelSpec, OperandRef, ResultRef, Store};
use llmc_artifact::plan::{PAGE_TOKENS, Storage};
use llmc_artifact::{DType, Format, Type};
use std::collections::BTreeSet;
use std::ops::Deref;

/// Something a verifier has accepted.
#[derive(Clone, Debug, PartialEq)]
///
/// ```compile_fail,E0423
/// use llmc_compiler::kernel::{KernelSpec, Verified};
/// fn unchecked(spec: KernelSpec) -> Verified<KernelSpec> {
///     Verified(spec)
/// }
/// ```
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// The accepted value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Why a spec is not one: a mistake of the stage that made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`, {place}: {problem}")]
pub struct SpecError {
    /// The kernel's name.
    pub kernel: String,
    /// Which part of it.
    pub place: String,
    /// What was found and what was expected.
    pub problem: String,
}

/// Checks a spec.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(spec: KernelSpec) -> Result<Verified<KernelSpec>, SpecError> {
    let checked = Checker::new(&spec).and_then(|c| family::body(&c));
    match checked {
        Ok(()) => Ok(Verified(spec)),
        Err((place, problem)) => Err(SpecError { kernel: spec.name, place, problem }),
    }
}

/// The place and the problem.
type Fault = (String, String);
type Check = Result<(), Fault>;

fn fault<T>(place: impl Into<String>, problem: impl Into<String>) -> Result<T, Fault> {
    Err((place.into(), problem.into()))
}

/// Fails with the problem where the condition does not hold.
fn ensure(holds: bool, place: &str, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { fault(place, problem()) }
}

/// What an expression may mention where it stands.
#[derive(Clone, Debug, Default)]
struct Scope {
    axes: BTreeSet<AxisRef>,
    results: BTreeSet<ResultRef>,
    old: BTreeSet<ResultRef>,
}

impl Scope {
    fn of(axes: impl IntoIterator<Item = AxisRef>) -> Scope {
        Scope { axes: axes.into_iter().collect(), ..Scope::default() }
    }

    fn with_axes(mut self, axes: impl IntoIterator<Item = AxisRef>) -> Scope {
        self.axes.extend(axes);
        self
    }

    fn with_results(mut self, results: impl IntoIterator<Item = ResultRef>) -> Scope {
        self.results.extend(results);
        self
    }

    fn with_old(mut self, old: impl IntoIterator<Item = ResultRef>) -> Scope {
        self.old.extend(old);
        self
    }
}

struct Checker<'a> {
    spec: &'a KernelSpec,
    /// Type and own axes of each result of the body.
    results: Vec<(Type, Vec<AxisRef>)>,
}

impl<'a> Checker<'a> {
    fn new(spec: &'a KernelSpec) -> Result<Checker<'a>, Fault> {
        let checker = Checker { spec, results: family::results(spec)? };
        checker.axes()?;
        for i in 0..spec.operands.len() {
            operand::declared(spec, OperandRef(i as u16))?;
        }
        for i in 0..spec.exprs.0.len() {
            checker.expr(ExprRef(i as u32))?;
        }
        Ok(checker)
    }

    fn axes(&self) -> Check {
        for axis in &self.spec.axes {
            let place = format!("axis `{}`", axis.name);
            match axis.extent {
                KernelExtent::Const(n) => ensure(n > 0, &place, || "is empty".into())?,
                KernelExtent::Rows(_)
                | KernelExtent::Picked(_)
                | KernelExtent::Tokens(_)
                | KernelExtent::Sequences(_) => {}
                KernelExtent::Keys { of, causal, window, .. } => {
                    let whole = self.is_sequences(of) && !causal && window.is_none();
                    ensure(self.is_row(of) || whole, &place, || "looks from an axis that is no row axis".into())?;
                }
                KernelExtent::Parts { of, size } => {
                    let long = matches!(self.extent(of), Some(KernelExtent::Const(_) | KernelExtent::Keys { .. }));
                    ensure(long, &place, || "has parts of neither keys nor a constant axis".into())?;
                    let pages = size > 0 && size.is_multiple_of(PAGE_TOKENS as u64) && u32::try_from(size).is_ok();
                    ensure(pages, &place, || format!("has parts of {size}, which are no whole pages"))?;
                }
            }
        }
        Ok(())
    }

    fn axis_exists(&self, axis: AxisRef) -> bool {
        (axis.0 as usize) < self.spec.axes.len()
    }

    fn extent(&self, axis: AxisRef) -> Option<KernelExtent> {
        self.spec.axes.get(axis.0 as usize).map(|a| a.extent)
    }

    fn is_row(&self, axis: AxisRef) -> bool {
        matches!(self.extent(axis), Some(KernelExtent::Rows(_) | KernelExtent::Picked(_)))
    }

    fn is_tokens(&self, axis: AxisRef) -> bool {
        matches!(self.extent(axis), Some(KernelExtent::Tokens(_)))
    }

    fn is_sequences(&self, axis: AxisRef) -> bool {
        matches!(self.extent(axis), Some(KernelExtent::Sequences(_)))
    }

    fn is_parts(&self, axis: AxisRef) -> bool {
        matches!(self.extent(axis), Some(KernelExtent::Parts { .. }))
    }

    fn ty(&self, e: ExprRef) -> Option<Type> {
        self.spec.exprs.0.get(e.0 as usize).map(|(_, ty)| *ty)
    }

    /// Checks one expression by itself: its operands are earlier ones and give its type.
    fn expr(&self, at: ExprRef) -> Check {
        let (expr, ty) = &self.spec.exprs.0[at.0 as usize];
        let place = format!("expression {}", at.0);
        let earlier = |e: &ExprRef| if e.0 < at.0 { self.ty(*e) } else { None };
        let ints = |es: &[ExprRef]| es.iter().all(|e| earlier(e) == Some(Type::Int));
        let found = match expr {
            Expr::Const(v) => Some(v.ty()),
            Expr::Axis(a) => self.axis_exists(*a).then_some(Type::Int),
            Expr::Position(a) | Expr::Sequence(a) => (self.is_row(*a) || self.is_tokens(*a)).then_some(Type::Int),
            Expr::Length(a) => (self.is_row(*a) || self.is_tokens(*a) || self.is_sequences(*a)).then_some(Type::Int),
            Expr::Row(a) => matches!(self.extent(*a), Some(KernelExtent::Picked(_))).then_some(Type::Int),
            Expr::Load { operand, index } => {
                ensure(ints(index), &place, || "an index that is no earlier int".into())?;
                Some(operand::loaded(self, *operand, index, &place)?)
            }
            Expr::Result { result, moved } => {
                let known = self.results.get(result.0 as usize);
                let (ty, axes) = known.ok_or_else(|| (place.clone(), "there is no such result".into()))?;
                let legal = moved.iter().all(|(a, e)| axes.contains(a) && earlier(e) == Some(Type::Int));
                ensure(legal, &place, || "moves an axis that its result does not have, or by no earlier int".into())?;
                Some(*ty)
            }
            Expr::Old(r) => self.results.get(r.0 as usize).map(|(ty, _)| *ty),
            Expr::Rounded(dtype, x) => {
                let real = matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && earlier(x) == Some(Type::Real);
                real.then_some(Type::Real)
            }
            Expr::Map(op, args) => args.iter().map(earlier).collect::<Option<Vec<_>>>().and_then(|t| op.result(&t)),
        };
        match found {
            Some(found) if found == *ty => Ok(()),
            Some(found) => fault(place, format!("is declared {ty} and is {found}")),
            None => fault(place, "its operands do not fit it"),
        }
    }

    /// Checks that an expression mentions only what its place has.
    fn within(&self, root: ExprRef, scope: &Scope, place: &str) -> Check {
        ensure((root.0 as usize) < self.spec.exprs.0.len(), place, || "there is no such expression".into())?;
        for e in self.spec.exprs.reachable(&[root]) {
            match &self.spec.exprs[e] {
                Expr::Const(_) | Expr::Rounded(..) | Expr::Map(..) | Expr::Load { .. } => {}
                Expr::Axis(a) | Expr::Position(a) | Expr::Row(a) | Expr::Length(a) | Expr::Sequence(a) => {
                    self.mentioned(*a, scope, place)?;
                }
                Expr::Result { result, moved } => {
                    ensure(scope.results.contains(result), place, || {
                        format!("mentions result {}, which it cannot see", result.0)
                    })?;
                    for a in &self.results[result.0 as usize].1 {
                        if !moved.iter().any(|(m, _)| m == a) {
                            self.mentioned(*a, scope, place)?;
                        }
                    }
                }
                Expr::Old(r) => ensure(scope.old.contains(r), place, || {
                    format!("mentions the old value of result {}, which it cannot see", r.0)
                })?,
            }
        }
        Ok(())
    }

    fn mentioned(&self, axis: AxisRef, scope: &Scope, place: &str) -> Check {
        ensure(scope.axes.contains(&axis), place, || {
            format!("mentions axis `{}`, which is not in scope", self.spec.axes[axis.0 as usize].name)
        })
    }

    /// Checks a store: written operand, its index and value, each within the scope.
    fn store(&self, store: &Store, scope: &Scope, place: &str) -> Check {
        let operand = operand::get(self.spec, store.operand, place)?;
        let place = format!("{place}, store to `{}`", operand.name);
        ensure(operand.write, &place, || "is not written".into())?;
        ensure(!matches!(operand.storage, Storage::Panel { .. }), &place, || "panels are only read".into())?;
        for e in &store.index {
            self.within(*e, scope, &place)?;
            ensure(self.ty(*e) == Some(Type::Int), &place, || "an index that is no int".into())?;
        }
        operand::index(self, operand, &store.index, &place)?;
        self.within(store.value, scope, &place)?;
        let wants = if operand.format == Format::I32 { Type::Int } else { Type::Real };
        ensure(self.ty(store.value) == Some(wants), &place, || format!("takes a {wants}"))
    }
}

#[cfg(test)]
mod tests;
