//! Trees nobody would write, and texts that are none.

use super::super::ast::*;
use super::super::{dump, parse, print};
use super::{comments, models, parse_clean};
use crate::diag::{FileId, SourceMap, Span, Style, render_json, render_text};
use llmc_artifact::{ScalarOp, SourceKind, Type};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Names, among them words that are keywords elsewhere.
fn name() -> impl Strategy<Value = Name> {
    const WORDS: &[&str] =
        &["x", "y", "q_1", "t", "size", "let", "for", "as", "at", "drop", "when", "hf", "model", "fn", "_"];
    prop::sample::select(WORDS).prop_map(|text| Name { text: text.into(), span: Span::default() })
}

fn axis_list() -> impl Strategy<Value = AxisList> {
    vec(name(), 0..3).prop_map(|names| AxisList { names, span: Span::default() })
}

fn text() -> impl Strategy<Value = Text> {
    "[a-z.# ]{0,8}".prop_map(|text| Text { text, span: Span::default() })
}

fn at(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn source() -> impl Strategy<Value = Source> {
    let kind = prop_oneof![Just(SourceKind::Hf), Just(SourceKind::Gguf)];
    let layout = vec(vec(name(), 1..3), 1..3);
    (kind, "[a-z.*]{1,8}", option::of(layout)).prop_map(|(kind, text, dims)| {
        let parts = vec![PatternPart::Literal(text.clone())];
        let layout = dims.map(|dims| Layout { text: String::new(), dims, span: Span::default() });
        Source { kind, pattern: Pattern { text, parts, span: Span::default() }, layout, span: Span::default() }
    })
}

fn leaf() -> impl Strategy<Value = Expr> {
    let real = prop::sample::select(&["0.5", "1e-5", "3e38"][..])
        .prop_map(|text| ExprKind::Real(Number { text: text.into(), value: text.parse().unwrap() }));
    prop_oneof![
        (0..i64::MAX).prop_map(ExprKind::Int),
        real,
        Just(ExprKind::Constant(Constant::Inf)),
        any::<bool>().prop_map(ExprKind::Bool),
        text().prop_map(|t| ExprKind::Text(t.text)),
        name().prop_map(|n| ExprKind::Name(n.text)),
        source().prop_map(ExprKind::Source),
        text().prop_map(ExprKind::Error),
    ]
    .prop_map(at)
}

fn block(value: impl Strategy<Value = Expr> + Clone) -> impl Strategy<Value = Block> {
    let one = vec(bind(value.clone()), 1..3).prop_map(|binds| Let { binds, span: Span::default() });
    (vec(one, 0..2), value).prop_map(|(lets, value)| Block { lets, value: Box::new(value), span: Span::default() })
}

fn bind(value: impl Strategy<Value = Expr>) -> impl Strategy<Value = Bind> {
    (name(), option::of(axis_list()), value).prop_map(|(name, axes, value)| Bind {
        name,
        axes,
        value,
        span: Span::default(),
    })
}

fn expr() -> impl Strategy<Value = Expr> + Clone {
    use ScalarOp::*;
    const INFIX: &[ScalarOp] = &[Add, Sub, Mul, Div, FloorDiv, Mod, Pow, Eq, Ne, Lt, Le, Gt, Ge, And, Or];
    leaf().prop_recursive(6, 48, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let index_arg = (name(), inner.clone()).prop_map(|(axis, at)| IndexArg { axis, at });
        let call = (name(), option::of(axis_list()), vec(inner.clone(), 0..3)).prop_map(|(callee, axes, args)| Call {
            callee,
            axes,
            args,
        });
        let choice = (vec((inner.clone(), block(inner.clone())), 1..3), block(inner.clone()))
            .prop_map(|(arms, otherwise)| If { arms, otherwise });
        prop_oneof![
            (prop::sample::select(&[Neg, Not][..]), boxed.clone()).prop_map(|(op, a)| ExprKind::Unary(op, a)),
            (prop::sample::select(INFIX), boxed.clone(), boxed.clone())
                .prop_map(|(op, a, b)| ExprKind::Binary(op, a, b)),
            vec(inner.clone(), 2..4).prop_map(ExprKind::Choice),
            (boxed.clone(), vec(index_arg, 1..3)).prop_map(|(a, args)| ExprKind::Index(a, args)),
            call.prop_map(ExprKind::Call),
            choice.prop_map(ExprKind::If),
            boxed.prop_map(ExprKind::Paren),
        ]
        .prop_map(at)
    })
}

