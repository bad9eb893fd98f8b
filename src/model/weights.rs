//! The weights of one layer, as floats or as anything that multiplies.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::error::ModelError;
use super::ops::{add_bias, Beside, DenseMatrix, MatrixProduct};
use super::source::{TensorShape, TensorSource};
use super::spread::spread;

/// What a linear layer multiplies. Layers of one kind in one block share their input, hence its statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    /// Normed hidden state: input of attn_q, attn_k, attn_v.
    Attention,
    /// Heads side by side: input of attn_output.
    AttentionOutput,
    /// Normed hidden state: input of ffn_gate and ffn_up.
    FeedForward,
    /// Activations: input of ffn_down.
    FeedForwardDown,
    /// Final normed hidden state: input of the output head.
    Head,
}

impl InputKind {
    /// Name for messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::AttentionOutput => "attention_output",
            Self::FeedForward => "feed_forward",
            Self::FeedForwardDown => "feed_forward_down",
            Self::Head => "head",
        }
    }
}

/// A linear layer of a block: which tensor, which input, which shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSlot {
    /// Name within its layer: "attn_q", "ffn_down", ….
    pub role: &'static str,
    /// Name of the tensor: "blk.3.attn_q.weight".
    pub tensor: String,
    /// What it multiplies.
    pub input: InputKind,
    /// Its shape; rows of all experts together.
    pub shape: TensorShape,
    /// Matrices in the tensor: 1, or one for each expert.
    pub experts: usize,
}

/// A weight matrix with its bias.
#[derive(Clone)]
pub struct Linear {
    /// The matrix.
    pub matrix: Arc<dyn MatrixProduct>,
    /// Added to each output.
    pub bias: Option<Vec<f32>>,
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear {}x{}, bias {}", self.matrix.rows(), self.matrix.columns(), self.bias.is_some())
    }
}

impl Linear {
    /// Outputs for each token: `x` tokens × columns, result tokens × rows.
    pub fn apply(&self, x: &[f32]) -> Result<Vec<f32>, ModelError> {
        self.apply_beside(x, Beside { before: 0, rows: self.matrix.rows() })
    }

    /// The same as one of several at a time.
    fn apply_beside(&self, x: &[f32], beside: Beside) -> Result<Vec<f32>, ModelError> {
        let tokens = x.len().checked_div(self.matrix.columns()).unwrap_or(0);
        let mut y = vec![0.0; tokens * self.matrix.rows()];
        self.matrix.multiply_beside(x, &mut y, beside)?;
        if let Some(bias) = &self.bias {
            add_bias(&mut y, bias);
        }
        Ok(y)
    }
}

/// Everything one layer needs: linear layers by role, and vectors (norm scales) by name.
#[derive(Clone, Debug, Default)]
pub struct LayerWeights {
    linears: BTreeMap<&'static str, Linear>,
    experts: BTreeMap<&'static str, Vec<Linear>>,
    vectors: BTreeMap<&'static str, Vec<f32>>,
}

impl LayerWeights {
    /// The linear layer of this role.
    pub fn linear(&self, role: &'static str) -> Result<&Linear, ModelError> {
        self.linears.get(role).ok_or_else(|| ModelError::MissingTensor { tensor: role.to_owned() })
    }

    /// Outputs of several linear layers of the same input, side by side: threads that a small matrix has no work for
    /// take another one.
    pub(super) fn apply_all<const N: usize>(
        &self,
        roles: [&'static str; N],
        x: &[f32],
    ) -> Result<[Vec<f32>; N], ModelError> {
        let (mut rows, mut before) = (0usize, [0; N]);
        for (role, before) in roles.into_iter().zip(&mut before) {
            *before = rows;
            rows = rows.saturating_add(self.linear(role)?.matrix.rows());
        }
        let mut results = [const { Ok(Vec::new()) }; N];
        spread(roles.into_iter().zip(before).zip(&mut results), |((role, before), result)| {
            *result = self.linear(role).and_then(|linear| linear.apply_beside(x, Beside { before, rows }));
        });
        let mut outputs = [const { Vec::new() }; N];
        for (output, result) in outputs.iter_mut().zip(results) {
            *output = result?;
        }
        Ok(outputs)
    }

    /// The matrix of one expert in the stack of this role.
    pub fn expert(&self, role: &'static str, expert: usize) -> Result<&Linear, ModelError> {
        let stack = self.experts.get(role).and_then(|stack| stack.get(expert));
        stack.ok_or_else(|| ModelError::MissingTensor { tensor: format!("{role}, expert {expert}") })
    }

    /// Adds or sets the matrices of all experts in the stack of this role.
    pub fn set_experts(&mut self, role: &'static str, stack: Vec<Linear>) {
        self.experts.insert(role, stack);
    }

    /// The vector of this name.
    pub fn vector(&self, name: &'static str) -> Result<&[f32], ModelError> {
        self.vectors
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| ModelError::MissingTensor { tensor: name.to_owned() })
    }

    /// The vector of this name, if the model has it.
    pub fn optional_vector(&self, name: &'static str) -> Option<&[f32]> {
        self.vectors.get(name).map(Vec::as_slice)
    }

    /// Adds a linear layer, or replaces the matrix of one that must keep its shape; the bias stays.
    pub fn replace(&mut self, role: &'static str, matrix: Arc<dyn MatrixProduct>) -> Result<(), ModelError> {
        let linear = self
            .linears
            .get_mut(role)
            .ok_or_else(|| ModelError::MissingTensor { tensor: role.to_owned() })?;
        set_matrix(linear, role, matrix)
    }

