//! A kernel as it is executed: a flat list of instructions whose operands are numbers of slots.

use crate::syntax::ast::Space;
use crate::types::Type;

/// Threads of a warp.
pub const LANES: usize = 32;
/// One register of a warp.
pub type Lanes = [u64; LANES];
/// Index of a register, a constant or a special register of a warp.
pub type Slot = u32;
/// Computes a register of the whole warp; what lanes that take no part get is thrown away.
pub type Alu = Box<dyn Fn(&mut Lanes, [&Lanes; 4]) + Send + Sync>;
/// Compares two registers, a bit for each lane.
pub type Compare = Box<dyn Fn(&Lanes, &Lanes) -> u32 + Send + Sync>;
/// Combines the old value in memory with one or two operands.
pub type Atomic = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// A predicate register and whether it is negated. Register 0 is always true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub index: u32,
    pub negated: bool,
}

impl Guard {
    pub const ALWAYS: Guard = Guard { index: 0, negated: false };
}

/// What a slot holds when a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    Register,
    Constant(u64),
    /// The start of dynamic shared memory, and a distance.
    Dynamic(u64),
    Special(Special),
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    /// Lanes whose number compares like this with this one's: eq, lt, le, gt, ge.
    LaneMask(std::cmp::Ordering, bool),
    DynamicShared,
    TotalShared,
    Zero,
    One,
}

/// A place in memory.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub space: Space,
    pub base: Slot,
    pub offset: i64,
    /// The base is a register of 32 bits.
    pub narrow: bool,
}

/// Elements that one thread moves.
#[derive(Clone, Debug)]
pub struct Access {
    pub address: Address,
    pub ty: Type,
    /// A register for each element; `None` for `_`.
    pub elements: Vec<Option<Slot>>,
    /// Bits of the registers.
    pub register_bits: u32,
    /// Ordered by itself: volatile, relaxed, acquire, release.
    pub strong: bool,
}

/// Instructions of the whole warp that shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// `cp.async`: from global to shared memory, to arrive when it is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub to: Address,
    pub from: Address,
    pub size: u32,
    /// Bytes that are read; the others become zeros.
    pub source: Option<Slot>,
    /// Nothing is read where it holds.
    pub ignore: Option<Guard>,
}

/// `ldmatrix`, `stmatrix`: matrices of 8 by 8 halves, whose rows' addresses the lanes give.
#[derive(Clone, Debug)]
pub struct MatrixAccess {
    pub address: Address,
    pub registers: Vec<Slot>,
    pub transposed: bool,
}

/// `mma.sync`: `D[m, n] = A[m, k] * B[k, n] + C[m, n]`, the fragments spread over the warp.
#[derive(Clone, Debug)]
pub struct Mma {
    pub shape: [usize; 3],
    pub a_type: Type,
    pub b_type: Type,
    pub c_type: Type,
    pub d_type: Type,
    pub d: Vec<Slot>,
    pub a: Vec<Slot>,
    pub b: Vec<Slot>,
    pub c: Vec<Slot>,
    /// Integer sums stop at the ends of their range.
    pub saturate: bool,
}

/// A barrier of the block.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    pub id: Slot,
    /// Threads that take part; all of the block when `None`.
    pub threads: Option<Slot>,
    /// `bar.sync` waits, `bar.arrive` does not.
    pub wait: bool,
    /// `bar.red`: what is asked of each thread, and where the answer goes.
    pub reduce: Option<(Vote, Guard, Slot)>,
}

/// `mbarrier.*`: an object of shared memory that counts arrivals and bytes, phase after phase.
#[derive(Clone, Copy, Debug)]
pub enum MBarrierOp {
    Init {
        count: Slot,
    },
    Invalidate,
    /// Bytes that the phase waits for.
    Expect {
        bytes: Slot,
    },
    /// Bytes that have come.
    Complete {
        bytes: Slot,
    },
    Arrive {
        /// Where the state before goes.
        state: Option<Slot>,
        count: Slot,
        /// Bytes that the phase waits for besides.
        expect: Option<Slot>,
        /// Later phases expect one arrival less for each.
        drop: bool,
        /// Whether this arrival may be the phase's last.
        last: bool,
    },
    /// Whether a phase is over: the one of a state, or the latest of a parity.
    Wait {
        p: Option<u32>,
        phase: Slot,
        parity: bool,
    },
}

/// An operation on an mbarrier.
#[derive(Clone, Copy, Debug)]
pub struct MBarrier {
    pub address: Address,
    pub op: MBarrierOp,
}

/// The side of a bulk copy that lies in global memory.
#[derive(Clone, Debug)]
pub enum Far {
    /// So many bytes from an address on.
    Bytes { address: Address, size: Slot },
    /// The box of a tensor at these coordinates, innermost first; the tensor is described in memory.
    Tile { map: Address, coordinates: Vec<Slot> },
}

