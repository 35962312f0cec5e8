//! Every name means something, and only one thing. Looked at everywhere, also in branches that are never chosen.

use super::*;
use crate::syntax::walk::each_child;
use ast::{Call, DeclKind, Expr, ExprKind, Member, PatternPart, Source, Stmt, StmtKind};
use llmc_artifact::{ReduceOp, ScalarOp};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::DiGraph;

/// Operations with a function's name that texts may call.
pub(super) fn pointwise(name: &str) -> Option<ScalarOp> {
    let is_function = |op: ScalarOp| {
        let word = op.keyword().chars().all(char::is_alphanumeric);
        let internal = matches!(
            op,
            ScalarOp::Neg | ScalarOp::Recip | ScalarOp::ToReal | ScalarOp::And | ScalarOp::Or | ScalarOp::Not
        );
        word && !internal
    };
    ScalarOp::ALL.iter().copied().find(|op| op.keyword() == name && is_function(*op))
}

/// A built-in's number of axes and of arguments. `axes` says whether brackets stand in the call.
fn builtin(name: &str, axes: bool) -> Option<(Option<usize>, usize)> {
    match name {
        "topk" => Some((Some(2), 1)),
        "clip" => Some((Some(0), 3)),
        "len" | "exists" | "count" => Some((Some(0), 1)),
        "has" => Some((Some(0), 2)),
        _ => match (pointwise(name), ReduceOp::EVERY.iter().any(|r| r.keyword() == name)) {
            (_, true) if axes => Some((None, 1)),
            (Some(op), _) => Some((Some(0), op.arity())),
            (None, true) => Some((None, 1)),
            (None, false) => None,
        },
    }
}

fn is_builtin(name: &str) -> bool {
    builtin(name, false).is_some()
}

/// Whether a call of a built-in has as many axes and arguments as it takes. True of other functions.
pub(super) fn arguments_fit(call: &Call) -> bool {
    let given = call.axes.as_ref().map_or(0, |a| a.names.len());
    match builtin(&call.callee.text, call.axes.is_some()) {
        None => true,
        Some((axes, args)) => axes.map_or(given > 0, |n| n == given) && args == call.args.len(),
    }
}

pub(super) fn wrong_arguments(call: &Call) -> Diagnostic {
    let name = &call.callee.text;
    let expected = match builtin(name, call.axes.is_some()) {
        Some((None, args)) => format!("at least one axis in brackets and {}", many(args, "argument")),
        Some((Some(axes), args)) => format!("{} and {}", many(axes, "axis"), many(args, "argument")),
        None => String::new(),
    };
    let given = call.axes.as_ref().map_or(0, |a| a.names.len());
    Diagnostic::new(Code::WrongArguments, call.callee.span, format!("`{name}` takes other arguments"))
        .found(format!("{} and {}", many(given, "axis"), many(call.args.len(), "argument")))
        .expected(expected)
}

fn many(n: usize, what: &str) -> String {
    match (n, what) {
        (1, _) => format!("1 {what}"),
        (n, "axis") => format!("{n} axes"),
        (n, _) => format!("{n} {what}s"),
    }
}

/// What is wrong with the number of a call's axes or arguments, if anything.
pub(super) fn misfit(function: &ast::Function, call: &Call) -> Option<Diagnostic> {
    let axes = call.axes.as_ref().map_or(0, |a| a.names.len());
    if axes == function.axes.len() && call.args.len() == function.params.len() {
        return None;
    }
    let names = |list: Vec<&str>| list.join(", ");
    let axis_names = names(function.axes.iter().map(|n| n.text.as_str()).collect());
    let params = names(function.params.iter().map(|p| p.name.text.as_str()).collect());
    let brackets = if axis_names.is_empty() { String::new() } else { format!("[{axis_names}]") };
    let d = Diagnostic::new(
        Code::WrongArguments,
        call.callee.span,
        format!("`{}` takes other arguments", call.callee.text),
    )
    .label(function.name.span, "the function is declared here")
    .found(format!("{} and {}", many(axes, "axis"), many(call.args.len(), "argument")))
    .expected(format!("`{}{brackets}({params})`", function.name.text));
    Some(d)
}

