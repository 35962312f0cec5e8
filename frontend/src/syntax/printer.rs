//! Syntax tree to text: the one layout. Reading it again gives the same tree, and printing that the same text.
//!
//! Comments and blank lines come from beside the tree. Each stays before or after the item, declaration, statement or
//! list entry that it stands at; one in the middle of an expression moves behind it.

mod expr;

use super::ast::*;
use super::pretty::Doc;

/// Where lines are broken.
const WIDTH: usize = 120;

/// One step to the right.
const INDENT: usize = 2;

/// The text of a tree, laid out.
pub fn print(file: &File) -> String {
    let mut printer = Printer { trivia: &file.trivia, at: 0 };
    let mut out = printer.sequence(&file.items, u32::MAX, item_start, item_end, Printer::item);
    out.push(Doc::Hard);
    let text = Doc::Concat(out).render(WIDTH);
    if text.trim().is_empty() { String::new() } else { text }
}

fn item_start(item: &Item) -> u32 {
    match item {
        Item::Fn(f) => f.span.start,
        Item::Group(g) => g.span.start,
        Item::Model(m) => m.span.start,
    }
}

fn item_end(item: &Item) -> u32 {
    match item {
        Item::Fn(f) => f.span.end,
        Item::Group(g) => g.span.end,
        Item::Model(m) => m.span.end,
    }
}

fn member_span(member: &Member) -> crate::diag::Span {
    match member {
        Member::Decl(decl) => decl.span,
        Member::Stmt(stmt) => stmt.span,
    }
}

struct Printer<'a> {
    trivia: &'a [Trivia],
    at: usize,
}

// ---- Comments -------------------------------------------------------------------------------------------------------

impl Printer<'_> {
    /// The next comment or blank line that begins before `limit`.
    fn trivia_before(&self, limit: u32) -> Option<&TriviaKind> {
        self.trivia.get(self.at).filter(|t| t.span.start < limit).map(|t| &t.kind)
    }

    /// Comments before `limit`, each followed by a line's end, and blank lines. `first`: nothing stands above.
    fn leading(&mut self, limit: u32, mut first: bool) -> Vec<Doc> {
        let mut out = Vec::new();
        while let Some(kind) = self.trivia_before(limit) {
            match kind {
                TriviaKind::BlankLine if first => {}
                TriviaKind::BlankLine => out.push(Doc::Hard),
                TriviaKind::Comment { text, .. } => out.extend([Doc::text(text), Doc::Hard]),
            }
            first = matches!(kind, TriviaKind::BlankLine);
            self.at += 1;
        }
        out
    }

    /// A comment that goes on the line that ends here, if one begins before `limit`.
    fn trailing(&mut self, limit: u32) -> Option<Doc> {
        match self.trivia_before(limit)? {
            TriviaKind::Comment { text, own_line: false } => {
                let doc = Doc::text(format!(" {text}"));
                self.at += 1;
                Some(doc)
            }
            _ => None,
        }
    }

    /// Blank lines in the middle of something, up to `limit`, are not kept.
    fn drop_blank_lines(&mut self, limit: u32) {
        while matches!(self.trivia_before(limit), Some(TriviaKind::BlankLine)) {
            self.at += 1;
        }
    }

    /// Things on lines of their own, with their comments, up to `end`, where whatever is around them ends. No line's
    /// end before the first nor after the last.
    fn sequence<T>(
        &mut self,
        list: &[T],
        end: u32,
        start_of: impl Fn(&T) -> u32,
        end_of: impl Fn(&T) -> u32,
        print: impl Fn(&mut Self, &T) -> Doc,
    ) -> Vec<Doc> {
        let mut out = Vec::new();
        for (i, one) in list.iter().enumerate() {
            if i > 0 {
                out.push(Doc::Hard);
            }
            out.extend(self.leading(start_of(one), i == 0));
            out.push(print(self, one));
            self.drop_blank_lines(end_of(one));
            let next = list.get(i + 1).map_or(end, &start_of);
            out.extend(self.trailing(next));
        }
        let mut rest = self.leading(end, list.is_empty());
        // Neither a blank line nor a line's end before what closes the list.
        while matches!(rest.last(), Some(Doc::Hard)) {
            rest.pop();
        }
        if !rest.is_empty() && !list.is_empty() {
            out.push(Doc::Hard);
        }
        out.extend(rest);
        out
    }

    /// ` {`, the sequence one step to the right, `}`.
    fn braced<T>(
        &mut self,
        list: &[T],
        end: u32,
        start_of: impl Fn(&T) -> u32,
        end_of: impl Fn(&T) -> u32,
        print: impl Fn(&mut Self, &T) -> Doc,
    ) -> Doc {
        let comment = self.trailing(list.first().map_or(end, &start_of));
        let inner = self.sequence(list, end, start_of, end_of, print);
        if inner.is_empty() && comment.is_none() {
            return Doc::text(" {}");
        }
        let comment = comment.unwrap_or_else(Doc::nil);
        let line = if inner.is_empty() { Doc::nil() } else { Doc::Hard };
        let inner = Doc::Concat(vec![line, Doc::Concat(inner)]).nest(INDENT);
        Doc::Concat(vec![Doc::text(" {"), comment, inner, Doc::Hard, Doc::text("}")])
    }
}

