//! Operands: how they are stored, and which indices fit.

use super::{Check, Checker, Fault, ensure, fault};
use crate::kernel::{Expr, ExprRef, KernelExtent, KernelSpec, Operand, OperandRef};
use llmc_artifact::plan::{PAGE_TOKENS, PageDim, Storage};
use llmc_artifact::{Format, Type};

pub(super) fn get<'a>(spec: &'a KernelSpec, operand: OperandRef, place: &str) -> Result<&'a Operand, Fault> {
    match spec.operands.get(operand.0 as usize) {
        Some(o) => Ok(o),
        None => fault(place, format!("there is no operand {}", operand.0)),
    }
}

/// Checks an operand by itself: a storage that its format can have.
pub(super) fn declared(spec: &KernelSpec, operand: OperandRef) -> Check {
    let operand = get(spec, operand, "operands")?;
    let place = format!("operand `{}`", operand.name);
    match &operand.storage {
        Storage::Dense { dims } => {
            if operand.format.block() == 1 {
                return Ok(());
            }
            let inner = dims.last().and_then(|d| d.as_const());
            let whole = inner.is_some_and(|n| n % operand.format.block() as u64 == 0);
            ensure(whole, &place, || format!("its innermost dimension is no whole number of {} blocks", operand.format))
        }
        Storage::Panel { rows, reduce } => {
            let layout = llmc_artifact::panel::PanelLayout::new(operand.format, *rows, *reduce);
            let fits = layout.is_some() && *rows > 0 && *reduce > 0 && operand.format != Format::I32;
            ensure(fits, &place, || format!("no {} weight is {rows} by {reduce}", operand.format))
        }
        Storage::Paged { page, .. } | Storage::Workspace { page, .. } => {
            let slots = page.iter().filter_map(|d| match d {
                PageDim::Slot { count, .. } => Some(*count),
                PageDim::Axis(_) => None,
            });
            let tokens = slots.fold(1u32, u32::saturating_mul);
            let plain = operand.format.block() == 1 && operand.format != Format::I32;
            ensure(plain, &place, || "a page's format is a plain real one".into())?;
            ensure(tokens == PAGE_TOKENS, &place, || format!("its page holds {tokens} tokens, not {PAGE_TOKENS}"))
        }
    }
}

/// Checks a load's operand and index; gives the type of the element.
pub(super) fn loaded(checker: &Checker, operand: OperandRef, index: &[ExprRef], place: &str) -> Result<Type, Fault> {
    let operand = get(checker.spec, operand, place)?;
    ensure(!operand.write, place, || format!("loads `{}`, which is written", operand.name))?;
    self::index(checker, operand, index, place)?;
    Ok(if operand.format == Format::I32 { Type::Int } else { Type::Real })
}

/// Checks that an index has as many ints as the storage takes, and begins with the token where it is paged.
pub(super) fn index(checker: &Checker, operand: &Operand, index: &[ExprRef], place: &str) -> Check {
    let wants = match &operand.storage {
        Storage::Dense { dims } => dims.len(),
        Storage::Panel { .. } => 2,
        Storage::Paged { page, .. } | Storage::Workspace { page, .. } => {
            1 + page.iter().filter(|d| matches!(d, PageDim::Axis(_))).count()
        }
    };
    ensure(index.len() == wants, place, || format!("`{}` takes {wants} indices, not {}", operand.name, index.len()))?;
    let (seq, cache) = match operand.storage {
        Storage::Dense { .. } | Storage::Panel { .. } => return Ok(()),
        Storage::Paged { seq, .. } => (seq, true),
        Storage::Workspace { seq, .. } => (seq, false),
    };
    let token = match &checker.spec.exprs[index[0]] {
        Expr::Axis(a) => checker.extent(*a),
        _ => None,
    };
    let fits = match token {
        Some(KernelExtent::Rows(s) | KernelExtent::Picked(s)) => s == seq && operand.write && cache,
        Some(KernelExtent::Tokens(s)) => s == seq && operand.write != cache,
        Some(KernelExtent::Keys { seq: s, .. }) => s == seq && !operand.write,
        Some(KernelExtent::Const(_) | KernelExtent::Sequences(_) | KernelExtent::Parts { .. }) | None => false,
    };
    ensure(fits, place, || {
        format!("`{}` is paged: its first index is the axis of tokens that writes or reads", operand.name)
    })
}
