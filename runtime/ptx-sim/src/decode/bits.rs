//! Operations on bits.

use super::arithmetic::{Decoded, plain};
use super::cx::Cx;
use super::functions::{four, one, three, two};
use crate::program::{Guard, Logic, Op};
use crate::types::{Type, mask, sign_extend};

fn logic(cx: &mut Cx, op: Logic) -> Decoded {
    let ty = cx.ty()?;
    if ty == Type::Pred {
        let (Some(to), a, b) = (cx.predicate(cx.operand(0)?)?, cx.guard(1)?, cx.guard(2)?) else {
            return cx.error("a predicate is needed");
        };
        return Ok(Op::Predicate { to, a, b, op });
    }
    match op {
        Logic::And => plain(cx, ty, 2, two(|a, b| a & b)),
        Logic::Or => plain(cx, ty, 2, two(|a, b| a | b)),
        Logic::Xor => plain(cx, ty, 2, two(|a, b| a ^ b)),
    }
}

pub fn and(cx: &mut Cx) -> Decoded {
    logic(cx, Logic::And)
}

pub fn or(cx: &mut Cx) -> Decoded {
    logic(cx, Logic::Or)
}

pub fn xor(cx: &mut Cx) -> Decoded {
    logic(cx, Logic::Xor)
}

pub fn not(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    if ty == Type::Pred {
        let (Some(to), a) = (cx.predicate(cx.operand(0)?)?, cx.guard(1)?) else {
            return cx.error("a predicate is needed");
        };
        let a = Guard { negated: !a.negated, ..a };
        return Ok(Op::Predicate { to, a, b: a, op: Logic::And });
    }
    let m = ty.mask();
    plain(cx, ty, 1, one(move |a| !a & m))
}

/// `cnot.b32`: whether it is zero.
pub fn cnot(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    plain(cx, ty, 1, one(|a| (a == 0) as u64))
}

/// `shl.b32`: distances past the width give zero.
pub fn shl(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let (bits, m) = (ty.bits() as u64, ty.mask());
    cx.arity(3..=3)?;
    let (to, from) = (cx.to(0, ty)?, [cx.from(1, ty)?, cx.from(2, Type::U32)?, 0, 0]);
    Ok(Op::Alu { f: two(move |a, n| if n >= bits { 0 } else { a << n & m }), to, from })
}

/// `shr.u32`, `shr.s32`: distances past the width give the sign.
pub fn shr(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let (bits, m) = (ty.bits(), ty.mask());
    cx.arity(3..=3)?;
    let (to, from) = (cx.to(0, ty)?, [cx.from(1, ty)?, cx.from(2, Type::U32)?, 0, 0]);
    let f = match ty.is_signed() {
        true => two(move |a, n| (sign_extend(a, bits) as i64 >> n.min(63)) as u64 & m),
        false => two(move |a, n| if n >= bits as u64 { 0 } else { a >> n }),
    };
    Ok(Op::Alu { f, to, from })
}

/// `shf.l.wrap.b32`: 64 bits shifted, one half kept.
pub fn shf(cx: &mut Cx) -> Decoded {
    let (left, wrap) = (cx.require(&[("l", true), ("r", false)])?, cx.require(&[("wrap", true), ("clamp", false)])?);
    let ty = cx.ty()?;
    let distance = move |n: u64| if wrap { n & 31 } else { n.min(32) };
    let both = |low: u64, high: u64| high << 32 | low;
    match left {
        true => plain(cx, ty, 3, three(move |a, b, n| both(a, b) << distance(n) >> 32)),
        false => plain(cx, ty, 3, three(move |a, b, n| both(a, b) >> distance(n) & mask(32))),
    }
}

/// `bfe.u32`: a field of bits.
pub fn bfe(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(4..=4)?;
    let (to, from) = (cx.to(0, ty)?, [cx.from(1, ty)?, cx.from(2, Type::U32)?, cx.from(3, Type::U32)?, 0]);
    let (bits, signed, m) = (ty.bits(), ty.is_signed(), ty.mask());
    let field = move |a: u64, at: u64, length: u64| {
        let (at, length) = ((at & 0xff) as u32, (length & 0xff) as u32);
        if length == 0 {
            return 0;
        }
        // Past the end stands the sign, or zero.
        let wide = if signed { (sign_extend(a, bits) as i64) as i128 } else { a as i128 };
        let cut = (wide >> at.min(127)) as u64 & mask(length);
        if signed && length < 64 { sign_extend(cut, length) & m } else { cut & m }
    };
    Ok(Op::Alu { f: three(field), to, from })
}

