//! Texts that belong together: the standard library and a model text. What every command begins with.

use crate::diag::{Diagnostic, FileId, SourceMap, has_errors};
use crate::syntax::{self, ast};
use llmc_artifact::Checkpoint;

/// The standard library's text: the functions and groups of `models/std.llm`.
pub const STD: &str = include_str!("../../models/std.llm");

/// Parsed texts. The first is the standard library.
#[derive(Clone, Debug)]
pub struct Program {
    /// The texts.
    pub sources: SourceMap,
    /// Their trees, by [`FileId`].
    pub files: Vec<ast::File>,
    /// What is wrong with their syntax.
    pub diagnostics: Vec<Diagnostic>,
}

impl Program {
    /// Reads the standard library and a text called `name` in messages.
    pub fn parse(name: impl Into<String>, text: impl Into<String>) -> Program {
        let mut program = Program { sources: SourceMap::new(), files: Vec::new(), diagnostics: Vec::new() };
        program.add("std.llm", STD);
        program.add(name, text);
        program
    }

    /// Reads another text.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        let id = self.sources.add(name, text);
        let (file, diagnostics) = syntax::parse(id, &self.sources.file(id).text);
        self.files.push(file);
        self.diagnostics.extend(diagnostics);
        id
    }

    fn items(&self) -> impl Iterator<Item = &ast::Item> {
        self.files.iter().flat_map(|file| &file.items)
    }

    /// Every function, the standard library's first.
    pub fn functions(&self) -> Vec<&ast::Function> {
        self.items().filter_map(|i| if let ast::Item::Fn(f) = i { Some(f) } else { None }).collect()
    }

    /// Every group, the standard library's first.
    pub fn groups(&self) -> Vec<&ast::Group> {
        self.items().filter_map(|i| if let ast::Item::Group(g) = i { Some(g) } else { None }).collect()
    }

    /// Every model as written, in order.
    pub fn models(&self) -> Vec<&ast::Model> {
        self.items().filter_map(|i| if let ast::Item::Model(m) = i { Some(m) } else { None }).collect()
    }

    /// A model with its `include`s replaced by what the groups declare.
    pub fn expand(&self, model: &ast::Model) -> (ast::Model, Vec<Diagnostic>) {
        syntax::expand(model, &self.groups())
    }

    /// Everything that is wrong with the texts, without a checkpoint.
    pub fn check(&self) -> Vec<Diagnostic> {
        self.check_for(None)
    }

    /// Everything that is wrong with the texts, for a checkpoint or without one. For a checkpoint, a model whose header
    /// fits is looked at, or it is wrong that there is none.
    pub fn check_for(&self, checkpoint: Option<&dyn Checkpoint>) -> Vec<Diagnostic> {
        let mut diagnostics = self.diagnostics.clone();
        if has_errors(&diagnostics) {
            return diagnostics;
        }
        if checkpoint.is_some() {
            return crate::compile::compile_program(self, checkpoint).1;
        }
        for model in self.models() {
            let (_, wrong) = crate::compile::compile_model(self, model, None);
            diagnostics.extend(wrong);
        }
        diagnostics
    }
}
