//! Operations that integers and floating-point numbers share: which of the two an instruction means.

use super::cx::Cx;
use super::functions::two;
use super::{float, integer};
use crate::program::{Alu, Op};
use crate::syntax::PtxError;
use crate::types::{Class, Type};

pub type Decoded = Result<Op, PtxError>;

/// Result first, then `count` sources, all of one type.
pub fn plain(cx: &mut Cx, ty: Type, count: usize, f: Alu) -> Decoded {
    cx.arity(count + 1..=count + 1)?;
    let to = cx.to(0, ty)?;
    let mut from = [0; 4];
    for (i, slot) in from.iter_mut().enumerate().take(count) {
        *slot = cx.from(i + 1, ty)?;
    }
    Ok(Op::Alu { f, to, from })
}

macro_rules! shared {
    ($($name:ident)*) => { $(
        pub fn $name(cx: &mut Cx) -> Decoded {
            let ty = cx.ty()?;
            match ty.class() {
                Class::Float(_) => float::$name(cx, ty),
                Class::Packed(part) if part.layout().is_some() => float::$name(cx, ty),
                Class::Bits | Class::Unsigned | Class::Signed | Class::Packed(_) => integer::$name(cx, ty),
                Class::Predicate => cx.unknown(),
            }
        }
    )* };
}

shared! { add sub mul mad div abs neg min max }

/// `copysign.f32`: the size of the second with the sign of the first.
pub fn copysign(cx: &mut Cx) -> Decoded {
    let ty = cx.ty()?;
    let sign = 1u64 << (ty.bits() - 1);
    plain(cx, ty, 2, two(move |a, b| (a & sign) | (b & !sign)))
}
