//! `llmc fmt`: the one layout.

use super::args::FmtArgs;
use super::failure::Failure;
use llmc::{Error, source::Text};
use llmc_frontend::diag::has_errors;
use llmc_frontend::{SourceMap, syntax};
use std::path::Path;

/// Rewrites each file, or with `--check` says which are not in the one layout.
pub fn run(args: &FmtArgs) -> Result<(), Failure> {
    let mut differ = false;
    for path in &args.files {
        let text = Text::read(path)?;
        let formatted = format(&text)?;
        if formatted == text.text {
            continue;
        }
        if args.check {
            eprintln!("{}: not in the one layout; `llmc fmt {}` rewrites it", text.name, text.name);
            differ = true;
        } else {
            replace(path, &formatted)?;
        }
    }
    if differ { Err(Failure::Silent) } else { Ok(()) }
}

fn format(text: &Text) -> Result<String, Error> {
    let mut sources = SourceMap::new();
    let id = sources.add(&text.name, &text.text);
    let (file, diagnostics) = syntax::parse(id, &text.text);
    if has_errors(&diagnostics) {
        return Err(Error::model(diagnostics, sources));
    }
    Ok(syntax::print(&file))
}

/// Written aside and renamed, so that a full disk costs nobody a model.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let aside = path.with_extension("llm.partial");
    std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).map_err(|e| Error::io(path.display(), e))
}
