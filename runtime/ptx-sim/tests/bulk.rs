//! Mbarriers and bulk copies: what arrives where, what is told of those who do not wait, and a pipeline of both with products.

#[allow(dead_code, reason = "the pipeline alone is used")]
mod support;

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, FaultKind, Launch, Memory, Program, Swizzle, TensorMap};
use support::pipeline::{Product, TEXT as PIPELINE};

fn launch(text: &str, memory: &mut Memory, threads: u32, seed: u64, values: &[&[u8]]) -> Result<Counters, Box<Fault>> {
    let program = Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}")), memory).unwrap();
    let kernel = program.kernel("k").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let params = kernel.pack_bytes(values).unwrap();
    kernel.launch(memory, &Launch { seed, limit: 1 << 24, ..Launch::new([1, 1, 1], [threads, 1, 1], params) })
}

/// One thread brings a box of a tensor into shared memory, all wait for it and write it out; another box goes back.
const TILE: &str = "
.version 8.0 .target sm_90a .address_size 64
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 out, .param .u32 x, .param .u32 y, .param .u32 bytes) {
    .reg .b32 %r<12>; .reg .b64 %rd<6>; .reg .pred %p<4>;
    .shared .align 1024 .b8 tile[4096];
    .shared .align 8 .b64 full;
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    mov.b64 %rd1, map;
    cvta.param.u64 %rd1, %rd1;
    ld.param.u32 %r2, [x];
    ld.param.u32 %r3, [y];
    ld.param.u32 %r4, [bytes];
    @%p1 bra $made;
    mbarrier.init.shared::cta.b64 [full], 1;
    fence.mbarrier_init.release.cluster;
    $made:
    bar.sync 0;
    @%p1 bra $started;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], %r4;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%rd1, {%r2, %r3}], [full];
    $started:
    $wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [full], 0;
    @!%p2 bra $wait;
    mov.u32 %r5, tile;
    ld.param.u64 %rd2, [out];
    $copy: setp.ge.u32 %p3, %r1, 1024; @%p3 bra $copied;
    mad.lo.u32 %r6, %r1, 4, %r5;
    mul.lo.u32 %r8, %r1, 4;
    setp.ge.u32 %p3, %r8, %r4; @%p3 bra $copied;
    ld.shared.b32 %r7, [%r6];
    mad.wide.u32 %rd3, %r1, 4, %rd2;
    st.global.b32 [%rd3], %r7;
    add.u32 %r1, %r1, 64; bra $copy;
    $copied:
    ret;
}";

/// Tensors of so many rows of 16-bit elements, each its own number.
struct Tensor {
    map: TensorMap,
    at: u64,
}

const SIZES: [u64; 2] = [72, 9];

fn tensor(memory: &mut Memory, tile: [u16; 2], swizzle: Swizzle) -> Tensor {
    let bytes: Vec<u8> = (0..SIZES[1] * 80).flat_map(|i| (i as u16 + 1).to_le_bytes()).collect();
    let at = memory.upload("tensor", bytes);
    let map =
        TensorMap { address: at, element: 2, sizes: SIZES.to_vec(), strides: vec![160], tile: tile.to_vec(), swizzle };
    Tensor { map, at }
}

fn element(x: i64, y: i64) -> u16 {
    let inside = (0..SIZES[0] as i64).contains(&x) && (0..SIZES[1] as i64).contains(&y);
    if inside { (y * 80 + x + 1) as u16 } else { 0 }
}

