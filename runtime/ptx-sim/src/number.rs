//! Floating-point numbers of any layout, rounded in any direction.
//!
//! Narrow formats are computed in f64, rounded once: a product of two singles is exact there, and a sum that is not is rounded
//! to odd, so that the second rounding sees which side the exact value lies on (Boldo and Melquiond, "Emulation of FMA and
//! correctly rounded sums: proved algorithms using rounding to odd", 2008).

use crate::types::{Layout, Type, mask};

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// `.rn`: to the nearest, ties to even.
    Even,
    /// `.rna`: to the nearest, ties away from zero.
    Away,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards minus infinity.
    Down,
    /// `.rp`: towards plus infinity.
    Up,
}

/// Bits of a type that stand below the number: tf32 is the upper part of a single.
const fn padding(ty: Type) -> u32 {
    match ty.layout() {
        Some(l) => ty.bits() - 1 - l.exponent - l.mantissa,
        None => 0,
    }
}

fn layout(ty: Type) -> Layout {
    ty.layout().expect("a floating-point type")
}

/// The one NaN that operations give.
pub const fn canonical_nan(ty: Type) -> u64 {
    match ty {
        Type::F64 => 0x7ff8_0000_0000_0000,
        _ => mask(ty.bits() - 1),
    }
}

/// A number's value; exact for every layout.
pub fn widen(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F64 => return f64::from_bits(bits),
        Type::F32 => return f32::from_bits(bits as u32) as f64,
        _ => {}
    }
    let (l, bits) = (layout(ty), (bits & ty.mask()) >> padding(ty));
    let (m, e) = (bits & mask(l.mantissa), (bits >> l.mantissa) & mask(l.exponent));
    let top = e == mask(l.exponent);
    let least = 2 - (1 << (l.exponent - 1)) - l.mantissa as i32; // the exponent of the smallest number
    let size = match (top, e) {
        (true, _) if l.infinities => {
            if m == 0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        (true, _) if m == mask(l.mantissa) => f64::NAN,
        (_, 0) => m as f64 * power(least),
        _ => (m | 1 << l.mantissa) as f64 * power(least + e as i32 - 1),
    };
    if bits >> (l.exponent + l.mantissa) & 1 == 1 { -size } else { size }
}

/// Two to a power in the range of normal numbers.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// The number of a type next to `x` in the rounding's direction. With `saturate` the largest finite one instead of infinity.
pub fn narrow(x: f64, ty: Type, rounding: Rounding, saturate: bool) -> u64 {
    match (ty, rounding) {
        (Type::F64, _) => return if x.is_nan() { canonical_nan(ty) } else { x.to_bits() },
        (Type::F32, Rounding::Even) if !saturate => return single(x as f32),
        _ if x.is_nan() => return canonical_nan(ty),
        _ => {}
    }
    let l = layout(ty);
    let negative = x.is_sign_negative();
    let top = mask(l.exponent) << l.mantissa;
    let largest = if l.infinities { top - 1 } else { (top | mask(l.mantissa)) - 1 };
    let size = match x.is_infinite() {
        true => u64::MAX,
        false => encode(x.abs(), l, rounding, negative),
    };
    let kept = match rounding {
        Rounding::Even | Rounding::Away => false,
        Rounding::Zero => true,
        Rounding::Down => !negative,
        Rounding::Up => negative,
    };
    let size = match size > largest {
        true if saturate || (kept && !x.is_infinite()) => largest,
        true => {
            if l.infinities {
                top
            } else {
                top | mask(l.mantissa)
            }
        }
        false => size,
    };
    (size | (negative as u64) << (l.exponent + l.mantissa)) << padding(ty)
}

/// Bits of a finite number without a sign; they may go past the largest finite one's.
fn encode(x: f64, l: Layout, rounding: Rounding, negative: bool) -> u64 {
    if x == 0.0 {
        return 0;
    }
    let bits = x.to_bits();
    let biased = (bits >> 52) as i32;
    let (m, e) = if biased == 0 { (bits, -1074) } else { (bits & mask(52) | 1 << 52, biased - 1075) };
    let least = 2 - (1 << (l.exponent - 1)) - l.mantissa as i32;
    let leading = 63 - m.leading_zeros() as i32 + e;
    let unit = (leading - l.mantissa as i32).max(least);
    let steps = round_shift(m, unit - e, rounding, negative);
    let exponent = (unit - least) as u64; // a subnormal's steps carry into the exponent by themselves
    (exponent << l.mantissa) + steps
}

