//! Either kind of model to convert from: GGUF files or a Hugging Face folder.

use std::ops::Range;
use std::path::Path;

use super::error::ImportError;
use super::folder::{Folder, Options};
use super::limits::Limits;
use super::naming::refuse_foreign_kinds;
use crate::gguf::{self, GgufModel, Metadata, TensorSpec};

/// Bytes handed on at a time.
const BLOCK: u64 = 1 << 24;

/// A model, seen the same way whatever it is stored in.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there is one of it
pub enum Input {
    /// One or several GGUF files.
    Gguf(GgufModel),
    /// A Hugging Face folder.
    Folder(Box<Folder>),
}

impl Input {
    /// Opens a folder if `path` is one, else a GGUF file (the first one of a split model).
    ///
    /// Errors: those of [`Folder::open_with`] and [`GgufModel::open`], and GGUF files that hold no model (adapters,
    /// projectors, importance matrices).
    pub fn open(path: impl AsRef<Path>, limits: &Limits, options: &Options) -> Result<Self, ImportError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Folder::open_with(path, limits, options).map(|folder| Input::Folder(Box::new(folder)));
        }
        let model = GgufModel::open(path, &gguf::Limits::default())?;
        refuse_foreign_kinds(path, model.metadata())?;
        Ok(Input::Gguf(model))
    }

    /// Path of the folder or of the first file.
    pub fn path(&self) -> &Path {
        match self {
            Input::Gguf(model) => model.path(),
            Input::Folder(folder) => folder.path(),
        }
    }

    /// Metadata of the model as one file would have it.
    pub fn joined_metadata(&self) -> Metadata {
        match self {
            Input::Gguf(model) => model.joined_metadata(),
            Input::Folder(folder) => folder.metadata().clone(),
        }
    }

    /// Metadata; of split GGUF files that of the first one.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Input::Gguf(model) => model.metadata(),
            Input::Folder(folder) => folder.metadata(),
        }
    }

    /// Name, dimensions and stored type of every tensor, in file order.
    pub fn specs(&self) -> Vec<TensorSpec> {
        match self {
            Input::Gguf(model) => model.tensors().map(TensorSpec::from).collect(),
            Input::Folder(folder) => folder.tensors().iter().map(|tensor| tensor.spec.clone()).collect(),
        }
    }

    /// Name, dimensions and stored type of a tensor, if there is one of this name.
    pub fn get_spec(&self, name: &str) -> Option<TensorSpec> {
        match self {
            Input::Gguf(model) => model.get_tensor(name).map(|(_, tensor)| TensorSpec::from(tensor)),
            Input::Folder(folder) => folder.get_tensor(name).map(|tensor| tensor.spec.clone()),
        }
    }

    /// Bytes that a tensor takes as it is stored; of tensors of unknown type an upper bound. 0 if there is no such
    /// tensor.
    pub fn stored_bytes(&self, name: &str) -> u64 {
        match self {
            Input::Gguf(model) => model.get_tensor(name).map_or(0, |(_, tensor)| tensor.byte_len),
            Input::Folder(folder) => folder.get_tensor(name).map_or(0, |tensor| {
                tensor.spec.ty.row_bytes(tensor.columns()).unwrap_or(0).saturating_mul(tensor.rows())
            }),
        }
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        match self {
            Input::Gguf(model) => model.file_len(),
            Input::Folder(folder) => folder.file_bytes(),
        }
    }

    /// What is lost or guessed in the input, for the user to read.
    pub fn warnings(&self) -> &[String] {
        match self {
            Input::Gguf(_) => &[],
            Input::Folder(folder) => folder.warnings(),
        }
    }

    fn missing(&self, name: &str) -> ImportError {
        ImportError::MissingTensor { path: self.path().to_owned(), tensor: name.to_owned() }
    }

    /// Writes rows of a tensor as floats, row after row; rows count through all matrices of a stack. `out` holds
    /// `rows.len() * columns` values.
    pub fn dequantize_rows(&self, name: &str, rows: Range<u64>, out: &mut [f32]) -> Result<(), ImportError> {
        match self {
            Input::Gguf(model) => Ok(model.dequantize_rows(model.tensor(name)?, rows, out)?),
            Input::Folder(folder) => {
                folder.read_f32(folder.get_tensor(name).ok_or_else(|| self.missing(name))?, rows, out)
            }
        }
    }

    /// Lets the operating system take back the memory of a tensor's data that was read. It can be read again.
    pub fn release(&self, name: &str) {
        match self {
            Input::Gguf(model) => {
                if let Some((file, tensor)) = model.get_tensor(name) {
                    file.release(tensor);
                }
            }
            Input::Folder(folder) => {
                if let Some(tensor) = folder.get_tensor(name) {
                    folder.release(tensor);
                }
            }
        }
    }

    /// Hands the data of a tensor, in its stored type, to `sink` in pieces.
    pub fn copy_tensor<E: From<ImportError>>(
        &self,
        name: &str,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Input::Gguf(model) => {
                let tensor = model.tensor(name).map_err(ImportError::from)?;
                sink(model.tensor_bytes(tensor).map_err(ImportError::from)?)
            }
            Input::Folder(folder) => {
                let tensor = folder.get_tensor(name).ok_or_else(|| self.missing(name))?;
                let step = (BLOCK / tensor.columns().saturating_mul(4).max(1)).max(1);
                let mut bytes = Vec::new();
                let mut first = 0;
                while first < tensor.rows() {
                    let last = first.saturating_add(step).min(tensor.rows());
                    bytes.clear();
                    folder.append_rows(tensor, first..last, tensor.spec.ty, &mut bytes)?;
                    sink(&bytes)?;
                    first = last;
                }
                Ok(())
            }
        }
    }
}
