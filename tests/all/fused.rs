//! What the optimizer makes of whole models: kernels and their specs beside each case.

use super::support::cases::{golden, load, root};
use llmc_artifact::Format;
use llmc_compiler::cost::{self, Role};
use llmc_compiler::group::{Facts, Machine, Unsupported, WeightFact, fused_text};
use llmc_compiler::kernel::{Body, KernelExtent, KernelSpec, verify};
use llmc_compiler::pipeline::{BlockStages as Block, compile_block};
use llmc_compiler::rules::Laws;
use llmc_frontend::graph::{BlockId, Model, Op};
use llmc_frontend::syntax::{
    self,
    ast::{File, Item},
};
use llmc_frontend::{FileId, MODELS, Program, compile_text};

/// Every block of a text compiled without weights; matrices count as stored in `format`.
fn blocks(name: &str, text: &str, format: Format) -> Vec<Block> {
    try_blocks(name, text, format).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn try_blocks(name: &str, text: &str, format: Format) -> Result<Vec<Block>, Unsupported> {
    try_blocks_on(name, text, format, &Machine::default())
}

fn try_blocks_on(name: &str, text: &str, format: Format, machine: &Machine) -> Result<Vec<Block>, Unsupported> {
    let compiled = compile_text(name, text, None);
    let model = compiled.model.unwrap_or_else(|| panic!("{name}: {:#?}", compiled.diagnostics));
    let last = model.blocks.len() - 1;
    (0..model.blocks.len())
        .map(|b| {
            let weights = weight_facts(&model, b, format);
            let facts = Facts {
                weights,
                picked: b == last,
                cache: Format::F16,
                activations: Format::F32,
                machine: machine.clone(),
                role: Role::Prefill,
            };
            compile_block(&model.blocks[b], &model.axes, facts, Laws::ALL, &model.blocks[b].name)
        })
        .collect()
}

pub(super) fn weight_facts(model: &Model, block: usize, format: Format) -> Vec<WeightFact> {
    let step = model.steps.iter().find(|s| s.block == BlockId(block as u32)).expect("every block runs");
    let slots = model.blocks[block].weights.iter().zip(&step.weights);
    let fact = |(slot, weight): (&llmc_frontend::graph::WeightSlot, &llmc_frontend::graph::WeightId)| {
        let node = model.weights[weight.0 as usize].node;
        let (order, is_tensor) = match &model.weight_graph[node].op {
            Op::Tensor(view) => (view.dims.iter().flatten().copied().collect(), true),
            _ => (slot.axes.iter().collect(), false),
        };
        let matrix = is_tensor && slot.axes.len() > 1;
        let format = if matrix { format } else { Format::F32 };
        WeightFact { name: slot.name.clone(), order, format, whole_blocks: is_tensor }
    };
    slots.map(fact).collect()
}

/// The text of every stage from groups on.
fn shown(blocks: &[Block]) -> String {
    let mut out = String::new();
    for b in blocks {
        for role in Role::ALL.iter().take(if b.decode.is_some() { 2 } else { 1 }) {
            let of = if b.decode.is_some() { format!(", {}", role.name()) } else { String::new() };
            out.push_str(&format!("# block {}{of}\n\n{}\n", b.name, fused_text(b.fused(*role))));
            for kernel in &b.lowered(*role).block.kernels {
                out.push_str(&format!("{}\n", kernel.spec));
            }
        }
    }
    out
}

#[test]
fn kernels_of_the_cases() {
    for case in load("tests/cases/fused") {
        let text = shown(&blocks(&case.name, &case.text, Format::F32));
        golden(&case.path.with_extension("txt"), &text);
    }
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("llama")).expect("llama is built in");
    let folder = root().join("tests/cases/fused");
    golden(&folder.join("llama.txt"), &shown(&blocks(name, text, Format::F32)));
    golden(&folder.join("llama_quantised.txt"), &shown(&blocks(name, text, Format::Q4_1)));
}

/// Whether a kernel folds parts, or over them.
fn in_parts(spec: &KernelSpec) -> bool {
    spec.axes.iter().any(|a| matches!(a.extent, KernelExtent::Parts { .. }))
}

/// A generated token has fewer heads than a GPU has multiprocessors: its context is shared out too. A prompt has enough.
#[test]
fn contexts_are_cut_where_there_are_fewer_folds_than_slots() {
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("llama")).expect("llama is built in");
    let cut = |machine: &Machine, role: Role| -> Vec<KernelSpec> {
        let all = try_blocks_on(name, text, Format::BF16, machine).unwrap_or_else(|e| panic!("{e}"));
        let specs = |b: &Block| b.lowered(role).block.kernels.iter().map(|k| k.spec.clone()).collect::<Vec<_>>();
        all.iter().flat_map(specs).filter(in_parts).collect()
    };
    let gpu = cost::by_name("sm_90a").expect("a machine of the table");
    assert!(cut(&gpu, Role::Prefill).is_empty());
    let [parts, whole] = &cut(&gpu, Role::Decode)[..] else { panic!("the attention of a layer, in two kernels") };
    golden(&root().join("tests/cases/fused/llama_parts.txt"), &format!("{parts}\n{whole}"));
    for role in Role::ALL {
        assert!(cut(&Machine::default(), role).is_empty(), "more heads than a few cores");
    }
    let slots = Machine { slots: 1e9, ..Machine::default() };
    assert_eq!(cut(&slots, Role::Prefill).len(), 2);
}