/// `cp.async.bulk`, `cp.async.bulk.tensor`: by one thread, for many.
#[derive(Clone, Debug)]
pub struct Bulk {
    pub near: Address,
    pub far: Far,
    /// To shared memory, counted by this mbarrier; to global memory, in a group of copies, where there is none.
    pub barrier: Option<Address>,
    /// Blocks of the cluster that get the bytes.
    pub multicast: Option<Slot>,
}

/// The left matrix of a `wgmma`.
#[derive(Clone, Debug)]
pub enum Left {
    Registers(Vec<Slot>),
    Shared {
        descriptor: Slot,
        /// The row is contiguous in memory, not the column.
        transposed: bool,
    },
}

/// `wgmma.mma_async`: `D[64, n] = A[64, 16] * B[16, n] + D` by four warps, while they go on.
#[derive(Clone, Debug)]
pub struct Product {
    pub n: usize,
    pub ty: Type,
    pub d: Vec<Slot>,
    pub a: Left,
    pub b: Slot,
    pub b_transposed: bool,
    /// Whether there is an addend.
    pub add: Guard,
    pub negate: [bool; 2],
}

/// What an instruction does. Slots that an operation has not are 0.
pub enum Op {
    Alu {
        f: Alu,
        to: Slot,
        from: [Slot; 4],
    },
    /// Predicates `p` and `q` of a comparison, combined with another predicate.
    Compare {
        f: Compare,
        from: [Slot; 2],
        p: Option<u32>,
        q: Option<u32>,
        with: Guard,
        combine: Logic,
    },
    Predicate {
        to: u32,
        a: Guard,
        b: Guard,
        op: Logic,
    },
    Select {
        to: Slot,
        a: Slot,
        b: Slot,
        by: Guard,
    },
    /// Adds `a + b`, or subtracts, with the carry flag.
    Carry {
        to: Slot,
        a: Slot,
        b: Slot,
        bits: u32,
        subtract: bool,
        read: bool,
        write: bool,
    },
    Pack {
        to: Slot,
        parts: Vec<Slot>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Option<Slot>>,
        from: Slot,
        bits: u32,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic {
        access: Box<Access>,
        f: Atomic,
        from: [Slot; 2],
    },
    /// An address of one space among generic ones, or back.
    Window {
        to: Slot,
        from: Slot,
        space: Space,
        back: bool,
    },
    IsSpace {
        to: u32,
        from: Slot,
        space: Space,
    },
    Branch {
        to: u32,
    },
    BranchTable {
        targets: Vec<u32>,
        index: Slot,
    },
    Exit,
    Trap,
    Barrier(Barrier),
    WarpBarrier {
        members: Slot,
    },
    Shuffle {
        mode: Shuffle,
        to: Slot,
        p: Option<u32>,
        value: Slot,
        by: Slot,
        clamp: Slot,
        members: Slot,
    },
    Vote {
        mode: Vote,
        to: Option<Slot>,
        p: Option<u32>,
        by: Guard,
        members: Slot,
    },
    Match {
        all: bool,
        to: Slot,
        p: Option<u32>,
        value: Slot,
        members: Slot,
    },
    Reduce {
        op: Reduce,
        ty: Type,
        to: Slot,
        value: Slot,
        members: Slot,
    },
    ActiveMask {
        to: Slot,
    },
    Elect {
        to: Option<Slot>,
        p: u32,
        members: Slot,
    },
    Copy(Box<Copy>),
    CopyCommit,
    /// Waits until at most so many groups are under way; `None` for everything, committed or not.
    CopyWait(Option<u32>),
    LoadMatrix(Box<MatrixAccess>),
    StoreMatrix(Box<MatrixAccess>),
    Mma(Box<Mma>),
    MBarrier(Box<MBarrier>),
    Bulk(Box<Bulk>),
    BulkCommit,
    /// Waits until at most so many groups of the thread are under way, or until the others have been read.
    BulkWait {
        left: u32,
        read: bool,
    },
    Product(Box<Product>),
    ProductFence,
    ProductCommit,
    /// Waits until at most so many groups of products are under way.
    ProductWait(u32),
    /// What the thread wrote is for copies and products to see: all of it, or new mbarriers alone.
    ProxyFence {
        barriers: bool,
    },
    /// Orders memory; nothing to do where every access takes place at once.
    Fence,
}

/// How two truth values combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub fn of(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

/// An instruction.
pub struct Instr {
    pub guard: Guard,
    pub op: Op,
    /// Line of the text.
    pub line: u32,
    /// Where the threads that part here meet again: an instruction, or [`u32::MAX`] for never.
    pub meet: u32,
    /// Floating-point operations of each thread.
    pub flops: u32,
    /// Registers of products (`wgmma`) that this other instruction uses: it must not while one is under way.
    pub watched: Option<Box<[Slot]>>,
}

/// A kernel's parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Byte in the kernel's block of parameters.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Alignment.
    pub align: u64,
    /// Whether the text says that it is a pointer or could be one.
    pub ty: Type,
}

