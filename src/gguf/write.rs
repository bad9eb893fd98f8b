//! Streaming writer: header area reserved first, tensor data appended once, header patched at the end.
//!
//! The sizes of entropy-coded tensors are known only after encoding, but the size of the header depends on names,
//! dimensions and metadata alone. So the data goes to its final place in a temporary file; [`GgufWriter::finish`]
//! fills in the offsets, flushes to disk and renames. A writer that is dropped before leaves nothing behind.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::GgufError;
use super::metadata::Metadata;
use super::parse::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, MAX_NAME_BYTES};
use super::tensor::{checked_elements, fixed_byte_len, payload_prefix_len, PAYLOAD_PREFIX};
use super::types::GgmlType;
use super::value::{encode_string, Value, ValueType};

/// Name, shape and type of a tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Unique name of less than 64 bytes.
    pub name: String,
    /// Dimensions, the fastest varying first; at most 4.
    pub dims: Vec<u64>,
    /// Element type.
    pub ty: GgmlType,
}

impl TensorSpec {
    /// Elements along the first dimension.
    pub fn columns(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Rows of all matrices together: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.dims.iter().skip(1).fold(1, |rows: u64, &dim| rows.saturating_mul(dim))
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.columns())
    }
}

impl From<&super::tensor::TensorInfo> for TensorSpec {
    fn from(info: &super::tensor::TensorInfo) -> Self {
        Self { name: info.name.clone(), dims: info.dims.clone(), ty: info.ty }
    }
}

/// The tensor that is being appended.
#[derive(Debug)]
struct Open {
    /// Bytes so far.
    len: u64,
    /// The first of them, to check payloads of our type.
    prefix: Vec<u8>,
}

/// Writes one GGUF file (version 3 unless told otherwise, little endian).
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    /// Taken when the file has its final name.
    temporary: Option<PathBuf>,
    out: BufWriter<File>,
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<TensorSpec>,
    offsets: Vec<u64>,
    header_len: u64,
    /// Bytes of the data section so far.
    data_len: u64,
    open: Option<Open>,
}

