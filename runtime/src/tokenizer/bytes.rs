//! The bytes a token stands for. Libraries decode a whole list into lossy text; a stream needs each token's bytes.

use serde_json::Value;
use std::sync::LazyLock;

/// How the vocabulary spells bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PieceRule {
    /// Every byte has a printable character (GPT-2's table).
    ByteLevel,
    /// `▁` is a space, `<0x0A>` a byte; the first space of a text was added when it was encoded, if so said.
    Metaspace { strip_first: bool },
    /// Words are apart by a space, their continuations begin with this.
    WordPiece(String),
    /// As spelled.
    Plain,
}

impl PieceRule {
    /// The rule of a tokenizer.json's decoder.
    pub(super) fn of(decoder: &Value) -> PieceRule {
        let mut parts = vec![decoder];
        parts.extend(decoder["decoders"].as_array().into_iter().flatten());
        let find = |kind: &str| parts.iter().find(|p| p["type"] == kind);
        if find("ByteLevel").is_some() {
            return PieceRule::ByteLevel;
        }
        if let Some(p) = find("WordPiece") {
            return PieceRule::WordPiece(p["prefix"].as_str().unwrap_or("##").to_string());
        }
        if let Some(p) = find("Metaspace") {
            let never = p["prepend_scheme"] == "never" || p["add_prefix_space"] == false;
            return PieceRule::Metaspace { strip_first: !never };
        }
        if find("ByteFallback").is_some() {
            return PieceRule::Metaspace { strip_first: find("Strip").is_some() };
        }
        PieceRule::Plain
    }

    /// The bytes of a token, at the beginning of a text or later.
    pub(super) fn bytes(&self, token: &str, started: bool) -> Vec<u8> {
        match self {
            PieceRule::ByteLevel => byte_level(token).unwrap_or_else(|| token.as_bytes().to_vec()),
            PieceRule::Metaspace { strip_first } => match hex_byte(token) {
                Some(b) => vec![b],
                None => {
                    let text = token.replace('\u{2581}', " ");
                    let strip = *strip_first && !started;
                    text.strip_prefix(' ').filter(|_| strip).unwrap_or(&text).as_bytes().to_vec()
                }
            },
            PieceRule::WordPiece(prefix) => match token.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.as_bytes().to_vec(),
                None if started => format!(" {token}").into_bytes(),
                None => token.as_bytes().to_vec(),
            },
            PieceRule::Plain => token.as_bytes().to_vec(),
        }
    }
}

/// `<0x0A>` is the byte 10.
fn hex_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTE_OF_CHAR.get(c as usize).copied().flatten()).collect()
}

/// GPT-2's table: printable Latin-1 bytes are themselves, the others follow from U+0100 on.
static BYTE_OF_CHAR: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut table = vec![None; 0x200];
    let mut next = 0x100;
    for b in 0..=255u8 {
        let c = if printable(b) {
            b as usize
        } else {
            next += 1;
            next - 1
        };
        table[c] = Some(b);
    }
    table
});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spaces_and_bytes_are_found_again() {
        assert_eq!(PieceRule::ByteLevel.bytes("Ġaé", true), b" a\xe9");
        assert_eq!(PieceRule::ByteLevel.bytes("Ċ", true), b"\n");
        assert_eq!(PieceRule::ByteLevel.bytes("日", true), "日".as_bytes());
        let spm = PieceRule::Metaspace { strip_first: true };
        assert_eq!(spm.bytes("▁a▁b", false), b"a b");
        assert_eq!(spm.bytes("▁a", true), b" a");
        assert_eq!(spm.bytes("<0xF0>", true), [0xF0]);
        let word = PieceRule::WordPiece("##".into());
        assert_eq!([word.bytes("un", false), word.bytes("##do", true), word.bytes("it", true)].concat(), b"undo it");
    }

    #[test]
    fn the_rule_follows_the_decoder() {
        let of = |decoder: Value| PieceRule::of(&decoder);
        assert_eq!(of(json!({"type": "ByteLevel"})), PieceRule::ByteLevel);
        assert_eq!(of(Value::Null), PieceRule::Plain);
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip"}]});
        assert_eq!(of(llama), PieceRule::Metaspace { strip_first: true });
        let never = json!({"type": "Metaspace", "prepend_scheme": "never"});
        assert_eq!(of(never), PieceRule::Metaspace { strip_first: false });
    }
}
