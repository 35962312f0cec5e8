//! Items, declarations and statements.

use super::super::ast::*;
use super::super::token::{MEMBER_KEYWORDS, TokenKind};
use super::{Failed, Parse, Parser};
use crate::diag::{Code, Diagnostic, did_you_mean};
use llmc_artifact::Type;

// ---- Items ----------------------------------------------------------------------------------------------------------

impl Parser<'_> {
    /// Functions, groups and models up to the end of the text.
    pub(super) fn file(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while !self.at(TokenKind::End) {
            let start = self.at;
            match self.item() {
                Ok(item) => items.push(item),
                Err(Failed) => self.recover_file(start),
            }
        }
        items
    }

    /// Skips to the next line that begins an item.
    fn recover_file(&mut self, start: usize) {
        if self.at == start {
            self.bump();
        }
        while !self.at(TokenKind::End) && !self.starts_item() {
            self.bump();
        }
    }

    fn item(&mut self) -> Parse<Item> {
        if self.is_word(0, "fn") {
            self.function().map(Item::Fn)
        } else if self.is_word(0, "group") {
            self.group().map(Item::Group)
        } else if self.is_word(0, "model") {
            self.model().map(Item::Model)
        } else {
            let d = self.unexpected_here("`fn`, `group` or `model`");
            let d = if self.starts_member() { d.help("this belongs between the braces of a model") } else { d };
            self.fail(d)
        }
    }

    /// `fn double(x[..]) -> [..x] { x + x }`
    fn function(&mut self) -> Parse<Function> {
        let start = self.at;
        self.expect_word("fn")?;
        let name = self.name()?;
        let axes = self.axis_list_opt()?.map_or(Vec::new(), |list| list.names);
        let open = self.expect(TokenKind::LParen)?;
        let params = if self.at(TokenKind::RParen) { Vec::new() } else { self.comma_list(Self::param)? };
        self.close(open, TokenKind::RParen)?;
        let result = if self.eat(TokenKind::Arrow).is_some() { Some(self.tensor_type()?) } else { None };
        let body = self.block()?;
        Ok(Function { name, axes, params, result, body, span: self.span_from(start) })
    }

    /// `x[m, ..]`, `eps: real`
    fn param(&mut self) -> Parse<Param> {
        let name = self.name()?;
        if self.at(TokenKind::LBracket) {
            return Ok(Param { name, ty: ParamType::Tensor(self.tensor_type()?) });
        }
        self.expect(TokenKind::Colon)?;
        for &kind in StaticKind::ALL {
            if self.eat_word(kind.keyword()).is_some() {
                return Ok(Param { name, ty: ParamType::Static(kind) });
            }
        }
        let d = self.unexpected_here("`size`, `real`, `flag` or `text`");
        self.fail(d.help("a tensor parameter lists its axes: `x[m, ..]`, and `p[..]: int` for integers"))
    }

    /// `[m, ..x]: int`
    fn tensor_type(&mut self) -> Parse<TensorType> {
        let start = self.at;
        let open = self.expect(TokenKind::LBracket)?;
        let mut axes = Vec::new();
        while self.at(TokenKind::Name) {
            axes.push(self.name()?);
            if self.eat(TokenKind::Comma).is_none() {
                break;
            }
        }
        let rest = if self.at(TokenKind::DotDot) { Some(self.rest()?) } else { None };
        self.close(open, TokenKind::RBracket)?;
        let element = if self.eat(TokenKind::Colon).is_some() { Some(self.element()?) } else { None };
        Ok(TensorType { axes, rest, element, span: self.span_from(start) })
    }

    /// `..x`
    fn rest(&mut self) -> Parse<Rest> {
        let start = self.at;
        self.expect(TokenKind::DotDot)?;
        let of = if self.at(TokenKind::Name) { Some(self.name()?) } else { None };
        Ok(Rest { of, span: self.span_from(start) })
    }

    /// `int`
    fn element(&mut self) -> Parse<Type> {
        for (word, ty) in [("real", Type::Real), ("int", Type::Int), ("bool", Type::Bool)] {
            if self.eat_word(word).is_some() {
                return Ok(ty);
            }
        }
        self.unexpected("`real`, `int` or `bool`")
    }

    /// `group rope(base) { real theta = hf "rope_theta" | base }`
    fn group(&mut self) -> Parse<Group> {
        let start = self.at;
        self.expect_word("group")?;
        let name = self.name()?;
        let mut params = Vec::new();
        if let Some(open) = self.eat(TokenKind::LParen) {
            params = self.names()?;
            self.close(open, TokenKind::RParen)?;
        }
        let members = self.braced(Self::member)?;
        Ok(Group { name, params, members, span: self.span_from(start) })
    }

    /// `model tiny for hf "tiny" { seq t  input tokens[t]: int < 8 }`
    fn model(&mut self) -> Parse<Model> {
        let start = self.at;
        self.expect_word("model")?;
        let name = self.name()?;
        let targets = if self.eat_word("for").is_some() { self.comma_list(Self::target)? } else { Vec::new() };
        let members = self.braced(Self::member)?;
        Ok(Model { name, targets, members, span: self.span_from(start) })
    }

    /// `hf "gemma3" at "text_config." drop "language_model." when exists(hf "text_config")`
    fn target(&mut self) -> Parse<Target> {
        let start = self.at;
        let kind = self.source_kind()?;
        let architecture = self.text()?;
        let at = if self.eat_word_before_text("at") { Some(self.text()?) } else { None };
        let drop = if self.eat_word_before_text("drop") { Some(self.text()?) } else { None };
        let when = if self.eat_word("when").is_some() { Some(self.expr()?) } else { None };
        Ok(Target { kind, architecture, at, drop, when, span: self.span_from(start) })
    }

    /// `{ a b c }`; a mistake in one of them does not keep the others from being read.
    fn braced<T>(&mut self, item: impl Fn(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let open = self.expect(TokenKind::LBrace)?;
        let mut items = Vec::new();
        while !self.at(TokenKind::RBrace) && !self.at(TokenKind::End) && !self.starts_item() {
            let start = self.at;
            match item(self) {
                Ok(item) => items.push(item),
                Err(Failed) => self.recover_member(start),
            }
        }
        if self.starts_item() {
            let d = Diagnostic::new(Code::Unclosed, self.token().span, "`{` is never closed")
                .label(open.span, "`{` is opened here")
                .found(format!("`{}` at the beginning of a line", self.text_of(self.token().span)))
                .expected("`}`");
            return self.fail(d);
        }
        self.close(open, TokenKind::RBrace)?;
        Ok(items)
    }
}

