//! The tokens that statistics are taken from: a text, or what the model itself writes.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use super::error::StatsError;
use super::prompts::{prompts, Prompt};
use crate::model::{Decoder, DecoderOptions, Model, Random, Sampler, Tokenizer};

/// Where calibration tokens come from.
#[derive(Clone, Debug, PartialEq)]
pub enum CalibrationSource {
    /// A text; the name is the caller's.
    Text {
        /// Name of the text, for the record.
        name: String,
    },
    /// The model continued built-in prompts.
    SelfSampled {
        /// Seed of the random numbers.
        seed: u64,
        /// Temperature of the sampling.
        temperature: f32,
    },
}

impl std::fmt::Display for CalibrationSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text { name } => write!(f, "text {name}"),
            Self::SelfSampled { seed, temperature } => {
                write!(f, "self-sampled, seed {seed}, temperature {temperature}")
            }
        }
    }
}

/// Token sequences and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationTokens {
    /// The sequences; none is empty.
    pub sequences: Vec<Vec<u32>>,
    /// Where they come from.
    pub source: CalibrationSource,
}

impl CalibrationTokens {
    /// Cuts a text into windows of `context` tokens, the first of each the start token if the model adds one.
    ///
    /// If the text has more than `max_tokens`, windows spread evenly over it are taken. A text shorter than a window
    /// is one window; an incomplete last window is left out. An error if there are fewer than 2 tokens.
    pub fn from_text(
        tokenizer: &Tokenizer,
        name: &str,
        text: &str,
        context: usize,
        max_tokens: usize,
    ) -> Result<Self, StatsError> {
        let vocabulary = tokenizer.vocabulary();
        let start = vocabulary.bos.filter(|_| vocabulary.add_bos);
        let tokens = tokenizer.encode(text, false)?;
        let stride = context.saturating_sub(usize::from(start.is_some()));
        if stride < 2 || max_tokens < context || tokens.len() < 2 {
            return Err(StatsError::Calibration {
                expected: "a text of 2 tokens or more, windows of 3 or more, and room for one window".into(),
                found: format!("one of {}, windows of {context} and room for {max_tokens}", tokens.len()),
            });
        }
        let windows: Vec<&[u32]> = match tokens.len() < stride {
            true => vec![&tokens],
            false => tokens.chunks_exact(stride).collect(),
        };
        let count = windows.len().min(max_tokens / context);
        let spread = (0..count).filter_map(|index| windows.get(spread_index(index, windows.len(), count)));
        let sequences = spread.map(|window| start.into_iter().chain(window.iter().copied()).collect());
        Ok(Self { sequences: sequences.collect(), source: CalibrationSource::Text { name: name.to_owned() } })
    }

    /// Windows of a text that [`Self::from_text`] with the same arguments does not take, at most `wanted`, spread evenly
    /// over the text: what to measure on when there is no other text. Empty if all are taken.
    pub fn held_out(
        tokenizer: &Tokenizer,
        text: &str,
        context: usize,
        max_tokens: usize,
        wanted: usize,
    ) -> Result<Vec<Vec<u32>>, StatsError> {
        let vocabulary = tokenizer.vocabulary();
        let start = vocabulary.bos.filter(|_| vocabulary.add_bos);
        let tokens = tokenizer.encode(text, false)?;
        let stride = context.saturating_sub(usize::from(start.is_some())).max(1);
        let windows: Vec<&[u32]> = tokens.chunks_exact(stride).collect();
        let count = windows.len().min(max_tokens / context.max(1));
        let mut taken = vec![false; windows.len()];
        for index in 0..count {
            if let Some(taken) = taken.get_mut(spread_index(index, windows.len(), count)) {
                *taken = true;
            }
        }
        let left: Vec<&&[u32]> =
            windows.iter().zip(taken).filter(|(_, taken)| !taken).map(|(w, _)| w).collect();
        let count = left.len().min(wanted);
        let chosen = (0..count).filter_map(|index| left.get(spread_index(index, left.len(), count)));
        Ok(chosen.map(|window| start.into_iter().chain(window.iter().copied()).collect()).collect())
    }

    /// Number of tokens of all sequences.
    pub fn total(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// FNV-1a of 64 bits over the sequences: of each its length and tokens as little-endian u32.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |word: u32| {
            for byte in word.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for sequence in &self.sequences {
            add(sequence.len() as u32);
            sequence.iter().for_each(|&token| add(token));
        }
        hash
    }

