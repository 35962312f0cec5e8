//! What can be wrong with an artifact, as a person should hear it.

use std::fmt;
use std::path::{Path, PathBuf};

macro_rules! artifact_codes {
    ($($variant:ident = $code:literal, $title:literal, $explanation:literal;)*) => {
        /// A kind of fault in an artifact: one row of the table of E07 codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ArtifactCode { $(#[doc = $explanation] $variant,)* }

        impl ArtifactCode {
            /// Every code, in order.
            pub const ALL: &[ArtifactCode] = &[$(ArtifactCode::$variant,)*];

            /// The stable code, such as `E0702`.
            pub const fn code(self) -> &'static str { match self { $(ArtifactCode::$variant => $code,)* } }

            /// A few words.
            pub const fn title(self) -> &'static str { match self { $(ArtifactCode::$variant => $title,)* } }

            /// One sentence for the page of codes.
            pub const fn explanation(self) -> &'static str {
                match self { $(ArtifactCode::$variant => $explanation,)* }
            }
        }
    };
}

artifact_codes! {
    Unreadable = "E0701", "artifact cannot be read",
        "The operating system refused to open or read the file.";
    NotAnArtifact = "E0702", "not an artifact",
        "The file does not begin as files written by `llmc build` do.";
    Version = "E0703", "artifact of another version",
        "The artifact was built by an llmc whose files, plans or kernels are different.";
    Truncated = "E0704", "artifact ends early",
        "The file is shorter than its own header says, as after an interrupted copy.";
    Damaged = "E0705", "artifact is damaged",
        "The plan or the code does not have the hash it was written with.";
    Malformed = "E0706", "artifact cannot be understood",
        "The plan is intact but does not read as a plan.";
    InvalidPlan = "E0707", "plan contradicts itself",
        "The plan refers to something it does not define, or a size in it cannot be.";
    WeightsDamaged = "E0708", "weights are damaged",
        "The stored weights do not have the hash they were written with.";
    Unwritable = "E0709", "artifact cannot be written",
        "The operating system refused to create or write the file.";
}

/// A fault in an artifact: what was found where, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactError {
    /// The kind of fault.
    pub code: ArtifactCode,
    /// The file; empty for an artifact that never was one.
    pub path: PathBuf,
    /// The part of the artifact, such as `launch 3 of prefill`. May be empty.
    pub part: String,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
}

impl ArtifactError {
    /// An error about a part of an artifact.
    pub fn new(
        code: ArtifactCode,
        part: impl fmt::Display,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> ArtifactError {
        ArtifactError {
            code,
            path: PathBuf::new(),
            part: part.to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Says which file it is about.
    pub fn in_file(mut self, path: &Path) -> ArtifactError {
        self.path = path.to_path_buf();
        self
    }

    /// The stable code, such as `E0702`.
    pub fn code(&self) -> &'static str {
        self.code.code()
    }

    /// The way out, a sentence.
    pub fn help(&self) -> &'static str {
        match self.code {
            ArtifactCode::Unreadable | ArtifactCode::Unwritable => "check the path, its permissions and the free space",
            ArtifactCode::NotAnArtifact => "give a file written by `llmc build`, or the model and its weights",
            ArtifactCode::Version => {
                "build it again from the model and its weights, with this llmc's `llmc build`, or run it with the llmc that built it"
            }
            ArtifactCode::Truncated
            | ArtifactCode::Damaged
            | ArtifactCode::Malformed
            | ArtifactCode::InvalidPlan
            | ArtifactCode::WeightsDamaged => "copy it again, or build it again with `llmc build`",
        }
    }
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.code.title())?;
        if !self.path.as_os_str().is_empty() {
            write!(f, ": {}", self.path.display())?;
        }
        if !self.part.is_empty() {
            write!(f, ": {}", self.part)?;
        }
        write!(f, "\n  found: {}\n  expected: {}\n  help: {}", self.found, self.expected, self.help())
    }
}

impl std::error::Error for ArtifactError {}
