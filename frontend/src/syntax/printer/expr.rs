//! Expressions. Parentheses are kept as written, and added where a tree made by other means needs them.

use super::super::ast::*;
use super::super::pretty::Doc;
use super::super::token::{Precedence, precedence};
use super::{INDENT, Printer, names};
use llmc_artifact::ScalarOp;

/// A block, and whether it takes several lines whatever room there is.
pub(super) struct BlockDoc {
    pub(super) doc: Doc,
    tall: bool,
}

impl Printer<'_> {
    pub(super) fn expr(&mut self, expr: &Expr) -> Doc {
        match &expr.kind {
            ExprKind::Int(n) => Doc::text(n.to_string()),
            ExprKind::Real(n) => Doc::text(&n.text),
            ExprKind::Constant(c) => Doc::text(c.keyword()),
            ExprKind::Bool(b) => Doc::text(b.to_string()),
            ExprKind::Text(t) => Doc::text(format!("\"{t}\"")),
            ExprKind::Name(n) => Doc::text(n),
            ExprKind::Source(s) => Doc::text(source(s)),
            ExprKind::Error(t) => Doc::text(format!("error \"{}\"", t.text)),
            ExprKind::Paren(a) => parenthesised(self.expr(a)),
            ExprKind::Unary(op, a) => self.unary(*op, a),
            ExprKind::Binary(ScalarOp::Pow, a, b) => {
                let base = self.operand(a, Precedence::Atom, false);
                Doc::Concat(vec![base, Doc::text(" ^ "), self.operand(b, Precedence::Negate, true)])
            }
            ExprKind::Binary(op, ..) => self.chain(*op, expr),
            ExprKind::Choice(list) => {
                let alternatives = self.alternatives(list, "");
                alternatives.align().group()
            }
            ExprKind::Index(a, args) => {
                let base = self.operand(a, Precedence::Atom, false);
                let args: Vec<_> = args
                    .iter()
                    .map(|arg| Doc::Concat(vec![Doc::text(&arg.axis.text), self.prefixed(" = ", &arg.at)]))
                    .collect();
                let space = if matches!(a.kind, ExprKind::Source(_)) { " [" } else { "[" };
                Doc::Concat(vec![base, listed(space, args, "]")])
            }
            ExprKind::Call(call) => {
                let axes = call.axes.as_ref().map_or(String::new(), |a| format!("[{}]", names(&a.names)));
                let head = Doc::text(format!("{}{axes}", call.callee.text));
                Doc::Concat(vec![head, self.arguments(&call.args)])
            }
            ExprKind::If(choice) => self.if_expr(choice),
        }
    }

    /// ` = value`. Alternatives that do not fit go below each other, their bars under the sign.
    pub(super) fn prefixed(&mut self, sign: &str, value: &Expr) -> Doc {
        if let ExprKind::Choice(list) = &value.kind {
            let sign = sign.trim_start();
            return Doc::Concat(vec![Doc::text(" "), self.alternatives(list, sign).align().group()]);
        }
        Doc::Concat(vec![Doc::text(sign), self.expr(value)])
    }

    /// `(a, b)`
    pub(super) fn arguments(&mut self, args: &[Expr]) -> Doc {
        let args: Vec<_> = args.iter().map(|a| self.expr(a)).collect();
        listed("(", args, ")")
    }

    fn alternatives(&mut self, list: &[Expr], sign: &str) -> Doc {
        let mut out = vec![Doc::text(sign)];
        for (i, one) in list.iter().enumerate() {
            if i > 0 {
                out.extend([Doc::Line, Doc::text("| ")]);
            }
            out.push(self.operand(one, Precedence::Or, i + 1 == list.len()));
        }
        Doc::Concat(out)
    }

    fn unary(&mut self, op: ScalarOp, operand: &Expr) -> Doc {
        let sign = if op == ScalarOp::Not { "not " } else { "-" };
        Doc::Concat(vec![Doc::text(sign), self.operand(operand, binding(op), true)])
    }

    /// `a + b - c`: operations of one precedence, broken before each sign.
    fn chain(&mut self, op: ScalarOp, expr: &Expr) -> Doc {
        let level = binding(op);
        let (first, rest) = unchain(expr, level);
        // Comparisons do not chain; everything else leans to the left.
        let left = if level == Precedence::Compare { Precedence::Sum } else { level };
        let hug = ends_in_tall_block(expr);
        let mut out = vec![self.operand(first, left, false)];
        for (i, (op, right)) in rest.iter().enumerate() {
            out.push(if hug { Doc::text(" ") } else { Doc::Line });
            out.push(Doc::text(format!("{} ", op.keyword())));
            out.push(self.operand(right, tighter(level), i + 1 == rest.len()));
        }
        if hug { Doc::Concat(out) } else { Doc::Concat(out).align().group() }
    }

    /// An operand, in parentheses if it binds less tightly than its place demands, or is an `if` with more after it.
    fn operand(&mut self, expr: &Expr, least: Precedence, last: bool) -> Doc {
        let level = match &expr.kind {
            ExprKind::Choice(_) => Precedence::Choice,
            ExprKind::Unary(op, _) | ExprKind::Binary(op, ..) => binding(*op),
            ExprKind::If(_) if !last => Precedence::Choice,
            ExprKind::Int(_)
            | ExprKind::Real(_)
            | ExprKind::Constant(_)
            | ExprKind::Bool(_)
            | ExprKind::Text(_)
            | ExprKind::Name(_)
            | ExprKind::Source(_)
            | ExprKind::Index(..)
            | ExprKind::Call(_)
            | ExprKind::Paren(_)
            | ExprKind::If(_)
            | ExprKind::Error(_) => Precedence::Atom,
        };
        let doc = self.expr(expr);
        if level < least { parenthesised(doc) } else { doc }
    }

    /// `if a { b } else { c }`; where it does not fit, `else` begins a line, unless a block is tall.
    fn if_expr(&mut self, choice: &If) -> Doc {
        let mut arms = Vec::new();
        for (condition, block) in &choice.arms {
            let condition = self.expr(condition);
            arms.push((Some(condition), self.block(block)));
        }
        arms.push((None, self.block(&choice.otherwise)));
        let tall = arms.iter().any(|(_, block)| block.tall);
        let mut out = Vec::new();
        for (i, (condition, block)) in arms.into_iter().enumerate() {
            if i > 0 {
                out.extend([if tall { Doc::text(" ") } else { Doc::Line }, Doc::text("else ")]);
            }
            if let Some(condition) = condition {
                out.extend([Doc::text("if "), condition, Doc::text(" ")]);
            }
            out.push(block.doc.group());
        }
        if tall { Doc::Concat(out) } else { Doc::Concat(out).align().group() }
    }

    /// `{ a }`
    pub(super) fn block(&mut self, block: &Block) -> BlockDoc {
        let value_start = block.value.span.start;
        let first = block.lets.first().map_or(value_start, |l| l.span.start);
        let open = self.trailing(first);
        let mut inner = self.sequence(
            &block.lets,
            value_start.max(first),
            |l| l.span.start,
            |l| l.span.end,
            |p, l| p.binds(&l.binds),
        );
        if !inner.is_empty() {
            inner.push(Doc::Hard);
        }
        let value = self.expr(&block.value);
        // After a `let` it would be a difference.
        let minus = !block.lets.is_empty() && begins_with_minus(&block.value);
        inner.push(if minus { parenthesised(value) } else { value });
        self.drop_blank_lines(block.value.span.end);
        let close = self.trailing(block.span.end);
        let below =
            self.sequence::<Let>(&[], block.span.end, |l| l.span.start, |l| l.span.end, |p, l| p.binds(&l.binds));
        let tall = open.is_some() || close.is_some() || !below.is_empty() || inner.len() > 1;
        let line = if tall { Doc::Hard } else { Doc::Line };
        let mut body = vec![line.clone()];
        body.extend(inner);
        body.extend(close);
        if !below.is_empty() {
            body.push(Doc::Hard);
            body.extend(below);
        }
        let head = Doc::Concat([Doc::text("{")].into_iter().chain(open).collect());
        let doc = Doc::Concat(vec![head, Doc::Concat(body).nest(INDENT), line, Doc::text("}")]);
        BlockDoc { doc, tall }
    }
}

