//! Products of quantised weights with quantised activations: integer dots, the scales outside.
//!
//! Which sums of ints there are over a block, and which numbers stand outside, is derived from the format table
//! ([`crate::blocks`]): a dot of both sides' quants, scaled, and the activation's quants alone where the weight has an
//! offset or a zero. The activation's block holds the latter sum, scaled.

use super::{Kernel, Part};
use crate::blocks::{self, Addend, Inner};
use crate::llvm::{Emitter, Ty, Val};
use crate::target::cpu::dot::{Bytes, IntSum};
use llmc_artifact::format::{Field, FormatSpec, Lanes};
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{DType, Format};

/// The blocks of some rows at one place along the reduced axis.
pub(super) struct Quants<'a, 'c> {
    e: &'a Emitter<'c>,
    spec: &'static FormatSpec,
    part: Part<'c>,
    /// The rows' scales.
    pub scale: Option<Val<'c>>,
    /// The rows' `m - d * zero`, where that is not 0.
    pub offset: Option<Val<'c>>,
    /// The rows' higher bits, a word each.
    high: Option<Val<'c>>,
}

impl<'a, 'c> Quants<'a, 'c> {
    pub fn new(e: &'a Emitter<'c>, (format, activation): (Format, Format), part: Part<'c>) -> Quants<'a, 'c> {
        let spec = format.spec();
        let row_scalar = |name: &str| {
            let (at, field) = field(spec, name);
            let Lanes::Plain(dtype) = field.lanes else { panic!("emission: the scale of {format} is packed in bits") };
            let raw = e.load(Emitter::stored_type(dtype), part.lanes, part.group(e, at, dtype.bytes() as u64));
            e.widen_stored(dtype, raw)
        };
        // A product of the rows' numbers; none where it is 1.
        let outside = |a: &Addend| {
            let numbers = a.weight.iter().map(|name| row_scalar(name)).reduce(|x, y| e.mul(x, y));
            let literal = (a.literal != 1.0).then(|| e.like(e.zero(Ty::F32, part.lanes), a.literal));
            numbers.zip(literal).map(|(x, c)| e.mul(x, c)).or(numbers).or(literal)
        };
        let (mut scale, mut offset) = (None, None);
        for addend in &blocks::product(format, activation).addends {
            match addend.sum {
                Inner::Dot => scale = outside(addend),
                Inner::Activation => {
                    let one = outside(addend).unwrap_or_else(|| e.like(e.zero(Ty::F32, part.lanes), 1.0));
                    offset = Some(offset.map_or(one, |sum| e.add(sum, one)));
                }
                Inner::Weight | Inner::Count => panic!("emission: an activation's value has an offset"),
            }
        }
        let high = spec.high.map(|name| {
            let (at, field) = field(spec, name);
            assert_eq!((field.lanes, field.count), (Lanes::Bits, 32), "emission: higher bits that are no word");
            e.load_aligned(Ty::I32, part.lanes, part.group(e, at, 4), 1)
        });
        Quants { e, spec, part, scale, offset, high }
    }

    /// What bounds the bytes of a group.
    pub fn bytes(&self) -> Bytes {
        match (field(self.spec, self.spec.quant).1.lanes, self.spec.high) {
            (Lanes::Plain(DType::I8), None) => Bytes::Signed,
            (Lanes::Nibbles, None) => Bytes::Unsigned { largest: 15 },
            (Lanes::Nibbles, Some(_)) => Bytes::Unsigned { largest: 31 },
            (lanes, _) => panic!("emission: no product of {lanes:?}"),
        }
    }

    /// Every four consecutive elements: the first one's place and the rows' four bytes as `i32`s.
    pub fn for_each_group(&self, mut visit: impl FnMut(u32, Val<'c>)) {
        let (e, (at, field)) = (self.e, field(self.spec, self.spec.quant));
        let half = field.count as u32 / 2;
        for group in 0..field.lanes.bytes(field.count) / 4 {
            let word = e.load_aligned(Ty::I32, self.part.lanes, self.part.group(e, at + 4 * group, 4), 1);
            let first = 4 * group as u32;
            if field.lanes != Lanes::Nibbles {
                visit(first, word);
                continue;
            }
            let nibbles = |w: Val<'c>| e.and(w, e.like_int(w, 0x0f0f_0f0f));
            let upper = e.lshr(word, e.like_int(word, 4));
            for (first, quants) in [(first, nibbles(word)), (first + half, nibbles(upper))] {
                visit(first, self.high.map_or(quants, |bits| e.or(quants, self.fifth_bits(bits, first))));
            }
        }
    }

    /// Bits `first..first + 4` of each row's word as bit 4 of four bytes.
    fn fifth_bits(&self, bits: Val<'c>, first: u32) -> Val<'c> {
        let e = self.e;
        let four = e.and(e.lshr(bits, e.like_int(bits, first as i64)), e.like_int(bits, 15));
        // Bit k of the four times 2^(7 k) lands on bit 8 k, and nothing else does.
        let spread = e.mul(four, e.like_int(four, 0x0020_4081));
        e.shl(e.and(spread, e.like_int(spread, 0x0101_0101)), 4)
    }

    /// Byte `i` of a group as an integer.
    pub fn byte(&self, word: Val<'c>, i: u32) -> Val<'c> {
        let (e, top) = (self.e, self.e.shl(word, 24 - 8 * i));
        match self.bytes() {
            Bytes::Signed => e.ashr(top, 24),
            Bytes::Unsigned { .. } => e.lshr(top, e.like_int(top, 24)),
        }
    }
}

fn field(spec: &FormatSpec, name: &str) -> (usize, Field) {
    spec.field(name).expect("emission: a format names its own fields")
}

/// The activation's block of one token.
struct Activation<'c> {
    scale: Val<'c>,
    /// The scale times the quants' sum.
    sum: Val<'c>,
    quants: Val<'c>,
}

impl<'c> Kernel<'_, 'c> {
    fn activation(&self, row: Val<'c>, block: Val<'c>) -> Activation<'c> {
        let (e, format) = (self.e, self.input_format());
        let spec = format.spec();
        let start = e.offset(row, e.mul(block, e.int(format.block_bytes() as i64)));
        let scale = spec.scale.expect("emission: a quantised activation has a scale");
        let rest = spec.fields.iter().find(|f| f.name != scale && f.name != spec.quant);
        let sum = rest.expect("emission: a quantised activation has the sum of its quants").name;
        let f32_at = |name: &str| {
            let (at, field) = field(spec, name);
            assert_eq!(field.lanes, Lanes::Plain(DType::F32), "emission: an activation's scale is no f32");
            e.load(Ty::F32, 1, e.offset(start, e.int(at as i64)))
        };
        let quants = e.offset(start, e.int(field(spec, spec.quant).0 as i64));
        Activation { scale: f32_at(scale), sum: f32_at(sum), quants }
    }

