//! A checkpoint that is known by description alone: a config, and perhaps the shapes of tensors.
//!
//! A model is compiled against it as against a file. Without any tensor the config gives the sizes, and every weight
//! is a tensor of 32-bit floats that no file has.

use indexmap::IndexMap;
use llmc_artifact::{Checkpoint, ConfigValue, Format, SourceKind, TensorInfo};
use serde_json::Value;

/// A config and the shapes of tensors, without bytes.
#[derive(Clone, Debug)]
pub struct Described {
    kind: SourceKind,
    architecture: String,
    config: Value,
    tensors: IndexMap<String, TensorInfo>,
}

impl Described {
    /// From JSON: `{"hf": "llama", "config": {...}, "tensors": {"model.norm.weight": [32]}}`, or `"gguf"`. A tensor is
    /// stored as f32 unless its format ends the list: `[32, "q4_0"]`.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn from_json(json: &str) -> Result<Described, String> {
        let value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let kinds = [SourceKind::Hf, SourceKind::Gguf];
        let named = |k: &SourceKind| Some((*k, value.get(k.keyword())?.as_str()?.to_owned()));
        let (kind, architecture) =
            kinds.iter().find_map(named).ok_or("neither `hf` nor `gguf` names an architecture")?;
        let tensors = value.get("tensors").and_then(Value::as_object).into_iter().flatten();
        let tensors = tensors.map(|(name, shape)| Ok((name.clone(), tensor(shape)?))).collect::<Result<_, String>>()?;
        Ok(Described { kind, architecture, config: value.get("config").cloned().unwrap_or(Value::Null), tensors })
    }

    /// The same with matrices stored in this format, where their rows are whole blocks of it.
    pub fn stored_in(mut self, format: Format) -> Described {
        for tensor in self.tensors.values_mut() {
            let row = tensor.shape.last().copied().unwrap_or(1);
            if tensor.shape.len() > 1 && row % format.block() as u64 == 0 {
                tensor.format = format;
            }
        }
        self
    }

    fn value(&self, key: &str) -> Option<&Value> {
        let full = match (self.kind, key.strip_prefix('.')) {
            (SourceKind::Gguf, Some(rest)) => format!("{}.{rest}", self.architecture),
            _ => key.to_owned(),
        };
        let nested = || full.split('.').try_fold(&self.config, |v, part| v.get(part));
        self.config.get(&full).or_else(nested).filter(|v| !v.is_null())
    }
}

fn tensor(shape: &Value) -> Result<TensorInfo, String> {
    let list = shape.as_array().ok_or("a tensor is a list of lengths")?;
    let shape = list.iter().filter_map(Value::as_u64).collect();
    let named = list.last().and_then(Value::as_str);
    let format = match named {
        None => Format::F32,
        Some(name) => {
            let row = llmc_artifact::format::FORMATS.iter().find(|(_, s)| s.name == name);
            row.ok_or_else(|| format!("no format is called `{name}`"))?.0
        }
    };
    Ok(TensorInfo { shape, format })
}

fn config_value(v: &Value) -> Option<ConfigValue> {
    Some(match v {
        Value::Bool(b) => ConfigValue::Bool(*b),
        Value::Number(n) => {
            n.as_i64().map_or_else(|| n.as_f64().map(ConfigValue::Real), |n| Some(ConfigValue::Int(n)))?
        }
        Value::String(s) => ConfigValue::Text(s.clone()),
        Value::Array(list) => ConfigValue::List(list.iter().filter_map(config_value).collect()),
        Value::Null | Value::Object(_) => return None,
    })
}

impl Checkpoint for Described {
    fn kind(&self) -> SourceKind {
        self.kind
    }

    fn architecture(&self) -> &str {
        &self.architecture
    }

    fn config(&self, key: &str) -> Option<ConfigValue> {
        self.value(key).and_then(config_value)
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.value(key)?.as_array().map(|list| list.len() as u64)
    }

    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).cloned()
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn config_keys(&self) -> Vec<String> {
        self.config.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect()
    }
}
