//! A fold in parts beside the fold that it was: interpreted and compiled, at lengths around the borders of parts, alone
//! and in company.

use super::{Split, split};
use crate::group::Machine;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::{Abi, Body, Expr, KernelExtent, KernelSpec, Part, Stream, Verified, verify};
use crate::llvm::testing::{Loaded, compare, runnable};
use crate::plan::{Binding, LoweredKernel};
use crate::target::cpu::Cpu;
use crate::target::cpu::tests::{Attention, PLAIN, SEQ, attention, cross_attention, memory, statistics};
use crate::testing::text::{Text, kernels_for};
use llmc_artifact::plan::{Storage, Table};
use llmc_artifact::{Dim, Format, ScalarOp, Value};
use std::collections::HashMap;

/// The two kernels of a fold in parts.
pub(crate) fn of_parts(whole: &KernelSpec, size: u64) -> [Verified<KernelSpec>; 2] {
    Parts::new(whole, size).kernels
}

/// A kernel and its two, ready to run.
pub(crate) struct Parts {
    whole: Verified<KernelSpec>,
    pub(crate) kernels: [Verified<KernelSpec>; 2],
    bindings: [Vec<Binding>; 2],
}

/// How a kernel runs: the interpreter, or what was compiled of it.
pub(crate) type Run<'a> = &'a dyn Fn(usize, &mut Memory);

impl Parts {
    pub(crate) fn new(whole: &KernelSpec, size: u64) -> Parts {
        let operands = (0..whole.operands.len() as u32).map(Binding::Param).collect();
        let Split { kernels, stored } = split(&LoweredKernel { spec: whole.clone(), operands }, size, 0);
        let Body::Stream(s) = &whole.body else { panic!("a fold") };
        assert_eq!(stored.len(), s.states.len());
        let bindings = kernels.each_ref().map(|k| k.operands.clone());
        let verified = |spec: KernelSpec| verify(spec).unwrap_or_else(|e| panic!("{e}"));
        Parts { whole: verified(whole.clone()), kernels: kernels.map(|k| verified(k.spec)), bindings }
    }

    /// What the whole kernel's operands hold after both kernels.
    pub(crate) fn run(&self, memory: &Memory, run: Run) -> Memory {
        let longest = |s| memory.tables[&Table::Lengths(s)].iter().copied().max().unwrap_or(0) as u64;
        let length = |d: Dim| match d {
            Dim::Parts(s, size) => longest(s).div_ceil(size as u64),
            Dim::Const(_)
            | Dim::Rows(_)
            | Dim::Picked(_)
            | Dim::Blocks(_)
            | Dim::Tokens(_)
            | Dim::Pages(_)
            | Dim::Sequences
            | Dim::Tiles(..) => memory.dim(d),
        };
        let mut known: HashMap<Binding, Vec<u8>> = HashMap::new();
        for (n, bytes) in memory.operands.iter().enumerate() {
            known.insert(Binding::Param(n as u32), bytes.clone());
        }
        for (number, (spec, bindings)) in self.kernels.iter().zip(&self.bindings).enumerate() {
            let mut bound = memory.clone();
            bound.dims.extend(Abi::of(spec).dims.into_iter().map(|d| (d, length(d))));
            let fresh = |o: usize| {
                let operand = &spec.operands[o];
                // What a part does not write holds no number.
                vec![0xff; operand.storage.bytes(operand.format, length).expect("a size") as usize]
            };
            let bytes = |(o, b): (usize, &Binding)| known.get(b).cloned().unwrap_or_else(|| fresh(o));
            bound.operands = bindings.iter().enumerate().map(bytes).collect();
            run(number, &mut bound);
            known.extend(bindings.iter().copied().zip(bound.operands));
        }
        let mut result = memory.clone();
        for (n, bytes) in result.operands.iter_mut().enumerate() {
            *bytes = known[&Binding::Param(n as u32)].clone();
        }
        result
    }

    fn interpreted(&self, memory: &Memory) -> Memory {
        self.run(memory, &|n, memory| interpret(&self.kernels[n], memory))
    }

