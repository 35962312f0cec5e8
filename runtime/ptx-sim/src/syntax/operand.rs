//! Operands of instructions.

use super::PtxError;
use super::ast::Operand;
use super::constant::{integer, number};
use super::parser::Parser;
use super::token::Kind;

/// `%r1`, `%r1|%p1`, `{%r1, %r2}`, `[%rd1+8]`, `!%p1`, `42`, `(a, b)`
pub fn operand<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    let first = single(p)?;
    if !p.eat(b'|') {
        return Ok(first);
    }
    Ok(Operand::Pair(Box::new(first), Box::new(single(p)?)))
}

fn single<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    match p.peek().kind {
        Kind::Word => name(p),
        Kind::Sign(b'{') => vector(p),
        Kind::Sign(b'[') => address(p),
        Kind::Sign(b'!') if p.peek_at(1).kind == Kind::Word => {
            p.take();
            p.word().map(Operand::Not)
        }
        Kind::Sign(b'(') if p.peek_at(1).kind == Kind::Word || p.peek_at(1).kind == Kind::Sign(b')') => list(p),
        _ => number(p).map(Operand::Number),
    }
}

/// `%r1`, `%tid.x`, `tile+16`
fn name<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    let name = p.word()?;
    if p.is(b'+') || p.is(b'-') {
        return Ok(Operand::Sum(name, integer(p)? as i64));
    }
    Ok(Operand::Name(name, p.dotted()))
}

/// `{%r1, %r2}`
fn vector<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    p.expect(b'{')?;
    let parts = p.nested(|p| p.list(operand))?;
    p.expect(b'}')?;
    Ok(Operand::Vector(parts))
}

/// `(param0, param1)`
fn list<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    p.expect(b'(')?;
    let parts = if p.is(b')') { Vec::new() } else { p.nested(|p| p.list(operand))? };
    p.expect(b')')?;
    Ok(Operand::List(parts))
}

/// `[%rd1]`, `[%rd1+16]`, `[tile+-4]`, `[1024]`, `[%rd1, {%r1, %r2}]`
fn address<'s>(p: &mut Parser<'s>) -> Result<Operand<'s>, PtxError> {
    p.expect(b'[')?;
    let base = if p.peek().kind == Kind::Word { Some(p.word()?) } else { None };
    let offset = match base {
        Some(_) if p.is(b'+') || p.is(b'-') => integer(p)?,
        Some(_) => 0,
        None => integer(p)?,
    };
    let coordinates = if p.eat(b',') { Some(p.nested(|p| p.list(operand))?) } else { None };
    p.expect(b']')?;
    Ok(Operand::Address { base, offset: offset as i64, coordinates })
}
