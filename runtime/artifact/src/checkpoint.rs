//! What the compiler asks of a checkpoint: its config and the shapes of its tensors, never their bytes.

use crate::format::Format;
use serde::{Deserialize, Serialize};

/// Which of the language's sources a file answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A Hugging Face folder: config.json, safetensors, tokenizer.json.
    Hf,
    /// One GGUF file.
    Gguf,
}

impl SourceKind {
    /// The keyword in a model text.
    pub const fn keyword(self) -> &'static str {
        match self {
            SourceKind::Hf => "hf",
            SourceKind::Gguf => "gguf",
        }
    }
}

/// A config value. JSON's null counts as absent and never appears; a nested object is reached by a dotted key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ConfigValue {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Real(f64),
    /// A string.
    Text(String),
    /// A list, one entry a layer as a rule.
    List(Vec<ConfigValue>),
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Lengths, outermost first, whatever order the file states them in.
    pub shape: Vec<u64>,
    /// How its elements are stored; blocks lie along the innermost dimension.
    pub format: Format,
}

/// A checkpoint's description.
pub trait Checkpoint {
    /// Which sources of the text it answers to.
    fn kind(&self) -> SourceKind;

    /// The architecture's name: config.json's `model_type`, GGUF's `general.architecture`.
    fn architecture(&self) -> &str;

    /// A config value. In GGUF a key that begins with `.` takes the architecture's prefix; in config.json dots
    /// descend into objects.
    fn config(&self, key: &str) -> Option<ConfigValue>;

    /// The number of entries of a list in the config, without copying the list.
    fn count(&self, key: &str) -> Option<u64>;

    /// A tensor, by its full name in the file.
    fn tensor(&self, name: &str) -> Option<TensorInfo>;

    /// Every tensor's name.
    fn tensor_names(&self) -> Vec<String>;

    /// Every config key, dotted, as [`Checkpoint::config`] takes them.
    fn config_keys(&self) -> Vec<String>;
}

/// The bytes behind a checkpoint's tensors.
pub trait TensorData: Send + Sync {
    /// The stored bytes of a tensor, exactly as many as its shape and format say; `None` for an unknown name.
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]>;

    /// Shape and format of a tensor; `None` where no more is known of it than its bytes.
    fn stored_as(&self, _name: &str) -> Option<TensorInfo> {
        None
    }

    /// Says that a tensor's bytes have been used and need not stay in memory; they can still be asked for.
    fn release(&self, _name: &str) {}
}
