//! One tensor: weights and statistics in, payload out.

use super::error::ConvertError;
use super::geometry::geometry;
use super::options::Prefer;
use super::plan::{Action, PlannedTensor, Role};
use super::statistics::{Moment, StatisticsFile, TensorStatistics};
use super::waves::tensor_memory;
use crate::model::TensorSource;
use crate::payload::encode::{CompactColumn, EncodeError, EncodeOptions, Section};
use crate::payload::QuantizedMatrix;
use crate::quantize::{
    search, Covariance, DriftedMoments, Layer, MeasureError, Method, PartedLayer, Prepared, RateModel,
    RateTarget, Settings,
};
use std::ops::Range;

/// Matrices of more weights than this are read, quantized and packed in parts of about this many.
pub(super) const PART_WEIGHTS: usize = 1 << 24;

/// What was learned from text that the model wrote itself holds less on other texts: this is the shrinkage of its
/// moments, and the power to which its row weights are raised.
const OWN_TEXT_SHRINKAGE: f64 = 0.03;
const OWN_TEXT_ROW_POWER: f64 = 0.7;

/// Raises weights to a power; their mean stays.
fn level(weights: &mut [f32], power: f64) {
    let sum = |weights: &[f32]| weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
    let before = sum(weights);
    if before <= 0.0 {
        return;
    }
    let mean = before / weights.len() as f64;
    weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / mean).powf(power) as f32);
    let factor = before / sum(weights);
    weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
}

/// Whether a tensor's matrices are never held whole.
pub(super) fn goes_by_parts(tensor: &PlannedTensor, method: Method) -> bool {
    method == Method::Trellis && tensor.rows() * tensor.columns() > PART_WEIGHTS
}

/// A quantized tensor.
#[derive(Clone, Debug)]
pub(super) struct QuantizedTensor {
    pub(super) payload: Vec<u8>,
}

/// What the tensors of one conversion have in common.
pub(super) struct Quantizer<'a> {
    pub(super) source: &'a dyn TensorSource,
    pub(super) statistics: &'a StatisticsFile,
    pub(super) method: Method,
    /// Whether rows are weighed by their influence on the loss, where the statistics have that.
    pub(super) loss_weights: bool,
    /// Shrinkage of the moments; `None` for what suits the statistics.
    pub(super) shrinkage: Option<f64>,
    pub(super) prefer: Prefer,
}

