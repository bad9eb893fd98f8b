//! Statistics of a model and of its already quantized self, run side by side.

use super::covariance::{Covariance, CrossMoment};
use super::error::StatsError;
use crate::model::{InputKind, LayerRunner, LayerWeights, ModelError, Observer, Round};

/// Second moments of an input that has drifted. x and r are the input and the hidden state of the original model, x'
/// and r' those of the quantized one.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftMoments {
    /// E[x' x'ᵀ].
    pub drifted: Covariance,
    /// Where the weights are to lead.
    pub wanted: WantedMoment,
    /// E[x' x'ᵀ] and E[x x'ᵀ] with every token weighted by the attention it receives in the original model, relative to
    /// the mean; for the input of the queries, keys and values.
    pub attended: Option<(Covariance, CrossMoment)>,
}

/// The moment of what a linear layer should give and of its drifted input.
#[derive(Clone, Debug, PartialEq)]
pub enum WantedMoment {
    /// E[x x'ᵀ]: it should give what it gives for x. For inputs that several layers share.
    Inputs(CrossMoment),
    /// For a layer that writes to the hidden state, which can make up for what that has lost.
    Outputs {
        /// E[(W x + r − r') x'ᵀ], rows of the layer × width. Without r − r' where a norm stands between.
        moment: CrossMoment,
        /// Sums of x_j x'_j.
        diagonal: Vec<f64>,
    },
}

impl WantedMoment {
    /// E[x_j x'_j] of outputs.
    fn add_diagonal(sums: &mut [f64], x: &[f32], drifted: &[f32]) {
        let width = sums.len();
        for (x, drifted) in x.chunks_exact(width).zip(drifted.chunks_exact(width)) {
            for ((sum, x), drifted) in sums.iter_mut().zip(x).zip(drifted) {
                *sum += f64::from(*x) * f64::from(*drifted);
            }
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Self::Inputs(moment) => moment.is_finite(),
            Self::Outputs { moment, diagonal } => {
                moment.is_finite() && diagonal.iter().all(|sum| sum.is_finite())
            }
        }
    }
}

/// Rows of the tokens of a round, of those to learn from or of those held out.
struct Rows<'a> {
    x: &'a [f32],
    drifted: &'a [f32],
    /// W x + r − r'.
    outputs: Option<&'a [f32]>,
    received: Option<&'a [f32]>,
}

impl DriftMoments {
    fn new(width: usize, outputs: Option<usize>, attended: bool) -> Result<Self, StatsError> {
        let pair = || Ok::<_, StatsError>((Covariance::new(width)?, CrossMoment::new(width, width)?));
        let wanted = match outputs {
            None => WantedMoment::Inputs(CrossMoment::new(width, width)?),
            Some(rows) => {
                WantedMoment::Outputs { moment: CrossMoment::new(rows, width)?, diagonal: vec![0.0; width] }
            }
        };
        Ok(Self { drifted: Covariance::new(width)?, wanted, attended: attended.then(pair).transpose()? })
    }

    fn add(&mut self, rows: &Rows<'_>) -> Result<(), StatsError> {
        self.drifted.add(rows.drifted)?;
        match (&mut self.wanted, rows.outputs) {
            (WantedMoment::Inputs(moment), _) => moment.add(rows.x, rows.drifted)?,
            (WantedMoment::Outputs { moment, diagonal }, Some(outputs)) => {
                moment.add(outputs, rows.drifted)?;
                WantedMoment::add_diagonal(diagonal, rows.x, rows.drifted);
            }
            (WantedMoment::Outputs { .. }, None) => {
                return Err(StatsError::shape("outputs of the layer", "none"));
            }
        }
        if let (Some((weighted, cross)), Some(received)) = (&mut self.attended, rows.received) {
            let (x, drifted) = (scaled_rows(rows.x, received), scaled_rows(rows.drifted, received));
            weighted.add(&drifted)?;
            cross.add(&x, &drifted)?;
        }
        Ok(())
    }

    /// Vectors seen.
    pub fn tokens(&self) -> u64 {
        self.drifted.tokens()
    }

