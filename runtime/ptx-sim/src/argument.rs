//! Arguments of a launch as a person writes them.

use crate::memory::Memory;
use crate::number::{Rounding, narrow, widen};
use crate::types::{Type, sign_extend};
use std::path::PathBuf;

/// Bytes of one buffer.
const BUFFER_LIMIT: u64 = 1 << 32;

/// A value for a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// `7`, `u32:7`, `f32:1.5`
    Scalar(Type, u64),
    /// `f32[1024]`, `f32[1024]=0.5`
    Buffer(Type, u64, Fill),
}

/// What a buffer holds at the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Nothing was ever written to it.
    Nothing,
    /// Bits of every element.
    Value(u64),
    /// 0, 1, 2, ...
    Iota,
    /// Numbers in `-1..1`, or any bits of an integer; the same in every run.
    Random,
    /// The bytes of a file.
    File(PathBuf),
}

impl Argument {
    /// Reads `7`, `f32:1.5`, `f32[1024]`, `f32[1024]=0.5`, `u8[64]=iota`, `f16[8]=random`, `b8[100]=@weights.bin`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Argument, String> {
        let known = |name: &str| match Type::parse(name) {
            Some(ty) if ty.bits() >= 8 && ty.bits() <= 64 => Ok(ty),
            _ => Err(format!("`{text}`: `{name}` is not a type such as u32 or f32")),
        };
        if let Some((ty, value)) = text.split_once(':') {
            let ty = known(ty)?;
            return Ok(Argument::Scalar(ty, number(value, ty, text)?));
        }
        let Some((ty, rest)) = text.split_once('[') else {
            return Ok(Argument::Scalar(Type::S64, number(text, Type::S64, text)?));
        };
        let ty = known(ty)?;
        let Some((count, rest)) = rest.split_once(']') else { return Err(format!("`{text}`: `]` is missing")) };
        let count = count.parse::<u64>().map_err(|_| format!("`{text}`: `{count}` is not a number of elements"))?;
        if count.checked_mul(ty.bytes() as u64).is_none_or(|n| n > BUFFER_LIMIT) {
            return Err(format!("`{text}`: more than {BUFFER_LIMIT} bytes"));
        }
        let fill = match rest.strip_prefix('=') {
            None if rest.is_empty() => Fill::Nothing,
            Some("iota") => Fill::Iota,
            Some("random") => Fill::Random,
            Some(value) => match value.strip_prefix('@') {
                Some(path) => Fill::File(path.into()),
                None => Fill::Value(number(value, ty, text)?),
            },
            None => return Err(format!("`{text}`: what follows `]` starts with `=`")),
        };
        Ok(Argument::Buffer(ty, count, fill))
    }

    /// Puts a buffer into memory under a name; the parameter's value.
    ///
    /// # Errors
    /// A file that cannot be read or has another size.
    pub fn place(&self, name: &str, memory: &mut Memory) -> Result<u64, String> {
        let (ty, count, fill) = match self {
            Argument::Scalar(_, bits) => return Ok(*bits),
            Argument::Buffer(ty, count, fill) => (*ty, *count as usize, fill),
        };
        let size = ty.bytes() as usize;
        let filled = |value: &mut dyn FnMut(usize) -> u64| {
            (0..count).flat_map(|i| value(i).to_le_bytes().into_iter().take(size)).collect::<Vec<u8>>()
        };
        let bytes = match fill {
            Fill::Nothing => return Ok(memory.allocate(name, count * size)),
            Fill::Value(bits) => filled(&mut |_| *bits),
            Fill::Iota => filled(&mut |i| from_real(i as f64, ty)),
            Fill::Random => {
                let mut state = 0x9e37_79b9_7f4a_7c15u64;
                filled(&mut |_| random(&mut state, ty))
            }
            Fill::File(path) => {
                let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                if bytes.len() != count * size {
                    return Err(format!("{}: {} bytes, {} are needed", path.display(), bytes.len(), count * size));
                }
                bytes
            }
        };
        Ok(memory.upload(name, bytes))
    }

    /// The first elements of a buffer at an address; `None` for a scalar.
    pub fn elements(&self, address: u64, memory: &Memory, most: usize) -> Option<Vec<f64>> {
        let Argument::Buffer(ty, count, _) = self else { return None };
        let (size, count) = (ty.bytes() as usize, (*count as usize).min(most));
        let bytes = memory.bytes(address, size * count)?;
        Some(bytes.chunks_exact(size).map(|b| to_real(b, *ty)).collect())
    }
}

fn from_real(x: f64, ty: Type) -> u64 {
    match ty.layout() {
        Some(_) => narrow(x, ty, Rounding::Even, false),
        None => x as i64 as u64 & ty.mask(),
    }
}

fn to_real(bytes: &[u8], ty: Type) -> f64 {
    let bits = bytes.iter().rev().fold(0, |all, b| all << 8 | *b as u64);
    match ty.layout() {
        Some(_) => widen(bits, ty),
        None if ty.is_signed() => sign_extend(bits, ty.bits()) as i64 as f64,
        None => bits as f64,
    }
}

fn random(state: &mut u64, ty: Type) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    match ty.layout() {
        Some(_) => from_real((*state >> 40) as f64 / (1u64 << 23) as f64 - 1.0, ty),
        None => *state & ty.mask(),
    }
}

/// A number's bits as an element of a type.
fn number(text: &str, ty: Type, whole: &str) -> Result<u64, String> {
    let wrong = || format!("`{whole}`: `{text}` is not a number of type {}", ty.name());
    if ty.layout().is_some() {
        return text.parse::<f64>().map(|x| narrow(x, ty, Rounding::Even, false)).map_err(|_| wrong());
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => text.parse::<i128>(),
    };
    let n = parsed.map_err(|_| wrong())?;
    let (low, high) = (-(1i128 << (ty.bits() - 1)), ty.mask() as i128);
    if n < low || n > high { Err(wrong()) } else { Ok(n as u64 & ty.mask()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let parse = |t: &str| Argument::parse(t).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(parse("-1"), Argument::Scalar(Type::S64, u64::MAX));
        assert_eq!(parse("f32:1.5"), Argument::Scalar(Type::F32, 0x3fc0_0000));
        assert_eq!(parse("u8[4]=0xff"), Argument::Buffer(Type::U8, 4, Fill::Value(255)));
        let mut memory = Memory::new();
        let iota = parse("f16[3]=iota");
        let at = iota.place("x", &mut memory).unwrap();
        assert_eq!(iota.elements(at, &memory, 9), Some(vec![0.0, 1.0, 2.0]));
        for wrong in ["x", "u8:256", "f32[", "f32[2]5", "pred[4]", "b8[99999999999999999999]", "u8[4]=@/no/such/file"] {
            let placed = Argument::parse(wrong).and_then(|a| a.place("x", &mut memory));
            assert!(placed.is_err(), "{wrong}");
        }
    }
}
