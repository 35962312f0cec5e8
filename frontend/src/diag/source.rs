//! Places in texts, and the texts they are in.

use serde::Serialize;
use std::fmt;

/// A file of a [`SourceMap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct FileId(pub u32);

/// A range of bytes of a file.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Bytes `start..end` of `file`.
    pub const fn new(file: FileId, start: u32, end: u32) -> Span {
        Span { file, start, end }
    }

    /// From the beginning of `self` to the end of `last`; `self` alone when that lies in another file.
    pub fn to(self, last: Span) -> Span {
        let end = if self.file == last.file { last.end.max(self.end) } else { self.end };
        Span { end, ..self }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}..{}", self.file.0, self.start, self.end)
    }
}

/// A text with a name, and where its lines begin.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// What messages call it: a path, or `std.llm`.
    pub name: String,
    /// All of it.
    pub text: String,
    line_starts: Vec<u32>,
}

impl SourceFile {
    /// The number of the line that holds byte `offset`, from 0.
    fn line_of(&self, offset: u32) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) - 1
    }

    /// A line's text without its end, by number from 0.
    pub fn line(&self, line: usize) -> &str {
        let start = self.line_starts[line] as usize;
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |&next| next as usize);
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }
}

/// A place for people: lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Line of the end.
    pub end_line: usize,
    /// Column one past the last character.
    pub end_column: usize,
}

/// All texts of one compilation: the standard library, the model.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// An empty map.
    pub fn new() -> SourceMap {
        SourceMap::default()
    }

    /// Adds a text.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        let text = text.into();
        let starts = text.match_indices('\n').map(|(i, _)| i as u32 + 1);
        let line_starts = std::iter::once(0).chain(starts).collect();
        self.files.push(SourceFile { name: name.into(), text, line_starts });
        FileId(self.files.len() as u32 - 1)
    }

    /// A text by its id.
    ///
    /// # Panics
    /// When the id is another map's.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The words at a place.
    pub fn text(&self, span: Span) -> &str {
        let text = &self.file(span.file).text;
        let floor = |offset: u32| floor_char_boundary(text, offset as usize);
        &text[floor(span.start)..floor(span.end.max(span.start))]
    }

    /// Lines and columns of a place.
    pub fn locate(&self, span: Span) -> Location {
        let file = self.file(span.file);
        let (line, column) = position(file, span.start);
        let (end_line, end_column) = position(file, span.end.max(span.start));
        Location { line: line + 1, column: column + 1, end_line: end_line + 1, end_column: end_column + 1 }
    }
}

/// Line and column of a byte, both from 0. A place beyond the end is the end.
fn position(file: &SourceFile, offset: u32) -> (usize, usize) {
    let offset = floor_char_boundary(&file.text, offset as usize);
    let line = file.line_of(offset as u32);
    let start = file.line_starts[line] as usize;
    (line, file.text[start..offset].chars().count())
}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let mut map = SourceMap::new();
        let id = map.add("x", "a\näöü = 1\n");
        let at = map.locate(Span::new(id, 4, 6));
        assert_eq!((at.line, at.column, at.end_column), (2, 2, 3));
        assert_eq!(map.text(Span::new(id, 4, 6)), "ö");
        let end = map.locate(Span::new(id, 99, 99));
        assert_eq!((end.line, end.column), (3, 1));
    }
}