/// A kernel, ready to launch.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Instr>,
    pub(crate) slots: Vec<Initial>,
    pub(crate) predicates: u32,
    pub(crate) params: Vec<Param>,
    pub(crate) shared: u64,
    pub(crate) shared_limit: u64,
    pub(crate) local: u64,
    pub(crate) max_threads: Option<u64>,
    pub(crate) exact_threads: Option<[u64; 3]>,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Bytes of shared memory besides those that a launch adds.
    pub fn static_shared(&self) -> u64 {
        self.shared
    }

    /// Number of instructions.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).field("instructions", &self.code.len()).finish()
    }
}

impl Op {
    /// The registers that an operation reads or writes.
    pub fn slots(&self) -> Vec<Slot> {
        let of = |all: &[Slot]| all.to_vec();
        let some = |all: &[Option<Slot>]| all.iter().flatten().copied().collect::<Vec<_>>();
        match self {
            Op::Alu { to, from, .. } => [&[*to][..], from].concat(),
            Op::Compare { from, .. } => of(from),
            Op::Select { to, a, b, .. } | Op::Carry { to, a, b, .. } => of(&[*to, *a, *b]),
            Op::Pack { to, parts, .. } => [&[*to][..], parts].concat(),
            Op::Unpack { parts, from, .. } => [some(parts), of(&[*from])].concat(),
            Op::Load(access) | Op::Store(access) => [some(&access.elements), of(&[access.address.base])].concat(),
            Op::Atomic { access, from, .. } => [some(&access.elements), of(&[access.address.base]), of(from)].concat(),
            Op::Window { to, from, .. } => of(&[*to, *from]),
            Op::IsSpace { from, .. } => of(&[*from]),
            Op::BranchTable { index, .. } => of(&[*index]),
            Op::Barrier(b) => some(&[Some(b.id), b.threads, b.reduce.map(|r| r.2)]),
            Op::WarpBarrier { members } | Op::Elect { to: None, members, .. } => of(&[*members]),
            Op::Shuffle { to, value, by, clamp, members, .. } => of(&[*to, *value, *by, *clamp, *members]),
            Op::Vote { to, members, .. } | Op::Elect { to, members, .. } => some(&[*to, Some(*members)]),
            Op::Match { to, value, members, .. } | Op::Reduce { to, value, members, .. } => {
                of(&[*to, *value, *members])
            }
            Op::ActiveMask { to } => of(&[*to]),
            Op::Copy(c) => some(&[Some(c.to.base), Some(c.from.base), c.source]),
            Op::LoadMatrix(access) | Op::StoreMatrix(access) => {
                [&access.registers[..], &[access.address.base]].concat()
            }
            Op::Mma(m) => [&m.d[..], &m.a, &m.b, &m.c].concat(),
            Op::MBarrier(m) => [of(&[m.address.base]), m.op.slots()].concat(),
            Op::Bulk(b) => {
                let far = match &b.far {
                    Far::Bytes { address, size } => of(&[address.base, *size]),
                    Far::Tile { map, coordinates } => [&[map.base][..], coordinates].concat(),
                };
                [some(&[Some(b.near.base), b.barrier.map(|a| a.base), b.multicast]), far].concat()
            }
            Op::Product(p) => {
                let left = match &p.a {
                    Left::Registers(a) => of(a),
                    Left::Shared { descriptor, .. } => of(&[*descriptor]),
                };
                [of(&p.d), left, of(&[p.b])].concat()
            }
            Op::Predicate { .. }
            | Op::Branch { .. }
            | Op::Exit
            | Op::Trap
            | Op::CopyCommit
            | Op::CopyWait(_)
            | Op::BulkCommit
            | Op::BulkWait { .. }
            | Op::ProductFence
            | Op::ProductCommit
            | Op::ProductWait(_)
            | Op::ProxyFence { .. }
            | Op::Fence => Vec::new(),
        }
    }
}

impl MBarrierOp {
    fn slots(&self) -> Vec<Slot> {
        match *self {
            MBarrierOp::Init { count } => vec![count],
            MBarrierOp::Invalidate => Vec::new(),
            MBarrierOp::Expect { bytes } | MBarrierOp::Complete { bytes } => vec![bytes],
            MBarrierOp::Arrive { state, count, expect, .. } => {
                [state, Some(count), expect].into_iter().flatten().collect()
            }
            MBarrierOp::Wait { phase, .. } => vec![phase],
        }
    }
}

impl Product {
    /// The registers that it uses while it is under way.
    pub fn registers(&self) -> impl Iterator<Item = Slot> + '_ {
        let left = match &self.a {
            Left::Registers(a) => a.as_slice(),
            Left::Shared { .. } => &[],
        };
        self.d.iter().chain(left).copied()
    }
}
