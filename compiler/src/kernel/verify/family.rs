//! Each family's own rules.

use super::{Check, Checker, Fault, Scope, ensure, fault, operand};
use crate::kernel::{
    AxisRef, Body, Contract, Fold, KernelExtent, KernelSpec, Part, Product, ResultRef, Stream, TopK, Visit,
};
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, Format, ReduceOp, Type};
use std::collections::BTreeSet;

/// Type and own axes of the results of a body, in their numbering.
pub(super) fn results(spec: &KernelSpec) -> Result<Vec<(Type, Vec<AxisRef>)>, Fault> {
    let body_type = |e: crate::kernel::ExprRef| match spec.exprs.0.get(e.0 as usize) {
        Some((_, ty)) => Ok(*ty),
        None => fault("results", "there is no such expression"),
    };
    match &spec.body {
        Body::Map { .. } | Body::TopK(_) => Ok(Vec::new()),
        Body::Contract(c) => {
            let stats = c.stats.iter().map(|f| Ok((body_type(f.body)?, Vec::new())));
            stats.chain(c.products.iter().map(|p| Ok((Type::Real, p.axes.clone())))).collect()
        }
        Body::Stream(s) => {
            let dots = s.dots.iter().map(|_| Ok((Type::Real, Vec::new())));
            dots.chain(s.states.iter().map(|s| Ok((body_type(s.body)?, s.axes.clone())))).collect()
        }
    }
}

pub(super) fn body(c: &Checker) -> Check {
    match &c.spec.body {
        Body::Map { axes, stores } => {
            distinct(c, axes, "map")?;
            launched(c, axes, "map")?;
            stores.iter().try_for_each(|s| c.store(s, &Scope::of(axes.iter().copied()), "map"))
        }
        Body::Contract(contract) => self::contract(c, contract),
        Body::Stream(stream) => self::stream(c, stream),
        Body::TopK(topk) => self::topk(c, topk),
    }
}

/// The axes exist and none comes twice.
fn distinct(c: &Checker, axes: &[AxisRef], place: &str) -> Check {
    let mut seen = BTreeSet::new();
    for a in axes {
        ensure(c.axis_exists(*a), place, || format!("there is no axis {}", a.0))?;
        ensure(seen.insert(*a), place, || format!("axis `{}` comes twice", c.spec.axes[a.0 as usize].name))?;
    }
    Ok(())
}

/// The axes have a length before the kernel runs.
fn launched(c: &Checker, axes: &[AxisRef], place: &str) -> Check {
    let known = axes.iter().all(|a| c.spec.dim(*a).is_some());
    ensure(known, place, || "a parallel axis runs over keys, whose number depends on the row".into())?;
    let parts = axes.iter().any(|a| c.is_parts(*a));
    ensure(!parts, place, || "a parallel axis runs over parts that nothing is folded in".into())
}

/// The product of constant axes.
fn elements(c: &Checker, axes: &[AxisRef], place: &str) -> Result<u64, Fault> {
    axes.iter().try_fold(1u64, |n, a| match c.extent(*a) {
        Some(KernelExtent::Const(len)) => {
            n.checked_mul(len).ok_or_else(|| (place.to_string(), "more elements than an address space".to_string()))
        }
        _ => fault(place, "an axis whose length is not constant"),
    })
}

fn fold_type(op: ReduceOp, ty: Option<Type>) -> bool {
    match op {
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => matches!(ty, Some(Type::Real | Type::Int)),
        ReduceOp::Any | ReduceOp::All => ty == Some(Type::Bool),
    }
}

fn contract(c: &Checker, contract: &Contract) -> Check {
    let Contract { row, reduce, input, stats, products, segments } = contract;
    distinct(c, &[&[*row], reduce.as_slice()].concat(), "contract")?;
    launched(c, &[*row], "contract")?;
    let columns = elements(c, reduce, "contract, reduced axes")?;
    let input_format = contract_input(c, *input, *row, columns)?;
    for Fold { op, body } in stats {
        c.within(*body, &Scope::of([*row]).with_axes(reduce.iter().copied()), "contract, statistic")?;
        let real = fold_type(*op, c.ty(*body)) && c.ty(*body) == Some(Type::Real);
        ensure(real, "contract, statistic", || format!("{} of a wrong type", op.keyword()))?;
    }
    for p in products {
        contract_product(c, p, columns, input_format)?;
    }
    let stats: Vec<_> = (0..stats.len() as u16).map(ResultRef).collect();
    let mut owned = BTreeSet::new();
    for segment in segments {
        distinct(c, &[&[*row], segment.axes.as_slice(), reduce.as_slice()].concat(), "contract, segment")?;
        elements(c, &segment.axes, "contract, segment")?;
        for r in &segment.products {
            let product = (r.0 as usize).checked_sub(stats.len()).and_then(|p| products.get(p));
            let fits = product.is_some_and(|p| p.axes == segment.axes) && owned.insert(*r);
            ensure(fits, "contract, segment", || format!("result {} is no product of its axes alone", r.0))?;
        }
        let scope = Scope::of([*row]).with_axes(segment.axes.iter().copied());
        let scope = scope.with_results(stats.iter().chain(&segment.products).copied());
        segment.stores.iter().try_for_each(|s| c.store(s, &scope, "contract"))?;
    }
    ensure(owned.len() == products.len(), "contract", || "a product without a segment".into())
}

