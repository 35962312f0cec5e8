//! Sources: what a config key or tensor is called, and how its dimensions lie. Both stand in quotes and have a small
//! grammar of their own.

use super::super::ast::*;
use super::super::token::{RESERVED, TokenKind};
use super::{Failed, Parse, Parser};
use crate::diag::{Code, Diagnostic, Span};
use llmc_artifact::SourceKind;

impl Parser<'_> {
    /// `hf` or `gguf`
    pub(super) fn source_kind(&mut self) -> Parse<SourceKind> {
        for kind in [SourceKind::Hf, SourceKind::Gguf] {
            if self.eat_word(kind.keyword()).is_some() {
                return Ok(kind);
            }
        }
        self.unexpected("`hf` or `gguf`")
    }

    /// `hf "h.{l}.attn.bias" as "(h e)"`
    pub(super) fn source(&mut self) -> Parse<Source> {
        let start = self.at;
        let kind = self.source_kind()?;
        let pattern = self.pattern()?;
        let layout = if self.eat_word_before_text("as") { Some(self.layout()?) } else { None };
        Ok(Source { kind, pattern, layout, span: self.span_from(start) })
    }

    /// `"blk.{l}.attn_q.weight"`
    fn pattern(&mut self) -> Parse<Pattern> {
        let token = self.expect(TokenKind::Text)?;
        let text = self.unquoted(token).to_owned();
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find(['{', '}']).map(|i| at + i) {
            let inner = &text[open + 1..];
            let Some(length) = inner.find('}').filter(|_| text[open..].starts_with('{')) else {
                return self.bad_pattern(inside(token.span, open, open + 1), "a brace without its partner");
            };
            let place = inside(token.span, open + 1, open + 1 + length);
            let Some(name) = plain_name(&inner[..length]) else {
                return self.bad_pattern(place, "braces hold one name");
            };
            if open > at {
                parts.push(PatternPart::Literal(text[at..open].to_owned()));
            }
            parts.push(PatternPart::Hole(Name { text: name.to_owned(), span: place }));
            at = open + length + 2;
        }
        if at < text.len() {
            parts.push(PatternPart::Literal(text[at..].to_owned()));
        }
        Ok(Pattern { text, parts, span: token.span })
    }

    fn bad_pattern<T>(&mut self, place: Span, message: &str) -> Parse<T> {
        let d = Diagnostic::new(Code::BadTemplate, place, message)
            .expected("`{name}`, the name of a layer family, an axis or a size")
            .help("for example `\"model.layers.{l}.mlp.up_proj.weight\"`");
        self.fail(d)
    }

    /// `"(k g e) m"`
    fn layout(&mut self) -> Parse<Layout> {
        let token = self.expect(TokenKind::Text)?;
        let text = self.unquoted(token).to_owned();
        match read_layout(&text, token.span) {
            Ok(dims) => Ok(Layout { text, dims, span: token.span }),
            Err((place, message)) => {
                let d = Diagnostic::new(Code::BadLayout, place, message)
                    .found(format!("`{text}`"))
                    .expected("names, outermost dimension first, those merged into one dimension in parentheses")
                    .help("for example `as \"(k g e) m\"`");
                self.report(d);
                Err(Failed)
            }
        }
    }
}

/// The dimensions that a layout lists, or what is wrong with it and where.
fn read_layout(text: &str, quoted: Span) -> Result<Vec<Vec<Name>>, (Span, &'static str)> {
    let mut dims = Vec::new();
    let mut merged: Option<(usize, Vec<Name>)> = None;
    for (at, word) in words(text) {
        let place = inside(quoted, at, at + word.len());
        match (word, &mut merged) {
            ("(", None) => merged = Some((at, Vec::new())),
            ("(", Some(_)) => return Err((place, "parentheses do not nest in a layout")),
            (")", None) => return Err((place, "a parenthesis without its partner")),
            (")", Some((_, names))) if names.is_empty() => return Err((place, "an empty pair of parentheses")),
            (")", Some((_, names))) => {
                dims.push(std::mem::take(names));
                merged = None;
            }
            (word, merged) => {
                let Some(name) = plain_name(word) else { return Err((place, "not the name of an axis")) };
                let name = Name { text: name.to_owned(), span: place };
                match merged {
                    Some((_, names)) => names.push(name),
                    None => dims.push(vec![name]),
                }
            }
        }
    }
    match merged {
        Some((at, _)) => Err((inside(quoted, at, at + 1), "a parenthesis without its partner")),
        None => Ok(dims),
    }
}

/// Parentheses and the words between them and spaces, each with its first byte.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let ends = c == ' ' || c == '(' || c == ')';
        if ends && let Some(start) = start.take() {
            words.push((start, &text[start..at]));
        }
        if c == '(' || c == ')' {
            words.push((at, &text[at..at + 1]));
        } else if !ends && start.is_none() {
            start = Some(at);
        }
    }
    words
}

/// Bytes `start..end` of what stands between the quotes of `quoted`.
fn inside(quoted: Span, start: usize, end: usize) -> Span {
    Span::new(quoted.file, quoted.start + 1 + start as u32, quoted.start + 1 + end as u32)
}

fn plain_name(word: &str) -> Option<&str> {
    let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (starts && goes_on && !RESERVED.contains(&word)).then_some(word)
}