    /// How often each token appears: the weight of each row of the embedding.
    pub fn frequencies(&self, vocabulary: usize) -> Vec<u64> {
        let mut counts = vec![0; vocabulary];
        for &token in self.sequences.iter().flatten() {
            if let Some(count) = counts.get_mut(token as usize) {
                *count += 1;
            }
        }
        counts
    }
}

/// Position of the `index`-th of `count` things spread evenly over `all`.
fn spread_index(index: usize, all: usize, count: usize) -> usize {
    index * all / count.max(1)
}

/// Tokens for each value of the widest input below which [`too_few_tokens`] warns.
///
/// A second moment estimated from T independent vectors of width n makes the least-squares error on other text
/// larger by a factor of about 1 + n/T; text is correlated, so T counts for less. At 8 that is an eighth.
const TOKENS_PER_WIDTH: usize = 8;

/// Number of tokens worth taking for a model whose widest linear input has `width` values: 16 for each, at least
/// 32768.
pub fn recommended_tokens(width: usize) -> usize {
    width.saturating_mul(2 * TOKENS_PER_WIDTH).max(1 << 15)
}

/// A warning if `tokens` are few for linear layers of up to `width` inputs; `None` if they are enough.
pub fn too_few_tokens(tokens: usize, width: usize) -> Option<String> {
    let enough = width.saturating_mul(TOKENS_PER_WIDTH);
    if tokens < width {
        Some(format!(
            "{tokens} calibration tokens are fewer than the {width} inputs of the widest layer: its statistics are \
             singular and quality will suffer; take at least {enough}"
        ))
    } else if tokens < enough {
        Some(format!(
            "{tokens} calibration tokens are few for layers of up to {width} inputs; take at least {enough}"
        ))
    } else {
        None
    }
}

/// How a model writes its own calibration text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfCalibration {
    /// Tokens wanted; rounded up to whole sequences.
    pub tokens: usize,
    /// Length of a sequence.
    pub context: usize,
    /// Prompt of the first sequence.
    pub first_prompt: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampler: Sampler,
    /// Bytes of the key-value cache: decides how many sequences are written at a time.
    pub cache_bytes: usize,
    /// Choices of the decoder.
    pub decoder: DecoderOptions,
}

impl Default for SelfCalibration {
    fn default() -> Self {
        Self {
            tokens: 1 << 15,
            context: 512,
            first_prompt: 0,
            seed: 0,
            sampler: Sampler::default(),
            cache_bytes: 768 << 20,
            decoder: DecoderOptions::default(),
        }
    }
}

/// Largest number of sequences written at a time.
const MAX_BATCH: usize = 64;

/// One sequence while it is written.
struct Writer {
    /// Tokens so far.
    tokens: Vec<u32>,
    /// Tokens to come before the model goes on by itself.
    forced: VecDeque<u32>,
    /// Prompt after the next end of text.
    next_prompt: usize,
    random: Random,
}

