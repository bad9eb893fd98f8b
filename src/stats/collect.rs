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
    experts: Vec<((InputKind, usize), Covariance)>,
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

    /// What one expert's matrices multiply, mixed with what all experts do: the expert's own mean of x xᵀ over its n
    /// tokens counts n, that over the tokens of all experts counts as much as the vectors are wide. An expert that was
    /// rarely or never chosen so has nearly the common moment, one with many tokens its own. Returns E[x_i x_j].
    pub fn expert(&self, kind: InputKind, expert: usize) -> impl Fn(usize, usize) -> f64 + '_ {
        let own = self.experts.iter().find(|(known, _)| *known == (kind, expert)).map(|(_, own)| own);
        let all = self.input(kind);
        let tokens = own.map_or(0.0, |own| own.tokens() as f64);
        let common = all.map_or(0.0, |all| all.width() as f64);
        let total = (tokens + common).max(f64::MIN_POSITIVE);
        move |i, j| {
            let own = own.map_or(0.0, |own| own.get(i, j));
            let all = all.map_or(0.0, |all| all.get(i, j));
            (tokens * own + common * all) / total
        }
    }

    /// Tokens that the router sent to each expert that got any, by number.
    pub fn expert_tokens(&self, kind: InputKind) -> Vec<(usize, u64)> {
        let of_kind = self.experts.iter().filter(|((known, _), _)| *known == kind);
        let mut tokens: Vec<(usize, u64)> =
            of_kind.map(|((_, expert), own)| (*expert, own.tokens())).collect();
        tokens.sort_unstable();
        tokens
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
    experts: Vec<((InputKind, usize), Covariance)>,
    failure: Option<StatsError>,
}

impl Collector {
    /// A collector for these inputs.
    pub fn new(wanted: &[InputKind]) -> Self {
        Self { wanted: wanted.to_vec(), inputs: Vec::new(), experts: Vec::new(), failure: None }
    }

    /// The moments, checked to be finite.
    pub fn finish(self, layer: usize) -> Result<LayerStatistics, StatsError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let experts = self.experts.iter().map(|((kind, _), covariance)| (kind, covariance));
        for (kind, covariance) in
            self.inputs.iter().map(|(kind, covariance)| (kind, covariance)).chain(experts)
        {
            if !covariance.is_finite() {
                return Err(StatsError::NotFinite { what: format!("layer {layer}, input {}", kind.name()) });
            }
        }
        Ok(LayerStatistics { layer, inputs: self.inputs, experts: self.experts })
    }
}

impl Observer for Collector {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        if self.wanted.contains(&kind) && self.failure.is_none() {
            self.failure = add(&mut self.inputs, kind, x, width).err();
        }
        Ok(())
    }

    fn expert_input(
        &mut self,
        kind: InputKind,
        expert: usize,
        x: &[f32],
        width: usize,
    ) -> Result<(), ModelError> {
        if self.wanted.contains(&kind) && self.failure.is_none() {
            self.failure = add(&mut self.experts, (kind, expert), x, width).err();
            // What goes into the experts all tokens have shown already; what comes out of their first half has no other
            // place.
            if kind == InputKind::FeedForwardDown && self.failure.is_none() {
                self.failure = add(&mut self.inputs, kind, x, width).err();
            }
        }
        Ok(())
    }
}

/// Adds to the moment of this key.
fn add<K: PartialEq>(
    moments: &mut Vec<(K, Covariance)>,
    key: K,
    x: &[f32],
    width: usize,
) -> Result<(), StatsError> {
    let index = match moments.iter().position(|(known, _)| *known == key) {
        Some(index) => index,
        None => {
            moments.push((key, Covariance::new(width)?));
            moments.len() - 1
        }
    };
    match moments.get_mut(index) {
        Some((_, covariance)) if covariance.width() == width => covariance.add(x),
        _ => Err(StatsError::shape("inputs of one width", width)),
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

/// Weighs the attention input of each token by the attention it receives.
#[derive(Debug)]
struct Weighted {
    covariance: Option<Covariance>,
    failure: Option<StatsError>,
}

impl Observer for Weighted {
    fn input(&mut self, _: InputKind, _: &[f32], _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn wants_attention(&self) -> bool {
        true
    }

    fn attention(&mut self, x: &[f32], width: usize, received: &[f32]) -> Result<(), ModelError> {
        if self.failure.is_none() {
            let covariance = match self.covariance.take() {
                Some(covariance) => Ok(covariance),
                None => Covariance::new(width),
            };
            let added = covariance.and_then(|mut covariance| {
                covariance.add_weighted(x, received)?;
                Ok(covariance)
            });
            match added {
                Ok(covariance) => self.covariance = Some(covariance),
                Err(failure) => self.failure = Some(failure),
            }
        }
        Ok(())
    }
}

/// Moment of the input of the queries, keys and values with every token weighted by the attention it receives
/// (the WaterSIC paper's attention-weighted covariance). `None` for layers without attention. The runner stays.
pub fn collect_weighted(
    runner: &mut LayerRunner<'_>,
    weights: &LayerWeights,
) -> Result<Option<Covariance>, StatsError> {
    let mut observer = Weighted { covariance: None, failure: None };
    runner.observe(weights, &mut observer)?;
    if let Some(failure) = observer.failure {
        return Err(failure);
    }
    match observer.covariance {
        Some(covariance) if !covariance.is_finite() => {
            Err(StatsError::NotFinite { what: format!("layer {}, weighted attention input", runner.layer()) })
        }
        covariance => Ok(covariance),
    }
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
