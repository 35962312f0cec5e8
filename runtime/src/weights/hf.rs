//! A Hugging Face folder: config.json, and safetensors in one file or in shards.

use super::CheckpointFile;
use super::json::read_object;
use super::safetensors;
use crate::error::{FileCode, FileError};
use crate::mapping::Bytes;
use crate::tokenizer::TokenizerData;
use llmc_artifact::{Checkpoint, ConfigValue, SourceKind, TensorData, TensorInfo};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

struct Tensor {
    info: TensorInfo,
    shard: usize,
    range: Range<usize>,
}

/// An open folder.
pub struct HfFolder {
    path: PathBuf,
    config: Value,
    architecture: String,
    shards: Vec<Bytes>,
    names: Vec<String>,
    tensors: HashMap<String, Tensor>,
}

impl HfFolder {
    /// Reads the config and indexes the tensors of the folder.
    ///
    /// # Errors
    /// E0601, E0603 to E0609.
    pub fn open(path: &Path) -> Result<HfFolder, FileError> {
        let config_path = path.join("config.json");
        if !config_path.is_file() {
            return Err(missing(path, "config.json").help("give the folder that holds config.json"));
        }
        let config = read_object(&config_path)?;
        let Some(architecture) = config.get("model_type").and_then(Value::as_str).map(str::to_string) else {
            return Err(FileError::new(FileCode::Malformed, &config_path, "key `model_type`")
                .found("no such text")
                .expected("the architecture's name"));
        };
        let mut folder = HfFolder {
            path: path.to_path_buf(),
            config,
            architecture,
            shards: Vec::new(),
            names: Vec::new(),
            tensors: HashMap::new(),
        };
        folder.read_tensors()?;
        Ok(folder)
    }

    fn read_tensors(&mut self) -> Result<(), FileError> {
        if self.path.join(SINGLE).is_file() {
            return self.read_shard(&self.path.join(SINGLE));
        }
        let index = self.path.join(INDEX);
        if !index.is_file() {
            return Err(missing(&self.path, SINGLE)
                .expected(format!("{SINGLE} or {INDEX}"))
                .help("pytorch_model.bin is not read: save the checkpoint as safetensors"));
        }
        let promised = read_index(&index)?;
        let files: BTreeSet<&String> = promised.values().collect();
        for file in files {
            self.read_shard(&self.path.join(file))?;
        }
        match promised.keys().find(|name| !self.tensors.contains_key(*name)) {
            None => Ok(()),
            Some(name) => Err(FileError::new(FileCode::MissingPart, &index, format!("tensor `{name}`"))
                .found(format!("no such tensor in {}", promised[name]))
                .expected("every tensor of the index in its shard")
                .help("download the shards again")),
        }
    }

    fn read_shard(&mut self, path: &Path) -> Result<(), FileError> {
        if !path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(missing(&self.path, &name).help("download the missing shard"));
        }
        let bytes = Bytes::map(path)?;
        let shard = self.shards.len();
        for t in safetensors::index(path, &bytes)? {
            self.names.push(t.name.clone());
            if self.tensors.insert(t.name.clone(), Tensor { info: t.info, shard, range: t.range }).is_some() {
                return Err(FileError::new(FileCode::Duplicate, path, format!("tensor `{}`", t.name))
                    .found("a tensor that another shard has too"));
            }
        }
        self.shards.push(bytes);
        Ok(())
    }

    fn lookup(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.config, |v, part| v.as_object()?.get(part))
    }
}

/// Which shard holds each tensor. A shard's name must be a plain file name, so no index reads outside its folder.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, FileError> {
    let value = read_object(path)?;
    let bad = |found: String| {
        FileError::new(FileCode::Malformed, path, "key `weight_map`")
            .found(found)
            .expected("an object from tensor names to names of files in the same folder")
    };
    let map = value.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("no such object".into()))?;
    let mut out = BTreeMap::new();
    for (name, file) in map {
        match file.as_str() {
            Some(f) if Path::new(f).file_name().is_some_and(|n| n == f) => out.insert(name.clone(), f.to_string()),
            _ => return Err(bad(file.to_string())),
        };
    }
    Ok(out)
}

fn missing(folder: &Path, name: &str) -> FileError {
    FileError::new(FileCode::MissingPart, folder, "").found(format!("no {name}")).expected(format!("a file {name}"))
}

/// A JSON value as a config value; null and objects are none.
fn config_value(v: &Value) -> Option<ConfigValue> {
    Some(match v {
        Value::Null | Value::Object(_) => return None,
        Value::Bool(b) => ConfigValue::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(i) => ConfigValue::Int(i),
            None => ConfigValue::Real(n.as_f64()?),
        },
        Value::String(s) => ConfigValue::Text(s.clone()),
        Value::Array(a) => ConfigValue::List(a.iter().map(config_value).collect::<Option<_>>()?),
    })
}

fn collect_keys(prefix: &str, v: &Value, out: &mut Vec<String>) {
    for (key, value) in v.as_object().into_iter().flatten() {
        let full = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(_) => collect_keys(&full, value, out),
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => out.push(full),
        }
    }
}

impl Checkpoint for HfFolder {
    fn kind(&self) -> SourceKind {
        SourceKind::Hf
    }

    fn architecture(&self) -> &str {
        &self.architecture
    }

    fn config(&self, key: &str) -> Option<ConfigValue> {
        config_value(self.lookup(key)?)
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.lookup(key)?.as_array().map(|a| a.len() as u64)
    }

    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|t| t.info.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn config_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        collect_keys("", &self.config, &mut keys);
        keys
    }
}

impl TensorData for HfFolder {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|t| &self.shards[t.shard][t.range.clone()])
    }

    fn stored_as(&self, name: &str) -> Option<TensorInfo> {
        self.tensor(name)
    }

    fn release(&self, name: &str) {
        if let Some(t) = self.tensors.get(name) {
            self.shards[t.shard].release(t.range.clone());
        }
    }
}

impl CheckpointFile for HfFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tokenizer_data(&self) -> Result<Option<TokenizerData>, FileError> {
        crate::tokenizer::hf::read(&self.path, &self.config)
    }
}
