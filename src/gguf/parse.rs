//! From the bytes of a file to its metadata and tensor list. Everything here treats the bytes as hostile.

use std::collections::HashMap;
use std::path::Path;

use super::error::GgufError;
use super::limits::Limits;
use super::metadata::Metadata;
use super::tensor::{place_tensors, TensorInfo};
use super::types::GgmlType;
use super::value::{Array, Value, ValueType};

/// First bytes of every file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data where the metadata names none.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// Key that names another alignment; its value is a UINT32.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Tensor names take less than this many bytes (ggml's fixed buffer with its final zero).
pub(crate) const MAX_NAME_BYTES: u64 = 64;
/// ggml's number of dimensions.
pub(crate) const MAX_DIMENSIONS: u32 = 4;

/// Smallest encodings, to bound counts by the bytes that are left: a metadata entry is a key length, one byte of
/// key, a type id and one byte of value; a tensor a name length, dimension count, type id and offset.
const MIN_METADATA_BYTES: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// What the sections before the tensor data say.
pub(crate) struct Parsed {
    pub version: u32,
    pub alignment: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    pub data_start: u64,
}

/// A position in the bytes of a file.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(
        &self,
        item: &str,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> GgufError {
        GgufError::Malformed {
            path: self.path.to_owned(),
            item: item.to_owned(),
            offset: offset as u64,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn limit(&self, item: &str, limit: &'static str, allowed: u64, found: u64) -> Result<(), GgufError> {
        if found <= allowed {
            return Ok(());
        }
        let offset = self.at.saturating_sub(8) as u64;
        Err(GgufError::Limit {
            path: self.path.to_owned(),
            item: item.to_owned(),
            offset,
            limit,
            allowed,
            found,
        })
    }

    fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn take(&mut self, item: &str, count: u64) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        match end.and_then(|end| self.bytes.get(self.at..end).map(|taken| (taken, end))) {
            Some((taken, end)) => {
                self.at = end;
                Ok(taken)
            }
            None => Err(self.malformed(
                item,
                self.at,
                format!("{count} more bytes"),
                format!("the end of the file after {}", self.left()),
            )),
        }
    }

    fn u32(&mut self, item: &str) -> Result<u32, GgufError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(item, 4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self, item: &str) -> Result<u64, GgufError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(item, 8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn string(&mut self, item: &str, limits: &Limits) -> Result<&'a [u8], GgufError> {
        let len = self.u64(item)?;
        self.limit(item, "max_string_bytes", limits.max_string_bytes, len)?;
        self.take(item, len)
    }

    /// A string that names something: valid UTF-8 without zero bytes.
    fn name(&mut self, item: &str, limits: &Limits) -> Result<&'a str, GgufError> {
        let start = self.at;
        let bytes = self.string(item, limits)?;
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.contains('\0') => Ok(name),
            _ => Err(self.malformed(
                item,
                start,
                "a name in UTF-8 without zero bytes",
                format!(
                    "{:?}",
                    String::from_utf8_lossy(bytes.get(..bytes.len().min(80)).unwrap_or_default())
                ),
            )),
        }
    }
}

/// Reads everything but the tensor data, and checks that each tensor's data lies in the file.
pub(crate) fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Parsed, GgufError> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.u64("tensor count")?;
    cursor.limit("tensor count", "max_tensors", limits.max_tensors, tensor_count)?;
    let entry_count = cursor.u64("metadata count")?;
    cursor.limit("metadata count", "max_metadata_entries", limits.max_metadata_entries, entry_count)?;
    let needed = entry_count.saturating_mul(MIN_METADATA_BYTES);
    let needed = needed.saturating_add(tensor_count.saturating_mul(MIN_TENSOR_BYTES));
    if needed > cursor.left() as u64 {
        return Err(cursor.malformed(
            "header",
            8,
            format!("room for {entry_count} metadata entries and {tensor_count} tensors (at least {needed} bytes)"),
            format!("a file of {} bytes", bytes.len()),
        ));
    }

    let metadata = read_metadata(&mut cursor, entry_count, limits)?;
    let alignment = read_alignment(&cursor, &metadata)?;
    cursor.limit(ALIGNMENT_KEY, "max_alignment", limits.max_alignment, alignment.into())?;
    let mut tensors = read_tensors(&mut cursor, tensor_count, limits)?;

    let data_start = (cursor.at as u64).checked_next_multiple_of(u64::from(alignment)).unwrap_or(u64::MAX);
    place_tensors(path, bytes, data_start, alignment, &mut tensors)?;
    Ok(Parsed { version, alignment, metadata, tensors, data_start })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let magic = cursor.take("magic", 4)?;
    if magic != MAGIC {
        let found = format!("\"{}\"", magic.escape_ascii());
        return Err(cursor.malformed("the file", 0, "a GGUF file, which begins with \"GGUF\"", found));
    }
    let version = cursor.u32("version")?;
    let unsupported =
        |what: String, hint| GgufError::Unsupported { path: cursor.path.to_owned(), what, hint };
    match version {
        2 | 3 => Ok(version),
        1 => Err(unsupported("GGUF version 1".into(), "convert the file to version 3 with a current tool")),
        // A small number with its bytes reversed.
        v if v & 0xffff == 0 && v != 0 => Err(unsupported(
            format!("big-endian GGUF (version {})", v.swap_bytes()),
            "convert the file to little endian with gguf-py's gguf-convert-endian",
        )),
        v => Err(unsupported(format!("GGUF version {v}"), "versions 2 and 3 are read")),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64, limits: &Limits) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::new(cursor.path);
    let section = cursor.at;
    for number in 0..count {
        let start = cursor.at;
        let key = cursor.name(&format!("key of metadata entry {number}"), limits)?;
        let item = format!("metadata key `{key}`");
        if key.is_empty() {
            return Err(cursor.malformed(&item, start, "a key of at least one byte", "an empty key"));
        }
        if metadata.contains(key) {
            return Err(cursor.malformed(&item, start, "each key once", "the key a second time"));
        }
        let value = read_value(cursor, &item, limits)?;
        metadata.set(key, value);
        cursor.limit(&item, "max_metadata_bytes", limits.max_metadata_bytes, (cursor.at - section) as u64)?;
    }
    Ok(metadata)
}

