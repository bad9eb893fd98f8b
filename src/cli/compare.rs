//! `wsic compare`: rate against distortion, for rates, methods and files that exist already.

use super::plot::{Plot, Point, Series};
use super::progress::Bars;
use super::settings::{parse_bits, parse_count, parse_tokens, CalibrationArguments};
use super::{eval, output, outputs, units, Context};
use crate::convert::options::{Calibration, Options, Target, TensorOverride};
use crate::convert::{calibrate, convert};
use crate::model::eval::{Divergence, Reference, Windows};
use crate::quantize::Method;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Convert a model at several rates and methods, measure each file, and draw KL divergence and perplexity over size.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic compare model.gguf --text wiki.test.raw --rates 2,2.5,3,3.5 \\
      --plot curve.svg
  wsic compare model.gguf --text wiki.test.raw --rates 2.5 \\
      --methods trellis,watersic,gptq,rtn
  wsic compare model.gguf --text wiki.test.raw --rates 2,3 \\
      --file model-IQ2_M.gguf --file model-Q3_K_M.gguf --json

The model is calibrated once. KL divergence is that of each file's predictions from the model's, measured as `wsic eval` \
does. Use a text that was not used for calibration.")]
pub(crate) struct Arguments {
    /// Model to convert and to compare with: a GGUF file, or a Hugging Face folder.
    model: PathBuf,
    /// Text to measure on.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Stored bits per weight of the linear layers, separated by commas.
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = parse_bits)]
    rates: Vec<f64>,
    /// Methods, separated by commas.
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "trellis",
          value_parser = ["trellis", "watersic", "gptq", "rtn"])]
    methods: Vec<String>,
    /// An existing GGUF file to measure too. Repeatable.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to do with tensors whose name matches, as for `wsic convert`. Repeatable.
    #[arg(long = "tensor", value_name = "REGEX=SPEC")]
    tensors: Vec<TensorOverride>,
    /// Keep the converted files and the statistics in this folder [default: a temporary one].
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Draw the curves: a file that ends with .svg, or .html for a page with curves and table.
    #[arg(long, value_name = "FILE", value_parser = plot_path)]
    plot: Option<PathBuf>,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = parse_tokens)]
    ctx: usize,
    /// Windows, at most.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = parse_count)]
    chunks: usize,
    #[command(flatten)]
    calibration: CalibrationArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn plot_path(text: &str) -> Result<PathBuf, String> {
    match text.ends_with(".svg") || text.ends_with(".html") {
        true => Ok(text.into()),
        false => Err("expected a file name that ends with .svg or .html".into()),
    }
}

/// One file and what was measured of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    /// What joins points to a curve: the method, or the file's name.
    pub(super) series: String,
    /// Bits per weight asked for the linear layers.
    pub(super) rate: Option<f64>,
    file: String,
    pub(super) bytes: u64,
    bits_per_weight: f64,
    tokens: usize,
    pub(super) ppl: f64,
    ppl_se: f64,
    ref_ppl: f64,
    pub(super) kld: f64,
    kld_se: f64,
    kld_p99: f64,
    top1: f64,
}

