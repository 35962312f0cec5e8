//! The corpus of fragment layouts on a device: what each `mma.sync` makes of matrices spread as a file says.
//!
//! The corpus is the simulator's (`runtime/ptx-sim/tests/fragments`); here its layouts meet whatever device is asked, in
//! PTX that the device loads as it loads a model's.

use super::cases::{each_file, root};
use llmc_artifact::plan::{KernelInfo, TargetCode};
use llmc_artifact::{Dim, SeqId};
use llmc_runtime::RunError;
use llmc_runtime::device::{Calls, Device};

/// Rows and columns of the elements that each lane holds.
type Layout = Vec<Vec<(usize, usize)>>;

/// A file of the corpus for `mma.sync`: sums of small integers, exact in every type.
pub struct Fragments {
    /// The shape and the type of the factors: `m16n8k16.bf16`.
    pub name: String,
    factor: String,
    depth: usize,
    a: Layout,
    b: Layout,
    c: Layout,
}

/// Every layout of a matrix instruction of 16 by 8.
pub fn corpus() -> Vec<Fragments> {
    let mut all = Vec::new();
    each_file(&root().join("runtime/ptx-sim/tests/fragments"), "txt", &mut |path, text| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let Some((depth, factor)) = name.strip_prefix("m16n8k").and_then(|rest| rest.split_once('.')) else { return };
        let [a, b, c] = ["a ", "b ", "c "].map(|operand| layout(text, operand));
        let (factor, depth) = (factor.to_owned(), depth.parse().expect("a depth"));
        all.push(Fragments { name, factor, depth, a, b, c });
    });
    all.sort_by(|x, y| x.name.cmp(&y.name));
    all
}

fn layout(text: &str, operand: &str) -> Layout {
    let cell = |p: &str| {
        let (row, column) = p.split_once(',').expect("row,column");
        (row.parse().expect("a row"), column.parse().expect("a column"))
    };
    let lanes = text.lines().filter_map(|l| l.strip_prefix(operand)?.split_once(": "));
    let found: Layout = lanes.map(|(_, cells)| cells.split(' ').map(cell).collect()).collect();
    assert_eq!(found.len(), 32, "a warp has 32 lanes");
    found
}

impl Fragments {
    fn sum(&self) -> &'static str {
        if self.factor == "s8" { "s32" } else { "f32" }
    }

    /// Registers of a lane before and after: those of a, b and c.
    fn counts(&self) -> [usize; 3] {
        let of = |layout: &Layout, ty: &str| layout[0].len() * width(ty) / 32;
        [of(&self.a, &self.factor), of(&self.b, &self.factor), of(&self.c, self.sum())]
    }

    /// Code that loads each lane's registers, multiplies, and stores the sums.
    pub fn code(&self) -> TargetCode {
        let [a, b, c] = self.counts();
        let list = |first: usize, n: usize| (first..first + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
        let total = a + b + c;
        let loads: String = (0..total).map(|i| format!("ld.global.b32 %r{i}, [%rd2+{}];\n", 4 * i)).collect();
        let (sum, factor) = (self.sum(), &self.factor);
        let shape = self.name.split('.').next().expect("a shape");
        let (d, a, b, c) = (list(total, c), list(0, a), list(a, b), list(a + b, c));
        let text = format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n
            .visible .entry k(.param .u64 x, .param .u64 y, .param .u64 lengths) {{
                .reg .b32 %r<40>; .reg .b64 %rd<5>;
                mov.u32 %r39, %tid.x;
                ld.param.u64 %rd1, [x]; mad.wide.u32 %rd2, %r39, {}, %rd1;
                {loads}
                mma.sync.aligned.{shape}.row.col.{sum}.{factor}.{factor}.{sum} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};
                ld.param.u64 %rd3, [y]; mad.wide.u32 %rd4, %r39, 16, %rd3;
                st.global.v4.b32 [%rd4], {{{d}}};
                ret;
            }}",
            4 * total
        );
        let kernel = KernelInfo {
            symbol: "k".into(),
            operands: 2,
            tables: vec![],
            dims: vec![Dim::Rows(SeqId(0))],
            items: vec![Dim::Rows(SeqId(0))],
            scratch: 0,
            threads: 32,
            tensor_maps: vec![],
        };
        TargetCode { target: "sm_80".into(), features: vec![], kernels: vec![kernel], code: text.into_bytes() }
    }

    /// Multiplies on a device, and says the first element that is not what the layout says.
    ///
    /// # Errors
    /// What the device says.
    pub fn differs_on(&self, device: &mut dyn Device) -> Result<Option<String>, RunError> {
        let left = |r: usize, c: usize| (r * 7 + c * 3) as i32 % 11 - 5;
        let right = |r: usize, c: usize| (r * 5 + c * 2) as i32 % 13 - 6;
        let addend = |r: usize, c: usize| (r * 8 + c) as i32;
        let spreads = [
            spread(&self.a, &self.factor, left),
            spread(&self.b, &self.factor, right),
            spread(&self.c, self.sum(), addend),
        ];
        let words = (0..32).flat_map(|lane| spreads.iter().flat_map(move |s| s[lane].clone()));
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let (x, y) = (device.allocate(bytes.len() as u64)?, device.allocate(512)?);
        device.write(x, 0, &bytes)?;
        let mut calls = Calls::default();
        calls.push(0, [x, y], [1], 1);
        device.run(&calls)?;
        let mut found = [0; 512];
        device.read(y, 0, &mut found)?;
        let word = |i: usize| u32::from_le_bytes(found[4 * i..][..4].try_into().expect("four bytes"));
        let cells =
            self.c.iter().enumerate().flat_map(|(lane, cells)| cells.iter().enumerate().map(move |c| (lane, c)));
        for (lane, (i, (row, column))) in cells {
            let dot: i32 = (0..self.depth).map(|k| left(*row, k) * right(k, *column)).sum();
            let (want, have) = (bits(dot + addend(*row, *column), self.sum()), word(4 * lane + i));
            if want != have {
                return Ok(Some(format!("{}: lane {lane}, element {i} is {have:#x}, not {want:#x}", self.name)));
            }
        }
        Ok(None)
    }
}

/// Bits of a small integer in a type.
fn bits(x: i32, ty: &str) -> u32 {
    let single = (x as f32).to_bits();
    match ty {
        "bf16" => single >> 16,
        "f16" => u32::from(half::f16::from_f32(x as f32).to_bits()),
        "tf32" | "f32" => single,
        "s8" => x as u32 & 0xff,
        "s32" => x as u32,
        other => panic!("the corpus has no type {other}"),
    }
}

fn width(ty: &str) -> usize {
    match ty {
        "s8" => 8,
        "f16" | "bf16" => 16,
        "tf32" | "f32" | "s32" => 32,
        other => panic!("the corpus has no type {other}"),
    }
}

/// Registers of every lane with a matrix spread over them.
fn spread(layout: &Layout, ty: &str, value: impl Fn(usize, usize) -> i32) -> Vec<Vec<u32>> {
    let word = |cells: &[(usize, usize)]| {
        cells.iter().enumerate().fold(0, |w, (i, (r, c))| w | bits(value(*r, *c), ty) << (width(ty) * i))
    };
    layout.iter().map(|cells| cells.chunks(32 / width(ty)).map(word).collect()).collect()
}
