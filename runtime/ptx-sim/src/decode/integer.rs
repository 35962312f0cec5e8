//! Integer arithmetic.

use super::arithmetic::{Decoded, plain};
use super::cx::Cx;
use super::functions::{halves, one, three, two};
use crate::program::{Op, Slot};
use crate::syntax::PtxError;
use crate::types::{Class, Type, mask, sign_extend};

/// Part of a product that is kept.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

/// Reads an integer as its type says.
fn reader(ty: Type) -> impl Fn(u64) -> i128 + Copy {
    let (bits, signed) = (ty.bits(), ty.is_signed());
    move |x| if signed { sign_extend(x, bits) as i64 as i128 } else { x as i128 }
}

/// The nearest number of the type.
fn clamp(x: i128, ty: Type) -> u64 {
    let (low, high) = range(ty);
    x.clamp(low, high) as u64 & ty.mask()
}

/// Least and largest number.
pub fn range(ty: Type) -> (i128, i128) {
    if ty.is_signed() {
        let half = 1i128 << (ty.bits() - 1);
        (-half, half - 1)
    } else {
        (0, mask(ty.bits()) as i128)
    }
}

fn sum(cx: &mut Cx, ty: Type, subtract: bool) -> Decoded {
    let (read, write) = (cx.name().ends_with('c'), cx.take("cc"));
    if read || write {
        let (to, a, b) = (cx.to(0, ty)?, cx.from(1, ty)?, cx.from(2, ty)?);
        return Ok(Op::Carry { to, a, b, bits: ty.bits(), subtract, read, write });
    }
    let m = ty.mask();
    if let Class::Packed(_) = ty.class() {
        let apply = move |a: u64, b: u64| if subtract { a.wrapping_sub(b) } else { a.wrapping_add(b) } & 0xffff;
        return plain(cx, ty, 2, two(move |a, b| halves(a, b, 0, |a, b, _| apply(a, b))));
    }
    if cx.take("sat") {
        let wide = reader(ty);
        let apply = move |a, b| if subtract { wide(a) - wide(b) } else { wide(a) + wide(b) };
        return plain(cx, ty, 2, two(move |a, b| clamp(apply(a, b), ty)));
    }
    match subtract {
        true => plain(cx, ty, 2, two(move |a, b| a.wrapping_sub(b) & m)),
        false => plain(cx, ty, 2, two(move |a, b| a.wrapping_add(b) & m)),
    }
}

pub fn add(cx: &mut Cx, ty: Type) -> Decoded {
    sum(cx, ty, false)
}

pub fn sub(cx: &mut Cx, ty: Type) -> Decoded {
    sum(cx, ty, true)
}

/// `addc.cc.u32`, `subc.u32`
pub fn carried(cx: &mut Cx) -> Decoded {
    let (ty, subtract) = (cx.ty()?, cx.name() == "subc");
    sum(cx, ty, subtract)
}

fn part(cx: &mut Cx) -> Result<Part, PtxError> {
    cx.require(&[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)])
}

/// The type of a product.
fn product_type(ty: Type, part: Part) -> Type {
    match (part, ty.bits(), ty.is_signed()) {
        (Part::Wide, 16, true) => Type::S32,
        (Part::Wide, 16, false) => Type::U32,
        (Part::Wide, 32, true) => Type::S64,
        (Part::Wide, 32, false) => Type::U64,
        _ => ty,
    }
}

fn product(ty: Type, part: Part) -> impl Fn(u64, u64) -> u64 + Copy {
    let (bits, m, signed) = (ty.bits(), ty.mask(), ty.is_signed());
    let wide = reader(ty);
    move |a, b| match part {
        Part::Low => a.wrapping_mul(b) & m,
        Part::Wide if signed => sign_extend(a, bits).wrapping_mul(sign_extend(b, bits)) & mask(2 * bits),
        Part::Wide => a.wrapping_mul(b),
        Part::High if bits == 64 && !signed => ((a as u128 * b as u128) >> 64) as u64,
        Part::High => ((wide(a) * wide(b)) >> bits) as u64 & m,
    }
}

pub fn mul(cx: &mut Cx, ty: Type) -> Decoded {
    let part = part(cx)?;
    if part == Part::Wide && ty.bits() == 64 {
        return cx.unknown();
    }
    let result = product_type(ty, part);
    cx.arity(3..=3)?;
    let (to, from) = (cx.to(0, result)?, [cx.from(1, ty)?, cx.from(2, ty)?, 0, 0]);
    let f = match part {
        Part::Low => {
            let m = ty.mask();
            two(move |a, b| a.wrapping_mul(b) & m)
        }
        Part::High | Part::Wide => two(product(ty, part)),
    };
    Ok(Op::Alu { f, to, from })
}

pub fn mad(cx: &mut Cx, ty: Type) -> Decoded {
    let part = part(cx)?;
    let result = product_type(ty, part);
    cx.arity(4..=4)?;
    let (to, from) = (cx.to(0, result)?, [cx.from(1, ty)?, cx.from(2, ty)?, cx.from(3, result)?, 0]);
    let (times, m) = (product(ty, part), result.mask());
    Ok(Op::Alu { f: three(move |a, b, c| times(a, b).wrapping_add(c) & m), to, from })
}

