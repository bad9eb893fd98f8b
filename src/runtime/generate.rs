//! Text generation: a model, its tokenizer and a key-value cache.

use super::fused::{release_scratch, Arithmetic};
use super::pieces::Pieces;
use super::sampling::{Drawer, Sampling};
use super::source::FusedSource;
use crate::gguf::{GgufError, GgufModel, Limits};
use crate::model::spread::watched;
use crate::model::{CachePrecision, Decoder, DecoderOptions, Model, ModelError, Tokenizer};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of a prompt that pass the model together.
const PROMPT_TOKENS: usize = 256;

/// Why no text was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The container refuses.
    #[error(transparent)]
    Container(#[from] GgufError),
    /// The model refuses.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model has no chat template of a known format.
    #[error("the model has no chat template of a known format; give the whole text as a plain prompt")]
    NoChatFormat,
    /// There is nothing to continue.
    #[error("the prompt has no token; give some text")]
    EmptyPrompt,
    /// The tokens do not fit.
    #[error(
        "{prompt} tokens do not fit into a context of {context} that holds {held}; use a larger context"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the context can hold.
        context: usize,
        /// Tokens it holds.
        held: usize,
    },
}

/// Choices of a [`TextModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// How quantized matrices multiply.
    pub arithmetic: Arithmetic,
    /// How keys and values are stored.
    pub cache: CachePrecision,
    /// Bytes that may be spent on decoded integers of WSIC tensors, one or half of one for each weight: matrices that fit
    /// are decoded once for a session, and multiply faster then. Results are the same. With [`Arithmetic::Float`] nothing
    /// is decoded.
    pub decoded_bytes: usize,
    /// Bytes of f32 weights that a model *without* WSIC tensors may keep in memory; its other layers are read again
    /// for every token.
    pub float_bytes: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            arithmetic: Arithmetic::Integer,
            cache: CachePrecision::Half,
            decoded_bytes: 0,
            float_bytes: 8 << 30,
        }
    }
}

/// A model that continues texts.
#[derive(Debug)]
pub struct TextModel {
    model: Arc<Model>,
    source: Arc<FusedSource>,
    tokenizer: Tokenizer,
    options: RunOptions,
}

impl TextModel {
    /// Opens a GGUF file (the first one of a split model), with or without WSIC tensors. The file is mapped and must
    /// not be changed while it is in use. The model's metadata has no `tokenizer.*` keys any more: they are in
    /// [`tokenizer`](Self::tokenizer).
    ///
    /// # Errors
    /// [`GenerateError`], naming the file and the tensor or key.
    pub fn open(path: impl AsRef<Path>, options: &RunOptions) -> Result<Self, GenerateError> {
        let mut container = GgufModel::open(path, &Limits::default())?;
        let tokenizer = Tokenizer::from_metadata(container.metadata())?;
        // Tokens and merges of a large vocabulary take megabytes.
        container.forget_metadata(|key| key.starts_with("tokenizer."));
        let decoded = if options.arithmetic == Arithmetic::Float { 0 } else { options.decoded_bytes };
        let source = FusedSource::new(container, options.arithmetic).with_decoded_bytes(decoded);
        let source = Arc::new(source);
        let model = Arc::new(Model::open(Arc::clone(&source) as Arc<_>)?);
        Ok(Self { model, source, tokenizer, options: *options })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether it has WSIC tensors.
    pub fn is_coded(&self) -> bool {
        self.source.is_coded()
    }

    /// Matrices that multiply from their coded form because they did not fit into [`RunOptions::decoded_bytes`]; known once
    /// there is a session.
    pub fn left_coded(&self) -> usize {
        self.source.left_coded()
    }

    /// Tokens of a text to continue, with the start token that the model asks for.
    ///
    /// # Errors
    /// [`GenerateError::Model`] if the tokenizer refuses.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        Ok(self.tokenizer.encode(text, true)?)
    }

    /// Tokens of a user's turn in the model's chat format and of the start of the answer. `first` adds the start
    /// token of the sequence where the model asks for it.
    ///
    /// # Errors
    /// [`GenerateError::NoChatFormat`] if the model has no template of a known format.
    pub fn question(&self, text: &str, first: bool) -> Result<Vec<u32>, GenerateError> {
        let format = self.tokenizer.chat().ok_or(GenerateError::NoChatFormat)?;
        Ok(self.tokenizer.encode_with(&format.question(text), first, true)?)
    }

    /// Prepares the weights and room for `context` tokens.
    ///
    /// # Errors
    /// [`GenerateError::Model`], naming a tensor that is damaged or missing.
    pub fn session(&self, context: usize) -> Result<Session<'_>, GenerateError> {
        // Coded matrices cost next to nothing to keep; the limit is for floats.
        let resident_bytes = if self.source.is_coded() { usize::MAX } else { self.options.float_bytes };
        let options = DecoderOptions { precision: self.options.cache, resident_bytes };
        let decoder = Decoder::new(Arc::clone(&self.model), 1, context, &options)?;
        Ok(Session { owner: self, decoder, context, watcher: None })
    }
}

