//! Streams from the naive text: derived through every stage in several spellings and under other names, and checked by
//! value against the reference evaluator, interpreted and compiled. Beside each stands a body that does not separate.

use crate::testing::text::{Text, kernels};

/// A model of one block: values over tokens, logits, queries, keys and values, and weights over some of their axes.
fn model(body: &str) -> String {
    let head = "model subject {
  size model = 24, vocab = 37, part = 5
  axis m = model, v = vocab, e = part, r = 7
  seq t
  axis s = t
  input x[t, m]: real
  input y[t, v]: real
  input q[t, e]: real
  input k[t, e]: real
  input u[t, e]: real
  input target[t]: int < vocab
  weight head[v, m] = hf \"head\", rk[r, e] = hf \"rk\", gain[m] = hf \"gain\"
";
    format!("{head}{body}\n}}\n")
}

/// The same text under other names.
fn renamed(text: &str) -> String {
    let names = [
        ("x", "stream"),
        ("y", "scores"),
        ("t", "here"),
        ("s", "there"),
        ("m", "wide"),
        ("v", "word"),
        ("e", "piece"),
        ("r", "offset"),
        ("q", "asks"),
        ("k", "holds"),
        ("u", "gives"),
        ("head", "table"),
        ("target", "right"),
        ("d", "away"),
        ("p", "share"),
        ("l", "raw"),
        ("top", "peak"),
        ("w", "dot"),
        ("z", "power"),
        ("rk", "shifted"),
    ];
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (found, after) = rest.split_at(word.max(1).min(rest.len()));
        let new = names.iter().find(|(old, _)| *old == found).map_or(found, |(_, new)| new);
        out.push_str(new);
        rest = after;
    }
    out
}

fn text(body: &str) -> Text {
    kernels(&model(body)).unwrap_or_else(|e| panic!("{e}\n{body}"))
}

/// Each spelling is so many kernels, as under other names, refuses nothing, and means what the text says.
fn goal(spellings: &[&str], count: usize, tolerance: f64) {
    for body in spellings {
        for source in [model(body), renamed(&model(body))] {
            let made = kernels(&source).unwrap_or_else(|e| panic!("{e}\n{source}"));
            let shown = made.shown();
            assert_eq!(made.fused.groups.len(), count, "{body}\n{shown}");
            assert!(!shown.contains("takes a pass before"), "{body}\n{shown}");
            assert!(made.streams().iter().all(|s| s.refused.is_empty()));
            made.agrees(19, tolerance);
        }
    }
}

/// A body that takes more passes, and why.
fn refused(body: &str, why: &str) {
    let made = text(body);
    let shown = made.shown();
    let line = shown.lines().find(|l| l.contains("takes a pass before"));
    assert!(line.is_some_and(|l| l.contains(why)), "{shown}");
    made.agrees(9, 1e-5);
}

const SCORE: &str = "  let w = where(s <= t, sum[e](q * k[t = s]) / sqrt(len(e)), -inf)\n";

#[test]
fn softmax_and_value_product() {
    let with = |rest: &str| format!("{SCORE}{rest}");
    let bodies = [
        with("  output o[t, e] = sum[s](softmax[s](w) * u[t = s])"),
        with("  let z = exp(w - max[s](w))\n  output o[t, e] = sum[s](z * u[t = s]) / sum[s](z)"),
        with("  let z = exp(w - max[s](w))\n  output o[t, e] = sum[s](z / sum[s](z) * u[t = s])"),
        with(
            "  let z = exp2((w - max[s](w)) * 1.4426950408889634)\n  output o[t, e] = sum[s](z * u[t = s]) / sum[s](z)",
        ),
        "  let w = where(s <= t, sum[e](q * k[t = s]) / sqrt(len(e)), -1e9)\n  \
         output o[t, e] = sum[s](softmax[s](w) * u[t = s])"
            .to_owned(),
    ];
    goal(&bodies.each_ref().map(String::as_str), 2, 1e-5);
    refused(
        &with("  let z = where(s <= t, 1 / (1 + exp(max[s](w) - w)), 0)\n  output o[t, e] = sum[s](z * u[t = s])"),
        "mixes the loop's own values with the earlier result",
    );
}

