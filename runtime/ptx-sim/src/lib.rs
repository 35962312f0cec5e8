//! Executes PTX on the processor.
//!
//! What enters is PTX text, whoever made it; what leaves is memory as a GPU would have left it, counters, or the first thing
//! that the kernel does wrong, with its line, block and thread: accesses out of bounds or misaligned, reads of bytes that nobody
//! wrote, races between threads that no barrier orders, barriers that not all threads reach. An instruction that is not
//! known is an error that names it, never skipped. The crate knows nothing of llmc's compiler, so that it cannot share its
//! mistakes.
//!
//! ```
//! use llmc_ptx_sim::{Launch, Memory, Program, syntax::Module};
//! let text = ".version 7.0 .target sm_80 .address_size 64
//!     .visible .entry twice(.param .u64 x) {
//!         .reg .b32 %r<3>; .reg .b64 %rd<4>;
//!         ld.param.u64 %rd1, [x];
//!         mov.u32 %r1, %tid.x;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         ld.global.u32 %r2, [%rd3];
//!         add.u32 %r2, %r2, %r2;
//!         st.global.u32 [%rd3], %r2;
//!         ret;
//!     }";
//! let mut memory = Memory::new();
//! let x = memory.upload("x", vec![7; 8]);
//! let kernel = Program::load(Module::parse(text)?, &mut memory)?.kernel("twice")?;
//! let params = kernel.pack(&[x])?;
//! kernel.launch(&mut memory, &Launch::new([1, 1, 1], [2, 1, 1], params.clone()))?;
//! assert_eq!(memory.bytes(x, 8), Some([14; 8].as_slice()));
//! let fault = kernel.launch(&mut memory, &Launch::new([1, 1, 1], [3, 1, 1], params)).unwrap_err();
//! assert!(fault.to_string().contains("line 8, block (0, 0, 0), thread (2, 0, 0)"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod argument;
mod counters;
mod decode;
mod exec;
mod fault;
mod flow;
mod memory;
mod number;
mod program;
pub mod syntax;
pub mod tensor_map;
pub mod types;

pub use argument::{Argument, Fill};
pub use counters::Counters;
pub use decode::Program;
pub use exec::Launch;
pub use fault::{Fault, FaultKind};
pub use memory::{Kept, Memory};
pub use program::{Kernel, Param};
pub use syntax::PtxError;
pub use tensor_map::{Swizzle, TensorMap};
