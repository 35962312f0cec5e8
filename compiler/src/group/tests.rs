use super::*;
use crate::cost::Role;
use crate::fixture::Fixture;
use crate::kernel::lower::lower;
use crate::kernel::verify;
use crate::normal::Term;
use crate::testing::machine::{BlockMachine, assert_close, wanted};
use llmc_artifact::ScalarOp;
use llmc_artifact::plan::Storage;
use std::collections::HashMap;

/// A decoder layer: sizes small, none equal, the head a block of an activation where weights have blocks.
struct Layer {
    f: Fixture,
    t: AxisId,
    s: AxisId,
    m: AxisId,
    k: AxisId,
    g: AxisId,
    e: AxisId,
    n: AxisId,
    orders: Vec<(Vec<AxisId>, Format)>,
}

impl Layer {
    fn new(names: [&str; 7], sizes: [u64; 5]) -> Layer {
        let mut f = Fixture::default();
        let (t, s) = f.seq(names[0], names[1]);
        let [m, k, g, e, n] = [0, 1, 2, 3, 4].map(|i| f.axis(names[2 + i], sizes[i]));
        Layer { f, t, s, m, k, g, e, n, orders: vec![] }
    }

    fn weight(&mut self, order: &[AxisId], format: Format) -> TermId {
        self.orders.push((order.to_vec(), format));
        self.f.weight(order)
    }

    fn facts(&self) -> Facts {
        let fact = |(i, (order, format)): (usize, &(Vec<AxisId>, Format))| WeightFact {
            name: format!("w{i}"),
            order: order.clone(),
            format: *format,
            whole_blocks: true,
        };
        let weights = self.orders.iter().enumerate().map(fact).collect();
        Facts {
            weights,
            picked: false,
            cache: Format::F32,
            activations: Format::F32,
            machine: Machine::default(),
            role: Role::Decode,
        }
    }

    /// `1 / sqrt(mean[m](x * x) + eps)`.
    fn scale(&mut self, x: TermId) -> TermId {
        let f = &mut self.f;
        let (total, part, eps) = (f.total(&[self.m], &[x, x]), f.real(0.25), f.real(1e-3));
        let mean = f.mul(&[total, part]);
        let sum = f.add(&[mean, eps]);
        let root = f.map(ScalarOp::Sqrt, &[sum]);
        f.map(ScalarOp::Recip, &[root])
    }

    /// Rotates pairs along e.
    fn rope(&mut self, x: TermId, cos: TermId, sin: TermId) -> TermId {
        let f = &mut self.f;
        let (e, half) = (f.iota(self.e), (f.terms.axes.len_of(self.e).expect("a length") / 2) as i64);
        let (half_term, whole) = (f.int(half), f.int(2 * half));
        let moved = f.map(ScalarOp::Add, &[e, half_term]);
        let partner = f.map(ScalarOp::Mod, &[moved, whole]);
        let y = f.index(x, &[(self.e, partner)]);
        let (minus, plus) = (f.real(-1.0), f.real(1.0));
        let low = f.map(ScalarOp::Lt, &[e, half_term]);
        let sign = f.map(ScalarOp::Where, &[low, minus, plus]);
        let (a, b) = (f.mul(&[x, cos]), f.mul(&[sign, y, sin]));
        f.add(&[a, b])
    }