/// A position beside the weights is a number like any other, also where a block is asked whether it counts.
#[test]
fn the_place_that_is_looked_at() {
    for mask in ["s <= t", "s <= t and (s < 4 or s // 8 == t // 8)"] {
        let made = text(&format!(
            "  let p = softmax[s](where({mask}, sum[e](q * k[t = s]), -inf))\n  output o[t] = sum[s](p * s)"
        ));
        made.agrees(19, 1e-5);
    }
}

#[test]
fn any_score() {
    let scores = [
        "sum[e](q * k[t = s]) - 0.1 * (t - s)",
        "5 * tanh(sum[e](q * k[t = s]) / 5)",
        "sum[e](q * k[t = s]) + sum[e](q * rk[r = clip(s - t, -3, 3) + 3])",
    ];
    for score in scores {
        let made = text(&format!(
            "  let p = softmax[s](where(s <= t, {score}, -inf))\n  output o[t, e] = sum[s](p * u[t = s])"
        ));
        let streams = made.streams();
        let attention = streams.iter().filter(|s| s.states.len() == 3).count();
        assert_eq!(attention, 1, "{}", made.shown());
        made.agrees(9, 1e-5);
    }
}

#[test]
fn log_of_a_sum_of_powers() {
    goal(
        &[
            "  output o[t] = log(sum[v](exp(y - max[v](y)))) + max[v](y)",
            "  let top = max[v](y)\n  output o[t] = top + log(sum[v](exp(y - top)))",
            "  let top = 1.4426950408889634 * max[v](y)\n  \
             output o[t] = 0.6931471805599453 * (top + log2(sum[v](exp2(1.4426950408889634 * y - top))))",
        ],
        1,
        1e-5,
    );
    refused(
        "  output o[t] = log(sum[v](erf(y - max[v](y)) + 2))",
        "mixes the loop's own values with the earlier result",
    );
}

#[test]
fn cross_entropy_with_its_head() {
    let spellings = [
        "  let l = sum[m](head * x)\n  let top = max[v](l)\n  \
         output o[t] = log(sum[v](exp(l - top))) + top - l[v = target]",
        "  let l = sum[m](head * x)\n  output o[t] = -log(softmax[v](l)[v = target])",
        "  let l = sum[m](x * head)\n  let top = max[v](l)\n  \
         output o[t] = log(sum[v](exp(l - top))) + top - sum[v](where(v == target, l, 0))",
    ];
    // A logit read at the target is a row of the head; picked out by a condition it is a sum of the loop itself.
    goal(&spellings[..2], 2, 1e-5);
    goal(&spellings[2..], 1, 1e-5);
    for body in spellings {
        let made = text(body);
        let wide = made.fused.terms.stored.iter().any(|(axes, _)| axes.len() > 1);
        assert!(!wide, "a value over tokens and vocabulary is stored:\n{}", made.shown());
    }
    // Who asks for the logits gets them stored, once.
    let both = text(&format!("{}\n  output logits[t, v] = l", spellings[0]));
    assert!(both.fused.terms.stored.iter().any(|(axes, _)| axes.len() == 2));
    both.agrees(9, 1e-5);
}

