//! The engine against lists of tokens, on the test double.

use super::*;
use crate::device::double::{Double, GENERATED, VOCABULARY, answer, model};
use crate::generate::{Finish, GenerateOptions};
use crate::sample::{SampleOptions, Sampler};
use crate::session::Session;
use llmc_artifact::plan::{PackedWeight, Storage};
use llmc_artifact::recipe::{Recipe, RecipeOp};
use llmc_artifact::{Format, ScalarOp};
use proptest::prelude::*;
use std::ops::ControlFlow;

/// 16 bytes of caches a token.
const BYTES_PER_PAGE: u64 = 64 * 4 * 4;

fn engine_with(artifact: &Artifact, chunk: usize, pages: u64, fail_after: Option<usize>) -> Engine {
    artifact.plan.validate(&artifact.targets).unwrap();
    let options = EngineOptions { chunk, cache_bytes: Some(pages * BYTES_PER_PAGE), ..Default::default() };
    Engine::on(Box::new(Double::new(fail_after)), artifact, None, &options).unwrap()
}

fn engine(chunk: usize) -> Engine {
    engine_with(&model(None, None, None), chunk, 100, None)
}

fn feed<'a>(sequence: &'a mut Sequence, tokens: &'a [u32], role: Role, want: Want) -> Feed<'a> {
    Feed { sequence, inputs: Inputs::Tokens(tokens), role, want }
}

/// What the caches must hold for these tokens.
fn remembered(tokens: &[u32], role: Role) -> Vec<u32> {
    let added = if role == Role::Generated { GENERATED } else { 0 };
    tokens.iter().map(|t| t + added).collect()
}

#[derive(Clone, Debug)]
struct Turn {
    tokens: Vec<u32>,
    role: Role,
    want: Want,
}

fn turn() -> impl Strategy<Value = Turn> {
    let tokens = prop_oneof![prop::collection::vec(0..VOCABULARY, 1..4), prop::collection::vec(0..VOCABULARY, 1..140)];
    let role = prop_oneof![Just(Role::Prompt), Just(Role::Generated)];
    let want = prop_oneof![Just(Want::Nothing), Just(Want::Last), Just(Want::All)];
    (tokens, role, want).prop_map(|(tokens, role, want)| Turn { tokens, role, want })
}

#[derive(Clone, Debug)]
enum Op {
    /// A turn for some of the sequences, those whose bit is set.
    Step(u8, Vec<Turn>),
    Fork(prop::sample::Index),
    Rewind(prop::sample::Index, prop::sample::Index),
    Drop(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        5 => (any::<u8>(), prop::collection::vec(turn(), 8)).prop_map(|(mask, turns)| Op::Step(mask, turns)),
        2 => which().prop_map(Op::Fork),
        2 => (which(), which()).prop_map(|(i, n)| Op::Rewind(i, n)),
        1 => which().prop_map(Op::Drop),
    ]
}

