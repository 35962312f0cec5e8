//! A device for tests: a few kernels in Rust, for a model so simple that a list of tokens says what it must answer.
//!
//! The model remembers each token in a paged cache and answers, for each picked row, two parts of a hash of all tokens up
//! to it (or of all of its sequence). Generated tokens are remembered as [`GENERATED`] more, so that the answer
//! tells which plan ran.

use super::{Bytes, Calls, Device, Memory, Slab};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::plan::*;
use llmc_artifact::{Artifact, Dim, Format, SeqId, Type};

/// Added to the tokens that the decode plan remembers.
pub const GENERATED: u32 = 1000;
/// Tokens are below this.
pub const VOCABULARY: u32 = 100;
const T: SeqId = SeqId(0);

/// What the model answers to these tokens.
pub fn answer(tokens: &[u32]) -> [f32; 2] {
    let hash = tokens.iter().fold(7u32, |h, t| (h * 31 + t + 1) % 8191);
    [(hash / 64) as f32 / 64.0, (hash % 64) as f32 / 32.0]
}

/// The model: tokens look back, or with `encoder` a reason why they do not.
pub fn model(encoder: Option<&str>, bound: Option<u64>, window: Option<u64>) -> Artifact {
    let buffer = |name: &str, format, dims: &[Dim], slot| Buffer { name: name.into(), format, dims: dims.into(), slot };
    let cache = |name: &str, page| Cache {
        name: name.into(),
        format: Format::I32,
        storage: Storage::Paged { seq: T, page },
        window,
    };
    let launch = |kernel, args: &[Arg]| Launch { kernel, args: args.into() };
    let remember = [Arg::Buffer(0), Arg::Cache(0), Arg::Cache(1)];
    let recall = [Arg::Cache(0), Arg::Cache(1), Arg::Buffer(1)];
    let (recall_kernel, appendable) = match encoder {
        None => (2, Ok(())),
        Some(why) => (3, Err(why.to_string())),
    };
    let plan = Plan {
        model: "double".into(),
        seqs: vec![Sequence { name: "t".into(), bound, appendable }],
        inputs: vec![
            PlanInput {
                name: "tokens".into(),
                ty: Type::Int,
                bound: Some(VOCABULARY as u64),
                default: None,
                buffer: 0,
            },
            PlanInput {
                name: "scale".into(),
                ty: Type::Real,
                bound: None,
                default: Some(llmc_artifact::Value::Real(1.0)),
                buffer: 2,
            },
        ],
        outputs: vec![PlanOutput { name: "answer".into(), buffer: 1 }],
        weights: vec![],
        buffers: vec![
            buffer("tokens", Format::I32, &[Dim::Rows(T)], 0),
            buffer("answer", Format::F32, &[Dim::Picked(T), Dim::Const(2)], 1),
            buffer("scale", Format::F32, &[], 2),
        ],
        caches: vec![
            cache("low", vec![PageDim::Slot { count: PAGE_TOKENS, step: 1 }]),
            cache("high", vec![PageDim::Slot { count: PAGE_TOKENS, step: 1 }, PageDim::Axis(3)]),
        ],
        prefill: RolePlan { launches: vec![launch(0, &remember), launch(recall_kernel, &recall)] },
        decode: RolePlan { launches: vec![launch(1, &remember), launch(recall_kernel, &recall)] },
        best: vec![],
    };
    let target = TargetCode { target: "double".into(), features: vec![], kernels: kernels(), code: vec![] };
    Artifact { plan, targets: vec![target], ..Artifact::default() }
}

fn kernels() -> Vec<KernelInfo> {
    let kernel = |symbol: &str, tables: &[Table], rows: Dim| KernelInfo {
        symbol: symbol.into(),
        operands: 3,
        tables: tables.into(),
        dims: vec![rows, Dim::Blocks(T)],
        items: vec![rows],
        scratch: 0,
        threads: 1,
        tensor_maps: vec![],
    };
    let places = [Table::Positions(T), Table::RowSeq(T), Table::Blocks(T)];
    let picks = [Table::Positions(T), Table::RowSeq(T), Table::Blocks(T), Table::Picked(T), Table::Lengths(T)];
    vec![
        kernel("remember", &places, Dim::Rows(T)),
        kernel("remember_generated", &places, Dim::Rows(T)),
        kernel("recall", &picks, Dim::Picked(T)),
        kernel("recall_all", &picks, Dim::Picked(T)),
    ]
}