    /// Where a signed weight's sums begin: `-128 * sum(p)` of every token and block, made once for all panels of
    /// a group; `None` where no product needs them. An array of `i32`, a token's blocks together.
    pub(super) fn quant_sums(&self, rows: &[Val<'c>]) -> Option<Val<'c>> {
        let e = self.e;
        let mut formats = (0..self.segment.products.len()).map(|p| self.weight(p).1);
        let signed = |f: Format| f.is_quantised() && field(f.spec(), f.spec().quant).1.lanes == Lanes::Plain(DType::I8);
        let needed = self.input_format().is_quantised() && self.multiplier.dot.offsets_signed();
        if !needed || !formats.any(signed) {
            return None;
        }
        let block = self.input_format().block();
        let blocks = self.reduce / block as u64;
        let sums = self.entry.scratch;
        let sums_at = 4 * self.sums_at(self.multiplier.tile.tokens, 0);
        let sums = e.offset(sums, e.int(sums_at.next_multiple_of(64) as i64));
        for (token, row) in rows.iter().enumerate() {
            e.repeat(e.int(0), e.int(blocks as i64), 1, |b| {
                let quants = e.load(Ty::I8, block as u32, self.activation(*row, b).quants);
                let sum = e.fold_lanes(e.sext(quants, Ty::I32), |a, b| e.add(a, b));
                let at = e.add(b, e.int((token as u64 * blocks) as i64));
                e.store(e.element(sums, Ty::I32, at), e.mul(sum, e.int32(-128)));
            });
        }
        Some(sums)
    }

    /// The sums of some rows with each token, block after block.
    pub(super) fn integer_product(
        &self,
        format: Format,
        part: Part<'c>,
        rows: &[Val<'c>],
        begins: Option<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let (e, block) = (self.e, format.block() as u64);
        assert_eq!(block, self.input_format().block() as u64, "emission: weight and activation differ in their blocks");
        let blocks = self.reduce / block;
        let bytes = format.block_bytes() as i64 * PANEL_LANES as i64;
        let zero = vec![e.zero(Ty::F32, part.lanes); rows.len()];
        e.for_each(e.int(0), e.int(blocks as i64), 1, &zero, |b, now| {
            let formats = (format, self.input_format());
            let quants = Quants::new(e, formats, part.moved(e, e.mul(b, e.int(bytes))));
            let begins = begins.filter(|_| quants.bytes() == Bytes::Signed);
            let tokens: Vec<_> = rows.iter().map(|row| self.activation(*row, b)).collect();
            let mut sums: Vec<_> = (0..rows.len())
                .map(|token| {
                    let at = e.add(b, e.int((token as u64 * blocks) as i64));
                    let begin = begins.map(|s| e.splat(e.load(Ty::I32, 1, e.element(s, Ty::I32, at)), part.lanes));
                    IntSum::new(self.multiplier.dot, part.lanes, begin)
                })
                .collect();
            quants.for_each_group(|at, word| {
                for (sum, token) in sums.iter_mut().zip(&tokens) {
                    let x = e.load_aligned(Ty::I32, 1, e.offset(token.quants, e.int(at as i64)), 1);
                    sum.add(e, word, x, quants.bytes());
                }
            });
            let each = sums.into_iter().zip(&tokens).zip(now);
            each.map(|((sum, token), total)| self.scaled(&quants, token, sum.finish(e), *total)).collect()
        })
    }

    /// `total + d D dot + (m - d zero) S`
    fn scaled(&self, quants: &Quants<'_, 'c>, token: &Activation<'c>, dot: Val<'c>, total: Val<'c>) -> Val<'c> {
        let e = self.e;
        let dot = e.int_to_float(dot, Ty::F32);
        let x = e.splat(token.scale, dot.lanes());
        let total = e.fma(quants.scale.map_or(x, |d| e.mul(d, x)), dot, total);
        quants.offset.map_or(total, |m| e.fma(m, e.splat(token.sum, dot.lanes()), total))
    }
}
