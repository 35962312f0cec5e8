//! Tokens to syntax tree, by recursive descent: one function for each rule of the grammar, with its smallest
//! example. A mistake is reported where it is seen; the parser then goes on at the next line that begins a
//! declaration, a statement or an item of the list it is in, so one run reports several mistakes.

mod decl;
mod expr;
mod source;

use super::ast::*;
use super::lexer;
use super::token::{RESERVED, Token, TokenKind};
use crate::diag::{Code, Diagnostic, FileId, Span};

/// The greatest length of a text, in bytes.
pub const MAX_TEXT: usize = 4 << 20;

/// How deep expressions and blocks may nest; also the height of an expression's tree, chains of operators included,
/// so that every later stage may recurse.
pub const MAX_DEPTH: u32 = 200;

/// After so many mistakes a text is better read again by its author.
const MAX_DIAGNOSTICS: usize = 50;

/// The parser has reported a mistake and wants to go on elsewhere.
struct Failed;

type Parse<T> = Result<T, Failed>;

/// Reads a text. The tree holds what could be read; it is all of the text when no diagnostic is an error.
pub fn parse(file: FileId, text: &str) -> (File, Vec<Diagnostic>) {
    if text.len() > MAX_TEXT {
        let d = Diagnostic::new(Code::TextTooLong, Span::new(file, 0, 0), "the text is too long to be a model")
            .found(format!("{} bytes", text.len()))
            .expected(format!("at most {MAX_TEXT} bytes"))
            .help("a model text is a few hundred lines; weights are named in it, not contained");
        return (File { id: file, items: Vec::new(), trivia: Vec::new() }, vec![d]);
    }
    let lexed = lexer::lex(file, text);
    let mut parser = Parser {
        text,
        tokens: lexed.tokens,
        at: 0,
        depth: 0,
        height: 0,
        tallest: 0,
        last_error: None,
        diagnostics: lexed.diagnostics,
    };
    let items = parser.file();
    let mut diagnostics = parser.diagnostics;
    diagnostics.sort_by_key(|d| d.primary.map(|s| s.start));
    diagnostics.truncate(MAX_DIAGNOSTICS);
    (File { id: file, items, trivia: lexed.trivia }, diagnostics)
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    /// Nested rules that are being read.
    depth: u32,
    /// Height of the tree of the expression that was read last.
    height: u32,
    /// Height of the tallest expression since [`Parser::heights`] began to look.
    tallest: u32,
    /// The token at which the last mistake was reported: the next one there is only its echo.
    last_error: Option<usize>,
    diagnostics: Vec<Diagnostic>,
}

// ---- Tokens ---------------------------------------------------------------------------------------------------------

