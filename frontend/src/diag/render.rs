//! Diagnostics for people (text) and for programs (JSON).

use super::source::{FileId, Location, SourceMap, Span};
use super::{Diagnostic, Severity};
use serde::Serialize;
use std::fmt::Write;

/// How text is rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Characters only.
    #[default]
    Plain,
    /// With the colours of an ANSI terminal.
    Colour,
}

/// Tabs in a quoted line become this, so that the marks below it stand right.
const TAB: &str = "    ";

/// Longer lines are quoted from some way before the place to some way after it.
const MAX_QUOTED: usize = 160;

/// Every diagnostic as text, a blank line between them, and a closing line with their number.
pub fn render_text(diagnostics: &[Diagnostic], sources: &SourceMap, style: Style) -> String {
    let mut out = String::new();
    for d in diagnostics {
        render_one(&mut out, d, sources, style);
        out.push('\n');
    }
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => {}
        (0, w) => out += &format!("{}\n", count(w, "warning")),
        (e, 0) => out += &format!("{}\n", count(e, "error")),
        (e, w) => out += &format!("{}, {}\n", count(e, "error"), count(w, "warning")),
    }
    out
}

fn render_one(out: &mut String, d: &Diagnostic, sources: &SourceMap, style: Style) {
    let (word, colour) = match d.code.severity() {
        Severity::Error => ("error", "1;31"),
        Severity::Warning => ("warning", "1;33"),
    };
    let head = paint(style, colour, &format!("{word}[{}]", d.code));
    let _ = writeln!(out, "{head}: {}", paint(style, "1", &d.message));
    let spans = d.primary.iter().copied().chain(d.labels.iter().map(|l| l.span));
    let last_line = spans.map(|s| sources.locate(s).line).max().unwrap_or(0);
    let gutter = " ".repeat(last_line.to_string().len());
    let mut quoted = None;
    if let Some(span) = d.primary {
        let text = d.note.as_deref().unwrap_or("");
        quote(out, sources, span, Mark { arrow: "-->", sign: '^', text, colour }, &gutter, style, &mut quoted);
    }
    for label in &d.labels {
        let mark = Mark { arrow: ":::", sign: '-', text: &label.message, colour: "1;34" };
        quote(out, sources, label.span, mark, &gutter, style, &mut quoted);
    }
    for (name, text) in [("found", &d.found), ("expected", &d.expected), ("help", &d.help)] {
        if let Some(text) = text {
            let _ = writeln!(out, "{gutter} {} {}: {text}", paint(style, "1;34", "="), paint(style, "1", name));
        }
    }
}

/// A place as diagnostics show it: file, line and column, the line quoted, the words marked with a note.
pub fn render_place(sources: &SourceMap, span: Span, note: &str) -> String {
    let mut out = String::new();
    let gutter = " ".repeat(sources.locate(span).line.to_string().len());
    let mark = Mark { arrow: "-->", sign: '^', text: note, colour: "1;34" };
    quote(&mut out, sources, span, mark, &gutter, Style::Plain, &mut None);
    out
}

/// How a quoted place is marked.
struct Mark<'a> {
    arrow: &'a str,
    sign: char,
    text: &'a str,
    colour: &'a str,
}

/// Quotes a place's line and marks the place below it. `quoted` is the line above, which is not quoted again.
fn quote(
    out: &mut String,
    sources: &SourceMap,
    span: Span,
    mark: Mark<'_>,
    gutter: &str,
    style: Style,
    quoted: &mut Option<(FileId, usize)>,
) {
    let at = sources.locate(span);
    let file = sources.file(span.file);
    let line: Vec<char> = file.line(at.line - 1).chars().collect();
    let blue = |text: &str| paint(style, "1;34", text);
    let (before, marked, after) = cut(&line, &at);
    // A long line is cut around each place, so marks of two places do not fit below one of them.
    let here = (line.len() <= MAX_QUOTED).then_some((span.file, at.line));
    if here.is_none() || *quoted != here {
        let _ = writeln!(out, "{gutter}{} {}:{}:{}", blue(mark.arrow), file.name, at.line, at.column);
        let number = format!("{:>width$} |", at.line, width = gutter.len());
        let _ = writeln!(out, "{gutter} {}", blue("|"));
        let _ = writeln!(out, "{}", format!("{} {before}{marked}{after}", blue(&number)).trim_end());
    }
    *quoted = here;
    let signs = mark.sign.to_string().repeat(marked.chars().count().max(1));
    let words = format!("{signs} {}", mark.text);
    let indent = " ".repeat(before.chars().count());
    let _ = writeln!(out, "{gutter} {} {indent}{}", blue("|"), paint(style, mark.colour, words.trim_end()));
}

/// A line split around a place, control characters made visible and, in a long one, what is far away left out.
fn cut(line: &[char], at: &Location) -> (String, String, String) {
    let start = (at.column - 1).min(line.len());
    let end = if at.end_line == at.line { (at.end_column - 1).clamp(start, line.len()) } else { line.len() };
    if line.len() <= MAX_QUOTED {
        return (show(&line[..start]), show(&line[start..end]), show(&line[end..]));
    }
    let from = start.saturating_sub(MAX_QUOTED / 2);
    let to = end.min(start + MAX_QUOTED / 4);
    let until = line.len().min(to + MAX_QUOTED / 4);
    let mut before = show(&line[from..start]);
    if from > 0 {
        before.insert_str(0, "...");
    }
    let mut after = show(&line[to..until]);
    if until < line.len() {
        after.push_str("...");
    }
    (before, show(&line[start..to]), after)
}

fn show(chars: &[char]) -> String {
    let mut out = String::new();
    for &c in chars {
        match c {
            '\t' => out.push_str(TAB),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn paint(style: Style, colour: &str, text: &str) -> String {
    match style {
        Style::Colour if !text.is_empty() => format!("\x1b[{colour}m{text}\x1b[0m"),
        Style::Plain | Style::Colour => text.to_owned(),
    }
}

#[derive(Serialize)]
struct JsonPlace<'a> {
    file: &'a str,
    start: u32,
    end: u32,
    #[serde(flatten)]
    location: Location,
}

#[derive(Serialize)]
struct JsonLabel<'a> {
    place: JsonPlace<'a>,
    message: &'a str,
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    code: &'static str,
    severity: &'static str,
    title: &'static str,
    message: &'a str,
    place: Option<JsonPlace<'a>>,
    note: Option<&'a str>,
    labels: Vec<JsonLabel<'a>>,
    found: Option<&'a str>,
    expected: Option<&'a str>,
    help: Option<&'a str>,
}

/// Every diagnostic as a JSON array; absent parts are null.
pub fn render_json(diagnostics: &[Diagnostic], sources: &SourceMap) -> String {
    let place = |span: Span| {
        let (file, location) = (sources.file(span.file).name.as_str(), sources.locate(span));
        JsonPlace { file, start: span.start, end: span.end, location }
    };
    let list: Vec<_> = diagnostics
        .iter()
        .map(|d| JsonDiagnostic {
            code: d.code.code(),
            severity: if d.is_error() { "error" } else { "warning" },
            title: d.code.title(),
            message: &d.message,
            place: d.primary.map(place),
            note: d.note.as_deref(),
            labels: d.labels.iter().map(|l| JsonLabel { place: place(l.span), message: &l.message }).collect(),
            found: d.found.as_deref(),
            expected: d.expected.as_deref(),
            help: d.help.as_deref(),
        })
        .collect();
    serde_json::to_string_pretty(&list).expect("diagnostics: plain data becomes JSON")
}
