//! Importance matrices: the mean square of every input of every linear layer, as llama.cpp's `llama-imatrix` writes
//! them, in the old format (`.dat`) and the new one (GGUF).
//!
//! They are the diagonal of the second moment alone. With it WaterSIC knows how to scale columns, but not how errors
//! of one column can be made up for in another: a mode of lower quality.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::ImportError;
use super::limits::Limits;
use crate::gguf::{self, FileBytes, GgufFile, Metadata};

/// What was measured for one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// For each matrix of the weight (one, or one for each expert) the mean square of each input. A matrix that never
    /// had an input, such as an expert that was never chosen, has 1 everywhere: all inputs alike.
    ///
    /// Old files do not say how many experts there are: all of them are one vector here, see [`Entry::split`].
    pub mean_squares: Vec<Vec<f32>>,
    /// For each matrix how often it was used, in the file's own unit (calls or tokens); 0 if never.
    pub counts: Vec<f64>,
}

impl Entry {
    /// The same with one vector of `columns` for each matrix; `None` if the values do not come out even.
    pub fn split(&self, columns: usize) -> Option<Entry> {
        let mut split = Entry { mean_squares: Vec::new(), counts: Vec::new() };
        for (values, &count) in self.mean_squares.iter().zip(&self.counts) {
            if columns == 0 || values.is_empty() || !values.len().is_multiple_of(columns) {
                return None;
            }
            for part in values.chunks(columns) {
                split.mean_squares.push(part.to_vec());
                split.counts.push(count);
            }
        }
        Some(split)
    }
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// By the name of the weight.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts that were read, as far as the file says.
    pub datasets: Vec<String>,
    /// Number of chunks of text; `None` if the file does not say.
    pub chunks: Option<u64>,
    /// Tokens of a chunk; `None` if the file does not say.
    pub chunk_tokens: Option<u64>,
}

/// Reads a file of either format.
///
/// Errors: a file that breaks the format, exceeds the limits, or holds a sum of squares that is negative or not
/// finite.
pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<ImportanceMatrix, ImportError> {
    let path = path.as_ref();
    let bytes = FileBytes::open(path)?;
    if bytes.starts_with(b"GGUF") {
        let limits = gguf::Limits { max_tensors: limits.max_imatrix_entries, ..gguf::Limits::default() };
        return read_gguf(&GgufFile::open(path, &limits)?);
    }
    read_legacy(path, &bytes, limits)
}

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

