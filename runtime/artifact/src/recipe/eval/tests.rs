use super::*;
use crate::checkpoint::TensorInfo;
use crate::recipe::{RecipeOp, RecipeTensor};
use crate::scalar::{ReduceOp, ScalarOp, Value};
use std::collections::HashMap;

struct Files(HashMap<String, Vec<u8>>);

impl TensorData for Files {
    fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|b| b.as_slice())
    }
}

/// A recipe and its file, built by hand.
#[derive(Default)]
struct Case {
    recipe: Recipe,
    files: HashMap<String, Vec<u8>>,
}

impl Case {
    fn axis(&mut self, name: &str, length: u64) -> u16 {
        self.recipe.axes.push((name.into(), length));
        self.recipe.axes.len() as u16 - 1
    }

    fn add(&mut self, op: RecipeOp) -> RecipeNode {
        self.recipe.nodes.push(op);
        self.recipe.root = self.recipe.nodes.len() as u32 - 1;
        self.recipe.root
    }

    fn index(&mut self, axis: u16) -> RecipeNode {
        self.add(RecipeOp::Axis(axis))
    }

    fn int(&mut self, n: i64) -> RecipeNode {
        self.add(RecipeOp::Const(Value::Int(n)))
    }

    fn map(&mut self, op: ScalarOp, args: &[RecipeNode]) -> RecipeNode {
        self.add(RecipeOp::Map(op, args.to_vec()))
    }

    /// `a * factor + b`
    fn merged(&mut self, a: RecipeNode, factor: i64, b: RecipeNode) -> RecipeNode {
        let factor = self.int(factor);
        let a = self.map(ScalarOp::Mul, &[a, factor]);
        self.map(ScalarOp::Add, &[a, b])
    }

    fn tensor(&mut self, names: &[&str], shape: &[u64], format: Format) -> u16 {
        let bytes = format.bytes(shape.iter().product()).expect("whole blocks") as usize;
        for (n, name) in names.iter().enumerate() {
            // Different in every byte, and of small exponent in every format.
            let noise = (0..bytes).map(|i| ((i + 7 * n).wrapping_mul(0x9E37) >> 3) as u8 & 0x3B).collect();
            self.files.insert(name.to_string(), noise);
        }
        let names = names.iter().map(|n| n.to_string()).collect();
        self.recipe.tensors.push(RecipeTensor { names, info: TensorInfo { shape: shape.to_vec(), format } });
        self.recipe.tensors.len() as u16 - 1
    }

    fn load(&mut self, tensor: u16, index: &[RecipeNode]) -> RecipeNode {
        self.add(RecipeOp::Load { tensor, index: index.to_vec() })
    }

    fn weight(&self, format: Format, storage: Storage, order: &[u16]) -> PackedWeight {
        let recipe = Recipe { order: order.to_vec(), ..self.recipe.clone() };
        PackedWeight { name: "w".into(), format, storage, recipe }
    }

    fn pack(&self, format: Format, storage: Storage, order: &[u16]) -> Result<Vec<u8>, RecipeError> {
        let weight = self.weight(format, storage, order);
        let files = Files(self.files.clone());
        let one = packed(&weight, &files, 1);
        assert_eq!(one, packed(&weight, &files, 3), "threads change nothing");
        one
    }

