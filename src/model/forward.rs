//! A model, and the pass of a batch of sequences through it one layer at a time.

use std::sync::Arc;

use super::architecture::{self, Architecture, Half, LayerCall, Observer};
use super::batch::Span;
use super::config::Hyperparameters;
use super::error::ModelError;
use super::head::{embed, TensorTable, TokenTable};
use super::source::{TensorShape, TensorSource};
use super::weights::{read_tensor, LayerWeights, LinearSlot};

/// Name of the embedding's tensor.
pub const EMBEDDING: &str = "token_embd.weight";
/// Name of the output head's tensor; models without it use the embedding.
pub const OUTPUT: &str = "output.weight";

/// A model: its architecture and where its weights come from.
pub struct Model {
    source: Arc<dyn TensorSource>,
    architecture: Box<dyn Architecture>,
    embedding: Arc<dyn TokenTable>,
    head: Arc<dyn TokenTable>,
    head_tensor: &'static str,
    output_norm: Vec<f32>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("hyperparameters", self.hyperparameters()).finish_non_exhaustive()
    }
}

impl Model {
    /// Reads sizes and the final norm; weights are read when they are needed.
    pub fn open(source: Arc<dyn TensorSource>) -> Result<Self, ModelError> {
        let architecture = architecture::open(source.as_ref())?;
        let h = architecture.hyperparameters();
        let (width, vocabulary) = (h.width, h.vocabulary);
        let expected = TensorShape { columns: width, rows: vocabulary };
        let head_tensor = if source.shape(OUTPUT).is_some() { OUTPUT } else { EMBEDDING };
        for tensor in [EMBEDDING, head_tensor] {
            let missing = || ModelError::MissingTensor { tensor: tensor.to_owned() };
            let found = source.shape(tensor).ok_or_else(missing)?;
            if found != expected {
                return Err(ModelError::shape(tensor, expected, found));
            }
        }
        let output_norm =
            read_tensor(source.as_ref(), "output_norm.weight", TensorShape { columns: width, rows: 1 })?;
        let table = |tensor| -> Result<Arc<dyn TokenTable>, ModelError> {
            let dense = || TensorTable { source: Arc::clone(&source), tensor, tokens: vocabulary, width };
            let table = source.table(tensor)?.unwrap_or_else(|| Arc::new(dense()));
            let found = TensorShape { columns: table.width(), rows: table.tokens() };
            if found == expected {
                Ok(table)
            } else {
                Err(ModelError::shape(tensor, expected, found))
            }
        };
        let embedding = table(EMBEDDING)?;
        let head = if head_tensor == EMBEDDING { Arc::clone(&embedding) } else { table(head_tensor)? };
        Ok(Self { embedding, head, head_tensor, output_norm, architecture, source })
    }

    /// Where metadata and weights come from.
    pub fn source(&self) -> &Arc<dyn TensorSource> {
        &self.source
    }

