use super::cost::Prices;
use super::extract::{Choice, cheapest, order};
use super::node::{Head, Node};
use super::rebuild::{People, rebuild};
use super::{BlockFacts, Optimized, optimize};
use crate::normal::text::{expression, reachable};
use crate::rules::{Law, Laws, Stage};
use crate::testing::draft::Draft;
use crate::testing::layer::{SMALL, Spelling, TINY, layer};
use crate::testing::points::{agree, naive, values};
use crate::testing::random::{Choices, block};
use egg::Id;
use llmc_artifact::{ScalarOp, Type};
use llmc_frontend::graph::Block;
use llmc_frontend::{Described, MODELS, compile_text, select_model};
use proptest::prelude::*;
use std::collections::HashSet;

fn optimized(d: &Draft, quantised: bool) -> Optimized {
    optimized_by(d, quantised, Laws::ALL)
}

pub(super) fn optimized_by(d: &Draft, quantised: bool, laws: Laws) -> Optimized {
    optimize(&d.block, &d.axes, &BlockFacts { quantised: vec![quantised; d.block.weights.len()], laws })
}

fn check(d: &Draft, quantised: bool, seed: u64) -> Result<(), String> {
    check_by(d, quantised, Laws::ALL, seed)
}

pub(super) fn check_by(d: &Draft, quantised: bool, laws: Laws, seed: u64) -> Result<(), String> {
    let o = optimized_by(d, quantised, laws);
    if !o.saturation.saturated {
        return Err(format!("a limit was reached: {:?} nodes", o.saturation.nodes));
    }
    let ids: Vec<_> = o.roots.iter().map(|r| r.1).collect();
    for (want, got) in naive(d, seed).iter().zip(&values(&o.terms, &ids, seed)) {
        agree(want, got, 1e-6).map_err(|e| format!("{e}\n{}\n{}", o.normal_text(), o.egraph_text()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn optimized_blocks_have_the_same_value(seed in any::<u64>(), size in 3usize..20, quantised: bool) {
        check(&block(seed, size), quantised, seed).map_err(TestCaseError::fail)?;
    }

}

/// Blocks that have been near the limit, in every size.
#[test]
fn known_blocks_saturate_in_few_nodes() {
    for size in 3..20 {
        for quantised in [false, true] {
            let s = optimized(&block(7_442_120_008_652_020_447, size), quantised).saturation;
            assert!(s.saturated && s.nodes < 500, "{size}, {quantised}: {} nodes", s.nodes);
        }
    }
    // Powers of scalars beside sums.
    let s = optimized(&block(12_125_314_329_662_200_573, 9), false).saturation;
    assert!(s.saturated && s.nodes < 500, "powers: {} nodes", s.nodes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is chosen of any class is equal: rules that look right one by one have captured axes together.
    #[test]
    fn random_choices_of_random_classes_are_equal(seed in any::<u64>(), size in 3usize..14) {
        random_choices(&block(seed, size), Laws::ALL, seed, 2, usize::MAX).map_err(TestCaseError::fail)?;
    }
}

/// A choice made at random, without circles.
fn shuffled(o: &Optimized, base: &Choice, random: &mut Choices) -> Choice {
    let mut choice = base.clone();
    let mut classes: Vec<Id> = o.egraph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    for _ in 0..2 * classes.len() {
        let class = classes[random.below(classes.len())];
        let mut nodes = o.egraph[class].nodes.clone();
        nodes.sort_unstable();
        let kept = choice.insert(class, nodes[random.below(nodes.len())].clone()).expect("every class has a choice");
        if order(&o.egraph, &choice, &classes).is_none() {
            choice.insert(class, kept);
        }
    }
    choice
}

/// Whether a choice has a circle below a class, by walking every path.
fn has_circle(o: &Optimized, choice: &Choice, class: Id, path: &mut Vec<Id>, known: &mut HashSet<Id>) -> bool {
    let class = o.egraph.find(class);
    if path.contains(&class) {
        return true;
    }
    if known.contains(&class) {
        return false;
    }
    path.push(class);
    let found = choice[&class].children.iter().any(|x| has_circle(o, choice, *x, path, known));
    path.pop();
    known.insert(class);
    found
}

/// Choices made blindly have circles here and there: those have no order, all others have one with operands first.
#[test]
fn choices_with_circles_are_told_apart() {
    let (mut circles, mut orders) = (0usize, 0usize);
    for seed in 0..40 {
        let o = optimized(&block(seed, 16), false);
        let mut random = Choices(seed);
        for _ in 0..20 {
            let pick = |nodes: &[Node], random: &mut Choices| nodes[random.below(nodes.len())].clone();
            let choice: Choice = o.egraph.classes().map(|c| (c.id, pick(&c.nodes, &mut random))).collect();
            let circle = o.classes.iter().any(|c| has_circle(&o, &choice, *c, &mut vec![], &mut HashSet::new()));
            let order = order(&o.egraph, &choice, &o.classes);
            assert_eq!(order.is_none(), circle, "seed {seed}");
            for (n, class) in order.iter().flatten().enumerate() {
                let before = &order.as_ref().expect("it is walked")[..n];
                assert!(choice[class].children.iter().all(|x| before.contains(&o.egraph.find(*x))));
            }
            let Some(order_of) = order else { continue };
            orders += 1;
            // A circle by hand: what is made first is said to be made of what is made last.
            let (first, last) = (order_of[0], *order_of.last().expect("a root"));
            if first != last {
                let mut bent = choice;
                bent.insert(first, Node { head: Head::Product, children: vec![last, last] });
                let circle = has_circle(&o, &bent, last, &mut vec![], &mut HashSet::new());
                assert_eq!(super::extract::order(&o.egraph, &bent, &[last]).is_none(), circle, "seed {seed}");
                circles += usize::from(circle);
            }
        }
    }
    assert!(circles > 100 && orders > 100, "{circles} circles, {orders} orders");
}

/// Compares `most` of the classes, drawn at random.
pub(super) fn random_choices(d: &Draft, laws: Laws, seed: u64, rounds: usize, most: usize) -> Result<(), String> {
    let o = optimized_by(d, false, laws);
    let base = cheapest(&o.egraph, &Prices::new(&o.egraph), &Choice::new());
    let mut classes: Vec<Id> = o.egraph.classes().filter(|c| c.nodes.len() > 1).map(|c| c.id).collect();
    classes.sort_unstable();
    let mut random = Choices(seed);
    while classes.len() > most {
        classes.swap_remove(random.below(classes.len()));
    }
    for _ in 0..rounds {
        let choice = shuffled(&o, &base, &mut random);
        for class in &classes {
            let mut sides = Vec::new();
            for choice in [&base, &choice] {
                let (terms, roots) = rebuild(&o.egraph, choice, &People::new(), &[*class]);
                sides.push((values(&terms, &roots, seed).remove(0), expression(&terms, roots[0])));
            }
            agree(&sides[0].0, &sides[1].0, 1e-6).map_err(|e| format!("{e}\n{}\n{}", sides[0].1, sides[1].1))?;
        }
    }
    Ok(())
}

/// Every distinct block of every text, as small as it can be.
fn real_blocks() -> Vec<(String, Draft)> {
    let list: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/cases/smallest.json")).expect("a list");
    let mut found = Vec::new();
    for described in list.as_array().expect("a list") {
        let config = Described::from_json(&described.to_string()).expect("a description");
        let (name, text) = select_model(MODELS.iter().copied(), &config).expect("a text fits");
        let model = compile_text(name, text, Some(&config)).model.expect("the text checks").into_inner();
        let draft = |b: &Block| (format!("{name} {}", b.name), Draft { axes: model.axes.clone(), block: b.clone() });
        found.extend(model.blocks.iter().map(draft));
    }
    found
}

/// Real layers keep their value, as they are chosen and whatever is chosen of their classes.
#[test]
fn real_layers_and_random_choices_of_their_classes_are_equal() {
    for (name, draft) in real_blocks() {
        check(&draft, false, 3).unwrap_or_else(|e| panic!("{name}: {e}"));
        random_choices(&draft, Laws::ALL, 7, 2, 12).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Both sides of every join have one value.
pub(super) fn joins_are_equal(o: &Optimized, seed: u64, fired: &mut [u64]) -> Result<(), String> {
    let base = cheapest(&o.egraph, &Prices::new(&o.egraph), &Choice::new());
    for (law, before, after) in &o.saturation.joins {
        let mut sides = Vec::new();
        for node in [before, after] {
            let mut node = node.clone();
            node.children.iter_mut().for_each(|x| *x = o.egraph.find(*x));
            let Some(class) = o.egraph.lookup(node.clone()) else { continue };
            let mut choice = base.clone();
            choice.insert(class, node);
            if order(&o.egraph, &choice, &[class]).is_none() {
                continue;
            }
            let (terms, roots) = rebuild(&o.egraph, &choice, &People::new(), &[class]);
            sides.push((values(&terms, &roots, seed).remove(0), expression(&terms, roots[0])));
        }
        if let [a, b] = &sides[..] {
            fired[*law as usize] += 1;
            agree(&a.0, &b.0, 1e-6).map_err(|e| format!("{}: {e}\n{}\n{}", law.name(), a.1, b.1))?;
        }
    }
    Ok(())
}

/// Every law of the e-graph joins something new on random blocks or on a layer, and what it joins is equal.
#[test]
fn every_law_of_the_egraph_fires_and_holds() {
    let mut fired = vec![0; Law::ALL.len()];
    for seed in 0..250 {
        let d = if seed % 50 == 0 { layer(TINY, spellings()[seed as usize % 16]) } else { block(seed, 18) };
        let o = optimized(&d, seed % 2 == 0);
        fired[Law::Commute as usize] += o.saturation.trace.fired(Law::Commute);
        joins_are_equal(&o, seed, &mut fired).unwrap_or_else(|e| panic!("{e}"));
    }
    for law in Law::ALL.iter().filter(|l| l.stage() == Stage::Saturate) {
        println!("{:10} {}", law.name(), fired[*law as usize]);
        assert!(fired[*law as usize] > 0, "{} never fired", law.name());
    }
}

/// Without any one law a block has the same value, and the law is not applied.
#[test]
fn every_law_can_be_switched_off() {
    let mut fired = vec![0; Law::ALL.len()];
    let count = |o: &Optimized, law| o.normal.0.trace.fired(law) + o.saturation.trace.fired(law);
    for seed in 0..60 {
        let d = if seed % 20 == 0 { layer(TINY, spellings()[seed as usize % 16]) } else { block(seed, 14) };
        let want = naive(&d, seed);
        let whole = optimized(&d, false);
        for law in Law::ALL.iter().copied().filter(|l| l.needed().is_none()) {
            if count(&whole, law) == 0 {
                continue;
            }
            let o = optimized_by(&d, false, Laws::ALL.without(law));
            assert_eq!(count(&o, law), 0, "{} is switched off", law.name());
            assert!(o.saturation.saturated, "without {}", law.name());
            fired[law as usize] += 1;
            let ids: Vec<_> = o.roots.iter().map(|r| r.1).collect();
            for (want, got) in want.iter().zip(&values(&o.terms, &ids, seed)) {
                agree(want, got, 1e-6).unwrap_or_else(|e| {
                    panic!("without {}: {e}\n{}\n{}", law.name(), o.normal_text(), o.egraph_text())
                });
            }
        }
    }
    for law in Law::ALL.iter().filter(|l| l.needed().is_none()) {
        assert!(fired[*law as usize] > 0, "{} was never needed", law.name());
    }
}

pub(super) fn spellings() -> Vec<Spelling> {
    let bit = |n: u32, b: u32| n >> b & 1 == 1;
    let of =
        |n| Spelling { divide_late: bit(n, 0), scale_late: bit(n, 1), read_early: bit(n, 2), scale_queries: bit(n, 3) };
    (0..16).map(of).collect()
}

#[test]
fn a_layer_keeps_its_value_in_every_spelling() {
    for (n, spelling) in spellings().into_iter().enumerate() {
        for quantised in [false, true] {
            check(&layer(TINY, spelling), quantised, n as u64).unwrap();
        }
    }
}

/// The forms that a layer's projections, attention and gating take, on float and on quantised weights.
#[test]
fn a_layer_takes_the_known_form_in_every_spelling() {
    for spelling in spellings() {
        let float = optimized(&layer(SMALL, spelling), false).egraph_text();
        let quantised = optimized(&layer(SMALL, spelling), true).egraph_text();
        let has = |text: &str, what: &str| assert!(text.contains(what), "no `{what}` in\n{text}");
        // The gain and the scores' scale are in the weight, or the gain in the activation; the row's is outside either way.
        has(&float, "sum[m'1](x[m = m'1] * (0.125 * (attn_norm[m = m'1] * wq[m = m'1, k = k'1, g = g'1, e = e'1])))");
        has(&quantised, "let v4[t, m'1] = attn_norm[m = m'1] * x[m = m'1]");
        has(&quantised, "sum[m'1](wq[m = m'1, k = k'1, g = g'1, e = e'1] * v4)");
        for text in [&float, &quantised] {
            // Division after the value product, scores from rotated keys, one read of scaled values.
            has(text, " = recip(max(1, sum[s'2](");
            has(text, "* v1)[t = s'2] * ");
            assert_eq!(text.matches(" * wo[").count() + text.matches("(wo[").count(), 2, "{text}");
            assert!(text.contains("saturated"));
        }
    }
}

/// A layer norm's mean is a rank-one correction beside the product; on quantised weights it stays in the prologue.
#[test]
fn a_layer_norm_becomes_a_product_and_a_rank_one_correction() {
    let of = |sizes: (u64, u64)| {
        let mut d = Draft::new();
        let (t, m, n) = (d.seq("t"), d.axis("m", sizes.0), d.axis("n", sizes.1));
        let x = d.param("x", &[t, m], Type::Real);
        let (gain, bias, w) = (d.weight("gain", &[m]), d.weight("bias", &[m]), d.weight("w", &[n, m]));
        let y = d.layer_norm(m, x, gain, bias);
        let p = d.mul(w, y);
        let sum = d.sum(&[m], p);
        d.result("y", sum);
        d
    };
    check(&of((3, 4)), false, 1).unwrap();
    check(&of((3, 4)), true, 1).unwrap();
    let float = optimized(&of((768, 768)), false).egraph_text();
    for part in [
        "let v3[n, m'1] = gain[m = m'1] * w[m = m'1]",
        "(sum[m'1](v3) * v1 + sum[m'1](x[m = m'1] * v3)) * recip(",
        " + sum[m'1](bias[m = m'1] * w[m = m'1])",
    ] {
        assert!(float.contains(part), "no `{part}` in\n{float}");
    }
    let quantised = optimized(&of((768, 768)), true).egraph_text();
    assert!(quantised.contains("sum[m'3](w[m = m'3] * ("), "{quantised}");
    assert!(!quantised.contains("* w["), "a quantised weight stays as it is\n{quantised}");
}

/// Keys of relative positions: a product with the table of all distances, then a gather.
#[test]
fn relative_keys_become_a_small_product_and_a_gather() {
    let mut d = Draft::new();
    let (t, s, e, r) = (d.seq("t"), d.view("s"), d.axis("e", 64), d.axis("r", 33));
    let (q, rk) = (d.param("q", &[t, e], Type::Real), d.weight("rk", &[r, e]));
    let (i, j, low, high, c) = (d.iota(s), d.iota(t), d.int(-16), d.int(16), d.int(16));
    let gap = d.map(ScalarOp::Sub, &[i, j]);
    let above = d.map(ScalarOp::Max, &[gap, low]);
    let clipped = d.map(ScalarOp::Min, &[above, high]);
    let at = d.map(ScalarOp::Add, &[clipped, c]);
    let key = d.index(rk, r, at);
    let p = d.mul(q, key);
    let score = d.sum(&[e], p);
    d.result("score", score);
    check(&d, false, 5).unwrap();
    let text = optimized(&d, false).egraph_text();
    assert!(text.contains("sum[e'1](rk[e = e'1] * q[e = e'1])[r = "), "{text}");
}

/// Masked scores stay zeros and huge ones finite, whichever form is chosen; a row that sees nothing is zero.
#[test]
fn masks_and_large_scores_stay_in_range() {
    for (scale, seen) in [(1.0, true), (1e4, true), (-1e4, true), (1e4, false)] {
        let mut d = Draft::new();
        let (t, s, e) = (d.seq("t"), d.view("s"), d.axis("e", 3));
        let (a, u) = (d.param("a", &[t], Type::Real), d.param("u", &[t, e], Type::Real));
        let (c, other) = (d.real(scale), d.rename(a, t, s));
        let p = d.mul(a, other);
        let score = d.mul(c, p);
        let (i, j, dead) = (d.iota(s), d.iota(t), d.real(f64::NEG_INFINITY));
        let mask = d.map(if seen { ScalarOp::Le } else { ScalarOp::Lt }, &[i, j]);
        let score = d.map(ScalarOp::Where, &[mask, score, dead]);
        let (z, total) = d.softmax_parts(s, score);
        let weight = d.div(z, total);
        let value = d.rename(u, t, s);
        let p = d.mul(weight, value);
        let sum = d.sum(&[s], p);
        d.result("y", sum);
        let o = optimized(&d, false);
        let got = values(&o.terms, &[o.roots[0].1], 11).remove(0);
        agree(&naive(&d, 11)[0], &got, 1e-9).unwrap();
        assert!(got.iter().all(|v| v.real().is_finite()));
        assert_eq!(got[..3].iter().all(|v| v.real() == 0.0), !seen);
    }
}

/// A softmax and its logarithm without a shift are in range, whatever the scores: what they are is what the shifted ones
/// are, which the text here has.
#[test]
fn unshifted_powers_stay_in_range() {
    for (scale, seen, masked) in
        [(1.0, true, 0), (1e4, true, 0), (-1e4, true, 1), (1e4, false, 0), (1e4, false, 1), (1e-310, true, 2)]
    {
        let spell = |shifted: bool| {
            let mut d = Draft::new();
            let (t, s, e) = (d.seq("t"), d.view("s"), d.axis("e", 3));
            let (a, u) = (d.param("a", &[t], Type::Real), d.param("u", &[t, e], Type::Real));
            let (c, there) = (d.real(scale), d.rename(a, t, s));
            let p = d.mul(a, there);
            let score = d.mul(c, p);
            let (i, j) = (d.iota(s), d.iota(t));
            let mask = d.map(if seen { ScalarOp::Le } else { ScalarOp::Lt }, &[i, j]);
            let (dead, zero) = (d.real(f64::NEG_INFINITY), d.real(0.0));
            let dead_score = d.map(ScalarOp::Where, &[mask, score, dead]);
            let (z, total) = match (shifted, masked) {
                (true, _) => d.softmax_parts(s, dead_score),
                (false, 1) => {
                    let power = d.map(ScalarOp::Exp, &[score]);
                    let z = d.map(ScalarOp::Where, &[mask, power, zero]);
                    (z, d.sum(&[s], z))
                }
                (false, _) => {
                    let z = d.map(ScalarOp::Exp, &[dead_score]);
                    (z, d.sum(&[s], z))
                }
            };
            let value = d.rename(u, t, s);
            let y = match masked {
                0 => {
                    let weight = d.div(z, total);
                    let p = d.mul(weight, value);
                    d.sum(&[s], p)
                }
                _ => {
                    let p = d.mul(value, z);
                    let p = d.sum(&[s], p);
                    d.div(p, total)
                }
            };
            d.result("y", y);
            if !shifted && seen {
                let log = d.map(ScalarOp::Log, &[total]);
                d.result("log", log);
            }
            d
        };
        let o = optimized(&spell(false), false);
        let ids: Vec<_> = o.roots.iter().map(|r| r.1).collect();
        let got = values(&o.terms, &ids, 11);
        agree(&naive(&spell(true), 11)[0], &got[0], 1e-9).unwrap();
        assert!(got.iter().flatten().all(|v| v.real().is_finite()), "{scale} {seen} {masked}: {got:?}");
        assert_eq!(got[0][..3].iter().all(|v| v.real() == 0.0), !seen);
    }
}

/// The same text with other names gives the same form, and every run gives the same.
#[test]
fn names_and_runs_do_not_matter() {
    let plain = layer(SMALL, Spelling::default());
    let once = optimized(&plain, false).egraph_text();
    assert_eq!(once, optimized(&plain, false).egraph_text());
    let mut renamed = layer(SMALL, Spelling::default());
    let swap = |name: &str| format!("{}q", name.chars().rev().collect::<String>());
    renamed.axes.0.iter_mut().for_each(|a| a.name = swap(&a.name));
    let (a, b) = (optimized(&plain, false), optimized(&renamed, false));
    let shapes = |o: &Optimized| {
        reachable(&o.terms, o.roots.iter().map(|r| r.1)).iter().map(|id| o.terms.term(*id).clone()).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&a), shapes(&b));
    assert_eq!(a.cost, b.cost);
}

/// Every block of the model texts that come with the compiler saturates, whatever the weights.
#[test]
fn model_texts_saturate() {
    for (name, text) in llmc_frontend::compile::MODELS {
        let compiled = llmc_frontend::compile::compile_text(name, text, None);
        let model = compiled.model.expect("the text checks");
        for block in &model.blocks {
            for quantised in [false, true] {
                let facts = BlockFacts { quantised: vec![quantised; block.weights.len()], laws: Laws::ALL };
                let now = std::time::Instant::now();
                let o = optimize(block, &model.axes, &facts);
                println!("{name} {} {:?}\n{}\n{}", block.name, now.elapsed(), o.normal_text(), o.egraph_text());
                assert!(o.saturation.saturated, "{name}: {}", block.name);
            }
        }
    }
}
