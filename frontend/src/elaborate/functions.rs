//! Calls of functions: each is put in the place of its call. A body sees its parameters and nothing of the model.

use super::*;
use ast::{Call, ParamType, TensorType};
use llmc_artifact::Type;

/// What an argument brings to the signature: its axes beyond those that the parameter names.
type Rests<'a> = HashMap<&'a str, Axes>;

impl<'a> Elaborator<'a> {
    pub(super) fn inline(&mut self, f: &mut Frame<'a>, span: Span, call: &'a Call) -> Result<Val> {
        let Some(function) = self.functions.get(call.callee.text.as_str()).copied() else {
            return self.fail(self.unknown_function(&call.callee));
        };
        if self.cyclic.contains(function.name.text.as_str()) {
            return Err(Stop::Reported);
        }
        if let Some(d) = names::misfit(function, call) {
            return self.fail(d);
        }
        let names = call.axes.as_ref().map_or(&[][..], |list| &list.names);
        let axes = self.axis_list(f, names)?;
        let mut inner = Frame::model(SourceUse::None);
        inner.function = true;
        inner.axes = function.axes.iter().map(|n| n.text.as_str()).zip(axes).collect();
        let mut rests = Rests::new();
        for (param, arg) in function.params.iter().zip(&call.args) {
            let value = self.expr(f, arg)?;
            let value = match &param.ty {
                ParamType::Static(kind) => self.static_argument(*kind, value, arg.span, &param.name)?,
                ParamType::Tensor(ty) => self.tensor_argument(&inner, &mut rests, ty, value, arg.span, &param.name)?,
            };
            inner.locals.push((param.name.text.as_str(), Some(value)));
        }
        self.calls.push(span);
        let value = self.block(&mut inner, &function.body, function.result.is_some());
        let value = value.and_then(|v| self.check_result(&inner, &rests, function, v));
        self.calls.pop();
        value
    }

    fn static_argument(&mut self, kind: ast::StaticKind, value: Val, at: Span, param: &ast::Name) -> Result<Val> {
        match value {
            Val::Static(s) => self.coerce_static(kind, s, at).map(Val::Static),
            Val::Tensor(_) => self.fail(
                Diagnostic::new(Code::NotBuildTime, at, format!("`{}` is known only when the model runs", param.text))
                    .label(param.span, "the parameter is declared here")
                    .found("a tensor")
                    .expected(format!("a {} that is known when the model is built", kind.keyword())),
            ),
        }
    }

    /// The argument has the axes that the parameter names, and others only where it says `..`.
    fn tensor_argument(
        &mut self,
        inner: &Frame<'a>,
        rests: &mut Rests<'a>,
        ty: &'a TensorType,
        value: Val,
        at: Span,
        param: &'a ast::Name,
    ) -> Result<Val> {
        let t = self.tensor_of(value, at)?;
        let t = self.element_of(ty.element, t, at)?;
        let named: Axes = self.axis_list(inner, &ty.axes)?.into_iter().collect();
        let rest = t.axes.minus(&named);
        let allowed = match &ty.rest {
            None => Some(Axes::none()),
            Some(ast::Rest { of: None, .. }) => None,
            Some(ast::Rest { of: Some(of), .. }) => rests.get(of.text.as_str()).cloned(),
        };
        let fits = named.is_subset(&t.axes) && allowed.as_ref().is_none_or(|a| *a == rest);
        if !fits {
            let want = self.show(&named.union(&allowed.clone().unwrap_or_default()));
            let d = Diagnostic::new(Code::WrongAxes, at, format!("`{}` takes other axes", param.text))
                .label(param.span, "the parameter is declared here")
                .found(self.show(&t.axes))
                .expected(if allowed.is_none() {
                    format!("{want} and perhaps others")
                } else {
                    format!("exactly {want}")
                });
            return self.fail(d);
        }
        rests.insert(&param.text, rest);
        Ok(Val::Tensor(t))
    }

    /// The tensor with the element type written, real where none is.
    fn element_of(&mut self, element: Option<Type>, t: Tensor, at: Span) -> Result<Tensor> {
        let want = element.unwrap_or(Type::Real);
        match (want, self.u.ty(t.node)) {
            (Type::Real, _) => self.real_of(t, at),
            (want, found) if want == found => Ok(t),
            (want, found) => {
                let d = Diagnostic::new(Code::WrongType, at, "this has another type than declared");
                self.fail(d.found(found.to_string()).expected(want.to_string()))
            }
        }
    }

    /// The result has exactly the axes and the type that the signature states.
    fn check_result(
        &mut self,
        inner: &Frame<'a>,
        rests: &Rests<'a>,
        function: &'a ast::Function,
        v: Val,
    ) -> Result<Val> {
        let Some(ty) = &function.result else { return Ok(v) };
        let at = function.body.value.span;
        let named: Axes = self.axis_list(inner, &ty.axes)?.into_iter().collect();
        let want = match &ty.rest {
            None => named,
            Some(ast::Rest { of: Some(of), .. }) => named.union(rests.get(of.text.as_str()).unwrap_or(&Axes::none())),
            Some(ast::Rest { of: None, .. }) => {
                let have = if let Val::Tensor(t) = &v { t.axes.clone() } else { Axes::none() };
                have.union(&named)
            }
        };
        self.check_axes(&v, &want, at, ty.span, &function.name.text)?;
        match (v, ty.element.unwrap_or(Type::Real)) {
            (Val::Tensor(t), element) => self.element_of(Some(element), t, at).map(Val::Tensor),
            (Val::Static(Static::Int(n)), Type::Real) => Ok(Val::Static(Static::Real(n as f64))),
            (Val::Static(s), element) if s.value().is_some_and(|v| v.ty() == element) => Ok(Val::Static(s)),
            (Val::Static(s), element) => {
                let d = Diagnostic::new(Code::WrongType, at, "the result has another type than declared");
                self.fail(d.found(s.what()).expected(element.to_string()))
            }
        }
    }
}