/// How tightly an operation's sign binds.
fn binding(op: ScalarOp) -> Precedence {
    precedence(op).unwrap_or_else(|| panic!("printer: `{}` is no infix or prefix operation", op.keyword()))
}

/// What a right operand must at least be.
fn tighter(level: Precedence) -> Precedence {
    match level {
        Precedence::Choice => Precedence::Or,
        Precedence::Or => Precedence::And,
        Precedence::And => Precedence::Not,
        Precedence::Not | Precedence::Compare => Precedence::Sum,
        Precedence::Sum => Precedence::Product,
        Precedence::Product => Precedence::Negate,
        Precedence::Negate | Precedence::Power | Precedence::Atom => Precedence::Atom,
    }
}

/// The first operand of a chain of operations of one precedence, then each sign with its right operand.
fn unchain(expr: &Expr, level: Precedence) -> (&Expr, Vec<(ScalarOp, &Expr)>) {
    let mut rest = Vec::new();
    let mut first = expr;
    while let ExprKind::Binary(op, left, right) = &first.kind
        && binding(*op) == level
        && (rest.is_empty() || level != Precedence::Compare)
    {
        rest.push((*op, &**right));
        first = left;
    }
    rest.reverse();
    (first, rest)
}

/// Whether the last thing in an expression is a block with `let`s: lines go on from the statement's own indentation.
fn ends_in_tall_block(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::If(choice) => {
            !choice.otherwise.lets.is_empty() || choice.arms.iter().any(|(_, block)| !block.lets.is_empty())
        }
        ExprKind::Binary(_, _, last) | ExprKind::Unary(_, last) => ends_in_tall_block(last),
        ExprKind::Choice(list) => list.last().is_some_and(ends_in_tall_block),
        ExprKind::Int(_)
        | ExprKind::Real(_)
        | ExprKind::Constant(_)
        | ExprKind::Bool(_)
        | ExprKind::Text(_)
        | ExprKind::Name(_)
        | ExprKind::Source(_)
        | ExprKind::Index(..)
        | ExprKind::Call(_)
        | ExprKind::Paren(_)
        | ExprKind::Error(_) => false,
    }
}

