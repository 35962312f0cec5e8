//! Syntax to [`Kernel`]: names become slots and addresses, labels become instruction numbers, calls are inlined. An
//! instruction or a modifier that is not known is an error that names it.

mod arithmetic;
mod bits;
mod builder;
mod bulk;
mod compare;
mod control;
mod convert;
mod copy;
mod cx;
mod float;
mod functions;
mod integer;
mod matrix;
mod mbarrier;
mod memory;
mod moves;
mod table;
mod warp;
mod wgmma;

use crate::flow;
use crate::memory::Memory;
use crate::program::{Kernel, Op, Param};
use crate::syntax::ast::{Function, Init, Module, Number, Space, Variable};
use crate::syntax::{Place, PtxError};
use builder::Builder;
use std::collections::HashMap;

/// Bytes that one variable of a module may have.
const VARIABLE_LIMIT: u64 = 1 << 28;
/// Bytes of all of them.
const VARIABLES_LIMIT: u64 = 1 << 30;
/// Bytes of a kernel's parameters.
const PARAMS_LIMIT: u64 = 32764;

/// A module whose global variables have addresses.
#[derive(Debug)]
pub struct Program<'s> {
    module: Module<'s>,
    globals: HashMap<&'s str, u64>,
}

fn error<T>(place: Place, message: impl Into<String>) -> Result<T, PtxError> {
    Err(PtxError { place, message: message.into() })
}

impl<'s> Program<'s> {
    /// Places a module's global variables in memory.
    ///
    /// # Errors
    /// A variable that is too large, or an initialiser that does not fit it.
    pub fn load(module: Module<'s>, memory: &mut Memory) -> Result<Program<'s>, PtxError> {
        let mut globals = HashMap::new();
        let mut total = 0;
        for v in module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
            let size = size_of(v)?;
            total += size;
            if total > VARIABLES_LIMIT {
                return error(v.place, format!("more than {VARIABLES_LIMIT} bytes of variables"));
            }
            let address = match (v.external, v.init.is_empty()) {
                (true, _) => return error(v.place, format!("`{}` is defined elsewhere", v.name)),
                _ if v.space == Space::Const => memory.upload(v.name, vec![0; size as usize]),
                (_, true) => memory.allocate(v.name, size as usize),
                (_, false) => memory.upload(v.name, vec![0; size as usize]),
            };
            globals.insert(v.name, address);
        }
        let program = Program { module, globals };
        for v in program.module.variables.iter().filter(|v| !v.init.is_empty()) {
            let bytes = program.initial_bytes(v)?;
            let address = program.globals[v.name];
            match memory.bytes_mut(address, bytes.len()) {
                Some(place) => place.copy_from_slice(&bytes),
                None => return error(v.place, format!("more values than `{}` has elements", v.name)),
            }
        }
        Ok(program)
    }

    fn initial_bytes(&self, v: &Variable) -> Result<Vec<u8>, PtxError> {
        if v.space == Space::Shared || v.space == Space::Local {
            return error(v.place, format!("`{}` cannot have values at the start", v.name));
        }
        let mut bytes = Vec::new();
        for init in &v.init {
            let value = match init {
                Init::Number(n) => number_bits(*n, v.ty),
                Init::Symbol(name, offset, _) => match self.globals.get(name) {
                    Some(address) => address.wrapping_add(*offset as u64),
                    None => return error(v.place, format!("`{name}` has no address")),
                },
            };
            bytes.extend_from_slice(&value.to_le_bytes()[..v.ty.bytes().min(8) as usize]);
        }
        Ok(bytes)
    }

    /// Names of the kernels, in order.
    pub fn kernels(&self) -> Vec<&'s str> {
        self.module.functions.iter().filter(|f| f.kernel && f.body.is_some()).map(|f| f.name).collect()
    }

    /// Address of a global variable.
    pub fn global(&self, name: &str) -> Option<u64> {
        self.globals.get(name).copied()
    }

    /// Prepares a kernel for execution.
    ///
    /// # Errors
    /// No such kernel, or the first thing in it that the simulator does not know.
    pub fn kernel(&self, name: &str) -> Result<Kernel, PtxError> {
        let found = self.module.functions.iter().find(|f| f.kernel && f.name == name && f.body.is_some());
        match found {
            Some(function) => kernel(&self.module, &self.globals, function),
            None => error(Place::default(), format!("no kernel `{name}`; there are {}", self.kernels().join(", "))),
        }
    }
}

