//! The laws of the optimizer, switched off one by one: kernels change and results never do.

use crate::support::command::llmc;
use crate::support::models;
use llmc::{CompileOptions, DeviceKind, EngineOptions, Feed, Inputs, Loaded, Role, Want, compile, laws_without};
use llmc_compiler::rules::Law;
use llmc_frontend::reference::{Evaluator, Inputs as Values};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The caches hold f16 (11 bits) and everything else f32.
const F16_CACHE: f32 = 2e-3;

const TOKENS: [u32; 7] = [3, 41, 7, 0, 63, 12, 30];

/// Spellings of the tiny llama's text in which laws fire that its own spelling has no use for.
const SPELLINGS: &[&[(&str, &str)]] = &[
    &[],
    // A layer norm's mean; a power; a token read before it is projected; settled choices.
    &[
        ("let z = rms_norm[m](x, ffn_norm, eps)", "let z = layer_norm[m](x, ffn_norm, attn_norm, eps)"),
        ("sum[s](p * u[t = s])", "sum[s](p ^ 1 * sum[m](wv * where(len(k) > 0, y, y))[t = s])"),
    ],
    // Heads picked by a sum over cases.
    &[
        ("sum[s](p * u[t = s])", "sum[h](where(h == k, sum[s](p * (u[k = h])[t = s]), 0))"),
        ("f = head / 2", "f = head / 2, h = kv"),
    ],
];

fn spelled(edits: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let mut text = std::fs::read_to_string(models::text("llama.llm")).expect("the text is there");
    for (from, to) in edits {
        assert!(text.contains(from), "the text has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spelled.llm");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

fn compiled(text: &Path, off: Option<Law>) -> Loaded {
    let laws = laws_without(off.map(Law::name).as_slice()).expect("it can be switched off");
    let options = CompileOptions { laws, ..CompileOptions::with_weights(models::tiny_llama()) };
    compile(text, &options).unwrap_or_else(|e| panic!("without {off:?}: {e}"))
}

fn logits(loaded: &Loaded) -> Vec<f32> {
    let options = EngineOptions { device: DeviceKind::Cpu { threads: Some(1) }, ..EngineOptions::default() };
    let engine = loaded.engine(&options).unwrap_or_else(|e| panic!("{e}"));
    let mut sequence = engine.sequence();
    let feed = Feed { sequence: &mut sequence, inputs: Inputs::Tokens(&TOKENS), role: Role::Prompt, want: Want::All };
    engine.feed(feed).unwrap_or_else(|e| panic!("{e}")).swap_remove(0).data
}

fn reference(text: &Path) -> Vec<f32> {
    let checkpoint = llmc_runtime::weights::open(&models::tiny_llama()).expect("the folder is committed");
    let text = llmc::source::Text::read(text).expect("the text is there");
    let (model, _) = llmc::model(&text, Some(&*checkpoint)).unwrap_or_else(|e| panic!("{e}"));
    let tokens: Vec<i64> = TOKENS.iter().map(|t| i64::from(*t)).collect();
    let out = Evaluator::new(&model, &*checkpoint).run(&Values::one("tokens", &tokens)).expect("it runs");
    out["logits"].data.iter().map(|x| *x as f32).collect()
}

/// Largest difference over the largest wanted value; a NaN is infinitely far.
fn error(found: &[f32], want: &[f32]) -> f32 {
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let far = |d: f32| if d.is_nan() { f32::INFINITY } else { d };
    found.iter().zip(want).fold(0.0f32, |m, (a, b)| m.max(far((a - b).abs()))) / scale
}

/// What makes two compilations the same: code is a function of it.
fn kernels(text: &Path, off: Option<Law>) -> String {
    let checkpoint = llmc_runtime::weights::open(&models::tiny_llama()).expect("the folder is committed");
    let laws = laws_without(off.map(Law::name).as_slice()).expect("it can be switched off");
    let text = llmc::source::Text::read(text).expect("the text is there");
    let stages = llmc::stages(&text, Some(&*checkpoint), laws).unwrap_or_else(|e| panic!("without {off:?}: {e}"));
    stages.kernels.iter().map(|k| k.to_string()).collect::<String>() + &format!("{:?}", stages.plan)
}

#[test]
fn without_any_one_law_a_compiled_llama_gives_the_reference_s_logits() {
    let mut changed = HashSet::new();
    for edits in SPELLINGS {
        let (_folder, text) = spelled(edits);
        let want = reference(&text);
        let mut seen = HashSet::from([kernels(&text, None)]);
        let whole = error(&logits(&compiled(&text, None)), &want);
        assert!(whole < F16_CACHE, "relative error {whole} of {edits:?}");
        for law in Law::ALL.iter().copied().filter(|l| l.needed().is_none()).map(Some) {
            if !seen.insert(kernels(&text, law)) {
                continue;
            }
            changed.extend(law);
            let error = error(&logits(&compiled(&text, law)), &want);
            assert!(error < F16_CACHE, "without {law:?}: relative error {error} of {edits:?}");
        }
    }
    let mut changed: Vec<_> = changed.into_iter().collect();
    changed.sort();
    println!("kernels differ without {changed:?}");
    assert!(changed.len() >= 12, "only {changed:?} change kernels");
}

#[test]
fn every_rule_is_listed() {
    let listed = llmc(&["explain", "--list-rules"]).done();
    for law in Law::ALL {
        assert!(!law.sentence().is_empty() && law.sentence().ends_with('.'), "{law:?} has its sentence");
        let switch = law.needed().map_or(String::new(), |why| format!("\n    cannot be switched off: {why}"));
        let lines = format!("{}\n    {}\n    if {}{switch}\n", law.sentence(), law.equation(), law.condition());
        assert!(listed.contains(&format!("{} (", law.name())) && listed.contains(&lines), "{listed}");
    }
}

#[test]
fn an_unknown_rule_is_told_with_the_nearest_name() {
    let text = models::text("llama.llm");
    let run = |name| llmc(&["inspect", text.to_str().expect("a plain path"), "--disable-rule", name]).refused();
    assert_eq!(run("Absorbed"), "error: no law is called `Absorbed`\n  help: did you mean `Absorb`?\n");
    assert!(run("Rename").contains("`Rename` cannot be switched off: bound axes"));
}