fn read_value_type(cursor: &mut Cursor<'_>, item: &str) -> Result<ValueType, GgufError> {
    let start = cursor.at;
    let id = cursor.u32(item)?;
    ValueType::from_id(id)
        .ok_or_else(|| cursor.malformed(item, start, "a value type from 0 to 12", format!("type {id}")))
}

fn read_value(cursor: &mut Cursor<'_>, item: &str, limits: &Limits) -> Result<Value, GgufError> {
    let kind = read_value_type(cursor, item)?;
    match kind.size() {
        Some(size) => {
            let start = cursor.at;
            let bytes = cursor.take(item, size as u64)?;
            check_booleans(cursor, item, kind, start, bytes)?;
            Value::scalar(kind, bytes)
                .ok_or_else(|| cursor.malformed(item, start, kind.name(), "other bytes"))
        }
        None if kind == ValueType::String => Ok(Value::String(cursor.string(item, limits)?.to_vec())),
        None => read_array(cursor, item, limits).map(Value::Array),
    }
}

fn check_booleans(
    cursor: &Cursor<'_>,
    item: &str,
    kind: ValueType,
    start: usize,
    bytes: &[u8],
) -> Result<(), GgufError> {
    if kind != ValueType::Bool {
        return Ok(());
    }
    match bytes.iter().enumerate().find(|(_, &byte)| byte > 1) {
        Some((at, byte)) => {
            Err(cursor.malformed(item, start.saturating_add(at), "a BOOL of 0 or 1", format!("{byte}")))
        }
        None => Ok(()),
    }
}

fn read_array(cursor: &mut Cursor<'_>, item: &str, limits: &Limits) -> Result<Array, GgufError> {
    let start = cursor.at;
    let element = read_value_type(cursor, item)?;
    if element == ValueType::Array {
        return Err(cursor.malformed(item, start, "an array of scalars or strings", "an array of arrays"));
    }
    let len = cursor.u64(item)?;
    cursor.limit(item, "max_array_elements", limits.max_array_elements, len)?;
    let smallest = len.saturating_mul(element.size().unwrap_or(8) as u64);
    let count = match usize::try_from(len) {
        Ok(count) if smallest <= cursor.left() as u64 => count,
        _ => {
            return Err(cursor.malformed(
                item,
                cursor.at,
                format!("{len} elements of {} (at least {smallest} bytes)", element.name()),
                format!("the end of the file after {}", cursor.left()),
            ))
        }
    };
    let start = cursor.at;
    if element.size().is_some() {
        let bytes = cursor.take(item, smallest)?;
        check_booleans(cursor, item, element, start, bytes)?;
        return Ok(Array::from_parts(element, count, bytes.to_vec(), Vec::new()));
    }
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        cursor.string(item, limits)?;
        ends.push(cursor.at - start);
    }
    let bytes = cursor.bytes.get(start..cursor.at).unwrap_or_default();
    Ok(Array::from_parts(element, count, bytes.to_vec(), ends))
}

fn read_alignment(cursor: &Cursor<'_>, metadata: &Metadata) -> Result<u32, GgufError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => Ok(*alignment),
        Some(other) => Err(GgufError::WrongValue {
            path: cursor.path.to_owned(),
            key: ALIGNMENT_KEY.to_owned(),
            expected: "a UINT32 that is a power of two",
            found: other.summary(),
        }),
    }
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64, limits: &Limits) -> Result<Vec<TensorInfo>, GgufError> {
    // The count was bounded by the bytes of the file; the capacity is not trusted to it all the same.
    let mut tensors = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(4096));
    let mut names: HashMap<String, ()> = HashMap::new();
    for number in 0..count {
        let info_offset = cursor.at;
        let name = cursor.name(&format!("name of tensor {number}"), limits)?;
        let item = format!("tensor `{name}`");
        if name.len() as u64 >= MAX_NAME_BYTES {
            return Err(cursor.malformed(
                &item,
                info_offset,
                format!("a name of less than {MAX_NAME_BYTES} bytes"),
                format!("{} bytes", name.len()),
            ));
        }
        if names.insert(name.to_owned(), ()).is_some() {
            return Err(cursor.malformed(
                &item,
                info_offset,
                "each tensor name once",
                "the name a second time",
            ));
        }
        let dims_offset = cursor.at;
        let dimensions = cursor.u32(&item)?;
        let allowed = limits.max_dimensions.min(MAX_DIMENSIONS);
        if dimensions > allowed {
            return Err(cursor.malformed(
                &item,
                dims_offset,
                format!("at most {allowed} dimensions"),
                format!("{dimensions}"),
            ));
        }
        let mut dims = Vec::with_capacity(MAX_DIMENSIONS as usize);
        for _ in 0..dimensions {
            dims.push(cursor.u64(&item)?);
        }
        let ty = GgmlType::from_id(cursor.u32(&item)?);
        let offset = cursor.u64(&item)?;
        tensors.push(TensorInfo {
            name: name.to_owned(),
            dims,
            ty,
            offset,
            byte_len: 0,
            info_offset: info_offset as u64,
        });
    }
    Ok(tensors)
}
