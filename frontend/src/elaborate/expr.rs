//! Expressions.

use super::*;
use crate::graph::{Extent, Op};
use ast::{Block, Call, Constant, Expr, ExprKind, If};
use llmc_artifact::{ReduceOp, ScalarOp, Type};

impl<'a> Elaborator<'a> {
    /// What an expression stands for. New nodes remember its place.
    pub(super) fn expr(&mut self, f: &mut Frame<'a>, e: &'a Expr) -> Result<Val> {
        self.expr_as(f, e, false)
    }

    /// `licensed`: an annotation states the axes of this expression's value.
    pub(super) fn expr_as(&mut self, f: &mut Frame<'a>, e: &'a Expr, licensed: bool) -> Result<Val> {
        self.enter(e.span)?;
        // What the standard library computes is shown where the model calls it.
        let place = self.calls.first().copied().filter(|call| call.file != e.span.file).unwrap_or(e.span);
        let outer = self.u.span.replace((place.file.0, place.start, place.end));
        let value = self.expr_kind(f, e, licensed);
        self.u.span = outer;
        self.depth -= 1;
        value
    }

    /// Bounds time, memory and stack, whatever the text says.
    fn enter(&mut self, span: Span) -> Result<()> {
        self.visits += 1;
        if self.visits > MAX_VISITS + 1 {
            return Err(Stop::Reported);
        }
        if self.visits > MAX_VISITS || self.depth >= MAX_DEPTH {
            let what = if self.depth >= MAX_DEPTH {
                "expressions and calls nest too deeply"
            } else {
                "the model is too large"
            };
            let d = Diagnostic::new(Code::TooLarge, span, what);
            return self.fail(d.expected(format!(
                "at most {MAX_VISITS} expressions, nested {MAX_DEPTH} deep, once functions are put in place"
            )));
        }
        self.depth += 1;
        Ok(())
    }

    fn expr_kind(&mut self, f: &mut Frame<'a>, e: &'a Expr, licensed: bool) -> Result<Val> {
        match &e.kind {
            ExprKind::Int(n) => Ok(Val::Static(Static::Int(*n))),
            ExprKind::Real(x) => Ok(Val::Static(Static::Real(x.value))),
            ExprKind::Constant(Constant::Inf) => Ok(Val::Static(Static::Real(f64::INFINITY))),
            ExprKind::Constant(Constant::Pi) => Ok(Val::Static(Static::Real(std::f64::consts::PI))),
            ExprKind::Bool(b) => Ok(Val::Static(Static::Bool(*b))),
            ExprKind::Text(t) => Ok(Val::Static(Static::Text(t.clone()))),
            ExprKind::Name(name) => self.name(f, name, e.span),
            ExprKind::Source(src) => self.source(f, src),
            ExprKind::Choice(alternatives) => self.choice(f, alternatives),
            ExprKind::Unary(op, a) => {
                let v = self.expr(f, a)?;
                self.apply(*op, e.span, vec![(v, a.span)], false)
            }
            ExprKind::Binary(op, a, b) => self.binary(f, e.span, *op, (a, b), licensed),
            ExprKind::Index(base, args) => self.index(f, e.span, base, args),
            ExprKind::Call(call) => self.call(f, e.span, call, licensed),
            ExprKind::Paren(a) => self.expr_as(f, a, licensed),
            ExprKind::If(choice) => self.static_choice(f, choice, licensed),
            ExprKind::Error(text) => {
                let d = Diagnostic::new(Code::ChosenError, e.span, text.text.clone());
                self.fail(d.help("the text's conditions led here for these sizes, flags and texts"))
            }
        }
    }

    fn name(&mut self, f: &mut Frame<'a>, name: &'a str, span: Span) -> Result<Val> {
        if let Some((_, v)) = f.locals.iter().rev().find(|(n, _)| *n == name) {
            return v.clone().ok_or(Stop::Reported);
        }
        if let Some(axis) = f.axes.get(name) {
            return Ok(self.position(*axis));
        }
        if let Some((_, layer)) = f.layers.iter().rev().find(|(n, _)| *n == name) {
            return Ok(Val::Static(Static::Int(*layer as i64)));
        }
        match self.globals.get(name).copied() {
            Some(global) if !f.function => self.global(f, global, span),
            _ => self.fail(self.unknown_name(f, name, span)),
        }
    }

