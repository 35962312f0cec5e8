//! Attention as llmc emitted it, with its operands.

#[allow(dead_code, reason = "not every test has it")]
pub mod pipeline;
#[allow(dead_code, reason = "not every test has it")]
pub mod tiles;

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, Kernel, Launch, Memory, Program};

pub const TEXT: &str = include_str!("../ptx/attention.ptx");
pub const HEADS: usize = 32;
pub const SIZE: usize = 128;
const PAGE: usize = 64;

/// A launch for one token that looks back on others.
pub struct Attention {
    memory: Memory,
    kernel: Kernel,
    launch: Launch,
    out: u64,
    length: usize,
}

/// An element of the query, of keys (1) or of values (2): sixteenths, which halves hold exactly.
pub fn element(which: usize, head: usize, key: usize, e: usize) -> f32 {
    let mixed = (which * 7919 + head * 104_729 + key * 1299 + e * 31).wrapping_mul(2_654_435_761) >> 7;
    (mixed % 33) as f32 / 16.0 - 1.0
}

fn half(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let small = if x == 0.0 { 0 } else { ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff };
    ((bits >> 16 & 0x8000 | small) as u16).to_le_bytes()
}

/// The pages of keys and of values of so many tokens in f16, the last page first: keys in panels of 16 whose elements stand side
/// by side, values row by row.
fn cached(heads: usize, length: usize) -> [Vec<u8>; 2] {
    let pages = length.div_ceil(PAGE);
    let mut all = [(); 2].map(|()| vec![0; pages * heads * PAGE * SIZE * 2]);
    for (key, head) in (0..length).flat_map(|key| (0..heads).map(move |head| (key, head))) {
        let (page, slot) = (pages - 1 - key / PAGE, key % PAGE);
        let base = (page * heads + head) * PAGE * SIZE;
        for e in 0..SIZE {
            let places = [base + slot / 16 * SIZE * 16 + e * 16 + slot % 16, base + slot * SIZE + e];
            for (n, at) in places.into_iter().enumerate() {
                all[n][2 * at..2 * at + 2].copy_from_slice(&half(element(n + 1, head, key, e)));
            }
        }
    }
    all
}

impl Attention {
    /// The last of `length` tokens, whose pages lie in reverse; `text` may be a changed kernel.
    pub fn new(text: &str, length: usize, seed: u64) -> Attention {
        let pages = length.div_ceil(PAGE);
        let [keys, values] = cached(HEADS, length);
        let query = (0..HEADS * SIZE).flat_map(|i| (element(0, i / SIZE, 0, i % SIZE) / 8.0).to_le_bytes()).collect();
        let ints = |all: &[i32]| all.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
        let blocks: Vec<i32> = (0..pages as i32).rev().collect();
        let mut memory = Memory::new();
        let program =
            Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}")), &mut memory).expect("it loads");
        let kernel = program.kernel("attention").unwrap_or_else(|e| panic!("{e}"));
        let out = memory.allocate("out", HEADS * SIZE * 4);
        let params = [
            memory.upload("query", query),
            memory.upload("keys", keys),
            memory.upload("values", values),
            out,
            memory.upload("positions", ints(&[length as i32 - 1])),
            memory.upload("sequences", ints(&[0])),
            memory.upload("lengths", ints(&[length as i32])),
            memory.upload("pages", ints(&blocks)),
            1,
            pages as u64,
        ];
        let params = kernel.pack(&params).expect("ten parameters");
        let launch = Launch { shared: 8192, seed, ..Launch::new([HEADS as u32, 1, 1], [128, 1, 1], params) };
        Attention { memory, kernel, launch, out, length }
    }

    /// Runs it.
    pub fn run(&mut self) -> Result<Counters, Box<Fault>> {
        self.kernel.launch(&mut self.memory, &self.launch)
    }

    /// Bits of the result.
    pub fn result(&self) -> Vec<u8> {
        self.memory.bytes(self.out, HEADS * SIZE * 4).expect("the buffer").to_vec()
    }

    /// What it should be.
    pub fn expected(&self) -> Vec<f32> {
        (0..HEADS).flat_map(|head| self.expected_head(head)).collect()
    }

    fn expected_head(&self, head: usize) -> Vec<f32> {
        let dot =
            |key| (0..SIZE).map(|e| (element(0, head, 0, e) / 8.0 * element(1, head, key, e)) as f64).sum::<f64>();
        let scores: Vec<f64> = (0..self.length).map(dot).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mean =
            |e| weights.iter().enumerate().map(|(key, w)| w * element(2, head, key, e) as f64).sum::<f64>() / total;
        (0..SIZE).map(|e| mean(e) as f32).collect()
    }
}
