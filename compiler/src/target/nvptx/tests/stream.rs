//! Streams by matrix instructions: the simulator executes them, both shapes give the same bits, and the interpreter says which.

use super::ptxas;
use super::simulated::{Simulated, numbered};
use crate::cost::Role;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::lower::split::tests::Parts;
use crate::kernel::verify::{Verified, verify};
use crate::kernel::{AxisRef, Body, Expr, ExprRef, KernelSpec, Stream, Visit};
use crate::llvm::Stage;
use crate::llvm::testing::compare;
use crate::target::cpu::tests::{Attention, PLAIN, ROWS, SEQ, attention, cross, memory, poison};
use crate::target::nvptx::Nvptx;
use crate::target::nvptx::stream::Form;
use crate::target::nvptx::stream::plan::Plan;
use crate::target::nvptx::tuning::Units;
use llmc_artifact::plan::Table;
use llmc_artifact::{DType, Dim, Format, ScalarOp, Type, Value};
use llmc_ptx_sim::Counters;
use std::cell::RefCell;

const HALVES: Attention = Attention { format: Format::F16, ..PLAIN };

type Case = (Verified<KernelSpec>, Memory);

/// Sequences by their length and how many of their last tokens are in the step; what nobody wrote is NaN.
fn case(a: Attention, sequences: &[(u64, u64)]) -> Case {
    let spec = attention(a);
    let mut memory = memory(&spec, a.size + a.heads, sequences);
    poison(&spec, &mut memory, sequences);
    (spec, memory)
}

/// The kernel for few tokens of a sequence at a time, or for many.
pub(super) fn shaped(spec: &Verified<KernelSpec>, few: bool) -> Verified<KernelSpec> {
    let role = if few { Role::Decode } else { Role::Prefill };
    verify(spec.clone().into_inner().for_role(role)).expect("a role changes nothing")
}

fn text(specs: &[Verified<KernelSpec>], level: &str, few: bool) -> (Vec<llmc_artifact::plan::KernelInfo>, String) {
    let specs: Vec<_> = specs.iter().map(|s| shaped(s, few)).collect();
    let target = Nvptx::new(level).expect("a level");
    let (infos, code) = target.compile(&specs, Stage::Assembly).unwrap_or_else(|e| panic!("{e}"));
    (infos, String::from_utf8(code).expect("PTX is text"))
}

fn load(cases: &[Case], few: bool) -> Simulated {
    load_for("sm_80", cases, few)
}

