//! What can be wrong when a model is loaded onto a device and run, as a person should hear it.

use crate::kv_cache::Full;
use llmc_artifact::ArtifactError;
use llmc_artifact::plan::PAGE_TOKENS;
use std::fmt;

macro_rules! run_codes {
    ($($variant:ident = $code:literal, $title:literal, $explanation:literal;)*) => {
        /// A kind of fault of loading or running: one row of the table of E08 codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RunCode { $(#[doc = $explanation] $variant,)* }

        impl RunCode {
            /// Every code, in order.
            pub const ALL: &[RunCode] = &[$(RunCode::$variant,)*];

            /// The stable code, such as `E0803`.
            pub const fn code(self) -> &'static str { match self { $(RunCode::$variant => $code,)* } }

            /// A few words.
            pub const fn title(self) -> &'static str { match self { $(RunCode::$variant => $title,)* } }

            /// One sentence for the page of codes.
            pub const fn explanation(self) -> &'static str { match self { $(RunCode::$variant => $explanation,)* } }
        }
    };
}

run_codes! {
    NoTarget = "E0801", "no code for this device",
        "The artifact holds no code that the device can run.";
    Features = "E0802", "processor lacks a feature",
        "The artifact's code uses instructions that this processor does not have.";
    Code = "E0803", "code cannot be loaded",
        "The system's loader or the GPU's driver refused the artifact's code.";
    NoDevice = "E0804", "device is not there",
        "The device that was asked for, or its driver, is not on this machine.";
    Memory = "E0805", "out of memory",
        "The device has no room for the model or for a step.";
    CacheFull = "E0806", "cache is full",
        "The sequences together have more tokens than the caches may hold.";
    Input = "E0807", "input does not fit",
        "A value of an input is missing, has the wrong number or type of elements, or lies outside its bounds.";
    TooLong = "E0808", "sequence is too long",
        "The sequence would have more tokens than the model's text allows.";
    NotAppendable = "E0809", "model cannot generate",
        "A token of the model sees later tokens, so no token can be appended to a sequence.";
    Weights = "E0810", "weights do not fit the artifact",
        "The artifact needs weights that were not given, or they have other shapes than those it was built for.";
    Device = "E0811", "device failed",
        "The device reported an error while it ran.";
    Rewind = "E0812", "sequence cannot be rewound",
        "The sequence is shorter than the length asked for, or the tokens before it are no longer kept.";
}

/// A fault of loading or running: what was found where, what was expected, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// About the device, the inputs or the sequences.
    Run {
        /// The kind of fault.
        code: RunCode,
        /// What it is about; may be empty.
        part: String,
        /// What is there.
        found: String,
        /// What should be there; may be empty.
        expected: String,
        /// The way out; may be empty.
        help: String,
    },
    /// About the artifact.
    Artifact(ArtifactError),
}

impl RunError {
    /// An error about `part`.
    pub fn new(code: RunCode, part: impl fmt::Display, found: impl fmt::Display) -> RunError {
        RunError::Run {
            code,
            part: part.to_string(),
            found: found.to_string(),
            expected: String::new(),
            help: String::new(),
        }
    }

    /// Adds what was expected.
    pub fn expected(mut self, what: impl fmt::Display) -> RunError {
        if let RunError::Run { expected, .. } = &mut self {
            *expected = what.to_string();
        }
        self
    }

    /// Adds the way out.
    pub fn help(mut self, way: impl fmt::Display) -> RunError {
        if let RunError::Run { help, .. } = &mut self {
            *help = way.to_string();
        }
        self
    }

    /// A device's word that it has no room, told of what did not fit: so many bytes, with so many free. Other errors stay
    /// what they are.
    pub(crate) fn without_room(self, part: impl fmt::Display, bytes: u64, free: u64, help: &str) -> RunError {
        match self {
            RunError::Run { code: RunCode::Memory, .. } => {
                let found = format!("{} asked for, {} free", Size(bytes), Size(free));
                RunError::new(RunCode::Memory, part, found).help(help)
            }
            other => other,
        }
    }

    /// The stable code, such as `E0803`.
    pub fn code(&self) -> &'static str {
        match self {
            RunError::Run { code, .. } => code.code(),
            RunError::Artifact(e) => e.code(),
        }
    }
}

/// A number of bytes for people.
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 => write!(f, "{:.2} GiB", n as f64 / (1u64 << 30) as f64),
            n if n >= 1 << 20 => write!(f, "{:.1} MiB", n as f64 / (1 << 20) as f64),
            n => write!(f, "{n} bytes"),
        }
    }
}

impl From<Full> for RunError {
    fn from(full: Full) -> RunError {
        let tokens = full.limit as u64 * PAGE_TOKENS as u64;
        RunError::new(RunCode::CacheFull, "caches", format_args!("room for {tokens} tokens, all of it taken"))
            .help("give the caches more memory, shorten the sequences, or drop some")
    }
}

impl From<ArtifactError> for RunError {
    fn from(e: ArtifactError) -> RunError {
        RunError::Artifact(e)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, part, lines) = match self {
            RunError::Artifact(e) => return e.fmt(f),
            RunError::Run { code, part, found, expected, help } => {
                (code, part, [("found", found), ("expected", expected), ("help", help)])
            }
        };
        write!(f, "{}: {}", code.code(), code.title())?;
        if !part.is_empty() {
            write!(f, ": {part}")?;
        }
        for (label, text) in lines {
            if !text.is_empty() {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for RunError {}
