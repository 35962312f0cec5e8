//! Families against the interpreter, on every CPU target that runs here.

use crate::kernel::interpret::Memory;
use crate::kernel::sample::Sample;
use crate::kernel::verify::Verified;
use crate::kernel::*;
use crate::llvm::testing::{Random, check};
use llmc_artifact::plan::{PAGE_TOKENS, Storage, Table};
use llmc_artifact::{DType, Dim, Format, ScalarOp, SeqId, Type, Value};
use std::collections::BTreeMap;

const SEQ: SeqId = SeqId(0);
const ROWS: Dim = Dim::Rows(SEQ);

/// Memory for a spec: random operands, `rows` rows of sequences of these lengths, the rows being their last tokens.
pub(super) fn memory(spec: &KernelSpec, seed: u64, sequences: &[(u64, u64)]) -> Memory {
    let mut random = Random::new(seed);
    let rows: u64 = sequences.iter().map(|(_, rows)| rows).sum();
    let blocks = sequences.iter().map(|(length, _)| length.div_ceil(PAGE_TOKENS as u64)).max().unwrap_or(1);
    let dims = BTreeMap::from([(ROWS, rows), (Dim::Picked(SEQ), rows.div_ceil(2)), (Dim::Blocks(SEQ), blocks)]);
    let mut tables = BTreeMap::from([
        (Table::Lengths(SEQ), sequences.iter().map(|(length, _)| *length as i32).collect()),
        (Table::Picked(SEQ), (0..rows as i32).step_by(2).collect()),
    ]);
    let per_row = |f: &dyn Fn(usize, u64, u64, u64) -> i32| -> Vec<i32> {
        let all = sequences.iter().enumerate();
        all.flat_map(|(i, (length, rows))| (0..*rows).map(move |r| (i, *length, *rows, r)))
            .map(|(i, length, rows, r)| f(i, length, rows, r))
            .collect()
    };
    tables.insert(Table::Positions(SEQ), per_row(&|_, length, rows, r| (length - rows + r) as i32));
    tables.insert(Table::RowSeq(SEQ), per_row(&|i, _, _, _| i as i32));
    // Pages in an order that is not theirs.
    let pages = sequences.len() as u64 * blocks;
    tables.insert(Table::Blocks(SEQ), (0..pages).map(|p| (pages - 1 - p) as i32).collect());
    let length = |d: Dim| d.as_const().unwrap_or_else(|| dims[&d]);
    let operands = spec.operands.iter().map(|o| {
        let (count, bytes) = match &o.storage {
            Storage::Dense { dims } => (dims.iter().map(|d| length(*d)).product::<u64>(), None),
            Storage::Panel { rows, reduce } => (rows.next_multiple_of(16) * reduce, None),
            Storage::Paged { .. } => (0, o.storage.bytes(o.format, length).map(|b| b * pages)),
        };
        let count = bytes.map_or(count, |b| b / o.format.bytes(1).expect("plain"));
        if o.write {
            vec![0xff; o.format.bytes(count).expect("blocks") as usize]
        } else {
            random.elements(o.format, count as usize)
        }
    });
    Memory { operands: operands.collect(), tables, dims: dims.clone() }
}

/// Values of a plain f32 or I32 operand replaced.
pub(super) fn fill(memory: &mut Memory, operand: OperandRef, format: Format, value: impl Fn(usize) -> f64) {
    for (i, b) in memory.operands[operand.0 as usize].chunks_exact_mut(4).enumerate() {
        let bytes = match format.plain() {
            Some(DType::I32) => (value(i) as i32).to_le_bytes(),
            _ => (value(i) as f32).to_le_bytes(),
        };
        b.copy_from_slice(&bytes);
    }
}

fn store(operand: OperandRef, index: &[ExprRef], value: ExprRef) -> Store {
    Store { operand, index: index.to_vec(), value }
}

