//! A kernel under construction: scopes of names, slots, labels, calls put in the place of their callee.

use super::cx::Cx;
use super::table;
use super::{error, size_of};
use crate::program::{Guard, Initial, Instr, Op, Slot, Special};
use crate::syntax::ast::{Function, Instruction, Module, Operand, Registers, Space, Statement, Variable};
use crate::syntax::{Place, PtxError};
use crate::types::Type;
use std::collections::HashMap;

/// Instructions of a kernel, calls included.
const CODE_LIMIT: usize = 1 << 18;
/// Statements of a kernel, those of its callees as often as they are called.
const STATEMENT_LIMIT: usize = 1 << 21;
/// Registers and constants that a kernel uses.
const SLOT_LIMIT: usize = 1 << 14;
/// Bytes of local memory of a thread.
const LOCAL_LIMIT: u64 = 1 << 16;
/// Calls inside each other.
const CALL_LIMIT: usize = 16;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Name<'s> {
    Register {
        slot: Slot,
        ty: Type,
    },
    Predicate(u32),
    Label(u32),
    Place {
        space: Space,
        at: u64,
    },
    /// Dynamic shared memory.
    Dynamic,
    Targets(Vec<&'s str>),
}

#[derive(Default)]
struct Scope<'s> {
    names: HashMap<&'s str, Name<'s>>,
    /// `%r<5>`: how many, and their type.
    ranges: HashMap<&'s str, (u64, Type)>,
    /// Nothing outside is seen: the body of a callee.
    closed: bool,
}

pub struct Builder<'s, 'm> {
    module: &'m Module<'s>,
    globals: &'m HashMap<&'s str, u64>,
    scopes: Vec<Scope<'s>>,
    pub slots: Vec<Initial>,
    known: HashMap<Initial, Slot>,
    pub predicates: u32,
    labels: Vec<(Place, Option<u32>)>,
    pub code: Vec<Instr>,
    shared_at: HashMap<&'s str, u64>,
    pub shared: u64,
    pub local: u64,
    callees: Vec<(&'s str, u32)>,
    /// Statements so far.
    seen: usize,
}

impl std::hash::Hash for Initial {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Initial::Register => 0u64.hash(state),
            Initial::Constant(n) => (1u64, n).hash(state),
            Initial::Dynamic(n) => (2u64, n).hash(state),
            Initial::Special(s) => (3u64, s).hash(state),
        }
    }
}

impl<'s, 'm> Builder<'s, 'm> {
    pub fn new(module: &'m Module<'s>, globals: &'m HashMap<&'s str, u64>) -> Builder<'s, 'm> {
        Builder {
            module,
            globals,
            scopes: vec![Scope::default()],
            slots: vec![Initial::Constant(0)],
            known: HashMap::from([(Initial::Constant(0), 0)]),
            predicates: 1,
            labels: Vec::new(),
            code: Vec::new(),
            shared_at: HashMap::new(),
            shared: 0,
            local: 0,
            callees: Vec::new(),
            seen: 0,
        }
    }