/// `m / 2^shift` rounded; a negative shift is exact.
fn round_shift(m: u64, shift: i32, rounding: Rounding, negative: bool) -> u64 {
    if shift <= 0 {
        return m << -shift;
    }
    let (kept, rest) = if shift < 64 { (m >> shift, m & mask(shift as u32)) } else { (0, m) };
    let half = if shift <= 64 { 1u64 << (shift - 1) } else { u64::MAX };
    let up = match rounding {
        Rounding::Even => rest > half || (rest == half && kept & 1 == 1),
        Rounding::Away => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept + up as u64
}

/// Bits of a single, with the one NaN.
#[inline]
pub fn single(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

/// Bits of a double, with the one NaN.
#[inline]
pub fn double(x: f64) -> u64 {
    if x.is_nan() { canonical_nan(Type::F64) } else { x.to_bits() }
}

/// A subnormal single becomes a zero of its sign.
#[inline]
pub fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Moves `x`, off by an error of this sign, to the neighbour whose last bit is odd unless it is exact or odd already.
pub fn to_odd(x: f64, error: f64) -> f64 {
    let inexact = error != 0.0 && !error.is_nan() && x.is_finite();
    if !inexact || x.to_bits() & 1 == 1 {
        return x;
    }
    let outwards = (error > 0.0) == (x > 0.0);
    f64::from_bits(if outwards { x.to_bits() + 1 } else { x.to_bits() - 1 })
}

/// `a + b` rounded to odd.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    to_odd(sum, (a - (sum - part)) + (b - part))
}

/// `a * b` rounded to odd.
pub fn mul_odd(a: f64, b: f64) -> f64 {
    let product = a * b;
    to_odd(product, a.mul_add(b, -product))
}

/// `a * b + c` rounded to odd where the product of `a` and `b` is exact in f64, as those of narrower types are.
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// `a / b` rounded to odd.
pub fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -rest } else { rest })
}

/// The square root rounded to odd.
pub fn sqrt_odd(x: f64) -> f64 {
    let root = x.sqrt();
    to_odd(root, (-root).mul_add(root, x))
}

/// A double off by an error of this sign, rounded from odd: what directed rounding of doubles needs.
pub fn direct(nearest: f64, error: f64, rounding: Rounding) -> f64 {
    if error == 0.0 || error.is_nan() || !nearest.is_finite() {
        return nearest;
    }
    let up = error > 0.0;
    let step = |towards_up: bool| if towards_up { nearest.next_up() } else { nearest.next_down() };
    match rounding {
        Rounding::Even | Rounding::Away => nearest,
        Rounding::Down if !up => step(false),
        Rounding::Up if up => step(true),
        Rounding::Zero if up != (nearest > 0.0) => step(up),
        Rounding::Down | Rounding::Up | Rounding::Zero => nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_narrow_number_comes_back() {
        for ty in [Type::F16, Type::BF16, Type::E4M3, Type::E5M2, Type::TF32, Type::F32] {
            let step = if ty.bits() == 32 { 8191 << padding(ty) } else { 1 };
            for bits in (0..=ty.mask() >> padding(ty)).step_by(step) {
                let bits = bits << padding(ty);
                let x = widen(bits, ty);
                if x.is_nan() {
                    continue;
                }
                for rounding in [Rounding::Even, Rounding::Away, Rounding::Zero, Rounding::Down, Rounding::Up] {
                    let back = narrow(x, ty, rounding, false);
                    assert_eq!(back, bits, "{} {x} {rounding:?}", ty.name());
                }
            }
        }
    }

    #[test]
    fn directions_and_ties() {
        let f16 = |x, r| widen(narrow(x, Type::F16, r, false), Type::F16);
        assert_eq!(f16(2049.0, Rounding::Even), 2048.0);
        assert_eq!(f16(2051.0, Rounding::Even), 2052.0);
        assert_eq!(f16(2049.0, Rounding::Away), 2050.0);
        assert_eq!(f16(-2049.0, Rounding::Down), -2050.0);
        assert_eq!(f16(-2049.0, Rounding::Up), -2048.0);
        assert_eq!(f16(65519.0, Rounding::Even), 65504.0);
        assert_eq!(f16(65520.0, Rounding::Even), f64::INFINITY);
        assert_eq!(f16(1e9, Rounding::Zero), 65504.0);
        assert_eq!(f16(2f64.powi(-25), Rounding::Even), 0.0);
        assert_eq!(f16(2f64.powi(-25), Rounding::Up), 2f64.powi(-24));
        assert_eq!(narrow(1e9, Type::E4M3, Rounding::Even, true), 0x7e);
        assert_eq!(narrow(1e9, Type::E4M3, Rounding::Even, false), 0x7f);
        assert_eq!(widen(0x7e, Type::E4M3), 448.0);
        assert_eq!(narrow(f64::NAN, Type::BF16, Rounding::Even, false), 0x7fff);
    }

    #[test]
    fn singles_agree_with_the_processor() {
        let mut x = 1u64;
        let mut next = || {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            f32::from_bits((x >> 32) as u32)
        };
        for _ in 0..20_000 {
            let (a, b, c) = (next(), next(), next());
            let near = |x: f64| narrow(x, Type::F32, Rounding::Even, false);
            let (da, db, dc) = (a as f64, b as f64, c as f64);
            assert_eq!(near(add_odd(da, db)), single(a + b));
            assert_eq!(near(fma_odd(da, db, dc)), single(a.mul_add(b, c)), "{a} {b} {c}");
            assert_eq!(near(div_odd(da, db)), single(a / b), "{a} {b}");
            assert_eq!(near(sqrt_odd(da)), single(a.sqrt()));
        }
    }
}
