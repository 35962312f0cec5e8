//! Speed on a GPU: attention, products and decoding, beside what the hardware could do.
//!
//! `make bench-gpu`, or `cargo bench --bench gpu -- [--device cuda|sim] [--target sm_80|sm_90a]`. Without a GPU it says
//! so and is done. On the simulator everything runs at toy sizes, so that the bench itself is tested: its seconds mean
//! nothing there. `benches/gpu_peers.py` prints torch's figures for the same shapes.
//!
//! With `--count` (`make bench-counted`) nothing is timed and no GPU is needed: [`counted`].

mod counted;
mod counting;
mod occupancy;
mod operands;
#[path = "../../tests/all/support/ptxas.rs"]
mod ptxas;
mod shapes;

use llmc::{DeviceKind, Session};
use llmc_artifact::Format;
use llmc_compiler::kernel::Body;
use llmc_compiler::pipeline::{Options, Stages};
use llmc_runtime::device::{self, Device, Memory};
use operands::room;
use shapes::{Llama, ONE_BILLION, SEVEN_BILLION, TOY, attention_text, product_text, stages};
use std::time::Instant;

fn main() {
    let option = |name: &str| {
        let mut args = std::env::args().skip_while(|a| a != name);
        args.next().and_then(|_| args.next())
    };
    let target = option("--target").unwrap_or("sm_80".into());
    if std::env::args().any(|a| a == "--count") {
        return counted::print(&target);
    }
    let simulated = option("--device").as_deref() == Some("sim");
    let kind = if simulated { DeviceKind::Sim } else { DeviceKind::Cuda { ordinal: 0 } };
    if let Err(e) = device::check(kind) {
        return println!("bench-gpu: skipped. {e}");
    }
    let bench = Bench { kind, target, toy: simulated };
    let bandwidth = bench.bandwidth();
    bench.attention();
    bench.products(bandwidth);
    bench.decode(bandwidth);
}

/// What is measured on.
struct Bench {
    kind: DeviceKind,
    target: String,
    /// Sizes that a simulator can take.
    toy: bool,
}

impl Bench {
    fn options(&self) -> Options {
        shapes::options(&self.target, Format::F32)
    }

