//! Numbers into a storage format and back, straight from the format table: slow, obvious, for tests and tools.

use llmc_artifact::format::{FormatSpec, Lanes};
use llmc_artifact::{DType, Format};

/// The stored bytes of `values`, nearest code to each; a quantised block spans its values' range.
///
/// # Panics
/// When the values are no whole number of blocks.
pub fn quantise(format: Format, values: &[f32]) -> Vec<u8> {
    let spec = format.spec();
    assert_eq!(values.len() % spec.block, 0, "{format} stores blocks of {}", spec.block);
    let mut out = vec![0; values.len() / spec.block * format.block_bytes()];
    for (block, values) in out.chunks_mut(format.block_bytes()).zip(values.chunks(spec.block)) {
        quantise_block(spec, block, values);
    }
    out
}

/// The values of a tensor's stored bytes.
///
/// # Panics
/// When the bytes are no whole number of blocks.
pub fn dequantise(format: Format, bytes: &[u8]) -> Vec<f32> {
    let spec = format.spec();
    assert_eq!(bytes.len() % format.block_bytes(), 0, "{format} stores blocks of {} bytes", format.block_bytes());
    bytes.chunks(format.block_bytes()).flat_map(|b| (0..spec.block).map(move |i| spec.decode(b, i))).collect()
}

fn quantise_block(spec: &FormatSpec, block: &mut [u8], values: &[f32]) {
    let (low, high) = code_range(spec);
    let (least, most) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
    let (scale, offset) = match (spec.scale, spec.offset) {
        (None, _) => (1.0, 0.0),
        (Some(_), Some(_)) => ((most - least) / (high - low), least),
        (Some(_), None) => (least.abs().max(most.abs()) / (high - spec.zero as f32), 0.0),
    };
    if let Some(name) = spec.scale {
        put_field(spec, name, block, 0, scale);
    }
    if let Some(name) = spec.offset {
        put_field(spec, name, block, 0, offset);
    }
    for (i, x) in values.iter().enumerate() {
        let code = if spec.scale.is_none() {
            *x
        } else if scale == 0.0 {
            spec.zero as f32
        } else {
            (((x - offset) / scale).round() + spec.zero as f32).clamp(low, high)
        };
        put_code(spec, block, i, code);
    }
}

/// The least and greatest stored code.
fn code_range(spec: &FormatSpec) -> (f32, f32) {
    let (_, quant) = spec.field(spec.quant).expect("a format's value names its own fields");
    match quant.lanes {
        Lanes::Plain(DType::I8) => (-127.0, 127.0),
        Lanes::Plain(_) => (f32::MIN, f32::MAX),
        Lanes::Nibbles if spec.high.is_some() => (0.0, 31.0),
        Lanes::Nibbles => (0.0, 15.0),
        Lanes::Bits => (0.0, 1.0),
    }
}

fn put_code(spec: &FormatSpec, block: &mut [u8], i: usize, code: f32) {
    match spec.high {
        None => put_field(spec, spec.quant, block, i, code),
        Some(high) => {
            put_field(spec, spec.quant, block, i, code % 16.0);
            put_field(spec, high, block, i, (code / 16.0).floor());
        }
    }
}

fn put_field(spec: &FormatSpec, name: &str, block: &mut [u8], i: usize, x: f32) {
    let (at, field) = spec.field(name).expect("a format's value names its own fields");
    let bytes = &mut block[at..];
    match field.lanes {
        Lanes::Plain(d) => {
            let at = i * d.bytes();
            let bytes = &mut bytes[at..at + d.bytes()];
            match d {
                DType::F32 => bytes.copy_from_slice(&x.to_le_bytes()),
                DType::F16 => bytes.copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
                DType::BF16 => bytes.copy_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
                DType::I32 => bytes.copy_from_slice(&(x as i32).to_le_bytes()),
                DType::I8 => bytes[0] = x as i8 as u8,
                DType::U8 => bytes[0] = x as u8,
            }
        }
        Lanes::Nibbles if i < field.count / 2 => bytes[i] |= x as u8 & 15,
        Lanes::Nibbles => bytes[i - field.count / 2] |= (x as u8 & 15) << 4,
        Lanes::Bits => bytes[i / 8] |= (x as u8 & 1) << (i % 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmc_artifact::format::FORMATS;

    #[test]
    fn every_format_comes_back_within_a_step() {
        let values: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.8).collect();
        for (format, spec) in FORMATS {
            let back = dequantise(*format, &quantise(*format, &values));
            // Half a step of the widest block for quantised formats, with the half-precision scale's own error.
            let (low, high) = code_range(spec);
            let tolerance = match (spec.scale, format.plain()) {
                (Some(_), _) => 1.7 / (high - low) * 0.6 + 2e-3,
                (None, Some(DType::I32)) => 1.0,
                (None, _) => 4e-3,
            };
            for (x, y) in values.iter().zip(back) {
                assert!((x - y).abs() <= tolerance, "{format}: {x} became {y}");
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0] {
            assert_eq!(dequantise(format, &quantise(format, &[0.0; 32])), [0.0; 32], "{format}");
        }
    }
}
