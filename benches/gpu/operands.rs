//! Memory and launches of some of a plan's kernels, without a session.

use llmc_artifact::plan::{Arg, Launch, PAGE_TOKENS, Plan, Storage, Table};
use llmc_artifact::{Dim, Format};
use llmc_compiler::kernel::Body;
use llmc_compiler::pipeline::Stages;
use llmc_runtime::device::{Calls, Device, Memory};
use std::collections::HashMap;

/// A role's launches of some family, over so many tokens of one sequence from its beginning, and some memory that they
/// touch. One token is a generated one, more are a prompt.
pub fn calls(device: &mut dyn Device, stages: &Stages, tokens: u64, family: impl Fn(&Body) -> bool) -> (Calls, Memory) {
    let memory = Everything::new(device, &stages.plan, tokens);
    let role = if tokens == 1 { &stages.plan.decode } else { &stages.plan.prefill };
    let mut calls = Calls::default();
    for launch in role.launches.iter().filter(|l| family(&stages.kernels[l.kernel as usize].body)) {
        push(&mut calls, device, launch, &memory, tokens);
    }
    assert!(!calls.calls.is_empty(), "no kernel of the family");
    (calls, *memory.of.values().next().expect("some memory"))
}

fn push(calls: &mut Calls, device: &dyn Device, launch: &Launch, memory: &Everything, tokens: u64) {
    let kernel = &device.kernels()[launch.kernel as usize];
    let operands = launch.args.iter().map(|arg| memory.of[arg]);
    let tables = kernel.tables.iter().map(|t| memory.tables[t]);
    let items = kernel.items.iter().map(|d| length(*d, tokens)).product();
    let dims = kernel.dims.iter().map(|d| length(*d, tokens) as i64);
    calls.push(launch.kernel, operands.chain(tables), dims, items);
}

/// A length of a step over so many tokens of one sequence, all of whose outputs are wanted.
fn length(dim: Dim, tokens: u64) -> u64 {
    match dim {
        Dim::Const(n) => n,
        Dim::Rows(_) | Dim::Picked(_) | Dim::Tokens(_) => tokens,
        Dim::Blocks(_) | Dim::Pages(_) => tokens.div_ceil(PAGE_TOKENS as u64),
        Dim::Sequences => 1,
        Dim::Parts(_, size) => tokens.div_ceil(size as u64),
        Dim::Tiles(..) => dim.at(tokens),
    }
}

/// Memory of everything that a plan's kernels touch, full of ordinary numbers, and of zeros where it is read as an
/// index.
struct Everything {
    of: HashMap<Arg, Memory>,
    tables: HashMap<Table, Memory>,
}

impl Everything {
    fn new(device: &mut dyn Device, plan: &Plan, tokens: u64) -> Everything {
        let length = |d: Dim| length(d, tokens);
        let mut of = HashMap::new();
        let mut add = |arg: Arg, format: Format, bytes: Option<u64>| {
            of.insert(arg, room(device, format, bytes.expect("a size")));
        };
        for (n, b) in plan.buffers.iter().enumerate() {
            let bytes = Storage::Dense { dims: b.dims.clone() }.bytes(b.format, length);
            add(Arg::Buffer(n as u32), b.format, bytes);
        }
        for (n, w) in plan.weights.iter().enumerate() {
            add(Arg::Weight(n as u32), w.format, Some(w.bytes()));
        }
        for (n, c) in plan.caches.iter().enumerate() {
            let pages = tokens.div_ceil(PAGE_TOKENS as u64);
            add(Arg::Cache(n as u32), c.format, c.storage.bytes(c.format, length).map(|page| page * pages));
        }
        let mut tables = HashMap::new();
        for table in device.kernels().iter().flat_map(|k| k.tables.clone()).collect::<Vec<_>>() {
            let entries: Vec<i32> = match table {
                Table::Positions(_) | Table::Picked(_) | Table::TokenPositions(_) => (0..tokens as i32).collect(),
                Table::RowSeq(_) | Table::TokenSeq(_) => vec![0; tokens as usize],
                Table::Lengths(_) => vec![tokens as i32],
                Table::Bases(_) => vec![0],
                Table::Blocks(s) => (0..length(Dim::Blocks(s)) as i32).collect(),
            };
            let bytes: Vec<u8> = entries.iter().flat_map(|n| n.to_le_bytes()).collect();
            let memory = device.allocate(bytes.len() as u64).unwrap_or_else(|e| panic!("{e}"));
            device.write(memory, 0, &bytes).unwrap_or_else(|e| panic!("{e}"));
            tables.insert(table, memory);
        }
        Everything { of, tables }
    }
}

/// Memory of [`numbers`], or of zeros for ints.
pub fn room(device: &mut dyn Device, format: Format, bytes: u64) -> Memory {
    let memory = device.allocate(bytes).unwrap_or_else(|e| panic!("{e}"));
    let length = (bytes as usize).min(1 << 24);
    let some = if format == Format::I32 { vec![0; length] } else { numbers(length) };
    for at in (0..bytes).step_by(some.len().max(1)) {
        let count = (bytes - at).min(some.len() as u64) as usize;
        device.write(memory, at, &some[..count]).unwrap_or_else(|e| panic!("{e}"));
    }
    memory
}

/// Bytes that are finite numbers about 0.01 to 1 in size in every plain format, of either sign: zeros would be faster
/// than any model's.
pub fn numbers(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = 0x3c00 | (state >> 20) as u16 & 0x80ff;
        word.to_le_bytes()
    });
    let mut all: Vec<u8> = words.by_ref().take(bytes.div_ceil(2)).flatten().collect();
    all.truncate(bytes);
    all
}