    fn open(&self, stages: &Stages) -> Box<dyn Device> {
        let code = stages.emit(&self.target).unwrap_or_else(|e| panic!("{e}"));
        device::open(self.kind, &[code]).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Bytes a second that a copy inside the device's memory reads and writes together.
    fn bandwidth(&self) -> f64 {
        let stages = stages(&product_text(32, 32), &self.options());
        let mut device = self.open(&stages);
        println!("{}", device.describe());
        let bytes: u64 = if self.toy { 1 << 20 } else { 1 << 30 };
        let [from, to] = [(); 2].map(|()| room(&mut *device, Format::F32, bytes));
        let seconds = self.seconds(&mut *device, from, |d| d.copy((from, 0), (to, 0), bytes).expect("a copy"));
        let rate = 2.0 * bytes as f64 / seconds;
        println!("memory: {:.0} GB/s, read and written by copies of {} MiB\n", rate * 1e-9, bytes >> 20);
        rate
    }

    /// Seconds of one run: the mean of as many as take a twentieth of a second, the best of three such means.
    fn seconds(&self, device: &mut dyn Device, any: Memory, mut run: impl FnMut(&mut dyn Device)) -> f64 {
        let mut several = |times: usize| {
            let start = Instant::now();
            (0..times).for_each(|_| run(device));
            // A device may run behind: what is read waits for it.
            device.read(any, 0, &mut [0]).expect("a byte");
            start.elapsed().as_secs_f64() / times as f64
        };
        several(2);
        if self.toy {
            return several(1);
        }
        let times = (0.05 / several(1)).clamp(3.0, 1000.0) as usize;
        (0..3).map(|_| several(times)).fold(f64::INFINITY, f64::min)
    }

    /// Prompts: operations and bytes of attention as it is derived, beside those of one that stores its scores.
    fn attention(&self) {
        println!("attention, 16 heads, bf16 keys and values; bytes moved at least, in MB");
        println!(
            "{:>5} {:>7} {:>7} {:>10} {:>9} {:>9} {:>10} {:>9}",
            "head", "mask", "tokens", "GFLOP", "standard", "derived", "us", "TFLOP/s"
        );
        let (heads, sizes, lengths): (u64, &[u64], &[u64]) =
            if self.toy { (2, &[64], &[96]) } else { (16, &[64, 128, 256], &[512, 1024, 2048, 4096, 8192, 16384]) };
        for size in sizes {
            for causal in [true, false] {
                let stages = stages(&attention_text(heads, *size, causal), &self.options());
                for tokens in lengths {
                    let seconds = self.launches(&stages, *tokens, |body| matches!(body, Body::Stream(_)));
                    let pairs = if causal { tokens * (tokens + 1) / 2 } else { tokens * tokens };
                    let flops = 4.0 * (heads * size * pairs) as f64;
                    let all = (heads * size * tokens) as f64;
                    // Queries and results in f32, keys and values in bf16.
                    let derived = all * (4.0 + 2.0 + 2.0 + 4.0);
                    // Scores are written, read for the softmax, written, and read for the values, in bf16.
                    let standard = derived + 4.0 * 2.0 * (heads * tokens * tokens) as f64;
                    println!(
                        "{size:5} {:>7} {tokens:7} {:10.2} {:9.1} {:9.1} {:10.1} {:9.1}",
                        if causal { "causal" } else { "none" },
                        flops * 1e-9,
                        standard * 1e-6,
                        derived * 1e-6,
                        seconds * 1e6,
                        flops / seconds * 1e-12
                    );
                }
            }
        }
        println!();
    }

    /// Products of bf16 weights: a token alone by bytes, many by operations.
    fn products(&self, bandwidth: f64) {
        println!("products, bf16 weights");
        println!(
            "{:>7} {:>7} {:>7} {:>10} {:>9} {:>9} {:>9}",
            "rows", "columns", "tokens", "us", "TFLOP/s", "GB/s", "of copies"
        );
        let (shapes, tokens): (&[(u64, u64)], &[u64]) = if self.toy {
            (&[(96, 64)], &[1, 5])
        } else {
            (&[(4096, 4096), (11008, 4096), (4096, 11008), (128_256, 2048)], &[1, 16, 256, 4096])
        };
        for (rows, columns) in shapes {
            let stages = stages(&product_text(*rows, *columns), &self.options());
            for tokens in tokens {
                let seconds = self.launches(&stages, *tokens, |body| matches!(body, Body::Contract(_)));
                let (flops, bytes) = (2.0 * (rows * columns * tokens) as f64, 2.0 * (rows * columns) as f64);
                println!(
                    "{rows:7} {columns:7} {tokens:7} {:10.1} {:9.1} {:9.0} {:8.0}%",
                    seconds * 1e6,
                    flops / seconds * 1e-12,
                    bytes / seconds * 1e-9,
                    100.0 * bytes / seconds / bandwidth
                );
            }
        }
        println!();
    }

    /// Generated tokens one by one, of llamas with random weights.
    fn decode(&self, bandwidth: f64) {
        println!("decode, batch 1, bf16 weights, after 128 tokens of prompt");
        let shapes: &[Llama] = if self.toy { &[TOY] } else { &[ONE_BILLION, SEVEN_BILLION] };
        for shape in shapes {
            let (prompt, count) = if self.toy { (3, 3) } else { (128, 128) };
            let stages = shape.stages(&self.options());
            let (engine, bytes) = shape.engine(self.open(&stages), &stages);
            let bytes = bytes as f64;
            let mut session = Session::new(&engine);
            session.prefill(&vec![1; prompt]).unwrap_or_else(|e| panic!("{e}"));
            let step = |session: &mut Session, n: usize| {
                session.step(n as u32 % 97 + 1).unwrap_or_else(|e| panic!("{e}"));
            };
            (0..2).for_each(|n| step(&mut session, n));
            let start = Instant::now();
            (0..count).for_each(|n| step(&mut session, n));
            let rate = count as f64 / start.elapsed().as_secs_f64();
            println!(
                "{:3}: {rate:.1} tokens/s, {:.0} GB/s of weights, {:.0}% of copies",
                shape.name,
                bytes * rate * 1e-9,
                100.0 * bytes * rate / bandwidth
            );
        }
    }

    /// Seconds of the launches of some family, over so many tokens of one sequence from its beginning.
    fn launches(&self, stages: &Stages, tokens: u64, family: impl Fn(&Body) -> bool) -> f64 {
        let mut device = self.open(stages);
        let (calls, any) = operands::calls(&mut *device, stages, tokens, family);
        self.seconds(&mut *device, any, |d| d.run(&calls).unwrap_or_else(|e| panic!("{e}")))
    }
}
