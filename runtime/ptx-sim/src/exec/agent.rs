//! What works beside the warps: copies and products under way. Each has a place among the units of the vector clocks, so that
//! only who waited for it is in order with what it read and wrote.
//!
//! Copies and products reach memory by another way than loads and stores (PTX calls it a proxy). They see what a thread
//! wrote only after a fence: of that thread after it wrote, or of the thread that starts them after it met the writer.

use super::Machine;
use super::shadow::{Record, Times, UNITS, WARPS};
use super::warp::{Warp, lanes_of};
use crate::fault::{FaultKind, Problem};
use crate::program::LANES;

/// What an agent works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Copies that an mbarrier counts.
    Barrier(u64),
    /// What groups of bulk copies of a thread read.
    Reads(u32),
    /// What they write.
    Writes(u32),
    /// The products of a warp.
    Products(u32),
}

/// A unit beside the warps.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    task: Task,
    /// The warp that gave it work last.
    pub warp: u32,
    pub time: u32,
}

/// The unit of an agent.
pub fn unit(agent: usize) -> usize {
    WARPS + agent
}

/// Fences of one warp's threads, as those see them that start copies and products.
#[derive(Clone, Debug, Default)]
pub struct Views(Vec<(u32, Box<Times>)>);

impl Machine<'_> {
    /// The agent for a task.
    pub fn agent(&mut self, task: Task, warp: u32) -> Result<usize, Box<Problem>> {
        let found = match self.agents.iter().position(|a| a.task == task) {
            Some(found) => found,
            None if self.agents.len() == UNITS - WARPS => {
                let message = format!("more than {} mbarriers and threads with copies under way", UNITS - WARPS);
                return Err(Problem::new(FaultKind::Launch, message));
            }
            None => {
                self.agents.push(Agent { task, warp, time: self.clock });
                self.agents.len() - 1
            }
        };
        self.agents[found].warp = warp;
        Ok(found)
    }

    /// The record of what an agent does now.
    pub fn agent_record(&self, agent: usize, lane: usize, pc: u32) -> Record {
        Record::new(self.agents[agent].time, unit(agent) as u32, lane as u32, pc, false)
    }

    /// What an agent does from now on is later than what it did; the time now.
    pub fn advance(&mut self, agent: usize) -> u32 {
        self.agents[agent].time += 1;
        self.agents[agent].time
    }

    /// `fence.proxy.async`, `fence.mbarrier_init`
    pub fn proxy_fence(&mut self, warp: &mut Warp, barriers: bool) {
        for lane in warp.lanes() {
            self.show_barriers(warp.index, lane);
        }
        if barriers {
            return;
        }
        warp.order.own += 1;
        let fences = &mut self.fences[warp.index as usize];
        lanes_of(warp.mask).for_each(|lane| fences[lane] = warp.order.own);
        let views = &mut warp.views.0;
        views.iter_mut().for_each(|(lanes, _)| *lanes &= !warp.mask);
        views.retain(|(lanes, _)| *lanes != 0);
        views.push((warp.mask, Box::new(warp.order.seen)));
    }

    /// Whether what a thread of this block did is visible to what `lane` starts.
    pub fn is_shown(&self, warp: &Warp, lane: usize, record: Record) -> bool {
        if record.time() < self.clock || record.is_async() {
            return true;
        }
        let fences: &[u32; LANES] = &self.fences[record.unit()];
        record.time() < fences[record.lane()]
            || warp.views.0.iter().any(|(lanes, seen)| lanes >> lane & 1 == 1 && record.time() < seen[record.unit()])
    }
}

/// The use of bytes that a thread wrote and no fence shows to copies and products.
pub fn not_fenced(writer: Record, lane: usize) -> Box<Problem> {
    let message = "a copy or product uses what a thread wrote, and no `fence.proxy.async` stands between";
    let mut problem = Problem::new(FaultKind::NotFenced, message).of_lane(lane as u32);
    problem.other = Some(writer.origin());
    problem
}
