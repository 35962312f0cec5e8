//! Matrix instructions: every layout of the corpus, and a product whose operands come by asynchronous copies.

use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Counters, Fault, FaultKind, Launch, Memory, Program};

const PRODUCT: &str = include_str!("ptx/product.ptx");

/// A fragment's positions: for each lane, row and column of each element.
type Layout = Vec<Vec<(usize, usize)>>;

fn layout(text: &str, name: &str) -> Layout {
    let rows = text.lines().filter_map(|l| l.strip_prefix(name)?.split_once(": "));
    let pair = |p: &str| p.split_once(',').map(|(r, c)| (r.parse().unwrap(), c.parse().unwrap())).unwrap();
    let found: Layout = rows.map(|(_, cells)| cells.split(' ').map(pair).collect()).collect();
    assert_eq!(found.len(), 32);
    found
}

/// Bits of a small number in a type.
fn bits(x: i32, ty: &str) -> u32 {
    let f = (x as f32).to_bits();
    match ty {
        "bf16" => f >> 16,
        "tf32" | "f32" => f,
        "f16" => f >> 16 & 0x8000 | if x == 0 { 0 } else { ((f >> 23 & 0xff) - 112) << 10 | f >> 13 & 0x3ff },
        _ => x as u32 & if ty == "s8" { 0xff } else { u32::MAX },
    }
}

fn width(ty: &str) -> usize {
    match ty {
        "s8" => 8,
        "f16" | "bf16" => 16,
        _ => 32,
    }
}

/// Registers of every lane with a matrix spread over them.
fn spread(layout: &Layout, ty: &str, value: impl Fn(usize, usize) -> i32) -> Vec<Vec<u32>> {
    let per = 32 / width(ty);
    let word = |cells: &[(usize, usize)]| {
        cells.iter().enumerate().fold(0, |w, (i, (r, c))| w | bits(value(*r, *c), ty) << (width(ty) * i))
    };
    layout.iter().map(|cells| cells.chunks(per).map(word).collect()).collect()
}

/// Runs one `mma` on registers of lanes; the result's registers.
fn mma(mnemonic: &str, operands: [&Vec<Vec<u32>>; 3]) -> Vec<[u32; 4]> {
    let counts = operands.map(|o| o[0].len());
    let list = |first: usize, n: usize| (first..first + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let total: usize = counts.iter().sum();
    let loads: String = (0..total).map(|i| format!("ld.global.b32 %r{i}, [%rd2+{}];\n", 4 * i)).collect();
    let (a, b, c) = (list(0, counts[0]), list(counts[0], counts[1]), list(counts[0] + counts[1], counts[2]));
    let d = list(total, 4);
    let text = format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 x, .param .u64 y) {{
            .reg .b32 %r<40>; .reg .b64 %rd<5>;
            mov.u32 %r39, %tid.x;
            ld.param.u64 %rd1, [x]; mad.wide.u32 %rd2, %r39, {}, %rd1;
            {loads}
            {mnemonic} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};
            ld.param.u64 %rd3, [y]; mad.wide.u32 %rd4, %r39, 16, %rd3;
            st.global.v4.b32 [%rd4], {{{d}}};
            ret;
        }}",
        4 * total
    );
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), &mut memory).unwrap();
    let kernel = program.kernel("k").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let lane = |l: usize| operands.iter().flat_map(move |o| o[l].clone());
    let x = memory.upload("x", (0..32).flat_map(lane).flat_map(u32::to_le_bytes).collect());
    let y = memory.allocate("y", 512);
    let params = kernel.pack(&[x, y]).unwrap();
    let ran = kernel.launch(&mut memory, &Launch::new([1, 1, 1], [32, 1, 1], params));
    assert_eq!(ran.unwrap_or_else(|f| panic!("{f}")).matrix_instructions, 1);
    let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
    memory.bytes(y, 512).unwrap().chunks(16).map(|b| [0, 4, 8, 12].map(|i| word(&b[i..i + 4]))).collect()
}