    /// Sizes of the model.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        self.architecture.hyperparameters()
    }

    /// How the model computes.
    pub fn architecture(&self) -> &dyn Architecture {
        self.architecture.as_ref()
    }

    /// The linear layers of a layer.
    pub fn linears(&self, layer: usize) -> Vec<LinearSlot> {
        self.architecture.linears(layer)
    }

    /// Reads one layer: matrices as the source multiplies them, else as floats.
    pub fn load_layer(&self, layer: usize) -> Result<LayerWeights, ModelError> {
        self.architecture.load(self.source.as_ref(), layer)
    }

    /// Name of the tensor that is the output head.
    pub fn head_tensor(&self) -> &'static str {
        self.head_tensor
    }

    /// The output head.
    pub fn head(&self) -> &Arc<dyn TokenTable> {
        &self.head
    }

    /// Uses another embedding of the same shape; the head stays as it is, even if it was the same tensor.
    pub fn set_embedding(&mut self, table: Arc<dyn TokenTable>) -> Result<(), ModelError> {
        self.check_table(EMBEDDING, table.as_ref())?;
        self.embedding = table;
        Ok(())
    }

    /// Uses another output head of the same shape.
    pub fn set_head(&mut self, table: Arc<dyn TokenTable>) -> Result<(), ModelError> {
        self.check_table(self.head_tensor, table.as_ref())?;
        self.head = table;
        Ok(())
    }

    fn check_table(&self, tensor: &str, table: &dyn TokenTable) -> Result<(), ModelError> {
        let h = self.hyperparameters();
        let expected = TensorShape { columns: h.width, rows: h.vocabulary };
        let found = TensorShape { columns: table.width(), rows: table.tokens() };
        if expected == found {
            Ok(())
        } else {
            Err(ModelError::shape(tensor, expected, found))
        }
    }

    /// First hidden state of each token: tokens × width.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut hidden = vec![0.0; tokens.len() * self.hyperparameters().width];
        embed(self.embedding.as_ref(), tokens, &mut hidden)?;
        self.architecture.prepare(&mut hidden);
        Ok(hidden)
    }

    /// Input of the output head from the last hidden state (tokens × width).
    pub fn final_norm(&self, hidden: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; hidden.len()];
        self.architecture.final_norm(hidden, &self.output_norm, &mut normed);
        normed
    }

    /// Takes the gradient of [`final_norm`](Self::final_norm)'s result to that of its input `hidden`, in place.
    pub(crate) fn final_norm_gradient(&self, hidden: &[f32], gradient: &mut [f32]) {
        self.architecture.final_norm_gradient(hidden, &self.output_norm, gradient);
    }

    /// Logits (tokens × vocabulary) of few tokens, from the last hidden state.
    ///
    /// All of them are in memory: for many tokens use [`score`](super::eval::score) or the functions around it.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        let vocabulary = self.hyperparameters().vocabulary;
        let rows = hidden.len() / self.hyperparameters().width;
        let mut logits = vec![0.0; rows * vocabulary];
        let normed = self.final_norm(hidden);
        if let Some(product) = self.head.product() {
            product.multiply(&normed, &mut logits)?;
            return Ok(logits);
        }
        super::head::for_each_logits(self.head.as_ref(), &normed, |first_row, first, tokens, block| {
            for (row, block) in block.chunks_exact(tokens).enumerate() {
                let start = (first_row + row) * vocabulary + first;
                if let Some(out) = logits.get_mut(start..start + tokens) {
                    out.copy_from_slice(block);
                }
            }
            Ok(())
        })?;
        Ok(logits)
    }
}

/// Bytes that the widest intermediate of a round may take.
const ROUND_BYTES: usize = 32 << 20;

/// A batch of whole sequences on its way through a model, all of it one layer at a time.
///
/// Only the hidden state of all tokens is kept, and the weights of one layer that the caller holds. Within a layer
/// the sequences pass in rounds of a few thousand tokens, always the same ones. A caller that wants statistics and
/// then quantizes does for each layer: [`observe`](Self::observe) with the weights as they are, quantize, and
/// [`advance`](Self::advance) with the weights the next layer shall see.
#[derive(Debug)]
pub struct LayerRunner<'m> {
    model: &'m Model,
    spans: Vec<Span>,
    hidden: Vec<f32>,
    layer: usize,
    /// Whether the hidden state has passed the first half of the layer.
    middle: bool,
}

impl<'m> LayerRunner<'m> {
    /// Embeds the sequences.
    pub fn new(model: &'m Model, sequences: &[Vec<u32>]) -> Result<Self, ModelError> {
        let tokens: Vec<u32> = sequences.iter().flatten().copied().collect();
        let hidden = model.embed(&tokens)?;
        Self::resume(model, &sequences.iter().map(Vec::len).collect::<Vec<_>>(), hidden, 0)
    }

