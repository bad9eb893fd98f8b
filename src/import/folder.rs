//! A Hugging Face folder, open for conversion.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::architecture::{self, Family};
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::error::ImportError;
use super::files::Files;
use super::limits::Limits;
use super::naming;
use super::plan::Plan;
use super::tensor::{ImportedTensor, Reader};
use super::tokenizer;
use crate::gguf::{GgmlType, Metadata, Value};

/// Version of ggml's quantization formats, which all converters state.
const QUANTIZATION_VERSION: u32 = 2;

/// What a caller may know better than the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Value of `tokenizer.ggml.pre`; by default it is found out.
    pub pre_tokenizer: Option<String>,
}

/// A model folder: metadata and tensors as a GGUF file would have them. Opening reads everything but the weights,
/// which are mapped and converted on demand.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    metadata: Metadata,
    reader: Reader,
    tensors: Vec<ImportedTensor>,
    by_name: HashMap<String, usize>,
    warnings: Vec<String>,
}

impl Folder {
    /// Opens a folder; as [`open_with`](Self::open_with) without options.
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, ImportError> {
        Self::open_with(path, limits, &Options::default())
    }

    /// Opens a folder and checks names, shapes and types of all tensors against its configuration.
    ///
    /// The files must not be changed or truncated while the folder is open: the operating system would end the
    /// process on an access beyond their end.
    ///
    /// Errors: files that are missing or broken, an unknown architecture, a tensor that is missing, misshapen or has
    /// no place, a LoRA adapter, a tokenizer that cannot be told.
    pub fn open_with(
        path: impl AsRef<Path>,
        limits: &Limits,
        options: &Options,
    ) -> Result<Self, ImportError> {
        let path = path.as_ref();
        let files = Files { folder: path, limits };
        refuse_adapter(files)?;
        let config = Config::open(files)?;
        let family = architecture::find(&config)?;
        let checkpoint = Checkpoint::open(files)?;
        let mut parameters = Metadata::new(path);
        let mut plan = Plan::new(&config, checkpoint)?;
        (family.describe)(&config, &mut plan, &mut parameters)?;
        let (reader, tensors, mut warnings) = plan.finish(family.name)?;
        let metadata = gather(files, &config, family, parameters, &tensors, options, &mut warnings)?;
        let by_name = tensors.iter().enumerate().map(|(at, tensor)| (tensor.spec.name.clone(), at)).collect();
        Ok(Self { path: path.to_owned(), metadata, reader, tensors, by_name, warnings })
    }

    /// Path given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata as stock converters write it. `general.file_type` is that of [`native_type`](Self::native_type).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of a file: embedding, layer after layer, head.
    pub fn tensors(&self) -> &[ImportedTensor] {
        &self.tensors
    }

    /// The tensor of this ggml name, if there is one.
    pub fn get_tensor(&self, name: &str) -> Option<&ImportedTensor> {
        self.by_name.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// What is lost or guessed, for the user to read; empty if nothing is.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Bytes of the safetensors files.
    pub fn file_bytes(&self) -> u64 {
        self.reader.checkpoint.file_bytes()
    }

    /// The type that holds the weights as they are: F32, F16 or BF16, that of the embedding.
    pub fn native_type(&self) -> GgmlType {
        native_type(&self.tensors)
    }

    /// Writes rows `rows` of `tensor` as floats, row after row; rows count through all matrices of a stack. `out`
    /// holds `rows.len() * columns` values.
    pub fn read_f32(
        &self,
        tensor: &ImportedTensor,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        self.reader.read_f32(tensor, rows, out)
    }

    /// Lets the operating system take back the memory of a tensor's data that was read. It can be read again.
    pub fn release(&self, tensor: &ImportedTensor) {
        self.reader.release(tensor);
    }

    /// Appends rows of `tensor` in type `ty` (F32, F16, BF16 or Q8_0). Rows that the checkpoint holds in this type
    /// are copied bit for bit.
    pub fn append_rows(
        &self,
        tensor: &ImportedTensor,
        rows: Range<u64>,
        ty: GgmlType,
        out: &mut Vec<u8>,
    ) -> Result<(), ImportError> {
        self.reader.append_rows(tensor, rows, ty, &mut Vec::new(), out)
    }
}

fn native_type(tensors: &[ImportedTensor]) -> GgmlType {
    tensors.iter().find(|tensor| tensor.spec.dims.len() > 1).map_or(GgmlType::F16, |tensor| tensor.spec.ty)
}

/// Metadata in the usual order: what it is, hyperparameters, tokenizer.
fn gather(
    files: Files<'_>,
    config: &Config,
    family: &Family,
    parameters: Metadata,
    tensors: &[ImportedTensor],
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<Metadata, ImportError> {
    let mut metadata = Metadata::new(files.folder);
    metadata.set("general.architecture", family.name.into());
    metadata.set("general.type", "model".into());
    naming::describe(files, config, tensors, &mut metadata)?;
    for (key, value) in parameters.iter() {
        metadata.set(key, value.clone());
    }
    let file_type = super::plain::file_type(native_type(tensors)).unwrap_or(1);
    metadata.set("general.file_type", Value::U32(file_type));
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    let embedding = tensors.iter().find(|tensor| tensor.spec.name == "token_embd.weight");
    let vocabulary = embedding.map_or(0, ImportedTensor::rows);
    let pre = options.pre_tokenizer.as_deref();
    let input = tokenizer::Input { files, config, vocabulary, pre };
    tokenizer::describe(&input, family.tokenizer, &mut metadata, warnings)?;
    Ok(metadata)
}

/// A folder that only holds changes to another model.
fn refuse_adapter(files: Files<'_>) -> Result<(), ImportError> {
    if files.has("adapter_config.json") && !files.has("config.json") {
        let hint = "merge it into its base model first (`merge_and_unload` of PEFT) and convert the result";
        return Err(ImportError::unsupported(files.folder, "a LoRA adapter", hint));
    }
    Ok(())
}
