//! JSON files of a checkpoint, bounded in size and depth.

use crate::error::{FileCode, FileError};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest config or index that is read.
pub(crate) const MAX_CONFIG: u64 = 64 << 20;

/// The text of a file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let file = File::open(path).map_err(|e| FileError::io(path, &e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| FileError::io(path, &e))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::new(FileCode::Json, path, "")
            .found(format!("more than {limit} bytes"))
            .expected(format!("at most {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        FileError::new(FileCode::Json, path, format!("byte {}", e.utf8_error().valid_up_to()))
            .found("bytes that are not UTF-8")
            .expected("text")
    })
}

/// A JSON file that holds an object. serde_json refuses nesting beyond 128 levels.
pub(crate) fn read_object(path: &Path) -> Result<Value, FileError> {
    let text = read_text(path, MAX_CONFIG)?;
    let value: Value = serde_json::from_str(&text).map_err(|e| syntax(path, &e))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(FileError::new(FileCode::Json, path, "").found("JSON that is no object").expected("an object"))
}

pub(crate) fn syntax(path: &Path, e: &serde_json::Error) -> FileError {
    FileError::new(FileCode::Json, path, format!("line {}, column {}", e.line(), e.column()))
        .found(e)
        .expected("JSON")
        .help("download the file again")
}
