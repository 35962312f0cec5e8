//! The syntax tree: names and numbers as written, nothing resolved. It borrows from the text.

use super::Place;
use crate::types::Type;

/// A PTX module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module<'s> {
    /// `.version 8.0`
    pub version: (u32, u32),
    /// `.target sm_90a, debug`
    pub target: Vec<&'s str>,
    /// `.address_size 64`
    pub address_size: u32,
    /// Variables outside functions.
    pub variables: Vec<Variable<'s>>,
    /// Kernels and functions, declarations included.
    pub functions: Vec<Function<'s>>,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Any of the others, told by the address.
    Generic,
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// A variable, a kernel's or a function's parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable<'s> {
    /// Its name; with `count` the start of the names `name0`, `name1`, ...
    pub name: &'s str,
    /// `.shared`
    pub space: Space,
    /// `.extern`
    pub external: bool,
    /// `.align 16`, or what its type asks for.
    pub align: u64,
    /// Element type.
    pub ty: Type,
    /// `.v4`: elements that belong together.
    pub vector: u32,
    /// `[4][8]`: 1 without brackets, `None` for `[]`.
    pub elements: Option<u64>,
    /// `name<4>`
    pub count: Option<u64>,
    /// `= { ... }`, flattened.
    pub init: Vec<Init<'s>>,
    /// Where its name stands.
    pub place: Place,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Init<'s> {
    /// A number.
    Number(Number),
    /// The address of a variable and a distance; generic where the flag is set.
    Symbol(&'s str, i64, bool),
}

/// A number as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer, wrapped to 64 bits.
    Int(u64),
    /// `0f3F800000`
    Single(u32),
    /// `0d3FF0000000000000`, `1.0`
    Double(u64),
}

/// A kernel or a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function<'s> {
    /// Its name.
    pub name: &'s str,
    /// `.entry`
    pub kernel: bool,
    /// `(.param .b32 result)` of a function.
    pub results: Vec<Variable<'s>>,
    /// Parameters.
    pub params: Vec<Variable<'s>>,
    /// `.maxntid 128` and the like: name and numbers.
    pub limits: Vec<(&'s str, Vec<u64>)>,
    /// Statements; `None` for a declaration.
    pub body: Option<Vec<Statement<'s>>>,
    /// Where its name stands.
    pub place: Place,
}

/// A statement of a function's body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement<'s> {
    /// `.reg .b32 %r<5>, %x;`
    Registers(Registers<'s>),
    /// `.shared .b8 tile[1024];`
    Variable(Variable<'s>),
    /// `$L__BB0_1:`
    Label(&'s str, Place),
    /// `table: .branchtargets a, b;`
    Targets(&'s str, Vec<&'s str>, Place),
    /// An instruction.
    Instruction(Box<Instruction<'s>>),
    /// `{ ... }`
    Block(Vec<Statement<'s>>),
}

/// A declaration of registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Registers<'s> {
    /// Their type.
    pub ty: Type,
    /// `.v2`, `.v4`; otherwise 1.
    pub vector: u32,
    /// Names; with a count `%r<5>` names `%r0` to `%r4`.
    pub names: Vec<(&'s str, Option<u64>)>,
    /// Where it stands.
    pub place: Place,
}

/// An instruction as written: `@!%p1 add.s32 %r1, %r2, 3;`
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction<'s> {
    /// The predicate's name, and whether it is negated.
    pub guard: Option<(&'s str, bool)>,
    /// `add`
    pub name: &'s str,
    /// `["s32"]`
    pub modifiers: Vec<&'s str>,
    /// Operands.
    pub operands: Vec<Operand<'s>>,
    /// Where it stands.
    pub place: Place,
}

impl Instruction<'_> {
    /// `add.s32`
    pub fn mnemonic(&self) -> String {
        self.modifiers.iter().fold(self.name.to_string(), |s, m| s + "." + m)
    }
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'s> {
    /// `%r1`, `tile`, `$L__BB0_1`, `%tid.x`, `_`
    Name(&'s str, Option<&'s str>),
    /// `!%p1`
    Not(&'s str),
    /// `42`, `0f00000000`
    Number(Number),
    /// `tile+16`
    Sum(&'s str, i64),
    /// `[%rd1+16]`, `[tile]`, `[map, {%r1, %r2}]`
    Address {
        /// A register or a variable; `None` for a bare number.
        base: Option<&'s str>,
        /// What is added.
        offset: i64,
        /// What follows a comma inside the brackets.
        coordinates: Option<Vec<Operand<'s>>>,
    },
    /// `{%r1, %r2}`
    Vector(Vec<Operand<'s>>),
    /// `%r1|%p1`
    Pair(Box<Operand<'s>>, Box<Operand<'s>>),
    /// `(param0, param1)`
    List(Vec<Operand<'s>>),
}
