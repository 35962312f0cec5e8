//! The token loop: a prompt, then one chosen token after another.

use crate::run_error::{RunCode, RunError};
use crate::sample::Sampler;
use crate::session::Session;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// When a generation ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// The most tokens to choose.
    pub max_tokens: usize,
    /// Tokens that end it, as a tokenizer's ends of text.
    pub stop: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions { max_tokens: 256, stop: Vec::new() }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose this token, one of those that end it; it is not part of the result.
    Stop(u32),
    /// As many tokens as were asked for.
    MaxTokens,
    /// The sequence is as long as the model's text allows.
    Bound,
    /// The caller asked for no more.
    Cancelled,
}

/// What a generation made, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The chosen tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// How fast it was.
    pub stats: GenerationStats,
}

/// How fast a generation was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerationStats {
    /// Tokens of the prompt that were run.
    pub prompt_tokens: usize,
    /// Time until the last one's output was there.
    pub prompt_time: Duration,
    /// Chosen tokens that were run.
    pub steps: usize,
    /// Time for them, choosing included.
    pub step_time: Duration,
}

impl GenerationStats {
    /// Tokens of the prompt in a second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// Generated tokens in a second.
    pub fn step_rate(&self) -> f64 {
        rate(self.steps, self.step_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

impl Session {
    /// Appends a prompt (which may be empty when there are tokens) and then tokens that the sampler chooses, until one of
    /// the options' ends. `on_token` hears each token before the next one is computed, and may end it.
    ///
    /// Where the sampler needs only the best of a token's output ([`Sampler::needs`]) and the artifact can search for as
    /// many, the device finds them and nothing else is copied; the tokens are the same.
    ///
    /// # Errors
    /// A model that cannot generate, no tokens to go on from, or as [`crate::Engine::step`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampler: &mut Sampler,
        options: &GenerateOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, RunError> {
        self.engine().check_generates()?;
        let mut stats = GenerationStats { prompt_tokens: prompt.len(), ..Default::default() };
        let start = Instant::now();
        self.prefill(prompt)?;
        stats.prompt_time = start.elapsed();
        if self.logits().is_empty() {
            return Err(RunError::new(RunCode::Input, "prompt", "no tokens")
                .expected("at least one")
                .help("begin with the tokenizer's begin-of-text token"));
        }
        prompt.iter().for_each(|token| sampler.accept(*token));
        let few = sampler.needs().filter(|count| *count <= self.engine().most_best());
        let mut tokens = Vec::new();
        let start = Instant::now();
        let finish = loop {
            if tokens.len() >= options.max_tokens {
                break Finish::MaxTokens;
            }
            if self.room() == Some(0) {
                break Finish::Bound;
            }
            if !tokens.is_empty() {
                match few {
                    Some(count) => self.run_chosen_best(count)?,
                    None => self.run_chosen()?,
                }
                stats.steps += 1;
            }
            let token = match self.best() {
                Some(best) => sampler.sample_best(&best.places, &best.values),
                None => sampler.sample(self.logits()),
            };
            sampler.accept(token);
            self.choose(token);
            if options.stop.contains(&token) {
                break Finish::Stop(token);
            }
            tokens.push(token);
            if on_token(token).is_break() {
                break Finish::Cancelled;
            }
        };
        stats.step_time = start.elapsed();
        Ok(Generation { tokens, finish, stats })
    }
}

/// The most memory this process has had resident, in bytes, where the system says.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse::<u64>().ok())?;
    Some(kib << 10)
}
