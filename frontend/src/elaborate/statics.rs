//! Values known when the model is built: sizes, numbers, flags and texts, each once or for every layer of a family.

use super::*;
use crate::graph::{Extent, Seq};
use ast::{DeclKind, Member, StaticKind};
use llmc_artifact::{Format, SeqId, Value};

/// The longest axis: a product of a few lengths still fits an i64.
const MAX_LENGTH: i64 = 1 << 40;

impl<'a> Elaborator<'a> {
    /// Collects the declarations and makes axes, sequences and inputs, in the text's order.
    pub(super) fn declare(&mut self, model: &'a ast::Model) {
        for decl in decls(model) {
            match &decl.kind {
                DeclKind::Seq(seq) => self.declare_seq(seq),
                DeclKind::Axis(list) => list.iter().for_each(|d| self.declare_axis(d)),
                _ => {}
            }
        }
        // Inputs may be bounded by sizes only, but their axes may be declared after them.
        for decl in decls(model) {
            if let DeclKind::Input(input) = &decl.kind {
                let _ = self.declare_input(input);
            }
        }
    }

    fn declare_seq(&mut self, seq: &'a ast::Seq) {
        let bound = seq.limit.as_ref().map(|e| {
            let mut f = Frame::model(SourceUse::None);
            let value = self.build_time(&mut f, e)?;
            self.positive(value, e.span, "the greatest length")
        });
        let Ok(bound) = bound.transpose() else {
            self.axis_ids.insert(&seq.name.text, None);
            return;
        };
        if self.u.seqs.len() > u8::MAX as usize {
            self.report(Diagnostic::new(Code::TooLarge, seq.name.span, "a model has at most 256 sequences"));
            return;
        }
        let id = SeqId(self.u.seqs.len() as u8);
        let axis = self.u.axes.push(seq.name.text.clone(), Extent::Seq(id));
        self.u.seqs.push(Seq { name: seq.name.text.clone(), axis, bound });
        self.axis_ids.insert(&seq.name.text, Some(axis));
    }

    fn declare_axis(&mut self, d: &'a ast::Definition) {
        let extent = self.extent(d);
        let id = extent.ok().flatten().map(|extent| self.u.axes.push(d.name.text.clone(), extent));
        self.axis_ids.insert(&d.name.text, id);
    }

    /// `None` for a length of 0: such an axis cannot be read, but may be declared.
    fn extent(&mut self, d: &'a ast::Definition) -> Result<Option<Extent>> {
        if let ast::ExprKind::Name(name) = &d.value.kind
            && let Some(Global::Seq(seq)) = self.globals.get(name.as_str()).copied()
        {
            if !self.axis_ids.contains_key(seq.name.text.as_str()) {
                self.declare_seq(seq);
            }
            let axis = self.axis_ids.get(seq.name.text.as_str()).copied().flatten().ok_or(Stop::Reported)?;
            return Ok(self.u.seq_of(axis).map(Extent::View));
        }
        let mut f = Frame::model(SourceUse::Config);
        let value = self.build_time(&mut f, &d.value)?;
        let n = self.whole(value, d.value.span, "an axis's length")?;
        Ok(if n == 0 { None } else { Some(Extent::Const(n as u64)) })
    }

    fn declare_input(&mut self, input: &'a ast::Input) -> Result<()> {
        let f = Frame::model(SourceUse::None);
        let axes: Axes = self.axis_list(&f, &input.axes.names)?.into_iter().collect();
        let mut f = Frame::model(SourceUse::Config);
        let bound = match &input.below {
            None => None,
            Some(e) => {
                let value = self.build_time(&mut f, e)?;
                Some(self.positive(value, e.span, "an input's bound")?)
            }
        };
        let default = match &input.default {
            None => None,
            Some(e) => Some(self.input_default(&mut f, e, input.element)?),
        };
        let number = self.inputs.len() as u32;
        self.inputs.push(Input { value: crate::graph::ValueId(number), bound, default });
        self.input_values.push(ModelValue { name: input.name.text.clone(), axes, ty: input.element });
        Ok(())
    }

