//! The second pass: each tensor quantized again, in the order of the model, for the inputs that the quantized tensors
//! before it give.
//!
//! The first pass quantizes every tensor for the inputs of the original model. Here the original model and the
//! quantized one run side by side over the calibration tokens; before a group of tensors that share an input is
//! quantized again, the moments of that input in both are taken, and the residual's for tensors that write to the
//! hidden state (paper sections "drift correction" and "residual-stream compensation"). How far they are trusted is
//! decided for each input on sequences that they were not taken from ([`choose_share`]).
//!
//! Steps are those of the first pass, but for a budget: what tensors cost more or less than in the first pass, and what
//! that pass missed its target by, is carried on to those that follow.

mod attention;

use crate::convert::allocate::{Allocated, Part, SLOPE};
use crate::convert::error::ConvertError;
use crate::convert::options::MOST_BYTES_AT_ONCE;
use crate::convert::plan::{Action, PlannedTensor, Role};
use crate::convert::progress::Progress;
use crate::convert::quantize_tensor::Quantizer;
use crate::convert::spool::Spool;
use crate::convert::statistics::{Moment, TensorStatistics};
use crate::import::Input;
use crate::model::{
    DenseMatrix, InputKind, LayerRunner, LayerWeights, LinearSlot, Model, RowTable, EMBEDDING,
};
use crate::payload::{Limits, Payload};
use crate::quantize::{choose_share, BlendRow, DriftedMoments, Wanted};
use crate::stats::{Drift, DriftMoments, SideBySide, WantedMoment};
use attention::Trials;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Tokens that the drift is taken from, at most: sequences spread evenly over the calibration's.
pub(super) const DRIFT_TOKENS: usize = 3 << 12;
/// Every so many-th sequence is held out to judge by; more of them where there are few.
const HELD_OUT: usize = 5;
/// Rows of a tensor that blends are judged by, at most.
const JUDGED_ROWS: usize = 256;
/// Damping of the weights that blends are judged by, as a share of the median input.
const DAMPING: f64 = 1e-3;
/// A tensor's step differs by at most so many octaves from that of the first pass.
const MOST_OCTAVES: f64 = 0.2;
/// Weight of the first pass in what the second one's sizes are taken to be, as a share of all bytes.
const PRIOR: f64 = 0.02;

/// Everything the second pass needs.
pub(super) struct DriftCorrection<'a> {
    pub(super) input: &'a Arc<Input>,
    pub(super) network: &'a Arc<Model>,
    pub(super) plan: &'a [PlannedTensor],
    pub(super) quantizer: &'a Quantizer<'a>,
    pub(super) spool: &'a Spool,
    pub(super) progress: &'a dyn Progress,
    pub(super) sequences: &'a [Vec<u32>],
}

/// A tensor of the group at hand.
struct Member<'a> {
    slot: &'a LinearSlot,
    tensor: &'a PlannedTensor,
    role: Role,
    /// The part of the first pass.
    first: Part,
    /// Step, or minus the rate, of the second.
    key: f64,
}

/// Brings the sum of all parts to what was aimed at.
struct Budget {
    /// Bytes of all tensors at the end.
    wanted: f64,
    /// Bytes of those so far: at the first pass's steps, moved to the second's by [`SLOPE`].
    expected: f64,
    /// Bytes of those so far.
    stored: f64,
    /// Bytes of the first pass of those to come.
    planned_left: f64,
    weights_left: f64,
}

impl Budget {
    /// Octaves that the steps of the next tensors are to be above those of the first pass.
    fn octaves(&self) -> f64 {
        if self.weights_left <= 0.0 {
            return 0.0;
        }
        let prior = PRIOR * self.wanted;
        let ratio = (self.stored + prior) / (self.expected + prior);
        let excess = self.stored + ratio * self.planned_left - self.wanted;
        (8.0 * excess / self.weights_left / SLOPE).clamp(-MOST_OCTAVES, MOST_OCTAVES)
    }

    /// Counts a tensor with the parts of both passes.
    fn count(&mut self, tensor: &PlannedTensor, first: &Part, second: &Part) {
        let weights = tensor.weights() as f64;
        let octaves = if first.key > 0.0 { (second.key / first.key).log2() } else { 0.0 };
        self.expected += (first.bytes as f64 - SLOPE * octaves * weights / 8.0).max(0.0);
        self.stored += second.bytes as f64;
        self.planned_left -= first.bytes as f64;
        self.weights_left -= weights;
    }
}

