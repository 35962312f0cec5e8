//! The typing rules of pointwise operations: types, conversions, and which axes may meet.

use super::*;
use llmc_artifact::scalar::Signature;
use llmc_artifact::{ScalarOp, SeqId, Type, Value};

/// An operand and where it is written.
pub(super) type Operand = (Val, Span);

impl<'a> Elaborator<'a> {
    /// `op` applied to operands. `licensed`: an annotation states the result's axes, so reals may cross.
    pub(super) fn apply(&mut self, op: ScalarOp, span: Span, x: Vec<Operand>, licensed: bool) -> Result<Val> {
        if let Some(known) = self.apply_known(op, span, &x)? {
            return Ok(known);
        }
        let mut operands = Vec::new();
        for (v, at) in x {
            operands.push((self.tensor_of(v, at)?, at));
        }
        self.check_types(op, span, &operands)?;
        self.convert(op, &mut operands);
        if !licensed && is_sum_like(op, self.u.ty(operands[operands.len() - 1].0.node)) {
            self.check_crossing(op, span, &operands)?;
        }
        self.doubt_positions(op, span, &operands);
        let axes = operands.iter().fold(Axes::none(), |a, (t, _)| a.union(&t.axes));
        let nodes: Vec<_> = operands.iter().map(|(t, _)| t.node).collect();
        Ok(Val::Tensor(Tensor { node: self.u.map(op, &nodes), axes }))
    }

