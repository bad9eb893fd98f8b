//! Where a model's metadata and weights come from.

use std::ops::Range;
use std::sync::Arc;

use super::error::ModelError;
use super::head::TokenTable;
use super::ops::MatrixProduct;
use crate::gguf::{GgufFile, GgufModel, Metadata};
use crate::import::{Folder, Input};

/// Shape of a tensor as a stack of matrices: `rows` counts the rows of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Elements of a row (input features of a weight).
    pub columns: usize,
    /// Rows of all matrices together (output features of a weight).
    pub rows: usize,
}

impl std::fmt::Display for TensorShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {}", self.rows, self.columns)
    }
}

/// Metadata and tensors of one model, readable as floats a range of rows at a time.
pub trait TensorSource: Send + Sync {
    /// The model's key-value metadata.
    fn metadata(&self) -> &Metadata;

    /// Shape of a tensor; `None` if there is no such tensor.
    fn shape(&self, tensor: &str) -> Option<TensorShape>;

    /// Writes rows `rows` of `tensor`, row after row; `out` holds `rows.len() * columns` floats.
    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError>;

    /// Says that a tensor was read as far as it will be for some time: a source may give back the memory it takes.
    fn release(&self, _tensor: &str) {}

    /// The weight of a linear layer in a form that multiplies without being turned into floats; `None` if the source
    /// has none, and its floats are to be read.
    fn product(&self, _tensor: &str) -> Result<Option<Arc<dyn MatrixProduct>>, ModelError> {
        Ok(None)
    }

    /// The embedding or output head in a form of the source's own; `None` if its floats are to be read.
    fn table(&self, _tensor: &str) -> Result<Option<Arc<dyn TokenTable>>, ModelError> {
        Ok(None)
    }
}

impl TensorSource for GgufFile {
    fn metadata(&self) -> &Metadata {
        GgufFile::metadata(self)
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        let info = self.get_tensor(tensor)?;
        Some(TensorShape { columns: info.columns().try_into().ok()?, rows: info.rows().try_into().ok()? })
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let info = self.tensor(tensor)?;
        Ok(self.dequantize_rows(info, rows.start as u64..rows.end as u64, out)?)
    }
}

impl TensorSource for GgufModel {
    fn metadata(&self) -> &Metadata {
        GgufModel::metadata(self)
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        let (file, info) = self.get_tensor(tensor)?;
        file.shape(&info.name)
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let info = self.tensor(tensor)?;
        Ok(self.dequantize_rows(info, rows.start as u64..rows.end as u64, out)?)
    }
}

impl TensorSource for Input {
    fn metadata(&self) -> &Metadata {
        Input::metadata(self)
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        match self {
            Input::Gguf(model) => model.shape(tensor),
            Input::Folder(folder) => folder.shape(tensor),
        }
    }

    fn release(&self, tensor: &str) {
        Input::release(self, tensor);
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        match self {
            Input::Gguf(model) => model.read_rows(tensor, rows, out),
            Input::Folder(folder) => folder.read_rows(tensor, rows, out),
        }
    }
}

impl TensorSource for Folder {
    fn metadata(&self) -> &Metadata {
        Folder::metadata(self)
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        let tensor = self.get_tensor(tensor)?;
        Some(TensorShape { columns: tensor.columns().try_into().ok()?, rows: tensor.rows().try_into().ok()? })
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let Some(found) = self.get_tensor(tensor) else {
            return Err(ModelError::MissingTensor { tensor: tensor.to_owned() });
        };
        self.read_f32(found, rows.start as u64..rows.end as u64, out)
            .map_err(|source| ModelError::Source { tensor: tensor.to_owned(), source: Box::new(source) })
    }
}