    fn input_default(&mut self, f: &mut Frame<'a>, e: &'a ast::Expr, ty: llmc_artifact::Type) -> Result<Value> {
        use llmc_artifact::Type;
        match (self.build_time(f, e)?, ty) {
            (Static::Int(n), Type::Int) => Ok(Value::Int(n)),
            (Static::Int(n), Type::Real) => Ok(Value::Real(n as f64)),
            (Static::Real(x), Type::Real) => Ok(Value::Real(x)),
            (Static::Bool(b), Type::Bool) => Ok(Value::Bool(b)),
            (found, _) => self.fail(
                Diagnostic::new(Code::WrongType, e.span, "the input's default has another type")
                    .found(found.what())
                    .expected(ty.to_string()),
            ),
        }
    }

    /// Every static without a family is computed, so that a mistake in one that nothing reads is found too.
    pub(super) fn force_statics(&mut self, model: &'a ast::Model) {
        for decl in decls(model) {
            if let DeclKind::Static(kind, list) = &decl.kind {
                for s in list.iter().filter(|s| s.family.is_empty()) {
                    let _ = self.static_value(*kind, s, vec![]);
                }
            }
        }
    }

    /// The number of layers of a family.
    pub(super) fn layer_count(&mut self, d: &'a ast::Definition) -> Result<u64> {
        let slot = (d.name.text.as_str(), vec![]);
        let value = self.memo(slot, d.name.span, |e| {
            let mut f = Frame::model(SourceUse::Config);
            e.build_time(&mut f, &d.value)
        })?;
        let n = self.whole(value, d.value.span, "the number of layers")?;
        if n > 1 << 16 {
            let d = Diagnostic::new(Code::TooLarge, d.value.span, format!("{n} layers"));
            return self.fail(d.expected("at most 65536"));
        }
        Ok(n as u64)
    }

    /// A static's value; `layers` are those of its family.
    pub(super) fn static_value(&mut self, kind: StaticKind, s: &'a ast::Static, layers: Vec<u64>) -> Result<Static> {
        self.memo((s.name.text.as_str(), layers.clone()), s.name.span, |e| {
            let mut f = Frame::model(SourceUse::Config);
            f.layers = s.family.iter().map(|n| n.text.as_str()).zip(layers).collect();
            let value = e.build_time(&mut f, &s.value)?;
            e.coerce_static(kind, value, s.value.span)
        })
    }

