//! Files mapped into memory, or held there: the bytes behind a container.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::error::GgufError;

/// The bytes of one file.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Mapped, read only.
    Mapped(Mmap),
    /// Held in memory.
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps a regular file.
    ///
    /// The file must not be changed or truncated while the map lives: the operating system would end the process on
    /// an access beyond its end.
    pub(crate) fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |action| move |source| GgufError::Io { path: path.to_owned(), action, source };
        let file = File::open(path).map_err(io("open the file"))?;
        let status = file.metadata().map_err(io("query the file"))?;
        if !status.is_file() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(io("map the file")(source));
        }
        if status.len() == 0 {
            return Ok(FileBytes::Owned(Vec::new()));
        }
        // SAFETY: the map is private to this value and only ever read. What mapping cannot exclude is that another
        // process changes or truncates the file meanwhile; this is the documented precondition of `open`, and all
        // users check lengths and indices against the map's own length, never one re-read from the file.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map the file"))?;
        Ok(FileBytes::Mapped(map))
    }

    /// Lets the operating system take back the memory of a range that was read, which so no longer counts as used by
    /// this process. Reading it again gives the same bytes, more slowly. Ranges outside are ignored.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let FileBytes::Mapped(map) = self {
            if range.start < range.end && range.end <= map.len() {
                let len = range.end - range.start;
                // SAFETY: the map is read only and backed by the file, nothing was or can be written to it, so pages that
                // are dropped come back with the file's bytes; slices into them stay valid. A failure changes nothing.
                let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, len) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = FileBytes::open(&path).unwrap();
        assert!(*bytes == content[..]);
        for range in [0..100_000, 5000..70_001, 5..5, 99_999..100_000, 0..100_001] {
            bytes.release(range);
            assert!(*bytes == content[..]);
        }
        FileBytes::Owned(content).release(0..10);
    }
}
