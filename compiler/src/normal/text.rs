//! Terms as text, in the language's own notation.
//!
//! One `let` for every term that has several users or a name, operands before users, then what the block hands on. A
//! bound axis is written with its level (`m'1`), a literal as short as it reads back.

use super::{Literal, Term, TermId, Terms};
use indexmap::IndexMap;
use llmc_artifact::ScalarOp;
use llmc_artifact::scalar::Signature;
use llmc_frontend::graph::Axes;
use std::fmt::Write;

/// The terms that `roots` need.
pub fn print(terms: &Terms, roots: &[(String, TermId)]) -> String {
    let mut printer = Printer { terms, names: IndexMap::new() };
    let order = reachable(terms, roots.iter().map(|(_, id)| *id));
    let mut users: IndexMap<TermId, usize> = IndexMap::new();
    for id in &order {
        for x in terms.operands(*id) {
            *users.entry(x).or_default() += 1;
        }
    }
    let mut out = String::new();
    for id in &order {
        let used = users.get(id).copied().unwrap_or(0);
        let shown = used > 1 || (used == 1 && terms.info(*id).name.is_some());
        if shown && printer.deserves_name(*id) {
            let text = printer.expr(*id, 0);
            let name = printer.fresh_name(*id, roots);
            let _ = writeln!(out, "let {name}{} = {text}", printer.axes(terms.free(*id)));
            printer.names.insert(*id, name);
        }
    }
    for (name, id) in roots {
        let _ = writeln!(out, "output {name}{} = {}", printer.axes(terms.free(*id)), printer.expr(*id, 0));
    }
    out
}

/// One term as an expression, nothing named.
pub fn expression(terms: &Terms, id: TermId) -> String {
    Printer { terms, names: IndexMap::new() }.expr(id, 0)
}

/// Every term that `roots` need, operands before users, in a deterministic order.
pub fn reachable(terms: &Terms, roots: impl IntoIterator<Item = TermId>) -> Vec<TermId> {
    let (mut order, mut seen) = (Vec::new(), vec![false; terms.len()]);
    let mut stack: Vec<(TermId, bool)> = roots.into_iter().map(|r| (r, false)).collect();
    stack.reverse();
    while let Some((id, operands_done)) = stack.pop() {
        if operands_done {
            order.push(id);
        } else if !std::mem::replace(&mut seen[id.0 as usize], true) {
            stack.push((id, true));
            stack.extend(terms.operands(id).into_iter().rev().map(|x| (x, false)));
        }
    }
    order
}

struct Printer<'a> {
    terms: &'a Terms,
    names: IndexMap<TermId, String>,
}

/// How tightly an operator binds; operands of a tighter one need parentheses.
const SUM: u8 = 4;
const PRODUCT: u8 = 5;
const PREFIX: u8 = 6;
const POSTFIX: u8 = 7;

