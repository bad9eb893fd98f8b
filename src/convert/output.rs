//! The file or files that a conversion writes: sizes known before, then tensor after tensor.

use super::error::ConvertError;
use super::plan::{Action, PlannedTensor};
use crate::gguf::{self, group_by_size, GgmlType, GgufModelWriter, GgufWriter, Metadata, TensorSpec, Value};
use crate::import::Input;
use std::collections::HashMap;
use std::path::Path;

/// Floats converted at a time when a tensor changes its ordinary type.
const STORE_BLOCK: u64 = 1 << 22;
/// What a further file of a split model costs at most beyond its tensors: magic, counts, `split.*` keys, alignment.
const SPLIT_HEADER: u64 = 512;

/// What will be written, except for the payloads.
#[derive(Debug)]
pub(super) struct Output<'a> {
    pub(super) path: &'a Path,
    /// Data bytes of one file, at most; `None` for a single file.
    pub(super) split_bytes: Option<u64>,
    pub(super) metadata: Metadata,
    pub(super) plan: &'a [PlannedTensor],
    alignment: u64,
    header: u64,
}

fn spec(tensor: &PlannedTensor) -> TensorSpec {
    let ty = match tensor.action {
        Action::Copy => tensor.info.ty,
        Action::Store(ty) => ty,
        Action::Quantize { .. } => GgmlType::Wsic,
    };
    TensorSpec { ty, ..tensor.info.clone() }
}

impl<'a> Output<'a> {
    /// Checks that the header can be written.
    pub(super) fn new(
        path: &'a Path,
        split_bytes: Option<u64>,
        metadata: Metadata,
        plan: &'a [PlannedTensor],
    ) -> Result<Self, ConvertError> {
        // A writer reserves the header when it is created; dropped, it leaves no file.
        let specs = plan.iter().map(spec).collect();
        let header = GgufWriter::create(path, metadata.clone(), specs)?.written();
        let alignment = metadata.u64("general.alignment").unwrap_or(32);
        Ok(Self { path, split_bytes, metadata, plan, alignment, header })
    }

    /// Bytes of one tensor; `payloads` holds those of quantized tensors by their number in the plan.
    fn tensor_bytes(&self, number: usize, tensor: &PlannedTensor, payloads: &HashMap<usize, u64>) -> u64 {
        let bytes = match tensor.action {
            Action::Copy => tensor.stored_bytes,
            Action::Store(ty) => {
                ty.row_bytes(tensor.info.columns()).unwrap_or(0).saturating_mul(tensor.info.rows())
            }
            Action::Quantize { .. } => payloads.get(&number).copied().unwrap_or(0),
        };
        bytes.next_multiple_of(self.alignment)
    }

    /// The tensors of each file.
    fn groups(&self, payloads: &HashMap<usize, u64>) -> Vec<Vec<TensorSpec>> {
        let bytes: HashMap<&str, u64> = self
            .plan
            .iter()
            .enumerate()
            .map(|(number, tensor)| (tensor.info.name.as_str(), self.tensor_bytes(number, tensor, payloads)))
            .collect();
        let size = |tensor: &TensorSpec| bytes.get(tensor.name.as_str()).copied().unwrap_or(0);
        group_by_size(self.plan.iter().map(spec).collect(), self.split_bytes.unwrap_or(u64::MAX), size)
    }

    /// Bytes of all files, at most (exactly, for a single one); `payloads` are numbers in the plan and bytes.
    pub(super) fn file_bytes(&self, payloads: impl Iterator<Item = (usize, u64)>) -> u64 {
        let payloads: HashMap<usize, u64> = payloads.collect();
        let tensors = self.plan.iter().enumerate();
        let data: u64 = tensors.map(|(number, tensor)| self.tensor_bytes(number, tensor, &payloads)).sum();
        let split = match self.split_bytes {
            Some(_) => self.groups(&payloads).len() as u64 * SPLIT_HEADER,
            None => 0,
        };
        self.header + data + split
    }

    /// Writes everything. `lengths` are bytes of payloads by their number in the plan, `payload` gives one of them,
    /// `done` is told the name of each tensor. Returns the bytes of all files.
    pub(super) fn write(
        &self,
        input: &Input,
        lengths: &HashMap<usize, u64>,
        mut payload: impl FnMut(usize) -> Result<Vec<u8>, ConvertError>,
        mut done: impl FnMut(&str),
    ) -> Result<u64, ConvertError> {
        let mut writer = GgufModelWriter::create(self.path, &self.metadata, self.groups(lengths))?;
        let mut stored = Vec::new();
        for (number, tensor) in self.plan.iter().enumerate() {
            let name = tensor.info.name.as_str();
            match tensor.action {
                Action::Copy => {
                    writer.begin_tensor(name)?;
                    input.copy_tensor::<ConvertError>(name, |bytes| Ok(writer.append(bytes)?))?;
                    writer.end_tensor()?;
                }
                Action::Store(ty) => {
                    writer.begin_tensor(name)?;
                    store(input, &tensor.info, ty, |bytes| Ok(writer.append(bytes)?))?;
                    writer.end_tensor()?;
                }
                Action::Quantize { .. } => {
                    let payload = payload(number)?;
                    writer.write_tensor(name, &payload)?;
                    stored.push(payload.len() as u64);
                }
            }
            input.release(name);
            done(name);
        }
        if self.metadata.contains(super::TENSOR_BYTES_KEY) {
            let lengths = Value::Array(gguf::Array::from_u64(&stored));
            writer.replace_metadata(super::TENSOR_BYTES_KEY, lengths)?;
        }
        Ok(writer.finish()?)
    }
}

/// Hands a tensor, converted to the ordinary type `ty`, to `sink` in pieces.
pub(super) fn store(
    input: &Input,
    tensor: &TensorSpec,
    ty: GgmlType,
    mut sink: impl FnMut(&[u8]) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    if tensor.ty == ty {
        return input.copy_tensor(&tensor.name, sink);
    }
    let failed = |problem: String| ConvertError::Store { tensor: tensor.name.clone(), ty, problem };
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let step = (STORE_BLOCK / columns.max(1)).max(1);
    let (mut floats, mut bytes) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < rows {
        let last = first.saturating_add(step).min(rows);
        floats.clear();
        floats.resize(((last - first) * columns) as usize, 0.0);
        input.dequantize_rows(&tensor.name, first..last, &mut floats)?;
        // From here on a half float would be infinite.
        if ty == GgmlType::F16 && !floats.iter().all(|weight| weight.abs() < 65520.0) {
            return Err(failed("a weight is beyond the range of half floats; choose bf16 or f32".into()));
        }
        bytes.clear();
        gguf::encode(ty, &floats, &mut bytes).map_err(|error| failed(error.to_string()))?;
        sink(&bytes)?;
        first = last;
    }
    Ok(())
}
