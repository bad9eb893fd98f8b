//! Tensor infos, and where each tensor's data lies in the file.

use std::path::Path;

use super::error::GgufError;
use super::types::GgmlType;

/// Magic of our payload (spec section "Payload header").
pub const PAYLOAD_MAGIC: [u8; 4] = *b"WSIC";
/// Position of the payload's total length (u64, little endian) in its header (spec section "Payload header").
pub const PAYLOAD_LENGTH_OFFSET: usize = 8;
/// Bytes of the payload that the container reads: magic, version, three reserved bytes, length.
pub const PAYLOAD_PREFIX: usize = 16;

/// Name, shape, type and place of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file, less than 64 bytes.
    pub name: String,
    /// Dimensions, the fastest varying first: for a weight [columns, rows]. At most 4; none means one element.
    pub dims: Vec<u64>,
    /// Element type.
    pub ty: GgmlType,
    /// Start of the data, relative to the data section.
    pub offset: u64,
    /// Bytes of the data. For unknown types the distance to the next tensor or the end of the file, which may
    /// include padding.
    pub byte_len: u64,
    /// Position of this info in the file, for error messages.
    pub info_offset: u64,
}

impl TensorInfo {
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

    /// Whether the type's id is unknown, so that `byte_len` is only an upper bound.
    pub fn is_unknown(&self) -> bool {
        matches!(self.ty, GgmlType::Unknown(_))
    }
}

/// Number of elements if it and each dimension is from 1 to 2^63-1 (ggml counts in i64).
pub(crate) fn checked_elements(dims: &[u64]) -> Option<u64> {
    let product = dims.iter().try_fold(1u64, |product, &dim| match dim {
        0 => None,
        _ => product.checked_mul(dim),
    });
    product.filter(|&elements| i64::try_from(elements).is_ok())
}

/// Bytes of a tensor of fixed block size; `None` on overflow or broken blocks.
pub(crate) fn fixed_byte_len(ty: GgmlType, dims: &[u64]) -> Option<u64> {
    let columns = dims.first().copied().unwrap_or(1);
    let rows = checked_elements(dims)?.checked_div(columns)?;
    ty.row_bytes(columns)?.checked_mul(rows).filter(|&bytes| i64::try_from(bytes).is_ok())
}

/// Length that a payload of our type states in its header, checked against the bytes at hand.
///
/// `bytes` starts with the payload and may go on after it. Errors are (expected, found).
pub fn payload_len(bytes: &[u8]) -> Result<u64, (String, String)> {
    let length = payload_prefix_len(bytes)?;
    if length > bytes.len() as u64 {
        return Err((
            format!("a payload length of at most the {} bytes left", bytes.len()),
            length.to_string(),
        ));
    }
    Ok(length)
}

/// Length that a payload of our type states in its first bytes, which need not be followed by the rest.
pub(crate) fn payload_prefix_len(bytes: &[u8]) -> Result<u64, (String, String)> {
    let Some(prefix) = bytes.get(..PAYLOAD_PREFIX) else {
        return Err((
            format!("a payload header of {PAYLOAD_PREFIX} bytes"),
            format!("{} bytes", bytes.len()),
        ));
    };
    if !prefix.starts_with(&PAYLOAD_MAGIC) {
        let found = prefix.get(..PAYLOAD_MAGIC.len()).unwrap_or_default();
        return Err(("payload magic \"WSIC\"".into(), format!("{:?}", String::from_utf8_lossy(found))));
    }
    let mut length = [0; 8];
    length.copy_from_slice(prefix.get(PAYLOAD_LENGTH_OFFSET..PAYLOAD_PREFIX).unwrap_or(&[0; 8]));
    let length = u64::from_le_bytes(length);
    if length < PAYLOAD_PREFIX as u64 {
        return Err((format!("a payload length of at least {PAYLOAD_PREFIX}"), length.to_string()));
    }
    Ok(length)
}

/// Checks shape and place of every tensor and fills in `byte_len`.
pub(crate) fn place_tensors(
    path: &Path,
    bytes: &[u8],
    data_start: u64,
    alignment: u32,
    tensors: &mut [TensorInfo],
) -> Result<(), GgufError> {
    let file_len = bytes.len() as u64;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| tensors.get(index).map(|tensor| tensor.offset));
    // Start of the following tensor in the file, or the end of the file; walked from the last to the first.
    let mut end = file_len;
    let mut follower: Option<String> = None;
    for &index in order.iter().rev() {
        let Some(tensor) = tensors.get_mut(index) else { continue };
        let malformed = |expected: String, found: String| GgufError::Malformed {
            path: path.to_owned(),
            item: format!("tensor `{}`", tensor.name),
            offset: tensor.info_offset,
            expected,
            found,
        };
        if checked_elements(&tensor.dims).is_none() {
            return Err(malformed(
                "dimensions of at least 1 with a product below 2^63".into(),
                format!("{:?}", tensor.dims),
            ));
        }
        if !tensor.offset.is_multiple_of(u64::from(alignment)) {
            return Err(malformed(
                format!("an offset that is a multiple of {alignment}"),
                tensor.offset.to_string(),
            ));
        }
        let start = data_start.checked_add(tensor.offset).filter(|&start| start <= file_len);
        let Some(start) = start else {
            return Err(malformed(
                format!("data inside the file of {file_len} bytes"),
                format!("offset {} in the data section at byte {data_start}", tensor.offset),
            ));
        };
        let room = end.saturating_sub(start);
        let byte_len = match tensor.ty {
            GgmlType::Unknown(_) => room,
            GgmlType::Wsic => {
                let from =
                    usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                payload_len(from).map_err(|(expected, found)| {
                    malformed(format!("{expected} (data at byte {start})"), found)
                })?
            }
            ty => fixed_byte_len(ty, &tensor.dims).ok_or_else(|| {
                malformed(
                    format!(
                        "a size below 2^63 bytes and rows of whole blocks of {} elements ({ty})",
                        ty.block_elements().unwrap_or(1)
                    ),
                    format!("dimensions {:?}", tensor.dims),
                )
            })?,
        };
        if byte_len > room {
            let border = match &follower {
                Some(name) => format!("tensor `{name}` at byte {end}"),
                None => format!("the end of the file at byte {end}"),
            };
            return Err(malformed(
                format!("{byte_len} bytes of {} data from byte {start}", tensor.ty),
                format!("{border} after {room} bytes"),
            ));
        }
        tensor.byte_len = byte_len;
        end = start;
        follower = Some(tensor.name.clone());
    }
    Ok(())
}
