//! Beam search: the likeliest continuation among several that are followed side by side.
//!
//! Beams are forks, so their common tokens are cached once, and each step runs all of them as one batch.

use crate::engine::{Feed, Inputs, Role, Want};
use crate::generate::{Finish, GenerateOptions, Generation, GenerationStats};
use crate::run_error::{RunCode, RunError};
use crate::sample::{greedy, log_probability};
use crate::session::Session;
use std::cmp::Ordering;
use std::time::Instant;

/// A continuation that is still followed.
struct Beam {
    session: Session,
    tokens: Vec<u32>,
    /// Sum of the tokens' log probabilities.
    score: f64,
}

/// A continuation that has ended.
struct Ended {
    session: Session,
    tokens: Vec<u32>,
    /// Log probability per token.
    mean: f64,
    finish: Finish,
}

/// One more token for one of the beams.
struct Candidate {
    beam: usize,
    token: u32,
    score: f64,
}

impl Session {
    /// Appends a prompt and the likeliest continuation, by log probability per token, that following `beams` of them at
    /// a time finds. The session goes on from it.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn beam_search(
        &mut self,
        prompt: &[u32],
        beams: usize,
        options: &GenerateOptions,
    ) -> Result<Generation, RunError> {
        self.engine().check_generates()?;
        let mut stats = GenerationStats { prompt_tokens: prompt.len(), ..Default::default() };
        let start = Instant::now();
        self.prefill(prompt)?;
        stats.prompt_time = start.elapsed();
        if self.logits().is_empty() {
            return Err(RunError::new(RunCode::Input, "prompt", "no tokens").expected("at least one"));
        }
        let start = Instant::now();
        let best = search(self, beams.max(1), options, &mut stats)?;
        stats.step_time = start.elapsed();
        *self = best.session;
        Ok(Generation { tokens: best.tokens, finish: best.finish, stats })
    }
}

fn search(
    start: &Session,
    beams: usize,
    options: &GenerateOptions,
    stats: &mut GenerationStats,
) -> Result<Ended, RunError> {
    let mut live = vec![Beam { session: start.fork(), tokens: Vec::new(), score: 0.0 }];
    let mut ended: Vec<Ended> = Vec::new();
    loop {
        let tokens = live[0].tokens.len();
        if tokens == options.max_tokens || start.room().is_some_and(|room| tokens >= room) {
            let finish = if tokens == options.max_tokens { Finish::MaxTokens } else { Finish::Bound };
            ended.extend(live.into_iter().map(|b| end(b.session, b.tokens, b.score, tokens, finish)));
            break;
        }
        live = extend(&live, beams, options, &mut ended);
        // A guess, as usual: that no live beam's mean per token will rise above what it is now.
        let hope = live.iter().map(|b| b.score / b.tokens.len() as f64).fold(f64::NEG_INFINITY, f64::max);
        let worst = ended.iter().map(|e| e.mean).fold(f64::INFINITY, f64::min);
        if live.is_empty() || ended.len() >= beams && worst >= hope {
            break;
        }
        if tokens + 1 < options.max_tokens {
            step_all(&mut live)?;
            stats.steps += live.len();
        }
    }
    let best = ended.into_iter().reduce(|best, e| if e.mean > best.mean { e } else { best });
    Ok(best.expect("a search ends with at least one continuation"))
}

fn end(session: Session, tokens: Vec<u32>, score: f64, chosen: usize, finish: Finish) -> Ended {
    Ended { session, tokens, mean: score / chosen.max(1) as f64, finish }
}

/// The best beams that are one token longer; those among them that end go to `ended`.
fn extend(live: &[Beam], beams: usize, options: &GenerateOptions, ended: &mut Vec<Ended>) -> Vec<Beam> {
    let mut candidates: Vec<Candidate> =
        live.iter().enumerate().flat_map(|(i, b)| best_tokens(i, b, 2 * beams)).collect();
    candidates.sort_by(likelier);
    let mut longer = Vec::with_capacity(beams);
    for (rank, c) in candidates.into_iter().enumerate() {
        if longer.len() == beams {
            break;
        }
        let parent = &live[c.beam];
        let mut session = parent.session.fork();
        session.choose(c.token);
        let mut tokens = parent.tokens.clone();
        if !options.stop.contains(&c.token) {
            tokens.push(c.token);
            longer.push(Beam { session, tokens, score: c.score });
        } else if rank < beams {
            let chosen = tokens.len() + 1;
            ended.push(end(session, tokens, c.score, chosen, Finish::Stop(c.token)));
        }
    }
    longer
}

/// Likelier candidates first; ties to the earlier beam, then to the lower token.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token))
}

/// The `count` likeliest next tokens of a beam.
fn best_tokens(beam: usize, b: &Beam, count: usize) -> Vec<Candidate> {
    let logits = b.session.logits();
    let top = greedy(logits);
    let (top_logit, top_score) = (logits[top as usize] as f64, b.score + log_probability(logits, top));
    let score = |logit: f32| if logit.is_nan() { f64::NEG_INFINITY } else { top_score + (logit as f64 - top_logit) };
    let candidate = |(token, logit): (usize, &f32)| Candidate { beam, token: token as u32, score: score(*logit) };
    let mut all: Vec<Candidate> = logits.iter().enumerate().map(candidate).collect();
    if all.len() > count {
        all.select_nth_unstable_by(count, likelier);
        all.truncate(count);
    }
    all
}

/// Runs every beam's chosen token, all in one batch.
fn step_all(beams: &mut [Beam]) -> Result<(), RunError> {
    let Some(engine) = beams.first().map(|b| b.session.engine().clone()) else { return Ok(()) };
    let last: Vec<[u32; 1]> = beams.iter().map(|b| [*b.tokens.last().expect("a longer beam has a token")]).collect();
    let mut feeds: Vec<Feed> = beams
        .iter_mut()
        .zip(&last)
        .map(|(b, token)| Feed {
            sequence: b.session.sequence_mut(),
            inputs: Inputs::Tokens(token),
            role: Role::Generated,
            want: Want::Last,
        })
        .collect();
    let outputs = engine.step(&mut feeds)?;
    for (beam, output) in beams.iter_mut().zip(outputs) {
        beam.session.set_logits(output)?;
    }
    Ok(())
}