    fn compiled(&self, target: &Cpu) -> [Loaded; 2] {
        self.kernels.each_ref().map(|k| Loaded::new(target, k))
    }

    pub(crate) fn agree(&self, place: &str, got: &Memory, want: &Memory, tolerance: f64) {
        for (n, o) in self.whole.operands.iter().enumerate().filter(|(_, o)| o.write) {
            let place = format!("{place}, operand `{}`", o.name);
            compare(&place, o.format, &got.operands[n], &want.operands[n], tolerance);
        }
    }

    /// Both ways of running the two kernels beside the one.
    fn check(&self, memory: &Memory, tolerance: f64) {
        let mut want = memory.clone();
        interpret(&self.whole, &mut want);
        let place = format!("{} of {:?}", self.whole.name, memory.tables[&Table::Lengths(SEQ)]);
        self.agree(&format!("{place}, interpreted"), &self.interpreted(memory), &want, tolerance);
        let code = self.compiled(&Cpu::new("cpu:native").expect("the host"));
        let got = self.run(memory, &|n, memory| code[n].run(memory, &[]));
        self.agree(&format!("{place}, compiled"), &got, &want, tolerance);
    }
}

const SMALL: Attention = Attention { heads: 1, size: 8, ..PLAIN };

#[test]
fn attention_in_parts_is_attention() {
    let sequences = [(1, 1), (64, 2), (65, 1), (130, 4), (300, 2)];
    let cases = [
        Attention { size: 33, heads: 2, keys_inside: false, ..PLAIN },
        Attention { window: Some(20), ..SMALL },
        Attention { window: Some(100), format: Format::F16, ..SMALL },
        Attention { causal: false, ..SMALL },
        Attention { scale: 1e4, ..SMALL },
        Attention { picked: true, heads: 1, size: 32, out: Format::Act8, ..PLAIN },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let spec = attention(case);
        let memory = memory(&spec, i as u64, &sequences);
        for size in [64, 128] {
            Parts::new(&spec, size).check(&memory, 2e-5 * case.scale.log10().max(1.0));
        }
    }
}

#[test]
fn every_length_around_a_border() {
    let spec = attention(SMALL);
    let parts = [64, 256].map(|size| Parts::new(&spec, size));
    let code = parts.each_ref().map(|p| p.compiled(&Cpu::new("cpu:native").expect("the host")));
    for length in [1, 2, 16, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097] {
        let memory = memory(&spec, length, &[(length, 1)]);
        let mut want = memory.clone();
        interpret(&spec, &mut want);
        for (parts, code) in parts.iter().zip(&code) {
            let got = parts.run(&memory, &|n, memory| code[n].run(memory, &[]));
            parts.agree(&format!("{length} keys"), &got, &want, 2e-5);
        }
    }
}

#[test]
fn keys_of_another_sequence_in_parts() {
    let (spec, memory) = cross_attention();
    let other = memory.tables.keys().find(|t| t.seq() != SEQ).map(|t| t.seq());
    assert!(other.is_some());
    Parts::new(&spec, 64).check(&memory, 2e-5);
}

#[test]
fn statistics_in_parts() {
    // Sums, extremes, truth values and ints, over an axis that is no whole number of parts, alone and with an inner one.
    for (n, m) in [(200, 3), (65, 17)] {
        for over_rows in [false, true] {
            let spec = statistics(n, m, over_rows);
            for rows in [1, 21] {
                Parts::new(&spec, 64).check(&memory(&spec, n, &[(rows, rows)]), 2e-6);
            }
        }
    }
}

#[test]
fn parts_of_a_row_that_sees_nobody_are_nothing() {
    let mut spec = attention(SMALL).into_inner();
    let denied = spec.exprs.0.iter().position(|(e, _)| matches!(e, Expr::Map(ScalarOp::Le, _))).expect("the mask");
    spec.exprs.0[denied].0 = Expr::Const(Value::Bool(false));
    let parts = Parts::new(&spec, 64);
    let memory = memory(&spec, 1, &[(200, 3)]);
    let out = spec.operands.iter().position(|o| o.write).expect("an output");
    let code = parts.compiled(&Cpu::new("cpu:native").expect("the host"));
    for got in [parts.interpreted(&memory), parts.run(&memory, &|n, memory| code[n].run(memory, &[]))] {
        assert!(got.operands[out].iter().all(|b| *b == 0));
    }
}

