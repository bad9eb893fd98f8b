//! What happens to each tensor, decided before any work.

use super::error::ConvertError;
use super::options::{as_given, Options, TensorChoice, TensorOverride};
use crate::gguf::{GgmlType, TensorSpec};
use crate::import::Input;
use crate::model::{InputKind, Model, EMBEDDING, OUTPUT};
use crate::quantize::Method;
use std::collections::HashMap;

/// Part that a quantized tensor plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A linear layer of a block.
    Linear {
        /// Block.
        layer: usize,
        /// What it multiplies.
        input: InputKind,
    },
    /// Token embedding, possibly also the output head.
    Embedding {
        /// Whether it is the output head too.
        tied: bool,
    },
    /// Output head.
    Head,
    /// A matrix of a model whose forward pass is not known.
    Matrix,
}

impl Role {
    /// Whether `--bpw` counts the tensor.
    pub fn is_linear(self) -> bool {
        matches!(self, Role::Linear { .. } | Role::Matrix)
    }
}

/// What happens to one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Copied byte for byte.
    Copy,
    /// Stored as another ordinary type.
    Store(GgmlType),
    /// Quantized.
    Quantize {
        /// Its part in the model.
        role: Role,
        /// Stored bits per weight; `None` where the target decides.
        bits: Option<f64>,
        /// Method; `None` for that of the conversion.
        method: Option<Method>,
    },
}

/// One tensor and what happens to it.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Name, dimensions and type in the input.
    pub info: TensorSpec,
    /// Bytes in the input.
    pub stored_bytes: u64,
    /// What happens.
    pub action: Action,
}

impl PlannedTensor {
    /// Columns of each matrix.
    pub fn columns(&self) -> usize {
        self.info.columns() as usize
    }

    /// Rows of each matrix.
    pub fn rows(&self) -> usize {
        self.info.dims.get(1).copied().unwrap_or(1) as usize
    }

    /// Matrices (experts).
    pub fn matrices(&self) -> usize {
        (self.info.rows() as usize) / self.rows().max(1)
    }

    /// Weights.
    pub fn weights(&self) -> u64 {
        self.info.elements()
    }
}

/// The tensors that the forward pass multiplies with.
fn roles_of_model(network: &Model) -> HashMap<String, Role> {
    let mut roles = HashMap::new();
    for layer in 0..network.hyperparameters().layers {
        for slot in network.linears(layer) {
            roles.insert(slot.tensor, Role::Linear { layer, input: slot.input });
        }
    }
    let tied = network.head_tensor() == EMBEDDING;
    roles.insert(EMBEDDING.to_owned(), Role::Embedding { tied });
    if !tied {
        roles.insert(network.head_tensor().to_owned(), Role::Head);
    }
    roles
}

/// Parts of names of matrices that are no weights of a product, small, or sensitive: routers, convolutions, tables of
/// positions, recurrences.
const KEPT: [&str; 9] =
    ["_norm", "ffn_gate_inp", "conv", "pos", "rel_b", "time_mix", "altup", "laurel", "ssm_a"];

/// Narrowest matrix, in rows and columns, that is quantized in a model whose forward pass is not known.
const LEAST_SIDE: u64 = 32;

/// Guesses the tensors to quantize from names and shapes.
fn roles_by_name(input: &Input) -> HashMap<String, Role> {
    let tied = input.get_spec(OUTPUT).is_none();
    let role = |tensor: &TensorSpec| match tensor.name.as_str() {
        EMBEDDING => Some(Role::Embedding { tied }),
        OUTPUT => Some(Role::Head),
        name => {
            let side = tensor.columns().min(tensor.dims.get(1).copied().unwrap_or(1));
            let matrix =
                matches!(tensor.dims.len(), 2 | 3) && side >= LEAST_SIDE && tensor.ty.block().is_some();
            let weight = name.starts_with("blk.") && name.ends_with(".weight");
            (matrix && weight && !KEPT.iter().any(|part| name.contains(part))).then_some(Role::Matrix)
        }
    };
    let specs = input.specs();
    specs.into_iter().filter_map(|tensor| Some((tensor.name.clone(), role(&tensor)?))).collect()
}

/// Plans every tensor of the model, in file order. Without a `network` that can run, tensors are chosen by name.
///
/// # Errors
/// Overrides that match no tensor, or ask for a type the tensor cannot have.
pub fn plan(
    input: &Input,
    network: Option<&Model>,
    options: &Options,
) -> Result<Vec<PlannedTensor>, ConvertError> {
    let roles = match network {
        Some(network) => roles_of_model(network),
        None => roles_by_name(input),
    };
    let quantize = |info: &TensorSpec, choice| match (choice, roles.get(&info.name).copied()) {
        (Some(TensorChoice::Bits(bits)), Some(role)) => {
            Action::Quantize { role, bits: Some(bits), method: None }
        }
        (Some(TensorChoice::Method(method, bits)), Some(role)) => {
            Action::Quantize { role, bits: Some(bits), method: Some(method) }
        }
        // Only tensors that the forward pass multiplies with have statistics; norms stay as they are.
        (_, None) => Action::Copy,
        (_, Some(role)) => {
            let bits = if role.is_linear() { None } else { options.embedding_bits };
            Action::Quantize { role, bits, method: None }
        }
    };
    apply_overrides(input, &options.overrides, quantize)
}

/// Plans every tensor, in file order: by the overrides where they say how to store it, else by `decide`.
///
/// # Errors
/// Overrides that match no tensor, or ask for a type the tensor cannot have.
pub(super) fn apply_overrides(
    input: &Input,
    overrides: &[TensorOverride],
    decide: impl Fn(&TensorSpec, Option<TensorChoice>) -> Action,
) -> Result<Vec<PlannedTensor>, ConvertError> {
    let mut used = vec![false; overrides.len()];
    let mut planned = Vec::new();
    for info in input.specs() {
        let mut choice = None;
        for (rule, used) in overrides.iter().zip(&mut used) {
            if rule.pattern.is_match(&info.name) {
                *used = true;
                choice = Some(rule.choice);
            }
        }
        let action = match choice {
            Some(TensorChoice::Keep) => Action::Copy,
            Some(TensorChoice::Type(ty)) => {
                if ty.row_bytes(info.columns()).is_none() {
                    return Err(ConvertError::Override {
                        tensor: info.name.clone(),
                        problem: format!("rows of {} elements cannot be stored as {ty}", info.columns()),
                    });
                }
                Action::Store(ty)
            }
            bits => decide(&info, bits),
        };
        planned.push(PlannedTensor { stored_bytes: input.stored_bytes(&info.name), info, action });
    }
    match used.iter().position(|used| !used) {
        Some(index) => Err(ConvertError::Override {
            tensor: as_given(&overrides[index].pattern).to_owned(),
            problem: "matches no tensor; `wsic inspect` lists the names".into(),
        }),
        None => Ok(planned),
    }
}
