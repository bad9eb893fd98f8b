//! Models cut into several files, `NAME-00001-of-000NN.gguf` and so on, seen as one.
//!
//! Each file is a GGUF file of its own with the keys `split.no` (from 0), `split.count` and `split.tensors.count`
//! (of all files together); all other metadata is in the first one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::file::GgufFile;
use super::limits::Limits;
use super::metadata::Metadata;
use super::tensor::TensorInfo;
use super::value::Value;
use super::write::{GgufWriter, TensorSpec};

/// Number of this file, from 0; UINT16.
pub const SPLIT_NUMBER_KEY: &str = "split.no";
/// Number of files; UINT16.
pub const SPLIT_COUNT_KEY: &str = "split.count";
/// Tensors of all files together; INT32.
pub const SPLIT_TENSORS_KEY: &str = "split.tensors.count";

/// The name of file `number` (from 0) of `count`: `NAME-00001-of-00003.gguf` for `NAME.gguf`.
pub fn shard_path(path: &Path, number: usize, count: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1)));
    path.with_file_name(name)
}

/// What a name of a shard says: path without the suffix (`NAME.gguf`), number from 0, count.
fn parse_shard_path(path: &Path) -> Option<(PathBuf, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| {
        (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<usize>().ok())?
    };
    Some((path.with_file_name(format!("{name}.gguf")), digits(number)?.checked_sub(1)?, digits(count)?))
}

/// A model in one or several files.
#[derive(Debug)]
pub struct GgufModel {
    files: Vec<GgufFile>,
    /// File and position in it of each tensor.
    by_name: HashMap<String, (usize, usize)>,
}

