//! Speed of contraction kernels, alone: bytes of weights and multiply-adds a second.
//!
//! `cargo bench --bench kernels -- [--target cpu:native] [--threads N]`. Decode shapes are larger than the caches,
//! as a model's weights are; their figure to compare with is the last line, the same bytes summed by plain code.

use llmc_artifact::panel::PanelLayout;
use llmc_artifact::plan::Storage;
use llmc_artifact::{Dim, Format, SeqId, Type};
use llmc_compiler::cost::Role;
use llmc_compiler::kernel::AxisRef;
use llmc_compiler::kernel::{
    Body, Contract, Expr, ExprRef, Exprs, KernelAxis, KernelExtent, KernelSpec, Operand, OperandRef, Product,
    ResultRef, Segment, Store, Verified, verify,
};
use llmc_compiler::target::Target;
use llmc_compiler::target::cpu::Cpu;
use llmc_runtime::DeviceKind;
use llmc_runtime::device::{Calls, open};
use std::time::Instant;

/// Name, weight format, activation format, rows, columns, tokens.
const CASES: &[(&str, Format, Format, u64, u64, u64)] = &[
    ("decode", Format::Q4_1, Format::Act8, 131_072, 576, 1),
    ("decode", Format::Q4_1, Format::Act8, 49_152, 1536, 1),
    ("decode", Format::Q8_0, Format::Act8, 98_304, 576, 1),
    ("decode", Format::F16, Format::F32, 65_536, 576, 1),
    ("decode", Format::F32, Format::F32, 32_768, 576, 1),
    ("cached", Format::Q4_1, Format::Act8, 576, 576, 1),
    ("cached", Format::Q4_1, Format::Act8, 576, 1536, 1),
    ("prefill", Format::Q4_1, Format::Act8, 1536, 576, 512),
    ("prefill", Format::Q4_1, Format::Act8, 576, 1536, 512),
    ("prefill", Format::Q8_0, Format::Act8, 1536, 576, 512),
    ("prefill", Format::F16, Format::F32, 1536, 576, 512),
    ("prefill", Format::F32, Format::F32, 1536, 576, 512),
];

fn main() {
    let option = |name: &str| {
        let mut args = std::env::args().skip_while(|a| a != name);
        args.next().and_then(|_| args.next())
    };
    let target = Cpu::new(&option("--target").unwrap_or("cpu:native".into())).expect("a target");
    let threads = option("--threads").map(|n| n.parse().expect("a number of threads"));
    println!("{}", target.name());
    for (name, weight, input, rows, reduce, tokens) in CASES.iter().copied() {
        let seconds = measure(&target, threads, &product(weight, input, rows, reduce), tokens);
        let bytes = PanelLayout::new(weight, rows, reduce).expect("whole blocks").bytes() as f64;
        let operations = 2.0 * (rows * reduce * tokens) as f64;
        println!(
            "{name:8} {weight} x {input} [{rows} x {reduce}] x {tokens}: {:9.1} us {:6.1} GB/s {:7.1} GOP/s",
            seconds * 1e6,
            bytes / seconds * 1e-9,
            operations / seconds * 1e-9
        );
    }
    println!("sum      of 48 MB by one thread: {:6.1} GB/s", read_speed());
}

/// Seconds of one launch: the least of some.
fn measure(target: &Cpu, threads: Option<usize>, spec: &Verified<KernelSpec>, tokens: u64) -> f64 {
    let code = target.emit(std::slice::from_ref(spec)).expect("code");
    let mut device = open(DeviceKind::Cpu { threads }, &[code]).expect("this processor");
    let length = |d: Dim| d.as_const().unwrap_or(tokens);
    let operands: Vec<_> = spec
        .operands
        .iter()
        .map(|o| {
            let bytes = o.storage.bytes(o.format, length).expect("whole blocks");
            let memory = device.allocate(bytes).expect("memory");
            // Zeros would leave the pages unmapped; these bytes are small numbers in every format.
            device.write(memory, 0, &vec![0x3c; bytes as usize]).expect("memory");
            memory
        })
        .collect();
    let info = device.kernels()[0].clone();
    assert!(info.tables.is_empty(), "a product needs no tables");
    let mut calls = Calls::default();
    let items = info.items.iter().map(|d| length(*d)).product();
    calls.push(0, operands, info.dims.iter().map(|d| length(*d) as i64), items);
    let mut once = || {
        let begin = Instant::now();
        device.run(&calls).expect("a run");
        begin.elapsed().as_secs_f64()
    };
    once();
    (0..30).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// GB/s at which one thread reads memory.
fn read_speed() -> f64 {
    let data = vec![1u64; 6 << 20];
    let once = || {
        let begin = Instant::now();
        let mut sums = [0u64; 16];
        for chunk in data.chunks_exact(16) {
            sums.iter_mut().zip(chunk).for_each(|(s, x)| *s ^= x);
        }
        std::hint::black_box(sums);
        begin.elapsed().as_secs_f64()
    };
    (data.len() * 8) as f64 / (0..10).map(|_| once()).fold(f64::INFINITY, f64::min) * 1e-9
}

/// `y[t, n] = sum[m](w * x)`
fn product(weight: Format, input: Format, rows: u64, reduce: u64) -> Verified<KernelSpec> {
    let tokens = Dim::Rows(SeqId(0));
    let axis = |name: &str, extent| KernelAxis { name: name.into(), extent };
    let operand = |name: &str, write, format, storage| Operand { name: name.into(), write, format, storage };
    let dense = |n| Storage::Dense { dims: vec![tokens, Dim::Const(n)] };
    let mut exprs = Exprs::default();
    let mut at = |e, ty| -> ExprRef { exprs.add(e, ty) };
    let index = vec![at(Expr::Axis(AxisRef(0)), Type::Int), at(Expr::Axis(AxisRef(2)), Type::Int)];
    let value = at(Expr::Result { result: ResultRef(0), moved: Vec::new() }, Type::Real);
    let axes = vec![AxisRef(2)];
    let segment = Segment {
        axes: axes.clone(),
        products: vec![ResultRef(0)],
        stores: vec![Store { operand: OperandRef(2), index, value }],
    };
    let spec = KernelSpec {
        name: "product".into(),
        role: Role::Prefill,
        axes: vec![
            axis("t", KernelExtent::Rows(SeqId(0))),
            axis("m", KernelExtent::Const(reduce)),
            axis("n", KernelExtent::Const(rows)),
        ],
        operands: vec![
            operand("x", false, input, dense(reduce)),
            operand("w", false, weight, Storage::Panel { rows, reduce }),
            operand("y", true, Format::F32, dense(rows)),
        ],
        exprs,
        body: Body::Contract(Contract {
            row: AxisRef(0),
            reduce: vec![AxisRef(1)],
            input: OperandRef(0),
            stats: Vec::new(),
            products: vec![Product { weight: OperandRef(1), axes }],
            segments: vec![segment],
        }),
    };
    verify(spec).expect("a product is well formed")
}
