//! Goals in files: spellings of a text and what the optimizer has to make of each. The format stands at the head of
//! `goals.rs`.

use super::cases::{each_file, root};
use llmc_artifact::Format;
use llmc_artifact::format::FORMATS;
use llmc_frontend::Program;
use llmc_frontend::syntax::ast::{DeclKind, Member, Stmt, StmtKind};

/// A case file.
pub struct GoalCase {
    /// The file's name without `.goal`.
    pub name: String,
    header: String,
    /// Texts that must all come to the goals.
    pub spellings: Vec<Section>,
    /// Forms that must be found and chosen.
    pub goals: Vec<Section>,
    /// Texts in which a goal must not be found.
    pub refused: Vec<Section>,
    /// What later stages must print.
    pub stages: Vec<Section>,
    /// Texts of which they must print something else.
    pub instead: Vec<Section>,
}

/// A part of a case: `--- kind word formats: title`, then lines.
#[derive(Clone)]
pub struct Section {
    /// `spelling`, `goal`, `refused`, `instead` or a stage.
    pub kind: String,
    /// For a goal its name, for a refusal the goal's.
    pub word: Option<String>,
    /// How matrices are stored.
    pub formats: Vec<Format>,
    /// For people.
    pub title: String,
    /// Its lines.
    pub body: String,
}

impl GoalCase {
    /// A whole text with these statements.
    pub fn text(&self, statements: &str) -> String {
        self.header.replace("  @\n", statements)
    }

    /// Every format that an expectation names.
    pub fn formats(&self) -> Vec<Format> {
        let mut all = Vec::new();
        for f in self.goals.iter().chain(&self.stages).flat_map(|s| &s.formats) {
            if !all.contains(f) {
                all.push(*f);
            }
        }
        all
    }
}

/// Every case of a folder.
pub fn load(folder: &str) -> Vec<GoalCase> {
    let mut cases = Vec::new();
    each_file(&root().join(folder), "goal", &mut |path, text| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        cases.push(parse(&name, text));
    });
    cases
}

fn parse(name: &str, text: &str) -> GoalCase {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("--- "), sections.last_mut()) {
            (Some(head), _) => sections.push(head_of(name, head)),
            (None, Some(section)) => section.body.push_str(&format!("{line}\n")),
            (None, None) => assert!(line.is_empty() || line.starts_with('#'), "{name}: `{line}` before any section"),
        }
    }
    let take = |kinds: &[&str]| -> Vec<Section> {
        sections.iter().filter(|s| kinds.contains(&s.kind.as_str())).cloned().collect()
    };
    let model = take(&["model"]);
    assert_eq!(model.len(), 1, "{name}: one section `model`");
    let header = model[0].body.clone();
    assert!(header.contains("  @\n"), "{name}: `@` in the model, where statements go");
    let case = GoalCase {
        name: name.to_owned(),
        header,
        spellings: take(&["spelling"]),
        goals: take(&["goal"]),
        refused: take(&["refused"]),
        stages: take(&["fused", "kernels", "prefill", "decode", "caches"]),
        instead: take(&["instead"]),
    };
    let known =
        1 + case.spellings.len() + case.goals.len() + case.refused.len() + case.stages.len() + case.instead.len();
    assert_eq!(sections.len(), known, "{name}: a section of no known kind");
    assert!(case.spellings.len() >= 3, "{name}: fewer than three spellings");
    assert!(!case.goals.is_empty() || !case.stages.is_empty(), "{name}: nothing is expected");
    for goal in &case.goals {
        assert!(case.refused.iter().any(|r| r.word == goal.word), "{name}: {:?} is never refused", goal.word);
    }
    case
}

fn head_of(name: &str, head: &str) -> Section {
    let (words, title) = head.split_once(':').unwrap_or((head, ""));
    let mut words = words.split_whitespace();
    let kind = words.next().unwrap_or_else(|| panic!("{name}: `---` without a kind")).to_owned();
    let (mut word, mut formats) = (None, Vec::new());
    for w in words {
        match FORMATS.iter().find(|(f, _)| f.to_string() == w) {
            Some((f, _)) => formats.push(*f),
            None if word.is_none() => word = Some(w.to_owned()),
            None => panic!("{name}: `{w}` is no format"),
        }
    }
    if formats.is_empty() {
        formats.push(Format::F32);
    }
    Section { kind, word, formats, title: title.trim().to_owned(), body: String::new() }
}

/// The names that statements give with `let`, at any depth.
pub fn lets(text: &str) -> Vec<String> {
    declared(text).1
}

/// Every name that a model text declares: axes, inputs, weights and values.
pub fn names(text: &str) -> Vec<String> {
    let (mut all, lets) = declared(text);
    all.extend(lets);
    all
}

fn declared(text: &str) -> (Vec<String>, Vec<String>) {
    let program = Program::parse("goal.llm", text);
    let (model, found) = program.expand(program.models()[0]);
    assert!(found.is_empty(), "{found:?}");
    let (mut names, mut lets) = (Vec::new(), Vec::new());
    for member in &model.members {
        match member {
            Member::Decl(decl) => match &decl.kind {
                DeclKind::Axis(list) => names.extend(list.iter().map(|x| x.name.text.clone())),
                DeclKind::Seq(seq) => names.push(seq.name.text.clone()),
                DeclKind::Input(input) => names.push(input.name.text.clone()),
                DeclKind::Weight(list) => names.extend(list.iter().map(|x| x.name.text.clone())),
                DeclKind::Static(..) | DeclKind::Layers(_) | DeclKind::Ignore(_) | DeclKind::Include(_) => {}
            },
            Member::Stmt(Stmt { kind: StmtKind::Let(binds), .. }) => {
                lets.extend(binds.iter().map(|b| b.name.text.clone()));
            }
            Member::Stmt(Stmt { kind: StmtKind::Output(output), .. }) => names.push(output.name.text.clone()),
            Member::Stmt(_) => {}
        }
    }
    (names, lets)
}
