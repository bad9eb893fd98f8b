//! `wsic eval`: perplexity, and KL divergence from a reference model.

use super::settings::{parse_count, parse_tokens};
use super::{output, retag, units, Context};
use crate::import::{self, Input};
use crate::model::eval::{divergence, perplexity, Divergence, Estimate, Perplexity, Windows};
use crate::model::{Model, TensorSource, Tokenizer};
use crate::runtime::{Arithmetic, FusedSource, WeightSource};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Measure a model on a text: perplexity, and KL divergence from a reference model.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic eval small.gguf --text wiki.test.raw
  wsic eval small.gguf --reference model.gguf \\
      --text wiki.test.raw --chunks 32 --json

The protocol is llama-perplexity's: windows of --ctx tokens, the last half of each is scored. Use a text that was not \
used for calibration.")]
pub(crate) struct Arguments {
    /// GGUF file, with or without WSIC tensors, or a Hugging Face folder.
    model: PathBuf,
    /// Text to measure on.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Model to compare with, usually the one that was converted.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = parse_tokens)]
    ctx: usize,
    /// Windows, at most [default: all of the text].
    #[arg(long, value_name = "N", value_parser = parse_count)]
    chunks: Option<usize>,
    /// Multiply WSIC tensors as `wsic run` does for a prompt, with activations rounded to integers, instead of exactly.
    /// With the file itself unpacked to f32 as --reference this shows what that rounding costs.
    #[arg(long)]
    as_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    bytes: u64,
    bits_per_weight: f64,
    text: String,
    ctx: usize,
    chunks: usize,
    tokens: usize,
    ppl: f64,
    ppl_se: f64,
    #[serde(flatten)]
    against: Option<Against>,
}

#[derive(Serialize)]
struct Against {
    reference: String,
    ref_ppl: f64,
    kld: f64,
    kld_se: f64,
    kld_median: f64,
    kld_p99: f64,
    kld_max: f64,
    top1: f64,
    top1_se: f64,
}

/// Opens a model for evaluation, with the tensors of our type.
pub(super) fn open(path: &Path) -> Result<(Model, u64, u64)> {
    open_as(path, false)
}

/// The same, its products those of `run` if `as_run`.
fn open_as(path: &Path, as_run: bool) -> Result<(Model, u64, u64)> {
    let input = Input::open(path, &import::Limits::default(), &import::Options::default())?;
    let (bytes, weights) = (input.file_bytes(), input.specs().iter().map(|tensor| tensor.elements()).sum());
    let source: Arc<dyn TensorSource> = match input {
        Input::Gguf(model) if as_run => Arc::new(FusedSource::new(model, Arithmetic::Integer)),
        Input::Gguf(model) => Arc::new(WeightSource::new(model)),
        Input::Folder(folder) => Arc::new(*folder),
    };
    let model = Model::open(source).with_context(|| path.display().to_string())?;
    Ok((model, bytes, weights))
}

/// Cuts a text into windows with the model's tokenizer.
pub(super) fn windows(model: &Model, text: &Path, ctx: usize, chunks: usize) -> Result<Windows> {
    let name = text.display().to_string();
    let text = std::fs::read_to_string(text).with_context(|| format!("{name}: cannot read the text"))?;
    let tokenizer = Tokenizer::from_metadata(model.source().metadata())?;
    let tokens = tokenizer.encode(&text, false)?;
    let vocabulary = tokenizer.vocabulary();
    let start = vocabulary.bos.filter(|_| vocabulary.add_bos);
    Windows::new(&tokens, ctx, chunks, start).context(name)
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let (model, bytes, weights) = open_as(&arguments.model, arguments.as_run)
        .or_else(|error| retag::check_file(&arguments.model).and(Err(error)))?;
    if let Some(path) = &arguments.reference {
        std::fs::metadata(path).with_context(|| format!("{}: cannot read", path.display()))?;
    }
    let windows = windows(&model, &arguments.text, arguments.ctx, arguments.chunks.unwrap_or(usize::MAX))?;
    if !context.quiet {
        let made_for = model.hyperparameters().context;
        if arguments.ctx > made_for {
            eprintln!(
                "note: windows of {} tokens are longer than the {made_for} that the model was made for",
                arguments.ctx
            );
        }
        eprintln!("{} of {} tokens", units::counted(windows.sequences.len(), "window"), arguments.ctx);
    }
    let (own, against): (Perplexity, Option<Divergence>) = match &arguments.reference {
        None => (perplexity(&model, &windows)?, None),
        Some(path) => {
            let (reference, _, _) = open(path)?;
            let found = divergence(&reference, &model, &windows)?;
            (found.candidate, Some(found))
        }
    };
    let report = Report {
        model: arguments.model.display().to_string(),
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / weights as f64,
        text: arguments.text.display().to_string(),
        ctx: arguments.ctx,
        chunks: windows.sequences.len(),
        tokens: own.tokens,
        ppl: own.perplexity.mean,
        ppl_se: own.perplexity.standard_error,
        against: against.zip(arguments.reference.as_ref()).map(|(found, path)| Against {
            reference: path.display().to_string(),
            ref_ppl: found.reference.perplexity.mean,
            kld: found.kl.mean,
            kld_se: found.kl.standard_error,
            kld_median: found.kl_median,
            kld_p99: found.kl_99,
            kld_max: found.kl_max,
            top1: found.same_top.mean,
            top1_se: found.same_top.standard_error,
        }),
    };
    output::print(arguments.json, &report, || text(own, against))
}

/// The figures in llama-perplexity's form.
fn text(own: Perplexity, against: Option<Divergence>) -> String {
    let line = |name: &str, value: Estimate| {
        format!("{name:<18}: {:10.6} ± {:.6}\n", value.mean, value.standard_error)
    };
    let mut text = format!("====== Perplexity statistics ({} scored tokens) ======\n", own.tokens);
    text += &line("Mean PPL(Q)", own.perplexity);
    if let Some(found) = against {
        text += &line("Mean PPL(base)", found.reference.perplexity);
        text += "\n====== KL divergence statistics (nats per token) ======\n";
        text += &line("Mean    KLD", found.kl);
        text += &format!("{:<18}: {:10.6}\n", "Maximum KLD", found.kl_max);
        text += &format!("{:<18}: {:10.6}\n", "99.0%   KLD", found.kl_99);
        text += &format!("{:<18}: {:10.6}\n", "Median  KLD", found.kl_median);
        text += "\n====== Token probability statistics ======\n";
        text += &format!(
            "{:<18}: {:7.3} ± {:.3} %\n",
            "Same top p",
            found.same_top.mean * 100.0,
            found.same_top.standard_error * 100.0
        );
    }
    text
}