/// Checks the activation; gives its format.
fn contract_input(c: &Checker, input: crate::kernel::OperandRef, row: AxisRef, columns: u64) -> Result<Format, Fault> {
    let place = "contract, input";
    let input = operand::get(c.spec, input, place)?;
    let dims = match &input.storage {
        Storage::Dense { dims } if !input.write => dims.as_slice(),
        Storage::Dense { .. } | Storage::Panel { .. } | Storage::Paged { .. } | Storage::Workspace { .. } => &[],
    };
    let inner = dims.iter().skip(1).try_fold(1u64, |n, d: &Dim| n.checked_mul(d.as_const()?));
    let fits = dims.first().copied() == c.spec.dim(row) && inner == Some(columns);
    ensure(fits, place, || format!("`{}` is not dense [row, {columns} columns]", input.name))?;
    let known = matches!(input.format, Format::F32 | Format::F16 | Format::BF16 | Format::Act8);
    ensure(known, place, || format!("`{}` is {}, neither f32, f16, bf16 nor act8", input.name, input.format))?;
    Ok(input.format)
}

fn contract_product(c: &Checker, p: &Product, columns: u64, input: Format) -> Check {
    let weight = operand::get(c.spec, p.weight, "contract, product")?;
    let place = format!("contract, product of `{}`", weight.name);
    let rows = elements(c, &p.axes, &place)?;
    let fits = weight.storage == Storage::Panel { rows, reduce: columns } && !weight.write;
    ensure(fits, &place, || format!("its weight is not in panels of {rows} rows by {columns}"))?;
    ensure(weight.format.is_quantised() || input.plain().is_some(), &place, || {
        format!("a {} weight takes no {input} activation", weight.format)
    })
}

fn stream(c: &Checker, stream: &Stream) -> Check {
    let Stream { parallel, over, part, visit, dots, states, finish, finish_axes } = stream;
    distinct(c, &[parallel.as_slice(), over, finish_axes].concat(), "stream")?;
    match part {
        Some(part) => stream_part(c, stream, part)?,
        None => launched(c, parallel, "stream")?,
    }
    let keys = over.iter().filter(|a| matches!(c.extent(**a), Some(KernelExtent::Keys { .. }))).count();
    ensure(keys == 0 || over.len() == 1, "stream", || "keys are folded alone".into())?;
    for a in over {
        if let Some(of) = looks_from(c, *a) {
            ensure(parallel.contains(&of), "stream", || "keys look from a row that is not parallel".into())?;
        }
        ensure(!c.is_parts(*a) || over.len() == 1, "stream", || "parts are folded alone".into())?;
    }
    let outer = Scope::of(parallel.iter().copied());
    let inner = outer.clone().with_axes(over.iter().copied());
    if let Some(Visit { first, last, condition }) = *visit {
        distinct(c, &[parallel.as_slice(), over, &[first, last]].concat(), "stream, visit")?;
        let like = |a: AxisRef| over.first().is_some_and(|key| c.extent(*key) == c.extent(a));
        ensure(keys == 1 && like(first) && like(last), "stream, visit", || "ends of no block of keys".into())?;
        c.within(condition, &outer.clone().with_axes([first, last]), "stream, visit")?;
        ensure(c.ty(condition) == Some(Type::Bool), "stream, visit", || "is no condition".into())?;
    }
    for dot in dots {
        elements(c, &dot.reduce, "stream, dot")?;
        distinct(c, &[parallel.as_slice(), over, &dot.reduce].concat(), "stream, dot")?;
        c.within(dot.left, &outer.clone().with_axes(dot.reduce.iter().copied()), "stream, left factor")?;
        c.within(dot.right, &inner.clone().with_axes(dot.reduce.iter().copied()), "stream, right factor")?;
        let real = c.ty(dot.left) == Some(Type::Real) && c.ty(dot.right) == Some(Type::Real);
        ensure(real, "stream, dot", || "factors that are not real".into())?;
    }
    for (i, state) in states.iter().enumerate() {
        let place = format!("stream, state {i}");
        elements(c, &state.axes, &place)?;
        distinct(c, &[parallel.as_slice(), over, &state.axes].concat(), &place)?;
        let earlier = || (dots.len()..dots.len() + i).map(|r| ResultRef(r as u16));
        let dots = (0..dots.len()).map(|r| ResultRef(r as u16));
        let scope = inner.clone().with_axes(state.axes.iter().copied());
        c.within(state.body, &scope.with_results(dots.chain(earlier())), &place)?;
        let ty = c.ty(state.body);
        ensure(fold_type(state.op, ty), &place, || format!("{} of a wrong type", state.op.keyword()))?;
        ensure(ty == Some(state.init.ty()), &place, || format!("begins as a {}", state.init.ty()))?;
        let scope = outer.clone().with_axes(state.axes.iter().copied());
        let scope = scope.with_results(earlier()).with_old(earlier());
        for repair in state.repair.exprs() {
            c.within(repair, &scope, &format!("{place}, repair"))?;
        }
        let kept = state.repair.keep.is_none_or(|k| c.ty(k) == Some(Type::Bool));
        ensure(kept, &place, || "it is kept while something that is no truth value".into())?;
        let mut numbers = [state.repair.shift, state.repair.scale].into_iter().flatten();
        let real = numbers.all(|r| c.ty(r) == Some(Type::Real) && ty == Some(Type::Real));
        ensure(real, &place, || "its repair is not real".into())?;
    }
    elements(c, finish_axes, "stream, finish")?;
    let scope = outer.with_axes(finish_axes.iter().copied());
    let scope = scope.with_results((dots.len()..dots.len() + states.len()).map(|r| ResultRef(r as u16)));
    finish.iter().try_for_each(|s| c.store(s, &scope, "stream, finish"))
}

