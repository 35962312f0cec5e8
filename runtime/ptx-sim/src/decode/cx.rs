//! One instruction being decoded: its modifiers are taken one by one, its operands looked up.

use super::builder::{Builder, Name};
use super::{error, number_bits};
use crate::number::Rounding;
use crate::program::{Address, Guard, Initial, Slot, Special};
use crate::syntax::PtxError;
use crate::syntax::ast::{Instruction, Number, Operand, Space};
use crate::types::Type;
use std::cmp::Ordering;

pub struct Cx<'b, 's, 'm> {
    pub b: &'b mut Builder<'s, 'm>,
    i: &'b Instruction<'s>,
    modifiers: Vec<&'s str>,
    /// Floating-point operations of each thread.
    pub flops: u32,
}

impl<'b, 's, 'm> Cx<'b, 's, 'm> {
    pub fn new(b: &'b mut Builder<'s, 'm>, i: &'b Instruction<'s>) -> Cx<'b, 's, 'm> {
        Cx { b, i, modifiers: i.modifiers.clone(), flops: 0 }
    }

    /// The first word of the mnemonic.
    pub fn name(&self) -> &'s str {
        self.i.name
    }

    pub fn error<T>(&self, message: impl std::fmt::Display) -> Result<T, PtxError> {
        error(self.i.place, format!("`{}`: {message}", self.i.mnemonic()))
    }

    /// The simulator has no such instruction.
    pub fn unknown<T>(&self) -> Result<T, PtxError> {
        error(self.i.place, format!("the instruction `{}` is not known to the simulator", self.i.mnemonic()))
    }

