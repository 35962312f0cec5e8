//! Whole kernels: what they compute, what they are told when they are wrong, and that the order of warps does not matter.

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, FaultKind, Launch, Memory, Program};

const REDUCE: &str = include_str!("ptx/reduce.ptx");

/// Runs `reduce` on numbers `0..n` with two blocks.
fn reduce(text: &str, n: u32, seed: u64) -> Result<(Vec<f32>, Counters), Box<Fault>> {
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}")), &mut memory).unwrap();
    let kernel = program.kernel("reduce").unwrap_or_else(|e| panic!("{e}"));
    let x = memory.upload("x", (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect());
    let out = memory.allocate("out", 8);
    let params = kernel.pack(&[x, out, n as u64]).unwrap();
    let counters = kernel.launch(&mut memory, &Launch { seed, ..Launch::new([2, 1, 1], [128, 1, 1], params) })?;
    let bytes = memory.bytes(out, 8).unwrap();
    Ok((bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(), counters))
}

/// The text with one of its lines changed, and the number of that line.
fn changed(from: &str, to: &str) -> (String, u32) {
    assert_eq!(REDUCE.matches(from).count(), 1, "{from}");
    let line = REDUCE[..REDUCE.find(from).unwrap()].lines().count() as u32;
    (REDUCE.replacen(from, to, 1), line)
}

/// The fault of the changed kernel.
fn fault(from: &str, to: &str) -> (Fault, u32) {
    let (text, line) = changed(from, to);
    let fault = *reduce(&text, 200, 0).expect_err("a planted bug is found");
    println!("{fault}");
    (fault, line)
}

#[test]
fn every_order_of_warps_gives_the_same() {
    let expected = vec![(0..128).sum::<i32>() as f32, (128..200).sum::<i32>() as f32];
    for seed in 0..8 {
        assert_eq!(reduce(REDUCE, 200, seed).unwrap_or_else(|f| panic!("{f}")).0, expected, "seed {seed}");
    }
}

#[test]
fn work_is_counted() {
    let (_, c) = reduce(REDUCE, 200, 0).unwrap();
    assert_eq!((c.blocks, c.barriers), (2, 2 * 8));
    assert_eq!((c.global_read_bytes, c.global_written_bytes), (200 * 4, 2 * 4));
    // 200 numbers are seven requests of warps, four sectors each but the last, which has eight numbers.
    assert_eq!((c.global_requests, c.global_sectors), (7 + 2, 6 * 4 + 1 + 2));
    assert_eq!(c.flops, 2 * 127);
    assert_eq!((c.shared_written_bytes, c.bank_conflicts), (2 * (128 + 127) * 4, 0));
}

#[test]
fn a_dropped_barrier_is_a_race() {
    let first = "\tst.shared.f32 \t[%r7], %r6;\n\tbar.sync \t0;\n\tmov.b32 \t%r9, 64;";
    let (fault, _) = fault(first, &first.replace("bar.sync \t0;", ""));
    assert_eq!(fault.kind, FaultKind::NeverWritten, "the first warp reads before the third has written");
    assert_eq!(REDUCE.lines().nth(fault.line as usize - 1), Some("\tld.shared.f32 \t%r11, [%r10];"));
    let (text, line) = changed("$L__next:\n\tbar.sync \t0;", "$L__next:\n");
    let fault = *reduce(&text, 200, 0).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Race);
    let (other, _) = fault.other.expect("the other side");
    let sum = line - 3..=line; // the loads and the store of the tree
    assert!(sum.contains(&fault.line) && sum.contains(&other), "{fault}");
    assert_eq!(fault.kernel, "reduce");
}

/// All threads of two warps read what one of them then replaces. Its own warp has met since, the other one has not.
#[test]
fn readers_of_another_warp_are_remembered_beside_those_of_the_writer_s() {
    let kernel = |order: &str| {
        format!(
            ".version 7.0 .target sm_80 .address_size 64
            .visible .entry again(.param .u64 out) {{
                .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>; .shared .align 4 .b8 one[4];
                mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0;
                @!%p1 st.shared.u32 [one], 7;
                bar.sync 0;
                ld.shared.u32 %r2, [one];
                {order}
                @!%p1 st.shared.u32 [one], 8;
                ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2;
                st.global.u32 [%rd1], %r2; ret; }}"
        )
    };
    for (order, found) in [("bar.sync 0;", None), ("bar.warp.sync -1;", Some(FaultKind::Race))] {
        for seed in 0..4 {
            let mut memory = Memory::new();
            let text = kernel(order);
            let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}"));
            let program = Program::load(module, &mut memory).unwrap();
            let kernel = program.kernel("again").unwrap();
            let out = memory.allocate("out", 4 * 64);
            let params = kernel.pack(&[out]).unwrap();
            let launch = Launch { seed, ..Launch::new([1, 1, 1], [64, 1, 1], params) };
            assert_eq!(kernel.launch(&mut memory, &launch).err().map(|f| f.kind), found, "{order}, seed {seed}");
        }
    }
}

