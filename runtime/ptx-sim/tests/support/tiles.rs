//! Attention by matrix instructions as llmc emitted it, with its operands: a prompt's last tokens over all of its keys.

use super::{PAGE, SIZE, cached, element};
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, Kernel, Launch, Memory, Program};

pub const TEXT: &str = include_str!("../ptx/attention_tiles.ptx");
const HEADS: usize = 2;
const QUERIES: usize = 4;
/// Tokens that there are.
const WORDS: usize = 8;
/// Rows of a panel.
const PANEL: usize = 16;
/// What the kernel's description asks for, in bytes.
const SHARED: u32 = 66 << 10;

/// A launch for the last `rows` of `length` tokens.
pub struct Tiles {
    memory: Memory,
    kernel: Kernel,
    launch: Launch,
    out: u64,
    length: usize,
    rows: usize,
}

/// An element of the query of a token.
fn query(token: usize, column: usize) -> f32 {
    element(0, token, column / SIZE, column % SIZE)
}

fn token(position: usize) -> usize {
    position * 5 % WORDS
}

impl Tiles {
    /// Pages lie in reverse; `text` may be a changed kernel.
    pub fn new(text: &str, length: usize, rows: usize, seed: u64) -> Tiles {
        let pages = length.div_ceil(PAGE);
        let [keys, values] = cached(HEADS, length);
        // One panel, whose last rows are no tokens.
        let row = |i: usize| if i % PANEL < WORDS { query(i % PANEL, i / PANEL) } else { 0.0 };
        let queries = (0..HEADS * QUERIES * SIZE * PANEL).flat_map(|i| row(i).to_le_bytes()).collect();
        let ints = |all: Vec<i32>| all.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
        let positions = length - rows..length;
        let mut memory = Memory::new();
        let program =
            Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}")), &mut memory).expect("it loads");
        let kernel = program.kernel("attention").unwrap_or_else(|e| panic!("{e}"));
        let out = memory.allocate("out", rows * HEADS * QUERIES * SIZE * 4);
        let lengths = [rows as u64, pages as u64].iter().flat_map(|n| n.to_le_bytes()).collect();
        let params = [
            memory.upload("tokens", ints(positions.clone().map(|p| token(p) as i32).collect())),
            memory.upload("queries", queries),
            memory.upload("keys", keys),
            memory.upload("values", values),
            out,
            memory.upload("positions", ints(positions.map(|p| p as i32).collect())),
            memory.upload("sequences", ints(vec![0; rows])),
            memory.upload("lengths", ints(vec![length as i32])),
            memory.upload("pages", ints((0..pages as i32).rev().collect())),
            memory.upload("rows and pages", lengths),
        ];
        let params = kernel.pack(&params).expect("ten parameters");
        let launch = Launch { shared: SHARED, seed, ..Launch::new([(HEADS * rows) as u32, 1, 1], [128, 1, 1], params) };
        Tiles { memory, kernel, launch, out, length, rows }
    }

    /// Runs it.
    pub fn run(&mut self) -> Result<Counters, Box<Fault>> {
        self.kernel.launch(&mut self.memory, &self.launch)
    }

    /// Elements of the result of one row.
    pub fn result(&self, row: usize) -> Vec<f32> {
        let bytes = 4 * HEADS * QUERIES * SIZE;
        let found = self.memory.bytes(self.out + (row * bytes) as u64, bytes).expect("the buffer");
        found.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    }

    /// What they should be.
    pub fn expected(&self, row: usize) -> Vec<f32> {
        let position = self.length - self.rows + row;
        let of_query = |n: usize| {
            let head = n / QUERIES;
            let product = |key, e| query(token(position), n * SIZE + e) as f64 * element(1, head, key, e) as f64;
            let scores: Vec<f64> = (0..=position)
                .map(|key| (0..SIZE).map(|e| product(key, e)).sum::<f64>() / (SIZE as f64).sqrt())
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mean =
                |e| weights.iter().enumerate().map(|(key, w)| w * element(2, head, key, e) as f64).sum::<f64>() / total;
            (0..SIZE).map(|e| mean(e) as f32).collect::<Vec<_>>()
        };
        (0..HEADS * QUERIES).flat_map(of_query).collect()
    }
}
