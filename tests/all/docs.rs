//! The language reference: every example is checked, and the table of operations is made from the table in the code.

use crate::support::cases;
use crate::support::command::llmc;
use llmc_artifact::{ReduceOp, ScalarOp};
use llmc_frontend::compile_text;
use llmc_frontend::diag::render_text;
use std::fmt::Write;

/// A fenced example: the words after its backquotes, its text, the line it begins on.
struct Fence {
    info: String,
    text: String,
    line: usize,
}

fn page() -> String {
    std::fs::read_to_string(cases::root().join("docs/language.md")).expect("the page exists")
}

fn fences(page: &str) -> Vec<Fence> {
    let mut found: Vec<Fence> = Vec::new();
    let mut open = false;
    for (i, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                found.push(Fence { info: info.to_owned(), text: String::new(), line: i + 1 });
            }
            None if open => found.last_mut().expect("a fence is open").text += &format!("{line}\n"),
            None => {}
        }
    }
    found
}

/// ` ```llm ` is a whole text, ` ```llm,part ` stands in place of the frame's dots, and `fails=E0401` says what is wrong with it.
#[test]
fn every_example_of_the_language_is_right() {
    let page = page();
    let fences = fences(&page);
    let frame = &fences.iter().find(|f| f.info == "llm,frame").expect("the page has a frame").text;
    let mut checked = 0;
    for fence in fences.iter().filter(|f| f.info.starts_with("llm")) {
        let words: Vec<_> = fence.info.split(',').collect();
        let text = match words.contains(&"part") {
            true => frame.replace("  ...\n", &fence.text),
            false => fence.text.replace("  ...\n", ""),
        };
        let expected = words.iter().find_map(|w| w.strip_prefix("fails="));
        let compiled = compile_text("example.llm", &text, None);
        let codes: Vec<_> = compiled.diagnostics.iter().map(|d| d.code.code()).collect();
        let report = render_text(&compiled.diagnostics, &compiled.sources, Default::default());
        assert_eq!(codes, expected.into_iter().collect::<Vec<_>>(), "docs/language.md:{}\n{report}", fence.line);
        checked += 1;
    }
    assert!(checked > 10, "only {checked} examples were found");
}

/// Operations that a model can spell: the others are the compiler's own.
fn written(op: ScalarOp) -> bool {
    !matches!(op, ScalarOp::Recip | ScalarOp::ToReal)
}

#[test]
fn the_table_of_operations_is_up_to_date() {
    let mut table = String::from("| | |\n|---|---|\n");
    for op in ScalarOp::ALL.iter().copied().filter(|op| written(*op)) {
        let word = op.keyword().starts_with(char::is_alphabetic);
        let spelled = match (op, op.arity()) {
            (ScalarOp::Neg, _) => "-a".into(),
            (ScalarOp::Not, _) => "not a".into(),
            (ScalarOp::And | ScalarOp::Or, _) => format!("a {} b", op.keyword()),
            (ScalarOp::Where, _) => "where(c, a, b)".into(),
            (_, 1) => format!("{}(a)", op.keyword()),
            (_, 2) if word => format!("{}(a, b)", op.keyword()),
            _ => format!("a {} b", op.keyword()),
        };
        let _ = writeln!(table, "| `{spelled}` | {} |", op.doc());
    }
    let page = page();
    let (open, close) = ("<!-- operations -->\n", "<!-- /operations -->\n");
    let start = page.find(open).expect("the page has a place for the table") + open.len();
    let end = page.find(close).expect("the place for the table ends");
    let made = format!("{}{table}{}", &page[..start], &page[end..]);
    cases::golden(&cases::root().join("docs/language.md"), &made);
    for op in ReduceOp::EVERY {
        assert!(page.contains(&format!("`{}`", op.keyword())), "`{}` is not documented", op.keyword());
    }
}

/// Each command of the page runs, and prints each of the lines below it.
#[test]
fn every_example_of_explain_is_what_it_prints() {
    let page = std::fs::read_to_string(cases::root().join("docs/explain.md")).expect("the page exists");
    let mut ran = 0;
    for fence in fences(&page) {
        let mut lines = fence.text.lines();
        let command = lines.next().and_then(|l| l.strip_prefix("$ llmc ")).expect("an example begins with its command");
        let root = cases::root();
        let full = |word: &str| {
            if word.contains('/') && root.join(word).exists() {
                root.join(word).display().to_string()
            } else {
                word.to_owned()
            }
        };
        let args: Vec<String> = command.split(' ').map(full).collect();
        let printed = llmc(&args).done().replace(&format!("{}/", root.display()), "");
        for line in lines {
            assert!(printed.contains(line), "docs/explain.md:{}: no `{line}` in\n{printed}", fence.line);
        }
        ran += 1;
    }
    assert!(ran > 3, "only {ran} examples");
}
