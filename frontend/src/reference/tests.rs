use super::*;
use crate::compile_text;
use crate::diag::{Style, render_text};

fn run(body: &str, inputs: &Inputs) -> IndexMap<String, Tensor> {
    let text = format!("model a {{ seq t  axis s = t  {body} }}");
    let c = compile_text("a.llm", &text, None);
    let model = c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Style::Plain)));
    let data = RandomTensors::new(&model, 3);
    let out = Evaluator::new(&model, &data).run(inputs).expect("it runs");
    let small = Evaluator::new(&model, &data).keeping(0).run(inputs).expect("it runs");
    for (name, value) in &out {
        let alike =
            value.data.iter().zip(&small[name].data).all(|(a, b)| a.to_bits() == b.to_bits() || (a - b).abs() < 1e-12);
        assert!(alike, "{name} depends on what is kept");
    }
    out
}

fn first(body: &str, x: &[i64]) -> Vec<f64> {
    run(body, &Inputs::one("x", x)).swap_remove_index(0).expect("an output").1.data
}

#[test]
fn a_fully_masked_row_gives_zeros_and_a_hand_written_softmax_none() {
    let row =
        first("input x[t]: int < 9  output y[t] = sum[s](softmax[s](where(s < t, x[t = s] * 1.0, -inf)))", &[3, 1, 2]);
    assert_eq!(row[0], 0.0);
    assert!((row[2] - 1.0).abs() < 1e-15);
    let by_hand = "input x[t]: int < 9
        let z = where(s < t, x[t = s] * 1.0, -inf)
        let e = exp(z - max[s](z))
        output y[t] = sum[s](e / sum[s](e))";
    let row = first(by_hand, &[3, 1, 2]);
    assert!(row[0].is_nan() && (row[1] - 1.0).abs() < 1e-15);
}

#[test]
fn ties_of_topk_go_to_the_lower_index() {
    let body = "axis e = 4, j = 2  input x[t, e]: real  output y[t, j] = topk[e, j](x)";
    assert_eq!(first(body, &[1, 5, 5, 0]), [1.0, 2.0]);
}

#[test]
fn reductions_over_tokens_and_constants_count_every_element() {
    let body = "axis m = 5  weight b[m] = 2  input x[t]: int < 9  output y[t] = sum[m](b) + x - len(t)";
    assert_eq!(first(body, &[4, 1]), [12.0, 9.0]);
    assert_eq!(first("input x[t]: int < 9  output y[] = min[t](x) * len(t)", &[4, 3, 8]), [9.0]);
}

#[test]
fn indices_gather_rename_and_split() {
    let body = "axis a = 2, b = 3, e = 6  input x[t, e]: real
        let y[t, a, b] = x[e = 3 * a + b]
        output z[t, b, a] = y[b = 2 - b]";
    assert_eq!(first(body, &[0, 1, 2, 3, 4, 5]), [2.0, 5.0, 1.0, 4.0, 0.0, 3.0]);
    let reversed = "input x[t]: int < 9  output y[t] = x[t = len(t) - 1 - t]";
    let c = compile_text("a.llm", &format!("model a {{ seq t {reversed} }}"), None);
    assert_eq!(c.diagnostics[0].code.code(), "E0902", "nothing says that a position is below its sequence's length");
    let reversed = "input x[t]: int < 9  output y[t] = x[t = max(len(t) - 1 - t, 0)]";
    assert_eq!(first(reversed, &[7, 3, 5]), [5.0, 3.0, 7.0]);
}

#[test]
fn rounding_to_integers_happens_in_f32() {
    // 0.1 + 0.2 is above 0.3 in f64 and not in f32.
    let body = "input x[t]: real  output y[t] = floor((x * 0.1 + 0.2) * 10) - floor(3 * x)";
    assert_eq!(first(body, &[1]), [((0.1f32 + 0.2f32) * 10.0f32).floor() as f64 - 3.0]);
}

/// `relative_position_bucket` of T5, bidirectional, 32 buckets up to distance 128 (Raffel et al. 2020), for the
/// distances below.
#[test]
fn t5_buckets_are_those_of_t5() {
    let distances: &[i64] = &[0, 1, -1, 7, 8, 9, 15, 16, 31, 64, 127, 128, 500, -8, -20, -500];
    let want = [0.0, 17.0, 1.0, 23.0, 24.0, 24.0, 25.0, 26.0, 27.0, 30.0, 31.0, 31.0, 31.0, 8.0, 10.0, 15.0];
    let body = "input x[t]: int  output y[t] = t5_bucket(x, 32, 128, true)";
    assert_eq!(first(body, distances), want);
}

#[test]
fn inputs_are_checked_at_the_door() {
    let c = compile_text("a.llm", "model a { seq t <= 2  input x[t]: int < 4  output y[t] = x }", None);
    let model = c.model.expect("it compiles");
    let data = RandomTensors::new(&model, 0);
    let run = |x: &[i64]| Evaluator::new(&model, &data).run(&Inputs::one("x", x)).err().unwrap_or_default();
    assert_eq!(run(&[3, 0]), "");
    assert_eq!(run(&[4]), "input `x` holds 4, which is not in 0..4");
    assert_eq!(run(&[1, 1, 1]), "`t` has 3 tokens, at most 2 are allowed");
    assert_eq!(run(&[]), "`t` has no tokens");
    assert!(Evaluator::new(&model, &data).run(&Inputs::default()).is_err());
}
