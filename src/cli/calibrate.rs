//! `wsic calibrate`: statistics of a model, computed once for any rate.

use super::progress::Bars;
use super::settings::CalibrationArguments;
use super::{output, outputs, units, Context};
use crate::convert::calibrate;
use crate::convert::options::{Options, Target};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::time::Instant;

/// Compute the statistics of a model and keep them in a file, for `wsic convert --stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic calibrate model.gguf -o stats.gguf --calibration text.txt
  wsic convert model.gguf -o small.gguf --bpw 2.5 --stats stats.gguf

The file serves any rate and method, and any machine. It says which model it was made of; other models are refused.")]
pub(crate) struct Arguments {
    /// GGUF file to read (the first one of a split model), or a Hugging Face folder.
    input: PathBuf,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    calibration: CalibrationArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let inputs = arguments.calibration.inputs().chain([arguments.input.as_path()]);
    outputs::check(&arguments.output, inputs)?;
    let start = Instant::now();
    let listener = Bars::new(context);
    // The rate is of no account here.
    let mut options = Options::new(&arguments.input, &arguments.output, Target::LinearBits(3.0));
    arguments.calibration.apply(&mut options);
    let statistics = calibrate(&options, &listener)?;
    let name = || arguments.output.display().to_string();
    let size = std::fs::metadata(&arguments.output).with_context(name)?.len();
    let source = statistics.source()?.to_string();
    let value = serde_json::json!({ "output": name(), "bytes": size, "calibration": source });
    listener.finish();
    output::print(arguments.json, &value, || format!("{}: {}, {source}", name(), units::bytes(size)))?;
    listener.done(start);
    Ok(())
}
