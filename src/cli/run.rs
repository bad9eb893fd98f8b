//! `wsic run`: continue a text or answer a question.

use super::{memory, output, progress, retag, units, Context};
use crate::runtime::{Arithmetic, End, Generation, RunOptions, Sampling, TextModel};
use anyhow::{ensure, Context as _, Result};
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Continue a text, or answer a question with --chat, straight from the compressed file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic run small.gguf -p 'The capital of France is' -n 24 --temp 0
  wsic run small.gguf --chat -p 'Why is the sky blue?'
  wsic run small.gguf -f story.txt -n 500 --temp 1 --top-p 0.9 --seed 7
  wsic run small.gguf -p 'Once upon a time' --json | jq -r .text
  wsic run small.gguf -p 'Once upon a time' --resident int8

The text goes to standard output, speeds to standard error (with --verbose memory too). \
Equal settings and seeds give equal texts, whatever the \
number of threads.")]
pub(crate) struct Arguments {
    /// GGUF file, with or without WSIC tensors (the first one of a split model).
    model: PathBuf,
    /// Text to continue, or with --chat to answer.
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text; - is standard input, which is read too if there is neither --prompt nor --file and it is no
    /// terminal.
    #[arg(long, short, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Tokens to generate, at most.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 128)]
    tokens: usize,
    /// Put the text into the model's chat format as a user's turn.
    #[arg(long)]
    chat: bool,
    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = parse_temperature, allow_negative_numbers = true)]
    temp: f32,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Draw from the fewest likeliest tokens with this much probability; 1 for all.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = parse_share)]
    top_p: f32,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Round the prompt's activations as finely as those of new tokens: prompts take up to half as long again, and texts
    /// are those of the unpacked model but for ties.
    #[arg(long, conflicts_with = "exact")]
    fine: bool,
    /// Multiply floats instead of rounded activations: slower, the same as the unpacked model.
    #[arg(long)]
    exact: bool,
    /// What weights are kept as: coded, as in the file, or int8, decoded once when the model is opened. That takes half a
    /// byte to a byte of memory for each weight besides the file, and generates faster; texts are the same.
    #[arg(long, value_name = "FORM", value_enum, default_value_t, conflicts_with = "exact")]
    resident: Form,
    /// Print text and speeds as JSON when all is done.
    #[arg(long)]
    json: bool,
}

/// What weights are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    #[default]
    Coded,
    Int8,
}

impl Form {
    /// Bytes for decoded integers: of the memory that is available, a part stays for everything else.
    fn decoded_bytes(self) -> usize {
        match self {
            Self::Coded => 0,
            Self::Int8 => {
                let bytes = memory::available().unwrap_or(ELSEWHERE) / 8 * 7;
                usize::try_from(bytes).unwrap_or(usize::MAX / 4)
            }
        }
    }
}

/// Bytes for decoded integers where the memory that is available is not known.
const ELSEWHERE: u64 = 8 << 30;

fn parse_temperature(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0.0..=f32::MAX).contains(&value) => Ok(value),
        _ => Err("expected 0 or more".to_owned()),
    }
}

fn parse_share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected 0 to 1".to_owned()),
    }
}

impl Arguments {
    fn text(&self) -> Result<String> {
        let read = || {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            Ok(text)
        };
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) if path.as_os_str() == "-" => read(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .with_context(|| format!("{}: cannot read the text", path.display())),
            (None, None) => {
                let text = if std::io::stdin().is_terminal() { String::new() } else { read()? };
                if text.is_empty() {
                    super::usage_error("give a text: --prompt, --file, or on standard input");
                }
                Ok(text)
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let text = arguments.text()?;
    let arithmetic = match (arguments.exact, arguments.fine) {
        (true, _) => Arithmetic::Float,
        (_, true) => Arithmetic::FineInteger,
        _ => Arithmetic::Integer,
    };
    let decoded_bytes = arguments.resident.decoded_bytes();
    let options = RunOptions { arithmetic, decoded_bytes, ..RunOptions::default() };
    let name = || arguments.model.display().to_string();
    let model = TextModel::open(&arguments.model, &options)
        .with_context(name)
        .or_else(|error| retag::check_file(&arguments.model).and(Err(error)))?;
    if !context.quiet {
        model.tokenizer().warnings().iter().for_each(|warning| eprintln!("note: {warning}"));
    }
    let prompt = if arguments.chat { model.question(&text, true)? } else { model.prompt(&text)? };
    let made_for = model.model().hyperparameters().context;
    ensure!(
        prompt.len() <= made_for,
        "the prompt has {}, and {} was made for a context of {made_for}: shorten it",
        units::counted(prompt.len(), "token"),
        name()
    );
    let room = prompt.len().saturating_add(arguments.tokens).min(made_for);
    let mut session = model
        .session(room)
        .with_context(name)
        .or_else(|error| retag::check_file(&arguments.model).and(Err(error)))?;
    if arguments.resident == Form::Int8 && !context.quiet {
        match model.left_coded() {
            _ if !model.is_coded() => {
                eprintln!("note: --resident is for WSIC tensors, and this model has none")
            }
            0 => {}
            left => eprintln!("note: not decoded, for want of memory: {}", units::counted(left, "tensor")),
        }
    }
    let bar = progress::bar(prompt.len() as u64, "prompt", context.quiet || prompt.len() < 512);
    session.watch_prompt({
        let bar = bar.clone();
        move |tokens| bar.inc(tokens as u64)
    });
    let sampling = Sampling {
        temperature: arguments.temp,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    let mut stdout = std::io::stdout().lock();
    let (mut text, mut failure) = (String::new(), None);
    let generation = session.generate(&prompt, arguments.tokens, sampling, |piece| {
        bar.finish_and_clear();
        if arguments.json {
            text.push_str(piece);
            return ControlFlow::Continue(());
        }
        match stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    bar.finish_and_clear();
    if let Some(error) = failure {
        return Err(error).context("cannot write the text");
    }
    if arguments.json {
        drop(stdout);
        output::print(true, &report(text, &generation), String::new)?;
    } else {
        writeln!(stdout)?;
    }
    if !(context.quiet || arguments.json) {
        let end = match generation.end {
            End::EndOfText => ", ended by the model",
            End::ContextFull => ", context full",
            _ => "",
        };
        eprintln!(
            "prompt {}, {:.1} tokens/s; generated {}, {:.1} tokens/s{end}",
            units::counted(generation.prompt_tokens, "token"),
            generation.prompt_speed(),
            units::counted(generation.tokens.len(), "token"),
            generation.speed(),
        );
    }
    if context.verbose {
        if let Some(memory) = memory::Resident::of_this_process() {
            eprintln!(
                "memory: {} resident, {} of it mapped files, {} its own",
                units::bytes(memory.all),
                units::bytes(memory.all.saturating_sub(memory.anonymous)),
                units::bytes(memory.anonymous)
            );
        }
    }
    Ok(())
}

/// What `--json` prints.
fn report(text: String, generation: &Generation) -> serde_json::Value {
    let end = match generation.end {
        End::EndOfText => "end of text",
        End::Length => "length",
        End::ContextFull => "context full",
        End::Stopped => "stopped",
    };
    serde_json::json!({
        "text": text,
        "prompt_tokens": generation.prompt_tokens,
        "prompt_tokens_per_second": generation.prompt_speed(),
        "generated_tokens": generation.tokens.len(),
        "tokens_per_second": generation.speed(),
        "end": end,
        "resident_bytes": memory::Resident::of_this_process().map(|memory| memory.all),
    })
}
