//! A cursor over tokens: what every production uses.

use super::token::{Kind, Token, tokens};
use super::{Place, PtxError};

/// Blocks, brackets and parentheses inside each other.
const DEPTH: u32 = 64;

pub struct Parser<'s> {
    tokens: Vec<Token<'s>>,
    at: usize,
    depth: u32,
}

impl<'s> Parser<'s> {
    pub fn new(text: &'s str) -> Result<Parser<'s>, PtxError> {
        Ok(Parser { tokens: tokens(text)?, at: 0, depth: 0 })
    }

    pub fn peek(&self) -> Token<'s> {
        self.tokens[self.at]
    }

    pub fn peek_at(&self, ahead: usize) -> Token<'s> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    pub fn take(&mut self) -> Token<'s> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub fn place(&self) -> Place {
        self.peek().place
    }

    pub fn at_end(&self) -> bool {
        self.peek().kind == Kind::End
    }

    pub fn is(&self, sign: u8) -> bool {
        self.peek().kind == Kind::Sign(sign)
    }

    pub fn is_dotted(&self, text: &str) -> bool {
        self.peek().kind == Kind::Dotted && self.peek().text == text
    }

    pub fn eat(&mut self, sign: u8) -> bool {
        let found = self.is(sign);
        if found {
            self.take();
        }
        found
    }

    pub fn eat_dotted(&mut self, text: &str) -> bool {
        let found = self.is_dotted(text);
        if found {
            self.take();
        }
        found
    }

    pub fn expect(&mut self, sign: u8) -> Result<(), PtxError> {
        if self.eat(sign) { Ok(()) } else { self.expected(&format!("`{}`", sign as char)) }
    }

    pub fn word(&mut self) -> Result<&'s str, PtxError> {
        match self.peek().kind {
            Kind::Word => Ok(self.take().text),
            _ => self.expected("a name"),
        }
    }

    pub fn dotted(&mut self) -> Option<&'s str> {
        (self.peek().kind == Kind::Dotted).then(|| self.take().text)
    }

    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError { place: self.place(), message: message.into() })
    }

    pub fn expected<T>(&self, what: &str) -> Result<T, PtxError> {
        let token = self.peek();
        let found = match token.kind {
            Kind::End => "the end of the text".to_string(),
            Kind::Dotted => format!("`.{}`", shortened(token.text)),
            _ => format!("`{}`", shortened(token.text)),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    /// Goes one level deeper, and refuses texts that nest without end.
    pub fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, PtxError>) -> Result<T, PtxError> {
        if self.depth == DEPTH {
            return self.error(format!("more than {DEPTH} levels inside each other"));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// `item, item, item`: one at least.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, PtxError>) -> Result<Vec<T>, PtxError> {
        let mut out = vec![item(self)?];
        while self.eat(b',') {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// Goes past the rest of the line of the token that was taken last.
    pub fn skip_line(&mut self, line: u32) {
        while !self.at_end() && self.place().line == line {
            self.take();
        }
    }

    /// Goes past `{ ... }` whatever is inside.
    pub fn skip_braces(&mut self) -> Result<(), PtxError> {
        self.expect(b'{')?;
        let mut open = 1u32;
        while open > 0 {
            match self.take().kind {
                Kind::Sign(b'{') => open += 1,
                Kind::Sign(b'}') => open -= 1,
                Kind::End => return self.expected("`}`"),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The start of a text, for a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}
