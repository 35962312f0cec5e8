//! GGUF, versions 2 and 3 (the layout in ggml's `docs/gguf.md`).
//!
//! The header is walked once; what stays is an index of keys and tensors. Lists (vocabularies, merges) are neither
//! copied nor decoded before someone asks.

use super::CheckpointFile;
use crate::error::{FileCode, FileError};
use crate::mapping::Bytes;
use crate::tokenizer::TokenizerData;
use llmc_artifact::{Checkpoint, ConfigValue, Format, SourceKind, TensorData, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a GGUF file begins with.
pub const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
/// The least a key with its value, and a tensor's description, can take: bounds the counts in the header.
const LEAST_PAIR: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Type numbers that GGUF has and the format table lacks, for error messages.
const OTHER_TYPES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaType {
    /// One byte.
    U8,
    /// One byte, signed.
    I8,
    /// Two bytes.
    U16,
    /// Two bytes, signed.
    I16,
    /// Four bytes.
    U32,
    /// Four bytes, signed.
    I32,
    /// IEEE binary32.
    F32,
    /// A byte, 0 or 1.
    Bool,
    /// A length (u64) and that many bytes.
    String,
    /// An element type, a count (u64) and the elements.
    Array,
    /// Eight bytes.
    U64,
    /// Eight bytes, signed.
    I64,
    /// IEEE binary64.
    F64,
}

impl MetaType {
    /// In the order of their numbers in the file.
    const ALL: [MetaType; 13] = [
        MetaType::U8,
        MetaType::I8,
        MetaType::U16,
        MetaType::I16,
        MetaType::U32,
        MetaType::I32,
        MetaType::F32,
        MetaType::Bool,
        MetaType::String,
        MetaType::Array,
        MetaType::U64,
        MetaType::I64,
        MetaType::F64,
    ];

    /// The number that stands for the type in a file.
    pub fn number(self) -> u32 {
        MetaType::ALL.iter().position(|t| *t == self).expect("ALL has every type") as u32
    }

    /// Bytes of one value; `None` where they vary.
    const fn bytes(self) -> Option<u64> {
        match self {
            MetaType::U8 | MetaType::I8 | MetaType::Bool => Some(1),
            MetaType::U16 | MetaType::I16 => Some(2),
            MetaType::U32 | MetaType::I32 | MetaType::F32 => Some(4),
            MetaType::U64 | MetaType::I64 | MetaType::F64 => Some(8),
            MetaType::String | MetaType::Array => None,
        }
    }
}

/// Where a value lies; `at` is its first byte, for a list the first element's.
#[derive(Clone, Copy, Debug)]
struct Meta {
    element: MetaType,
    count: Option<u64>,
    at: u64,
}

#[derive(Clone, Debug)]
struct Tensor {
    info: TensorInfo,
    range: Range<usize>,
}

/// An open GGUF file.
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    architecture: String,
    keys: Vec<String>,
    meta: HashMap<String, Meta>,
    names: Vec<String>,
    tensors: HashMap<String, Tensor>,
}

impl GgufFile {
    /// Maps and indexes a file.
    ///
    /// # Errors
    /// E0601 to E0607.
    pub fn open(path: &Path) -> Result<GgufFile, FileError> {
        GgufFile::index(path, Bytes::map(path)?)
    }

