//! Contractions on the simulator, with all of its checks, against the interpreter: both roles, every format, sizes that are no
//! multiple of anything; what they read and how; and the assembler's judgement.

use super::Form;
use crate::cost::Role;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::sample::projections;
use crate::kernel::verify::Verified;
use crate::kernel::*;
use crate::llvm::testing::{compare, ptxas};
use crate::target::Target;
use crate::target::cpu::contract::tests::{PLAIN, QUANTISED, ROWS, gated, product, statistics, token};
use crate::target::cpu::tests::{fill, memory};
use crate::target::nvptx::Nvptx;
use crate::target::nvptx::tests::simulated::Simulated;
use crate::target::nvptx::tuning::{FEW_THREADS, Units};
use llmc_artifact::Format;
use llmc_ptx_sim::Counters;

/// A kernel for one role, under a name of its own.
fn role(spec: &Verified<KernelSpec>, role: Role, name: usize) -> Verified<KernelSpec> {
    let spec = KernelSpec { name: format!("k{name}"), ..(**spec).clone() };
    verify(spec.for_role(role)).expect("a role changes nothing")
}

/// Kernels in the simulator.
fn load(level: &str, kernels: &[Verified<KernelSpec>]) -> Simulated {
    let code = Nvptx::new(level).expect("a level").emit(kernels).unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&code.code);
    Simulated::new(kernels, &code.kernels, &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Whether prompts of a kernel are multiplied by fours of warps.
fn is_by_groups(spec: &Verified<KernelSpec>) -> bool {
    let spec = (**spec).clone().for_role(Role::Prefill);
    let Body::Contract(contract) = &spec.body else { return false };
    Form::of(&spec, contract, Units::Warpgroups) == Form::Warpgroups
}

/// Runs kernels in both roles; for each case and role, what was counted. Where another level has another form, that runs as well.
fn check(cases: &[(Verified<KernelSpec>, Memory)], tolerance: f64) -> Vec<[Counters; 2]> {
    let groups: Vec<_> = cases.iter().filter(|(spec, _)| is_by_groups(spec)).cloned().collect();
    check_for("sm_90a", &groups, &[Role::Prefill], tolerance);
    let both = check_for("sm_80", cases, &Role::ALL, tolerance);
    both.chunks(2).map(|c| [c[0], c[1]]).collect()
}

fn check_for(level: &str, cases: &[(Verified<KernelSpec>, Memory)], roles: &[Role], tolerance: f64) -> Vec<Counters> {
    let all: Vec<(usize, Role)> = (0..cases.len()).flat_map(|n| roles.iter().map(move |r| (n, *r))).collect();
    let kernels: Vec<_> = all.iter().enumerate().map(|(i, (n, r))| role(&cases[*n].0, *r, i)).collect();
    let mut simulated = load(level, &kernels);
    let one = |(i, (n, role)): (usize, &(usize, Role))| {
        let (spec, memory) = &cases[*n];
        let (mut got, mut want) = (memory.clone(), memory.clone());
        let place = format!("{} ({n}) for {} and {level}", spec.name, role.name());
        let ran = simulated.run(i, &mut got, i as u64);
        let counters = ran.unwrap_or_else(|fault| panic!("{place}: {fault}"));
        interpret(spec, &mut want);
        for (i, o) in spec.operands.iter().enumerate().filter(|(_, o)| o.write) {
            let place = format!("{place}, operand `{}`", o.name);
            compare(&place, o.format, &got.operands[i], &want.operands[i], tolerance);
        }
        counters
    };
    all.iter().enumerate().map(one).collect()
}

#[test]
fn every_format_multiplies_at_odd_sizes() {
    let integer = QUANTISED.map(|w| (w, Format::Act8));
    let decoded = QUANTISED.map(|w| (w, Format::F32));
    let plain = PLAIN.map(|w| (w, Format::F32));
    let halves = [Format::F16, Format::BF16].map(|x| PLAIN.map(|w| (w, x)));
    let stored = halves.into_iter().flatten().chain([(Format::Q4_1, Format::F16), (Format::Q8_0, Format::BF16)]);
    let mut cases = Vec::new();
    for (weight, input) in integer.into_iter().chain(decoded).chain(plain).chain(stored) {
        // Rows, columns, tokens: parts of a panel, of a stage and of a tile.
        let sizes: &[(u64, u64, u64)] = match weight.is_quantised() {
            true => &[(1, 32, 1), (51, 96, 9), (130, 160, 70)],
            false => &[(17, 7, 1), (48, 66, 7), (131, 100, 70), (16, 53, 8)],
        };
        for (rows, reduce, tokens) in sizes.iter().copied() {
            let spec = product(weight, input, rows, reduce);
            let memory = memory(&spec, rows + reduce, &[(tokens, tokens)]);
            cases.push((spec, memory));
        }
    }
    // The interpreter multiplies in f64 what the kernel adds in f32.
    check(&cases, 2e-5);
}

/// More stages than the pipeline has, more rows than a pass, and more tokens than the walkers take at once.
#[test]
fn long_products_go_round_the_pipeline() {
    let sizes = [(Format::F16, Format::F32, 40, 512, 5), (Format::Q4_1, Format::Act8, 40, 1024, 3)];
    let long =
        sizes.into_iter().chain([(Format::F32, Format::F32, 300, 64, 2), (Format::BF16, Format::F32, 16, 16, 1100)]);
    let cases: Vec<_> = long
        .map(|(weight, input, rows, reduce, tokens)| {
            let spec = product(weight, input, rows, reduce);
            let memory = memory(&spec, rows, &[(tokens, tokens)]);
            (spec, memory)
        })
        .collect();
    check(&cases, 2e-5);
}

/// Fours of warps: parts of a panel, of a stage, of an instruction and of a tile, more panels than a pass has, and more tokens
/// than the walkers take at once.
#[test]
fn groups_of_warps_multiply_at_odd_sizes() {
    let sizes = [(17, 8, 1), (48, 72, 7), (131, 104, 129), (300, 64, 128), (16, 328, 127), (20, 8, 2100)];
    let cases = [Format::F16, Format::BF16].into_iter().flat_map(|format| {
        sizes.map(|(rows, reduce, tokens)| {
            let spec = product(format, format, rows, reduce);
            let memory = memory(&spec, rows + reduce, &[(tokens, tokens)]);
            (spec, memory)
        })
    });
    let cases: Vec<_> = cases.collect();
    assert!(cases.iter().all(|(spec, _)| is_by_groups(spec)));
    let counters = check_for("sm_90a", &cases, &[Role::Prefill], 2e-5);
    assert!(counters.iter().all(|c| c.matrix_instructions > 0 && c.mbarrier_phases > 0));
    // A row that is no whole chunk, and an activation of another type, are multiplied by warps.
    assert!(!is_by_groups(&product(Format::F16, Format::F16, 16, 12)));
    assert!(!is_by_groups(&product(Format::F16, Format::BF16, 16, 16)));
    assert!(!is_by_groups(&product(Format::F16, Format::F32, 16, 16)));
}

/// Several products of a segment, rotations, gates and statistics behind them.
#[test]
fn groups_of_warps_have_every_epilogue() {
    let mut cases = Vec::new();
    for (format, head) in [(Format::BF16, 6), (Format::F16, 64), (Format::BF16, 80)] {
        let spec = verify(projections(format, format, head, 96).spec).expect("well formed");
        let mut memory = memory(&spec, head, &[(70, 3), (1, 1), (66, 5)]);
        memory.operands[5].fill(0);
        cases.push((spec, memory));
    }
    for (format, rows, tokens) in [(Format::F16, 96, 5), (Format::BF16, 320, 130)] {
        let spec = gated(format, format, rows, 64);
        let memory = memory(&spec, 3, &[(tokens, tokens)]);
        cases.push((spec, memory));
    }
    assert!(cases.iter().all(|(spec, _)| is_by_groups(spec)));
    check_for("sm_90a", &cases, &[Role::Prefill], 3e-5);
}

/// Whole tiles: every byte of weights and tokens is copied once for a tile, and no bank is asked twice at once.
#[test]
fn groups_of_warps_copy_once_and_without_conflicts() {
    let (rows, reduce, tokens) = (128, 192, 256);
    let spec = product(Format::BF16, Format::BF16, rows, reduce);
    let case = (spec.clone(), memory(&spec, 1, &[(tokens, tokens)]));
    let counters = check_for("sm_90a", &[case], &[Role::Prefill], 2e-5)[0];
    let bytes = 2 * (rows * reduce * (tokens / 128) + tokens * reduce * (rows / 128));
    assert_eq!((counters.async_bytes, counters.bank_conflicts), (bytes, 0), "{counters:?}");
    // A warp's instruction has 16 rows, 128 tokens and 16 columns.
    assert_eq!(counters.matrix_instructions, rows * tokens * reduce / (16 * 128 * 16));
}

#[test]
fn rotations_statistics_and_caches_share_a_kernel() {
    let mut cases = Vec::new();
    for (weight, input) in [(Format::Q4_1, Format::Act8), (Format::BF16, Format::F32), (Format::Q8_0, Format::F32)] {
        for head in [6, 24, 64, 80] {
            let spec = verify(projections(weight, input, head, 96).spec).expect("well formed");
            let mut memory = memory(&spec, head, &[(70, 3), (1, 1), (66, 5)]);
            memory.operands[5].fill(0);
            cases.push((spec, memory));
        }
    }
    check(&cases, 3e-5);
}

#[test]
fn gates_and_statistics_have_their_epilogues() {
    let gates = [(Format::Q4_1, Format::Act8, 160), (Format::F32, Format::F32, 32), (Format::F16, Format::F32, 96)];
    let mut cases: Vec<_> = gates.into_iter().map(|(w, x, rows)| gated(w, x, rows, 64)).map(|s| (s, 5)).collect();
    cases.extend([3, 16, 70, 129].map(|inner| (statistics(inner), 6)));
    let cases: Vec<_> = (cases.into_iter())
        .map(|(spec, tokens)| {
            let memory = memory(&spec, 3, &[(tokens, tokens)]);
            (spec, memory)
        })
        .collect();
    check(&cases, 2e-5);
}

#[test]
fn a_token_gets_the_same_bits_in_any_company() {
    let formats = [
        (Format::Q4_1, Format::Act8, "sm_80"),
        (Format::Q8_0, Format::F32, "sm_80"),
        (Format::F16, Format::F32, "sm_80"),
        (Format::F16, Format::F16, "sm_90a"),
    ];
    for (weight, input, level) in formats {
        let spec = verify(projections(weight, input, 64, 96).spec).expect("well formed");
        let kernels: Vec<_> = Role::ALL.map(|r| role(&spec, r, r as usize)).into();
        let mut simulated = load(level, &kernels);
        for tokens in [2, 9] {
            let mut all = memory(&spec, 7, &[(tokens, tokens)]);
            all.operands[5].fill(0);
            for (kernel, role) in Role::ALL.into_iter().enumerate() {
                let mut together = all.clone();
                simulated.run(kernel, &mut together, 0).unwrap_or_else(|fault| panic!("{fault}"));
                for t in 0..tokens {
                    let mut alone = token(&spec, &all, tokens, t);
                    simulated.run(kernel, &mut alone, 0).unwrap_or_else(|fault| panic!("{fault}"));
                    let row = alone.operands[4].len();
                    let place = format!("{weight} for {}, token {t} of {tokens}", role.name());
                    assert_eq!(alone.operands[4], together.operands[4][t as usize * row..][..row], "{place}");
                }
            }
        }
    }
}

/// The turns in which warps run change nothing.
#[test]
fn schedules_do_not_matter() {
    let formats = [
        (Format::Q4_1, Format::Act8, "sm_80"),
        (Format::F16, Format::F32, "sm_80"),
        (Format::BF16, Format::BF16, "sm_90a"),
    ];
    for (weight, input, level) in formats {
        let spec = verify(projections(weight, input, 24, 96).spec).expect("well formed");
        let kernels: Vec<_> = Role::ALL.map(|r| role(&spec, r, r as usize)).into();
        let mut simulated = load(level, &kernels);
        let mut fresh = memory(&spec, 7, &[(70, 67)]);
        fresh.operands[5].fill(0);
        for kernel in 0..2 {
            let mut run = |seed| {
                let mut memory = fresh.clone();
                simulated.run(kernel, &mut memory, seed).unwrap_or_else(|fault| panic!("{fault}"));
                memory.operands
            };
            let first = run(0);
            assert!([1, 2, 3].into_iter().all(|seed| run(seed) == first), "{weight}");
        }
    }
}

/// Magnitudes that 16 bits do not hold, and infinities, come out as f32 has them.
#[test]
fn activations_are_not_rounded() {
    let spec = product(Format::F16, Format::F32, 20, 24);
    let mut small = memory(&spec, 1, &[(5, 5)]);
    fill(&mut small, OperandRef(2), Format::F32, |_| 0.0);
    let mut infinite = small.clone();
    fill(&mut small, OperandRef(0), Format::F32, |i| 1e-12 * (1.0 + (i * 37 % 101) as f64 / 101.0));
    fill(&mut infinite, OperandRef(0), Format::F32, |i| if i / 24 == 2 { f64::INFINITY } else { 1e6 + i as f64 });
    check(&[(spec.clone(), small), (spec, infinite)], 1e-6);
}

#[test]
fn no_tokens_and_extreme_quants() {
    let spec = product(Format::F16, Format::F32, 20, 24);
    let mut none = memory(&spec, 1, &[(5, 5)]);
    none.dims.insert(ROWS, 0);
    [0, 2, 3].into_iter().for_each(|o| none.operands[o].clear());
    let mut cases = vec![(spec, none)];
    for weight in QUANTISED {
        let spec = product(weight, Format::Act8, 16, 64);
        let mut memory = memory(&spec, 1, &[(3, 3)]);
        // All bits set, or the most negative byte, wherever quants lie.
        let most = if weight == Format::Q8_0 { 0x80 } else { 0xff };
        let scales = weight.spec().field(weight.spec().high.unwrap_or(weight.spec().quant)).expect("a field").0 * 16;
        for block in memory.operands[1].chunks_exact_mut(weight.block_bytes() * 16) {
            block[scales..].fill(most);
        }
        cases.push((spec, memory));
    }
    check(&cases, 2e-5);
}

/// What a contraction asks of memory where sizes are whole: for generated tokens every sector of the weights once, and no
/// bank asked twice at once in either role.
#[test]
fn weights_are_read_once_and_banks_do_not_conflict() {
    let formats = [
        (Format::F16, Format::F16),
        (Format::F16, Format::F32),
        (Format::F32, Format::F32),
        (Format::Q4_1, Format::Act8),
        (Format::Q8_0, Format::Act8),
    ];
    for (weight, input) in formats {
        let (rows, reduce) = (128, 512);
        let spec = product(weight, input, rows, reduce);
        let bytes = |format: Format, count: u64| format.bytes(count).expect("blocks");
        let weights = bytes(weight, rows * reduce);
        let one = check(&[(spec.clone(), memory(&spec, 1, &[(1, 1)]))], 2e-5)[0][Role::Decode as usize];
        assert_eq!(one.bank_conflicts, 0, "{weight}: {one:?}");
        // Each panel reads the token again: chunks side by side, or each block in five pieces. Then residual and result.
        let tokens = match input.is_quantised() {
            true => 5 * reduce / input.block() as u64,
            false => bytes(input, reduce) / 32,
        };
        // Every warp of every panel's block reads the step's one length.
        let lengths = rows / 16 * u64::from(FEW_THREADS) / 32;
        let ideal = weights / 32 + rows / 16 * tokens + 2 * rows * 4 / 32 + lengths;
        assert_eq!(one.global_sectors, ideal, "{weight}: {one:?}");
        let many = check(&[(spec.clone(), memory(&spec, 1, &[(128, 128)]))], 2e-5)[0][Role::Prefill as usize];
        assert_eq!(many.bank_conflicts, 0, "{weight}: {many:?}");
        assert_eq!(many.async_bytes, 2 * weights + 128 * bytes(input, reduce), "{weight}: {many:?}");
    }
}

/// A kernel for a role under its own name.
fn shipped(spec: &Verified<KernelSpec>, formats: (Format, Format), r: Role) -> Verified<KernelSpec> {
    let base = spec.name.split('_').next().unwrap_or_default();
    let name = format!("{base}_{}_{}_{}", formats.0, formats.1, r.name());
    verify(KernelSpec { name, ..(**spec).clone() }.for_role(r)).expect("a role changes nothing")
}

/// Formats with code of their own.
const SHIPPED: [(Format, Format); 6] = [
    (Format::BF16, Format::F32),
    (Format::BF16, Format::BF16),
    (Format::F32, Format::F32),
    (Format::Q4_1, Format::Act8),
    (Format::Q5_1, Format::Act8),
    (Format::Q8_0, Format::Act8),
];

/// At the shipped tiles everything fits into registers, on every architecture.
#[test]
fn nothing_spills() {
    let mut kernels = Vec::new();
    for formats in SHIPPED {
        let spec = product(formats.0, formats.1, 2048, 2048);
        kernels.extend(Role::ALL.map(|r| shipped(&spec, formats, r)));
    }
    let gate = gated(Format::Q5_1, Format::Act8, 8192, 2048);
    kernels.extend(Role::ALL.map(|r| shipped(&gate, SHIPPED[4], r)));
    for (level, archs) in [("sm_80", &["sm_80", "sm_90", "sm_100"][..]), ("sm_90a", &["sm_90a"][..])] {
        let code = Nvptx::new(level).expect("a level").emit(&kernels).unwrap_or_else(|e| panic!("{e}"));
        for arch in archs {
            let Some(all) = ptxas::assemble(&String::from_utf8_lossy(&code.code), arch) else { return };
            assert_eq!(all.len(), kernels.len());
            for one in all {
                println!("{arch}: {one:?}");
                assert_eq!(one.spilled, 0, "{arch}: {one:?}");
            }
        }
    }
}

/// What `docs/performance.md` says of products of a 1B-shaped model, for one generated token and for 128 of a prompt.
#[test]
#[ignore = "prints a table of the documentation"]
fn figures() {
    const REGISTERS: u32 = 1 << 16;
    const THREADS: u32 = 2048;
    const SHARED: u64 = 164 << 10;
    println!("| product | role | weights | sectors | conflicts | instructions | registers | warps |");
    println!("|---|---|---|---|---|---|---|---|");
    for formats in [SHIPPED[0], SHIPPED[1], SHIPPED[3]] {
        for (rows, reduce) in [(2048, 2048), (2048, 8192)] {
            let spec = product(formats.0, formats.1, rows, reduce);
            for r in Role::ALL {
                let tokens = if r == Role::Decode { 1 } else { 128 };
                let kernel = shipped(&spec, formats, r);
                let code = Nvptx::new("sm_80").expect("a level").emit(std::slice::from_ref(&kernel)).expect("code");
                let text = String::from_utf8_lossy(&code.code);
                let mut memory = memory(&spec, 1, &[(tokens, tokens)]);
                let counters = load("sm_80", std::slice::from_ref(&kernel)).run(0, &mut memory, 0).expect("no fault");
                let registers = ptxas::assemble(&text, "sm_80").map_or(0, |all| all[0].registers);
                let info = &code.kernels[0];
                let by_registers = REGISTERS / (registers.next_multiple_of(8) * info.threads).max(1);
                let by_shared = (SHARED / (info.scratch + 1024)) as u32;
                let blocks = by_registers.min(by_shared).min(THREADS / info.threads);
                println!(
                    "| {} {rows} x {reduce} | {} | {} | {} | {} | {} + {} | {registers} | {} |",
                    formats.0,
                    r.name(),
                    formats.0.bytes(rows * reduce).expect("blocks"),
                    32 * counters.global_sectors + counters.async_bytes,
                    counters.bank_conflicts,
                    counters.warp_instructions,
                    counters.matrix_instructions,
                    blocks * info.threads / 32,
                );
            }
        }
    }
}