/// `out[t, m] = f(x[t, m])` for one operation.
fn unary(op: ScalarOp, n: u64) -> (Verified<KernelSpec>, OperandRef) {
    let mut s = Sample::new("unary");
    let (t, m) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("m", n));
    let dims = [ROWS, Dim::Const(n)];
    let (x, out) = (s.read("x", Format::F32, &dims), s.write("out", Format::F32, &dims));
    let index = [s.at(t), s.at(m)];
    let value = s.load(x, &index);
    let value = s.map(op, &[value]);
    (s.finish(Body::Map { axes: vec![t, m], stores: vec![store(out, &index, value)] }), x)
}

#[test]
fn functions_are_accurate_on_grids() {
    use ScalarOp::*;
    let cases = [
        (Exp, -104.0, 88.7),
        (Exp2, -149.0, 127.9),
        (Log, 1e-38, 20.0),
        (Log2, 1e-38, 20.0),
        (Sqrt, 0.0, 100.0),
        (Recip, 0.1, 100.0),
        (Sin, -40.0, 40.0),
        (Cos, 0.0, 131_072.0),
        (Tanh, -11.0, 11.0),
        (Erf, -4.5, 4.5),
        (Neg, -3.0, 3.0),
        (Abs, -3.0, 3.0),
    ];
    for (op, low, high) in cases {
        let (spec, x) = unary(op, 4001);
        let mut memory = memory(&spec, 1, &[(1, 1)]);
        fill(&mut memory, x, Format::F32, |i| low + (high - low) * i as f64 / 4000.0);
        for target in crate::llvm::testing::runnable() {
            let mut got = memory.clone();
            crate::llvm::testing::Loaded::new(&target, &spec).run(&mut got, &[]);
            let read = |o: usize, i: usize| {
                f32::from_le_bytes(got.operands[o][4 * i..4 * i + 4].try_into().expect("four bytes")) as f64
            };
            for i in 0..4001 {
                let (x, got) = (read(0, i), read(1, i));
                let want = op.evaluate(&[Value::Real(x)]).real();
                // One part in a million, or half the smallest subnormal; near a zero of sin and cos, of the argument's
                // own precision.
                let bound = if matches!(op, Sin | Cos) { 1e-6 * want.abs().max(1e-2) } else { 1e-6 * want.abs() };
                assert!((got - want).abs() <= bound.max(1.5e-45), "{op:?}({x:e}) = {got:e}, not {want:e}");
            }
        }
    }
}

#[test]
fn functions_keep_their_limits() {
    let inf = f64::INFINITY;
    use ScalarOp::*;
    let cases: &[(ScalarOp, &[(f64, f64)])] = &[
        (Exp, &[(-inf, 0.0), (inf, inf), (-1e4, 0.0), (1e4, inf), (f64::NAN, f64::NAN), (0.0, 1.0)]),
        (Exp2, &[(-inf, 0.0), (inf, inf), (-1e30, 0.0), (3.0, 8.0)]),
        (Log, &[(0.0, -inf), (inf, inf), (-1.0, f64::NAN), (1.0, 0.0)]),
        (Log2, &[(0.0, -inf), (8.0, 3.0), (0.5, -1.0)]),
        (Tanh, &[(inf, 1.0), (-inf, -1.0), (0.0, 0.0)]),
        (Erf, &[(inf, 1.0), (-inf, -1.0), (0.0, 0.0)]),
        (Recip, &[(0.0, inf), (inf, 0.0)]),
    ];
    for (op, pairs) in cases {
        // Once in a whole vector, once in its tail.
        let (spec, x) = unary(*op, 23);
        let mut memory = memory(&spec, 1, &[(1, 1)]);
        fill(&mut memory, x, Format::F32, |i| pairs[i % pairs.len()].0);
        for target in crate::llvm::testing::runnable() {
            let mut got = memory.clone();
            crate::llvm::testing::Loaded::new(&target, &spec).run(&mut got, &[]);
            for (i, b) in got.operands[1].chunks_exact(4).enumerate() {
                let (x, want) = pairs[i % pairs.len()];
                let got = f32::from_le_bytes(b.try_into().expect("four bytes")) as f64;
                assert!(got == want || got.is_nan() && want.is_nan(), "{op:?}({x}) = {got}, not {want}");
            }
        }
    }
}

