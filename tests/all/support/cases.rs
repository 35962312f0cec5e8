//! Cases in files: a text whose comments direct how it is tested, and expectations beside it.

use super::checkpoint::described;
use llmc_artifact::Checkpoint;
use llmc_frontend::diag::has_errors;
use llmc_frontend::{Diagnostic, SourceMap, compile_text};
use std::fs;
use std::path::{Path, PathBuf};

/// A model text under `tests/cases`.
pub struct Case {
    /// The file's name without `.llm`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Case {
    /// The rest of the line `# word: rest` at the top of the text.
    pub fn directive(&self, word: &str) -> Option<&str> {
        let head = self.text.lines().take_while(|line| line.starts_with('#'));
        head.filter_map(|line| line.strip_prefix("# ")?.strip_prefix(word)?.strip_prefix(": ")).next()
    }

    /// The text without directives.
    pub fn example(&self) -> String {
        let directive =
            |line: &&str| ["expect", "pad", "repeat"].iter().any(|word| line.starts_with(&format!("# {word}: ")));
        self.text.lines().skip_while(directive).map(|line| format!("{line}\n")).collect()
    }

    /// The text that is tested. `# pad: N` makes it N bytes long; `# repeat: N x` writes `x` N times in place of `@`.
    fn content(&self) -> String {
        let mut text = self.text.clone();
        if let Some(length) = self.directive("pad") {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("{}: `# pad:` takes a number", self.name));
            text.push_str(&" ".repeat(length.saturating_sub(text.len())));
        }
        if let Some((times, what)) = self.directive("repeat").and_then(|d| d.split_once(' ')) {
            let times = times.parse().unwrap_or_else(|_| panic!("{}: `# repeat:` takes a number", self.name));
            text = text.replace('@', &what.repeat(times));
        }
        text
    }
}

/// Where the repository lies.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every case of a folder, by name. There must be some.
pub fn load(folder: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    each_file(&root().join(folder), "llm", &mut |path, text| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        cases.push(Case { name, path: path.to_owned(), text: text.to_owned() });
    });
    assert!(!cases.is_empty(), "{folder} holds no case");
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Calls `f` with each file below `folder` whose name ends so.
pub fn each_file(folder: &Path, extension: &str, f: &mut dyn FnMut(&Path, &str)) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            each_file(&path, extension, f);
        } else if path.extension().is_some_and(|e| e == extension) {
            f(&path, &fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        }
    }
}

/// Compiles a case's text, with the checkpoint that it describes, and says what is wrong with it.
pub fn check(case: &Case) -> (SourceMap, Vec<Diagnostic>) {
    let checkpoint = described(&case.text);
    let checkpoint = checkpoint.as_ref().map(|c| c as &dyn Checkpoint);
    let compiled = compile_text(&format!("{}.llm", case.name), &case.content(), checkpoint);
    assert_eq!(compiled.model.is_none(), has_errors(&compiled.diagnostics), "{}", case.name);
    (compiled.sources, compiled.diagnostics)
}

/// Compares a text with the file that holds it; `LLMC_BLESS=1` writes the file.
pub fn golden(path: &Path, text: &str) {
    if std::env::var_os("LLMC_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        return fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let expected =
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}; LLMC_BLESS=1 makes it", path.display()));
    let first = expected.lines().zip(text.lines()).position(|(a, b)| a != b);
    let first = first.unwrap_or_else(|| expected.lines().count().min(text.lines().count()));
    let now: Vec<_> = text.lines().skip(first).take(5).collect();
    let (path, line) = (path.display(), first + 1);
    assert!(expected == text, "{path}:{line}: differs; LLMC_BLESS=1 rewrites it. Now:\n{}", now.join("\n"));
}
