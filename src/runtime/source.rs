//! A model file whose tensors may be of our type, as a source of floats.

use super::tensor::dequantize_rows;
use crate::gguf::{GgufModel, Metadata};
use crate::model::{ModelError, TensorShape, TensorSource};
use std::ops::Range;

/// A GGUF model of ordinary and WSIC tensors. Rows are decoded when they are asked for.
#[derive(Debug)]
pub struct WeightSource {
    model: GgufModel,
}

impl WeightSource {
    /// Wraps an open model.
    pub fn new(model: GgufModel) -> Self {
        Self { model }
    }

    /// The container.
    pub fn container(&self) -> &GgufModel {
        &self.model
    }
}

impl TensorSource for WeightSource {
    fn metadata(&self) -> &Metadata {
        self.model.metadata()
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        let (_, info) = self.model.get_tensor(tensor)?;
        Some(TensorShape { columns: info.columns().try_into().ok()?, rows: info.rows().try_into().ok()? })
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let missing = || ModelError::MissingTensor { tensor: tensor.to_owned() };
        let (file, info) = self.model.get_tensor(tensor).ok_or_else(missing)?;
        dequantize_rows(file, info, rows.start as u64..rows.end as u64, out)
            .map_err(|source| ModelError::Source { tensor: tensor.to_owned(), source: source.into() })
    }
}