/// The row from which keys are looked at, or keys in parts.
fn looks_from(c: &Checker, axis: AxisRef) -> Option<AxisRef> {
    match c.extent(axis)? {
        KernelExtent::Keys { of, .. } => Some(of),
        KernelExtent::Parts { of, .. } => looks_from(c, of),
        KernelExtent::Const(_)
        | KernelExtent::Rows(_)
        | KernelExtent::Picked(_)
        | KernelExtent::Tokens(_)
        | KernelExtent::Sequences(_) => None,
    }
}

/// A fold of a part: of the outermost folded axis, each state stored, nothing finished.
fn stream_part(c: &Checker, stream: &Stream, part: &Part) -> Check {
    let place = "stream, part";
    let of = match c.extent(part.axis) {
        Some(KernelExtent::Parts { of, .. }) => Some(of),
        _ => None,
    };
    ensure(of.is_some() && of == stream.over.first().copied(), place, || {
        "is none of the outermost folded axis".into()
    })?;
    let last = stream.parallel.split_last().filter(|(last, _)| **last == part.axis);
    let (_, others) = last.ok_or_else(|| (place.to_string(), "is not the last parallel axis".to_string()))?;
    launched(c, others, place)?;
    let finished = !stream.finish.is_empty() || !stream.finish_axes.is_empty();
    ensure(!finished, place, || "is finished before it is combined".into())?;
    ensure(part.stores.len() == stream.states.len(), place, || "stores not every state".into())?;
    for (i, (state, store)) in stream.states.iter().zip(&part.stores).enumerate() {
        let scope = Scope::of(stream.parallel.iter().chain(&state.axes).copied());
        c.store(store, &scope.with_results([ResultRef((stream.dots.len() + i) as u16)]), place)?;
    }
    Ok(())
}

fn topk(c: &Checker, topk: &TopK) -> Check {
    let TopK { parallel, axis, rank, value, operand: to, index } = topk;
    distinct(c, &[parallel.as_slice(), &[*axis, *rank]].concat(), "topk")?;
    launched(c, parallel, "topk")?;
    let (length, winners) = (elements(c, &[*axis], "topk")?, elements(c, &[*rank], "topk")?);
    ensure(winners <= length, "topk", || format!("{winners} winners of {length}"))?;
    c.within(*value, &Scope::of(parallel.iter().copied()).with_axes([*axis]), "topk, value")?;
    ensure(c.ty(*value) == Some(Type::Real), "topk, value", || "is not real".into())?;
    let to = operand::get(c.spec, *to, "topk")?;
    let int = to.write && to.format == Format::I32 && matches!(to.storage, Storage::Dense { .. });
    ensure(int, "topk", || format!("`{}` is no dense written i32", to.name))?;
    for e in index {
        c.within(*e, &Scope::of(parallel.iter().copied()).with_axes([*rank]), "topk, index")?;
        ensure(c.ty(*e) == Some(Type::Int), "topk, index", || "is no int".into())?;
    }
    operand::index(c, to, index, "topk, index")
}