/// Whether the first sign of an expression is a minus.
fn begins_with_minus(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Unary(op, _) => *op == ScalarOp::Neg,
        ExprKind::Binary(_, first, _) | ExprKind::Index(first, _) => begins_with_minus(first),
        ExprKind::Choice(list) => list.first().is_some_and(begins_with_minus),
        ExprKind::Int(_)
        | ExprKind::Real(_)
        | ExprKind::Constant(_)
        | ExprKind::Bool(_)
        | ExprKind::Text(_)
        | ExprKind::Name(_)
        | ExprKind::Source(_)
        | ExprKind::Call(_)
        | ExprKind::Paren(_)
        | ExprKind::If(_)
        | ExprKind::Error(_) => false,
    }
}

fn parenthesised(doc: Doc) -> Doc {
    Doc::Concat(vec![Doc::text("("), doc.align(), Doc::text(")")])
}

fn listed(open: &str, docs: Vec<Doc>, close: &str) -> Doc {
    let list = Doc::join(docs, Doc::Concat(vec![Doc::text(","), Doc::Line]));
    Doc::Concat(vec![Doc::text(open), list.align().group(), Doc::text(close)])
}

/// `hf "h.{l}.attn.bias" as "(h e)"`
pub(super) fn source(s: &Source) -> String {
    let layout = s.layout.as_ref().map_or(String::new(), |l| format!(" as \"{}\"", layout(l)));
    format!("{} \"{}\"{layout}", s.kind.keyword(), s.pattern.text)
}

/// `(k g e) m`
fn layout(l: &Layout) -> String {
    let dims = l.dims.iter().map(|dim| {
        let names = dim.iter().map(|n| n.text.as_str()).collect::<Vec<_>>().join(" ");
        if dim.len() > 1 { format!("({names})") } else { names }
    });
    dims.collect::<Vec<_>>().join(" ")
}
