//! LLVM, kept here: everything above speaks of values, lanes, loops and scalar expressions.
//!
//! What enters are KernelSpecs through a target's families; what leaves is an LLVM module, then object code, assembly
//! or PTX. An [`Emitter`] builds one module. Its [`Val`]s are scalars or vectors of any lane count, so one spelling
//! serves vectors, their scalar tails and a GPU's threads. Absent on purpose: fast-math flags, calls into a C library
//! and LLVM's own reassociation; a product is fused with a sum exactly where [`Emitter::fma`] says so.
#![allow(unsafe_code)]

mod control;
mod format;
mod grid;
mod lane;
mod machine;
mod math;
mod matrix;
mod memory;
mod pipeline;
mod scope;
mod storage;
#[cfg(test)]
pub mod testing;
mod value;
mod warp;
mod warpgroup;

pub use control::Param;
pub use grid::Meeting;
pub use lane::{Form, Lane};
pub use machine::{Machine, Stage};
pub use matrix::Mma;
pub use pipeline::CHUNK;
pub use scope::{Args, NoResults, Precision, Results, Scope, operands_of};
pub use value::{Cmp, Ty, Val};
pub use warp::WARP;
pub use warpgroup::{Described, GROUP_ROWS, GroupLeft, GroupProduct, MBARRIER, SPAN, TURNS, WARPGROUP};

use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::values::FunctionValue;
use std::cell::Cell;

/// What code may count on: data, filled in by a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isa {
    /// Fused multiply-add is an instruction.
    pub fma: bool,
    /// Conversions between f16 and f32 are instructions.
    pub f16: bool,
    /// Address space of operands, tables and scratch: 0, or 1 for a GPU's global memory.
    pub space: u16,
}

/// Builds one module, a function at a time.
pub struct Emitter<'c> {
    context: &'c Context,
    module: Module<'c>,
    builder: Builder<'c>,
    function: Cell<Option<FunctionValue<'c>>>,
    /// Threads that meet at a barrier, where not the whole block does.
    meeting: Cell<Option<Meeting>>,
    isa: Isa,
}

impl<'c> Emitter<'c> {
    /// An empty module.
    pub fn new(context: &'c Context, name: &str, isa: Isa) -> Emitter<'c> {
        let (module, builder) = (context.create_module(name), context.create_builder());
        Emitter { context, module, builder, function: Cell::new(None), meeting: Cell::new(None), isa }
    }

    /// What the code may count on.
    pub fn isa(&self) -> &Isa {
        &self.isa
    }

    /// The module so far.
    pub fn module(&self) -> &Module<'c> {
        &self.module
    }

    fn current(&self) -> FunctionValue<'c> {
        self.function.get().expect("emission: code outside a function")
    }
}

/// Unwraps a builder's result: it only fails when the emitter itself is wrong.
fn built<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("emission: LLVM's builder refused an instruction: {e}"))
}