    /// Replaces the matrix of one expert by one of the same shape; the bias stays.
    pub fn replace_expert(
        &mut self,
        role: &'static str,
        expert: usize,
        matrix: Arc<dyn MatrixProduct>,
    ) -> Result<(), ModelError> {
        let linear = self.experts.get_mut(role).and_then(|stack| stack.get_mut(expert));
        let linear =
            linear.ok_or_else(|| ModelError::MissingTensor { tensor: format!("{role}, expert {expert}") })?;
        set_matrix(linear, role, matrix)
    }

    /// Adds or sets a linear layer.
    pub fn set_linear(&mut self, role: &'static str, linear: Linear) {
        self.linears.insert(role, linear);
    }

    /// Adds or sets a vector.
    pub fn set_vector(&mut self, name: &'static str, values: Vec<f32>) {
        self.vectors.insert(name, values);
    }
}

/// Replaces a matrix by one of the same shape.
fn set_matrix(
    linear: &mut Linear,
    role: &'static str,
    matrix: Arc<dyn MatrixProduct>,
) -> Result<(), ModelError> {
    let shape = |m: &dyn MatrixProduct| TensorShape { columns: m.columns(), rows: m.rows() };
    let (old, new) = (shape(linear.matrix.as_ref()), shape(matrix.as_ref()));
    if old != new {
        return Err(ModelError::shape(role, old, new));
    }
    linear.matrix = matrix;
    Ok(())
}

/// Reads a tensor of known shape as floats, its rows in parallel.
pub fn read_tensor(
    source: &dyn TensorSource,
    tensor: &str,
    shape: TensorShape,
) -> Result<Vec<f32>, ModelError> {
    let found =
        source.shape(tensor).ok_or_else(|| ModelError::MissingTensor { tensor: tensor.to_owned() })?;
    if found != shape {
        return Err(ModelError::shape(tensor, shape, found));
    }
    const ROWS_PER_TASK: usize = 64;
    let len = shape.columns.checked_mul(shape.rows).filter(|&len| len > 0);
    let len = len.ok_or_else(|| ModelError::shape(tensor, "some elements", shape))?;
    let mut values = vec![0.0; len];
    values.par_chunks_mut(ROWS_PER_TASK * shape.columns).enumerate().try_for_each(|(task, out)| {
        let first = task * ROWS_PER_TASK;
        source.read_rows(tensor, first..first + out.len() / shape.columns, out)
    })?;
    source.release(tensor);
    Ok(values)
}

/// Reads a vector of known length, if the model has it.
pub fn read_optional_vector(
    source: &dyn TensorSource,
    tensor: &str,
    len: usize,
) -> Result<Option<Vec<f32>>, ModelError> {
    match source.shape(tensor) {
        Some(_) => read_tensor(source, tensor, TensorShape { columns: len, rows: 1 }).map(Some),
        None => Ok(None),
    }
}

/// Reads the matrices of all experts of a stack, as floats.
pub fn read_experts(source: &dyn TensorSource, slot: &LinearSlot) -> Result<Vec<Linear>, ModelError> {
    let found = source
        .shape(&slot.tensor)
        .ok_or_else(|| ModelError::MissingTensor { tensor: slot.tensor.clone() })?;
    let TensorShape { columns, rows } = slot.shape;
    let each = rows.checked_div(slot.experts).filter(|each| each * slot.experts == rows && *each > 0);
    let each = each.filter(|_| found == slot.shape);
    let each = each.ok_or_else(|| ModelError::shape(&slot.tensor, slot.shape, found))?;
    let read = |expert: usize| {
        let len = each.checked_mul(columns);
        let mut values = vec![0.0; len.ok_or_else(|| ModelError::shape(&slot.tensor, "a matrix", found))?];
        source.read_rows(&slot.tensor, expert * each..(expert + 1) * each, &mut values)?;
        let matrix = DenseMatrix::new(each, columns, values);
        let matrix = matrix.ok_or_else(|| ModelError::shape(&slot.tensor, slot.shape, found))?;
        Ok(Linear { matrix: Arc::new(matrix), bias: None })
    };
    let stack = (0..slot.experts).into_par_iter().map(read).collect();
    source.release(&slot.tensor);
    stack
}

/// Reads a linear layer with its bias, if it has one: as the source multiplies it, else as floats.
pub fn read_linear(source: &dyn TensorSource, slot: &LinearSlot) -> Result<Linear, ModelError> {
    let matrix: Arc<dyn MatrixProduct> = match source.product(&slot.tensor)? {
        Some(matrix) => {
            let found = TensorShape { columns: matrix.columns(), rows: matrix.rows() };
            if found != slot.shape {
                return Err(ModelError::shape(&slot.tensor, slot.shape, found));
            }
            matrix
        }
        None => {
            let values = read_tensor(source, &slot.tensor, slot.shape)?;
            let matrix = DenseMatrix::new(slot.shape.rows, slot.shape.columns, values)
                .ok_or_else(|| ModelError::shape(&slot.tensor, slot.shape, "another size"))?;
            Arc::new(matrix)
        }
    };
    let bias = match slot.tensor.strip_suffix(".weight") {
        Some(stem) => read_optional_vector(source, &format!("{stem}.bias"), slot.shape.rows)?,
        None => None,
    };
    Ok(Linear { matrix, bias })
}
