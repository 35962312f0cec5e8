//! Every family's PTX is accepted by NVIDIA's assembler, and on the simulator it agrees with the interpreter.

mod mutation;
pub(crate) mod simulated;
mod stream;

use super::*;
use crate::kernel::interpret::Memory;
use crate::kernel::lower::split::tests::of_parts;
use crate::kernel::sample::projections;
use crate::llvm::testing::ptxas;
use crate::target::cpu::tests::{
    Attention, PLAIN, anew, attention, cross_attention, embedding, memory, rope, search, statistics, unary,
};
use llmc_artifact::{Format, ScalarOp};
use simulated::simulate;

/// Compiles kernels for every level and lets the assembler judge.
pub(crate) fn assemble(kernels: &[Verified<KernelSpec>]) {
    for level in LEVELS {
        let target = Nvptx::new(level.name).expect("a level");
        let code = target.emit(kernels).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&code.code);
        ptxas::assemble(&text, level.name);
        for k in &code.kernels {
            assert!(text.contains(&format!(".entry {}(", k.symbol)), "no kernel `{}`", k.symbol);
        }
    }
}

fn named(spec: Verified<KernelSpec>, name: String) -> Verified<KernelSpec> {
    let spec = KernelSpec { name, ..spec.into_inner() };
    crate::kernel::verify::verify(spec).expect("a name changes nothing")
}

#[test]
fn every_function_assembles() {
    let real = |op: &&ScalarOp| op.arity() == 1 && matches!(op.signature(), llmc_artifact::scalar::Signature::Real);
    let all = ScalarOp::ALL.iter().filter(real).map(|op| named(unary(*op, 77).0, format!("f_{op:?}")));
    assemble(&all.collect::<Vec<_>>());
}

#[test]
fn maps_and_streams_assemble() {
    let cases = [
        PLAIN,
        Attention { size: 33, keys_inside: false, ..PLAIN },
        Attention { format: Format::F16, window: Some(20), ..PLAIN },
        Attention { format: Format::BF16, causal: false, ..PLAIN },
        Attention { picked: true, out: Format::Act8, ..PLAIN },
    ];
    let attentions = cases.into_iter().enumerate().map(|(i, c)| named(attention(c), format!("attention{i}")));
    let statistics = [false, true].into_iter().map(|r| named(statistics(5, 33, r), format!("statistics_{r}")));
    let parts =
        [(PLAIN, "whole"), (Attention { window: Some(100), ..PLAIN }, "window")].into_iter().flat_map(|(a, of)| {
            let both = of_parts(&attention(a), 64).into_iter().zip(["folded", "combined"]);
            both.map(move |(k, what)| named(k, format!("{of}_{what}")))
        });
    assemble(&attentions.chain(statistics).chain(parts).chain([rope(64)]).collect::<Vec<_>>());
}

#[test]
fn contractions_of_every_format_assemble() {
    let plain = [Format::F32, Format::F16, Format::BF16].map(|f| (f, Format::F32));
    let blocks = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];
    let blocks = blocks.into_iter().flat_map(|f| [(f, Format::F32), (f, Format::Act8)]);
    let all = plain.into_iter().chain(blocks).map(|(weight, input)| {
        let spec = projections(weight, input, 24, 96).spec;
        let spec = crate::kernel::verify::verify(spec).expect("a spec");
        named(spec, format!("projections_{weight}_{input}"))
    });
    assemble(&all.collect::<Vec<_>>());
}

#[test]
fn searches_and_embeddings_assemble() {
    assemble(&[search(1500, 5), embedding(Format::Q5_1, 96, false)]);
}

/// A kernel of every family and most formats, on sequences of these lengths and numbers of rows.
fn every_family(sequences: &[(u64, u64)]) -> Vec<(Verified<KernelSpec>, Memory)> {
    let with = |spec: Verified<KernelSpec>, seed| {
        let memory = memory(&spec, seed, sequences);
        (spec, memory)
    };
    let contract = |weight, input| {
        let spec = projections(weight, input, 24, 96).spec;
        crate::kernel::verify::verify(spec).expect("a spec")
    };
    let mut cases = vec![
        with(attention(Attention { heads: 1, ..PLAIN }), 1),
        with(attention(Attention { heads: 1, size: 33, keys_inside: false, ..PLAIN }), 2),
        with(attention(Attention { heads: 1, format: Format::F16, window: Some(20), ..PLAIN }), 3),
        with(attention(Attention { heads: 1, picked: true, out: Format::Act8, ..PLAIN }), 4),
        with(statistics(3, 33, false), 5),
        with(statistics(3, 33, true), 6),
        with(rope(64), 7),
        with(search(300, 5), 8),
        with(contract(Format::F16, Format::F32), 9),
        with(contract(Format::Q4_1, Format::Act8), 10),
        with(contract(Format::Q8_0, Format::Act8), 11),
    ];
    let windowed = Attention { heads: 1, size: 33, keys_inside: false, window: Some(70), ..PLAIN };
    for whole in [attention(windowed), statistics(70, 33, false)] {
        cases.extend(of_parts(&whole, 64).into_iter().zip(13..).map(|(k, seed)| with(k, seed)));
    }
    let mut table = with(embedding(Format::Q5_0, 96, false), 12);
    let rows = table.1.operands[0].len() / 4;
    table.1.operands[0] = [0i32, 36, 17, 15].iter().cycle().take(rows).flat_map(|t| t.to_le_bytes()).collect();
    cases.extend([table, cross_attention()]);
    let again = [anew::gathered(true), anew::products(Format::Q8_0, Format::Act8)];
    let f16 = Attention { heads: 1, format: Format::F16, ..PLAIN };
    let again = again.into_iter().chain([PLAIN, f16].map(anew::attention_again));
    cases.extend((13..).zip(again).map(|(seed, spec)| with(spec, seed)));
    cases
}

#[test]
fn every_family_agrees_with_the_interpreter() {
    simulate(&every_family(&[(1, 1), (130, 2), (17, 1)]), 2e-5);
}

/// Warps in other turns, one bit pattern.
#[test]
fn every_schedule_gives_one_result() {
    let cases = every_family(&[(1, 1), (70, 2)]);
    let specs = simulated::numbered(&cases);
    for level in LEVELS {
        let code = Nvptx::new(level.name).expect("a level").emit(&specs).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&code.code);
        let mut simulated = simulated::Simulated::new(&specs, &code.kernels, &text).unwrap_or_else(|e| panic!("{e}"));
        for (i, (_, memory)) in cases.iter().enumerate() {
            let mut run = |seed| {
                let mut got = memory.clone();
                let place = format!("{} for {}, seed {seed}", specs[i].name, level.name);
                simulated.run(i, &mut got, seed).unwrap_or_else(|fault| panic!("{place}: {fault}"));
                got.operands
            };
            let first = run(0);
            for seed in 1..5 {
                assert!(run(seed) == first, "{} for {}: seed {seed} gives other bits", specs[i].name, level.name);
            }
        }
    }
}