    fn memo(
        &mut self,
        key: (&'a str, Vec<u64>),
        span: Span,
        compute: impl FnOnce(&mut Self) -> Result<Static>,
    ) -> Result<Static> {
        match self.statics.get(&key) {
            Some(Slot::Done(value)) => return value.clone().ok_or(Stop::Reported),
            Some(Slot::Busy) => return self.defined_by_itself(key.0, span),
            None => {}
        }
        self.statics.insert(key.clone(), Slot::Busy);
        let value = compute(self);
        self.statics.insert(key, Slot::Done(value.clone().ok()));
        value
    }

    pub(super) fn defined_by_itself<T>(&mut self, name: &str, span: Span) -> Result<T> {
        let d = Diagnostic::new(Code::CyclicDefinition, span, format!("`{name}` is defined by itself"));
        self.fail(d.help("one of the declarations on the way must not need the others"))
    }

    /// The value of an expression that must be known now. A source that does not exist is an error here.
    pub(super) fn build_time(&mut self, f: &mut Frame<'a>, e: &'a ast::Expr) -> Result<Static> {
        match self.expr(f, e) {
            Ok(Val::Static(value)) => Ok(value),
            Ok(Val::Tensor(_)) => self.fail(
                Diagnostic::new(Code::NotBuildTime, e.span, "this is known only when the model runs")
                    .found("a tensor")
                    .expected("a size, a number, a flag or a text"),
            ),
            Err(Stop::Missing(what)) => self.fail(self.missing(e.span, &what)),
            Err(Stop::Reported) => Err(Stop::Reported),
        }
    }

    /// A value as a kind of static: whole reals become sizes, ints become reals, a list of equals its element.
    pub(super) fn coerce_static(&mut self, kind: StaticKind, value: Static, span: Span) -> Result<Static> {
        match (kind, value) {
            (StaticKind::Text, v @ (Static::Text(_) | Static::List(_))) => Ok(v),
            (kind, Static::List(list)) if !list.is_empty() && list.iter().all(|x| *x == list[0]) => {
                self.coerce_static(kind, list[0].clone(), span)
            }
            (StaticKind::Size, value @ (Static::Int(_) | Static::Real(_))) => {
                self.whole(value, span, "a size").map(Static::Int)
            }
            (StaticKind::Real, Static::Int(n)) => Ok(Static::Real(n as f64)),
            (StaticKind::Real, Static::Real(x)) => Ok(Static::Real(x)),
            (StaticKind::Flag, Static::Bool(b)) => Ok(Static::Bool(b)),
            (kind, value) => self.fail(
                Diagnostic::new(Code::WrongType, span, format!("this is not a {}", kind.keyword()))
                    .found(value.to_string())
                    .expected(format!("a {}", kind.keyword())),
            ),
        }
    }

    /// A whole number, not negative.
    fn whole(&mut self, value: Static, span: Span, what: &str) -> Result<i64> {
        let n = match value {
            Static::Int(n) => Some(n),
            Static::Real(x) if x.fract() == 0.0 && x.abs() < 1e15 => Some(x as i64),
            _ => None,
        };
        match n {
            Some(n) if (0..=MAX_LENGTH).contains(&n) => Ok(n),
            _ => self.fail(
                Diagnostic::new(Code::NotASize, span, format!("{what} cannot be {value}"))
                    .found(value.to_string())
                    .expected("a whole number, not negative")
                    .help("a quotient must divide evenly; `//` rounds down"),
            ),
        }
    }

    fn positive(&mut self, value: Static, span: Span, what: &str) -> Result<u64> {
        match self.whole(value, span, what)? {
            0 => self.fail(Diagnostic::new(Code::NotASize, span, format!("{what} cannot be 0")).expected("at least 1")),
            n => Ok(n as u64),
        }
    }

    /// The format of weights where there is no checkpoint.
    pub(super) const WITHOUT_FILE: Format = Format::F32;
}

/// The declarations of a model, in order.
pub(super) fn decls(model: &ast::Model) -> impl Iterator<Item = &ast::Decl> {
    model.members.iter().filter_map(|m| match m {
        Member::Decl(d) => Some(d),
        Member::Stmt(_) => None,
    })
}

impl Static {
    /// What kind of value it is, for messages.
    pub(super) fn what(&self) -> String {
        match self {
            Static::Int(_) => "int".into(),
            Static::Real(_) => "real".into(),
            Static::Bool(_) => "flag".into(),
            Static::Text(_) => "text".into(),
            Static::List(_) => "list".into(),
        }
    }

    /// The scalar that it is in a tensor's expression.
    pub(super) fn value(&self) -> Option<Value> {
        match self {
            Static::Int(n) => Some(Value::Int(*n)),
            Static::Real(x) => Some(Value::Real(*x)),
            Static::Bool(b) => Some(Value::Bool(*b)),
            Static::Text(_) | Static::List(_) => None,
        }
    }
}

impl From<Value> for Static {
    fn from(v: Value) -> Static {
        match v {
            Value::Int(n) => Static::Int(n),
            Value::Real(x) => Static::Real(x),
            Value::Bool(b) => Static::Bool(b),
        }
    }
}

impl std::fmt::Display for Static {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Static::Int(n) => write!(f, "{n}"),
            Static::Real(x) => write!(f, "{x}"),
            Static::Bool(b) => write!(f, "{b}"),
            Static::Text(t) => write!(f, "\"{t}\""),
            Static::List(list) => write!(f, "a list of {}", list.len()),
        }
    }
}
