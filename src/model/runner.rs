//! The pass of a batch of sequences through a model, one layer at a time.

use super::architecture::{Half, LayerCall, Observer};
use super::batch::Span;
use super::error::ModelError;
use super::forward::Model;
use super::weights::{InputKind, LayerWeights};

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
    /// The half of the layer that the hidden state enters next.
    half: Half,
    /// Inputs of the last linear layer of that half, of the tokens of the first rounds.
    kept: Vec<f32>,
    /// Values of the hidden state that were passed through the half.
    passed: usize,
}

/// Spans, and the range of values of the hidden state.
pub type Round = (Vec<Span>, std::ops::Range<usize>);

/// Keeps the last input of a half and shows an observer what comes before.
struct Keeper<'a> {
    observer: &'a mut dyn Observer,
    kind: InputKind,
    kept: &'a mut Vec<f32>,
    done: bool,
}

impl Observer for Keeper<'_> {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        if kind == self.kind {
            self.kept.extend_from_slice(x);
            self.done = true;
        }
        self.observer.input(kind, x, width)
    }

    fn residual(&mut self, kind: InputKind, hidden: &[f32]) -> Result<(), ModelError> {
        self.observer.residual(kind, hidden)
    }

    fn enough(&self) -> bool {
        self.done
    }

    fn wants_attention(&self) -> bool {
        self.observer.wants_attention()
    }

    fn attention(&mut self, x: &[f32], width: usize, received: &[f32]) -> Result<(), ModelError> {
        self.observer.attention(x, width, received)
    }
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
        Ok(Self { model, spans, hidden, layer, half: Half::Attention, kept: Vec::new(), passed: 0 })
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
    pub fn rounds(&self) -> Vec<Round> {
        let h = self.model.hyperparameters();
        let limit = (ROUND_BYTES / h.widest()).clamp(256, 4096);
        let mut rounds: Vec<Round> = Vec::new();
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
        round: &Round,
        weights: &LayerWeights,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let (spans, values) = round;
        let mut hidden = self.values(values)?.to_vec();
        let call = LayerCall { layer: self.layer, spans, cache: None, observer };
        self.forward(weights, &mut hidden, call)
    }

    fn values(&self, range: &std::ops::Range<usize>) -> Result<&[f32], ModelError> {
        self.hidden.get(range.clone()).ok_or_else(|| self.bad_round(range))
    }

    fn bad_round(&self, range: &std::ops::Range<usize>) -> ModelError {
        ModelError::request(
            "round",
            format!("the one after {} of {} values", self.passed, self.hidden.len()),
            format!("{range:?}"),
        )
    }

    /// Passes a round up to the last linear layer of the half at hand and keeps that layer's input, so that
    /// [`step_round`](Self::step_round) and all that goes on from here only multiplies. For rounds in their order, and
    /// for halves that show that input: not those of experts. `observer` is shown everything up to there.
    pub fn keep_round(
        &mut self,
        round: &Round,
        weights: &LayerWeights,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let mut hidden = self.values(&round.1)?.to_vec();
        let mut kept = std::mem::take(&mut self.kept);
        let mut keeper = Keeper { observer, kind: self.half.last_input(), kept: &mut kept, done: false };
        let call = LayerCall { layer: self.layer, spans: &round.0, cache: None, observer: &mut keeper };
        self.model.architecture().forward_half(self.half, weights, &mut hidden, call)?;
        self.kept = kept;
        Ok(())
    }

    /// Inputs of the last linear layer of the half at hand that [`keep_round`](Self::keep_round) has kept: a row for each
    /// token.
    pub fn kept(&self) -> &[f32] {
        &self.kept
    }

    /// The kept rows of a round, if all of them are there.
    pub fn kept_of(&self, round: &Round) -> Option<&[f32]> {
        let width = self.kept_width()?;
        let model_width = self.model.hyperparameters().width;
        self.kept.get(round.1.start / model_width * width..round.1.end / model_width * width)
    }

    /// Width of the last input of the half at hand, if that is one for all tokens.
    fn kept_width(&self) -> Option<usize> {
        let kind = self.half.last_input();
        let slots = self.model.linears(self.layer);
        let slot = slots.iter().find(|slot| slot.input == kind && slot.experts == 1)?;
        Some(slot.shape.columns)
    }

    /// Passes a round through the half at hand. Rounds come in their order; after the last one the next half begins.
    pub fn step_round(
        &mut self,
        round: &Round,
        weights: &LayerWeights,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let (spans, range) = round;
        if range.start != self.passed || self.layer >= self.model.hyperparameters().layers {
            return Err(self.bad_round(range));
        }
        let mut hidden = self.values(range)?.to_vec();
        match self.kept_of(round) {
            Some(x) => {
                self.model.architecture().finish_half(self.half, weights, x, &mut hidden, observer)?;
            }
            None => {
                let call = LayerCall { layer: self.layer, spans, cache: None, observer };
                self.model.architecture().forward_half(self.half, weights, &mut hidden, call)?;
            }
        }
        if let Some(values) = self.hidden.get_mut(range.clone()) {
            values.copy_from_slice(&hidden);
        }
        self.passed = range.end;
        if self.passed == self.hidden.len() {
            self.end_half()?;
        }
        Ok(())
    }

    /// All rounds were passed through the half at hand.
    fn end_half(&mut self) -> Result<(), ModelError> {
        (self.kept, self.passed) = (Vec::new(), 0);
        if self.half == Half::Attention {
            self.half = Half::FeedForward;
            return Ok(());
        }
        let width = self.model.hyperparameters().width;
        if let Some(at) = self.hidden.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite {
                layer: self.layer,
                what: "the hidden state",
                row: at / width,
            });
        }
        self.layer += 1;
        self.half = Half::Attention;
        Ok(())
    }

    /// The half of the layer that the hidden state enters next.
    pub fn half(&self) -> Half {
        self.half
    }

    /// What is left of the layer.
    fn forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError> {
        match self.half {
            Half::Attention => self.model.architecture().forward(weights, hidden, call),
            Half::FeedForward => {
                self.model.architecture().forward_half(Half::FeedForward, weights, hidden, call)
            }
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

    /// Passes all tokens through the first half of the layer, which reads only the weights of attention, unless that was
    /// done. What is shown and passed then is the rest of the layer.
    pub fn advance_attention(&mut self, weights: &LayerWeights) -> Result<(), ModelError> {
        if self.half == Half::Attention {
            self.step(weights)?;
        }
        Ok(())
    }

    /// Passes all rounds through the half at hand.
    fn step(&mut self, weights: &LayerWeights) -> Result<(), ModelError> {
        if self.hidden.is_empty() {
            return self.end_half();
        }
        for round in self.rounds() {
            self.step_round(&round, weights, &mut ())?;
        }
        Ok(())
    }

    /// Passes all tokens through what is left of the layer, from where [`step_round`](Self::step_round) and
    /// [`keep_round`](Self::keep_round) have brought them.
    pub fn advance_rest(&mut self, weights: &LayerWeights) -> Result<(), ModelError> {
        self.advance_attention(weights)?;
        self.step(weights)
    }

    /// Passes all tokens through the layer and shows the inputs of its linear layers, round after round; the
    /// hidden state stays.
    pub fn observe(&mut self, weights: &LayerWeights, observer: &mut dyn Observer) -> Result<(), ModelError> {
        self.pass(weights, observer, false)
    }

    /// Passes all tokens through the layer with `weights` and goes on to the next one. `observer` may be `&mut ()`.
    pub fn advance(&mut self, weights: &LayerWeights, observer: &mut dyn Observer) -> Result<(), ModelError> {
        self.pass(weights, observer, true)?;
        self.half = Half::FeedForward;
        self.end_half()
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
