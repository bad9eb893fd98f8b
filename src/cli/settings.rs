//! Arguments that several commands share: what to calibrate with, and how to quantize.

use super::units;
use crate::convert::options::{Calibration, Options, Target, TensorOverride};
use crate::quantize::Method;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Where statistics come from.
#[derive(Debug, clap::Args)]
pub(super) struct CalibrationArguments {
    /// Text to calibrate with, like what the model will be used for, but not what it will be tested on.
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
    /// Importance matrix of llama.cpp to use in place of own statistics: faster, for any architecture, lower quality.
    #[arg(long, value_name = "FILE", conflicts_with = "calibration")]
    pub(super) imatrix: Option<PathBuf>,
    /// Tokens to calibrate with, at most.
    #[arg(long, value_name = "N", default_value_t = 1 << 15, value_parser = parse_tokens)]
    pub(super) calibration_tokens: usize,
    /// Pre-tokenizer of a Hugging Face folder, as llama.cpp names it, if it cannot be told from the files.
    #[arg(long, value_name = "NAME")]
    pub(super) pre_tokenizer: Option<String>,
    /// Seed of everything random; the same seed gives the same file.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Do not weigh rows and tensors by their influence on the loss.
    #[arg(long)]
    pub(super) no_loss_weights: bool,
}

/// How a model is quantized.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    /// Stored bits per weight of token embedding and output head [default: what the loss asks for].
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    pub(super) embedding_bpw: Option<f64>,
    /// What to do with tensors whose name matches: bits per weight, METHOD:BITS, keep, f32, f16, bf16 or q8_0.
    /// Repeatable; the last match wins.
    #[arg(long = "tensor", value_name = "REGEX=SPEC")]
    pub(super) tensors: Vec<TensorOverride>,
    #[command(flatten)]
    pub(super) calibration: CalibrationArguments,
    /// How the integers are coded: `size` for the least bits, `speed` for pairs of weights under one symbol, which
    /// decode faster, wherever that is possible (at up to .7 % of the file and a fifth more time), and more tiles for
    /// matrices of fewer than 2048 columns (at about 2 % of divergence), or `balance`: pairs where they cost next to
    /// nothing.
    #[arg(long, value_name = "WHAT", default_value = "balance", value_parser = ["size", "balance", "speed"])]
    pub(super) prefer: String,
    /// Do not quantize a second time, for the inputs that quantized tensors give: takes less than half the time, for a
    /// file of the same size that is a little worse.
    #[arg(long)]
    pub(super) no_drift: bool,
    /// How little correlations between inputs are believed, 0 to 1: .02 costs about 1 % of divergence on text like the
    /// calibration's and gains more on others [default: 0 with a text, .03 without one].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub(super) shrinkage: Option<f64>,
    /// Statistics of the same model, from `wsic calibrate`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["calibration", "imatrix"])]
    pub(super) stats: Option<PathBuf>,
    /// Quantization method; none writes an ordinary GGUF file.
    #[arg(long, default_value = "trellis", value_parser = ["trellis", "watersic", "gptq", "rtn", "none"])]
    pub(super) method: String,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct TargetArguments {
    /// Stored bits per weight of the blocks' linear layers, all side information counted.
    #[arg(long, value_name = "BITS", value_parser = parse_bits, allow_negative_numbers = true)]
    pub(super) bpw: Option<f64>,
    /// Stored bits per weight of the whole file.
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    pub(super) file_bpw: Option<f64>,
    /// Size of the whole file, never exceeded: 1.2GiB, 50MB (or 50M), 700MiB.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes, allow_hyphen_values = true)]
    pub(super) size: Option<u64>,
    /// KL divergence from the model, in nats per token: the smallest file that reaches it (several conversions).
    #[arg(long, value_name = "NATS")]
    pub(super) kld: Option<f64>,
}

impl CalibrationArguments {
    /// Files that are read.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Path> + Clone {
        [&self.calibration, &self.imatrix].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Sets what the arguments say.
    pub(super) fn apply(&self, options: &mut Options) {
        options.calibration = match (&self.calibration, &self.imatrix) {
            (Some(path), _) => Calibration::Text(path.clone()),
            (_, Some(path)) => Calibration::Importance(path.clone()),
            _ => Calibration::Model,
        };
        options.calibration_tokens = self.calibration_tokens;
        options.seed = self.seed;
        options.loss_weights = !self.no_loss_weights;
        options.pre_tokenizer.clone_from(&self.pre_tokenizer);
    }
}

/// A number of tokens, or of tokens of a window, as an argument.
pub(super) fn parse_tokens(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&tokens| tokens >= 2).ok_or_else(|| "expected 2 tokens or more".to_owned())
}

/// How many of something, as an argument.
pub(super) fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count >= 1).ok_or_else(|| "expected 1 or more".to_owned())
}

/// A rate as an argument.
pub(super) fn parse_bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.1..=12.0).contains(&bits) => Ok(bits),
        _ => Err("expected 0.1 to 12 bits per weight".to_owned()),
    }
}

/// A share as an argument.
fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected 0 or more and less than 1".to_owned()),
    }
}

impl Settings {
    /// Files that are read besides the model.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Path> + Clone {
        self.calibration.inputs().chain(self.stats.as_deref())
    }

    /// A conversion with these settings.
    pub(super) fn options(&self, input: &Path, output: &Path) -> Result<Options> {
        let target = match (self.target.bpw, self.target.file_bpw) {
            (Some(bits), _) => Target::LinearBits(bits),
            (_, Some(bits)) => Target::FileBits(bits),
            _ => match self.target.size {
                Some(bytes) => Target::FileBytes(bytes),
                // The rate is searched.
                None if self.target.kld.is_some() => Target::LinearBits(3.0),
                None => super::usage_error("one of --bpw, --file-bpw, --size and --kld is needed"),
            },
        };
        let mut options = Options::new(input, output, target);
        self.calibration.apply(&mut options);
        if let Some(path) = &self.stats {
            options.calibration = Calibration::Statistics(path.clone());
        }
        options.shrinkage = self.shrinkage;
        options.prefer = self.prefer.parse().unwrap_or_default();
        options.drift = !self.no_drift;
        options.embedding_bits = self.embedding_bpw;
        options.overrides.clone_from(&self.tensors);
        if self.method == "none" {
            super::usage_error("--method none is for `wsic convert`");
        }
        options.method = Method::from_name(&self.method).unwrap_or_default();
        Ok(options)
    }
}