/// `bfi.b32`: puts a field of bits into another word.
pub fn bfi(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(5..=5)?;
    let from = [cx.from(1, ty)?, cx.from(2, ty)?, cx.from(3, Type::U32)?, cx.from(4, Type::U32)?];
    let (to, bits, m) = (cx.to(0, ty)?, ty.bits() as u64, ty.mask());
    let insert = move |a: u64, b: u64, at: u64, length: u64| {
        let (at, length) = (at & 0xff, length & 0xff);
        if at >= bits {
            return b;
        }
        let field = mask(length as u32) << at & m;
        (a << at & field) | (b & !field)
    };
    Ok(Op::Alu { f: four(insert), to, from })
}

/// `bfind.u32`: the highest bit that differs from the sign; all ones for none.
pub fn bfind(cx: &mut Cx) -> Decoded {
    let (shift, ty) = (cx.take("shiftamt"), cx.ty()?);
    cx.arity(2..=2)?;
    let (to, from) = (cx.to(0, Type::U32)?, [cx.from(1, ty)?, 0, 0, 0]);
    let (bits, signed, m) = (ty.bits(), ty.is_signed(), ty.mask());
    let find = move |a: u64| {
        let x = if signed && a >> (bits - 1) & 1 == 1 { !a & m } else { a };
        match x {
            0 => mask(32),
            _ if shift => (bits - 1).saturating_sub(63 - x.leading_zeros()) as u64,
            _ => (63 - x.leading_zeros()) as u64,
        }
    };
    Ok(Op::Alu { f: one(find), to, from })
}

pub fn brev(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let bits = ty.bits();
    plain(cx, ty, 1, one(move |a| a.reverse_bits() >> (64 - bits)))
}

fn counted(cx: &mut Cx, count: impl Fn(u64, u32) -> u32 + Send + Sync + 'static) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(2..=2)?;
    let (to, from, bits) = (cx.to(0, Type::U32)?, [cx.from(1, ty)?, 0, 0, 0], ty.bits());
    Ok(Op::Alu { f: one(move |a| count(a, bits) as u64), to, from })
}

pub fn clz(cx: &mut Cx) -> Decoded {
    counted(cx, |a, bits| a.leading_zeros().saturating_sub(64 - bits))
}

pub fn popc(cx: &mut Cx) -> Decoded {
    counted(cx, |a, _| a.count_ones())
}

/// `lop3.b32 d, a, b, c, table`: any function of three bits.
pub fn lop3(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(5..=5)?;
    let from = [cx.from(1, ty)?, cx.from(2, ty)?, cx.from(3, ty)?, cx.from(4, Type::U32)?];
    let apply = |a: u64, b: u64, c: u64, table: u64| {
        (0..8).filter(|row| table >> row & 1 == 1).fold(0u64, |out, row| {
            let side = |x: u64, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
            out | (side(a, 2) & side(b, 1) & side(c, 0))
        }) & mask(32)
    };
    Ok(Op::Alu { f: four(apply), to: cx.to(0, ty)?, from })
}

/// `prmt.b32`: bytes of two words chosen by number.
pub fn prmt(cx: &mut Cx) -> Decoded {
    let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].map(|m| (m, m));
    let (mode, ty) = (cx.choose(&modes), cx.ty()?);
    let byte = |both: u64, n: u64| both >> (8 * (n & 7)) & 0xff;
    let pick = move |a: u64, b: u64, by: u64| {
        let both = b << 32 | a;
        (0..4u64).fold(0, |out, i| {
            let n = by & 3;
            let chosen = match mode {
                None => {
                    let nibble = by >> (4 * i) & 0xf;
                    let found = byte(both, nibble);
                    if nibble & 8 == 0 { found } else { (found >> 7) * 0xff }
                }
                Some("f4e") => byte(both, n + i),
                Some("b4e") => byte(both, n.wrapping_sub(i)),
                Some("rc8") => byte(both, n),
                Some("ecl") => byte(both, i.max(n)),
                Some("ecr") => byte(both, i.min(n)),
                Some(_) => byte(both, (by & 1) * 2 + (i & 1)),
            };
            out | chosen << (8 * i)
        })
    };
    plain(cx, ty, 3, three(pick))
}

/// `bmsk.clamp.b32 d, a, b`: `b` ones from bit `a` on.
pub fn bmsk(cx: &mut Cx) -> Decoded {
    let (wrap, ty) = (cx.require(&[("wrap", true), ("clamp", false)])?, cx.ty()?);
    let ones = move |a: u64, b: u64| {
        let (at, length) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
        (mask(length as u32) << at) & mask(32)
    };
    plain(cx, ty, 2, two(ones))
}
