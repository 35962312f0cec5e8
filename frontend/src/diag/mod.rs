//! Diagnostics: everything that can be wrong with what a person wrote, with its place and the way out.
//!
//! A stage pushes [`Diagnostic`]s; it never prints. [`render`] turns them into text or JSON. Codes live in one
//! table, [`codes`]; each has an entry in `docs/errors.md` and a case under `tests/cases/errors`.

pub mod codes;
pub mod render;
pub mod source;
pub mod suggest;

pub use codes::{Code, Severity, Stage};
pub use render::{Style, render_json, render_place, render_text};
pub use source::{FileId, Location, SourceMap, Span};
pub use suggest::did_you_mean;

/// A second place that explains the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is to be seen there.
    pub message: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of mistake.
    pub code: Code,
    /// This instance of it, in one line.
    pub message: String,
    /// Where. `None` when no text is at fault: a missing file, a damaged checkpoint.
    pub primary: Option<Span>,
    /// A few words under the primary place.
    pub note: Option<String>,
    /// Other places.
    pub labels: Vec<Label>,
    /// What was there.
    pub found: Option<String>,
    /// What should have been there.
    pub expected: Option<String>,
    /// The way out.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place of the text.
    pub fn new(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { primary: Some(span), ..Diagnostic::placeless(code, message) }
    }

    /// A mistake that no text is to blame for.
    pub fn placeless(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            message: message.into(),
            primary: None,
            note: None,
            labels: Vec::new(),
            found: None,
            expected: None,
            help: None,
        }
    }

    /// Adds the words under the primary place.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.note = Some(text.into());
        self
    }

    /// Adds another place.
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    /// Says what was found.
    pub fn found(mut self, text: impl Into<String>) -> Diagnostic {
        self.found = Some(text.into());
        self
    }

    /// Says what was expected.
    pub fn expected(mut self, text: impl Into<String>) -> Diagnostic {
        self.expected = Some(text.into());
        self
    }

    /// Says the way out.
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// Says "did you mean `x`?" when one of `candidates` is close to `name`; keeps an earlier help otherwise.
    pub fn suggest<'a>(mut self, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        if let Some(near) = did_you_mean(name, candidates) {
            self.help = Some(format!("did you mean `{near}`?"));
        }
        self
    }

    /// Whether the text cannot be used. A warning only informs.
    pub fn is_error(&self) -> bool {
        self.code.severity() == Severity::Error
    }
}

/// Whether one of them is an error.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(Diagnostic::is_error)
}
