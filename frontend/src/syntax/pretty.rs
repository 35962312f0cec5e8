//! Documents with places where a line may be broken, after Wadler, "A prettier printer" (2003): a group is written on
//! one line if it fits, else every break directly in it becomes a line's end.

/// A text that knows where it may be broken.
#[derive(Clone, Debug)]
pub(super) enum Doc {
    /// These characters, no line's end among them.
    Text(String),
    /// A space, or a line's end where the group around it is broken.
    Line,
    /// A line's end; the group around it is always broken.
    Hard,
    /// These characters, only where the group around it is broken.
    IfBroken(String),
    /// One after another.
    Concat(Vec<Doc>),
    /// Lines begin so many columns further to the right.
    Nest(usize, Box<Doc>),
    /// Lines begin at the column where this begins.
    Align(Box<Doc>),
    /// On one line if it fits.
    Group(Box<Doc>),
}

impl Doc {
    pub(super) fn text(text: impl Into<String>) -> Doc {
        Doc::Text(text.into())
    }

    pub(super) fn nil() -> Doc {
        Doc::Concat(Vec::new())
    }

    pub(super) fn group(self) -> Doc {
        Doc::Group(Box::new(self))
    }

    pub(super) fn align(self) -> Doc {
        Doc::Align(Box::new(self))
    }

    pub(super) fn nest(self, columns: usize) -> Doc {
        Doc::Nest(columns, Box::new(self))
    }

    /// The documents with `separator` between them.
    pub(super) fn join(docs: impl IntoIterator<Item = Doc>, separator: Doc) -> Doc {
        let mut out = Vec::new();
        for doc in docs {
            if !out.is_empty() {
                out.push(separator.clone());
            }
            out.push(doc);
        }
        Doc::Concat(out)
    }

    /// The documents with commas between them, as many on a line as fit, each line beginning below the first.
    pub(super) fn fill(docs: impl IntoIterator<Item = Doc>) -> Doc {
        // A break in a group of its own is broken only if what follows it, up to the next one, does not fit.
        let separator = Doc::Concat(vec![Doc::text(","), Doc::Line.group()]);
        Doc::join(docs, separator).align().group()
    }

    /// The text, no line longer than `width` where breaks allow it.
    pub(super) fn render(&self, width: usize) -> String {
        let mut out = Output { text: String::new(), column: 0, indent: 0 };
        let mut stack = vec![(0, Mode::Broken, self)];
        while let Some((indent, mode, doc)) = stack.pop() {
            match doc {
                Doc::Text(text) => out.write(text),
                Doc::IfBroken(text) if mode == Mode::Broken => out.write(text),
                Doc::IfBroken(_) => {}
                Doc::Line if mode == Mode::Flat => out.write(" "),
                Doc::Line | Doc::Hard => out.newline(indent),
                Doc::Concat(docs) => stack.extend(docs.iter().rev().map(|d| (indent, mode, d))),
                Doc::Nest(columns, doc) => stack.push((indent + columns, mode, doc)),
                Doc::Align(doc) => stack.push((out.column, mode, doc)),
                Doc::Group(doc) => {
                    let fits = mode == Mode::Flat || fits(width.saturating_sub(out.column), doc, &stack);
                    stack.push((indent, if fits { Mode::Flat } else { Mode::Broken }, doc));
                }
            }
        }
        out.text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Flat,
    Broken,
}

/// Whether `doc` on one line, and what follows it up to the next place where a line may end, has room.
fn fits(room: usize, doc: &Doc, rest: &[(usize, Mode, &Doc)]) -> bool {
    let mut left = room;
    let mut rest = rest.iter().rev();
    let mut stack = vec![(Mode::Flat, doc)];
    loop {
        let Some((mode, doc)) = stack.pop().or_else(|| rest.next().map(|&(_, mode, doc)| (mode, doc))) else {
            return true;
        };
        match doc {
            Doc::Text(text) => match left.checked_sub(text.chars().count()) {
                Some(less) => left = less,
                None => return false,
            },
            Doc::Line if mode == Mode::Flat => match left.checked_sub(1) {
                Some(less) => left = less,
                None => return false,
            },
            Doc::IfBroken(_) => {}
            Doc::Hard if mode == Mode::Flat => return false,
            Doc::Line | Doc::Hard => return true,
            Doc::Concat(docs) => stack.extend(docs.iter().rev().map(|d| (mode, d))),
            Doc::Nest(_, doc) | Doc::Align(doc) => stack.push((mode, doc)),
            // What follows may still be broken.
            Doc::Group(doc) => stack.push((mode, doc)),
        }
    }
}

struct Output {
    text: String,
    column: usize,
    indent: usize,
}

impl Output {
    fn write(&mut self, text: &str) {
        if self.indent > 0 && !text.is_empty() {
            self.text.extend(std::iter::repeat_n(' ', self.indent));
            self.indent = 0;
        }
        self.text.push_str(text);
        self.column += text.chars().count();
    }

    /// Spaces at a line's beginning wait for its first word: a blank line stays empty.
    fn newline(&mut self, indent: usize) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.indent = indent;
        self.column = indent;
    }
}