impl Quantizer<'_> {
    fn settings(&self, tensor: &PlannedTensor, role: Role) -> Settings {
        let by_row = matches!(role, Role::Embedding { .. });
        let method = match tensor.action {
            Action::Quantize { method, .. } => method.unwrap_or(self.method),
            _ => self.method,
        };
        let own_text = self.statistics.own_text();
        let shrinkage = self.shrinkage.unwrap_or(if own_text { OWN_TEXT_SHRINKAGE } else { 0.0 });
        Settings {
            shrinkage,
            // Worth its time, and at low rates some thousandths of a bit, where speed matters.
            worth_of_pairs: (self.prefer == Prefer::Speed).then(|| self.prefer.worth_of_pairs()),
            ..Settings::new(method, geometry(tensor.rows(), tensor.columns(), by_row, self.prefer))
        }
    }

    /// Bytes that quantizing a tensor holds.
    pub(super) fn memory(&self, tensor: &PlannedTensor) -> u64 {
        tensor_memory(tensor, self.method)
    }

    /// The weights of one matrix.
    pub(super) fn weights(&self, tensor: &PlannedTensor, matrix: usize) -> Result<Vec<f32>, ConvertError> {
        let rows = tensor.rows();
        let mut weights = vec![0.0; rows * tensor.columns()];
        self.source.read_rows(&tensor.info.name, matrix * rows..(matrix + 1) * rows, &mut weights)?;
        self.source.release(&tensor.info.name);
        Ok(weights)
    }

    fn layer<'l>(
        tensor: &'l PlannedTensor,
        weights: &'l [f32],
        statistics: &'l TensorStatistics,
    ) -> Layer<'l> {
        let covariance = Self::covariance(statistics);
        Layer {
            row_weights: statistics.row_weights.as_deref(),
            ..Layer::new(&tensor.info.name, tensor.rows(), tensor.columns(), weights, covariance)
        }
    }

    fn covariance(statistics: &TensorStatistics) -> Covariance<'_> {
        match &statistics.covariance {
            Moment::Full(values) => Covariance::Full(values),
            Moment::Diagonal(values) => Covariance::Diagonal(values),
        }
    }

    /// Predicted rate, and the factor between the common step of all tensors and this tensor's own step: row weights
    /// are relative to their mean inside the quantizer, so the mean moves into the step.
    pub(super) fn rate_model(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        bits: f64,
    ) -> Result<(RateModel, f64), ConvertError> {
        let settings = self.settings(tensor, role);
        let statistics = self.statistics(tensor, 0)?;
        let parted = self.by_parts(tensor, 0, &settings, &statistics, |parts| Ok(parts.rate_model(bits)?));
        let model = match parted {
            Some(model) => model?,
            None => {
                let weights = self.weights(tensor, 0)?;
                RateModel::new(&Self::layer(tensor, &weights, &statistics), &settings, bits)?
            }
        };
        Ok((model, step_factor(&statistics)))
    }

    /// Statistics of one matrix of a tensor.
    pub(super) fn statistics(
        &self,
        tensor: &PlannedTensor,
        matrix: usize,
    ) -> Result<TensorStatistics, ConvertError> {
        let mut statistics =
            self.statistics.of(&tensor.info.name, matrix, tensor.rows(), tensor.columns())?;
        if !self.loss_weights {
            statistics.row_weights = None;
        }
        if let Some(weights) = statistics.row_weights.as_mut().filter(|_| self.statistics.own_text()) {
            level(weights, OWN_TEXT_ROW_POWER);
        }
        Ok(statistics)
    }

    /// Does `work` on a matrix that is read part by part, if it is one of those.
    fn by_parts<R>(
        &self,
        tensor: &PlannedTensor,
        matrix: usize,
        settings: &Settings,
        statistics: &TensorStatistics,
        work: impl FnOnce(&PartedLayer<'_>) -> Result<R, ConvertError>,
    ) -> Option<Result<R, ConvertError>> {
        if !goes_by_parts(tensor, settings.method) {
            return None;
        }
        let name = &tensor.info.name;
        let first = matrix * tensor.rows();
        let read = |rows: Range<usize>, weights: &mut [f32]| {
            self.source.read_rows(name, first + rows.start..first + rows.end, weights)?;
            self.source.release(name);
            Ok(())
        };
        let covariance = Self::covariance(statistics);
        let row_weights = statistics.row_weights.as_deref();
        let shape = (tensor.rows(), tensor.columns());
        let parts = PartedLayer::new(name, shape, covariance, row_weights, settings, PART_WEIGHTS, &read);
        Some(parts.map_err(ConvertError::from).and_then(|parts| work(&parts)))
    }

    fn section(
        &self,
        tensor: &PlannedTensor,
        matrix: &QuantizedMatrix<CompactColumn>,
    ) -> Result<Section, ConvertError> {
        // A matrix that comes in parts has the machine to itself.
        let large = matrix.rows * matrix.columns > PART_WEIGHTS;
        let threads = if large { rayon::current_num_threads() } else { 1 };
        let options =
            EncodeOptions { worth_of_pairs: self.prefer.worth_of_pairs(), ..EncodeOptions::new(threads) };
        Section::new(matrix, &options).map_err(|source| Self::encoding(tensor, source))
    }

    fn encoding(tensor: &PlannedTensor, source: EncodeError) -> ConvertError {
        ConvertError::Encode { tensor: tensor.info.name.clone(), source }
    }

    /// The payload of a tensor of one matrix.
    pub(super) fn encode(
        &self,
        tensor: &PlannedTensor,
        matrix: &QuantizedMatrix,
    ) -> Result<Vec<u8>, ConvertError> {
        Self::join(tensor, &[self.section(tensor, &matrix.into())?])
    }

    fn join(tensor: &PlannedTensor, sections: &[Section]) -> Result<Vec<u8>, ConvertError> {
        Section::join(sections).map_err(|source| Self::encoding(tensor, source))
    }

    /// Quantizes at a given step.
    pub(super) fn at_step(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        step: f64,
    ) -> Result<QuantizedTensor, ConvertError> {
        let settings = self.settings(tensor, role);
        let mut sections = Vec::with_capacity(tensor.matrices());
        let mut first = None;
        for matrix in 0..tensor.matrices() {
            let statistics = self.statistics(tensor, matrix)?;
            // The step is that of the first matrix; the others have one water level with it.
            let factor = step_factor(&statistics);
            let step = step * (factor / *first.get_or_insert(factor));
            let parted =
                self.by_parts(tensor, matrix, &settings, &statistics, |parts| Ok(parts.quantize(step)?));
            let quantized = match parted {
                Some(quantized) => quantized?,
                None => {
                    let weights = self.weights(tensor, matrix)?;
                    let layer = Self::layer(tensor, &weights, &statistics);
                    let whole = Prepared::new(&layer, &settings, step)?.quantize(step)?;
                    (&whole).into()
                }
            };
            sections.push(self.section(tensor, &quantized)?);
        }
        Ok(QuantizedTensor { payload: Self::join(tensor, &sections)? })
    }

    /// Quantizes a tensor of one matrix for a drifted input, at the step `key` or at the rate of minus `key`.
    pub(super) fn corrected(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        key: f64,
        statistics: &TensorStatistics,
        moments: &DriftedMoments,
    ) -> Result<QuantizedMatrix, ConvertError> {
        let settings = self.settings(tensor, role);
        let weights = self.weights(tensor, 0)?;
        let layer = Layer {
            covariance: Covariance::Full(&moments.drifted),
            drift: Some(moments.wanted.drift()),
            ..Self::layer(tensor, &weights, statistics)
        };
        if key > 0.0 {
            Ok(Prepared::new(&layer, &settings, key)?.quantize(key)?)
        } else {
            Ok(self.search_rate(tensor, &layer, &settings, -key)?.0)
        }
    }

    fn search_rate(
        &self,
        tensor: &PlannedTensor,
        layer: &Layer<'_>,
        settings: &Settings,
        bits: f64,
    ) -> Result<(QuantizedMatrix, Section), ConvertError> {
        let measure = |matrix: &QuantizedMatrix| self.measured(tensor, &matrix.into());
        let found = search(layer, settings, &RateTarget::new(bits), measure)?;
        Ok((found.matrix, found.value))
    }

    /// Stored bits per weight, and what is stored.
    fn measured(
        &self,
        tensor: &PlannedTensor,
        matrix: &QuantizedMatrix<CompactColumn>,
    ) -> Result<(f64, Section), MeasureError> {
        let section = self.section(tensor, matrix)?;
        let weights = (tensor.rows() * tensor.columns()) as f64;
        Ok((section.payload_len() as f64 * 8.0 / weights, section))
    }

    /// Quantizes at a given rate.
    pub(super) fn at_rate(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        bits: f64,
    ) -> Result<QuantizedTensor, ConvertError> {
        let settings = self.settings(tensor, role);
        let mut sections = Vec::with_capacity(tensor.matrices());
        for matrix in 0..tensor.matrices() {
            let statistics = self.statistics(tensor, matrix)?;
            let parted = self.by_parts(tensor, matrix, &settings, &statistics, |parts| {
                Ok(parts.search(&RateTarget::new(bits), |matrix| self.measured(tensor, matrix))?)
            });
            sections.push(match parted {
                Some(section) => section?,
                None => {
                    let weights = self.weights(tensor, matrix)?;
                    let layer = Self::layer(tensor, &weights, &statistics);
                    self.search_rate(tensor, &layer, &settings, bits)?.1
                }
            });
        }
        Ok(QuantizedTensor { payload: Self::join(tensor, &sections)? })
    }
}

/// Own step of a matrix in units of the common one.
fn step_factor(statistics: &TensorStatistics) -> f64 {
    let mean = statistics.row_weights.as_ref().map_or(1.0, |weights| {
        weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() / weights.len() as f64
    });
    if mean > 0.0 {
        mean.sqrt().recip()
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levelled_weights_keep_order_and_mean() {
        let mut weights = [0.0f32, 1.0, 16.0, 3.0];
        level(&mut weights, 0.5);
        assert!((weights.iter().sum::<f32>() - 20.0).abs() < 1e-4, "{weights:?}");
        assert!((weights[2] / weights[1] - 4.0).abs() < 1e-5 && weights[0] == 0.0, "{weights:?}");
        let mut none = [0.0f32; 3];
        level(&mut none, 0.5);
        assert_eq!(none, [0.0; 3]);
    }
}