impl Parser<'_> {
    fn token(&self) -> Token {
        self.tokens[self.at]
    }

    /// The token `ahead` places further on; the end of the text lasts for ever.
    fn peek(&self, ahead: usize) -> Token {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn at(&self, kind: TokenKind) -> bool {
        self.token().kind == kind
    }

    fn text_of(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// Whether the token `ahead` is this word.
    fn is_word(&self, ahead: usize, word: &str) -> bool {
        let token = self.peek(ahead);
        token.kind == TokenKind::Name && self.text_of(token.span) == word
    }

    /// Whether a name follows, and not the `and` or `or` that joins what stands here to something else.
    fn before_name(&self) -> bool {
        self.peek(1).kind == TokenKind::Name && !self.is_word(1, "and") && !self.is_word(1, "or")
    }

    fn bump(&mut self) -> Token {
        let token = self.token();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn eat(&mut self, kind: TokenKind) -> Option<Token> {
        self.at(kind).then(|| self.bump())
    }

    fn eat_word(&mut self, word: &str) -> Option<Token> {
        self.is_word(0, word).then(|| self.bump())
    }

    /// Moves past a word that only means something before a text; elsewhere it is a name.
    fn eat_word_before_text(&mut self, word: &str) -> bool {
        self.before_text() && self.eat_word(word).is_some()
    }

    /// Whether a text follows on the same line.
    fn before_text(&self) -> bool {
        self.peek(1).kind == TokenKind::Text && !self.peek(1).line_start
    }

    fn expect(&mut self, kind: TokenKind) -> Parse<Token> {
        if self.at(kind) { Ok(self.bump()) } else { self.unexpected(&kind.describe()) }
    }

    fn expect_word(&mut self, word: &str) -> Parse<Token> {
        if self.is_word(0, word) { Ok(self.bump()) } else { self.unexpected(&format!("`{word}`")) }
    }

    /// The bracket that closes `open`.
    fn close(&mut self, open: Token, kind: TokenKind) -> Parse<Token> {
        if self.at(kind) {
            return Ok(self.bump());
        }
        let (token, expected) = (self.token(), kind.describe());
        let opened = format!("{} is opened here", open.kind.describe());
        if token.kind != TokenKind::End && !token.kind.closes() {
            let d = self.unexpected_here(&format!("{expected} or more")).label(open.span, opened);
            return self.fail(d);
        }
        let message = format!("{} is never closed", open.kind.describe());
        let found = self.describe(token);
        let d = Diagnostic::new(Code::Unclosed, token.span, message)
            .label(open.span, opened)
            .found(found)
            .expected(expected);
        self.fail(d)
    }

    /// From the token at index `start` to the last one read.
    fn span_from(&self, start: usize) -> Span {
        let last = self.at.saturating_sub(1).max(start);
        self.tokens[start].span.to(self.tokens[last].span)
    }
}

// ---- Mistakes -------------------------------------------------------------------------------------------------------

impl Parser<'_> {
    fn report(&mut self, d: Diagnostic) {
        let echo = self.last_error == Some(self.at);
        self.last_error = Some(self.at);
        if !echo && self.diagnostics.len() < 2 * MAX_DIAGNOSTICS {
            self.diagnostics.push(d);
        }
    }

    fn fail<T>(&mut self, d: Diagnostic) -> Parse<T> {
        self.report(d);
        Err(Failed)
    }

    fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let d = self.unexpected_here(expected);
        self.fail(d)
    }

    fn unexpected_here(&self, expected: &str) -> Diagnostic {
        let token = self.token();
        let found = self.describe(token);
        Diagnostic::new(Code::UnexpectedToken, token.span, format!("expected {expected}, found {found}"))
            .found(found)
            .expected(expected)
    }

    /// A token for messages: its text, shortened.
    fn describe(&self, token: Token) -> String {
        match token.kind {
            TokenKind::End => token.kind.describe(),
            _ => {
                let text = self.text_of(token.span);
                let short: String = text.chars().take(40).collect();
                if short.len() < text.len() { format!("`{short}...`") } else { format!("`{short}`") }
            }
        }
    }

    /// Runs a rule one level deeper.
    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.depth >= MAX_DEPTH {
            return self.too_deep();
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    fn too_deep<T>(&mut self) -> Parse<T> {
        let d = Diagnostic::new(Code::TooDeep, self.token().span, "this is nested too deeply")
            .expected(format!("at most {MAX_DEPTH} levels; in a chain of operators each counts as one"))
            .help("give parts of it a name with `let`");
        self.fail(d)
    }

    /// Whether a member of a model seems to begin here: a line with two names in a row, or `x =`. No expression goes
    /// on like that, so a misspelt keyword is seen too.
    fn starts_member(&self) -> bool {
        let token = self.token();
        let name = token.kind == TokenKind::Name && !RESERVED.contains(&self.text_of(token.span));
        name && token.line_start && matches!(self.peek(1).kind, TokenKind::Name | TokenKind::Eq)
    }

    /// Whether `fn name`, `group name` or `model name` begins a line here.
    fn starts_item(&self) -> bool {
        let word = |w| self.is_word(0, w);
        self.token().line_start
            && (word("fn") || word("group") || word("model"))
            && self.peek(1).kind == TokenKind::Name
    }

    /// Skips to where the next member may begin: a line that begins one, or the `}` that ends the list of members.
    /// `start` is the token at which the faulty member began.
    fn recover_member(&mut self, start: usize) {
        let mut depth = self.braces_since(start);
        if self.at == start {
            depth += self.skip();
        }
        while !self.at(TokenKind::End) && !self.starts_item() {
            if depth <= 0 && (self.at(TokenKind::RBrace) || self.starts_member()) {
                return;
            }
            depth += self.skip();
        }
    }

    /// Skips to the next item of a list after a mistake in one: a name that begins a line after one that ends in a
    /// comma. False when the member ends before.
    fn recover_item(&mut self, start: usize) -> bool {
        let mut depth = self.braces_since(start);
        while !self.at(TokenKind::End) && !self.starts_item() {
            let after_comma = self.at > start && self.tokens[self.at - 1].kind == TokenKind::Comma;
            let item = self.at(TokenKind::Name) && matches!(self.peek(1).kind, TokenKind::LBracket | TokenKind::Eq);
            if depth <= 0 && after_comma && item && self.token().line_start {
                return true;
            }
            if depth <= 0 && (self.at(TokenKind::RBrace) || self.starts_member()) {
                return false;
            }
            depth += self.skip();
        }
        false
    }

    fn braces_since(&self, start: usize) -> i32 {
        self.tokens[start..self.at].iter().map(|t| brace(t.kind)).sum()
    }

    fn skip(&mut self) -> i32 {
        brace(self.bump().kind)
    }
}

fn brace(kind: TokenKind) -> i32 {
    match kind {
        TokenKind::LBrace => 1,
        TokenKind::RBrace => -1,
        _ => 0,
    }
}

// ---- Names and lists ------------------------------------------------------------------------------------------------

impl Parser<'_> {
    /// `x`
    fn name(&mut self) -> Parse<Name> {
        if !self.at(TokenKind::Name) {
            return self.unexpected("a name");
        }
        let span = self.token().span;
        let text = self.text_of(span).to_owned();
        if RESERVED.contains(&text.as_str()) {
            let d = Diagnostic::new(Code::ReservedWord, span, format!("`{text}` cannot be a name"))
                .found(format!("`{text}`, a word of the grammar"))
                .expected("a name")
                .help("choose another name");
            return self.fail(d);
        }
        self.bump();
        Ok(Name { text, span })
    }

    /// `a, b, c`
    fn names(&mut self) -> Parse<Vec<Name>> {
        let mut names = vec![self.name()?];
        while self.eat(TokenKind::Comma).is_some() {
            names.push(self.name()?);
        }
        Ok(names)
    }

    /// `[a, b]`, `[]`
    fn axis_list(&mut self) -> Parse<AxisList> {
        let open = self.expect(TokenKind::LBracket)?;
        let names = if self.at(TokenKind::RBracket) { Vec::new() } else { self.names()? };
        let close = self.close(open, TokenKind::RBracket)?;
        Ok(AxisList { names, span: open.span.to(close.span) })
    }

    /// `[a, b]` or nothing.
    fn axis_list_opt(&mut self) -> Parse<Option<AxisList>> {
        if self.at(TokenKind::LBracket) { self.axis_list().map(Some) } else { Ok(None) }
    }

    /// `"silu"`
    fn text(&mut self) -> Parse<Text> {
        let token = self.expect(TokenKind::Text)?;
        Ok(Text { text: self.unquoted(token).to_owned(), span: token.span })
    }

    /// What stands between a text's quotes. The closing one may be missing, which the lexer has reported.
    fn unquoted(&self, token: Token) -> &str {
        let inner = &self.text_of(token.span)[1..];
        inner.strip_suffix('"').unwrap_or(inner)
    }

    /// Items separated by commas; after a mistake in one goes on with the next.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut items = Vec::new();
        let mut failed = false;
        loop {
            let start = self.at;
            match item(self) {
                Ok(item) => items.push(item),
                Err(Failed) if self.recover_item(start) => {
                    failed = true;
                    continue;
                }
                Err(Failed) => return Err(Failed),
            }
            let comma = self.eat(TokenKind::Comma);
            if comma.is_none_or(|comma| self.ends_after(comma)) {
                return if failed { Err(Failed) } else { Ok(items) };
            }
        }
    }

    /// Whether the list ends although a comma announces another entry, which is reported.
    fn ends_after(&mut self, comma: Token) -> bool {
        let other_member = self.token().line_start && self.starts_member() && self.peek(1).kind == TokenKind::Name;
        if !other_member && !self.at(TokenKind::RBrace) {
            return false;
        }
        let d = self.unexpected_here("another entry of the list");
        self.report(d.label(comma.span, "announced here").help("remove the comma"));
        // What begins here is looked at for itself.
        self.last_error = None;
        true
    }
}
