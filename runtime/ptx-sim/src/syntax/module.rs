//! What stands outside functions.

use super::PtxError;
use super::ast::Module;
use super::constant::integer;
use super::function::{function, pragma};
use super::parser::Parser;
use super::token::Kind;
use super::variable::{space, variables};

/// A whole text.
pub fn module<'s>(p: &mut Parser<'s>) -> Result<Module<'s>, PtxError> {
    let mut module = Module::default();
    if !p.is_dotted("version") {
        return p.expected("`.version`");
    }
    while !p.at_end() {
        item(p, &mut module)?;
    }
    Ok(module)
}

/// A directive, a variable, a function.
fn item<'s>(p: &mut Parser<'s>, module: &mut Module<'s>) -> Result<(), PtxError> {
    let mut external = false;
    loop {
        let token = p.peek();
        let Some(text) = p.dotted() else { return p.expected("a directive") };
        match text {
            "extern" => external = true,
            "visible" | "weak" | "common" => {}
            "version" => return version(p).map(|v| module.version = v),
            "target" => return p.list(Parser::word).map(|t| module.target = t),
            "address_size" => return address_size(p).map(|n| module.address_size = n),
            "entry" => return function(p, true).map(|f| module.functions.push(f)),
            "func" => return function(p, false).map(|f| module.functions.push(f)),
            "file" | "loc" => {
                p.skip_line(token.place.line);
                return Ok(());
            }
            "pragma" => return pragma(p),
            "section" => {
                p.take();
                return p.skip_braces();
            }
            "alias" => {
                p.list(Parser::word)?;
                return p.expect(b';');
            }
            text => {
                let Some(space) = space(text) else {
                    let message = format!("the directive `.{text}` is not known");
                    return Err(PtxError { place: token.place, message });
                };
                module.variables.extend(variables(p, space, external)?);
                return Ok(());
            }
        }
    }
}

/// `8.0`
fn version(p: &mut Parser) -> Result<(u32, u32), PtxError> {
    let token = p.peek();
    let parts = token.text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parts.filter(|_| token.kind == Kind::Number) {
        Some(version) => {
            p.take();
            Ok(version)
        }
        None => p.expected("a version such as `8.0`"),
    }
}

/// `64`
fn address_size(p: &mut Parser) -> Result<u32, PtxError> {
    match integer(p)? {
        64 => Ok(64),
        _ => p.error("only 64-bit addresses are supported"),
    }
}
