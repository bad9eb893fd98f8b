//! A model file whose tensors may be of our type, as a source of floats and as a source of products.

use super::form::Budget;
use super::fused::{Arithmetic, FusedMatrix, FusedTable};
use super::on_demand::{Located, OnDemandMatrix};
use super::tensor::dequantize_rows;
use crate::gguf::{GgmlType, GgufModel, Metadata};
use crate::model::{MatrixProduct, ModelError, TensorShape, TensorSource, TokenTable, EMBEDDING, OUTPUT};
use std::ops::Range;
use std::sync::Arc;

/// A GGUF model of ordinary and WSIC tensors as floats. Rows are decoded when they are asked for.
#[derive(Debug)]
pub struct WeightSource {
    model: Arc<GgufModel>,
}

impl WeightSource {
    /// Wraps an open model.
    pub fn new(model: impl Into<Arc<GgufModel>>) -> Self {
        Self { model: model.into() }
    }

    /// The container.
    pub fn container(&self) -> &Arc<GgufModel> {
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

/// A GGUF model that runs from the mapped file.
///
/// Matrices of our type multiply from their coded form, and in a model that has some, ordinary ones (an output head
/// that was kept, say) from their mapped rows: no matrix is kept as floats. A model without our type is a source of
/// floats like [`WeightSource`], to be kept in memory by who uses it.
#[derive(Debug)]
pub struct FusedSource {
    floats: WeightSource,
    arithmetic: Arithmetic,
    coded: bool,
    /// None where nothing is to be decoded.
    decoded: Option<Arc<Budget>>,
}

impl FusedSource {
    /// Wraps an open model.
    pub fn new(model: impl Into<Arc<GgufModel>>, arithmetic: Arithmetic) -> Self {
        let model = model.into();
        let coded = model.tensors().any(|tensor| tensor.ty == GgmlType::Wsic);
        Self { floats: WeightSource::new(model), arithmetic, coded, decoded: None }
    }

    /// The same with up to so many bytes for integers of matrices of our type, which are decoded once then: those that are
    /// opened first. They multiply faster, with the same results.
    pub fn with_decoded_bytes(self, bytes: usize) -> Self {
        Self { decoded: (bytes > 0).then(|| Arc::new(Budget::new(bytes))), ..self }
    }

    /// The container.
    pub fn container(&self) -> &Arc<GgufModel> {
        self.floats.container()
    }

    /// Whether the model has tensors of our type.
    pub fn is_coded(&self) -> bool {
        self.coded
    }

    /// Matrices opened so far that were not decoded because they did not fit.
    pub fn left_coded(&self) -> usize {
        self.decoded.as_ref().map_or(0, |budget| budget.refused())
    }

    /// The tensor and whether it is of our type; `None` in a model without.
    fn locate(&self, tensor: &str) -> Result<Option<(Located, bool)>, ModelError> {
        let located = Located { container: Arc::clone(self.container()), tensor: tensor.to_owned() };
        let (_, info) = located.find()?;
        let coded = info.ty == GgmlType::Wsic;
        Ok(self.coded.then_some((located, coded)))
    }
}

impl TensorSource for FusedSource {
    fn metadata(&self) -> &Metadata {
        self.floats.metadata()
    }

    fn shape(&self, tensor: &str) -> Option<TensorShape> {
        self.floats.shape(tensor)
    }

    fn read_rows(&self, tensor: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        self.floats.read_rows(tensor, rows, out)
    }

    fn product(&self, tensor: &str) -> Result<Option<Arc<dyn MatrixProduct>>, ModelError> {
        Ok(match self.locate(tensor)? {
            None => None,
            Some((located, true)) => {
                Some(Arc::new(FusedMatrix::open(located, self.arithmetic, self.decoded.as_ref())?))
            }
            Some((located, false)) => Some(Arc::new(OnDemandMatrix::new(located)?)),
        })
    }

    fn table(&self, tensor: &str) -> Result<Option<Arc<dyn TokenTable>>, ModelError> {
        Ok(match self.locate(tensor)? {
            None => None,
            Some((located, true)) => {
                // Rows of an embedding are looked up in the coded form, unless it is the head as well.
                let multiplies = tensor != EMBEDDING || self.shape(OUTPUT).is_none();
                let budget = self.decoded.as_ref().filter(|_| multiplies);
                Some(Arc::new(FusedTable::new(FusedMatrix::open(located, self.arithmetic, budget)?)))
            }
            Some((located, false)) => Some(Arc::new(OnDemandMatrix::new(located)?)),
        })
    }
}
