//! Executes kernels: block after block, the warps of a block in turns.

mod access;
mod agent;
mod atomic;
mod block;
mod bulk;
mod collective;
mod copy;
mod matrix;
mod mbarrier;
mod shadow;
mod traffic;
mod warp;
mod wgmma;

use crate::counters::Counters;
use crate::fault::{Fault, FaultKind, Problem};
use crate::memory::Memory;
use crate::program::{Kernel, LANES};
use shadow::Shadow;
use std::collections::BTreeMap;

/// Threads that a block can have.
const THREADS_LIMIT: u64 = 1024;
/// Blocks that a grid can have along each axis.
const GRID_LIMIT: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Instructions that the start of a warp counts for, so that a grid of empty blocks has an end too.
const START: u64 = 64;

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The kernel's parameters, laid out as [`Kernel::params`] says.
    pub params: Vec<u8>,
    /// In which turns warps run; a kernel that a race does not spoil gives the same result under all.
    pub seed: u64,
    /// Instructions of warps after which the launch is given up.
    pub limit: u64,
}

impl Launch {
    /// A launch with these sizes and parameters.
    pub fn new(grid: [u32; 3], block: [u32; 3], params: Vec<u8>) -> Launch {
        Launch { grid, block, shared: 0, params, seed: 0, limit: 1 << 40 }
    }
}

impl Kernel {
    /// Lays out one value for every parameter, little-endian, cut to its size.
    ///
    /// # Errors
    /// Another number of values than parameters, or a parameter of more than 8 bytes.
    pub fn pack(&self, values: &[u64]) -> Result<Vec<u8>, String> {
        if let Some(param) = self.params.iter().find(|p| p.size > 8) {
            return Err(format!("parameter `{}` of `{}` has {} bytes", param.name, self.name, param.size));
        }
        let bytes: Vec<[u8; 8]> = values.iter().map(|v| v.to_le_bytes()).collect();
        let cut = bytes.iter().zip(&self.params).map(|(b, p)| &b[..p.size as usize]);
        let rest = bytes.iter().skip(self.params.len()).map(|b| &b[..]);
        self.pack_bytes(&cut.chain(rest).collect::<Vec<_>>())
    }

    /// Lays out the bytes of every parameter: a tensor's description has 128.
    ///
    /// # Errors
    /// Another number of values than parameters, or of bytes than a parameter has.
    pub fn pack_bytes(&self, values: &[&[u8]]) -> Result<Vec<u8>, String> {
        if values.len() != self.params.len() {
            return Err(format!("`{}` takes {} parameters, {} are given", self.name, self.params.len(), values.len()));
        }
        let mut bytes = Vec::new();
        for (param, value) in self.params.iter().zip(values) {
            if param.size != value.len() as u64 {
                let (name, size, given) = (&param.name, param.size, value.len());
                return Err(format!("parameter `{name}` of `{}` has {size} bytes, {given} are given", self.name));
            }
            bytes.resize(param.offset as usize, 0);
            bytes.extend_from_slice(value);
        }
        Ok(bytes)
    }

    /// Runs the kernel and counts what it did.
    ///
    /// # Errors
    /// The first thing it does wrong. What it wrote before stays written.
    pub fn launch(&self, memory: &mut Memory, launch: &Launch) -> Result<Counters, Box<Fault>> {
        self.check(launch)?;
        let mut machine = Machine {
            kernel: self,
            launch,
            memory,
            counters: Counters::default(),
            shared: vec![0; self.shared_bytes(launch) as usize],
            shared_shadow: vec![shadow::Cell::default(); self.shared_bytes(launch) as usize],
            local: Vec::new(),
            global_shadow: Shadow::default(),
            clock: 1,
            fuel: launch.limit,
            block: [0; 3],
            agents: Vec::new(),
            fences: Vec::new(),
            mbarriers: BTreeMap::new(),
            logs: Vec::new(),
            progress: 0,
        };
        let mut warps = Vec::new();
        for z in 0..launch.grid[2] {
            for y in 0..launch.grid[1] {
                for x in 0..launch.grid[0] {
                    machine.block = [x, y, z];
                    machine.run_block(&mut warps)?;
                }
            }
        }
        Ok(machine.counters)
    }

