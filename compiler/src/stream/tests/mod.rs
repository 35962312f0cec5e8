mod range;
mod texts;

use super::check::{Known, Meaning, Point};
use super::*;
use crate::causality::{self, Sight};
use crate::fixture::{Fixture, close, everywhere, scrambled};
use llmc_artifact::ScalarOp;

/// Query, key and value of one token over axes e, under a causal mask.
struct Attention {
    f: Fixture,
    t: AxisId,
    s: AxisId,
    score: TermId,
    value: TermId,
}

fn attention(scale: f64) -> Attention {
    let mut f = Fixture::default();
    let (t, s) = f.seq("t", "s");
    let e = f.axis("e", 3);
    let (q, k, u) = (f.param(&[t, e]), f.param(&[t, e]), f.param(&[t, e]));
    let (k, u) = (f.read(k, s), f.read(u, s));
    let dot = f.total(&[e], &[q, k]);
    let scale = f.real(scale);
    let score = f.mul(&[dot, scale]);
    Attention { f, t, s, score, value: u }
}

impl Attention {
    fn seen(&mut self) -> TermId {
        let (s, t) = (self.f.iota(self.s), self.f.iota(self.t));
        self.f.map(ScalarOp::Le, &[s, t])
    }
    fn masked(&mut self) -> TermId {
        let seen = self.seen();
        self.f.masked(seen, self.score)
    }
}

