//! From options to everything that quantizing needs: the model, what happens to each tensor, and the statistics.

use super::collect::{collect, CollectOptions};
use super::error::ConvertError;
use super::identity::{fingerprint, identity, open_input};
use super::options::{Calibration, Options};
use super::plan::{plan, Action, PlannedTensor};
use super::progress::Progress;
use super::statistics::StatisticsFile;
use super::substitutes::write_substitutes;
use crate::import::Input;
use crate::model::{Model, ModelError};
use std::path::Path;
use std::sync::Arc;

/// Bits per weight below which a source is called a low-bit one.
const LOW_BITS: f64 = 7.0;

/// A model with a plan for its tensors.
pub(super) struct Prepared {
    pub(super) input: Arc<Input>,
    /// `None` if the architecture is not known.
    pub(super) network: Option<Arc<Model>>,
    pub(super) plan: Vec<PlannedTensor>,
    /// What identifies the model.
    pub(super) identity: String,
    /// The statistics that the user gave.
    pub(super) given: Option<StatisticsFile>,
}

impl Prepared {
    /// Opens the model, and the statistics if they are given, and plans.
    pub(super) fn new(options: &Options, progress: &dyn Progress) -> Result<Self, ConvertError> {
        let input = open_input(&options.input, options.pre_tokenizer.as_deref(), progress)?;
        let network = open_network(&input, progress)?;
        let plan = plan(&input, network.as_deref(), options)?;
        warn_of_low_bits(&plan, progress);
        let identity = identity(&input)?;
        let given = match &options.calibration {
            Calibration::Statistics(path) => {
                let file = StatisticsFile::open(path)?;
                file.check_model(&identity)?;
                Some(file)
            }
            _ => None,
        };
        Ok(Self { input, network, plan, identity, given })
    }

    /// Everything that finished parts depend on.
    pub(super) fn fingerprint(&self, options: &Options) -> Result<String, ConvertError> {
        let statistics = self.given.as_ref().map(StatisticsFile::fingerprint).transpose()?;
        Ok(fingerprint(&self.identity, options, statistics.as_deref()))
    }

    /// The statistics: those given, those at `path`, or computed and written there.
    pub(super) fn statistics(
        &mut self,
        options: &Options,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<StatisticsFile, ConvertError> {
        if let Some(given) = self.given.take() {
            return Ok(given);
        }
        if path.exists() {
            return StatisticsFile::open(path);
        }
        let importance = match &options.calibration {
            Calibration::Importance(path) => Some(path.as_path()),
            _ => None,
        };
        match &self.network {
            Some(network) if importance.is_none() => {
                let text = match &options.calibration {
                    Calibration::Text(path) => Some(path.as_path()),
                    _ => None,
                };
                let settings = CollectOptions {
                    text,
                    tokens: options.calibration_tokens,
                    seed: options.seed,
                    loss_weights: options.loss_weights,
                };
                collect(network, &self.identity, &settings, path, progress)?;
            }
            _ => write_substitutes(&self.plan, importance, &self.identity, path, progress)?,
        }
        StatisticsFile::open(path)
    }
}

/// Computes the statistics of a model and writes them to `options.output`: once for any rate, method and machine. Of
/// the options only input, output, calibration, tokens, seed, loss weights and pre-tokenizer count.
///
/// # Errors
/// [`ConvertError`]; the output then does not exist.
pub fn calibrate(options: &Options, progress: &dyn Progress) -> Result<StatisticsFile, ConvertError> {
    let mut prepared = Prepared::new(options, progress)?;
    match std::fs::remove_file(&options.output) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ConvertError::File { path: options.output.clone(), action: "replace the file", source })
        }
        _ => prepared.statistics(options, &options.output, progress),
    }
}

/// The model as something that runs; `None`, with a warning, if nobody here knows its architecture.
fn open_network(input: &Arc<Input>, progress: &dyn Progress) -> Result<Option<Arc<Model>>, ConvertError> {
    match Model::open(input.clone()) {
        Ok(network) => Ok(Some(Arc::new(network))),
        Err(ModelError::Architecture { name, supported }) => {
            progress.warn(&format!(
                "architecture '{name}' cannot be run here (those that can: {supported}): there will be no statistics of \
                 its inputs, no feedback between columns and no weights from the loss, and the tensors to quantize are \
                 told by their names"
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says so if the weights to be quantized were quantized before.
fn warn_of_low_bits(plan: &[PlannedTensor], progress: &dyn Progress) {
    let quantized = || plan.iter().filter(|tensor| matches!(tensor.action, Action::Quantize { .. }));
    let bits = |tensor: &PlannedTensor| tensor.stored_bytes as f64 * 8.0 / tensor.weights().max(1) as f64;
    let low: Vec<&PlannedTensor> = quantized().filter(|tensor| bits(tensor) < LOW_BITS).collect();
    let Some(first) = low.first() else { return };
    let weights = |tensors: &mut dyn Iterator<Item = &PlannedTensor>| -> u64 {
        tensors.map(PlannedTensor::weights).sum()
    };
    let share = weights(&mut low.iter().copied()) as f64 / weights(&mut quantized()).max(1) as f64;
    progress.warn(&format!(
        "{:.0} % of the weights were quantized before ('{}' to {}, {:.1} bits/weight): what they lost then stays lost, and \
         the rates compare with that model. Convert from F16, BF16 or Q8_0 if you can",
        share * 100.0,
        first.info.name,
        first.info.ty,
        bits(first)
    ));
}
