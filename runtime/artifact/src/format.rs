//! Storage formats of tensors, as data.
//!
//! A format says how many elements one block holds, which fields the block's bytes are, and how an element's
//! value follows from them: `value = scale * (quant - zero) + offset`. Readers, the reference evaluator, weight
//! packing and code generation all follow from the row. A plain number type is a block of one element.

use crate::dtype::DType;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the elements of one field lie in the block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lanes {
    /// One number of this type per element.
    Plain(DType),
    /// Four bits an element: byte `j` of `n/2` holds element `j` below and element `j + n/2` above.
    Nibbles,
    /// One bit an element, element `j` is bit `j % 8` of byte `j / 8`: the fifth bit of the 5-bit formats.
    Bits,
}

impl Lanes {
    /// Bytes that `count` elements take.
    pub const fn bytes(self, count: usize) -> usize {
        match self {
            Lanes::Plain(d) => d.bytes() * count,
            Lanes::Nibbles => count / 2,
            Lanes::Bits => count / 8,
        }
    }
}

/// One field of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Name, as in the format's text.
    pub name: &'static str,
    /// Layout of its elements.
    pub lanes: Lanes,
    /// Elements: 1, or the block's length.
    pub count: usize,
}

/// A storage format: one row of [`FORMATS`].
#[derive(Debug, PartialEq, Eq)]
pub struct FormatSpec {
    /// Name in text forms and in error messages.
    pub name: &'static str,
    /// Type number in GGUF files, where GGUF has the format.
    pub ggml: Option<u32>,
    /// Name of the dtype in safetensors headers, where safetensors has the format.
    pub safetensors: Option<&'static str>,
    /// Elements of one block, along the tensor's innermost axis.
    pub block: usize,
    /// The fields in the order of their bytes.
    pub fields: &'static [Field],
    /// Field that multiplies, if any.
    pub scale: Option<&'static str>,
    /// Field of the per-element quants.
    pub quant: &'static str,
    /// Field with the quants' next higher bit, if any.
    pub high: Option<&'static str>,
    /// Subtracted from every quant.
    pub zero: i32,
    /// Field that is added, if any.
    pub offset: Option<&'static str>,
}

const fn one(name: &'static str, dtype: DType) -> Field {
    Field { name, lanes: Lanes::Plain(dtype), count: 1 }
}
const fn many(name: &'static str, lanes: Lanes, count: usize) -> Field {
    Field { name, lanes, count }
}
const fn plain(name: &'static str, ggml: Option<u32>, st: &'static str, field: &'static [Field]) -> FormatSpec {
    FormatSpec {
        name,
        ggml,
        safetensors: Some(st),
        block: 1,
        fields: field,
        scale: None,
        quant: "q",
        high: None,
        zero: 0,
        offset: None,
    }
}

macro_rules! formats {
    ($($variant:ident = $spec:expr;)*) => {
        /// A row of [`FORMATS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Format { $(#[doc = concat!("See the row of [`FORMATS`] with this name.")] $variant,)* }

        /// Every storage format.
        pub static FORMATS: &[(Format, FormatSpec)] = &[$((Format::$variant, $spec),)*];
    };
}

