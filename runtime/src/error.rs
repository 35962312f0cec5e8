//! What can be wrong with a file that llmc reads, as a person should hear it.

use std::fmt;
use std::path::{Path, PathBuf};

macro_rules! file_codes {
    ($($variant:ident = $code:literal, $title:literal, $explanation:literal;)*) => {
        /// A kind of fault in a file: one row of the table of E06 codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FileCode { $(#[doc = $explanation] $variant,)* }

        impl FileCode {
            /// Every code, in order.
            pub const ALL: &[FileCode] = &[$(FileCode::$variant,)*];

            /// The stable code, such as `E0602`.
            pub const fn code(self) -> &'static str {
                match self { $(FileCode::$variant => $code,)* }
            }

            /// A few words.
            pub const fn title(self) -> &'static str {
                match self { $(FileCode::$variant => $title,)* }
            }

            /// One sentence for the page of codes.
            pub const fn explanation(self) -> &'static str {
                match self { $(FileCode::$variant => $explanation,)* }
            }
        }
    };
}

file_codes! {
    Unreadable = "E0601", "file cannot be read",
        "The operating system refused to open or read the file.";
    UnknownKind = "E0602", "not a checkpoint",
        "The path is neither a GGUF file nor a Hugging Face folder with config.json and safetensors.";
    Truncated = "E0603", "file ends early",
        "The file is shorter than its own header says, as after an interrupted download.";
    Malformed = "E0604", "file is damaged",
        "A number, name or type in the file's header cannot be right.";
    UnsupportedFormat = "E0605", "unsupported storage format",
        "A tensor is stored in a format that llmc does not read.";
    TensorRange = "E0606", "tensor lies outside the file",
        "A tensor's bytes overlap another's, are misaligned, or lie outside the file's data.";
    Duplicate = "E0607", "name appears twice",
        "Two tensors or two config keys of the file have the same name.";
    MissingPart = "E0608", "part of the checkpoint is missing",
        "A Hugging Face folder lacks a file that the others refer to.";
    Json = "E0609", "JSON cannot be read",
        "A JSON file of the checkpoint is too large, too deeply nested, or not JSON.";
    NoTokenizer = "E0610", "checkpoint has no tokenizer",
        "The text cannot be turned into tokens because the checkpoint carries no tokenizer.";
    Tokenizer = "E0611", "tokenizer cannot be used",
        "The tokenizer's description is damaged or of a kind that llmc does not know.";
    ChatTemplate = "E0612", "chat template failed",
        "The checkpoint's chat template is not a template, refused the messages, or ran too long.";
}

/// A fault in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The kind of fault.
    pub code: FileCode,
    /// The rest of what is known; boxed, since every reader's result carries it.
    pub detail: Box<FileDetail>,
}

/// What was found where, what was expected, and the way out. Any text may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileDetail {
    /// The file, as the user named it; empty for bytes that came from no file.
    pub path: PathBuf,
    /// The part of the file: a tensor, a key, a byte offset.
    pub part: String,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
    /// The way out, a sentence.
    pub help: String,
}

impl FileError {
    /// An error about `part` of the file at `path`.
    pub fn new(code: FileCode, path: &Path, part: impl Into<String>) -> FileError {
        let detail = FileDetail { path: path.to_path_buf(), part: part.into(), ..FileDetail::default() };
        FileError { code, detail: Box::new(detail) }
    }

    /// Adds what was found.
    pub fn found(mut self, found: impl fmt::Display) -> FileError {
        self.detail.found = found.to_string();
        self
    }

    /// Adds what was expected.
    pub fn expected(mut self, expected: impl fmt::Display) -> FileError {
        self.detail.expected = expected.to_string();
        self
    }

    /// Adds the way out.
    pub fn help(mut self, help: impl fmt::Display) -> FileError {
        self.detail.help = help.to_string();
        self
    }

    /// The operating system's refusal to open or read `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> FileError {
        FileError::new(FileCode::Unreadable, path, "")
            .found(error)
            .expected("a readable file")
            .help("check the path and its permissions")
    }

    /// The stable code, such as `E0602`.
    pub fn code(&self) -> &'static str {
        self.code.code()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileDetail { path, part, found, expected, help } = &*self.detail;
        write!(f, "{}: {}", self.code(), self.code.title())?;
        if !path.as_os_str().is_empty() {
            write!(f, ": {}", path.display())?;
        }
        if !part.is_empty() {
            write!(f, ": {}", part)?;
        }
        if !found.is_empty() {
            write!(f, "\n  found: {}", found)?;
        }
        if !expected.is_empty() {
            write!(f, "\n  expected: {}", expected)?;
        }
        if !help.is_empty() {
            write!(f, "\n  help: {}", help)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ordered() {
        let codes: Vec<_> = FileCode::ALL.iter().map(|c| c.code()).collect();
        assert!(codes.windows(2).all(|w| w[0] < w[1]), "{codes:?}");
    }

    #[test]
    fn an_error_says_all_it_knows() {
        let e = FileError::new(FileCode::Truncated, Path::new("a.gguf"), "tensor `x`")
            .found("10 bytes")
            .expected("20 bytes")
            .help("download it again");
        assert_eq!(
            e.to_string(),
            "E0603: file ends early: a.gguf: tensor `x`\n  found: 10 bytes\n  expected: 20 bytes\n  help: download it again"
        );
    }
}
