//! `cp.async` and what waits for it.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::moves::space;
use crate::program::{Copy, Op};
use crate::syntax::ast::{Number, Operand, Space};
use crate::types::Type;

/// `cp.async.cg.shared.global [to], [from], 16, bytes;`, `cp.async.commit_group;`, `cp.async.wait_group 1;`
pub fn cp(cx: &mut Cx) -> Decoded {
    if !cx.take("async") {
        return cx.unknown();
    }
    if cx.take("bulk") {
        return super::bulk::bulk(cx);
    }
    if cx.take("commit_group") {
        return Ok(Op::CopyCommit);
    }
    if cx.take("wait_all") {
        return Ok(Op::CopyWait(None));
    }
    if cx.take("wait_group") {
        return match cx.operand(0)? {
            Operand::Number(Number::Int(n)) if *n <= u32::MAX as u64 => Ok(Op::CopyWait(Some(*n as u32))),
            _ => cx.error("a number of groups is needed"),
        };
    }
    let narrow = cx.require(&[("ca", true), ("cg", false)])?;
    cx.ignore_prefix("L2::");
    if space(cx) != Some(Space::Shared) || space(cx) != Some(Space::Global) {
        return cx.unknown();
    }
    cx.arity(3..=5)?;
    let (to, from) = (cx.address(0, Space::Shared)?, cx.address(1, Space::Global)?);
    let size = match cx.operand(2)? {
        Operand::Number(Number::Int(16)) => 16,
        Operand::Number(Number::Int(n @ (4 | 8))) if narrow => *n as u32,
        _ => return cx.error("16 bytes can be copied, with `.ca` also 4 or 8"),
    };
    let predicate = cx.count() > 3 && cx.is_predicate(3)?;
    let ignore = if predicate { Some(cx.guard(3)?) } else { None };
    let source = if cx.count() > 3 && !predicate { Some(cx.from(3, Type::U32)?) } else { None };
    Ok(Op::Copy(Box::new(Copy { to, from, size, source, ignore })))
}