fn kernel<'s>(
    module: &Module<'s>,
    globals: &HashMap<&'s str, u64>,
    function: &Function<'s>,
) -> Result<Kernel, PtxError> {
    let mut b = Builder::new(module, globals);
    let params = params(&mut b, function)?;
    b.statements(function.body.as_deref().unwrap_or_default())?;
    b.push_exit(function.place.line);
    b.patch_labels()?;
    let limit = |name: &str| function.limits.iter().find(|(n, _)| *n == name).map(|(_, sizes)| sizes);
    let mut code = b.code;
    let next: Vec<Vec<u32>> = code.iter().enumerate().map(|(i, instr)| successors(i, instr)).collect();
    for (instr, meet) in code.iter_mut().zip(flow::meeting_points(&next)) {
        instr.meet = meet;
    }
    wgmma::watch(&mut code);
    if limit("reqnctapercluster").is_some_and(|sizes| sizes.iter().any(|n| *n != 1)) {
        return error(function.place, format!("`{}` asks for clusters of more than one block", function.name));
    }
    Ok(Kernel {
        name: function.name.to_string(),
        code,
        slots: b.slots,
        predicates: b.predicates,
        params,
        shared: b.shared,
        shared_limit: shared_limit(&module.target),
        local: b.local,
        max_threads: limit("maxntid").map(|n| n.iter().fold(1u64, |a, b| a.saturating_mul(*b))),
        exact_threads: limit("reqntid").map(|n| [0, 1, 2].map(|i| n.get(i).copied().unwrap_or(1))),
    })
}

/// Bytes of shared memory that a block of this target can have.
fn shared_limit(target: &[&str]) -> u64 {
    let digits = |t: &&str| t.strip_prefix("sm_").map(|t| t.trim_end_matches(['a', 'f']).to_string());
    let version = target.iter().find_map(digits).and_then(|d| d.parse::<u32>().ok());
    let kib = match version.unwrap_or(0) {
        0..=69 => 48,
        70..=74 => 96,
        75..=79 => 64,
        80 | 87 => 163,
        86 | 89 | 120.. => 99,
        _ => 227,
    };
    kib << 10
}

fn params<'s>(b: &mut Builder<'s, '_>, function: &Function<'s>) -> Result<Vec<Param>, PtxError> {
    let mut params = Vec::new();
    let mut end = 0u64;
    for v in &function.params {
        let size = size_of(v)?;
        let offset = end.next_multiple_of(v.align);
        end = offset + size;
        if end > PARAMS_LIMIT {
            return error(v.place, format!("more than {PARAMS_LIMIT} bytes of parameters"));
        }
        b.declare_place(v.name, Space::Param, offset);
        params.push(Param { name: v.name.to_string(), offset, size, align: v.align, ty: v.ty });
    }
    Ok(params)
}

/// Instructions that can follow.
fn successors(index: usize, instr: &crate::program::Instr) -> Vec<u32> {
    let next = index as u32 + 1;
    let always = instr.guard == crate::program::Guard::ALWAYS;
    match &instr.op {
        Op::Branch { to } if always => vec![*to],
        Op::Branch { to } => vec![*to, next],
        Op::BranchTable { targets, .. } => targets.iter().copied().chain((!always).then_some(next)).collect(),
        Op::Exit | Op::Trap if always => Vec::new(),
        _ => vec![next],
    }
}

/// Bytes of a variable with a size.
fn size_of(v: &Variable) -> Result<u64, PtxError> {
    let Some(elements) = v.elements else { return error(v.place, format!("`{}` has no size", v.name)) };
    let one = v.ty.bytes() as u64 * v.vector as u64;
    match elements.checked_mul(one).filter(|size| *size <= VARIABLE_LIMIT) {
        Some(size) => Ok(size),
        None => error(v.place, format!("`{}` has more than {VARIABLE_LIMIT} bytes", v.name)),
    }
}

/// A number's bits as a value of a type.
fn number_bits(number: Number, ty: crate::types::Type) -> u64 {
    use crate::number::{Rounding, narrow};
    use crate::types::{Class, Type};
    match (number, ty.class()) {
        (Number::Int(n), Class::Float(_)) => narrow(n as i64 as f64, ty, Rounding::Even, false),
        (Number::Int(n), _) => n & ty.mask(),
        (Number::Single(bits), _) if ty == Type::F64 => (f32::from_bits(bits) as f64).to_bits(),
        (Number::Single(bits), _) => bits as u64 & ty.mask(),
        (Number::Double(bits), Class::Float(_)) => narrow(f64::from_bits(bits), ty, Rounding::Even, false),
        (Number::Double(bits), _) => bits & ty.mask(),
    }
}
