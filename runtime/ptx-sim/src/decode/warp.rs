//! Instructions in which the threads of a warp or of a block take part together.

use super::arithmetic::Decoded;
use super::cx::Cx;
use crate::program::{Barrier, Op, Reduce, Shuffle, Slot, Vote};
use crate::syntax::PtxError;
use crate::syntax::ast::Operand;
use crate::types::Type;

/// A register and, after a bar, a predicate.
fn result(cx: &mut Cx, ty: Type) -> Result<(Slot, Option<u32>), PtxError> {
    Ok(match cx.operand(0)? {
        Operand::Pair(to, p) => (cx.target(to, ty, false)?.0, cx.predicate(p)?),
        single => (cx.target(single, ty, false)?.0, None),
    })
}

/// `shfl.sync.bfly.b32 d|p, a, b, c, members`
pub fn shfl(cx: &mut Cx) -> Decoded {
    if !cx.take("sync") {
        return cx.error("only the form with `.sync` exists on the targets simulated");
    }
    let mode = cx.require(&[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ])?;
    let ty = cx.ty()?;
    cx.arity(5..=5)?;
    let (to, p) = result(cx, ty)?;
    let (value, by) = (cx.from(1, ty)?, cx.from(2, Type::B32)?);
    Ok(Op::Shuffle { mode, to, p, value, by, clamp: cx.from(3, Type::B32)?, members: cx.from(4, Type::B32)? })
}

/// `vote.sync.ballot.b32 d, p, members`, `vote.sync.any.pred q, p, members`
pub fn vote(cx: &mut Cx) -> Decoded {
    if !cx.take("sync") {
        return cx.error("only the form with `.sync` exists on the targets simulated");
    }
    let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
    let (mode, ty) = (cx.require(&modes)?, cx.ty()?);
    cx.arity(3..=3)?;
    let (to, p) = match ty {
        Type::Pred => (None, cx.predicate(cx.operand(0)?)?),
        _ => (Some(cx.to(0, ty)?), None),
    };
    Ok(Op::Vote { mode, to, p, by: cx.guard(1)?, members: cx.from(2, Type::B32)? })
}

/// `match.any.sync.b32 d, a, members`, `match.all.sync.b32 d|p, a, members`
pub fn match_(cx: &mut Cx) -> Decoded {
    let all = cx.require(&[("all", true), ("any", false)])?;
    cx.take("sync");
    let ty = cx.ty()?;
    cx.arity(3..=3)?;
    let (to, p) = result(cx, Type::B32)?;
    Ok(Op::Match { all, to, p, value: cx.from(1, ty)?, members: cx.from(2, Type::B32)? })
}

/// `redux.sync.add.s32 d, a, members`
pub fn redux(cx: &mut Cx) -> Decoded {
    cx.take("sync");
    let ops = [
        ("add", Reduce::Add),
        ("min", Reduce::Min),
        ("max", Reduce::Max),
        ("and", Reduce::And),
        ("or", Reduce::Or),
        ("xor", Reduce::Xor),
    ];
    let (op, ty) = (cx.require(&ops)?, cx.ty()?);
    if !ty.is_integer() {
        return cx.unknown();
    }
    cx.arity(3..=3)?;
    Ok(Op::Reduce { op, ty, to: cx.to(0, ty)?, value: cx.from(1, ty)?, members: cx.from(2, Type::B32)? })
}

pub fn activemask(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    Ok(Op::ActiveMask { to: cx.to(0, ty)? })
}

/// `elect.sync d|p, members`
pub fn elect(cx: &mut Cx) -> Decoded {
    cx.take("sync");
    cx.arity(2..=2)?;
    let (to, p) = match cx.operand(0)? {
        Operand::Pair(to, p) if **to == Operand::Name("_", None) => (None, cx.predicate(p)?),
        Operand::Pair(to, p) => (Some(cx.target(to, Type::B32, false)?.0), cx.predicate(p)?),
        _ => return cx.error("a register and a predicate are needed"),
    };
    let Some(p) = p else { return cx.error("a predicate is needed") };
    Ok(Op::Elect { to, p, members: cx.from(1, Type::B32)? })
}

/// `bar.sync 0`, `barrier.sync.aligned 1, 128`, `bar.arrive 1, 64`, `bar.red.popc.u32 d, 0, p`, `bar.warp.sync -1`
pub fn bar(cx: &mut Cx) -> Decoded {
    if cx.take("warp") {
        cx.take("sync");
        cx.arity(1..=1)?;
        return Ok(Op::WarpBarrier { members: cx.from(0, Type::B32)? });
    }
    if cx.take("cluster") {
        return cluster(cx);
    }
    cx.ignore(&["cta", "aligned"]);
    match cx.require(&[("sync", 0), ("arrive", 1), ("red", 2)])? {
        2 => reduction(cx),
        kind => {
            cx.arity(1..=2)?;
            let id = cx.from(0, Type::U32)?;
            let threads = if cx.count() == 2 { Some(cx.from(1, Type::U32)?) } else { None };
            if kind == 1 && threads.is_none() {
                return cx.error("a number of threads is needed");
            }
            Ok(Op::Barrier(Barrier { id, threads, wait: kind == 0, reduce: None }))
        }
    }
}

fn reduction(cx: &mut Cx) -> Decoded {
    let modes = [("popc", Vote::Ballot), ("and", Vote::All), ("or", Vote::Any)];
    let (mode, ty) = (cx.require(&modes)?, cx.ty()?);
    if ty == Type::Pred {
        return cx.unknown();
    }
    cx.arity(3..=4)?;
    let to = cx.to(0, ty)?;
    let threads = if cx.count() == 4 { Some(cx.from(2, Type::U32)?) } else { None };
    let by = cx.guard(cx.count() - 1)?;
    Ok(Op::Barrier(Barrier { id: cx.from(1, Type::U32)?, threads, wait: true, reduce: Some((mode, by, to)) }))
}

/// `barrier.cluster.arrive`, `.wait`: clusters of one block are simulated, in which a wait is a barrier of the block.
fn cluster(cx: &mut Cx) -> Decoded {
    cx.ignore(&["aligned", "release", "relaxed", "acquire"]);
    if cx.take("arrive") {
        return Ok(Op::Fence);
    }
    if !cx.take("wait") {
        return cx.unknown();
    }
    // A barrier that no `bar` can name.
    let id = cx.b.constant(16);
    Ok(Op::Barrier(Barrier { id, threads: None, wait: true, reduce: None }))
}
