//! Words and signs.

use crate::diag::Span;
use llmc_artifact::ScalarOp;

/// A word or sign with its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// Which.
    pub kind: TokenKind,
    /// Where.
    pub span: Span,
    /// Nothing but spaces stands before it on its line.
    pub line_start: bool,
}

macro_rules! signs {
    ($($name:ident $sign:literal;)*) => {
        /// What a token is. Keywords are [`TokenKind::Name`]s: which names are keywords depends on the place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum TokenKind {
            /// Letters, digits, underscores, the first no digit.
            Name,
            /// `32`
            Int,
            /// `1e-5`
            Real,
            /// `"silu"`
            Text,
            /// The end of the text.
            End,
            $(#[doc = concat!("`", $sign, "`")] $name,)*
        }

        /// Every sign, longer ones before their beginnings.
        pub const SIGNS: &[(&str, TokenKind)] = &[$(($sign, TokenKind::$name),)*];
    };
}

signs! {
    Arrow "->"; DotDot ".."; SlashSlash "//"; EqEq "=="; Ne "!="; Le "<="; Ge ">=";
    Lt "<"; Gt ">"; Eq "="; Plus "+"; Minus "-"; Star "*"; Slash "/"; Percent "%"; Caret "^"; Bar "|";
    Comma ","; Colon ":"; LParen "("; RParen ")"; LBracket "["; RBracket "]"; LBrace "{"; RBrace "}";
}

impl TokenKind {
    /// For messages: `` `=` ``, "a name".
    pub fn describe(self) -> String {
        match self {
            TokenKind::Name => "a name".into(),
            TokenKind::Int => "an integer".into(),
            TokenKind::Real => "a number".into(),
            TokenKind::Text => "a text in quotes".into(),
            TokenKind::End => "the end of the text".into(),
            sign => {
                let found = SIGNS.iter().find(|(_, kind)| *kind == sign);
                format!("`{}`", found.expect("syntax: every sign is in the table").0)
            }
        }
    }

    /// Whether it closes a bracket.
    pub fn closes(self) -> bool {
        matches!(self, TokenKind::RParen | TokenKind::RBracket | TokenKind::RBrace)
    }
}

/// Words that cannot be names, because an expression may contain them.
pub const RESERVED: &[&str] = &["if", "else", "and", "or", "not", "true", "false", "inf", "pi", "error"];

/// Words that begin a member of a model; anywhere else they are names.
pub const MEMBER_KEYWORDS: &[&str] = &[
    "size", "real", "flag", "text", "axis", "layers", "seq", "input", "weight", "ignore", "include", "let", "for",
    "output",
];

/// How tightly an infix sign binds, and its precedence's name. Higher binds tighter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// `|`
    Choice,
    /// `or`
    Or,
    /// `and`
    And,
    /// `not`
    Not,
    /// `==` and its like; does not chain.
    Compare,
    /// `+ -`
    Sum,
    /// `* / // %`
    Product,
    /// Prefix `-`.
    Negate,
    /// `^`, to the right.
    Power,
    /// Names, numbers, calls, indices, parentheses.
    Atom,
}

/// The precedence of an operation that has a sign; `None` for those written as calls.
pub fn precedence(op: ScalarOp) -> Option<Precedence> {
    use ScalarOp::*;
    Some(match op {
        Or => Precedence::Or,
        And => Precedence::And,
        Not => Precedence::Not,
        Eq | Ne | Lt | Le | Gt | Ge => Precedence::Compare,
        Add | Sub => Precedence::Sum,
        Mul | Div | FloorDiv | Mod => Precedence::Product,
        Neg => Precedence::Negate,
        Pow => Precedence::Power,
        Max | Min | Abs | Exp | Exp2 | Log | Log2 | Sqrt | Recip | Sin | Cos | Tanh | Erf | Floor | Ceil | Trunc
        | Where | ToReal => return None,
    })
}
