//! `mbarrier`: arrivals and bytes of shared memory, counted phase by phase.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::functions::one;
use super::moves::space;
use crate::program::{MBarrier, MBarrierOp, Op, Slot};
use crate::syntax::PtxError;
use crate::syntax::ast::{Operand, Space};
use crate::types::Type;

/// An instruction by its second word.
pub fn mbarrier(cx: &mut Cx) -> Decoded {
    type Form = fn(&mut Cx) -> Decoded;
    let form = cx.require::<Form>(&[
        ("init", init),
        ("inval", inval),
        ("expect_tx", expect),
        ("complete_tx", complete),
        ("arrive", arrive),
        ("arrive_drop", arrive_drop),
        ("test_wait", wait),
        ("try_wait", wait),
        ("pending_count", pending),
    ])?;
    // Every operation is ordered as strongly as any may be.
    cx.ignore(&["release", "acquire", "relaxed", "cta", "cluster"]);
    form(cx)
}

fn op(cx: &mut Cx, at: usize, op: MBarrierOp) -> Decoded {
    let space = space(cx).unwrap_or(Space::Generic);
    if !cx.take("b64") {
        return cx.unknown();
    }
    Ok(Op::MBarrier(Box::new(MBarrier { address: cx.address(at, space)?, op })))
}

/// `mbarrier.init.shared.b64 [mbarrier], count`
fn init(cx: &mut Cx) -> Decoded {
    cx.arity(2..=2)?;
    let count = cx.from(1, Type::U32)?;
    op(cx, 0, MBarrierOp::Init { count })
}

/// `mbarrier.inval.shared.b64 [mbarrier]`
fn inval(cx: &mut Cx) -> Decoded {
    cx.arity(1..=1)?;
    op(cx, 0, MBarrierOp::Invalidate)
}

/// `mbarrier.expect_tx.relaxed.cta.shared.b64 [mbarrier], bytes`
fn expect(cx: &mut Cx) -> Decoded {
    cx.arity(2..=2)?;
    let bytes = cx.from(1, Type::U32)?;
    op(cx, 0, MBarrierOp::Expect { bytes })
}

/// `mbarrier.complete_tx.relaxed.cta.shared.b64 [mbarrier], bytes`
fn complete(cx: &mut Cx) -> Decoded {
    cx.arity(2..=2)?;
    let bytes = cx.from(1, Type::U32)?;
    op(cx, 0, MBarrierOp::Complete { bytes })
}

fn arrive(cx: &mut Cx) -> Decoded {
    arrival(cx, false)
}

fn arrive_drop(cx: &mut Cx) -> Decoded {
    arrival(cx, true)
}

/// `mbarrier.arrive.shared.b64 state, [mbarrier], count`, `mbarrier.arrive.expect_tx.shared.b64 _, [mbarrier], bytes`
fn arrival(cx: &mut Cx, drop: bool) -> Decoded {
    let (expect, last) = (cx.take("expect_tx"), !cx.take("noComplete"));
    cx.arity(if expect { 3..=3 } else { 2..=3 })?;
    let state = match cx.operand(0)? {
        Operand::Name("_", None) => None,
        _ => Some(cx.to(0, Type::B64)?),
    };
    let one = cx.b.constant(1);
    let given: Option<Slot> = if cx.count() == 3 { Some(cx.from(2, Type::U32)?) } else { None };
    let (count, expect) = if expect { (one, given) } else { (given.unwrap_or(one), None) };
    op(cx, 1, MBarrierOp::Arrive { state, count, expect, drop, last })
}

/// `mbarrier.test_wait.shared.b64 p, [mbarrier], state`, `mbarrier.try_wait.parity.shared.b64 p, [mbarrier], parity, time`
fn wait(cx: &mut Cx) -> Decoded {
    let parity = cx.take("parity");
    cx.arity(3..=4)?;
    let phase = phase(cx, parity)?;
    let p = cx.predicate(cx.operand(0)?)?;
    op(cx, 1, MBarrierOp::Wait { p, phase, parity })
}

fn phase(cx: &mut Cx, parity: bool) -> Result<Slot, PtxError> {
    cx.from(2, if parity { Type::U32 } else { Type::B64 })
}

/// `mbarrier.pending_count.b64 count, state`: a state is the number of a phase and, above, the arrivals it waits for.
fn pending(cx: &mut Cx) -> Decoded {
    cx.arity(2..=2)?;
    cx.take("b64");
    Ok(Op::Alu { f: one(|state| state >> 32), to: cx.to(0, Type::U32)?, from: [cx.from(1, Type::B64)?, 0, 0, 0] })
}
