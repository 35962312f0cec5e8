//! Writes small checkpoints, for tests and experiments.
//!
//! The files are made in memory; real checkpoints are made by their converters.

use super::gguf::{MAGIC, MetaType};
use llmc_artifact::Format;

const ALIGNMENT: usize = 32;

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// An unsigned number.
    U32(u32),
    /// A signed number.
    I32(i32),
    /// A real number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of signed numbers.
    I32s(Vec<i32>),
    /// A list of real numbers.
    F32s(Vec<f32>),
}

/// Builds a GGUF file (version 3) in memory.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    pairs: Vec<(String, MetaValue)>,
    tensors: Vec<(String, Vec<u64>, Format, Vec<u8>)>,
}

impl GgufWriter {
    /// A file of this architecture, empty so far.
    pub fn new(architecture: &str) -> GgufWriter {
        GgufWriter::default().meta("general.architecture", MetaValue::Text(architecture.into()))
    }

    /// Adds a key.
    #[must_use]
    pub fn meta(mut self, key: &str, value: MetaValue) -> GgufWriter {
        self.pairs.push((key.into(), value));
        self
    }

    /// Adds a tensor from its stored bytes; `shape` is outermost first.
    ///
    /// # Panics
    /// When GGUF has no such format or the bytes are not as many as the shape says.
    #[must_use]
    pub fn tensor(mut self, name: &str, shape: &[u64], format: Format, bytes: Vec<u8>) -> GgufWriter {
        assert!(format.spec().ggml.is_some(), "GGUF has no format {format}");
        assert_eq!(format.bytes(shape.iter().product()), Some(bytes.len() as u64), "bytes of `{name}`");
        self.tensors.push((name.into(), shape.to_vec(), format, bytes));
        self
    }

    /// Adds a tensor from values, quantised to `format`; `shape` is outermost first.
    ///
    /// # Panics
    /// As [`GgufWriter::tensor`].
    #[must_use]
    pub fn values(self, name: &str, shape: &[u64], format: Format, values: &[f32]) -> GgufWriter {
        self.tensor(name, shape, format, super::quantise::quantise(format, values))
    }

    /// The file.
    pub fn finish(self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            put_string(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for (name, shape, format, bytes) in &self.tensors {
            put_string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(format.spec().ggml.expect("checked when added").to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for (_, _, _, bytes) in &self.tensors {
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        }
        out
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &MetaValue) {
    let kind = |out: &mut Vec<u8>, t: MetaType| out.extend(t.number().to_le_bytes());
    let list = |out: &mut Vec<u8>, t: MetaType, count: usize| {
        kind(out, MetaType::Array);
        kind(out, t);
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        MetaValue::U32(n) => {
            kind(out, MetaType::U32);
            out.extend(n.to_le_bytes());
        }
        MetaValue::I32(n) => {
            kind(out, MetaType::I32);
            out.extend(n.to_le_bytes());
        }
        MetaValue::F32(x) => {
            kind(out, MetaType::F32);
            out.extend(x.to_le_bytes());
        }
        MetaValue::Bool(b) => {
            kind(out, MetaType::Bool);
            out.push(*b as u8);
        }
        MetaValue::Text(s) => {
            kind(out, MetaType::String);
            put_string(out, s);
        }
        MetaValue::Texts(v) => {
            list(out, MetaType::String, v.len());
            v.iter().for_each(|s| put_string(out, s));
        }
        MetaValue::I32s(v) => {
            list(out, MetaType::I32, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        MetaValue::F32s(v) => {
            list(out, MetaType::F32, v.len());
            v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}
