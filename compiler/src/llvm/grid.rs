//! What a GPU's kernels have and a CPU's do not: threads, barriers, shared memory.

use super::{Emitter, Param, Ty, Val};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::module::Linkage;
use inkwell::values::FunctionValue;
use llmc_artifact::tensor::TENSOR_BYTES;

/// What the description of a tensor begins at a multiple of.
const TENSOR_ALIGNMENT: u64 = 64;
/// The calling convention of kernels in PTX.
const KERNEL_CONVENTION: u32 = 71;
/// The address space of memory that a block's threads share.
const SHARED: u16 = 3;
/// The variable whose place the launch's dynamic shared memory takes.
const SHARED_MEMORY: &str = "shared_memory";

/// Threads of a block that meet without the others: whole warps.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// Which of the block's barriers is theirs; number 0 is everybody's.
    pub number: u32,
    /// How many they are.
    pub threads: u32,
}

impl<'c> Emitter<'c> {
    /// Starts a kernel of blocks of `threads` threads.
    pub fn begin_grid_kernel(&self, name: &str, params: &[Param], threads: u32) -> (FunctionValue<'c>, Vec<Val<'c>>) {
        let (function, values) = self.begin_function(name, params);
        function.set_call_conventions(KERNEL_CONVENTION);
        let tensors = params.iter().enumerate().filter(|(_, p)| matches!(p, Param::Tensor));
        tensors.for_each(|(i, _)| self.by_value(function, i as u32));
        self.function_attribute(function, "nvvm.maxntid", &threads.to_string());
        (function, values)
    }

    /// Makes a parameter bytes of the launch that every thread reads where they are.
    fn by_value(&self, function: FunctionValue<'c>, param: u32) {
        let (place, context) = (AttributeLoc::Param(param), self.context);
        let kind = Attribute::get_named_enum_kind_id;
        let bytes = context.i8_type().array_type(TENSOR_BYTES as u32);
        function.add_attribute(place, context.create_type_attribute(kind("byval"), bytes.into()));
        function.add_attribute(place, context.create_enum_attribute(kind("align"), TENSOR_ALIGNMENT));
        function.add_attribute(place, context.create_string_attribute("nvvm.grid_constant", ""));
    }

    /// Says how many blocks a multiprocessor is meant to hold at once: what registers may be used up to.
    pub fn resident_blocks(&self, blocks: u32) {
        self.function_attribute(self.current(), "nvvm.minctasm", &blocks.to_string());
    }

    /// This thread's index in its block.
    pub fn thread_index(&self) -> Val<'c> {
        self.zext(self.thread_index32(), Ty::I64)
    }

    /// [`Emitter::thread_index`] as an `i32`.
    pub fn thread_index32(&self) -> Val<'c> {
        self.target_intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", &[])
    }

    /// This block's index in the launch.
    pub fn block_index(&self) -> Val<'c> {
        self.zext(self.target_intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", &[]), Ty::I64)
    }

    /// Waits for every thread of the block, or those of [`Emitter::among`]; what they wrote to shared memory is visible
    /// after it.
    pub fn barrier(&self) {
        match self.meeting.get() {
            None => self.target_intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", &[self.int32(0)]),
            Some(Meeting { number, threads }) => {
                let args = [self.int32(number as i32), self.int32(threads as i32)];
                self.target_intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", &args)
            }
        };
    }

    /// Emits code that some threads of the block run, which meet at barriers without the others.
    pub fn among(&self, meeting: Meeting, code: impl FnOnce()) {
        let before = self.meeting.replace(Some(meeting));
        code();
        self.meeting.set(before);
    }

    /// The same `i32`, of which LLVM does not know that it is: what follows from it is computed here, not before a loop around it, so
    /// that it takes no registers meanwhile.
    pub fn only_here(&self, v: Val<'c>) -> Val<'c> {
        self.assembly("mov.b32 $0, $1;", "=r,r", &[Ty::I32], &[v])[0]
    }

    /// Dynamic shared memory of the module's kernels starts at a multiple of so many bytes, at least.
    pub fn align_shared_memory(&self, bytes: u32) {
        let global = self.module.get_global(SHARED_MEMORY).expect("emission: shared memory that nobody asked for");
        global.set_alignment(global.get_alignment().max(bytes));
    }

    /// The first byte of the launch's dynamic shared memory.
    pub fn shared_memory(&self) -> Val<'c> {
        let global = self.module.get_global(SHARED_MEMORY).unwrap_or_else(|| {
            let ty = self.context.i8_type().array_type(0);
            let global = self.module.add_global(ty, Some(AddressSpace::from(SHARED)), SHARED_MEMORY);
            global.set_linkage(Linkage::External);
            global.set_alignment(16);
            global
        });
        Val(global.as_pointer_value().into())
    }
}