impl Entry {
    fn new(series: &str, rate: Option<f64>, file: &Path, size: (u64, u64), found: &Divergence) -> Self {
        let (bytes, weights) = size;
        Self {
            series: series.to_owned(),
            rate,
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes,
            bits_per_weight: bytes as f64 * 8.0 / weights.max(1) as f64,
            tokens: found.tokens,
            ppl: found.candidate.perplexity.mean,
            ppl_se: found.candidate.perplexity.standard_error,
            ref_ppl: found.reference.perplexity.mean,
            kld: found.kl.mean,
            kld_se: found.kl.standard_error,
            kld_p99: found.kl_99,
            top1: found.same_top.mean,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    if arguments.rates.is_empty() && arguments.files.is_empty() {
        super::usage_error("nothing to compare: give --rates, or existing files with --file");
    }
    let read = || [&arguments.model, &arguments.text].into_iter().chain(&arguments.files);
    for path in read() {
        std::fs::metadata(path).with_context(|| format!("{}: cannot read", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        outputs::check(
            path,
            arguments.calibration.inputs().chain(read().map(PathBuf::as_path).collect::<Vec<_>>()),
        )?;
    }
    let (reference, _, _) = eval::open(&arguments.model)?;
    let windows = eval::windows(&reference, &arguments.text, arguments.ctx, arguments.chunks)?;
    let say = |what: &str| {
        if !context.quiet {
            eprintln!("{what}");
        }
    };
    say(&format!(
        "{} of {} tokens of {}",
        units::counted(windows.sequences.len(), "window"),
        arguments.ctx,
        arguments.text.display()
    ));
    let measured = Reference::new(&reference, &windows)?;
    let mut entries = Vec::new();
    for file in &arguments.files {
        say(&format!("measuring {}", file.display()));
        let (candidate, bytes, weights) = eval::open(file)?;
        let found = measured.divergence(&candidate).with_context(|| file.display().to_string())?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        entries.push(Entry::new(&name, None, file, (bytes, weights), &found));
    }
    if !arguments.rates.is_empty() {
        converted(arguments, context, &measured, &mut entries)?;
    }
    output::print(arguments.json, &entries, || table(&entries))?;
    if let Some(path) = &arguments.plot {
        let text = arguments.text.file_name().unwrap_or_default().to_string_lossy();
        draw(path, &entries, &text, &windows)?;
        say(&format!("{}: written", path.display()));
    }
    Ok(())
}

/// Converts at each rate with each method, and measures.
fn converted(
    arguments: &Arguments,
    context: &Context,
    measured: &Reference<'_>,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let folder = WorkFolder::new(arguments.keep.as_deref())?;
    let listener = Bars::new(context);
    let statistics = folder.path.join("statistics.gguf");
    let mut options = Options::new(&arguments.model, &statistics, Target::LinearBits(3.0));
    arguments.calibration.apply(&mut options);
    calibrate(&options, &listener)?;
    options.calibration = Calibration::Statistics(statistics);
    options.overrides.clone_from(&arguments.tensors);
    for name in &arguments.methods {
        options.method = Method::from_name(name).unwrap_or_default();
        for &rate in &arguments.rates {
            options.target = Target::LinearBits(rate);
            options.output = folder.path.join(format!("{name}-{rate}.gguf"));
            convert(&options, &listener)?;
            let (candidate, bytes, weights) = eval::open(&options.output)?;
            let found = measured.divergence(&candidate)?;
            drop(candidate);
            entries.push(Entry::new(name, Some(rate), &options.output, (bytes, weights), &found));
            if arguments.keep.is_none() {
                std::fs::remove_file(&options.output)
                    .with_context(|| format!("{}: cannot remove it", options.output.display()))?;
            }
        }
    }
    Ok(())
}

/// A folder that goes away at the end unless the user asked for it.
struct WorkFolder {
    path: PathBuf,
    temporary: bool,
}

impl WorkFolder {
    fn new(kept: Option<&Path>) -> Result<Self> {
        let (path, temporary) = match kept {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("wsic-compare-{}", std::process::id())), true),
        };
        // A temporary folder is removed at the end, so it must be new.
        let made = if temporary { std::fs::create_dir(&path) } else { std::fs::create_dir_all(&path) };
        made.with_context(|| format!("{}: cannot make the folder", path.display()))?;
        Ok(Self { path, temporary })
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing more can be done about a temporary folder that cannot be removed.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A table for a terminal.
fn table(entries: &[Entry]) -> String {
    let width = entries.iter().map(|entry| entry.series.chars().count()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:<width$}  {:>5}  {:>10}  {:>8}  {:>18}  {:>18}  {:>8}  {:>6}\n",
        "method", "rate", "file", "bits/w", "KL (nats/token)", "PPL", "KL 99 %", "top 1"
    );
    for entry in entries {
        let rate = entry.rate.map_or("-".to_owned(), |rate| rate.to_string());
        text += &format!(
            "{:<width$}  {rate:>5}  {:>10}  {:>8.4}  {:>9.5} ± {:.4}  {:>9.4} ± {:.4}  {:>8.4}  {:>5.1}%\n",
            entry.series,
            units::bytes(entry.bytes),
            entry.bits_per_weight,
            entry.kld,
            entry.kld_se,
            entry.ppl,
            entry.ppl_se,
            entry.kld_p99,
            entry.top1 * 100.0
        );
    }
    text
}

fn draw(path: &Path, entries: &[Entry], text: &str, windows: &Windows) -> Result<()> {
    let series = |pick: fn(&Entry) -> f64| -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for entry in entries {
            let point = Point { x: entry.bytes as f64 / 1e6, y: pick(entry) };
            match all.iter_mut().find(|series| series.name == entry.series) {
                Some(series) => series.points.push(point),
                None => all.push(Series { name: entry.series.clone(), points: vec![point] }),
            }
        }
        all
    };
    let count = units::counted(windows.sequences.len(), "window");
    let note = format!("{text}, {count} of {} tokens", windows.sequences[0].len());
    let kl = Plot {
        title: format!("KL divergence over file size ({note})"),
        x: "file size in MB".into(),
        y: "KL divergence in nats per token".into(),
        series: series(|entry| entry.kld),
    };
    let ppl = Plot {
        title: format!("Perplexity over file size ({note})"),
        x: "file size in MB".into(),
        y: "perplexity".into(),
        series: series(|entry| entry.ppl),
    };
    let drawing = match path.extension().is_some_and(|extension| extension == "html") {
        true => page(&[kl.svg(), ppl.svg()], entries),
        false => Plot::stacked(&[kl, ppl]),
    };
    outputs::write(path, drawing)
}

/// A page that needs nothing else.
fn page(drawings: &[String], entries: &[Entry]) -> String {
    let escape = super::plot::escape;
    let rows: String = entries
        .iter()
        .map(|entry| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.4}</td><td>{:.5} ± {:.4}</td><td>{:.4}</td><td>{:.1}</td></tr>\n",
                escape(&entry.series),
                entry.rate.map_or("–".to_owned(), |rate| rate.to_string()),
                entry.bytes as f64 / 1e6,
                entry.bits_per_weight,
                entry.kld,
                entry.kld_se,
                entry.ppl,
                entry.top1 * 100.0
            )
        })
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>wsic compare</title>\n<style>body{{font:\
         15px sans-serif;margin:2em;max-width:60em}}table{{border-collapse:collapse}}td,th{{padding:.3em .8em;text-align:\
         right;border-bottom:1px solid #ccc}}td:first-child,th:first-child{{text-align:left}}</style></head><body>\n{}\n\
         <table><tr><th>method</th><th>rate</th><th>MB</th><th>bits/weight</th><th>KL</th><th>PPL</th><th>top 1, %</th></tr>\n\
         {rows}</table></body></html>\n",
        drawings.join("\n")
    )
}
