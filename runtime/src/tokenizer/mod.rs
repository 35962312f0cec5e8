//! Text to tokens and back.
//!
//! Every tokenizer is brought into one form, [`TokenizerData`]: the text of a tokenizer.json and a few settings. That is
//! what an artifact embeds, and the only thing a [`Tokenizer`] is made from.

mod bytes;
pub(crate) mod gguf;
pub(crate) mod hf;
mod limits;

use crate::error::{FileCode, FileError};
use crate::utf8::Utf8Stream;
use bytes::PieceRule;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

/// A tokenizer as an artifact stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerData {
    /// A tokenizer.json, which says too whether a text begins with a special token.
    pub json: String,
    /// The token that begins a sequence.
    pub bos: Option<u32>,
    /// The tokens that end an answer; the first is the end of a sequence.
    pub eos: Vec<u32>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

/// The parts of a tokenizer.json that llmc looks at itself; vocabularies are the library's.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// A tokenizer, ready for use.
pub struct Tokenizer {
    data: TokenizerData,
    inner: tokenizers::Tokenizer,
    pieces: PieceRule,
}

impl Tokenizer {
    /// Builds a tokenizer; `name` stands for its file in messages.
    ///
    /// # Errors
    /// E0611 when the description is damaged, of an unknown kind, or could make a text grow without bound.
    pub fn new(name: &Path, data: TokenizerData) -> Result<Tokenizer, FileError> {
        let error = |found: String| {
            FileError::new(FileCode::Tokenizer, name, "the tokenizer")
                .found(found)
                .expected("a tokenizer.json as the `tokenizers` library writes it")
        };
        let rules: Rules = serde_json::from_str(&data.json).map_err(|e| error(e.to_string()))?;
        limits::check(&rules).map_err(error)?;
        let parsed = guarded(|| data.json.parse::<tokenizers::Tokenizer>()).map_err(error)?;
        let mut inner = parsed.map_err(|e| error(e.to_string()))?;
        // A file's fixed padding or truncation is for training batches, and could be of any length.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| error(e.to_string()))?;
        let pieces = PieceRule::of(&rules.decoder);
        Ok(Tokenizer { data, inner, pieces })
    }

    /// The form that is stored.
    pub fn data(&self) -> &TokenizerData {
        &self.data
    }

    /// The tokens of a text. Special tokens spelled in the text become themselves; `whole` adds what begins and ends a
    /// whole text, where this tokenizer does that.
    ///
    /// # Errors
    /// E0611 when the tokenizer's own rules fail on this text.
    pub fn encode(&self, text: &str, whole: bool) -> Result<Vec<u32>, FileError> {
        let error = |found: String| FileError::new(FileCode::Tokenizer, Path::new(""), "encoding a text").found(found);
        let encoded = guarded(|| self.inner.encode_fast(text, whole)).map_err(error)?;
        Ok(encoded.map_err(|e| error(e.to_string()))?.get_ids().to_vec())
    }

    /// The text of tokens; special tokens are left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text: String = tokens.iter().map(|t| stream.push(*t)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes tokens one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, utf8: Utf8Stream::new(), started: false }
    }

    /// The bytes that a token adds to a text which has begun (`started`) or not; `None` for special tokens and for
    /// numbers that no token has.
    pub fn piece(&self, token: u32, started: bool) -> Option<Vec<u8>> {
        match self.inner.get_added_tokens_decoder().get(&token) {
            Some(added) if added.special => None,
            Some(added) => Some(added.content.clone().into_bytes()),
            None => self.inner.id_to_token(token).map(|t| self.pieces.bytes(&t, started)),
        }
    }

    /// The name of a token as the vocabulary spells it.
    pub fn name(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The token with this spelling in the vocabulary.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// Whether the token ends an answer.
    pub fn is_end(&self, token: u32) -> bool {
        self.data.eos.contains(&token)
    }

    /// One more than the greatest token.
    pub fn vocabulary(&self) -> u32 {
        self.inner.get_vocab(true).values().max().map_or(0, |m| m.saturating_add(1))
    }
}

/// Text from tokens as they come, whole characters only.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    utf8: Utf8Stream,
    started: bool,
}

impl TextStream<'_> {
    /// The characters that this token completes.
    pub fn push(&mut self, token: u32) -> String {
        let Some(piece) = self.tokenizer.piece(token, self.started) else { return String::new() };
        self.started = true;
        self.utf8.push(&piece)
    }

    /// What an unfinished character leaves.
    pub fn finish(&mut self) -> String {
        self.utf8.finish()
    }
}

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the library on what a file says. It panics on some descriptions, which is the file's fault and no broken
/// invariant of ours: the panic becomes an error, and its message is not shown, for it would look like a crash.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                shown(info);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(false);
    result.map_err(|_| "a rule that cannot be carried out".to_string())
}

#[cfg(test)]
mod tests;
