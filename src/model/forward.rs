//! A model: its architecture, its source of weights, and both ends of its computation.

use std::sync::Arc;

use super::architecture::{self, Architecture};
use super::config::Hyperparameters;
use super::error::ModelError;
use super::head::{embed, TensorTable, TokenTable};
use super::source::{TensorShape, TensorSource};
use super::weights::{read_tensor, LayerWeights, LinearSlot};

/// Name of the embedding's tensor.
pub const EMBEDDING: &str = "token_embd.weight";
/// Name of the output head's tensor; models without it use the embedding.
pub const OUTPUT: &str = "output.weight";

/// A model: its architecture and where its weights come from.
pub struct Model {
    source: Arc<dyn TensorSource>,
    architecture: Box<dyn Architecture>,
    embedding: Arc<dyn TokenTable>,
    head: Arc<dyn TokenTable>,
    head_tensor: &'static str,
    output_norm: Vec<f32>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("hyperparameters", self.hyperparameters()).finish_non_exhaustive()
    }
}

impl Model {
    /// Reads sizes and the final norm; weights are read when they are needed.
    pub fn open(source: Arc<dyn TensorSource>) -> Result<Self, ModelError> {
        let architecture = architecture::open(source.as_ref())?;
        let h = architecture.hyperparameters();
        let (width, vocabulary) = (h.width, h.vocabulary);
        let expected = TensorShape { columns: width, rows: vocabulary };
        let head_tensor = if source.shape(OUTPUT).is_some() { OUTPUT } else { EMBEDDING };
        for tensor in [EMBEDDING, head_tensor] {
            let missing = || ModelError::MissingTensor { tensor: tensor.to_owned() };
            let found = source.shape(tensor).ok_or_else(missing)?;
            if found != expected {
                return Err(ModelError::shape(tensor, expected, found));
            }
        }
        let output_norm =
            read_tensor(source.as_ref(), "output_norm.weight", TensorShape { columns: width, rows: 1 })?;
        let table = |tensor| -> Result<Arc<dyn TokenTable>, ModelError> {
            let dense = || TensorTable { source: Arc::clone(&source), tensor, tokens: vocabulary, width };
            let table = source.table(tensor)?.unwrap_or_else(|| Arc::new(dense()));
            let found = TensorShape { columns: table.width(), rows: table.tokens() };
            if found == expected {
                Ok(table)
            } else {
                Err(ModelError::shape(tensor, expected, found))
            }
        };
        let embedding = table(EMBEDDING)?;
        let head = if head_tensor == EMBEDDING { Arc::clone(&embedding) } else { table(head_tensor)? };
        Ok(Self { embedding, head, head_tensor, output_norm, architecture, source })
    }

    /// Where metadata and weights come from.
    pub fn source(&self) -> &Arc<dyn TensorSource> {
        &self.source
    }

    /// Sizes of the model.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        self.architecture.hyperparameters()
    }

    /// How the model computes.
    pub fn architecture(&self) -> &dyn Architecture {
        self.architecture.as_ref()
    }

    /// The linear layers of a layer.
    pub fn linears(&self, layer: usize) -> Vec<LinearSlot> {
        self.architecture.linears(layer)
    }

    /// Reads one layer: matrices as the source multiplies them, else as floats.
    pub fn load_layer(&self, layer: usize) -> Result<LayerWeights, ModelError> {
        self.architecture.load(self.source.as_ref(), layer)
    }

    /// Name of the tensor that is the output head.
    pub fn head_tensor(&self) -> &'static str {
        self.head_tensor
    }

    /// The output head.
    pub fn head(&self) -> &Arc<dyn TokenTable> {
        &self.head
    }

    /// Uses another embedding of the same shape; the head stays as it is, even if it was the same tensor.
    pub fn set_embedding(&mut self, table: Arc<dyn TokenTable>) -> Result<(), ModelError> {
        self.check_table(EMBEDDING, table.as_ref())?;
        self.embedding = table;
        Ok(())
    }

    /// Uses another output head of the same shape.
    pub fn set_head(&mut self, table: Arc<dyn TokenTable>) -> Result<(), ModelError> {
        self.check_table(self.head_tensor, table.as_ref())?;
        self.head = table;
        Ok(())
    }

    fn check_table(&self, tensor: &str, table: &dyn TokenTable) -> Result<(), ModelError> {
        let h = self.hyperparameters();
        let expected = TensorShape { columns: h.width, rows: h.vocabulary };
        let found = TensorShape { columns: table.width(), rows: table.tokens() };
        if expected == found {
            Ok(())
        } else {
            Err(ModelError::shape(tensor, expected, found))
        }
    }

    /// First hidden state of each token: tokens × width.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut hidden = vec![0.0; tokens.len() * self.hyperparameters().width];
        embed(self.embedding.as_ref(), tokens, &mut hidden)?;
        self.architecture.prepare(&mut hidden);
        Ok(hidden)
    }

    /// Input of the output head from the last hidden state (tokens × width).
    pub fn final_norm(&self, hidden: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; hidden.len()];
        self.architecture.final_norm(hidden, &self.output_norm, &mut normed);
        normed
    }

    /// Takes the gradient of [`final_norm`](Self::final_norm)'s result to that of its input `hidden`, in place.
    pub(crate) fn final_norm_gradient(&self, hidden: &[f32], gradient: &mut [f32]) {
        self.architecture.final_norm_gradient(hidden, &self.output_norm, gradient);
    }

    /// Logits (tokens × vocabulary) of few tokens, from the last hidden state.
    ///
    /// All of them are in memory: for many tokens use [`score`](super::eval::score) or the functions around it.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        let vocabulary = self.hyperparameters().vocabulary;
        let rows = hidden.len() / self.hyperparameters().width;
        let mut logits = vec![0.0; rows * vocabulary];
        let normed = self.final_norm(hidden);
        if let Some(product) = self.head.product() {
            product.multiply(&normed, &mut logits)?;
            return Ok(logits);
        }
        super::head::for_each_logits(self.head.as_ref(), &normed, |first_row, first, tokens, block| {
            for (row, block) in block.chunks_exact(tokens).enumerate() {
                let start = (first_row + row) * vocabulary + first;
                if let Some(out) = logits.get_mut(start..start + tokens) {
                    out.copy_from_slice(block);
                }
            }
            Ok(())
        })?;
        Ok(logits)
    }
}
