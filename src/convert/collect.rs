//! From a model and calibration tokens to a statistics file.

use super::error::ConvertError;
use super::progress::Progress;
use super::statistics::{Contents, StatisticsWriter};
use crate::model::{LayerRunner, Model, Tokenizer, EMBEDDING};
use crate::stats::{
    self, smoothed, CalibrationSource, CalibrationTokens, Covariance, SelfCalibration, Sensitivity,
    SensitivitySettings, StatsError, Tape,
};
use std::path::Path;
use std::sync::Arc;

/// Tokens of one calibration sequence.
pub const CALIBRATION_CONTEXT: usize = 512;

/// Name of the head's covariance.
const HEAD: &str = "head";
/// Name of the covariance of an embedding that is not the head too.
const LOOKUP: &str = "embedding";

/// What statistics are taken from, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct CollectOptions<'a> {
    /// Text to calibrate with; `None` lets the model write its own.
    pub(super) text: Option<&'a Path>,
    /// Tokens, at most.
    pub(super) tokens: usize,
    /// Seed of everything random.
    pub(super) seed: u64,
    /// Whether the loss is differentiated.
    pub(super) loss_weights: bool,
}

/// Runs the model and writes the statistics file `path`.
pub(super) fn collect(
    network: &Arc<Model>,
    model_identity: &str,
    options: &CollectOptions,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let tokens = calibration_tokens(network, options, progress)?;
    let sensitivity = options
        .loss_weights
        .then(|| SensitivitySettings { seed: options.seed, ..SensitivitySettings::default() });
    write_statistics(network, model_identity, &tokens, sensitivity, path, progress)
}

/// The error of a text that gives no statistics, with the text's name.
fn unfit_text(path: &Path, text: &str, error: StatsError) -> ConvertError {
    let StatsError::Calibration { expected, found } = error else { return error.into() };
    let found = if text.trim().is_empty() { "an empty text".to_owned() } else { found };
    ConvertError::Text {
        path: path.to_owned(),
        problem: format!(
            "calibration needs {expected}, and this is {found}: give a longer text or more --calibration-tokens, or leave \
             out --calibration, and the model writes its own text"
        ),
    }
}

fn calibration_tokens(
    network: &Arc<Model>,
    options: &CollectOptions,
    progress: &dyn Progress,
) -> Result<CalibrationTokens, ConvertError> {
    let tokenizer = Tokenizer::from_metadata(network.source().metadata())?;
    let tokens = match options.text {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConvertError::File {
                path: path.to_owned(),
                action: "read the calibration text",
                source,
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            CalibrationTokens::from_text(&tokenizer, &name, &text, CALIBRATION_CONTEXT, options.tokens)
                .map_err(|error| unfit_text(path, &text, error))?
        }
        None => {
            let settings = SelfCalibration {
                tokens: options.tokens,
                context: CALIBRATION_CONTEXT,
                seed: options.seed,
                ..SelfCalibration::default()
            };
            progress.begin("sampling", options.tokens as u64);
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
    sensitivity: Option<SensitivitySettings>,
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
        settings: format!("{sensitivity:?}"),
        own_text: matches!(tokens.source, CalibrationSource::SelfSampled { .. }),
        sequences: tokens.sequences.clone(),
        ..Contents::default()
    };
    for layer in 0..h.layers {
        for slot in network.linears(layer) {
            let name = format!("blk.{layer}.{}", slot.input.name());
            if !contents.covariances.iter().any(|(known, _)| *known == name) {
                contents.covariances.push((name.clone(), slot.shape.columns));
                let experts = (0..slot.experts).filter(|_| slot.experts > 1);
                contents
                    .covariances
                    .extend(experts.map(|expert| (format!("{name}.{expert}"), slot.shape.columns)));
            }
            contents.tensors.push((slot.tensor, name, sensitivity.map(|_| slot.shape.rows)));
        }
    }
    let tied = network.head_tensor() == EMBEDDING;
    let rows = sensitivity.map(|_| h.vocabulary);
    contents.covariances.push((HEAD.to_owned(), h.width));
    contents.tensors.push((network.head_tensor().to_owned(), HEAD.to_owned(), rows));
    if !tied {
        contents.covariances.push((LOOKUP.to_owned(), h.width));
        contents.tensors.push((EMBEDDING.to_owned(), LOOKUP.to_owned(), rows));
    }
    let mut writer = StatisticsWriter::create(path, &contents)?;
    progress.begin("statistics", h.layers as u64);
    let lengths: Vec<usize> = tokens.sequences.iter().map(Vec::len).collect();
    let mut tape = sensitivity.map(|settings| Tape::new(network, &lengths, settings));
    let mut runner = LayerRunner::new(network, &tokens.sequences)?;
    for layer in 0..h.layers {
        if let Some(tape) = &mut tape {
            tape.record(&runner);
        }
        let weights = network.load_layer(layer)?;
        let linears = network.linears(layer);
        let wanted = stats::input_kinds(&linears);
        let moments = stats::collect_and_advance(&mut runner, &weights, &wanted)?;
        for kind in wanted {
            let Some(covariance) = moments.input(kind) else { continue };
            let (name, width) = (format!("blk.{layer}.{}", kind.name()), covariance.width());
            writer.covariance(&name, width, |i, j| covariance.get(i, j))?;
            let experts = linears.iter().find(|slot| slot.input == kind).map_or(1, |slot| slot.experts);
            for expert in (0..experts).filter(|_| experts > 1) {
                writer.covariance(&format!("{name}.{expert}"), width, moments.expert(kind, expert))?;
            }
        }
        progress.advance(1, &format!("block {layer}"));
    }
    let head = stats::collect_head(&runner)?;
    if let Some(tape) = &mut tape {
        tape.record(&runner);
    }
    drop(runner);
    let sensitivity = match tape {
        Some(tape) => {
            progress.begin("loss weights", h.layers as u64);
            let mut done = |layer| progress.advance(1, &format!("block {layer}"));
            Some(tape.differentiate(network, &mut done)?)
        }
        None => None,
    };
    if let Some((_, covariance)) = head.inputs().first() {
        write_token_covariances(&mut writer, covariance, sensitivity.as_ref(), tied)?;
    }
    if let Some(sensitivity) = &sensitivity {
        for (tensor, rows) in &sensitivity.linears {
            writer.row_weights(tensor, rows)?;
        }
        writer.row_weights(network.head_tensor(), &smoothed(&sensitivity.head))?;
        if !tied {
            writer.row_weights(EMBEDDING, &smoothed(&sensitivity.probability))?;
        }
    }
    writer.finish()
}

/// Covariances of the head and, if it is another tensor, of the embedding. A tied embedding is looked up as well as
/// multiplied with; where the loss does not tell what a lookup costs, every coordinate counts alike.
fn write_token_covariances(
    writer: &mut StatisticsWriter,
    head: &Covariance,
    sensitivity: Option<&Sensitivity>,
    tied: bool,
) -> Result<(), ConvertError> {
    let width = head.width();
    let diagonal = head.diagonal();
    let mean = diagonal.iter().sum::<f64>() / diagonal.len().max(1) as f64;
    let lookup = |i: usize, j: usize| match sensitivity {
        Some(sensitivity) => sensitivity.embedding.get(i, j),
        None if i == j => mean,
        None => 0.0,
    };
    writer.covariance(HEAD, width, |i, j| head.get(i, j) + if tied { lookup(i, j) } else { 0.0 })?;
    if !tied {
        writer.covariance(LOOKUP, width, lookup)?;
    }
    Ok(())
}
