//! `cp.async.bulk` and `cp.async.bulk.tensor`: copies that one thread starts for the block.

use super::arithmetic::Decoded;
use super::cx::Cx;
use super::moves::space;
use crate::program::{Bulk, Far, Op};
use crate::syntax::PtxError;
use crate::syntax::ast::{Number, Operand, Space};
use crate::types::Type;

/// After `cp.async.bulk`.
pub fn bulk(cx: &mut Cx) -> Decoded {
    if cx.take("commit_group") {
        return Ok(Op::BulkCommit);
    }
    if cx.take("wait_group") {
        let read = cx.take("read");
        return match cx.operand(0)? {
            Operand::Number(Number::Int(n)) if *n <= u32::MAX as u64 => Ok(Op::BulkWait { left: *n as u32, read }),
            _ => cx.error("a number of groups is needed"),
        };
    }
    if cx.take("prefetch") {
        cx.ignore_prefix("");
        return Ok(Op::Fence);
    }
    let rank = match cx.take("tensor") {
        true => Some(cx.require(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])?),
        false => None,
    };
    match (space(cx), space(cx)) {
        (Some(Space::Shared), Some(Space::Global)) => load(cx, rank),
        (Some(Space::Global), Some(Space::Shared)) => store(cx, rank),
        _ => cx.unknown(),
    }
}

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], size, [mbarrier]`,
/// `cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [to], [map, {x, y}], [mbarrier]`
fn load(cx: &mut Cx, rank: Option<usize>) -> Decoded {
    if !cx.take("mbarrier::complete_tx::bytes") {
        return cx.unknown();
    }
    let multicast = cx.take("multicast::cluster");
    let hint = cx.take("L2::cache_hint");
    let near = cx.address(0, Space::Shared)?;
    let (far, next) = far(cx, rank, 1)?;
    let barrier = Some(cx.address(next, Space::Shared)?);
    cx.arity(next + 1 + multicast as usize + hint as usize..=next + 1 + multicast as usize + hint as usize)?;
    let multicast = if multicast { Some(cx.from(next + 1, Type::U16)?) } else { None };
    Ok(Op::Bulk(Box::new(Bulk { near, far, barrier, multicast })))
}

/// `cp.async.bulk.global.shared::cta.bulk_group [to], [from], size`,
/// `cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [map, {x, y}], [from]`
fn store(cx: &mut Cx, rank: Option<usize>) -> Decoded {
    if !cx.take("bulk_group") {
        return cx.unknown();
    }
    let hint = cx.take("L2::cache_hint") as usize;
    let near = cx.address(1, Space::Shared)?;
    let far = match rank {
        Some(_) => {
            cx.arity(2 + hint..=2 + hint)?;
            tile(cx, rank, 0)?
        }
        None => {
            cx.arity(3 + hint..=3 + hint)?;
            Far::Bytes { address: cx.address(0, Space::Global)?, size: cx.from(2, Type::U32)? }
        }
    };
    Ok(Op::Bulk(Box::new(Bulk { near, far, barrier: None, multicast: None })))
}

/// The source of a load, and the operand after it.
fn far(cx: &mut Cx, rank: Option<usize>, at: usize) -> Result<(Far, usize), PtxError> {
    if rank.is_some() {
        return Ok((tile(cx, rank, at)?, at + 1));
    }
    let (address, size) = (cx.address(at, Space::Global)?, cx.from(at + 1, Type::U32)?);
    Ok((Far::Bytes { address, size }, at + 2))
}

/// `[map, {x, y}]`
fn tile(cx: &mut Cx, rank: Option<usize>, at: usize) -> Result<Far, PtxError> {
    // Other modes read pixels around a window, or rows at an index.
    cx.ignore(&["tile"]);
    let Operand::Address { base, offset, coordinates: Some(parts) } = cx.operand(at)? else {
        return cx.error("a tensor and coordinates are needed");
    };
    let parts = match parts.as_slice() {
        [Operand::Vector(inner)] => inner.as_slice(),
        all => all,
    };
    if Some(parts.len()) != rank {
        return cx.error(format!("{} coordinates", parts.len()));
    }
    let coordinates = parts.iter().map(|p| cx.value(p, Type::S32, false)).collect::<Result<_, _>>()?;
    Ok(Far::Tile { map: cx.address_of(*base, *offset, Space::Generic)?, coordinates })
}
