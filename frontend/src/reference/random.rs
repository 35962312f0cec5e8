//! Random weights, so that a model can be run before anybody has trained it.

use crate::graph::{Model, Op, TensorView};
use llmc_artifact::format::Lanes;
use llmc_artifact::{DType, TensorData};
use std::collections::HashMap;

/// Bytes for every tensor of a model: the same for the same name and seed. Matrices have elements of about
/// `1 / sqrt(fan-in)`, vectors of about 1, as gains of norms have.
#[derive(Debug)]
pub struct RandomTensors {
    bytes: HashMap<String, Vec<u8>>,
}

impl RandomTensors {
    /// For all tensors of the model.
    pub fn new(model: &Model, seed: u64) -> RandomTensors {
        let mut bytes = HashMap::new();
        for id in model.weight_graph.ids() {
            if let Op::Tensor(view) = &model.weight_graph[id].op {
                for name in &view.names {
                    bytes.entry(name.clone()).or_insert_with(|| make(view, name, seed));
                }
            }
        }
        RandomTensors { bytes }
    }
}

impl TensorData for RandomTensors {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        self.bytes.get(name).map(Vec::as_slice)
    }
}

fn make(view: &TensorView, name: &str, seed: u64) -> Vec<u8> {
    let mut random = Random::new(name, seed);
    let shape = &view.info.shape;
    let fan_in = shape.last().copied().unwrap_or(1) as f64;
    let spec = view.info.format.spec();
    let blocks = shape.iter().product::<u64>() / spec.block as u64;
    let mut out = Vec::new();
    for _ in 0..blocks {
        for field in spec.fields {
            match field.lanes {
                Lanes::Plain(d @ (DType::F32 | DType::F16 | DType::BF16)) => (0..field.count).for_each(|_| {
                    let x = random.symmetric();
                    let value = match (spec.block, shape.len()) {
                        (1, 0 | 1) => 1.0 + 0.1 * x,
                        (1, _) => x * (3.0 / fan_in).sqrt(),
                        // A block's scale or offset: quants reach from a few to 127.
                        _ => x.abs().max(0.1) * 0.1 / fan_in.sqrt(),
                    };
                    write(d, value as f32, &mut out);
                }),
                lanes => out.extend((0..lanes.bytes(field.count)).map(|_| random.next() as u8)),
            }
        }
    }
    out
}

fn write(dtype: DType, x: f32, out: &mut Vec<u8>) {
    match dtype {
        DType::F16 => out.extend(half::f16::from_f32(x).to_le_bytes()),
        DType::BF16 => out.extend(half::bf16::from_f32(x).to_le_bytes()),
        DType::F32 | DType::I32 | DType::I8 | DType::U8 => out.extend(x.to_le_bytes()),
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), begun at a hash of the name.
struct Random(u64);

impl Random {
    fn new(name: &str, seed: u64) -> Random {
        // FNV-1a
        let hash = |h: u64, b: u8| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3);
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, hash))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from -1 to 1.
    fn symmetric(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
