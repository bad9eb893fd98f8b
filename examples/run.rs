//! Continues a text with a model, straight from its compressed file:
//! `cargo run --release --example run -- model.gguf 'The capital of France is'`

use std::io::Write;
use std::ops::ControlFlow;
use wsic::runtime::{RunOptions, Sampling, TextModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, text] = arguments.as_slice() else {
        return Err("usage: run MODEL TEXT".into());
    };
    let model = TextModel::open(path, &RunOptions::default())?;
    let prompt = model.prompt(text)?;
    let mut session = model.session(prompt.len() + 64)?;
    print!("{text}");
    let generation = session.generate(&prompt, 64, Sampling::GREEDY, |piece| {
        print!("{piece}");
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    println!("\n{:.1} tokens/s", generation.speed());
    Ok(())
}
