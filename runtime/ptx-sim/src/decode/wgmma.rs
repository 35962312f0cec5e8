//! `wgmma`: products of four warps that are under way while the warps go on.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::matrix::registers;
use crate::program::{Guard, Instr, Left, Op, Product};
use crate::syntax::PtxError;
use crate::syntax::ast::{Number, Operand};
use crate::types::Type;
use std::collections::HashSet;

/// `wgmma.fence.sync.aligned`, `wgmma.commit_group.sync.aligned`, `wgmma.wait_group.sync.aligned 0`
pub fn wgmma(cx: &mut Cx) -> Decoded {
    cx.ignore(&["sync", "aligned"]);
    if cx.take("fence") {
        return Ok(Op::ProductFence);
    }
    if cx.take("commit_group") {
        return Ok(Op::ProductCommit);
    }
    if cx.take("wait_group") {
        return match cx.operand(0)? {
            Operand::Number(Number::Int(n)) if *n <= u32::MAX as u64 => Ok(Op::ProductWait(*n as u32)),
            _ => cx.error("a number of groups is needed"),
        };
    }
    if !cx.take("mma_async") {
        return cx.unknown();
    }
    mma_async(cx)
}

/// `wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {d}, a, b, add, scale a, scale b, transpose a, transpose b`,
/// where `a` is a descriptor, or `{registers}` and then nothing to transpose.
fn mma_async(cx: &mut Cx) -> Decoded {
    let shapes: Vec<(String, usize)> = (8..=256).step_by(8).map(|n| (format!("m64n{n}k16"), n)).collect();
    let table: Vec<(&str, usize)> = shapes.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let n = cx.require(&table)?;
    let types = (cx.ty()?, cx.ty()?, cx.ty()?);
    let (Type::F32, ty @ (Type::F16 | Type::BF16), other) = types else { return cx.unknown() };
    if other != ty {
        return cx.unknown();
    }
    let d = registers(cx, 0, Type::B32, true)?;
    if d.len() != n / 2 {
        return cx.error(format!("{} registers are needed for the result", n / 2));
    }
    let spread = matches!(cx.operand(1)?, Operand::Vector(_));
    cx.arity(if spread { 7..=7 } else { 8..=8 })?;
    let negate = [sign(cx, 4)?, sign(cx, 5)?];
    let a = if spread {
        let a = registers(cx, 1, Type::B32, false)?;
        if a.len() != 4 {
            return cx.error("4 registers are needed for the left matrix");
        }
        Left::Registers(a)
    } else {
        Left::Shared { descriptor: cx.from(1, Type::B64)?, transposed: flag(cx, 6)? }
    };
    let b_transposed = flag(cx, cx.count() - 1)?;
    let (b, add): (_, Guard) = (cx.from(2, Type::B64)?, cx.guard(3)?);
    Ok(Op::Product(Box::new(Product { n, ty, d, a, b, b_transposed, add, negate })))
}

/// Whether a factor is -1 and not 1.
fn sign(cx: &Cx, at: usize) -> Result<bool, PtxError> {
    match cx.operand(at)? {
        Operand::Number(Number::Int(1)) => Ok(false),
        Operand::Number(Number::Int(n)) if *n as i64 == -1 => Ok(true),
        _ => cx.error("a scale is 1 or -1"),
    }
}

fn flag(cx: &Cx, at: usize) -> Result<bool, PtxError> {
    match cx.operand(at)? {
        Operand::Number(Number::Int(n @ (0 | 1))) => Ok(*n == 1),
        _ => cx.error("whether a matrix is transposed is 0 or 1"),
    }
}

/// Marks the instructions that use registers of products.
pub fn watch(code: &mut [Instr]) {
    let products = code.iter().filter_map(|i| if let Op::Product(p) = &i.op { Some(p) } else { None });
    let watched: HashSet<u32> = products.flat_map(|p| p.registers().collect::<Vec<_>>()).collect();
    for instr in code.iter_mut().filter(|i| !watched.is_empty() && !matches!(i.op, Op::Product(_))) {
        let used: Box<[u32]> = instr.op.slots().into_iter().filter(|s| watched.contains(s)).collect();
        instr.watched = (!used.is_empty()).then_some(used);
    }
}
