use crate::kernel::sample::{Sample, projections};
use crate::kernel::*;
use llmc_artifact::plan::PageDim;

#[test]
fn a_contract_reads_like_its_equations() {
    let spec = verify(projections(Format::Q4_1, Format::Act8, 64, 576).spec).expect("well formed");
    let want = "\
contract projections {
  axis t = rows0
  axis m = 576
  axis k = 3
  axis e = 64
  read x: act8 [rows0, 576]
  read raw: f32 [rows0, 576]
  read wq: q4_1 panels[192, 576]
  read wv: q4_1 panels[192, 576]
  write q: f32 [rows0, 3, 64]
  write v: f16 pages0[3, slot 64 by 1, 64]
  for t {
    stat = sum[m](raw[t, m] * raw[t, m])
    acc0[k, e] = sum[m](wq * x)
    for k, e {
      let v0 = position(t) * 10000.0 ^ -(e % 32 / 32)
      q[t, k, e] = (acc0 * cos(v0) + where(e < 32, -1.0, 1.0) * acc0[e = (e + 32) % 64] * sin(v0)) * recip(sqrt(stat / 576.0 + 1e-5))
    }
    acc1[k, e] = sum[m](wv * x)
    for k, e {
      v[t, k, e] = acc1 * recip(sqrt(stat / 576.0 + 1e-5))
    }
  }
}
";
    assert_eq!(spec.to_string(), want);
}

#[test]
fn a_stream_shows_its_states_and_repairs() {
    let mut s = Sample::new("attention");
    let seq = SeqId(0);
    let rows = Dim::Rows(seq);
    let t = s.axis("t", KernelExtent::Rows(seq));
    let key = s.axis("s", KernelExtent::Keys { seq, of: t, causal: true, window: Some(512) });
    let (e, f) = (s.length("e", 64), s.length("e", 64));
    let q = s.read("q", Format::F32, &[rows, Dim::Const(64)]);
    let kc = s.paged("k", false, Format::F16, &[PageDim::Axis(64), PageDim::Slot { count: 64, step: 1 }]);
    let vc = s.paged("v", false, Format::F16, &[PageDim::Slot { count: 64, step: 1 }, PageDim::Axis(64)]);
    let o = s.write("o", Format::F32, &[rows, Dim::Const(64)]);
    let (it, is, ie, jf) = (s.at(t), s.at(key), s.at(e), s.at(f));
    let (left, right, value) = (s.load(q, &[it, ie]), s.load(kc, &[is, ie]), s.load(vc, &[is, jf]));
    let (dot, top, sum) = (s.result(0), s.result(1), s.result(2));
    let shifted = s.map(ScalarOp::Sub, &[dot, top]);
    let weight = s.map(ScalarOp::Exp, &[shifted]);
    let old = s.expr(Expr::Old(ResultRef(1)), Type::Real);
    let moved = s.map(ScalarOp::Sub, &[old, top]);
    let repair = s.map(ScalarOp::Exp, &[moved]);
    let part = s.map(ScalarOp::Mul, &[weight, value]);
    let (inverse, total) = (s.map(ScalarOp::Recip, &[sum]), s.result(3));
    let out = s.map(ScalarOp::Mul, &[total, inverse]);
    let state = |op, init, axes, body, repair| State { op, init: Value::Real(init), axes, body, repair };
    let spec = s.finish(Body::Stream(Stream {
        parallel: vec![t],
        over: vec![key],
        part: None,
        visit: None,
        dots: vec![Dot { reduce: vec![e], left, right }],
        states: vec![
            state(ReduceOp::Max, -3e38, vec![], dot, Repair::default()),
            state(ReduceOp::Sum, 0.0, vec![], weight, Repair { scale: Some(repair), ..Repair::default() }),
            state(ReduceOp::Sum, 0.0, vec![f], part, Repair { scale: Some(repair), ..Repair::default() }),
        ],
        finish: vec![Store { operand: o, index: vec![it, jf], value: out }],
        finish_axes: vec![f],
    }));
    let text = spec.to_string();
    let fold = &text[text.find("  for t {").expect("a loop over rows")..];
    let want = "  for t {
    fold s {
      dot = sum[e](q[t, e] * k[s, e])
      state0 = max(dot) from -3e38
      state1 = sum(exp(dot - state0)) from 0.0, repaired by exp(old(state0) - state0)
      state2[e'2] = sum(exp(dot - state0) * v[s, e'2]) from 0.0, repaired by exp(old(state0) - state0)
    }
    for e'2 {
      o[t, e'2] = state2 * recip(state1)
    }
  }
}
";
    assert_eq!(fold, want);
    assert!(text.contains("  axis s = keys0 of t, causal, window 512\n"), "{text}");
}

#[test]
fn precedence_keeps_its_parentheses() {
    let mut s = Sample::new("m");
    let t = s.axis("t", KernelExtent::Rows(SeqId(0)));
    let (x, y) = (s.read("x", Format::F32, &[Dim::Rows(SeqId(0))]), s.write("y", Format::F32, &[Dim::Rows(SeqId(0))]));
    let it = s.at(t);
    let a = s.load(x, &[it]);
    let two = s.real(2.0);
    let difference = s.map(ScalarOp::Sub, &[a, two]);
    let difference = s.map(ScalarOp::Sub, &[a, difference]);
    let negative = s.map(ScalarOp::Neg, &[difference]);
    let power = s.map(ScalarOp::Pow, &[negative, two]);
    let quotient = s.map(ScalarOp::Div, &[two, power]);
    let value = s.map(ScalarOp::Div, &[two, quotient]);
    let stores = vec![Store { operand: y, index: vec![it], value }];
    let text = s.finish(Body::Map { axes: vec![t], stores }).to_string();
    assert!(text.contains("y[t] = 2.0 / (2.0 / (-(x[t] - (x[t] - 2.0))) ^ 2.0)\n"), "{text}");
}
