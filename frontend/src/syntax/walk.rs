//! The expressions directly under a node, for passes that treat most of them alike.

use super::ast::*;

macro_rules! walkers {
    ($child:ident, $block:ident, $iter:ident $(, $mutable:tt)?) => {
        /// Calls `f` on each expression directly under `expr`, in order of writing.
        pub(crate) fn $child<'a>(expr: &'a $($mutable)? Expr, f: &mut dyn FnMut(&'a $($mutable)? Expr)) {
            match &$($mutable)? expr.kind {
                ExprKind::Int(_)
                | ExprKind::Real(_)
                | ExprKind::Constant(_)
                | ExprKind::Bool(_)
                | ExprKind::Text(_)
                | ExprKind::Name(_)
                | ExprKind::Source(_)
                | ExprKind::Error(_) => {}
                ExprKind::Choice(list) => list.$iter().for_each(f),
                ExprKind::Unary(_, a) | ExprKind::Paren(a) => f(a),
                ExprKind::Binary(_, a, b) => {
                    f(a);
                    f(b);
                }
                ExprKind::Index(a, args) => {
                    f(a);
                    args.$iter().for_each(|arg| f(&$($mutable)? arg.at));
                }
                ExprKind::Call(call) => call.args.$iter().for_each(f),
                ExprKind::If(choice) => {
                    for (condition, block) in choice.arms.$iter() {
                        f(condition);
                        $block(block, f);
                    }
                    $block(&$($mutable)? choice.otherwise, f);
                }
            }
        }

        fn $block<'a>(block: &'a $($mutable)? Block, f: &mut dyn FnMut(&'a $($mutable)? Expr)) {
            for one in block.lets.$iter() {
                one.binds.$iter().for_each(|bind| f(&$($mutable)? bind.value));
            }
            f(&$($mutable)? block.value);
        }
    };
}

walkers!(each_child, block, iter);
walkers!(each_child_mut, block_mut, iter_mut, mut);

/// Calls `f` on each outermost expression of a member.
pub(super) fn each_expr_mut(member: &mut Member, f: &mut dyn FnMut(&mut Expr)) {
    match member {
        Member::Stmt(stmt) => each_expr_of_stmt_mut(stmt, f),
        Member::Decl(decl) => match &mut decl.kind {
            DeclKind::Static(_, list) => list.iter_mut().for_each(|x| f(&mut x.value)),
            DeclKind::Axis(list) | DeclKind::Layers(list) => list.iter_mut().for_each(|x| f(&mut x.value)),
            DeclKind::Seq(seq) => seq.limit.iter_mut().for_each(f),
            DeclKind::Input(input) => input.below.iter_mut().chain(&mut input.default).for_each(f),
            DeclKind::Weight(list) => list.iter_mut().for_each(|x| f(&mut x.value)),
            DeclKind::Ignore(_) => {}
            DeclKind::Include(include) => include.args.iter_mut().for_each(f),
        },
    }
}

fn each_expr_of_stmt_mut(stmt: &mut Stmt, f: &mut dyn FnMut(&mut Expr)) {
    match &mut stmt.kind {
        StmtKind::Let(binds) => binds.iter_mut().for_each(|bind| f(&mut bind.value)),
        StmtKind::Rebind(definition) => f(&mut definition.value),
        StmtKind::For(choice) => {
            choice.value.iter_mut().for_each(&mut *f);
            choice.body.iter_mut().for_each(|stmt| each_expr_of_stmt_mut(stmt, f));
        }
        StmtKind::Output(output) => {
            f(&mut output.value);
            output.condition.iter_mut().for_each(f);
        }
    }
}
