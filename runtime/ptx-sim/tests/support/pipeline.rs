//! `d[64, 64] = sum[k](a[64, k] * b[64, k])`: a warp brings tiles of 64 by 64 through two stages, four warps multiply.

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, Kernel, Launch, Memory, Program, Swizzle, TensorMap};

pub const TEXT: &str = include_str!("../ptx/pipeline.ptx");

/// A launch with its matrices.
pub struct Product {
    memory: Memory,
    kernel: Kernel,
    params: Vec<u8>,
    d: u64,
    k: usize,
}

/// An element of the left (0) or right (1) matrix, small and whole.
fn number(which: usize, row: usize, k: usize) -> f32 {
    ((row * (5 + which) + k * (3 + which)) % 13) as f32 - 6.0
}

impl Product {
    /// Of this length; `text` may be a changed kernel.
    pub fn new(text: &str, k: usize) -> Product {
        let mut memory = Memory::new();
        let map = |memory: &mut Memory, which: usize| {
            let bf16 = |x: f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
            let bytes = (0..64 * k).flat_map(|i| bf16(number(which, i / k, i % k))).collect();
            let address = memory.upload("matrix", bytes);
            let (sizes, strides, tile) = (vec![k as u64, 64], vec![2 * k as u64], vec![64, 64]);
            TensorMap { address, element: 2, sizes, strides, tile, swizzle: Swizzle::B128 }.encode().expect("a map")
        };
        let (a, b) = (map(&mut memory, 0), map(&mut memory, 1));
        let d = memory.allocate("d", 64 * 64 * 4);
        let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let kernel =
            Program::load(module, &mut memory).expect("it loads").kernel("k").unwrap_or_else(|e| panic!("{e}"));
        let steps = k.div_ceil(64) as u32;
        let params = kernel.pack_bytes(&[&a, &b, &d.to_le_bytes(), &steps.to_le_bytes()]).expect("four parameters");
        Product { memory, kernel, params, d, k }
    }

    /// Runs it.
    pub fn run(&mut self, seed: u64) -> Result<Counters, Box<Fault>> {
        let params = self.params.clone();
        let launch = Launch { seed, limit: 1 << 24, ..Launch::new([1, 1, 1], [160, 1, 1], params) };
        self.kernel.launch(&mut self.memory, &launch)
    }

    /// The result.
    pub fn result(&self) -> Vec<f32> {
        let bytes = self.memory.bytes(self.d, 64 * 64 * 4).expect("the buffer").chunks(4);
        bytes.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    }

    /// What it should be.
    pub fn expected(&self) -> Vec<f32> {
        let dot = |r: usize, c: usize| (0..self.k).map(|k| number(0, r, k) * number(1, c, k)).sum();
        (0..64 * 64).map(|i| dot(i / 64, i % 64)).collect()
    }
}