/// The names in sight at one place of the walk.
struct Scope<'a> {
    /// Axes of a function, or none: then the model's.
    function: Option<HashSet<&'a str>>,
    locals: Vec<&'a str>,
    /// Whether `hf` and `gguf` mean something: in declarations, and where `exists` and its kin ask the file.
    sources: bool,
}

impl<'a> Elaborator<'a> {
    /// Collects the model's declarations and looks at every name of the model and of the functions.
    pub(super) fn check_names(&mut self, model: &'a ast::Model, functions: &[&'a ast::Function]) {
        self.check_functions(functions);
        for decl in statics::decls(model) {
            match &decl.kind {
                DeclKind::Static(kind, list) => list.iter().for_each(|s| self.global_name(Global::Static(*kind, s))),
                DeclKind::Axis(list) => list.iter().for_each(|d| self.global_name(Global::Axis(d))),
                DeclKind::Layers(list) => list.iter().for_each(|d| self.global_name(Global::Layers(d))),
                DeclKind::Seq(seq) => self.global_name(Global::Seq(seq)),
                DeclKind::Input(input) => self.global_name(Global::Input(input)),
                DeclKind::Weight(list) => list.iter().for_each(|w| self.global_name(Global::Weight(w))),
                DeclKind::Ignore(_) | DeclKind::Include(_) => {}
            }
        }
        let mut scope = Scope { function: None, locals: Vec::new(), sources: false };
        for member in &model.members {
            match member {
                Member::Decl(decl) => {
                    scope.sources = true;
                    self.check_decl(decl, &mut scope);
                    scope.sources = false;
                }
                Member::Stmt(stmt) => self.check_stmt(stmt, &mut scope),
            }
        }
    }

    fn check_functions(&mut self, functions: &[&'a ast::Function]) {
        let mut first: HashMap<&str, Span> = HashMap::new();
        for function in functions {
            let name = &function.name;
            if is_builtin(&name.text) {
                self.report(taken(name, "an operation of the language", None));
            }
            if let Some(other) = first.insert(&name.text, name.span) {
                self.report(taken(name, "another function", Some(other)));
            }
            let mut scope = Scope { function: Some(HashSet::new()), locals: Vec::new(), sources: false };
            for axis in &function.axes {
                self.local_name(axis, &mut scope);
                scope.locals.pop();
                scope.function.iter_mut().for_each(|s| {
                    s.insert(axis.text.as_str());
                });
            }
            for param in &function.params {
                self.local_name(&param.name, &mut scope);
            }
            for ty in signature(function) {
                self.check_tensor_type(ty, &scope);
            }
            self.check_block(&function.body, &mut scope);
        }
        self.find_cycles(functions);
    }

    fn check_tensor_type(&mut self, ty: &'a ast::TensorType, scope: &Scope<'a>) {
        ty.axes.iter().for_each(|a| self.check_axis(a, scope));
        if let Some(ast::Rest { of: Some(of), .. }) = &ty.rest
            && !scope.locals.contains(&of.text.as_str())
        {
            let d = Diagnostic::new(Code::UnknownName, of.span, format!("`..{}` is no parameter's rest", of.text));
            self.report(d.suggest(&of.text, scope.locals.iter().copied()));
        }
    }

    /// Functions that lead back to themselves.
    fn find_cycles(&mut self, functions: &[&'a ast::Function]) {
        let mut graph = DiGraph::<&ast::Function, ()>::new();
        let ids: HashMap<&str, _> = functions.iter().map(|f| (f.name.text.as_str(), graph.add_node(*f))).collect();
        for function in functions {
            let mut called = Vec::new();
            let body = &function.body;
            let exprs = body.lets.iter().flat_map(|l| &l.binds).map(|b| &b.value).chain([&*body.value]);
            exprs.for_each(|e| calls(e, &mut called));
            for callee in called.iter().filter_map(|c| ids.get(c)) {
                graph.update_edge(ids[function.name.text.as_str()], *callee, ());
            }
        }
        for group in kosaraju_scc(&graph) {
            let first = group.iter().copied().min_by_key(|i| i.index());
            let Some(first) = first.filter(|i| group.len() > 1 || graph.contains_edge(*i, *i)) else { continue };
            self.cyclic.extend(group.iter().map(|i| graph[*i].name.text.as_str()));
            let name = &graph[first].name;
            let mut d =
                Diagnostic::new(Code::CyclicFunction, name.span, format!("`{}` leads back to itself", name.text))
                    .help("write the repetition as layers, or as a reduction over an axis");
            for other in group.iter().filter(|i| **i != first).take(5) {
                d = d.label(graph[*other].name.span, "by way of this function");
            }
            self.report(d);
        }
    }

    fn global_name(&mut self, global: Global<'a>) {
        let name = global.name();
        let (text, span) = (name.text.clone(), name.span);
        let here = ast::Name { text: text.clone(), span };
        if is_builtin(&text) {
            self.report(taken(&here, "an operation of the language", None));
        } else if let Some(function) = self.functions.get(text.as_str()) {
            let at = function.name.span;
            self.report(taken(&here, "a function", Some(at)));
        } else if let Some(other) = self.globals.get(text.as_str()).map(|g| g.name().span) {
            self.report(taken(&here, "another declaration", Some(other)));
        } else {
            let name: &'a str = match global {
                Global::Static(_, x) => &x.name.text,
                Global::Axis(x) | Global::Layers(x) => &x.name.text,
                Global::Seq(x) => &x.name.text,
                Global::Input(x) => &x.name.text,
                Global::Weight(x) => &x.name.text,
            };
            self.globals.insert(name, global);
        }
    }

    /// A new name of a scope hides nothing.
    fn local_name(&mut self, name: &'a ast::Name, scope: &mut Scope<'a>) {
        let text = name.text.as_str();
        let in_function = scope.function.as_ref();
        if is_builtin(text) {
            self.report(taken(name, "an operation of the language", None));
        } else if let Some(function) = self.functions.get(text)
            // The standard library cannot know what a text, read after it, calls its functions.
            && function.name.span.file <= name.span.file
        {
            let at = function.name.span;
            self.report(taken(name, "a function", Some(at)));
        } else if scope.locals.contains(&text) || in_function.is_some_and(|axes| axes.contains(text)) {
            self.report(taken(name, "another name in sight", None));
        } else if let (None, Some(global)) = (in_function, self.globals.get(text)) {
            let (what, at) = (global.what(), global.name().span);
            self.report(taken(name, &format!("a declaration ({what})"), Some(at)));
        }
        scope.locals.push(text);
    }

    fn check_decl(&mut self, decl: &'a ast::Decl, scope: &mut Scope<'a>) {
        match &decl.kind {
            DeclKind::Static(_, list) => {
                for s in list {
                    self.check_family(&s.family);
                    self.check_expr(&s.value, scope);
                }
            }
            DeclKind::Axis(list) | DeclKind::Layers(list) => list.iter().for_each(|d| self.check_expr(&d.value, scope)),
            DeclKind::Seq(seq) => seq.limit.iter().for_each(|e| self.check_expr(e, scope)),
            DeclKind::Input(input) => {
                input.axes.names.iter().for_each(|n| self.check_axis(n, scope));
                input.below.iter().chain(&input.default).for_each(|e| self.check_expr(e, scope));
            }
            DeclKind::Weight(list) => {
                for w in list {
                    self.check_family(&w.family);
                    w.axes.names.iter().for_each(|n| self.check_axis(n, scope));
                    self.check_expr(&w.value, scope);
                }
            }
            DeclKind::Ignore(list) => list.iter().for_each(|s| self.check_source(s, scope)),
            DeclKind::Include(_) => {}
        }
    }

    fn check_family(&mut self, family: &'a [ast::Name]) {
        for name in family {
            if !matches!(self.globals.get(name.text.as_str()), Some(Global::Layers(_))) {
                let d = self.not_layers(name);
                self.report(d);
            }
        }
    }

    pub(super) fn not_layers(&self, name: &ast::Name) -> Diagnostic {
        let layers = self.globals.iter().filter(|(_, g)| matches!(g, Global::Layers(_))).map(|(n, _)| *n);
        let d = match self.globals.get(name.text.as_str()) {
            Some(g) => Diagnostic::new(Code::WrongKind, name.span, format!("`{}` is no layer family", name.text))
                .label(g.name().span, format!("it is declared here: {}", g.what())),
            None => Diagnostic::new(Code::UnknownName, name.span, format!("no layers are called `{}`", name.text)),
        };
        d.expected("a name declared with `layers`").suggest(&name.text, layers)
    }

    fn check_stmt(&mut self, stmt: &'a Stmt, scope: &mut Scope<'a>) {
        match &stmt.kind {
            StmtKind::Let(binds) => binds.iter().for_each(|b| self.check_bind(b, scope)),
            StmtKind::Rebind(d) => self.check_expr(&d.value, scope),
            StmtKind::For(l) => {
                self.check_family(std::slice::from_ref(&l.family));
                l.value.iter().for_each(|e| self.check_expr(e, scope));
                let outer = scope.locals.len();
                l.body.iter().for_each(|s| self.check_stmt(s, scope));
                scope.locals.truncate(outer);
            }
            StmtKind::Output(o) => {
                o.axes.names.iter().for_each(|n| self.check_axis(n, scope));
                self.check_expr(&o.value, scope);
                o.condition.iter().for_each(|e| self.check_expr(e, scope));
            }
        }
    }

    fn check_bind(&mut self, bind: &'a ast::Bind, scope: &mut Scope<'a>) {
        self.check_expr(&bind.value, scope);
        bind.axes.iter().flat_map(|a| &a.names).for_each(|n| self.check_axis(n, scope));
        self.local_name(&bind.name, scope);
    }

    fn check_block(&mut self, block: &'a ast::Block, scope: &mut Scope<'a>) {
        let outer = scope.locals.len();
        block.lets.iter().flat_map(|l| &l.binds).for_each(|b| self.check_bind(b, scope));
        self.check_expr(&block.value, scope);
        scope.locals.truncate(outer);
    }

    fn check_expr(&mut self, e: &'a Expr, scope: &mut Scope<'a>) {
        match &e.kind {
            ExprKind::Name(name) => self.check_name(name, e.span, scope),
            ExprKind::Source(src) if !scope.sources => {
                self.report(misplaced(src));
            }
            ExprKind::Source(src) => self.check_source(src, scope),
            ExprKind::Call(call) => self.check_call(call, scope),
            ExprKind::Index(base, args) => {
                self.check_expr(base, scope);
                for arg in args {
                    let layers = matches!(self.globals.get(arg.axis.text.as_str()), Some(Global::Layers(_)));
                    if scope.function.is_some() || !layers {
                        self.check_axis(&arg.axis, scope);
                    }
                    self.check_expr(&arg.at, scope);
                }
            }
            ExprKind::If(choice) => {
                for (condition, block) in &choice.arms {
                    self.check_expr(condition, scope);
                    self.check_block(block, scope);
                }
                self.check_block(&choice.otherwise, scope);
            }
            _ => each_child(e, &mut |child| self.check_expr(child, scope)),
        }
    }

    fn check_name(&mut self, name: &'a str, span: Span, scope: &Scope<'a>) {
        let known = match &scope.function {
            Some(axes) => axes.contains(name) || scope.locals.contains(&name),
            None => self.globals.contains_key(name) || scope.locals.contains(&name),
        };
        if !known {
            let mut f = Frame::model(SourceUse::None);
            f.function = scope.function.is_some();
            f.locals = scope.locals.iter().chain(scope.function.iter().flatten()).map(|n| (*n, None)).collect();
            let d = self.unknown_name(&f, name, span);
            self.report(d);
        }
    }

    pub(super) fn unknown_name(&self, f: &Frame<'a>, name: &str, span: Span) -> Diagnostic {
        let d = Diagnostic::new(Code::UnknownName, span, format!("nothing here is called `{name}`"));
        let locals = f.locals.iter().map(|(n, _)| *n).chain(f.axes.keys().copied());
        if f.function {
            let d = if self.globals.contains_key(name) {
                d.help("a function sees its parameters only: pass it as an argument")
            } else {
                d
            };
            return d.suggest(name, locals);
        }
        let d = match self.functions.contains_key(name) || is_builtin(name) {
            true => d.help(format!("`{name}` is a function: call it as `{name}(...)`")),
            false => d,
        };
        d.suggest(name, locals.chain(self.globals.keys().copied()))
    }

    fn check_axis(&mut self, name: &'a ast::Name, scope: &Scope<'a>) {
        let text = name.text.as_str();
        let known = match &scope.function {
            Some(axes) => axes.contains(text),
            None => matches!(self.globals.get(text), Some(Global::Axis(_) | Global::Seq(_))),
        };
        if !known {
            let mut f = Frame::model(SourceUse::None);
            f.function = scope.function.is_some();
            f.axes = scope.function.iter().flatten().map(|n| (*n, AxisId(0))).collect();
            let d = self.unknown_axis(&f, name);
            self.report(d);
        }
    }

    pub(super) fn unknown_axis(&self, f: &Frame<'a>, name: &ast::Name) -> Diagnostic {
        let d = Diagnostic::new(Code::UnknownAxis, name.span, format!("no axis is called `{}`", name.text));
        if f.function {
            let d = if self.globals.contains_key(name.text.as_str()) {
                d.help("a function sees its parameters only: add the axis to its brackets")
            } else {
                d
            };
            return d.suggest(&name.text, f.axes.keys().copied());
        }
        let axes = self.globals.iter().filter(|(_, g)| matches!(g, Global::Axis(_) | Global::Seq(_))).map(|(n, _)| *n);
        let d = match self.globals.get(name.text.as_str()) {
            Some(g) => d
                .label(g.name().span, format!("declared here: {}", g.what()))
                .expected("a name declared with `axis` or `seq`"),
            None => d,
        };
        d.suggest(&name.text, axes)
    }

    fn check_call(&mut self, call: &'a Call, scope: &mut Scope<'a>) {
        let name = call.callee.text.as_str();
        if !arguments_fit(call) {
            self.report(wrong_arguments(call));
        } else if !is_builtin(name) {
            let wrong = match self.functions.get(name) {
                Some(function) => misfit(function, call),
                None => Some(self.unknown_function(&call.callee)),
            };
            if let Some(d) = wrong {
                self.report(d);
            }
        }
        call.axes.iter().flat_map(|a| &a.names).for_each(|n| self.check_axis(n, scope));
        let outer = scope.sources;
        scope.sources |= matches!(name, "exists" | "count" | "has");
        call.args.iter().for_each(|e| self.check_expr(e, scope));
        scope.sources = outer;
    }

    pub(super) fn unknown_function(&self, name: &ast::Name) -> Diagnostic {
        let builtins = ScalarOp::ALL.iter().map(|op| op.keyword()).filter(|k| pointwise(k).is_some());
        let others = ["len", "clip", "topk", "exists", "count", "has", "sum", "any", "all"];
        Diagnostic::new(Code::UnknownFunction, name.span, format!("no function is called `{}`", name.text))
            .suggest(&name.text, self.functions.keys().copied().chain(builtins).chain(others))
    }

    fn check_source(&mut self, src: &'a Source, scope: &Scope<'a>) {
        for part in &src.pattern.parts {
            if let PatternPart::Hole(name) = part
                && !self.globals.contains_key(name.text.as_str())
            {
                let d = self.unknown_name(&Frame::model(SourceUse::None), &name.text, name.span);
                self.report(d);
            }
        }
        src.layout.iter().flat_map(|l| &l.dims).flatten().for_each(|n| self.check_axis(n, scope));
    }
}

pub(super) fn misplaced(src: &Source) -> Diagnostic {
    Diagnostic::new(Code::MisplacedSource, src.span, "a source cannot stand here")
        .help("declare a `weight`, or a `size`, `real`, `flag` or `text`, and give its name")
}

fn taken(name: &ast::Name, by: &str, at: Option<Span>) -> Diagnostic {
    let d = Diagnostic::new(Code::Shadowed, name.span, format!("`{}` is taken", name.text))
        .found(by)
        .help("axes, values and functions share one name space: choose another name");
    match at {
        Some(at) => d.label(at, "declared here"),
        None => d,
    }
}

/// The tensor types of a signature.
fn signature(function: &ast::Function) -> impl Iterator<Item = &ast::TensorType> {
    let params = function.params.iter().filter_map(|p| match &p.ty {
        ast::ParamType::Tensor(ty) => Some(ty),
        ast::ParamType::Static(_) => None,
    });
    params.chain(&function.result)
}

/// Names of the functions that an expression calls.
fn calls<'e>(e: &'e Expr, found: &mut Vec<&'e str>) {
    if let ExprKind::Call(call) = &e.kind {
        found.push(&call.callee.text);
    }
    each_child(e, &mut |child| calls(child, found));
}
