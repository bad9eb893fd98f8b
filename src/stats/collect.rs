//! Second moments of all inputs of a layer, while a batch passes through it.

use super::covariance::Covariance;
use super::error::StatsError;
use crate::model::{InputKind, LayerRunner, LayerWeights, LinearSlot, ModelError, Observer};

/// Second moments of the inputs of one layer's linear layers. Layers that share an input share its moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerStatistics {
    /// Number of the layer.
    pub layer: usize,
    inputs: Vec<(InputKind, Covariance)>,
}

impl LayerStatistics {
    /// Inputs in the order the layer uses them.
    pub fn inputs(&self) -> &[(InputKind, Covariance)] {
        &self.inputs
    }

    /// Moment of an input; `None` if it was not asked for.
    pub fn input(&self, kind: InputKind) -> Option<&Covariance> {
        self.inputs.iter().find(|(known, _)| *known == kind).map(|(_, covariance)| covariance)
    }

    /// Moment of the input of a linear layer.
    pub fn of(&self, slot: &LinearSlot) -> Option<&Covariance> {
        self.input(slot.input)
    }
}

/// Adds what it observes to the moments of the inputs it was asked for.
#[derive(Debug)]
pub struct Collector {
    wanted: Vec<InputKind>,
    inputs: Vec<(InputKind, Covariance)>,
    failure: Option<StatsError>,
}

impl Collector {
    /// A collector for these inputs.
    pub fn new(wanted: &[InputKind]) -> Self {
        Self { wanted: wanted.to_vec(), inputs: Vec::new(), failure: None }
    }

    fn add(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), StatsError> {
        let index = match self.inputs.iter().position(|(known, _)| *known == kind) {
            Some(index) => index,
            None => {
                self.inputs.push((kind, Covariance::new(width)?));
                self.inputs.len() - 1
            }
        };
        match self.inputs.get_mut(index) {
            Some((_, covariance)) if covariance.width() == width => covariance.add(x),
            _ => Err(StatsError::shape("inputs of one width", width)),
        }
    }

    /// The moments, checked to be finite.
    pub fn finish(self, layer: usize) -> Result<LayerStatistics, StatsError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        for (kind, covariance) in &self.inputs {
            if !covariance.is_finite() {
                return Err(StatsError::NotFinite { what: format!("layer {layer}, input {}", kind.name()) });
            }
        }
        Ok(LayerStatistics { layer, inputs: self.inputs })
    }
}

impl Observer for Collector {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        if self.wanted.contains(&kind) && self.failure.is_none() {
            self.failure = self.add(kind, x, width).err();
        }
        Ok(())
    }
}

/// Distinct inputs of the linear layers, in order.
pub fn input_kinds(linears: &[LinearSlot]) -> Vec<InputKind> {
    let mut kinds = Vec::new();
    for slot in linears {
        if !kinds.contains(&slot.input) {
            kinds.push(slot.input);
        }
    }
    kinds
}

/// Moments of the inputs `wanted` in the layer the runner stands at. The runner stays there, so that the caller can
/// quantize the layer and then [`LayerRunner::advance`] with what the next layer shall see.
pub fn collect(
    runner: &mut LayerRunner<'_>,
    weights: &LayerWeights,
    wanted: &[InputKind],
) -> Result<LayerStatistics, StatsError> {
    let mut collector = Collector::new(wanted);
    runner.observe(weights, &mut collector)?;
    collector.finish(runner.layer())
}

/// As [`collect`], but the same pass takes the runner to the next layer: half the time, for callers whose next layer
/// sees the weights as they are.
pub fn collect_and_advance(
    runner: &mut LayerRunner<'_>,
    weights: &LayerWeights,
    wanted: &[InputKind],
) -> Result<LayerStatistics, StatsError> {
    let layer = runner.layer();
    let mut collector = Collector::new(wanted);
    runner.advance(weights, &mut collector)?;
    collector.finish(layer)
}

/// Moment of the output head's input. The runner must have passed all layers.
pub fn collect_head(runner: &LayerRunner<'_>) -> Result<LayerStatistics, StatsError> {
    const TOKENS_AT_ONCE: usize = 4096;
    let model = runner.model();
    let h = model.hyperparameters();
    if runner.layer() != h.layers {
        return Err(StatsError::Calibration {
            expected: format!("all {} layers to be passed", h.layers),
            found: format!("layer {}", runner.layer()),
        });
    }
    let mut collector = Collector::new(&[InputKind::Head]);
    for hidden in runner.hidden().chunks(TOKENS_AT_ONCE * h.width) {
        collector.input(InputKind::Head, &model.final_norm(hidden), h.width)?;
    }
    collector.finish(h.layers)
}
