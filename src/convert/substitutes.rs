//! Statistics where the model is not run: from an importance matrix, or none at all.
//!
//! An importance matrix holds mean squares of inputs, the diagonal of the second moment: columns get the right steps,
//! but no error of one column is made up for in another. Without any, all inputs count alike.

use super::error::ConvertError;
use super::plan::{Action, PlannedTensor};
use super::progress::Progress;
use super::statistics::{Contents, StatisticsWriter};
use crate::import::imatrix::{self, Entry, ImportanceMatrix};
use crate::import::Limits;
use std::path::Path;

/// Writes statistics for all tensors to be quantized: what the importance matrix (if there is one) says of them, all
/// inputs alike for the others.
pub(super) fn write_substitutes(
    plan: &[PlannedTensor],
    importance: Option<&Path>,
    model_identity: &str,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let matrix = importance.map(|path| imatrix::read(path, &Limits::default())).transpose()?;
    let mut unknown: Vec<&str> = Vec::new();
    let mut diagonals: Vec<(String, Vec<f32>)> = Vec::new();
    let mut contents = Contents {
        diagonal: true,
        model: model_identity.to_owned(),
        source: describe(matrix.as_ref(), importance),
        settings: "without running the model".into(),
        ..Contents::default()
    };
    for tensor in plan.iter().filter(|tensor| matches!(tensor.action, Action::Quantize { .. })) {
        let name = tensor.info.name.as_str();
        let input = name.trim_end_matches(".weight").to_owned();
        let entry = matrix.as_ref().and_then(|matrix| matrix.entries.get(name));
        let known = entry.and_then(|entry| fitting(entry, tensor.columns(), tensor.matrices()));
        match (entry, known) {
            (_, Some(entry)) if entry.mean_squares.len() > 1 => {
                let experts = entry.mean_squares.into_iter().enumerate();
                diagonals.extend(experts.map(|(number, squares)| (format!("{input}.{number}"), squares)));
            }
            (_, Some(entry)) => {
                diagonals.extend(entry.mean_squares.into_iter().map(|squares| (input.clone(), squares)));
            }
            (Some(entry), None) => {
                return Err(ConvertError::Statistics {
                    path: importance.unwrap_or(path).to_owned(),
                    problem: format!(
                        "holds {} values for tensor '{name}', which has {} matrices of {} columns: it was made with \
                         another model",
                        entry.mean_squares.iter().map(Vec::len).sum::<usize>(),
                        tensor.matrices(),
                        tensor.columns()
                    ),
                })
            }
            (None, None) => {
                unknown.push(name);
                diagonals.push((input.clone(), vec![1.0; tensor.columns()]));
            }
        }
        contents.tensors.push((name.to_owned(), input, None));
    }
    contents.covariances = diagonals.iter().map(|(name, values)| (name.clone(), values.len())).collect();
    match importance {
        Some(_) => {
            progress.warn(
                "an importance matrix says how large inputs are, but not how they vary together, nor what errors cost \
                 in the loss: quality is lower than with the converter's own statistics",
            );
            // Those of embeddings are never in such a file.
            unknown.retain(|name| name.starts_with("blk."));
            if let Some(first) = unknown.first() {
                progress.warn(&format!(
                    "the importance matrix does not know {} of the tensors, '{first}' for one: all their inputs count alike",
                    unknown.len()
                ));
            }
        }
        None => progress.warn(
            "all inputs of every tensor count alike, without statistics: expect the quality of about half a bit per \
             weight less. An importance matrix (--imatrix, from llama.cpp's llama-imatrix) makes up for a part of it",
        ),
    }
    let mut writer = StatisticsWriter::create(path, &contents)?;
    for (name, values) in &diagonals {
        writer.diagonal(name, values)?;
    }
    writer.finish()
}

/// The entry with one vector of `columns` for each of `matrices` matrices (or one for all); `None` if it has others.
/// A vector of nothing but zeros says nothing: all inputs alike.
fn fitting(entry: &Entry, columns: usize, matrices: usize) -> Option<Entry> {
    let mut entry = entry.split(columns)?;
    if entry.mean_squares.len() != matrices && entry.mean_squares.len() != 1 {
        return None;
    }
    for squares in &mut entry.mean_squares {
        if squares.iter().all(|square| *square == 0.0) {
            squares.fill(1.0);
        }
    }
    Some(entry)
}

fn describe(matrix: Option<&ImportanceMatrix>, path: Option<&Path>) -> String {
    let (Some(matrix), Some(path)) = (matrix, path) else { return "none: all inputs alike".into() };
    let mut text = format!("importance matrix {}", path.file_name().unwrap_or_default().to_string_lossy());
    if !matrix.datasets.is_empty() {
        text.push_str(&format!(" of {}", matrix.datasets.join(", ")));
    }
    if let Some(chunks) = matrix.chunks {
        text.push_str(&format!(", {chunks} chunks"));
    }
    text
}