#[test]
fn every_layout_of_the_corpus_multiplies() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fragments");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (shape, ty) = name.split_once('.').unwrap();
        let k: usize = shape.rsplit_once('k').unwrap().1.parse().unwrap();
        let [a, b, c] = ["a ", "b ", "c "].map(|n| layout(&text, n));
        let sum = if ty == "s8" { "s32" } else { "f32" };
        let left = |r: usize, c: usize| (r * 7 + c * 3) as i32 % 11 - 5;
        let right = |r: usize, c: usize| (r * 5 + c * 2) as i32 % 13 - 6;
        let addend = |r: usize, c: usize| (r * 8 + c) as i32;
        let spreads = [spread(&a, ty, left), spread(&b, ty, right), spread(&c, sum, addend)];
        let mnemonic = format!("mma.sync.aligned.{shape}.row.col.{sum}.{ty}.{ty}.{sum}");
        let d = mma(&mnemonic, [&spreads[0], &spreads[1], &spreads[2]]);
        for (lane, cells) in c.iter().enumerate() {
            for (i, (row, column)) in cells.iter().enumerate() {
                let dot: i32 = (0..k).map(|i| left(*row, i) * right(i, *column)).sum();
                let expected = bits(dot + addend(*row, *column), sum);
                assert_eq!(d[lane][i], expected, "{name}, lane {lane}, element {i}");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

fn left(row: usize, k: usize) -> i32 {
    (row * 3 + k * 5) as i32 % 9 - 4
}

fn right(k: usize, column: usize) -> i32 {
    (k * 7 + column * 2) as i32 % 11 - 5
}

fn product(text: &str) -> Result<(Vec<f32>, Counters), Box<Fault>> {
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(text).unwrap_or_else(|e| panic!("{e}")), &mut memory).unwrap();
    let kernel = program.kernel("product").unwrap_or_else(|e| panic!("{e}"));
    let halves = |rows: usize, columns: usize, f: fn(usize, usize) -> i32| {
        (0..rows * columns).flat_map(move |i| (bits(f(i / columns, i % columns), "f16") as u16).to_le_bytes()).collect()
    };
    let (a, b) = (memory.upload("a", halves(16, 16, left)), memory.upload("b", halves(16, 8, right)));
    let d = memory.allocate("d", 512);
    let params = kernel.pack(&[a, b, d]).unwrap();
    let counters = kernel.launch(&mut memory, &Launch::new([1, 1, 1], [32, 1, 1], params))?;
    let bytes = memory.bytes(d, 512).unwrap().chunks(4);
    Ok((bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(), counters))
}

fn expected() -> Vec<f32> {
    let dot = |r: usize, c: usize| (0..16).map(|k| left(r, k) * right(k, c)).sum::<i32>() as f32;
    (0..128).map(|i| dot(i / 8, i % 8)).collect()
}

/// The line of the text that contains this.
fn line(text: &str, what: &str) -> u32 {
    text.lines().position(|l| l.contains(what)).unwrap_or_else(|| panic!("{what}")) as u32 + 1
}

#[test]
fn copies_and_matrices_make_a_product() {
    let (d, c) = product(PRODUCT).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(d, expected());
    assert_eq!((c.async_bytes, c.matrix_flops, c.barriers), (512 + 256, 2 * 16 * 8 * 16, 1));
}

#[test]
fn a_missing_wait_is_told_with_both_lines() {
    let text = PRODUCT.replace("cp.async.wait_group \t0;", "");
    let fault = product(&text).unwrap_err();
    assert_eq!((fault.kind, fault.line), (FaultKind::NotWaited, line(&text, "ldmatrix")));
    assert_eq!(fault.other, Some((line(&text, "cp.async.cg"), [0, 0, 0])), "{fault}");
    let early = PRODUCT.replace("cp.async.wait_group \t0;", "cp.async.wait_group \t1;");
    assert_eq!(product(&early).unwrap_err().kind, FaultKind::NotWaited);
}

#[test]
fn a_missing_barrier_after_copies_is_a_race() {
    let text = PRODUCT.replace("bar.sync \t0;", "");
    let fault = product(&text).unwrap_err();
    assert_eq!((fault.kind, fault.line), (FaultKind::Race, line(&text, "ldmatrix")));
    assert_eq!(fault.other.map(|o| o.0), Some(line(&text, "cp.async.cg")), "{fault}");
}

#[test]
fn a_swapped_fragment_gives_another_product() {
    let text = PRODUCT.replace("{%r12, %r13, %r14, %r15}, {%r17", "{%r12, %r14, %r13, %r15}, {%r17");
    assert_ne!(text, PRODUCT);
    assert_ne!(product(&text).unwrap_or_else(|f| panic!("{f}")).0, expected());
}

#[test]
fn a_matrix_instruction_needs_all_lanes() {
    let text = PRODUCT.replace("\tmma.sync", "\t@%p1 mma.sync");
    let fault = product(&text).unwrap_err();
    assert_eq!((fault.kind, fault.line), (FaultKind::Divergence, line(&text, "mma.sync")));
}