impl Printer<'_> {
    /// Leaves and reads of leaves are short enough to repeat.
    fn deserves_name(&self, id: TermId) -> bool {
        match self.terms.term(id) {
            Term::Const(_) | Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => {
                false
            }
            Term::Index(x, at) => {
                self.deserves_name(*x) || at.iter().any(|(_, i)| !matches!(self.terms.term(*i), Term::Iota(_)))
            }
            Term::Read(x, _) => self.deserves_name(*x),
            Term::Map(ScalarOp::ToReal, xs) => self.deserves_name(xs[0]),
            Term::Sum(..) | Term::Plus(_) | Term::Reduce(..) | Term::Map(..) | Term::TopK(..) => true,
        }
    }

    fn fresh_name(&self, id: TermId, roots: &[(String, TermId)]) -> String {
        let stem = self.terms.info(id).name.clone().unwrap_or_else(|| "v".to_owned());
        let taken = |name: &str| {
            self.names.values().any(|n| n == name)
                || self.terms.param_names.iter().chain(&self.terms.weight_names).any(|n| n == name)
                || roots.iter().any(|(n, _)| n == name)
        };
        let mut name = stem.clone();
        let mut n = 1;
        while taken(&name) || (name == "v" && n == 1) {
            name = format!("{stem}{n}");
            n += 1;
        }
        name
    }

    fn axes(&self, axes: &Axes) -> String {
        let names: Vec<_> = axes.iter().map(|a| self.terms.axes[a].name.as_str()).collect();
        if names.is_empty() { String::new() } else { format!("[{}]", names.join(", ")) }
    }

    fn list(&self, xs: &[TermId], separator: &str, tightness: u8) -> String {
        xs.iter().map(|x| self.expr(*x, tightness)).collect::<Vec<_>>().join(separator)
    }

    /// Operands whose order means nothing: literals, weights, params, then the rest, each by their text.
    fn multiset(&self, xs: &[TermId], separator: &str, tightness: u8) -> String {
        let mut texts: Vec<_> = xs.iter().map(|x| (self.rank(*x), self.expr(*x, tightness))).collect();
        texts.sort();
        texts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(separator)
    }

    fn rank(&self, x: TermId) -> u8 {
        match self.terms.term(x) {
            Term::Const(_) => 0,
            Term::Weight(_) => 1,
            Term::Param(_) | Term::Stored(_) | Term::Iota(_) | Term::Length(_) => 2,
            Term::Index(x, _) | Term::Read(x, _) => self.rank(*x),
            Term::Sum(..) | Term::Plus(_) | Term::Reduce(..) | Term::Map(..) | Term::TopK(..) => 3,
        }
    }

    fn leaf(&self, names: &[String], n: u32, kind: &str) -> String {
        names.get(n as usize).cloned().unwrap_or_else(|| format!("{kind}{n}"))
    }

    /// The term's text, in parentheses where it binds less tightly than its place demands.
    fn expr(&self, id: TermId, place: u8) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let (text, tightness) = match self.terms.term(id) {
            Term::Const(l) => literal(*l),
            Term::Iota(a) => (self.terms.axes[*a].name.clone(), POSTFIX),
            Term::Length(s) => (format!("len(seq{})", s.0), POSTFIX),
            Term::Param(n) => (self.leaf(&self.terms.param_names, *n, "param"), POSTFIX),
            Term::Weight(n) => (self.leaf(&self.terms.weight_names, *n, "weight"), POSTFIX),
            Term::Stored(n) => (self.leaf(&self.terms.stored_names, *n, "stored"), POSTFIX),
            Term::Sum(bound, xs) if bound.is_empty() => (self.multiset(xs, " * ", PRODUCT), PRODUCT),
            Term::Sum(bound, xs) => {
                (format!("sum{}({})", self.axes(bound), self.multiset(xs, " * ", PRODUCT)), POSTFIX)
            }
            Term::Plus(xs) => (self.multiset(xs, " + ", SUM), SUM),
            Term::Reduce(op, bound, x) => {
                (format!("{}{}({})", op.keyword(), self.axes(bound), self.expr(*x, 0)), POSTFIX)
            }
            Term::Map(op, xs) => self.map(*op, xs),
            Term::Index(x, at) => {
                let at: Vec<_> =
                    at.iter().map(|(a, i)| format!("{} = {}", self.terms.axes[*a].name, self.expr(*i, 0))).collect();
                (format!("{}[{}]", self.expr(*x, POSTFIX), at.join(", ")), POSTFIX)
            }
            Term::Read(x, s) => {
                let (t, s) = (&self.terms.axes[self.terms.views[s]].name, &self.terms.axes[*s].name);
                (format!("{}[{t} = {s}]", self.expr(*x, POSTFIX)), POSTFIX)
            }
            Term::TopK(axis, rank, x) => {
                let axes = format!("{}, {}", self.terms.axes[*axis].name, self.terms.axes[*rank].name);
                (format!("topk[{axes}]({})", self.expr(*x, 0)), POSTFIX)
            }
        };
        if tightness < place || (tightness == place && tightness < PREFIX) { format!("({text})") } else { text }
    }

    fn map(&self, op: ScalarOp, xs: &[TermId]) -> (String, u8) {
        let infix = !op.keyword().chars().next().is_some_and(char::is_alphabetic) && xs.len() == 2;
        let tightness = match (op.signature(), op) {
            (_, ScalarOp::Or) => 1,
            (_, ScalarOp::And) => 2,
            (Signature::Compare, _) => 3,
            (_, ScalarOp::Add | ScalarOp::Sub) => SUM,
            (_, ScalarOp::Pow) => PREFIX,
            _ => PRODUCT,
        };
        match op {
            ScalarOp::ToReal => (self.expr(xs[0], POSTFIX), POSTFIX),
            ScalarOp::Neg => (format!("-{}", self.expr(xs[0], PREFIX)), PREFIX),
            ScalarOp::Not => (format!("not {}", self.expr(xs[0], 3)), 2),
            ScalarOp::And | ScalarOp::Or => (self.list(xs, &format!(" {} ", op.keyword()), tightness), tightness),
            ScalarOp::Add | ScalarOp::Mul => (self.multiset(xs, &format!(" {} ", op.keyword()), tightness), tightness),
            _ if infix => (self.list(xs, &format!(" {} ", op.keyword()), tightness), tightness),
            _ => (format!("{}({})", op.keyword(), self.list(xs, ", ", 0)), POSTFIX),
        }
    }
}

fn literal(l: Literal) -> (String, u8) {
    let text = match l {
        Literal::Real(bits) => match f64::from_bits(bits) {
            x if x.is_infinite() => {
                if x > 0.0 {
                    "inf".to_owned()
                } else {
                    "-inf".to_owned()
                }
            }
            x if x.abs() >= 1e7 || (x != 0.0 && x.abs() < 1e-4) => format!("{x:e}"),
            x => format!("{x}"),
        },
        Literal::Int(n) => n.to_string(),
        Literal::Bool(b) => b.to_string(),
    };
    let tightness = if text.starts_with('-') { PREFIX } else { POSTFIX };
    (text, tightness)
}