    /// The whole layer: `merged` in the form the algebra leaves it, row scales outside the products.
    fn layer(&mut self, merged: bool, format: Format) -> TermId {
        let Layer { t, s, m, k, g, e, n, .. } = *self;
        let x = self.f.param(&[t, m]);
        let (cos, sin) = (self.f.param(&[t, e]), self.f.param(&[t, e]));
        let gains = [self.weight(&[m], Format::F32), self.weight(&[m], Format::F32)];
        let wq = self.weight(&[k, g, e, m], format);
        let (wk, wv) = (self.weight(&[k, e, m], format), self.weight(&[k, e, m], format));
        let wo = self.weight(&[m, k, g, e], format);
        let (gate, up, down) =
            (self.weight(&[n, m], format), self.weight(&[n, m], format), self.weight(&[m, n], format));

        let r = self.scale(x);
        let project = |l: &mut Layer, w, gain, x, r| {
            if merged {
                let p = l.f.total(&[m], &[w, gain, x]);
                l.f.mul(&[r, p])
            } else {
                l.f.total(&[m], &[w, gain, x, r])
            }
        };
        let q = project(self, wq, gains[0], x, r);
        let c = project(self, wk, gains[0], x, r);
        let u = project(self, wv, gains[0], x, r);
        let (q, c) = (self.rope(q, cos, sin), self.rope(c, cos, sin));
        self.f.terms.set_name(q, "q");
        self.f.terms.set_name(c, "c");
        self.f.terms.set_name(u, "u");
        let f = &mut self.f;
        let (c, u) = (f.read(c, s), f.read(u, s));
        let dot = f.total(&[e], &[q, c]);
        let half = f.real(0.5);
        let score = f.mul(&[dot, half]);
        let (si, ti) = (f.iota(s), f.iota(t));
        let seen = f.map(ScalarOp::Le, &[si, ti]);
        let masked = f.masked(seen, score);
        let o = if merged {
            let (floor, one) = (f.real(-3e38), f.real(1.0));
            let top = f.reduce(llmc_artifact::ReduceOp::Max, &[s], masked);
            let top = f.map(ScalarOp::Max, &[top, floor]);
            let shifted = f.sub(masked, top);
            let z = f.map(ScalarOp::Exp, &[shifted]);
            let (a, b) = (f.total(&[s], &[z, u]), f.total(&[s], &[z]));
            let b = f.map(ScalarOp::Max, &[b, one]);
            f.div(a, b)
        } else {
            let p = f.softmax(masked, s);
            f.total(&[s], &[p, u])
        };
        f.terms.set_name(o, "o");
        let wo = f.total(&[k, g, e], &[wo, o]);
        let x1 = f.add(&[x, wo]);
        f.terms.set_name(x1, "x1");
        let r1 = self.scale(x1);
        let a = project(self, gate, gains[1], x1, r1);
        let b = project(self, up, gains[1], x1, r1);
        let f = &mut self.f;
        let minus = f.real(-1.0);
        let na = f.mul(&[minus, a]);
        let ex = f.map(ScalarOp::Exp, &[na]);
        let one = f.real(1.0);
        let below = f.add(&[one, ex]);
        let silu = f.div(a, below);
        let h = f.mul(&[silu, b]);
        f.terms.set_name(h, "h");
        let d = f.total(&[n], &[down, h]);
        f.add(&[x1, d])
    }
}

const NAMES: [&str; 7] = ["t", "s", "m", "k", "g", "e", "n"];

fn fused(layer: &Layer, roots: &[(&str, TermId)]) -> Fused {
    let roots: Vec<_> = roots.iter().map(|(n, r)| (n.to_string(), *r)).collect();
    fuse(&layer.f.terms, &roots, layer.facts()).expect("the layer compiles")
}

#[test]
fn a_float_layer_is_five_kernels_and_means_what_it_says() {
    let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
    let out = l.layer(true, Format::F32);
    let fused = fused(&l, &[("out", out)]);
    let names: Vec<_> = fused.groups.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(fused.groups.len(), 5, "{names:?}");
    assert!(fused.leaks.is_empty());
    let want = wanted(&l.f.terms, out, 4);
    let mut machine = BlockMachine::new(&fused, 4);
    let whole = machine.step(0, 4).swap_remove(0);
    assert_close(&whole, &want, 1e-5);
    // A token at a time through the caches gives the same.
    let mut machine = BlockMachine::new(&fused, 4);
    let parts: Vec<_> =
        [(0, 1), (1, 3), (3, 4)].iter().flat_map(|(a, b)| machine.step(*a, *b).swap_remove(0)).collect();
    assert_close(&parts, &want, 1e-5);
}

#[test]
fn the_naive_spelling_means_the_same() {
    let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
    let out = l.layer(false, Format::F32);
    let fused = fused(&l, &[("out", out)]);
    let want = wanted(&l.f.terms, out, 3);
    assert_close(&BlockMachine::new(&fused, 3).step(0, 3).swap_remove(0), &want, 1e-5);
}

#[test]
fn no_value_has_two_tokens() {
    for merged in [true, false] {
        let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
        let out = l.layer(merged, Format::F32);
        let fused = fused(&l, &[("out", out)]);
        for (axes, _) in &fused.terms.stored {
            let tokens = axes.iter().filter(|a| fused.terms.is_seq(*a)).count();
            assert!(tokens <= 1);
        }
    }
}

#[test]
fn quantised_weights_stay_so() {
    let mut l = Layer::new(NAMES, [64, 2, 1, 32, 96]);
    let out = l.layer(true, Format::Q8_0);
    let fused = fused(&l, &[("out", out)]);
    assert_eq!(fused.groups.len(), 6, "the first activation is quantised by a kernel of its own");
    let lowered = lower(&fused, "block");
    let kept = lowered.block.weights.iter().filter(|w| w.format == Format::Q8_0).count();
    assert_eq!(kept, 7, "{:#?}", lowered.block.weights);
    let want = wanted(&l.f.terms, out, 2);
    assert_close(&BlockMachine::new(&fused, 2).step(0, 2).swap_remove(0), &want, 0.02);
}

