//! Compiles a model, generates, writes the artifact, opens it and generates again: `external MODEL PROMPT ARTIFACT`.
//! Prints the text when both are the same.

use llmc::{
    Artifact, CompileOptions, Engine, EngineOptions, GenerateOptions, Loaded, SampleOptions, Sampler, Session,
    Tokenizer,
};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, path] = arguments.as_slice() else {
        return Err("usage: external MODEL PROMPT ARTIFACT".into());
    };

    let compiled = llmc::compile(model, &CompileOptions::default())?;
    let tokenizer = compiled.tokenizer()?;
    let text = continued(&compiled.engine(&EngineOptions::default())?, &tokenizer, prompt)?;

    compiled.write(Path::new(path), &mut |_| {})?;
    let stored = Loaded { artifact: Artifact::open(path)?, checkpoint: None };
    let again = continued(&stored.engine(&EngineOptions::default())?, &stored.tokenizer()?, prompt)?;
    if again != text {
        return Err(format!("compiled: {text:?}; stored: {again:?}").into());
    }
    println!("{text}");
    Ok(())
}

/// The most likely continuation of the prompt, a few tokens of it.
fn continued(engine: &Engine, tokenizer: &Tokenizer, prompt: &str) -> Result<String, Box<dyn Error>> {
    let mut sampler = Sampler::new(SampleOptions::default())?;
    let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    let (mut stream, mut text) = (tokenizer.stream(), String::new());
    Session::new(engine).generate(&tokenizer.encode(prompt, true)?, &mut sampler, &options, |token| {
        text.push_str(&stream.push(token));
        ControlFlow::Continue(())
    })?;
    Ok(text + &stream.finish())
}
