//! `include`: a model with the groups it names put in their places.
//!
//! A group is a piece of a model, not a function: what it declares is the model's, and what it uses but does not
//! declare is looked up in the model. Only its parameters are replaced, by the expressions that `include` gives.

use super::ast::*;
use super::parser::MAX_DEPTH;
use super::walk::{each_child, each_child_mut, each_expr_mut};
use crate::diag::{Code, Diagnostic, Span};
use std::collections::HashMap;

/// Expressions that replace parameters may have so many nodes, all together. Only a text that doubles an argument
/// again and again comes near it.
const MAX_COPIED: usize = 1 << 20;

/// Groups include groups at most so deep.
const MAX_INCLUDES: u32 = 32;

/// The model without `include`s. `groups` are those of every text in sight, the standard library's too.
///
/// A group may include others; each is included at most once, or its names would be declared twice.
pub fn expand(model: &Model, groups: &[&Group]) -> (Model, Vec<Diagnostic>) {
    let mut expander =
        Expander { groups: HashMap::new(), included: HashMap::new(), depth: 0, copied: 0, diagnostics: Vec::new() };
    groups.iter().for_each(|group| expander.declare(group));
    let mut members = Vec::new();
    expander.splice(&model.members, &HashMap::new(), &mut members);
    (Model { members, ..model.clone() }, expander.diagnostics)
}

type Arguments = HashMap<String, Expr>;

struct Expander<'a> {
    groups: HashMap<&'a str, &'a Group>,
    /// Where each group was included.
    included: HashMap<String, Span>,
    /// Groups that are being spliced, each into the one before.
    depth: u32,
    copied: usize,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Expander<'a> {
    fn declare(&mut self, group: &'a Group) {
        let name = &group.name;
        if let Some(other) = self.groups.insert(&name.text, group) {
            let d = Diagnostic::new(Code::Shadowed, name.span, format!("`{}` is taken", name.text))
                .label(other.name.span, "declared here")
                .found("another group")
                .help("choose another name");
            self.diagnostics.push(d);
        }
    }

    /// Appends the members to `out`, parameters replaced, groups in place of their `include`s.
    fn splice(&mut self, members: &[Member], arguments: &Arguments, out: &mut Vec<Member>) {
        for member in members {
            let mut member = member.clone();
            let mut too_large = None;
            each_expr_mut(&mut member, &mut |e| {
                if !self.replace(e, arguments, 0) {
                    too_large.get_or_insert(e.span);
                }
            });
            if let Some(span) = too_large {
                return self.report_too_large(span);
            }
            match member {
                Member::Decl(Decl { kind: DeclKind::Include(include), span }) => self.include(&include, span, out),
                member => out.push(member),
            }
        }
    }

    fn include(&mut self, include: &Include, span: Span, out: &mut Vec<Member>) {
        let name = &include.group;
        let Some(&group) = self.groups.get(name.text.as_str()) else {
            let d = Diagnostic::new(Code::UnknownGroup, name.span, format!("no group is called `{}`", name.text))
                .suggest(&name.text, self.groups.keys().copied());
            return self.diagnostics.push(d);
        };
        if let Some(first) = self.included.insert(name.text.clone(), span) {
            let d = Diagnostic::new(Code::IncludedTwice, span, format!("`{}` is included again", name.text))
                .label(first, "it is included here")
                .help("its names are the model's already; remove this line");
            return self.diagnostics.push(d);
        }
        if include.args.len() != group.params.len() {
            let params: Vec<_> = group.params.iter().map(|p| p.text.as_str()).collect();
            let d = Diagnostic::new(Code::GroupArguments, span, format!("`{}` takes other arguments", name.text))
                .label(group.name.span, "the group is declared here")
                .found(format!("{} expressions", include.args.len()))
                .expected(format!("{}, as in `include {}({})`", params.len(), name.text, params.join(", ")));
            return self.diagnostics.push(d);
        }
        if self.depth == MAX_INCLUDES {
            let d = Diagnostic::new(Code::TooDeep, span, "groups include groups too deeply")
                .expected(format!("at most {MAX_INCLUDES} levels"))
                .help("include the inner groups in the model itself");
            return self.diagnostics.push(d);
        }
        let arguments = group.params.iter().map(|p| p.text.clone()).zip(include.args.iter().cloned()).collect();
        self.depth += 1;
        self.splice(&group.members, &arguments, out);
        self.depth -= 1;
    }

    /// Puts arguments in place of parameters. False when the result would be too large or too deep.
    fn replace(&mut self, expr: &mut Expr, arguments: &Arguments, depth: u32) -> bool {
        if let ExprKind::Name(name) = &expr.kind
            && let Some(argument) = arguments.get(name)
        {
            self.copied += size(argument);
            if self.copied > MAX_COPIED || depth + height(argument) >= MAX_DEPTH {
                return false;
            }
            *expr = in_parentheses(argument.clone());
            return true;
        }
        let mut fits = true;
        each_child_mut(expr, &mut |child| fits &= self.replace(child, arguments, depth + 1));
        fits
    }

    fn report_too_large(&mut self, span: Span) {
        let d = Diagnostic::new(Code::TooDeep, span, "this is too large or too deep once parameters are replaced")
            .expected(format!("at most {MAX_DEPTH} levels, and {MAX_COPIED} copied words in all"))
            .help("declare the argument as a `real` or `size` and give its name");
        self.diagnostics.push(d);
    }
}

fn in_parentheses(expr: Expr) -> Expr {
    match expr.kind {
        ExprKind::Choice(_) | ExprKind::Unary(..) | ExprKind::Binary(..) | ExprKind::If(_) => {
            Expr { span: expr.span, kind: ExprKind::Paren(Box::new(expr)) }
        }
        _ => expr,
    }
}

fn size(expr: &Expr) -> usize {
    let mut total = 1;
    each_child(expr, &mut |child| total += size(child));
    total
}

fn height(expr: &Expr) -> u32 {
    let mut tallest = 0;
    each_child(expr, &mut |child| tallest = tallest.max(height(child)));
    tallest + 1
}
