//! Reading and writing texts: whole models, small pieces, and everything that is no model at all.

mod random;

use super::*;
use crate::diag::{Code, FileId, SourceMap, Style, render_text};

/// Every model text of the repository: name and content.
fn models() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut all = Vec::new();
    for dir in ["models", "tests/cases/models"] {
        for entry in std::fs::read_dir(format!("{root}/{dir}")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "llm") {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                all.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(all.len() >= 13, "the model texts have moved");
    all.sort();
    all
}

/// Parses; panics with the rendered diagnostics if there are any.
fn parse_clean(name: &str, text: &str) -> ast::File {
    let (file, diagnostics) = parse(FileId(0), text);
    if !diagnostics.is_empty() {
        let mut map = SourceMap::new();
        map.add(name, text);
        panic!("{}\n{text}", render_text(&diagnostics, &map, Style::Plain));
    }
    file
}

fn codes(text: &str) -> Vec<Code> {
    parse(FileId(0), text).1.iter().map(|d| d.code).collect()
}

#[test]
fn every_model_parses() {
    for (name, text) in models() {
        assert!(!parse_clean(&name, &text).items.is_empty(), "{name}");
    }
}

#[test]
fn several_mistakes_are_reported_in_one_run() {
    let text = "model a {
  size x = , y = 2
  weigth w[m] = 1
  seq t
  for l {
    let q = (1 + 2
    let r = 1 < 2 < 3
    size z = 3
  }
  weight v[m] = hf \"a{\",
         u[m] = hf \"b\" as \"(m\"
  output o[t] = 1
}
fn f(x) { x }
";
    use Code::*;
    assert_eq!(
        codes(text),
        [
            UnexpectedToken,
            UnexpectedToken,
            UnexpectedToken,
            ChainedComparison,
            Misplaced,
            BadTemplate,
            BadLayout,
            UnexpectedToken
        ]
    );
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in
        [("(", ")"), ("if true { ", " } else { 1 }"), ("not ", ""), ("- ", ""), ("exp(", ")"), ("2 ^ ", "")]
    {
        let deep = format!("model a {{ let x = {}1{} }}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(codes(&deep), [Code::TooDeep], "{open}");
        let fine = format!("model a {{ let x = {}1{} }}", open.repeat(60), close.repeat(60));
        assert_eq!(codes(&fine), [], "{open}");
    }
    for chain in [" + 1", " or y", "[t = 0]"] {
        let long = format!("model a {{ let x = y{} }}", chain.repeat(100_000));
        assert_eq!(codes(&long), [Code::TooDeep], "{chain}");
    }
    assert_eq!(codes(&format!("model a {{ {}", "for l { ".repeat(100_000))), [Code::TooDeep, Code::Unclosed]);
    assert_eq!(codes(&"(".repeat(1_000_000)), [Code::UnexpectedToken]);
    assert_eq!(codes(&"#".repeat(MAX_TEXT + 1)), [Code::TextTooLong]);
}

#[test]
fn include_puts_a_group_in_its_place() {
    let text = "group rope(base) { real theta = hf \"theta\" | base, half = base / 2 }
group all { include rope(1e4 + 1)  seq t }
model a { size n = 1  include all  axis s = t }
model b { include rope  include nope  include rope(1)  include rope(2) }
group knot { include knot }
model c { include knot }
";
    let file = parse_clean("x", text);
    let groups: Vec<_> = file.items.iter().filter_map(group).collect();
    let models: Vec<_> =
        file.items.iter().filter_map(|i| if let ast::Item::Model(m) = i { Some(m) } else { None }).collect();
    let (expanded, diagnostics) = expand(models[0], &groups);
    assert_eq!(diagnostics, []);
    let whole = ast::File { id: FileId(0), items: vec![ast::Item::Model(expanded)], trivia: Vec::new() };
    let want = "model a { size n = 1  real theta = hf \"theta\" | (1e4 + 1), half = (1e4 + 1) / 2  seq t  axis s = t }";
    assert_eq!(dump(&whole), dump(&parse_clean("want", want)));
    let codes = |m: &ast::Model| expand(m, &groups).1.iter().map(|d| d.code).collect::<Vec<_>>();
    use Code::*;
    assert_eq!(codes(models[1]), [GroupArguments, UnknownGroup, IncludedTwice, IncludedTwice]);
    assert_eq!(codes(models[2]), [IncludedTwice]);
}

#[test]
fn growth_by_inclusion_is_bounded() {
    let chain = |length: usize, argument: &str| {
        let mut text = String::new();
        for i in 0..length {
            text += &format!("group g{i}(x) {{ include g{}({argument}) }}\n", i + 1);
        }
        text += &format!("group g{length}(x) {{ real y = x }}\nmodel a {{ include g0(1 + 1) }}");
        let file = parse_clean("x", &text);
        let groups: Vec<_> = file.items.iter().filter_map(group).collect();
        let Some(ast::Item::Model(model)) = file.items.last() else { panic!("the model is last") };
        expand(model, &groups).1.iter().map(|d| d.code).collect::<Vec<_>>()
    };
    assert_eq!(chain(20, "x"), []);
    assert_eq!(chain(30, "x * x"), [Code::TooDeep]);
    assert_eq!(chain(10_000, "x"), [Code::TooDeep]);
}

fn group(item: &ast::Item) -> Option<&ast::Group> {
    if let ast::Item::Group(group) = item { Some(group) } else { None }
}

#[test]
fn printing_keeps_the_meaning_and_settles_at_once() {
    for (name, text) in models() {
        let file = parse_clean(&name, &text);
        let printed = print(&file);
        let again = parse_clean(&name, &printed);
        assert_eq!(dump(&again), dump(&file), "{name}");
        assert_eq!(comments(&again), comments(&file), "{name}");
        assert_eq!(print(&again), printed, "{name}");
        for line in printed.lines() {
            assert_eq!(line.trim_end(), line, "{name}");
        }
    }
}

fn comments(file: &ast::File) -> Vec<&str> {
    file.trivia
        .iter()
        .filter_map(|t| match &t.kind {
            ast::TriviaKind::Comment { text, .. } => Some(text.as_str()),
            ast::TriviaKind::BlankLine => None,
        })
        .collect()
}

/// Golden: the layout of a text with every construct and comments in every place.
#[test]
fn layout() {
    let text = include_str!("tests/layout.llm");
    let printed = print(&parse_clean("layout.llm", text));
    insta::assert_snapshot!(printed);
    insta::assert_snapshot!("dump", dump(&parse_clean("layout.llm", text)));
}

#[test]
fn the_models_are_laid_out_as_fmt_does() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../models")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let printed = print(&parse_clean(&path.to_string_lossy(), &text));
        if std::env::var_os("LLMC_BLESS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        } else {
            assert!(printed == text, "{}: run `llmc fmt` on it", path.display());
        }
    }
}