// ---- Items ----------------------------------------------------------------------------------------------------------

impl Printer<'_> {
    fn item(&mut self, item: &Item) -> Doc {
        match item {
            Item::Fn(f) => self.function(f),
            Item::Group(g) => {
                let params = if g.params.is_empty() { String::new() } else { format!("({})", names(&g.params)) };
                let head = Doc::text(format!("group {}{params}", g.name.text));
                Doc::Concat(vec![head, self.members(&g.members, g.span.end)])
            }
            Item::Model(m) => {
                let mut head = vec![Doc::text(format!("model {}", m.name.text))];
                if !m.targets.is_empty() {
                    let targets: Vec<_> = m.targets.iter().map(|t| self.target(t)).collect();
                    let list = Doc::join(targets, Doc::Concat(vec![Doc::text(","), Doc::Line]));
                    head.extend([Doc::text(" for "), list.align().group()]);
                }
                head.push(self.members(&m.members, m.span.end));
                Doc::Concat(head)
            }
        }
    }

    fn function(&mut self, f: &Function) -> Doc {
        let axes = if f.axes.is_empty() { String::new() } else { format!("[{}]", names(&f.axes)) };
        let params = f.params.iter().map(|p| {
            Doc::text(match &p.ty {
                ParamType::Tensor(ty) => format!("{}{}", p.name.text, tensor_type(ty)),
                ParamType::Static(kind) => format!("{}: {}", p.name.text, kind.keyword()),
            })
        });
        let params = Doc::fill(params);
        let result = f.result.as_ref().map_or(String::new(), |ty| format!(" -> {}", tensor_type(ty)));
        let head = vec![Doc::text(format!("fn {}{axes}(", f.name.text)), params, Doc::text(format!("){result} "))];
        Doc::Concat(vec![Doc::Concat(head), self.block(&f.body).doc.group()])
    }

    fn target(&mut self, t: &Target) -> Doc {
        let mut out = vec![Doc::text(format!("{} \"{}\"", t.kind.keyword(), t.architecture.text))];
        for (word, text) in [("at", &t.at), ("drop", &t.drop)] {
            out.extend(text.iter().map(|t| Doc::text(format!(" {word} \"{}\"", t.text))));
        }
        if let Some(when) = &t.when {
            out.extend([Doc::text(" when "), self.expr(when)]);
        }
        Doc::Concat(out)
    }

    fn members(&mut self, members: &[Member], end: u32) -> Doc {
        self.braced(members, end, |m| member_span(m).start, |m| member_span(m).end, Self::member)
    }

    fn member(&mut self, member: &Member) -> Doc {
        match member {
            Member::Decl(decl) => self.decl(decl),
            Member::Stmt(stmt) => self.stmt(stmt),
        }
    }
}

// ---- Declarations and statements ------------------------------------------------------------------------------------

/// One of a list of declarations: what stands before its `=`, its value, and where it lies.
struct Entry<'a> {
    head: String,
    value: &'a Expr,
    span: crate::diag::Span,
}

