//! Instructions in which the threads of a warp exchange values. The threads that an instruction names have to be there.

use super::warp::{Warp, lanes_of};
use crate::fault::{FaultKind, Problem};
use crate::program::{LANES, Lanes, Op, Reduce, Shuffle, Slot, Vote};
use crate::types::{Type, mask, sign_extend};

pub fn execute(warp: &mut Warp, op: &Op) -> Result<(), Box<Problem>> {
    match op {
        Op::WarpBarrier { members } => {
            let members = self::members(warp, *members)?;
            warp.order.meet(members, warp.live);
        }
        Op::Shuffle { mode, to, p, value, by, clamp, members } => {
            self::members(warp, *members)?;
            shuffle(warp, *mode, (*to, *p), [*value, *by, *clamp])?;
        }
        Op::Vote { mode, to, p, by, members } => {
            let members = self::members(warp, *members)?;
            let yes = warp.guard(*by) & members;
            let answer = match mode {
                Vote::All => yes == members,
                Vote::Any => yes != 0,
                Vote::Uniform => yes == members || yes == 0,
                Vote::Ballot => false,
            };
            if let Some(p) = p {
                warp.put_predicate(*p, if answer { u32::MAX } else { 0 });
            }
            if let Some(to) = to {
                let value = if *mode == Vote::Ballot { yes as u64 } else { answer as u64 };
                warp.put(*to, &[value; LANES]);
            }
        }
        Op::Match { all, to, p, value, members } => {
            let members = self::members(warp, *members)?;
            matching(warp, *all, (*to, *p), *value, members);
        }
        Op::Reduce { op, ty, to, value, members } => {
            let members = self::members(warp, *members)?;
            let value = warp.reg(*value);
            let folded = lanes_of(members).map(|l| value[l]).reduce(|a, b| reduce(*op, *ty, a, b));
            warp.put(*to, &[folded.unwrap_or(0); LANES]);
        }
        Op::ActiveMask { to } => warp.put(*to, &[warp.mask as u64; LANES]),
        Op::Elect { to, p, members } => {
            let members = self::members(warp, *members)?;
            let leader = members.trailing_zeros();
            warp.put_predicate(*p, 1 << (leader % 32));
            if let Some(to) = to {
                warp.put(*to, &[leader as u64; LANES]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The threads that an instruction names, without those that have ended. All of them, and nobody else, have to be here.
pub fn members(warp: &Warp, slot: Slot) -> Result<u32, Box<Problem>> {
    let named = warp.uniform(slot)? as u32;
    let fault = |lane: u32, what: &str| {
        let message = format!("lane {lane} {what} the mask {named:#x} of an instruction for several threads");
        Err(Problem::new(FaultKind::Divergence, message).of_lane(lane))
    };
    let (stranger, absent) = (warp.mask & !named, named & warp.live & !warp.mask);
    if stranger != 0 {
        return fault(stranger.trailing_zeros(), "is here and not in");
    }
    if absent != 0 {
        return fault(absent.trailing_zeros(), "is not here and in");
    }
    Ok(named & warp.mask)
}

fn shuffle(
    warp: &mut Warp,
    mode: Shuffle,
    (to, p): (Slot, Option<u32>),
    [value, by, clamp]: [Slot; 3],
) -> Result<(), Box<Problem>> {
    let (value, by, clamp) = (*warp.reg(value), warp.reg(by), warp.reg(clamp));
    let (mut out, mut inside) = ([0; LANES], 0u32);
    for lane in warp.lanes() {
        let (b, c, own) = (by[lane] & 31, clamp[lane], lane as u64);
        let (limit, segment) = (c & 31, c >> 8 & 31);
        let last = (own & segment) | (limit & !segment);
        let first = own & segment;
        let (source, valid) = match mode {
            Shuffle::Up => (own.wrapping_sub(b), own >= b && own - b >= last),
            Shuffle::Down => (own + b, own + b <= last),
            Shuffle::Butterfly => (own ^ b, own ^ b <= last),
            Shuffle::Index => (first | (b & !segment), first | (b & !segment) <= last),
        };
        let source = if valid { source as usize } else { lane };
        if warp.mask >> source & 1 == 0 {
            let message = format!("a value from lane {source}, which takes no part");
            return Err(Problem::new(FaultKind::Operand, message).of_lane(lane as u32));
        }
        out[lane] = value[source];
        inside |= (valid as u32) << lane;
    }
    warp.put(to, &out);
    if let Some(p) = p {
        warp.put_predicate(p, inside);
    }
    Ok(())
}

fn matching(warp: &mut Warp, all: bool, (to, p): (Slot, Option<u32>), value: Slot, members: u32) {
    let value = *warp.reg(value);
    let equal = |lane: usize| lanes_of(members).filter(|l| value[*l] == value[lane]).fold(0u32, |m, l| m | 1 << l);
    let same = members != 0 && equal(members.trailing_zeros() as usize) == members;
    let out: Lanes = match all {
        true => [if same { members as u64 } else { 0 }; LANES],
        false => std::array::from_fn(|lane| equal(lane) as u64),
    };
    warp.put(to, &out);
    if let Some(p) = p {
        warp.put_predicate(p, if same { u32::MAX } else { 0 });
    }
}

fn reduce(op: Reduce, ty: Type, a: u64, b: u64) -> u64 {
    let flip = if ty.is_signed() { sign_extend(1 << (ty.bits() - 1), ty.bits()) & ty.mask() } else { 0 };
    match op {
        Reduce::Add => a.wrapping_add(b) & mask(ty.bits()),
        Reduce::Min => {
            if a ^ flip < b ^ flip {
                a
            } else {
                b
            }
        }
        Reduce::Max => {
            if a ^ flip > b ^ flip {
                a
            } else {
                b
            }
        }
        Reduce::And => a & b,
        Reduce::Or => a | b,
        Reduce::Xor => a ^ b,
    }
}
