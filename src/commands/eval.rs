//! `llmc eval`: the outputs for given tokens.

use super::args::EvalArgs;
use super::failure::Failure;
use super::load::{engine, load};
use llmc::{Engine, Error, Feed, Inputs, Loaded, Output, Role, Values, Want};
use llmc_runtime::sample::{greedy, log_probability};
use std::path::Path;

/// Evaluates, and prints what was asked for.
pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    let loaded = load(&args.model, &args.device)?;
    let given = tokens(args, &loaded)?;
    let engine = engine(&loaded, &args.device)?;
    let (source, tokens) = sequences(&engine, given, &args.decoder_tokens)?;
    if tokens.is_empty() {
        return Err(Error::Usage("there are no tokens to evaluate".to_owned()).into());
    }
    let outputs = outputs(&engine, &source, &tokens, args.prompt_tokens.unwrap_or(tokens.len()))?;
    if let Some(path) = &args.logits {
        write(path, &outputs)?;
    }
    let first = outputs.first().ok_or_else(|| Error::Usage("the model has no output".to_owned()))?;
    let perplexity = args.perplexity.then(|| perplexity(first, &tokens));
    if args.json {
        println!("{}", json(&tokens, first, perplexity));
    } else {
        print(&outputs, &tokens, perplexity);
    }
    Ok(())
}

fn tokens(args: &EvalArgs, loaded: &Loaded) -> Result<Vec<u32>, Error> {
    let Some(path) = &args.text_file else { return Ok(args.tokens.clone()) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path.display(), e))?;
    Ok(loaded.tokenizer()?.encode(&text, true)?)
}

/// The tokens of a second sequence, if the model has one, and those whose outputs are asked for.
fn sequences(engine: &Engine, tokens: Vec<u32>, decoder: &[u32]) -> Result<(Vec<u32>, Vec<u32>), Error> {
    match (engine.source_input(), decoder.is_empty()) {
        (None, true) => Ok((Vec::new(), tokens)),
        (Some(_), false) => Ok((tokens, decoder.to_vec())),
        (Some(source), true) => Err(Error::Usage(format!(
            "the model reads two sequences: --tokens is `{source}`, give the other one by --decoder-tokens"
        ))),
        (None, false) => {
            Err(Error::Usage("--decoder-tokens is for models of two sequences: this one has one".to_owned()))
        }
    }
}

/// Every output for every token: the first `prompt` of them as a prompt together with the source, the rest one at a
/// time as generated ones.
fn outputs(engine: &Engine, source: &[u32], tokens: &[u32], prompt: usize) -> Result<Vec<Output>, Error> {
    let mut sequence = engine.sequence();
    if let Some(name) = engine.source_input() {
        let source = ints(source)?;
        let inputs = Inputs::Named(vec![(name, Values::Int(&source))]);
        engine.feed(Feed { sequence: &mut sequence, inputs, role: Role::Prompt, want: Want::Nothing })?;
    }
    let (prompt, rest) = tokens.split_at(prompt.min(tokens.len()));
    let parts = std::iter::once((prompt, Role::Prompt)).chain(rest.chunks(1).map(|t| (t, Role::Generated)));
    let mut whole: Vec<Output> = Vec::new();
    for (part, role) in parts.filter(|(p, _)| !p.is_empty()) {
        let inputs = Inputs::Tokens(part);
        let made = engine.feed(Feed { sequence: &mut sequence, inputs, role, want: Want::All })?;
        if whole.is_empty() {
            whole = made;
            continue;
        }
        for (all, new) in whole.iter_mut().zip(made) {
            all.rows += new.rows;
            all.data.extend(new.data);
        }
    }
    Ok(whole)
}

/// Tokens as an input takes them.
fn ints(tokens: &[u32]) -> Result<Vec<i32>, Error> {
    let int = |t: &u32| i32::try_from(*t).map_err(|_| Error::Usage(format!("{t} is no token")));
    tokens.iter().map(int).collect()
}

fn row(output: &Output, n: usize) -> &[f32] {
    let width = output.data.len() / output.rows.max(1);
    &output.data[n * width..(n + 1) * width]
}

/// exp of the mean negative log-probability of each token after the first.
fn perplexity(logits: &Output, tokens: &[u32]) -> f64 {
    let scored = tokens.len() - 1;
    let sum: f64 = (0..scored).map(|n| log_probability(row(logits, n), tokens[n + 1])).sum();
    (-sum / scored.max(1) as f64).exp()
}

fn print(outputs: &[Output], tokens: &[u32], perplexity: Option<f64>) {
    for output in outputs {
        let dims: Vec<_> = output.dims.iter().map(u64::to_string).collect();
        println!("{}: {} rows of [{}]", output.name, output.rows, dims.join(", "));
        let last = row(output, output.rows - 1);
        let best = greedy(last);
        println!("  last row: largest is {} at {best}", last[best as usize]);
    }
    if let Some(p) = perplexity {
        println!("perplexity {p:.4} over {} tokens", tokens.len());
    }
}

fn json(tokens: &[u32], output: &Output, perplexity: Option<f64>) -> serde_json::Value {
    let best: Vec<_> = (0..output.rows).map(|n| greedy(row(output, n))).collect();
    serde_json::json!({ "tokens": tokens, "output": output.name, "argmax": best, "perplexity": perplexity })
}

fn write(path: &Path, outputs: &[Output]) -> Result<(), Error> {
    let bytes: Vec<Vec<u8>> = outputs.iter().map(|o| o.data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = outputs.iter().zip(&bytes).map(|(o, b)| {
        let shape = std::iter::once(o.rows).chain(o.dims.iter().map(|d| *d as usize)).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, b);
        (o.name.clone(), view.expect("an output has as many elements as its dimensions say"))
    });
    safetensors::serialize_to_file(views, None, path).map_err(|e| Error::Io(format!("{}: {e}", path.display())))
}
