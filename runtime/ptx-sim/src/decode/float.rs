//! Floating-point arithmetic. Singles rounded to the nearest are computed as the processor does; all else goes through
//! doubles rounded to odd (see [`crate::number`]).

use super::arithmetic::{Decoded, plain};
use super::cx::Cx;
use super::functions::{halves, one, three, two};
use crate::number::*;
use crate::program::Alu;
use crate::types::{Class, Type};

/// How a result is made to fit.
#[derive(Clone, Copy)]
struct Style {
    rounding: Rounding,
    /// Subnormal operands and results are zeros.
    ftz: bool,
    /// Into `0..=1`.
    sat: bool,
    /// Nothing below zero.
    relu: bool,
}

impl Style {
    fn take(cx: &mut Cx) -> Style {
        let rounding = cx.rounding().unwrap_or(Rounding::Even);
        Style { rounding, ftz: cx.take("ftz"), sat: cx.take("sat"), relu: cx.take("relu") }
    }

    fn is_plain_single(self, ty: Type) -> bool {
        ty == Type::F32 && self.rounding == Rounding::Even && !self.sat && !self.relu
    }

    fn read(self, bits: u64, ty: Type) -> f64 {
        let x = widen(bits, ty);
        if self.ftz && x.abs() < smallest_normal(ty) { 0f64.copysign(x) } else { x }
    }

    fn write(self, x: f64, ty: Type) -> u64 {
        let x = match (self.sat, self.relu) {
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
        let bits = narrow(x, ty, self.rounding, false);
        if self.ftz && widen(bits, ty).abs() < smallest_normal(ty) { bits & 1 << (ty.bits() - 1) } else { bits }
    }
}

fn smallest_normal(ty: Type) -> f64 {
    match ty {
        Type::F16 => 2f64.powi(-14),
        Type::F64 => f64::MIN_POSITIVE,
        _ => 2f64.powi(-126),
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// An operation on singles, and on doubles with the sign of its error.
trait Binary: Send + Sync + 'static {
    fn single(a: f32, b: f32) -> f32;
    /// Of numbers narrower than doubles.
    fn odd(a: f64, b: f64) -> f64;
    fn double(a: f64, b: f64) -> f64;
    /// What the exact result has beyond `result`: its sign.
    fn error(a: f64, b: f64, result: f64) -> f64;
}

struct Add;
struct Sub;
struct Mul;
struct Div;

impl Binary for Add {
    fn single(a: f32, b: f32) -> f32 {
        a + b
    }
    fn odd(a: f64, b: f64) -> f64 {
        add_odd(a, b)
    }
    fn double(a: f64, b: f64) -> f64 {
        a + b
    }
    fn error(a: f64, b: f64, sum: f64) -> f64 {
        let part = sum - a;
        (a - (sum - part)) + (b - part)
    }
}

impl Binary for Sub {
    fn single(a: f32, b: f32) -> f32 {
        a - b
    }
    fn odd(a: f64, b: f64) -> f64 {
        add_odd(a, -b)
    }
    fn double(a: f64, b: f64) -> f64 {
        a - b
    }
    fn error(a: f64, b: f64, difference: f64) -> f64 {
        Add::error(a, -b, difference)
    }
}

impl Binary for Mul {
    fn single(a: f32, b: f32) -> f32 {
        a * b
    }
    fn odd(a: f64, b: f64) -> f64 {
        mul_odd(a, b)
    }
    fn double(a: f64, b: f64) -> f64 {
        a * b
    }
    fn error(a: f64, b: f64, product: f64) -> f64 {
        a.mul_add(b, -product)
    }
}

impl Binary for Div {
    fn single(a: f32, b: f32) -> f32 {
        a / b
    }
    fn odd(a: f64, b: f64) -> f64 {
        div_odd(a, b)
    }
    fn double(a: f64, b: f64) -> f64 {
        a / b
    }
    fn error(a: f64, b: f64, quotient: f64) -> f64 {
        (-quotient).mul_add(b, a) * b.signum()
    }
}

/// One value of a type.
fn scalar<B: Binary>(ty: Type, style: Style) -> impl Fn(u64, u64) -> u64 + Copy {
    move |a, b| {
        let (a, b) = (style.read(a, ty), style.read(b, ty));
        let exact = match ty {
            Type::F64 => {
                let nearest = B::double(a, b);
                direct(nearest, B::error(a, b, nearest), style.rounding)
            }
            _ => B::odd(a, b),
        };
        style.write(exact, ty)
    }
}

fn binary_alu<B: Binary>(ty: Type, style: Style) -> Alu {
    match ty.class() {
        _ if style.is_plain_single(ty) && style.ftz => two(|a, b| flush(single(B::single(f(flush(a)), f(flush(b)))))),
        _ if style.is_plain_single(ty) => two(|a, b| single(B::single(f(a), f(b)))),
        Class::Packed(part) => {
            let each = scalar::<B>(part, style);
            two(move |a, b| halves(a, b, 0, |a, b, _| each(a, b)))
        }
        _ if ty == Type::F64 && style.rounding == Rounding::Even && !style.sat => {
            two(|a, b| double(B::double(f64::from_bits(a), f64::from_bits(b))))
        }
        _ => two(scalar::<B>(ty, style)),
    }
}

fn parts(ty: Type) -> u32 {
    if matches!(ty.class(), Class::Packed(_)) { 2 } else { 1 }
}

fn binary<B: Binary>(cx: &mut Cx, ty: Type) -> Decoded {
    let style = Style::take(cx);
    cx.flops = parts(ty);
    plain(cx, ty, 2, binary_alu::<B>(ty, style))
}

pub fn add(cx: &mut Cx, ty: Type) -> Decoded {
    binary::<Add>(cx, ty)
}

pub fn sub(cx: &mut Cx, ty: Type) -> Decoded {
    binary::<Sub>(cx, ty)
}

pub fn mul(cx: &mut Cx, ty: Type) -> Decoded {
    binary::<Mul>(cx, ty)
}

/// `div.rn.f32`; `.approx` and `.full` are computed exactly, which their error bounds allow.
pub fn div(cx: &mut Cx, ty: Type) -> Decoded {
    cx.ignore(&["approx", "full"]);
    binary::<Div>(cx, ty)
}

pub fn mad(cx: &mut Cx, ty: Type) -> Decoded {
    fused(cx, ty)
}

pub fn fma(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    fused(cx, ty)
}

fn fused(cx: &mut Cx, ty: Type) -> Decoded {
    let style = Style::take(cx);
    cx.flops = 2 * parts(ty);
    let each = move |part: Type| {
        move |a, b, c| {
            let [a, b, c] = [a, b, c].map(|x| style.read(x, part));
            style.write(fma_odd(a, b, c), part)
        }
    };
    let alu = match ty.class() {
        _ if style.is_plain_single(ty) && style.ftz => {
            three(|a, b, c| flush(single(f(flush(a)).mul_add(f(flush(b)), f(flush(c))))))
        }
        _ if style.is_plain_single(ty) => three(|a, b, c| single(f(a).mul_add(f(b), f(c)))),
        _ if ty == Type::F64 && style.rounding == Rounding::Even => {
            three(|a, b, c| double(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c))))
        }
        _ if ty == Type::F64 => return cx.error("this rounding is not supported"),
        Class::Packed(part) => {
            let each = each(part);
            three(move |a, b, c| halves(a, b, c, each))
        }
        _ => three(each(ty)),
    };
    plain(cx, ty, 3, alu)
}