/// The rows that are wanted after `list` grew from `old` tokens.
fn expected(list: &[u32], old: usize, want: Want) -> Vec<f32> {
    let ends = match want {
        Want::Nothing => list.len() + 1..list.len() + 1,
        Want::Last => list.len()..list.len() + 1,
        Want::All => old + 1..list.len() + 1,
    };
    ends.flat_map(|end| answer(&list[..end])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any batches, forks, rewinds and chunks, with caches that are sometimes too small, answer as lists of tokens do.
    #[test]
    fn sequences_are_lists_of_tokens(
        ops in prop::collection::vec(op(), 1..25),
        chunk in prop_oneof![1..9usize, 50..300usize],
        pages in prop_oneof![3..12u64, Just(1000)],
    ) {
        let engine = engine_with(&model(None, None, None), chunk, pages, None);
        let mut all: Vec<(Sequence, Vec<u32>)> = vec![(engine.sequence(), vec![]), (engine.sequence(), vec![])];
        for op in ops {
            match op {
                Op::Step(mask, turns) => step_some(&engine, &mut all, mask, &turns)?,
                Op::Fork(i) if all.len() < 8 => {
                    let fork = all[i.index(all.len())].clone();
                    all.push(fork);
                }
                Op::Fork(_) => {}
                Op::Rewind(i, n) => {
                    let i = i.index(all.len());
                    let (sequence, list) = &mut all[i];
                    let n = n.index(list.len() + 1);
                    sequence.rewind(n).unwrap();
                    prop_assert_eq!(sequence.rewind(n + 1).unwrap_err().code(), "E0812");
                    list.truncate(n);
                }
                Op::Drop(i) if all.len() > 1 => {
                    let i = i.index(all.len());
                    all.swap_remove(i);
                }
                Op::Drop(_) => {}
            }
        }
    }
}

fn step_some(engine: &Engine, all: &mut [(Sequence, Vec<u32>)], mask: u8, turns: &[Turn]) -> Result<(), TestCaseError> {
    let chosen = || (0..8).filter(|i| mask >> i & 1 == 1);
    let mut feeds = Vec::new();
    for (i, (sequence, _)) in all.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
        feeds.push(feed(sequence, &turns[i].tokens, turns[i].role, turns[i].want));
    }
    let outputs = engine.step(&mut feeds);
    drop(feeds);
    match outputs {
        Ok(outputs) => {
            let stepped = chosen().filter(|i| *i < all.len()).collect::<Vec<_>>();
            prop_assert_eq!(outputs.len(), stepped.len());
            for (i, output) in stepped.into_iter().zip(outputs) {
                let (sequence, list) = &mut all[i];
                let old = list.len();
                list.extend(remembered(&turns[i].tokens, turns[i].role));
                prop_assert_eq!(sequence.len(), list.len());
                prop_assert_eq!(&output[0].data, &expected(list, old, turns[i].want));
                prop_assert_eq!(output[0].rows * 2, output[0].data.len());
            }
        }
        Err(e) => {
            prop_assert_eq!(e.code(), "E0806", "{}", e);
            for (sequence, list) in all.iter() {
                prop_assert_eq!(sequence.len(), list.len(), "a failed step changes nothing");
            }
        }
    }
    Ok(())
}

#[test]
fn chunks_change_nothing() {
    let tokens: Vec<u32> = (0..500).map(|i| i * 7 % VOCABULARY).collect();
    let whole = Session::new(&engine(1000)).evaluate(&tokens).unwrap();
    assert_eq!((whole.rows, whole.dims.as_slice()), (500, &[2][..]));
    for chunk in [1, 3, 64, 256, 499] {
        assert_eq!(Session::new(&engine(chunk)).evaluate(&tokens).unwrap(), whole, "chunks of {chunk}");
    }
}

#[test]
fn full_caches_say_so_and_recover() {
    let engine = engine_with(&model(None, None, None), 256, 2, None);
    let (mut a, mut b) = (Session::new(&engine), Session::new(&engine));
    a.prefill(&[1; 65]).unwrap();
    let error = b.prefill(&[2]).unwrap_err();
    assert_eq!(error.code(), "E0806");
    assert!(error.to_string().contains("room for 128 tokens"), "{error}");
    drop(a);
    b.prefill(&[2; 128]).unwrap();
    assert_eq!(b.step(3).unwrap_err().code(), "E0806");
    assert_eq!(b.tokens().len(), 128);
}

/// No tensors: for weights that are made of none.
struct Nothing;

