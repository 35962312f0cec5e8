//! Tokens of PTX, with their places.

use super::{Place, PtxError};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `add`, `%r1`, `$L__BB0_1`, `_`
    Word,
    /// `.global`, `.v4`, `.shared::cta`; the text is without the dot.
    Dotted,
    /// `12`, `0x1f`, `0f3F800000`, `1.5`
    Number,
    /// `"unroll"`; the text is without the quotes.
    Text,
    /// One character.
    Sign(u8),
    /// The end of the text.
    End,
}

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'s> {
    /// What it is.
    pub kind: Kind,
    /// Its spelling.
    pub text: &'s str,
    /// Where it starts.
    pub place: Place,
}

/// Cuts a text into tokens; the last one is [`Kind::End`].
///
/// # Errors
/// A character that PTX does not know, an open comment or string.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let mut lexer = Lexer { text, at: 0, line: 1, line_start: 0 };
    let mut out = Vec::new();
    loop {
        let token = lexer.next()?;
        out.push(token);
        if token.kind == Kind::End {
            return Ok(out);
        }
    }
}

struct Lexer<'s> {
    text: &'s str,
    at: usize,
    line: u32,
    line_start: usize,
}

impl<'s> Lexer<'s> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn place(&self) -> Place {
        Place { line: self.line, column: (self.at - self.line_start) as u32 + 1 }
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError { place: self.place(), message: message.into() })
    }

    fn step(&mut self) {
        if self.peek(0) == b'\n' {
            self.line += 1;
            self.line_start = self.at + 1;
        }
        self.at += 1;
    }

    fn skip_blank(&mut self) -> Result<(), PtxError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\r' | b'\n' | 0x0c, _) => self.step(),
                (b'/', b'/') => {
                    while self.at < self.text.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), PtxError> {
        let open = self.place();
        self.at += 2;
        while (self.peek(0), self.peek(1)) != (b'*', b'/') {
            if self.at >= self.text.len() {
                return Err(PtxError { place: open, message: "a comment is not closed".into() });
            }
            self.step();
        }
        self.at += 2;
        Ok(())
    }

    fn next(&mut self) -> Result<Token<'s>, PtxError> {
        self.skip_blank()?;
        let (start, place) = (self.at, self.place());
        if self.at >= self.text.len() {
            return Ok(Token { kind: Kind::End, text: "", place });
        }
        let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%');
        let token = |kind, text| Token { kind, text, place };
        match self.peek(0) {
            c if c.is_ascii_digit() => {
                self.number();
                Ok(token(Kind::Number, &self.text[start..self.at]))
            }
            c if word(c) => {
                self.run(word);
                Ok(token(Kind::Word, &self.text[start..self.at]))
            }
            b'.' if self.peek(1).is_ascii_alphanumeric() || self.peek(1) == b'_' => {
                self.at += 1;
                self.run(word);
                while self.peek(0) == b':' && self.peek(1) == b':' {
                    self.at += 2;
                    self.run(word);
                }
                Ok(token(Kind::Dotted, &self.text[start + 1..self.at]))
            }
            b'"' => {
                self.string()?;
                Ok(token(Kind::Text, &self.text[start + 1..self.at - 1]))
            }
            c if b"{}[]()<>,;:@!|+-*/%&^~=?".contains(&c) => {
                self.at += 1;
                Ok(token(Kind::Sign(c), &self.text[start..self.at]))
            }
            _ => {
                let c = self.text[self.at..].chars().next().unwrap_or('?');
                self.error(format!("{c:?} is not part of PTX"))
            }
        }
    }

    fn run(&mut self, belongs: impl Fn(u8) -> bool) {
        while belongs(self.peek(0)) {
            self.at += 1;
        }
    }

    /// `7`, `0x7f`, `0f3F800000`, `1.5e-3`
    fn number(&mut self) {
        let prefixed = self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X' | b'f' | b'F' | b'd' | b'D');
        self.run(|c| c.is_ascii_alphanumeric());
        if prefixed {
            return;
        }
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.run(|c| c.is_ascii_alphanumeric());
        }
        let exponent = matches!(self.text.as_bytes()[self.at - 1], b'e' | b'E');
        if exponent && matches!(self.peek(0), b'+' | b'-') && self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.run(|c| c.is_ascii_digit());
        }
    }

    fn string(&mut self) -> Result<(), PtxError> {
        self.at += 1;
        loop {
            match self.peek(0) {
                b'"' => break,
                b'\n' => return self.error("a string is not closed"),
                _ if self.at >= self.text.len() => return self.error("a string is not closed"),
                b'\\' if self.peek(1) != b'\n' => self.at += 2.min(self.text.len() - self.at),
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }
}