impl GgufModel {
    /// Opens a file, and if it is the first of a split model all others, which lie beside it.
    ///
    /// Errors besides those of [`GgufFile::open`]: the file is another than the first, the names or `split.*` keys
    /// of the files do not belong together, a tensor name appears in two files.
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, GgufError> {
        let first = GgufFile::open(path, limits)?;
        let count = match first.metadata().get(SPLIT_COUNT_KEY) {
            None => 1,
            Some(Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_)) => {
                first.metadata().usize(SPLIT_COUNT_KEY)?
            }
            Some(other) => {
                return Err(GgufError::WrongValue {
                    path: first.path().to_owned(),
                    key: SPLIT_COUNT_KEY.to_owned(),
                    expected: "an unsigned integer",
                    found: other.summary(),
                })
            }
        };
        let mut files = vec![first];
        if count > 1 {
            files = Self::open_shards(files, count, limits)?;
        }
        Self::from_files(files)
    }

    fn open_shards(
        mut files: Vec<GgufFile>,
        count: usize,
        limits: &Limits,
    ) -> Result<Vec<GgufFile>, GgufError> {
        let Some(first) = files.first() else { return Ok(files) };
        let path = first.path().to_owned();
        let mismatch = |path: &Path, item: &str, expected: String, found: String| GgufError::Malformed {
            path: path.to_owned(),
            item: item.to_owned(),
            offset: 0,
            expected,
            found,
        };
        if count as u64 > u64::from(limits.max_shards) {
            return Err(GgufError::Limit {
                path,
                item: format!("metadata key `{SPLIT_COUNT_KEY}`"),
                offset: 0,
                limit: "max_shards",
                allowed: limits.max_shards.into(),
                found: count as u64,
            });
        }
        let number = first.metadata().usize(SPLIT_NUMBER_KEY)?;
        let named = parse_shard_path(&path);
        let name = match named {
            Some((name, 0, named_count)) if number == 0 && named_count == count => name,
            _ => {
                let expected = format!(
                    "the first of {count} files, named NAME{}",
                    shard_path(Path::new(""), 0, count).display()
                );
                return Err(mismatch(&path, "split model", expected, format!("file {} of it", number + 1)));
            }
        };
        let total = first.metadata().usize(SPLIT_TENSORS_KEY)?;
        for number in 1..count {
            let path = shard_path(&name, number, count);
            let file = GgufFile::open(&path, limits)?;
            for (key, expected) in
                [(SPLIT_NUMBER_KEY, number), (SPLIT_COUNT_KEY, count), (SPLIT_TENSORS_KEY, total)]
            {
                let found = file.metadata().usize(key)?;
                if found != expected {
                    let item = format!("metadata key `{key}`");
                    return Err(mismatch(&path, &item, expected.to_string(), found.to_string()));
                }
            }
            files.push(file);
        }
        let found: usize = files.iter().map(|file| file.tensors().len()).sum();
        if found != total {
            let item = format!("metadata key `{SPLIT_TENSORS_KEY}`");
            return Err(mismatch(
                &path,
                &item,
                format!("{found}, the tensors of all files"),
                total.to_string(),
            ));
        }
        Ok(files)
    }

    /// A model of files opened before; the first one's metadata counts.
    pub fn from_files(files: Vec<GgufFile>) -> Result<Self, GgufError> {
        let mut by_name = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for (at, tensor) in file.tensors().iter().enumerate() {
                if by_name.insert(tensor.name.clone(), (number, at)).is_some() {
                    return Err(GgufError::Malformed {
                        path: file.path().to_owned(),
                        item: format!("tensor `{}`", tensor.name),
                        offset: tensor.info_offset,
                        expected: "each tensor name once in a split model".into(),
                        found: "the name a second time".into(),
                    });
                }
            }
        }
        if files.is_empty() {
            return Err(GgufError::MissingKey { path: PathBuf::new(), key: "any file".into() });
        }
        Ok(Self { files, by_name })
    }

    /// The files, first to last; at least one.
    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// Drops metadata of all files; see [`GgufFile::forget_metadata`].
    pub fn forget_metadata(&mut self, is_done: impl Fn(&str) -> bool) {
        for file in &mut self.files {
            file.forget_metadata(&is_done);
        }
    }

    /// Path of the first file.
    pub fn path(&self) -> &Path {
        self.metadata().path()
    }

    /// Metadata of the first file, `split.*` included.
    pub fn metadata(&self) -> &Metadata {
        // There is at least one file: see `from_files`.
        self.files[0].metadata()
    }

    /// Metadata of the first file without `split.*`: what the model has when written as one file.
    pub fn joined_metadata(&self) -> Metadata {
        let mut metadata = self.metadata().clone();
        for key in [SPLIT_NUMBER_KEY, SPLIT_COUNT_KEY, SPLIT_TENSORS_KEY] {
            metadata.remove(key);
        }
        metadata
    }

    /// Bytes of all files.
    pub fn file_len(&self) -> u64 {
        self.files.iter().map(GgufFile::file_len).sum()
    }

    /// Number of tensors.
    pub fn tensor_count(&self) -> usize {
        self.by_name.len()
    }

    /// Tensor infos, file after file, in file order. Their offsets are those in their own files.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.files.iter().flat_map(|file| file.tensors())
    }

    /// The tensor of this name and its file, if there is one.
    pub fn get_tensor(&self, name: &str) -> Option<(&GgufFile, &TensorInfo)> {
        let &(number, at) = self.by_name.get(name)?;
        let file = self.files.get(number)?;
        Some((file, file.tensors().get(at)?))
    }

    fn located(&self, name: &str) -> Result<(&GgufFile, &TensorInfo), GgufError> {
        self.get_tensor(name)
            .ok_or_else(|| GgufError::MissingTensor { path: self.path().to_owned(), tensor: name.to_owned() })
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.located(name).map(|(_, tensor)| tensor)
    }

    /// The data of a tensor of this model.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> Result<&[u8], GgufError> {
        self.located(&tensor.name)?.0.tensor_bytes(tensor)
    }

    /// As [`GgufFile::dequantize_rows`].
    pub fn dequantize_rows(
        &self,
        tensor: &TensorInfo,
        rows: std::ops::Range<u64>,
        out: &mut [f32],
    ) -> Result<(), GgufError> {
        self.located(&tensor.name)?.0.dequantize_rows(tensor, rows, out)
    }

    /// As [`GgufFile::tensor_f32`].
    pub fn tensor_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, GgufError> {
        self.located(&tensor.name)?.0.tensor_f32(tensor)
    }
}

/// Writes a model as one file or as several. Tensors are appended in order, as with [`GgufWriter`]; all files get
/// their names at the end.
#[derive(Debug)]
pub struct GgufModelWriter {
    writers: Vec<GgufWriter>,
    current: usize,
}