/// Bytes that moments of an input of this width, their blends and factors take together at most, but for what grows with
/// rows of weights.
pub(super) fn moment_bytes(kind: InputKind, width: usize) -> u64 {
    let per_pair = match kind {
        // Moments with weighted tokens besides, and those of each tensor in the trials.
        InputKind::Attention => 112,
        InputKind::FeedForward | InputKind::Head => 64,
        InputKind::AttentionOutput | InputKind::FeedForwardDown => 32,
    };
    (width as u64).saturating_mul(width as u64).saturating_mul(per_pair)
}

/// Whether moments of an input are too much for memory: it is not corrected for.
fn too_wide(kind: InputKind, width: usize) -> bool {
    moment_bytes(kind, width) > MOST_BYTES_AT_ONCE
}

/// Weights that the second pass may quantize again: of single matrices that are not too wide.
pub(super) fn corrected_weights(network: &Model, plan: &[PlannedTensor]) -> u64 {
    let names: HashSet<String> = (0..network.hyperparameters().layers)
        .flat_map(|layer| network.linears(layer))
        .filter(|slot| slot.experts == 1 && !too_wide(slot.input, slot.shape.columns))
        .map(|slot| slot.tensor)
        .collect();
    plan.iter()
        .filter(|tensor| matches!(tensor.action, Action::Quantize { bits: None, .. }))
        .filter(|tensor| names.contains(&tensor.info.name))
        .map(PlannedTensor::weights)
        .sum()
}

/// Sequences spread evenly over all, with about [`DRIFT_TOKENS`] tokens.
pub(super) fn chosen(sequences: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let count = (sequences.len() * DRIFT_TOKENS / tokens.max(1)).min(sequences.len());
    let places: Vec<usize> = (0..count).map(|index| index * sequences.len() / count).collect();
    sequences
        .into_iter()
        .enumerate()
        .filter(|(at, _)| places.contains(at))
        .map(|(_, tokens)| tokens)
        .collect()
}

