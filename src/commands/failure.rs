//! What a failed command prints.

use llmc::Error;
use llmc_frontend::diag::Style;
use std::io::IsTerminal;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Told here, on standard error.
    Error(Box<Error>),
    /// Told as JSON, on standard output.
    Json(Box<Error>),
    /// Already told.
    Silent,
}

impl Failure {
    /// Tells the user.
    pub fn print(&self) {
        match self {
            Failure::Error(e) => eprint!("{}", e.render(style())),
            Failure::Json(e) => print!("{}", e.render_json()),
            Failure::Silent => {}
        }
    }
}

/// Colours for a terminal, unless the user said otherwise (no-color.org).
pub fn style() -> Style {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if colour { Style::Colour } else { Style::Plain }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(e: E) -> Failure {
        Failure::Error(Box::new(e.into()))
    }
}
