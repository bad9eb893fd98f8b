//! Statistics of a model and of its already quantized self, run side by side.

use super::covariance::{Covariance, CrossMoment};
use super::error::StatsError;
use crate::model::{InputKind, LayerRunner, LayerWeights, ModelError, Observer};

/// Second moments of an input that has drifted. x and r are the input and the hidden state of the original model, x'
/// and r' those of the quantized one.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftMoments {
    /// E[x' x'ᵀ].
    pub drifted: Covariance,
    /// E[x x'ᵀ].
    pub cross: CrossMoment,
    /// E[(r − r') x'ᵀ], model width × input width, for inputs of layers that write to the hidden state.
    pub residual: Option<CrossMoment>,
    /// The first two with every token weighted by the attention it receives in the original model, relative to the
    /// mean; for the input of the queries, keys and values.
    pub attended: Option<(Covariance, CrossMoment)>,
}

impl DriftMoments {
    fn new(width: usize, residual: Option<usize>, attended: bool) -> Result<Self, StatsError> {
        let pair = || Ok::<_, StatsError>((Covariance::new(width)?, CrossMoment::new(width, width)?));
        let (drifted, cross) = pair()?;
        Ok(Self {
            drifted,
            cross,
            attended: attended.then(pair).transpose()?,
            residual: residual.map(|rows| CrossMoment::new(rows, width)).transpose()?,
        })
    }

    fn add(
        &mut self,
        x: &[f32],
        drifted: &[f32],
        residual: Option<&[f32]>,
        received: Option<&[f32]>,
    ) -> Result<(), StatsError> {
        self.drifted.add(drifted)?;
        self.cross.add(x, drifted)?;
        if let (Some((weighted, cross)), Some(received)) = (&mut self.attended, received) {
            let (x, drifted) = (scaled_rows(x, received), scaled_rows(drifted, received));
            weighted.add(&drifted)?;
            cross.add(&x, &drifted)?;
        }
        match (&mut self.residual, residual) {
            (Some(moment), Some(residual)) => moment.add(residual, drifted),
            _ => Ok(()),
        }
    }

    /// Vectors seen.
    pub fn tokens(&self) -> u64 {
        self.drifted.tokens()
    }

    fn is_finite(&self) -> bool {
        let residual = self.residual.as_ref().is_none_or(CrossMoment::is_finite);
        let finite = |moments: &(Covariance, CrossMoment)| moments.0.is_finite() && moments.1.is_finite();
        residual
            && self.drifted.is_finite()
            && self.cross.is_finite()
            && self.attended.as_ref().is_none_or(finite)
    }
}

/// How an input of a layer has drifted since layers before it were quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// The input.
    pub kind: InputKind,
    /// Over the sequences to learn from.
    pub learned: DriftMoments,
    /// Over those held out, to judge by.
    pub held_out: DriftMoments,
}

/// Keeps what passes in one round.
#[derive(Debug, Default)]
struct Recorder<'a> {
    wanted: &'a [InputKind],
    inputs: Vec<(InputKind, usize, Vec<f32>)>,
    residuals: Vec<(InputKind, Vec<f32>)>,
    /// Attention that each token receives, if that is wanted.
    received: Option<Vec<f32>>,
}

impl Observer for Recorder<'_> {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        if self.wanted.contains(&kind) {
            self.inputs.push((kind, width, x.to_vec()));
        }
        Ok(())
    }

    fn residual(&mut self, kind: InputKind, hidden: &[f32]) -> Result<(), ModelError> {
        if self.wanted.contains(&kind) {
            self.residuals.push((kind, hidden.to_vec()));
        }
        Ok(())
    }

    fn enough(&self) -> bool {
        let received = self.received.as_ref().is_none_or(|received| !received.is_empty());
        self.inputs.len() == self.wanted.len() && received
    }

    fn wants_attention(&self) -> bool {
        self.received.is_some()
    }

    fn attention(&mut self, _: &[f32], _: usize, received: &[f32]) -> Result<(), ModelError> {
        self.received = Some(received.to_vec());
        Ok(())
    }
}

/// The rows of `values` (`tokens` of them) that are chosen, and those that are not.
fn split_rows(values: &[f32], chosen: &[bool]) -> [Vec<f32>; 2] {
    let width = values.len() / chosen.len().max(1);
    let mut parts = [Vec::new(), Vec::new()];
    for (row, &chosen) in values.chunks_exact(width.max(1)).zip(chosen) {
        let [yes, no] = &mut parts;
        if chosen { yes } else { no }.extend_from_slice(row);
    }
    parts
}