    fn value(&self, tensor: u16, part: usize, element: usize) -> f32 {
        let t = &self.recipe.tensors[tensor as usize];
        let format = t.info.format;
        let bytes = &self.files[&t.names[part]][element / format.block() * format.block_bytes()..];
        format.spec().decode(bytes, element % format.block())
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

fn dense(dims: &[u64]) -> Storage {
    Storage::Dense { dims: dims.iter().map(|d| Dim::Const(*d)).collect() }
}

/// `wq[k, g, e, m]` from the file's `"(k g e) m"` with the halves of `e` interleaved, as GGUF stores queries.
fn permuted(format: Format) -> (Case, [u16; 4]) {
    let mut c = Case::default();
    let (k, g, e, m) = (c.axis("k", 3), c.axis("g", 2), c.axis("e", 8), c.axis("m", 64));
    let t = c.tensor(&["q"], &[48, 64], format);
    let (nk, ng, ne, nm) = (c.index(k), c.index(g), c.index(e), c.index(m));
    let (two, four) = (c.int(2), c.int(4));
    let low = c.map(ScalarOp::Mod, &[ne, four]);
    let low = c.map(ScalarOp::Mul, &[two, low]);
    let high = c.map(ScalarOp::FloorDiv, &[ne, four]);
    let file_e = c.map(ScalarOp::Add, &[low, high]);
    let head = c.merged(nk, 2, ng);
    let row = c.merged(head, 8, file_e);
    c.load(t, &[row, nm]);
    (c, [k, g, e, m])
}

#[test]
fn permuted_rows_keep_their_blocks() {
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q4_0, Format::Q4_1, Format::Q5_1, Format::Q8_0] {
        let (c, order) = permuted(format);
        let out = c.pack(format, Storage::Panel { rows: 48, reduce: 64 }, &order).expect("packs");
        let layout = PanelLayout::new(format, 48, 64).expect("whole blocks");
        for row in 0..48 {
            let e = row % 8;
            let from = row / 8 * 8 + 2 * (e % 4) + e / 4;
            for m in 0..64 {
                assert_eq!(layout.read(&out, row, m), c.value(0, 0, from * 64 + m), "{format} at {row}, {m}");
            }
        }
    }
}

#[test]
fn a_quantised_weight_is_decoded_into_a_plain_one() {
    let (c, order) = permuted(Format::Q4_1);
    let out = f32s(&c.pack(Format::F32, dense(&[48, 64]), &order).expect("packs"));
    assert_eq!(out[64 * 9 + 5], c.value(0, 0, (8 + 2) * 64 + 5));
}

#[test]
fn merged_inner_axes_are_one_run() {
    // wo[m, k, e] from "m (k e)": the run is the whole tensor.
    let mut c = Case::default();
    let (m, k, e) = (c.axis("m", 20), c.axis("k", 2), c.axis("e", 32));
    let t = c.tensor(&["o"], &[20, 64], Format::Q8_0);
    let (nm, nk, ne) = (c.index(m), c.index(k), c.index(e));
    let column = c.merged(nk, 32, ne);
    c.load(t, &[nm, column]);
    let out = c.pack(Format::Q8_0, dense(&[20, 2, 32]), &[m, k, e]).expect("packs");
    assert_eq!(out, c.files["o"]);
    let files = Files(c.files.clone());
    let source = Recipe { order: vec![m, k, e], ..c.recipe.clone() };
    let source = Checked::new(&source, &files).expect("well formed");
    assert!(Runs::new(&source, Format::Q8_0).is_some());
}

#[test]
fn a_transposed_block_weight_cannot_be_kept() {
    let mut c = Case::default();
    let (m, n) = (c.axis("m", 32), c.axis("n", 32));
    let t = c.tensor(&["w"], &[32, 32], Format::Q4_0);
    let (nm, nn) = (c.index(m), c.index(n));
    c.load(t, &[nm, nn]);
    assert_eq!(c.pack(Format::Q4_0, dense(&[32, 32]), &[n, m]), Err(RecipeError::NotCopied(Format::Q4_0)));
    let out = f32s(&c.pack(Format::F32, dense(&[32, 32]), &[n, m]).expect("packs"));
    assert_eq!(out[3 * 32 + 7], c.value(0, 0, 7 * 32 + 3));
}

#[test]
fn several_names_are_an_outer_dimension() {
    let mut c = Case::default();
    let (x, m) = (c.axis("x", 3), c.axis("m", 32));
    let t = c.tensor(&["a", "b", "c"], &[32], Format::Q8_0);
    let (nx, nm) = (c.index(x), c.index(m));
    c.load(t, &[nx, nm]);
    let out = c.pack(Format::Q8_0, dense(&[3, 32]), &[x, m]).expect("packs");
    assert_eq!(out, [&c.files["a"][..], &c.files["b"], &c.files["c"]].concat());
}

#[test]
fn computed_weights_are_evaluated_in_f64() {
    // gain[m] * w[n, m], and a product with a small matrix: sum[r](a[n, r] * b[r, m]).
    let mut c = Case::default();
    let (n, m, r) = (c.axis("n", 17), c.axis("m", 5), c.axis("r", 3));
    let (gain, w) = (c.tensor(&["gain"], &[5], Format::F32), c.tensor(&["w"], &[17, 5], Format::BF16));
    let (a, b) = (c.tensor(&["a"], &[17, 3], Format::F16), c.tensor(&["b"], &[3, 5], Format::F32));
    let (nn, nm, nr) = (c.index(n), c.index(m), c.index(r));
    let (gain, w) = (c.load(gain, &[nm]), c.load(w, &[nn, nm]));
    let product = c.map(ScalarOp::Mul, &[gain, w]);
    let (a, b) = (c.load(a, &[nn, nr]), c.load(b, &[nr, nm]));
    let inner = c.map(ScalarOp::Mul, &[a, b]);
    let inner = c.add(RecipeOp::Reduce(ReduceOp::Sum, vec![r], inner));
    c.map(ScalarOp::Add, &[product, inner]);
    let out = c.pack(Format::F32, Storage::Panel { rows: 17, reduce: 5 }, &[n, m]).expect("packs");
    let layout = PanelLayout::new(Format::F32, 17, 5).expect("plain");
    for n in 0..17 {
        for m in 0..5 {
            let v = |t: u16, i: usize| c.value(t, 0, i) as f64;
            let inner: f64 = (0..3).map(|r| v(2, n * 3 + r) * v(3, r * 5 + m)).sum();
            let want = v(0, m) * v(1, n * 5 + m) + inner;
            assert_eq!(layout.read(&out, n, m), want as f32);
        }
    }
}

#[test]
fn malformed_recipes_and_files_are_errors() {
    let (good, order) = permuted(Format::Q4_1);
    let storage = Storage::Panel { rows: 48, reduce: 64 };
    let broken = |change: fn(&mut Case)| {
        let (mut c, _) = permuted(Format::Q4_1);
        change(&mut c);
        c.pack(Format::Q4_1, storage.clone(), &order)
    };
    assert!(good.pack(Format::Q4_1, storage.clone(), &order).is_ok());
    let found = broken(|c| drop(c.files.remove("q")));
    assert_eq!(found, Err(RecipeError::MissingTensor("q".into())));
    let found = broken(|c| c.files.get_mut("q").expect("there").truncate(1919));
    assert_eq!(found, Err(RecipeError::TensorSize { name: "q".into(), found: 1919, expected: 1920 }));
    let malformed: &[fn(&mut Case)] = &[
        |c| c.recipe.root = 1000,
        |c| c.recipe.nodes.swap(0, 15),
        |c| c.recipe.axes.truncate(2),
        |c| c.recipe.axes[3].1 = 65,
        |c| c.recipe.axes[0].1 = u64::MAX,
        |c| c.recipe.tensors.clear(),
        |c| c.recipe.tensors[0].names.clear(),
        |c| c.recipe.tensors[0].info.shape = vec![u64::MAX, 64],
        |c| c.recipe.tensors[0].info.shape = vec![],
        |c| c.recipe.axes.extend((0..100).map(|i| (i.to_string(), 1))),
        |c| {
            c.add(RecipeOp::Reduce(ReduceOp::Sum, vec![3], c.recipe.root));
        },
        |c| {
            let long = c.axis("long", u64::MAX);
            c.add(RecipeOp::Reduce(ReduceOp::Sum, vec![long], c.recipe.root));
        },
    ];
    for (i, change) in malformed.iter().enumerate() {
        let found = broken(*change);
        assert!(matches!(found, Err(RecipeError::Malformed(_))), "{i}: {found:?}");
    }
    let found = broken(|c| c.recipe.nodes[4] = RecipeOp::Const(Value::Int(9)));
    assert!(matches!(found, Err(RecipeError::OutOfRange { dimension: 0, length: 48, .. })), "{found:?}");
    let other = good.pack(Format::Q4_1, Storage::Panel { rows: 48, reduce: 96 }, &order);
    assert!(matches!(other, Err(RecipeError::Malformed(_))), "{other:?}");
}

/// Speed on this machine: `cargo test -p llmc-artifact packing_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn packing_speed() {
    let mut c = Case::default();
    let (n, m) = (c.axis("n", 280_000), c.axis("m", 576));
    let t = c.tensor(&["w"], &[280_000, 576], Format::Q4_1);
    let (nn, nm) = (c.index(n), c.index(m));
    c.load(t, &[nn, nm]);
    let weight = c.weight(Format::Q4_1, Storage::Panel { rows: 280_000, reduce: 576 }, &[n, m]);
    let files = Files(c.files);
    for threads in [1, 2] {
        let begin = std::time::Instant::now();
        let bytes = packed(&weight, &files, threads).expect("packs").len();
        let seconds = begin.elapsed().as_secs_f64();
        println!("{threads} threads: {:.1} MB in {seconds:.3} s", bytes as f64 * 1e-6);
    }
}