    fn scope(&mut self) -> &mut Scope<'s> {
        self.scopes.last_mut().expect("a kernel has a scope")
    }

    pub fn declare_place(&mut self, name: &'s str, space: Space, at: u64) {
        self.scope().names.insert(name, Name::Place { space, at });
    }

    /// A register that no name stands for.
    pub fn register(&mut self) -> Slot {
        self.slots.push(Initial::Register);
        self.slots.len() as Slot - 1
    }

    /// The slot that holds this from the start.
    pub fn initial(&mut self, value: Initial) -> Slot {
        if let Some(slot) = self.known.get(&value) {
            return *slot;
        }
        self.slots.push(value);
        let slot = self.slots.len() as Slot - 1;
        self.known.insert(value, slot);
        slot
    }

    pub fn constant(&mut self, value: u64) -> Slot {
        self.initial(Initial::Constant(value))
    }

    pub fn special(&mut self, special: Special) -> Slot {
        self.initial(Initial::Special(special))
    }

    pub fn predicate(&mut self) -> u32 {
        self.predicates += 1;
        self.predicates - 1
    }

    /// What a name stands for here.
    pub fn find(&mut self, name: &'s str, place: Place) -> Result<Option<Name<'s>>, PtxError> {
        let split = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (stem, digits) = name.split_at(split);
        let number = digits.parse::<u64>().ok().filter(|n| n.to_string() == digits);
        for depth in (0..self.scopes.len()).rev() {
            if let Some(found) = self.scopes[depth].names.get(name) {
                return Ok(Some(found.clone()));
            }
            let range = self.scopes[depth].ranges.get(stem).copied();
            if let Some((_, ty)) = range.filter(|(count, _)| number.is_some_and(|n| n < *count)) {
                let made = self.made(ty, place)?;
                self.scopes[depth].names.insert(name, made.clone());
                return Ok(Some(made));
            }
            if self.scopes[depth].closed {
                break;
            }
        }
        self.module_name(name)
    }

    /// A new register for a declared name.
    fn made(&mut self, ty: Type, place: Place) -> Result<Name<'s>, PtxError> {
        if self.slots.len() >= SLOT_LIMIT || self.predicates as usize >= SLOT_LIMIT {
            return error(place, format!("more than {SLOT_LIMIT} registers and constants"));
        }
        Ok(match ty {
            Type::Pred => Name::Predicate(self.predicate()),
            _ => Name::Register { slot: self.register(), ty },
        })
    }

    fn module_name(&mut self, name: &'s str) -> Result<Option<Name<'s>>, PtxError> {
        if let Some(address) = self.globals.get(name) {
            return Ok(Some(Name::Place { space: Space::Global, at: *address }));
        }
        if let Some(at) = self.shared_at.get(name) {
            return Ok(Some(Name::Place { space: Space::Shared, at: *at }));
        }
        match self.module.variables.iter().find(|v| v.name == name && v.space == Space::Shared) {
            Some(v) if v.elements.is_none() => Ok(Some(Name::Dynamic)),
            Some(v) => {
                let at = self.place_shared(v)?;
                self.shared_at.insert(name, at);
                Ok(Some(Name::Place { space: Space::Shared, at }))
            }
            None => Ok(None),
        }
    }

    fn place_shared(&mut self, v: &Variable) -> Result<u64, PtxError> {
        let at = self.shared.next_multiple_of(v.align);
        self.shared = at + size_of(v)?;
        Ok(at)
    }

    fn place_local(&mut self, v: &Variable) -> Result<u64, PtxError> {
        let at = self.local.next_multiple_of(v.align);
        self.local = at + size_of(v)?;
        if self.local > LOCAL_LIMIT {
            return error(v.place, format!("more than {LOCAL_LIMIT} bytes of local memory"));
        }
        Ok(at)
    }

    /// A block's statements: what it declares first, since labels are used before they stand.
    pub fn statements(&mut self, statements: &[Statement<'s>]) -> Result<(), PtxError> {
        for statement in statements {
            match statement {
                Statement::Registers(r) => self.declare_registers(r)?,
                Statement::Variable(v) => self.declare_variable(v)?,
                Statement::Label(name, place) => {
                    self.labels.push((*place, None));
                    let label = Name::Label(self.labels.len() as u32 - 1);
                    if self.scope().names.insert(name, label).is_some() {
                        return error(*place, format!("`{name}` is declared twice"));
                    }
                }
                Statement::Targets(name, targets, _) => {
                    self.scope().names.insert(name, Name::Targets(targets.clone()));
                }
                Statement::Instruction(_) | Statement::Block(_) => {}
            }
        }
        statements.iter().try_for_each(|s| self.statement(s))
    }

    fn statement(&mut self, statement: &Statement<'s>) -> Result<(), PtxError> {
        match statement {
            Statement::Label(name, _) => {
                if let Some(Name::Label(label)) = self.scope().names.get(name).cloned() {
                    self.set_label(label);
                }
                Ok(())
            }
            Statement::Instruction(i) => self.instruction(i),
            Statement::Block(inner) => {
                self.scopes.push(Scope::default());
                self.statements(inner)?;
                self.scopes.pop();
                Ok(())
            }
            Statement::Registers(_) | Statement::Variable(_) | Statement::Targets(..) => Ok(()),
        }
    }

    fn declare_registers(&mut self, r: &Registers<'s>) -> Result<(), PtxError> {
        if r.vector != 1 || r.ty == Type::B128 {
            return error(r.place, "registers of more than 64 bits are not supported");
        }
        for (name, count) in &r.names {
            match count {
                Some(count) => {
                    self.scope().ranges.insert(name, (*count, r.ty));
                }
                None => {
                    let made = self.made(r.ty, r.place)?;
                    self.scope().names.insert(name, made);
                }
            }
        }
        Ok(())
    }

    fn declare_variable(&mut self, v: &Variable<'s>) -> Result<(), PtxError> {
        if !v.init.is_empty() || v.count.is_some() {
            return error(v.place, format!("`{}`: this declaration is not supported inside a function", v.name));
        }
        let name = match v.space {
            Space::Shared if v.elements.is_none() => Name::Dynamic,
            Space::Shared => Name::Place { space: Space::Shared, at: self.place_shared(v)? },
            Space::Local | Space::Param => Name::Place { space: Space::Local, at: self.place_local(v)? },
            Space::Global | Space::Const | Space::Generic => {
                return error(v.place, format!("`{}`: global variables stand outside functions", v.name));
            }
        };
        self.scope().names.insert(v.name, name);
        Ok(())
    }

    pub fn new_label(&mut self, place: Place) -> u32 {
        self.labels.push((place, None));
        self.labels.len() as u32 - 1
    }

    pub fn set_label(&mut self, label: u32) {
        self.labels[label as usize].1 = Some(self.code.len() as u32);
    }

    /// Where `ret` goes inside a callee.
    pub fn return_label(&self) -> Option<u32> {
        self.callees.last().map(|(_, label)| *label)
    }

    fn instruction(&mut self, i: &Instruction<'s>) -> Result<(), PtxError> {
        self.seen += 1;
        if self.seen >= STATEMENT_LIMIT || self.code.len() >= CODE_LIMIT || self.slots.len() >= SLOT_LIMIT {
            return error(i.place, "the kernel is too large");
        }
        if i.name == "call" {
            return self.call(i);
        }
        let guard = match i.guard {
            None => Guard::ALWAYS,
            Some((name, negated)) => match self.find(name, i.place)? {
                Some(Name::Predicate(index)) => Guard { index, negated },
                _ => return error(i.place, format!("`{name}` is not a predicate")),
            },
        };
        let mut cx = Cx::new(self, i);
        let op = table::decode(&mut cx)?;
        let flops = cx.flops;
        cx.done()?;
        self.push(guard, op, i.place.line, flops);
        Ok(())
    }

    pub fn push(&mut self, guard: Guard, op: Op, line: u32, flops: u32) {
        self.code.push(Instr { guard, op, line, meet: u32::MAX, flops, watched: None });
    }

    pub fn push_exit(&mut self, line: u32) {
        let line = self.code.last().map_or(line, |i| i.line);
        self.push(Guard::ALWAYS, Op::Exit, line, 0);
    }

    /// Labels become instruction numbers.
    pub fn patch_labels(&mut self) -> Result<(), PtxError> {
        let at = |label: &mut u32| match self.labels[*label as usize] {
            (_, Some(at)) => {
                *label = at;
                Ok(())
            }
            (place, None) => error(place, "a label that stands nowhere"),
        };
        self.code.iter_mut().try_for_each(|instr| match &mut instr.op {
            Op::Branch { to } => at(to),
            Op::BranchTable { targets, .. } => targets.iter_mut().try_for_each(at),
            _ => Ok(()),
        })
    }

    /// `call (results), f, (arguments);` puts the body of `f` here.
    fn call(&mut self, i: &Instruction<'s>) -> Result<(), PtxError> {
        let refuse = |what: &str| error(i.place, format!("`{}`: {what}", i.mnemonic()));
        if i.guard.is_some() {
            return refuse("a call with a predicate is not supported");
        }
        let (results, rest) = match i.operands.split_first() {
            Some((Operand::List(results), rest)) => (results.as_slice(), rest),
            _ => (&[][..], i.operands.as_slice()),
        };
        let (name, arguments) = match rest {
            [Operand::Name(name, None)] => (*name, &[][..]),
            [Operand::Name(name, None), Operand::List(arguments)] => (*name, arguments.as_slice()),
            _ => return refuse("only calls of functions by name are supported"),
        };
        let module = self.module;
        let Some(function) = module.functions.iter().find(|f| !f.kernel && f.name == name && f.body.is_some()) else {
            return refuse(&format!("`{name}` has no body here"));
        };
        if self.callees.len() == CALL_LIMIT || self.callees.iter().any(|(n, _)| *n == name) {
            return refuse(&format!("`{name}` calls itself, or calls nest too deeply"));
        }
        self.inline(function, results, arguments, i)
    }

    fn inline(
        &mut self,
        function: &'m Function<'s>,
        results: &[Operand<'s>],
        arguments: &[Operand<'s>],
        i: &Instruction<'s>,
    ) -> Result<(), PtxError> {
        self.seen += function.body.as_ref().map_or(0, Vec::len);
        let mut scope = Scope { closed: true, ..Scope::default() };
        let formals = function.results.iter().chain(&function.params);
        let actuals = results.iter().chain(arguments);
        if results.len() != function.results.len() || arguments.len() != function.params.len() {
            return error(i.place, format!("`{}` takes other arguments", function.name));
        }
        for (formal, actual) in formals.zip(actuals) {
            let found = match actual {
                Operand::Name(name, None) => self.find(name, i.place)?,
                _ => None,
            };
            match found {
                Some(name @ (Name::Place { .. } | Name::Register { .. } | Name::Predicate(_))) => {
                    scope.names.insert(formal.name, name);
                }
                _ => return error(i.place, "an argument is a register or a parameter variable"),
            }
        }
        self.scopes.push(scope);
        let end = self.new_label(i.place);
        self.callees.push((function.name, end));
        self.statements(function.body.as_deref().unwrap_or_default())?;
        self.callees.pop();
        self.scopes.pop();
        self.set_label(end);
        Ok(())
    }
}
