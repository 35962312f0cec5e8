//! From texts to a verified model: parse, include, elaborate, verify, with all diagnostics on the way.

use crate::diag::{Code, Diagnostic, FileId, SourceMap, has_errors};
use crate::elaborate;
use crate::graph::{Model, Verified};
use crate::program::Program;
use crate::syntax::{ast, parse};
use llmc_artifact::Checkpoint;

/// The model texts that come with the compiler: file name and text.
pub const MODELS: &[(&str, &str)] = &[
    // Before llama: in GGUF both call themselves "llama", and only this one's header asks for more.
    ("mixtral.llm", include_str!("../../models/mixtral.llm")),
    ("llama.llm", include_str!("../../models/llama.llm")),
    ("gemma3.llm", include_str!("../../models/gemma3.llm")),
    ("bert.llm", include_str!("../../models/bert.llm")),
    ("t5.llm", include_str!("../../models/t5.llm")),
    ("deepseek_v3.llm", include_str!("../../models/deepseek_v3.llm")),
];

/// What became of a text.
#[derive(Debug)]
pub struct Compiled {
    /// The texts, for showing diagnostics.
    pub sources: SourceMap,
    /// The model, if and only if no diagnostic is an error.
    pub model: Option<Verified<Model>>,
    /// Everything that was found, warnings included.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles a model text with the standard library. `checkpoint` gives sizes and tensors; without it the text's
/// defaults hold and every weight is a tensor of 32-bit floats that no file has.
///
/// The text declares one model; of several, the first whose header fits the checkpoint is taken.
pub fn compile_text(name: &str, text: &str, checkpoint: Option<&dyn Checkpoint>) -> Compiled {
    let program = Program::parse(name, text);
    let (model, diagnostics) = compile_program(&program, checkpoint);
    Compiled { sources: program.sources, model, diagnostics }
}

/// Compiles the one model of a program, or of several the first whose header fits the checkpoint.
pub fn compile_program(
    program: &Program,
    checkpoint: Option<&dyn Checkpoint>,
) -> (Option<Verified<Model>>, Vec<Diagnostic>) {
    let models = program.models();
    let fits = |m: &&&ast::Model| checkpoint.is_none_or(|c| m.targets.is_empty() || elaborate::fits(m, c));
    let wrong = match (models.iter().find(fits), checkpoint) {
        (Some(declared), _) => return compile_model(program, declared, checkpoint),
        (None, Some(c)) if !models.is_empty() => without_target(models[0], c),
        (None, _) => without_model(FileId(program.files.len() as u32 - 1)),
    };
    let mut diagnostics = program.diagnostics.clone();
    if !has_errors(&diagnostics) {
        diagnostics.push(wrong);
    }
    (None, diagnostics)
}

/// Compiles one model of a program. All diagnostics are returned, those of the program's syntax first.
pub fn compile_model(
    program: &Program,
    declared: &ast::Model,
    checkpoint: Option<&dyn Checkpoint>,
) -> (Option<Verified<Model>>, Vec<Diagnostic>) {
    let mut diagnostics = program.diagnostics.clone();
    let (expanded, found) = program.expand(declared);
    diagnostics.extend(found);
    // What a syntax error left out is what the rest would miss: its errors stand alone.
    if has_errors(&diagnostics) {
        return (None, diagnostics);
    }
    let (model, found) = elaborate::elaborate(&expanded, &program.functions(), checkpoint);
    diagnostics.extend(found);
    (model.map(Verified::model), diagnostics)
}

/// The first of the texts (name and text) with a model whose header fits the checkpoint.
///
/// # Errors
/// A diagnostic that names the architecture and those that are known.
#[expect(clippy::result_large_err, reason = "asked once for a checkpoint")]
pub fn select_model<'t>(
    texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    checkpoint: &dyn Checkpoint,
) -> Result<(&'t str, &'t str), Diagnostic> {
    let mut known = Vec::new();
    for (name, text) in texts {
        let (file, _) = parse(FileId::default(), text);
        let models = file.items.iter().filter_map(|i| if let ast::Item::Model(m) = i { Some(m) } else { None });
        for model in models {
            if elaborate::fits(model, checkpoint) {
                return Ok((name, text));
            }
            known.extend(model.targets.iter().map(spell));
        }
    }
    let asked = format!("{} \"{}\"", checkpoint.kind().keyword(), checkpoint.architecture());
    Err(Diagnostic::placeless(Code::NoModel, "no model text fits this checkpoint")
        .found(asked.clone())
        .expected(known.join(", "))
        .help("write a text whose header says so, and put it in a folder given by `--models`")
        .suggest(&asked, known.iter().map(String::as_str)))
}

fn without_target(model: &ast::Model, checkpoint: &dyn Checkpoint) -> Diagnostic {
    let name = &model.name;
    let targets: Vec<_> = model.targets.iter().map(spell).collect();
    Diagnostic::new(Code::NoModel, name.span, format!("`{}` is not for this checkpoint", name.text))
        .found(format!("{} \"{}\"", checkpoint.kind().keyword(), checkpoint.architecture()))
        .expected(targets.join(", "))
        .help("choose another text, or add the architecture to the header and check the output")
}

fn spell(t: &ast::Target) -> String {
    format!("{} \"{}\"{}", t.kind.keyword(), t.architecture.text, if t.when.is_some() { " when ..." } else { "" })
}

fn without_model(file: FileId) -> Diagnostic {
    Diagnostic::new(Code::NoModel, crate::diag::Span::new(file, 0, 0), "the text declares no model")
        .expected("`model name { ... }`")
}
