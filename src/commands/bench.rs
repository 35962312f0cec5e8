//! `llmc bench`: tokens per second as the field measures them.

use super::args::BenchArgs;
use super::failure::Failure;
use super::load::{engine, load};
use llmc::{Engine, Error, Session};
use std::time::Instant;

/// Measures prefill (pp) and decode (tg) on tokens that mean nothing, after one warm-up of each.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let loaded = load(&args.model, &args.device)?;
    let engine = engine(&loaded, &args.device)?;
    let prefill = median(args, args.prefill, || prefill_rate(&engine, args.depth, args.prefill))?;
    let decode = median(args, args.decode, || decode_rate(&engine, args.depth, args.decode))?;
    let memory = llmc_runtime::peak_memory().unwrap_or(0) as f64 / (1 << 20) as f64;
    let stats = engine.load_stats();
    if args.json {
        let report = serde_json::json!({
            "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode,
            "load_seconds": stats.seconds,
            "peak_memory_mib": memory,
            "weight_mib": stats.weight_bytes as f64 / (1 << 20) as f64,
        });
        println!("{report}");
        return Ok(());
    }
    println!("{}", engine.describe());
    let line = |name: &str, rate: Option<f64>| {
        if let Some(rate) = rate {
            println!("{name:12} {rate:10.1} tokens/s");
        }
    };
    line(&format!("pp{}", args.prefill), prefill);
    line(&format!("tg{} @{}", args.decode, args.depth), decode);
    println!("{:12} {:10.2} s", "load", stats.seconds);
    println!("{:12} {memory:10.0} MiB", "peak memory");
    Ok(())
}

fn median(
    args: &BenchArgs,
    tokens: usize,
    mut sample: impl FnMut() -> Result<f64, Error>,
) -> Result<Option<f64>, Error> {
    if tokens == 0 {
        return Ok(None);
    }
    sample()?;
    let mut rates = (0..args.repeat.max(1)).map(|_| sample()).collect::<Result<Vec<_>, _>>()?;
    rates.sort_by(f64::total_cmp);
    Ok(Some(rates[rates.len() / 2]))
}

fn at_depth(engine: &Engine, depth: usize) -> Result<Session, Error> {
    let mut session = Session::new(engine);
    if depth > 0 {
        session.prefill(&vec![1; depth])?;
    }
    Ok(session)
}

fn prefill_rate(engine: &Engine, depth: usize, tokens: usize) -> Result<f64, Error> {
    let mut session = at_depth(engine, depth)?;
    let prompt: Vec<u32> = (0..tokens as u32).map(|n| n % 97 + 1).collect();
    let start = Instant::now();
    session.prefill(&prompt)?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

fn decode_rate(engine: &Engine, depth: usize, tokens: usize) -> Result<f64, Error> {
    let mut session = at_depth(engine, depth)?;
    let start = Instant::now();
    for n in 0..tokens as u32 {
        session.step(n % 97 + 1)?;
    }
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}
