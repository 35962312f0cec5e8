//! Contractions against the interpreter: every format, odd sizes, several segments, moved results, block stores.

use crate::kernel::interpret::Memory;
use crate::kernel::sample::{Sample, projections};
use crate::kernel::*;
use crate::llvm::testing::{Loaded, check, check_kernels, runnable};
use crate::target::cpu::tests::{fill, memory};
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, Format, ReduceOp, ScalarOp, SeqId};

pub const ROWS: Dim = Dim::Rows(SeqId(0));
pub const QUANTISED: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];
pub const PLAIN: [Format; 3] = [Format::F32, Format::F16, Format::BF16];

/// `y[t, n] = sum[m](w * x) + residual[t, n]`
pub fn product(weight: Format, input: Format, rows: u64, reduce: u64) -> Verified<KernelSpec> {
    let mut s = Sample::new(&format!("product_{weight}_{input}_{rows}"));
    let (t, m, n) = (s.axis("t", KernelExtent::Rows(SeqId(0))), s.length("m", reduce), s.length("n", rows));
    let x = s.read("x", input, &[ROWS, Dim::Const(reduce)]);
    let w = s.panel("w", weight, rows, reduce);
    let residual = s.read("residual", Format::F32, &[ROWS, Dim::Const(rows)]);
    let y = s.write("y", Format::F32, &[ROWS, Dim::Const(rows)]);
    let index = vec![s.at(t), s.at(n)];
    let (acc, old) = (s.result(0), s.load(residual, &index));
    let value = s.map(ScalarOp::Add, &[acc, old]);
    s.finish(Body::Contract(Contract {
        row: t,
        reduce: vec![m],
        input: x,
        stats: vec![],
        products: vec![Product { weight: w, axes: vec![n] }],
        segments: vec![Segment {
            axes: vec![n],
            products: vec![ResultRef(0)],
            stores: vec![Store { operand: y, index, value }],
        }],
    }))
}

/// The memory of the first rows' tokens only, one sequence.
pub fn token(spec: &KernelSpec, all: &Memory, rows: u64, t: u64) -> Memory {
    let mut one = all.clone();
    for (o, bytes) in spec.operands.iter().zip(&mut one.operands) {
        if let Storage::Dense { dims } = &o.storage
            && dims.first() == Some(&ROWS)
        {
            let row = bytes.len() / rows as usize;
            *bytes = bytes[t as usize * row..][..row].to_vec();
        }
    }
    one.dims.insert(ROWS, 1);
    for table in one.tables.values_mut() {
        if table.len() == rows as usize {
            *table = vec![table[t as usize]];
        }
    }
    one
}

#[test]
fn every_format_multiplies_at_odd_sizes() {
    let integer = QUANTISED.map(|w| (w, Format::Act8));
    let decoded = QUANTISED.map(|w| (w, Format::F32));
    let plain = PLAIN.map(|w| (w, Format::F32));
    let halves = [(Format::F16, Format::F16), (Format::BF16, Format::F16), (Format::F32, Format::BF16)];
    let stored = halves.into_iter().chain([(Format::Q4_1, Format::F16)]);
    let mut cases = Vec::new();
    for (weight, input) in integer.into_iter().chain(decoded).chain(plain).chain(stored) {
        // Rows, columns, tokens: one panel and several, chains and tiles that do not come out even.
        let sizes = if weight.is_quantised() { [(1, 32, 1), (51, 96, 9)] } else { [(17, 7, 1), (48, 66, 7)] };
        for (rows, reduce, tokens) in sizes {
            let spec = product(weight, input, rows, reduce);
            let memory = memory(&spec, rows + reduce, &[(tokens, tokens)]);
            cases.push((spec, memory));
        }
    }
    // The interpreter multiplies in f64 what the kernel adds in f32.
    check_kernels(&cases, 2e-5);
}

#[test]
fn extreme_quants_do_not_saturate() {
    for weight in QUANTISED {
        let spec = product(weight, Format::Act8, 16, 64);
        let mut memory = memory(&spec, 1, &[(3, 3)]);
        let x = memory.operands[0].len();
        for (i, block) in memory.operands[0][..x].chunks_exact_mut(40).enumerate() {
            let q: [i8; 32] = std::array::from_fn(|j| if (i + j / 4) % 3 == 0 { -127 } else { 127 });
            let sum: i32 = q.iter().map(|q| *q as i32).sum();
            block[..4].copy_from_slice(&0.5f32.to_le_bytes());
            block[4..8].copy_from_slice(&(0.5 * sum as f32).to_le_bytes());
            block[8..].copy_from_slice(&q.map(|q| q as u8));
        }
        // All bits set, or the most negative byte, wherever quants lie.
        let most = if weight == Format::Q8_0 { 0x80 } else { 0xff };
        let scales = weight.spec().field(weight.spec().high.unwrap_or(weight.spec().quant)).expect("a field").0 * 16;
        for block in memory.operands[1].chunks_exact_mut(weight.block_bytes() * 16) {
            block[scales..].fill(most);
        }
        check(&spec, &memory, 1e-6);
    }
}

#[test]
fn a_token_gets_the_same_bits_in_any_company() {
    for (weight, input) in [(Format::Q4_1, Format::Act8), (Format::Q8_0, Format::Act8), (Format::F16, Format::F32)] {
        let spec = verify(projections(weight, input, 64, 96).spec).expect("well formed");
        for tokens in [2, 7, 9] {
            let mut all = memory(&spec, 7, &[(tokens, tokens)]);
            all.operands[5].fill(0);
            for target in runnable() {
                let loaded = Loaded::new(&target, &spec);
                let mut together = all.clone();
                loaded.run(&mut together, &[]);
                for t in 0..tokens {
                    let mut alone = token(&spec, &all, tokens, t);
                    loaded.run(&mut alone, &[]);
                    let row = alone.operands[4].len();
                    let place = format!("{weight} on {}, token {t} of {tokens}", target_name(&target));
                    assert_eq!(alone.operands[4], together.operands[4][t as usize * row..][..row], "{place}");
                }
            }
        }
    }
}