    fn is_finite(&self) -> bool {
        let finite = |moments: &(Covariance, CrossMoment)| moments.0.is_finite() && moments.1.is_finite();
        self.drifted.is_finite() && self.wanted.is_finite() && self.attended.as_ref().is_none_or(finite)
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
struct Recorder {
    wanted: Option<InputKind>,
    /// Input of the wanted kind, and its width.
    input: Option<(Vec<f32>, usize)>,
    residual: Option<Vec<f32>>,
    output: Option<Vec<f32>>,
    /// Attention that each token receives, if that is wanted.
    received: Option<Vec<f32>>,
}

impl Recorder {
    fn of(kind: InputKind) -> Self {
        Self { wanted: Some(kind), ..Self::default() }
    }
}

impl Observer for Recorder {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        if self.wanted == Some(kind) {
            self.input = Some((x.to_vec(), width));
        }
        Ok(())
    }

    fn residual(&mut self, kind: InputKind, hidden: &[f32]) -> Result<(), ModelError> {
        if self.wanted == Some(kind) {
            self.residual = Some(hidden.to_vec());
        }
        Ok(())
    }

    fn output(&mut self, kind: InputKind, y: &[f32]) -> Result<(), ModelError> {
        if self.wanted == Some(kind) {
            self.output = Some(y.to_vec());
        }
        Ok(())
    }

    /// Inputs that no half ends with are all that is wanted where they are shown.
    fn enough(&self) -> bool {
        let inner = matches!(self.wanted, Some(InputKind::Attention | InputKind::FeedForward));
        inner && self.input.is_some()
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

/// A model and its already quantized self at the same place: the same sequences pass through both, a half of a layer at
/// a time.
///
/// For each layer a caller [collects](Self::collect) the inputs in their order, quantizing what reads one before it
/// collects the next, so that the quantized model runs with all that is settled. Nothing is computed twice: what the
/// first collection of a half works out is kept for the last, and for the way on.
#[derive(Debug)]
pub struct SideBySide<'m> {
    original: LayerRunner<'m>,
    drifted: LayerRunner<'m>,
    rounds: Vec<Round>,
}

impl<'m> SideBySide<'m> {
    /// Both runners stand at the beginning of the same layer and have the same sequences.
    pub fn new(original: LayerRunner<'m>, drifted: LayerRunner<'m>) -> Result<Self, StatsError> {
        let rounds = original.rounds();
        if rounds != drifted.rounds() || original.layer() != drifted.layer() {
            return Err(StatsError::Calibration {
                expected: "two runners at one layer, of the same sequences".into(),
                found: format!(
                    "layers {} and {}, {} and {} tokens",
                    original.layer(),
                    drifted.layer(),
                    original.tokens(),
                    drifted.tokens()
                ),
            });
        }
        Ok(Self { original, drifted, rounds })
    }

    /// The original model's runner.
    pub fn original(&self) -> &LayerRunner<'m> {
        &self.original
    }

    /// The quantized model's runner.
    pub fn drifted(&self) -> &LayerRunner<'m> {
        &self.drifted
    }

    /// Passes both through attention, if that was not done: its weights are settled.
    pub fn advance_attention(
        &mut self,
        weights: &LayerWeights,
        quantized: &LayerWeights,
    ) -> Result<(), StatsError> {
        self.original.advance_attention(weights)?;
        Ok(self.drifted.advance_attention(quantized)?)
    }

    /// Passes both through what is left of layer `layer`, whose weights are settled.
    pub fn advance(
        &mut self,
        layer: usize,
        weights: &LayerWeights,
        quantized: &LayerWeights,
    ) -> Result<(), StatsError> {
        for (runner, weights) in [(&mut self.original, weights), (&mut self.drifted, quantized)] {
            if runner.layer() == layer {
                runner.advance_rest(weights)?;
            }
        }
        Ok(())
    }