/// Applies a function of one number's bits to each part.
fn each_part(ty: Type, apply: impl Fn(u64, Type) -> u64 + Copy + Send + Sync + 'static) -> Alu {
    match ty.class() {
        Class::Packed(part) => one(move |a| halves(a, 0, 0, |a, _, _| apply(a, part))),
        _ => one(move |a| apply(a, ty)),
    }
}

pub fn abs(cx: &mut Cx, ty: Type) -> Decoded {
    let ftz = Style::take(cx).ftz;
    let size = move |a: u64, ty: Type| (if ftz && ty == Type::F32 { flush(a) } else { a }) & !(1 << (ty.bits() - 1));
    plain(cx, ty, 1, each_part(ty, size))
}

pub fn neg(cx: &mut Cx, ty: Type) -> Decoded {
    let ftz = Style::take(cx).ftz;
    let negate = move |a: u64, ty: Type| (if ftz && ty == Type::F32 { flush(a) } else { a }) ^ 1 << (ty.bits() - 1);
    plain(cx, ty, 1, each_part(ty, negate))
}

fn extreme(cx: &mut Cx, ty: Type, largest: bool) -> Decoded {
    let (style, nan, sign) = (Style::take(cx), cx.take("NaN"), cx.take("xorsign"));
    if sign {
        return cx.error("the modifier `.xorsign` is not known to the simulator");
    }
    cx.flops = parts(ty);
    let pick = move |a: u64, b: u64, ty: Type| {
        let (x, y) = (style.read(a, ty), style.read(b, ty));
        let found = match (x.is_nan(), y.is_nan()) {
            (true, true) => f64::NAN,
            (true, _) | (_, true) if nan => f64::NAN,
            (true, _) => y,
            (_, true) => x,
            // Minus zero is less than zero.
            _ if x == y => {
                if x.is_sign_negative() == largest {
                    y
                } else {
                    x
                }
            }
            _ => {
                if (x < y) == largest {
                    y
                } else {
                    x
                }
            }
        };
        style.write(found, ty)
    };
    let alu = match ty.class() {
        Class::Packed(part) => two(move |a, b| halves(a, b, 0, |a, b, _| pick(a, b, part))),
        _ => two(move |a, b| pick(a, b, ty)),
    };
    plain(cx, ty, 2, alu)
}

pub fn min(cx: &mut Cx, ty: Type) -> Decoded {
    extreme(cx, ty, false)
}

pub fn max(cx: &mut Cx, ty: Type) -> Decoded {
    extreme(cx, ty, true)
}

/// A function of one number, computed in doubles and rounded once: exact with a rounding, within the stated error of
/// `.approx` without.
fn unary(cx: &mut Cx, function: fn(f64) -> f64) -> Decoded {
    let ty = cx.ty()?;
    cx.take("approx");
    let style = Style::take(cx);
    cx.flops = parts(ty);
    plain(cx, ty, 1, each_part(ty, move |a, ty| style.write(function(style.read(a, ty)), ty)))
}

pub fn rcp(cx: &mut Cx) -> Decoded {
    unary(cx, |x| div_odd(1.0, x))
}

pub fn sqrt(cx: &mut Cx) -> Decoded {
    unary(cx, sqrt_odd)
}

pub fn rsqrt(cx: &mut Cx) -> Decoded {
    unary(cx, |x| 1.0 / x.sqrt())
}

pub fn sin(cx: &mut Cx) -> Decoded {
    unary(cx, f64::sin)
}

pub fn cos(cx: &mut Cx) -> Decoded {
    unary(cx, f64::cos)
}

pub fn lg2(cx: &mut Cx) -> Decoded {
    unary(cx, f64::log2)
}

pub fn ex2(cx: &mut Cx) -> Decoded {
    unary(cx, f64::exp2)
}

pub fn tanh(cx: &mut Cx) -> Decoded {
    unary(cx, f64::tanh)
}