/// The device.
pub struct Double {
    kernels: Vec<KernelInfo>,
    memory: Slab<Vec<u8>>,
    /// Runs that succeed before one fails.
    pub fail_after: Option<usize>,
    /// Bytes that can still be allocated.
    pub room: u64,
}

impl Double {
    /// A device on which everything works, or fails after that many runs.
    pub fn new(fail_after: Option<usize>) -> Double {
        Double { kernels: kernels(), memory: Slab::new(), fail_after, room: 1 << 40 }
    }

    fn take(&mut self, bytes: u64) -> Result<(), RunError> {
        let left = self.room.checked_sub(bytes);
        self.room = left.ok_or_else(|| RunError::new(RunCode::Memory, "double", format_args!("{bytes} bytes")))?;
        Ok(())
    }

    fn int(&self, memory: Memory, at: usize) -> usize {
        let bytes = &self.memory.get(memory)[at * 4..][..4];
        u32::from_le_bytes(bytes.try_into().unwrap()) as usize
    }

    fn set(&mut self, memory: Memory, at: usize, value: u32) {
        self.memory.get_mut(memory)[at * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn remember(&mut self, p: &[Memory], blocks: usize, row: usize, added: u32) {
        let [tokens, low, high, positions, row_seq, table] = p else { panic!("six pointers") };
        let (position, sequence) = (self.int(*positions, row), self.int(*row_seq, row));
        let page = self.int(*table, sequence * blocks + position / 64);
        let (token, slot) = (self.int(*tokens, row) as u32 + added, page * 64 + position % 64);
        self.set(*low, slot, token);
        self.set(*high, slot * 3 + 2, token);
    }

    fn recall(&mut self, p: &[Memory], blocks: usize, pick: usize, all: bool) {
        let [low, high, out, positions, row_seq, table, picked, lengths] = p else { panic!("eight pointers") };
        let row = self.int(*picked, pick);
        let sequence = self.int(*row_seq, row);
        let end = if all { self.int(*lengths, sequence) } else { self.int(*positions, row) + 1 };
        let seen: Vec<u32> = (0..end)
            .map(|at| {
                let slot = self.int(*table, sequence * blocks + at / 64) * 64 + at % 64;
                assert_eq!(self.int(*low, slot), self.int(*high, slot * 3 + 2), "both caches have the same pages");
                self.int(*low, slot) as u32
            })
            .collect();
        for (i, value) in answer(&seen).into_iter().enumerate() {
            self.set(*out, pick * 2 + i, value.to_bits());
        }
    }
}

impl Device for Double {
    fn describe(&self) -> String {
        "double".into()
    }

    fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
    }

    fn free_memory(&self) -> u64 {
        self.room.min(1 << 20)
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        self.take(bytes)?;
        Ok(self.memory.insert(vec![0; bytes as usize]))
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        self.take(bytes.len() as u64)?;
        Ok(self.memory.insert(bytes.to_vec()))
    }

    fn release(&mut self, memory: Memory) {
        self.room += self.memory.remove(memory).len() as u64;
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.memory.get_mut(to)[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        bytes.copy_from_slice(&self.memory.get(from)[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        let source = self.memory.get(from.0)[from.1 as usize..][..bytes as usize].to_vec();
        self.write(to.0, to.1, &source)
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        match &mut self.fail_after {
            Some(0) => return Err(RunError::new(RunCode::Device, "double", "told to fail")),
            Some(runs) => *runs -= 1,
            None => {}
        }
        for call in &calls.calls {
            let (pointers, dims) = (&calls.pointers[call.pointers.clone()], &calls.dims[call.dims.clone()]);
            assert_eq!(dims[0] as u64, call.items);
            for item in 0..call.items as usize {
                match call.kernel {
                    0 => self.remember(pointers, dims[1] as usize, item, 0),
                    1 => self.remember(pointers, dims[1] as usize, item, GENERATED),
                    2 => self.recall(pointers, dims[1] as usize, item, false),
                    _ => self.recall(pointers, dims[1] as usize, item, true),
                }
            }
        }
        Ok(())
    }
}
