//! `cvt`: from any type to any other.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::functions::{halves, one, two};
use super::integer::range;
use crate::number::{Rounding, canonical_nan, narrow, to_odd, widen};
use crate::program::Op;
use crate::types::{Class, Type, mask, sign_extend};

/// What the modifiers ask for.
#[derive(Clone, Copy)]
struct Style {
    rounding: Rounding,
    /// `.rni` and the like: to an integer.
    integral: Option<Rounding>,
    ftz: bool,
    sat: bool,
    /// The largest finite number instead of infinity.
    finite: bool,
    relu: bool,
}

fn style(cx: &mut Cx) -> Style {
    let integral =
        cx.choose(&[("rni", Rounding::Even), ("rzi", Rounding::Zero), ("rmi", Rounding::Down), ("rpi", Rounding::Up)]);
    Style {
        rounding: cx.rounding().unwrap_or(Rounding::Even),
        integral,
        ftz: cx.take("ftz"),
        sat: cx.take("sat"),
        finite: cx.take("satfinite"),
        relu: cx.take("relu"),
    }
}

/// `cvt.rn.f16.f32`, `cvt.rzi.s32.f32`, `cvt.rn.bf16x2.f32 d, a, b`
pub fn cvt(cx: &mut Cx) -> Decoded {
    let style = style(cx);
    let (to, from) = (cx.ty()?, cx.ty()?);
    if let Class::Packed(part) = to.class() {
        return packed(cx, style, to, part, from);
    }
    cx.arity(2..=2)?;
    let (slot, bits) = cx.write_wide(0, to)?;
    let a = cx.read_wide(1, from)?;
    let f = match (from.class(), to.class()) {
        (Class::Float(_), Class::Float(_)) => one(move |x| between_floats(x, from, to, style)),
        (Class::Float(_), Class::Signed | Class::Unsigned) => one(move |x| to_integer(x, from, to, style, bits)),
        (Class::Signed | Class::Unsigned, Class::Float(_)) => one(move |x| from_integer(x, from, to, style)),
        (Class::Signed | Class::Unsigned, Class::Signed | Class::Unsigned) => integers(from, to, style.sat, bits),
        _ => return cx.unknown(),
    };
    Ok(Op::Alu { f, to: slot, from: [a, 0, 0, 0] })
}

/// A value of `to` in a register of `bits`.
fn extend(value: u64, to: Type, bits: u32) -> u64 {
    let value = value & to.mask();
    if to.is_signed() { sign_extend(value, to.bits()) & mask(bits) } else { value }
}

fn integers(from: Type, to: Type, sat: bool, bits: u32) -> crate::program::Alu {
    let (width, signed) = (from.bits(), from.is_signed());
    let read = move |x: u64| if signed { sign_extend(x, width) } else { x & mask(width) };
    if !sat {
        return one(move |x| extend(read(x), to, bits));
    }
    let (low, high) = range(to);
    let wide = move |x: u64| if signed { read(x) as i64 as i128 } else { read(x) as i128 };
    one(move |x| extend(wide(x).clamp(low, high) as u64, to, bits))
}

fn read(bits: u64, ty: Type, ftz: bool) -> f64 {
    let x = widen(bits, ty);
    if ftz && ty == Type::F32 && x.abs() < f32::MIN_POSITIVE as f64 { 0f64.copysign(x) } else { x }
}

fn integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Even => x.round_ties_even(),
        Rounding::Away => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

fn between_floats(bits: u64, from: Type, to: Type, style: Style) -> u64 {
    let x = read(bits, from, style.ftz);
    let x = style.integral.map_or(x, |r| integral(x, r));
    fit(x, to, style)
}

/// A number rounded to a type.
fn fit(x: f64, to: Type, style: Style) -> u64 {
    let x = match (style.sat, style.relu) {
        (true, _) => {
            if x > 0.0 {
                x.min(1.0)
            } else {
                0.0
            }
        }
        (_, true) => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        _ => x,
    };
    let bits = narrow(x, to, style.rounding, style.finite);
    if style.finite && x.is_nan() {
        return canonical_nan(to);
    }
    if style.ftz && to == Type::F32 { crate::number::flush(bits) } else { bits }
}

/// Numbers outside the range become its ends. A NaN becomes zero, or the sign bit where 64 bits are concerned.
fn to_integer(bits: u64, from: Type, to: Type, style: Style, register: u32) -> u64 {
    let x = integral(read(bits, from, style.ftz), style.integral.unwrap_or(Rounding::Zero));
    if x.is_nan() {
        let wide = from == Type::F64 || to.bits() == 64;
        return if wide { 1 << (to.bits() - 1) } else { 0 };
    }
    let (low, high) = range(to);
    extend((x as i128).clamp(low, high) as u64, to, register)
}

fn from_integer(bits: u64, from: Type, to: Type, style: Style) -> u64 {
    let n = match from.is_signed() {
        true => sign_extend(bits, from.bits()) as i64 as i128,
        false => (bits & from.mask()) as i128,
    };
    let nearest = n as f64;
    let error = (n - nearest as i128) as f64;
    let x = match to {
        Type::F64 => crate::number::direct(nearest, error, style.rounding),
        _ => to_odd(nearest, error),
    };
    fit(x, to, style)
}

/// Two numbers into one register: from two singles, the first above, or from two other halves.
fn packed(cx: &mut Cx, style: Style, to: Type, part: Type, from: Type) -> Decoded {
    let width = part.bits();
    let slot = cx.to(0, to)?;
    if from == Type::F32 {
        cx.arity(3..=3)?;
        let from = [cx.from(1, Type::F32)?, cx.from(2, Type::F32)?, 0, 0];
        let each = move |x| between_floats(x, Type::F32, part, style);
        return Ok(Op::Alu { f: two(move |high, low| each(high) << width | each(low)), to: slot, from });
    }
    let Class::Packed(narrower) = from.class() else { return cx.unknown() };
    cx.arity(2..=2)?;
    let (a, step) = (cx.from(1, from)?, narrower.bits());
    let each = move |x: u64| between_floats(x & narrower.mask(), narrower, part, style);
    let f = match (step, width) {
        (16, 16) => one(move |x| halves(x, 0, 0, |x, _, _| each(x))),
        _ => one(move |x| each(x >> step) << width | each(x)),
    };
    Ok(Op::Alu { f, to: slot, from: [a, 0, 0, 0] })
}