fn target_name(target: &crate::target::cpu::Cpu) -> &str {
    crate::target::Target::name(target)
}

#[test]
fn rotations_statistics_and_caches_share_a_kernel() {
    for (weight, input) in [(Format::Q4_1, Format::Act8), (Format::BF16, Format::F32), (Format::Q8_0, Format::F32)] {
        for head in [6, 24, 64] {
            let spec = verify(projections(weight, input, head, 96).spec).expect("well formed");
            let mut memory = memory(&spec, head, &[(70, 3), (1, 1), (66, 5)]);
            memory.operands[5].fill(0);
            check(&spec, &memory, 3e-5);
        }
    }
}

/// `h[t, n] = gate / (1 + exp(-gate)) * up`, quantised on the way out, and once more in 16 bits.
pub fn gated(weight: Format, input: Format, rows: u64, reduce: u64) -> Verified<KernelSpec> {
    let mut s = Sample::new("gate");
    let (t, m, n) = (s.axis("t", KernelExtent::Rows(SeqId(0))), s.length("m", reduce), s.length("n", rows));
    let x = s.read("x", input, &[ROWS, Dim::Const(reduce)]);
    let (gate, up) = (s.panel("gate", weight, rows, reduce), s.panel("up", weight, rows, reduce));
    let h = s.write("h", Format::Act8, &[ROWS, Dim::Const(rows)]);
    let plain = s.write("plain", Format::F16, &[ROWS, Dim::Const(rows)]);
    let index = vec![s.at(t), s.at(n)];
    let (g, u, one) = (s.result(0), s.result(1), s.real(1.0));
    let negative = s.map(ScalarOp::Neg, &[g]);
    let power = s.map(ScalarOp::Exp, &[negative]);
    let below = s.map(ScalarOp::Add, &[one, power]);
    let silu = s.map(ScalarOp::Div, &[g, below]);
    let value = s.map(ScalarOp::Mul, &[silu, u]);
    let store = |operand| Store { operand, index: index.clone(), value };
    s.finish(Body::Contract(Contract {
        row: t,
        reduce: vec![m],
        input: x,
        stats: vec![],
        products: vec![Product { weight: gate, axes: vec![n] }, Product { weight: up, axes: vec![n] }],
        segments: vec![Segment {
            axes: vec![n],
            products: vec![ResultRef(0), ResultRef(1)],
            stores: vec![store(h), store(plain)],
        }],
    }))
}

#[test]
fn gated_products_are_stored_as_blocks() {
    for (weight, input, rows) in [(Format::Q4_1, Format::Act8, 160), (Format::F32, Format::F32, 32)] {
        let spec = gated(weight, input, rows, 64);
        check(&spec, &memory(&spec, 3, &[(5, 5)]), 2e-5);
    }
}

/// Statistics of every kind over two reduced axes, a segment that is one row, and one without products.
pub fn statistics(inner: u64) -> Verified<KernelSpec> {
    let mut s = Sample::new("statistics");
    let (t, k, e) = (s.axis("t", KernelExtent::Rows(SeqId(0))), s.length("k", 3), s.length("e", inner));
    let dims = [ROWS, Dim::Const(3), Dim::Const(inner)];
    let (x, w) = (s.read("x", Format::F32, &dims), s.panel("w", Format::F32, 1, 3 * inner));
    let out = s.write("out", Format::F32, &[ROWS, Dim::Const(4)]);
    let (it, ik, ie) = (s.at(t), s.at(k), s.at(e));
    let body = s.load(x, &[it, ik, ie]);
    let square = s.map(ScalarOp::Mul, &[body, body]);
    let stat = |op, body| Fold { op, body };
    let stats = vec![stat(ReduceOp::Sum, square), stat(ReduceOp::Max, body), stat(ReduceOp::Min, body)];
    let stores = |s: &mut Sample, results: std::ops::Range<u16>| -> Vec<Store> {
        let mut all = Vec::new();
        for r in results {
            let (column, value) = (s.int(r as i64), s.result(r));
            all.push(Store { operand: out, index: vec![it, column], value });
        }
        all
    };
    let segments = vec![
        Segment { axes: vec![], products: vec![], stores: stores(&mut s, 0..3) },
        Segment { axes: vec![], products: vec![ResultRef(3)], stores: stores(&mut s, 3..4) },
    ];
    s.finish(Body::Contract(Contract {
        row: t,
        reduce: vec![k, e],
        input: x,
        stats,
        products: vec![Product { weight: w, axes: vec![] }],
        segments,
    }))
}

#[test]
fn statistics_fold_over_all_reduced_axes() {
    for inner in [3, 16, 70, 129] {
        let spec = statistics(inner);
        check(&spec, &memory(&spec, inner, &[(6, 6)]), 1e-5);
    }
}

#[test]
fn infinities_and_no_rows_pass_through() {
    let spec = product(Format::F16, Format::F32, 20, 24);
    let mut all = memory(&spec, 1, &[(5, 5)]);
    fill(&mut all, OperandRef(0), Format::F32, |i| if i / 24 == 2 { f64::INFINITY } else { 0.25 });
    check(&spec, &all, 1e-6);
    all.dims.insert(ROWS, 0);
    for o in [0, 2, 3] {
        all.operands[o].clear();
    }
    check(&spec, &all, 0.0);
}