// ---- Declarations ---------------------------------------------------------------------------------------------------

impl Parser<'_> {
    /// `size heads = 32`, `let x = y`
    fn member(&mut self) -> Parse<Member> {
        let start = self.at;
        let Some(keyword) = self.member_keyword() else {
            return self.statement_only().map(Member::Stmt);
        };
        let kind = match keyword {
            "let" | "for" | "output" => return self.statement().map(Member::Stmt),
            _ => self.declaration(keyword)?,
        };
        Ok(Member::Decl(Decl { kind, span: self.span_from(start) }))
    }

    /// The keyword that begins a member here. Before `=` such a word is a name.
    fn member_keyword(&self) -> Option<&'static str> {
        let word = *MEMBER_KEYWORDS.iter().find(|w| self.is_word(0, w))?;
        self.before_name().then_some(word)
    }

    fn declaration(&mut self, keyword: &str) -> Parse<DeclKind> {
        self.bump();
        match keyword {
            "size" => self.list(Self::static_).map(|v| DeclKind::Static(StaticKind::Size, v)),
            "real" => self.list(Self::static_).map(|v| DeclKind::Static(StaticKind::Real, v)),
            "flag" => self.list(Self::static_).map(|v| DeclKind::Static(StaticKind::Flag, v)),
            "text" => self.list(Self::static_).map(|v| DeclKind::Static(StaticKind::Text, v)),
            "axis" => self.list(Self::definition).map(DeclKind::Axis),
            "layers" => self.list(Self::definition).map(DeclKind::Layers),
            "seq" => self.seq().map(DeclKind::Seq),
            "input" => self.input().map(DeclKind::Input),
            "weight" => self.list(Self::weight).map(DeclKind::Weight),
            "ignore" => self.list(Self::source).map(DeclKind::Ignore),
            "include" => self.include().map(DeclKind::Include),
            _ => unreachable!("parser: `{keyword}` is listed as a declaration's keyword"),
        }
    }

    /// `flag local[l] = true`
    fn static_(&mut self) -> Parse<Static> {
        let start = self.at;
        let name = self.name()?;
        let family = self.axis_list_opt()?.map_or(Vec::new(), |list| list.names);
        self.expect(TokenKind::Eq)?;
        let value = self.expr()?;
        Ok(Static { name, family, value, span: self.span_from(start) })
    }

    /// `g = heads / kv`
    fn definition(&mut self) -> Parse<Definition> {
        let start = self.at;
        let name = self.name()?;
        self.expect(TokenKind::Eq)?;
        let value = self.expr()?;
        Ok(Definition { name, value, span: self.span_from(start) })
    }

    /// `t <= places`
    fn seq(&mut self) -> Parse<Seq> {
        let name = self.name()?;
        let limit = if self.eat(TokenKind::Le).is_some() { Some(self.expr()?) } else { None };
        Ok(Seq { name, limit })
    }

    /// `types[t]: int < kinds = 0`
    fn input(&mut self) -> Parse<Input> {
        let name = self.name()?;
        let axes = self.axis_list()?;
        self.expect(TokenKind::Colon)?;
        let element = self.element()?;
        let below = if self.eat(TokenKind::Lt).is_some() { Some(self.expr()?) } else { None };
        let default = if self.eat(TokenKind::Eq).is_some() { Some(self.expr()?) } else { None };
        Ok(Input { name, axes, element, below, default })
    }

    /// `wq[l][e, m] = hf "h.{l}.q.weight"`
    fn weight(&mut self) -> Parse<Weight> {
        let start = self.at;
        let name = self.name()?;
        let first = self.axis_list()?;
        let (family, axes) = match self.axis_list_opt()? {
            Some(axes) => (first.names, axes),
            None => (Vec::new(), first),
        };
        self.expect(TokenKind::Eq)?;
        let value = self.expr()?;
        Ok(Weight { name, family, axes, value, span: self.span_from(start) })
    }

    /// `rope(1e6)`
    fn include(&mut self) -> Parse<Include> {
        let group = self.name()?;
        let mut args = Vec::new();
        if let Some(open) = self.eat(TokenKind::LParen) {
            args = self.comma_list(Self::expr)?;
            self.close(open, TokenKind::RParen)?;
        }
        Ok(Include { group, args })
    }
}