    /// An axis used as a value is its index.
    fn position(&mut self, axis: AxisId) -> Val {
        let node = self.u.iota(axis);
        Val::Tensor(Tensor { node, axes: Axes::from_iter([axis]) })
    }

    fn global(&mut self, f: &mut Frame<'a>, global: Global<'a>, span: Span) -> Result<Val> {
        let name = global.name();
        match global {
            Global::Axis(_) | Global::Seq(_) => {
                let here = ast::Name { text: name.text.clone(), span };
                self.axis(f, &here).map(|a| self.position(a))
            }
            Global::Layers(_) => self.fail(
                Diagnostic::new(Code::WrongKind, span, format!("`{}` has a value only inside `for {0}`", name.text))
                    .found("a layer family")
                    .help(format!("outside, name a layer: `w[{} = 0]`", name.text)),
            ),
            Global::Input(input) => {
                let number = self.input_values.iter().position(|v| v.name == input.name.text).ok_or(Stop::Reported)?;
                let ModelValue { axes, ty, .. } = self.input_values[number].clone();
                let node = self.u.input(number as u32, axes.clone(), ty, self.inputs[number].bound);
                Ok(Val::Tensor(Tensor { node, axes }))
            }
            Global::Static(kind, s) => {
                let layers = self.layers_of(f, &s.family, span, &name.text)?;
                self.static_value(kind, s, layers).map(Val::Static)
            }
            Global::Weight(w) => {
                let layers = self.layers_of(f, &w.family, span, &name.text)?;
                self.weight(w, layers).map(Val::Tensor)
            }
        }
    }

    /// The layers that a family's member is read at.
    fn layers_of(&mut self, f: &Frame<'a>, family: &'a [ast::Name], span: Span, name: &str) -> Result<Vec<u64>> {
        let mut layers = Vec::new();
        for l in family {
            match f.layers.iter().rev().find(|(n, _)| *n == l.text) {
                Some((_, layer)) => layers.push(*layer),
                None => {
                    let d = Diagnostic::new(Code::WrongKind, span, format!("`{name}` is a family over `{}`", l.text))
                        .label(l.span, "declared here")
                        .help(format!(
                            "inside `for {0}` it is this layer's; elsewhere write `{name}[{0} = 0]`",
                            l.text
                        ));
                    return self.fail(d);
                }
            }
        }
        Ok(layers)
    }

    /// The right operand of `and` and `or` is left alone where the left one decides.
    fn binary(
        &mut self,
        f: &mut Frame<'a>,
        span: Span,
        op: ScalarOp,
        (a, b): (&'a Expr, &'a Expr),
        licensed: bool,
    ) -> Result<Val> {
        let left = self.expr(f, a)?;
        if let (ScalarOp::And | ScalarOp::Or, Val::Static(Static::Bool(known))) = (op, &left)
            && *known == (op == ScalarOp::Or)
        {
            return Ok(left);
        }
        let right = self.expr(f, b)?;
        self.apply(op, span, vec![(left, a.span), (right, b.span)], licensed)
    }

    /// `if` chooses when the model is built; only the branch chosen is looked at.
    fn static_choice(&mut self, f: &mut Frame<'a>, choice: &'a If, licensed: bool) -> Result<Val> {
        for (condition, block) in &choice.arms {
            match self.expr(f, condition)? {
                Val::Static(Static::Bool(true)) => return self.block(f, block, licensed),
                Val::Static(Static::Bool(false)) => {}
                other => {
                    let found = match other {
                        Val::Static(s) => s.what(),
                        Val::Tensor(_) => "a value that is known only when the model runs".into(),
                    };
                    let d = Diagnostic::new(Code::NotBuildTime, condition.span, "`if` chooses when the model is built")
                        .found(found)
                        .expected("a flag")
                        .help("`where(c, a, b)` chooses element by element when the model runs");
                    return self.fail(d);
                }
            }
        }
        self.block(f, &choice.otherwise, licensed)
    }

