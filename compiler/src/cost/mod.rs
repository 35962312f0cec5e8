//! What a machine can do, and how long work takes on it: the one model that every choice of the compiler asks.
//!
//! A [`Machine`] is a roofline: operations a second of each kind, bytes a second from each level of its memory, and the
//! time of a launch. A [`Role`] says at which lengths work is costed: many tokens at once, or one token late in a
//! conversation. The choice between algebraic forms (`egraph`) asks for the time of single operations, the forming of
//! kernels (`group`) for that of a whole kernel, both in seconds of the same machine.
//!
//! Two builds of one text must make one artifact, so the machine is an input: a documented generic processor unless
//! another is asked for by name, by file, or as the `host` that compiles ([`host`]).

mod host;
mod table;

pub use host::host;
pub use table::{DGX_A100, DGX_H100, GENERIC, by_name};

use llmc_artifact::Format;
use serde::{Deserialize, Serialize};

/// What tokens are: which of a plan's two lists of launches runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Tokens of a prompt: many at once.
    Prefill,
    /// A generated token: one at a time, after many others.
    Decode,
}

impl Role {
    /// Both, in the plan's order.
    pub const ALL: [Role; 2] = [Role::Prefill, Role::Decode];

    /// Its name in the plan's text.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        }
    }

    /// The lengths at which work of the role is costed.
    pub const fn lengths(self) -> Lengths {
        match self {
            Role::Prefill => Lengths { rows: 512, keys: 1024 },
            Role::Decode => Lengths { rows: 1, keys: 4096 },
        }
    }

    /// How often the role's step is taken in the conversation that costs are summed over: a prompt of two chunks, and
    /// an answer of a few hundred tokens.
    pub const fn steps(self) -> f64 {
        match self {
            Role::Prefill => 2.0,
            Role::Decode => 256.0,
        }
    }
}

/// Lengths that are known only when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens of the step.
    pub rows: u64,
    /// Tokens that each of them sees.
    pub keys: u64,
}

/// What an operation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Multiply-adds of f32 in a contraction.
    F32,
    /// Multiply-adds of 16-bit floats.
    F16,
    /// Multiply-adds of small ints: dots of block formats.
    Int8,
    /// Single operations on values in registers: prologues, epilogues, exponentials.
    Scalar,
}

impl Arithmetic {
    /// The kind that a contraction with weights of a format runs as.
    pub fn of(format: Format) -> Arithmetic {
        match format {
            f if f.is_quantised() => Arithmetic::Int8,
            Format::F16 | Format::BF16 => Arithmetic::F16,
            _ => Arithmetic::F32,
        }
    }
}

/// Operations a second, all cores together. A multiply-add is two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// [`Arithmetic::F32`].
    pub f32: f64,
    /// [`Arithmetic::F16`].
    pub f16: f64,
    /// [`Arithmetic::Int8`].
    pub int8: f64,
    /// [`Arithmetic::Scalar`].
    pub scalar: f64,
}

/// A cache between the cores and the memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// What it holds, in bytes, all cores' parts together.
    pub capacity: f64,
    /// Bytes a second.
    pub bandwidth: f64,
}

/// A roofline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// For people.
    pub name: String,
    /// Operations a second.
    pub rates: Rates,
    /// Caches, the smallest and fastest first.
    pub levels: Vec<Level>,
    /// Bytes a second from memory.
    pub memory: f64,
    /// Seconds of a launch.
    pub launch: f64,
    /// Work items that run at once: threads of a processor, multiprocessors of a GPU. A kernel with fewer leaves the others
    /// without work.
    pub slots: f64,
}

impl Default for Machine {
    fn default() -> Machine {
        GENERIC.machine()
    }
}

impl Machine {
    /// Operations a second of a kind.
    pub fn rate(&self, kind: Arithmetic) -> f64 {
        match kind {
            Arithmetic::F32 => self.rates.f32,
            Arithmetic::F16 => self.rates.f16,
            Arithmetic::Int8 => self.rates.int8,
            Arithmetic::Scalar => self.rates.scalar,
        }
    }

    /// Seconds in which a value of this many bytes goes through the level that holds it, once: what one kernel writes
    /// and the next reads stays in a cache where it fits in half of one.
    pub fn through(&self, bytes: f64) -> f64 {
        let level = self.levels.iter().find(|l| 2.0 * bytes <= l.capacity);
        bytes / level.map_or(self.memory, |l| l.bandwidth)
    }

    /// Seconds in which bytes come from memory: weights and caches of keys are larger than any cache of the machine
    /// by the time a layer is run again.
    pub fn from_memory(&self, bytes: f64) -> f64 {
        bytes / self.memory
    }

    /// What a conversation pays for bytes that each of its tokens keeps: memory bounds how many conversations there can be,
    /// so what is kept is priced as if every generated token read it, whether it does or not.
    pub fn kept(&self, bytes: f64) -> f64 {
        Role::Decode.steps() * self.from_memory(bytes * Role::Decode.lengths().keys as f64)
    }

