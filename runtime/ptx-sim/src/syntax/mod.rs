//! PTX text to a syntax tree. One function a production; nothing is resolved here, and nothing a text contains makes this
//! panic, run long or take memory out of proportion to its size.

pub mod ast;
mod constant;
mod function;
mod module;
mod operand;
mod parser;
#[cfg(test)]
mod tests;
mod token;
mod variable;

pub use ast::Module;

/// A place in a text, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in bytes.
    pub column: u32,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

impl std::fmt::Display for PtxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

impl std::error::Error for PtxError {}

impl<'s> Module<'s> {
    /// Reads a module.
    ///
    /// # Errors
    /// The first place that is not PTX.
    pub fn parse(text: &'s str) -> Result<Module<'s>, PtxError> {
        module::module(&mut parser::Parser::new(text)?)
    }
}
