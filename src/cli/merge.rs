//! `wsic merge`: parts of a model become one file.

use super::progress::Bars;
use super::{convert, outputs, units, Context};
use crate::convert::merge;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;

/// Make one model of the parts that `wsic convert --only` wrote.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic merge part-*.gguf -o small.gguf\n  wsic merge part-*.gguf -o small.gguf --split-size 4GB\n\nParts must come from one model, one set of settings and one plan; together they hold every tensor once."
)]
pub(crate) struct Arguments {
    /// Parts, in any order.
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Split the output into files NAME-00001-of-000NN.gguf of at most this size each (or of one tensor).
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    split_size: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    outputs::check(&arguments.output, arguments.parts.iter().map(PathBuf::as_path))?;
    let start = Instant::now();
    let listener = Bars::new(context);
    let outcome = merge(&arguments.parts, &arguments.output, arguments.split_size, &listener)?;
    listener.finish();
    convert::print(&arguments.output, &outcome, arguments.json)?;
    listener.done(start);
    Ok(())
}
