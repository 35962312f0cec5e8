//! A block's kernels run by hand: on the interpreter or compiled, some tokens at a time, through its caches.

use crate::fixture::scrambled;
use crate::group::{Fused, fused_text, standard_order};
use crate::kernel::interpret::{Memory, interpret, visited};
use crate::kernel::lower::{Lowered, lower};
use crate::kernel::{Abi, KernelExtent, KernelSpec, Verified, verify};
use crate::llvm::testing::Loaded;
use crate::normal::{TermId, Terms};
use crate::plan::Binding;
use crate::stream::check::{Leaf, Meaning, Point};
use crate::target::Target;
use crate::target::cpu::Cpu;
use llmc_artifact::panel::PanelLayout;
use llmc_artifact::plan::{PAGE_TOKENS, Storage, Table};
use llmc_artifact::{Dim, Format, SeqId, Type, Value};
use llmc_frontend::graph::AxisId;
use std::collections::HashMap;

/// A leaf's element at an index for each of its axes, ascending.
pub type Leaves<'a> = &'a dyn Fn(Leaf, &[i64]) -> Value;

/// Every leaf is a small multiple of 1/64: exact in a block of eight bits.
pub fn small(leaf: Leaf, index: &[i64]) -> Value {
    let x = scrambled(leaf, index).real();
    Value::Real((x * 100.0).round() / 64.0)
}

/// A block and everything that it has written so far.
pub struct BlockMachine<'a> {
    fused: &'a Fused,
    leaves: Leaves<'a>,
    pub lowered: Lowered,
    memory: HashMap<Binding, Vec<u8>>,
    tokens: u64,
    /// Compiled kernels, where they run in place of the interpreter.
    compiled: Option<Vec<Loaded>>,
}

impl<'a> BlockMachine<'a> {
    /// A block over [`small`] leaves, for a sequence of so many tokens.
    pub fn new(fused: &'a Fused, tokens: u64) -> BlockMachine<'a> {
        BlockMachine::over(fused, tokens, &small)
    }

    /// A block over the given leaves.
    pub fn over(fused: &'a Fused, tokens: u64, leaves: Leaves<'a>) -> BlockMachine<'a> {
        let lowered = lower(fused, "block");
        let mut machine = BlockMachine { fused, leaves, lowered, memory: HashMap::new(), tokens, compiled: None };
        for n in 0..machine.lowered.weights.len() {
            let bytes = machine.weight(n);
            machine.memory.insert(Binding::Weight(n as u32), bytes);
        }
        for (n, c) in machine.lowered.block.caches.iter().enumerate() {
            let page = c.storage.bytes(c.format, |_| 0).expect("a page has a size");
            machine.memory.insert(Binding::Cache(n as u32), vec![0xff; (page * machine.pages()) as usize]);
        }
        machine
    }

