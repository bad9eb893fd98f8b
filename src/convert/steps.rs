//! The step of every tensor, written down: what lets several processes quantize one model.
//!
//! All tensors of a model share one water level, and each tensor's step follows from it. Once the steps are fixed,
//! every tensor can be quantized by itself, from the model, the statistics and its step.

use super::error::ConvertError;
use super::identity::{difference, hexadecimal};
use crate::gguf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FORMAT: &str = "wsic-steps";
const VERSION: u32 = 1;

/// Steps of all quantized tensors of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Everything that the steps depend on, one item a line.
    pub(super) fingerprint: String,
    /// By name: the step, or minus the bits per weight of tensors with a rate of their own.
    pub(super) keys: BTreeMap<String, f64>,
    /// Whether sizes measured at these steps met the target.
    pub(super) settled: bool,
}

/// What the file says. Steps are written as the bits of the number, so that no digit is lost.
#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    version: u32,
    fingerprint: Vec<String>,
    settled: bool,
    steps: BTreeMap<String, String>,
}

impl Steps {
    /// Whether the sizes of all tensors at these steps are known and meet the target.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Tells these steps from others.
    pub(super) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.fingerprint);
        for (name, key) in &self.keys {
            hash.update(format!("{name} {:016x};", key.to_bits()));
        }
        hexadecimal(&hash.finalize())
    }

    /// Reads a file written by [`write`](Self::write).
    ///
    /// # Errors
    /// No such file, or one that holds something else.
    pub fn read(path: &Path) -> Result<Self, ConvertError> {
        let io = |source| ConvertError::File { path: path.to_owned(), action: "read the plan", source };
        let problem =
            |problem: &str| ConvertError::Part { path: path.to_owned(), problem: problem.to_owned() };
        let text = std::fs::read(path).map_err(io)?;
        let document: Document =
            serde_json::from_slice(&text).map_err(|error| problem(&format!("is no plan: {error}")))?;
        if document.format != FORMAT || document.version != VERSION {
            return Err(problem("is no plan of this version; `wsic plan` makes one"));
        }
        let mut keys = BTreeMap::new();
        for (name, text) in document.steps {
            let bits = u64::from_str_radix(&text, 16).ok().map(f64::from_bits);
            let key = bits.filter(|key| key.is_finite() && *key != 0.0);
            keys.insert(name, key.ok_or_else(|| problem("holds a step that is no number"))?);
        }
        let fingerprint = document.fingerprint.iter().map(|line| format!("{line}\n")).collect();
        Ok(Self { fingerprint, keys, settled: document.settled })
    }

    /// Writes the steps as JSON; the file appears when it is complete.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ConvertError> {
        let io = |source| ConvertError::File { path: path.to_owned(), action: "write the plan", source };
        let document = Document {
            format: FORMAT.into(),
            version: VERSION,
            fingerprint: self.fingerprint.lines().map(str::to_owned).collect(),
            settled: self.settled,
            steps: self
                .keys
                .iter()
                .map(|(name, key)| (name.clone(), format!("{:016x}", key.to_bits())))
                .collect(),
        };
        let text = serde_json::to_string_pretty(&document).map_err(|error| io(error.into()))?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        gguf::begin_unfinished(&temporary);
        let written =
            std::fs::write(&temporary, text + "\n").and_then(|()| std::fs::rename(&temporary, path));
        gguf::forget_unfinished(&temporary);
        written.map_err(io)
    }

    /// Fails unless the steps are those of a conversion with this fingerprint.
    pub(super) fn check(&self, fingerprint: &str, path: &Path) -> Result<(), ConvertError> {
        if self.fingerprint == fingerprint {
            return Ok(());
        }
        let (old, new) = difference(&self.fingerprint, fingerprint);
        Err(ConvertError::Part {
            path: path.to_owned(),
            problem: format!(
                "was planned {old}, this conversion was begun {new}; give the same model, statistics and settings"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_digit_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        let keys = [("a".to_owned(), 0.1 + 0.2), ("b".to_owned(), -3.0)].into_iter().collect();
        let steps = Steps { fingerprint: "x\ny z\n".into(), keys, settled: true };
        steps.write(&path).unwrap();
        let read = Steps::read(&path).unwrap();
        assert_eq!(read, steps);
        assert_eq!(read.hash(), steps.hash());
        assert!(read.check("x\ny z\n", &path).is_ok());
        let error = read.check("x\ny w\n", &path).unwrap_err().to_string();
        assert!(error.contains("planned y z,") && error.contains("begun y w;"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        assert!(Steps::read(&path).is_err());
    }
}
