//! Matrix instructions of a warp.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::moves::space;
use crate::program::{MatrixAccess, Mma, Op, Slot};
use crate::syntax::PtxError;
use crate::syntax::ast::{Operand, Space};
use crate::types::Type;

pub fn registers(cx: &mut Cx, index: usize, ty: Type, result: bool) -> Result<Vec<Slot>, PtxError> {
    let parts = match cx.operand(index)? {
        Operand::Vector(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    let one = |part| if result { cx.target(part, ty, false).map(|t| t.0) } else { cx.value(part, ty, false) };
    parts.iter().map(one).collect()
}

/// `ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {a, b, c, d}, [address]`
pub fn ldmatrix(cx: &mut Cx) -> Decoded {
    let access = matrices(cx, 0, 1)?;
    Ok(Op::LoadMatrix(Box::new(access)))
}

/// `stmatrix.sync.aligned.m8n8.x2.shared.b16 [address], {a, b}`
pub fn stmatrix(cx: &mut Cx) -> Decoded {
    let access = matrices(cx, 1, 0)?;
    Ok(Op::StoreMatrix(Box::new(access)))
}

fn matrices(cx: &mut Cx, registers_at: usize, address_at: usize) -> Result<MatrixAccess, PtxError> {
    cx.ignore(&["sync", "aligned"]);
    if !cx.take("m8n8") || !cx.take("b16") {
        return cx.unknown();
    }
    let count = cx.require(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = cx.take("trans");
    let space = space(cx).unwrap_or(Space::Generic);
    cx.arity(2..=2)?;
    let registers = registers(cx, registers_at, Type::B32, registers_at == 0)?;
    if registers.len() != count {
        return cx.error(format!("{count} registers are needed"));
    }
    Ok(MatrixAccess { address: cx.address(address_at, space)?, registers, transposed })
}

const SHAPES: &[(&str, [usize; 3])] =
    &[("m16n8k4", [16, 8, 4]), ("m16n8k8", [16, 8, 8]), ("m16n8k16", [16, 8, 16]), ("m16n8k32", [16, 8, 32])];

/// `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {d}, {a}, {b}, {c}`
pub fn mma(cx: &mut Cx) -> Decoded {
    cx.ignore(&["sync", "aligned"]);
    let shape = cx.require(SHAPES)?;
    let saturate = cx.take("satfinite");
    if !cx.take("row") || !cx.take("col") {
        return cx.unknown();
    }
    let (d_type, a_type, b_type, c_type) = (cx.ty()?, cx.ty()?, cx.ty()?, cx.ty()?);
    if !is_known(shape, [d_type, a_type, b_type, c_type]) {
        return cx.unknown();
    }
    cx.arity(4..=4)?;
    // Pairs of halves are in registers of 32 bits, integers and singles in their own.
    let d = registers(cx, 0, Type::B32, true)?;
    let [a, b, c] = [1, 2, 3].map(|i| registers(cx, i, Type::B32, false));
    let mma = Mma { shape, a_type, b_type, c_type, d_type, d, a: a?, b: b?, c: c?, saturate };
    let count = |rows: usize, columns: usize, ty: Type| rows * columns * ty.bits() as usize / 32 / 32;
    let [m, n, k] = shape;
    let wanted = [count(m, n, d_type), count(m, k, a_type), count(k, n, b_type), count(m, n, c_type)];
    if [mma.d.len(), mma.a.len(), mma.b.len(), mma.c.len()] != wanted {
        return cx.error(format!("{wanted:?} registers are needed"));
    }
    Ok(Op::Mma(Box::new(mma)))
}

/// Which types go with which shape.
fn is_known(shape: [usize; 3], [d, a, b, c]: [Type; 4]) -> bool {
    let floats = matches!(d, Type::F16 | Type::F32) && matches!(c, Type::F16 | Type::F32);
    match (a, b) {
        (Type::F16, Type::F16) => floats && matches!(shape[2], 8 | 16),
        (Type::BF16, Type::BF16) => d == Type::F32 && c == Type::F32 && matches!(shape[2], 8 | 16),
        (Type::TF32, Type::TF32) => d == Type::F32 && c == Type::F32 && matches!(shape[2], 4 | 8),
        (Type::S8 | Type::U8, Type::S8 | Type::U8) => d == Type::S32 && c == Type::S32 && matches!(shape[2], 16 | 32),
        _ => false,
    }
}
