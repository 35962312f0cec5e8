//! Error codes: each has a row in a table, an entry in `docs/errors.md` and a case that shows it.
//!
//! A case is `tests/cases/errors/CODE*.llm`: a model text whose first line says which codes it must report, beside
//! the rendered report, `CODE*.txt`. `LLMC_BLESS=1 cargo test` rewrites the reports and the page.

use crate::support::cases::{self, Case};
use llmc_artifact::ArtifactCode;
use llmc_frontend::compile_text;
use llmc_frontend::diag::{Code, Stage, render_json, render_text};
use llmc_runtime::{FileCode, RunCode};
use std::fmt::Write;

/// What a case's text is accused of: the codes, and the report as a person sees it.
fn report(case: &Case) -> (Vec<Code>, String) {
    let (sources, diagnostics) = cases::check(case);
    let json: serde_json::Value = serde_json::from_str(&render_json(&diagnostics, &sources)).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(diagnostics.len()), "{}", case.name);
    let codes = diagnostics.iter().map(|d| d.code).collect();
    (codes, render_text(&diagnostics, &sources, Default::default()))
}

fn error_cases() -> Vec<Case> {
    cases::load("tests/cases/errors")
}

#[test]
fn every_case_reports_what_it_expects_and_nothing_else() {
    let mut wrong = String::new();
    for case in error_cases() {
        let expected = case.directive("expect").unwrap_or_else(|| panic!("{}: no `# expect:`", case.name));
        let (codes, text) = report(&case);
        let found = codes.iter().map(|c| c.code()).collect::<Vec<_>>().join(" ");
        if found != expected || !found.contains(&case.name[..5]) {
            let _ = writeln!(wrong, "{}: expects `{expected}`, reports `{found}`\n{text}", case.name);
        }
        cases::golden(&case.path.with_extension("txt"), &text);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_code_has_a_case() {
    let cases = error_cases();
    for code in Code::ALL {
        assert!(cases.iter().any(|c| c.name.starts_with(code.code())), "{code}: no case in tests/cases/errors");
    }
    for case in &cases {
        assert!(Code::from_name(&case.name[..5]).is_some(), "{}: there is no such code", case.name);
    }
}

/// The page is made from the tables, the cases and their reports, so that it cannot be wrong.
#[test]
fn the_page_of_errors_is_up_to_date() {
    let mut page = String::from(
        "# Errors\n\nEvery mistake that llmc reports has a code. `llmc check MODEL` shows them with their places, \
         `--json` for programs. Codes do not change their meaning; the wording of a report may.\n",
    );
    let cases = error_cases();
    for &stage in Stage::ALL {
        let _ = write!(page, "\n## {}\n", capitalised(stage.doc()));
        for code in Code::ALL.iter().filter(|c| c.stage() == stage) {
            let _ = write!(page, "\n### {code}: {}\n\n{}\n", code.title(), code.explanation());
            if let Some(case) = cases.iter().find(|c| c.name.starts_with(code.code())) {
                let _ = write!(page, "\n```llm\n{}```\n\n```text\n{}```\n", case.example(), report(case).1);
            }
        }
    }
    for (heading, codes) in other_codes() {
        let _ = write!(page, "\n## {heading}\n");
        for (code, _, title, explanation) in codes {
            let _ = write!(page, "\n### {code}: {title}\n\n{explanation}\n");
        }
    }
    cases::golden(&cases::root().join("docs/errors.md"), &page);
}

/// A code, the name of its variant, its title and its explanation.
type Row = (&'static str, String, &'static str, &'static str);

/// The tables of codes that no text is to blame for.
fn other_codes() -> [(&'static str, Vec<Row>); 3] {
    macro_rules! rows {
        ($table:ty) => {
            <$table>::ALL.iter().map(|c| (c.code(), format!("{c:?}"), c.title(), c.explanation())).collect()
        };
    }
    [("Files", rows!(FileCode)), ("Artifacts", rows!(ArtifactCode)), ("Running", rows!(RunCode))]
}

/// These codes are reported by the runtime and the artifact's reader, whose own tests make what they complain about.
#[test]
fn every_other_code_is_tested() {
    let mut tests = String::new();
    cases::each_file(&cases::root().join("runtime"), "rs", &mut |path, text| {
        let begin = if path.ends_with("tests.rs") { Some(0) } else { text.find("#[cfg(test)]") };
        if let Some(at) = begin {
            tests.push_str(&text[at..]);
        }
    });
    let mut untested = Vec::new();
    for (code, variant, ..) in other_codes().into_iter().flat_map(|(_, rows)| rows) {
        if !tests.contains(code) && !tests.contains(&format!("Code::{variant}")) {
            untested.push(code);
        }
    }
    assert!(untested.is_empty(), "no test names {untested:?}");
}

#[test]
fn no_two_tables_share_a_code() {
    let others = other_codes();
    let mut all: Vec<_> = others.iter().flat_map(|(_, rows)| rows).map(|row| row.0).collect();
    all.extend(Code::ALL.iter().map(|c| c.code()));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// Texts made to exhaust something: each is refused by the code that says why, in a report of bearable length.
#[test]
fn hostile_texts_are_refused() {
    let around = |text: String| format!("{text}\nmodel a {{ seq t  input x[t]: real  output y[t] = f0(x) }}");
    let chain = |length: usize, call: &str| {
        let link = |i: usize| format!("fn f{i}(x[..]) {{ {} }}\n", call.replace('@', &format!("f{}(x)", i + 1)));
        around((0..length).map(link).collect::<String>() + &format!("fn f{length}(x[..]) {{ x }}"))
    };
    let megabyte = 1 << 20;
    let texts = [
        ("E0201", "(".repeat(megabyte)),
        ("E0201", "[{(".repeat(megabyte / 3)),
        ("E0102", format!("model a {{ text x = \"{}", "a".repeat(megabyte))),
        ("E0101", "\u{1f980}".repeat(megabyte / 4)),
        ("E0203", format!("model a {{ output y[] = {}x }}", "(".repeat(megabyte))),
        ("E0203", format!("model a {{ output y[] = x{} }}", " + x".repeat(megabyte / 4))),
        ("E0202", format!("model a {{ {}", "for l { ".repeat(megabyte / 8))),
        ("E0305", chain(20_000, "@ + f0(x)")),
        ("E0904", chain(20_000, "@")),
        ("E0904", chain(300, "((((@))))")),
        ("E0904", chain(40, "@ + @")),
        ("E0302", around(format!("fn f0(x[..]) {{ {} }}", "sum[q](x) + ".repeat(100) + "x"))),
    ];
    for (code, text) in texts {
        let compiled = compile_text("hostile.llm", &text, None);
        let report = render_text(&compiled.diagnostics, &compiled.sources, Default::default());
        let beginning: String = text.chars().take(60).collect();
        assert!(compiled.diagnostics.iter().any(|d| d.code.code() == code), "{beginning}\n{report}");
        assert!(compiled.model.is_none());
        assert!(report.len() < 100_000, "{beginning}: a report of {} bytes", report.len());
    }
}

/// Whole models, from before attention masks to mixtures of experts: each is right on its defaults.
#[test]
fn every_model_is_right() {
    for case in cases::load("tests/cases/models") {
        assert_eq!(report(&case).1, "", "{}", case.name);
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().collect::<String>() + chars.as_str())
}