    /// Indexes bytes that are in memory already; `name` stands for the path in messages.
    ///
    /// # Errors
    /// E0602 to E0607.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<GgufFile, FileError> {
        GgufFile::index(Path::new(name), Bytes::Owned(bytes))
    }

    fn index(path: &Path, bytes: Bytes) -> Result<GgufFile, FileError> {
        let mut r = Reader { path, bytes: &bytes, at: 0 };
        let (tensor_count, pair_count) = read_counts(&mut r)?;
        let (keys, meta) = read_pairs(&mut r, pair_count)?;
        let alignment = read_alignment(&r, &meta)?;
        let raw = read_tensors(&mut r, tensor_count)?;
        let data_start = r.at.next_multiple_of(alignment);
        let (names, tensors) = place_tensors(path, raw, data_start, alignment, bytes.len() as u64)?;
        let mut file =
            GgufFile { path: path.to_path_buf(), bytes, architecture: String::new(), keys, meta, names, tensors };
        match file.config("general.architecture") {
            Some(ConfigValue::Text(name)) => file.architecture = name,
            other => {
                return Err(FileError::new(FileCode::Malformed, path, "key `general.architecture`")
                    .found(if other.is_some() { "a value that is no string" } else { "no such key" })
                    .expected("the architecture's name"));
            }
        }
        Ok(file)
    }

    /// The strings of a list, in order, without copying; `None` when the key is absent or no list of strings.
    /// A string that is not UTF-8 is an `Err` with its bytes.
    pub fn strings(&self, key: &str) -> Option<impl Iterator<Item = Result<&str, &[u8]>>> {
        let meta = self.meta.get(key).filter(|m| m.element == MetaType::String)?;
        let mut r = Reader { path: &self.path, bytes: &self.bytes, at: meta.at };
        let next = move |_| {
            let bytes = r.string("").ok()?;
            Some(std::str::from_utf8(bytes).map_err(|_| bytes))
        };
        Some((0..meta.count?).map_while(next))
    }

    /// The numbers of a list, in order; `None` when the key is absent or no list of numbers.
    pub fn numbers(&self, key: &str) -> Option<impl Iterator<Item = f64> + '_> {
        let meta = self.meta.get(key).filter(|m| m.element.bytes().is_some())?;
        let mut r = Reader { path: &self.path, bytes: &self.bytes, at: meta.at };
        let element = meta.element;
        Some((0..meta.count?).map_while(move |_| match r.scalar(element).ok()? {
            ConfigValue::Int(i) => Some(i as f64),
            ConfigValue::Real(x) => Some(x),
            ConfigValue::Bool(b) => Some(b as u8 as f64),
            ConfigValue::Text(_) | ConfigValue::List(_) => None,
        }))
    }

    fn full_key(&self, key: &str) -> String {
        match key.strip_prefix('.') {
            Some(rest) => format!("{}.{rest}", self.architecture),
            None => key.to_string(),
        }
    }
}

impl Checkpoint for GgufFile {
    fn kind(&self) -> SourceKind {
        SourceKind::Gguf
    }

    fn architecture(&self) -> &str {
        &self.architecture
    }

    fn config(&self, key: &str) -> Option<ConfigValue> {
        let meta = self.meta.get(&self.full_key(key))?;
        let mut r = Reader { path: &self.path, bytes: &self.bytes, at: meta.at };
        match meta.count {
            None => r.scalar(meta.element).ok(),
            Some(n) => (0..n).map(|_| r.scalar(meta.element).ok()).collect::<Option<_>>().map(ConfigValue::List),
        }
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.meta.get(&self.full_key(key))?.count
    }

    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|t| t.info.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn config_keys(&self) -> Vec<String> {
        self.keys.clone()
    }
}

impl TensorData for GgufFile {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|t| &self.bytes[t.range.clone()])
    }

    fn stored_as(&self, name: &str) -> Option<TensorInfo> {
        self.tensor(name)
    }

    fn release(&self, name: &str) {
        if let Some(t) = self.tensors.get(name) {
            self.bytes.release(t.range.clone());
        }
    }
}

impl CheckpointFile for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tokenizer_data(&self) -> Result<Option<TokenizerData>, FileError> {
        crate::tokenizer::gguf::read(self)
    }
}

