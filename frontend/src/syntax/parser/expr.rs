//! Expressions, loosest first.

use super::super::ast::*;
use super::super::token::{Precedence, TokenKind, precedence};
use super::{MAX_DEPTH, Parse, Parser};
use crate::diag::{Code, Diagnostic, Span};
use llmc_artifact::ScalarOp;

/// The infix operations of one precedence.
const COMPARE: &[(TokenKind, ScalarOp)] = &[
    (TokenKind::EqEq, ScalarOp::Eq),
    (TokenKind::Ne, ScalarOp::Ne),
    (TokenKind::Le, ScalarOp::Le),
    (TokenKind::Ge, ScalarOp::Ge),
    (TokenKind::Lt, ScalarOp::Lt),
    (TokenKind::Gt, ScalarOp::Gt),
];
const SUM: &[(TokenKind, ScalarOp)] = &[(TokenKind::Plus, ScalarOp::Add), (TokenKind::Minus, ScalarOp::Sub)];
const PRODUCT: &[(TokenKind, ScalarOp)] = &[
    (TokenKind::Star, ScalarOp::Mul),
    (TokenKind::Slash, ScalarOp::Div),
    (TokenKind::SlashSlash, ScalarOp::FloorDiv),
    (TokenKind::Percent, ScalarOp::Mod),
];

