//! Atomic operations: lane after lane, lowest first.

use super::Machine;
use super::access::{little_endian, locate};
use super::warp::Warp;
use crate::fault::Problem;
use crate::program::{Access, Atomic, Slot};

impl Machine<'_> {
    pub fn atomic(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        f: &Atomic,
        from: [Slot; 2],
    ) -> Result<(), Box<Problem>> {
        let size = access.ty.bytes() as usize;
        for lane in warp.lanes() {
            let at = locate(warp, &access.address, lane);
            let bytes = self.read(warp, lane, at, size, true).map_err(|p| p.of_lane(lane as u32))?;
            let old = little_endian(&bytes[..size]);
            let new = f(old, warp.reg(from[0])[lane], warp.reg(from[1])[lane]).to_le_bytes();
            self.write(warp, lane, at, &new[..size], true).map_err(|p| p.of_lane(lane as u32))?;
            if let Some(Some(to)) = access.elements.first() {
                warp.regs[*to as usize][lane] = old;
            }
            self.counters.atomics += 1;
        }
        Ok(())
    }
}
