use super::Term;
use super::build::{normalise, normalise_by};
use super::text::{expression, print};
use super::verify::verify;
use crate::rules::{Law, Laws, Stage};
use crate::testing::draft::{Draft, N};
use crate::testing::points::{agree, naive, values};
use crate::testing::random::block;
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::AxisId;
use proptest::prelude::*;

/// Normal form computes what the graph computes.
fn check(draft: &Draft, seed: u64) -> Result<(), String> {
    let (terms, roots) = normalise(&draft.block, &draft.axes);
    let ids: Vec<_> = roots.iter().map(|r| r.1).collect();
    verify(&terms, &ids)?;
    for (want, got) in naive(draft, seed).iter().zip(&values(&terms, &ids, seed)) {
        agree(want, got, 1e-6).map_err(|e| format!("{e}\n{}", print(&terms, &roots)))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn normal_form_has_the_same_value(seed in any::<u64>(), size in 3usize..24) {
        check(&block(seed, size), seed).map_err(TestCaseError::fail)?;
    }
}

/// Every one-way law fires on random blocks, and each of its firings has equal sides.
#[test]
fn every_one_way_law_fires_and_holds() {
    let mut fired = vec![0; Law::ALL.len()];
    for seed in 0..400 {
        let draft = block(seed, 16);
        let (mut terms, _) = normalise_by(&draft.block, &draft.axes, Laws::ALL, true);
        let firings = terms.trace.firings.take().expect("asked for");
        for firing in &firings {
            fired[firing.law as usize] += 1;
            let sides = values(&terms, &[firing.before, firing.after], seed);
            let text = |id| expression(&terms, id);
            agree(&sides[0], &sides[1], 1e-6).unwrap_or_else(|e| {
                panic!("{}: {e}\n{}\n{}", firing.law.name(), text(firing.before), text(firing.after))
            });
        }
    }
    for law in Law::ALL.iter().filter(|l| l.stage() == Stage::Normalise) {
        println!("{:10} {}", law.name(), fired[*law as usize]);
        assert!(fired[*law as usize] > 0, "{} never fired", law.name());
    }
}

struct Axes4 {
    d: Draft,
    t: AxisId,
    s: AxisId,
    m: AxisId,
    e: AxisId,
    f: AxisId,
    x: N,
    w: N,
    gain: N,
}

fn axes() -> Axes4 {
    let mut d = Draft::new();
    let t = d.seq("t");
    let (m, e, f, s) = (d.axis("m", 3), d.axis("e", 4), d.axis("f", 2), d.view("s"));
    let x = d.param("x", &[t, m], Type::Real);
    let (w, gain) = (d.weight("w", &[e, m]), d.weight("gain", &[m]));
    Axes4 { d, t, s, m, e, f, x, w, gain }
}

/// Both drafts' results are the same term, when written over the same leaves.
fn same(a: Draft, b: Draft) {
    let show = |d: &Draft| {
        let (terms, roots) = normalise(&d.block, &d.axes);
        check(d, 7).unwrap();
        expression(&terms, roots[0].1)
    };
    assert_eq!(show(&a), show(&b));
}

#[test]
fn spellings_of_a_normed_projection_are_one_term() {
    let spell = |how: u32| {
        let Axes4 { mut d, m, x, w, gain, .. } = axes();
        let y = match how {
            0 => {
                let y = d.rms_norm(m, x, gain);
                let p = d.mul(w, y);
                d.sum(&[m], p)
            }
            1 => {
                // The scale outside, the gain inside, the square as a power, the root as a negative one.
                let (two, eps, half) = (d.real(2.0), d.real(1e-5), d.real(-0.5));
                let square = d.map(ScalarOp::Pow, &[x, two]);
                let mean = d.mean(m, square);
                let shifted = d.add2(mean, eps);
                let scale = d.map(ScalarOp::Pow, &[shifted, half]);
                let wg = d.mul(gain, w);
                let p = d.mul(wg, x);
                let sum = d.sum(&[m], p);
                d.mul(scale, sum)
            }
            _ => {
                let (one, eps) = (d.real(1.0), d.real(1e-5));
                let square = d.mul(x, x);
                let (sum, n) = (d.sum(&[m], square), d.real(1.0 / 3.0));
                let mean = d.mul(n, sum);
                let shifted = d.add2(eps, mean);
                let root = d.map(ScalarOp::Sqrt, &[shifted]);
                let scale = d.div(one, root);
                let y = d.mul(x, scale);
                let y = d.mul(y, gain);
                let p = d.mul(y, w);
                d.sum(&[m], p)
            }
        };
        d.result("y", y);
        d
    };
    same(spell(0), spell(1));
    same(spell(0), spell(2));
    let d = spell(0);
    let (terms, roots) = normalise(&d.block, &d.axes);
    assert_eq!(
        expression(&terms, roots[0].1),
        "recip(sqrt(1e-5 + 0.3333333333333333 * sum[m'1](x[m = m'1] * x[m = m'1]))) * \
         sum[m'1](gain[m = m'1] * w[m = m'1] * x[m = m'1])"
    );
}

#[test]
fn rotated_keys_are_one_read_however_spelled() {
    let spell = |how: u32| {
        let Axes4 { mut d, t, s, m, e, f, x, w, .. } = axes();
        let freq = d.weight("freq", &[f]);
        let k = match how {
            0 => {
                let p = d.mul(w, x);
                let k = d.sum(&[m], p);
                let k = d.rope(e, f, t, k, freq);
                d.rename(k, t, s)
            }
            1 => {
                // Read first, rotated by the other token's position afterwards.
                let p = d.mul(w, x);
                let k = d.sum(&[m], p);
                let k = d.rename(k, t, s);
                d.rope(e, f, s, k, freq)
            }
            _ => {
                let x = d.rename(x, t, s);
                let p = d.mul(w, x);
                let k = d.sum(&[m], p);
                d.rope(e, f, s, k, freq)
            }
        };
        let q = d.param("q", &[t, e], Type::Real);
        let p = d.mul(q, k);
        let score = d.sum(&[e], p);
        d.result("score", score);
        d
    };
    same(spell(0), spell(1));
    same(spell(0), spell(2));
    let d = spell(2);
    let (terms, roots) = normalise(&d.block, &d.axes);
    let Term::Sum(_, xs) = terms.term(roots[0].1) else { panic!("a score is a sum") };
    let read = xs.iter().find_map(|x| if let Term::Read(y, _) = terms.term(*x) { Some(*y) } else { None });
    let read = read.expect("the keys are read as a whole");
    assert!(matches!(terms.term(read), Term::Plus(_)), "{}", expression(&terms, read));
    // The projection is one term: beside itself and at its partner's index.
    let under = super::text::reachable(&terms, [read]);
    let sums = under.iter().filter(|id| matches!(terms.term(**id), Term::Sum(bound, _) if !bound.is_empty()));
    assert_eq!(sums.count(), 1, "{}", expression(&terms, read));
}

#[test]
fn one_hot_sums_are_reads_and_out_of_range_ones_are_not() {
    for (add, fires) in [(0, true), (1, false)] {
        let Axes4 { mut d, m, e, x, .. } = axes();
        let (i, j, n, c) = (d.iota(m), d.iota(e), d.int(3), d.int(add));
        let wrapped = d.map(ScalarOp::Mod, &[j, n]);
        let at = d.map(ScalarOp::Add, &[wrapped, c]);
        let (hit, zero) = (d.map(ScalarOp::Eq, &[i, at]), d.real(0.0));
        let hot = d.map(ScalarOp::Where, &[hit, x, zero]);
        let y = d.sum(&[m], hot);
        d.result("y", y);
        check(&d, 3).unwrap();
        let (terms, roots) = normalise(&d.block, &d.axes);
        assert_eq!(matches!(terms.term(roots[0].1), Term::Index(..)), fires);
        assert_eq!(terms.trace.fired(Law::OneHot) > 0, fires);
    }
}

/// A rotation written as a matrix of cases is the same few products as one written by partners.
#[test]
fn a_rotation_matrix_becomes_two_products() {
    let Axes4 { mut d, t, m, e, x, .. } = axes();
    let c = d.axis("c", 4);
    let w = d.weight("wc", &[c, m]);
    let p = d.mul(w, x);
    let q = d.sum(&[m], p);
    let (ie, ic, it, two, four) = (d.iota(e), d.iota(c), d.iota(t), d.int(2), d.int(4));
    let shifted = d.map(ScalarOp::Add, &[ie, two]);
    let partner = d.map(ScalarOp::Mod, &[shifted, four]);
    let (cos, sin, zero) = (d.map(ScalarOp::Cos, &[it]), d.map(ScalarOp::Sin, &[it]), d.real(0.0));
    let (straight, crossed) = (d.map(ScalarOp::Eq, &[ic, ie]), d.map(ScalarOp::Eq, &[ic, partner]));
    let other = d.map(ScalarOp::Where, &[crossed, sin, zero]);
    let matrix = d.map(ScalarOp::Where, &[straight, cos, other]);
    let p = d.mul(matrix, q);
    let rotated = d.sum(&[c], p);
    d.result("q", rotated);
    check(&d, 2).unwrap();
    let (terms, roots) = normalise(&d.block, &d.axes);
    let text = expression(&terms, roots[0].1);
    let projection = "sum[m'1](wc[m = m'1, c = e] * x[m = m'1])";
    assert!(matches!(terms.term(roots[0].1), Term::Plus(xs) if xs.len() == 2), "{text}");
    assert!(text.contains(&format!("cos(t) * {projection}")), "{text}");
    assert!(text.contains(&format!("{projection}[e = (2 + e) % 4]")), "{text}");
    assert!(terms.trace.fired(Law::Cases) > 0);
}

#[test]
fn rounded_arithmetic_keeps_its_order() {
    let Axes4 { mut d, t, s, .. } = axes();
    let (i, j, c) = (d.iota(t), d.iota(s), d.real(3.0));
    let gap = d.map(ScalarOp::Sub, &[i, j]);
    let third = d.div(gap, c);
    let rounded = d.map(ScalarOp::Floor, &[third]);
    d.result("bucket", rounded);
    d.result("third", third);
    check(&d, 1).unwrap();
    let (terms, roots) = normalise(&d.block, &d.axes);
    assert_eq!(expression(&terms, roots[0].1), "floor((t - s) / 3)");
    assert!(expression(&terms, roots[1].1).contains('*'));
}

#[test]
fn settled_choices_units_and_unused_axes() {
    let Axes4 { mut d, m, x, .. } = axes();
    let (zero, one) = (d.real(0.0), d.real(1.0));
    let (i, n) = (d.iota(m), d.int(0));
    let (below, never) = (d.map(ScalarOp::Lt, &[i, n]), d.map(ScalarOp::Lt, &[n, n]));
    let same = d.map(ScalarOp::Where, &[below, x, x]);
    let other = d.map(ScalarOp::Where, &[never, one, same]);
    let sum = d.add2(other, zero);
    let y = d.mul(one, sum);
    d.result("y", y);
    check(&d, 1).unwrap();
    let (mut terms, roots) = normalise(&d.block, &d.axes);
    assert_eq!(*terms.term(roots[0].1), Term::Param(0));
    assert!(terms.trace.fired(Law::Choose) >= 2 && terms.trace.fired(Law::Unit) >= 2);
    let e = AxisId(2);
    let sum = terms.sum(&[e].into_iter().collect(), &[roots[0].1]);
    assert_eq!(expression(&terms, sum), "4 * x");
    let most = terms.reduce(ReduceOp::Max, &[e].into_iter().collect(), roots[0].1);
    assert_eq!(most, roots[0].1);
    assert!(terms.trace.fired(Law::Length) >= 2);
}

#[test]
fn repeated_squaring_stays_small() {
    let Axes4 { mut d, mut x, .. } = axes();
    for _ in 0..60 {
        x = d.mul(x, x);
    }
    d.result("y", x);
    let (terms, _) = normalise(&d.block, &d.axes);
    assert!(terms.len() < 200);
}
