//! The tokenizer of a Hugging Face folder.

use super::TokenizerData;
use crate::error::{FileCode, FileError};
use crate::weights::json::{read_object, read_text, syntax};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

const MAX_TOKENIZER: u64 = 256 << 20;
const MAX_TEMPLATE: u64 = 1 << 20;

/// The folder's tokenizer; `None` when there is no tokenizer.json.
pub(crate) fn read(folder: &Path, config: &Value) -> Result<Option<TokenizerData>, FileError> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json = read_text(&path, MAX_TOKENIZER)?;
    let tokenizer: Value = serde_json::from_str(&json).map_err(|e| syntax(&path, &e))?;
    let ids = token_ids(&tokenizer);
    let settings = optional(&folder.join("tokenizer_config.json"))?;
    let generation = optional(&folder.join("generation_config.json"))?;
    let named = |key: &str| ids.get(token_text(&settings[key])?).copied();
    let configured = |key: &str| numbers(&generation[key]).into_iter().chain(numbers(&config[key]));
    let mut eos: Vec<u32> = named("eos_token").into_iter().chain(configured("eos_token_id")).collect();
    let mut seen = std::collections::HashSet::new();
    eos.retain(|e| seen.insert(*e));
    let bos = named("bos_token").or_else(|| configured("bos_token_id").next());
    let chat_template = chat_template(folder, &settings)?;
    Ok(Some(TokenizerData { json, bos, eos, chat_template }))
}

/// A folder without a tokenizer, as an error for those who need one.
pub(crate) fn missing(path: &Path) -> FileError {
    FileError::new(FileCode::NoTokenizer, path, "")
        .found("neither tokenizer.json nor a vocabulary in the metadata")
        .expected("a tokenizer")
        .help("put the model's tokenizer.json into the folder, or give token numbers instead of text")
}

fn optional(path: &Path) -> Result<Value, FileError> {
    if path.is_file() { read_object(path) } else { Ok(Value::Null) }
}

/// Spelling to number, of added tokens and vocabulary; Unigram's vocabulary is a list.
fn token_ids(tokenizer: &Value) -> HashMap<&str, u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let mut ids = HashMap::new();
    for (token, n) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
        ids.extend(id(n).map(|n| (token.as_str(), n)));
    }
    for (n, entry) in tokenizer["model"]["vocab"].as_array().into_iter().flatten().enumerate() {
        ids.extend(entry[0].as_str().zip(u32::try_from(n).ok()));
    }
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        ids.extend(token["content"].as_str().zip(id(&token["id"])));
    }
    ids
}

/// A token in tokenizer_config.json: its text, or an object with it.
fn token_text(v: &Value) -> Option<&str> {
    v.as_str().or_else(|| v["content"].as_str())
}

fn numbers(v: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match v {
        Value::Array(a) => a.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

/// From chat_template.jinja, or from the config: a text, or a list of named ones of which `default` counts.
fn chat_template(folder: &Path, settings: &Value) -> Result<Option<String>, FileError> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        return read_text(&path, MAX_TEMPLATE).map(Some);
    }
    let found = match &settings["chat_template"] {
        Value::Array(named) => named.iter().find(|t| t["name"] == "default").map(|t| &t["template"]),
        other => Some(other),
    };
    Ok(found.and_then(Value::as_str).map(str::to_string))
}
