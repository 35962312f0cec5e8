//! Ranges: infinite, huge and subnormal scores and values in one row, and rows that see nothing. What the text means is
//! what its kernels compute, interpreted and compiled, all tokens at once and a few at a time; where it is no number, they
//! have none.

use crate::testing::text::{Text, kernels};

const TOKENS: u64 = 40;

/// Attention whose scores have an addend of the key alone, `c`.
fn text(body: &str) -> Text {
    let source = format!(
        "model subject {{
  axis e = 5
  seq t
  axis s = t
  input q[t, e]: real
  input k[t, e]: real
  input u[t, e]: real
  input c[t]: real
  let a = sum[e](q * k[t = s]) + c[t = s]
{body}
}}
"
    );
    kernels(&source).unwrap_or_else(|e| panic!("{e}\n{body}"))
}

/// Elementwise within `tolerance` of the largest number, and no number where none is wanted.
fn same(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    let size = want.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let close = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * size;
        assert!(close, "{what}: element {i} is {a} instead of {b}");
    }
}

/// The text's results over these inputs are those that a text means, which may be itself.
fn agrees(made: &Text, meaning: &Text, tolerance: f64, what: &str) -> Vec<Vec<f64>> {
    let want = meaning.meaning(TOKENS);
    for compiled in [false, true] {
        for (got, want) in made.results(TOKENS, compiled).iter().zip(&want) {
            same(got, want, tolerance, what);
        }
    }
    same(&made.in_chunks(TOKENS, &[1, 2, 9, 33, TOKENS]), &want[0], tolerance, what);
    want
}

/// Spellings that have a shift of their own, by a mask that is their argument.
fn shifted(mask: &str) -> [String; 4] {
    [
        format!("  output y[t, e] = sum[s](softmax[s](where({mask}, a, -inf)) * u[t = s])"),
        format!(
            "  let w = where({mask}, a, -inf)\n  let z = exp(w - max(max[s](w), -3e38))\n  \
             output y[t, e] = sum[s](z * u[t = s]) / max(sum[s](z), 1)"
        ),
        format!(
            "  let w = where({mask}, a, -inf) * 1.4426950408889634\n  let z = exp2(w - max(max[s](w), -3e38))\n  \
             output y[t, e] = sum[s](u[t = s] * z) / max(sum[s](z), 1)"
        ),
        format!("  output y[t, e] = sum[s](softmax[s](where({mask}, 1, 0) * a + where({mask}, 0, -inf)) * u[t = s])"),
    ]
}

/// Scores of 1e4 both ways, none and minus infinity beside each other: `c` by the key's place.
fn mixed(key: i64) -> f64 {
    [1e4, -1e4, f64::NEG_INFINITY, 0.25, f64::NEG_INFINITY, 1e-40, 9999.5, -0.75][(key * 5 + key / 8) as usize % 8]
}

#[test]
fn huge_scores_and_infinite_ones_in_one_row() {
    for mask in ["s <= t", "s < t", "s <= t and t - s < 6", "s <= t and (s < 2 or s // 8 == t // 8)"] {
        for body in shifted(mask).iter().take(3) {
            let mut made = text(body);
            made.given = |name, at| (name == "c").then(|| mixed(at[0]));
            // A score of 1e4 has an error of 1e-3 in f32, and so have powers of it.
            let want = agrees(&made, &made, 5e-3, body);
            assert!(want[0].iter().all(|x| x.is_finite()), "{body}");
        }
    }
}

/// Rows whose keys all score minus infinity are zeros, as if the mask denied them.
#[test]
fn rows_that_see_minus_infinities_alone_are_zeros() {
    // The last spelling multiplies scores with zero: that is no number where they are infinite.
    for body in shifted("s <= t").iter().take(3) {
        let mut made = text(body);
        made.given = |name, at| (name == "c" && at[0] < 20).then_some(f64::NEG_INFINITY);
        let want = agrees(&made, &made, 1e-5, body);
        assert!(want[0][..20 * 5].iter().all(|x| *x == 0.0), "{body}");
        assert!(want[0][20 * 5..].iter().all(|x| *x != 0.0), "{body}");
    }
}

/// A score of plus infinity leaves no number in the rows that see it, and every number in the others.
#[test]
fn plus_infinity_stays_in_the_rows_that_see_it() {
    for mask in ["s <= t", "s <= t and t - s < 6"] {
        for body in shifted(mask).iter().take(3) {
            let mut made = text(body);
            made.given = |name, at| match (name, at[0]) {
                ("c", 17) => Some(f64::INFINITY),
                ("c", 16 | 21) => Some(f64::NEG_INFINITY),
                _ => None,
            };
            let want = agrees(&made, &made, 1e-5, body);
            let none: Vec<_> = (0..TOKENS as usize).filter(|t| want[0][t * 5].is_nan()).collect();
            let last = if mask.contains("< 6") { 22 } else { 39 };
            assert_eq!(none, (17..=last).collect::<Vec<_>>(), "{body}");
        }
    }
}

