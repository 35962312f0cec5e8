//! Compiled models against the reference evaluator and against themselves: however a sequence is cut, batched or spread over
//! threads, its logits are the same bits; and they are the reference's within a tolerance.

use crate::support::models::{self, golden_values};
use llmc::{CompileOptions, DeviceKind, Engine, EngineOptions, Feed, Inputs, Loaded, Role, Want, compile};
use llmc::{GenerateOptions, SampleOptions, Sampler, Session};
use llmc_frontend::reference::{Evaluator, Inputs as Values};
use llmc_runtime::sample::{greedy, log_probability};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The caches hold f16 (11 bits) and everything else f32: what that rounding moves in a two-layer model.
const F16_CACHE: f32 = 2e-3;

const TOKENS: [u32; 12] = [3, 41, 7, 7, 0, 63, 12, 30, 5, 22, 48, 9];

/// The tiny llama with a changed text: each pair is replaced once, and must be there.
fn edited(edits: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let mut text = std::fs::read_to_string(models::text("llama.llm")).expect("the text is there");
    for (from, to) in edits {
        assert!(text.contains(from), "the text has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("edited.llm");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

fn load(text: &Path) -> Loaded {
    compile(text, &CompileOptions::with_weights(models::tiny_llama())).unwrap_or_else(|e| panic!("{e}"))
}

fn tiny() -> Loaded {
    load(&models::text("llama.llm"))
}

fn engine(loaded: &Loaded, threads: usize, chunk: usize) -> Engine {
    let options =
        EngineOptions { device: DeviceKind::Cpu { threads: Some(threads) }, chunk, ..EngineOptions::default() };
    loaded.engine(&options).unwrap_or_else(|e| panic!("{e}"))
}

/// Logits of every token, `[tokens, vocab]`: the first `prompt` as a prompt, the rest one at a time in this role.
fn logits(engine: &Engine, tokens: &[u32], prompt: usize, rest: Role) -> Vec<f32> {
    let mut sequence = engine.sequence();
    let (first, others) = tokens.split_at(prompt);
    let parts = std::iter::once((first, Role::Prompt)).chain(others.chunks(1).map(|t| (t, rest)));
    let mut all = Vec::new();
    for (part, role) in parts.filter(|(part, _)| !part.is_empty()) {
        let feed = Feed { sequence: &mut sequence, inputs: Inputs::Tokens(part), role, want: Want::All };
        all.extend(engine.feed(feed).unwrap_or_else(|e| panic!("{e}")).swap_remove(0).data);
    }
    all
}

/// Largest difference over the largest wanted value; a NaN is infinitely far.
fn error(found: &[f32], want: &[f32]) -> f32 {
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let far = |d: f32| if d.is_nan() { f32::INFINITY } else { d };
    found.iter().zip(want).fold(0.0f32, |m, (a, b)| m.max(far((a - b).abs()))) / scale
}

fn reference(text: &Path, tokens: &[u32]) -> Vec<f32> {
    let checkpoint = llmc_runtime::weights::open(&models::tiny_llama()).expect("the folder is committed");
    let text = llmc::source::Text::read(text).expect("the text is there");
    let (model, _) = llmc::model(&text, Some(&*checkpoint)).unwrap_or_else(|e| panic!("{e}"));
    let tokens: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
    let out = Evaluator::new(&model, &*checkpoint).run(&Values::one("tokens", &tokens)).expect("it runs");
    out["logits"].data.iter().map(|x| *x as f32).collect()
}

#[test]
fn a_compiled_llama_gives_the_reference_s_logits() {
    let found = logits(&engine(&tiny(), 1, 256), &TOKENS, TOKENS.len(), Role::Prompt);
    let error = error(&found, &reference(&models::text("llama.llm"), &TOKENS));
    assert!(error < F16_CACHE, "relative error {error}");
}

#[test]
fn every_split_of_a_sequence_gives_the_whole_s_logits() {
    let loaded = tiny();
    let engine = engine(&loaded, 2, 256);
    let whole = logits(&engine, &TOKENS, TOKENS.len(), Role::Prompt);
    for split in 0..TOKENS.len() {
        assert!(logits(&engine, &TOKENS, split, Role::Prompt) == whole, "split at {split}: other bits in one role");
        let error = error(&logits(&engine, &TOKENS, split, Role::Generated), &whole);
        assert!(error <= 1e-5, "split at {split}: relative error {error} across roles");
    }
}

#[test]
fn threads_chunks_and_batches_change_no_bit() {
    let loaded = tiny();
    let tokens: Vec<u32> = (0..150).map(|n| (n * n + 3 * n) % 64).collect();
    let want = logits(&engine(&loaded, 1, 256), &tokens, tokens.len(), Role::Prompt);
    for (threads, chunk) in [(2, 256), (3, 64), (1, 1), (2, 7)] {
        let found = logits(&engine(&loaded, threads, chunk), &tokens, tokens.len(), Role::Prompt);
        assert!(found == want, "{threads} threads, chunks of {chunk}: other bits");
    }
    let engine = engine(&loaded, 2, 256);
    let (mut a, mut b) = (engine.sequence(), engine.sequence());
    let feed =
        |sequence, tokens| Feed { sequence, inputs: Inputs::Tokens(tokens), role: Role::Prompt, want: Want::All };
    let batch = engine.step(&mut [feed(&mut a, &tokens[90..]), feed(&mut b, &tokens)]).expect("it runs");
    assert!(batch[1][0].data == want, "in a batch: other bits");
}

#[test]
fn a_fork_and_a_rewind_go_on_as_if_nothing_had_happened() {
    let loaded = tiny();
    let engine = engine(&loaded, 1, 256);
    let tokens: Vec<u32> = (0..80).map(|n| (5 * n + 1) % 64).collect();
    let mut session = llmc::Session::new(&engine);
    session.prefill(&tokens[..70]).expect("it runs");
    let mut fork = session.fork();
    fork.prefill(&[1, 2, 3]).expect("it runs");
    session.prefill(&tokens[70..]).expect("it runs");
    let want = logits(&engine, &tokens, tokens.len(), Role::Prompt);
    assert!(session.logits() == &want[79 * 64..]);
    session.rewind(66).expect("it is long enough");
    assert!(session.prefill(&tokens[66..]).expect("it runs") == &want[79 * 64..]);
}

/// The device searches for the best where they suffice; the tokens are those that all logits give.
#[test]
fn a_generation_from_the_best_is_that_from_all_logits() {
    let loaded = tiny();
    let engine = engine(&loaded, 2, 256);
    assert_eq!(engine.most_best(), 40);
    let greedy = SampleOptions::default();
    let few = SampleOptions { temperature: 0.9, top_k: 7, top_p: 0.95, seed: 3, ..SampleOptions::default() };
    let many = SampleOptions { top_k: 41, ..few.clone() };
    let penalised = SampleOptions { repeat_penalty: 1.3, ..SampleOptions::default() };
    for options in [greedy, few, many, penalised] {
        let sampler = || Sampler::new(options.clone()).expect("options with a meaning");
        let mut session = Session::new(&engine);
        let ends = GenerateOptions { max_tokens: 20, stop: Vec::new() };
        let made = session.generate(&TOKENS, &mut sampler(), &ends, |_| ControlFlow::Continue(()));
        let made = made.unwrap_or_else(|e| panic!("{e}"));
        let (mut slow, mut whole) = (sampler(), Session::new(&engine));
        whole.prefill(&TOKENS).expect("it runs");
        TOKENS.iter().for_each(|token| slow.accept(*token));
        let mut want = Vec::new();
        for n in 0..20 {
            if n > 0 {
                whole.step(want[n - 1]).expect("it runs");
            }
            let token = slow.sample(whole.logits());
            slow.accept(token);
            want.push(token);
        }
        assert_eq!(made.tokens, want, "{options:?}");
        // What comes after it asks for all logits again.
        let last = *want.last().expect("twenty");
        assert!(session.prefill(&[]).expect("it runs") == whole.step(last).expect("it runs"));
    }
}

#[test]
fn logits_that_were_not_copied_are_computed_again() {
    let loaded = tiny();
    let engine = engine(&loaded, 1, 256);
    let mut session = Session::new(&engine);
    let ends = GenerateOptions { max_tokens: 4, stop: Vec::new() };
    let mut sampler = Sampler::new(SampleOptions::default()).expect("greedy");
    let made = session.generate(&TOKENS, &mut sampler, &ends, |_| ControlFlow::Continue(())).expect("it runs");
    assert!(session.logits().is_empty(), "the best were enough");
    // Without the token that was chosen last and has not run, the best of the one before are what is known.
    session.rewind(TOKENS.len() + 3).expect("it is long enough");
    let again = session.prefill(&[]).expect("it runs").to_vec();
    let mut whole = Session::new(&engine);
    whole.prefill(&TOKENS).expect("it runs");
    made.tokens[..3].iter().for_each(|token| drop(whole.step(*token).expect("it runs").to_vec()));
    assert!(again == whole.logits());
}

#[test]
fn a_window_bounds_what_is_seen() {
    let (_folder, text) =
        edited(&[("let seen = s <= t and (window == 0 or t - s < window)", "let seen = t >= s and t - s < 5")]);
    let loaded = load(&text);
    assert!(loaded.artifact.plan.caches.iter().all(|c| c.window == Some(5)), "{:?}", loaded.artifact.plan.caches);
    let found = logits(&engine(&loaded, 1, 256), &TOKENS, 3, Role::Generated);
    let error = error(&found, &reference(&text, &TOKENS));
    assert!(error < F16_CACHE, "relative error {error}");
}

#[test]
fn a_mask_that_sees_ahead_is_refused_by_generation_and_named() {
    for leak in ["s <= t + 1", "true", "s <= t or s == 7"] {
        let mask = format!("let seen = {leak}");
        let (_folder, text) = edited(&[("let seen = s <= t and (window == 0 or t - s < window)", &mask)]);
        let loaded = load(&text);
        let engine = engine(&loaded, 1, 256);
        let refused = engine.check_generates().expect_err("the mask sees ahead").to_string();
        assert!(refused.contains("E0809") && refused.contains("[t = s]"), "{leak}: {refused}");
        let at = refused.lines().find(|l| l.trim_start().starts_with("-->")).unwrap_or_else(|| panic!("{refused}"));
        assert!(at.contains("edited.llm:") && refused.contains("^"), "{refused}");
        let found = logits(&engine, &TOKENS, TOKENS.len(), Role::Prompt);
        let error = error(&found, &reference(&text, &TOKENS));
        assert!(error < F16_CACHE, "{leak}: relative error {error} of the whole sequence");
    }
}

#[test]
fn smollm2_keeps_its_weights_quantised_and_its_answers() {
    let loaded = compile(models::smollm2(), &CompileOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let file = std::fs::metadata(models::smollm2()).expect("it is there").len();
    let packed: u64 = loaded.artifact.plan.weights.iter().map(|w| w.bytes()).sum();
    assert!(packed < file + file / 50, "{packed} bytes packed of a file of {file}");
    let engine = engine(&loaded, 2, 256);
    let golden = golden_values("smollm2.json");
    let ints = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().expect("a list").iter().map(|x| x.as_u64().expect("a number") as u32).collect()
    };
    let (mut same, mut all) = (0, 0);
    for prompt in golden["prompts"].as_array().expect("prompts") {
        let (tokens, want) = (ints(&prompt["tokens"]), ints(&prompt["argmax"]));
        let found = logits(&engine, &tokens, tokens.len() / 2, Role::Generated);
        let width = found.len() / tokens.len();
        same += found.chunks(width).zip(&want).filter(|(row, token)| greedy(row) == **token).count();
        all += want.len();
    }
    // Activations are quantised to 8 bits for the integer dots: near ties fall the other way.
    assert!(same * 100 >= all * 92, "{same} of {all} most likely tokens are those of f32");
    let want = golden["perplexity"]["perplexity"].as_f64().expect("a number");
    let tokens = ints(&golden["perplexity"]["tokens"]);
    let found = perplexity(&logits(&engine, &tokens, tokens.len(), Role::Prompt), &tokens);
    assert!((found / want - 1.0).abs() < 0.02, "perplexity {found}, in f32 {want}");
}

fn perplexity(logits: &[f32], tokens: &[u32]) -> f64 {
    let rows = logits.chunks(logits.len() / tokens.len()).zip(&tokens[1..]);
    let sum: f64 = rows.map(|(row, next)| log_probability(row, *next)).sum();
    (-sum / (tokens.len() - 1) as f64).exp()
}