#[test]
fn neither_company_nor_how_the_work_is_dealt_out_changes_a_bit() {
    let spec = attention(Attention { heads: 2, ..SMALL });
    let parts = Parts::new(&spec, 64);
    let alone = memory(&spec, 3, &[(300, 2)]);
    // The same sequence first in a batch with a longer one: its pages keep their contents under other numbers.
    let mut both = memory(&spec, 3, &[(300, 2), (700, 1)]);
    let blocks = |m: &Memory| m.dims[&Dim::Blocks(SEQ)] as usize;
    for (n, o) in spec.operands.iter().enumerate() {
        match &o.storage {
            Storage::Paged { .. } | Storage::Workspace { .. } => {
                let page = alone.operands[n].len() / alone.tables[&Table::Blocks(SEQ)].len();
                for i in 0..blocks(&alone) {
                    let [from, to] = [&alone, &both].map(|m| m.tables[&Table::Blocks(SEQ)][i] as usize * page);
                    both.operands[n][to..to + page].copy_from_slice(&alone.operands[n][from..from + page]);
                }
            }
            Storage::Dense { .. } if !o.write => {
                let same = alone.operands[n].len();
                both.operands[n][..same].copy_from_slice(&alone.operands[n]);
            }
            Storage::Dense { .. } | Storage::Panel { .. } => {}
        }
    }
    let out = spec.operands.iter().position(|o| o.write).expect("an output");
    for target in runnable() {
        let code = parts.compiled(&target);
        let run = |memory: &Memory, cuts: &[i64]| {
            let all = parts.run(memory, &|n, memory| code[n].run(memory, cuts));
            all.operands[out][..alone.operands[out].len()].to_vec()
        };
        let want = run(&alone, &[]);
        assert_eq!(run(&alone, &[1, 2, 5, 9]), want);
        assert_eq!(run(&both, &[3]), want);
    }
}

#[test]
fn a_wrong_combination_gives_something_else() {
    let spec = attention(SMALL);
    let memory = memory(&spec, 5, &[(300, 1)]);
    let right = Parts::new(&spec, 64);
    let mut want = memory.clone();
    interpret(&spec, &mut want);
    let out = spec.operands.iter().position(|o| o.write).expect("an output");
    let far = |parts: &Parts| {
        let got = parts.interpreted(&memory);
        let read = |m: &Memory| -> Vec<f32> {
            let word = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
            m.operands[out].chunks_exact(4).map(word).collect()
        };
        let apart = read(&got).iter().zip(read(&want)).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>();
        apart.into_iter().map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
    };
    assert!(far(&right) < 1e-6);
    // Without the repair of what a part found, without that of what ran so far, and folded in another way.
    type Change = fn(&mut Stream, &crate::kernel::Exprs);
    let changes: [Change; 3] = [
        |s, exprs| {
            let Expr::Map(ScalarOp::Mul, args) = &exprs[s.states[2].body] else { panic!("a repaired state") };
            s.states[2].body = args[0];
        },
        |s, _| s.states[2].repair.scale = None,
        |s, _| s.states[0].op = llmc_artifact::ReduceOp::Min,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut wrong = Parts::new(&spec, 64);
        let mut combined = wrong.kernels[1].clone().into_inner();
        let exprs = combined.exprs.clone();
        let Body::Stream(s) = &mut combined.body else { panic!("a fold") };
        change(s, &exprs);
        wrong.kernels[1] = verify(combined).expect("a spec, if a wrong one");
        assert!(far(&wrong) > 1e-3, "change {n} is not seen");
    }
}

