//! Text to syntax tree and back. What enters is a text, what leaves a [`ast::File`] and [`crate::diag::Diagnostic`]s.
//! Nothing is resolved here: names, axes and types are the elaborator's.

pub mod ast;
mod dump;
mod include;
mod lexer;
mod parser;
mod pretty;
mod printer;
mod token;
pub(crate) mod walk;

pub use dump::dump;
pub use include::expand;
pub use parser::{MAX_DEPTH, MAX_TEXT, parse};
pub use printer::print;

#[cfg(test)]
mod tests;
