//! Products of four warps: every layout of the corpus, and what is told of those that are not waited for.

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, FaultKind, Launch, Memory, Program};

/// Where the right matrix starts in shared memory.
const RIGHT: u32 = 8192;

/// Numbers of a file of the corpus: those of its head by name, then its rows.
struct Layout {
    leading: u64,
    stride: u64,
    rows: Vec<Vec<u32>>,
}

fn corpus(name: &str) -> String {
    let path = format!("{}/tests/layouts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the corpus")
}

fn layout(name: &str) -> Layout {
    let text = corpus(name);
    let head = |word: &str| text.lines().find_map(|l| l.strip_prefix(word)?.trim().parse().ok()).expect("a number");
    let numbers = |l: &str| l.split(' ').map(|n| n.parse().unwrap()).collect();
    let rows = text.lines().filter_map(|l| Some(numbers(l.split_once(": ").filter(|l| !l.0.starts_with('#'))?.1)));
    Layout { leading: head("leading"), stride: head("stride"), rows: rows.collect() }
}

/// Row and column of the elements of each thread.
fn fragment(name: &str) -> Vec<Vec<(usize, usize)>> {
    let pair = |p: &str| p.split_once(',').map(|(r, c)| (r.parse().unwrap(), c.parse().unwrap())).unwrap();
    let text = corpus(name);
    let rows = text.lines().filter_map(|l| l.split_once(": ").filter(|l| !l.0.starts_with('#')));
    let all: Vec<_> = rows.map(|(_, cells)| cells.split(' ').map(pair).collect()).collect();
    assert_eq!(all.len(), 128);
    all
}

fn left(row: usize, k: usize) -> f32 {
    ((row * 7 + k * 3) % 11) as f32 - 5.0
}

fn right(k: usize, column: usize) -> f32 {
    ((k * 5 + column * 2) % 13) as f32 - 6.0
}

/// Small whole numbers in a type of 16 bits.
fn half(x: f32, ty: &str) -> u16 {
    let f = x.to_bits();
    match ty {
        "bf16" => (f >> 16) as u16,
        _ if x == 0.0 => 0,
        _ => ((f >> 16 & 0x8000) | (((f >> 23 & 0xff) - 112) << 10) | (f >> 13 & 0x3ff)) as u16,
    }
}

/// Sixteen bytes and where they lie, for a matrix of so many rows; `value` is by row and step of the sum.
fn chunks(
    l: &Layout,
    rows: usize,
    transposed: bool,
    ty: &str,
    value: impl Fn(usize, usize) -> f32,
) -> Vec<(u32, Vec<u8>)> {
    let mut out = Vec::new();
    for (i, offsets) in l.rows.iter().enumerate() {
        for (j, offset) in offsets.iter().enumerate() {
            let at = |e: usize| if transposed { (8 * j + e, i) } else { (i, 8 * j + e) };
            if at(7).0 < rows {
                let eight = (0..8).flat_map(|e| half(value(at(e).0, at(e).1), ty).to_le_bytes());
                out.push((*offset, eight.collect()));
            }
        }
    }
    out
}

fn descriptor(start: u32, l: &Layout, swizzle: &str) -> u64 {
    let mode = ["none", "128", "64", "32"].iter().position(|s| *s == swizzle).unwrap() as u64;
    start as u64 >> 4 | (l.leading >> 4) << 16 | (l.stride >> 4) << 32 | mode << 62
}

/// A kernel that fills shared memory, multiplies as `product` says and writes the results.
fn text(n: usize, product: &str) -> String {
    let d: Vec<String> = (0..n / 2).map(|i| format!("%d{i}")).collect();
    let stores: String = (0..n / 2).map(|i| format!("st.global.b32 [%rd6+{}], %d{i};\n", 4 * i)).collect();
    format!(
        ".version 8.0 .target sm_90a .address_size 64
        .visible .entry k(.param .u64 at, .param .u64 data, .param .u32 count, .param .u64 da, .param .u64 db,
                          .param .u64 registers, .param .u64 out) {{
        .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<3>; .reg .b32 %d<128>; .reg .b32 %a<4>; .reg .b32 %x<4>;
        .shared .align 1024 .b8 tile[40960];
        mov.u32 %r1, %tid.x; ld.param.u32 %r2, [count]; ld.param.u64 %rd1, [at]; ld.param.u64 %rd2, [data];
        $fill: setp.ge.u32 %p1, %r1, %r2; @%p1 bra $filled;
        mad.wide.u32 %rd3, %r1, 4, %rd1; ld.global.u32 %r3, [%rd3];
        mad.wide.u32 %rd4, %r1, 16, %rd2; ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%rd4];
        mov.u32 %r4, tile; add.u32 %r4, %r4, %r3;
        st.shared.v4.b32 [%r4], {{%x0, %x1, %x2, %x3}};
        add.u32 %r1, %r1, 128; bra $fill;
        $filled:
        fence.proxy.async;
        bar.sync 0;
        mov.u32 %r1, %tid.x; ld.param.u64 %rd5, [registers]; mad.wide.u32 %rd5, %r1, 16, %rd5;
        ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd5];
        ld.param.u64 %rd7, [da]; ld.param.u64 %rd8, [db];
        setp.ne.u32 %p2, %r1, %r1;
        wgmma.fence.sync.aligned;
        {}
        ld.param.u64 %rd6, [out]; mad.wide.u32 %rd6, %r1, {}, %rd6;
        {stores}
        ret;
        }}",
        product.replace("{d}", &format!("{{{}}}", d.join(", "))),
        2 * n
    )
}

