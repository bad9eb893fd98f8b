//! Finished parts of a conversion on disk, beside the output: what `--resume` goes on with.
//!
//! A payload is stored under the tensor's number and the step it was quantized with; since everything is
//! deterministic, a run that is started again asks for the same parts and finds them. Files are written under a
//! temporary name and renamed, so that a part is whole or absent.

use super::error::ConvertError;
use super::identity::difference;
use crate::payload::{Limits, Payload};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FINGERPRINT: &str = "fingerprint.txt";

/// The folder of one conversion.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Folder for `output`.
    pub(super) fn folder(output: &Path) -> PathBuf {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        output.with_file_name(name)
    }

    /// Whether the folder of an interrupted conversion to `output` is there.
    pub(super) fn exists(output: &Path) -> bool {
        Self::folder(output).join(FINGERPRINT).exists()
    }

    /// Opens the folder: an empty one, or with `resume` that of an interrupted conversion with the same fingerprint.
    pub(super) fn open(output: &Path, fingerprint: &str, resume: bool) -> Result<Self, ConvertError> {
        let folder = Self::folder(output);
        let io = |action| {
            let path = folder.clone();
            move |source| ConvertError::File { path, action, source }
        };
        if folder.exists() {
            // Killed before the fingerprint was written, a conversion has left nothing to go on with.
            if resume && folder.join(FINGERPRINT).exists() {
                let found =
                    fs::read_to_string(folder.join(FINGERPRINT)).map_err(io("read its fingerprint"))?;
                if found != fingerprint {
                    let (old, new) = difference(&found, fingerprint);
                    return Err(ConvertError::Resume {
                        path: folder,
                        problem: format!(
                            "the interrupted conversion was begun {old}, this one {new}; give the same settings, or \
                             leave out --resume to start over"
                        ),
                    });
                }
                return Ok(Self { folder });
            }
            fs::remove_dir_all(&folder).map_err(io("remove the folder of an earlier conversion"))?;
        }
        fs::create_dir_all(&folder).map_err(io("create the folder"))?;
        let spool = Self { folder };
        spool.write(FINGERPRINT, fingerprint.as_bytes())?;
        Ok(spool)
    }

    /// Path of a file in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn part_name(number: usize, step: f64) -> String {
        format!("{number:05}-{:016x}.payload", step.to_bits())
    }

    /// The payload of tensor `number` at `step`, if an earlier run finished it and it is undamaged.
    pub(super) fn find(&self, number: usize, step: f64) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(&Self::part_name(number, step))).ok()?;
        let payload = Payload::open(&bytes, &Limits::default()).ok()?;
        let whole = payload
            .matrices()
            .iter()
            .all(|matrix| (0..matrix.tile_count()).all(|tile| matrix.verify_tile(tile).is_ok()));
        whole.then_some(bytes)
    }

    /// The error of a part that was stored and cannot be found.
    pub(super) fn missing(&self, tensor: &str) -> ConvertError {
        ConvertError::Resume {
            path: self.folder.clone(),
            problem: format!(
                "the part of tensor '{tensor}' is missing or damaged; run the command again with --resume"
            ),
        }
    }

    /// Stores a payload.
    pub(super) fn store(&self, number: usize, step: f64, payload: &[u8]) -> Result<(), ConvertError> {
        self.write(&Self::part_name(number, step), payload)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ConvertError> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}.tmp"));
        let written = (|| -> io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)
        })();
        written.map_err(|source| ConvertError::File { path, action: "write", source })
    }

    /// Removes the folder: the output is complete.
    pub(super) fn remove(self) -> Result<(), ConvertError> {
        fs::remove_dir_all(&self.folder).map_err(|source| ConvertError::File {
            path: self.folder.clone(),
            action: "remove the folder of finished parts",
            source,
        })
    }
}

impl Drop for Spool {
    /// A folder without finished parts is of no use to anybody.
    fn drop(&mut self) {
        let Ok(mut entries) = fs::read_dir(&self.folder) else { return };
        if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == FINGERPRINT)) {
            // It is no worse to leave it.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::encode::{encode, EncodeOptions};
    use crate::payload::{Geometry, QuantizedMatrix, ScaleKind, StreamColumn, Trellis};

    fn payload() -> Vec<u8> {
        let matrix = QuantizedMatrix {
            rows: 4,
            columns: 2,
            geometry: Geometry::new(16, 1).unwrap(),
            trellis: Trellis::EightState,
            tensor_scale: 1.0,
            column_scale_kind: ScaleKind::Log8,
            stream: vec![StreamColumn { input: 1, scale: 3, integers: vec![0, 2, -2, 4] }],
            row_scales: None,
        };
        encode(&[matrix], &EncodeOptions::default()).unwrap()
    }

    #[test]
    fn parts_survive_only_with_the_same_fingerprint_and_undamaged() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model.gguf");
        let spool = Spool::open(&output, "a\nb\n", false).unwrap();
        spool.store(3, 0.5, &payload()).unwrap();
        assert_eq!(spool.find(3, 0.5), Some(payload()));
        assert_eq!(spool.find(3, 0.25), None);

        let spool = Spool::open(&output, "a\nb\n", true).unwrap();
        assert_eq!(spool.find(3, 0.5), Some(payload()));
        let error = Spool::open(&output, "a\nc\n", true).unwrap_err().to_string();
        assert!(error.contains("begun b, this one c;"), "{error}");

        let mut damaged = payload();
        *damaged.last_mut().unwrap() ^= 1;
        spool.store(3, 0.5, &damaged).unwrap();
        assert_eq!(spool.find(3, 0.5), None);

        spool.store(4, 0.5, &payload()).unwrap();
        assert!(Spool::exists(&output));
        let spool = Spool::open(&output, "a\nb\n", false).unwrap();
        assert_eq!(spool.find(4, 0.5), None, "starting over forgets everything");
        spool.remove().unwrap();
        assert!(!Spool::folder(&output).exists() && !Spool::exists(&output));
        drop(Spool::open(&output, "a\nb\n", false).unwrap());
        assert!(!Spool::folder(&output).exists(), "nothing was finished");
    }
}
