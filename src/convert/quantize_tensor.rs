//! One tensor: weights and statistics in, payload out.

use super::error::ConvertError;
use super::geometry::geometry;
use super::plan::{Action, PlannedTensor, Role};
use super::statistics::{Moment, StatisticsFile, TensorStatistics};
use crate::model::TensorSource;
use crate::payload::encode::{encode, EncodeOptions};
use crate::payload::QuantizedMatrix;
use crate::quantize::{
    search, Covariance, Drift, DriftedMoments, Layer, Method, Prepared, RateModel, RateTarget, Settings,
};

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
}

impl Quantizer<'_> {
    fn settings(&self, tensor: &PlannedTensor, role: Role) -> Settings {
        let by_row = matches!(role, Role::Embedding { .. });
        let method = match tensor.action {
            Action::Quantize { method, .. } => method.unwrap_or(self.method),
            _ => self.method,
        };
        Settings::new(method, geometry(tensor.rows(), tensor.columns(), by_row))
    }

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
        let covariance = match &statistics.covariance {
            Moment::Full(values) => Covariance::Full(values),
            Moment::Diagonal(values) => Covariance::Diagonal(values),
        };
        Layer {
            row_weights: statistics.row_weights.as_deref(),
            ..Layer::new(&tensor.info.name, tensor.rows(), tensor.columns(), weights, covariance)
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
        let weights = self.weights(tensor, 0)?;
        let statistics = self.statistics(tensor, 0)?;
        let layer = Self::layer(tensor, &weights, &statistics);
        let model = RateModel::new(&layer, &self.settings(tensor, role), bits)?;
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
        Ok(statistics)
    }

    /// The payload of a tensor's matrices.
    pub(super) fn encode_all(
        tensor: &PlannedTensor,
        matrices: &[QuantizedMatrix],
    ) -> Result<Vec<u8>, ConvertError> {
        encode(matrices, &EncodeOptions { threads: 1 })
            .map_err(|source| ConvertError::Encode { tensor: tensor.info.name.clone(), source })
    }

    /// Quantizes at a given step.
    pub(super) fn at_step(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        step: f64,
    ) -> Result<QuantizedTensor, ConvertError> {
        let settings = self.settings(tensor, role);
        let mut matrices = Vec::with_capacity(tensor.matrices());
        let mut first = None;
        for matrix in 0..tensor.matrices() {
            let weights = self.weights(tensor, matrix)?;
            let statistics = self.statistics(tensor, matrix)?;
            // The step is that of the first matrix; the others have one water level with it.
            let factor = step_factor(&statistics);
            let step = step * (factor / *first.get_or_insert(factor));
            let layer = Self::layer(tensor, &weights, &statistics);
            matrices.push(Prepared::new(&layer, &settings, step)?.quantize(step)?);
        }
        Ok(QuantizedTensor { payload: Self::encode_all(tensor, &matrices)? })
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
            drift: Some(Drift { cross: &moments.cross, residual: moments.residual.as_deref() }),
            ..Self::layer(tensor, &weights, statistics)
        };
        if key > 0.0 {
            Ok(Prepared::new(&layer, &settings, key)?.quantize(key)?)
        } else {
            self.search_rate(tensor, &layer, &settings, -key)
        }
    }

    fn search_rate(
        &self,
        tensor: &PlannedTensor,
        layer: &Layer<'_>,
        settings: &Settings,
        bits: f64,
    ) -> Result<QuantizedMatrix, ConvertError> {
        let per_matrix = (tensor.rows() * tensor.columns()) as f64;
        let found = search(layer, settings, &RateTarget::new(bits), |matrix| {
            let payload = encode(std::slice::from_ref(matrix), &EncodeOptions { threads: 1 })?;
            Ok((payload.len() as f64 * 8.0 / per_matrix, ()))
        })?;
        Ok(found.matrix)
    }

    /// Quantizes at a given rate.
    pub(super) fn at_rate(
        &self,
        tensor: &PlannedTensor,
        role: Role,
        bits: f64,
    ) -> Result<QuantizedTensor, ConvertError> {
        let settings = self.settings(tensor, role);
        let mut parts = Vec::with_capacity(tensor.matrices());
        for matrix in 0..tensor.matrices() {
            let weights = self.weights(tensor, matrix)?;
            let statistics = self.statistics(tensor, matrix)?;
            let layer = Self::layer(tensor, &weights, &statistics);
            parts.push(self.search_rate(tensor, &layer, &settings, bits)?);
        }
        Ok(QuantizedTensor { payload: Self::encode_all(tensor, &parts)? })
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
