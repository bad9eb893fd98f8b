//! An open file: metadata, tensor list, and the tensors' bytes without a copy.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::dequantize::dequantize;
use super::error::GgufError;
use super::limits::Limits;
use super::map::FileBytes;
use super::metadata::Metadata;
use super::parse::{parse, Parsed};
use super::tensor::TensorInfo;

/// One GGUF file, read only.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: FileBytes,
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    data_start: u64,
}

impl GgufFile {
    /// Maps a file and reads everything but the tensor data.
    ///
    /// The file must not be changed or truncated while it is open: the operating system would end the process on
    /// an access beyond its end.
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, GgufError> {
        let path = path.as_ref();
        Self::build(path, FileBytes::open(path)?, limits)
    }

    /// Reads a file held in memory; `path` is only named in errors.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>, limits: &Limits) -> Result<Self, GgufError> {
        Self::build(path.as_ref(), FileBytes::Owned(bytes), limits)
    }

    fn build(path: &Path, bytes: FileBytes, limits: &Limits) -> Result<Self, GgufError> {
        let Parsed { version, alignment, metadata, tensors, data_start } = parse(path, &bytes, limits)?;
        let by_name = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Self { path: path.to_owned(), bytes, version, alignment, metadata, tensors, by_name, data_start })
    }

    /// Path given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Start of the data section in the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The key-value section.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensor infos in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn get_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// The tensor of this name, or an error that names file and tensor.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.get_tensor(name)
            .ok_or_else(|| GgufError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// The data of a tensor of this file; an error only if `tensor` is of another file and lies outside.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> Result<&[u8], GgufError> {
        let start = self.data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.byte_len));
        let range = start.and_then(|start| Some(usize::try_from(start).ok()?..usize::try_from(end?).ok()?));
        range.and_then(|range| self.bytes.get(range)).ok_or_else(|| {
            let file_len = self.file_len();
            self.out_of_range(
                tensor,
                format!("data inside the file of {file_len} bytes"),
                format!("{} bytes at offset {}", tensor.byte_len, tensor.offset),
            )
        })
    }

    /// Drops the metadata entries whose keys `is_done` names, and lets the operating system take back the memory of the
    /// file's header, for programs that have read what they need of both.
    pub fn forget_metadata(&mut self, is_done: impl Fn(&str) -> bool) {
        let keys: Vec<String> =
            self.metadata.iter().map(|(key, _)| key).filter(|key| is_done(key)).map(str::to_owned).collect();
        for key in keys {
            self.metadata.remove(&key);
        }
        if let Ok(end) = usize::try_from(self.data_start) {
            self.bytes.release(0..end.min(self.bytes.len()));
        }
    }

    /// Lets the operating system take back the memory of a tensor's data that was read. It can be read again.
    pub fn release(&self, tensor: &TensorInfo) {
        let start = self.data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.byte_len));
        let range = start.and_then(|start| Some(usize::try_from(start).ok()?..usize::try_from(end?).ok()?));
        if let Some(range) = range {
            self.bytes.release(range);
        }
    }

    /// Bytes of the data section from one offset to another; those of them that are in the file.
    pub fn data_between(&self, first: u64, last: u64) -> &[u8] {
        let place = |offset: u64| {
            let at = self.data_start.checked_add(offset).and_then(|at| usize::try_from(at).ok());
            at.unwrap_or(usize::MAX).min(self.bytes.len())
        };
        self.bytes.get(place(first)..place(last)).unwrap_or(&[])
    }

    fn out_of_range(&self, tensor: &TensorInfo, expected: String, found: String) -> GgufError {
        GgufError::OutOfRange { path: self.path.clone(), tensor: tensor.name.clone(), expected, found }
    }

    /// The bytes of a range of rows (see [`TensorInfo::rows`]); only for types of fixed block size.
    pub fn row_bytes(&self, tensor: &TensorInfo, rows: Range<u64>) -> Result<&[u8], GgufError> {
        let no_conversion = || GgufError::Conversion {
            path: self.path.clone(),
            tensor: tensor.name.clone(),
            source: super::error::ConversionError::NoConversion(tensor.ty),
        };
        let row = tensor.ty.row_bytes(tensor.columns()).ok_or_else(no_conversion)?;
        let slice = || {
            let start = usize::try_from(rows.start.checked_mul(row)?).ok()?;
            let end = usize::try_from(rows.end.checked_mul(row)?).ok()?;
            self.tensor_bytes(tensor).ok()?.get(start..end)
        };
        slice().ok_or_else(|| {
            self.out_of_range(tensor, format!("rows inside 0..{}", tensor.rows()), format!("{rows:?}"))
        })
    }

    /// Writes a range of rows as floats, row after row; `out` holds `rows.len() * columns` values.
    pub fn dequantize_rows(
        &self,
        tensor: &TensorInfo,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), GgufError> {
        dequantize(tensor.ty, self.row_bytes(tensor, rows)?, out).map_err(|source| GgufError::Conversion {
            path: self.path.clone(),
            tensor: tensor.name.clone(),
            source,
        })
    }

    /// A whole tensor as floats, the first dimension varying fastest.
    pub fn tensor_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, GgufError> {
        let bytes = self.row_bytes(tensor, 0..tensor.rows())?;
        // The elements are bounded by the bytes of the tensor: no block has more than 8 elements per byte.
        let elements = usize::try_from(tensor.elements())
            .ok()
            .filter(|&elements| elements / 8 <= bytes.len())
            .ok_or_else(|| {
                self.out_of_range(tensor, "dimensions of this file".into(), format!("{:?}", tensor.dims))
            })?;
        let mut out = vec![0.0; elements];
        self.dequantize_rows(tensor, 0..tensor.rows(), &mut out)?;
        Ok(out)
    }
}
