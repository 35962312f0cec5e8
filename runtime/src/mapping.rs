//! The one place where a file's bytes become memory.

use crate::error::FileError;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, or bytes that never were one (tests).
pub(crate) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file for reading.
    pub(crate) fn map(path: &Path) -> Result<Bytes, FileError> {
        let file = File::open(path).map_err(|e| FileError::io(path, &e))?;
        let length = file.metadata().map_err(|e| FileError::io(path, &e))?.len();
        if length == 0 {
            return Ok(Bytes::Owned(Vec::new())); // an empty map is an error on some systems
        }
        // SAFETY: the map is private to this process and read-only, and every access goes through a bounds-checked
        // slice, again at each reading. The user is asked not to write to a checkpoint in use: another process that
        // does so changes values under us, never lengths; one that cuts the file short ends this process (SIGBUS).
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FileError::io(path, &e))?;
        Ok(Bytes::Mapped(map))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(m) => m,
            Bytes::Owned(v) => v,
        }
    }
}
