//! Elementary functions, self-contained: no C library, and the same polynomials for vectors, their tails and both
//! targets. In f32 the relative error stays below 1e-6; in f64, for the angles and powers that positions need, below
//! 1e-14. Polynomials are Taylor and inverse-tangent series cut where the next term is below half a unit of the
//! precision on the reduced range; only `erf` beyond 1 uses a fitted one.

use super::{Cmp, Emitter, Ty, Val};
use std::f64::consts::{FRAC_2_PI, FRAC_2_SQRT_PI, LN_2, LOG2_E};

/// `ln 2` in two parts: the first has few enough bits that its products with exponents are exact in either precision.
const LN_2_HIGH: f64 = 0.693_145_751_953_125;
const LN_2_LOW: f64 = 1.428_606_820_309_417_3e-6;

/// `pi / 2` in three parts, the first two of 30 bits: products with a quadrant below 2^23 are exact.
const PIO2: [f64; 3] = [1.570_796_325_802_803, 9.920_935_791_635_221e-10, 5.170_182_981_794_105e-19];

/// `ln(erfc x)` on 0.99..4: Chebyshev interpolation of degree 8, error of `erf` below 1e-9 before rounding.
const LOG_ERFC: [f64; 9] = [
    0.000_303_822_394_926_1,
    -1.130_168_914_794_922,
    -0.631_933_450_698_852_5,
    -0.109_981_454_908_847_8,
    0.026_366_429_403_424_263,
    -0.004_740_790_929_645_3,
    0.000_592_884_491_197_765,
    -4.560_358_866_001_479e-5,
    1.614_686_993_889_336e-6,
];

/// Properties of a precision that the expansions need.
struct Real {
    int: Ty,
    mantissa: u32,
    bias: i64,
    /// Added and taken away again it rounds to the nearest integer, ties to even, and leaves the integer in low bits.
    round: f64,
    exp_terms: u32,
    log_terms: u32,
}

fn real(ty: Ty) -> Real {
    match ty {
        Ty::F64 => Real {
            int: Ty::I64,
            mantissa: 52,
            bias: 1023,
            round: 6_755_399_441_055_744.0,
            exp_terms: 14,
            log_terms: 11,
        },
        _ => Real { int: Ty::I32, mantissa: 23, bias: 127, round: 12_582_912.0, exp_terms: 7, log_terms: 5 },
    }
}