#[test]
fn a_remainder_off_by_one_is_out_of_bounds() {
    let (fault, _) = fault("setp.ge.u32 \t%p1, %r4, %r5;", "setp.gt.u32 \t%p1, %r4, %r5;");
    assert_eq!((fault.kind, fault.block, fault.thread), (FaultKind::OutOfBounds, [1, 0, 0], [72, 0, 0]));
    let load = REDUCE.lines().position(|l| l.contains("ld.global")).unwrap() as u32 + 1;
    assert_eq!(fault.line, load);
    assert!(fault.message.contains("byte 800 of `x`, which has 800"), "{}", fault.message);
}

#[test]
fn an_unmasked_tail_is_out_of_bounds() {
    let (fault, _) = fault("@%p1 bra \t$L__keep;", "");
    assert_eq!((fault.kind, fault.thread), (FaultKind::OutOfBounds, [72, 0, 0]));
}

#[test]
fn a_barrier_in_a_branch_is_divergence() {
    let (fault, line) = fault("\tld.shared.f32 \t%r11, [%r10];\n", "\tbar.sync 0;\n\tld.shared.f32 \t%r11, [%r10];\n");
    assert_eq!((fault.kind, fault.line), (FaultKind::Divergence, line + 1));
}

#[test]
fn a_misaligned_access_is_told() {
    let (fault, line) = fault("st.shared.f32 \t[%r7], %r6;\n\tbar", "st.shared.f32 \t[%r7+2], %r6;\n\tbar");
    assert_eq!((fault.kind, fault.line), (FaultKind::Misaligned, line));
}

#[test]
fn an_endless_loop_ends() {
    let (text, _) = changed("setp.ne.s32 \t%p3, %r9, 0;", "setp.ge.u32 \t%p3, %r9, 0;");
    let mut memory = Memory::new();
    let kernel = Program::load(Module::parse(&text).unwrap(), &mut memory).unwrap().kernel("reduce").unwrap();
    let params = kernel.pack(&[memory.upload("x", vec![0; 4]), memory.allocate("out", 4), 1]).unwrap();
    let launch = Launch { limit: 10_000, ..Launch::new([1, 1, 1], [128, 1, 1], params) };
    assert_eq!(kernel.launch(&mut memory, &launch).unwrap_err().kind, FaultKind::Endless);
}

#[test]
fn what_is_not_known_is_named() {
    let kernel = |from: &str, to: &str| {
        let (text, line) = changed(from, to);
        let mut memory = Memory::new();
        let error = Program::load(Module::parse(&text).unwrap(), &mut memory).unwrap().kernel("reduce").unwrap_err();
        assert_eq!(error.place.line, line, "{error}");
        error.message
    };
    let add = "add.rn.f32 \t%r6, %r6, %r11;";
    assert_eq!(kernel(add, "frob.f32 %r6, %r6, %r11;"), "the instruction `frob.f32` is not known to the simulator");
    let modifier = kernel(add, "add.rn.odd.f32 %r6, %r6, %r11;");
    assert_eq!(modifier, "`add.rn.odd.f32`: the modifier `.odd` is not known to the simulator");
    assert_eq!(
        kernel(add, "add.rn.f32 %r6, %r6, %q;"),
        "`add.rn.f32`: `%q` is not declared, and not a special register that the simulator has"
    );
    assert!(kernel(add, "add.rn.f64 %r6, %r6, %r11;").contains("has 32 bits, 64 are needed"));
}