/// Scores of plus infinity where the text shifts nothing: its logarithm is infinite and every share but theirs is zero,
/// which the shift must not turn into something undefined.
#[test]
fn plus_infinity_without_a_shift_means_what_the_text_says() {
    for mask in ["s <= t", "s <= t and t - s < 6"] {
        let bodies = [
            format!("  output y[t] = log(sum[s](where({mask}, exp(a), 0)))"),
            format!("  output y[t] = 0.5 * log2(sum[s](exp2(where({mask}, a, -inf))))"),
        ];
        for body in bodies {
            let mut made = text(&body);
            made.given = |name, at| match (name, at[0]) {
                ("c", 17) => Some(f64::INFINITY),
                ("c", 0 | 16 | 21) => Some(f64::NEG_INFINITY),
                _ => None,
            };
            let want = agrees(&made, &made, 1e-4, &body);
            let last = if mask.contains("< 6") { 22 } else { 39 };
            let infinite = |(t, x): (usize, &f64)| match t {
                0 => *x == f64::NEG_INFINITY,
                17.. if t <= last => *x == f64::INFINITY,
                _ => x.is_finite(),
            };
            assert!(want[0].iter().enumerate().all(infinite), "{body}: {:?}", want[0]);
        }
    }
    let shares = "  output y[t, e] = exp(u) / sum[e](exp(u))";
    let mut made = text(shares);
    made.given = |name, at| (name == "u" && at == [3, 7]).then_some(f64::INFINITY);
    let want = agrees(&made, &made, 1e-5, shares);
    assert!(want[0][7 * 5..8 * 5].iter().enumerate().all(|(e, x)| if e == 3 { x.is_nan() } else { *x == 0.0 }));
}

/// Values below the smallest normal number, and scores that are products of such.
#[test]
fn subnormal_scores_and_values_are_numbers() {
    for body in shifted("s <= t") {
        let mut made = text(&body);
        made.given = |name, at| match name {
            "u" => Some(1e-39 * (at.iter().sum::<i64>() % 7 - 3) as f64),
            "q" | "k" => Some(1e-21 * (at.iter().sum::<i64>() % 5 - 2) as f64),
            _ => Some(1e-42),
        };
        let want = agrees(&made, &made, 1e-4, &body);
        assert!(want[0].iter().any(|x| *x != 0.0 && x.abs() < f64::from(f32::MIN_POSITIVE)), "{body}");
    }
}

/// Powers that the text does not shift mean what shifted ones mean, where the text's own would be infinite.
#[test]
fn powers_without_a_shift_stay_in_range() {
    for mask in ["s <= t", "s < t", "s <= t and t - s < 6"] {
        let bodies = [
            format!("  let z = exp(where({mask}, a, -inf))\n  output y[t, e] = sum[s](z * u[t = s]) / sum[s](z)"),
            format!("  let z = exp(where({mask}, a, -inf))\n  output y[t, e] = sum[s](z / sum[s](z) * u[t = s])"),
            format!("  let z = where({mask}, exp(a), 0)\n  output y[t, e] = sum[s](z * u[t = s]) * (1 / sum[s](z))"),
            format!(
                "  let z = exp2(1.4426950408889634 * where({mask}, a, -inf))\n  \
                 output y[t, e] = sum[s](z * u[t = s]) / sum[s](z)"
            ),
        ];
        let mut meaning = text(&shifted(mask)[0]);
        meaning.given = |name, at| (name == "c").then(|| mixed(at[0]));
        for body in bodies {
            let mut made = text(&body);
            made.given = meaning.given;
            let want = agrees(&made, &meaning, 5e-3, &body);
            assert!(want[0].iter().all(|x| x.is_finite()), "{body}");
        }
    }
    let mut meaning = text(
        "  let w = where(s <= t, a, -inf)\n  let top = max(max[s](w), -3e38)\n  output y[t] = top + log(sum[s](exp(w - top)))",
    );
    meaning.given = |name, at| (name == "c").then(|| mixed(at[0]));
    let mut made = text("  output y[t] = log(sum[s](exp(where(s <= t, a, -inf))))");
    made.given = meaning.given;
    agrees(&made, &meaning, 5e-3, "log");
}
