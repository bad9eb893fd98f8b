//! The safetensors files of a folder, mapped, seen as one list of tensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::Value;

use super::error::ImportError;
use super::files::{kind, Files};
use super::header::{self, Entry};
use crate::gguf::FileBytes;

const INDEX: &str = "model.safetensors.index.json";

/// One file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: FileBytes,
}

/// A tensor as the checkpoint stores it.
#[derive(Debug)]
pub(crate) struct SourceTensor {
    entry: Entry,
    shard: usize,
}

impl SourceTensor {
    /// Name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// Dimensions, the slowest varying first.
    pub fn shape(&self) -> &[u64] {
        &self.entry.shape
    }
}

/// All tensors of a model.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    shards: Vec<Shard>,
    tensors: Vec<SourceTensor>,
    by_name: HashMap<String, usize>,
}

impl Checkpoint {
    /// Maps all files: those of the index, or else all `model*.safetensors`.
    pub fn open(files: Files<'_>) -> Result<Self, ImportError> {
        let index = read_index(files)?;
        let names: Vec<String> = match &index {
            Some(index) => index.values().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            None => find_files(files)?,
        };
        let limit = files.limits.max_shards;
        ImportError::check_limit(files.folder, "safetensors files", "max_shards", limit, names.len() as u64)?;
        let indexed = names.iter().filter(|_| index.is_some());
        let missing: Vec<&str> = indexed.map(String::as_str).filter(|name| !files.has(name)).collect();
        if let Some(first) = missing.first() {
            let hint = format!("the index `{INDEX}` names it; missing files: {}", missing.join(", "));
            return Err(ImportError::MissingFile { path: files.path(first), hint });
        }
        let mut checkpoint = Self { shards: Vec::new(), tensors: Vec::new(), by_name: HashMap::new() };
        for name in names {
            checkpoint.add(files, &name)?;
        }
        if let Some(index) = index {
            checkpoint.check_index(files, &index)?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, files: Files<'_>, name: &str) -> Result<(), ImportError> {
        let path = files.path(name);
        let bytes = FileBytes::open(&path)?;
        let entries = header::read(&path, &bytes, files.limits)?;
        let total = self.tensors.len().saturating_add(entries.len()) as u64;
        ImportError::check_limit(&path, "tensors so far", "max_tensors", files.limits.max_tensors, total)?;
        for entry in entries {
            if let Some(other) = self.by_name.insert(entry.name.clone(), self.tensors.len()) {
                let other = self.tensors.get(other).and_then(|tensor| self.shards.get(tensor.shard));
                let found =
                    other.map_or_else(String::new, |shard| format!("one in {}", shard.path.display()));
                return Err(ImportError::tensor(&path, &entry.name, "the name once in all files", found));
            }
            self.tensors.push(SourceTensor { entry, shard: self.shards.len() });
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    /// The index and the files must list the same tensors.
    fn check_index(&self, files: Files<'_>, index: &BTreeMap<String, String>) -> Result<(), ImportError> {
        for (tensor, file) in index {
            let shard = self.find(tensor).and_then(|at| self.tensors.get(at)).map(|tensor| tensor.shard);
            let path = shard.and_then(|shard| self.shards.get(shard)).map(|shard| shard.path.as_path());
            match path {
                Some(path) if path.file_name().is_some_and(|name| name == file.as_str()) => {}
                Some(path) => {
                    let expected = format!("it in {file}, by the index");
                    return Err(ImportError::tensor(path, tensor, expected, "it here"));
                }
                None => {
                    let path = files.path(file);
                    return Err(ImportError::MissingTensor { path, tensor: tensor.clone() });
                }
            }
        }
        match self.tensors.iter().find(|tensor| !index.contains_key(tensor.name())) {
            Some(tensor) => {
                let path = self.path_of(tensor);
                Err(ImportError::tensor(path, tensor.name(), format!("it in {INDEX}"), "no entry there"))
            }
            None => Ok(()),
        }
    }

    /// All tensors, file after file.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// Position of the tensor of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A tensor by its position.
    pub fn tensor(&self, at: usize) -> Option<&SourceTensor> {
        self.tensors.get(at)
    }

    /// File that holds a tensor.
    pub fn path_of(&self, tensor: &SourceTensor) -> &Path {
        self.shards.get(tensor.shard).map_or(Path::new(""), |shard| shard.path.as_path())
    }

    /// Data of a tensor of this checkpoint.
    pub fn bytes_of(&self, tensor: &SourceTensor) -> &[u8] {
        let shard = self.shards.get(tensor.shard);
        shard.and_then(|shard| shard.bytes.get(tensor.entry.start..tensor.entry.end)).unwrap_or_default()
    }

    /// Lets the operating system take back the memory of a tensor's data that was read.
    pub fn release(&self, tensor: &SourceTensor) {
        if let Some(shard) = self.shards.get(tensor.shard) {
            shard.bytes.release(tensor.entry.start..tensor.entry.end);
        }
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes.len() as u64).sum()
    }
}

/// The file of each tensor, from the index; `None` if there is no index.
fn read_index(files: Files<'_>) -> Result<Option<BTreeMap<String, String>>, ImportError> {
    let Some(index) = files.object(INDEX)? else { return Ok(None) };
    let path = files.path(INDEX);
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        let found = index.get("weight_map").map_or_else(|| "nothing".into(), kind);
        return Err(ImportError::value(&path, "weight_map", "an object", found));
    };
    let limit = files.limits.max_tensors;
    ImportError::check_limit(&path, "tensors of the index", "max_tensors", limit, map.len() as u64)?;
    let mut tensors = BTreeMap::new();
    for (tensor, file) in map {
        // A plain name: an index must not lead out of its folder.
        let plain = |name: &&str| name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']);
        match file.as_str().filter(plain) {
            Some(name) => tensors.insert(tensor.clone(), name.to_owned()),
            None => {
                let key = format!("weight_map.{tensor}");
                return Err(ImportError::value(&path, &key, "the name of a safetensors file", kind(file)));
            }
        };
    }
    if tensors.is_empty() {
        return Err(ImportError::value(&path, "weight_map", "at least one tensor", "none"));
    }
    Ok(Some(tensors))
}

/// `model*.safetensors`, sorted.
fn find_files(files: Files<'_>) -> Result<Vec<String>, ImportError> {
    let io = |source| ImportError::Io { path: files.folder.to_owned(), action: "list the folder", source };
    let mut names = Vec::new();
    let mut other = None;
    for entry in std::fs::read_dir(files.folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("model") && name.ends_with(".safetensors") {
            names.push(name.to_owned());
            let limit = files.limits.max_shards;
            let found = names.len() as u64;
            ImportError::check_limit(files.folder, "safetensors files", "max_shards", limit, found)?;
        } else if name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".pth") {
            other = Some(name.to_owned());
        }
    }
    names.sort_unstable();
    if names.is_empty() {
        let hint = match other {
            Some(other) => format!(
                "the folder holds weights in another form ({other}); load and save the model with transformers \
                 (`save_pretrained`) to get model.safetensors"
            ),
            None => "the folder holds no weights".into(),
        };
        return Err(ImportError::MissingFile { path: files.path("model.safetensors"), hint });
    }
    Ok(names)
}