#[test]
fn mean_and_variance() {
    goal(
        &[
            "  let d = x - mean[m](x)\n  output o[t] = mean[m](d * d)",
            "  output o[t] = sum[m]((x - mean[m](x)) ^ 2) / len(m)",
            "  output o[t] = mean[m](x * x) - mean[m](x) * mean[m](x)",
            "  let d = sum[m](x) / len(m) - x\n  output o[t] = sum[m](d * d / len(m))",
        ],
        1,
        1e-5,
    );
    // The whole of a layer norm, a covariance, and a third moment are of the same kind.
    goal(&["  output o[t, m] = (x - mean[m](x)) / sqrt(mean[m]((x - mean[m](x)) ^ 2) + 1e-5)"], 1, 1e-5);
    goal(&["  let d = x - mean[m](x)\n  output o[t] = mean[m](d * d * d)"], 1, 1e-5);
    refused("  output o[t] = mean[m](abs(x - mean[m](x)))", "`abs` mixes");
}

#[test]
fn a_spread_far_from_zero_keeps_its_digits() {
    // Around zero f32 would leave nothing of it: 1e4 squared has no digit for a spread of one third.
    let made = text("  let far = x + 1e4\n  let d = far - mean[m](far)\n  output o[t] = mean[m](d * d)");
    assert_eq!(made.fused.groups.len(), 1);
    made.agrees(5, 3e-3);
}

#[test]
fn arg_max_with_softmax() {
    let sure = "  output sure[t] = 1 / sum[v](exp(y - max[v](y)))";
    let spellings = [
        "  output best[t] = min[v](where(y == max[v](y), v, len(v) - 1))",
        "  output best[t] = min[v](where(y >= max[v](y), v, len(v)))",
        "  output best[t] = -max[v](where(y < max[v](y), -len(v), -v))",
        "  let top = max[v](y)\n  output best[t] = sum[v](where(top == y, v * 1.0, 0))",
    ];
    let all = spellings.map(|s| format!("{s}\n{sure}"));
    goal(&all.each_ref().map(String::as_str), 1, 1e-5);
    // The runner-up lies below the bound itself.
    refused("  let top = max[v](y)\n  output o[t] = max[v](where(y < top, y, -inf))", "decides what counts");
}

#[test]
fn two_value_products_share_the_scores() {
    let with = |rest: &str| format!("{SCORE}{rest}");
    let bodies = [
        with(
            "  let p = softmax[s](w)\n  output o[t, e] = sum[s](p * u[t = s])\n  output z[t, e] = sum[s](p * k[t = s])",
        ),
        with(
            "  let z = exp(w - max[s](w))\n  let d = sum[s](z)\n  output o[t, e] = sum[s](z * u[t = s]) / d\n  \
             output p[t, e] = sum[s](z * k[t = s]) / d",
        ),
        with(
            "  let p = softmax[s](w)\n  output o[t, e] = sum[s](u[t = s] * p)\n  output z[t, e] = sum[s](p * k[t = s])",
        ),
    ];
    goal(&bodies.each_ref().map(String::as_str), 2, 1e-5);
}

#[test]
fn the_statistic_of_a_norm_is_taken_in_the_product_s_loop() {
    goal(
        &[
            "  output o[t, v] = sum[m](head * rms_norm[m](x, gain, 1e-5))",
            "  output o[t, v] = sum[m](head * gain * x) / sqrt(mean[m](x * x) + 1e-5)",
            "  let h = x / sqrt(sum[m](x ^ 2) / len(m) + 1e-5)\n  output o[t, v] = sum[m](head * h * gain)",
        ],
        1,
        1e-5,
    );
}

/// Attention under a mask, and the mask itself.
struct Mask {
    text: &'static str,
    sees: fn(i64, i64) -> bool,
    /// Whether the kernel has a condition, beyond the range that a causal mask and a window leave.
    condition: bool,
}

