//! Reading and writing texts: whole models, small pieces, and everything that is no model at all.

use super::*;
use crate::diag::{Code, FileId, SourceMap, Style, render_text};

/// Every model text of the repository: name and content.
fn models() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut all = Vec::new();
    for dir in ["models", "tests/cases/syntax"] {
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
        panic!("{}", render_text(&diagnostics, &map, Style::Plain));
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