fn load_for(level: &str, cases: &[Case], few: bool) -> Simulated {
    let specs = numbered(cases);
    let (infos, text) = text(&specs, level, few);
    Simulated::new(&specs, &infos, &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn run(simulated: &mut Simulated, (i, memory): (usize, &Memory), seed: u64) -> (Memory, Counters) {
    let mut memory = memory.clone();
    let counters = simulated.run(i, &mut memory, seed).unwrap_or_else(|fault| panic!("case {i}: {fault}"));
    (memory, counters)
}

fn is_tiled((spec, _): &Case) -> bool {
    matches!(&spec.body, Body::Stream(stream) if has_tiles(spec, stream))
}

/// Whether a stream is folded by matrix instructions.
pub(super) fn has_tiles(spec: &KernelSpec, stream: &Stream) -> bool {
    Plan::of(spec, stream).is_some()
}

/// Runs both shapes of every case under different turns of their warps.
fn check(cases: &[Case], tolerance: f64) -> Vec<[Counters; 2]> {
    let mut shapes = [false, true].map(|few| load(cases, few));
    let run = |(i, c): (usize, &Case)| {
        assert!(is_tiled(c), "case {i} has no matrices");
        let mut want = c.1.clone();
        interpret(&c.0, &mut want);
        let [many, few] = [0, 1].map(|s| run(&mut shapes[s], (i, &c.1), s as u64));
        for (n, o) in c.0.operands.iter().enumerate().filter(|(_, o)| o.write) {
            let place = format!("case {i}, `{}`", o.name);
            compare(&place, o.format, &many.0.operands[n], &want.operands[n], tolerance);
        }
        assert_eq!(many.0.operands, few.0.operands, "case {i}: the shapes differ");
        [many.1, few.1]
    };
    cases.iter().enumerate().map(run).collect()
}

/// Whether fours of warps fold a case.
fn is_together((spec, _): &Case) -> bool {
    let Body::Stream(stream) = &spec.body else { return false };
    matches!(Form::of(spec, stream, Units::Warpgroups), Form::Warpgroups(..))
}

/// Runs cases that fours of warps fold.
fn check_together(cases: &[Case], tolerance: f64) -> Vec<Counters> {
    let mut simulated = load_for("sm_90a", cases, false);
    let run = |(i, c): (usize, &Case)| {
        assert!(is_together(c), "case {i} is not folded by fours of warps");
        let mut want = c.1.clone();
        interpret(&c.0, &mut want);
        let (got, counters) = run(&mut simulated, (i, &c.1), i as u64);
        for (n, o) in c.0.operands.iter().enumerate().filter(|(_, o)| o.write) {
            let place = format!("case {i} by fours of warps, `{}`", o.name);
            compare(&place, o.format, &got.operands[n], &want.operands[n], tolerance);
        }
        counters
    };
    cases.iter().enumerate().map(run).collect()
}

const ROUNDED: Attention = Attention { rounded: Some(DType::F16), ..HALVES };

#[test]
fn groups_of_warps_fold_every_size_of_head() {
    let sizes = [40, 64, 80, 96, 112, 128, 8, 192, 256];
    let one = |(i, size): (usize, u64)| {
        let a = Attention { size, heads: 1, group: [1, 3, 2][i % 3], keys_inside: i % 2 == 0, ..ROUNDED };
        case(a, &[(1, 1), (65, 3), (20, 2)])
    };
    let cases: Vec<Case> = sizes.into_iter().enumerate().map(one).collect();
    let counters = check_together(&cases, 2e-4);
    // Sequences of 65 tokens have a whole page, which comes as boxes.
    assert!(counters.iter().all(|c| c.matrix_instructions > 0 && c.mbarrier_phases > 0 && c.async_bytes > 0));
    // Larger heads have more sums than registers; they, factors in f32, and pages that come in no boxes are folded by warps.
    assert!(!is_together(&case(Attention { size: 320, ..ROUNDED }, &[(1, 1)])));
    assert!(!is_together(&case(HALVES, &[(1, 1)])));
    assert!(!is_together(&case(Attention { size: 7, keys_inside: false, ..ROUNDED }, &[(1, 1)])));
}

#[test]
fn groups_of_warps_fold_every_range() {
    let small = Attention { size: 16, heads: 1, ..ROUNDED };
    let many = [(130, 70), (17, 1), (64, 5)];
    let bf16 = Attention { format: Format::BF16, rounded: Some(DType::BF16), group: 5, ..small };
    let borders = [63, 64, 65, 127, 128, 129].map(|n| (n, n.min(3)));
    check_together(&[case(bf16, &many)], 2e-3);
    let cases = [
        case(Attention { window: Some(20), ..small }, &many),
        case(Attention { causal: false, ..small }, &many),
        case(Attention { picked: true, size: 32, out: Format::Act8, ..small }, &many),
        case(Attention { group: 71, window: Some(1), ..small }, &[(66, 3)]),
        case(small, &borders),
        case(Attention { window: Some(64), ..small }, &borders),
        cross(small),
        denied(small),
        visited(small, &many),
    ];
    check_together(&cases, 2e-3);
}

#[test]
fn every_size_of_head_has_tiles() {
    let sizes = [40, 64, 80, 96, 112, 128, 192, 256, 7, 33];
    let one = |(i, size): (usize, u64)| {
        let a = Attention { size, heads: 1 + i as u64 % 2, group: [1, 3, 2][i % 3], keys_inside: i % 2 == 0, ..HALVES };
        case(a, &[(1, 1), (65, 3), (20, 2)])
    };
    let counters = check(&sizes.into_iter().enumerate().map(one).collect::<Vec<_>>(), 4e-6);
    assert!(counters.iter().flatten().all(|c| c.matrix_instructions > 0));
}

#[test]
fn ranges_formats_and_outputs_agree() {
    let small = Attention { size: 16, heads: 1, ..HALVES };
    let many = [(130, 70), (17, 1), (64, 5)];
    let cases = [
        case(Attention { window: Some(20), ..small }, &many),
        case(Attention { causal: false, ..small }, &many),
        case(Attention { format: Format::BF16, group: 5, ..small }, &many),
        case(Attention { scale: 1e4, ..small }, &many),
        case(Attention { picked: true, size: 32, out: Format::Act8, ..small }, &many),
        case(Attention { group: 71, window: Some(1), ..small }, &[(66, 3)]),
        cross(small),
        denied(small),
        visited(small, &many),
    ];
    let counters = check(&cases, 1e-4);
    let visits = &counters[cases.len() - 1];
    let whole = &counters[1];
    assert!(visits[0].async_bytes < whole[0].async_bytes, "blocks that a mask leaves nothing of are copied");
}

/// Factors rounded to the type of the pages are multiplied in it: fewer instructions, and as the spec says.
#[test]
fn rounded_factors_are_multiplied_as_they_are() {
    let both = [(Format::F16, DType::F16), (Format::BF16, DType::BF16)];
    let cases = both.map(|(format, to)| {
        [None, Some(to)]
            .map(|rounded| case(Attention { format, rounded, size: 40, group: 2, ..PLAIN }, &[(130, 9), (3, 1)]))
    });
    for (cases, tolerance) in cases.iter().zip([2e-4, 2e-3]) {
        let counters = check(cases, tolerance);
        for (exact, rounded) in counters[0].iter().zip(&counters[1]) {
            assert_eq!(exact.matrix_instructions, 4 * rounded.matrix_instructions, "{rounded:?}");
        }
    }
}

/// A mask that denies every key.
fn denied(a: Attention) -> Case {
    let (spec, memory) = case(a, &[(40, 3)]);
    let mut spec = spec.into_inner();
    let mask = spec.exprs.0.iter().position(|(e, _)| matches!(e, Expr::Map(ScalarOp::Le, _))).expect("the mask");
    spec.exprs.0[mask].0 = Expr::Const(Value::Bool(false));
    (verify(spec).expect("still a spec"), memory)
}

/// Keys looked at whole, blocks past a row's position never visited.
fn visited(a: Attention, sequences: &[(u64, u64)]) -> Case {
    let (spec, memory) = case(Attention { causal: false, ..a }, sequences);
    let mut spec = spec.into_inner();
    let Body::Stream(Stream { over, .. }) = spec.body.clone() else { panic!("a stream") };
    let like = spec.axes[over[0].0 as usize].clone();
    let first = AxisRef(spec.axes.len() as u16);
    spec.axes.extend([like.clone(), like]);
    let (at, position) = (spec.exprs.add(Expr::Axis(first), Type::Int), position(&mut spec));
    let condition = spec.exprs.add(Expr::Map(ScalarOp::Le, vec![at, position]), Type::Bool);
    let Body::Stream(stream) = &mut spec.body else { panic!("a stream") };
    stream.visit = Some(Visit { first, last: AxisRef(first.0 + 1), condition });
    (verify(spec).expect("still a spec"), memory)
}

fn position(spec: &mut KernelSpec) -> ExprRef {
    spec.exprs.add(Expr::Position(AxisRef(0)), Type::Int)
}

#[test]
fn fully_masked_rows_are_zero() {
    let cases = [denied(HALVES)];
    let (got, _) = run(&mut load(&cases, false), (0, &cases[0].1), 0);
    assert!(got.operands[3].iter().all(|b| *b == 0));
}

#[test]
fn lengths_around_borders_agree() {
    let small = Attention { size: 8, heads: 1, ..HALVES };
    let borders = [63, 64, 65, 127, 128, 129].map(|n| (n, n.min(3)));
    let cases = [
        case(small, &borders),
        case(small, &[(4097, 2), (1, 1)]),
        case(Attention { window: Some(64), ..small }, &borders),
    ];
    check(&cases, 4e-6);
}

/// A prompt cut elsewhere, beside other sequences, in any order, has the same bits.
#[test]
fn bits_do_not_depend_on_the_batch() {
    bits_are_of_a_row_alone(HALVES, "sm_80");
    bits_are_of_a_row_alone(ROUNDED, "sm_90a");
}

fn bits_are_of_a_row_alone(a: Attention, level: &str) {
    let a = Attention { size: 24, heads: 2, group: 2, ..a };
    let (spec, whole) = case(a, &[(150, 150)]);
    let bytes = (a.heads * a.group * a.size * 4) as usize;
    let mut simulated = load_for(level, &[(spec, whole.clone())], false);
    let all = run(&mut simulated, (0, &whole), 0).0;
    for (first, count) in [(0usize, 1usize), (5, 60), (64, 64), (100, 50), (149, 1)] {
        let mut part = whole.clone();
        part.dims.insert(ROWS, count as u64 + 2);
        // The rows in the middle of two of another sequence, which has pages of its own.
        let pages = whole.dims[&Dim::Blocks(SEQ)] as i32;
        let positions = [1].into_iter().chain((first..first + count).map(|p| p as i32)).chain([2]);
        part.tables.insert(Table::Positions(SEQ), positions.collect());
        part.tables.insert(Table::RowSeq(SEQ), [1].into_iter().chain(vec![0; count]).chain([1]).collect());
        part.tables.insert(Table::Lengths(SEQ), vec![(first + count) as i32, 3]);
        let blocks = whole.tables[&Table::Blocks(SEQ)].iter().copied();
        part.tables.insert(Table::Blocks(SEQ), blocks.clone().chain((0..pages).map(|p| (p + 1) % pages)).collect());
        let queries = &whole.operands[0][first * bytes..(first + count) * bytes];
        part.operands[0] = [&vec![0; bytes], queries, &vec![0; bytes]].concat();
        part.operands[3] = vec![0; (count + 2) * bytes];
        let got = run(&mut simulated, (0, &part), 3).0;
        let wanted = &all.operands[3][first * bytes..(first + count) * bytes];
        assert!(got.operands[3][bytes..(count + 1) * bytes] == *wanted, "rows {first}..{}", first + count);
    }
}

/// Parts of a context by matrix instructions, their states combined by the general form, are the context.
#[test]
fn parts_of_a_context_agree() {
    let small = Attention { size: 16, heads: 1, group: 3, ..HALVES };
    for a in [small, Attention { window: Some(100), ..small }, Attention { size: 40, causal: false, ..small }] {
        let (spec, memory) = case(a, &[(64, 1), (130, 3), (300, 2)]);
        let parts = Parts::new(&spec, 64);
        let Body::Stream(stream) = &parts.kernels[0].body else { panic!("a fold") };
        assert!(Plan::of(&parts.kernels[0], stream).is_some(), "a part has no matrices");
        let mut want = memory.clone();
        interpret(&spec, &mut want);
        let found = [false, true].map(|few| {
            let (infos, text) = text(&parts.kernels, "sm_80", few);
            let simulated = Simulated::new(&parts.kernels, &infos, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            let simulated = RefCell::new(simulated);
            let got = parts.run(&memory, &|kernel, memory| {
                let ran = simulated.borrow_mut().run(kernel, memory, few.into());
                ran.unwrap_or_else(|fault| panic!("kernel {kernel}: {fault}"));
            });
            parts.agree("on the simulator", &got, &want, 4e-6);
            got.operands
        });
        assert_eq!(found[0], found[1], "the shapes differ");
    }
}

#[test]
fn the_main_loop_has_no_bank_conflicts() {
    for (rounded, tolerance) in [(None, 4e-6), (Some(DType::F16), 2e-4)] {
        let cases = [64, 128].map(|size| case(Attention { size, rounded, group: 4, heads: 1, ..HALVES }, &[(200, 16)]));
        for counters in check(&cases, tolerance).iter().flatten() {
            assert_eq!(counters.bank_conflicts, 0, "{counters:?}");
        }
    }
}

#[test]
fn groups_of_warps_have_no_bank_conflicts() {
    let cases = [64, 128].map(|size| case(Attention { size, group: 4, heads: 1, ..ROUNDED }, &[(200, 16)]));
    for counters in check_together(&cases, 2e-4) {
        assert_eq!(counters.bank_conflicts, 0, "{counters:?}");
    }
}

#[test]
fn tiles_fit_into_registers() {
    let grouped = Attention { heads: 8, group: 4, ..HALVES };
    let kinds = [grouped, Attention { group: 1, ..grouped }, Attention { group: 1, causal: false, ..grouped }];
    let sized = |size| [None, Some(DType::F16)].map(|rounded| kinds.map(|a| Attention { size, rounded, ..a })).concat();
    let kinds = [64, 128, 256].map(sized).concat();
    let all: Vec<Case> = kinds.iter().map(|a| case(*a, &[(1, 1)])).collect();
    let specs = numbered(&all);
    let mut spilled = 0;
    for (level, architectures) in [("sm_80", &["sm_80", "sm_90", "sm_100"][..]), ("sm_90a", &["sm_90a"])] {
        for few in [false, true] {
            let (infos, text) = text(&specs, level, few);
            for arch in architectures {
                let Some(assembled) = ptxas::assemble(&text, arch) else { return };
                for (Attention { size, rounded, group, causal, .. }, info) in kinds.iter().zip(&infos) {
                    let of = assembled.iter().find(|a| a.kernel == info.symbol).expect("a kernel");
                    println!(
                        "head {size} of {group}, causal {causal}, rounded {rounded:?}, few {few}, {arch}: {} registers, {} spilled, \
                         {} bytes shared",
                        of.registers, of.spilled, info.scratch
                    );
                    spilled += of.spilled;
                }
            }
        }
    }
    assert_eq!(spilled, 0, "bytes spilled");
}