impl<'c> Emitter<'c> {
    /// `c[0] + c[1] x + c[2] x^2 ...`
    fn polynomial(&self, x: Val<'c>, coefficients: &[f64]) -> Val<'c> {
        let (last, rest) = coefficients.split_last().expect("emission: a polynomial has coefficients");
        rest.iter().rev().fold(self.like(x, *last), |sum, c| self.fma(sum, x, self.like(x, *c)))
    }

    /// The nearest integer, ties to even, as a float and as an int; for magnitudes below 2^21 (f32) or 2^50 (f64).
    pub fn round(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let r = real(x.ty());
        let magic = self.like(x, r.round);
        let shifted = self.add(x, magic);
        let int = self.sub(self.bits(shifted, r.int), self.bits(magic, r.int));
        (self.sub(shifted, magic), int)
    }

    /// `2^n` for an exponent in the range of normal numbers.
    fn power_of_two(&self, n: Val<'c>, ty: Ty) -> Val<'c> {
        let r = real(ty);
        self.bits(self.shl(self.add(n, self.like_int(n, r.bias)), r.mantissa), ty)
    }

    /// `x * 2^n` where the result may be subnormal or overflow: two factors, each in range.
    fn scale(&self, x: Val<'c>, n: Val<'c>) -> Val<'c> {
        let half = self.ashr(n, 1);
        let rest = self.sub(n, half);
        let once = self.mul(x, self.power_of_two(half, x.ty()));
        self.mul(once, self.power_of_two(rest, x.ty()))
    }

    /// `(e^r - 1) / r` for `|r| <= ln 2 / 2`.
    fn exp_series(&self, r: Val<'c>) -> Val<'c> {
        let terms = real(r.ty()).exp_terms;
        let mut factorial = 1.0;
        let coefficients: Vec<f64> = (1..=terms)
            .map(|k| {
                factorial *= k as f64;
                1.0 / factorial
            })
            .collect();
        self.polynomial(r, &coefficients)
    }

    /// Bounds that a NaN passes through.
    pub(super) fn clamp(&self, x: Val<'c>, low: f64, high: f64) -> Val<'c> {
        let (low, high) = (self.like(x, low), self.like(x, high));
        let x = self.select(self.compare(Cmp::Lt, x, low), low, x);
        self.select(self.compare(Cmp::Gt, x, high), high, x)
    }

    /// `x = n ln 2 + r` with `|r| <= ln 2 / 2`.
    fn reduce_exp(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let (n, int) = self.round(self.mul(x, self.like(x, LOG2_E)));
        let r = self.fma(n, self.like(x, -LN_2_HIGH), x);
        let r = self.fma(n, self.like(x, -LN_2_LOW), r);
        (r, int)
    }

    /// e to the power of x: 0 at minus infinity, infinity beyond the range.
    pub fn exp(&self, x: Val<'c>) -> Val<'c> {
        let (low, high) = if x.ty() == Ty::F64 { (-750.0, 715.0) } else { (-105.0, 90.0) };
        let (r, n) = self.reduce_exp(self.clamp(x, low, high));
        let p = self.fma(self.exp_series(r), r, self.like(r, 1.0));
        self.scale(p, n)
    }

    /// 2 to the power of x.
    pub fn exp2(&self, x: Val<'c>) -> Val<'c> {
        let (low, high) = if x.ty() == Ty::F64 { (-1080.0, 1030.0) } else { (-152.0, 130.0) };
        let x = self.clamp(x, low, high);
        let (n, int) = self.round(x);
        let r = self.mul(self.sub(x, n), self.like(x, LN_2));
        let p = self.fma(self.exp_series(r), r, self.like(r, 1.0));
        self.scale(p, int)
    }

    /// `x = 2^k (1 + f)` with `1 + f` between sqrt(1/2) and sqrt(2), for a positive finite x: `k` and `ln(1 + f)`.
    fn log_parts(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let r = real(x.ty());
        // Subnormals are scaled up by 2^64 first.
        let smallest = if x.ty() == Ty::F64 { f64::MIN_POSITIVE } else { f32::MIN_POSITIVE as f64 };
        let tiny = self.compare(Cmp::Lt, x, self.like(x, smallest));
        let scaled = self.select(tiny, self.mul(x, self.like(x, 2f64.powi(64))), x);
        let bits = self.bits(scaled, r.int);
        let root = self.bits(self.like(x, std::f64::consts::FRAC_1_SQRT_2), r.int);
        let above = self.sub(bits, root);
        let k = self.ashr(above, r.mantissa);
        let mantissa = self.sub(bits, self.shl(k, r.mantissa));
        let f = self.sub(self.bits(mantissa, x.ty()), self.like(x, 1.0));
        // ln(1 + f) = 2 atanh(s), s = f / (2 + f).
        let s = self.div(f, self.add(f, self.like(f, 2.0)));
        let s2 = self.mul(s, s);
        let series: Vec<f64> = (1..r.log_terms).map(|i| 2.0 / (2 * i + 1) as f64).collect();
        let tail = self.mul(self.mul(self.polynomial(s2, &series), s2), s);
        // 2s = f - s f, which keeps f's low bits.
        let log = self.add(self.sub(f, self.mul(s, f)), tail);
        let k = self.sub(k, self.select(tiny, self.like_int(k, 64), self.like_int(k, 0)));
        (self.int_to_float(k, x.ty()), log)
    }

    /// Minus infinity at 0, NaN below, infinity at infinity.
    fn log_limits(&self, x: Val<'c>, log: Val<'c>) -> Val<'c> {
        let (zero, infinity) = (self.like(x, 0.0), self.like(x, f64::INFINITY));
        let log = self.select(self.compare(Cmp::Eq, x, infinity), infinity, log);
        let log = self.select(self.compare(Cmp::Eq, x, zero), self.like(x, f64::NEG_INFINITY), log);
        let valid = self.compare(Cmp::Ge, x, zero);
        self.select(valid, log, self.like(x, f64::NAN))
    }

    /// Natural logarithm.
    pub fn log(&self, x: Val<'c>) -> Val<'c> {
        let (k, log) = self.log_parts(x);
        let sum = self.fma(k, self.like(x, LN_2_HIGH), self.fma(k, self.like(x, LN_2_LOW), log));
        self.log_limits(x, sum)
    }

    /// Logarithm to base 2.
    pub fn log2(&self, x: Val<'c>) -> Val<'c> {
        let (k, log) = self.log_parts(x);
        self.log_limits(x, self.fma(log, self.like(x, LOG2_E), k))
    }

    /// Hyperbolic tangent, through `e^(2x) - 1` so that small arguments keep their precision.
    pub fn tanh(&self, x: Val<'c>) -> Val<'c> {
        let limit = if x.ty() == Ty::F64 { 20.0 } else { 10.0 };
        let x = self.clamp(x, -limit, limit);
        let (r, n) = self.reduce_exp(self.add(x, x));
        let power = self.power_of_two(n, x.ty());
        let small = self.mul(self.exp_series(r), r);
        let expm1 = self.fma(power, small, self.sub(power, self.like(x, 1.0)));
        self.div(expm1, self.add(expm1, self.like(x, 2.0)))
    }

    /// Gauss error function, in f32: the Maclaurin series to 1, from there `1 - e^p(|x|)` with a fitted `p`.
    pub fn erf(&self, x: Val<'c>) -> Val<'c> {
        let mut factorial = 1.0;
        let near: Vec<f64> = (0..11)
            .map(|n| {
                factorial *= if n == 0 { 1.0 } else { -(n as f64) };
                FRAC_2_SQRT_PI / (factorial * (2 * n + 1) as f64)
            })
            .collect();
        let inside = self.mul(x, self.polynomial(self.mul(x, x), &near));
        let magnitude = self.abs(x);
        let far = self.clamp(magnitude, 0.0, 4.0);
        let log_complement = self.polynomial(far, &LOG_ERFC);
        let outside = self.sub(self.like(x, 1.0), self.exp(log_complement));
        let outside = self.select(self.compare(Cmp::Lt, x, self.like(x, 0.0)), self.neg(outside), outside);
        self.select(self.compare(Cmp::Gt, magnitude, self.like(x, 1.0)), outside, inside)
    }

    /// Sine and cosine of an f64 angle, as f32: reduced in f64, so that angles of far positions keep their fraction.
    pub fn sin_cos(&self, angle: Val<'c>) -> (Val<'c>, Val<'c>) {
        let (k, quadrant) = self.round(self.mul(angle, self.like(angle, FRAC_2_PI)));
        let r = PIO2.iter().fold(angle, |r, part| self.fma(k, self.like(angle, -part), r));
        let r = self.float_cast(r, Ty::F32);
        let r2 = self.mul(r, r);
        let sin = [1.0, -1.0 / 6.0, 1.0 / 120.0, -1.0 / 5040.0, 1.0 / 362_880.0];
        let cos = [1.0, -0.5, 1.0 / 24.0, -1.0 / 720.0, 1.0 / 40_320.0, -1.0 / 3_628_800.0];
        let (sin, cos) = (self.mul(r, self.polynomial(r2, &sin)), self.polynomial(r2, &cos));
        let quadrant = self.trunc(quadrant, Ty::I32);
        let bit = |n: Val<'c>, mask| self.compare(Cmp::Ne, self.and(n, self.like_int(n, mask)), self.like_int(n, 0));
        let swap = bit(quadrant, 1);
        let (s, c) = (self.select(swap, cos, sin), self.select(swap, sin, cos));
        let next = self.add(quadrant, self.like_int(quadrant, 1));
        let s = self.select(bit(quadrant, 2), self.neg(s), s);
        let c = self.select(bit(next, 2), self.neg(c), c);
        (s, c)
    }

    /// `a^b` in f64, with the usual limits at 0, infinity and for negative bases.
    pub fn pow(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        let (zero, one) = (self.like(a, 0.0), self.like(a, 1.0));
        let size = self.exp(self.mul(b, self.log(self.abs(a))));
        // Beyond 2^50 every float that matters is even.
        let (whole, int) = self.round(self.clamp(b, -2f64.powi(50), 2f64.powi(50)));
        let is_whole =
            self.or(self.compare(Cmp::Eq, whole, b), self.compare(Cmp::Gt, self.abs(b), self.like(b, 2f64.powi(50))));
        let odd = self.compare(Cmp::Ne, self.and(int, self.like_int(int, 1)), self.like_int(int, 0));
        let signed = self.select(self.and(odd, is_whole), self.neg(size), size);
        let below = self.compare(Cmp::Lt, a, zero);
        let bad = self.and(below, self.not(is_whole));
        let value = self.select(below, signed, size);
        let value = self.select(bad, self.like(a, f64::NAN), value);
        let trivial = self.or(self.compare(Cmp::Eq, b, zero), self.compare(Cmp::Eq, a, one));
        self.select(trivial, one, value)
    }

    /// A whole power by multiplications; negative ones through the quotient.
    pub fn power(&self, a: Val<'c>, n: i32) -> Val<'c> {
        let mut result: Option<Val> = None;
        let (mut square, mut rest) = (a, n.unsigned_abs());
        while rest > 0 {
            if rest & 1 == 1 {
                result = Some(result.map_or(square, |r| self.mul(r, square)));
            }
            rest >>= 1;
            if rest > 0 {
                square = self.mul(square, square);
            }
        }
        let positive = result.unwrap_or(self.like(a, 1.0));
        if n < 0 { self.div(self.like(a, 1.0), positive) } else { positive }
    }
}
