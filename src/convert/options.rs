//! What the caller of a conversion can choose.

use super::steps::Steps;
use crate::gguf::GgmlType;
use crate::payload::encode::EncodeOptions;
use crate::quantize::Method;
use regex::Regex;
use std::path::PathBuf;

/// Bytes that tensors quantized at the same time hold together, at most (or one tensor).
pub(super) const MOST_BYTES_AT_ONCE: u64 = 3 << 30;

/// What is done to one tensor, by override.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TensorChoice {
    /// Quantize to this many stored bits per weight.
    Bits(f64),
    /// Quantize with this method, to this many stored bits per weight: steps of different methods do not compare, so
    /// such a tensor has a rate of its own.
    Method(Method, f64),
    /// Leave as it is.
    Keep,
    /// Store as this ordinary type.
    Type(GgmlType),
}

/// As [`FromStr`](std::str::FromStr) reads it.
impl std::fmt::Display for TensorChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "{bits}"),
            Self::Method(method, bits) => write!(f, "{}:{bits}", method.name()),
            Self::Keep => f.write_str("keep"),
            Self::Type(ty) => f.write_str(&ty.to_string().to_lowercase()),
        }
    }
}

impl std::str::FromStr for TensorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("keep") {
            return Ok(Self::Keep);
        }
        let rate = |bits: f64| match bits {
            _ if (0.1..=12.0).contains(&bits) => Ok(bits),
            _ => Err(format!("{bits} bits per weight: expected 0.1 to 12")),
        };
        if let Ok(bits) = text.parse::<f64>() {
            return rate(bits).map(Self::Bits);
        }
        let (name, bits) = text.split_once(':').unwrap_or((text, ""));
        if let Some(method) = Method::from_name(name) {
            let bits = bits.parse::<f64>().map_err(|_| {
                format!("'{text}': a method for one tensor needs a rate, for example '{name}:3'")
            })?;
            return rate(bits).map(|bits| Self::Method(method, bits));
        }
        match GgmlType::from_name(text) {
            Some(ty @ (GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::Q8_0)) => {
                Ok(Self::Type(ty))
            }
            _ => Err(format!(
                "'{text}': expected a number of bits per weight, METHOD:BITS, keep, f32, f16, bf16 or q8_0"
            )),
        }
    }
}

/// An override: tensors whose name matches get the choice. The last matching override wins.
#[derive(Clone, Debug)]
pub struct TensorOverride {
    /// Matched from the start of any dot-separated part of the name: `ffn_down` matches `blk.0.ffn_down.weight`,
    /// `output` matches `output.weight` but not `blk.0.attn_output.weight`.
    pub pattern: Regex,
    /// What is done to matching tensors.
    pub choice: TensorChoice,
}

impl std::str::FromStr for TensorOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, choice) =
            text.rsplit_once('=').ok_or("expected REGEX=SPEC, for example 'token_embd=keep'")?;
        if pattern.is_empty() {
            return Err("expected an expression before the '='; '.' matches every name".to_owned());
        }
        Ok(Self { pattern: name_pattern(pattern)?, choice: choice.parse()? })
    }
}

/// A regular expression that matches from the start of any dot-separated part of a name.
///
/// # Errors
/// What is wrong with the expression.
pub fn name_pattern(pattern: &str) -> Result<Regex, String> {
    let bad = |error| format!("bad regular expression: {error}");
    // Checked alone first, so that the error shows what the user wrote.
    Regex::new(pattern).map_err(bad)?;
    Regex::new(&format!(r"(?:^|\.)(?:{pattern})")).map_err(bad)
}

/// The expression that [`name_pattern`] was given.
pub(super) fn as_given(pattern: &Regex) -> &str {
    let pattern = pattern.as_str();
    let inner = pattern.strip_prefix(r"(?:^|\.)(?:").and_then(|rest| rest.strip_suffix(')'));
    inner.unwrap_or(pattern)
}

/// The size to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Stored bits per weight of the blocks' linear layers, all side information counted.
    LinearBits(f64),
    /// Bits per weight of the whole file: everything the file holds.
    FileBits(f64),
    /// Bytes of the whole file; never exceeded.
    FileBytes(u64),
}

/// Where calibration tokens come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Calibration {
    /// The model continues built-in prompts.
    Model,
    /// A text file.
    Text(PathBuf),
    /// None: the model is not run, an importance matrix of llama.cpp says how large inputs are. Lower quality.
    Importance(PathBuf),
    /// None: a statistics file has everything.
    Statistics(PathBuf),
}

/// What decides between coders of the same integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The least bits.
    Size,
    /// Pairs of weights under one symbol, which decode up to one and a half times as fast, where they cost next to
    /// nothing: mostly below two bits per weight.
    #[default]
    Balance,
    /// Pairs below three bits per weight, at up to .7 % of the file, and few of those that their tables do not hold.
    /// Matrices of fewer than 2048 columns are cut into more tiles, which kernels decode in turn and threads share, at
    /// about 2 % of the divergence.
    Speed,
}