impl SelfCalibration {
    /// Lets the model continue the built-in prompts: each sequence starts with one of them, and when the model ends
    /// a text the next prompt follows. `progress` is told the number of tokens written so far.
    ///
    /// The same tokens for any number of threads; another machine may round differently and drift away.
    pub fn run(
        &self,
        model: &Arc<Model>,
        tokenizer: &Tokenizer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<CalibrationTokens, StatsError> {
        if self.context < 3 || self.tokens == 0 {
            return Err(StatsError::Calibration {
                expected: "sequences of 3 tokens or more, and some tokens".into(),
                found: format!("sequences of {}, {} tokens", self.context, self.tokens),
            });
        }
        let prompts = self.encode_prompts(model, tokenizer)?;
        let count = self.tokens.div_ceil(self.context);
        let rounds = count.div_ceil(self.batch(model).min(count));
        let batch = count.div_ceil(rounds);
        let mut decoder = Decoder::new(Arc::clone(model), batch, self.context, &self.decoder)?;
        let mut sequences = Vec::with_capacity(count);
        while sequences.len() < count {
            decoder.clear();
            let first = sequences.len();
            let mut writers: Vec<Writer> = (first..count.min(first + batch))
                .map(|index| Writer {
                    tokens: Vec::with_capacity(self.context),
                    forced: prompts
                        .get((self.first_prompt + index) % prompts.len())
                        .cloned()
                        .unwrap_or_default(),
                    next_prompt: self.first_prompt + index + count,
                    random: Random::new(self.seed, index as u64),
                })
                .collect();
            self.write(&mut decoder, tokenizer, &prompts, &mut writers, first * self.context, progress)?;
            sequences.extend(writers.into_iter().map(|writer| writer.tokens));
        }
        let source =
            CalibrationSource::SelfSampled { seed: self.seed, temperature: self.sampler.temperature };
        Ok(CalibrationTokens { sequences, source })
    }

    /// Sequences that the cache has room for.
    fn batch(&self, model: &Model) -> usize {
        let element = match self.decoder.precision {
            crate::model::CachePrecision::Half => 2,
            crate::model::CachePrecision::Single => 4,
        };
        let per_token: usize = (0..model.hyperparameters().layers)
            .map(|layer| {
                let shape = model.architecture().cache_shape(layer);
                shape.heads * (shape.key_width + shape.value_width) * element
            })
            .sum();
        (self.cache_bytes / per_token.saturating_mul(self.context).max(1)).clamp(1, MAX_BATCH)
    }

    /// Tokens of each prompt, after the start token if the model adds one. Conversations use the model's format.
    fn encode_prompts(&self, model: &Model, tokenizer: &Tokenizer) -> Result<Vec<VecDeque<u32>>, StatsError> {
        let limit = model.hyperparameters().vocabulary;
        let mut encoded = Vec::new();
        for prompt in prompts() {
            let vocabulary = tokenizer.vocabulary();
            let mut tokens: Vec<u32> = vocabulary.bos.into_iter().filter(|_| vocabulary.add_bos).collect();
            tokens.extend(match (prompt, tokenizer.chat()) {
                (Prompt::Text(text), _) => tokenizer.encode(text, false)?,
                (Prompt::Question(text), Some(chat)) => {
                    tokenizer.encode_with(&chat.question(text), false, true)?
                }
                (Prompt::Question(text), None) => {
                    tokenizer.encode(&format!("Question: {text}\nAnswer:"), false)?
                }
            });
            tokens.retain(|&token| (token as usize) < limit);
            tokens.truncate(self.context / 2);
            if !tokens.is_empty() {
                encoded.push(VecDeque::from(tokens));
            }
        }
        if encoded.is_empty() {
            return Err(StatsError::Calibration {
                expected: "a tokenizer that has tokens for some prompt".into(),
                found: "none".into(),
            });
        }
        Ok(encoded)
    }

    /// Writes all sequences of one batch to their end, one token of each at a time.
    fn write(
        &self,
        decoder: &mut Decoder,
        tokenizer: &Tokenizer,
        prompts: &[VecDeque<u32>],
        writers: &mut [Writer],
        before: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), StatsError> {
        let vocabulary = decoder.model().hyperparameters().vocabulary;
        let width = decoder.model().hyperparameters().width;
        let mut logits: Vec<f32> = Vec::new();
        for position in 0..self.context {
            let rows = logits.par_chunks_exact(vocabulary);
            // Before the first step every writer has a forced token, so no logits are needed.
            let empty = || [].as_slice();
            let rows: Vec<&[f32]> =
                if logits.is_empty() { writers.iter().map(|_| empty()).collect() } else { rows.collect() };
            writers.par_iter_mut().zip(rows).for_each(|(writer, logits)| {
                let token = match writer.forced.pop_front() {
                    Some(token) => token,
                    None => self.sampler.sample(logits, &mut writer.random),
                };
                writer.tokens.push(token);
                if writer.forced.is_empty() && tokenizer.vocabulary().ends_generation(token) {
                    writer.forced =
                        prompts.get(writer.next_prompt % prompts.len()).cloned().unwrap_or_default();
                    writer.next_prompt += 1;
                }
            });
            progress(before + (position + 1) * writers.len());
            if position + 1 == self.context {
                break;
            }
            let runs: Vec<(usize, &[u32])> = writers
                .iter()
                .enumerate()
                .filter_map(|(i, w)| Some((i, w.tokens.last_chunk::<1>()?.as_slice())))
                .collect();
            let hidden = decoder.append(&runs)?;
            // Sequences that are told their next token need no logits.
            if writers.iter().all(|writer| !writer.forced.is_empty()) {
                logits.clear();
                continue;
            }
            debug_assert_eq!(hidden.len(), writers.len() * width);
            logits = decoder.logits(&hidden)?;
        }
        Ok(())
    }
}
