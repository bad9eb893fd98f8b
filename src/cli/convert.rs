//! `wsic convert`: a model becomes a smaller one.

use super::{progress, units, Context};
use crate::convert::options::{Calibration, Options, Target, TensorOverride};
use crate::convert::{convert, convert_plain, Outcome, PlainOptions, Progress};
use crate::gguf::GgmlType;
use crate::quantize::Method;
use anyhow::{bail, Result};
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// Quantize a model and write it as GGUF with entropy-coded tensors.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic convert model.gguf -o small.gguf --bpw 2.5
  wsic convert ./Model-Folder -o small.gguf --bpw 2.5
  wsic convert ./Model-Folder -o plain.gguf --method none
  wsic convert model.gguf -o small.gguf --size 50MB --calibration text.txt
  wsic convert model.gguf -o small.gguf --bpw 2.5 --tensor 'token_embd|output=keep' --tensor 'ffn_down=3'

Without --calibration the model writes its own calibration text from built-in prompts. The output appears under its
name only when it is complete; an interrupted conversion goes on with --resume.")]
pub(crate) struct Arguments {
    /// GGUF file to read (the first one of a split model), or a Hugging Face folder.
    input: PathBuf,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    target: TargetArguments,
    /// Stored bits per weight of token embedding and output head [default: what the loss asks for].
    #[arg(long, value_name = "BITS")]
    embedding_bpw: Option<f64>,
    /// What to do with tensors whose name matches: bits per weight, keep, f32, f16, bf16 or q8_0. Repeatable; the last
    /// match wins.
    #[arg(long = "tensor", value_name = "REGEX=SPEC")]
    tensors: Vec<TensorOverride>,
    /// Text to calibrate with, like what the model will be used for, but not what it will be tested on.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Tokens to calibrate with, at most.
    #[arg(long, value_name = "N", default_value_t = 1 << 15)]
    calibration_tokens: usize,
    /// Quantization method; none writes an ordinary GGUF file.
    #[arg(long, default_value = "trellis", value_parser = ["trellis", "watersic", "gptq", "rtn", "none"])]
    method: String,
    /// With --method none: type of the weights [default: 16-bit floats as they are, F16 for all others].
    #[arg(long = "type", value_name = "TYPE", value_parser = ["f16", "bf16", "f32", "q8_0"])]
    ty: Option<String>,
    /// Split the output into files NAME-00001-of-000NN.gguf of at most this size each (or of one tensor).
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    split_size: Option<u64>,
    /// Pre-tokenizer of a Hugging Face folder, as llama.cpp names it, if it cannot be told from the files.
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,
    /// Seed of everything random; the same seed gives the same file.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do not weigh rows and tensors by their influence on the loss.
    #[arg(long)]
    no_loss_weights: bool,
    /// Go on with an interrupted conversion of the same input and settings.
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct TargetArguments {
    /// Stored bits per weight of the blocks' linear layers, all side information counted.
    #[arg(long, value_name = "BITS")]
    bpw: Option<f64>,
    /// Stored bits per weight of the whole file.
    #[arg(long, value_name = "BITS")]
    file_bpw: Option<f64>,
    /// Size of the whole file, never exceeded: 1.2GiB, 50MB, 700MiB.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    size: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    super::refuse_same_file(&arguments.input, &arguments.output)?;
    let start = Instant::now();
    let listener = Bars { quiet: context.quiet, bar: Mutex::new(None), phases: Mutex::default() };
    let outcome = if arguments.method == "none" {
        convert_plain(&plain_options(arguments)?, &listener)?
    } else {
        convert(&options(arguments)?, &listener)?
    };
    listener.finish();
    print(arguments, &outcome);
    if !context.quiet {
        eprintln!("done in {} ({})", units::seconds(start.elapsed()), listener.phases());
    }
    Ok(())
}

fn print(arguments: &Arguments, outcome: &Outcome) {
    let per_weight = |bytes: u64, weights: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
    println!(
        "{}: {}, {:.4} bits/weight over the whole file",
        arguments.output.display(),
        units::bytes(outcome.bytes),
        per_weight(outcome.bytes, outcome.weights)
    );
    if outcome.linear_weights > 0 {
        println!(
            "linear layers: {} weights in {}, {:.4} bits/weight",
            outcome.linear_weights,
            units::bytes(outcome.linear_bytes),
            per_weight(outcome.linear_bytes, outcome.linear_weights)
        );
    }
    if outcome.embedding_weights > 0 {
        println!(
            "embedding and output head: {} weights in {}, {:.4} bits/weight",
            outcome.embedding_weights,
            units::bytes(outcome.embedding_bytes),
            per_weight(outcome.embedding_bytes, outcome.embedding_weights)
        );
    }
}

fn plain_options(arguments: &Arguments) -> Result<PlainOptions> {
    let target = &arguments.target;
    if target.bpw.is_some() || target.file_bpw.is_some() || target.size.is_some() {
        super::usage_error("--method none quantizes nothing: leave out --bpw, --file-bpw and --size");
    }
    Ok(PlainOptions {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        ty: arguments.ty.as_deref().and_then(GgmlType::from_name),
        overrides: arguments.tensors.clone(),
        split_bytes: arguments.split_size,
        pre_tokenizer: arguments.pre_tokenizer.clone(),
    })
}

fn options(arguments: &Arguments) -> Result<Options> {
    let bits = |name: &str, value: Option<f64>| -> Result<Option<f64>> {
        match value {
            Some(bits) if !(0.1..=12.0).contains(&bits) => {
                bail!("--{name} {bits}: expected 0.1 to 12 bits per weight")
            }
            other => Ok(other),
        }
    };
    if arguments.ty.is_some() {
        super::usage_error(
            "--type is for --method none; --tensor 'REGEX=TYPE' stores single tensors as they are",
        );
    }
    let target = match (bits("bpw", arguments.target.bpw)?, bits("file-bpw", arguments.target.file_bpw)?) {
        (Some(bits), _) => Target::LinearBits(bits),
        (_, Some(bits)) => Target::FileBits(bits),
        _ => match arguments.target.size {
            Some(bytes) => Target::FileBytes(bytes),
            None => super::usage_error("one of --bpw, --file-bpw and --size is needed (or --method none)"),
        },
    };
    Ok(Options {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        target,
        embedding_bits: bits("embedding-bpw", arguments.embedding_bpw)?,
        overrides: arguments.tensors.clone(),
        method: match arguments.method.as_str() {
            "watersic" => Method::WaterSic { rescale: true },
            "gptq" => Method::Gptq,
            "rtn" => Method::RoundToNearest,
            _ => Method::Trellis,
        },
        calibration: arguments.calibration.clone().map_or(Calibration::Model, Calibration::Text),
        calibration_tokens: arguments.calibration_tokens,
        seed: arguments.seed,
        loss_weights: !arguments.no_loss_weights,
        resume: arguments.resume,
        split_bytes: arguments.split_size,
        pre_tokenizer: arguments.pre_tokenizer.clone(),
    })
}

/// One progress bar, replaced with each phase.
struct Bars {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
    /// Name and start of each phase.
    phases: Mutex<Vec<(&'static str, Instant)>>,
}

impl Bars {
    /// Time spent in each phase, now that the last one has ended.
    fn phases(&self) -> String {
        let Ok(phases) = self.phases.lock() else { return String::new() };
        let ends = phases.iter().skip(1).map(|phase| phase.1).chain([Instant::now()]);
        let spent: Vec<String> = phases
            .iter()
            .zip(ends)
            .map(|((name, start), end)| format!("{name} {}", units::seconds(end - *start)))
            .collect();
        spent.join(", ")
    }

    fn finish(&self) {
        if let Ok(mut bar) = self.bar.lock() {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        }
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &'static str, steps: u64) {
        self.finish();
        if let Ok(mut phases) = self.phases.lock() {
            phases.push((phase, Instant::now()));
        }
        if let Ok(mut bar) = self.bar.lock() {
            *bar = Some(progress::bar(steps, phase, self.quiet));
        }
    }

    fn advance(&self, steps: u64, item: &str) {
        if let Ok(bar) = self.bar.lock() {
            if let Some(bar) = bar.as_ref() {
                bar.set_message(item.to_owned());
                bar.inc(steps);
            }
        }
    }

    fn warn(&self, message: &str) {
        if !self.quiet {
            eprintln!("note: {message}");
        }
    }
}
