//! Text to tokens and trivia. Never fails: what it cannot read it reports and passes over.

use super::ast::{Trivia, TriviaKind};
use super::token::{SIGNS, Token, TokenKind};
use crate::diag::{Code, Diagnostic, FileId, Span};

/// The tokens of a text, the last of them [`TokenKind::End`], with comments and blank lines.
pub struct Lexed {
    /// Words and signs.
    pub tokens: Vec<Token>,
    /// What the grammar passes over.
    pub trivia: Vec<Trivia>,
    /// What could not be read.
    pub diagnostics: Vec<Diagnostic>,
}

/// Splits a text of at most 4 GiB.
pub fn lex(file: FileId, text: &str) -> Lexed {
    let out = Lexed { tokens: Vec::new(), trivia: Vec::new(), diagnostics: Vec::new() };
    let mut lexer = Lexer { file, text, at: 0, line_start: true, out };
    lexer.run();
    lexer.out
}

struct Lexer<'a> {
    file: FileId,
    text: &'a str,
    at: usize,
    line_start: bool,
    out: Lexed,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '\n' => self.newlines(),
                c if c.is_whitespace() => self.at += c.len_utf8(),
                '#' => self.comment(),
                '"' => self.text(),
                c if c.is_ascii_digit() => self.number(),
                c if is_name_start(c) => {
                    let start = self.take_while(is_name_part);
                    self.push(TokenKind::Name, start);
                }
                _ => self.sign(),
            }
        }
        self.push(TokenKind::End, self.at);
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Moves past characters that `accept`; gives where they began.
    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> usize {
        let start = self.at;
        self.at += self.rest().find(|c| !accept(c)).unwrap_or(self.text.len() - start);
        start
    }

    fn span(&self, start: usize) -> Span {
        Span::new(self.file, start as u32, self.at as u32)
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        let token = Token { kind, span: self.span(start), line_start: self.line_start };
        self.out.tokens.push(token);
        self.line_start = false;
    }

    /// A run of line ends and spaces; two line ends make a blank line.
    fn newlines(&mut self) {
        let start = self.take_while(char::is_whitespace);
        self.line_start = true;
        if self.text[start..self.at].matches('\n').count() > 1 {
            self.out.trivia.push(Trivia { kind: TriviaKind::BlankLine, span: self.span(start) });
        }
    }

    fn comment(&mut self) {
        let start = self.take_while(|c| c != '\n');
        let text = self.text[start..self.at].trim_end().to_owned();
        let kind = TriviaKind::Comment { text, own_line: self.line_start };
        self.out.trivia.push(Trivia { kind, span: self.span(start) });
    }

    fn text(&mut self) {
        let start = self.at;
        self.at += 1;
        self.take_while(|c| c != '"' && c != '\n');
        if self.peek() == Some('"') {
            self.at += 1;
        } else {
            let message = "this text has no closing quote";
            let d = Diagnostic::new(Code::UnterminatedText, self.span(start), message)
                .expected("`\"` on the same line")
                .help("close the text; a text cannot contain a line's end or a quote");
            self.out.diagnostics.push(d);
        }
        self.push(TokenKind::Text, start);
    }

    /// `32`, `0.5`, `1e-5`
    fn number(&mut self) {
        let start = self.take_while(|c| c.is_ascii_digit());
        let mut kind = TokenKind::Int;
        if let Some(fraction) = self.rest().strip_prefix('.')
            && fraction.starts_with(|c: char| c.is_ascii_digit())
        {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
            kind = TokenKind::Real;
        }
        if self.rest().starts_with(['e', 'E']) {
            let sign = usize::from(self.rest()[1..].starts_with(['+', '-']));
            if self.rest()[1 + sign..].starts_with(|c: char| c.is_ascii_digit()) {
                self.at += 1 + sign;
                self.take_while(|c| c.is_ascii_digit());
                kind = TokenKind::Real;
            }
        }
        if self.peek().is_some_and(is_name_part) {
            self.take_while(is_name_part);
            let found = self.text[start..self.at].to_owned();
            let d =
                Diagnostic::new(Code::BadNumber, self.span(start), format!("`{found}` is neither a number nor a name"))
                    .expected("digits, perhaps a point and digits, perhaps an exponent")
                    .help("a name cannot begin with a digit");
            self.out.diagnostics.push(d);
        }
        self.push(kind, start);
    }

    fn sign(&mut self) {
        let start = self.at;
        if let Some((sign, kind)) = SIGNS.iter().find(|(sign, _)| self.rest().starts_with(sign)) {
            self.at += sign.len();
            return self.push(*kind, start);
        }
        // One report for a run of such characters: a file that is no text gives one line, not a million.
        let sign_start = |c: char| SIGNS.iter().any(|(sign, _)| sign.starts_with(c));
        let readable = |c: char| c.is_whitespace() || c == '#' || c == '"' || is_name_part(c) || sign_start(c);
        let first = self.peek().expect("lexer: called at a character");
        self.at += first.len_utf8();
        self.take_while(|c| !readable(c));
        let run: String = self.text[start..self.at].chars().take(8).flat_map(char::escape_debug).collect();
        let mut d =
            Diagnostic::new(Code::UnexpectedCharacter, self.span(start), format!("nothing begins with `{run}`"));
        d.help = way_out(first).map(Into::into);
        self.out.diagnostics.push(d);
    }
}

/// What someone who typed this character probably wanted.
fn way_out(c: char) -> Option<&'static str> {
    match c {
        '\'' => Some("texts stand in double quotes"),
        '&' => Some("the operator is spelled `and`"),
        '!' => Some("the operator is spelled `not`; inequality is `!=`"),
        ';' => Some("statements end by themselves; remove it"),
        '.' => Some("a number has a digit before its point, and nothing has members"),
        _ => None,
    }
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    is_name_start(c) || c.is_ascii_digit()
}
