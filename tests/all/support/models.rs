//! Checkpoints that tests run on.

use super::cases::root;
use std::path::PathBuf;

/// SmolLM2-135M-Instruct as GGUF, from the cache folder that `make weights` fills.
pub fn smollm2() -> PathBuf {
    let cache = std::env::var_os("LLMC_CACHE").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/llmc"));
    let path = cache.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: `make weights` fetches it", path.display());
    path
}

/// A random llama as a Hugging Face folder: two layers, no tokenizer.
pub fn tiny_llama() -> PathBuf {
    root().join("tests/cases/checkpoints/tiny_llama")
}

/// Golden values that a script in `tests/oracle` made.
pub fn golden_values(name: &str) -> serde_json::Value {
    let path = root().join("tests/oracle").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
