//! The tree as text, one declaration or statement a line, expressions as nested lists: what `inspect` shows and the
//! tests compare. Places, comments and parentheses are left out: two texts with equal dumps mean the same.

use super::ast::*;
use std::fmt::Write;

/// The text form of a tree.
pub fn dump(file: &File) -> String {
    let mut out = Dump { text: String::new(), indent: 0 };
    for item in &file.items {
        out.item(item);
    }
    out.text
}

struct Dump {
    text: String,
    indent: usize,
}

impl Dump {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = 2 * self.indent);
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Fn(f) => {
                let result = f.result.as_ref().map_or("inferred".into(), tensor_type);
                let params: Vec<_> = f.params.iter().map(param).collect();
                self.line(&format!("fn {}[{}]({}) -> {result}", f.name.text, names(&f.axes), params.join(", ")));
                self.line(&format!("  {}", block(&f.body)));
            }
            Item::Group(g) => {
                self.line(&format!("group {}({})", g.name.text, names(&g.params)));
                self.members(&g.members);
            }
            Item::Model(m) => {
                self.line(&format!("model {}", m.name.text));
                self.indent += 1;
                for t in &m.targets {
                    let part = |word: &str, text: &Option<Text>| {
                        text.as_ref().map_or(String::new(), |t| format!(" {word} {:?}", t.text))
                    };
                    let when = t.when.as_ref().map_or(String::new(), |e| format!(" when {}", expr(e)));
                    let (at, drop) = (part("at", &t.at), part("drop", &t.drop));
                    self.line(&format!("for {} {:?}{at}{drop}{when}", t.kind.keyword(), t.architecture.text));
                }
                self.indent -= 1;
                self.members(&m.members);
            }
        }
    }

    fn members(&mut self, members: &[Member]) {
        self.indent += 1;
        for member in members {
            match member {
                Member::Decl(decl) => self.decl(decl),
                Member::Stmt(stmt) => self.stmt(stmt),
            }
        }
        self.indent -= 1;
    }

    fn decl(&mut self, decl: &Decl) {
        match &decl.kind {
            DeclKind::Static(kind, list) => {
                for s in list {
                    let name = &s.name.text;
                    self.line(&format!("{} {name}[{}] = {}", kind.keyword(), names(&s.family), expr(&s.value)));
                }
            }
            DeclKind::Axis(list) => self.definitions("axis", list),
            DeclKind::Layers(list) => self.definitions("layers", list),
            DeclKind::Seq(s) => {
                let limit = s.limit.as_ref().map_or(String::new(), |e| format!(" <= {}", expr(e)));
                self.line(&format!("seq {}{limit}", s.name.text));
            }
            DeclKind::Input(i) => {
                let below = i.below.as_ref().map_or(String::new(), |e| format!(" < {}", expr(e)));
                let default = i.default.as_ref().map_or(String::new(), |e| format!(" = {}", expr(e)));
                let axes = names(&i.axes.names);
                self.line(&format!("input {}[{axes}]: {}{below}{default}", i.name.text, i.element));
            }
            DeclKind::Weight(list) => {
                for w in list {
                    let (family, axes) = (names(&w.family), names(&w.axes.names));
                    self.line(&format!("weight {}[{family}][{axes}] = {}", w.name.text, expr(&w.value)));
                }
            }
            DeclKind::Ignore(list) => list.iter().for_each(|s| self.line(&format!("ignore {}", source(s)))),
            DeclKind::Include(i) => self.line(&format!("include {} {}", i.group.text, exprs(&i.args))),
        }
    }

    fn definitions(&mut self, keyword: &str, list: &[Definition]) {
        list.iter().for_each(|d| self.line(&format!("{keyword} {} = {}", d.name.text, expr(&d.value))));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match &stmt.kind {
            StmtKind::Let(binds) => binds.iter().for_each(|b| self.line(&format!("let {}", bind(b)))),
            StmtKind::Rebind(d) => self.line(&format!("{} = {}", d.name.text, expr(&d.value))),
            StmtKind::For(f) => {
                let value = f.value.as_ref().map_or(String::new(), |e| format!(" = {}", expr(e)));
                self.line(&format!("for {}{value}", f.family.text));
                self.indent += 1;
                f.body.iter().for_each(|s| self.stmt(s));
                self.indent -= 1;
            }
            StmtKind::Output(o) => {
                let condition = o.condition.as_ref().map_or(String::new(), |e| format!(" if {}", expr(e)));
                let axes = names(&o.axes.names);
                self.line(&format!("output {}[{axes}] = {}{condition}", o.name.text, expr(&o.value)));
            }
        }
    }
}