impl GgufModelWriter {
    /// One group of tensors for each file. One group gives `path` itself, more give the names of
    /// [`shard_path`]. `split.*` keys in `metadata` are replaced by what is true here.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        groups: Vec<Vec<TensorSpec>>,
    ) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let count = groups.len();
        let total: usize = groups.iter().map(Vec::len).sum();
        let (Ok(count_value), Ok(total_value), true) =
            (u16::try_from(count), i32::try_from(total), count > 0)
        else {
            return Err(GgufError::Write {
                path: path.to_owned(),
                item: "a split model".into(),
                expected: "1 to 65535 files with less than 2^31 tensors".into(),
                found: format!("{count} files with {total} tensors"),
            });
        };
        let mut main = metadata.clone();
        for key in [SPLIT_NUMBER_KEY, SPLIT_COUNT_KEY, SPLIT_TENSORS_KEY] {
            main.remove(key);
        }
        let mut writers = Vec::with_capacity(count);
        for (number, group) in groups.into_iter().enumerate() {
            if count == 1 {
                writers.push(GgufWriter::create(path, main.clone(), group)?);
                continue;
            }
            let mut own = if number == 0 { main.clone() } else { Metadata::new(path) };
            if let Some(alignment) = main.get(super::parse::ALIGNMENT_KEY) {
                own.set(super::parse::ALIGNMENT_KEY, alignment.clone());
            }
            own.set(SPLIT_NUMBER_KEY, Value::U16(number as u16));
            own.set(SPLIT_COUNT_KEY, Value::U16(count_value));
            own.set(SPLIT_TENSORS_KEY, Value::I32(total_value));
            writers.push(GgufWriter::create(shard_path(path, number, count), own, group)?);
        }
        Ok(Self { writers, current: 0 })
    }

    /// The writer whose turn it is: the first one that still misses a tensor, or the last.
    fn turn(&mut self) -> &mut GgufWriter {
        while self.current + 1 < self.writers.len() && self.writers[self.current].next_tensor().is_none() {
            self.current += 1;
        }
        &mut self.writers[self.current]
    }

    /// As [`GgufWriter::begin_tensor`].
    pub fn begin_tensor(&mut self, name: &str) -> Result<(), GgufError> {
        self.turn().begin_tensor(name)
    }

    /// As [`GgufWriter::append`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        self.turn().append(bytes)
    }

    /// As [`GgufWriter::end_tensor`].
    pub fn end_tensor(&mut self) -> Result<u64, GgufError> {
        self.turn().end_tensor()
    }

    /// As [`GgufWriter::write_tensor`].
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), GgufError> {
        self.turn().write_tensor(name, bytes)
    }

    /// As [`GgufWriter::replace_metadata`], for keys of the first file.
    pub fn replace_metadata(&mut self, key: &str, value: Value) -> Result<(), GgufError> {
        // There is at least one writer: see `create`.
        self.writers[0].replace_metadata(key, value)
    }

    /// Bytes written so far, header areas included.
    pub fn written(&self) -> u64 {
        self.writers.iter().map(GgufWriter::written).sum()
    }

    /// Fills in all headers, flushes all files to the disk, then names them. Returns the bytes of all files.
    pub fn finish(mut self) -> Result<u64, GgufError> {
        self.writers.iter_mut().try_for_each(GgufWriter::seal)?;
        self.writers.iter_mut().try_for_each(GgufWriter::publish)?;
        Ok(self.written())
    }
}

/// Cuts a list of tensors into groups of at most `max_bytes` of data each (at least one tensor), in order.
/// `bytes_of` gives the size, or an estimate of it.
pub fn group_by_size(
    tensors: Vec<TensorSpec>,
    max_bytes: u64,
    bytes_of: impl Fn(&TensorSpec) -> u64,
) -> Vec<Vec<TensorSpec>> {
    let mut groups: Vec<Vec<TensorSpec>> = vec![Vec::new()];
    let mut filled = 0u64;
    for tensor in tensors {
        let bytes = bytes_of(&tensor);
        match groups.last_mut() {
            Some(group) if group.is_empty() || filled.saturating_add(bytes) <= max_bytes => {
                filled = filled.saturating_add(bytes);
                group.push(tensor);
            }
            _ => {
                filled = bytes;
                groups.push(vec![tensor]);
            }
        }
    }
    groups
}
