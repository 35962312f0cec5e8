//! The syntax tree: what the parser makes of a text and the printer writes back. One enum per grammar rule, a span
//! on every node, nothing resolved. Comments and blank lines are kept beside the tree, by position.

use crate::diag::{FileId, Span};
use llmc_artifact::{ScalarOp, SourceKind, Type};
use serde::Serialize;

/// One text: functions, groups and models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct File {
    /// Which text.
    pub id: FileId,
    /// What it declares, in order.
    pub items: Vec<Item>,
    /// Comments and blank lines, in order of position.
    pub trivia: Vec<Trivia>,
}

/// What the grammar passes over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trivia {
    /// Which.
    pub kind: TriviaKind,
    /// Where.
    pub span: Span,
}

/// A comment or a blank line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum TriviaKind {
    /// `# text`, trimmed; `own_line` when nothing stands before it on its line.
    Comment {
        /// With its `#`.
        text: String,
        /// Nothing stands before it on its line.
        own_line: bool,
    },
    /// One or more empty lines.
    BlankLine,
}

/// A name where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// Text in quotes, the quotes not included in `text` but in `span`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Text {
    /// What stands between the quotes; there are no escapes.
    pub text: String,
    /// Where, with the quotes.
    pub span: Span,
}

/// A declaration at the top level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Item {
    /// `fn`
    Fn(Function),
    /// `group`
    Group(Group),
    /// `model`
    Model(Model),
}

/// `fn mean[m](x[m, ..]) -> [..x] { sum[m](x) / len(m) }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Function {
    /// Its name.
    pub name: Name,
    /// Axis parameters.
    pub axes: Vec<Name>,
    /// Value parameters.
    pub params: Vec<Param>,
    /// The declared result; inferred when absent.
    pub result: Option<TensorType>,
    /// What it computes.
    pub body: Block,
    /// All of it.
    pub span: Span,
}

/// A parameter: `x[m, ..]`, `p[..]: int`, `eps: real`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// What it takes.
    pub ty: ParamType,
}

/// What a parameter takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ParamType {
    /// A tensor.
    Tensor(TensorType),
    /// A build-time value.
    Static(StaticKind),
}

/// Axes and an element type: `[m, ..x]: int`; real where no type is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorType {
    /// Axes that must be there.
    pub axes: Vec<Name>,
    /// `..` (any others) or `..x` (parameter x's others).
    pub rest: Option<Rest>,
    /// The element type as written.
    pub element: Option<Type>,
    /// All of it.
    pub span: Span,
}

/// `..` or `..x`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rest {
    /// The parameter whose other axes are meant.
    pub of: Option<Name>,
    /// All of it.
    pub span: Span,
}

/// The kinds of build-time value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum StaticKind {
    /// A positive integer.
    Size,
    /// A real number.
    Real,
    /// A truth value.
    Flag,
    /// Text, or a list of texts.
    Text,
}

impl StaticKind {
    /// Every kind.
    pub const ALL: &'static [StaticKind] = &[StaticKind::Size, StaticKind::Real, StaticKind::Flag, StaticKind::Text];

    /// The keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            StaticKind::Size => "size",
            StaticKind::Real => "real",
            StaticKind::Flag => "flag",
            StaticKind::Text => "text",
        }
    }
}

/// `group rope(base) { real theta = hf "rope_theta" | base }`: declarations that several models share.
///
/// `include rope(1e6)` puts them in its place, the parameters replaced. The names they declare become the model's
/// own; names they use and do not declare are looked up in the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// Parameters: expressions stand for them.
    pub params: Vec<Name>,
    /// Declarations and statements.
    pub members: Vec<Member>,
    /// All of it.
    pub span: Span,
}

/// `model llama for hf "llama", gguf "llama" { ... }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: Name,
    /// The checkpoints it fits; none when it takes no weights from files.
    pub targets: Vec<Target>,
    /// Declarations and statements, in order.
    pub members: Vec<Member>,
    /// All of it.
    pub span: Span,
}