    /// Drift of the input `kind` of the layer at hand. `weights` are the layer's weights as they were, `quantized` those
    /// that the quantized model has so far. `held_out` says of each sequence whether it is one to judge by. Inputs come
    /// in the order in which the model uses them; those of a feed-forward network of experts cannot be collected.
    pub fn collect(
        &mut self,
        kind: InputKind,
        weights: &LayerWeights,
        quantized: &LayerWeights,
        held_out: impl Fn(usize) -> bool,
    ) -> Result<Drift, StatsError> {
        let layer = self.drifted.layer();
        let mut drift: Option<Drift> = None;
        for round in self.rounds.clone() {
            let judge: Vec<bool> = round
                .0
                .iter()
                .flat_map(|span| std::iter::repeat_n(held_out(span.sequence), span.len))
                .collect();
            let (before, after) = self.record(kind, &round, weights, quantized)?;
            let missing = || StatsError::shape(format!("the input {}", kind.name()), "none");
            let (x, width) = before.input.ok_or_else(missing)?;
            let (x_drifted, _) = after.input.ok_or_else(missing)?;
            let received = before.received.filter(|received| !received.is_empty()).map(relative);
            let mut outputs = before.output;
            if let (Some(outputs), Some(r), Some(r_drifted)) =
                (&mut outputs, &before.residual, &after.residual)
            {
                for ((y, r), r_drifted) in outputs.iter_mut().zip(r).zip(r_drifted) {
                    *y += r - r_drifted;
                }
            }
            let drift = match &mut drift {
                Some(drift) => drift,
                none => {
                    let rows = outputs.as_ref().map(|y| y.len() / judge.len().max(1));
                    let moments = || DriftMoments::new(width, rows, received.is_some());
                    none.insert(Drift { kind, learned: moments()?, held_out: moments()? })
                }
            };
            let [x, x_drifted] = [x, x_drifted].map(|values| split_rows(&values, &judge));
            let outputs = outputs.map(|values| split_rows(&values, &judge));
            let received = received.map(|values| split_rows(&values, &judge));
            for (part, moments) in [&mut drift.held_out, &mut drift.learned].into_iter().enumerate() {
                moments.add(&Rows {
                    x: &x[part],
                    drifted: &x_drifted[part],
                    outputs: outputs.as_ref().map(|parts| parts[part].as_slice()),
                    received: received.as_ref().map(|parts| parts[part].as_slice()),
                })?;
            }
        }
        let drift = drift.ok_or_else(|| StatsError::shape("tokens", "none"))?;
        if !drift.learned.is_finite() || !drift.held_out.is_finite() {
            let what = format!("layer {layer}, drifted input {}", kind.name());
            return Err(StatsError::NotFinite { what });
        }
        Ok(drift)
    }

    /// What passes in a round, in the original and in the quantized model. The original one goes on by a half at its last
    /// input, whose output is wanted.
    fn record(
        &mut self,
        kind: InputKind,
        round: &Round,
        weights: &LayerWeights,
        quantized: &LayerWeights,
    ) -> Result<(Recorder, Recorder), StatsError> {
        let (mut before, mut after) = (Recorder::of(kind), Recorder::of(kind));
        match kind {
            InputKind::Attention => {
                before.received = Some(Vec::new());
                self.original.keep_round(round, weights, &mut before)?;
                self.drifted.observe_round(round, quantized, &mut after)?;
            }
            InputKind::FeedForward => {
                self.original.observe_round(round, weights, &mut before)?;
                self.drifted.observe_round(round, quantized, &mut after)?;
            }
            InputKind::AttentionOutput | InputKind::FeedForwardDown => {
                self.original.step_round(round, weights, &mut before)?;
                let role = match kind {
                    InputKind::AttentionOutput => "attn_output",
                    _ => "ffn_down",
                };
                if let (Some(y), Some(bias)) = (&mut before.output, &weights.linear(role)?.bias) {
                    for row in y.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(bias).for_each(|(y, bias)| *y -= bias);
                    }
                }
                // The last input ends what is kept: the hidden state before it is still that which entered the half.
                self.drifted.keep_round(round, quantized, &mut after)?;
            }
            InputKind::Head => return Err(StatsError::shape("an input of a layer", kind.name())),
        }
        Ok((before, after))
    }
}
