//! Kernels, functions and their statements.

use super::PtxError;
use super::ast::{Function, Instruction, Statement, Variable};
use super::constant::integer;
use super::operand::operand;
use super::parser::Parser;
use super::token::Kind;
use super::variable::{parameter, registers, space, variables};

/// `.entry name(...) .maxntid 128 { ... }` and `.func (result) name(...) { ... }`, after the first word.
pub fn function<'s>(p: &mut Parser<'s>, kernel: bool) -> Result<Function<'s>, PtxError> {
    while p.eat_dotted("noreturn") || p.eat_dotted("abi_preserve") {}
    let results = if !kernel && p.is(b'(') { parameters(p)? } else { Vec::new() };
    let place = p.place();
    let name = p.word()?;
    let params = if p.is(b'(') { parameters(p)? } else { Vec::new() };
    let mut limits = Vec::new();
    while p.peek().kind == Kind::Dotted {
        limits.push(limit(p)?);
    }
    let body = if p.is(b'{') {
        Some(block(p)?)
    } else {
        p.expect(b';')?;
        None
    };
    Ok(Function { name, kernel, results, params, limits, body, place })
}

/// `(.param .u64 a, .param .u64 b)`
fn parameters<'s>(p: &mut Parser<'s>) -> Result<Vec<Variable<'s>>, PtxError> {
    p.expect(b'(')?;
    let params = if p.is(b')') { Vec::new() } else { p.list(parameter)? };
    p.expect(b')')?;
    Ok(params)
}

/// `.maxntid 128, 1, 1`, `.noreturn`, `.pragma "x";`
fn limit<'s>(p: &mut Parser<'s>) -> Result<(&'s str, Vec<u64>), PtxError> {
    let name = p.take().text;
    if name == "pragma" {
        pragma(p)?;
        return Ok((name, Vec::new()));
    }
    let numbers = if p.peek().kind == Kind::Number { p.list(integer)? } else { Vec::new() };
    Ok((name, numbers))
}

/// `"nounroll";` after its first word.
pub fn pragma(p: &mut Parser) -> Result<(), PtxError> {
    p.list(|p| if p.take().kind == Kind::Text { Ok(()) } else { p.expected("a string") })?;
    p.expect(b';')
}

/// `{ ... }`
fn block<'s>(p: &mut Parser<'s>) -> Result<Vec<Statement<'s>>, PtxError> {
    p.expect(b'{')?;
    let mut body = Vec::new();
    while !p.eat(b'}') {
        p.nested(|p| statement(p, &mut body))?;
    }
    Ok(body)
}

/// A declaration, a label, an instruction or a block.
fn statement<'s>(p: &mut Parser<'s>, out: &mut Vec<Statement<'s>>) -> Result<(), PtxError> {
    let token = p.peek();
    match token.kind {
        Kind::Sign(b';') => {
            p.take();
        }
        Kind::Sign(b'{') => out.push(Statement::Block(block(p)?)),
        Kind::Dotted => directive(p, out)?,
        Kind::Word if p.peek_at(1).kind == Kind::Sign(b':') => label(p, out)?,
        Kind::Word | Kind::Sign(b'@') => out.push(Statement::Instruction(Box::new(instruction(p)?))),
        _ => return p.expected("a statement"),
    }
    Ok(())
}

/// `.reg ...;`, `.shared ...;`, `.loc 1 2 3`, `.pragma "x";`
fn directive<'s>(p: &mut Parser<'s>, out: &mut Vec<Statement<'s>>) -> Result<(), PtxError> {
    let token = p.take();
    match token.text {
        "reg" => out.push(Statement::Registers(registers(p)?)),
        "loc" => p.skip_line(token.place.line),
        "pragma" => pragma(p)?,
        "extern" => {
            let Some(space) = p.dotted().and_then(space) else { return p.expected("a space") };
            out.extend(variables(p, space, true)?.into_iter().map(Statement::Variable));
        }
        "callprototype" => {
            while !p.eat(b';') {
                if p.at_end() {
                    return p.expected("`;`");
                }
                p.take();
            }
        }
        text => match space(text) {
            Some(space) => out.extend(variables(p, space, false)?.into_iter().map(Statement::Variable)),
            None => {
                return Err(PtxError { place: token.place, message: format!("the directive `.{text}` is not known") });
            }
        },
    }
    Ok(())
}

/// `$L__BB0_1:`, `table: .branchtargets a, b;`
fn label<'s>(p: &mut Parser<'s>, out: &mut Vec<Statement<'s>>) -> Result<(), PtxError> {
    let place = p.place();
    let name = p.word()?;
    p.expect(b':')?;
    if p.eat_dotted("branchtargets") {
        let targets = p.list(Parser::word)?;
        p.expect(b';')?;
        out.push(Statement::Targets(name, targets, place));
    } else {
        out.push(Statement::Label(name, place));
    }
    Ok(())
}

/// `@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+8];`
fn instruction<'s>(p: &mut Parser<'s>) -> Result<Instruction<'s>, PtxError> {
    let guard = if p.eat(b'@') {
        let negated = p.eat(b'!');
        Some((p.word()?, negated))
    } else {
        None
    };
    let place = p.place();
    let name = p.word()?;
    let mut modifiers = Vec::new();
    while let Some(modifier) = p.dotted() {
        modifiers.push(modifier);
    }
    let operands = if p.is(b';') { Vec::new() } else { p.list(operand)? };
    p.expect(b';')?;
    Ok(Instruction { guard, name, modifiers, operands, place })
}
