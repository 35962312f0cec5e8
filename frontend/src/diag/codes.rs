//! The table of codes. A row is `Name CODE "title" "explanation";` under its stage; to add one, add the row, its
//! entry in `docs/errors.md` and its case `tests/cases/errors/CODE*.llm`; a test misses whichever is forgotten.

use serde::{Serialize, Serializer};
use std::fmt;

/// Whether the text can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, though perhaps it does not mean what it seems to.
    Warning,
}

macro_rules! codes {
    ($($stage:ident $stage_doc:literal { $($name:ident $code:ident $title:literal $explanation:literal;)* })*) => {
        /// The part of the language that a code belongs to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage { $(#[doc = $stage_doc] $stage,)* }

        impl Stage {
            /// Every stage, in order.
            pub const ALL: &'static [Stage] = &[$(Stage::$stage,)*];

            /// What its codes are about.
            pub const fn doc(self) -> &'static str { match self { $(Stage::$stage => $stage_doc,)* } }
        }

        /// A kind of mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $explanation] $name,)*)* }

        impl Code {
            /// Every code, in the table's order.
            pub const ALL: &'static [Code] = &[$($(Code::$name,)*)*];

            /// The stable name: `E0301`.
            pub const fn code(self) -> &'static str { match self { $($(Code::$name => stringify!($code),)*)* } }

            /// A short title.
            pub const fn title(self) -> &'static str { match self { $($(Code::$name => $title,)*)* } }

            /// One sentence.
            pub const fn explanation(self) -> &'static str { match self { $($(Code::$name => $explanation,)*)* } }

            /// What the code is about.
            pub const fn stage(self) -> Stage { match self { $($(Code::$name => Stage::$stage,)*)* } }
        }
    };
}

codes! {
    Lexical "characters and words" {
        UnexpectedCharacter E0101 "unexpected character" "No word or sign of the language begins with this character.";
        UnterminatedText E0102 "text without an end" "A text in quotes ends on the line where it begins.";
        BadNumber E0103 "not a number" "A number is digits, perhaps a point and digits, perhaps an exponent, and must fit its type.";
        TextTooLong E0104 "text too long" "A model text has at most 4 MiB.";
    }
    Syntax "how words make a model" {
        UnexpectedToken E0201 "unexpected word" "The grammar expects something else here.";
        Unclosed E0202 "bracket without its partner" "Every opening bracket needs its closing one.";
        TooDeep E0203 "nested too deeply" "Expressions and blocks nest at most 200 levels deep.";
        ReservedWord E0204 "reserved word" "A word of the grammar cannot be a name.";
        ChainedComparison E0205 "comparisons do not chain" "`a < b < c` has no meaning here; `a < b and b < c` has.";
        BadLayout E0206 "malformed layout" "The text after `as` lists the file's dimensions: names, grouped by parentheses where several are merged.";
        BadTemplate E0207 "malformed name pattern" "Braces in a tensor name hold the name of a layer family, an axis or a size.";
        Misplaced E0208 "not allowed here" "The declaration or statement is legal elsewhere, but not at this place.";
    }
    Names "which name means what" {
        UnknownGroup E0381 "unknown group" "`include` names a `group` declared at the top level of this text or of the standard library.";
        IncludedTwice E0382 "group included twice" "A group's names would be declared twice; that includes a group that includes itself.";
        GroupArguments E0383 "wrong arguments for a group" "`include` gives one expression for each of the group's parameters.";
    }
}

impl Code {
    /// Codes that begin with `W` are warnings.
    pub fn severity(self) -> Severity {
        if self.code().starts_with('W') { Severity::Warning } else { Severity::Error }
    }

    /// The code of that stable name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.code() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascending_within_their_stage() {
        for stage in Stage::ALL {
            let names: Vec<_> = Code::ALL.iter().filter(|c| c.stage() == *stage).map(|c| c.code()).collect();
            assert!(names.is_sorted_by(|a, b| a[1..] < b[1..]), "{stage:?}: {names:?}");
        }
        let mut all: Vec<_> = Code::ALL.iter().map(|c| c.code()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), Code::ALL.len());
    }
}
