//! What a kernel did wrong, and who did it where.

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access outside every allocation.
    OutOfBounds,
    /// An address that is not a multiple of the access' size.
    Misaligned,
    /// A read of bytes that nobody wrote.
    NeverWritten,
    /// A write to memory that kernels only read.
    ReadOnly,
    /// Two threads, one of them writing, that no barrier puts in order.
    Race,
    /// Bytes used while a copy to or from them may still be under way.
    NotWaited,
    /// Bytes that a thread wrote and a copy or a product uses, and no fence stands between.
    NotFenced,
    /// A barrier, or an instruction of a whole warp, that some of its threads do not reach.
    Divergence,
    /// Threads wait for each other, or for what nobody will do.
    Deadlock,
    /// An operand that the instruction does not allow.
    Operand,
    /// `trap`.
    Trap,
    /// More instructions than were allowed.
    Endless,
    /// A launch that the kernel or the device does not allow.
    Launch,
}

impl FaultKind {
    /// A few words for people and for JSON.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::OutOfBounds => "out of bounds",
            FaultKind::Misaligned => "misaligned",
            FaultKind::NeverWritten => "never written",
            FaultKind::ReadOnly => "read-only",
            FaultKind::Race => "race",
            FaultKind::NotWaited => "not waited for",
            FaultKind::NotFenced => "not fenced",
            FaultKind::Divergence => "divergence",
            FaultKind::Deadlock => "deadlock",
            FaultKind::Operand => "operand",
            FaultKind::Trap => "trap",
            FaultKind::Endless => "endless",
            FaultKind::Launch => "launch",
        }
    }
}

/// A fault before it is known whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub kind: FaultKind,
    pub message: String,
    /// The lane at fault; the first active one when unknown.
    pub lane: Option<u32>,
    /// The other access of a race: instruction and thread of the block.
    pub other: Option<(u32, u32)>,
}

impl Problem {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Box<Problem> {
        Box::new(Problem { kind, message: message.into(), lane: None, other: None })
    }

    pub fn of_lane(mut self: Box<Self>, lane: u32) -> Box<Problem> {
        self.lane.get_or_insert(lane);
        self
    }
}

/// What happened, to whom, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// Line of the PTX text; 0 for a launch.
    pub line: u32,
    /// The block.
    pub block: [u32; 3],
    /// The thread in it.
    pub thread: [u32; 3],
    /// The other side of a race: line and thread.
    pub other: Option<(u32, [u32; 3])>,
    /// What happened.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |p: [u32; 3]| format!("({}, {}, {})", p[0], p[1], p[2]);
        write!(f, "{}: {}", self.kind.name(), self.message)?;
        write!(f, "\n  kernel `{}`", self.kernel)?;
        // A launch that is refused has got nowhere.
        if self.line > 0 {
            write!(f, ", line {}, block {}, thread {}", self.line, at(self.block), at(self.thread))?;
        }
        match self.other {
            Some((line, thread)) => write!(f, "\n  against line {line}, thread {}", at(thread)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
