//! One sequence of a model: the simple way to use an [`Engine`].

use crate::engine::{Best, Engine, Feed, Inputs, Output, Role, Sequence, Want};
use crate::run_error::{RunCode, RunError};

/// A sequence and the output of its last token.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use llmc_runtime::{Artifact, Engine, EngineOptions, Session};
///
/// let artifact = Artifact::open("model.llmc")?;
/// let engine = Engine::new(&artifact, None, &EngineOptions::default())?;
/// let mut session = Session::new(&engine);
/// let logits = session.prefill(&[1, 15043])?;
/// println!("{} logits", logits.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    engine: Engine,
    sequence: Sequence,
    /// All tokens; those after the sequence's were chosen and not run yet.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// The best of them, where only those are known.
    best: Option<Best>,
}

impl Session {
    /// A session without tokens.
    pub fn new(engine: &Engine) -> Session {
        let (tokens, logits) = (Vec::new(), Vec::new());
        Session { engine: engine.clone(), sequence: engine.sequence(), tokens, logits, best: None }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its tokens; the last may have been chosen but not run, as the one that ended a generation.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The first output of the last token that ran, `[vocab]` for a language model; empty when it is not known, as after
    /// a generation that asked for the best alone.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// How many tokens may follow, where the model's text bounds their number.
    pub fn room(&self) -> Option<usize> {
        let bound = self.engine.bound()?;
        Some(usize::try_from(bound).unwrap_or(usize::MAX).saturating_sub(self.tokens.len()))
    }

    /// Appends tokens of a prompt and gives the last one's output, `[vocab]` for a language model.
    ///
    /// # Errors
    /// As [`Engine::step`]; the session is then as it was.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], RunError> {
        self.run_chosen()?;
        if !tokens.is_empty() {
            let outputs = self.feed(tokens, Role::Prompt, Want::Last)?;
            self.tokens.extend_from_slice(tokens);
            self.set_logits(outputs)?;
        }
        if self.logits.is_empty() && self.best.is_some() {
            self.run_last_again()?;
        }
        Ok(&self.logits)
    }

    /// Appends a token that was chosen from the model's output and gives its own output.
    ///
    /// # Errors
    /// As [`Engine::step`]; the session is then as it was.
    pub fn step(&mut self, token: u32) -> Result<&[f32], RunError> {
        self.run_chosen()?;
        self.choose(token);
        if let Err(e) = self.run_chosen() {
            self.tokens.pop();
            return Err(e);
        }
        Ok(&self.logits)
    }

    /// Appends tokens of a prompt and gives the first output of every one of them, `[tokens, vocab]`.
    ///
    /// # Errors
    /// As [`Engine::step`]; the session is then as it was.
    pub fn evaluate(&mut self, tokens: &[u32]) -> Result<Output, RunError> {
        self.run_chosen()?;
        let outputs = self.feed(tokens, Role::Prompt, Want::All)?;
        self.tokens.extend_from_slice(tokens);
        let output = first_output(outputs)?;
        let row = output.data.len() / output.rows.max(1);
        self.logits = output.data[output.data.len() - row..].to_vec();
        self.best = None;
        Ok(output)
    }

    /// Makes the session's tokens these, as prompt: what it has in common with them is kept, the rest is run. Gives the
    /// last one's output. For a conversation whose earlier turns are rendered anew each time.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn resume(&mut self, tokens: &[u32]) -> Result<&[f32], RunError> {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token runs in any case: its output is asked for.
        let keep = common.min(self.sequence.len()).min(tokens.len().saturating_sub(1));
        if self.rewind(keep).is_err() {
            *self = Session::new(&self.engine);
        }
        self.prefill(&tokens[self.tokens.len()..])
    }

    /// Another session with the same tokens; copies nothing until one of them grows.
    pub fn fork(&self) -> Session {
        self.clone()
    }

    /// Forgets all tokens from position `len` on.
    ///
    /// # Errors
    /// As [`Sequence::rewind`].
    pub fn rewind(&mut self, len: usize) -> Result<(), RunError> {
        if len > self.tokens.len() {
            let found = format!("{} tokens, of which to keep {len}", self.tokens.len());
            return Err(RunError::new(RunCode::Rewind, "session", found));
        }
        let ran = self.sequence.len();
        if len < ran {
            self.sequence.rewind(len)?;
            self.logits.clear();
            self.best = None;
        }
        self.tokens.truncate(len);
        Ok(())
    }

    /// Notes a token that was chosen; it runs before whatever comes next.
    pub(crate) fn choose(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Runs the tokens that were chosen and not run.
    pub(crate) fn run_chosen(&mut self) -> Result<(), RunError> {
        let chosen = self.chosen();
        if !chosen.is_empty() {
            let outputs = self.feed(&chosen, Role::Generated, Want::Last)?;
            self.set_logits(outputs)?;
        }
        Ok(())
    }

    /// The same where only so many of the greatest of the last one's output are wanted.
    pub(crate) fn run_chosen_best(&mut self, count: usize) -> Result<(), RunError> {
        let chosen = self.chosen();
        if !chosen.is_empty() {
            let inputs = Inputs::Tokens(&chosen);
            let feed = Feed { sequence: &mut self.sequence, inputs, role: Role::Generated, want: Want::Last };
            self.best = self.engine.step_best(&mut [feed], count)?.into_iter().flatten().next();
            self.logits.clear();
        }
        Ok(())
    }

    /// What [`Session::run_chosen_best`] found, where it was the last to run.
    pub(crate) fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    fn chosen(&self) -> Vec<u32> {
        self.tokens[self.sequence.len().min(self.tokens.len())..].to_vec()
    }

    /// Runs the last token once more for all of its output. It was a chosen one: the best alone are asked for of no other.
    fn run_last_again(&mut self) -> Result<(), RunError> {
        let last = self.sequence.len() - 1;
        self.sequence.rewind(last)?;
        self.run_chosen()
    }

    /// The sequence behind it, for a step that runs its chosen token in a batch with others'.
    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Notes the outputs of that step.
    pub(crate) fn set_logits(&mut self, outputs: Vec<Output>) -> Result<(), RunError> {
        self.logits = first_output(outputs)?.data;
        self.best = None;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn sequence_len(&self) -> usize {
        self.sequence.len()
    }

    fn feed(&mut self, tokens: &[u32], role: Role, want: Want) -> Result<Vec<Output>, RunError> {
        let inputs = Inputs::Tokens(tokens);
        self.engine.feed(Feed { sequence: &mut self.sequence, inputs, role, want })
    }
}

fn first_output(outputs: Vec<Output>) -> Result<Output, RunError> {
    outputs.into_iter().next().ok_or_else(|| {
        RunError::new(RunCode::Input, "model", "no output")
            .help("declare one in the model's text: `output logits[t, v] = ...`")
    })
}