// ---- Statements -----------------------------------------------------------------------------------------------------

impl Parser<'_> {
    /// `let x = y`, `x = y`, `for l { x = y }`, `output z[t] = x`
    fn statement(&mut self) -> Parse<Stmt> {
        let start = self.at;
        let kind = match self.member_keyword() {
            Some("let") => StmtKind::Let(self.let_binds()?),
            Some("for") => StmtKind::For(self.for_loop()?),
            Some("output") => StmtKind::Output(self.output()?),
            _ => return self.statement_only(),
        };
        Ok(Stmt { kind, span: self.span_from(start) })
    }

    /// What begins with no keyword of a statement: `x = y`, or a mistake.
    fn statement_only(&mut self) -> Parse<Stmt> {
        if self.at(TokenKind::Name) && self.peek(1).kind == TokenKind::Eq {
            let definition = self.definition()?;
            return Ok(Stmt { span: definition.span, kind: StmtKind::Rebind(definition) });
        }
        if let Some(keyword) = self.member_keyword() {
            let d = Diagnostic::new(Code::Misplaced, self.token().span, format!("`{keyword}` stands inside a loop"))
                .expected("`let`, `for`, `output` or a rebinding `x = ...`")
                .help("declarations belong to the model; move it before the loop");
            return self.fail(d);
        }
        let mut d = self.unexpected_here("a declaration or a statement");
        if self.at(TokenKind::Name) {
            let word = self.text_of(self.token().span);
            d = match self.peek(1).kind {
                TokenKind::LBracket => d.help("if this goes on with the list above, a `,` is missing before it"),
                TokenKind::Name => match did_you_mean(word, MEMBER_KEYWORDS.iter().copied()) {
                    Some(keyword) => d.help(format!("did you mean `{keyword}`?")),
                    None => d,
                },
                _ => d,
            };
        }
        self.fail(d)
    }

    /// `let q[t, e] = x, k = y`
    pub(super) fn let_binds(&mut self) -> Parse<Vec<Bind>> {
        self.expect_word("let")?;
        self.list(Self::bind)
    }

    /// `q[t, e] = x`
    fn bind(&mut self) -> Parse<Bind> {
        let start = self.at;
        let name = self.name()?;
        let axes = self.axis_list_opt()?;
        self.expect(TokenKind::Eq)?;
        let value = self.expr()?;
        Ok(Bind { name, axes, value, span: self.span_from(start) })
    }

    /// `for b = l // 2 { x = y }`
    fn for_loop(&mut self) -> Parse<For> {
        self.expect_word("for")?;
        let family = self.name()?;
        let value = if self.eat(TokenKind::Eq).is_some() { Some(self.expr()?) } else { None };
        let body = self.nested(|p| p.braced(Self::statement))?;
        Ok(For { family, value, body })
    }

    /// `output logits[t, v] = x if wanted`
    fn output(&mut self) -> Parse<Output> {
        self.expect_word("output")?;
        let name = self.name()?;
        let axes = self.axis_list()?;
        self.expect(TokenKind::Eq)?;
        let value = self.expr()?;
        let condition = if self.eat_word("if").is_some() { Some(self.expr()?) } else { None };
        Ok(Output { name, axes, value, condition })
    }
}