    /// Goes on from the hidden state that enters `layer`; `lengths` are those of the sequences.
    pub fn resume(
        model: &'m Model,
        lengths: &[usize],
        hidden: Vec<f32>,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let h = model.hyperparameters();
        let tokens = lengths.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
        if tokens.and_then(|tokens| tokens.checked_mul(h.width)) != Some(hidden.len()) || layer > h.layers {
            return Err(ModelError::request(
                "hidden state",
                format!("{} values for each of {tokens:?} tokens, and at most layer {}", h.width, h.layers),
                format!("{} values, layer {layer}", hidden.len()),
            ));
        }
        let spans = lengths
            .iter()
            .enumerate()
            .filter(|(_, &len)| len > 0)
            .map(|(sequence, &len)| Span { sequence, start: 0, len })
            .collect();
        Ok(Self { model, spans, hidden, layer, middle: false })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Layer that the hidden state enters next; the number of layers when all are done.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Hidden state of all tokens: tokens × width, row-major.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// Takes the hidden state out.
    pub fn into_hidden(self) -> Vec<f32> {
        self.hidden
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.hidden.len() / self.model.hyperparameters().width
    }

    /// The rounds in which a layer is passed: spans, and the range of values of the hidden state. They depend on
    /// the lengths of the sequences and the model's sizes alone.
    pub fn rounds(&self) -> Vec<(Vec<Span>, std::ops::Range<usize>)> {
        let h = self.model.hyperparameters();
        let limit = (ROUND_BYTES / h.widest()).clamp(256, 4096);
        let mut rounds: Vec<(Vec<Span>, std::ops::Range<usize>)> = Vec::new();
        let mut tokens = 0;
        let mut end = 0;
        for &span in &self.spans {
            let start = end;
            end += span.len * h.width;
            match rounds.last_mut() {
                Some((spans, values)) if tokens + span.len <= limit => {
                    spans.push(span);
                    values.end = end;
                    tokens += span.len;
                }
                _ => {
                    rounds.push((vec![span], start..end));
                    tokens = span.len;
                }
            }
        }
        rounds
    }

    /// Passes one of the [`rounds`](Self::rounds) through the layer to show the inputs of its linear layers; the
    /// hidden state stays. For callers that go through two models side by side.
    pub fn observe_round(
        &self,
        round: &(Vec<Span>, std::ops::Range<usize>),
        weights: &LayerWeights,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let (spans, values) = round;
        let hidden = self.hidden.get(values.clone()).ok_or_else(|| {
            ModelError::request(
                "round",
                format!("a part of {} values", self.hidden.len()),
                format!("{values:?}"),
            )
        })?;
        let mut hidden = hidden.to_vec();
        let call = LayerCall { layer: self.layer, spans, cache: None, observer };
        self.forward(weights, &mut hidden, call)
    }

    /// What is left of the layer.
    fn forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError> {
        match self.middle {
            false => self.model.architecture.forward(weights, hidden, call),
            true => self.model.architecture.forward_half(Half::FeedForward, weights, hidden, call),
        }
    }

    fn pass(
        &mut self,
        weights: &LayerWeights,
        observer: &mut dyn Observer,
        keep: bool,
    ) -> Result<(), ModelError> {
        let h = self.model.hyperparameters();
        if self.layer >= h.layers {
            return Err(ModelError::request("layer", format!("a layer below {}", h.layers), self.layer));
        }
        let mut scratch = Vec::new();
        for (spans, values) in self.rounds() {
            let Some(hidden) = self.hidden.get(values.clone()) else { continue };
            scratch.clear();
            scratch.extend_from_slice(hidden);
            let call = LayerCall { layer: self.layer, spans: &spans, cache: None, observer };
            self.forward(weights, &mut scratch, call)?;
            if let Some(hidden) = self.hidden.get_mut(values).filter(|_| keep) {
                hidden.copy_from_slice(&scratch);
            }
        }
        Ok(())
    }

    /// Passes all tokens through the first half of the layer, which reads only the weights of attention. What is shown
    /// and passed then is the rest of the layer.
    pub fn advance_attention(&mut self, weights: &LayerWeights) -> Result<(), ModelError> {
        if self.middle || self.layer >= self.model.hyperparameters().layers {
            return Err(ModelError::request("layer", "one that was not begun", self.layer));
        }
        for (spans, values) in self.rounds() {
            let Some(hidden) = self.hidden.get_mut(values) else { continue };
            let call = LayerCall { layer: self.layer, spans: &spans, cache: None, observer: &mut () };
            self.model.architecture.forward_half(Half::Attention, weights, hidden, call)?;
        }
        self.middle = true;
        Ok(())
    }

    /// Passes all tokens through the layer and shows the inputs of its linear layers, round after round; the
    /// hidden state stays.
    pub fn observe(&mut self, weights: &LayerWeights, observer: &mut dyn Observer) -> Result<(), ModelError> {
        self.pass(weights, observer, false)
    }

    /// Passes all tokens through the layer with `weights` and goes on to the next one. `observer` may be `&mut ()`.
    pub fn advance(&mut self, weights: &LayerWeights, observer: &mut dyn Observer) -> Result<(), ModelError> {
        self.pass(weights, observer, true)?;
        let width = self.model.hyperparameters().width;
        if let Some(at) = self.hidden.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite {
                layer: self.layer,
                what: "the hidden state",
                row: at / width,
            });
        }
        self.layer += 1;
        self.middle = false;
        Ok(())
    }

    /// Passes all layers that are left, reading each when it is needed.
    pub fn finish(&mut self) -> Result<(), ModelError> {
        while self.layer < self.model.hyperparameters().layers {
            let weights = self.model.load_layer(self.layer)?;
            self.advance(&weights, &mut ())?;
        }
        Ok(())
    }
}
