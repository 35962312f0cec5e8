//! Moves: between registers, into and out of vectors, between address spaces.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::functions::one;
use crate::program::{Logic, Op};
use crate::syntax::PtxError;
use crate::syntax::ast::{Operand, Space};
use crate::types::Type;

/// `mov.b32 d, a`, `mov.b64 {lo, hi}, a`, `mov.b32 d, {lo, hi}`, `mov.u64 d, variable`, `mov.pred p, q`
pub fn mov(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(2..=2)?;
    if ty == Type::Pred {
        let (Some(to), a) = (cx.predicate(cx.operand(0)?)?, cx.guard(1)?) else {
            return cx.error("a predicate is needed");
        };
        return Ok(Op::Predicate { to, a, b: a, op: Logic::And });
    }
    match (cx.operand(0)?, cx.operand(1)?) {
        (Operand::Vector(parts), _) => {
            let bits = part_bits(cx, ty, parts.len())?;
            let part = bits_type(cx, bits)?;
            let parts = parts.iter().map(|p| optional(cx, p, part)).collect::<Result<_, _>>()?;
            Ok(Op::Unpack { parts, from: cx.from(1, ty)?, bits })
        }
        (_, Operand::Vector(parts)) => {
            let bits = part_bits(cx, ty, parts.len())?;
            let part = bits_type(cx, bits)?;
            let parts = parts.iter().map(|p| cx.value(p, part, false)).collect::<Result<_, _>>()?;
            Ok(Op::Pack { to: cx.to(0, ty)?, parts, bits })
        }
        _ => Ok(Op::Alu { f: one(|a| a), to: cx.to(0, ty)?, from: [cx.from(1, ty)?, 0, 0, 0] }),
    }
}

fn optional<'s>(cx: &mut Cx<'_, 's, '_>, operand: &Operand<'s>, ty: Type) -> Result<Option<u32>, PtxError> {
    match operand {
        Operand::Name("_", None) => Ok(None),
        _ => cx.target(operand, ty, false).map(|(slot, _)| Some(slot)),
    }
}

fn part_bits(cx: &Cx, ty: Type, parts: usize) -> Result<u32, PtxError> {
    match parts {
        2 | 4 if ty.bits() <= 64 => Ok(ty.bits() / parts as u32),
        _ => cx.error("vectors of two or four parts and at most 64 bits are supported"),
    }
}

pub fn bits_type(cx: &Cx, bits: u32) -> Result<Type, PtxError> {
    match bits {
        8 => Ok(Type::B8),
        16 => Ok(Type::B16),
        32 => Ok(Type::B32),
        _ => cx.error("parts of 8, 16 or 32 bits are supported"),
    }
}

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
];

/// The space among the modifiers.
pub fn space(cx: &mut Cx) -> Option<Space> {
    cx.choose(SPACES)
}

/// `cvta.to.global.u64 d, a`, `cvta.shared.u64 d, variable`
pub fn cvta(cx: &mut Cx) -> Decoded {
    let back = cx.take("to");
    let Some(space) = space(cx) else { return cx.unknown() };
    let ty = cx.ty()?;
    if ty.bits() != 64 {
        return cx.error("generic addresses have 64 bits");
    }
    cx.arity(2..=2)?;
    Ok(Op::Window { to: cx.to(0, ty)?, from: cx.from(1, ty)?, space, back })
}

/// `isspacep.shared %p1, a`
pub fn isspacep(cx: &mut Cx) -> Decoded {
    let Some(space) = space(cx) else { return cx.unknown() };
    cx.arity(2..=2)?;
    let Some(to) = cx.predicate(cx.operand(0)?)? else { return cx.error("a predicate is needed") };
    Ok(Op::IsSpace { to, from: cx.from(1, Type::U64)?, space })
}

/// Instructions that change nothing here: prefetches, hints.
pub fn nothing(cx: &mut Cx) -> Decoded {
    cx.ignore_prefix("");
    Ok(Op::Fence)
}

/// `createpolicy.fractional.L2::evict_last.b64 policy, 1.0;`: a hint for caches, which are not simulated.
pub fn policy(cx: &mut Cx) -> Decoded {
    cx.ignore_prefix("");
    let zero = cx.b.constant(0);
    Ok(Op::Alu { f: one(|a| a), to: cx.to(0, Type::B64)?, from: [zero, 0, 0, 0] })
}

/// `mapa.shared::cluster.u32 d, a, rank`: in a cluster of one block every address is its own.
pub fn mapa(cx: &mut Cx) -> Decoded {
    let _ = space(cx);
    let ty = cx.ty()?;
    cx.arity(3..=3)?;
    Ok(Op::Alu { f: one(|a| a), to: cx.to(0, ty)?, from: [cx.from(1, ty)?, 0, 0, 0] })
}
