//! Where the parts of a quantised weight's blocks lie in a panel, and what they mean. All of it follows from the format table.
//!
//! An element is `scale * (quant - zero) + offset`; over a block the sum of its products with an activation of scale `D`, quants
//! `p` and quant sum `S / D` is `scale * D * sum(quant * p) + (offset - scale * zero) * S`.

use crate::llvm::{Emitter, Ty, Val};
use llmc_artifact::format::{Field, FormatSpec, Lanes};
use llmc_artifact::plan::PANEL_LANES;
use llmc_artifact::{DType, Format};

/// One number of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    /// Its first byte in the blocks of a panel.
    pub at: u32,
    pub dtype: DType,
}

/// The blocks of a panel's rows at one place along the reduced axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Bytes of all rows' blocks.
    pub bytes: u32,
    pub scale: Scalar,
    pub offset: Option<Scalar>,
    /// First byte of the higher bits, a word for each row.
    pub high: Option<u32>,
    /// First byte of the quants: words of four bytes, those of the rows in turn.
    pub quants: u32,
    /// Words of a row.
    pub words: u32,
    /// Each byte holds two quants: element `j` below element `j + 16`.
    pub nibbles: bool,
    pub zero: i32,
}

/// Elements of a block.
pub(super) const BLOCK: u32 = 32;
const ROWS: u32 = PANEL_LANES;

fn field(spec: &FormatSpec, name: &str) -> (u32, Field) {
    let (at, field) = spec.field(name).expect("emission: a format names its own fields");
    (at as u32, field)
}

fn scalar(spec: &FormatSpec, name: &str) -> Scalar {
    let (at, field) = field(spec, name);
    let Lanes::Plain(dtype) = field.lanes else { panic!("emission: the scale of {} is packed in bits", spec.name) };
    Scalar { at: at * ROWS, dtype }
}

impl Blocks {
    pub fn of(format: Format) -> Blocks {
        let spec = format.spec();
        let (quants, lanes) = field(spec, spec.quant);
        let nibbles = match lanes.lanes {
            Lanes::Plain(DType::I8) => false,
            Lanes::Nibbles => true,
            lanes => panic!("emission: no product of {lanes:?}"),
        };
        assert_eq!(spec.block as u32, BLOCK, "emission: {format} has other blocks than activations");
        Blocks {
            bytes: format.block_bytes() as u32 * ROWS,
            scale: scalar(spec, spec.scale.expect("emission: quants without a scale")),
            offset: spec.offset.map(|name| scalar(spec, name)),
            high: spec.high.map(|name| field(spec, name).0 * ROWS),
            quants: quants * ROWS,
            words: lanes.lanes.bytes(lanes.count) as u32 / 4,
            nibbles,
            zero: spec.zero,
        }
    }

    /// The first bytes of one row's numbers of a scalar; `row` an `i32` or `i64`.
    pub fn scalar_at<'c>(e: &Emitter<'c>, scalar: Scalar, row: Val<'c>) -> Val<'c> {
        let bytes = e.mul(row, e.like_int(row, scalar.dtype.bytes() as i64));
        e.add(bytes, e.like_int(row, scalar.at as i64))
    }

    /// What a block adds for each unit of the activation's sum; `None` where that is nothing.
    pub fn shift<'c>(&self, e: &Emitter<'c>, scale: Val<'c>, offset: Option<Val<'c>>) -> Option<Val<'c>> {
        let zero = (self.zero != 0).then(|| e.mul(scale, e.f32(-self.zero as f64)));
        match (offset, zero) {
            (Some(m), Some(z)) => Some(e.add(m, z)),
            (one, other) => one.or(other),
        }
    }

    /// Four quants each of a word's lower and, for nibbles, upper half; `first` is the word's first element, an `i32`.
    pub fn quants<'c>(&self, e: &Emitter<'c>, word: Val<'c>, high: Option<Val<'c>>, first: Val<'c>) -> Vec<Val<'c>> {
        if !self.nibbles {
            return vec![word];
        }
        let low = e.and(word, e.int32(0x0f0f_0f0f));
        let up = e.and(e.lshr(word, e.int32(4)), e.int32(0x0f0f_0f0f));
        let Some(bits) = high else { return vec![low, up] };
        let with = |quants: Val<'c>, first: Val<'c>| e.or(quants, fifth_bits(e, bits, first));
        vec![with(low, first), with(up, e.add(first, e.int32(BLOCK as i32 / 2)))]
    }
}

/// Bits `first..first + 4` of a word as bit 4 of four bytes.
fn fifth_bits<'c>(e: &Emitter<'c>, bits: Val<'c>, first: Val<'c>) -> Val<'c> {
    let four = e.and(e.lshr(bits, first), e.int32(15));
    // Bit k of the four times 2^(7 k) lands on bit 8 k, and nothing else does.
    let spread = e.mul(four, e.int32(0x0020_4081));
    e.shl(e.and(spread, e.int32(0x0101_0101)), 4)
}

/// Byte `i` of four quants as an `f32`.
pub(super) fn quant<'c>(e: &Emitter<'c>, blocks: &Blocks, word: Val<'c>, i: u32) -> Val<'c> {
    let top = e.shl(word, 24 - 8 * i);
    let byte = if blocks.nibbles { e.lshr(top, e.int32(24)) } else { e.ashr(top, 24) };
    e.int_to_float(byte, Ty::F32)
}

/// Bytes of an activation's block, its scale and sum first.
pub(super) const ACT_BYTES: u32 = 40;
/// First byte of its quants.
pub(super) const ACT_QUANTS: u32 = 8;

/// Checks once that a quantised activation lies as the products expect.
pub(super) fn check_activation(format: Format) {
    let spec = format.spec();
    let at = |name: &str| field(spec, name).0;
    let sum = spec.fields.iter().find(|f| Some(f.name) != spec.scale && f.name != spec.quant);
    let sum = sum.expect("emission: a quantised activation has the sum of its quants");
    let found = (format.block_bytes() as u32, spec.scale.map(at), at(sum.name), at(spec.quant));
    assert_eq!(found, (ACT_BYTES, Some(0), 4, ACT_QUANTS), "emission: {format} is no activation");
}