    /// Every modifier was understood.
    pub fn done(&self) -> Result<(), PtxError> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(m) => self.error(format!("the modifier `.{m}` is not known to the simulator")),
        }
    }

    /// Takes a modifier where it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        let found = self.modifiers.iter().position(|m| *m == modifier);
        found.map(|at| self.modifiers.remove(at)).is_some()
    }

    /// Takes all of these that are there: modifiers that change nothing here.
    pub fn ignore(&mut self, modifiers: &[&str]) {
        self.modifiers.retain(|m| !modifiers.contains(m));
    }

    /// Takes all modifiers that start like this.
    pub fn ignore_prefix(&mut self, prefix: &str) {
        self.modifiers.retain(|m| !m.starts_with(prefix));
    }

    /// Takes the first modifier that a table knows.
    pub fn choose<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let found = |m: &&str| table.iter().find(|(n, _)| n == m).map(|(_, v)| *v);
        let (at, value) = self.modifiers.iter().enumerate().find_map(|(i, m)| Some((i, found(m)?)))?;
        self.modifiers.remove(at);
        Some(value)
    }

    /// Takes the first modifier that a table knows; there has to be one.
    pub fn require<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T, PtxError> {
        match self.choose(table) {
            Some(value) => Ok(value),
            None => self.unknown(),
        }
    }

    /// Takes the next type among the modifiers.
    pub fn ty(&mut self) -> Result<Type, PtxError> {
        match self.modifiers.iter().enumerate().find_map(|(i, m)| Some((i, Type::parse(m)?))) {
            Some((_, Type::B128)) => self.error("values of 128 bits are not supported"),
            Some((at, ty)) => {
                self.modifiers.remove(at);
                Ok(ty)
            }
            None => self.unknown(),
        }
    }

    /// `.rn`, `.rz`, ...
    pub fn rounding(&mut self) -> Option<Rounding> {
        self.choose(&[
            ("rn", Rounding::Even),
            ("rna", Rounding::Away),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ])
    }

    pub fn count(&self) -> usize {
        self.i.operands.len()
    }

    pub fn arity(&self, counts: std::ops::RangeInclusive<usize>) -> Result<(), PtxError> {
        if counts.contains(&self.count()) { Ok(()) } else { self.error(format!("{} operands", self.count())) }
    }

    pub fn operand(&self, index: usize) -> Result<&'b Operand<'s>, PtxError> {
        match self.i.operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.error(format!("operand {} is missing", index + 1)),
        }
    }

    /// What a name stands for.
    pub fn name_of(&mut self, name: &'s str) -> Result<Name<'s>, PtxError> {
        match self.b.find(name, self.i.place)? {
            Some(found) => Ok(found),
            None => self.error(format!("`{name}` is not declared")),
        }
    }

    /// A source of a type.
    pub fn from(&mut self, index: usize, ty: Type) -> Result<Slot, PtxError> {
        let operand = self.operand(index)?;
        self.value(operand, ty, false)
    }

    /// A source whose register may be wider.
    pub fn read_wide(&mut self, index: usize, ty: Type) -> Result<Slot, PtxError> {
        let operand = self.operand(index)?;
        self.value(operand, ty, true)
    }

    pub fn value(&mut self, operand: &Operand<'s>, ty: Type, wider: bool) -> Result<Slot, PtxError> {
        match operand {
            Operand::Number(number) => {
                if let (Number::Single(_), true) = (number, ty.bits() > 32 && ty != Type::F64) {
                    return self.error("a single where more bits are needed");
                }
                Ok(self.b.constant(number_bits(*number, ty)))
            }
            Operand::Name(name, part) => self.named(name, *part, ty, wider),
            Operand::Sum(name, offset) => self.symbol(name, *offset, ty),
            _ => self.error("an operand of another kind is needed"),
        }
    }

    fn named(&mut self, name: &'s str, part: Option<&'s str>, ty: Type, wider: bool) -> Result<Slot, PtxError> {
        if let Some(found) = self.b.find(name, self.i.place)? {
            return match found {
                Name::Register { slot, ty: own } if part.is_none() => {
                    self.fits(name, own, ty, wider)?;
                    Ok(slot)
                }
                Name::Place { .. } | Name::Dynamic if part.is_none() => self.symbol(name, 0, ty),
                _ => self.error(format!("`{name}` is not a register here")),
            };
        }
        match special(name, part) {
            Some(special) => Ok(self.b.special(special)),
            None => {
                let dot = part.map_or(String::new(), |p| format!(".{p}"));
                self.error(format!("`{name}{dot}` is not declared, and not a special register that the simulator has"))
            }
        }
    }

    fn fits(&self, name: &str, own: Type, ty: Type, wider: bool) -> Result<(), PtxError> {
        if own.bits() == ty.bits() || (wider && own.bits() > ty.bits()) {
            return Ok(());
        }
        self.error(format!("`{name}` has {} bits, {} are needed", own.bits(), ty.bits()))
    }

    /// The address of a variable, cut to a type.
    fn symbol(&mut self, name: &'s str, offset: i64, ty: Type) -> Result<Slot, PtxError> {
        match self.name_of(name)? {
            Name::Place { at, .. } => Ok(self.b.constant(at.wrapping_add(offset as u64) & ty.mask())),
            Name::Dynamic => Ok(self.b.initial(Initial::Dynamic(offset as u64))),
            _ => self.error(format!("`{name}` has no address")),
        }
    }

    /// A destination of a type.
    pub fn to(&mut self, index: usize, ty: Type) -> Result<Slot, PtxError> {
        let operand = self.operand(index)?;
        Ok(self.target(operand, ty, false)?.0)
    }

    /// A destination whose register may be wider, and its bits.
    pub fn write_wide(&mut self, index: usize, ty: Type) -> Result<(Slot, u32), PtxError> {
        let operand = self.operand(index)?;
        self.target(operand, ty, true)
    }

    pub fn target(&mut self, operand: &Operand<'s>, ty: Type, wider: bool) -> Result<(Slot, u32), PtxError> {
        match operand {
            Operand::Name("_", None) => Ok((self.b.register(), ty.bits())),
            Operand::Name(name, None) => match self.name_of(name)? {
                Name::Register { slot, ty: own } => {
                    self.fits(name, own, ty, wider)?;
                    Ok((slot, own.bits()))
                }
                _ => self.error(format!("`{name}` is not a register")),
            },
            _ => self.error("the result goes to a register"),
        }
    }

    /// A predicate that is written; `None` for `_`.
    pub fn predicate(&mut self, operand: &Operand<'s>) -> Result<Option<u32>, PtxError> {
        match operand {
            Operand::Name("_", None) => Ok(None),
            Operand::Name(name, None) => match self.name_of(name)? {
                Name::Predicate(index) => Ok(Some(index)),
                _ => self.error(format!("`{name}` is not a predicate")),
            },
            _ => self.error("a predicate is needed"),
        }
    }

    /// A predicate that is read: `%p1`, `!%p1`, `1`.
    pub fn guard(&mut self, index: usize) -> Result<Guard, PtxError> {
        let (name, negated) = match self.operand(index)? {
            Operand::Name(name, None) => (*name, false),
            Operand::Not(name) => (*name, true),
            Operand::Number(Number::Int(n)) => return Ok(Guard { index: 0, negated: *n == 0 }),
            _ => return self.error("a predicate is needed"),
        };
        match self.name_of(name)? {
            Name::Predicate(index) => Ok(Guard { index, negated }),
            _ => self.error(format!("`{name}` is not a predicate")),
        }
    }

    /// Whether an operand names a predicate.
    pub fn is_predicate(&mut self, index: usize) -> Result<bool, PtxError> {
        Ok(match self.operand(index)? {
            Operand::Name(name, None) | Operand::Not(name) => {
                matches!(self.b.find(name, self.i.place)?, Some(Name::Predicate(_)))
            }
            _ => false,
        })
    }

    /// `[%rd1+16]`: a place in a space; a variable of a function's own parameters is local.
    pub fn address(&mut self, index: usize, space: Space) -> Result<Address, PtxError> {
        let Operand::Address { base, offset, coordinates: None } = self.operand(index)? else {
            return self.error("an address is needed");
        };
        self.address_of(*base, *offset, space)
    }

    pub fn address_of(&mut self, base: Option<&'s str>, offset: i64, space: Space) -> Result<Address, PtxError> {
        let Some(name) = base else {
            let base = self.b.constant(0);
            return Ok(Address { space, base, offset, narrow: false });
        };
        match self.name_of(name)? {
            Name::Register { slot, ty } => Ok(Address { space, base: slot, offset, narrow: ty.bits() == 32 }),
            Name::Place { space: own, .. } => {
                let space = if matches!(space, Space::Param | Space::Generic) { own } else { space };
                Ok(Address { space, base: self.symbol(name, 0, Type::U64)?, offset, narrow: false })
            }
            Name::Dynamic => {
                let space = if space == Space::Generic { Space::Shared } else { space };
                Ok(Address { space, base: self.symbol(name, 0, Type::U64)?, offset, narrow: false })
            }
            _ => self.error(format!("`{name}` is not an address")),
        }
    }
}

