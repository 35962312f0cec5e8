//! Keys and values that prompts make again from a cached latent: they are the reference's, and the same bits however a
//! prompt is cut, whoever else is in the batch, and after a window has left tokens behind.

use crate::support::interpreted::Interpreted;
use llmc::{Artifact, DeviceKind, Engine, EngineOptions, Feed, Inputs, Role, Sequence, Want};
use llmc_artifact::plan::{Arg, RolePlan};
use llmc_artifact::{Dim, Format};
use llmc_compiler::pipeline::{self, Options, Stages};
use llmc_frontend::compile_text;
use llmc_frontend::diag::render_text;
use llmc_frontend::reference::{Evaluator, Inputs as Values, RandomTensors};
use llmc_runtime::device;

/// Kernels in f32 beside f64.
const PLAIN: f64 = 2e-5;

/// Attention over a latent that is wider than a head, with `seen` as its mask.
fn text(seen: &str) -> String {
    format!(
        r#"model latent for hf "latent" {{
  size vocab = 64, layers = 1
  axis v = vocab, m = 64, h = 8, d = 8, w = 8, r = 48
  layers l = layers
  seq t
  axis s = t
  input tokens[t]: int < vocab
  weight embed[v, m] = hf "embed", wq[l][h, d, m] = hf "{{l}}.wq", wc[l][r, m] = hf "{{l}}.wc",
         wuk[l][h, d, r] = hf "{{l}}.wuk", wuv[l][h, w, r] = hf "{{l}}.wuv", wo[l][m, h, w] = hf "{{l}}.wo",
         gain[l][r] = hf "{{l}}.gain"
  let x = embed[v = tokens]
  for l {{
    let q[t, h, d] = sum[m](wq * x)
    let c[t, r] = rms_norm[r](sum[m](wc * x), gain, 1e-6)
    let k[t, h, d] = sum[r](wuk * c), u[t, h, w] = sum[r](wuv * c)
    let p = softmax[s](where({seen}, sum[d](q * k[t = s]) / sqrt(len(d)), -inf))
    x = x + sum[h, w](wo * sum[s](p * u[t = s]))
  }}
  output logits[t, v] = sum[m](embed * x)
}}
"#
    )
}

/// Elements of the output of a token.
const VOCAB: usize = 64;

const CAUSAL: &str = "s <= t";
const WINDOW: &str = "s <= t and t - s < 40";

fn stages(seen: &str, cache: Format) -> Stages {
    let c = compile_text("latent", &text(seen), None);
    let model = c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Default::default())));
    pipeline::run(model, &Options { cache, ..Options::default() }).unwrap_or_else(|e| panic!("{e}"))
}

fn weights(stages: &Stages) -> RandomTensors {
    RandomTensors::new(&stages.model, 5)
}

fn engine(stages: &Stages, device: Box<dyn device::Device>, chunk: usize) -> Engine {
    let artifact = Artifact { plan: stages.plan.clone(), ..Artifact::default() };
    let options = EngineOptions { chunk, ..EngineOptions::default() };
    Engine::on(device, &artifact, Some(&weights(stages)), &options).unwrap_or_else(|e| panic!("{e}"))
}

fn compiled(stages: &Stages, threads: usize, chunk: usize) -> Engine {
    let code = stages.emit("cpu").unwrap_or_else(|e| panic!("{e}"));
    let device = device::open(DeviceKind::Cpu { threads: Some(threads) }, &[code]).unwrap_or_else(|e| panic!("{e}"));
    engine(stages, device, chunk)
}

/// Whether a role's kernels touch a workspace.
fn makes_again(stages: &Stages, role: &RolePlan) -> bool {
    let workspace = |arg: &Arg| match arg {
        Arg::Buffer(b) => stages.plan.buffers[*b as usize].dims.iter().any(|d| matches!(d, Dim::Pages(_))),
        Arg::Weight(_) | Arg::Cache(_) => false,
    };
    role.launches.iter().any(|l| l.args.iter().any(workspace))
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|n| (n * n + 3 * n) % VOCAB as u32).collect()
}

fn feed<'a>(sequence: &'a mut Sequence, tokens: &'a [u32], role: Role) -> Feed<'a> {
    Feed { sequence, inputs: Inputs::Tokens(tokens), role, want: Want::All }
}

