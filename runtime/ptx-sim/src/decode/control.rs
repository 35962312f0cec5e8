//! Branches and ends.

use super::arithmetic::Decoded;
use super::builder::Name;
use super::cx::Cx;
use crate::program::Op;
use crate::syntax::PtxError;
use crate::syntax::ast::Operand;
use crate::types::Type;

/// `bra $L`, `bra.uni $L`
pub fn bra(cx: &mut Cx) -> Decoded {
    cx.ignore(&["uni"]);
    cx.arity(1..=1)?;
    Ok(Op::Branch { to: label(cx, cx.operand(0)?)? })
}

fn label<'s>(cx: &mut Cx<'_, 's, '_>, operand: &Operand<'s>) -> Result<u32, PtxError> {
    match operand {
        Operand::Name(name, None) => match cx.name_of(name)? {
            Name::Label(label) => Ok(label),
            _ => cx.error(format!("`{name}` is not a label")),
        },
        _ => cx.error("a label is needed"),
    }
}

/// `brx.idx %r1, table`
pub fn brx(cx: &mut Cx) -> Decoded {
    if !cx.take("idx") {
        return cx.unknown();
    }
    cx.ignore(&["uni"]);
    cx.arity(2..=2)?;
    let index = cx.from(0, Type::U32)?;
    let Operand::Name(name, None) = cx.operand(1)? else { return cx.error("a list of labels is needed") };
    let Name::Targets(names) = cx.name_of(name)? else { return cx.error(format!("`{name}` is not a list of labels")) };
    let targets = names.iter().map(|n| label(cx, &Operand::Name(n, None))).collect::<Result<_, _>>()?;
    Ok(Op::BranchTable { targets, index })
}

/// `ret`: the end of a kernel, or of a callee whose body stands here.
pub fn ret(cx: &mut Cx) -> Decoded {
    cx.ignore(&["uni"]);
    Ok(match cx.b.return_label() {
        Some(to) => Op::Branch { to },
        None => Op::Exit,
    })
}

pub fn exit(_: &mut Cx) -> Decoded {
    Ok(Op::Exit)
}

pub fn trap(_: &mut Cx) -> Decoded {
    Ok(Op::Trap)
}
