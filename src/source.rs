//! What names a model: a text, an artifact, or a checkpoint for which a text is chosen by its architecture.

use crate::Error;
use llmc_artifact::{Artifact, Checkpoint};
use llmc_frontend::{MODELS, SourceMap, select_model};
use llmc_runtime::weights::{self, CheckpointFile};
use std::path::{Path, PathBuf};

/// A text larger than this is no model.
const MAX_TEXT: u64 = 4 << 20;

/// A model text and what it is called.
#[derive(Clone, Debug)]
pub struct Text {
    /// A path, or the name of an embedded text.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Text {
    /// Reads a text.
    ///
    /// # Errors
    /// When the file cannot be read, is too large or is not text.
    pub fn read(path: &Path) -> Result<Text, Error> {
        let name = path.display().to_string();
        let size = std::fs::metadata(path).map_err(|e| Error::io(&name, e))?.len();
        if size > MAX_TEXT {
            return Err(Error::Io(format!("{name}: {size} bytes are too many for a model text (at most {MAX_TEXT})")));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(&name, e))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::Io(format!(
                "{name}: not a model: neither text, nor a GGUF file, nor an artifact of `llmc build`\n\
                 help: a model is a .llm text, a .llmc artifact, a .gguf file or a Hugging Face folder"
            ))
        })?;
        Ok(Text { name, text })
    }
}

/// What a path names.
pub enum Source {
    /// A compiled model.
    Artifact(Box<Artifact>),
    /// A text, with a checkpoint if one was given.
    Text(Text, Option<Box<dyn CheckpointFile>>),
}

impl Source {
    /// Looks at what is there, not at how the path ends.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; a checkpoint whose architecture no text is for.
    pub fn open(model: &Path, weights: Option<&Path>, more_texts: Option<&Path>) -> Result<Source, Error> {
        if Artifact::is_artifact(model) {
            return Ok(Source::Artifact(Box::new(Artifact::open(model)?)));
        }
        if model.is_dir() || is_gguf(model) {
            let checkpoint = weights::open(model)?;
            let text = choose(checkpoint.as_ref(), more_texts)?;
            return Ok(Source::Text(text, Some(checkpoint)));
        }
        let text = Text::read(model)?;
        let checkpoint = weights.map(weights::open).transpose()?;
        Ok(Source::Text(text, checkpoint))
    }
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic)).is_ok()
        && &magic == b"GGUF"
}

/// The text whose header fits the checkpoint. Texts of the folder go first.
fn choose(checkpoint: &dyn Checkpoint, folder: Option<&Path>) -> Result<Text, Error> {
    let mut texts = folder.map(read_folder).transpose()?.unwrap_or_default();
    texts.extend(MODELS.iter().map(|(name, text)| Text { name: (*name).to_owned(), text: (*text).to_owned() }));
    let chosen = select_model(texts.iter().map(|t| (t.name.as_str(), t.text.as_str())), checkpoint);
    let (name, text) = chosen.map_err(|d| Error::model(vec![d], SourceMap::new()))?;
    Ok(Text { name: name.to_owned(), text: text.to_owned() })
}

fn read_folder(folder: &Path) -> Result<Vec<Text>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder.display(), e))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "llm")).collect();
    paths.sort();
    paths.iter().map(|p| Text::read(p)).collect()
}
