//! Numbers and constant expressions. Arithmetic wraps at 64 bits, as PTX's does.

use super::PtxError;
use super::ast::Number;
use super::parser::Parser;
use super::token::Kind;

/// `0x1f`, `0f3F800000`, `-1.5`, `(2+3)*4`
pub fn number(p: &mut Parser) -> Result<Number, PtxError> {
    match float(p)? {
        Some(number) => Ok(number),
        None => expression(p, 0).map(Number::Int),
    }
}

/// An integer of a declaration: a size, a count.
pub fn integer(p: &mut Parser) -> Result<u64, PtxError> {
    expression(p, 0)
}

/// `0f3F800000`, `0d3FF0000000000000`, `1.5`, each perhaps after a sign.
fn float(p: &mut Parser) -> Result<Option<Number>, PtxError> {
    let negative = p.is(b'-');
    let token = p.peek_at(negative as usize);
    if token.kind != Kind::Number || !is_float(token.text) {
        return Ok(None);
    }
    if negative {
        p.take();
    }
    let text = token.text;
    let bits = match text.as_bytes() {
        [b'0', b'f' | b'F', digits @ ..] if digits.len() == 8 => {
            u32::from_str_radix(&text[2..], 16).ok().map(|b| Number::Single(b ^ ((negative as u32) << 31)))
        }
        [b'0', b'd' | b'D', digits @ ..] if digits.len() == 16 => {
            u64::from_str_radix(&text[2..], 16).ok().map(|b| Number::Double(b ^ ((negative as u64) << 63)))
        }
        [b'0', b'f' | b'F' | b'd' | b'D', ..] => None,
        _ => text.parse::<f64>().ok().map(|x| Number::Double(if negative { -x } else { x }.to_bits())),
    };
    match bits {
        Some(number) => {
            p.take();
            Ok(Some(number))
        }
        None => p.expected("a number"),
    }
}

fn is_float(text: &str) -> bool {
    let prefix = |letters: &[u8]| text.len() > 1 && text.as_bytes()[0] == b'0' && letters.contains(&text.as_bytes()[1]);
    prefix(b"fFdD") || (!prefix(b"xX") && (text.contains('.') || text.contains(['e', 'E'])))
}

/// Binary operators and how tightly they bind.
fn operator(p: &Parser) -> Option<(u8, u8, usize)> {
    let Kind::Sign(sign) = p.peek().kind else { return None };
    let twice = p.peek_at(1).kind == Kind::Sign(sign);
    match sign {
        b'|' if !twice => Some((sign, 1, 1)),
        b'^' => Some((sign, 2, 1)),
        b'&' if !twice => Some((sign, 3, 1)),
        b'<' | b'>' if twice => Some((sign, 4, 2)),
        b'+' | b'-' => Some((sign, 5, 1)),
        b'*' | b'/' | b'%' => Some((sign, 6, 1)),
        _ => None,
    }
}

/// `a + b * c`, of operators that bind at least as tightly as `least`.
fn expression(p: &mut Parser, least: u8) -> Result<u64, PtxError> {
    let mut left = p.nested(unary)?;
    while let Some((sign, tightness, tokens)) = operator(p).filter(|(_, t, _)| *t > least) {
        for _ in 0..tokens {
            p.take();
        }
        let right = p.nested(|p| expression(p, tightness))?;
        left = match apply(sign, left, right) {
            Some(value) => value,
            None => return p.error("a division by zero"),
        };
    }
    Ok(left)
}

fn apply(sign: u8, a: u64, b: u64) -> Option<u64> {
    Some(match sign {
        b'|' => a | b,
        b'^' => a ^ b,
        b'&' => a & b,
        b'<' => a.checked_shl(b.min(64) as u32).unwrap_or(0),
        b'>' => (a as i64 >> b.min(63)) as u64,
        b'+' => a.wrapping_add(b),
        b'-' => a.wrapping_sub(b),
        b'*' => a.wrapping_mul(b),
        b'/' => (a as i64).checked_div(b as i64)? as u64,
        _ => (a as i64).checked_rem(b as i64)? as u64,
    })
}

/// `-x`, `~x`, `!x`, `(x)`, `7`
fn unary(p: &mut Parser) -> Result<u64, PtxError> {
    let token = p.peek();
    match token.kind {
        Kind::Sign(sign @ (b'-' | b'+' | b'~' | b'!')) => {
            p.take();
            let value = p.nested(unary)?;
            Ok(match sign {
                b'-' => value.wrapping_neg(),
                b'~' => !value,
                b'!' => (value == 0) as u64,
                _ => value,
            })
        }
        Kind::Sign(b'(') => {
            p.take();
            // A cast says how the value is read; with 64 bits of two's complement it is the same.
            let cast = p.eat_dotted("s64") || p.eat_dotted("u64");
            let value = if cast { 0 } else { p.nested(|p| expression(p, 0))? };
            p.expect(b')')?;
            if cast { p.nested(unary) } else { Ok(value) }
        }
        Kind::Number => match integer_literal(token.text) {
            Some(value) => {
                p.take();
                Ok(value)
            }
            None => p.expected("an integer"),
        },
        _ => p.expected("a number"),
    }
}

/// `42`, `0x2a`, `052`, `0b101010`, each perhaps with `U`.
fn integer_literal(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('U').unwrap_or(text);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}