/// Magic, version, the number of tensors and of keys.
fn read_counts(r: &mut Reader) -> Result<(u64, u64), FileError> {
    let magic = r.take(4, "the first bytes")?;
    if magic != MAGIC {
        return Err(FileError::new(FileCode::UnknownKind, r.path, "")
            .found(format!("first bytes {magic:02x?}"))
            .expected("`GGUF`"));
    }
    let version = r.u32("the version")?;
    if version.swap_bytes() < 16 {
        return Err(FileError::new(FileCode::UnsupportedFormat, r.path, "")
            .found("a big-endian GGUF file")
            .expected("a little-endian one")
            .help("convert it again without the big-endian option"));
    }
    if !(2..=3).contains(&version) {
        return Err(FileError::new(FileCode::UnsupportedFormat, r.path, "")
            .found(format!("GGUF version {version}"))
            .expected("version 2 or 3")
            .help("convert the checkpoint again with a current converter"));
    }
    let tensors = r.u64("the number of tensors")?;
    let pairs = r.u64("the number of keys")?;
    r.room_for(tensors, LEAST_TENSOR, "the number of tensors")?;
    r.room_for(pairs, LEAST_PAIR, "the number of keys")?;
    Ok((tensors, pairs))
}

type Pairs = (Vec<String>, HashMap<String, Meta>);

fn read_pairs(r: &mut Reader, count: u64) -> Result<Pairs, FileError> {
    let (mut keys, mut meta) = (Vec::new(), HashMap::new());
    for i in 0..count {
        let key = r.name(&format!("key {i}"))?;
        let value = read_value(r, &key)?;
        if meta.insert(key.clone(), value).is_some() {
            return Err(FileError::new(FileCode::Duplicate, r.path, format!("key `{key}`")));
        }
        keys.push(key);
    }
    Ok((keys, meta))
}

/// Steps over a value and remembers where it was.
fn read_value(r: &mut Reader, key: &str) -> Result<Meta, FileError> {
    let part = || format!("key `{key}`");
    let kind = r.meta_type(&part)?;
    match kind {
        MetaType::Array => {
            let element = r.meta_type(&part)?;
            if element == MetaType::Array {
                return Err(r.malformed(part()).found("a list of lists").expected("a list of numbers or strings"));
            }
            let count = r.u64(&part())?;
            let at = r.at;
            r.room_for(count, element.bytes().unwrap_or(8), &part())?;
            match element.bytes() {
                Some(bytes) => {
                    r.take(count * bytes, &part())?;
                }
                None => (0..count).try_for_each(|_| r.string(&part()).map(|_| ()))?,
            }
            Ok(Meta { element, count: Some(count), at })
        }
        element => {
            let at = r.at;
            r.scalar(element)?;
            Ok(Meta { element, count: None, at })
        }
    }
}

fn read_alignment(r: &Reader, meta: &HashMap<String, Meta>) -> Result<u64, FileError> {
    let Some(m) = meta.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    let mut r = Reader { at: m.at, ..*r };
    match (m.count, r.scalar(m.element)) {
        (None, Ok(ConfigValue::Int(n))) if n > 0 && n <= 1 << 20 && (n as u64).is_power_of_two() => Ok(n as u64),
        (_, found) => Err(r
            .malformed("key `general.alignment`".into())
            .found(found.map_or("a list".into(), |v| format!("{v:?}")))
            .expected("a power of two, at most 1 MiB")),
    }
}

/// A tensor as the header describes it, its offset relative to the data.
struct RawTensor {
    name: String,
    info: TensorInfo,
    offset: u64,
    bytes: u64,
}

fn read_tensors(r: &mut Reader, count: u64) -> Result<Vec<RawTensor>, FileError> {
    (0..count).map(|i| read_tensor(r, i)).collect()
}

