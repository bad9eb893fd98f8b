//! `wsic convert`: a model becomes a smaller one.

use super::progress::Bars;
use super::settings::Settings;
use super::{interrupt, output, outputs, units, Context};
use crate::convert::options::{name_pattern, Options};
use crate::convert::{
    convert, convert_plain, is_interrupted, partial_folder, predict, Outcome, PhasePrediction, PlainOptions,
    Steps, TensorRecord,
};
use crate::gguf::GgmlType;
use anyhow::Result;
use regex::Regex;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Quantize a model and write it as GGUF with entropy-coded tensors.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic convert model.gguf -o small.gguf --bpw 2.5
  wsic convert ./Model-Folder -o small.gguf --bpw 2.5
  wsic convert ./Model-Folder -o plain.gguf --method none
  wsic convert model.gguf -o small.gguf --size 50MB --calibration text.txt
  wsic convert model.gguf -o small.gguf --kld 0.05 --calibration text.txt
  wsic convert model.gguf -o small.gguf --bpw 2.5 \\
      --tensor 'token_embd|output=keep' --tensor 'ffn_down=3'

Without --calibration the model writes its own calibration text from built-in prompts. The output appears under its \
name only when it is complete; an interrupted conversion goes on with --resume.")]
pub(crate) struct Arguments {
    /// GGUF file to read (the first one of a split model), or a Hugging Face folder.
    input: PathBuf,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// With --method none: type of the weights [default: 16-bit floats as they are, F16 for all others].
    #[arg(long = "type", value_name = "TYPE", value_parser = ["f16", "bf16", "f32", "q8_0"])]
    ty: Option<String>,
    /// With --kld: text to measure on, not the one to calibrate with [default: windows of the calibration text that
    /// calibration leaves out, or a text that the model writes].
    #[arg(long, value_name = "FILE")]
    kld_text: Option<PathBuf>,
    /// Split the output into files NAME-00001-of-000NN.gguf of at most this size each (or of one tensor).
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    split_size: Option<u64>,
    /// Write a part of the model: only the tensors whose name matches; `wsic merge` makes a model of all parts.
    #[arg(long, value_name = "REGEX", value_parser = name_pattern)]
    only: Option<Regex>,
    /// Steps of all tensors, from `wsic plan` with the same model, statistics and settings.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Write what was done to each tensor to a JSON file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Predict size, memory and time of each phase, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Go on with an interrupted conversion of the same input and settings.
    #[arg(long)]
    resume: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let extra = [&arguments.kld_text, &arguments.plan].into_iter().flatten().map(PathBuf::as_path);
    let inputs = arguments.settings.inputs().chain([arguments.input.as_path()]).chain(extra);
    let outputs: Vec<&Path> = [Some(&arguments.output), arguments.log.as_ref()]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    outputs::check_all(&outputs, inputs)?;
    let kld = arguments.settings.target.kld;
    if arguments.kld_text.is_some() && kld.is_none() {
        super::usage_error("--kld-text is for --kld");
    }
    let start = Instant::now();
    let listener = Bars::new(context);
    if arguments.dry_run {
        if kld.is_some() {
            super::usage_error("--dry-run predicts a rate or size that is given, not that of --kld");
        }
        if arguments.settings.method == "none" {
            super::usage_error("--dry-run predicts quantization: leave out --method none");
        }
        return dry_run(&options(arguments)?, arguments.json, &listener);
    }
    if !context.quiet && kld.is_none() {
        match (arguments.resume, is_interrupted(&arguments.output)) {
            (true, false) => eprintln!("note: nothing is there to go on with: starting from the beginning"),
            (false, true) => eprintln!(
                "note: what an interrupted conversion left in {} is dropped; --resume would have gone on with it",
                partial_folder(&arguments.output).display()
            ),
            _ => {}
        }
    }
    if kld.is_none() {
        interrupt::conversion(&arguments.output);
    }
    let outcome = if arguments.settings.method == "none" {
        convert_plain(&plain_options(arguments)?, &listener)?
    } else {
        let options = options(arguments)?;
        match kld {
            Some(wanted) => {
                let plain =
                    options.only.is_none() && options.steps.is_none() && options.split_bytes.is_none();
                anyhow::ensure!(plain, "--kld goes with neither --only, --plan nor --split-size");
                super::smallest::run(&options, wanted, arguments.kld_text.as_deref(), context)?
            }
            None => convert(&options, &listener)?,
        }
    };
    if let Some(path) = &arguments.log {
        write_log(path, arguments, &outcome, start)?;
    }
    listener.finish();
    print(&arguments.output, &outcome, arguments.json)?;
    listener.done(start);
    Ok(())
}