/// Runs straight code for each lane: `%r0` is the lane, `%r1` and `%rd1` are free, and `%r2` is stored.
fn lanes(code: &str) -> Vec<u32> {
    let text = format!(
        ".version 8.0 .target sm_90a .address_size 64
        .func (.param .b32 out) triple(.param .b32 in) {{
            .reg .b32 %r<3>; .reg .pred %p;
            ld.param.b32 %r1, [in];
            mad.lo.s32 %r2, %r1, 3, 0;
            setp.eq.s32 %p, %r1, 4; @%p bra done;
            st.param.b32 [out], %r2;
            ret;
            done: st.param.b32 [out], 0;
        }}
        .visible .entry k(.param .u64 out) {{
            .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>; .reg .b16 %rs<9>;
            mov.u32 %r0, %laneid;
            {code}
            ld.param.u64 %rd8, [out];
            mad.wide.u32 %rd8, %r0, 4, %rd8;
            st.global.b32 [%rd8], %r2;
        }}"
    );
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(&text).unwrap_or_else(|e| panic!("{e}")), &mut memory).unwrap();
    let kernel = program.kernel("k").unwrap_or_else(|e| panic!("{code}: {e}"));
    let out = memory.allocate("out", 128);
    let params = kernel.pack(&[out]).unwrap();
    let ran = kernel.launch(&mut memory, &Launch::new([1, 1, 1], [32, 1, 1], params));
    ran.unwrap_or_else(|f| panic!("{code}: {f}"));
    memory.bytes(out, 128).unwrap().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn instructions_compute_what_they_say() {
    let one = |code: &str, expected: u32| assert_eq!(lanes(code)[5], expected, "{code}");
    one("add.s32 %r2, %r0, -7;", -2i32 as u32);
    one("mul.hi.u32 %r2, 0xffffffff, 0x10;", 15);
    one("mul.hi.s32 %r2, -1, 16;", u32::MAX);
    one("mul.wide.s32 %rd1, %r0, -2; cvt.u32.u64 %r2, %rd1;", -10i32 as u32);
    one("sub.s32 %r1, 0, %r0; shr.s32 %r2, %r1, 1;", -3i32 as u32);
    one("shr.u32 %r2, 0x80000000, 35;", 0);
    one("div.s32 %r2, -17, %r0;", -3i32 as u32);
    one("rem.s32 %r2, -17, %r0;", -2i32 as u32);
    one("min.s32 %r1, -1, %r0; max.u32 %r2, %r1, %r0;", u32::MAX);
    one("bfe.s32 %r2, 0xf0, 4, 4;", u32::MAX);
    one("bfe.u32 %r2, 0xf0, 4, 4;", 15);
    one("bfi.b32 %r2, %r0, 0xffffffff, 4, 8;", 0xffff_f05f);
    one("brev.b32 %r2, %r0;", 0xa000_0000);
    one("clz.b32 %r2, %r0;", 29);
    one("popc.b32 %r2, %r0;", 2);
    one("bfind.u32 %r2, %r0;", 2);
    one("prmt.b32 %r2, 0x33221100, 0x77665544, 0x7250;", 0x7722_5500);
    one("lop3.b32 %r2, 0xf0f0f0f0, 0xcccccccc, 0xaaaaaaaa, 0xca;", 0xcaca_caca);
    one("shf.l.wrap.b32 %r2, 0x80000000, 1, 1;", 3);
    one("shf.r.clamp.b32 %r2, 1, 7, 40;", 7);
    one("dp4a.s32.s32 %r2, 0xff010203, 0x02020202, 10;", 20);
    one("dp4a.u32.s32 %r2, 0xff000000, 0xff000000, 0;", -255i32 as u32);
    one("mov.b64 %rd1, {%r0, 7}; mov.b64 {_, %r2}, %rd1;", 7);
    one("add.cc.u32 %r1, -1, %r0; addc.u32 %r2, 1, 1;", 3);
    one("sub.cc.u32 %r1, 0, %r0; subc.u32 %r2, 1, 0;", 0);
    one("setp.lt.s32 %p1|%p2, %r0, 6; selp.b32 %r2, 1, 2, %p1;", 1);
    one("setp.lt.and.s32 %p1, %r0, 6, !%p1; selp.b32 %r2, 1, 2, %p1;", 1);
    one("slct.b32.s32 %r2, 1, 2, -1;", 2);
    one(
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call.uni (b), triple, (a); ld.param.b32 %r2, [b]; }",
        15,
    );
}

