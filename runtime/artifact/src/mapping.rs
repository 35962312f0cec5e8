//! The one place of this crate where a file's bytes become memory.
#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, mapped read-only. Empty files have an empty map.
#[derive(Debug)]
pub struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps a whole file.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile(None)); // mapping nothing is an error on some systems
        }
        // SAFETY: the map is private and read-only, and all access goes through slices of its own length. Another
        // process that rewrites the file in place changes values under us, never lengths; llmc itself writes artifacts
        // aside and renames them. Only code must not change once it is verified, and code is copied out before that.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
