//! Functions, loops and branches.

use super::{Emitter, Ty, Val, built};
use inkwell::AddressSpace;
use inkwell::attributes::AttributeLoc;
use inkwell::basic_block::BasicBlock;
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{BasicValueEnum, FunctionValue};

/// A parameter of a kernel's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// A pointer into an address space.
    Pointer(u16),
    /// An `i64`.
    Int,
    /// The description of a tensor, by value: of a GPU's kernel; what stands for it is its address.
    Tensor,
}

impl<'c> Emitter<'c> {
    /// Starts a function that returns nothing and gives its parameters; code follows until [`Emitter::end_function`].
    pub fn begin_function(&self, name: &str, params: &[Param]) -> (FunctionValue<'c>, Vec<Val<'c>>) {
        let types: Vec<BasicMetadataTypeEnum> = params
            .iter()
            .map(|p| match p {
                Param::Pointer(space) => self.context.ptr_type(AddressSpace::from(*space)).into(),
                Param::Int => self.context.i64_type().into(),
                Param::Tensor => self.context.ptr_type(AddressSpace::default()).into(),
            })
            .collect();
        let function = self.module.add_function(name, self.context.void_type().fn_type(&types, false), None);
        self.function.set(Some(function));
        // A loop that fills or copies memory stays a loop: there is no C library to call.
        self.function_attribute(function, "no-builtins", "");
        // Two blocks: locals are placed in the first, which only falls through.
        let (locals, entry) = (self.block("locals"), self.block("entry"));
        self.builder.position_at_end(locals);
        built(self.builder.build_unconditional_branch(entry));
        self.builder.position_at_end(entry);
        (function, function.get_param_iter().map(Val).collect())
    }

    /// Gives a function an attribute.
    pub fn function_attribute(&self, function: FunctionValue<'c>, key: &str, value: &str) {
        function.add_attribute(AttributeLoc::Function, self.context.create_string_attribute(key, value));
    }

    /// Ends the function.
    pub fn end_function(&self) {
        built(self.builder.build_return(None));
    }

    /// Returns from the function where the condition does not hold.
    pub fn leave_unless(&self, condition: Val<'c>) {
        let (leave, stay) = (self.block("leave"), self.block("stay"));
        built(self.builder.build_conditional_branch(condition.int(), stay, leave));
        self.builder.position_at_end(leave);
        built(self.builder.build_return(None));
        self.builder.position_at_end(stay);
    }

