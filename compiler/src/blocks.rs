//! Products of packed blocks, derived from the format table.
//!
//! What enters are the formats of a weight and of an activation; what leaves is their product over one block of the
//! reduced axis, as sums over the quants alone with the blocks' own numbers outside. A row of the table is an
//! expression, `d * (q - zero) + m`; the law `Blocks` multiplies it out, and what does not run within the block leaves the
//! sum. A back-end emits the addends that it finds here and knows no format by itself.

use crate::normal::{Term, TermId, Terms};
use crate::rules::Law;
use llmc_artifact::format::FormatSpec;
use llmc_artifact::{Format, Type, Value};
use llmc_frontend::graph::{Axes, AxisId, AxisTable, Extent};

/// What is summed over a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Products of both sides' quants.
    Dot,
    /// The weight's quants.
    Weight,
    /// The activation's quants.
    Activation,
    /// Nothing: one for each element.
    Count,
}

/// A product of numbers of both blocks and of a sum over their quants.
#[derive(Clone, Debug, PartialEq)]
pub struct Addend {
    /// A number of the format.
    pub literal: f64,
    /// Fields of the weight's block.
    pub weight: Vec<&'static str>,
    /// Fields of the activation's block.
    pub activation: Vec<&'static str>,
    /// The sum.
    pub sum: Inner,
}

/// The product over one block, with what it was derived from.
pub struct BlockProduct {
    /// The arena of both sides.
    pub terms: Terms,
    /// The sum of the products of values.
    pub before: TermId,
    /// The same by the law.
    pub after: TermId,
    /// What `after` says.
    pub addends: Vec<Addend>,
}

/// Whose block a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Weight,
    Activation,
}

