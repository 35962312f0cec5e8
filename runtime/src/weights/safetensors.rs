//! safetensors: a JSON header, then the tensors' bytes.
//!
//! Read here rather than by the crate of that name, whose check of the header's sums can overflow on hostile
//! offsets; the crate writes the files that llmc makes.

use super::json::syntax;
use crate::error::{FileCode, FileError};
use llmc_artifact::{Format, TensorInfo};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::ops::Range;
use std::path::Path;

const MAX_HEADER: u64 = 100_000_000;

/// A tensor of a safetensors file and where in the file it lies.
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) info: TensorInfo,
    pub(crate) range: Range<usize>,
}

/// The tensors of a file, in the order of its header; all inside the file, none over another.
pub(crate) fn index(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>, FileError> {
    let (header, start) = read_header(path, bytes)?;
    let mut out = Vec::with_capacity(header.len());
    for (name, entry) in header {
        out.push(place(path, name, entry, start, bytes.len())?);
    }
    refuse_shared_bytes(path, &out)?;
    Ok(out)
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<(Vec<(String, Entry)>, usize), FileError> {
    let truncated = |found: String, expected: String| {
        FileError::new(FileCode::Truncated, path, "the header")
            .found(found)
            .expected(expected)
            .help("download or copy the file again")
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated(format!("{} bytes", bytes.len()), "8 bytes and a header".into()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER || length > rest.len() as u64 {
        let most = MAX_HEADER.min(rest.len() as u64);
        return Err(truncated(format!("a header of {length} bytes"), format!("at most {most} bytes")));
    }
    let length = length as usize;
    let header: Header = serde_json::from_slice(&rest[..length]).map_err(|e| syntax(path, &e))?;
    let mut names: Vec<&str> = header.0.iter().map(|(n, _)| n.as_str()).collect();
    names.sort_unstable();
    if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
        return Err(FileError::new(FileCode::Duplicate, path, format!("tensor `{}`", w[0])));
    }
    Ok((header.0, 8 + length))
}

fn place(path: &Path, name: String, entry: Entry, start: usize, length: usize) -> Result<Placed, FileError> {
    let error = |code| FileError::new(code, path, format!("tensor `{name}`"));
    let Some(format) = Format::from_safetensors(&entry.dtype) else {
        return Err(error(FileCode::UnsupportedFormat)
            .found(format!("dtype {}", entry.dtype))
            .expected("F32, F16, BF16 or I32")
            .help("save the checkpoint in one of these"));
    };
    let (from, to) = entry.data_offsets;
    let data = (length - start) as u64;
    if to > data {
        return Err(error(FileCode::Truncated)
            .found(format!("{data} bytes of data in the file"))
            .expected(format!("the tensor's bytes {from}..{to}"))
            .help("download or copy the file again"));
    }
    let elements = entry.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    if from > to || elements.and_then(|n| format.bytes(n)) != Some(to - from) {
        return Err(error(FileCode::Malformed)
            .found(format!("bytes {from}..{to} for shape {:?} in {format}", entry.shape))
            .expected("as many bytes as shape and dtype say"));
    }
    let range = start + from as usize..start + to as usize;
    Ok(Placed { name, info: TensorInfo { shape: entry.shape, format }, range })
}

fn refuse_shared_bytes(path: &Path, tensors: &[Placed]) -> Result<(), FileError> {
    let mut spans: Vec<_> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    spans.sort_unstable_by_key(|t| t.range.start);
    match spans.windows(2).find(|w| w[0].range.end > w[1].range.start) {
        None => Ok(()),
        Some(w) => Err(FileError::new(FileCode::TensorRange, path, format!("tensor `{}`", w[1].name))
            .found(format!("bytes {:?} of the file", w[1].range))
            .expected(format!("nothing before byte {}, where `{}` ends", w[0].range.end, w[0].name))),
    }
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in order, a repeated name kept so that it can be refused.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Header, D::Error> {
        d.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut out = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                out.push((name, map.next_value()?));
            }
        }
        Ok(Header(out))
    }
}
