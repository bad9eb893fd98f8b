//! `wsic plan`: the step of every tensor, for several processes that share the work.

use super::progress::Bars;
use super::settings::Settings;
use super::{output, outputs, Context};
use crate::convert::plan_steps;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;

/// Decide the step of every tensor, so that several processes can quantize a part of the model each.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic plan model.gguf --stats stats.gguf --bpw 2.5 -o plan.json
  wsic convert model.gguf --stats stats.gguf --bpw 2.5 \\
      --plan plan.json --only 'blk\\.1\\.' -o part-1.gguf
  wsic merge part-*.gguf -o small.gguf
  wsic plan model.gguf --stats stats.gguf --bpw 2.5 \\
      --measured part-*.gguf -o plan-2.json

The first plan is made from predicted sizes. With the parts made from it (--measured, the parts of all plans so far) \
the next one is made from true sizes; it says so when no better one is needed. Parts of the last plan then make the \
same file as one process would.")]
pub(crate) struct Arguments {
    /// GGUF file to read (the first one of a split model), or a Hugging Face folder.
    input: PathBuf,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// Parts quantized with earlier plans of the same settings.
    #[arg(long, value_name = "PART", num_args = 1..)]
    measured: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let inputs = arguments
        .settings
        .inputs()
        .chain([&arguments.input].into_iter().chain(&arguments.measured).map(|path| path.as_path()));
    outputs::check(&arguments.output, inputs)?;
    let start = Instant::now();
    let listener = Bars::new(context);
    if arguments.settings.target.kld.is_some() {
        super::usage_error("--kld measures whole files: it is for `wsic convert`");
    }
    let options = arguments.settings.options(&arguments.input, &arguments.output)?;
    let steps = plan_steps(&options, &arguments.measured, &listener)?;
    steps.write(&arguments.output)?;
    let state = match steps.settled() {
        true => "settled: sizes at these steps meet the target",
        false => "to be checked with the sizes of the parts (--measured)",
    };
    let path = arguments.output.display().to_string();
    let value = serde_json::json!({ "output": path, "settled": steps.settled() });
    listener.finish();
    output::print(arguments.json, &value, || format!("{path}: {state}"))?;
    listener.done(start);
    Ok(())
}