#[test]
fn specs_of_parts_that_do_not_hold_are_refused() {
    let good = Parts::new(&attention(SMALL), 64).kernels[0].clone().into_inner();
    assert!(verify(good.clone()).is_ok());
    fn stream(s: &mut KernelSpec) -> &mut Stream {
        match &mut s.body {
            Body::Stream(s) => s,
            other => panic!("{other:?}"),
        }
    }
    fn part(s: &mut KernelSpec) -> &mut Part {
        stream(s).part.as_mut().expect("a part")
    }
    type Break = fn(&mut KernelSpec);
    let cases: [(&str, Break); 6] = [
        ("which are no whole pages", |s| {
            let axis = part(s).axis;
            let KernelExtent::Parts { size, .. } = &mut s.axes[axis.0 as usize].extent else { panic!() };
            *size = 65;
        }),
        ("of neither keys nor a constant axis", |s| {
            let (axis, row) = (part(s).axis, stream(s).parallel[0]);
            let KernelExtent::Parts { of, .. } = &mut s.axes[axis.0 as usize].extent else { panic!() };
            *of = row;
        }),
        ("is not the last parallel axis", |s| stream(s).parallel.rotate_right(1)),
        ("stores not every state", |s| _ = part(s).stores.pop()),
        ("cannot see", |s| part(s).stores.swap(0, 1)),
        ("nothing is folded in", |s| stream(s).part = None),
    ];
    for (want, change) in cases {
        let mut spec = good.clone();
        change(&mut spec);
        match verify(spec) {
            Ok(_) => panic!("accepted: {want}"),
            Err(e) => assert!(e.to_string().contains(want), "{e} (wanted: {want})"),
        }
    }
}

/// A machine on which every long fold is cut.
fn wide() -> Machine {
    Machine { slots: 1e6, launch: 0.0, ..Machine::default() }
}

fn text(body: &str) -> Text {
    let head = "model subject {
  size vocab = 300, part = 5
  axis v = vocab, e = part
  seq t
  axis s = t
  input y[t, v]: real
  input q[t, e]: real
  input k[t, e]: real
  input u[t, e]: real
";
    kernels_for(&format!("{head}{body}\n}}\n"), wide()).unwrap_or_else(|e| panic!("{e}\n{body}"))
}

#[test]
fn folds_of_every_kind_are_cut_on_a_wide_machine() {
    let score = "where(s <= t, sum[e](q * k[t = s]), -inf)";
    let bodies = [
        format!("  output o[t, e] = sum[s](softmax[s]({score}) * u[t = s])"),
        format!("  let w = {score} - 0.1 * (t - s)\n  output o[t, e] = sum[s](softmax[s](w) * u[t = s])"),
        "  let w = where(s <= t and (s < 16 or t - s < 20), sum[e](q * k[t = s]), -inf)\n  \
         output o[t, e] = sum[s](softmax[s](w) * u[t = s])"
            .to_owned(),
        "  output o[t] = log(sum[v](exp(y - max[v](y)))) + max[v](y)".to_owned(),
        "  let d = y - mean[v](y)\n  output o[t] = mean[v](d * d)".to_owned(),
        "  let d = y - mean[v](y)\n  output o[t] = mean[v](d * d * d)".to_owned(),
        "  output best[t] = min[v](where(y == max[v](y), v, len(v) - 1))\n  \
         output sure[t] = 1 / sum[v](exp(y - max[v](y)))"
            .to_owned(),
    ];
    for body in bodies {
        let made = text(&body);
        assert!(made.shown().contains(" in parts of "), "{}", made.shown());
        for tokens in [1, 70, 150] {
            made.agrees(tokens, 2e-5);
        }
    }
}

#[test]
fn chunks_of_a_prompt_and_its_borders_change_no_bit() {
    let made = text("  output o[t, e] = sum[s](softmax[s](where(s <= t, sum[e](q * k[t = s]), -inf)) * u[t = s])");
    let whole = made.in_chunks(150, &[150]);
    for cuts in [&[70, 150][..], &[64, 65, 128, 150], &[1, 2, 149, 150]] {
        assert_eq!(made.in_chunks(150, cuts), whole, "{cuts:?}");
    }
}