/// Logits of every token, fed in these parts.
fn logits<'a>(engine: &Engine, parts: impl IntoIterator<Item = (&'a [u32], Role)>) -> Vec<f32> {
    let mut sequence = engine.sequence();
    let mut all = Vec::new();
    for (part, role) in parts {
        let out = engine.feed(feed(&mut sequence, part, role)).unwrap_or_else(|e| panic!("{e}"));
        all.extend(out.into_iter().flat_map(|o| o.data));
    }
    all
}

fn whole(tokens: &[u32]) -> [(&[u32], Role); 1] {
    [(tokens, Role::Prompt)]
}

fn error(stages: &Stages, tokens: &[u32], found: &[f32]) -> f64 {
    let ints: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
    let out = Evaluator::new(&stages.model, &weights(stages)).run(&Values::one("tokens", &ints)).expect("it runs");
    let want = &out["logits"].data;
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let far = |d: f64| if d.is_nan() { f64::INFINITY } else { d };
    found.iter().zip(want).fold(0.0f64, |m, (a, b)| m.max(far((f64::from(*a) - b).abs()))) / scale
}

#[test]
fn prompts_make_keys_again_and_generated_tokens_absorb() {
    let stages = stages(CAUSAL, Format::F32);
    assert!(makes_again(&stages, &stages.plan.prefill), "prompts meet the latent itself");
    assert!(!makes_again(&stages, &stages.plan.decode), "generated tokens make keys again");
    let tokens = tokens(70);
    let parts = |prompt: usize| {
        let (first, rest) = tokens.split_at(prompt);
        std::iter::once((first, Role::Prompt)).chain(rest.chunks(1).map(|t| (t, Role::Generated)))
    };
    let interpreted = engine(&stages, Box::new(Interpreted::new(&stages.kernels)), 5);
    let few = &tokens[..12];
    let found = logits(&interpreted, [(&few[..9], Role::Prompt), (&few[9..], Role::Generated)]);
    assert!(error(&stages, few, &found) < PLAIN, "interpreted: {:e}", error(&stages, few, &found));
    let compiled = compiled(&stages, 2, 256);
    for prompt in [70, 66, 1] {
        let error = error(&stages, &tokens, &logits(&compiled, parts(prompt)));
        assert!(error < PLAIN, "after {prompt}: {error:e}");
    }
}

#[test]
fn chunks_threads_and_batches_change_no_bit_of_keys_made_again() {
    let stages = stages(CAUSAL, Format::F16);
    assert!(makes_again(&stages, &stages.plan.prefill), "prompts meet the latent itself");
    let tokens = tokens(150);
    let want = logits(&compiled(&stages, 1, 256), whole(&tokens));
    for (threads, chunk) in [(2, 256), (2, 64), (1, 1), (2, 7)] {
        let found = logits(&compiled(&stages, threads, chunk), whole(&tokens));
        assert!(found == want, "{threads} threads, chunks of {chunk}: other bits");
    }
    let engine = compiled(&stages, 2, 256);
    let (mut a, mut b) = (engine.sequence(), engine.sequence());
    engine.feed(feed(&mut a, &tokens[..40], Role::Prompt)).expect("it runs");
    engine.feed(feed(&mut b, &tokens[..130], Role::Prompt)).expect("it runs");
    let rest = &mut [feed(&mut a, &tokens[40..], Role::Prompt), feed(&mut b, &tokens[130..], Role::Prompt)];
    let batch = engine.step(rest).expect("it runs");
    assert!(batch[0][0].data == want[40 * VOCAB..], "in a batch: other bits");
    assert!(batch[1][0].data == want[130 * VOCAB..], "in a batch: other bits");
}

/// Pages before the window are given back between feeds; what is left gives what all of it gave.
#[test]
fn tokens_that_a_window_left_behind_are_not_made_again() {
    let stages = stages(WINDOW, Format::F32);
    assert!(makes_again(&stages, &stages.plan.prefill), "prompts meet the latent itself");
    let engine = compiled(&stages, 2, 256);
    let tokens = tokens(700);
    let want = logits(&engine, whole(&tokens));
    let found = logits(&engine, tokens.chunks(90).map(|part| (part, Role::Prompt)));
    assert!(found == want, "fed in parts: other bits");
    let error = error(&stages, &tokens[..200], &want[..200 * VOCAB]);
    assert!(error < PLAIN, "relative error {error:e}");
}