fn load(text: &str, tile: [u16; 2], swizzle: Swizzle, at: [i32; 2], seed: u64) -> Result<Vec<u16>, Box<Fault>> {
    let mut memory = Memory::new();
    let tensor = tensor(&mut memory, tile, swizzle);
    let bytes = tile[0] as usize * tile[1] as usize * 2;
    let out = memory.allocate("out", bytes);
    let values: [&[u8]; 5] = [
        &tensor.map.encode().unwrap(),
        &out.to_le_bytes(),
        &at[0].to_le_bytes(),
        &at[1].to_le_bytes(),
        &(bytes as u32).to_le_bytes(),
    ];
    let counters = launch(text, &mut memory, 64, seed, &values)?;
    assert_eq!(counters.mbarrier_phases, 1);
    assert!(memory.bytes(tensor.at, 2).is_some());
    let out = memory.bytes(out, bytes).unwrap();
    Ok(out.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
}

#[test]
fn boxes_arrive_swizzled_and_filled_with_zeros() {
    for (swizzle, columns) in [(Swizzle::None, 24), (Swizzle::B32, 16), (Swizzle::B64, 32), (Swizzle::B128, 64)] {
        for at in [[0, 0], [8, 2], [-3, -1], [60, 5], [71, 8], [-64, 0], [0, 100]] {
            let tile = [columns, 8];
            let got = load(TILE, tile, swizzle, at, at[0] as u64 & 3).unwrap_or_else(|f| panic!("{f}"));
            for (i, value) in got.iter().enumerate() {
                // The bits of the place above 16 bytes, xor-ed with those above 128.
                let bits = [0, 1, 3, 7][Swizzle::ALL.iter().position(|s| *s == swizzle).unwrap()];
                let place = 2 * i;
                let from = (place ^ ((place >> 7 & bits) << 4)) / 2;
                let (x, y) = (from % columns as usize, from / columns as usize);
                let expected = element(at[0] as i64 + x as i64, at[1] as i64 + y as i64);
                assert_eq!(*value, expected, "{swizzle:?} at {at:?}: element {i}");
            }
        }
    }
}

fn fault(from: &str, to: &str) -> Fault {
    let good = |text: &str, seed| load(text, [64, 8], Swizzle::B128, [8, 2], seed);
    assert!(TILE.contains(from), "{from}");
    let fault = *good(&TILE.replacen(from, to, 1), 0).expect_err("a planted bug is found");
    println!("{fault}");
    fault
}

fn line(what: &str) -> u32 {
    TILE.lines().position(|l| l.contains(what)).unwrap_or_else(|| panic!("{what}")) as u32 + 1
}

#[test]
fn who_does_not_wait_is_told() {
    let f = fault("@!%p2 bra $wait;", "");
    assert_eq!((f.kind, f.line), (FaultKind::NotWaited, line("ld.shared.b32")));
    assert_eq!(f.other.map(|o| o.0), Some(line("cp.async.bulk.tensor")), "{f}");
    let f = fault("[full], 0;\n    @!%p2", "[full], 1;\n    @!%p2");
    assert_eq!((f.kind, f.line), (FaultKind::NotWaited, line("ld.shared.b32")));
    let only_first = "@%p1 bra $other;\n$wait: mbarrier.try_wait";
    let text = TILE.replacen("$wait: mbarrier.try_wait", only_first, 1);
    let text = text.replacen("mov.u32 %r5, tile;", "$other: mov.u32 %r5, tile;", 1);
    let f = load(&text, [64, 8], Swizzle::B128, [8, 2], 0).unwrap_err();
    assert_eq!(f.kind, FaultKind::NotWaited, "the second warp did not ask: {f}");
}

#[test]
fn bytes_that_are_not_counted_are_waited_for_in_vain() {
    let f = fault("_, [full], %r4", "_, [full], 512");
    assert_eq!((f.kind, f.line), (FaultKind::Deadlock, line("try_wait")));
    assert!(f.message.contains("phase 0 lacks 0 arrivals and -512 bytes"), "{f}");
    let f = fault("mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], %r4;", "");
    assert!(f.message.contains("phase 0 lacks 1 arrivals and -1024 bytes"), "{f}");
    assert_eq!(fault("b64 [full], 1;", "b64 [full], 2;").kind, FaultKind::Deadlock);
}

#[test]
fn mbarriers_are_made_shown_and_left_alone() {
    assert_eq!(fault("mbarrier.init.shared::cta.b64 [full], 1;", "").kind, FaultKind::Operand);
    assert_eq!(fault("bar.sync 0;", "").kind, FaultKind::Race);
    let f = fault("fence.mbarrier_init.release.cluster;", "");
    assert_eq!((f.kind, f.line), (FaultKind::NotFenced, line("cp.async.bulk")));
    let f = fault("mov.u32 %r5, tile;", "mov.u32 %r5, tile; ld.shared.u32 %r9, [full];");
    assert_eq!(f.kind, FaultKind::Operand);
    assert_eq!(fault("b64 [full], 1;", "b64 [full+4], 1;").kind, FaultKind::Misaligned);
    assert_eq!(
        fault("_, [full], %r4;", "_, [full], %r4; mbarrier.arrive.shared.b64 _, [full];").kind,
        FaultKind::Operand
    );
}

#[test]
fn boxes_lie_where_they_may() {
    assert_eq!(fault("[tile], [%rd1", "[tile+64], [%rd1").kind, FaultKind::Misaligned);
    assert_eq!(fault("[tile], [%rd1", "[tile+4096], [%rd1").kind, FaultKind::OutOfBounds);
    let f = fault("[%rd1, {%r2, %r3}]", "[%rd2, {%r2, %r3}]").kind;
    assert!(matches!(f, FaultKind::OutOfBounds | FaultKind::Operand));
    // What a thread wrote before where the copy goes, without a fence.
    let dirty = "st.shared.u32 [tile+64], %r1;\n fence.mbarrier_init";
    assert_eq!(fault("fence.mbarrier_init", dirty).kind, FaultKind::NotFenced);
    let text =
        TILE.replacen("fence.mbarrier_init", "st.shared.u32 [tile+64], %r1; fence.proxy.async; fence.mbarrier_init", 1);
    load(&text, [64, 8], Swizzle::B128, [8, 2], 1).unwrap_or_else(|f| panic!("{f}"));
}

/// Bytes go through shared memory: in by one copy, changed by all threads, out by another.
const THROUGH: &str = "
.version 8.0 .target sm_90a .address_size 64
.visible .entry k(.param .u64 x, .param .u64 y) {
    .reg .b32 %r<6>; .reg .b64 %rd<6>; .reg .pred %p<4>;
    .shared .align 128 .b8 tile[256];
    .shared .align 8 .b64 full;
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
    @%p1 bra $made;
    mbarrier.init.shared.b64 [full], 64;
    fence.proxy.async.shared::cta;
    $made:
    bar.sync 0;
    @%p1 bra $others;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 256, [full];
    mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd3, [full], 256;
    bra $wait;
    $others: mbarrier.arrive.shared.b64 %rd3, [full];
    $wait: mbarrier.test_wait.shared.b64 %p2, [full], %rd3;
    @!%p2 bra $wait;
    mov.u32 %r2, tile; mad.lo.u32 %r2, %r1, 4, %r2;
    ld.shared.u32 %r3, [%r2]; add.u32 %r3, %r3, 1; st.shared.u32 [%r2], %r3;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%p1 bra $end;
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [tile], 256;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
    $end: ret;
}";

fn through(text: &str, seed: u64) -> Result<Vec<u8>, Box<Fault>> {
    let mut memory = Memory::new();
    let x = memory.upload("x", (0..64u32).flat_map(|i| (i * i).to_le_bytes()).collect());
    let y = memory.allocate("y", 256);
    let counters = launch(text, &mut memory, 64, seed, &[&x.to_le_bytes(), &y.to_le_bytes()])?;
    assert_eq!((counters.async_bytes, counters.async_stored_bytes), (256, 256));
    Ok(memory.bytes(y, 256).unwrap().to_vec())
}

#[test]
fn bytes_go_through_shared_memory() {
    let expected: Vec<u8> = (0..64u32).flat_map(|i| (i * i + 1).to_le_bytes()).collect();
    for seed in 0..6 {
        assert_eq!(through(THROUGH, seed).unwrap_or_else(|f| panic!("{f}")), expected);
    }
    let kind = |from: &str, to: &str| {
        assert!(THROUGH.contains(from), "{from}");
        let f = through(&THROUGH.replacen(from, to, 1), 0).expect_err("a planted bug is found");
        println!("{f}");
        f.kind
    };
    let second = THROUGH.rfind("fence.proxy.async").unwrap();
    let text = format!("{}{}", &THROUGH[..second], THROUGH[second..].replacen("fence.proxy.async.shared::cta;", "", 1));
    assert_eq!(through(&text, 0).unwrap_err().kind, FaultKind::NotFenced);
    let text = format!("{}{}", &THROUGH[..second], THROUGH[second..].replacen("bar.sync 0;", "", 1));
    assert_eq!(through(&text, 0).unwrap_err().kind, FaultKind::Race);
    assert_eq!(kind("cp.async.bulk.wait_group.read 0;", ""), FaultKind::NotWaited);
    assert_eq!(kind("cp.async.bulk.commit_group;", ""), FaultKind::NotWaited);
    // What was read may be written again.
    let text = THROUGH.replacen("wait_group.read 0;", "wait_group.read 0; st.shared.u32 [tile], 0;", 1);
    assert_eq!(through(&text, 0).unwrap_or_else(|f| panic!("{f}")), expected);
    assert_eq!(
        kind("cp.async.bulk.commit_group;", "st.shared.u32 [tile], 0; cp.async.bulk.commit_group;"),
        FaultKind::NotWaited
    );
    assert_eq!(kind("[tile], 256;\n", "[tile], 250;\n"), FaultKind::Operand);
    assert_eq!(kind("[%rd2], [tile]", "[%rd2+4], [tile]"), FaultKind::Misaligned);
    assert_eq!(kind("[%rd2], [tile], 256", "[%rd2+16], [tile], 256"), FaultKind::OutOfBounds);
    assert_eq!(kind("@!%p2 bra $wait;", ""), FaultKind::NotWaited);
}

/// Runs the pipeline on matrices of this length.
fn pipeline(text: &str, k: usize, seed: u64) -> Result<(Product, Counters), Box<Fault>> {
    let mut product = Product::new(text, k);
    let counters = product.run(seed)?;
    Ok((product, counters))
}

#[test]
fn a_pipeline_multiplies_under_every_schedule() {
    // 264 is four tiles and a remainder, which is zeros.
    for k in [64, 128, 264] {
        for seed in 0..5 {
            let (p, counters) = pipeline(PIPELINE, k, seed).unwrap_or_else(|f| panic!("seed {seed}: {f}"));
            assert!(p.result() == p.expected(), "{k}, seed {seed}");
            assert_eq!(counters.matrix_flops, 2 * 64 * 64 * 64 * k.div_ceil(64) as u64);
        }
    }
}

#[test]
fn bugs_of_a_pipeline_are_found() {
    let bugs: &[(&str, &str, &[FaultKind])] = &[
        // The consumers do not wait for a stage to be full, or wait for the phase before.
        ("@!%p4 bra $full;", "", &[FaultKind::NotWaited]),
        ("[%r21], %r11;", "[%r21], %r12;", &[FaultKind::NotWaited, FaultKind::NeverWritten]),
        // The producer does not wait for a stage to be empty.
        ("@!%p4 bra $empty;", "", &[FaultKind::NotWaited, FaultKind::Operand]),
        // The stage is given back before its products are over.
        ("wgmma.wait_group.sync.aligned 0; // stage", "", &[FaultKind::NotWaited]),
        // One tile is not counted.
        ("[%r21], 16384;", "[%r21], 8192;", &[FaultKind::Deadlock]),
        // Consumers that do not say that they are done.
        ("mbarrier.arrive.shared::cta.b64 _, [%r23];", "", &[FaultKind::Deadlock]),
        // Somebody says it twice.
        ("b64 _, [%r23];", "b64 _, [%r23], 2;", &[FaultKind::Operand, FaultKind::NotWaited]),
        ("wgmma.fence.sync.aligned;", "", &[FaultKind::NotFenced]),
        ("fence.mbarrier_init.release.cluster;", "", &[FaultKind::NotFenced]),
    ];
    for (from, to, kinds) in bugs {
        assert_eq!(PIPELINE.matches(from).count(), 1, "{from}");
        let text = PIPELINE.replacen(from, to, 1);
        let Err(fault) = pipeline(&text, 264, 0) else { panic!("{from}: a planted bug is not found") };
        println!("{from}: {fault}");
        assert!(kinds.contains(&fault.kind), "{from}: {fault}");
    }
    // The next sixteen steps of the sum are read from the wrong place.
    let text = PIPELINE.replacen("add.u64 %rd12, %rd10, 2;", "add.u64 %rd12, %rd10, 4;", 1);
    let (p, _) = pipeline(&text, 128, 0).unwrap_or_else(|f| panic!("{f}"));
    assert_ne!(p.result(), p.expected());
}
