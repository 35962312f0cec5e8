//! Checkpoints on disk: what the compiler asks about them, and their tensors' bytes.
//!
//! Enters: a path. Leaves: a [`CheckpointFile`], memory-mapped, every size in it checked against the file before
//! anything was allocated. Deliberately absent: any knowledge of architectures; names and shapes belong to the
//! model text. Nothing is decoded here either: a tensor's bytes are handed out as they are stored.

pub mod gguf;
pub mod hf;
pub(crate) mod json;
pub mod quantise;
mod safetensors;
pub mod write;

use crate::error::{FileCode, FileError};
use crate::tokenizer::{Tokenizer, TokenizerData};
use llmc_artifact::{Checkpoint, TensorData};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A checkpoint whose bytes are at hand.
pub trait CheckpointFile: Checkpoint + TensorData {
    /// Where it came from.
    fn path(&self) -> &Path;

    /// Its tokenizer; `None` when it has none.
    ///
    /// # Errors
    /// E0601, E0609, E0611.
    fn tokenizer_data(&self) -> Result<Option<TokenizerData>, FileError>;

    /// Its tokenizer, for those who cannot do without.
    ///
    /// # Errors
    /// E0610 when it has none, and those of [`CheckpointFile::tokenizer_data`].
    fn tokenizer(&self) -> Result<Tokenizer, FileError> {
        let data = self.tokenizer_data()?.ok_or_else(|| crate::tokenizer::hf::missing(self.path()))?;
        Tokenizer::new(self.path(), data)
    }
}

/// Opens a checkpoint: a GGUF file (told by its first bytes, whatever its name) or a Hugging Face folder.
///
/// # Errors
/// E0601 to E0609, see [`FileCode`].
pub fn open(path: &Path) -> Result<Box<dyn CheckpointFile>, FileError> {
    let meta = std::fs::metadata(path).map_err(|e| FileError::io(path, &e))?;
    if meta.is_dir() {
        return Ok(Box::new(hf::HfFolder::open(path)?));
    }
    if !meta.is_file() {
        // Reading a pipe or a device could wait for ever.
        return Err(FileError::new(FileCode::UnknownKind, path, "")
            .found("neither a file nor a folder")
            .expected("a GGUF file, or a folder with config.json and *.safetensors"));
    }
    if starts_as_gguf(path)? {
        return Ok(Box::new(gguf::GgufFile::open(path)?));
    }
    Err(FileError::new(FileCode::UnknownKind, path, "")
        .found("a file that does not begin with `GGUF`")
        .expected("a GGUF file, or a folder with config.json and *.safetensors")
        .help("for a Hugging Face checkpoint give the folder, not one of its files"))
}

fn starts_as_gguf(path: &Path) -> Result<bool, FileError> {
    let mut magic = Vec::with_capacity(4);
    let file = File::open(path).map_err(|e| FileError::io(path, &e))?;
    file.take(4).read_to_end(&mut magic).map_err(|e| FileError::io(path, &e))?;
    Ok(magic == gguf::MAGIC)
}

#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;
