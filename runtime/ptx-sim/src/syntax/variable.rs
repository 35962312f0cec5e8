//! Declarations of variables and registers.

use super::PtxError;
use super::ast::{Init, Registers, Space, Variable};
use super::constant::{integer, number};
use super::parser::Parser;
use super::token::Kind;
use crate::types::Type;

/// The space that a directive names.
pub fn space(text: &str) -> Option<Space> {
    Some(match text {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

/// `.align 16 .v4 .f32`: what stands before the names.
struct Head {
    align: Option<u64>,
    vector: u32,
    ty: Type,
}

/// `.align 16 .b8`, `.u64 .ptr .global .align 1`
fn head(p: &mut Parser) -> Result<Head, PtxError> {
    let (mut align, mut vector, mut ty) = (None, 1, None);
    while p.peek().kind == Kind::Dotted {
        match p.peek().text {
            "align" if ty.is_none() => {
                p.take();
                align = Some(alignment(p)?);
            }
            "ptr" => {
                p.take();
                pointer(p)?;
            }
            "v2" | "v4" => vector = if p.take().text == "v2" { 2 } else { 4 },
            text => match Type::parse(text) {
                Some(found) if ty.is_none() => {
                    p.take();
                    ty = Some(found);
                }
                _ => return p.expected("a type"),
            },
        }
    }
    match ty {
        Some(ty) => Ok(Head { align, vector, ty }),
        None => p.expected("a type"),
    }
}

fn alignment(p: &mut Parser) -> Result<u64, PtxError> {
    let align = integer(p)?;
    if align.is_power_of_two() && align <= 1 << 16 { Ok(align) } else { p.error("an alignment is a power of two") }
}

/// `.ptr .global .align 4`: what a pointer parameter points to. It promises; nothing depends on it here.
fn pointer(p: &mut Parser) -> Result<(), PtxError> {
    while p.peek().kind == Kind::Dotted {
        match p.peek().text {
            "align" => {
                p.take();
                alignment(p)?;
            }
            text if space(text).is_some() => {
                p.take();
            }
            _ => break,
        }
    }
    Ok(())
}

/// `.reg .b32 %r<5>, %x;` after its first word.
pub fn registers<'s>(p: &mut Parser<'s>) -> Result<Registers<'s>, PtxError> {
    let place = p.place();
    let head = head(p)?;
    let names = p.list(|p| Ok((p.word()?, count(p)?)))?;
    p.expect(b';')?;
    Ok(Registers { ty: head.ty, vector: head.vector, names, place })
}

/// `<5>`
fn count(p: &mut Parser) -> Result<Option<u64>, PtxError> {
    if !p.eat(b'<') {
        return Ok(None);
    }
    let token = p.peek();
    let count = token.text.parse::<u64>();
    let Ok(count) = count else { return p.expected("a number of registers") };
    p.take();
    p.expect(b'>')?;
    Ok(Some(count))
}

/// `.shared .align 16 .b8 tile[1024], other;` after its space.
pub fn variables<'s>(p: &mut Parser<'s>, space: Space, external: bool) -> Result<Vec<Variable<'s>>, PtxError> {
    p.eat_dotted("managed");
    if p.eat_dotted("attribute") {
        p.expect(b'(')?;
        while !p.eat(b')') {
            if p.at_end() {
                return p.expected("`)`");
            }
            p.take();
        }
    }
    let head = head(p)?;
    let variables = p.list(|p| one(p, &head, space, external))?;
    p.expect(b';')?;
    Ok(variables)
}

/// `.param .u64 .ptr .global .align 1 name` of a function's head.
pub fn parameter<'s>(p: &mut Parser<'s>) -> Result<Variable<'s>, PtxError> {
    if !p.eat_dotted("param") && !p.eat_dotted("reg") {
        return p.expected("`.param`");
    }
    let head = head(p)?;
    one(p, &head, Space::Param, false)
}

/// `tile[4][8] = { ... }`
fn one<'s>(p: &mut Parser<'s>, head: &Head, space: Space, external: bool) -> Result<Variable<'s>, PtxError> {
    let place = p.place();
    let name = p.word()?;
    let count = count(p)?;
    let mut elements = Some(1u64);
    while p.eat(b'[') {
        let length = if p.is(b']') { None } else { Some(integer(p)?) };
        p.expect(b']')?;
        elements = match (elements, length) {
            (Some(n), Some(length)) => match n.checked_mul(length) {
                Some(n) => Some(n),
                None => return p.error(format!("`{name}` is larger than memory can be")),
            },
            _ => None,
        };
    }
    let mut init = Vec::new();
    if p.eat(b'=') {
        initialiser(p, &mut init)?;
    }
    if elements.is_none() && !init.is_empty() {
        elements = Some(init.len() as u64);
    }
    let natural = head.ty.bytes() as u64 * head.vector as u64;
    let align = head.align.unwrap_or(natural.next_power_of_two());
    Ok(Variable { name, space, external, align, ty: head.ty, vector: head.vector, elements, count, init, place })
}

/// `7`, `other+4`, `generic(other)`, `{1, {2, 3}}`
fn initialiser<'s>(p: &mut Parser<'s>, out: &mut Vec<Init<'s>>) -> Result<(), PtxError> {
    if p.eat(b'{') {
        while !p.is(b'}') {
            p.nested(|p| initialiser(p, out))?;
            if !p.eat(b',') {
                break;
            }
        }
        return p.expect(b'}');
    }
    if p.peek().kind != Kind::Word {
        out.push(Init::Number(number(p)?));
        return Ok(());
    }
    let generic = p.peek().text == "generic" && p.peek_at(1).kind == Kind::Sign(b'(');
    if generic {
        p.take();
        p.take();
    }
    let name = p.word()?;
    if generic {
        p.expect(b')')?;
    }
    let offset = if p.is(b'+') || p.is(b'-') { integer(p)? as i64 } else { 0 };
    out.push(Init::Symbol(name, offset, generic));
    Ok(())
}
