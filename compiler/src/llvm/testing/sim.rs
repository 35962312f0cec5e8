//! Small kernels executed by the simulator, with all of its checks: what instructions do, one block at a time.

use super::ptxas;
use crate::llvm::{Emitter, Isa, Machine, Param, Stage, Val};
use inkwell::context::Context;
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Kernel, Launch, Memory as Global, Program};

/// What is in front of and behind every buffer: it must stay as it is.
const GUARD: usize = 256;

fn load(text: &str, symbol: &str) -> (Global, Kernel) {
    let mut global = Global::new();
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let program = Program::load(module, &mut global).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let kernel = program.kernel(symbol).unwrap_or_else(|e| panic!("{e}\n{text}"));
    (global, kernel)
}

/// A buffer with guards around it; its address.
fn guarded(global: &mut Global, bytes: &[u8]) -> u64 {
    let mut all = vec![0xa5; GUARD];
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(16) + GUARD, 0xa5);
    global.upload("an operand", all) + GUARD as u64
}

fn content(global: &Global, at: u64, length: usize) -> Vec<u8> {
    let end = length.next_multiple_of(16) + GUARD;
    let all = global.bytes(at - GUARD as u64, GUARD + end).expect("a buffer of that length");
    let (before, rest) = all.split_at(GUARD);
    let (inside, after) = rest.split_at(length);
    assert!(before.iter().chain(after).all(|b| *b == 0xa5), "the kernel wrote outside an operand");
    inside.to_vec()
}

/// Emits a kernel whose parameters are pointers, lets the assembler judge it, and runs it as one block on these buffers;
/// what they hold then, and what it did.
pub fn run_block(
    threads: u32,
    shared: u32,
    buffers: &[Vec<u8>],
    body: impl for<'c> FnOnce(&Emitter<'c>, &[Val<'c>]),
) -> (Vec<Vec<u8>>, Counters) {
    run_block_for("sm_80", (threads, shared), buffers, body)
}

/// [`run_block`] for a level, with so many threads and bytes of shared memory.
pub fn run_block_for(
    level: &str,
    (threads, shared): (u32, u32),
    buffers: &[Vec<u8>],
    body: impl for<'c> FnOnce(&Emitter<'c>, &[Val<'c>]),
) -> (Vec<Vec<u8>>, Counters) {
    const GLOBAL: u16 = 1;
    let context = Context::create();
    let e = Emitter::new(&context, "block", Isa { fma: true, f16: true, space: GLOBAL });
    let (_, values) = e.begin_grid_kernel("block", &vec![Param::Pointer(GLOBAL); buffers.len()], threads);
    body(&e, &values);
    e.end_function();
    let machine = Machine::new("nvptx64-nvidia-cuda", level, "").expect("LLVM has the target");
    machine.optimise(&e).unwrap_or_else(|m| panic!("{m}"));
    let code = machine.emit(&e, Stage::Assembly).unwrap_or_else(|m| panic!("{m}"));
    let text = String::from_utf8_lossy(&code);
    ptxas::assemble(&text, level);
    let (mut global, kernel) = load(&text, "block");
    let places: Vec<u64> = buffers.iter().map(|b| guarded(&mut global, b)).collect();
    let params = kernel.pack(&places).expect("a pointer for each buffer");
    let launch = Launch { shared, ..Launch::new([1, 1, 1], [threads, 1, 1], params) };
    let counters = kernel.launch(&mut global, &launch).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    (buffers.iter().zip(places).map(|(b, at)| content(&global, at, b.len())).collect(), counters)
}

/// The words of a buffer.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}