#[test]
fn numbers_round_as_they_should() {
    let one = |code: &str, expected: u32| assert_eq!(lanes(code)[5], expected, "{code}");
    let f = |x: f32| x.to_bits();
    one("cvt.rn.f32.u32 %r1, %r0; fma.rn.f32 %r2, %r1, 0f40000000, 0f3F800000;", f(11.0));
    one("add.rz.f32 %r2, 0f3F800000, 0f33FFFFFF;", f(1.0));
    one("add.rp.f32 %r2, 0f3F800000, 0f00000001;", f(1.0) + 1);
    one("mul.ftz.f32 %r2, 0f00400000, 0f40000000;", 0);
    one("mul.rn.f32 %r2, 0f00400000, 0f40000000;", 0x0080_0000);
    one("add.sat.f32 %r2, 0f3F800000, 0f3F800000;", f(1.0));
    one("div.rn.f32 %r2, 0f3F800000, 0f40400000;", f(1.0 / 3.0));
    one("sqrt.approx.f32 %r2, 0f40800000;", f(2.0));
    one("ex2.approx.ftz.f32 %r2, 0fFF800000;", 0);
    one("lg2.approx.f32 %r2, 0f41000000;", f(3.0));
    one("max.f32 %r2, 0f7FC00000, 0f3F800000;", f(1.0));
    one("max.NaN.f32 %r2, 0f7FC00000, 0f3F800000;", 0x7fff_ffff);
    one("cvt.rni.s32.f32 %r2, 0f40200000;", 2);
    one("cvt.rzi.s32.f32 %r2, 0f7FC00000;", 0);
    one("cvt.rzi.u32.f32 %r2, 0fC0000000;", 0);
    one("cvt.rmi.f32.f32 %r2, 0fBF000000;", f(-1.0));
    one("cvt.s32.s8 %r2, 0x80;", -128i32 as u32);
    one("cvt.rn.f16x2.f32 %r2, 0f3F800000, 0f40000000;", 0x3c00_4000);
    one("cvt.rn.bf16x2.f32 %r2, 0f3F800000, 0f40000000;", 0x3f80_4000);
    one("mov.b16 %rs1, 0x3c00; cvt.f32.f16 %r2, %rs1;", f(1.0));
    one("fma.rn.f16x2 %r2, 0x3c004000, 0x40004000, 0x3c003c00;", 0x4200_4500);
    one("cvt.rna.tf32.f32 %r2, 0f3F801000;", 0x3f80_2000);
    one("mov.b64 %rd1, 0d3FF8000000000000; cvt.rn.f32.f64 %r2, %rd1;", f(1.5));
    one("setp.neu.f32 %p1, 0f7FC00000, 0f7FC00000; selp.b32 %r2, 1, 0, %p1;", 1);
}

#[test]
fn warps_exchange_values() {
    let all = |code: &str, expected: fn(u32) -> u32| {
        assert_eq!(lanes(code), (0..32).map(expected).collect::<Vec<_>>(), "{code}");
    };
    all("shfl.sync.bfly.b32 %r2, %r0, 16, 31, -1;", |l| l ^ 16);
    all("shfl.sync.up.b32 %r2|%p1, %r0, 2, 0, -1;", |l| if l < 2 { l } else { l - 2 });
    all("shfl.sync.down.b32 %r2, %r0, 1, 0x1807, -1;", |l| if l % 8 == 7 { l } else { l + 1 });
    all("shfl.sync.idx.b32 %r2, %r0, 3, 31, -1;", |_| 3);
    all("setp.lt.u32 %p1, %r0, 4; vote.sync.ballot.b32 %r2, %p1, -1;", |_| 15);
    all("redux.sync.add.u32 %r2, %r0, -1;", |_| 496);
    all("shr.u32 %r1, %r0, 4; match.any.sync.b32 %r2, %r1, -1;", |l| if l < 16 { 0xffff } else { 0xffff_0000 });
    all("elect.sync %r2|%p1, -1;", |_| 0);
    // Sides of a branch that part again, and meet.
    all(
        "mov.u32 %r2, 0; setp.lt.u32 %p1, %r0, 20; @!%p1 bra B; add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r0, 9; @%p2 bra C;
         add.u32 %r2, %r2, 10; C: activemask.b32 %r3; popc.b32 %r3, %r3; add.u32 %r2, %r2, %r3; B: activemask.b32 %r3;
         popc.b32 %r3, %r3; mad.lo.u32 %r2, %r3, 100, %r2;",
        |l| if l < 9 { 3221 } else if l < 20 { 3231 } else { 3200 },
    );
    // A loop that each lane leaves after another number of turns.
    all(
        "mov.u32 %r2, 0; L: add.u32 %r2, %r2, %r0; setp.gt.u32 %p1, %r2, 40; @%p1 bra E; setp.ne.u32 %p1, %r0, 0;
         @%p1 bra L; E: bar.warp.sync -1;",
        |l| 40u32.checked_div(l).map_or(0, |turns| (turns + 1) * l),
    );
}