/// `hf "gemma3" at "text_config." drop "language_model." when exists(hf "text_config")`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// Of which kind of file.
    pub kind: SourceKind,
    /// The architecture's name in the file.
    pub architecture: Text,
    /// Prefix of every config key.
    pub at: Option<Text>,
    /// Prefix taken off tensor names that have it.
    pub drop: Option<Text>,
    /// A further condition.
    pub when: Option<Expr>,
    /// All of it.
    pub span: Span,
}

/// What a model or a group consists of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Member {
    /// Declares.
    Decl(Decl),
    /// Computes.
    Stmt(Stmt),
}

/// A declaration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decl {
    /// Which.
    pub kind: DeclKind,
    /// All of it.
    pub span: Span,
}

/// The declarations.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::large_enum_variant, reason = "a model has a few dozen; patterns without boxes read better")]
pub enum DeclKind {
    /// `size heads = hf "num_attention_heads" | 32`
    Static(StaticKind, Vec<Static>),
    /// `axis g = heads / kv, s = t`
    Axis(Vec<Definition>),
    /// `layers l = count`: a family of layers; an index over it is a build-time value.
    Layers(Vec<Definition>),
    /// `seq t <= places`
    Seq(Seq),
    /// `input tokens[t]: int < vocab = 0`
    Input(Input),
    /// `weight wq[l][h, e, m] = hf "..." | gguf "..."`
    Weight(Vec<Weight>),
    /// `ignore hf "cls.*"`: tensors that may go unread.
    Ignore(Vec<Source>),
    /// `include rope(1e6)`
    Include(Include),
}

/// `flag local[l] = expr`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Static {
    /// Its name.
    pub name: Name,
    /// Layer families that index it.
    pub family: Vec<Name>,
    /// Its value.
    pub value: Expr,
    /// All of it.
    pub span: Span,
}

/// `name = value`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Definition {
    /// Its name.
    pub name: Name,
    /// Its value: a length, or for an axis the name of a sequence.
    pub value: Expr,
    /// All of it.
    pub span: Span,
}

/// `t <= places`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seq {
    /// Its name.
    pub name: Name,
    /// Its greatest length.
    pub limit: Option<Expr>,
}

/// `types[t]: int < kinds = 0`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Input {
    /// Its name.
    pub name: Name,
    /// Its axes.
    pub axes: AxisList,
    /// Its element type.
    pub element: Type,
    /// Every value is at least 0 and below this.
    pub below: Option<Expr>,
    /// The value where none is given.
    pub default: Option<Expr>,
}

/// `wq[l][h, e, m] = hf "..." as "(h e) m" | gguf "..."`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weight {
    /// Its name.
    pub name: Name,
    /// Layer families.
    pub family: Vec<Name>,
    /// Its axes, in the file's order where no layout says otherwise.
    pub axes: AxisList,
    /// Where it comes from.
    pub value: Expr,
    /// All of it.
    pub span: Span,
}

/// `rope(1e6, longest)`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Include {
    /// Which group.
    pub group: Name,
    /// What its parameters stand for.
    pub args: Vec<Expr>,
}

/// `[h, e, m]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AxisList {
    /// The axes.
    pub names: Vec<Name>,
    /// With the brackets.
    pub span: Span,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stmt {
    /// Which.
    pub kind: StmtKind,
    /// All of it.
    pub span: Span,
}

/// The statements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum StmtKind {
    /// `let q[t, e] = sum[m](wq * x), k = ...`
    Let(Vec<Bind>),
    /// `x = x + y`: gives a name of an enclosing scope its value for the next turn of the loop.
    Rebind(Definition),
    /// `for l { ... }`, `for b = l // 2 { ... }`
    For(For),
    /// `output logits[t, v] = expr if condition`
    Output(Output),
}

/// `for b = l // 2 { ... }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct For {
    /// A layer family.
    pub family: Name,
    /// One value for it; all of them in turn when absent.
    pub value: Option<Expr>,
    /// What is done.
    pub body: Vec<Stmt>,
}

/// `logits[t, v] = expr if condition`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// Its name.
    pub name: Name,
    /// Its axes, exactly, in the order the user receives them.
    pub axes: AxisList,
    /// What it is.
    pub value: Expr,
    /// Present only when this build-time condition holds.
    pub condition: Option<Expr>,
}