const WAIT: &str = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";

struct Case<'a> {
    n: usize,
    ty: &'a str,
    /// Orientation and swizzle of the left matrix; registers where `None`.
    a: Option<(bool, &'a str)>,
    b: (bool, &'a str),
}

/// Runs a kernel on the case's matrices; results by thread.
fn run(case: &Case, text: &str, seed: u64) -> Result<(Vec<Vec<f32>>, Counters), Box<Fault>> {
    let name = |(transposed, swizzle): (bool, &str)| {
        layout(&format!("shared.{}.{swizzle}", if transposed { "mn" } else { "k" }))
    };
    let (mut image, mut da) = (Vec::new(), 0);
    if let Some(a) = case.a {
        image = chunks(&name(a), 64, a.0, case.ty, left);
        da = descriptor(0, &name(a), a.1);
    }
    // The corpus has 64 rows; further ones lie one group of 64 on.
    let l = name(case.b);
    let db = descriptor(RIGHT, &l, case.b.1);
    for first in (0..case.n).step_by(64) {
        let group = chunks(&l, (case.n - first).min(64), case.b.0, case.ty, |column, k| right(k, first + column));
        let eights = first as u64 / 8;
        let moved = match (case.b.0, case.b.1) {
            (false, _) | (true, "none") => eights * l.stride, // one group alone where transposed
            (true, swizzle) => eights / (swizzle.parse::<u64>().unwrap() / 16) * l.leading,
        };
        image.extend(group.into_iter().map(|(at, bytes)| (RIGHT + at + moved as u32, bytes)));
    }
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}")), &mut memory).unwrap();
    let kernel = program.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let at = memory.upload("at", image.iter().flat_map(|(at, _)| at.to_le_bytes()).collect());
    let data = memory.upload("data", image.iter().flat_map(|(_, bytes)| bytes.clone()).collect());
    let registers = fragment("registers.a").into_iter().flatten();
    let registers = registers.flat_map(|(row, k)| half(left(row, k), case.ty).to_le_bytes()).collect();
    let registers = memory.upload("registers", registers);
    let out = memory.allocate("out", 128 * 2 * case.n);
    let params = kernel.pack(&[at, data, image.len() as u64, da, db, registers, out]).unwrap();
    let launch = Launch { seed, ..Launch::new([1, 1, 1], [128, 1, 1], params) };
    let counters = kernel.launch(&mut memory, &launch)?;
    let word = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    let threads = memory.bytes(out, 128 * 2 * case.n).unwrap().chunks(2 * case.n);
    Ok((threads.map(|t| t.chunks(4).map(word).collect()).collect(), counters))
}

fn product(case: &Case) -> String {
    let (a, tail) = match case.a {
        None => ("{%a0, %a1, %a2, %a3}", String::new()),
        Some((transposed, _)) => ("%rd7", format!("{}, ", transposed as u8)),
    };
    let (n, ty, b) = (case.n, case.ty, case.b.0 as u8);
    format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {{d}}, {a}, %rd8, %p2, 1, 1, {tail}{b};\n")
}

fn check(case: &Case, got: &[Vec<f32>], scale: f32) {
    let cells = fragment("registers.d");
    for (thread, values) in got.iter().enumerate() {
        for (i, value) in values.iter().enumerate() {
            let (row, column) = cells[thread][i % 8];
            let column = column + i / 8 * 16;
            let dot: f32 = (0..16).map(|k| left(row, k) * right(k, column)).sum();
            assert_eq!(*value, scale * dot, "thread {thread}, result {i}, {} {:?} {:?}", case.n, case.a, case.b);
        }
    }
}

const SWIZZLES: [&str; 4] = ["none", "32", "64", "128"];

#[test]
fn every_layout_of_shared_memory_multiplies() {
    for ty in ["f16", "bf16"] {
        for (swizzle, transposed) in SWIZZLES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let n = match (transposed, swizzle) {
                (false, _) => 72,
                // The other half of the sum follows the 64 rows of the corpus.
                (true, "none") => 64,
                (true, _) => 128,
            };
            for a in [None, Some((transposed, swizzle)), Some((!transposed, "64"))] {
                let case = Case { n, ty, a, b: (transposed, swizzle) };
                let (got, counters) =
                    run(&case, &text(n, &(product(&case) + WAIT)), 0).unwrap_or_else(|f| panic!("{f}"));
                check(&case, &got, 1.0);
                assert_eq!(counters.matrix_flops, 2 * 64 * 16 * n as u64);
            }
        }
    }
}