/// Rotary angles: `x[t, e] * cos(pos / theta^(2 (e % half) / len)) + x[t, partner] * sin(...)`.
fn rope(n: i64) -> Verified<KernelSpec> {
    let mut s = Sample::new("rope");
    let (t, e) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("e", n as u64));
    let dims = [ROWS, Dim::Const(n as u64)];
    let (x, out) = (s.read("x", Format::F16, &dims), s.write("out", Format::BF16, &dims));
    let (at_t, at_e, half) = (s.at(t), s.at(e), s.int(n / 2));
    let modulo = s.map(ScalarOp::Mod, &[at_e, half]);
    let modulo = s.map(ScalarOp::ToReal, &[modulo]);
    let scale = s.real(-2.0 / n as f64);
    let exponent = s.map(ScalarOp::Mul, &[modulo, scale]);
    let theta = s.real(1e5);
    let frequency = s.map(ScalarOp::Pow, &[theta, exponent]);
    let position = s.expr(Expr::Position(t), Type::Int);
    let position = s.map(ScalarOp::ToReal, &[position]);
    let angle = s.map(ScalarOp::Mul, &[position, frequency]);
    let (sin, cos) = (s.map(ScalarOp::Sin, &[angle]), s.map(ScalarOp::Cos, &[angle]));
    let low = s.map(ScalarOp::Lt, &[at_e, half]);
    let (up, down) = (s.map(ScalarOp::Add, &[at_e, half]), s.map(ScalarOp::Sub, &[at_e, half]));
    let partner = s.map(ScalarOp::Where, &[low, up, down]);
    let minus = s.map(ScalarOp::Neg, &[sin]);
    let sign = s.map(ScalarOp::Where, &[low, minus, sin]);
    let (a, b) = (s.load(x, &[at_t, at_e]), s.load(x, &[at_t, partner]));
    let (a, b) = (s.map(ScalarOp::Mul, &[a, cos]), s.map(ScalarOp::Mul, &[b, sign]));
    let sum = s.map(ScalarOp::Add, &[a, b]);
    s.finish(Body::Map { axes: vec![t, e], stores: vec![store(out, &[at_t, at_e], sum)] })
}

#[test]
fn maps_read_partners_at_far_positions() {
    for n in [2, 6, 32, 64] {
        let spec = rope(n);
        let memory = memory(&spec, n as u64, &[(130_001, 3), (5, 5)]);
        check(&spec, &memory, 1e-6);
    }
}

#[test]
fn aligned_partners_are_vector_loads() {
    let text = crate::target::Target::text(
        &super::Cpu::new("cpu:v3").expect("a level"),
        &[rope(64)],
        crate::target::Text::Llvm,
    );
    let text = text.expect("code");
    assert!(text.contains("load <16 x half>"), "no vector load in\n{text}");
    assert!(!text.contains("load half") && !text.contains("load i16"), "a gather in\n{text}");
}

#[test]
fn embeddings_come_out_of_panels_of_every_format() {
    for (format, n) in [Format::F32, Format::F16, Format::BF16]
        .map(|f| (f, 21))
        .into_iter()
        .chain([Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Act8].map(|f| (f, 96)))
    {
        for dense in [false, true] {
            let mut s = Sample::new("embedding");
            let (t, m) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("m", n));
            let tokens = s.read("tokens", Format::I32, &[ROWS]);
            let embed = match dense {
                true => s.read("embed", format, &[Dim::Const(37), Dim::Const(n)]),
                false => s.panel("embed", format, 37, n),
            };
            let dims = [ROWS, Dim::Const(n)];
            let out = s.write("out", Format::F32, &dims);
            let index = [s.at(t), s.at(m)];
            let token = s.load(tokens, &index[..1]);
            let value = s.load(embed, &[token, index[1]]);
            // A second column, read backwards: no vector load fits.
            let last = s.int(n as i64 - 1);
            let mirror = s.map(ScalarOp::Sub, &[last, index[1]]);
            let back = s.load(embed, &[token, mirror]);
            let two = s.real(2.0);
            let back = s.map(ScalarOp::Mul, &[back, two]);
            let value = s.map(ScalarOp::Add, &[value, back]);
            let spec = s.finish(Body::Map { axes: vec![t, m], stores: vec![store(out, &index, value)] });
            let mut memory = memory(&spec, 3, &[(5, 5)]);
            fill(&mut memory, tokens, Format::I32, |i| [0.0, 36.0, 17.0, 15.0, 16.0][i]);
            check(&spec, &memory, 1e-6);
        }
    }
}