    fn shared_bytes(&self, launch: &Launch) -> u64 {
        self.dynamic_start() + launch.shared as u64
    }

    /// Where dynamic shared memory starts.
    fn dynamic_start(&self) -> u64 {
        self.shared.next_multiple_of(128)
    }

    fn check(&self, launch: &Launch) -> Result<(), Box<Fault>> {
        let refuse = |message: String| {
            let kernel = self.name.clone();
            let (block, thread) = ([0; 3], [0; 3]);
            Err(Box::new(Fault { kind: FaultKind::Launch, kernel, line: 0, block, thread, other: None, message }))
        };
        let threads: u64 = launch.block.iter().fold(1u64, |n, x| n.saturating_mul(*x as u64));
        if threads == 0 || threads > THREADS_LIMIT {
            return refuse(format!("{threads} threads a block; there can be 1 to {THREADS_LIMIT}"));
        }
        if let Some(most) = self.max_threads.filter(|n| threads > *n) {
            return refuse(format!("{threads} threads a block, the kernel says at most {most}"));
        }
        if self.exact_threads.is_some_and(|n| n != launch.block.map(u64::from)) {
            return refuse(format!(
                "a block of {:?} threads, the kernel asks for {:?}",
                launch.block, self.exact_threads
            ));
        }
        if launch.grid.iter().zip(GRID_LIMIT).any(|(n, most)| *n == 0 || *n > most) {
            return refuse(format!("a grid of {:?} blocks; there can be 1 to {GRID_LIMIT:?}", launch.grid));
        }
        let shared = self.shared_bytes(launch);
        if shared > self.shared_limit {
            return refuse(format!("{shared} bytes of shared memory, the target has {}", self.shared_limit));
        }
        let size = self.params.last().map_or(0, |p| p.offset + p.size);
        if launch.params.len() as u64 != size {
            return refuse(format!("{} bytes of parameters, the kernel takes {size}", launch.params.len()));
        }
        Ok(())
    }
}

/// The state of a launch that blocks share or use one after another.
struct Machine<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch,
    memory: &'a mut Memory,
    counters: Counters,
    shared: Vec<u8>,
    shared_shadow: Vec<shadow::Cell>,
    /// Local memory, thread after thread.
    local: Vec<u8>,
    global_shadow: Shadow,
    /// Time of accesses; it goes on from block to block, so that an older block's records need no clearing.
    clock: u32,
    fuel: u64,
    block: [u32; 3],
    /// Copies and products of the block, each a unit of its clocks.
    agents: Vec<agent::Agent>,
    /// When each thread of each warp last let them see what it wrote.
    fences: Vec<[u32; LANES]>,
    /// By their address in shared memory.
    mbarriers: BTreeMap<u64, mbarrier::State>,
    /// The products of every four warps.
    logs: Vec<wgmma::Log>,
    /// Grows whenever something happens that a warp may wait for.
    progress: u64,
}

impl Machine<'_> {
    fn thread(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.block;
        [index % x, index / x % y, index / x / y]
    }

    /// The thread that gave an agent its work, where this is one's.
    fn giver(&self, thread: u32) -> u32 {
        let lanes = LANES as u32;
        match (thread / lanes).checked_sub(shadow::WARPS as u32) {
            Some(agent) => self.agents.get(agent as usize).map_or(0, |a| a.warp * lanes) + thread % lanes,
            None => thread,
        }
    }

    fn fault(&self, warp: u32, pc: u32, first_lane: u32, problem: Problem) -> Box<Fault> {
        let line = |pc: u32| self.kernel.code.get(pc as usize).map_or(0, |i| i.line);
        Box::new(Fault {
            kind: problem.kind,
            kernel: self.kernel.name.clone(),
            line: line(pc),
            block: self.block,
            thread: self.thread(warp * 32 + problem.lane.unwrap_or(first_lane)),
            other: problem.other.map(|(pc, thread)| (line(pc), self.thread(self.giver(thread)))),
            message: problem.message,
        })
    }
}