/// Reductions over tokens below a root that are not inside another one's body.
fn loops(terms: &Terms, root: TermId) -> Vec<TermId> {
    let mut found = Vec::new();
    let mut stack = vec![root];
    while let Some(x) = stack.pop() {
        match alpha::reduction(terms, x) {
            Some((_, b)) if b.iter().any(|a| terms.axes.len_of(a).is_none()) => found.push(x),
            _ => stack.extend(terms.operands(x)),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Derives the stream behind a root and checks it by value under every way to cut six steps in three blocks.
fn streamed(f: &mut Fixture, root: TermId) -> (Stream, TermId) {
    let root = f.canonical(&[root])[0];
    let targets = loops(&f.terms, root);
    let stream = derive(&mut f.terms, &targets);
    checked(f, &stream);
    (stream, root)
}

fn checked(f: &Fixture, stream: &Stream) {
    checked_over(f, stream, 6);
}

/// As above, the loop having so many steps.
fn checked_over(f: &Fixture, stream: &Stream, steps: usize) {
    let meaning = Meaning::new(&f.terms, 6, &scrambled);
    let free = stream.states.iter().fold(Axes::none(), |a, s| a.union(f.terms.free(s.source)));
    for at in meaning.points(free.as_slice(), &Point::new()) {
        for cuts in [vec![], vec![3], vec![1, 2], vec![2, steps - 1], (1..steps).collect()] {
            let found = meaning.fold(stream, &at, &cuts);
            for state in &stream.states {
                let want = meaning.of(state.source, &at, &Default::default()).real();
                let got = found[&state.source].real();
                let floored = want.is_infinite() && got.abs() == FLOOR;
                assert!(close(got, want) || floored, "{:?} cut at {cuts:?}: {got} for {want}", state.source);
            }
        }
    }
}

#[test]
fn softmax_and_its_value_product_are_one_pass() {
    let mut a = attention(0.5);
    let masked = a.masked();
    let p = a.f.softmax(masked, a.s);
    let out = a.f.total(&[a.s], &[p, a.value]);
    let (stream, _) = streamed(&mut a.f, out);
    assert_eq!(stream.states.len(), 3, "a bound, a total and a value product: {stream:#?}");
    assert!(stream.refused.is_empty());
    assert_eq!(stream.states[0].init, Value::Real(-3e38), "the running bound starts at the text's floor");
    assert_eq!(stream.states.iter().map(|s| s.repair.scales.len()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn the_spelling_of_the_text_does_not_matter() {
    let spellings: [fn(&mut Attention) -> TermId; 5] = [
        // Division before the value product, and after it.
        |a| {
            let masked = a.masked();
            let p = a.f.softmax(masked, a.s);
            a.f.total(&[a.s], &[p, a.value])
        },
        |a| {
            let masked = a.masked();
            let floor = a.f.real(-3e38);
            let top = a.f.reduce(ReduceOp::Max, &[a.s], masked);
            let top = a.f.map(ScalarOp::Max, &[top, floor]);
            let shifted = a.f.sub(masked, top);
            let z = a.f.map(ScalarOp::Exp, &[shifted]);
            let (up, down) = (a.f.total(&[a.s], &[z, a.value]), a.f.total(&[a.s], &[z]));
            a.f.div(up, down)
        },
        // Powers of two.
        |a| {
            let masked = a.masked();
            let top = a.f.reduce(ReduceOp::Max, &[a.s], masked);
            let shifted = a.f.sub(masked, top);
            let base = a.f.real(std::f64::consts::LOG2_E);
            let shifted = a.f.mul(&[base, shifted]);
            let z = a.f.map(ScalarOp::Exp2, &[shifted]);
            let (up, down) = (a.f.total(&[a.s], &[z, a.value]), a.f.total(&[a.s], &[z]));
            a.f.div(up, down)
        },
        // The mask inside the exponent.
        |a| {
            let masked = a.masked();
            let top = a.f.reduce(ReduceOp::Max, &[a.s], masked);
            let shifted = a.f.sub(a.score, top);
            let seen = a.seen();
            let shifted = a.f.masked(seen, shifted);
            let z = a.f.map(ScalarOp::Exp, &[shifted]);
            let (up, down) = (a.f.total(&[a.s], &[z, a.value]), a.f.total(&[a.s], &[z]));
            a.f.div(up, down)
        },
        // A finite mask.
        |a| {
            let (seen, dead) = (a.seen(), a.f.real(-1e9));
            let masked = a.f.map(ScalarOp::Where, &[seen, a.score, dead]);
            let p = a.f.softmax(masked, a.s);
            a.f.total(&[a.s], &[p, a.value])
        },
    ];
    let mut wanted: Option<Vec<f64>> = None;
    for spell in spellings {
        let mut a = attention(0.5);
        let out = spell(&mut a);
        let (stream, root) = streamed(&mut a.f, out);
        assert_eq!(stream.states.len(), 3);
        assert!(stream.refused.is_empty(), "{:?}", stream.refused);
        let (key, row) = (stream.over[0], a.t);
        for s in &stream.states {
            let sight = causality::sight(&a.f.terms, s.op, s.body, key, row);
            assert_eq!(sight, Sight { causal: true, window: None });
        }
        assert!(causality::leaks(&a.f.terms, &[root]).is_empty());
        let meaning = Meaning::new(&a.f.terms, 5, &scrambled);
        let got = everywhere(&meaning, root);
        let want = wanted.get_or_insert_with(|| got.clone());
        assert!(got.iter().zip(want).all(|(a, b)| close(*a, *b)));
    }
}

#[test]
fn log_of_a_sum_of_powers() {
    let mut a = attention(1.0);
    let masked = a.masked();
    let top = a.f.reduce(ReduceOp::Max, &[a.s], masked);
    let shifted = a.f.sub(masked, top);
    let z = a.f.map(ScalarOp::Exp, &[shifted]);
    let total = a.f.total(&[a.s], &[z]);
    let log = a.f.map(ScalarOp::Log, &[total]);
    let out = a.f.add(&[log, top]);
    let (stream, _) = streamed(&mut a.f, out);
    assert_eq!(stream.states.len(), 2);
    assert_eq!(stream.states[0].init, Value::Real(-FLOOR), "differences of the bound stay defined");
}

#[test]
fn two_value_products_share_the_scores() {
    let mut a = attention(1.0);
    let masked = a.masked();
    let p = a.f.softmax(masked, a.s);
    let n = a.f.axis("n", 2);
    let w = a.f.param(&[a.t, n]);
    let w = a.f.read(w, a.s);
    let (x, y) = (a.f.total(&[a.s], &[p, a.value]), a.f.total(&[a.s], &[p, w]));
    let roots = a.f.canonical(&[x, y]);
    let targets: Vec<_> = roots.iter().flat_map(|r| loops(&a.f.terms, *r)).collect();
    let stream = derive(&mut a.f.terms, &targets);
    checked(&a.f, &stream);
    assert_eq!(stream.states.len(), 4, "one bound, one total, two value products");
}

#[test]
fn scores_of_any_size_and_rows_without_keys() {
    for scale in [1e4, -1e4] {
        let mut a = attention(scale);
        let seen = {
            let (s, t) = (a.f.iota(a.s), a.f.iota(a.t));
            a.f.map(ScalarOp::Lt, &[s, t])
        };
        let masked = a.f.masked(seen, a.score);
        let p = a.f.softmax(masked, a.s);
        let out = a.f.total(&[a.s], &[p, a.value]);
        let (_, root) = streamed(&mut a.f, out);
        let meaning = Meaning::new(&a.f.terms, 4, &scrambled);
        let got = everywhere(&meaning, root);
        assert!(got.iter().all(|x| x.is_finite()));
        assert_eq!(got[..3], [0.0; 3], "the first token sees nobody");
    }
}

#[test]
fn a_spread_follows_its_running_mean() {
    let mut f = Fixture::default();
    let (t, _) = f.seq("t", "s");
    let m = f.axis("m", 5);
    let x = f.param(&[t, m]);
    let fifth = f.real(0.2);
    let mean = f.total(&[m], &[x]);
    let mean = f.mul(&[fifth, mean]);
    let d = f.sub(x, mean);
    let out = f.total(&[m], &[d, d]);
    let root = f.canonical(&[out])[0];
    let stream = derive(&mut f.terms, &[root]);
    assert_eq!(stream.states.len(), 4, "a sum, a count, and the spread's two moments: {stream:#?}");
    assert!(stream.refused.is_empty());
    checked_over(&f, &stream, 5);
}

#[test]
fn a_body_that_does_not_separate_is_refused() {
    type Spread = fn(&mut Fixture, TermId) -> TermId;
    let cases: [(Spread, &str); 3] = [
        (|f, d| f.map(ScalarOp::Abs, &[d]), "`abs` mixes"),
        (|f, d| f.map(ScalarOp::Tanh, &[d]), "`tanh` mixes"),
        (|f, d| f.mul(&[d, d, d, d, d]), "degree"),
    ];
    for (spread, why) in cases {
        let mut f = Fixture::default();
        let (t, _) = f.seq("t", "s");
        let m = f.axis("m", 5);
        let x = f.param(&[t, m]);
        let mean = f.total(&[m], &[x]);
        let d = f.sub(x, mean);
        let body = spread(&mut f, d);
        let out = f.total(&[m], &[body]);
        let root = f.canonical(&[out])[0];
        let stream = derive(&mut f.terms, &[root]);
        assert_eq!(stream.states.len(), 1);
        assert_eq!(stream.refused.len(), 1);
        assert!(stream.refused[0].reason.contains(why), "{}", stream.refused[0].reason);
        checked_over(&f, &stream, 5);
    }
}

#[test]
fn a_wrong_repair_is_caught_by_the_checker() {
    let mut a = attention(1.0);
    let masked = a.masked();
    let p = a.f.softmax(masked, a.s);
    let out = a.f.total(&[a.s], &[p, a.value]);
    let root = a.f.canonical(&[out])[0];
    let targets = loops(&a.f.terms, root);
    let mut stream = derive(&mut a.f.terms, &targets);
    stream.states[2].repair.scales.clear();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checked(&a.f, &stream)));
    assert!(caught.is_err());
}

/// Streams of every kind of repair.
fn certificates() -> Vec<(Terms, Stream)> {
    let mut all = Vec::new();
    let mut a = attention(1.0);
    let masked = a.masked();
    let p = a.f.softmax(masked, a.s);
    let out = a.f.total(&[a.s], &[p, a.value]);
    let (stream, _) = streamed(&mut a.f, out);
    all.push((a.f.terms, stream));

    let mut f = Fixture::default();
    let (t, _) = f.seq("t", "s");
    let m = f.axis("m", 6);
    let x = f.param(&[t, m]);
    let sum = f.total(&[m], &[x]);
    let sixth = f.real(1.0 / 6.0);
    let mean = f.mul(&[sixth, sum]);
    let d = f.sub(x, mean);
    let spread = f.total(&[m], &[d, d]);
    let root = f.canonical(&[spread])[0];
    let stream = derive(&mut f.terms, &[root]);
    all.push((f.terms, stream));

    let mut f = Fixture::default();
    let (t, _) = f.seq("t", "s");
    let m = f.axis("m", 6);
    let x = f.param(&[t, m]);
    let top = f.reduce(ReduceOp::Max, &[m], x);
    let (at, last) = (f.iota(m), f.int(5));
    let here = f.map(ScalarOp::Eq, &[x, top]);
    let index = f.map(ScalarOp::Where, &[here, at, last]);
    let best = f.reduce(ReduceOp::Min, &[m], index);
    let root = f.canonical(&[best])[0];
    let stream = derive(&mut f.terms, &[root]);
    all.push((f.terms, stream));
    all
}

/// Every way to change one part of a certificate, each with what was changed.
fn mutations(terms: &mut Terms, stream: &Stream) -> Vec<(String, Stream)> {
    let mut all = Vec::new();
    let mut change = |name: String, edit: &mut dyn FnMut(&mut Stream)| {
        let mut other = stream.clone();
        edit(&mut other);
        if other != *stream {
            all.push((name, other));
        }
    };
    let two = alpha::real(terms, 2.0);
    for i in 0..stream.states.len() {
        for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
            change(format!("operation of {i}"), &mut |s| s.states[i].op = op);
        }
        change(format!("initial value of {i}"), &mut |s| {
            s.states[i].init = match s.states[i].init {
                Value::Real(_) => Value::Real(1.5),
                Value::Int(_) => Value::Int(2),
                Value::Bool(b) => Value::Bool(!b),
            };
        });
        let doubled = if terms.info(stream.states[i].body).ty == Type::Real {
            alpha::product(terms, [two, stream.states[i].body])
        } else {
            terms.add(Term::Map(ScalarOp::Neg, vec![stream.states[i].body]))
        };
        change(format!("body of {i}"), &mut |s| s.states[i].body = doubled);
        if !stream.states[i].reaches_one {
            change(format!("{i} reaches one"), &mut |s| s.states[i].reaches_one = true);
        }
        for other in 0..stream.states.len() {
            let source = stream.states[other].source;
            change(format!("source of {i}"), &mut |s| s.states[i].source = source);
            if other > i && stream.states[other].repair.moving().any(|y| holds(terms, y, &[stream.states[i].source])) {
                change(format!("order of {i} and {other}"), &mut |s| s.states.swap(i, other));
            }
        }
        let repair = stream.states[i].repair.clone();
        for n in 0..repair.anew.len() {
            change(format!("{i} keeps what was folded"), &mut |s| _ = s.states[i].repair.anew.remove(n));
        }
        for n in 0..repair.scales.len() {
            change(format!("scale {n} of {i}"), &mut |s| _ = s.states[i].repair.scales.remove(n));
            change(format!("scale {n} of {i} twice"), &mut |s| {
                let again = s.states[i].repair.scales[n].clone();
                s.states[i].repair.scales.push(again);
            });
            let opposite = alpha::negate(terms, repair.scales[n].by);
            change(format!("scale {n} of {i} turned round"), &mut |s| s.states[i].repair.scales[n].by = opposite);
            let law = if repair.scales[n].op == ScalarOp::Exp { ScalarOp::Exp2 } else { ScalarOp::Exp };
            change(format!("law of scale {n} of {i}"), &mut |s| s.states[i].repair.scales[n].op = law);
        }
        for n in 0..repair.shifts.len() {
            change(format!("shift {n} of {i}"), &mut |s| _ = s.states[i].repair.shifts.remove(n));
            change(format!("factor of shift {n} of {i}"), &mut |s| s.states[i].repair.shifts[n].factor *= -1.0);
            change(format!("power of shift {n} of {i}"), &mut |s| {
                let y = s.states[i].repair.shifts[n].by[0];
                s.states[i].repair.shifts[n].by.push(y);
            });
            for of in stream.states[..i].iter().map(|s| s.source) {
                change(format!("moment of shift {n} of {i}"), &mut |s| s.states[i].repair.shifts[n].of = of);
            }
        }
    }
    all
}

#[test]
fn no_part_of_a_certificate_can_be_changed() {
    let mut tried = 0;
    for (mut terms, stream) in certificates() {
        verify::verify(&mut terms, &stream).expect("as derived");
        for (what, other) in mutations(&mut terms, &stream) {
            assert!(verify::verify(&mut terms, &other).is_err(), "unnoticed: {what}\n{other:#?}");
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried} mutations");
}

#[test]
fn a_wrong_combination_is_caught() {
    use verify::{Joined, repaired, still};
    let agrees = |terms: &Terms, stream: &Stream, follow: &verify::Follow| {
        let still = still(terms, stream);
        (0..16).try_for_each(|draw| Joined { terms, still: &still, stream, draw }.agrees(follow))
    };
    for (terms, stream) in certificates() {
        agrees(&terms, &stream, &repaired).expect("by the repairs");
        let kept = agrees(&terms, &stream, &|state, old, _| old[&state.source]);
        assert!(kept.is_err(), "parts that are joined as they are:\n{stream:#?}");
        let lost = agrees(&terms, &stream, &|state, _, _| state.init);
        assert!(lost.is_err(), "parts that are forgotten:\n{stream:#?}");
        let back = agrees(&terms, &stream, &|state, old, at| {
            repaired(state, old, &|y| {
                let [a, b] = at(y);
                [b, a]
            })
        });
        // A spread around a mean of its own has no odd moment that would tell the direction.
        let told = stream.states.iter().any(|s| !s.repair.scales.is_empty());
        assert!(back.is_err() || !told, "parts that are repaired the wrong way:\n{stream:#?}");
    }
}

/// Folding the parts and combining them, in either order of association, is folding the whole.
fn splits(seed: u64, cuts: &[usize]) {
    for (terms, stream) in certificates() {
        let leaf = |l: check::Leaf, at: &[i64]| {
            let moved: Vec<_> = at.iter().map(|i| i + seed as i64).collect();
            scrambled(l, &moved)
        };
        let meaning = Meaning::new(&terms, 6, &leaf);
        let free = stream.states.iter().fold(Axes::none(), |a, s| a.union(terms.free(s.source)));
        for at in meaning.points(free.as_slice(), &Point::new()).into_iter().step_by(3) {
            let steps = meaning.points(&stream.over, &at);
            let whole = meaning.fold(&stream, &at, &[]);
            let bounds: Vec<_> = [0].into_iter().chain(cuts.iter().copied()).chain([steps.len()]).collect();
            let part = |w: &[usize]| meaning.fold_steps(&stream, &at, &steps[w[0]..w[1]], &[]);
            let parts: Vec<_> = bounds.windows(2).map(part).collect();
            let join = |a: Known, b: Known| meaning.combine(&stream, &at, &a, &b);
            let left = parts.iter().cloned().reduce(join).expect("a part");
            let right = parts.into_iter().rev().reduce(|b, a| join(a, b)).expect("a part");
            for s in &stream.states {
                let want = whole[&s.source].real();
                for got in [&left, &right] {
                    let got = got[&s.source].real();
                    assert!(close(got, want), "{:?} of parts {cuts:?}: {got} for {want}", s.source);
                }
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn any_split_of_a_loop_is_combined_to_the_whole(
        seed in 0u64..1000,
        mut cuts in proptest::collection::vec(0usize..=6, 0..5),
    ) {
        cuts.sort_unstable();
        splits(seed, &cuts);
    }
}