    fn block(&self, name: &str) -> BasicBlock<'c> {
        self.context.append_basic_block(self.current(), name)
    }

    fn here(&self) -> BasicBlock<'c> {
        self.builder.get_insert_block().expect("emission: code outside a block")
    }

    /// Memory of this call for `count` scalars, uninitialised, aligned for any vector.
    pub fn local(&self, ty: Ty, count: u64) -> Val<'c> {
        let (here, first) = (self.here(), self.current().get_first_basic_block().expect("emission: no block"));
        match first.get_first_instruction() {
            Some(i) => self.builder.position_before(&i),
            None => self.builder.position_at_end(first),
        }
        let count = u32::try_from(count).expect("emission: a local array is small");
        let array = match self.scalar_type(ty) {
            inkwell::types::BasicTypeEnum::IntType(t) => t.array_type(count),
            inkwell::types::BasicTypeEnum::FloatType(t) => t.array_type(count),
            t => panic!("emission: a local array of {t:?}"),
        };
        let pointer = built(self.builder.build_alloca(array, ""));
        if let Some(i) = pointer.as_instruction() {
            built(i.set_alignment(64));
        }
        self.builder.position_at_end(here);
        Val(pointer.into())
    }

    /// `for i in (begin..end).step_by(step)` with values carried from one round to the next: `body` takes `i` and the
    /// carried values and gives the next ones; the last are returned.
    pub fn for_each(
        &self,
        begin: Val<'c>,
        end: Val<'c>,
        step: i64,
        carried: &[Val<'c>],
        body: impl FnOnce(Val<'c>, &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        self.for_each_step(begin, end, self.int(step), carried, body)
    }

    /// [`Emitter::for_each`] with a step known only at run time.
    pub fn for_each_step(
        &self,
        begin: Val<'c>,
        end: Val<'c>,
        step: Val<'c>,
        carried: &[Val<'c>],
        body: impl FnOnce(Val<'c>, &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let (before, head, inside, after) = (self.here(), self.block("head"), self.block("body"), self.block("done"));
        built(self.builder.build_unconditional_branch(head));
        self.builder.position_at_end(head);
        let index = built(self.builder.build_phi(begin.0.get_type(), ""));
        let phis: Vec<_> = carried.iter().map(|v| built(self.builder.build_phi(v.0.get_type(), ""))).collect();
        index.add_incoming(&[(&begin.0, before)]);
        for (phi, v) in phis.iter().zip(carried) {
            phi.add_incoming(&[(&v.0, before)]);
        }
        let i = Val(index.as_basic_value());
        let now: Vec<Val> = phis.iter().map(|p| Val(p.as_basic_value())).collect();
        let more = self.compare(super::Cmp::Lt, i, end);
        built(self.builder.build_conditional_branch(more.int(), inside, after));
        self.builder.position_at_end(inside);
        let next = body(i, &now);
        assert_eq!(next.len(), carried.len(), "emission: a loop must carry as many values as it began with");
        let last = self.here();
        index.add_incoming(&[(&self.add(i, step).0, last)]);
        for (phi, v) in phis.iter().zip(&next) {
            phi.add_incoming(&[(&v.0, last)]);
        }
        built(self.builder.build_unconditional_branch(head));
        self.builder.position_at_end(after);
        now
    }

    /// A loop while a condition holds, with values carried from one round to the next; the last are returned.
    pub fn while_each(
        &self,
        carried: &[Val<'c>],
        condition: impl FnOnce(&[Val<'c>]) -> Val<'c>,
        body: impl FnOnce(&[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let (before, head) = (self.here(), self.block("head"));
        built(self.builder.build_unconditional_branch(head));
        self.builder.position_at_end(head);
        let phis: Vec<_> = carried.iter().map(|v| built(self.builder.build_phi(v.0.get_type(), ""))).collect();
        for (phi, v) in phis.iter().zip(carried) {
            phi.add_incoming(&[(&v.0, before)]);
        }
        let now: Vec<Val> = phis.iter().map(|p| Val(p.as_basic_value())).collect();
        let more = condition(&now);
        let (inside, after) = (self.block("body"), self.block("done"));
        built(self.builder.build_conditional_branch(more.int(), inside, after));
        self.builder.position_at_end(inside);
        let next = body(&now);
        assert_eq!(next.len(), carried.len(), "emission: a loop must carry as many values as it began with");
        let last = self.here();
        for (phi, v) in phis.iter().zip(&next) {
            phi.add_incoming(&[(&v.0, last)]);
        }
        built(self.builder.build_unconditional_branch(head));
        self.builder.position_at_end(after);
        now
    }

    /// A loop that carries nothing.
    pub fn repeat(&self, begin: Val<'c>, end: Val<'c>, step: i64, body: impl FnOnce(Val<'c>)) {
        self.for_each(begin, end, step, &[], |i, _| {
            body(i);
            Vec::new()
        });
    }

    /// Runs `body` where the condition holds.
    pub fn when(&self, condition: Val<'c>, body: impl FnOnce()) {
        let (then, after) = (self.block("then"), self.block("after"));
        built(self.builder.build_conditional_branch(condition.int(), then, after));
        self.builder.position_at_end(then);
        body();
        built(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(after);
    }

    /// The value of one of two branches.
    pub fn either(
        &self,
        condition: Val<'c>,
        then: impl FnOnce() -> Val<'c>,
        otherwise: impl FnOnce() -> Val<'c>,
    ) -> Val<'c> {
        let (yes, no, after) = (self.block("then"), self.block("else"), self.block("after"));
        built(self.builder.build_conditional_branch(condition.int(), yes, no));
        self.builder.position_at_end(yes);
        let a = then();
        let from_a = self.here();
        built(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(no);
        let b = otherwise();
        let from_b = self.here();
        built(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(after);
        let phi = built(self.builder.build_phi(a.0.get_type(), ""));
        let (x, y): (BasicValueEnum, BasicValueEnum) = (a.0, b.0);
        phi.add_incoming(&[(&x, from_a), (&y, from_b)]);
        Val(phi.as_basic_value())
    }
}