formats! {
    F32 = plain("f32", Some(0), "F32", &[one("q", DType::F32)]);
    F16 = plain("f16", Some(1), "F16", &[one("q", DType::F16)]);
    BF16 = plain("bf16", Some(30), "BF16", &[one("q", DType::BF16)]);
    I32 = plain("i32", Some(26), "I32", &[one("q", DType::I32)]);
    Q4_0 = FormatSpec { name: "q4_0", ggml: Some(2), safetensors: None, block: 32,
        fields: &[one("d", DType::F16), many("q", Lanes::Nibbles, 32)],
        scale: Some("d"), quant: "q", high: None, zero: 8, offset: None };
    Q4_1 = FormatSpec { name: "q4_1", ggml: Some(3), safetensors: None, block: 32,
        fields: &[one("d", DType::F16), one("m", DType::F16), many("q", Lanes::Nibbles, 32)],
        scale: Some("d"), quant: "q", high: None, zero: 0, offset: Some("m") };
    Q5_0 = FormatSpec { name: "q5_0", ggml: Some(6), safetensors: None, block: 32,
        fields: &[one("d", DType::F16), many("h", Lanes::Bits, 32), many("q", Lanes::Nibbles, 32)],
        scale: Some("d"), quant: "q", high: Some("h"), zero: 16, offset: None };
    Q5_1 = FormatSpec { name: "q5_1", ggml: Some(7), safetensors: None, block: 32,
        fields: &[one("d", DType::F16), one("m", DType::F16), many("h", Lanes::Bits, 32), many("q", Lanes::Nibbles, 32)],
        scale: Some("d"), quant: "q", high: Some("h"), zero: 0, offset: Some("m") };
    Q8_0 = FormatSpec { name: "q8_0", ggml: Some(8), safetensors: None, block: 32,
        fields: &[one("d", DType::F16), many("q", Lanes::Plain(DType::I8), 32)],
        scale: Some("d"), quant: "q", high: None, zero: 0, offset: None };
    // Activations, quantised on the fly: `s` is the sum of the block's quants times `d`, so that a weight's
    // offset or zero costs one multiplication a block.
    Act8 = FormatSpec { name: "act8", ggml: None, safetensors: None, block: 32,
        fields: &[one("d", DType::F32), one("s", DType::F32), many("q", Lanes::Plain(DType::I8), 32)],
        scale: Some("d"), quant: "q", high: None, zero: 0, offset: None };
}

impl Format {
    /// The format's row.
    pub fn spec(self) -> &'static FormatSpec {
        &FORMATS.iter().find(|(f, _)| *f == self).expect("every variant comes from a row").1
    }

    /// The format with this GGUF type number.
    pub fn from_ggml(number: u32) -> Option<Format> {
        FORMATS.iter().find(|(_, s)| s.ggml == Some(number)).map(|(f, _)| *f)
    }

    /// The format with this safetensors dtype.
    pub fn from_safetensors(dtype: &str) -> Option<Format> {
        FORMATS.iter().find(|(_, s)| s.safetensors == Some(dtype)).map(|(f, _)| *f)
    }

    /// The plain format of a dtype; `None` for dtypes that no tensor is stored in.
    pub fn of(dtype: DType) -> Option<Format> {
        FORMATS.iter().find(|(_, s)| s.block == 1 && s.fields[0].lanes == Lanes::Plain(dtype)).map(|(f, _)| *f)
    }

    /// The dtype of a plain format.
    pub fn plain(self) -> Option<DType> {
        match self.spec() {
            FormatSpec { block: 1, fields: [Field { lanes: Lanes::Plain(d), .. }], .. } => Some(*d),
            _ => None,
        }
    }

    /// Whether elements share block fields, so that scaling one row is not a rewrite of its bytes.
    pub fn is_quantised(self) -> bool {
        self.spec().block > 1
    }

    /// Elements of one block.
    pub fn block(self) -> usize {
        self.spec().block
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.spec().fields.iter().map(|f| f.lanes.bytes(f.count)).sum()
    }

    /// Bytes of `elements` elements; `None` where they are no whole number of blocks or do not fit.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let block = self.block() as u64;
        if !elements.is_multiple_of(block) { None } else { (elements / block).checked_mul(self.block_bytes() as u64) }
    }
}

impl FormatSpec {
    /// A field and its offset in the block, in bytes.
    pub fn field(&self, name: &str) -> Option<(usize, Field)> {
        let mut at = 0;
        for f in self.fields {
            if f.name == name {
                return Some((at, *f));
            }
            at += f.lanes.bytes(f.count);
        }
        None
    }

    /// The value of element `i` of a block.
    ///
    /// # Panics
    /// When `bytes` is shorter than a block or `i` outside it: callers slice whole blocks.
    pub fn decode(&self, bytes: &[u8], i: usize) -> f32 {
        let part = |name: &str, i: usize| {
            let (at, field) = self.field(name).expect("a format's value names its own fields");
            read_lane(field.lanes, &bytes[at..], i, field.count)
        };
        let mut q = part(self.quant, i);
        if let Some(high) = self.high {
            q += 16.0 * part(high, i);
        }
        q -= self.zero as f32;
        let scaled = self.scale.map_or(q, |d| part(d, 0) * q);
        self.offset.map_or(scaled, |m| scaled + part(m, 0))
    }
}

