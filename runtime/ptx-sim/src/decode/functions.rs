//! From functions of lanes to functions of warps. Loops stand here, so that the compiler sees them whole.

use crate::program::{Alu, LANES};

pub fn one(f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Alu {
    Box::new(move |to, [a, ..]| (0..LANES).for_each(|i| to[i] = f(a[i])))
}

pub fn two(f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static) -> Alu {
    Box::new(move |to, [a, b, ..]| (0..LANES).for_each(|i| to[i] = f(a[i], b[i])))
}

pub fn three(f: impl Fn(u64, u64, u64) -> u64 + Send + Sync + 'static) -> Alu {
    Box::new(move |to, [a, b, c, _]| (0..LANES).for_each(|i| to[i] = f(a[i], b[i], c[i])))
}

pub fn four(f: impl Fn(u64, u64, u64, u64) -> u64 + Send + Sync + 'static) -> Alu {
    Box::new(move |to, [a, b, c, d]| (0..LANES).for_each(|i| to[i] = f(a[i], b[i], c[i], d[i])))
}

/// Applies a function of 16-bit numbers to both halves.
pub fn halves(a: u64, b: u64, c: u64, f: impl Fn(u64, u64, u64) -> u64) -> u64 {
    f(a & 0xffff, b & 0xffff, c & 0xffff) | f(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16
}