    /// What is known when the model is built: operations on statics, and truth values that decide alone.
    fn apply_known(&mut self, op: ScalarOp, span: Span, x: &[Operand]) -> Result<Option<Val>> {
        let statics: Option<Vec<_>> = x
            .iter()
            .map(|(v, _)| match v {
                Val::Static(s) => Some(s.clone()),
                Val::Tensor(_) => None,
            })
            .collect();
        if let Some(statics) = statics {
            return self.fold(op, span, &statics).map(Val::Static).map(Some);
        }
        let known = |i: usize| match &x[i].0 {
            Val::Static(Static::Bool(b)) => Some(*b),
            _ => None,
        };
        Ok(match op {
            ScalarOp::And | ScalarOp::Or => {
                let decides = op == ScalarOp::Or;
                match (known(0), known(1)) {
                    (Some(b), _) | (_, Some(b)) if b == decides => Some(Val::Static(Static::Bool(b))),
                    (Some(_), _) => Some(x[1].0.clone()),
                    (_, Some(_)) => Some(x[0].0.clone()),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// An operation on statics.
    fn fold(&mut self, op: ScalarOp, span: Span, x: &[Static]) -> Result<Static> {
        if let (ScalarOp::Eq | ScalarOp::Ne, [Static::Text(a), Static::Text(b)]) = (op, x) {
            return Ok(Static::Bool((a == b) == (op == ScalarOp::Eq)));
        }
        if let (ScalarOp::Where, [Static::Bool(c), a, b]) = (op, x) {
            return Ok(if *c { a.clone() } else { b.clone() });
        }
        let values: Option<Vec<_>> = x.iter().map(Static::value).collect();
        let Some(mut values) = values else { return self.wrong_static(op, span, x) };
        let types: Vec<_> = values.iter().map(|v| v.ty()).collect();
        if !accepts(op, &types) {
            return self.wrong_static(op, span, x);
        }
        if wants_real(op, &types) {
            values.iter_mut().for_each(|v| *v = Value::Real(v.real()));
        }
        if matches!(op, ScalarOp::FloorDiv | ScalarOp::Mod) && values[1] == Value::Int(0) {
            return self.fail(Diagnostic::new(Code::NotASize, span, "division by 0").found("a divisor of 0"));
        }
        Ok(op.evaluate(&values).into())
    }

    fn wrong_static(&mut self, op: ScalarOp, span: Span, x: &[Static]) -> Result<Static> {
        let found: Vec<_> = x.iter().map(Static::what).collect();
        let d = Diagnostic::new(Code::WrongType, span, format!("`{}` does not take these", op.keyword()));
        self.fail(d.found(found.join(" and ")).expected(expectation(op)))
    }

    /// A static is a literal; a text is nothing a tensor could hold.
    pub(super) fn tensor_of(&mut self, v: Val, span: Span) -> Result<Tensor> {
        match v {
            Val::Tensor(t) => Ok(t),
            Val::Static(s) => match s.value() {
                Some(value) => Ok(Tensor { node: self.u.constant(value), axes: Axes::none() }),
                None => self.fail(
                    Diagnostic::new(Code::WrongType, span, "this cannot be computed with")
                        .found(s.what())
                        .expected("a number or a truth value"),
                ),
            },
        }
    }

    /// The tensor as reals: integers are converted, truth values are not.
    pub(super) fn real_of(&mut self, t: Tensor, span: Span) -> Result<Tensor> {
        match self.u.ty(t.node) {
            Type::Real => Ok(t),
            Type::Int => Ok(Tensor { node: self.u.map(ScalarOp::ToReal, &[t.node]), axes: t.axes }),
            Type::Bool => self.fail(
                Diagnostic::new(Code::WrongType, span, "a truth value is no number")
                    .found("bool")
                    .expected("real")
                    .help("`where(c, 1, 0)` makes it one"),
            ),
        }
    }

    fn check_types(&mut self, op: ScalarOp, span: Span, x: &[(Tensor, Span)]) -> Result<()> {
        let types: Vec<_> = x.iter().map(|(t, _)| self.u.ty(t.node)).collect();
        if accepts(op, &types) {
            return Ok(());
        }
        let found: Vec<_> = types.iter().map(Type::to_string).collect();
        let mut d = Diagnostic::new(Code::WrongType, span, format!("`{}` does not take these", op.keyword()))
            .found(found.join(" and "))
            .expected(expectation(op));
        if op.signature() == Signature::Int {
            d = d.help("`floor`, `ceil` and `trunc` make integers; `/` divides reals");
        }
        self.fail(d)
    }

    /// Integers among reals become reals.
    fn convert(&mut self, op: ScalarOp, x: &mut [(Tensor, Span)]) {
        let types: Vec<_> = x.iter().map(|(t, _)| self.u.ty(t.node)).collect();
        if !wants_real(op, &types) {
            return;
        }
        for (t, _) in x.iter_mut() {
            if self.u.ty(t.node) == Type::Int {
                t.node = self.u.map(ScalarOp::ToReal, &[t.node]);
            }
        }
    }

    /// Of the two values that meet in a real sum, one's axes contain the other's.
    fn check_crossing(&mut self, op: ScalarOp, span: Span, x: &[(Tensor, Span)]) -> Result<()> {
        let [(a, at), (b, bt)] = &x[x.len() - 2..] else { return Ok(()) };
        if a.axes.is_subset(&b.axes) || b.axes.is_subset(&a.axes) {
            return Ok(());
        }
        let d =
            Diagnostic::new(Code::OuterSum, span, format!("`{}` would make every combination of these", op.keyword()))
                .label(*at, format!("this has {}", self.show(&a.axes)))
                .label(*bt, format!("this has {}", self.show(&b.axes)))
                .found(format!("{} and {}", self.show(&a.axes), self.show(&b.axes)))
                .expected("one operand with all axes of the other")
                .help("if every combination is meant, state the result's axes: `let y[...] = ...`");
        self.fail(d)
    }

    fn doubt_positions(&mut self, op: ScalarOp, span: Span, x: &[(Tensor, Span)]) {
        let compares = op.signature() == Signature::Compare || op == ScalarOp::Sub;
        let ([(a, _), (b, _)], true) = (x, compares) else { return };
        if let (Some(s), Some(t)) = (self.position_of(a), self.position_of(b))
            && s != t
        {
            let names = |s: SeqId| self.u.seqs[s.0 as usize].name.clone();
            let d = Diagnostic::new(Code::ComparedSequences, span, "these are positions in two sequences")
                .found(format!("a position in `{}` and one in `{}`", names(s), names(t)))
                .help("a token of one sequence usually sees all of the other");
            self.report(d);
        }
    }

    /// The one sequence whose positions an integer is made of.
    fn position_of(&self, t: &Tensor) -> Option<SeqId> {
        let facts = self.u.facts(t.node);
        if self.u.ty(t.node) != Type::Int || !facts.floating || facts.tensor {
            return None;
        }
        let mut seqs = t.axes.iter().filter_map(|a| self.u.seq_of(a));
        let first = seqs.next()?;
        seqs.all(|s| s == first).then_some(first)
    }
}

/// Operations that combine two values of one kind: on reals their axes must nest.
fn is_sum_like(op: ScalarOp, ty: Type) -> bool {
    ty == Type::Real && matches!(op, ScalarOp::Add | ScalarOp::Sub | ScalarOp::Max | ScalarOp::Min | ScalarOp::Where)
}

/// Whether the operation takes operands of these types, once integers among reals are converted.
fn accepts(op: ScalarOp, types: &[Type]) -> bool {
    let number = |t: &Type| *t != Type::Bool;
    match op.signature() {
        Signature::Num | Signature::Real | Signature::Round | Signature::Compare => types.iter().all(number),
        Signature::Int | Signature::Convert => types.iter().all(|t| *t == Type::Int),
        Signature::Logic => types.iter().all(|t| *t == Type::Bool),
        Signature::Select => types[0] == Type::Bool && (types[1] == types[2] || types[1..].iter().all(number)),
    }
}

/// Whether integers among the operands are converted.
fn wants_real(op: ScalarOp, types: &[Type]) -> bool {
    let any_real = |t: &[Type]| t.contains(&Type::Real);
    match op.signature() {
        Signature::Real | Signature::Round => true,
        Signature::Num | Signature::Compare => any_real(types),
        Signature::Select => any_real(&types[1..]),
        Signature::Int | Signature::Logic | Signature::Convert => false,
    }
}

fn expectation(op: ScalarOp) -> &'static str {
    match op.signature() {
        Signature::Num | Signature::Real | Signature::Round | Signature::Compare => "numbers",
        Signature::Int | Signature::Convert => "integers",
        Signature::Logic => "truth values",
        Signature::Select => "a truth value and two values of one type",
    }
}