/// The special register of this name.
fn special(name: &str, part: Option<&str>) -> Option<Special> {
    let axis = match part {
        None => None,
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        Some(_) => return None,
    };
    Some(match (name, axis) {
        ("%tid", Some(a)) => Special::Thread(a),
        ("%ntid", Some(a)) => Special::Threads(a),
        ("%ctaid" | "%clusterid", Some(a)) => Special::Block(a),
        ("%nctaid" | "%nclusterid", Some(a)) => Special::Blocks(a),
        ("%laneid", None) => Special::Lane,
        ("%warpid", None) => Special::Warp,
        ("%nwarpid", None) => Special::Warps,
        ("%lanemask_eq", None) => Special::LaneMask(Ordering::Equal, true),
        ("%lanemask_lt", None) => Special::LaneMask(Ordering::Less, false),
        ("%lanemask_le", None) => Special::LaneMask(Ordering::Less, true),
        ("%lanemask_gt", None) => Special::LaneMask(Ordering::Greater, false),
        ("%lanemask_ge", None) => Special::LaneMask(Ordering::Greater, true),
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        ("%cluster_ctaid", Some(_)) | ("%cluster_ctarank", None) => Special::Zero,
        ("%cluster_nctaid", Some(_)) | ("%cluster_nctarank" | "%nsmid", None) => Special::One,
        ("%smid" | "%gridid", None) => Special::Zero,
        _ => return None,
    })
}
