//! The one place where a file's bytes become memory.

use crate::error::FileError;
use memmap2::{Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::{Deref, Range};
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

    /// Says that a range has been used and need not stay in memory; reading it again reads the file again.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = self {
            // SAFETY: the map is of a file and read-only, so a page that is dropped comes back with the same bytes.
            // A refusal only means that the pages stay.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = Bytes::map(&path).unwrap();
        assert_eq!(bytes[..], content);
        bytes.release(1..99_999);
        bytes.release(50_000..50_000);
        assert_eq!(bytes[..], content);
    }
}