impl FormatSpec {
    /// The values of a whole block: those of [`FormatSpec::decode`].
    ///
    /// # Panics
    /// When `bytes` is shorter than a block or `out` longer: callers slice whole blocks.
    pub fn decode_block(&self, bytes: &[u8], out: &mut [f32]) {
        let part = |name: &str| {
            let (at, field) = self.field(name).expect("a format's value names its own fields");
            move |i: usize| read_lane(field.lanes, &bytes[at..], i, field.count)
        };
        let (quant, high) = (part(self.quant), self.high.map(part));
        let scale = self.scale.map(|name| part(name)(0));
        let offset = self.offset.map(|name| part(name)(0));
        for (i, x) in out.iter_mut().enumerate() {
            let q = quant(i) + high.as_ref().map_or(0.0, |h| 16.0 * h(i)) - self.zero as f32;
            let scaled = scale.map_or(q, |d| d * q);
            *x = offset.map_or(scaled, |m| scaled + m);
        }
    }
}

fn read_lane(lanes: Lanes, bytes: &[u8], i: usize, count: usize) -> f32 {
    match lanes {
        Lanes::Plain(d) => read_scalar(d, &bytes[i * d.bytes()..]),
        Lanes::Nibbles if i < count / 2 => (bytes[i] & 15) as f32,
        Lanes::Nibbles => (bytes[i - count / 2] >> 4) as f32,
        Lanes::Bits => (bytes[i / 8] >> (i % 8) & 1) as f32,
    }
}

/// One little-endian number.
pub fn read_scalar(dtype: DType, b: &[u8]) -> f32 {
    match dtype {
        DType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::I32 => i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32,
        DType::I8 => b[0] as i8 as f32,
        DType::U8 => b[0] as f32,
    }
}

/// Writes one little-endian number, rounded to nearest even; integers saturate, and a NaN becomes 0.
pub fn write_scalar(dtype: DType, value: f64, to: &mut [u8]) {
    match dtype {
        DType::F32 => to.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::F16 => to.copy_from_slice(&half::f16::from_f64(value).to_le_bytes()),
        DType::BF16 => to.copy_from_slice(&half::bf16::from_f64(value).to_le_bytes()),
        DType::I32 => to.copy_from_slice(&(value.round_ties_even() as i32).to_le_bytes()),
        DType::I8 => to.copy_from_slice(&(value.round_ties_even() as i8).to_le_bytes()),
        DType::U8 => to.copy_from_slice(&(value.round_ties_even() as u8).to_le_bytes()),
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_those_of_the_files() {
        let sizes: Vec<_> = FORMATS.iter().map(|(f, _)| (f.to_string(), f.block_bytes())).collect();
        let want = [
            ("f32", 4),
            ("f16", 2),
            ("bf16", 2),
            ("i32", 4),
            ("q4_0", 18),
            ("q4_1", 20),
            ("q5_0", 22),
            ("q5_1", 24),
            ("q8_0", 34),
            ("act8", 40),
        ];
        assert_eq!(sizes, want.map(|(n, b)| (n.to_string(), b)));
    }

    #[test]
    fn q4_1_decodes_both_halves() {
        let mut block = [0u8; 20];
        block[0..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&half::f16::from_f32(-1.0).to_le_bytes());
        block[4] = 0xA3;
        let spec = Format::Q4_1.spec();
        assert_eq!(spec.decode(&block, 0), 0.5 * 3.0 - 1.0);
        assert_eq!(spec.decode(&block, 16), 0.5 * 10.0 - 1.0);
        let mut all = [0.0; 32];
        spec.decode_block(&block, &mut all);
        assert!((0..32).all(|i| all[i] == spec.decode(&block, i)));
    }
}