    /// Its kernels as the back-ends take them.
    pub fn kernels(&self) -> Vec<Verified<KernelSpec>> {
        let specs = self.lowered.block.kernels.iter().map(|k| k.spec.clone());
        specs.map(|s| verify(s).unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    /// From here on kernels run as the host's code.
    pub fn compile(&mut self) -> Vec<Verified<KernelSpec>> {
        let kernels = self.kernels();
        let code = Cpu::new("cpu:native").expect("the host").emit(&kernels).unwrap_or_else(|e| panic!("{e}"));
        self.compiled = Some((0..kernels.len()).map(|k| Loaded::of(&code, k)).collect());
        kernels
    }

    fn pages(&self) -> u64 {
        self.tokens.div_ceil(PAGE_TOKENS as u64).max(1)
    }

    fn elements(&self, terms: &Terms, term: TermId, order: &[AxisId]) -> Vec<f64> {
        let meaning = Meaning::new(terms, self.tokens, self.leaves);
        let points = meaning.points(order, &Point::new());
        points.iter().map(|p| number(meaning.of(term, p, &HashMap::new()))).collect()
    }

    fn weight(&self, n: usize) -> Vec<u8> {
        let (source, weight) = (&self.lowered.weights[n], &self.lowered.block.weights[n]);
        let values = self.elements(&self.lowered.terms, source.term, &source.order);
        let bytes: Vec<u8> = match weight.format {
            Format::F32 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
            Format::I32 => values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
            Format::Q8_0 => values
                .chunks(32)
                .flat_map(|b| {
                    let scale = 0x2400u16.to_le_bytes(); // 1/64
                    scale.into_iter().chain(b.iter().map(|v| (v * 64.0) as i8 as u8)).collect::<Vec<_>>()
                })
                .collect(),
            other => panic!("no weight of these tests is stored in {other}"),
        };
        match weight.storage {
            Storage::Dense { .. } => bytes,
            Storage::Panel { rows, reduce } => {
                let layout = PanelLayout::new(weight.format, rows, reduce).expect("whole blocks");
                let mut packed = vec![0; layout.bytes()];
                layout.pack(&bytes, &mut packed);
                packed
            }
            Storage::Paged { .. } | Storage::Workspace { .. } => panic!("a weight in pages"),
        }
    }

    /// Parameters of tokens `from..to`.
    fn feed(&mut self, from: u64, to: u64) {
        let terms = &self.fused.terms;
        for (n, (axes, ty)) in terms.params.iter().enumerate() {
            let order = standard_order(terms, axes);
            let meaning = Meaning::new(terms, self.tokens, self.leaves);
            let now = |p: &&Point| !terms.is_seq(order[0]) || (from as i64..to as i64).contains(&p[&order[0]]);
            let element = |p: &Point| {
                let at: Vec<_> = axes.iter().map(|a| p[&a]).collect();
                let x = number((self.leaves)(Leaf::Param(n as u32), &at));
                if *ty == Type::Real { (x as f32).to_le_bytes() } else { (x as i32).to_le_bytes() }
            };
            let bytes = meaning.points(&order, &Point::new()).iter().filter(now).flat_map(element).collect();
            self.memory.insert(Binding::Param(n as u32), bytes);
        }
    }

    /// Blocks of keys that the one kernel over tokens visits, for every fold of it.
    pub fn visited(&self, tokens: u64, block: i64) -> Vec<Vec<i64>> {
        let seq = SeqId(0);
        let tables = [
            (Table::Positions(seq), (0..tokens as i32).collect()),
            (Table::RowSeq(seq), vec![0; tokens as usize]),
            (Table::Lengths(seq), vec![tokens as i32]),
        ];
        let dims = [(Dim::Rows(seq), tokens), (Dim::Sequences, 1)];
        let mut memory =
            Memory { operands: vec![], tables: tables.into_iter().collect(), dims: dims.into_iter().collect() };
        let over_keys =
            |k: &&Verified<KernelSpec>| k.axes.iter().any(|a| matches!(a.extent, KernelExtent::Keys { .. }));
        let kernels = self.kernels();
        let one = kernels.iter().find(over_keys).expect("a kernel over tokens");
        visited(one, &mut memory, block)
    }

    /// Runs tokens `from..to` and returns the block's results for them.
    pub fn step(&mut self, from: u64, to: u64) -> Vec<Vec<f64>> {
        self.feed(from, to);
        let (rows, seq, pages) = (to - from, SeqId(0), self.pages());
        let tables = [
            (Table::Positions(seq), (from..to).map(|p| p as i32).collect()),
            (Table::RowSeq(seq), vec![0; rows as usize]),
            (Table::Lengths(seq), vec![to as i32]),
            // Pages in an order that is not theirs.
            (Table::Blocks(seq), (0..pages as i32).rev().collect()),
            (Table::Picked(seq), vec![rows as i32 - 1]),
            (Table::TokenPositions(seq), (0..to as i32).collect()),
            (Table::TokenSeq(seq), vec![0; to as usize]),
            (Table::Bases(seq), vec![0]),
        ];
        let dims = [
            (Dim::Rows(seq), rows),
            (Dim::Picked(seq), 1),
            (Dim::Blocks(seq), pages),
            (Dim::Tokens(seq), to),
            (Dim::Pages(seq), to.div_ceil(PAGE_TOKENS as u64)),
            (Dim::Sequences, 1),
        ];
        let length = |d: Dim| match d {
            Dim::Const(n) => n,
            Dim::Parts(_, size) => to.div_ceil(size as u64),
            Dim::Tiles(..) => d.at(rows),
            Dim::Rows(_) | Dim::Picked(_) | Dim::Blocks(_) | Dim::Tokens(_) | Dim::Pages(_) | Dim::Sequences => {
                dims.iter().find(|(e, _)| *e == d).expect("a length").1
            }
        };
        for (number, kernel) in self.lowered.block.kernels.clone().into_iter().enumerate() {
            let spec = verify(kernel.spec).unwrap_or_else(|e| panic!("{e}\n{}", fused_text(self.fused)));
            let mut operands = Vec::new();
            for (o, b) in spec.operands.iter().zip(&kernel.operands) {
                let size = || o.storage.bytes(o.format, length).expect("a size") as usize;
                let fresh = o.write && !matches!(o.storage, Storage::Paged { .. });
                let old = if fresh { None } else { self.memory.get(b).cloned() };
                operands.push(old.unwrap_or_else(|| vec![0; size()]));
            }
            let asked = Abi::of(&spec).dims.into_iter().map(|d| (d, length(d)));
            let dims = dims.into_iter().chain(asked).collect();
            let mut memory = Memory { operands, tables: tables.iter().cloned().collect(), dims };
            match &self.compiled {
                Some(kernels) => kernels[number].run(&mut memory, &[]),
                None => interpret(&spec, &mut memory),
            }
            for (b, bytes) in kernel.operands.iter().zip(memory.operands) {
                self.memory.insert(*b, bytes);
            }
        }
        let results = self.fused.values.iter().flat_map(|v| v.results.iter().map(move |r| (*r, v.meaning)));
        let mut results: Vec<_> = results.collect();
        results.sort_unstable();
        results.into_iter().map(|(r, meaning)| self.result(r, meaning)).collect()
    }

    fn result(&self, n: u32, meaning: TermId) -> Vec<f64> {
        let real = self.fused.terms.info(meaning).ty == Type::Real;
        let element = |c: &[u8]| {
            let word = [c[0], c[1], c[2], c[3]];
            if real { f32::from_le_bytes(word) as f64 } else { i32::from_le_bytes(word) as f64 }
        };
        self.memory[&Binding::Result(n)].chunks(4).map(element).collect()
    }
}

fn number(v: Value) -> f64 {
    match v {
        Value::Real(x) => x,
        Value::Int(n) => n as f64,
        Value::Bool(b) => f64::from(b),
    }
}

/// What a term means over [`small`] leaves, rows outermost.
pub fn wanted(terms: &Terms, root: TermId, tokens: u64) -> Vec<f64> {
    let meaning = Meaning::new(terms, tokens, &small);
    let order = standard_order(terms, terms.free(root));
    meaning.points(&order, &Point::new()).iter().map(|p| number(meaning.of(root, p, &HashMap::new()))).collect()
}

/// Every element within `tolerance` of the largest.
pub fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let size = want.iter().filter(|x| x.is_finite()).fold(1e-9f64, |a, x| a.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let same = a == b || (a - b).abs() <= tolerance * size;
        assert!(same, "element {i}: {a} for {b} of at most {size}");
    }
}
