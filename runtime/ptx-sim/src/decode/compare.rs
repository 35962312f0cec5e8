//! Comparisons and choices.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::functions::{three, two};
use crate::number::{flush, widen};
use crate::program::{Compare, Guard, LANES, Logic, Op};
use crate::syntax::PtxError;
use crate::syntax::ast::Operand;
use crate::types::{Class, Type};
use std::cmp::Ordering;

/// A comparison: which orders are true, and whether a NaN is.
#[derive(Clone, Copy)]
struct Relation {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
    /// `lo`, `ls`, `hi`, `hs` are for unsigned numbers.
    unsigned: bool,
}

const fn relation(less: bool, equal: bool, greater: bool, unordered: bool) -> Relation {
    Relation { less, equal, greater, unordered, unsigned: false }
}

const fn unsigned(less: bool, equal: bool, greater: bool) -> Relation {
    Relation { less, equal, greater, unordered: false, unsigned: true }
}

const RELATIONS: &[(&str, Relation)] = &[
    ("eq", relation(false, true, false, false)),
    ("ne", relation(true, false, true, false)),
    ("lt", relation(true, false, false, false)),
    ("le", relation(true, true, false, false)),
    ("gt", relation(false, false, true, false)),
    ("ge", relation(false, true, true, false)),
    ("equ", relation(false, true, false, true)),
    ("neu", relation(true, false, true, true)),
    ("ltu", relation(true, false, false, true)),
    ("leu", relation(true, true, false, true)),
    ("gtu", relation(false, false, true, true)),
    ("geu", relation(false, true, true, true)),
    ("num", relation(true, true, true, false)),
    ("nan", relation(false, false, false, true)),
    ("lo", unsigned(true, false, false)),
    ("ls", unsigned(true, true, false)),
    ("hi", unsigned(false, false, true)),
    ("hs", unsigned(false, true, true)),
];

impl Relation {
    fn holds(self, order: Option<Ordering>) -> bool {
        match order {
            Some(Ordering::Less) => self.less,
            Some(Ordering::Equal) => self.equal,
            Some(Ordering::Greater) => self.greater,
            None => self.unordered,
        }
    }
}

fn lanes(holds: impl Fn(u64, u64) -> bool + Send + Sync + 'static) -> Compare {
    Box::new(move |a, b| (0..LANES).fold(0, |out, i| out | (holds(a[i], b[i]) as u32) << i))
}

fn comparison(cx: &mut Cx) -> Result<(Compare, Type), PtxError> {
    let relation = cx.require(RELATIONS)?;
    let (ftz, ty) = (cx.take("ftz"), cx.ty()?);
    let compare = match ty.class() {
        Class::Float(_) => lanes(move |a, b| {
            let read = |x: u64| widen(if ftz && ty == Type::F32 { flush(x) } else { x }, ty);
            relation.holds(read(a).partial_cmp(&read(b)))
        }),
        Class::Bits | Class::Unsigned | Class::Signed => {
            let signed = ty.is_signed() && !relation.unsigned;
            let flip = if signed { 1u64 << (ty.bits() - 1) } else { 0 };
            integers(relation, flip)
        }
        Class::Packed(_) | Class::Predicate => return cx.unknown(),
    };
    Ok((compare, ty))
}

/// The frequent ones are plain comparisons.
fn integers(relation: Relation, flip: u64) -> Compare {
    match (relation.less, relation.equal, relation.greater) {
        (false, true, false) => lanes(|a, b| a == b),
        (true, false, true) => lanes(|a, b| a != b),
        (true, false, false) => lanes(move |a, b| a ^ flip < b ^ flip),
        (true, true, false) => lanes(move |a, b| a ^ flip <= b ^ flip),
        (false, false, true) => lanes(move |a, b| a ^ flip > b ^ flip),
        (false, true, true) => lanes(move |a, b| a ^ flip >= b ^ flip),
        _ => lanes(move |a, b| relation.holds(Some((a ^ flip).cmp(&(b ^ flip))))),
    }
}

