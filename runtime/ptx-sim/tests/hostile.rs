//! Damaged kernels are refused or run to a fault or an end; nothing makes the simulator panic, hang or take much memory.

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Launch, Memory, Program, Swizzle, TensorMap};
use proptest::prelude::*;

const KERNELS: [&str; 3] =
    [include_str!("ptx/reduce.ptx"), include_str!("ptx/product.ptx"), include_str!("ptx/pipeline.ptx")];

fn answer(text: &str) {
    let mut memory = Memory::new();
    let Ok(module) = Module::parse(text) else { return };
    let Ok(program) = Program::load(module, &mut memory) else { return };
    for name in program.kernels() {
        let Ok(kernel) = program.kernel(name) else { continue };
        let x = memory.upload("x", vec![1; 1 << 14]);
        let map = TensorMap {
            address: x,
            element: 2,
            sizes: vec![64, 64],
            strides: vec![128],
            tile: vec![64, 64],
            swizzle: Swizzle::B128,
        };
        let (map, x) = (map.encode().unwrap(), x.to_le_bytes());
        let values: Vec<&[u8]> =
            kernel.params().iter().map(|p| if p.size == 128 { &map[..] } else { &x[..] }).collect();
        let cut: Vec<&[u8]> =
            values.iter().zip(kernel.params()).map(|(v, p)| &v[..v.len().min(p.size as usize)]).collect();
        let Ok(params) = kernel.pack_bytes(&cut) else { continue };
        let threads = if name == "k" { 160 } else { 32 };
        let launch = Launch { limit: 3000, ..Launch::new([1, 1, 1], [threads, 1, 1], params) };
        let _ = kernel.launch(&mut memory, &launch);
    }
}

/// A word of a kernel in the place of another.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive([' ', '\t', '\n', '.', ',']).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes(which in 0usize..3, edits in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        let mut bytes = KERNELS[which].as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at as usize % bytes.len();
            bytes[at] = byte;
        }
        answer(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn exchanged_words(which in 0usize..3, swaps in prop::collection::vec((any::<u16>(), any::<u16>()), 1..6)) {
        let mut words = words(KERNELS[which]);
        for (a, b) in swaps {
            let (a, b) = (a as usize % words.len(), b as usize % words.len());
            words[a] = words[b];
        }
        answer(&words.concat());
    }
}

#[test]
fn small_texts_that_ask_for_much() {
    let head = ".version 8.0 .target sm_90 .address_size 64 ";
    let calls: String =
        (0..16).map(|i| format!(".func f{i}() {{ call f{0}; call f{0}; call f{0}; }}", i + 1)).collect();
    for body in [
        format!("{calls} .func f16() {{}} .entry k() {{ call f0; }}"),
        ".entry k() { .shared .b8 x[200000000]; .shared .b8 y[200000000]; mov.u32 _, x; }".into(),
        ".entry k() { .local .b8 x[200000000]; }".into(),
        ".entry k() { .reg .b32 %r<4000000000>; mov.u32 %r3999999999, 1; again: bra again; }".into(),
        (0..64).map(|i| format!(".global .b8 x{i}[268435456];")).collect::<String>() + ".entry k() { ret; }",
        ".entry k() { add.b128 _, 1, 2; st.b128 [0], 1; ld.v8.b128 {_,_,_,_,_,_,_,_}, [0]; }".into(),
        ".entry k() { .reg .b32 %r; cvta.shared.u32 %r, 1; clz.b32 %r, %r; bfind.shiftamt.u32 %r, %r; }".into(),
    ] {
        answer(&format!("{head}{body}"));
    }
}