fn read_tensor(r: &mut Reader, i: u64) -> Result<RawTensor, FileError> {
    let name = r.name(&format!("tensor {i}"))?;
    let part = format!("tensor `{name}`");
    let rank = r.u32(&part)?;
    if rank == 0 || rank > MAX_DIMENSIONS {
        return Err(r
            .malformed(part)
            .found(format!("{rank} dimensions"))
            .expected(format!("1 to {MAX_DIMENSIONS} dimensions")));
    }
    let mut shape = (0..rank).map(|_| r.u64(&part)).collect::<Result<Vec<u64>, _>>()?;
    shape.reverse(); // the file states the innermost dimension first
    let format = read_format(r, &part)?;
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d).filter(|n| *n > 0));
    let bytes = elements.and_then(|n| format.bytes(n)).filter(|_| shape[shape.len() - 1] % format.block() as u64 == 0);
    let Some(bytes) = bytes else {
        return Err(r
            .malformed(part)
            .found(format!("shape {shape:?} in format {format}"))
            .expected(format!("whole blocks of {} elements, and less than 2^64 bytes", format.block())));
    };
    let offset = r.u64(&part)?;
    Ok(RawTensor { name, info: TensorInfo { shape, format }, offset, bytes })
}

fn read_format(r: &mut Reader, part: &str) -> Result<Format, FileError> {
    let number = r.u32(part)?;
    if let Some(format) = Format::from_ggml(number) {
        return Ok(format);
    }
    let supported: Vec<_> = llmc_artifact::format::FORMATS.iter().filter(|(_, s)| s.ggml.is_some()).collect();
    let supported = supported.iter().map(|(_, s)| s.name).collect::<Vec<_>>().join(", ");
    let e = match OTHER_TYPES.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => FileError::new(FileCode::UnsupportedFormat, r.path, part)
            .found(format!("storage format {name}"))
            .help("take another quantisation of the same model"),
        None => r.malformed(part.into()).found(format!("type number {number}, which no storage format has")),
    };
    Err(e.expected(format!("one of {supported}")))
}

type Placed = (Vec<String>, HashMap<String, Tensor>);

/// Gives every tensor its place in the file; no two may share a byte.
fn place_tensors(path: &Path, raw: Vec<RawTensor>, start: u64, align: u64, length: u64) -> Result<Placed, FileError> {
    let mut names = Vec::with_capacity(raw.len());
    let mut spans = Vec::with_capacity(raw.len());
    let mut tensors = HashMap::with_capacity(raw.len());
    for t in raw {
        let part = || format!("tensor `{}`", t.name);
        if t.offset % align != 0 {
            return Err(FileError::new(FileCode::TensorRange, path, part())
                .found(format!("offset {}", t.offset))
                .expected(format!("a multiple of the file's alignment, {align}")));
        }
        let from = start.checked_add(t.offset);
        let to = from.and_then(|f| f.checked_add(t.bytes));
        let (Some(from), Some(to)) = (from, to.filter(|to| *to <= length)) else {
            return Err(FileError::new(FileCode::Truncated, path, part())
                .found(format!("a file of {length} bytes"))
                .expected(format!("{} bytes at offset {} of its data, which begins at {start}", t.bytes, t.offset))
                .help("download or copy the file again"));
        };
        spans.push((from, to, names.len()));
        names.push(t.name.clone());
        // Both ends are at most the length of a slice, so they fit a usize.
        let placed = Tensor { info: t.info, range: from as usize..to as usize };
        if tensors.insert(t.name.clone(), placed).is_some() {
            return Err(FileError::new(FileCode::Duplicate, path, format!("tensor `{}`", t.name)));
        }
    }
    spans.sort_unstable();
    match spans.windows(2).find(|w| w[0].1 > w[1].0) {
        None => Ok((names, tensors)),
        Some(w) => Err(FileError::new(FileCode::TensorRange, path, format!("tensor `{}`", names[w[1].2]))
            .found(format!("bytes {}..{}", w[1].0, w[1].1))
            .expected(format!("nothing before byte {}, where tensor `{}` ends", w[0].1, names[w[0].2]))),
    }
}

