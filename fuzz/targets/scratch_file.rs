//! Files for readers that take paths: in memory where there is such a folder, one set for each process.

use std::path::PathBuf;

/// A folder of this process's own, made if it is not there.
pub fn folder(target: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = base.join(format!("wsic-fuzz-{target}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