/// `mul24.lo.u32`, `mad24.lo.s32`
pub fn small_product(cx: &mut Cx) -> Decoded {
    let (ty, high) = (cx.ty()?, cx.require(&[("lo", false), ("hi", true)])?);
    let signed = ty.is_signed();
    let low24 = move |x: u64| if signed { sign_extend(x & mask(24), 24) } else { x & mask(24) };
    let times = move |a, b| (low24(a).wrapping_mul(low24(b)) >> if high { 16 } else { 0 }) & mask(32);
    match cx.name() {
        "mul24" => plain(cx, ty, 2, two(times)),
        _ => plain(cx, ty, 3, three(move |a, b, c| times(a, b).wrapping_add(c) & mask(32))),
    }
}

/// A division by zero gives all ones, as the instruction does on every GPU so far.
pub fn div(cx: &mut Cx, ty: Type) -> Decoded {
    let (wide, m) = (reader(ty), ty.mask());
    plain(cx, ty, 2, two(move |a, b| wide(a).checked_div(wide(b)).map_or(m, |q| q as u64 & m)))
}

pub fn rem(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let (wide, m) = (reader(ty), ty.mask());
    plain(cx, ty, 2, two(move |a, b| wide(a).checked_rem(wide(b)).map_or(a, |r| r as u64 & m)))
}

pub fn abs(cx: &mut Cx, ty: Type) -> Decoded {
    let (wide, m) = (reader(ty), ty.mask());
    plain(cx, ty, 1, one(move |a| wide(a).unsigned_abs() as u64 & m))
}

pub fn neg(cx: &mut Cx, ty: Type) -> Decoded {
    let m = ty.mask();
    plain(cx, ty, 1, one(move |a| a.wrapping_neg() & m))
}

fn extreme(cx: &mut Cx, ty: Type, largest: bool) -> Decoded {
    let relu = cx.take("relu");
    if let Class::Packed(part) = ty.class() {
        let wide = reader(part);
        let pick = move |a, b| if (wide(a) < wide(b)) == largest { b } else { a };
        let keep = move |x| if relu && wide(x) < 0 { 0 } else { x };
        return plain(cx, ty, 2, two(move |a, b| halves(a, b, 0, |a, b, _| keep(pick(a, b)))));
    }
    let (bits, signed) = (ty.bits(), ty.is_signed());
    // Flipping the sign bit of two's complement makes the order that of unsigned numbers.
    let flip = if signed { 1u64 << (bits - 1) } else { 0 };
    let keep = move |x: u64| if relu && x >> (bits - 1) & 1 == 1 { 0 } else { x };
    match largest {
        true => plain(cx, ty, 2, two(move |a, b| keep(if a ^ flip < b ^ flip { b } else { a }))),
        false => plain(cx, ty, 2, two(move |a, b| keep(if b ^ flip < a ^ flip { b } else { a }))),
    }
}

pub fn min(cx: &mut Cx, ty: Type) -> Decoded {
    extreme(cx, ty, false)
}

pub fn max(cx: &mut Cx, ty: Type) -> Decoded {
    extreme(cx, ty, true)
}

/// `sad.u32`: the distance of two numbers, added to a third.
pub fn sad(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let (wide, m) = (reader(ty), ty.mask());
    plain(cx, ty, 3, three(move |a, b, c| ((wide(a) - wide(b)).unsigned_abs() as u64).wrapping_add(c) & m))
}

/// `dp4a.u32.s32`: the dot of four bytes, added to a third operand.
pub fn dp4a(cx: &mut Cx) -> Decoded {
    let (x, y, from, to) = dot_operands(cx)?;
    let byte = |v: u64, i: u32, ty: Type| {
        if ty.is_signed() { sign_extend(v >> (8 * i) & 0xff, 8) } else { v >> (8 * i) & 0xff }
    };
    let dot = move |a, b| (0..4).fold(0u64, |s, i| s.wrapping_add(byte(a, i, x).wrapping_mul(byte(b, i, y))));
    Ok(Op::Alu { f: three(move |a, b, c| dot(a, b).wrapping_add(c) & mask(32)), to, from })
}

/// `dp2a.lo.s32.u32`: two halves of the first with two bytes of the second.
pub fn dp2a(cx: &mut Cx) -> Decoded {
    let first = cx.require(&[("lo", 0), ("hi", 2)])?;
    let (x, y, from, to) = dot_operands(cx)?;
    let part = |v: u64, i: u32, bits: u32, ty: Type| {
        let raw = v >> (bits * i) & mask(bits);
        if ty.is_signed() { sign_extend(raw, bits) } else { raw }
    };
    let dot =
        move |a, b| (0..2).fold(0u64, |s, i| s.wrapping_add(part(a, i, 16, x).wrapping_mul(part(b, first + i, 8, y))));
    Ok(Op::Alu { f: three(move |a, b, c| dot(a, b).wrapping_add(c) & mask(32)), to, from })
}

fn dot_operands(cx: &mut Cx) -> Result<(Type, Type, [Slot; 4], Slot), PtxError> {
    cx.arity(4..=4)?;
    let (x, y) = (cx.ty()?, cx.ty()?);
    let from = [cx.from(1, x)?, cx.from(2, y)?, cx.from(3, Type::S32)?, 0];
    Ok((x, y, from, cx.to(0, Type::S32)?))
}