impl Parser<'_> {
    /// `hf "head_dim" | model / heads`
    pub(super) fn expr(&mut self) -> Parse<Expr> {
        let expr = self.nested(Self::choice)?;
        self.tallest = self.tallest.max(self.height);
        Ok(expr)
    }

    fn choice(&mut self) -> Parse<Expr> {
        let first = self.or_expr()?;
        if !self.at(TokenKind::Bar) {
            return Ok(first);
        }
        let (mut span, mut height) = (first.span, self.height);
        let mut alternatives = vec![first];
        while self.eat(TokenKind::Bar).is_some() {
            let next = self.or_expr()?;
            span = span.to(next.span);
            height = height.max(self.height);
            alternatives.push(next);
        }
        self.grow(height)?;
        Ok(Expr { kind: ExprKind::Choice(alternatives), span })
    }

    /// `a or b`
    fn or_expr(&mut self) -> Parse<Expr> {
        let mut left = self.and_expr()?;
        while self.is_word(0, "or") {
            left = self.infix(ScalarOp::Or, left, Self::and_expr)?;
        }
        Ok(left)
    }

    /// `a and b`
    fn and_expr(&mut self) -> Parse<Expr> {
        let mut left = self.not_expr()?;
        while self.is_word(0, "and") {
            left = self.infix(ScalarOp::And, left, Self::not_expr)?;
        }
        Ok(left)
    }

    /// `not a`
    fn not_expr(&mut self) -> Parse<Expr> {
        if self.is_word(0, "not") { self.prefix(ScalarOp::Not, Self::not_expr) } else { self.compare() }
    }

    /// `a < b`
    fn compare(&mut self) -> Parse<Expr> {
        let left = self.sum()?;
        let Some(op) = self.operator(COMPARE) else { return Ok(left) };
        let result = self.infix(op, left, Self::sum)?;
        if self.operator(COMPARE).is_none() {
            return Ok(result);
        }
        let d = Diagnostic::new(Code::ChainedComparison, self.token().span, "a second comparison in a row")
            .label(result.span, "this is a truth value already")
            .help("join two comparisons with `and`, or put one in parentheses");
        self.fail(d)
    }

    /// `a + b`
    fn sum(&mut self) -> Parse<Expr> {
        let mut left = self.product()?;
        while let Some(op) = self.operator(SUM) {
            left = self.infix(op, left, Self::product)?;
        }
        Ok(left)
    }

    /// `a * b`
    fn product(&mut self) -> Parse<Expr> {
        let mut left = self.negation()?;
        while let Some(op) = self.operator(PRODUCT) {
            left = self.infix(op, left, Self::negation)?;
        }
        Ok(left)
    }

    /// `-a`
    fn negation(&mut self) -> Parse<Expr> {
        if self.at(TokenKind::Minus) { self.prefix(ScalarOp::Neg, Self::negation) } else { self.power() }
    }

    /// `a ^ b`
    fn power(&mut self) -> Parse<Expr> {
        let base = self.postfix()?;
        if self.at(TokenKind::Caret) {
            return self.nested(|p| p.infix(ScalarOp::Pow, base, Self::negation));
        }
        Ok(base)
    }

    /// `x[t = s]`
    fn postfix(&mut self) -> Parse<Expr> {
        let mut expr = self.atom()?;
        while self.at(TokenKind::LBracket) {
            let height = self.height;
            let open = self.bump();
            let (args, arg_height) = self.heights(|p| p.comma_list(Self::index_arg))?;
            let close = self.close(open, TokenKind::RBracket)?;
            self.grow(height.max(arg_height))?;
            let span = expr.span.to(close.span);
            expr = Expr { kind: ExprKind::Index(Box::new(expr), args), span };
        }
        Ok(expr)
    }

    /// `t = s`
    fn index_arg(&mut self) -> Parse<IndexArg> {
        let axis = self.name()?;
        self.expect(TokenKind::Eq)?;
        Ok(IndexArg { axis, at: self.expr()? })
    }

    /// `x`, `32`, `"silu"`, `(a)`, `exp(x)`, `if a { b } else { c }`, `hf "name"`
    fn atom(&mut self) -> Parse<Expr> {
        self.height = 1;
        let token = self.token();
        let kind = match token.kind {
            TokenKind::Int => self.integer()?,
            TokenKind::Real => self.real()?,
            TokenKind::Text => ExprKind::Text(self.text()?.text),
            TokenKind::LParen => {
                let open = self.bump();
                let inner = self.expr()?;
                self.close(open, TokenKind::RParen)?;
                self.grow(self.height)?;
                ExprKind::Paren(Box::new(inner))
            }
            TokenKind::Name => return self.word(),
            _ => return self.unexpected("an expression"),
        };
        Ok(Expr { kind, span: token.span.to(self.tokens[self.at - 1].span) })
    }

    /// `true`, `pi`, `if ...`, `error "..."`, `hf "..."`, `x`, `exp(x)`
    fn word(&mut self) -> Parse<Expr> {
        let start = self.at;
        let kind = match self.text_of(self.token().span) {
            "true" => self.bump_as(ExprKind::Bool(true)),
            "false" => self.bump_as(ExprKind::Bool(false)),
            "inf" => self.bump_as(ExprKind::Constant(Constant::Inf)),
            "pi" => self.bump_as(ExprKind::Constant(Constant::Pi)),
            "if" => self.if_expr()?,
            "error" => {
                self.bump();
                ExprKind::Error(self.text()?)
            }
            "hf" | "gguf" if self.before_text() => ExprKind::Source(self.source()?),
            "else" | "and" | "or" | "not" => return self.unexpected("an expression"),
            _ if self.starts_call() => ExprKind::Call(self.call()?),
            _ => ExprKind::Name(self.name()?.text),
        };
        Ok(Expr { kind, span: self.span_from(start) })
    }

    fn bump_as(&mut self, kind: ExprKind) -> ExprKind {
        self.bump();
        kind
    }

    /// Whether the name here is called: `f(`, `f[a](`, as against `x[a = 0]`. A parenthesis that begins a line is the
    /// value of a block whose last `let` ends before it.
    fn starts_call(&self) -> bool {
        match self.peek(1).kind {
            TokenKind::LParen => !self.peek(1).line_start,
            TokenKind::LBracket => self.peek(3).kind != TokenKind::Eq,
            _ => false,
        }
    }

    /// `softmax[s](x)`
    fn call(&mut self) -> Parse<Call> {
        let callee = self.name()?;
        let axes = self.axis_list_opt()?;
        let open = self.expect(TokenKind::LParen)?;
        let (args, height) =
            self.heights(|p| if p.at(TokenKind::RParen) { Ok(Vec::new()) } else { p.comma_list(Self::expr) })?;
        self.close(open, TokenKind::RParen)?;
        self.grow(height)?;
        Ok(Call { callee, axes, args })
    }

    /// `if a { b } else if c { d } else { e }`
    fn if_expr(&mut self) -> Parse<ExprKind> {
        let mut arms = Vec::new();
        let (otherwise, height) = self.heights(|p| {
            p.expect_word("if")?;
            loop {
                arms.push((p.expr()?, p.block()?));
                p.expect_word("else")?;
                if p.eat_word("if").is_none() {
                    return p.block();
                }
            }
        })?;
        self.grow(height)?;
        Ok(ExprKind::If(If { arms, otherwise }))
    }

    /// `{ let d = x - y  d * d }`
    pub(super) fn block(&mut self) -> Parse<Block> {
        let start = self.at;
        let open = self.expect(TokenKind::LBrace)?;
        let ((value, lets), height) = self.heights(|p| {
            let mut lets = Vec::new();
            while p.is_word(0, "let") && p.before_name() {
                let start = p.at;
                let binds = p.let_binds()?;
                lets.push(Let { binds, span: p.span_from(start) });
            }
            Ok((p.block_value(&lets)?, lets))
        })?;
        self.close(open, TokenKind::RBrace)?;
        self.grow(height)?;
        Ok(Block { lets, value, span: self.span_from(start) })
    }

    /// What follows a block's `let`s.
    fn block_value(&mut self, lets: &[Let]) -> Parse<Box<Expr>> {
        if self.at(TokenKind::RBrace) && !lets.is_empty() {
            let help = "if the value begins with `-`, put it in parentheses: such a line goes on with the one before";
            let d = self.unexpected_here("the block's value").help(help);
            return self.fail(d);
        }
        self.expr().map(Box::new)
    }

    /// `32`
    fn integer(&mut self) -> Parse<ExprKind> {
        let span = self.token().span;
        match self.text_of(span).parse() {
            Ok(value) => Ok(self.bump_as(ExprKind::Int(value))),
            // The lexer has reported what is no number at all.
            Err(_) if !self.text_of(span).bytes().all(|b| b.is_ascii_digit()) => Ok(self.bump_as(ExprKind::Int(0))),
            Err(_) => self.number_too_large(span, "an integer of at most 9223372036854775807"),
        }
    }

    /// `1e-5`
    fn real(&mut self) -> Parse<ExprKind> {
        let span = self.token().span;
        let text = self.text_of(span).to_owned();
        match text.parse::<f64>() {
            Ok(value) if value.is_infinite() => self.number_too_large(span, "a number of at most 1.8e308"),
            Ok(value) => Ok(self.bump_as(ExprKind::Real(Number { text, value }))),
            Err(_) => Ok(self.bump_as(ExprKind::Real(Number { text, value: 0.0 }))),
        }
    }

    fn number_too_large<T>(&mut self, span: Span, expected: &str) -> Parse<T> {
        let found = self.describe(self.token());
        let d = Diagnostic::new(Code::BadNumber, span, "this number is too large").found(found).expected(expected);
        self.fail(d)
    }
}