const MASKS: [Mask; 8] = [
    Mask { text: "s <= t", sees: |s, t| s <= t, condition: false },
    Mask { text: "s <= t and t - s < 20", sees: |s, t| s <= t && t - s < 20, condition: false },
    Mask { text: "s <= t or s < 40", sees: |s, t| s <= t || s < 40, condition: true },
    Mask { text: "s // 48 == t // 48", sees: |s, t| s / 48 == t / 48, condition: true },
    Mask { text: "s <= t and s // 48 == t // 48", sees: |s, t| s <= t && s / 48 == t / 48, condition: true },
    Mask { text: "s <= t and (s < 16 or t - s < 20)", sees: |s, t| s <= t && (s < 16 || t - s < 20), condition: true },
    Mask { text: "abs(s - t) < 20", sees: |s, t| (s - t).abs() < 20, condition: true },
    Mask {
        text: "not (s > t) and max(t - s, 0) <= 19 or not (s >= 16) and t >= s",
        sees: |s, t| s <= t && (s < 16 || t - s < 20),
        condition: true,
    },
];

#[test]
fn blocks_without_a_key_that_counts_are_never_visited() {
    const TOKENS: i64 = 150;
    for mask in MASKS {
        let score = format!("where({}, sum[e](q * k[t = s]), -inf)", mask.text);
        let made = text(&format!("  output o[t, e] = sum[s](softmax[s]({score}) * u[t = s])"));
        let specs: Vec<_> = crate::kernel::lower::lower(&made.fused, "b").block.kernels;
        let conditions = specs.iter().filter(|k| k.spec.to_string().contains("fold s where")).count();
        assert_eq!(conditions, usize::from(mask.condition), "{}", mask.text);
        let found = made.visited(TOKENS as u64, 16);
        for (t, blocks) in (0..TOKENS).zip(&found) {
            let counts = |base: &i64| (*base..(base + 16).min(TOKENS)).any(|s| (mask.sees)(s, t));
            let wanted: Vec<_> = (0..TOKENS).step_by(16).filter(counts).collect();
            assert_eq!(*blocks, wanted, "{} at {t}", mask.text);
        }
        // The kernels visit no other: what is never read may be anything.
        let (want, seen) = (made.meaning(TOKENS as u64).swap_remove(0), &found[TOKENS as usize - 1]);
        let unseen = |s: i64| !seen.contains(&(s / 16 * 16));
        for got in made.last_row_without(TOKENS as u64, "u", &unseen) {
            crate::testing::machine::assert_close(&got, &want[want.len() - got.len()..], 1e-5);
        }
    }
}

#[test]
fn a_key_that_a_mask_denies_in_a_visited_block_is_read() {
    // What the test above relies on: a value that is read where it should not be is seen.
    let made = text(
        "  let w = where(s <= t and (s < 16 or t - s < 20), sum[e](q * k[t = s]), -inf)\n  \
         output o[t, e] = sum[s](softmax[s](w) * u[t = s])",
    );
    let [_, compiled] = made.last_row_without(150, "u", &|s| s == 128);
    assert!(compiled.iter().all(|x| x.is_nan()), "{compiled:?}");
}

#[test]
fn scores_of_any_size_and_rows_without_keys() {
    for mask in ["s < t", "s <= t and s // 4 == t // 4 - 1"] {
        let bodies = [
            format!(
                "  let w = where({mask}, sum[e](q * k[t = s]), -inf)\n  output o[t, e] = sum[s](softmax[s](w) * u[t = s])"
            ),
            format!(
                "  let w = where({mask}, sum[e](q * k[t = s]), -inf)\n  let z = exp(w - max(max[s](w), -3e38))\n  \
                 output o[t, e] = sum[s](z * u[t = s]) / max(sum[s](z), 1)"
            ),
        ];
        for body in bodies {
            for scale in [1e-30, 1.0, 1e2] {
                let mut made = text(&body);
                made.scale = scale;
                // A score of 1e4 has an error of 1e-3 in f32, and so have powers of it.
                made.agrees(19, if scale > 1.0 { 5e-3 } else { 1e-5 });
                let rows = made.meaning(19).swap_remove(0);
                assert!(rows[..5].iter().all(|x| *x == 0.0), "the first row sees nobody");
            }
        }
    }
}