/// `q[t, e] = expr`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bind {
    /// Its name.
    pub name: Name,
    /// Its axes, exactly, in any order.
    pub axes: Option<AxisList>,
    /// Its value.
    pub value: Expr,
    /// All of it.
    pub span: Span,
}

/// `{ let d = x - mean[m](x)  w * d }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// Each `let` with its bindings.
    pub lets: Vec<Let>,
    /// The block's value.
    pub value: Box<Expr>,
    /// With the braces.
    pub span: Span,
}

/// One `let`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Let {
    /// Its bindings.
    pub binds: Vec<Bind>,
    /// All of it.
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Expr {
    /// Which.
    pub kind: ExprKind,
    /// All of it.
    pub span: Span,
}

/// The expressions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ExprKind {
    /// `32`
    Int(i64),
    /// `1e-5`
    Real(Number),
    /// `inf`, `pi`
    Constant(Constant),
    /// `true`, `false`
    Bool(bool),
    /// `"silu"`
    Text(String),
    /// `x`
    Name(String),
    /// `hf "model.norm.weight" as "m"`
    Source(Source),
    /// `a | b`: the first whose sources all exist. At least two.
    Choice(Vec<Expr>),
    /// `-a`, `not a`: the operation is `Neg` or `Not`.
    Unary(ScalarOp, Box<Expr>),
    /// `a + b`: the operation is one with an infix sign.
    Binary(ScalarOp, Box<Expr>, Box<Expr>),
    /// `x[t = s, m = 0]`
    Index(Box<Expr>, Vec<IndexArg>),
    /// `softmax[s](x)`, `sum[m](x)`, `exp(x)`
    Call(Call),
    /// `(a)`: kept, because its author wanted it.
    Paren(Box<Expr>),
    /// `if a { b } else if c { d } else { e }`: the conditions are build-time.
    If(If),
    /// `error "no such activation"`: reached only when it is the branch chosen.
    Error(Text),
}

/// A real number and its spelling.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Number {
    /// As written: `1e-5`.
    pub text: String,
    /// What it is.
    pub value: f64,
}

/// A number with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Constant {
    /// Infinity.
    Inf,
    /// The ratio of a circle's circumference to its diameter.
    Pi,
}

impl Constant {
    /// The keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            Constant::Inf => "inf",
            Constant::Pi => "pi",
        }
    }
}

/// `t = s` of an index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IndexArg {
    /// The axis that is read.
    pub axis: Name,
    /// At which place.
    pub at: Expr,
}

/// `softmax[s](x)`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    /// What is called.
    pub callee: Name,
    /// Axis arguments; `None` without brackets.
    pub axes: Option<AxisList>,
    /// Value arguments.
    pub args: Vec<Expr>,
}

/// `if a { b } else { c }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct If {
    /// Conditions and what they choose, at least one.
    pub arms: Vec<(Expr, Block)>,
    /// What is chosen when none holds.
    pub otherwise: Block,
}

/// `hf "model.layers.{l}.self_attn.q_proj.weight" as "(h e) m"`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// Of which kind of file.
    pub kind: SourceKind,
    /// The config key or tensor name.
    pub pattern: Pattern,
    /// The file's dimensions.
    pub layout: Option<Layout>,
    /// All of it.
    pub span: Span,
}

/// A config key or tensor name with holes: `blk.{l}.attn_q.weight`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    /// As written, without quotes.
    pub text: String,
    /// Its pieces, in order.
    pub parts: Vec<PatternPart>,
    /// With the quotes.
    pub span: Span,
}

/// A piece of a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum PatternPart {
    /// These characters.
    Literal(String),
    /// The value of this name: `{l}`.
    Hole(Name),
}

/// The dimensions of a tensor of the file, outermost first, several axes merged into one by parentheses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    /// As written, without quotes.
    pub text: String,
    /// The axes of each dimension, the slowest first.
    pub dims: Vec<Vec<Name>>,
    /// With the quotes.
    pub span: Span,
}