/// The fields of both blocks, as params of the arena in this order.
struct Fields(Vec<(Side, &'static str, bool)>);

impl Fields {
    /// The numbers and the quants of two formats. Higher bits belong to their quants.
    fn of(weight: &'static FormatSpec, activation: &'static FormatSpec) -> Fields {
        let mut all = Vec::new();
        for (side, spec) in [(Side::Weight, weight), (Side::Activation, activation)] {
            all.extend(spec.scale.map(|d| (side, d, false)));
            all.push((side, spec.quant, true));
            all.extend(spec.offset.map(|m| (side, m, false)));
        }
        Fields(all)
    }

    fn number(&self, side: Side, name: &str) -> u32 {
        let at = self.0.iter().position(|(s, n, _)| *s == side && *n == name);
        at.expect("blocks: a format names its own fields") as u32
    }

    fn name(&self, n: usize) -> String {
        let (side, name, _) = self.0[n];
        match side {
            Side::Weight => format!("w_{name}"),
            Side::Activation => format!("x_{name}"),
        }
    }
}

/// The product of two formats over one block of the weight. Plain activations are a number for each element.
///
/// # Panics
/// When both have blocks, and of different lengths.
pub fn product(weight: Format, activation: Format) -> BlockProduct {
    let (w, x) = (weight.spec(), activation.spec());
    assert!([w.block, 1].contains(&x.block), "blocks: weight and activation differ in their blocks");
    let mut axes = AxisTable::default();
    let i = axes.push("i", Extent::Const(w.block as u64));
    let over = Axes::from_iter([i]);
    let fields = Fields::of(w, x);
    let params = fields.0.iter().map(|(_, _, runs)| (if *runs { over.clone() } else { Axes::none() }, Type::Real));
    let mut terms = Terms::new(axes, params.collect(), vec![]);
    terms.param_names = (0..fields.0.len()).map(|n| fields.name(n)).collect();
    let sides = [(Side::Weight, w), (Side::Activation, x)];
    let [w, x] = sides.map(|(side, spec)| value(&mut terms, &fields, side, spec));
    let before = terms.raw_sum(&over, &[w, x]);
    let after = multiplied_out(&mut terms, i, w, x);
    terms.fire(Law::Blocks, |_| before, after);
    let addends = match terms.term(after) {
        Term::Plus(xs) => xs.iter().map(|x| addend(&terms, &fields, *x)).collect(),
        _ => vec![addend(&terms, &fields, after)],
    };
    BlockProduct { terms, before, after, addends }
}

/// An element's value, as the table says it.
fn value(terms: &mut Terms, fields: &Fields, side: Side, spec: &FormatSpec) -> TermId {
    let field = |terms: &mut Terms, name| terms.add(Term::Param(fields.number(side, name)));
    let mut value = field(terms, spec.quant);
    if spec.zero != 0 {
        let zero = terms.real(-f64::from(spec.zero));
        value = terms.plus(&[value, zero]);
    }
    if let Some(d) = spec.scale {
        let d = field(terms, d);
        value = terms.product(&[d, value]);
    }
    if let Some(m) = spec.offset {
        let m = field(terms, m);
        value = terms.plus(&[value, m]);
    }
    value
}

/// The law: a sum for each pair of addends, what does not run outside of it.
fn multiplied_out(terms: &mut Terms, i: AxisId, w: TermId, x: TermId) -> TermId {
    let (left, right) = (monomials(terms, w), monomials(terms, x));
    let mut sums = Vec::new();
    for a in &left {
        for b in &right {
            sums.push(terms.sum(&Axes::from_iter([i]), &[a.as_slice(), b].concat()));
        }
    }
    terms.plus(&sums)
}

/// A value as a sum of products.
fn monomials(terms: &Terms, x: TermId) -> Vec<Vec<TermId>> {
    match terms.term(x) {
        Term::Plus(xs) => xs.iter().flat_map(|y| monomials(terms, *y)).collect(),
        Term::Sum(bound, xs) if bound.is_empty() => xs.iter().fold(vec![vec![]], |all, y| {
            let next = monomials(terms, *y);
            all.iter().flat_map(|a| next.iter().map(|b| [a.as_slice(), b].concat())).collect()
        }),
        _ => vec![vec![x]],
    }
}

/// What one addend of the result says.
fn addend(terms: &Terms, fields: &Fields, x: TermId) -> Addend {
    let mut out = Addend { literal: 1.0, weight: vec![], activation: vec![], sum: Inner::Count };
    let factors = match terms.term(x) {
        Term::Sum(bound, xs) if bound.is_empty() => xs.clone(),
        _ => vec![x],
    };
    for factor in factors {
        match terms.term(factor) {
            Term::Const(l) => out.literal *= Value::from(*l).real(),
            Term::Param(n) => match fields.0[*n as usize] {
                (Side::Weight, name, _) => out.weight.push(name),
                (Side::Activation, name, _) => out.activation.push(name),
            },
            Term::Sum(_, xs) => {
                let has = |side: Side| {
                    let of = |y: &TermId| match terms.term(*y) {
                        Term::Index(leaf, _) => {
                            matches!(terms.term(*leaf), Term::Param(n) if fields.0[*n as usize].0 == side)
                        }
                        _ => false,
                    };
                    xs.iter().any(of)
                };
                out.sum = match (has(Side::Weight), has(Side::Activation)) {
                    (true, true) => Inner::Dot,
                    (true, false) => Inner::Weight,
                    (false, true) => Inner::Activation,
                    (false, false) => panic!("blocks: a sum of no quants"),
                };
            }
            other => panic!("blocks: {other:?} is no factor of a block's product"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::check::Checker;
    use crate::rules::Laws;
    use crate::testing::points::{agree, noise, values};
    use llmc_artifact::format::FORMATS;

    /// Formats of weights, each with the one of activations.
    fn pairs() -> impl Iterator<Item = (Format, Format)> {
        let weights = FORMATS.iter().map(|(f, _)| *f).filter(|f| f.is_quantised() && *f != Format::Act8);
        weights.flat_map(|f| [(f, Format::Act8), (f, Format::F32)])
    }

    #[test]
    fn both_sides_of_every_format_are_equal() {
        let mut seen = 0;
        for (weight, activation) in pairs() {
            let made = product(weight, activation);
            for seed in 0..8 {
                let sides = values(&made.terms, &[made.before, made.after], seed);
                agree(&sides[0], &sides[1], 1e-9).unwrap_or_else(|e| panic!("{weight}: {e}"));
            }
            let law = Laws::NONE.with(Law::Blocks);
            Checker::new(&made.terms).equal(made.before, made.after, law).unwrap_or_else(|e| panic!("{weight}: {e}"));
            assert!(Checker::new(&made.terms).equal(made.before, made.after, Laws::NONE).is_err(), "{weight}");
            assert_eq!(made.terms.trace.fired(Law::Blocks), 1);
            seen += 1;
        }
        assert!(seen >= 5, "{seen} formats");
    }

    /// The addends, with ints summed and numbers read from bytes, are the product of what the bytes decode to.
    #[test]
    fn the_addends_are_the_product_of_decoded_blocks() {
        for (weight, activation) in pairs() {
            let made = product(weight, activation);
            for seed in 0..8 {
                let blocks = weight.block() / activation.block();
                let x: Vec<u8> = (0..blocks as u64).flat_map(|n| block(activation, 100 * seed + n)).collect();
                let w = block(weight, seed);
                let decoded = |f: Format, bytes: &[u8], i: usize| {
                    let (block, i) = (i / f.block(), i % f.block());
                    f64::from(f.spec().decode(&bytes[block * f.block_bytes()..], i))
                };
                let n = weight.block();
                let want: f64 = (0..n).map(|i| decoded(weight, &w, i) * decoded(activation, &x, i)).sum();
                let got: f64 = made.addends.iter().map(|a| worth(a, (weight, &w), (activation, &x))).sum();
                assert!((want - got).abs() <= 1e-3 * want.abs().max(1.0), "{weight}: {got} instead of {want}");
            }
        }
    }

    /// A number that runs within the block stays within the sum, and the law without that is refused.
    #[test]
    fn what_runs_within_a_block_stays_in_its_sum() {
        let mut axes = AxisTable::default();
        let i = axes.push("i", Extent::Const(4));
        let over = Axes::from_iter([i]);
        let mut terms = Terms::new(axes, vec![(over.clone(), Type::Real); 2], vec![]);
        let (d, q) = (terms.add(Term::Param(0)), terms.add(Term::Param(1)));
        let x = terms.product(&[d, q]);
        let one = terms.real(1.0);
        let sum = multiplied_out(&mut terms, i, x, one);
        assert!(matches!(terms.term(sum), Term::Sum(bound, xs) if bound.len() == 1 && xs.len() == 2));
        let at = terms.sum(&over, &[q]);
        let wrong = terms.add(Term::Sum(Axes::none(), vec![d, at]));
        let law = Laws::NONE.with(Law::Blocks);
        assert!(Checker::new(&terms).equal(sum, wrong, law).is_err());
    }

    /// Bytes of a block: halves and floats are moderate numbers, quants anything.
    fn block(format: Format, seed: u64) -> Vec<u8> {
        use llmc_artifact::DType;
        use llmc_artifact::format::Lanes;
        let noise = noise(seed);
        let mut out = Vec::new();
        for (n, field) in format.spec().fields.iter().enumerate() {
            let at = |k: usize| noise(false, n as u32, &[k as i64]);
            match field.lanes {
                Lanes::Plain(DType::F16) => out.extend(half::f16::from_f64(at(0)).to_le_bytes()),
                Lanes::Plain(DType::F32) => out.extend((at(0) as f32).to_le_bytes()),
                lanes => out.extend((0..lanes.bytes(field.count)).map(|k| (at(k) * 127.0) as i8 as u8)),
            }
        }
        out
    }

    /// An element's quant before scale, zero and offset.
    fn quant(format: Format, bytes: &[u8], i: usize) -> f64 {
        let spec = format.spec();
        let (bytes, i) = (&bytes[i / spec.block * format.block_bytes()..], i % spec.block);
        let bare: &'static FormatSpec = Box::leak(Box::new(FormatSpec {
            name: spec.name,
            ggml: None,
            safetensors: None,
            block: spec.block,
            fields: spec.fields,
            scale: None,
            quant: spec.quant,
            high: spec.high,
            zero: 0,
            offset: None,
        }));
        f64::from(bare.decode(bytes, i))
    }

    fn number(format: Format, bytes: &[u8], name: &str) -> f64 {
        use llmc_artifact::DType;
        use llmc_artifact::format::Lanes;
        let (at, field) = format.spec().field(name).expect("a field");
        match field.lanes {
            Lanes::Plain(DType::F16) => half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64(),
            Lanes::Plain(DType::F32) => f64::from(f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"))),
            lanes => panic!("{lanes:?} is no number"),
        }
    }

    fn worth(a: &Addend, (w, wb): (Format, &[u8]), (x, xb): (Format, &[u8])) -> f64 {
        let outside: f64 = a.weight.iter().map(|n| number(w, wb, n)).product::<f64>()
            * a.activation.iter().map(|n| number(x, xb, n)).product::<f64>();
        let sum: f64 = (0..w.block())
            .map(|i| match a.sum {
                Inner::Dot => quant(w, wb, i) * quant(x, xb, i),
                Inner::Weight => quant(w, wb, i),
                Inner::Activation => quant(x, xb, i),
                Inner::Count => 1.0,
            })
            .sum();
        a.literal * outside * sum
    }
}
