//! The whole conversion: from a model to a file with tensors of our type.
//!
//! In: [`options::Options`]. Out: the output file and an [`Outcome`]. The order of work: plan every tensor, collect
//! statistics (one layer at a time, into a file), find the common water level by quantizing and storing, write the
//! output. Finished parts wait in a folder beside the output, so an interrupted conversion can go on. Prints nothing.

mod allocate;
mod collect;
mod drift;
mod error;
mod geometry;
mod identity;
mod keys;
mod merge;
pub mod options;
mod output;
mod plain;
mod plan;
mod predict;
mod prepare;
mod progress;
mod quantize_tensor;
mod run;
mod spool;
mod statistics;
mod steps;
mod substitutes;
mod waves;

pub use collect::CALIBRATION_CONTEXT;
pub use error::ConvertError;
pub use geometry::geometry;
pub use keys::*;
pub use merge::merge;
pub use plain::{convert_plain, PlainOptions};
pub use predict::{predict, PhasePrediction, Prediction};
pub use prepare::calibrate;
pub use progress::{Progress, Silent};
pub use run::{convert, plan_steps, Outcome, TensorRecord};
pub use statistics::{Moment, StatisticsFile, TensorStatistics};
pub use steps::Steps;

/// Folder beside `output` where a conversion keeps finished parts until it is done.
pub fn partial_folder(output: &std::path::Path) -> std::path::PathBuf {
    spool::Spool::folder(output)
}

/// Whether an interrupted conversion to `output` left parts that [`Options::resume`](options::Options::resume) goes on with.
pub fn is_interrupted(output: &std::path::Path) -> bool {
    spool::Spool::exists(output)
}
