//! A checkpoint that exists in a case's comments only: `# checkpoint: hf toy`, `# config: key value`, `# tensor: name 8 4`.

use llmc_artifact::{Checkpoint, ConfigValue, Format, SourceKind, TensorInfo};

/// An architecture, config values and shapes of tensors.
pub struct Described {
    kind: SourceKind,
    architecture: String,
    config: Vec<(String, ConfigValue)>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Described {
    /// The checkpoint that the comments at the top of a text describe, if they do.
    pub fn read(text: &str) -> Option<Described> {
        let mut found: Option<Described> = None;
        for line in text.lines().take_while(|line| line.starts_with("# ")) {
            let Some((word, rest)) = line[2..].split_once(": ") else { continue };
            let mut words = rest.split(' ');
            match (word, &mut found) {
                ("checkpoint", found) => {
                    let kind = if words.next() == Some("gguf") { SourceKind::Gguf } else { SourceKind::Hf };
                    let architecture = words.next().expect("a checkpoint has an architecture").to_owned();
                    *found = Some(Described { kind, architecture, config: Vec::new(), tensors: Vec::new() });
                }
                ("config", Some(checkpoint)) => {
                    let (key, value) = rest.split_once(' ').expect("a config line has a key and a value");
                    let value = serde_json::from_str(value).expect("a config value is JSON");
                    checkpoint.config.push((key.to_owned(), config_value(&value)));
                }
                ("tensor", Some(checkpoint)) => {
                    let name = words.next().expect("a tensor has a name").to_owned();
                    let shape = words.map(|n| n.parse().expect("a length is a number")).collect();
                    checkpoint.tensors.push((name, TensorInfo { shape, format: Format::F32 }));
                }
                _ => {}
            }
        }
        found
    }
}

fn config_value(value: &serde_json::Value) -> ConfigValue {
    match value {
        serde_json::Value::Bool(b) => ConfigValue::Bool(*b),
        serde_json::Value::Number(n) => {
            n.as_i64().map_or_else(|| ConfigValue::Real(n.as_f64().expect("a number is real")), ConfigValue::Int)
        }
        serde_json::Value::String(s) => ConfigValue::Text(s.clone()),
        serde_json::Value::Array(list) => ConfigValue::List(list.iter().map(config_value).collect()),
        serde_json::Value::Null | serde_json::Value::Object(_) => panic!("a config value is no null and no object"),
    }
}

impl Checkpoint for Described {
    fn kind(&self) -> SourceKind {
        self.kind
    }

    fn architecture(&self) -> &str {
        &self.architecture
    }

    fn config(&self, key: &str) -> Option<ConfigValue> {
        self.config.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    }

    fn count(&self, key: &str) -> Option<u64> {
        match self.config(key)? {
            ConfigValue::List(list) => Some(list.len() as u64),
            ConfigValue::Bool(_) | ConfigValue::Int(_) | ConfigValue::Real(_) | ConfigValue::Text(_) => None,
        }
    }

    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors.iter().map(|(n, _)| n.clone()).collect()
    }

    fn config_keys(&self) -> Vec<String> {
        self.config.iter().map(|(k, _)| k.clone()).collect()
    }
}
