//! Speed of the simulator with every check on: `cargo bench -p llmc-ptx-sim`.

#[allow(dead_code, reason = "the tests look at the result too")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;
use support::{Attention, TEXT};

fn main() {
    let mut attention = Attention::new(TEXT, 1024, 0);
    let begin = Instant::now();
    let counters = attention.run().unwrap_or_else(|f| panic!("{f}"));
    let seconds = begin.elapsed().as_secs_f64();
    let rate = |n: u64| n as f64 / seconds * 1e-6;
    println!("attention of 32 heads of 128 over 1024 keys: {seconds:.3} s");
    println!("{:9.2} M instructions of threads a second", rate(counters.thread_instructions));
    println!("{:9.2} M instructions of warps a second", rate(counters.warp_instructions));
    for (name, n) in counters.entries() {
        println!("{name:24} {n}");
    }
}
