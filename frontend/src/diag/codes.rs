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
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        UnknownName E0301 "unknown name" "Nothing that is in sight here has this name.";
        UnknownAxis E0302 "unknown axis" "Axes are declared with `axis` or `seq`, or are a function's parameters.";
        UnknownFunction E0303 "unknown function" "No function of this text, of the standard library or of the language has this name.";
        Shadowed E0304 "name taken" "Axes, values and functions share one name space, and nothing hides another name.";
        CyclicFunction E0305 "function that calls itself" "Functions are put in the place of their calls, so none may lead back to itself.";
        CyclicDefinition E0306 "value defined by itself" "A declaration may use others, in any order, but none may lead back to itself.";
        WrongArguments E0307 "wrong arguments" "A call gives each of a function's axes and parameters exactly once.";
        WrongKind E0308 "name of another kind" "The name is declared, but as something that cannot stand here.";
        NotRebindable E0309 "nothing to rebind" "`x = ...` gives a value from outside the loop its next value; inside `for` only.";
        UnknownGroup E0381 "unknown group" "`include` names a `group` declared at the top level of this text or of the standard library.";
        IncludedTwice E0382 "group included twice" "A group's names would be declared twice; that includes a group that includes itself.";
        GroupArguments E0383 "wrong arguments for a group" "`include` gives one expression for each of the group's parameters.";
    }
    Axes "which axes a value has" {
        OuterSum E0401 "accidental outer sum" "In a sum, a difference, a maximum or a choice of reals one operand's axes contain the other's.";
        LooseFactor E0402 "factor without the summed axis" "Every factor of a summed product has every axis that is summed over.";
        MissingAxis E0403 "axis not there" "Only an axis that the value has can be reduced or read.";
        Diagonal E0404 "accidental diagonal" "Renaming an axis to one that the value already has would read its diagonal.";
        WrongAxes E0405 "axes differ from the annotation" "A value annotated with axes has exactly these, in any order.";
        FreeView E0406 "view axis in an output" "An axis declared as a view of a sequence cannot be an axis of an output.";
        RepeatedAxis E0407 "axis given twice" "The axes of a list, of a call or of an index are all different.";
    }
    Types "what kind of value stands where" {
        WrongType E0501 "wrong type" "Integers become reals by themselves, and nothing else changes its type.";
        NotBuildTime E0502 "not known when the model is built" "Conditions of `if`, sizes and arguments such as `eps: real` are known when the model is built.";
        NotAnIndex E0503 "index is not an integer" "A value is read at integers; `floor`, `ceil` and `trunc` make them.";
    }
    Numbers "sizes and ranges" {
        NotASize E0901 "not a size" "A size is a whole number, and an axis that is used has at least one index.";
        OutOfRange E0902 "index may be out of range" "Every index must be provably inside the axis that it reads.";
        TooManyWinners E0903 "more winners than candidates" "`topk[a, j]` needs an axis `j` no longer than `a`.";
        TooLarge E0904 "model too large to compile" "Elaboration is limited, so that no text or config can exhaust the machine.";
        ChosenError E0905 "refused by the text" "The model's text reached an `error` with the sizes and flags at hand.";
    }
    Sources "what is read from a checkpoint" {
        MissingSource E1001 "not in the checkpoint" "None of the alternatives exists in the file, and the value is needed.";
        WrongShape E1002 "shape differs from the checkpoint" "The tensor's dimensions are the lengths of the axes that it is declared with.";
        UnreadTensor E1003 "tensor never read" "Every tensor of the file is read or listed under `ignore`, so that none is forgotten unnoticed.";
        MisplacedSource E1004 "source outside a declaration" "`hf` and `gguf` stand in declarations only.";
        WrongConfig E1005 "unusable config value" "The value in the file's config has another type or length than the text needs.";
        NoModel E1006 "no model for this checkpoint" "No text's `for` header names the checkpoint's architecture.";
    }
    Doubts "what may not be meant" {
        ComparedSequences W1101 "positions of two sequences compared" "Positions of different sequences count from different beginnings.";
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