impl TensorData for Nothing {
    fn tensor_bytes(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

#[test]
fn what_does_not_fit_is_named_with_what_is_free() {
    let mut artifact = model(None, None, None);
    let nodes = vec![RecipeOp::Axis(0), RecipeOp::Map(ScalarOp::ToReal, vec![0])];
    let recipe = Recipe { axes: vec![("a".into(), 1000)], nodes, root: 1, order: vec![0], ..Recipe::default() };
    for name in ["first", "second"] {
        let storage = Storage::Dense { dims: vec![Dim::Const(1000)] };
        let weight = PackedWeight { name: name.into(), format: Format::F32, storage, recipe: recipe.clone() };
        artifact.plan.weights.push(weight);
    }
    let options = EngineOptions { cache_bytes: Some(1 << 20), ..EngineOptions::default() };
    let on = |room: u64| {
        let mut device = Double::new(None);
        device.room = room;
        let engine = Engine::on(Box::new(device), &artifact, Some(&Nothing), &options)?;
        let mut sequence = engine.sequence();
        engine.feed(feed(&mut sequence, &[7; 256], Role::Prompt, Want::Last))
    };
    for (room, part, found) in [
        (5000, "weight `second`, after 4000 bytes of 8000 bytes of weights", "4000 bytes asked for, 1000 bytes free"),
        (8000 + 2000, "caches for 256 tokens, at `high`", "3072 bytes asked for, 976 bytes free"),
        (8000 + 4096 + 100, "workspace of a step of 256 tokens, at `tokens`", "1024 bytes asked for, 100 bytes free"),
    ] {
        let error = on(room).expect_err("no room");
        assert_eq!(error.code(), "E0805");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains(found) && text.contains("help: "), "{text}");
    }
    assert!(on(1 << 20).is_ok());
}

#[test]
fn a_failed_step_changes_nothing() {
    let engine = engine_with(&model(None, None, None), 10, 100, Some(3));
    let mut session = Session::new(&engine);
    session.prefill(&[5; 10]).unwrap();
    assert_eq!(session.prefill(&[6; 25]).unwrap_err().code(), "E0811", "in its third chunk");
    assert_eq!((session.tokens(), session.logits()), (&[5; 10][..], &answer(&[5; 10])[..]));
    assert_eq!(session.sequence_len(), 10);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let engine = engine_with(&model(None, Some(70), None), 256, 100, None);
    let mut s = engine.sequence();
    let mut refused = |inputs: Inputs, code: &str, words: &str| {
        let f = Feed { sequence: &mut s, inputs, role: Role::Prompt, want: Want::Last };
        let error = engine.feed(f).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(Inputs::Tokens(&[]), "E0807", "expected: at least one");
    refused(Inputs::Tokens(&[3, VOCABULARY]), "E0807", "100 at index 1");
    refused(Inputs::Tokens(&[1; 71]), "E0808", "expected: at most 70");
    refused(Inputs::Named(vec![("tokens", Values::Int(&[-1]))]), "E0807", "-1 at index 0");
    refused(Inputs::Named(vec![("tokens", Values::Real(&[1.0]))]), "E0807", "found: real numbers");
    refused(Inputs::Named(vec![("token", Values::Int(&[1]))]), "E0807", "one of: tokens, scale");
    refused(Inputs::Named(vec![("scale", Values::Real(&[1.0]))]), "E0807", "at least one");
    let two = [("tokens", Values::Int(&[1])), ("tokens", Values::Int(&[1]))];
    refused(Inputs::Named(two.to_vec()), "E0807", "given twice");
    let wide = [("tokens", Values::Int(&[1])), ("scale", Values::Real(&[1.0, 2.0]))];
    refused(Inputs::Named(wide.to_vec()), "E0807", "found: 2 elements");

    let (mut a, mut b) = (engine.sequence(), engine.sequence());
    let named = |scale| Inputs::Named(vec![("tokens", Values::Int(&[1])), ("scale", Values::Real(scale))]);
    let mut feeds = [
        Feed { sequence: &mut a, inputs: named(&[1.0]), role: Role::Prompt, want: Want::Last },
        Feed { sequence: &mut b, inputs: named(&[2.0]), role: Role::Prompt, want: Want::Last },
    ];
    assert_eq!(engine.step(&mut feeds).unwrap_err().code(), "E0807", "one scale for the whole batch");
}

#[test]
fn an_encoder_sees_everything_and_does_not_generate() {
    let engine = engine_with(&model(Some("`k[t = s]` reads later tokens"), None, None), 4, 100, None);
    let tokens: Vec<u32> = (0..99).collect();
    let mut session = Session::new(&engine);
    let output = session.evaluate(&tokens).unwrap();
    assert_eq!(output.data, answer(&tokens).repeat(99), "not cut into chunks");
    for error in [
        session.prefill(&[1]).unwrap_err(),
        Session::new(&engine).step(1).unwrap_err(),
        generate(&mut Session::new(&engine), &[1], 3).unwrap_err(),
    ] {
        assert_eq!(error.code(), "E0809");
        assert!(error.to_string().contains("`k[t = s]` reads later tokens"), "{error}");
    }
    // Two of them in one batch do not see each other.
    let (mut a, mut b) = (engine.sequence(), engine.sequence());
    let mut feeds =
        [feed(&mut a, &tokens[..3], Role::Prompt, Want::Last), feed(&mut b, &tokens[3..], Role::Prompt, Want::Last)];
    let outputs = engine.step(&mut feeds).unwrap();
    assert_eq!(outputs[0][0].data, answer(&tokens[..3]));
    assert_eq!(outputs[1][0].data, answer(&tokens[3..]));
}

fn generate(session: &mut Session, prompt: &[u32], max_tokens: usize) -> Result<crate::generate::Generation, RunError> {
    let mut sampler = Sampler::new(SampleOptions::default()).unwrap();
    let options = GenerateOptions { max_tokens, stop: vec![] };
    session.generate(prompt, &mut sampler, &options, |_| ControlFlow::Continue(()))
}

#[test]
fn generation_runs_chosen_tokens_by_the_decode_plan() {
    let mut session = Session::new(&engine(4));
    let made = generate(&mut session, &[3, 4, 5], 4).unwrap();
    let mut list = vec![3, 4, 5];
    for token in &made.tokens {
        let [zero, one] = answer(&list);
        assert_eq!(*token, (one > zero) as u32);
        list.push(token + GENERATED);
    }
    assert_eq!((made.tokens.len(), made.finish), (4, Finish::MaxTokens));
    assert_eq!((made.stats.prompt_tokens, made.stats.steps), (3, 3), "the last token is not run");
    assert_eq!(session.tokens().len(), 7);

    // Going on is the same as not having stopped.
    let more = generate(&mut session, &[], 3).unwrap();
    let mut once = Session::new(&engine(4));
    let all = generate(&mut once, &[3, 4, 5], 7).unwrap();
    assert_eq!([made.tokens, more.tokens].concat(), all.tokens);
    assert_eq!(session.logits(), once.logits());
    assert_eq!(session.tokens(), once.tokens());
}

#[test]
fn generation_ends() {
    let engine = engine_with(&model(None, Some(8), None), 4, 100, None);
    let sampler = || Sampler::new(SampleOptions::default()).unwrap();
    let on = |_| ControlFlow::Continue(());
    let mut session = Session::new(&engine);
    let made = session.generate(&[1], &mut sampler(), &GenerateOptions::default(), on).unwrap();
    assert_eq!((made.finish, session.tokens().len(), session.room()), (Finish::Bound, 8, Some(0)));
    let first = made.tokens[0];

    let stop = GenerateOptions { max_tokens: 9, stop: vec![first] };
    let mut session = Session::new(&engine);
    let made = session.generate(&[1], &mut sampler(), &stop, on).unwrap();
    assert_eq!((made.finish, made.tokens.len()), (Finish::Stop(first), 0));
    assert_eq!(session.tokens(), [1, first], "a conversation goes on after the end of a turn");

    let mut session = Session::new(&engine);
    let mut heard = 0;
    let made = session.generate(&[1], &mut sampler(), &GenerateOptions::default(), |_| {
        heard += 1;
        if heard == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(made.unwrap().finish, Finish::Cancelled);
    assert_eq!(session.tokens().len(), 3);

    let error = generate(&mut Session::new(&engine), &[], 1).unwrap_err();
    assert_eq!(error.code(), "E0807");
}

#[test]
fn a_session_forks_rewinds_and_resumes() {
    let engine = engine(16);
    let mut a = Session::new(&engine);
    a.prefill(&[1; 70]).unwrap();
    let mut b = a.fork();
    assert_eq!(a.step(2).unwrap(), answer(&[vec![1; 70], vec![2 + GENERATED]].concat()));
    assert_eq!(b.prefill(&[3]).unwrap(), answer(&[vec![1; 70], vec![3]].concat()));
    a.rewind(69).unwrap();
    assert!(a.logits().is_empty(), "not known any more");
    assert_eq!(a.rewind(80).unwrap_err().code(), "E0812");
    assert_eq!(a.prefill(&[4]).unwrap(), answer(&[vec![1; 69], vec![4]].concat()));

    let next = [vec![1; 60], vec![9; 5]].concat();
    assert_eq!(b.resume(&next).unwrap(), answer(&next));
    assert_eq!(b.tokens(), next);
    assert_eq!(b.resume(&next).unwrap(), answer(&next), "nothing new, and still an answer");
    assert_eq!(b.resume(&[7]).unwrap(), answer(&[7]));
}

#[test]
fn a_window_keeps_generation_within_bounds() {
    // The double looks further back than the window says, so only lengths are looked at.
    let engine = engine_with(&model(None, None, Some(100)), 64, 10, None);
    let mut session = Session::new(&engine);
    for i in 0..3000 {
        session.step(i % VOCABULARY).unwrap();
    }
    session.rewind(2900).unwrap();
    assert_eq!(session.rewind(100).unwrap_err().code(), "E0812");
    session.resume(&[1, 2, 3]).unwrap();
    assert_eq!(session.tokens(), [1, 2, 3], "begun anew where it could not be rewound");
}

#[test]
fn weights_must_be_given_when_the_artifact_has_none() {
    use llmc_artifact::plan::{PackedWeight, Storage};
    let mut artifact = model(None, None, None);
    artifact.plan.weights.push(PackedWeight {
        name: "w".into(),
        format: llmc_artifact::Format::F32,
        storage: Storage::Dense { dims: vec![Dim::Const(4)] },
        recipe: Default::default(),
    });
    let error = Engine::on(Box::new(Double::new(None)), &artifact, None, &EngineOptions::default()).unwrap_err();
    assert_eq!(error.code(), "E0810");
    assert!(error.to_string().contains("`--weights`"), "{error}");
}

/// Every continuation of `list` with this many tokens, and its score, by brute force.
fn all_continuations(list: &[u32], tokens: usize) -> Vec<(Vec<u32>, f64)> {
    if tokens == 0 {
        return vec![(vec![], 0.0)];
    }
    let mut all = Vec::new();
    for token in 0..2 {
        let score = crate::sample::log_probability(&answer(list), token);
        let longer = [list, &[token + GENERATED]].concat();
        for (rest, more) in all_continuations(&longer, tokens - 1) {
            all.push(([&[token][..], &rest].concat(), score + more));
        }
    }
    all
}

#[test]
fn beams_as_wide_as_the_tree_find_the_likeliest() {
    let mut greedy_is_best = 0;
    for seed in 0..20 {
        let prompt = [seed, seed * 2 + 1];
        let mut session = Session::new(&engine(16));
        let options = GenerateOptions { max_tokens: 4, stop: vec![] };
        let made = session.beam_search(&prompt, 16, &options).unwrap();
        let all = all_continuations(&prompt, 4);
        let best = all.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
        let found = all.iter().find(|(tokens, _)| *tokens == made.tokens).unwrap().1;
        assert!((found - best).abs() < 1e-9, "{prompt:?}: {found} of {best}");
        assert_eq!(session.tokens(), [&prompt[..], &made.tokens].concat());
        let greedy = generate(&mut Session::new(&engine(16)), &prompt, 4).unwrap();
        greedy_is_best += (greedy.tokens == made.tokens) as u32;
    }
    assert!((1..20).contains(&greedy_is_best), "{greedy_is_best} of 20 would also have been found without beams");
}

#[test]
fn one_beam_is_greedy_and_beams_end() {
    let options = GenerateOptions { max_tokens: 6, stop: vec![] };
    let (mut a, mut b) = (Session::new(&engine(16)), Session::new(&engine(16)));
    let greedy = generate(&mut a, &[4, 2], 6).unwrap();
    let beam = b.beam_search(&[4, 2], 1, &options).unwrap();
    assert_eq!((beam.tokens, beam.finish), (greedy.tokens.clone(), Finish::MaxTokens));
    assert_eq!(a.prefill(&[9]).unwrap(), b.prefill(&[9]).unwrap(), "both go on alike");

    let stop = GenerateOptions { max_tokens: 6, stop: vec![greedy.tokens[0]] };
    let mut c = Session::new(&engine(16));
    let beam = c.beam_search(&[4, 2], 1, &stop).unwrap();
    assert_eq!((beam.tokens.len(), beam.finish), (0, Finish::Stop(greedy.tokens[0])));

    let bounded = engine_with(&model(None, Some(5), None), 16, 100, None);
    let mut d = Session::new(&bounded);
    let beam = d.beam_search(&[4, 2], 3, &options).unwrap();
    assert_eq!((beam.tokens.len(), beam.finish), (3, Finish::Bound));
}