    /// A block's value; its names end with it.
    pub(super) fn block(&mut self, f: &mut Frame<'a>, block: &'a Block, licensed: bool) -> Result<Val> {
        let outer = f.locals.len();
        for bind in block.lets.iter().flat_map(|l| &l.binds) {
            self.bind(f, bind)?;
        }
        let value = self.expr_as(f, &block.value, licensed);
        f.locals.truncate(outer);
        value
    }

    /// `let name[axes] = value`. A mistake leaves a name behind that reports nothing more.
    pub(super) fn bind(&mut self, f: &mut Frame<'a>, bind: &'a ast::Bind) -> Result<()> {
        let value = self.bound_value(f, bind);
        let missing = matches!(value, Err(Stop::Missing(_)));
        f.locals.push((bind.name.text.as_str(), value.as_ref().ok().cloned()));
        if missing { value.map(|_| ()) } else { Ok(()) }
    }

    fn bound_value(&mut self, f: &mut Frame<'a>, bind: &'a ast::Bind) -> Result<Val> {
        let value = self.expr_as(f, &bind.value, bind.axes.is_some())?;
        if let Some(list) = &bind.axes {
            let want: Axes = self.axis_list(f, &list.names)?.into_iter().collect();
            self.check_axes(&value, &want, bind.value.span, list.span, &bind.name.text)?;
        }
        if let Val::Tensor(t) = &value {
            self.name_node(t.node, &bind.name.text);
        }
        Ok(value)
    }

    /// Names a node for people, unless it is a leaf that has a better one.
    pub(super) fn name_node(&mut self, node: NodeIndex, name: &str) {
        match self.u.graph[node].op {
            Op::Const(_) | Op::Iota(_) | Op::Length(_) | Op::Param(_) => {}
            _ => self.u.graph.set_name(node, name),
        }
    }

    /// The value has exactly these axes.
    pub(super) fn check_axes(&mut self, v: &Val, want: &Axes, at: Span, declared: Span, name: &str) -> Result<()> {
        let have = match v {
            Val::Tensor(t) => t.axes.clone(),
            Val::Static(_) => Axes::none(),
        };
        if have == *want {
            return Ok(());
        }
        let (extra, lacking) = (have.minus(want), want.minus(&have));
        let help = match (extra.is_empty(), lacking.is_empty()) {
            (false, true) => {
                format!("{} is left over: reduce it, read it, or add it to the annotation", self.show(&extra))
            }
            (true, false) => format!("{} is missing from the value", self.show(&lacking)),
            _ => format!("{} is left over and {} is missing", self.show(&extra), self.show(&lacking)),
        };
        let d = Diagnostic::new(Code::WrongAxes, at, format!("`{name}` has other axes than stated"))
            .label(declared, "stated here")
            .found(self.show(&have))
            .expected(self.show(want))
            .help(help);
        self.fail(d)
    }

    /// Built-ins first: no function can take their names.
    fn call(&mut self, f: &mut Frame<'a>, span: Span, call: &'a Call, licensed: bool) -> Result<Val> {
        let name = call.callee.text.as_str();
        if !names::arguments_fit(call) {
            return self.fail(names::wrong_arguments(call));
        }
        match (name, &call.axes) {
            ("len", None) => self.len(f, &call.args[0]),
            ("exists" | "count" | "has", None) => self.ask(f, call),
            ("topk", Some(axes)) => self.topk(f, &axes.names, &call.args[0]),
            ("clip", None) => self.clip(f, span, call),
            (_, Some(axes)) if reduction(name).is_some() => {
                let op = reduction(name).unwrap_or(ReduceOp::Sum);
                self.reduce(f, span, op, &axes.names, &call.args[0])
            }
            (_, None) if names::pointwise(name).is_some() => {
                let op = names::pointwise(name).unwrap_or(ScalarOp::Neg);
                let mut x = Vec::new();
                for arg in &call.args {
                    x.push((self.expr(f, arg)?, arg.span));
                }
                self.apply(op, span, x, licensed)
            }
            _ => self.inline(f, span, call),
        }
    }

