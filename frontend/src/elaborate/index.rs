//! `x[a = i, ...]`: reading axes at integers, provably in range.

use super::*;
use crate::graph::Op;
use ast::{Expr, ExprKind, IndexArg};
use llmc_artifact::Type;

impl<'a> Elaborator<'a> {
    pub(super) fn index(&mut self, f: &mut Frame<'a>, span: Span, base: &'a Expr, args: &'a [IndexArg]) -> Result<Val> {
        let layers = f.layers.len();
        let value = self.layered(f, args).and_then(|_| self.expr(f, base));
        f.layers.truncate(layers);
        let is_layer = |a: &&IndexArg| !matches!(self.globals.get(a.axis.text.as_str()), Some(Global::Layers(_)));
        let args: Vec<_> = args.iter().filter(is_layer).collect();
        match value? {
            value if args.is_empty() => Ok(value),
            value => {
                let t = self.tensor_of(value, base.span)?;
                self.read_axes(f, span, base, t, &args).map(Val::Tensor)
            }
        }
    }

    /// `w[l = 0]`: the member of a family, outside its loop or beside it.
    fn layered(&mut self, f: &mut Frame<'a>, args: &'a [IndexArg]) -> Result<()> {
        for arg in args {
            if let Some(Global::Layers(d)) = self.globals.get(arg.axis.text.as_str()).copied()
                && !f.function
            {
                let layer = self.layer_number(f, d, &arg.at)?;
                f.layers.push((d.name.text.as_str(), layer));
            }
        }
        Ok(())
    }

    /// A layer of the family, in range.
    pub(super) fn layer_number(&mut self, f: &mut Frame<'a>, d: &'a ast::Definition, e: &'a Expr) -> Result<u64> {
        let count = self.layer_count(d)?;
        match self.build_time(f, e)? {
            Static::Int(n) if (0..count as i64).contains(&n) => Ok(n as u64),
            found => self.fail(
                Diagnostic::new(Code::OutOfRange, e.span, format!("there is no such layer of `{}`", d.name.text))
                    .found(found.to_string())
                    .expected(format!("0 to {}", count as i64 - 1)),
            ),
        }
    }

    fn read_axes(
        &mut self,
        f: &mut Frame<'a>,
        span: Span,
        base: &'a Expr,
        t: Tensor,
        args: &[&'a IndexArg],
    ) -> Result<Tensor> {
        let mut at: Vec<(AxisId, Tensor, Span)> = Vec::new();
        for arg in args {
            let axis = self.axis(f, &arg.axis)?;
            if at.iter().any(|(a, ..)| *a == axis) {
                let d = Diagnostic::new(
                    Code::RepeatedAxis,
                    arg.axis.span,
                    format!("axis `{}` is read twice", arg.axis.text),
                );
                return self.fail(d.help("an axis is read once, at one place"));
            }
            self.require_axis(&t, axis, arg.axis.span, base.span)?;
            let index = self.index_value(f, &arg.at)?;
            self.check_range(axis, &index, arg)?;
            at.push((axis, index, arg.at.span));
        }
        let read: Axes = at.iter().map(|(a, ..)| *a).collect();
        let rest = t.axes.minus(&read);
        for ((_, index, span), arg) in at.iter().zip(args) {
            self.check_diagonal(&rest, index, *span, &arg.at)?;
        }
        let axes = at.iter().fold(rest, |axes, (_, index, _)| axes.union(&index.axes));
        // The value is equal along axes that the node lacks, wherever they are read.
        let there: Vec<_> = at
            .iter()
            .filter(|(a, ..)| self.u.node_axes(t.node).contains(*a))
            .map(|(a, index, _)| (*a, index.node))
            .collect();
        self.u.span = Some((span.file.0, span.start, span.end));
        Ok(Tensor { node: self.u.index(t.node, &there), axes })
    }

    /// Sources cannot stand in an index, and what it is made of is a value of the model or a literal.
    fn index_value(&mut self, f: &mut Frame<'a>, e: &'a Expr) -> Result<Tensor> {
        let sources = std::mem::replace(&mut f.sources, SourceUse::None);
        let value = self.expr(f, e);
        f.sources = sources;
        let index = self.tensor_of(value?, e.span)?;
        match self.u.ty(index.node) {
            Type::Int => Ok(index),
            found => self.fail(
                Diagnostic::new(Code::NotAnIndex, e.span, "an axis is read at integers")
                    .found(found.to_string())
                    .expected("int")
                    .help("`floor`, `ceil` and `trunc` make integers of reals; `//` divides integers"),
            ),
        }
    }

    fn check_range(&mut self, axis: AxisId, index: &Tensor, arg: &'a IndexArg) -> Result<()> {
        let (extent, range) = (self.u.axes[axis].extent, self.u.facts(index.node).range);
        if range.fits(extent) {
            return Ok(());
        }
        let name = self.axis_name(axis).to_owned();
        let last = match self.u.axes.len_of(axis) {
            Some(n) => (n - 1).to_string(),
            None => format!("len({name}) - 1"),
        };
        let d = Diagnostic::new(Code::OutOfRange, arg.at.span, format!("this is not provably an index of `{name}`"))
            .found(format!("{} to {}", spell(range.lo), spell(range.hi)))
            .expected(format!("0 to {last}"))
            .help(format!("bound it, even where a `where` guards it: `clip(..., 0, {last})`"));
        self.fail(d)
    }

    /// A bare rename onto an axis that stays would read a diagonal.
    fn check_diagonal(&mut self, rest: &Axes, index: &Tensor, span: Span, e: &'a Expr) -> Result<()> {
        let bare = matches!(e.kind, ExprKind::Name(_)) && matches!(self.u.graph[index.node].op, Op::Iota(_));
        let (true, Some(onto)) = (bare, index.axes.iter().find(|a| rest.contains(*a))) else { return Ok(()) };
        let name = self.axis_name(onto).to_owned();
        let d = Diagnostic::new(Code::Diagonal, span, format!("the value already has axis `{name}`"))
            .found(format!("a rename onto `{name}`"))
            .expected("an axis that the value does not have")
            .help(format!("to read the diagonal on purpose, compute the index: `{name} + 0`"));
        self.fail(d)
    }
}

fn spell(bound: f64) -> String {
    if bound.is_infinite() {
        if bound > 0.0 { "anything above".into() } else { "anything below".into() }
    } else {
        format!("{bound}")
    }
}