impl Prefer {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Balance => "balance",
            Self::Speed => "speed",
        }
    }

    /// [`EncodeOptions::worth_of_pairs`](crate::payload::encode::EncodeOptions::worth_of_pairs).
    pub(super) const fn worth_of_pairs(self) -> f64 {
        match self {
            Self::Size => EncodeOptions::SMALL,
            Self::Balance => EncodeOptions::BALANCED,
            Self::Speed => EncodeOptions::FAST,
        }
    }
}

impl std::str::FromStr for Prefer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Size, Self::Balance, Self::Speed].into_iter().find(|prefer| prefer.name() == text);
        found.ok_or_else(|| format!("'{text}': expected size, balance or speed"))
    }
}

/// A whole conversion.
#[derive(Clone, Debug)]
pub struct Options {
    /// Model to read.
    pub input: PathBuf,
    /// File to write.
    pub output: PathBuf,
    /// The size to reach.
    pub target: Target,
    /// Stored bits per weight of token embedding and output head; `None` lets the loss decide.
    pub embedding_bits: Option<f64>,
    /// Overrides by name, in order.
    pub overrides: Vec<TensorOverride>,
    /// Quantization method.
    pub method: Method,
    /// Calibration text.
    pub calibration: Calibration,
    /// Tokens to calibrate with, at most.
    pub calibration_tokens: usize,
    /// Seed of everything random (self-calibration, sampled labels).
    pub seed: u64,
    /// Weight rows and tensors by their influence on the loss.
    pub loss_weights: bool,
    /// How little correlations between inputs are believed, 0 to less than 1: see
    /// [`Settings::shrinkage`](crate::quantize::Settings::shrinkage). `None` for what suits the statistics.
    pub shrinkage: Option<f64>,
    /// What decides between coders of the same integers.
    pub prefer: Prefer,
    /// Quantize a second time, for the inputs that quantized tensors give ([`Method::Trellis`] and
    /// [`Method::WaterSic`]; not with [`steps`](Self::steps) or [`only`](Self::only)).
    pub drift: bool,
    /// Go on with an interrupted conversion of the same settings.
    pub resume: bool,
    /// Quantize at these steps, read from the file named, rather than search for them.
    pub steps: Option<(PathBuf, Steps)>,
    /// Write a part: only the tensors whose name matches ([`name_pattern`] makes such expressions).
    pub only: Option<Regex>,
    /// Data bytes of one output file, at most (or one tensor); `None` for a single file.
    pub split_bytes: Option<u64>,
    /// Value of `tokenizer.ggml.pre` for a Hugging Face folder; found out by default.
    pub pre_tokenizer: Option<String>,
}

impl Options {
    /// Whether there is a second pass, if the model can be run and its statistics have the tokens.
    pub(super) fn corrects_drift(&self) -> bool {
        let method = matches!(self.method, Method::Trellis | Method::WaterSic { .. });
        self.drift && method && self.steps.is_none() && self.only.is_none()
    }

    /// A conversion with the defaults: trellis, 32768 tokens of the model's own text, weights from the loss.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>, target: Target) -> Self {
        Self {
            input: input.into(),
            output: output.into(),
            target,
            embedding_bits: None,
            overrides: Vec::new(),
            method: Method::default(),
            calibration: Calibration::Model,
            calibration_tokens: 1 << 15,
            seed: 0,
            loss_weights: true,
            shrinkage: None,
            prefer: Prefer::default(),
            drift: true,
            resume: false,
            steps: None,
            only: None,
            split_bytes: None,
            pre_tokenizer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_parse() {
        let parsed: TensorOverride = "token_embd|output=keep".parse().unwrap();
        assert!(parsed.pattern.is_match("token_embd.weight"));
        assert_eq!(parsed.choice, TensorChoice::Keep);
        assert!(parsed.pattern.is_match("output.weight") && parsed.pattern.is_match("output_norm.weight"));
        assert!(!parsed.pattern.is_match("blk.3.attn_output.weight"));
        let down: TensorOverride = "ffn_down=3".parse().unwrap();
        assert!(down.pattern.is_match("blk.11.ffn_down.weight"));
        assert_eq!("blk.*down=3.5".parse::<TensorOverride>().unwrap().choice, TensorChoice::Bits(3.5));
        assert_eq!("a=b=q8_0".parse::<TensorOverride>().unwrap().choice, TensorChoice::Type(GgmlType::Q8_0));
        let gptq = TensorChoice::Method(Method::Gptq, 3.5);
        assert_eq!("down=gptq:3.5".parse::<TensorOverride>().unwrap().choice, gptq);
        for text in ["keep", "3.5", "gptq:3.5", "q8_0"] {
            let choice: TensorChoice = text.parse().unwrap();
            assert_eq!(choice.to_string().parse(), Ok(choice), "{choice}");
        }
        for bad in ["token_embd", "x=q4_k", "(=keep", "x=99", "x=-1", "x=nan", "x=gptq", "x=rtn:0", "x=q:3"] {
            assert!(bad.parse::<TensorOverride>().is_err(), "{bad}");
        }
    }
}
