//! Makes the checksums of damaged payloads right again, so that deeper checks are reached.

use super::forge::crc;

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?) as usize)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Recomputes every checksum whose place can be found; `length` also the announced length.
pub fn resign(bytes: &mut [u8], length: bool) {
    if length && bytes.len() >= 16 {
        let total = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&total.to_le_bytes());
    }
    let Some(count) = u32_at(bytes, 24).filter(|&count| 36 + 8 * count <= bytes.len()) else { return };
    let body = 36 + 8 * count;
    let mut start = body;
    for matrix in 0..count {
        let end = body.saturating_add(u32_at(bytes, 32 + 8 * matrix).unwrap_or(0));
        if end < start || end > bytes.len() {
            break;
        }
        resign_matrix(&mut bytes[start..end]);
        start = end;
    }
    let header = crc(&bytes[..body - 4]);
    put(bytes, body - 4, header);
}

fn resign_matrix(bytes: &mut [u8]) -> Option<()> {
    let header = u32_at(bytes, 0).filter(|&header| header >= 28 && header <= bytes.len())?;
    let directory = 24 + u32_at(bytes, 20)?;
    let mut start = header;
    let mut at = directory;
    while at + 12 <= header - 4 {
        let end = header.saturating_add(u32_at(bytes, at)?);
        if end < start || end > bytes.len() {
            break;
        }
        let tile = crc(&bytes[start..end]);
        put(bytes, at + 8, tile);
        (start, at) = (end, at + 12);
    }
    let own = crc(&bytes[..header - 4]);
    put(bytes, header - 4, own);
    Some(())
}