impl Printer<'_> {
    fn decl(&mut self, decl: &Decl) -> Doc {
        match &decl.kind {
            DeclKind::Static(kind, list) => {
                let entry = |s: &'_ Static| format!("{}{}", s.name.text, bracketed(&s.family));
                let entries = list.iter().map(|s| Entry { head: entry(s), value: &s.value, span: s.span });
                self.entries(kind.keyword(), entries.collect())
            }
            DeclKind::Axis(list) => self.definitions("axis", list),
            DeclKind::Layers(list) => self.definitions("layers", list),
            DeclKind::Seq(seq) => {
                let head = Doc::text(format!("seq {}", seq.name.text));
                let limit = seq.limit.as_ref().map(|e| self.prefixed(" <= ", e));
                Doc::Concat([head].into_iter().chain(limit).collect())
            }
            DeclKind::Input(input) => {
                let axes = names(&input.axes.names);
                let head = Doc::text(format!("input {}[{axes}]: {}", input.name.text, input.element));
                let below = input.below.as_ref().map(|e| self.prefixed(" < ", e));
                let default = input.default.as_ref().map(|e| self.prefixed(" = ", e));
                Doc::Concat([head].into_iter().chain(below).chain(default).collect())
            }
            DeclKind::Weight(list) => {
                let head = |w: &Weight| format!("{}{}[{}]", w.name.text, bracketed(&w.family), names(&w.axes.names));
                let entries = list.iter().map(|w| Entry { head: head(w), value: &w.value, span: w.span });
                self.entries("weight", entries.collect())
            }
            DeclKind::Ignore(list) => self.ignore(list),
            DeclKind::Include(include) => {
                let args = if include.args.is_empty() { Doc::nil() } else { self.arguments(&include.args) };
                Doc::Concat(vec![Doc::text(format!("include {}", include.group.text)), args])
            }
        }
    }

    /// `axis v = vocab, m = model`: short, so as many on a line as fit.
    fn definitions(&mut self, keyword: &str, list: &[Definition]) -> Doc {
        let mut out = Vec::new();
        for (i, d) in list.iter().enumerate() {
            out.extend(self.leading_in_list(d.span.start, i == 0));
            out.extend([Doc::text(&d.name.text), self.prefixed(" = ", &d.value)]);
            self.separate(&mut out, d.span.end, list.get(i + 1).map(|d| d.span.start), Doc::Line.group());
        }
        Doc::Concat(vec![Doc::text(format!("{keyword} ")), Doc::Concat(out).align().group()])
    }

    fn ignore(&mut self, list: &[Source]) -> Doc {
        let mut out = Vec::new();
        for (i, source) in list.iter().enumerate() {
            out.extend(self.leading_in_list(source.span.start, i == 0));
            out.push(Doc::text(expr::source(source)));
            self.separate(&mut out, source.span.end, list.get(i + 1).map(|s| s.span.start), Doc::Line.group());
        }
        Doc::Concat(vec![Doc::text("ignore "), Doc::Concat(out).align().group()])
    }

    /// `size a = 1, b = 2` on one line, or one entry on each with the `=` below each other.
    fn entries(&mut self, keyword: &str, entries: Vec<Entry<'_>>) -> Doc {
        let widest = entries.iter().map(|e| e.head.chars().count()).max().unwrap_or(0);
        let mut out = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            out.extend(self.leading_in_list(entry.span.start, i == 0));
            let padding = " ".repeat(widest - entry.head.chars().count());
            out.extend([Doc::text(&entry.head), Doc::IfBroken(padding), self.prefixed(" = ", entry.value)]);
            self.separate(&mut out, entry.span.end, entries.get(i + 1).map(|e| e.span.start), Doc::Line);
        }
        Doc::Concat(vec![Doc::text(format!("{keyword} ")), Doc::Concat(out).align().group()])
    }

    /// Comments above an entry of a list. Above the first there is no room for any: they wait.
    fn leading_in_list(&mut self, start: u32, first: bool) -> Vec<Doc> {
        if first { Vec::new() } else { self.leading(start, true) }
    }

    /// What follows an entry of a list: a comma and perhaps a comment, unless it is the last.
    fn separate(&mut self, out: &mut Vec<Doc>, end: u32, next: Option<u32>, line: Doc) {
        self.drop_blank_lines(end);
        let Some(next) = next else { return };
        out.push(Doc::text(","));
        match self.trailing(next) {
            Some(comment) => out.extend([comment, Doc::Hard]),
            None => out.push(line),
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> Doc {
        match &stmt.kind {
            StmtKind::Let(binds) => self.binds(binds),
            StmtKind::Rebind(d) => Doc::Concat(vec![Doc::text(&d.name.text), self.prefixed(" = ", &d.value)]),
            StmtKind::For(f) => {
                let head = Doc::text(format!("for {}", f.family.text));
                let value = f.value.as_ref().map_or(Doc::nil(), |e| self.prefixed(" = ", e));
                let body = self.braced(&f.body, stmt.span.end, |s| s.span.start, |s| s.span.end, Self::stmt);
                Doc::Concat(vec![head, value, body])
            }
            StmtKind::Output(o) => {
                let head = Doc::text(format!("output {}[{}]", o.name.text, names(&o.axes.names)));
                let value = self.prefixed(" = ", &o.value);
                let condition = o.condition.as_ref().map_or(Doc::nil(), |e| self.prefixed(" if ", e));
                Doc::Concat(vec![head, value, condition])
            }
        }
    }

    fn binds(&mut self, binds: &[Bind]) -> Doc {
        let head = |b: &Bind| match &b.axes {
            Some(axes) => format!("{}[{}]", b.name.text, names(&axes.names)),
            None => b.name.text.clone(),
        };
        let entries = binds.iter().map(|b| Entry { head: head(b), value: &b.value, span: b.span });
        self.entries("let", entries.collect())
    }
}

fn names(list: &[Name]) -> String {
    list.iter().map(|n| n.text.as_str()).collect::<Vec<_>>().join(", ")
}

/// `[l]`, or nothing for no names.
fn bracketed(list: &[Name]) -> String {
    if list.is_empty() { String::new() } else { format!("[{}]", names(list)) }
}

fn tensor_type(ty: &TensorType) -> String {
    let rest = ty.rest.iter().map(|r| format!("..{}", r.of.as_ref().map_or("", |n| &n.text)));
    let axes: Vec<_> = ty.axes.iter().map(|n| n.text.clone()).chain(rest).collect();
    let element = ty.element.map_or(String::new(), |e| format!(": {e}"));
    format!("[{}]{element}", axes.join(", "))
}