/// What reads a layer's matrix reads it once, whatever scales stand around its products: in layers without routers, tables
/// of positions, and corrections that are made of matrices at load.
#[test]
fn no_kernel_reads_a_matrix_that_another_one_reads() {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (name, text) in MODELS.iter().filter(|(n, _)| ["llama", "gemma3"].iter().any(|m| n.starts_with(m))) {
        let model = compile_text(name, text, None).model.expect("a text of the folder");
        let layers = model.blocks.iter().zip(blocks(name, text, Format::BF16)).filter(|(b, _)| b.name != "first");
        for (block, made) in layers {
            for role in Role::ALL {
                let shown = fused_text(made.fused(role));
                for matrix in block.weights.iter().filter(|w| w.axes.len() > 1) {
                    let reads = |line: &&str| line.split(|c| !is_name(c)).any(|word| word == matrix.name);
                    let lines: Vec<_> = shown.lines().filter(reads).collect();
                    assert!(
                        lines.len() <= 1,
                        "{name}, block {}: `{}` in\n{}",
                        made.name,
                        matrix.name,
                        lines.join("\n")
                    );
                }
            }
        }
    }
}

#[test]
fn a_layer_is_five_kernels_and_six_on_quantised_weights() {
    for (format, kernels) in [(Format::F32, [2, 5, 2]), (Format::Q4_1, [2, 6, 2]), (Format::Q8_0, [2, 6, 2])] {
        let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("llama")).expect("llama is built in");
        let found: Vec<_> = blocks(name, text, format).iter().map(|b| b.lowered.block.kernels.len()).collect();
        assert_eq!(found, kernels, "{format}");
    }
}

#[test]
fn quantised_weights_are_never_decoded() {
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("llama")).expect("llama is built in");
    for block in blocks(name, text, Format::Q4_1) {
        for (weight, source) in block.lowered.block.weights.iter().zip(&block.lowered.weights) {
            let wanted = if source.order.len() > 1 { Format::Q4_1 } else { Format::F32 };
            assert_eq!(weight.format, wanted, "{}", weight.name);
        }
    }
}

/// A spec without the names that people gave.
fn nameless(mut spec: KernelSpec) -> KernelSpec {
    spec.name.clear();
    spec.axes.iter_mut().for_each(|a| a.name.clear());
    spec.operands.iter_mut().for_each(|o| o.name.clear());
    spec
}

#[test]
fn other_names_make_the_same_kernels() {
    let specs = |name: &str| {
        let path = root().join("tests/cases/fused").join(name);
        let text = std::fs::read_to_string(&path).expect("the case is there");
        let all: Vec<_> = blocks(name, &text, Format::F32).into_iter().flat_map(|b| b.lowered.block.kernels).collect();
        all.into_iter().map(|k| (nameless(k.spec), k.operands)).collect::<Vec<_>>()
    };
    assert_eq!(specs("decoder.llm"), specs("renamed.llm"));
}

#[test]
fn no_value_is_stored_for_pairs_of_tokens() {
    for (name, text) in MODELS {
        for block in blocks(name, text, Format::F32) {
            for (axes, _) in &block.fused.terms.stored {
                assert!(axes.iter().filter(|a| block.fused.terms.is_seq(*a)).count() <= 1, "{name}");
            }
        }
    }
}

#[test]
fn every_kernel_of_the_models_is_well_formed() {
    for (name, text) in MODELS {
        for format in [Format::F32, Format::Q8_0] {
            let kernels = blocks(name, text, format).into_iter().flat_map(|b| b.lowered.block.kernels);
            for kernel in kernels {
                let spec = verify(kernel.spec).unwrap_or_else(|e| panic!("{name}: {e}"));
                if let Body::Stream(s) = &spec.body {
                    assert!(s.states.iter().all(|s| s.repair.scale.is_none() || s.op == llmc_artifact::ReduceOp::Sum));
                }
            }
        }
    }
}

/// The decoder of the cases with another condition on the keys that are seen.
fn decoder_seeing(condition: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join("tests/cases/fused/decoder.llm")).expect("the case is there");
    assert!(text.contains("s <= t"));
    blocks("decoder", &text.replace("s <= t", condition), Format::F32)
}