fn dry_run(options: &Options, json: bool, listener: &Bars) -> Result<()> {
    let prediction = predict(options, listener)?;
    if json {
        let phase = |phase: &PhasePrediction| serde_json::json!({ "name": phase.name, "seconds": phase.seconds, "memory_bytes": phase.memory });
        let value = serde_json::json!({
            "phases": prediction.phases.iter().map(phase).collect::<Vec<_>>(),
            "seconds": prediction.seconds(),
            "memory_bytes": prediction.memory(),
            "output_bytes": prediction.output_bytes,
            "temporary_bytes": prediction.temporary_bytes,
            "free_bytes": prediction.free_bytes,
        });
        return output::print(true, &value, String::new);
    }
    let seconds = |seconds: f64| units::seconds(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    let mut text = format!("{:<14} {:>12} {:>12}\n", "phase", "time", "memory");
    for phase in &prediction.phases {
        let (time, memory) = (seconds(phase.seconds), units::bytes(phase.memory));
        text += &format!("{:<14} {time:>12} {memory:>12}\n", phase.name);
    }
    let (time, memory) = (seconds(prediction.seconds()), units::bytes(prediction.memory()));
    text += &format!("{:<14} {time:>12} {memory:>12}\n", "all");
    text += &format!("\noutput: {}\n", units::bytes(prediction.output_bytes));
    text += &format!("temporary files beside it: {}\n", units::bytes(prediction.temporary_bytes));
    if let Some(free) = prediction.free_bytes {
        let needed = prediction.output_bytes + prediction.temporary_bytes;
        let enough = if free < needed { "NOT enough" } else { "enough" };
        text += &format!("free there: {} ({enough})\n", units::bytes(free));
    }
    text += "nothing was written";
    output::print(false, &(), || text)
}

#[derive(Serialize)]
struct Log<'a> {
    tool: &'static str,
    input: String,
    output: String,
    bytes: u64,
    bits_per_weight: f64,
    seconds: f64,
    tensors: &'a [TensorRecord],
}

fn write_log(path: &Path, arguments: &Arguments, outcome: &Outcome, start: Instant) -> Result<()> {
    let log = Log {
        tool: concat!("wsic ", env!("CARGO_PKG_VERSION")),
        input: arguments.input.display().to_string(),
        output: arguments.output.display().to_string(),
        bytes: outcome.bytes,
        bits_per_weight: outcome.bytes as f64 * 8.0 / outcome.weights.max(1) as f64,
        seconds: start.elapsed().as_secs_f64(),
        tensors: &outcome.tensors,
    };
    let text = serde_json::to_string_pretty(&log)?;
    outputs::write(path, text + "\n")
}

/// Weights and bytes of a part of the output.
#[derive(Serialize)]
struct Part {
    weights: u64,
    bytes: u64,
    bits_per_weight: f64,
}

impl Part {
    fn new(weights: u64, bytes: u64) -> Option<Self> {
        (weights > 0).then(|| Self { weights, bytes, bits_per_weight: bytes as f64 * 8.0 / weights as f64 })
    }

    fn text(&self, name: &str) -> String {
        let bytes = units::bytes(self.bytes);
        format!("\n{name}: {} weights in {bytes}, {:.4} bits/weight", self.weights, self.bits_per_weight)
    }
}

#[derive(Serialize)]
struct Written {
    output: String,
    bytes: u64,
    bits_per_weight: f64,
    linear_layers: Option<Part>,
    embedding_and_head: Option<Part>,
}

/// Sizes of what was written.
pub(super) fn print(path: &Path, outcome: &Outcome, json: bool) -> Result<()> {
    let written = Written {
        output: path.display().to_string(),
        bytes: outcome.bytes,
        bits_per_weight: outcome.bytes as f64 * 8.0 / outcome.weights.max(1) as f64,
        linear_layers: Part::new(outcome.linear_weights, outcome.linear_bytes),
        embedding_and_head: Part::new(outcome.embedding_weights, outcome.embedding_bytes),
    };
    output::print(json, &written, || {
        let part = |part: &Option<Part>, name| part.as_ref().map_or(String::new(), |part| part.text(name));
        format!(
            "{}: {}, {:.4} bits/weight over the whole file{}{}",
            written.output,
            units::bytes(written.bytes),
            written.bits_per_weight,
            part(&written.linear_layers, "linear layers"),
            part(&written.embedding_and_head, "embedding and output head")
        )
    })
}

fn plain_options(arguments: &Arguments) -> Result<PlainOptions> {
    let settings = &arguments.settings;
    let target = &settings.target;
    if target.bpw.is_some() || target.file_bpw.is_some() || target.size.is_some() || target.kld.is_some() {
        super::usage_error("--method none quantizes nothing: leave out --bpw, --file-bpw, --size and --kld");
    }
    Ok(PlainOptions {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        ty: arguments.ty.as_deref().and_then(GgmlType::from_name),
        overrides: settings.tensors.clone(),
        split_bytes: arguments.split_size,
        pre_tokenizer: settings.calibration.pre_tokenizer.clone(),
    })
}

fn options(arguments: &Arguments) -> Result<Options> {
    if arguments.ty.is_some() {
        super::usage_error(
            "--type is for --method none; --tensor 'REGEX=TYPE' stores single tensors as they are",
        );
    }
    let mut options = arguments.settings.options(&arguments.input, &arguments.output)?;
    options.resume = arguments.resume;
    options.split_bytes = arguments.split_size;
    options.only.clone_from(&arguments.only);
    if let Some(path) = &arguments.plan {
        options.steps = Some((path.clone(), Steps::read(path)?));
    }
    Ok(options)
}
