//! Loads, stores and atomic operations.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::moves::space;
use crate::number::{Rounding, add_odd, narrow, widen};
use crate::program::{Access, Atomic, Op, Slot};
use crate::syntax::PtxError;
use crate::syntax::ast::{Operand, Space};
use crate::types::{Class, Type};

/// Hints to caches.
const HINTS: &[&str] = &["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "unified", "noftz"];
/// Whose threads see an ordered access.
const SCOPES: &[&str] = &["cta", "cluster", "gpu", "sys"];

/// Takes hints and scopes; whether the access is ordered by itself.
fn ordering(cx: &mut Cx) -> bool {
    cx.ignore(HINTS);
    cx.ignore(SCOPES);
    for prefix in ["L1::", "L2::", "level::"] {
        cx.ignore_prefix(prefix);
    }
    ["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"].into_iter().filter(|m| cx.take(m)).count() > 0
}

fn vector(cx: &mut Cx) -> usize {
    cx.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

/// `ld.global.v4.f32 {a, b, c, d}, [%rd1+16]`
pub fn ld(cx: &mut Cx) -> Decoded {
    let strong = ordering(cx);
    let (space, count, ty) = (space(cx).unwrap_or(Space::Generic), vector(cx), cx.ty()?);
    let address = cx.address(1, space)?;
    let (elements, register_bits) = match cx.operand(0)? {
        Operand::Vector(parts) if parts.len() == count => targets(cx, parts, ty)?,
        single if count == 1 => targets(cx, std::slice::from_ref(single), ty)?,
        _ => return cx.error(format!("{count} registers are needed")),
    };
    Ok(Op::Load(Box::new(Access { address, ty, elements, register_bits, strong })))
}

type Targets = (Vec<Option<Slot>>, u32);

fn targets<'s>(cx: &mut Cx<'_, 's, '_>, parts: &[Operand<'s>], ty: Type) -> Result<Targets, PtxError> {
    let mut bits = ty.bits();
    let mut slots = Vec::new();
    for part in parts {
        slots.push(match part {
            Operand::Name("_", None) => None,
            _ => {
                let (slot, width) = cx.target(part, ty, true)?;
                bits = width;
                Some(slot)
            }
        });
    }
    Ok((slots, bits))
}

/// `st.shared.v2.b32 [%r1], {a, b}`
pub fn st(cx: &mut Cx) -> Decoded {
    let strong = ordering(cx);
    let (space, count, ty) = (space(cx).unwrap_or(Space::Generic), vector(cx), cx.ty()?);
    let address = cx.address(0, space)?;
    let parts = match cx.operand(1)? {
        Operand::Vector(parts) if parts.len() == count => parts.as_slice(),
        single if count == 1 => std::slice::from_ref(single),
        _ => return cx.error(format!("{count} registers are needed")),
    };
    let elements = parts.iter().map(|p| cx.value(p, ty, true).map(Some)).collect::<Result<_, _>>()?;
    Ok(Op::Store(Box::new(Access { address, ty, elements, register_bits: ty.bits(), strong })))
}

/// What an atomic operation makes of the old value and its operands.
fn operation(cx: &mut Cx) -> Result<(&'static str, Type), PtxError> {
    let names = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"].map(|n| (n, n));
    Ok((cx.require(&names)?, cx.ty()?))
}

fn atomic(name: &'static str, ty: Type) -> Option<Atomic> {
    let m = ty.mask();
    let flip = if ty.is_signed() { 1u64 << (ty.bits() - 1) } else { 0 };
    Some(match (name, ty.class()) {
        ("add", Class::Float(_)) => Box::new(move |old, x, _| float_sum(old, x, ty)),
        ("add", Class::Packed(part)) if part.layout().is_some() => {
            Box::new(move |old, x, _| super::functions::halves(old, x, 0, |a, b, _| float_sum(a, b, part)))
        }
        ("exch", _) => Box::new(|_, x, _| x),
        ("cas", _) => Box::new(|old, x, y| if old == x { y } else { old }),
        (_, Class::Float(_) | Class::Packed(_) | Class::Predicate) => return None,
        ("add", _) => Box::new(move |old, x, _| old.wrapping_add(x) & m),
        ("min", _) => Box::new(move |old, x, _| if x ^ flip < old ^ flip { x } else { old }),
        ("max", _) => Box::new(move |old, x, _| if x ^ flip > old ^ flip { x } else { old }),
        ("and", _) => Box::new(|old, x, _| old & x),
        ("or", _) => Box::new(|old, x, _| old | x),
        ("xor", _) => Box::new(|old, x, _| old ^ x),
        ("inc", _) => Box::new(|old, x, _| if old >= x { 0 } else { old + 1 }),
        ("dec", _) => Box::new(|old, x, _| if old == 0 || old > x { x } else { old - 1 }),
        _ => return None,
    })
}

fn float_sum(a: u64, b: u64, ty: Type) -> u64 {
    match ty {
        Type::F64 => crate::number::double(f64::from_bits(a) + f64::from_bits(b)),
        _ => narrow(add_odd(widen(a, ty), widen(b, ty)), ty, Rounding::Even, false),
    }
}

/// `atom.global.add.u32 d, [a], b`
pub fn atom(cx: &mut Cx) -> Decoded {
    atomic_op(cx, true)
}

/// `red.global.add.f32 [a], b`
pub fn red(cx: &mut Cx) -> Decoded {
    atomic_op(cx, false)
}

fn atomic_op(cx: &mut Cx, result: bool) -> Decoded {
    if cx.take("async") {
        return cx.unknown();
    }
    ordering(cx);
    let space = space(cx).unwrap_or(Space::Generic);
    let (name, ty) = operation(cx)?;
    let Some(f) = atomic(name, ty) else { return cx.unknown() };
    let first = result as usize;
    let sources = if name == "cas" { 2 } else { 1 };
    cx.arity(first + 1 + sources..=first + 1 + sources)?;
    let address = cx.address(first, space)?;
    let elements =
        vec![if result && !matches!(cx.operand(0)?, Operand::Name("_", None)) { Some(cx.to(0, ty)?) } else { None }];
    let x = cx.from(first + 1, ty)?;
    let y = if sources == 2 { cx.from(first + 2, ty)? } else { 0 };
    let access = Box::new(Access { address, ty, elements, register_bits: ty.bits(), strong: true });
    Ok(Op::Atomic { access, f, from: [x, y] })
}

/// `membar.cta`, `fence.acq_rel.gpu`: every access takes place at once and in order. `fence.proxy.async` and
/// `fence.mbarrier_init` are for copies and products, which do not see what a thread wrote without them.
pub fn fence(cx: &mut Cx) -> Decoded {
    cx.ignore(SCOPES);
    cx.ignore(&["gl", "sc", "acq_rel", "acquire", "release"]);
    if cx.take("mbarrier_init") {
        return Ok(Op::ProxyFence { barriers: true });
    }
    if cx.take("proxy") {
        if cx.take("alias") {
            return Ok(Op::Fence);
        }
        if !cx.take("async") {
            return cx.unknown();
        }
        cx.ignore(&["global", "shared::cta", "shared::cluster"]);
        return Ok(Op::ProxyFence { barriers: false });
    }
    Ok(Op::Fence)
}
