//! What a tokenizer.json may ask for: its rules must not make a text grow beyond a fixed factor.

use super::Rules;
use serde_json::Value;

/// The greatest growth of a text by all replacements together. SentencePiece's `▁` for a space makes 3.
const MAX_GROWTH: f64 = 256.0;

/// Refuses rules whose repeated replacements could exhaust memory on a short text.
pub(super) fn check(rules: &Rules) -> Result<(), String> {
    let Rules { normalizer, pre_tokenizer, decoder } = rules;
    for (part, rule) in [("normalizer", normalizer), ("pre-tokenizer", pre_tokenizer), ("decoder", decoder)] {
        let growth = growth(rule);
        if growth > MAX_GROWTH {
            return Err(format!("a {part} that can make a text {growth:.0} times as long"));
        }
    }
    Ok(())
}

/// A bound on how much longer a rule, with the rules inside it, makes a text. serde_json has bounded the depth.
fn growth(rule: &Value) -> f64 {
    match rule {
        Value::Array(rules) => rules.iter().map(growth).product(),
        Value::Object(fields) => own_growth(rule) * fields.values().map(growth).product::<f64>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1.0,
    }
}

fn own_growth(rule: &Value) -> f64 {
    let length = |v: &Value| v.as_str().map_or(0, str::len) as f64;
    match rule["type"].as_str() {
        Some("Replace") => {
            // A regular expression may match single bytes, or nothing between two of them.
            let least = rule["pattern"].get("String").map_or(0.5, length).max(0.5);
            (length(&rule["content"]) / least).max(1.0)
        }
        Some("Prepend") => 1.0 + length(&rule["prepend"]),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(value: Value) -> Rules {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn doubling_again_and_again_is_refused() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let times =
            |n: usize| rules(json!({"normalizer": {"type": "Sequence", "normalizers": vec![double.clone(); n]}}));
        assert!(check(&times(5)).is_ok());
        assert!(check(&times(60)).unwrap_err().contains("normalizer"));
    }

    #[test]
    fn the_usual_rules_pass() {
        let llama = json!({"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, "decoder": null});
        assert!(check(&rules(llama)).is_ok());
    }
}
