//! Statistics of a model and of its already quantized self, run side by side.

use super::covariance::{Covariance, CrossMoment};
use super::error::StatsError;
use crate::model::{InputKind, LayerRunner, LayerWeights, ModelError, Observer};

/// How an input of a layer has drifted since layers before it were quantized. x and r are the input and the hidden
/// state of the original model, x' and r' those of the quantized one.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// The input.
    pub kind: InputKind,
    /// E[x' x'ᵀ].
    pub drifted: Covariance,
    /// E[x x'ᵀ].
    pub cross: CrossMoment,
    /// E[(r − r') x'ᵀ], model width × input width, for inputs of layers that write to the hidden state.
    pub residual: Option<CrossMoment>,
}

/// Keeps what passes in one round.
#[derive(Debug, Default)]
struct Recorder {
    wanted: Vec<InputKind>,
    inputs: Vec<(InputKind, usize, Vec<f32>)>,
    residuals: Vec<(InputKind, Vec<f32>)>,
}

impl Observer for Recorder {
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
}

/// Drift of the inputs `wanted` in the layer at which both runners stand, which hold the same sequences. `original`
/// are the layer's weights as they were, `quantized` those that the quantized model has so far: a caller that
/// quantizes a layer bit by bit calls this again with more of them replaced. The runners stay where they are.
pub fn collect_drift(
    reference: &LayerRunner<'_>,
    original: &LayerWeights,
    drifted: &LayerRunner<'_>,
    quantized: &LayerWeights,
    wanted: &[InputKind],
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
        let record = |runner: &LayerRunner<'_>, weights| -> Result<Recorder, StatsError> {
            let mut recorder = Recorder { wanted: wanted.to_vec(), ..Recorder::default() };
            runner.observe_round(round, weights, &mut recorder)?;
            Ok(recorder)
        };
        let (before, after) = (record(reference, original)?, record(drifted, quantized)?);
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
                    let tokens = x.len() / width;
                    let moment = |r: &Vec<f32>| CrossMoment::new(r.len() / tokens.max(1), *width);
                    drifts.push(Drift {
                        kind: *kind,
                        drifted: Covariance::new(*width)?,
                        cross: CrossMoment::new(*width, *width)?,
                        residual: residual.as_ref().map(moment).transpose()?,
                    });
                    drifts.len() - 1
                }
            };
            let Some(drift) = drifts.get_mut(index) else { continue };
            drift.drifted.add(x_drifted)?;
            drift.cross.add(x, x_drifted)?;
            if let (Some(moment), Some(residual)) = (&mut drift.residual, residual) {
                moment.add(&residual, x_drifted)?;
            }
        }
    }
    for drift in &drifts {
        let residual = drift.residual.as_ref().is_none_or(CrossMoment::is_finite);
        if !drift.drifted.is_finite() || !drift.cross.is_finite() || !residual {
            let what = format!("layer {}, drifted input {}", reference.layer(), drift.kind.name());
            return Err(StatsError::NotFinite { what });
        }
    }
    Ok(drifts)
}