    /// A machine as JSON, as [`Machine`] is written.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn parse(text: &str) -> Result<Machine, String> {
        let machine: Machine = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let Rates { f32, f16, int8, scalar } = machine.rates;
        let levels = machine.levels.iter().flat_map(|l| [l.capacity, l.bandwidth]);
        let all = [f32, f16, int8, scalar, machine.memory, machine.slots].into_iter().chain(levels);
        if let Some(wrong) = all.into_iter().find(|x| !(x.is_finite() && *x > 0.0)) {
            return Err(format!(
                "{wrong} is no rate, bandwidth, capacity or number of slots: each is a positive number"
            ));
        }
        if !(machine.launch.is_finite() && machine.launch >= 0.0) {
            return Err(format!("a launch of {} s", machine.launch));
        }
        Ok(machine)
    }

    /// The machine as JSON that [`Machine::parse`] reads.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a machine becomes JSON")
    }
}

/// What something asks of a machine, and how long it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: f64,
    /// Operations of any kind.
    pub operations: f64,
    /// Kernels launched.
    pub launches: f64,
    /// On the machine's roofline.
    pub seconds: f64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            bytes: self.bytes + other.bytes,
            operations: self.operations + other.operations,
            launches: self.launches + other.launches,
            seconds: self.seconds + other.seconds,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(all: I) -> Cost {
        all.fold(Cost::default(), std::ops::Add::add)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cost { bytes, operations, launches, seconds } = self;
        write!(f, "{:.1} us: {bytes:.3e} bytes, {operations:.3e} operations, {launches} launches", seconds * 1e6)
    }
}

/// A kernel's work, added up before it is timed as a whole: bytes and operations overlap, the launch does not.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    machine: &'a Machine,
    cost: Cost,
    moving: f64,
    computing: f64,
    /// Of the machine's slots.
    share: f64,
}

impl<'a> Kernel<'a> {
    /// One launch that does nothing yet.
    pub fn new(machine: &'a Machine) -> Kernel<'a> {
        let cost = Cost { launches: 1.0, ..Cost::default() };
        Kernel { machine, cost, moving: 0.0, computing: 0.0, share: 1.0 }
    }

    /// Bytes from or to memory.
    pub fn memory(&mut self, bytes: f64) {
        self.cost.bytes += bytes;
        self.moving += self.machine.from_memory(bytes);
    }

    /// A value written for another kernel of the step, or read from one.
    pub fn value(&mut self, bytes: f64) {
        self.cost.bytes += bytes;
        self.moving += self.machine.through(bytes);
    }

    /// Operations of a kind.
    pub fn compute(&mut self, kind: Arithmetic, operations: f64) {
        self.cost.operations += operations;
        self.computing += operations / self.machine.rate(kind);
    }

    /// Says that its work is so many items, none of which can be divided: where they are fewer than the machine's slots,
    /// the slots without one add nothing to what the others move and compute.
    pub fn spread(&mut self, items: f64) {
        self.share = (items.max(1.0) / self.machine.slots).min(1.0);
    }

    /// The whole.
    pub fn cost(&self) -> Cost {
        Cost { seconds: self.machine.launch + self.moving.max(self.computing) / self.share, ..self.cost }
    }
}

/// Bytes of an element on the average.
pub fn element_bytes(format: Format) -> f64 {
    format.block_bytes() as f64 / format.block() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_through_the_smallest_level_that_holds_it_twice() {
        let m = Machine {
            levels: vec![Level { capacity: 1e6, bandwidth: 1e12 }, Level { capacity: 1e8, bandwidth: 1e11 }],
            memory: 1e10,
            ..Machine::default()
        };
        assert_eq!(m.through(5e5), 5e5 / 1e12);
        assert_eq!(m.through(6e5), 6e5 / 1e11);
        assert_eq!(m.through(6e7), 6e7 / 1e10);
        assert_eq!(m.from_memory(8.0), 8.0 / 1e10);
    }

    #[test]
    fn a_kernel_takes_the_longer_of_moving_and_computing_and_its_launch() {
        let m = Machine { memory: 10.0, launch: 3.0, levels: vec![], ..Machine::default() };
        let m = Machine { rates: Rates { f32: 5.0, ..m.rates }, ..m };
        let mut k = Kernel::new(&m);
        k.memory(20.0);
        k.compute(Arithmetic::F32, 5.0);
        assert_eq!(k.cost(), Cost { bytes: 20.0, operations: 5.0, launches: 1.0, seconds: 5.0 });
        k.compute(Arithmetic::F32, 15.0);
        assert_eq!(k.cost().seconds, 7.0);
    }

    #[test]
    fn slots_without_an_item_do_nothing() {
        let m = Machine { memory: 10.0, launch: 3.0, levels: vec![], slots: 8.0, ..Machine::default() };
        let seconds = |items: f64| {
            let mut k = Kernel::new(&m);
            k.memory(20.0);
            k.spread(items);
            k.cost().seconds
        };
        assert_eq!([2.0, 8.0, 80.0].map(seconds), [3.0 + 8.0, 3.0 + 2.0, 3.0 + 2.0]);
    }

    #[test]
    fn a_machine_is_read_as_it_is_written_and_checked() {
        for row in table::ROWS {
            let machine = row.machine();
            assert_eq!(Machine::parse(&machine.text()), Ok(machine));
        }
        let good = Machine::default();
        for broken in [
            Machine { memory: 0.0, ..good.clone() },
            Machine { launch: -1.0, ..good.clone() },
            Machine { slots: 0.0, ..good.clone() },
            Machine { rates: Rates { int8: -4.0, ..good.rates }, ..good.clone() },
        ] {
            assert!(Machine::parse(&broken.text()).is_err(), "{broken:?}");
        }
        assert!(Machine::parse("{}").is_err());
        assert!(Machine::parse("{\"name\": 1e999").is_err());
    }
}
