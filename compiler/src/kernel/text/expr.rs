//! Expressions: infix where the language has infix, `let` for what is used more than once.

use super::{Expr, ExprRef, Names};
use crate::kernel::Exprs;
use llmc_artifact::{ScalarOp, Value};
use std::collections::HashMap;

/// How tightly an expression binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Or,
    And,
    Not,
    Compare,
    Add,
    Mul,
    Neg,
    Pow,
    Atom,
}

impl Level {
    /// The next tighter.
    fn above(self) -> Level {
        match self {
            Level::Or => Level::And,
            Level::And => Level::Not,
            Level::Not => Level::Compare,
            Level::Compare => Level::Add,
            Level::Add => Level::Mul,
            Level::Mul => Level::Neg,
            Level::Neg => Level::Pow,
            Level::Pow | Level::Atom => Level::Atom,
        }
    }
}

/// The level of an operation that is written infix.
fn infix(op: ScalarOp) -> Option<Level> {
    Some(match op {
        ScalarOp::Or => Level::Or,
        ScalarOp::And => Level::And,
        ScalarOp::Eq | ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge => Level::Compare,
        ScalarOp::Add | ScalarOp::Sub => Level::Add,
        ScalarOp::Mul | ScalarOp::Div | ScalarOp::FloorDiv | ScalarOp::Mod => Level::Mul,
        ScalarOp::Pow => Level::Pow,
        ScalarOp::Neg | ScalarOp::Max | ScalarOp::Min | ScalarOp::Abs | ScalarOp::Exp | ScalarOp::Exp2 => return None,
        ScalarOp::Log | ScalarOp::Log2 | ScalarOp::Sqrt | ScalarOp::Recip | ScalarOp::Sin | ScalarOp::Cos => {
            return None;
        }
        ScalarOp::Tanh | ScalarOp::Erf | ScalarOp::Floor | ScalarOp::Ceil | ScalarOp::Trunc | ScalarOp::Not => {
            return None;
        }
        ScalarOp::Where | ScalarOp::ToReal => return None,
    })
}

pub(super) fn literal(v: Value) -> String {
    match v {
        Value::Real(x) if x == f64::INFINITY => "inf".into(),
        Value::Real(x) if x == f64::NEG_INFINITY => "-inf".into(),
        Value::Real(x) => format!("{x:?}"),
        Value::Int(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
    }
}

pub(super) struct Printer<'a> {
    exprs: &'a Exprs,
    pub names: &'a Names,
    lets: HashMap<ExprRef, String>,
}

impl<'a> Printer<'a> {
    pub fn new(exprs: &'a Exprs, names: &'a Names) -> Printer<'a> {
        Printer { exprs, names, lets: HashMap::new() }
    }

    /// Names what the roots use more than once; the lines that say so.
    pub fn share(&mut self, roots: &[ExprRef]) -> Vec<String> {
        let reachable = self.exprs.reachable(roots);
        let mut uses: HashMap<ExprRef, usize> = HashMap::new();
        let operands = reachable.iter().flat_map(|e| self.exprs.operands(*e));
        operands.chain(roots.iter().copied()).for_each(|e| *uses.entry(e).or_default() += 1);
        let mut lines = Vec::new();
        for e in reachable {
            let worth = match &self.exprs[e] {
                Expr::Map(op, _) => *op != ScalarOp::Neg && *op != ScalarOp::ToReal,
                Expr::Load { index, .. } => index.iter().any(|i| matches!(self.exprs[*i], Expr::Map(..))),
                Expr::Result { moved, .. } => !moved.is_empty(),
                Expr::Const(_) | Expr::Axis(_) | Expr::Position(_) => false,
                Expr::Row(_) | Expr::Length(_) | Expr::Sequence(_) | Expr::Old(_) => false,
                Expr::Rounded(..) => true,
            };
            if worth && uses[&e] > 1 {
                let name = format!("v{}", self.lets.len());
                lines.push(format!("let {name} = {}", self.top(e)));
                self.lets.insert(e, name);
            }
        }
        lines
    }

    /// An expression by itself.
    pub fn top(&self, e: ExprRef) -> String {
        self.at(e, Level::Or)
    }

    /// An expression as a factor.
    pub fn factor(&self, e: ExprRef) -> String {
        self.at(e, Level::Neg)
    }

    /// `[a, b]`, or nothing for no indices.
    pub fn index(&self, index: &[ExprRef]) -> String {
        if index.is_empty() { String::new() } else { format!("[{}]", self.list(index)) }
    }

    fn list(&self, es: &[ExprRef]) -> String {
        es.iter().map(|e| self.top(*e)).collect::<Vec<_>>().join(", ")
    }

    fn at(&self, e: ExprRef, wanted: Level) -> String {
        if let Some(name) = self.lets.get(&e) {
            return name.clone();
        }
        let (text, level) = self.expr(e);
        if level < wanted { format!("({text})") } else { text }
    }

    fn expr(&self, e: ExprRef) -> (String, Level) {
        let text = match &self.exprs[e] {
            Expr::Const(v) => {
                let text = literal(*v);
                let level = if text.starts_with('-') { Level::Neg } else { Level::Atom };
                return (text, level);
            }
            Expr::Axis(a) => self.names.axis(*a).to_string(),
            Expr::Position(a) => format!("position({})", self.names.axis(*a)),
            Expr::Row(a) => format!("row({})", self.names.axis(*a)),
            Expr::Length(a) => format!("length({})", self.names.axis(*a)),
            Expr::Sequence(a) => format!("sequence({})", self.names.axis(*a)),
            Expr::Load { operand, index } => format!("{}{}", self.names.operand(*operand), self.index(index)),
            Expr::Result { result, moved } => {
                let moves: Vec<_> =
                    moved.iter().map(|(a, e)| format!("{} = {}", self.names.axis(*a), self.top(*e))).collect();
                let moves = if moves.is_empty() { String::new() } else { format!("[{}]", moves.join(", ")) };
                format!("{}{moves}", self.names.result(*result))
            }
            Expr::Old(r) => format!("old({})", self.names.result(*r)),
            Expr::Rounded(dtype, x) => format!("{}({})", dtype.name(), self.top(*x)),
            Expr::Map(op, args) => return self.map(*op, args),
        };
        (text, Level::Atom)
    }

    fn map(&self, op: ScalarOp, args: &[ExprRef]) -> (String, Level) {
        match (op, args, infix(op)) {
            // Conversions are not written in the language.
            (ScalarOp::ToReal, [a], _) => self.expr_or_let(*a),
            (ScalarOp::Neg, [a], _) => (format!("-{}", self.at(*a, Level::Pow)), Level::Neg),
            (ScalarOp::Not, [a], _) => (format!("not {}", self.at(*a, Level::Compare)), Level::Not),
            (ScalarOp::Pow, [a, b], _) => {
                (format!("{} ^ {}", self.at(*a, Level::Atom), self.at(*b, Level::Neg)), Level::Pow)
            }
            (_, [a, b], Some(level)) => {
                // A comparison takes no comparison on either side; the others associate to the left.
                let left = if level == Level::Compare { level.above() } else { level };
                (format!("{} {} {}", self.at(*a, left), op.keyword(), self.at(*b, level.above())), level)
            }
            _ => (format!("{}({})", op.keyword(), self.list(args)), Level::Atom),
        }
    }

    fn expr_or_let(&self, e: ExprRef) -> (String, Level) {
        match self.lets.get(&e) {
            Some(name) => (name.clone(), Level::Atom),
            None => self.expr(e),
        }
    }
}