    /// `len(m)`: a size, or the number of tokens of a sequence.
    fn len(&mut self, f: &Frame<'a>, arg: &'a Expr) -> Result<Val> {
        let ExprKind::Name(name) = &arg.kind else {
            let d = Diagnostic::new(Code::WrongKind, arg.span, "`len` takes an axis");
            return self.fail(d.expected("the name of an axis"));
        };
        let axis = self.axis(f, &ast::Name { text: name.clone(), span: arg.span })?;
        Ok(match self.u.axes[axis].extent {
            Extent::Const(n) => Val::Static(Static::Int(n as i64)),
            Extent::Seq(s) | Extent::View(s) => {
                let node = self.u.length(s);
                Val::Tensor(Tensor { node, axes: Axes::none() })
            }
        })
    }

    /// `exists(hf "...")`, `count(gguf "...")`, `has(list, entry)`.
    fn ask(&mut self, f: &mut Frame<'a>, call: &'a Call) -> Result<Val> {
        if call.callee.text == "has" {
            let sources = std::mem::replace(&mut f.sources, SourceUse::Config);
            let list = self.build_time(f, &call.args[0]);
            let entry = self.build_time(f, &call.args[1]);
            f.sources = sources;
            let (list, entry) = (list?, entry?);
            let Static::List(list) = list else {
                let d = Diagnostic::new(Code::WrongType, call.args[0].span, "`has` looks into a list");
                return self.fail(d.found(list.what()).expected("list"));
            };
            return Ok(Val::Static(Static::Bool(list.contains(&entry))));
        }
        let ExprKind::Source(src) = &call.args[0].kind else {
            let d =
                Diagnostic::new(Code::WrongKind, call.args[0].span, format!("`{}` asks the file", call.callee.text));
            return self.fail(d.expected("`hf \"...\"` or `gguf \"...\"`"));
        };
        Ok(Val::Static(match call.callee.text.as_str() {
            "exists" => Static::Bool(self.exists(f, src)?),
            _ => self.count(f, src)?,
        }))
    }

    /// `clip(x, lo, hi)` is `min(max(x, lo), hi)`.
    fn clip(&mut self, f: &mut Frame<'a>, span: Span, call: &'a Call) -> Result<Val> {
        let mut x = Vec::new();
        for arg in &call.args {
            x.push((self.expr(f, arg)?, arg.span));
        }
        let hi = x.pop().ok_or(Stop::Reported)?;
        let above = self.apply(ScalarOp::Max, span, x, false)?;
        self.apply(ScalarOp::Min, span, vec![(above, span), hi], false)
    }

    fn topk(&mut self, f: &mut Frame<'a>, axes: &'a [ast::Name], arg: &'a Expr) -> Result<Val> {
        let list = self.axis_list(f, axes)?;
        let ([axis, rank], [name, rank_name]) = (&list[..], axes) else { return Err(Stop::Reported) };
        let v = self.expr(f, arg)?;
        let t = self.tensor_of(v, arg.span)?;
        let t = self.real_of(t, arg.span)?;
        self.require_axis(&t, *axis, name.span, arg.span)?;
        if t.axes.contains(*rank) {
            let d = Diagnostic::new(
                Code::Diagonal,
                rank_name.span,
                format!("the value already has axis `{}`", rank_name.text),
            );
            return self.fail(d.help("count the winners with an axis of their own"));
        }
        if let (Some(all), Some(won)) = (self.u.axes.len_of(*axis), self.u.axes.len_of(*rank))
            && won > all
        {
            let d = Diagnostic::new(Code::TooManyWinners, rank_name.span, format!("{won} of {all} cannot be chosen"));
            return self.fail(d.found(format!("`{}` has {won}", rank_name.text)).expected(format!("at most {all}")));
        }
        let node = self.u.broadcast(t.node, &Axes::from_iter([*axis]));
        let node = self.u.topk(*axis, *rank, node);
        let axes = t.axes.minus(&Axes::from_iter([*axis])).union(&Axes::from_iter([*rank]));
        Ok(Val::Tensor(Tensor { node, axes }))
    }