impl GgufWriter {
    /// Checks metadata and tensor specs, creates a temporary file beside `path` and reserves the header area.
    ///
    /// The alignment is that of the metadata key `general.alignment`, or 32.
    pub fn create(
        path: impl Into<PathBuf>,
        metadata: Metadata,
        tensors: Vec<TensorSpec>,
    ) -> Result<Self, GgufError> {
        let path = path.into();
        let alignment = check_header(&path, &metadata, &tensors)?;
        let header = encode_header(3, alignment, &metadata, &tensors, &vec![0; tensors.len()]);
        let temporary = temporary_path(&path)?;
        // Before it is there, so that it is known whenever it is there.
        begin_unfinished(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(|source| {
            forget_unfinished(&temporary);
            GgufError::Io { path: path.clone(), action: "create the file", source }
        })?;
        let mut writer = Self {
            path,
            temporary: Some(temporary),
            out: BufWriter::with_capacity(1 << 20, file),
            version: 3,
            alignment,
            metadata,
            offsets: Vec::with_capacity(tensors.len()),
            tensors,
            header_len: header.len() as u64,
            data_len: 0,
            open: None,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes version 2 or 3; they differ in nothing else here.
    pub fn set_version(&mut self, version: u32) -> Result<(), GgufError> {
        if !matches!(version, 2 | 3) {
            return Err(self.misuse("the version", "2 or 3", version.to_string()));
        }
        self.version = version;
        Ok(())
    }

    /// Path of the finished file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far, header area included.
    pub fn written(&self) -> u64 {
        self.header_len.saturating_add(self.data_len)
    }

    /// The tensor that comes next, or is being appended; `None` when all are there.
    pub fn next_tensor(&self) -> Option<&TensorSpec> {
        let at = if self.open.is_some() { self.offsets.len().checked_sub(1)? } else { self.offsets.len() };
        self.tensors.get(at)
    }

    /// Replaces the value of a key that was given at creation, by one of the same encoded size: for numbers known
    /// only at the end, such as the lengths of the payloads.
    pub fn replace_metadata(&mut self, key: &str, value: Value) -> Result<(), GgufError> {
        let item = || format!("metadata key `{key}`");
        let old = match self.metadata.get(key) {
            Some(old) => old,
            None => return Err(self.misuse(item(), "a key given at creation", "a new key")),
        };
        let size = |value: &Value| {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            bytes.len()
        };
        if size(old) != size(&value) {
            let (old, new) = (old.summary(), value.summary());
            return Err(self.misuse(item(), format!("a value of the same size as {old}"), new));
        }
        if key == ALIGNMENT_KEY {
            return Err(self.misuse(item(), "the alignment given at creation", value.summary()));
        }
        self.metadata.set(key, value);
        Ok(())
    }

    /// Starts the next tensor, which must be `name`.
    pub fn begin_tensor(&mut self, name: &str) -> Result<(), GgufError> {
        if self.open.is_some() {
            return Err(self.misuse(
                format!("tensor `{name}`"),
                "end_tensor() of the tensor before",
                "begin_tensor()",
            ));
        }
        match self.tensors.get(self.offsets.len()) {
            Some(spec) if spec.name == name => {}
            Some(spec) => {
                let expected = format!("tensor `{}`, the next in order", spec.name);
                return Err(self.misuse(format!("tensor `{name}`"), expected, "another"));
            }
            None => return Err(self.misuse(format!("tensor `{name}`"), "no more tensors", "one more")),
        }
        self.offsets.push(self.data_len);
        self.open = Some(Open { len: 0, prefix: Vec::new() });
        Ok(())
    }

    /// Appends bytes to the tensor begun.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        let Some(open) = &mut self.open else {
            return Err(self.misuse("tensor data", "begin_tensor() before append()", "append()"));
        };
        let missing = PAYLOAD_PREFIX.saturating_sub(open.prefix.len()).min(bytes.len());
        open.prefix.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        open.len = open.len.saturating_add(bytes.len() as u64);
        self.put(bytes)?;
        self.data_len = self.data_len.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Appends `length` zero bytes to the tensor begun, as a hole where the file system has holes.
    pub fn append_zeros(&mut self, length: u64) -> Result<(), GgufError> {
        let Some(open) = &mut self.open else {
            return Err(self.misuse("tensor data", "begin_tensor() before append_zeros()", "append_zeros()"));
        };
        open.len = open.len.saturating_add(length);
        let end = self.written().saturating_add(length);
        self.out.seek(SeekFrom::Start(end)).map_err(|source| GgufError::Io {
            path: self.temporary.clone().unwrap_or_else(|| self.path.clone()),
            action: "seek in the file",
            source,
        })?;
        self.data_len = self.data_len.saturating_add(length);
        Ok(())
    }

    /// Ends the tensor begun: checks its length against type and dimensions (or the payload's own header) and
    /// pads. Returns the length in bytes.
    pub fn end_tensor(&mut self) -> Result<u64, GgufError> {
        let spec = self.offsets.len().checked_sub(1).and_then(|at| self.tensors.get(at));
        let (Some(open), Some(spec)) = (&self.open, spec) else {
            return Err(self.misuse("tensor data", "begin_tensor() before end_tensor()", "end_tensor()"));
        };
        let expected = match spec.ty {
            GgmlType::Unknown(_) => Ok(open.len),
            GgmlType::Wsic => payload_prefix_len(&open.prefix),
            ty => Ok(fixed_byte_len(ty, &spec.dims).unwrap_or(0)),
        };
        let item = format!("tensor `{}`", spec.name);
        let len = open.len;
        match expected {
            Ok(expected) if expected == len => {}
            Ok(expected) => {
                return Err(self.misuse(item, format!("{expected} bytes"), format!("{len} bytes")));
            }
            Err((expected, found)) => return Err(self.misuse(item, expected, found)),
        }
        let padded = self.data_len.next_multiple_of(u64::from(self.alignment));
        let mut missing = padded - self.data_len;
        const ZEROS: [u8; 4096] = [0; 4096];
        while missing > 0 {
            let count = missing.min(ZEROS.len() as u64);
            self.put(ZEROS.get(..count as usize).unwrap_or_default())?;
            missing -= count;
        }
        self.data_len = padded;
        self.open = None;
        Ok(len)
    }

    /// Writes the next tensor, which must be `name`, at once.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), GgufError> {
        self.begin_tensor(name)?;
        self.append(bytes)?;
        self.end_tensor().map(|_| ())
    }

    /// Fills in the header, flushes everything to the disk and gives the file its name, replacing an older one.
    /// Returns the size of the file.
    pub fn finish(mut self) -> Result<u64, GgufError> {
        self.seal()?;
        self.publish()?;
        Ok(self.written())
    }

    /// Everything of `finish` but the renaming.
    pub(crate) fn seal(&mut self) -> Result<(), GgufError> {
        if let Some(next) = self.next_tensor() {
            let expected = format!("data of all {} tensors", self.tensors.len());
            let found = format!("nothing or a part for tensor `{}`", next.name);
            return Err(self.misuse("the file", expected, found));
        }
        let header =
            encode_header(self.version, self.alignment, &self.metadata, &self.tensors, &self.offsets);
        if header.len() as u64 != self.header_len {
            let found = format!("{} bytes", header.len());
            return Err(self.misuse("the header", format!("the reserved {} bytes", self.header_len), found));
        }
        let io = |path: &Path, action| {
            let path = path.to_owned();
            move |source| GgufError::Io { path, action, source }
        };
        self.out.seek(SeekFrom::Start(0)).map_err(io(&self.path, "seek in the file"))?;
        self.put(&header)?;
        self.out.flush().map_err(io(&self.path, "write the file"))?;
        // Zeros at the end are no bytes yet.
        self.out.get_ref().set_len(self.written()).map_err(io(&self.path, "write the file"))?;
        self.out.get_ref().sync_all().map_err(io(&self.path, "flush the file to the disk"))
    }

    /// The renaming of `finish`.
    pub(crate) fn publish(&mut self) -> Result<(), GgufError> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path).map_err(|source| GgufError::Io {
                path: self.path.clone(),
                action: "rename the finished file",
                source,
            })?;
            forget_unfinished(temporary);
            self.temporary = None;
            sync_folder(&self.path);
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        self.out.write_all(bytes).map_err(|source| GgufError::Io {
            path: self.temporary.clone().unwrap_or_else(|| self.path.clone()),
            action: "write the file",
            source,
        })
    }

    fn misuse(
        &self,
        item: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> GgufError {
        write_error(&self.path, item, expected, found)
    }
}