#[test]
fn activations_are_quantised_in_blocks() {
    let mut s = Sample::new("quantise");
    let (t, m) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("m", 1056));
    let dims = [ROWS, Dim::Const(1056)];
    let (x, out, plain) =
        (s.read("x", Format::F32, &dims), s.write("q", Format::Act8, &dims), s.write("y", Format::F16, &dims));
    let index = [s.at(t), s.at(m)];
    let value = s.load(x, &index);
    let value = s.map(ScalarOp::Exp, &[value]);
    let half = s.real(0.9);
    let value = s.map(ScalarOp::Sub, &[value, half]);
    let stores = vec![store(out, &index, value), store(plain, &index, value)];
    let spec = s.finish(Body::Map { axes: vec![t, m], stores });
    let mut memory = memory(&spec, 3, &[(9, 3)]);
    // A block of zeros: exp(ln 0.9) - 0.9 would not be exact, so 0.9 is met from minus infinity as a constant block.
    check(&spec, &memory, 1e-6);
    fill(&mut memory, x, Format::F32, |i| if i / 32 == 1 { 1e-3 } else { (i % 7) as f64 - 3.0 });
    check(&spec, &memory, 1e-6);
}

#[test]
fn integers_floor_and_compare() {
    let mut s = Sample::new("integers");
    let (a, b) = (s.length("a", 7), s.length("b", 37));
    let dims = [Dim::Const(7), Dim::Const(37)];
    let outs: Vec<OperandRef> = (0..4).map(|i| s.write(&format!("o{i}"), Format::I32, &dims)).collect();
    let (at_a, at_b, three, eleven) = (s.at(a), s.at(b), s.int(3), s.int(11));
    let x = s.map(ScalarOp::Sub, &[at_b, eleven]);
    let y = s.map(ScalarOp::Sub, &[at_a, three]);
    let values = [s.map(ScalarOp::FloorDiv, &[x, y]), s.map(ScalarOp::Mod, &[x, y]), s.map(ScalarOp::Max, &[x, y]), {
        let c = s.map(ScalarOp::Le, &[x, y]);
        let d = s.map(ScalarOp::Mod, &[at_b, eleven]);
        let k = s.map(ScalarOp::Abs, &[x]);
        s.map(ScalarOp::Where, &[c, d, k])
    }];
    let stores = outs.iter().zip(values).map(|(o, v)| store(*o, &[at_a, at_b], v)).collect();
    let spec = s.finish(Body::Map { axes: vec![a, b], stores });
    check(&spec, &memory(&spec, 1, &[(1, 1)]), 0.0);
}

#[test]
fn searches_break_ties_low_and_put_nan_last() {
    for (n, k) in [(1, 1), (3, 3), (16, 4), (33, 8), (64, 8), (1500, 5)] {
        let mut s = Sample::new("search");
        let (t, x, j) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("x", n), s.length("j", k));
        let (scores, out) =
            (s.read("scores", Format::F32, &[ROWS, Dim::Const(n)]), s.write("i", Format::I32, &[ROWS, Dim::Const(k)]));
        let (at_t, at_x, at_j) = (s.at(t), s.at(x), s.at(j));
        let value = s.load(scores, &[at_t, at_x]);
        let search = TopK { parallel: vec![t], axis: x, rank: j, value, operand: out, index: vec![at_t, at_j] };
        let spec = s.finish(Body::TopK(search));
        let mut memory = memory(&spec, 5, &[(4, 4)]);
        check(&spec, &memory, 0.0);
        let odd = [f64::NAN, 1.0, -0.0, 0.0, f64::INFINITY, 1.0, f64::NEG_INFINITY, -2.0];
        fill(&mut memory, scores, Format::F32, |i| odd[(i * 5 + i / 7) % odd.len()]);
        check(&spec, &memory, 0.0);
    }
}