impl DriftCorrection<'_> {
    /// Quantizes again what the first pass left. Tensors outside of the blocks, stacks of experts and
    /// tensors without full statistics keep them.
    pub(super) fn run(&self, first: &Allocated) -> Result<Vec<Part>, ConvertError> {
        let mut found: HashMap<usize, Part> = first.parts.iter().map(|part| (part.number, *part)).collect();
        let numbers: HashMap<&str, usize> = self
            .plan
            .iter()
            .enumerate()
            .map(|(number, tensor)| (tensor.info.name.as_str(), number))
            .collect();
        // Checks the tokens, which may come from a file.
        let original = LayerRunner::new(self.network, self.sequences)?;
        let mut student = Model::open(self.input.clone())?;
        if let Some(part) = numbers.get(EMBEDDING).and_then(|number| found.get(number)) {
            student.set_embedding(Arc::new(self.embedding(part)?))?;
        }
        let layers = self.network.hyperparameters().layers;
        let mut budget = self.budget(&found, first.excess);
        self.progress.begin("drift", budget.weights_left as u64);
        let mut models = SideBySide::new(original, LayerRunner::new(&student, self.sequences)?)?;
        for layer in 0..layers {
            let weights = self.network.load_layer(layer)?;
            let mut replaced = weights.clone();
            let slots = self.network.linears(layer);
            let mut kinds: Vec<InputKind> = slots.iter().map(|slot| slot.input).collect();
            kinds.dedup();
            for kind in kinds {
                if kind == InputKind::FeedForward {
                    // The attention's weights are settled.
                    models.advance_attention(&weights, &replaced)?;
                }
                let octaves = budget.octaves();
                let member = |slot| self.member(slot, &numbers, &found, octaves);
                let group: Vec<Member> =
                    slots.iter().filter(|slot| slot.input == kind).filter_map(member).collect();
                let (whole, stacks): (Vec<Member>, Vec<Member>) =
                    group.into_iter().partition(|member| member.slot.experts == 1);
                for part in self.quantize(&whole, kind, &mut models, (&weights, &replaced))? {
                    let tensor = &self.plan[part.number];
                    if let Some(first) = found.insert(part.number, part) {
                        budget.count(tensor, &first, &part);
                    }
                    self.progress.advance(tensor.weights(), &tensor.info.name);
                }
                for member in whole.iter().chain(&stacks) {
                    self.replace(&mut replaced, member, &found)?;
                }
            }
            models.advance(layer, &weights, &replaced)?;
        }
        let mut parts: Vec<Part> = found.into_values().collect();
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }

    /// Rows of the quantized embedding, for the tokens at hand.
    fn embedding(&self, part: &Part) -> Result<RowTable, ConvertError> {
        let missing = || self.missing(part.number);
        let bytes = self.spool.find(part.spooled, part.key).ok_or_else(missing)?;
        let payload = Payload::open(&bytes, &Limits::default()).map_err(|_| missing())?;
        let matrix = payload.matrices().first().ok_or_else(missing)?;
        let (rows, columns) = (payload.rows(), payload.columns());
        let mut wanted: Vec<usize> = self.sequences.iter().flatten().map(|&token| token as usize).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut table = RowTable::new(rows, columns);
        let height = matrix.geometry().rows_per_tile();
        let (mut integers, mut values) = (Vec::new(), Vec::new());
        for of_tile in wanted.chunk_by(|a, b| a / height == b / height) {
            let tile = of_tile[0] / height;
            values.resize(matrix.geometry().rows_in_tile(rows, tile) * columns, 0.0);
            matrix.dequantize_tile(tile, &mut integers, &mut values).map_err(|_| missing())?;
            for &token in of_tile {
                let row = values.get((token % height) * columns..).and_then(|rest| rest.get(..columns));
                table.insert(token, row.ok_or_else(missing)?.to_vec());
            }
        }
        Ok(table)
    }

    fn budget(&self, parts: &HashMap<usize, Part>, excess: f64) -> Budget {
        let mut budget =
            Budget { wanted: -excess, expected: 0.0, stored: 0.0, planned_left: 0.0, weights_left: 0.0 };
        let slots = (0..self.network.hyperparameters().layers).flat_map(|layer| self.network.linears(layer));
        let single: Vec<String> = slots.filter(|slot| slot.experts == 1).map(|slot| slot.tensor).collect();
        for part in parts.values() {
            let tensor = &self.plan[part.number];
            if single.contains(&tensor.info.name) {
                budget.planned_left += part.bytes as f64;
                budget.wanted += part.bytes as f64;
                budget.weights_left += tensor.weights() as f64;
            }
        }
        budget
    }

    fn member<'s>(
        &'s self,
        slot: &'s LinearSlot,
        numbers: &HashMap<&str, usize>,
        found: &HashMap<usize, Part>,
        octaves: f64,
    ) -> Option<Member<'s>> {
        let first = *found.get(numbers.get(slot.tensor.as_str())?)?;
        let tensor = &self.plan[first.number];
        let Action::Quantize { role, .. } = tensor.action else { return None };
        // A rate of the tensor's own stays.
        let key = if first.key > 0.0 { first.key * octaves.exp2() } else { first.key };
        Some(Member { slot, tensor, role, first, key })
    }

    /// Quantizes the tensors that share the input `kind`, or finds them in the spool.
    fn quantize(
        &self,
        group: &[Member],
        kind: InputKind,
        models: &mut SideBySide<'_>,
        (weights, replaced): (&LayerWeights, &LayerWeights),
    ) -> Result<Vec<Part>, ConvertError> {
        let second = |member: &Member, bytes: usize| Part {
            number: member.first.number,
            spooled: self.plan.len() + member.first.number,
            key: member.key,
            bytes: bytes as u64,
        };
        let known = |member: &Member| {
            let payload = self.spool.find(self.plan.len() + member.first.number, member.key)?;
            Some(second(member, payload.len()))
        };
        if group.first().is_some_and(|member| too_wide(kind, member.tensor.columns())) {
            return Ok(group.iter().map(|member| member.first).collect());
        }
        if let Some(parts) = group.iter().map(known).collect::<Option<Vec<Part>>>() {
            return Ok(parts);
        }
        let stride = HELD_OUT.min(self.sequences.len() / 2).max(2);
        let held_out = |sequence: usize| sequence % stride == stride - 1;
        let statistics: Vec<TensorStatistics> = group
            .iter()
            .map(|member| self.quantizer.statistics(member.tensor, 0))
            .collect::<Result<_, ConvertError>>()?;
        let full = statistics.first().and_then(|first| match &first.covariance {
            Moment::Full(values) => Some(values),
            Moment::Diagonal(_) => None,
        });
        let Some(covariance) = full else {
            return Ok(group.iter().map(|member| member.first).collect());
        };
        let Drift { learned, held_out: judged, .. } = models.collect(kind, weights, replaced, held_out)?;
        let (own, others) = (learned.tokens(), judged.tokens());
        let (learned, judged) = (dense(learned), dense(judged));
        let loaded: Vec<Vec<f32>> = group
            .iter()
            .map(|member| self.quantizer.weights(member.tensor, 0))
            .collect::<Result<_, ConvertError>>()?;
        let share = self.share(group, &loaded, &statistics, covariance, &learned, &judged);
        let (share, attended) = match learned.attended {
            Some(_) => {
                let place = (&*models, replaced);
                Trials::new(self, group, &loaded, &statistics, covariance, &learned, place, held_out)?
                    .search(share)?
            }
            None => (share, 0.0),
        };
        // Only a layer alone with its input has outputs that are wanted.
        let alone = loaded.first().map_or(&[][..], Vec::as_slice);
        let joined = learned.joined(own, &judged, others).attend(attended);
        let blend = joined.blend(covariance, alone, share);
        drop((joined, loaded));
        drop((learned, judged));
        let quantize = |(member, statistics): (&Member, &TensorStatistics)| -> Result<Part, ConvertError> {
            let matrix =
                self.quantizer.corrected(member.tensor, member.role, member.key, statistics, &blend)?;
            let payload = self.quantizer.encode(member.tensor, &matrix)?;
            let part = second(member, payload.len());
            self.spool.store(part.spooled, part.key, &payload)?;
            Ok(part)
        };
        group.par_iter().zip(&statistics).map(quantize).collect()
    }

    /// Share of the original statistics in the blend of a group.
    fn share(
        &self,
        group: &[Member],
        weights: &[Vec<f32>],
        statistics: &[TensorStatistics],
        covariance: &[f32],
        learned: &DriftedMoments,
        judged: &DriftedMoments,
    ) -> f64 {
        let mut rows = Vec::new();
        for ((member, statistics), weights) in group.iter().zip(statistics).zip(weights) {
            let (count, columns) = (member.tensor.rows(), member.tensor.columns());
            let taken = count.min(JUDGED_ROWS);
            for row in (0..taken).map(|index| index * count / taken) {
                let importance = statistics.row_weights.as_ref().map_or(1.0, |g| f64::from(g[row]));
                rows.push(BlendRow {
                    weights: &weights[row * columns..][..columns],
                    output: row,
                    importance: importance * count as f64 / taken as f64,
                });
            }
        }
        choose_share(&rows, covariance, learned, judged, DAMPING).0
    }

    /// Puts the quantized weights of a tensor into the layer of the quantized model.
    fn replace(
        &self,
        weights: &mut LayerWeights,
        member: &Member,
        found: &HashMap<usize, Part>,
    ) -> Result<(), ConvertError> {
        let number = member.first.number;
        let part = found.get(&number).ok_or_else(|| self.missing(number))?;
        self.set(weights, member, self.decode(part)?)
    }

    /// Puts the floats of a tensor into a layer.
    fn set(&self, weights: &mut LayerWeights, member: &Member, values: Vec<f32>) -> Result<(), ConvertError> {
        let number = member.first.number;
        let (rows, columns) = (member.tensor.rows(), member.tensor.columns());
        let dense = |values: Vec<f32>| {
            DenseMatrix::new(rows, columns, values).ok_or_else(|| self.missing(number)).map(Arc::new)
        };
        if member.slot.experts == 1 {
            return Ok(weights.replace(member.slot.role, dense(values)?)?);
        }
        for (expert, values) in values.chunks_exact(rows * columns).enumerate() {
            weights.replace_expert(member.slot.role, expert, dense(values.to_vec())?)?;
        }
        Ok(())
    }

    /// The weights of a part, as decoders reconstruct them.
    fn decode(&self, part: &Part) -> Result<Vec<f32>, ConvertError> {
        let missing = || self.missing(part.number);
        let bytes = self.spool.find(part.spooled, part.key).ok_or_else(missing)?;
        let payload = Payload::open(&bytes, &Limits::default()).map_err(|_| missing())?;
        let mut values = vec![0.0; payload.rows() * payload.columns() * payload.matrices().len()];
        for (matrix, values) in
            payload.matrices().iter().zip(values.chunks_exact_mut(payload.rows() * payload.columns()))
        {
            let height = matrix.geometry().rows_per_tile() * payload.columns();
            values.par_chunks_mut(height).enumerate().try_for_each(|(tile, values)| {
                matrix.dequantize_tile(tile, &mut Vec::new(), values).map_err(|_| missing())
            })?;
        }
        Ok(values)
    }

    fn missing(&self, number: usize) -> ConvertError {
        self.spool.missing(&self.plan[number].info.name)
    }
}

fn dense(moments: DriftMoments) -> DriftedMoments {
    DriftedMoments {
        drifted: moments.drifted.to_dense_f32(),
        wanted: match &moments.wanted {
            WantedMoment::Inputs(cross) => Wanted::Inputs(cross.to_dense_f32()),
            WantedMoment::Outputs { moment, diagonal } => {
                let mean = |sum: &f64| (sum / moments.tokens().max(1) as f64) as f32;
                Wanted::Outputs {
                    target: moment.to_dense_f32(),
                    diagonal: diagonal.iter().map(mean).collect(),
                }
            }
        },
        attended: moments
            .attended
            .as_ref()
            .map(|(drifted, cross)| (drifted.to_dense_f32(), Wanted::Inputs(cross.to_dense_f32()))),
    }
}