/// A cursor that never passes the end.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    fn left(&self) -> u64 {
        self.bytes.len() as u64 - self.at
    }

    fn malformed(&self, part: String) -> FileError {
        FileError::new(FileCode::Malformed, self.path, part).help("download or convert the file again")
    }

    fn take(&mut self, n: u64, part: &str) -> Result<&'a [u8], FileError> {
        if n > self.left() {
            return Err(FileError::new(FileCode::Truncated, self.path, part)
                .found(format!("{} more bytes", self.left()))
                .expected(format!("{n} bytes at byte {}", self.at))
                .help("download or copy the file again"));
        }
        let from = self.at as usize;
        self.at += n;
        Ok(&self.bytes[from..self.at as usize])
    }

    /// Refuses a count whose items cannot all lie in what is left of the file.
    fn room_for(&self, count: u64, least: u64, part: &str) -> Result<(), FileError> {
        if count.checked_mul(least).is_some_and(|n| n <= self.left()) {
            return Ok(());
        }
        Err(FileError::new(FileCode::Truncated, self.path, part)
            .found(format!("a count of {count} with {} bytes left in the file", self.left()))
            .expected(format!("at most {}", self.left() / least))
            .help("download or copy the file again"))
    }

    fn array<const N: usize>(&mut self, part: &str) -> Result<[u8; N], FileError> {
        Ok(self.take(N as u64, part)?.try_into().expect("take gives as many bytes as asked"))
    }

    fn u32(&mut self, part: &str) -> Result<u32, FileError> {
        self.array(part).map(u32::from_le_bytes)
    }

    fn u64(&mut self, part: &str) -> Result<u64, FileError> {
        self.array(part).map(u64::from_le_bytes)
    }

    fn string(&mut self, part: &str) -> Result<&'a [u8], FileError> {
        let n = self.u64(part)?;
        self.take(n, part)
    }

    /// A string that names something: UTF-8, of sane length.
    fn name(&mut self, part: &str) -> Result<String, FileError> {
        let bytes = self.string(part)?;
        match std::str::from_utf8(bytes) {
            Ok(s) if s.len() < 1 << 16 => Ok(s.to_string()),
            _ => Err(self.malformed(part.into()).found("a name that is not UTF-8, or above 64 KiB").expected("a name")),
        }
    }

    fn meta_type(&mut self, part: &dyn Fn() -> String) -> Result<MetaType, FileError> {
        let number = self.u32(&part())?;
        MetaType::ALL.get(number as usize).copied().ok_or_else(|| {
            self.malformed(part()).found(format!("value type {number}")).expected("a value type from 0 to 12")
        })
    }

    fn scalar(&mut self, kind: MetaType) -> Result<ConfigValue, FileError> {
        let part = "a value";
        Ok(match kind {
            MetaType::U8 => ConfigValue::Int(u8::from_le_bytes(self.array(part)?).into()),
            MetaType::I8 => ConfigValue::Int(i8::from_le_bytes(self.array(part)?).into()),
            MetaType::U16 => ConfigValue::Int(u16::from_le_bytes(self.array(part)?).into()),
            MetaType::I16 => ConfigValue::Int(i16::from_le_bytes(self.array(part)?).into()),
            MetaType::U32 => ConfigValue::Int(self.u32(part)?.into()),
            MetaType::I32 => ConfigValue::Int(i32::from_le_bytes(self.array(part)?).into()),
            MetaType::F32 => ConfigValue::Real(f32::from_le_bytes(self.array(part)?).into()),
            MetaType::Bool => ConfigValue::Bool(self.take(1, part)?[0] != 0),
            MetaType::U64 => {
                let n = self.u64(part)?;
                i64::try_from(n).map_or(ConfigValue::Real(n as f64), ConfigValue::Int)
            }
            MetaType::I64 => ConfigValue::Int(i64::from_le_bytes(self.array(part)?)),
            MetaType::F64 => ConfigValue::Real(f64::from_le_bytes(self.array(part)?)),
            MetaType::String => {
                let bytes = self.string(part)?;
                let text = std::str::from_utf8(bytes).map_err(|_| {
                    self.malformed(format!("the string before byte {}", self.at))
                        .found("bytes that are not UTF-8")
                        .expected("text")
                })?;
                ConfigValue::Text(text.to_string())
            }
            MetaType::Array => {
                return Err(self.malformed(format!("byte {}", self.at)).found("a list").expected("one value"));
            }
        })
    }
}