fn stmt() -> impl Strategy<Value = Stmt> {
    let definition = || (name(), expr()).prop_map(|(name, value)| Definition { name, value, span: Span::default() });
    let output = (name(), axis_list(), expr(), option::of(expr())).prop_map(|(name, axes, value, condition)| Output {
        name,
        axes,
        value,
        condition,
    });
    let simple = prop_oneof![
        vec(bind(expr()), 1..3).prop_map(StmtKind::Let),
        definition().prop_map(StmtKind::Rebind),
        output.prop_map(StmtKind::Output),
    ]
    .prop_map(|kind| Stmt { kind, span: Span::default() });
    simple.prop_recursive(2, 6, 3, |inner| {
        (name(), option::of(expr()), vec(inner, 0..3)).prop_map(|(family, value, body)| Stmt {
            kind: StmtKind::For(For { family, value, body }),
            span: Span::default(),
        })
    })
}

fn decl() -> impl Strategy<Value = Decl> {
    let statics = vec((name(), vec(name(), 0..2), expr()), 1..4).prop_map(|list| {
        let entry = |(name, family, value)| Static { name, family, value, span: Span::default() };
        DeclKind::Static(StaticKind::Size, list.into_iter().map(entry).collect())
    });
    let weights = vec((name(), vec(name(), 0..2), axis_list(), expr()), 1..4).prop_map(|list| {
        let entry = |(name, family, axes, value)| Weight { name, family, axes, value, span: Span::default() };
        DeclKind::Weight(list.into_iter().map(entry).collect())
    });
    let input = (name(), axis_list(), option::of(expr()), option::of(expr()))
        .prop_map(|(name, axes, below, default)| Input { name, axes, element: Type::Int, below, default });
    prop_oneof![
        statics,
        weights,
        input.prop_map(DeclKind::Input),
        (name(), option::of(expr())).prop_map(|(name, limit)| DeclKind::Seq(Seq { name, limit })),
        vec(source(), 1..4).prop_map(DeclKind::Ignore),
        (name(), vec(expr(), 0..3)).prop_map(|(group, args)| DeclKind::Include(Include { group, args })),
    ]
    .prop_map(|kind| Decl { kind, span: Span::default() })
}

fn file() -> impl Strategy<Value = File> {
    let member = prop_oneof![stmt().prop_map(Member::Stmt), decl().prop_map(Member::Decl)];
    let function = (name(), vec(name(), 0..2), block(expr())).prop_map(|(name, axes, body)| {
        Item::Fn(Function { name, axes, params: Vec::new(), result: None, body, span: Span::default() })
    });
    let model = (name(), vec(member, 0..5))
        .prop_map(|(name, members)| Item::Model(Model { name, targets: Vec::new(), members, span: Span::default() }));
    vec(prop_oneof![function, model], 1..3).prop_map(|items| File { id: FileId(0), items, trivia: Vec::new() })
}

proptest! {
    #[test]
    fn printing_and_reading_gives_the_same_tree(file in file()) {
        let printed = print(&file);
        let again = parse_clean("printed", &printed);
        prop_assert_eq!(dump(&again), dump(&file), "{}", printed);
        // Parentheses that had to be added are kept from then on; with them the layout settles.
        let settled = print(&again);
        prop_assert_eq!(print(&parse_clean("settled", &settled)), settled);
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC*|[a-z\\[\\](){}=|,\"#.0-9\n ]*") {
        read(&text);
    }

    #[test]
    fn a_damaged_model_is_read_without_a_panic(which in 0..13usize, cut in 0.0..1.0f64, holes in vec((0.0..1.0f64, 0..40usize), 0..4)) {
        let (_, mut text) = models().swap_remove(which);
        text.truncate(floor(&text, cut.max(0.3)));
        for (place, length) in holes {
            let start = floor(&text, place);
            let end = floor(&text, ((start + length) as f64 / text.len().max(1) as f64).min(1.0)).max(start);
            text.replace_range(start..end, "");
        }
        read(&text);
    }
}

/// The last character boundary in this part of the text.
fn floor(text: &str, part: f64) -> usize {
    let mut at = (part * text.len() as f64) as usize;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Reads, renders what is wrong, prints what was understood.
fn read(text: &str) {
    let (file, diagnostics) = parse(FileId(0), text);
    let mut map = SourceMap::new();
    map.add("text", text);
    for d in &diagnostics {
        let span = d.primary.expect("mistakes of syntax have a place");
        assert!(span.start <= span.end && span.end as usize <= text.len(), "{d:?}");
    }
    render_text(&diagnostics, &map, Style::Colour);
    render_json(&diagnostics, &map);
    let printed = print(&file);
    if diagnostics.is_empty() {
        let again = parse_clean("printed", &printed);
        assert_eq!(dump(&again), dump(&file));
        assert_eq!(comments(&again), comments(&file));
        assert_eq!(print(&again), printed);
    }
}