fn read_gguf(file: &GgufFile) -> Result<ImportanceMatrix, ImportError> {
    let (path, metadata) = (file.path(), file.metadata());
    let kind = metadata.optional("general.type", Metadata::text)?;
    if kind.as_deref() != Some("imatrix") {
        let found = kind.map_or_else(|| "nothing".to_owned(), |kind| format!("{kind:?}"));
        return Err(ImportError::value(path, "general.type", "\"imatrix\"", found));
    }
    let datasets = metadata.optional("imatrix.datasets", |metadata, key| {
        Ok(metadata.strings(key)?.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    })?;
    let mut matrix = ImportanceMatrix {
        entries: BTreeMap::new(),
        datasets: datasets.unwrap_or_default(),
        chunks: metadata.optional("imatrix.chunk_count", Metadata::u64)?,
        chunk_tokens: metadata.optional("imatrix.chunk_size", Metadata::u64)?,
    };
    for tensor in file.tensors() {
        let Some(name) = tensor.name.strip_suffix(SUMS) else {
            let base = tensor.name.strip_suffix(COUNTS);
            if base.is_some_and(|base| file.get_tensor(&format!("{base}{SUMS}")).is_none()) {
                let expected = format!("a tensor `…{SUMS}` beside it");
                return Err(ImportError::tensor(path, &tensor.name, expected, "none"));
            }
            continue;
        };
        let counts_name = format!("{name}{COUNTS}");
        let Some(counts_tensor) = file.get_tensor(&counts_name) else {
            return Err(ImportError::MissingTensor { path: path.to_owned(), tensor: counts_name });
        };
        if counts_tensor.elements() != tensor.rows() {
            let expected = format!("{} counts, one for each matrix", tensor.rows());
            let found = format!("dimensions {:?}", counts_tensor.dims);
            return Err(ImportError::tensor(path, &counts_name, expected, found));
        }
        // Columns fit: the tensor is as long as the bytes it has in the file.
        let columns = usize::try_from(tensor.columns()).unwrap_or(usize::MAX);
        let sums = file.tensor_f32(tensor)?;
        let counts = file.tensor_f32(counts_tensor)?;
        let mut entry = Entry { mean_squares: Vec::new(), counts: Vec::new() };
        for (sums, count) in sums.chunks(columns.max(1)).zip(counts) {
            let wrong = |expected: &str, found: f32| ImportError::tensor(path, &tensor.name, expected, found);
            if !count.is_finite() || count < 0.0 {
                return Err(wrong("counts from 0", count));
            }
            let means = means(sums, count.into());
            entry.mean_squares.push(means.map_err(|found| wrong("sums of squares from 0", found))?);
            entry.counts.push(count.into());
        }
        matrix.entries.insert(name.to_owned(), entry);
    }
    Ok(matrix)
}

/// Sums divided by their count; all 1 if nothing was counted. The error is a sum that is negative or not finite.
fn means(sums: &[f32], count: f64) -> Result<Vec<f32>, f32> {
    if let Some(bad) = sums.iter().find(|sum| !sum.is_finite() || **sum < 0.0) {
        return Err(*bad);
    }
    if count == 0.0 {
        return Ok(vec![1.0; sums.len()]);
    }
    Ok(sums.iter().map(|&sum| (f64::from(sum) / count) as f32).collect())
}

/// Reads numbers and texts one after another.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize, item: &str) -> Result<&'a [u8], ImportError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        match end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) {
            Some((end, taken)) => {
                self.at = end;
                Ok(taken)
            }
            None => {
                let found = format!("{} to the end of the file", self.bytes.len().saturating_sub(self.at));
                Err(ImportError::malformed(self.path, item, self.at as u64, format!("{length} bytes"), found))
            }
        }
    }

    /// An i32 from `least`.
    fn integer(&mut self, item: &str, least: i32) -> Result<u32, ImportError> {
        let at = self.at as u64;
        let bytes = self.take(4, item)?;
        let value = bytes.try_into().map(i32::from_le_bytes).unwrap_or(-1);
        match u32::try_from(value) {
            Ok(number) if value >= least => Ok(number),
            _ => {
                let expected = format!("an integer from {least}");
                Err(ImportError::malformed(self.path, item, at, expected, value))
            }
        }
    }

    fn text(&mut self, item: &str, limits: &Limits) -> Result<String, ImportError> {
        let length = self.integer(item, 0)?;
        let allowed = limits.max_imatrix_name_bytes;
        ImportError::check_limit(self.path, item, "max_imatrix_name_bytes", allowed, length.into())?;
        let at = self.at as u64;
        let bytes = self.take(length as usize, item)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|error| ImportError::malformed(self.path, item, at, "UTF-8", error))
    }
}

/// Numbers are little endian: count of entries; for each a name, calls, number of values, and the values times calls;
/// then, in newer files, chunks and the name of the text.
fn read_legacy(path: &Path, bytes: &[u8], limits: &Limits) -> Result<ImportanceMatrix, ImportError> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let count = cursor.integer("number of entries", 1)?;
    let allowed = limits.max_imatrix_entries;
    ImportError::check_limit(path, "entries", "max_imatrix_entries", allowed, count.into())?;
    let mut matrix = ImportanceMatrix::default();
    for number in 0..count {
        let item = format!("entry {number}");
        let name = cursor.text(&item, limits)?;
        let item = format!("entry {number} (`{name}`)");
        let calls = cursor.integer(&item, 0)?;
        let length = cursor.integer(&item, 1)? as usize;
        let at = cursor.at as u64;
        let Some(length_bytes) = length.checked_mul(4) else {
            return Err(ImportError::malformed(path, item, at, "values inside the file", length));
        };
        let (values, _) = cursor.take(length_bytes, &item)?.as_chunks::<4>();
        let sums: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let means = means(&sums, calls.into()).map_err(|found| {
            ImportError::malformed(path, item.clone(), at, "sums of squares from 0", found)
        })?;
        let entry = Entry { mean_squares: vec![means], counts: vec![calls.into()] };
        if matrix.entries.insert(name, entry).is_some() {
            return Err(ImportError::malformed(path, item, at, "each name once", "the name a second time"));
        }
    }
    if cursor.at < bytes.len() {
        matrix.chunks = Some(cursor.integer("number of chunks", 0)?.into());
    }
    if cursor.at < bytes.len() {
        matrix.datasets.push(cursor.text("name of the text", limits)?);
    }
    if cursor.at < bytes.len() {
        let found = format!("{} more bytes", bytes.len() - cursor.at);
        return Err(ImportError::malformed(path, "the end", cursor.at as u64, "the end of the file", found));
    }
    Ok(matrix)
}
