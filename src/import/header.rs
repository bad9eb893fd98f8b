//! Headers of safetensors files.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use safetensors::SafeTensors;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::error::ImportError;
use super::limits::Limits;

/// Bytes of the length before the header.
const LENGTH_BYTES: usize = 8;

/// One tensor of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, the slowest varying first.
    pub shape: Vec<u64>,
    /// Start of the data in the file.
    pub start: usize,
    /// End of the data in the file.
    pub end: usize,
}

/// The tensors of a file in the order of its header. `bytes` is the whole file.
///
/// Every range returned lies inside the file and has the length that type and shape ask for. The ranges do not
/// overlap and leave no gap, as the format demands.
pub(crate) fn read(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Vec<Entry>, ImportError> {
    let malformed = |item: &str, offset: usize, expected: String, found: String| {
        ImportError::malformed(path, item, offset as u64, expected, found)
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(malformed("header", 0, "a length of 8 bytes".into(), format!("{} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    ImportError::check_limit(
        path,
        "bytes of the header",
        "max_header_bytes",
        limits.max_header_bytes,
        length,
    )?;
    let Some((header, data)) = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length))
    else {
        let found = format!("{} bytes", rest.len());
        return Err(malformed("header", LENGTH_BYTES, format!("{length} bytes"), found));
    };
    let data_start = bytes.len() - data.len();
    let mut reader = serde_json::Deserializer::from_slice(header);
    let entries = Entries { limits };
    let infos =
        (&mut reader).deserialize_map(entries).and_then(|infos| reader.end().map(|()| infos)).map_err(
            |error| malformed("header", LENGTH_BYTES, "a JSON object of tensors".into(), error.to_string()),
        )?;
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let (start, end) = info.data_offsets;
        let item = format!("tensor `{name}`");
        if start > end || end > data.len() {
            let expected = format!("data offsets in order and up to {}", data.len());
            return Err(malformed(&item, data_start, expected, format!("{start} to {end}")));
        }
        let elements = info.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
        if bits != (end - start).checked_mul(8) {
            let expected = format!("{} bytes of data", end - start);
            let found = format!("shape {:?} of {:?}", info.shape, info.dtype);
            return Err(malformed(&item, data_start + start, expected, found));
        }
        let shape = info.shape.iter().map(|&dim| dim as u64).collect();
        let (start, end) = (data_start + start, data_start + end);
        tensors.push(Entry { name, dtype: info.dtype, shape, start, end });
    }
    // The crate adds offsets without a check; it sees them only now that they are known to lie inside the file. It
    // refuses overlaps, gaps and bytes after the last tensor.
    SafeTensors::read_metadata(bytes).map_err(|error| {
        malformed("header", LENGTH_BYTES, "tensors one after another".into(), error.to_string())
    })?;
    Ok(tensors)
}

/// Reads the header's map, each name once.
struct Entries<'a> {
    limits: &'a Limits,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("`{name}` a second time")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() as u64 >= self.limits.max_tensors {
                let allowed = self.limits.max_tensors;
                return Err(A::Error::custom(format_args!("more tensors than `max_tensors` = {allowed}")));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(tensors)
    }
}
