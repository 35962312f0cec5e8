//! Speed of the simulator with every check on: `cargo bench -p llmc-ptx-sim`.

#[allow(dead_code, reason = "the tests look at the result too")]
#[path = "../tests/support/mod.rs"]
mod support;

use llmc_ptx_sim::Counters;
use std::time::Instant;
use support::{Attention, TEXT, pipeline, tiles};

fn main() {
    let mut attention = Attention::new(TEXT, 1024, 0);
    measure("attention of 32 heads of 128 over 1024 keys", || attention.run().unwrap_or_else(|f| panic!("{f}")));
    let mut attention = tiles::Tiles::new(tiles::TEXT, 512, 128, 0);
    measure("attention of 8 heads of 128, tiles of 128 tokens over 512 keys by mma.sync", || {
        attention.run().unwrap_or_else(|f| panic!("{f}"))
    });
    let mut product = pipeline::Product::new(pipeline::TEXT, 8192);
    measure("a tile of 64 by 64 over 8192, by copies of tensors and wgmma", || {
        product.run(0).unwrap_or_else(|f| panic!("{f}"))
    });
}

/// Seconds that this process had a core, where the system tells.
fn core_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}

fn measure(name: &str, run: impl FnOnce() -> Counters) {
    let (begin, core) = (Instant::now(), core_seconds());
    let counters = run();
    let wall = begin.elapsed().as_secs_f64();
    // On a busy machine the time that passed says little.
    let seconds = core.zip(core_seconds()).map_or(wall, |(from, to)| to - from);
    let rate = |n: u64| n as f64 / seconds * 1e-6;
    println!("{name}: {seconds:.3} s of a core, {wall:.3} s");
    println!("{:9.2} M instructions of threads a second", rate(counters.thread_instructions));
    println!("{:9.2} M instructions of warps a second", rate(counters.warp_instructions));
    println!("{:9.3} M matrix instructions of warps a second", rate(counters.matrix_instructions));
    println!("{:9.1} M operations of matrix instructions a second", rate(counters.matrix_flops));
    for (name, n) in counters.entries().into_iter().filter(|(_, n)| *n > 0) {
        println!("{name:24} {n}");
    }
}