// ---- Shared by the rules --------------------------------------------------------------------------------------------

impl Parser<'_> {
    /// The operation whose sign stands here, if it is one of these.
    fn operator(&self, table: &[(TokenKind, ScalarOp)]) -> Option<ScalarOp> {
        table.iter().find(|(kind, _)| self.at(*kind)).map(|(_, op)| *op)
    }

    /// The sign and right operand of an infix operation.
    fn infix(&mut self, op: ScalarOp, left: Expr, right: impl FnOnce(&mut Self) -> Parse<Expr>) -> Parse<Expr> {
        debug_assert!(precedence(op).is_some_and(|p| p != Precedence::Atom));
        let height = self.height;
        self.bump();
        let right = right(self)?;
        self.grow(height)?;
        let span = left.span.to(right.span);
        Ok(Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span })
    }

    /// The sign and operand of a prefix operation.
    fn prefix(&mut self, op: ScalarOp, operand: impl FnOnce(&mut Self) -> Parse<Expr>) -> Parse<Expr> {
        let sign = self.bump();
        let operand = self.nested(operand)?;
        self.grow(0)?;
        let span = sign.span.to(operand.span);
        Ok(Expr { kind: ExprKind::Unary(op, Box::new(operand)), span })
    }

    /// Puts a node above the expression read last and another one of `height`.
    fn grow(&mut self, height: u32) -> Parse<()> {
        self.height = 1 + self.height.max(height);
        if self.height > MAX_DEPTH { self.too_deep() } else { Ok(()) }
    }

    /// Runs a rule that reads several expressions; gives the height of the tallest.
    fn heights<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<(T, u32)> {
        let outer = std::mem::replace(&mut self.tallest, 0);
        let result = rule(self);
        let tallest = self.tallest;
        self.tallest = tallest.max(outer);
        Ok((result?, tallest))
    }

    /// `a, b`
    pub(super) fn comma_list<T>(&mut self, item: impl Fn(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat(TokenKind::Comma).is_some() {
            items.push(item(self)?);
        }
        Ok(items)
    }
}