/// Rows times the square roots of their weights.
fn scaled_rows(values: &[f32], weights: &[f32]) -> Vec<f32> {
    let width = values.len() / weights.len().max(1);
    let rows = values.chunks_exact(width.max(1)).zip(weights);
    rows.flat_map(|(row, weight)| row.iter().map(move |value| value * weight.sqrt())).collect()
}

/// Weights relative to their mean.
fn relative(mut weights: Vec<f32>) -> Vec<f32> {
    let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len().max(1) as f64;
    weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / mean.max(1e-30)) as f32);
    weights
}

/// Drift of the inputs `wanted` in the layer at which both runners stand, which hold the same sequences. `original`
/// are the layer's weights as they were, `quantized` those that the quantized model has so far: a caller that
/// quantizes a layer bit by bit calls this again with more of them replaced. `held_out` says of each sequence whether it
/// is one to judge by. The runners stay where they are.
pub fn collect_drift(
    reference: &LayerRunner<'_>,
    original: &LayerWeights,
    drifted: &LayerRunner<'_>,
    quantized: &LayerWeights,
    wanted: &[InputKind],
    held_out: impl Fn(usize) -> bool,
) -> Result<Vec<Drift>, StatsError> {
    let rounds = reference.rounds();
    if rounds != drifted.rounds() || reference.layer() != drifted.layer() {
        return Err(StatsError::Calibration {
            expected: "two runners at one layer, of the same sequences".into(),
            found: format!(
                "layers {} and {}, {} and {} tokens",
                reference.layer(),
                drifted.layer(),
                reference.tokens(),
                drifted.tokens()
            ),
        });
    }
    let mut drifts: Vec<Drift> = Vec::new();
    for round in &rounds {
        let record = |runner: &LayerRunner<'_>, weights, received| -> Result<Recorder, StatsError> {
            let mut recorder = Recorder { wanted, received, ..Recorder::default() };
            runner.observe_round(round, weights, &mut recorder)?;
            Ok(recorder)
        };
        let attended = wanted.contains(&InputKind::Attention);
        let mut before = record(reference, original, attended.then(Vec::new))?;
        let after = record(drifted, quantized, None)?;
        let received = before.received.take().filter(|received| !received.is_empty()).map(relative);
        let spans = round.0.iter();
        let judge: Vec<bool> =
            spans.flat_map(|span| std::iter::repeat_n(held_out(span.sequence), span.len)).collect();
        for ((kind, width, x), (_, _, x_drifted)) in before.inputs.iter().zip(&after.inputs) {
            let of_kind = |recorder: &Recorder| {
                recorder.residuals.iter().find(|(known, _)| known == kind).map(|(_, hidden)| hidden.clone())
            };
            // r − r', in place of r.
            let residual = of_kind(&before).zip(of_kind(&after)).map(|(mut r, r_drifted)| {
                r.iter_mut().zip(r_drifted).for_each(|(r, drifted)| *r -= drifted);
                r
            });
            let index = match drifts.iter().position(|drift| drift.kind == *kind) {
                Some(index) => index,
                None => {
                    let rows = residual.as_ref().map(|r| r.len() / judge.len().max(1));
                    let moments = || {
                        DriftMoments::new(*width, rows, received.is_some() && *kind == InputKind::Attention)
                    };
                    drifts.push(Drift { kind: *kind, learned: moments()?, held_out: moments()? });
                    drifts.len() - 1
                }
            };
            let Some(drift) = drifts.get_mut(index) else { continue };
            let [x, x_drifted] = [x, x_drifted].map(|values| split_rows(values, &judge));
            let residual = residual.map(|values| split_rows(&values, &judge));
            let received = received.as_ref().map(|values| split_rows(values, &judge));
            for (part, moments) in [&mut drift.held_out, &mut drift.learned].into_iter().enumerate() {
                let residual = residual.as_ref().map(|parts| parts[part].as_slice());
                let received = received.as_ref().map(|parts| parts[part].as_slice());
                moments.add(&x[part], &x_drifted[part], residual, received)?;
            }
        }
    }
    for drift in &drifts {
        if !drift.learned.is_finite() || !drift.held_out.is_finite() {
            let what = format!("layer {}, drifted input {}", reference.layer(), drift.kind.name());
            return Err(StatsError::NotFinite { what });
        }
    }
    Ok(drifts)
}