/// Is told how many tokens of a prompt were read.
type Watcher = Box<dyn FnMut(usize) + Send>;

/// A text in the making: what was said so far is in the key-value cache.
pub struct Session<'m> {
    owner: &'m TextModel,
    decoder: Decoder,
    context: usize,
    watcher: Option<Watcher>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session with {} of {} tokens", self.held(), self.context)
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended its text or turn.
    EndOfText,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    ContextFull,
    /// The receiver of the text asked to stop.
    Stopped,
}

/// What was generated and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time for the prompt, the first token drawn included.
    pub prompt_time: Duration,
    /// Generated tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Time for all generated tokens after the first.
    pub time: Duration,
    /// Why it ended.
    pub end: End,
}

impl Generation {
    /// Tokens per second of the prompt.
    pub fn prompt_speed(&self) -> f64 {
        self.prompt_tokens as f64 / self.prompt_time.as_secs_f64().max(1e-9)
    }

    /// Tokens per second of the generation; 0 if it took no step of its own.
    pub fn speed(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl Session<'_> {
    /// Tokens in the context.
    pub fn held(&self) -> usize {
        self.decoder.lengths().first().copied().unwrap_or(0)
    }

    /// From now on `watcher` is told after each part of a text that is appended how many tokens it had.
    pub fn watch_prompt(&mut self, watcher: impl FnMut(usize) + Send + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    /// Forgets everything said so far.
    pub fn clear(&mut self) {
        self.decoder.clear();
    }

    /// Appends `tokens` and returns the logits after the last of them.
    ///
    /// # Errors
    /// [`GenerateError::EmptyPrompt`], [`GenerateError::Context`], or what the model refuses.
    pub fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, GenerateError> {
        let (context, held) = (self.context, self.held());
        if tokens.len() > context.saturating_sub(held) {
            return Err(GenerateError::Context { prompt: tokens.len(), context, held });
        }
        let (decoder, watcher) = (&mut self.decoder, &mut self.watcher);
        let width = self.owner.model.hyperparameters().width;
        let mut run = || -> Result<_, GenerateError> {
            let mut last = None;
            for part in tokens.chunks(PROMPT_TOKENS) {
                last = Some(decoder.append(&[(0, part)])?);
                if let Some(watcher) = watcher.as_mut().filter(|_| tokens.len() > 1) {
                    watcher(part.len());
                }
            }
            let hidden = last.ok_or(GenerateError::EmptyPrompt)?;
            let row = hidden.rchunks(width.max(1)).next().unwrap_or_default();
            Ok(decoder.logits(row)?)
        };
        // One call into the pool for all products, instead of one for each. Those of a single token are small.
        let logits = if tokens.len() == 1 { watched(run)? } else { rayon::scope(|_| run())? };
        if tokens.len() > 1 {
            release_scratch();
        }
        Ok(logits)
    }

    /// Appends `prompt` and then up to `most` tokens drawn one by one. `receive` gets the text in pieces of valid
    /// UTF-8 as they come and may stop.
    ///
    /// # Errors
    /// As [`Self::append`]; [`ModelError::NotFinite`] if the model's numbers leave the finite ones.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        most: usize,
        sampling: Sampling,
        mut receive: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut drawer = Drawer::new(sampling);
        let mut pieces = Pieces::default();
        let mut tokens = Vec::new();
        let start = Instant::now();
        let mut logits = self.append(prompt)?;
        let mut prompt_time = start.elapsed();
        let end = loop {
            if tokens.len() >= most {
                break End::Length;
            }
            let token = drawer.draw(&logits).filter(|_| logits.iter().any(|logit| logit.is_finite()));
            let token = token.ok_or(ModelError::NotFinite {
                layer: self.owner.model.hyperparameters().layers,
                what: "every logit",
                row: self.held(),
            })?;
            if tokens.is_empty() {
                prompt_time = start.elapsed();
            }
            if self.owner.tokenizer.vocabulary().ends_generation(token) {
                break End::EndOfText;
            }
            tokens.push(token);
            let text = pieces.push(&self.owner.tokenizer.piece(token, false));
            if !text.is_empty() && receive(&text).is_break() {
                break End::Stopped;
            }
            if tokens.len() >= most {
                break End::Length;
            }
            if self.held() >= self.context {
                break End::ContextFull;
            }
            logits = self.append(&[token])?;
        };
        let time = start.elapsed().saturating_sub(prompt_time);
        let rest = pieces.finish();
        if !rest.is_empty() && end != End::Stopped {
            // The text is over anyway.
            let _ = receive(&rest);
        }
        Ok(Generation { prompt_tokens: prompt.len(), prompt_time, tokens, time, end })
    }
}
