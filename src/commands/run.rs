//! `llmc run` and `llmc chat`: text in, text out.

use super::args::{ChatArgs, RunArgs};
use super::failure::Failure;
use super::load::{engine, load, sampling};
use llmc::{ChatTemplate, Error, GenerateOptions, Generation, Message, Sampler, Session, Tokenizer};
use std::io::{BufRead, Write};
use std::ops::ControlFlow;

/// Continues a prompt.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let loaded = load(&args.model, &args.device)?;
    let tokenizer = loaded.tokenizer()?;
    let prompt = prompt_tokens(&tokenizer, args)?;
    let engine = engine(&loaded, &args.device)?;
    let mut session = Session::new(&engine);
    let options = GenerateOptions { max_tokens: args.max_tokens, stop: tokenizer.data().eos.clone() };
    let mut text = String::new();
    let mut stream = tokenizer.stream();
    let mut emit = |piece: &str| {
        text.push_str(piece);
        if args.json { ControlFlow::Continue(()) } else { print_piece(piece) }
    };
    let made = match args.beams {
        Some(beams) => {
            let made = session.beam_search(&prompt, beams, &options)?;
            let _ = made.tokens.iter().try_for_each(|token| emit(&stream.push(*token)));
            made
        }
        None => {
            let mut sampler = Sampler::new(sampling(&args.sampling)).map_err(|e| Error::Usage(e.to_string()))?;
            session.generate(&prompt, &mut sampler, &options, |token| emit(&stream.push(token)))?
        }
    };
    let _ = emit(&stream.finish());
    if args.json {
        println!("{}", report_json(&text, &prompt, &made));
    } else {
        println!();
        eprintln!("{}", report(&made, engine.load_stats().seconds));
    }
    Ok(())
}

fn prompt_tokens(tokenizer: &Tokenizer, args: &RunArgs) -> Result<Vec<u32>, Error> {
    let template = if args.raw { None } else { ChatTemplate::of(tokenizer)? };
    match template {
        Some(template) => {
            let text = template.render(&[Message::new("user", &args.prompt)], true)?;
            Ok(tokenizer.encode(&text, false)?)
        }
        None => Ok(tokenizer.encode(&args.prompt, true)?),
    }
}

/// A reader that has gone away ends the generation.
fn print_piece(piece: &str) -> ControlFlow<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn report(made: &Generation, load_seconds: f64) -> String {
    let s = made.stats;
    format!(
        "[loaded in {load_seconds:.2} s; prompt {} tokens, {:.1} tokens/s; answer {} tokens, {:.1} tokens/s]",
        s.prompt_tokens,
        s.prompt_rate(),
        made.tokens.len(),
        s.step_rate()
    )
}

fn report_json(text: &str, prompt: &[u32], made: &Generation) -> serde_json::Value {
    serde_json::json!({
        "text": text,
        "prompt_tokens": prompt,
        "tokens": made.tokens,
        "finish": format!("{:?}", made.finish),
        "prefill_tokens_per_s": made.stats.prompt_rate(),
        "decode_tokens_per_s": made.stats.step_rate(),
    })
}

/// Talks turn by turn, a line of standard input each; what the turns have in common stays in the caches.
pub fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let loaded = load(&args.model, &args.device)?;
    let tokenizer = loaded.tokenizer()?;
    let template = ChatTemplate::of(&tokenizer)?
        .ok_or_else(|| Error::Usage("this model has no chat template: use `llmc run --raw`".to_owned()))?;
    let engine = engine(&loaded, &args.device)?;
    let mut session = Session::new(&engine);
    let mut sampler = Sampler::new(sampling(&args.sampling)).map_err(|e| Error::Usage(e.to_string()))?;
    let options = GenerateOptions { max_tokens: args.max_tokens, stop: tokenizer.data().eos.clone() };
    let mut messages: Vec<Message> = args.system.iter().map(|s| Message::new("system", s)).collect();
    loop {
        eprint!("> ");
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).map_err(|e| Error::io("standard input", e))?;
        if read == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        messages.push(Message::new("user", line.trim()));
        let tokens = tokenizer.encode(&template.render(&messages, true)?, false)?;
        session.resume(&tokens)?;
        let mut answer = String::new();
        let mut stream = tokenizer.stream();
        let mut emit = |piece: &str| {
            answer.push_str(piece);
            print_piece(piece)
        };
        session.generate(&[], &mut sampler, &options, |token| emit(&stream.push(token)))?;
        let _ = emit(&stream.finish());
        println!();
        messages.push(Message::new("assistant", &answer));
    }
}
