//! From a model and calibration tokens to a statistics file.

use super::error::ConvertError;
use super::options::{Calibration, Options};
use super::progress::Progress;
use super::statistics::{Contents, StatisticsFile, StatisticsWriter};
use crate::model::{LayerRunner, Model, Tokenizer, EMBEDDING};
use crate::stats::{self, CalibrationTokens, SelfCalibration};
use std::path::Path;
use std::sync::Arc;

/// Tokens of one calibration sequence.
const CONTEXT: usize = 512;

/// Name of the head's covariance.
const HEAD: &str = "head";

/// The statistics at `path`, computed if they are not there yet.
pub(super) fn collect(
    network: &Arc<Model>,
    model_identity: &str,
    options: &Options,
    path: &Path,
    progress: &dyn Progress,
) -> Result<StatisticsFile, ConvertError> {
    if path.exists() {
        return StatisticsFile::open(path);
    }
    let tokens = calibration_tokens(network, options, progress)?;
    write_statistics(network, model_identity, &tokens, path, progress)?;
    StatisticsFile::open(path)
}

fn calibration_tokens(
    network: &Arc<Model>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<CalibrationTokens, ConvertError> {
    let tokenizer = Tokenizer::from_metadata(network.source().metadata())?;
    let tokens = match &options.calibration {
        Calibration::Text(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConvertError::File {
                path: path.clone(),
                action: "read the calibration text",
                source,
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            CalibrationTokens::from_text(&tokenizer, &name, &text, CONTEXT, options.calibration_tokens)?
        }
        Calibration::Model => {
            let settings = SelfCalibration {
                tokens: options.calibration_tokens,
                context: CONTEXT,
                seed: options.seed,
                ..SelfCalibration::default()
            };
            progress.begin("sampling", options.calibration_tokens as u64);
            let mut done = 0;
            settings.run(network, &tokenizer, &mut |tokens| {
                progress.advance((tokens - done) as u64, "the model writes its own calibration text");
                done = tokens;
            })?
        }
    };
    let linears = (0..network.hyperparameters().layers).flat_map(|layer| network.linears(layer));
    let widest = linears.map(|slot| slot.shape.columns).max().unwrap_or(0);
    if let Some(warning) = stats::too_few_tokens(tokens.total(), widest) {
        progress.warn(&warning);
    }
    Ok(tokens)
}

fn write_statistics(
    network: &Model,
    model_identity: &str,
    tokens: &CalibrationTokens,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let h = network.hyperparameters();
    let mut contents = Contents {
        model: model_identity.to_owned(),
        source: format!(
            "{}, {} tokens, fingerprint {:016x}",
            tokens.source,
            tokens.total(),
            tokens.fingerprint()
        ),
        ..Contents::default()
    };
    for layer in 0..h.layers {
        for slot in network.linears(layer) {
            let name = format!("blk.{layer}.{}", slot.input.name());
            if !contents.covariances.iter().any(|(known, _)| *known == name) {
                contents.covariances.push((name.clone(), slot.shape.columns));
            }
            contents.tensors.push((slot.tensor, name, None));
        }
    }
    contents.covariances.push((HEAD.to_owned(), h.width));
    contents.tensors.push((network.head_tensor().to_owned(), HEAD.to_owned(), None));
    if network.head_tensor() != EMBEDDING {
        contents.covariances.push(("embedding".to_owned(), h.width));
        contents.tensors.push((EMBEDDING.to_owned(), "embedding".to_owned(), None));
    }
    let mut writer = StatisticsWriter::create(path, &contents)?;
    progress.begin("statistics", h.layers as u64);
    let mut runner = LayerRunner::new(network, &tokens.sequences)?;
    for layer in 0..h.layers {
        let weights = network.load_layer(layer)?;
        let wanted = stats::input_kinds(&network.linears(layer));
        let moments = stats::collect_and_advance(&mut runner, &weights, &wanted)?;
        for (kind, covariance) in moments.inputs() {
            writer.covariance(&format!("blk.{layer}.{}", kind.name()), covariance.width(), |i, j| {
                covariance.get(i, j)
            })?;
        }
        progress.advance(1, &format!("block {layer}"));
    }
    let head = stats::collect_head(&runner)?;
    if let Some((_, covariance)) = head.inputs().first() {
        // A tied embedding is looked up as well: every coordinate of a row then counts alike.
        let tied = network.head_tensor() == EMBEDDING;
        let diagonal = covariance.diagonal();
        let lookup = if tied { diagonal.iter().sum::<f64>() / diagonal.len() as f64 } else { 0.0 };
        writer.covariance(HEAD, h.width, |i, j| covariance.get(i, j) + if i == j { lookup } else { 0.0 })?;
        if !tied {
            writer.covariance("embedding", h.width, |i, j| if i == j { 1.0 } else { 0.0 })?;
        }
    }
    writer.finish()
}