    /// `sum[m](w * x)`: every factor of a summed product has every axis that is summed over.
    fn reduce(
        &mut self,
        f: &mut Frame<'a>,
        span: Span,
        op: ReduceOp,
        names: &'a [ast::Name],
        arg: &'a Expr,
    ) -> Result<Val> {
        let axes: Axes = self.axis_list(f, names)?.into_iter().collect();
        let mut factors = Vec::new();
        let v = if op == ReduceOp::Sum { self.product(f, arg, &mut factors)? } else { self.expr(f, arg)? };
        let t = self.tensor_of(v, arg.span)?;
        for axis in axes.iter() {
            let name = names.iter().find(|n| self.axis(f, n).is_ok_and(|a| a == axis)).map_or(span, |n| n.span);
            self.require_axis(&t, axis, name, arg.span)?;
        }
        if factors.len() > 1 {
            for (have, at) in factors {
                self.check_factor(&axes, &have, at)?;
            }
        }
        let logical = matches!(op, ReduceOp::Any | ReduceOp::All);
        let ty = self.u.ty(t.node);
        if (ty == Type::Bool) != logical {
            let d = Diagnostic::new(Code::WrongType, arg.span, format!("`{}` does not take this", op.keyword()));
            return self.fail(d.found(ty.to_string()).expected(if logical { "bool" } else { "a number" }));
        }
        let node = self.reduce_node(op, &axes, t.node);
        Ok(Val::Tensor(Tensor { node, axes: t.axes.minus(&axes) }))
    }

    /// Axes that the node lacks are equal along: their sum is a multiple.
    fn reduce_node(&mut self, op: ReduceOp, axes: &Axes, node: NodeIndex) -> NodeIndex {
        let axes_there = axes.intersect(&self.u.node_axes(node).clone());
        let node = if op == ReduceOp::Sum {
            self.u.broadcast(node, axes)
        } else {
            return self.u.reduce(op, axes_there, node);
        };
        self.u.reduce(op, axes.clone(), node)
    }

    /// An expression's value, and the axes of each factor of the product that it is.
    fn product(&mut self, f: &mut Frame<'a>, e: &'a Expr, factors: &mut Vec<(Axes, Span)>) -> Result<Val> {
        self.enter(e.span)?;
        let value = match &e.kind {
            ExprKind::Binary(ScalarOp::Mul, a, b) => {
                let left = self.product(f, a, factors);
                let right = if left.is_ok() { self.product(f, b, factors) } else { Err(Stop::Reported) };
                match (left, right) {
                    (Ok(l), Ok(r)) => self.apply(ScalarOp::Mul, e.span, vec![(l, a.span), (r, b.span)], false),
                    (Err(stop), _) | (_, Err(stop)) => Err(stop),
                }
            }
            ExprKind::Paren(a) => self.product(f, a, factors),
            _ => {
                let v = self.expr(f, e);
                if let Ok(Val::Tensor(t)) = &v {
                    factors.push((t.axes.clone(), e.span));
                }
                v
            }
        };
        self.depth -= 1;
        value
    }

    fn check_factor(&mut self, axes: &Axes, have: &Axes, at: Span) -> Result<()> {
        let lacking = axes.minus(have);
        if lacking.is_empty() || have.is_empty() {
            return Ok(());
        }
        let d = Diagnostic::new(Code::LooseFactor, at, format!("this factor does not have {}", self.show(&lacking)))
            .found(self.show(have))
            .expected(format!("a factor with {}", self.show(axes)))
            .help("if it is meant, take the factor out of the sum");
        self.fail(d)
    }

    /// Reducing or reading needs the axis.
    pub(super) fn require_axis(&mut self, t: &Tensor, axis: AxisId, at: Span, of: Span) -> Result<()> {
        if t.axes.contains(axis) {
            return Ok(());
        }
        let name = self.axis_name(axis).to_owned();
        let d = Diagnostic::new(Code::MissingAxis, at, format!("there is no axis `{name}` here"))
            .label(of, format!("this has {}", self.show(&t.axes)))
            .found(self.show(&t.axes))
            .expected(format!("a value with axis `{name}`"));
        self.fail(d)
    }
}

/// The reduction of that name.
pub(super) fn reduction(name: &str) -> Option<ReduceOp> {
    ReduceOp::EVERY.iter().copied().find(|op| op.keyword() == name)
}
