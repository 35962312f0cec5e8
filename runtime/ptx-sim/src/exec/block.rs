//! A block: its warps take turns, and meet at barriers.

use super::shadow::{Cell, Times, UNITS, merge};
use super::warp::{Arrival, State, Warp};
use super::wgmma::Log;
use super::{Machine, START};
use crate::fault::{Fault, FaultKind, Problem};
use crate::program::{LANES, Op, Vote};

/// Instructions of a warp's turn: many, and not all, since others may have to do what it waits for.
const TURN: u64 = 1 << 16;
/// Turns of warps that all ask for phases, after which nobody is believed to end one.
const IDLE_LIMIT: u32 = 1 << 12;

/// A barrier at which some warps are.
#[derive(Clone, Debug)]
struct Meeting {
    /// Warps that arrived, those that wait among them.
    arrived: Vec<u32>,
    known: Times,
    /// Threads, and those of a reduction's predicate.
    votes: (u32, u32),
    expected: Option<u32>,
}

impl Default for Meeting {
    fn default() -> Meeting {
        Meeting { arrived: Vec::new(), known: [0; UNITS], votes: (0, 0), expected: None }
    }
}

/// The next number of a sequence that looks random.
pub fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl Machine<'_> {
    /// Runs one block to its end.
    pub fn run_block(&mut self, warps: &mut Vec<Warp>) -> Result<(), Box<Fault>> {
        self.counters.blocks += 1;
        let threads: u32 = self.launch.block.iter().product();
        let count = threads.div_ceil(LANES as u32);
        self.fuel = self.fuel.saturating_sub(START * count as u64).max(1);
        self.local.clear();
        self.local.resize(self.kernel.local as usize * threads as usize, 0);
        self.global_shadow.start_block();
        warps.clear();
        warps.extend((0..count).map(|w| Warp::new(self, w)));
        self.agents.clear();
        self.fences.clear();
        self.fences.resize(count as usize, [0; LANES]);
        self.logs.clear();
        self.logs.resize(count.div_ceil(4) as usize, Log::default());
        let seed = self.launch.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = (seed ^ (self.counters.blocks << 20)) | 1;
        let mut meetings: Vec<Meeting> = vec![Meeting::default(); 17];
        let mut turn = warps.len() - 1;
        // Times that all warps asked for phases that were not over, and nothing happened since.
        let (mut idle, mut progress) = (0u32, self.progress);
        loop {
            if progress != self.progress {
                (idle, progress) = (0, self.progress);
            }
            let ready = |w: &Warp| w.state == State::Ready;
            let awake = |w: &Warp| ready(w) && w.stalled != Some(progress);
            let mut choices: Vec<usize> = (0..warps.len()).filter(|i| awake(&warps[*i])).collect();
            if choices.is_empty() {
                choices.extend((0..warps.len()).filter(|i| ready(&warps[*i])));
                idle += 1;
            }
            if choices.is_empty() {
                break;
            }
            if idle > IDLE_LIMIT {
                return Err(self.starved(&warps[choices[0]]));
            }
            let turns = match self.launch.seed {
                0 => {
                    turn = choices.iter().copied().find(|i| *i > turn).unwrap_or(choices[0]);
                    TURN
                }
                _ => {
                    turn = choices[next_random(&mut random) as usize % choices.len()];
                    1 + next_random(&mut random) % 48
                }
            };
            warps[turn].stalled = None;
            self.take_turn(warps, turn, turns, &mut random, &mut meetings)?;
        }
        let times = warps.iter().map(|w| w.order.own).chain(self.agents.iter().map(|a| a.time));
        self.clock = times.max().unwrap_or(0) + 1;
        if self.clock > u32::MAX / 2 {
            self.forget();
        }
        let landed = self.end_barriers();
        match warps.iter().find_map(|w| if let State::Waiting(a) = w.state { Some((w, a)) } else { None }) {
            Some((warp, arrival)) => Err(self.stuck(warps, warp, arrival)),
            None => landed.map_err(|copy| {
                let message = "the block ends while a bulk copy may still write its shared memory";
                let (pc, thread) = copy.origin();
                let thread = self.giver(thread);
                self.fault(
                    thread / LANES as u32,
                    pc,
                    thread % LANES as u32,
                    *Problem::new(FaultKind::NotWaited, message),
                )
            }),
        }
    }

    /// All warps that can go on ask for a phase that does not end.
    fn starved(&self, warp: &Warp) -> Box<Fault> {
        let missing = self.mbarriers.iter().map(|(at, state)| format!("at {at:#x} {}", state.missing()));
        let missing = missing.collect::<Vec<_>>().join("; ");
        let message = format!("the phase of an mbarrier that nobody ends: {missing}");
        self.fault(warp.index, warp.pc, 0, *Problem::new(FaultKind::Deadlock, message))
    }

    /// Time starts again, before it runs out.
    fn forget(&mut self) {
        self.clock = 1;
        self.global_shadow = Default::default();
        self.shared_shadow.fill(Cell::default());
    }

    fn take_turn(
        &mut self,
        warps: &mut [Warp],
        turn: usize,
        turns: u64,
        random: &mut u64,
        meetings: &mut [Meeting],
    ) -> Result<(), Box<Fault>> {
        let count = warps.len() as u32;
        let warp = &mut warps[turn];
        if let Err(problem) = self.run_warp(warp, turns, random) {
            return Err(self.fault(warp.index, warp.pc, warp.mask.trailing_zeros() % 32, *problem));
        }
        let State::Waiting(arrival) = warp.state else { return Ok(()) };
        let meeting = &mut meetings[arrival.id as usize];
        if let Err(problem) = join(meeting, warp, arrival, count) {
            return Err(self.fault(warp.index, warp.pc, 0, *problem));
        }
        if meeting.arrived.len() as u32 == meeting.expected.unwrap_or(count) {
            self.counters.barriers += 1;
            let done = std::mem::take(meeting);
            self.release(warps, arrival.id, &done);
        }
        Ok(())
    }

    fn release(&self, warps: &mut [Warp], id: u32, meeting: &Meeting) {
        for w in &meeting.arrived {
            let warp = &mut warps[*w as usize];
            let State::Waiting(arrival) = warp.state else { continue };
            if arrival.id != id || !arrival.wait {
                continue;
            }
            warp.state = State::Ready;
            warp.order.learn(&meeting.known);
            if let Op::Barrier(barrier) = &self.kernel.code[arrival.pc as usize].op
                && let Some((vote, _, to)) = barrier.reduce
            {
                let (all, yes) = meeting.votes;
                let answer = match vote {
                    Vote::All => (yes == all) as u64,
                    Vote::Any => (yes > 0) as u64,
                    Vote::Ballot | Vote::Uniform => yes as u64,
                };
                warp.mask = warp.all;
                warp.put(to, &[answer; LANES]);
            }
        }
    }

    /// Nobody can go on.
    fn stuck(&self, warps: &[Warp], warp: &Warp, arrival: Arrival) -> Box<Fault> {
        let ended = warps.iter().filter(|w| w.state == State::Done).count();
        let problem = match arrival.warps {
            None if ended > 0 => {
                let first = warps.iter().find(|w| w.state == State::Done).map_or(0, |w| w.index * LANES as u32);
                let message = format!("a barrier of the whole block, and thread {first} ended without it");
                *Problem::new(FaultKind::Divergence, message)
            }
            _ => *Problem::new(FaultKind::Deadlock, format!("barrier {} waits for threads that wait", arrival.id)),
        };
        self.fault(warp.index, arrival.pc, 0, problem)
    }
}

fn join(meeting: &mut Meeting, warp: &mut Warp, arrival: Arrival, block: u32) -> Result<(), Box<Problem>> {
    let refuse = |message: String| Err(Problem::new(FaultKind::Operand, message));
    let expected = arrival.warps.unwrap_or(block);
    if !meeting.arrived.is_empty() && meeting.expected != Some(expected) {
        return refuse(format!("barrier {} for {expected} warps, for others it has another number", arrival.id));
    }
    if meeting.arrived.contains(&warp.index) {
        return refuse(format!("the warp comes to barrier {} twice before the others came", arrival.id));
    }
    meeting.expected = Some(expected);
    meeting.arrived.push(warp.index);
    let known = warp.order.publish();
    merge(&mut meeting.known, &known);
    meeting.votes.0 += arrival.votes.0;
    meeting.votes.1 += arrival.votes.1;
    if !arrival.wait {
        warp.state = State::Ready;
    }
    Ok(())
}