/// `.and`, `.or`, `.xor` with a third predicate.
fn combination(cx: &mut Cx) -> Result<(Logic, Guard), PtxError> {
    let combine = cx.choose(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    Ok(match combine {
        Some(combine) => (combine, cx.guard(3)?),
        None => (Logic::And, Guard::ALWAYS),
    })
}

/// `setp.lt.and.s32 %p1|%p2, a, b, %p3;`
pub fn setp(cx: &mut Cx) -> Decoded {
    let (f, ty) = comparison(cx)?;
    let (combine, with) = combination(cx)?;
    let (p, q) = match cx.operand(0)? {
        Operand::Pair(p, q) => (cx.predicate(p)?, cx.predicate(q)?),
        single => (cx.predicate(single)?, None),
    };
    Ok(Op::Compare { f, from: [cx.from(1, ty)?, cx.from(2, ty)?], p, q, with, combine })
}

/// `set.lt.u32.f32 d, a, b;`: all ones or 1.0 for true.
pub fn set(cx: &mut Cx) -> Decoded {
    let relation = cx.require(RELATIONS)?;
    let (ftz, to_type, ty) = (cx.take("ftz"), cx.ty()?, cx.ty()?);
    cx.arity(3..=3)?;
    let yes = match to_type {
        Type::F32 => 0x3f80_0000,
        Type::U32 | Type::S32 => 0xffff_ffff,
        _ => return cx.unknown(),
    };
    let flip = if ty.is_signed() { 1u64 << (ty.bits() - 1) } else { 0 };
    let holds = move |a: u64, b: u64| match ty.layout() {
        Some(_) => {
            let read = |x: u64| widen(if ftz && ty == Type::F32 { flush(x) } else { x }, ty);
            relation.holds(read(a).partial_cmp(&read(b)))
        }
        None => relation.holds(Some((a ^ flip).cmp(&(b ^ flip)))),
    };
    let from = [cx.from(1, ty)?, cx.from(2, ty)?, 0, 0];
    Ok(Op::Alu { f: two(move |a, b| if holds(a, b) { yes } else { 0 }), to: cx.to(0, to_type)?, from })
}

/// `selp.f32 d, a, b, %p1;`
pub fn selp(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    cx.arity(4..=4)?;
    Ok(Op::Select { to: cx.to(0, ty)?, a: cx.from(1, ty)?, b: cx.from(2, ty)?, by: cx.guard(3)? })
}

/// `slct.f32.s32 d, a, b, c;`: `a` where `c` is not negative.
pub fn slct(cx: &mut Cx) -> Decoded {
    let (ftz, ty, by) = (cx.take("ftz"), cx.ty()?, cx.ty()?);
    cx.arity(4..=4)?;
    let keep = move |c: u64| match by {
        Type::F32 => f32::from_bits(if ftz { flush(c) } else { c } as u32) >= 0.0,
        _ => c >> 31 & 1 == 0,
    };
    let from = [cx.from(1, ty)?, cx.from(2, ty)?, cx.from(3, by)?, 0];
    Ok(Op::Alu { f: three(move |a, b, c| if keep(c) { a } else { b }), to: cx.to(0, ty)?, from })
}

/// `testp.nan.f32 %p1, a;`
pub fn testp(cx: &mut Cx) -> Decoded {
    let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"].map(|n| (n, n));
    let (what, ty) = (cx.require(&names)?, cx.ty()?);
    let least = if ty == Type::F64 { f64::MIN_POSITIVE } else { f32::MIN_POSITIVE as f64 };
    let holds = move |a: u64| {
        let x = widen(a, ty);
        match what {
            "finite" => x.is_finite(),
            "infinite" => x.is_infinite(),
            "number" => !x.is_nan(),
            "notanumber" => x.is_nan(),
            "normal" => x.is_finite() && x.abs() >= least,
            _ => x != 0.0 && x.abs() < least,
        }
    };
    let (p, a) = (cx.predicate(cx.operand(0)?)?, cx.from(1, ty)?);
    let f = lanes(move |a, _| holds(a));
    Ok(Op::Compare { f, from: [a, a], p, q: None, with: Guard::ALWAYS, combine: Logic::And })
}