fn names(list: &[Name]) -> String {
    list.iter().map(|n| n.text.as_str()).collect::<Vec<_>>().join(", ")
}

fn param(p: &Param) -> String {
    match &p.ty {
        ParamType::Tensor(ty) => format!("{}{}", p.name.text, tensor_type(ty)),
        ParamType::Static(kind) => format!("{}: {}", p.name.text, kind.keyword()),
    }
}

fn tensor_type(ty: &TensorType) -> String {
    let rest = ty.rest.iter().map(|r| format!("..{}", r.of.as_ref().map_or("", |n| &n.text)));
    let axes: Vec<_> = ty.axes.iter().map(|n| n.text.clone()).chain(rest).collect();
    let element = ty.element.map_or(String::new(), |e| format!(": {e}"));
    format!("[{}]{element}", axes.join(", "))
}

fn bind(b: &Bind) -> String {
    let axes = b.axes.as_ref().map_or(String::new(), |a| format!("[{}]", names(&a.names)));
    format!("{}{axes} = {}", b.name.text, expr(&b.value))
}

fn block(b: &Block) -> String {
    let lets = b.lets.iter().flat_map(|l| &l.binds).map(|b| format!("(let {}) ", bind(b)));
    format!("{{{}{}}}", lets.collect::<String>(), expr(&b.value))
}

fn exprs(list: &[Expr]) -> String {
    list.iter().map(expr).collect::<Vec<_>>().join(" ")
}

fn expr(e: &Expr) -> String {
    match &e.kind {
        ExprKind::Int(n) => n.to_string(),
        ExprKind::Real(n) => n.text.clone(),
        ExprKind::Constant(c) => c.keyword().into(),
        ExprKind::Bool(b) => b.to_string(),
        ExprKind::Text(t) => format!("{t:?}"),
        ExprKind::Name(n) => n.clone(),
        ExprKind::Source(s) => source(s),
        ExprKind::Choice(list) => format!("(| {})", exprs(list)),
        ExprKind::Unary(op, a) => format!("({} {})", op.keyword(), expr(a)),
        ExprKind::Binary(op, a, b) => format!("({} {} {})", op.keyword(), expr(a), expr(b)),
        ExprKind::Index(a, args) => {
            let args: Vec<_> = args.iter().map(|i| format!("({} {})", i.axis.text, expr(&i.at))).collect();
            format!("(at {} {})", expr(a), args.join(" "))
        }
        ExprKind::Call(c) => {
            let axes = c.axes.as_ref().map_or(String::new(), |a| format!("[{}]", names(&a.names)));
            format!("({}{axes} {})", c.callee.text, exprs(&c.args))
        }
        ExprKind::Paren(a) => expr(a),
        ExprKind::If(i) => {
            let arms: String = i.arms.iter().map(|(c, b)| format!("{} {} ", expr(c), block(b))).collect();
            format!("(if {arms}{})", block(&i.otherwise))
        }
        ExprKind::Error(t) => format!("(error {:?})", t.text),
    }
}

fn source(s: &Source) -> String {
    let layout = s.layout.as_ref().map_or(String::new(), |l| {
        let dims: Vec<_> = l.dims.iter().map(|d| names(d).replace(", ", " ")).collect();
        format!(" as ({})", dims.join(", "))
    });
    format!("({} {:?}{layout})", s.kind.keyword(), s.pattern.text)
}