/// Files that are being written, under their temporary names.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files of all writers of this process, which is about to end: their drops will not run.
pub fn remove_unfinished() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // Nobody is left to tell if this fails; the name says that the file is unfinished.
        let _ = std::fs::remove_file(path);
    }
}

/// From now on [`remove_unfinished`] removes this temporary file.
pub(crate) fn begin_unfinished(path: &Path) {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

/// Whether [`remove_unfinished`] would remove this file.
#[cfg(all(test, feature = "cli"))]
pub(crate) fn is_unfinished(path: &Path) -> bool {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|other| other == path)
}

/// The file has its final name, or is no more.
pub(crate) fn forget_unfinished(path: &Path) {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != path);
}

impl Drop for GgufWriter {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            forget_unfinished(&temporary);
            // Nobody is left to tell if this fails; the name says that the file is unfinished.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn write_error(
    path: &Path,
    item: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> GgufError {
    GgufError::Write {
        path: path.to_owned(),
        item: item.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// A name in the same folder that no other writer of this process, nor a living other process, uses.
fn temporary_path(path: &Path) -> Result<PathBuf, GgufError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(write_error(path, "the file", "a path with a file name", "none"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{}.partial", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(hidden))
}

/// Makes the renaming durable where folders can be flushed; elsewhere the renaming stands all the same.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Checks what no valid file can hold; returns the alignment.
fn check_header(path: &Path, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<u32, GgufError> {
    for (key, value) in metadata.iter() {
        if key.is_empty() || key.contains('\0') {
            return Err(write_error(path, "metadata", "keys of at least one byte, none of them zero", key));
        }
        if let Value::Array(array) = value {
            if array.element_type() == ValueType::Array {
                return Err(write_error(path, format!("metadata key `{key}`"), "no array of arrays", "one"));
            }
        }
    }
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => *alignment,
        Some(other) => {
            let item = format!("metadata key `{ALIGNMENT_KEY}`");
            return Err(write_error(path, item, "a UINT32 that is a power of two", other.summary()));
        }
    };
    let mut names = HashSet::new();
    for spec in tensors {
        let item = || format!("tensor `{}`", spec.name);
        if spec.name.len() as u64 >= MAX_NAME_BYTES || spec.name.contains('\0') {
            let expected = format!("a name of less than {MAX_NAME_BYTES} bytes, none of them zero");
            return Err(write_error(path, item(), expected, format!("{} bytes", spec.name.len())));
        }
        if !names.insert(spec.name.as_str()) {
            return Err(write_error(path, item(), "each name once", "the name a second time"));
        }
        if spec.dims.len() > MAX_DIMENSIONS as usize || checked_elements(&spec.dims).is_none() {
            let expected =
                format!("at most {MAX_DIMENSIONS} dimensions of at least 1 with a product below 2^63");
            return Err(write_error(path, item(), expected, format!("{:?}", spec.dims)));
        }
        if spec.ty.block().is_some() && fixed_byte_len(spec.ty, &spec.dims).is_none() {
            let expected = format!("rows of whole blocks ({}) and a size below 2^63 bytes", spec.ty);
            return Err(write_error(path, item(), expected, format!("dimensions {:?}", spec.dims)));
        }
    }
    Ok(alignment)
}

/// The bytes before the tensor data, padding included.
fn encode_header(
    version: u32,
    alignment: u32,
    metadata: &Metadata,
    tensors: &[TensorSpec],
    offsets: &[u64],
) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        encode_string(key.as_bytes(), &mut out);
        out.extend_from_slice(&value.value_type().id().to_le_bytes());
        value.encode(&mut out);
    }
    for (spec, offset) in tensors.iter().zip(offsets) {
        encode_string(spec.name.as_bytes(), &mut out);
        out.extend_from_slice(&(spec.dims.len() as u32).to_le_bytes());
        spec.dims.iter().for_each(|dim| out.extend_from_slice(&dim.to_le_bytes()));
        out.extend_from_slice(&spec.ty.id().to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    out
}
