//! Incremental decoding of many sequences at once with a key-value cache.

use std::sync::Arc;

use super::architecture::LayerCall;
use super::batch::Span;
use super::cache::{CachePrecision, LayerCache};
use super::error::ModelError;
use super::forward::Model;
use super::head::for_each_block;
use super::ops::{DenseMatrix, MatrixProduct};
use super::weights::LayerWeights;

/// Choices of a [`Decoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// How keys and values are stored.
    pub precision: CachePrecision,
    /// Bytes of f32 weights kept in memory, a source's own products counted as if they were; layers beyond are read
    /// again for every step.
    pub resident_bytes: usize,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        Self { precision: CachePrecision::Half, resident_bytes: 1 << 30 }
    }
}

/// A model with the past of up to a fixed number of sequences.
pub struct Decoder {
    model: Arc<Model>,
    resident: Vec<Option<LayerWeights>>,
    head: Option<DenseMatrix>,
    caches: Vec<LayerCache>,
    lengths: Vec<usize>,
    context: usize,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("lengths", &self.lengths).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Room for `context` tokens in each of `sequences` sequences, all empty.
    pub fn new(
        model: Arc<Model>,
        sequences: usize,
        context: usize,
        options: &DecoderOptions,
    ) -> Result<Self, ModelError> {
        let h = model.hyperparameters();
        let layers = h.layers;
        let mut caches = Vec::with_capacity(layers);
        for layer in 0..layers {
            let shape = model.architecture().cache_shape(layer);
            let cache = LayerCache::new(shape, sequences, context, options.precision);
            caches.push(cache.ok_or_else(|| {
                ModelError::request(
                    "key-value cache",
                    "a size below 2^64",
                    format!("{sequences} x {context}"),
                )
            })?);
        }
        let mut left = options.resident_bytes;
        let mut take = |elements: usize| match left.checked_sub(elements.saturating_mul(size_of::<f32>())) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let mut head = None;
        if model.head().product().is_none() && take(h.vocabulary.saturating_mul(h.width)) {
            let mut weights = Vec::with_capacity(h.vocabulary * h.width);
            for_each_block(model.head().as_ref(), |_, block| {
                weights.extend_from_slice(block);
                Ok(())
            })?;
            head = DenseMatrix::new(h.vocabulary, h.width, weights);
        }
        let mut resident = Vec::with_capacity(layers);
        for layer in 0..layers {
            let elements = model.linears(layer).iter().map(|slot| slot.shape.columns * slot.shape.rows).sum();
            resident.push(if take(elements) { Some(model.load_layer(layer)?) } else { None });
        }
        Ok(Self { model, resident, head, caches, lengths: vec![0; sequences], context })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens held of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Forgets the tokens of all sequences.
    pub fn clear(&mut self) {
        self.lengths.fill(0);
    }

    /// Appends tokens to sequences: pairs of sequence and its next tokens, each sequence at most once. Returns the
    /// last hidden state of every token, tokens × width in the order given.
    pub fn append(&mut self, runs: &[(usize, &[u32])]) -> Result<Vec<f32>, ModelError> {
        let mut spans = Vec::with_capacity(runs.len());
        let mut tokens = Vec::new();
        let mut used = vec![false; self.lengths.len()];
        for &(sequence, run) in runs {
            let start = self.lengths.get(sequence).copied();
            let fresh = used.get_mut(sequence).is_some_and(|used| !std::mem::replace(used, true));
            let start = start.filter(|start| fresh && run.len() <= self.context - start.min(&self.context));
            let Some(start) = start else {
                return Err(ModelError::request(
                    "decoder",
                    format!("each of {} sequences once, up to {} tokens", self.lengths.len(), self.context),
                    format!("{} tokens for sequence {sequence}", run.len()),
                ));
            };
            if !run.is_empty() {
                spans.push(Span { sequence, start, len: run.len() });
                tokens.extend_from_slice(run);
            }
        }
        let mut hidden = self.model.embed(&tokens)?;
        for (layer, cache) in self.caches.iter_mut().enumerate() {
            let loaded;
            let weights = match self.resident.get(layer) {
                Some(Some(weights)) => weights,
                _ => {
                    loaded = self.model.load_layer(layer)?;
                    &loaded
                }
            };
            let call = LayerCall { layer, spans: &spans, cache: Some(cache), observer: &mut () };
            self.model.architecture().forward(weights, &mut hidden, call)?;
        }
        for span in &spans {
            if let Some(length) = self.lengths.get_mut(span.sequence) {
                *length += span.len;
            }
        }
        Ok(hidden)
    }

    /// Logits (rows × vocabulary) of rows of the last hidden state.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        let h = self.model.hyperparameters();
        match &self.head {
            None => self.model.logits(hidden),
            Some(weights) => {
                let mut logits = vec![0.0; hidden.len() / h.width * h.vocabulary];
                weights.multiply(&self.model.final_norm(hidden), &mut logits)?;
                Ok(logits)
            }
        }
    }
}
