//! A compiled model together with the checkpoint that its weights are in, if they are not in the artifact.

use crate::Error;
use llmc_artifact::recipe::eval::packed;
use llmc_artifact::{Artifact, TensorData};
use llmc_runtime::tokenizer::{Tokenizer, TokenizerData};
use llmc_runtime::weights::CheckpointFile;
use llmc_runtime::{Engine, EngineOptions};
use std::path::Path;

/// A compiled model, ready to be written or run.
pub struct Loaded {
    /// The compiled model.
    pub artifact: Artifact,
    /// Where its weights are; `None` when they are in the artifact, or nowhere.
    pub checkpoint: Option<Box<dyn CheckpointFile>>,
}

impl Loaded {
    /// The model on a device.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn engine(&self, options: &EngineOptions) -> Result<Engine, Error> {
        let data = self.checkpoint.as_deref().map(|c| c as &dyn TensorData);
        Ok(Engine::new(&self.artifact, data, options)?)
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// When the model has none or it is damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        match &self.artifact.tokenizer {
            Some(json) => {
                let data: TokenizerData = serde_json::from_str(json)
                    .map_err(|e| Error::Io(format!("the artifact's tokenizer cannot be read: {e}")))?;
                Ok(Tokenizer::new(Path::new("the artifact's tokenizer"), data)?)
            }
            None => match &self.checkpoint {
                Some(checkpoint) => Ok(checkpoint.tokenizer()?),
                None => Err(Error::Io(
                    "this model has no tokenizer: build it with --weights of a checkpoint that has one".to_owned(),
                )),
            },
        }
    }

    /// Writes the artifact with its weights packed into it. `progress` hears how many of them are done.
    ///
    /// # Errors
    /// When the file cannot be written or the weights do not fit.
    pub fn write(&self, path: &Path, progress: &mut dyn FnMut(usize)) -> Result<(), Error> {
        let Some(checkpoint) = self.checkpoint.as_deref() else {
            return Ok(self.artifact.write(path, None)?);
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut pack = |number: usize, weight: &_, out: &mut dyn std::io::Write| {
            out.write_all(&packed(weight, checkpoint, threads)?)?;
            progress(number + 1);
            Ok(())
        };
        Ok(self.artifact.write(path, Some(&mut pack))?)
    }
}
