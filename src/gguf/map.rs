//! Files mapped into memory, or held there: the bytes behind a container.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

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
