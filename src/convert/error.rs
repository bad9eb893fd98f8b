//! Why a conversion fails.

use crate::gguf::GgufError;
use crate::model::ModelError;
use crate::payload::encode::EncodeError;
use crate::quantize::QuantizeError;
use std::path::PathBuf;

/// Failure of a conversion; nothing was written under the output's name.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The container.
    #[error(transparent)]
    Container(#[from] GgufError),
    /// The input, a folder or a file.
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Calibration and statistics.
    #[error(transparent)]
    Calibration(#[from] crate::stats::StatsError),
    /// A calibration text.
    #[error("{}: {problem}", path.display())]
    Text {
        /// File.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file of statistics.
    #[error("{}: {problem}", path.display())]
    Statistics {
        /// File.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The quantizer.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The encoder.
    #[error("tensor '{tensor}': {source}")]
    Encode {
        /// Tensor.
        tensor: String,
        /// What is wrong.
        source: EncodeError,
    },
    /// A file of the conversion.
    #[error("{}: cannot {action}: {source}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A tensor that cannot be stored as asked for.
    #[error("tensor '{tensor}' as {ty}: {problem}")]
    Store {
        /// Tensor.
        tensor: String,
        /// Type of the output.
        ty: crate::gguf::GgmlType,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An override.
    #[error("--tensor: '{tensor}': {problem}")]
    Override {
        /// Tensor or pattern.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A target that cannot be reached.
    #[error("{0}")]
    Target(String),
    /// The water level of a plan whose tensors are quantized elsewhere, and have not been yet.
    #[error("{} tensors are to be quantized at the steps of the plan first", keys.len())]
    Unmeasured {
        /// Number of each tensor in the plan, and its step (or minus its rate).
        keys: Vec<(usize, f64)>,
    },
    /// Too little room for the output and the temporary files beside it.
    #[error(
        "{}: the disk has {free} bytes left, the output and temporary files need about {needed}: make room or choose \
         another folder",
        path.display()
    )]
    DiskSpace {
        /// The output.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A plan or a part of a model.
    #[error("{}: {problem}", path.display())]
    Part {
        /// File.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Work of an earlier run that does not fit.
    #[error("{}: {problem}", path.display())]
    Resume {
        /// Folder of the interrupted conversion.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}