#[test]
fn a_mask_that_leaks_the_future_is_refused_with_the_read_named() {
    for leak in ["s <= t + 1", "s - t < 2", "s <= t or t < 4", "s >= t"] {
        let found = decoder_seeing(leak).into_iter().find_map(|b| b.fused.leaks.into_values().next());
        let sentence = found.unwrap_or_else(|| panic!("{leak} is let through")).sentence;
        assert!(sentence.starts_with("`c[t = s]`"), "{leak}: {sentence}");
    }
    for causal in ["t >= s", "not (s > t)", "0 <= t - s", "s <= t and t - s < 7", "s - t < 1", "s < t or s == t"] {
        assert!(decoder_seeing(causal).iter().all(|b| b.fused.leaks.is_empty()), "{causal}");
    }
}

#[test]
fn a_window_bounds_the_caches() {
    for (window, length) in [("s <= t", None), ("s <= t and t - s < 7", Some(7)), ("0 <= t - s and s > t - 7", Some(7))]
    {
        let caches: Vec<_> = decoder_seeing(window).into_iter().flat_map(|b| b.lowered.block.caches).collect();
        assert_eq!(caches.len(), 2, "keys and values");
        assert!(caches.iter().all(|c| c.window == length), "{window}: {caches:?}");
    }
}

/// The latent and the key that all heads share, of each layer; not the keys and values that are made of them.
#[test]
fn a_latent_is_the_one_cache_of_both_roles() {
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("deepseek")).expect("it is built in");
    let mut seen = 0;
    for block in blocks(name, text, Format::BF16).iter().filter(|b| !b.fused.caches.is_empty()) {
        for role in Role::ALL {
            let fused = block.fused(role);
            let elements = |(value, _): &(u32, usize)| -> u64 {
                fused.terms.stored[*value as usize].0.iter().filter_map(|a| fused.terms.axes.len_of(a)).product()
            };
            let mut sizes: Vec<_> = fused.caches.iter().map(elements).collect();
            sizes.sort_unstable();
            assert_eq!(sizes, [64, 512], "{}: {:?}", role.name(), block.considered);
            assert_eq!(block.lowered(role).block.caches, block.lowered(Role::Prefill).block.caches);
        }
        seen += 1;
    }
    assert_eq!(seen, 2, "dense layers and layers of experts");
}

/// Norms of every kind, biases, relative positions, windows: each is a list of well-formed kernels.
#[test]
fn models_of_every_kind_are_kernels() {
    for case in load("tests/cases/models") {
        for kernel in blocks(&case.name, &case.text, Format::F32).into_iter().flat_map(|b| b.lowered.block.kernels) {
            verify(kernel.spec).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}

/// The built-in llama with its groups written out.
fn llama_written_out() -> String {
    let (name, text) = MODELS.iter().find(|(n, _)| n.starts_with("llama")).expect("llama is built in");
    let program = Program::parse(*name, *text);
    let (model, found) = program.expand(program.models()[0]);
    assert!(found.is_empty(), "{found:?}");
    syntax::print(&File { id: FileId::default(), items: vec![Item::Model(model)], trivia: vec![] })
}

/// The text with each of these names followed by `_other`, also where strings speak of axes: `as "(k e) m"`, `"{l}"`.
pub(super) fn renamed(text: &str, names: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut spoken = false; // inside a string that lists axes, or a hole of any string
    let mut quoted = false;
    while let Some(first) = rest.chars().next() {
        let word = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        let (token, after) = rest.split_at(word.max(first.len_utf8()));
        match token {
            "\"" if quoted => (quoted, spoken) = (false, false),
            "\"" => (quoted, spoken) = (true, out.ends_with("as ")),
            "{" if quoted => spoken = true,
            "}" if quoted => spoken = false,
            _ => {}
        }
        out.push_str(token);
        if names.contains(&token) && (spoken || !quoted) {
            out.push_str("_other");
        }
        rest = after;
    }
    out
}

#[test]
fn llama_under_other_names_is_the_same_kernels() {
    let text = llama_written_out();
    // Every axis, weight and value of the text; sizes are only numbers by then.
    let axes = ["v", "m", "k", "g", "e", "n", "f", "l", "s", "t"];
    let weights =
        ["embed", "wq", "wk", "wv", "wo", "gate", "up", "down", "attn_norm", "ffn_norm", "out_norm", "unembed"];
    let biases = ["bq", "bk", "bv", "bo", "bgate", "bup", "bdown", "freq"];
    let values = ["tokens", "x", "y", "q", "c", "u", "p", "z", "seen", "logits"];
    let names = [&axes[..], &weights, &biases, &values].concat();
    let other = renamed(&text, &names);
    let specs = |text: &str| {
        let all = blocks("llama", text, Format::F32).into_iter().flat_map(|b| b.lowered.block.kernels);
        all.map(|k| (nameless(k.spec), k.operands)).collect::<Vec<_>>()
    };
    for name in names {
        assert!(other.contains(&format!("{name}_other")), "`{name}` was not renamed");
    }
    assert_eq!(specs(&text), specs(&other));
    golden(&root().join("tests/cases/fused/llama_renamed.txt"), &shown(&blocks("llama", &other, Format::F32)));
}
