//! Which checkpoint tensor becomes which tensor of the model; every one must have a place.

use std::collections::HashMap;

use serde_json::Value;

use super::checkpoint::{Checkpoint, SourceTensor};
use super::config::Config;
use super::error::ImportError;
use super::scale::{is_float, plain_type, read_row, Scale};
use super::tensor::{interleaved, ImportedTensor, Reader, Slice, TensorData};
use crate::gguf::{GgmlType, TensorSpec};

/// Tensors that runtimes compute themselves, or that belong to 8-bit arithmetic and caches.
const IGNORED_SUFFIXES: [&str; 7] = [
    ".rotary_emb.inv_freq",
    ".attention.masked_bias",
    ".input_scale",
    ".activation_scale",
    ".input_activation_scale",
    ".k_scale",
    ".v_scale",
];

/// Suffixes that a weight's scales have instead of `weight` (or after the name of a fused tensor).
const SCALE_SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// Grows the list of tensors, in the order of the file to be written.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    config: &'a Config,
    reader: Reader,
    used: Vec<bool>,
    tensors: Vec<ImportedTensor>,
    /// Rows and columns of a block of 8-bit weights that share a scale, as configured.
    block: Option<(u64, u64)>,
    /// What the names of the language model start with instead of `model.`.
    prefix: &'static str,
    pub warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    /// An empty plan for a checkpoint.
    pub fn new(config: &'a Config, checkpoint: Checkpoint) -> Result<Self, ImportError> {
        let block = scale_block(config)?;
        let prefixes = ["model.", "language_model.model.", "model.language_model.", ""];
        let has = |prefix: &&&str| checkpoint.find(&format!("{prefix}embed_tokens.weight")).is_some();
        let prefix = prefixes.iter().find(has).copied().unwrap_or("model.");
        let used = vec![false; checkpoint.tensors().len()];
        let reader = Reader { checkpoint, scales: HashMap::new() };
        Ok(Self { config, reader, used, tensors: Vec::new(), block, prefix, warnings: Vec::new() })
    }

    /// Position of a tensor by its usual name (`model.…`, `lm_head.weight`).
    fn find(&self, name: &str) -> Option<usize> {
        let checkpoint = &self.reader.checkpoint;
        match name.strip_prefix("model.") {
            Some(rest) => checkpoint.find(&format!("{}{rest}", self.prefix)),
            None => checkpoint.find(name).or_else(|| checkpoint.find(&format!("language_model.{name}"))),
        }
    }

    /// Whether the checkpoint has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let tensor = self.reader.checkpoint.tensor(self.find(name)?)?;
        Some(self.reader.checkpoint.bytes_of(tensor))
    }

    /// Marks a tensor as having no place in the file, deliberately.
    pub fn drop_tensor(&mut self, name: &str) {
        if let Some(used) = self.find(name).and_then(|at| self.used.get_mut(at)) {
            *used = true;
        }
    }

    /// Marks all tensors whose name holds one of `parts` as having no place in the file; returns how many.
    pub fn drop_matching(&mut self, parts: &[&str]) -> usize {
        let tensors = self.reader.checkpoint.tensors().iter().zip(&mut self.used);
        let dropped = tensors.filter(|(tensor, _)| parts.iter().any(|part| tensor.name().contains(part)));
        dropped.map(|(_, used)| *used = true).count()
    }

    /// A tensor that must be there with this shape (the slowest varying dimension first) and hold floats.
    fn take(&mut self, name: &str, shape: &[u64]) -> Result<usize, ImportError> {
        let checkpoint = &self.reader.checkpoint;
        let missing = || ImportError::MissingTensor {
            path: self.config.path().parent().unwrap_or(self.config.path()).to_owned(),
            tensor: name.to_owned(),
        };
        let at = self.find(name).ok_or_else(missing)?;
        let tensor = checkpoint.tensor(at).ok_or_else(missing)?;
        let path = checkpoint.path_of(tensor);
        if tensor.shape() != shape {
            let found = format!("shape {:?}", tensor.shape());
            return Err(ImportError::tensor(
                path,
                tensor.name(),
                format!("shape {shape:?} by config.json"),
                found,
            ));
        }
        if !is_float(tensor.dtype()) {
            let expected = "elements of F32, F16, BF16, F64, F8_E4M3 or F8_E5M2";
            let method =
                self.config.object("quantization_config").and_then(|config| config.get("quant_method"));
            let found = match method.and_then(Value::as_str) {
                Some(method) => format!("{:?}; the checkpoint is quantized ({method})", tensor.dtype()),
                None => format!("{:?}", tensor.dtype()),
            };
            return Err(ImportError::tensor(path, tensor.name(), expected, found));
        }
        if let Some(scale) = self.scale_of(tensor)? {
            self.reader.scales.insert(at, scale);
        }
        if let Some(used) = self.used.get_mut(at) {
            *used = true;
        }
        Ok(at)
    }

    /// The scales of an 8-bit weight, if it has any.
    fn scale_of(&self, tensor: &SourceTensor) -> Result<Option<Scale>, ImportError> {
        if plain_type(tensor.dtype()).is_some() {
            return Ok(None);
        }
        let checkpoint = &self.reader.checkpoint;
        for suffix in SCALE_SUFFIXES {
            let scale = checkpoint.find(&format!("{}{suffix}", tensor.name()));
            if let Some(scale) = scale.and_then(|at| checkpoint.tensor(at)) {
                return Scale::read(checkpoint, tensor, scale, self.block).map(Some);
            }
        }
        Ok(None)
    }

    fn push(&mut self, name: String, dims: Vec<u64>, data: TensorData) {
        let ty = match &data {
            _ if dims.len() < 2 || !name.ends_with(".weight") => GgmlType::F32,
            _ if name.ends_with("_norm.weight") || name.ends_with(".ffn_gate_inp.weight") => GgmlType::F32,
            TensorData::Computed(_) => GgmlType::F32,
            TensorData::Stored { slices, .. } => {
                let first = slices.first().and_then(|slice| self.reader.checkpoint.tensor(slice.tensor));
                match first.and_then(|tensor| plain_type(tensor.dtype())) {
                    Some(GgmlType::F64) => GgmlType::F32,
                    Some(ty) => ty,
                    None => GgmlType::BF16,
                }
            }
        };
        self.tensors.push(ImportedTensor { spec: TensorSpec { name, dims, ty }, data });
    }

    fn push_rows(&mut self, name: String, dims: Vec<u64>, slices: Vec<Slice>, add: f32) {
        self.push(name, dims, TensorData::Stored { slices, head_rows: None, add });
    }

    /// Numbers computed from the configuration.
    pub fn computed(&mut self, name: &str, values: Vec<f32>) {
        self.push(name.to_owned(), vec![values.len() as u64], TensorData::Computed(values));
    }

    /// A vector of `len`, with `add` added to each element.
    pub fn vector(&mut self, name: String, source: &str, len: u64, add: f32) -> Result<(), ImportError> {
        let tensor = self.take(source, &[len])?;
        self.push_rows(name, vec![len], vec![Slice { tensor, first: 0, end: 1 }], add);
        Ok(())
    }

    /// A matrix of `rows` (outputs) x `columns` (inputs).
    pub fn matrix(&mut self, name: String, source: &str, rows: u64, columns: u64) -> Result<(), ImportError> {
        let tensor = self.take(source, &[rows, columns])?;
        self.push_rows(name, vec![columns, rows], vec![Slice { tensor, first: 0, end: rows }], 0.0);
        Ok(())
    }

    /// A linear layer: weight and, if the checkpoint has one, bias. With `head_rows` the outputs of each head of so
    /// many are interleaved, as runtimes that rotate neighbouring elements need it.
    pub fn linear(
        &mut self,
        name: &str,
        source: &str,
        (rows, columns): (u64, u64),
        head_rows: Option<u64>,
    ) -> Result<(), ImportError> {
        let tensor = self.take(&format!("{source}.weight"), &[rows, columns])?;
        let slices = vec![Slice { tensor, first: 0, end: rows }];
        let data = TensorData::Stored { slices, head_rows, add: 0.0 };
        self.push(format!("{name}.weight"), vec![columns, rows], data);
        let bias = format!("{source}.bias");
        if !self.has(&bias) {
            return Ok(());
        }
        let Some(head_rows) = head_rows else { return self.vector(format!("{name}.bias"), &bias, rows, 0.0) };
        let at = self.take(&bias, &[rows])?;
        let len = usize::try_from(rows).unwrap_or_default();
        let mut values = vec![0.0; len];
        if let Some(tensor) = self.reader.checkpoint.tensor(at) {
            read_row(&self.reader.checkpoint, tensor, self.reader.scales.get(&at), 0, &mut values)?;
        }
        let from = |row| usize::try_from(interleaved(row, head_rows)).ok().and_then(|row| values.get(row));
        let ordered = (0..rows).filter_map(from).copied().collect();
        self.push(format!("{name}.bias"), vec![rows], TensorData::Computed(ordered));
        Ok(())
    }

    /// A stack of one matrix for each expert; `source` names the matrix of an expert.
    pub fn experts(
        &mut self,
        name: String,
        source: impl Fn(u64) -> String,
        experts: u64,
        (rows, columns): (u64, u64),
    ) -> Result<(), ImportError> {
        let mut slices = Vec::new();
        for expert in 0..experts {
            let tensor = self.take(&source(expert), &[rows, columns])?;
            slices.push(Slice { tensor, first: 0, end: rows.saturating_mul(expert + 1) });
        }
        self.push_rows(name, vec![columns, rows, experts], slices, 0.0);
        Ok(())
    }

    /// A stack of one matrix for each expert, cut out of a stack whose matrices have `stored` rows, from row `first`
    /// of each.
    pub fn stacked(
        &mut self,
        name: String,
        source: &str,
        experts: u64,
        (rows, columns): (u64, u64),
        (first, stored): (u64, u64),
    ) -> Result<(), ImportError> {
        let tensor = self.take(source, &[experts, stored, columns])?;
        let slice = |expert: u64| Slice {
            tensor,
            first: stored.saturating_mul(expert).saturating_add(first),
            end: rows.saturating_mul(expert + 1),
        };
        self.push_rows(name, vec![columns, rows, experts], (0..experts).map(slice).collect(), 0.0);
        Ok(())
    }

    /// The finished list; fails if a tensor of the checkpoint has no place.
    pub fn finish(
        self,
        architecture: &str,
    ) -> Result<(Reader, Vec<ImportedTensor>, Vec<String>), ImportError> {
        let checkpoint = &self.reader.checkpoint;
        for (tensor, used) in checkpoint.tensors().iter().zip(&self.used) {
            let ignored = || IGNORED_SUFFIXES.iter().any(|suffix| tensor.name().ends_with(suffix));
            let scale = || {
                SCALE_SUFFIXES.iter().any(|suffix| {
                    let weight = tensor.name().strip_suffix(suffix).and_then(|name| checkpoint.find(name));
                    weight.is_some_and(|at| self.reader.scales.contains_key(&at))
                })
            };
            if !used && !ignored() && !scale() {
                return Err(ImportError::UnexpectedTensor {
                    path: checkpoint.path_of(tensor).to_owned(),
                    tensor: tensor.name().to_owned(),
                    architecture: architecture.to_owned(),
                });
            }
        }
        Ok((self.reader, self.tensors, self.warnings))
    }
}

/// Configured block of 8-bit weights: `weight_block_size`, or that of compressed-tensors.
fn scale_block(config: &Config) -> Result<Option<(u64, u64)>, ImportError> {
    let Some(quantization) = config.object("quantization_config") else { return Ok(None) };
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    let weights = groups.and_then(|groups| groups.values().next()).and_then(|group| group.get("weights"));
    let block = quantization.get("weight_block_size").filter(|block| !block.is_null());
    let block = block.or_else(|| weights.and_then(|weights| weights.get("block_structure")));
    let Some(block) = block.filter(|block| !block.is_null()) else { return Ok(None) };
    let sizes: Option<Vec<u64>> =
        block.as_array().and_then(|sizes| sizes.iter().map(Value::as_u64).collect());
    match sizes.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some((rows, columns))),
        _ => {
            let expected = "a `weight_block_size` of two positive integers";
            Err(config.wrong("quantization_config", expected))
        }
    }
}
