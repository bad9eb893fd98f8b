//! The way back through one layer, a few sequences at a time.

use crate::model::architecture::{GradientCall, GradientObserver};
use crate::model::batch::Span;
use crate::model::error::ModelError;
use crate::model::forward::Model;
use crate::model::weights::LayerWeights;

/// Bytes that the widest intermediate of a round may take.
const ROUND_BYTES: usize = 12 << 20;

/// Takes `gradient` (tokens × width) from the hidden state that leaves layer `layer` to the one that entered it, in
/// place, and shows the gradients of the outputs of its linear layers, round after round.
///
/// `hidden` is the state that entered the layer, tokens × width; `lengths` are those of the sequences, whose tokens
/// follow one another. The same bits for any number of threads.
pub fn layer_gradient(
    model: &Model,
    weights: &LayerWeights,
    layer: usize,
    lengths: &[usize],
    hidden: &[f32],
    gradient: &mut [f32],
    observer: &mut dyn GradientObserver,
) -> Result<(), ModelError> {
    let h = model.hyperparameters();
    let tokens = lengths.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
    let len = tokens.and_then(|tokens| tokens.checked_mul(h.width));
    if len != Some(hidden.len()) || len != Some(gradient.len()) || layer >= h.layers {
        return Err(ModelError::request(
            "gradient",
            format!("{} values for each of {tokens:?} tokens, and a layer below {}", h.width, h.layers),
            format!("{} values, {} gradients, layer {layer}", hidden.len(), gradient.len()),
        ));
    }
    let limit = (ROUND_BYTES / h.widest()).clamp(256, 2048);
    let (mut hidden, mut gradient) = (hidden, gradient);
    let mut rest = lengths;
    while let Some(&first) = rest.first() {
        let mut tokens = first;
        let more = rest.iter().skip(1).take_while(|&&len| {
            tokens += len;
            tokens <= limit
        });
        let (round, after) = rest.split_at(1 + more.count());
        rest = after;
        let spans: Vec<Span> = round
            .iter()
            .enumerate()
            .filter(|(_, &len)| len > 0)
            .map(|(sequence, &len)| Span { sequence, start: 0, len })
            .collect();
        let values = round.iter().sum::<usize>() * h.width;
        let (own_hidden, hidden_after) = hidden.split_at(values);
        let (own_gradient, gradient_after) = gradient.split_at_mut(values);
        (hidden, gradient) = (hidden_after, gradient_after);
        if own_gradient.is_empty() {
            continue;
        }
        let call = GradientCall { layer, spans: &spans, hidden: own_hidden, observer: &mut *observer };
        model.architecture().backward(weights, own_gradient, call)?;
        if let Some(at) = own_gradient.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite { layer, what: "the gradient", row: at / h.width });
        }
    }
    Ok(())
}
