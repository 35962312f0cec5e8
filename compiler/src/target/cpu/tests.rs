//! Families against the interpreter, on every CPU target that runs here.

use crate::kernel::interpret::Memory;
use crate::kernel::sample::Sample;
use crate::kernel::verify::Verified;
use crate::kernel::*;
use crate::llvm::testing::{Random, check, check_all};
use llmc_artifact::panel::PanelLayout;
use llmc_artifact::plan::{PAGE_TOKENS, PageDim, Storage, Table};
use llmc_artifact::{DType, Dim, Format, ReduceOp, ScalarOp, SeqId, Type, Value};
use std::collections::BTreeMap;

pub mod anew;

pub const SEQ: SeqId = SeqId(0);
pub const ROWS: Dim = Dim::Rows(SEQ);

/// Memory for a spec: random operands, `rows` rows of sequences of these lengths, the rows being their last tokens.
pub fn memory(spec: &KernelSpec, seed: u64, sequences: &[(u64, u64)]) -> Memory {
    let mut random = Random::new(seed);
    let rows: u64 = sequences.iter().map(|(_, rows)| rows).sum();
    let blocks = sequences.iter().map(|(length, _)| length.div_ceil(PAGE_TOKENS as u64)).max().unwrap_or(1);
    let own_pages = |(length, _): &(u64, u64)| length.div_ceil(PAGE_TOKENS as u64);
    let mut dims = BTreeMap::from([
        (ROWS, rows),
        (Dim::Picked(SEQ), rows.div_ceil(2)),
        (Dim::Blocks(SEQ), blocks),
        (Dim::Tokens(SEQ), sequences.iter().map(|(length, _)| length).sum()),
        (Dim::Pages(SEQ), sequences.iter().map(own_pages).sum()),
    ]);
    let longest = sequences.iter().map(|(length, _)| *length).max().unwrap_or(0);
    dims.extend(Abi::of(spec).dims.into_iter().filter_map(|d| match d {
        Dim::Parts(_, size) => Some((d, longest.div_ceil(size as u64))),
        Dim::Const(_)
        | Dim::Rows(_)
        | Dim::Picked(_)
        | Dim::Blocks(_)
        | Dim::Tokens(_)
        | Dim::Pages(_)
        | Dim::Sequences
        | Dim::Tiles(..) => None,
    }));
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
    let tokens = |f: &dyn Fn(usize, u64) -> i32| -> Vec<i32> {
        let all = sequences.iter().enumerate();
        all.flat_map(|(i, (length, _))| (0..*length).map(move |p| (i, p))).map(|(i, p)| f(i, p)).collect()
    };
    tables.insert(Table::TokenPositions(SEQ), tokens(&|_, p| p as i32));
    tables.insert(Table::TokenSeq(SEQ), tokens(&|i, _| i as i32));
    let bases = (0..sequences.len()).map(|i| sequences[..i].iter().map(own_pages).sum::<u64>() as i32);
    tables.insert(Table::Bases(SEQ), bases.collect());
    // Pages in an order that is not theirs.
    let pages = sequences.len() as u64 * blocks;
    tables.insert(Table::Blocks(SEQ), (0..pages).map(|p| (pages - 1 - p) as i32).collect());
    let length = |d: Dim| d.as_const().unwrap_or_else(|| dims[&d]);
    let operands = spec.operands.iter().map(|o| {
        let (count, bytes) = match &o.storage {
            Storage::Dense { dims } => (dims.iter().map(|d| length(*d)).product::<u64>(), None),
            Storage::Panel { rows, reduce } => {
                let layout = PanelLayout::new(o.format, *rows, *reduce).expect("whole blocks");
                let mut packed = vec![0; layout.bytes()];
                layout.pack(&random.elements(o.format, (rows * reduce) as usize), &mut packed);
                return packed;
            }
            Storage::Paged { .. } => (0, o.storage.bytes(o.format, length).map(|b| b * pages)),
            Storage::Workspace { .. } => (0, o.storage.bytes(o.format, length)),
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
pub fn fill(memory: &mut Memory, operand: OperandRef, format: Format, value: impl Fn(usize) -> f64) {
    for (i, b) in memory.operands[operand.0 as usize].chunks_exact_mut(4).enumerate() {
        let bytes = match format.plain() {
            Some(DType::I32) => (value(i) as i32).to_le_bytes(),
            _ => (value(i) as f32).to_le_bytes(),
        };
        b.copy_from_slice(&bytes);
    }
}

pub fn store(operand: OperandRef, index: &[ExprRef], value: ExprRef) -> Store {
    Store { operand, index: index.to_vec(), value }
}

/// `out[t, m] = f(x[t, m])` for one operation.
pub fn unary(op: ScalarOp, n: u64) -> (Verified<KernelSpec>, OperandRef) {
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
pub fn rope(n: i64) -> Verified<KernelSpec> {
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

/// `out[t, m] = embed[v = tokens[t]] + 2 embed[v = tokens[t], m = last - m]`: read forwards and backwards.
pub fn embedding(format: Format, n: u64, dense: bool) -> Verified<KernelSpec> {
    let mut s = Sample::new("embedding");
    let (t, m) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("m", n));
    let tokens = s.read("tokens", Format::I32, &[ROWS]);
    let embed = match dense {
        true => s.read("embed", format, &[Dim::Const(37), Dim::Const(n)]),
        false => s.panel("embed", format, 37, n),
    };
    let out = s.write("out", Format::F32, &[ROWS, Dim::Const(n)]);
    let index = [s.at(t), s.at(m)];
    let token = s.load(tokens, &index[..1]);
    let value = s.load(embed, &[token, index[1]]);
    let last = s.int(n as i64 - 1);
    let mirror = s.map(ScalarOp::Sub, &[last, index[1]]);
    let back = s.load(embed, &[token, mirror]);
    let two = s.real(2.0);
    let back = s.map(ScalarOp::Mul, &[back, two]);
    let value = s.map(ScalarOp::Add, &[value, back]);
    s.finish(Body::Map { axes: vec![t, m], stores: vec![store(out, &index, value)] })
}

#[test]
fn embeddings_come_out_of_panels_of_every_format() {
    let plain = [Format::F32, Format::F16, Format::BF16].map(|f| (f, 21));
    let blocks = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Act8].map(|f| (f, 96));
    for (format, n) in plain.into_iter().chain(blocks) {
        for dense in [false, true] {
            let spec = embedding(format, n, dense);
            let mut memory = memory(&spec, 3, &[(5, 5)]);
            fill(&mut memory, OperandRef(0), Format::I32, |i| [0.0, 36.0, 17.0, 15.0, 16.0][i]);
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

/// The `k` largest of `n` scores of every row.
pub fn search(n: u64, k: u64) -> Verified<KernelSpec> {
    let mut s = Sample::new("search");
    let (t, x, j) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("x", n), s.length("j", k));
    let scores = s.read("scores", Format::F32, &[ROWS, Dim::Const(n)]);
    let out = s.write("i", Format::I32, &[ROWS, Dim::Const(k)]);
    let (at_t, at_x, at_j) = (s.at(t), s.at(x), s.at(j));
    let value = s.load(scores, &[at_t, at_x]);
    let search = TopK { parallel: vec![t], axis: x, rank: j, value, operand: out, index: vec![at_t, at_j] };
    s.finish(Body::TopK(search))
}

#[test]
fn searches_break_ties_low_and_put_nan_last() {
    for (n, k) in [(1, 1), (3, 3), (16, 4), (33, 8), (64, 8), (1500, 5)] {
        let spec = search(n, k);
        let mut memory = memory(&spec, 5, &[(4, 4)]);
        check(&spec, &memory, 0.0);
        let odd = [f64::NAN, 1.0, -0.0, 0.0, f64::INFINITY, 1.0, f64::NEG_INFINITY, -2.0];
        fill(&mut memory, OperandRef(0), Format::F32, |i| odd[(i * 5 + i / 7) % odd.len()]);
        check(&spec, &memory, 0.0);
    }
}

/// How the attention below differs from the plainest.
#[derive(Clone, Copy)]
pub struct Attention {
    pub heads: u64,
    /// Queries of each head of the keys.
    pub group: u64,
    pub size: u64,
    pub window: Option<u64>,
    pub causal: bool,
    /// Keys of a page side by side, so that scores are computed along lanes.
    pub keys_inside: bool,
    pub format: Format,
    pub scale: f64,
    pub out: Format,
    pub picked: bool,
    /// What factors are rounded to.
    pub rounded: Option<DType>,
}

pub const PLAIN: Attention = Attention {
    heads: 2,
    group: 1,
    size: 64,
    window: None,
    causal: true,
    keys_inside: true,
    format: Format::F32,
    scale: 1.0,
    out: Format::F32,
    picked: false,
    rounded: None,
};

/// Online softmax over cached keys: running maximum from a floor, sum and value product repaired by it.
pub fn attention(a: Attention) -> Verified<KernelSpec> {
    let mut s = Sample::new("attention");
    let rows = if a.picked { KernelExtent::Picked(SEQ) } else { KernelExtent::Rows(SEQ) };
    let (t, h, e, f) = (s.axis("t", rows), s.length("h", a.heads), s.length("e", a.size), s.length("f", a.size));
    let keys = KernelExtent::Keys { seq: SEQ, of: t, causal: a.causal, window: a.window };
    let (k, g) = (s.axis("s", keys), s.length("g", a.group));
    let all = [ROWS, Dim::Const(a.heads), Dim::Const(a.group), Dim::Const(a.size)];
    let out_dims = [if a.picked { Dim::Picked(SEQ) } else { ROWS }, Dim::Const(a.heads * a.group * a.size)];
    let q = s.read("q", Format::F32, &all);
    let (slots, inside) = (PageDim::Slot { count: 64, step: 1 }, PageDim::Slot { count: 16, step: 1 });
    let outside = PageDim::Slot { count: 4, step: 16 };
    let key_page = match a.keys_inside {
        true => vec![PageDim::Axis(a.heads), outside, PageDim::Axis(a.size), inside],
        false => vec![slots, PageDim::Axis(a.heads), PageDim::Axis(a.size)],
    };
    let key_cache = s.paged("k", false, a.format, &key_page);
    let value_cache = s.paged("v", false, a.format, &[PageDim::Axis(a.heads), slots, PageDim::Axis(a.size)]);
    let out = s.write("out", a.out, &out_dims);
    let row = if a.picked { s.expr(Expr::Row(t), Type::Int) } else { s.at(t) };
    let (at_t, at_h, at_e, at_f, at_k, at_g) = (s.at(t), s.at(h), s.at(e), s.at(f), s.at(k), s.at(g));
    let left = s.load(q, &[row, at_h, at_g, at_e]);
    let scale = s.real(a.scale);
    let left = s.map(ScalarOp::Mul, &[left, scale]);
    let left = a.rounded.map_or(left, |to| s.expr(Expr::Rounded(to, left), Type::Real));
    let right = s.load(key_cache, &[at_k, at_h, at_e]);
    // The mask itself: what the keys' range says is only what need not be visited.
    let position = s.expr(Expr::Position(t), Type::Int);
    let mut seen = s.map(ScalarOp::Le, &[at_k, position]);
    if let Some(w) = a.window {
        let behind = s.map(ScalarOp::Sub, &[position, at_k]);
        let w = s.int(w as i64);
        let near = s.map(ScalarOp::Lt, &[behind, w]);
        seen = s.map(ScalarOp::And, &[seen, near]);
    }
    let (score, never) = (s.result(0), s.real(f64::NEG_INFINITY));
    let score = s.map(ScalarOp::Where, &[seen, score, never]);
    let (max, old) = (s.result(1), s.expr(Expr::Old(ResultRef(1)), Type::Real));
    let z = s.map(ScalarOp::Sub, &[score, max]);
    let z = s.map(ScalarOp::Exp, &[z]);
    let moved = s.map(ScalarOp::Sub, &[old, max]);
    let repair = s.map(ScalarOp::Exp, &[moved]);
    let value = s.load(value_cache, &[at_k, at_h, at_f]);
    let weight = a.rounded.map_or(z, |to| s.expr(Expr::Rounded(to, z), Type::Real));
    let weighted = s.map(ScalarOp::Mul, &[weight, value]);
    let state = |op, init, axes, body, repair| State { op, init: Value::Real(init), axes, body, repair };
    let states = vec![
        state(ReduceOp::Max, -3e38, vec![], score, Repair::default()),
        state(ReduceOp::Sum, 0.0, vec![], z, Repair { scale: Some(repair), ..Repair::default() }),
        state(ReduceOp::Sum, 0.0, vec![f], weighted, Repair { scale: Some(repair), ..Repair::default() }),
    ];
    let (sum, product) = (s.result(2), s.result(3));
    let one = s.real(1.0);
    let floor = s.map(ScalarOp::Max, &[sum, one]);
    let inverse = s.map(ScalarOp::Recip, &[floor]);
    let result = s.map(ScalarOp::Mul, &[product, inverse]);
    let (size, group) = (s.int(a.size as i64), s.int(a.group as i64));
    let head = s.map(ScalarOp::Mul, &[at_h, group]);
    let head = s.map(ScalarOp::Add, &[head, at_g]);
    let column = s.map(ScalarOp::Mul, &[head, size]);
    let column = s.map(ScalarOp::Add, &[column, at_f]);
    s.finish(Body::Stream(Stream {
        parallel: vec![t, h, g],
        over: vec![k],
        part: None,
        visit: None,
        dots: vec![Dot { reduce: vec![e], left, right }],
        states,
        finish: vec![store(out, &[at_t, column], result)],
        finish_axes: vec![f],
    }))
}

#[test]
fn attention_streams_over_pages() {
    let sequences = [(1, 1), (16, 3), (17, 1), (64, 2), (130, 4)];
    let cases = [
        PLAIN,
        Attention { size: 7, heads: 3, ..PLAIN },
        Attention { size: 33, keys_inside: false, ..PLAIN },
        Attention { size: 80, format: Format::F16, ..PLAIN },
        Attention { size: 64, format: Format::BF16, window: Some(20), ..PLAIN },
        Attention { window: Some(1), size: 16, ..PLAIN },
        Attention { causal: false, size: 32, keys_inside: false, ..PLAIN },
        Attention { scale: 1e4, ..PLAIN },
        Attention { picked: true, out: Format::Act8, ..PLAIN },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let spec = attention(case);
        let mut memory = memory(&spec, i as u64, &sequences);
        // Positions nobody wrote hold NaN: they may be loaded, never used.
        if case.causal {
            poison(&spec, &mut memory, &sequences);
        }
        check(&spec, &memory, 2e-6 * case.scale.max(1.0).log10().max(1.0) * 10.0);
    }
}

/// Fills slots past each sequence's end with NaN.
pub fn poison(spec: &KernelSpec, memory: &mut Memory, sequences: &[(u64, u64)]) {
    let blocks = memory.dims[&Dim::Blocks(SEQ)];
    for (o, bytes) in spec.operands.iter().zip(&mut memory.operands) {
        let Storage::Paged { page, .. } = &o.storage else { continue };
        let element = o.format.bytes(1).expect("plain") as usize;
        let nan: &[u8] = match o.format {
            Format::F32 => &[0, 0, 0xc0, 0x7f],
            Format::F16 => &[0, 0x7e],
            _ => &[0xc0, 0x7f],
        };
        let lengths: Vec<u64> = page
            .iter()
            .map(|d| match *d {
                PageDim::Axis(n) => n,
                PageDim::Slot { count, .. } => count as u64,
            })
            .collect();
        let size: u64 = lengths.iter().product();
        for (i, slot) in bytes.chunks_exact_mut(element).enumerate() {
            let (number, mut rest) = (i as u64 / size, i as u64 % size);
            let mut token = 0;
            for (d, n) in page.iter().zip(&lengths).rev() {
                if let PageDim::Slot { step, .. } = d {
                    token += rest % n * *step as u64;
                }
                rest /= n;
            }
            let entry = memory.tables[&Table::Blocks(SEQ)].iter().position(|b| *b as u64 == number).expect("a page");
            let position = entry as u64 % blocks * PAGE_TOKENS as u64 + token;
            if position >= sequences[entry / blocks as usize].0 {
                slot.copy_from_slice(nan);
            }
        }
    }
}

/// The same over the keys of a second sequence, all of them.
pub fn cross_attention() -> (Verified<KernelSpec>, Memory) {
    cross(PLAIN)
}

/// The same for another attention, which looks at all keys.
pub fn cross(a: Attention) -> (Verified<KernelSpec>, Memory) {
    let other = SeqId(1);
    let plain = attention(Attention { size: 16, causal: false, ..a });
    let mut spec = plain.clone().into_inner();
    for axis in &mut spec.axes {
        if let KernelExtent::Keys { seq, .. } = &mut axis.extent {
            *seq = other;
        }
    }
    for operand in &mut spec.operands {
        if let Storage::Paged { seq, .. } = &mut operand.storage {
            *seq = other;
        }
    }
    let spec = verify::verify(spec).expect("still a spec");
    // Positions up to 150 let the mask pass most of the other sequences' tokens, of which there are fewer.
    let mut memory = memory(&plain, 8, &[(150, 2), (100, 3)]);
    memory.tables.insert(Table::Lengths(other), vec![70, 33]);
    memory.tables.insert(Table::Blocks(other), vec![2, 0, 1, 3]);
    memory.dims.insert(Dim::Blocks(other), 2);
    (spec, memory)
}

#[test]
fn streams_cross_to_another_sequence() {
    let (spec, memory) = cross_attention();
    check(&spec, &memory, 2e-5);
}

#[test]
fn maps_run_along_rows() {
    // `out[m, t] = x[t, m] + position(row)`: the innermost axis is as long as the step.
    let mut s = Sample::new("along_rows");
    let (m, t) = (s.length("m", 3), s.axis("t", KernelExtent::Rows(SEQ)));
    let x = s.read("x", Format::F32, &[ROWS, Dim::Const(3)]);
    let out = s.write("out", Format::F32, &[Dim::Const(3), ROWS]);
    let (at_m, at_t, position) = (s.at(m), s.at(t), s.expr(Expr::Position(t), Type::Int));
    let value = s.load(x, &[at_t, at_m]);
    let position = s.map(ScalarOp::ToReal, &[position]);
    let value = s.map(ScalarOp::Add, &[value, position]);
    let spec = s.finish(Body::Map { axes: vec![m, t], stores: vec![store(out, &[at_m, at_t], value)] });
    let memories = [1, 16, 37].map(|rows| memory(&spec, rows, &[(rows + 5, rows)]));
    check_all(&spec, &memories, 1e-6);
}

#[test]
fn a_fully_masked_row_is_zero() {
    // A window of keys that the mask then denies altogether: the visited scores are all minus infinity.
    let mut spec = attention(PLAIN).into_inner();
    let denied = spec.exprs.0.iter().position(|(e, _)| matches!(e, Expr::Map(ScalarOp::Le, _))).expect("the mask");
    spec.exprs.0[denied].0 = Expr::Const(Value::Bool(false));
    let spec = verify::verify(spec).expect("still a spec");
    let memory = memory(&spec, 1, &[(40, 3)]);
    check(&spec, &memory, 0.0);
    for target in crate::llvm::testing::runnable() {
        let mut got = memory.clone();
        crate::llvm::testing::Loaded::new(&target, &spec).run(&mut got, &[]);
        assert!(got.operands[3].iter().all(|b| *b == 0), "not zero on {}", crate::target::Target::name(&target));
    }
}

/// Statistics over constant axes and rows: sums, extremes, counts; with states that keep an axis.
pub fn statistics(n: u64, m: u64, over_rows: bool) -> Verified<KernelSpec> {
    let mut s = Sample::new("statistics");
    let (a, b) = (s.length("a", n), s.length("b", m));
    let t = s.axis("t", KernelExtent::Rows(SEQ));
    let x = s.read("x", Format::F32, &[ROWS, Dim::Const(n), Dim::Const(m)]);
    let (at_a, at_b, at_t) = (s.at(a), s.at(b), s.at(t));
    let value = s.load(x, &[at_t, at_a, at_b]);
    let square = s.map(ScalarOp::Mul, &[value, value]);
    let zero = s.real(0.0);
    let positive = s.map(ScalarOp::Gt, &[value, zero]);
    let both = s.map(ScalarOp::Add, &[at_a, at_b]);
    let (over, kept) = if over_rows { (vec![a, t], b) } else { (vec![a, b], t) };
    let outer = s.spec.dim(kept).expect("not keys");
    let state =
        |op, init, axes: &[AxisRef], body| State { op, init, axes: axes.to_vec(), body, repair: Repair::default() };
    let (real, own) = (Value::Real, if over_rows { vec![b] } else { vec![] });
    let states = vec![
        state(ReduceOp::Sum, real(0.0), &own, square),
        state(ReduceOp::Max, real(f64::NEG_INFINITY), &own, value),
        state(ReduceOp::Min, real(f64::INFINITY), &own, value),
        state(ReduceOp::Any, Value::Bool(false), &own, positive),
        state(ReduceOp::All, Value::Bool(true), &own, positive),
        state(ReduceOp::Max, Value::Int(i64::MIN), &own, both),
    ];
    let at_kept = s.at(kept);
    let mut finish = Vec::new();
    for (i, st) in states.iter().enumerate() {
        let ty = s.spec.exprs.0[st.body.0 as usize].1;
        let value = s.expr(Expr::Result { result: ResultRef(i as u16), moved: vec![] }, ty);
        let format = if ty == Type::Real { Format::F32 } else { Format::I32 };
        let (zero, one) = (s.int(0), s.int(1));
        let value = if ty == Type::Bool { s.map(ScalarOp::Where, &[value, one, zero]) } else { value };
        let out = s.write(&format!("o{i}"), format, &[outer]);
        finish.push(store(out, &[at_kept], value));
    }
    let parallel = if over_rows { vec![] } else { vec![t] };
    s.finish(Body::Stream(Stream {
        parallel,
        over,
        part: None,
        visit: None,
        dots: vec![],
        states,
        finish,
        finish_axes: own,
    }))
}

#[test]
fn statistics_over_any_axes() {
    for (n, m) in [(3, 7), (2, 16), (1, 81)] {
        for over_rows in [false, true] {
            let spec = statistics(n, m, over_rows);
            let memories = [1, 16, 21].map(|rows| memory(&spec, n + m, &[(rows, rows)]));
            check_all(&spec, &memories, 1e-6);
        }
    }
}

#[test]
fn dots_over_constant_axes() {
    // sum[b](exp(sum[c](x[t, c] * w[c, b]))), the dot along lanes or along its reduced axis.
    for (b_len, c_len) in [(16, 5), (40, 16), (7, 33)] {
        for along in [true, false] {
            let mut s = Sample::new("dots");
            let (t, b, c) = (s.axis("t", KernelExtent::Rows(SEQ)), s.length("b", b_len), s.length("c", c_len));
            let x = s.read("x", Format::F32, &[ROWS, Dim::Const(c_len)]);
            let dims =
                if along { [Dim::Const(c_len), Dim::Const(b_len)] } else { [Dim::Const(b_len), Dim::Const(c_len)] };
            let w = s.read("w", Format::F32, &dims);
            let out = s.write("out", Format::F32, &[ROWS]);
            let (at_t, at_b, at_c) = (s.at(t), s.at(b), s.at(c));
            let left = s.load(x, &[at_t, at_c]);
            let right = if along { s.load(w, &[at_c, at_b]) } else { s.load(w, &[at_b, at_c]) };
            let dot = s.result(0);
            let body = s.map(ScalarOp::Exp, &[dot]);
            let state =
                State { op: ReduceOp::Sum, init: Value::Real(0.0), axes: vec![], body, repair: Repair::default() };
            let sum = s.result(1);
            let log = s.map(ScalarOp::Log, &[sum]);
            let spec = s.finish(Body::Stream(Stream {
                parallel: vec![t],
                over: vec![b],
                part: None,
                visit: None,
                dots: vec![Dot { reduce: vec![c], left, right }],
                states: vec![state],
                finish: vec![store(out, &[at_t], log)],
                finish_axes: vec![],
            }));
            check(&spec, &memory(&spec, b_len, &[(3, 3)]), 2e-6);
        }
    }
}

#[test]
fn keys_side_by_side_are_vector_loads() {
    // Neither the score nor the value product gathers: every load of a cache is a whole vector.
    let spec = attention(Attention { format: Format::F16, ..PLAIN });
    let target = super::Cpu::new("cpu:v4").expect("a level");
    let text = crate::target::Target::text(&target, &[spec], crate::target::Text::Llvm).expect("code");
    assert!(text.contains("load <16 x half>"), "no vector load in\n{text}");
    assert!(!text.contains("load half") && !text.contains("load i16"), "a gather in\n{text}");
}