#[test]
fn renaming_everything_changes_nothing_but_names() {
    let shape = |names: [&str; 7]| {
        let mut l = Layer::new(names, [6, 2, 3, 4, 5]);
        let out = l.layer(true, Format::F32);
        let lowered = lower(&fused(&l, &[("out", out)]), "block");
        lowered
            .block
            .kernels
            .into_iter()
            .map(|k| {
                let mut spec = k.spec;
                spec.axes.iter_mut().for_each(|a| a.name = String::new());
                (spec.axes, spec.exprs, spec.body, k.operands)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(shape(NAMES), shape(["tok", "key", "z", "y", "w", "v", "a"]));
}

#[test]
fn a_layer_norm_is_one_pass() {
    // The spread follows the running mean.
    let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
    let (t, m) = (l.t, l.m);
    let x = l.f.param(&[t, m]);
    let part = l.f.real(1.0 / 6.0);
    let sum = l.f.total(&[m], &[x]);
    let mean = l.f.mul(&[part, sum]);
    let d = l.f.sub(x, mean);
    let (square, eps) = (l.f.total(&[m], &[d, d]), l.f.real(1e-3));
    let spread = l.f.mul(&[part, square]);
    let sum = l.f.add(&[spread, eps]);
    let root = l.f.map(ScalarOp::Sqrt, &[sum]);
    let out = l.f.div(d, root);
    let fused = fused(&l, &[("out", out)]);
    assert_eq!(fused.groups.len(), 1, "{:?}", fused.notes);
    let want = wanted(&l.f.terms, out, 3);
    assert_close(&BlockMachine::new(&fused, 3).step(0, 3).swap_remove(0), &want, 1e-5);
}

#[test]
fn the_last_block_runs_on_picked_rows() {
    let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
    let (t, m, n) = (l.t, l.m, l.n);
    let x = l.f.param(&[t, m]);
    let w = l.weight(&[n, m], Format::F32);
    let r = l.scale(x);
    let p = l.f.total(&[m], &[w, x]);
    let out = l.f.mul(&[r, p]);
    let roots = [("logits".to_string(), out)];
    let fused = fuse(&l.f.terms, &roots, Facts { picked: true, ..l.facts() }).expect("the head compiles");
    assert!(fused.groups.len() <= 2);
    let want = wanted(&l.f.terms, out, 4);
    let got = BlockMachine::new(&fused, 4).step(0, 4).swap_remove(0);
    assert_close(&got, &want[want.len() - got.len()..], 1e-5);
}

#[test]
fn a_table_is_read_at_tokens_from_the_panels_of_the_head() {
    let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
    let (t, m, n) = (l.t, l.m, l.n);
    let table = l.weight(&[n, m], Format::F32);
    l.f.terms.params.push((Axes::from_iter([t]), Type::Int));
    let tokens = l.f.terms.add(Term::Param(0));
    let out = l.f.index(table, &[(n, tokens)]);
    let fused = fused(&l, &[("x", out)]);
    let lowered = lower(&fused, "first");
    assert_eq!(lowered.block.kernels.len(), 1);
    assert_eq!(lowered.block.weights[0].storage, Storage::Panel { rows: 5, reduce: 6 });
    assert_eq!(lowered.weights[0].order, [n, m]);
    for k in lowered.block.kernels {
        verify(k.spec).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn compiled_layers_mean_what_they_say() {
    for format in [Format::F32, Format::Q8_0] {
        let sizes = if format == Format::F32 { [6, 2, 3, 4, 5] } else { [64, 2, 1, 32, 96] };
        let mut l = Layer::new(NAMES, sizes);
        let out = l.layer(true, format);
        let fused = fused(&l, &[("out", out)]);
        let mut machine = BlockMachine::new(&fused, 4);
        let kernels = machine.compile();
        let got: Vec<_> =
            [(0, 1), (1, 3), (3, 4)].iter().flat_map(|(a, b)| machine.step(*a, *b).swap_remove(0)).collect();
        let tolerance = if format == Format::F32 { 1e-5 } else { 2e-2 };
        assert_close(&got, &wanted(&l.f.terms, out, 4), tolerance);
        crate::target::nvptx::tests::assemble(&kernels);
    }
}

/// What became of a random block.
enum Outcome {
    Equal,
    Unsupported(String),
    Wrong(String),
}

fn random_block(seed: u64, size: usize) -> Option<Outcome> {
    let d = crate::testing::random::block(seed, size);
    let (terms, roots) = crate::normal::build::normalise(&d.block, &d.axes);
    let view = |r: &TermId| terms.free(*r).iter().any(|a| terms.views.contains_key(&a));
    let (_, root) = roots.into_iter().find(|(_, r)| !view(r) && !terms.operands(*r).is_empty())?;
    let fact = |(i, (axes, _)): (usize, &(Axes, Type))| WeightFact {
        name: format!("w{i}"),
        order: axes.iter().collect(),
        format: Format::F32,
        whole_blocks: true,
    };
    let weights = terms.weights.iter().enumerate().map(fact).collect();
    let facts = Facts {
        weights,
        picked: false,
        cache: Format::F32,
        activations: Format::F32,
        machine: Machine::default(),
        role: Role::Decode,
    };
    let run = || match fuse(&terms, &[("out".to_owned(), root)], facts.clone()) {
        Err(Unsupported(why)) => Outcome::Unsupported(why),
        Ok(fused) => {
            let got = BlockMachine::new(&fused, 3).step(0, 3).swap_remove(0);
            let want = wanted(&terms, root, 3);
            let size = want.iter().filter(|x| x.is_finite()).fold(1e-3f64, |a, x| a.max(x.abs()));
            let off = |a: &f64, b: &f64| b.is_finite() && b.abs() < 1e30 && (a - b).abs() > 1e-4 * size;
            match got.iter().zip(&want).find(|(a, b)| off(a, b)) {
                Some((a, b)) => Outcome::Wrong(format!("{a} for {b} of {size}\n{}", fused_text(&fused))),
                None if got.len() != want.len() => Outcome::Wrong("another number of elements".into()),
                None => Outcome::Equal,
            }
        }
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    Some(caught.unwrap_or_else(|p| {
        let text = p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string()));
        Outcome::Wrong(format!("panic: {}", text.unwrap_or_default()))
    }))
}

/// Blocks of random operations, most of which no model has: kernels give what the terms mean, or the block is
/// refused with a sentence.
#[test]
fn random_blocks_mean_what_they_say() {
    let (mut equal, mut refused, mut wrong) = (0, HashMap::<String, u32>::new(), Vec::new());
    for seed in 0..500 {
        match random_block(seed, 4 + seed as usize % 9) {
            Some(Outcome::Equal) => equal += 1,
            Some(Outcome::Unsupported(why)) => *refused.entry(why).or_default() += 1,
            Some(Outcome::Wrong(why)) => wrong.push(format!("seed {seed}: {why}")),
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {equal} equal, refused {refused:#?}\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal > 200, "{equal} equal, refused {refused:#?}");
}

/// Softmax written by hand without a floor, over keys before the row's own: the first row has none.
#[test]
fn rows_without_keys_are_zero_in_kernels() {
    for spelling in ["exp", "exp2", "masked twice"] {
        let mut l = Layer::new(NAMES, [6, 2, 3, 4, 5]);
        let (t, s, e, m) = (l.t, l.s, l.e, l.m);
        let (q, c, u) = (l.f.param(&[t, e]), l.f.param(&[t, e]), l.f.param(&[t, m]));
        let f = &mut l.f;
        let (c, u) = (f.read(c, s), f.read(u, s));
        let score = f.total(&[e], &[q, c]);
        let (si, ti) = (f.iota(s), f.iota(t));
        let seen = f.map(ScalarOp::Lt, &[si, ti]);
        let masked = f.masked(seen, score);
        let top = f.reduce(llmc_artifact::ReduceOp::Max, &[s], masked);
        let shifted = f.sub(if spelling == "masked twice" { score } else { masked }, top);
        let z = match spelling {
            "exp2" => {
                let base = f.real(std::f64::consts::LOG2_E);
                let scaled = f.mul(&[base, shifted]);
                f.map(ScalarOp::Exp2, &[scaled])
            }
            "masked twice" => {
                let again = f.masked(seen, shifted);
                f.map(ScalarOp::Exp, &[again])
            }
            _ => f.map(ScalarOp::Exp, &[shifted]),
        };
        let (above, below) = (f.total(&[s], &[z, u]), f.total(&[s], &[z]));
        let out = f.div(above, below);
        let fused = fused(&l, &[("out", out)]);
        let got = BlockMachine::new(&fused, 3).step(0, 3).swap_remove(0);
        let width = 6;
        assert_eq!(got[..width], [0.0; 6], "{spelling}: nobody is seen");
        assert_close(&got[width..], &wanted(&l.f.terms, out, 3)[width..], 1e-5);
    }
}