#[test]
fn every_width_multiplies_and_adds_up() {
    for n in [8, 16, 24, 96, 248, 256] {
        let case = Case { n, ty: "bf16", a: Some((false, "128")), b: (false, "128") };
        let twice = product(&case) + &product(&case).replace("%p2", "1").replace("1, 1,", "1, -1,") + WAIT;
        let (got, _) = run(&case, &text(n, &twice), 0).unwrap_or_else(|f| panic!("{f}"));
        check(&case, &got, 0.0);
        let thrice = [product(&case), product(&case).replace("%p2", "1"), product(&case).replace("%p2", "1")].concat();
        let (got, _) = run(&case, &text(n, &(thrice + WAIT)), 3).unwrap_or_else(|f| panic!("{f}"));
        check(&case, &got, 3.0);
    }
}

const CASE: Case = Case { n: 16, ty: "bf16", a: Some((false, "128")), b: (false, "128") };

/// The fault of a changed kernel, and the text of its line.
fn fault(from: &str, to: &str) -> (Fault, String) {
    let good = text(CASE.n, &(product(&CASE) + WAIT));
    run(&CASE, &good, 0).unwrap_or_else(|f| panic!("{f}"));
    assert!(good.contains(from), "{from}");
    let bad = good.replacen(from, to, 1);
    let fault = *run(&CASE, &bad, 0).expect_err("a planted bug is found");
    println!("{fault}");
    let line = bad.lines().nth(fault.line as usize - 1).unwrap_or_default().trim().to_string();
    (fault, line)
}

#[test]
fn results_and_matrices_are_waited_for() {
    let (f, line) = fault("wgmma.wait_group.sync.aligned 0;", "");
    assert_eq!((f.kind, line.starts_with("st.global.b32 [%rd6+0], %d0;")), (FaultKind::NotWaited, true), "{line}");
    assert_eq!(
        fault("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;").0.kind,
        FaultKind::NotWaited
    );
    assert_eq!(fault("wgmma.commit_group.sync.aligned;", "").0.kind, FaultKind::NotWaited);
    let (f, line) = fault("wgmma.commit", "st.shared.u32 [tile+4], 0;\nwgmma.commit");
    assert_eq!((f.kind, line.as_str()), (FaultKind::NotWaited, "st.shared.u32 [tile+4], 0;"));
    assert!(f.message.contains("writes what is read by a copy or product"), "{f}");
    let (f, _) = fault("wgmma.commit", "mov.b32 %d3, 0;\nwgmma.commit");
    assert_eq!(f.kind, FaultKind::NotWaited);
}

#[test]
fn fences_stand_where_they_have_to() {
    assert_eq!(fault("fence.proxy.async;", "").0.kind, FaultKind::NotFenced);
    assert_eq!(fault("wgmma.fence.sync.aligned;", "").0.kind, FaultKind::NotFenced);
    let late = "wgmma.fence.sync.aligned;\nmov.b32 %d1, 0;";
    assert_eq!(fault("wgmma.fence.sync.aligned;", late).0.kind, FaultKind::NotFenced);
    assert_eq!(fault("bar.sync 0;", "").0.kind, FaultKind::Race);
}

#[test]
fn four_warps_multiply_the_same() {
    let (f, _) = fault(
        "wgmma.fence.sync.aligned;",
        "wgmma.fence.sync.aligned;\nsetp.ge.u32 %p1, %r1, 96; @%p1 add.u64 %rd8, %rd8, 2;",
    );
    assert_eq!(f.kind, FaultKind::Divergence);
    assert!(f.thread[0] >= 96 && f.other.is_some(), "{f}");
    let (f, _) = fault("wgmma.mma_async", "setp.ge.u32 %p1, %r1, 5; @%p1 wgmma.mma_async");
    assert_eq!(f.kind, FaultKind::Divergence);
}

#[test]
fn shapes_that_are_not_known_are_named() {
    let good = text(CASE.n, &(product(&CASE) + WAIT));
    for (from, to) in [("m64n16k16", "m64n12k16"), ("f32.bf16", "f16.bf16"), (", 1, 1, ", ", 1, 2, ")] {
        let bad = good.replace(from, to);
        let mut memory = Memory::new();
        let program = Program::load(Module::parse(&bad).unwrap(), &mut memory).unwrap();
        let error = program.kernel("k").expect_err("not known");
        assert!(error.message.contains("wgmma.mma_async.sync.aligned"), "{error}");
    }
}
