//! A conversion from start to end.

use super::allocate::{Allocated, Allocation, Part};
use super::drift::{chosen, corrected_weights, DriftCorrection};
use super::error::ConvertError;
use super::identity::part_fingerprint;
use super::keys::*;
use super::merge::{mark_part, measure};
use super::options::{Calibration, Options, Target};
use super::output::Output;
use super::plan::{Action, PlannedTensor};
use super::predict::{check_target, predict_sizes, QUANTIZING};
use super::prepare::Prepared;
use super::progress::Progress;
use super::quantize_tensor::Quantizer;
use super::spool::Spool;
use super::statistics::StatisticsFile;
use super::steps::Steps;
use super::waves::in_waves;
use crate::gguf::{Array, GgmlType, Metadata, Value};
use crate::import::Input;
use crate::model::Model;
use crate::quantize::Method;
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a conversion gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes of the output file.
    pub bytes: u64,
    /// Weights of all tensors.
    pub weights: u64,
    /// Weights of the quantized linear layers.
    pub linear_weights: u64,
    /// Bytes of their payloads.
    pub linear_bytes: u64,
    /// Weights of quantized embeddings and output heads.
    pub embedding_weights: u64,
    /// Bytes of their payloads.
    pub embedding_bytes: u64,
    /// What was done to each tensor, in file order.
    pub tensors: Vec<TensorRecord>,
}

/// What was done to one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRecord {
    /// Name.
    pub name: String,
    /// Dimensions, the fastest varying first.
    pub dims: Vec<u64>,
    /// Type in the input.
    pub from: String,
    /// Type in the output.
    pub to: String,
    /// "copied", "stored" as another ordinary type, or "quantized".
    pub action: &'static str,
    /// Bytes in the input.
    pub bytes_before: u64,
    /// Bytes in the output.
    pub bytes: u64,
    /// Bits per weight in the output.
    pub bits_per_weight: f64,
    /// Step of the quantizer, where the common water level decided it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// Bits per weight asked for, where the tensor has a rate of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Quantization method, where the tensor has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
}

impl TensorRecord {
    pub(super) fn new(tensor: &PlannedTensor, part: Option<&Part>) -> Self {
        let (action, to, bytes) = match tensor.action {
            Action::Copy => ("copied", tensor.info.ty, tensor.stored_bytes),
            Action::Store(ty) => {
                ("stored", ty, ty.row_bytes(tensor.info.columns()).unwrap_or(0) * tensor.info.rows())
            }
            Action::Quantize { .. } => ("quantized", GgmlType::Wsic, part.map_or(0, |part| part.bytes)),
        };
        Self {
            name: tensor.info.name.clone(),
            dims: tensor.info.dims.clone(),
            from: tensor.info.ty.to_string(),
            to: to.to_string(),
            action,
            bytes_before: tensor.stored_bytes,
            bytes,
            bits_per_weight: bytes as f64 * 8.0 / tensor.weights().max(1) as f64,
            step: part.map(|part| part.key).filter(|key| *key > 0.0),
            rate: part.map(|part| -part.key).filter(|rate| *rate > 0.0),
            method: match tensor.action {
                Action::Quantize { method, .. } => method.map(Method::name),
                _ => None,
            },
        }
    }
}

/// Converts a model, or with [`Options::only`] a part of it.
///
/// # Errors
/// [`ConvertError`]; the output then does not exist (or is unchanged), and finished parts stay for `--resume`.
pub fn convert(options: &Options, progress: &dyn Progress) -> Result<Outcome, ConvertError> {
    let mut prepared = Prepared::new(options, progress)?;
    check_target(&prepared, options)?;
    predict_sizes(&prepared, options).check_disk(&options.output)?;
    let fingerprint = prepared.fingerprint(options)?;
    if let Some((path, steps)) = &options.steps {
        steps.check(&fingerprint, path)?;
    }
    let all = fingerprint.clone() + &part_fingerprint(options);
    let spool = Spool::open(&options.output, &all, options.resume)?;
    let statistics = prepared.statistics(options, &spool.path("statistics.gguf"), progress)?;
    let Prepared { input, network, plan, .. } = prepared;
    let job = Job { options, input: &input, plan: &plan, statistics: &statistics, spool: &spool, progress };
    let outcome = match (&options.steps, &options.only) {
        (None, None) => {
            let output = job.output(&plan, job.metadata(&plan)?)?;
            let network = network.filter(|_| options.corrects_drift());
            // Damage is found now, not after the first pass.
            let sequences = network.as_ref().map(|network| job.sequences(network)).transpose()?;
            // One sequence has nothing to judge a correction by.
            let parts = match network.zip(sequences.filter(|sequences| sequences.len() > 1)) {
                Some((network, sequences)) => job.correct_drift(&network, &sequences, &output)?,
                None => job.allocate(&output, None, 0)?.parts,
            };
            job.write(&output, &(0..plan.len()).collect::<Vec<_>>(), &parts)?
        }
        (Some((_, steps)), _) => job.part(steps)?,
        (None, Some(_)) => job.part(&job.steps(fingerprint, &HashMap::new())?)?,
    };
    spool.remove()?;
    Ok(outcome)
}

/// The steps of all tensors, for several processes that quantize a part of them each. `options.output` is where the
/// caller will write them.
///
/// Without `measured` parts (files of [`Options::only`] conversions) the steps are those of the first guess of
/// [`convert`]; with them those of its next one, or if the measured sizes meet the target those it would end with.
///
/// # Errors
/// As [`convert`].
pub fn plan_steps(
    options: &Options,
    measured: &[PathBuf],
    progress: &dyn Progress,
) -> Result<Steps, ConvertError> {
    let mut prepared = Prepared::new(options, progress)?;
    check_target(&prepared, options)?;
    let fingerprint = prepared.fingerprint(options)?;
    let spool = Spool::open(&options.output, &fingerprint, options.resume)?;
    let statistics = prepared.statistics(options, &spool.path("statistics.gguf"), progress)?;
    let Prepared { input, plan, .. } = prepared;
    let job = Job { options, input: &input, plan: &plan, statistics: &statistics, spool: &spool, progress };
    let steps = job.steps(fingerprint, &measure(measured)?)?;
    spool.remove()?;
    Ok(steps)
}

/// A conversion that has everything it needs.
struct Job<'a> {
    options: &'a Options,
    input: &'a Arc<Input>,
    plan: &'a [PlannedTensor],
    statistics: &'a StatisticsFile,
    spool: &'a Spool,
    progress: &'a dyn Progress,
}

/// Bytes of a quantized tensor by its number and key.
type Measured<'a> = &'a (dyn Fn(usize, f64) -> Option<u64> + Sync);

impl<'a> Job<'a> {
    fn loss_weights(&self) -> bool {
        self.options.loss_weights && self.statistics.has_row_weights()
    }

    fn quantizer(&self) -> Quantizer<'a> {
        Quantizer {
            source: self.input.as_ref(),
            statistics: self.statistics,
            method: self.options.method,
            loss_weights: self.loss_weights(),
            shrinkage: self.options.shrinkage,
            prefer: self.options.prefer,
        }
    }

    fn metadata(&self, plan: &[PlannedTensor]) -> Result<Metadata, ConvertError> {
        Ok(output_metadata(self.input, plan, self.options, self.statistics.source()?))
    }

    fn output<'p>(&self, plan: &'p [PlannedTensor], metadata: Metadata) -> Result<Output<'p>, ConvertError>
    where
        'a: 'p,
    {
        Output::new(&self.options.output, self.options.split_bytes, metadata, plan)
    }

    /// Quantizes so that the target is met.
    fn allocate(
        &self,
        output: &Output,
        measured: Option<Measured>,
        again: u64,
    ) -> Result<Allocated, ConvertError> {
        let allocation = Allocation {
            plan: self.plan,
            quantizer: &self.quantizer(),
            spool: self.spool,
            progress: self.progress,
            target: self.options.target,
            loss_weights: self.loss_weights(),
            file_bytes: &|parts| output.file_bytes(parts.iter().map(|part| (part.number, part.bytes))),
            measured,
            again,
        };
        allocation.run()
    }

    /// The token sequences of the second pass.
    fn sequences(&self, network: &Model) -> Result<Vec<Vec<u32>>, ConvertError> {
        let vocabulary = network.hyperparameters().vocabulary;
        Ok(chosen(self.statistics.sequences(vocabulary)?.unwrap_or_default()))
    }

    /// Quantizes, and a second time in the order of the model, for the inputs that quantized tensors give.
    fn correct_drift(
        &self,
        network: &Arc<Model>,
        sequences: &[Vec<u32>],
        output: &Output,
    ) -> Result<Vec<Part>, ConvertError> {
        let first = self.allocate(output, None, corrected_weights(network, self.plan))?;
        let correction = DriftCorrection {
            input: self.input,
            network,
            plan: self.plan,
            quantizer: &self.quantizer(),
            spool: self.spool,
            progress: self.progress,
            sequences,
        };
        let corrected = correction.run(&first)?;
        let bytes = |parts: &[Part]| output.file_bytes(parts.iter().map(|part| (part.number, part.bytes)));
        match self.options.target {
            Target::FileBytes(most) if bytes(&corrected) > most => {
                self.progress.warn("with drift correction the file would be too large: it is left out");
                Ok(self.allocate(output, None, 0)?.parts)
            }
            _ => Ok(corrected),
        }
    }

    /// The next steps to try, given the sizes at those tried before.
    fn steps(
        &self,
        fingerprint: String,
        measured: &HashMap<(String, u64), u64>,
    ) -> Result<Steps, ConvertError> {
        let lookup = |number: usize, key: f64| {
            let name = self.plan.get(number)?.info.name.clone();
            measured.get(&(name, key.to_bits())).copied()
        };
        let output = self.output(self.plan, self.metadata(self.plan)?)?;
        let (keys, settled) = match self.allocate(&output, Some(&lookup), 0) {
            Ok(Allocated { parts, .. }) => (parts.iter().map(|part| (part.number, part.key)).collect(), true),
            Err(ConvertError::Unmeasured { keys }) => (keys, false),
            Err(error) => return Err(error),
        };
        let named = |(number, key): (usize, f64)| Some((self.plan.get(number)?.info.name.clone(), key));
        Ok(Steps { fingerprint, keys: keys.into_iter().filter_map(named).collect(), settled })
    }

    /// Quantizes the chosen tensors at given steps and writes them: a part, or all of the model.
    fn part(&self, steps: &Steps) -> Result<Outcome, ConvertError> {
        let only = self.options.only.as_ref();
        let chosen: Vec<usize> = (0..self.plan.len())
            .filter(|&number| only.is_none_or(|pattern| pattern.is_match(&self.plan[number].info.name)))
            .collect();
        if chosen.is_empty() {
            return Err(ConvertError::Override {
                tensor: only.map_or(String::new(), ToString::to_string),
                problem: "(--only) matches no tensor; `wsic inspect` lists the names".into(),
            });
        }
        let weights = |&number: &usize| match self.plan[number].action {
            Action::Quantize { .. } => self.plan[number].weights(),
            _ => 0,
        };
        self.progress.begin(QUANTIZING, chosen.iter().map(weights).sum());
        let quantizer = self.quantizer();
        let quantize = |&number: &usize| self.quantize_at(&quantizer, number, steps);
        let parts = in_waves(&chosen, |&number| quantizer.memory(&self.plan[number]), quantize)?;
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        let plan: Vec<PlannedTensor> = chosen.iter().map(|&number| self.plan[number].clone()).collect();
        let mut metadata = self.metadata(&plan)?;
        if only.is_some() {
            let keys: Vec<f64> = parts.iter().map(|part| part.key).collect();
            let names = self.plan.iter().map(|tensor| tensor.info.name.clone());
            mark_part(&mut metadata, names, steps.hash(), &keys);
        }
        let output = Output::new(&self.options.output, self.options.split_bytes, metadata, &plan)?;
        self.write(&output, &chosen, &parts)
    }

    fn quantize_at(
        &self,
        quantizer: &Quantizer,
        number: usize,
        steps: &Steps,
    ) -> Result<Option<Part>, ConvertError> {
        let tensor = &self.plan[number];
        let Action::Quantize { role, .. } = tensor.action else { return Ok(None) };
        let name = &tensor.info.name;
        let Some(&key) = steps.keys.get(name) else {
            return Err(ConvertError::Override {
                tensor: name.clone(),
                problem: "has no step in the plan; make a new one".into(),
            });
        };
        let payload = match self.spool.find(number, key) {
            Some(payload) => payload,
            None => {
                let payload = match key {
                    key if key < 0.0 => quantizer.at_rate(tensor, role, -key)?.payload,
                    key => quantizer.at_step(tensor, role, key)?.payload,
                };
                self.spool.store(number, key, &payload)?;
                payload
            }
        };
        self.progress.advance(tensor.weights(), name);
        Ok(Some(Part { number, spooled: number, key, bytes: payload.len() as u64 }))
    }

    /// Writes the output, whose tensors have these numbers in the plan.
    fn write(&self, output: &Output, numbers: &[usize], parts: &[Part]) -> Result<Outcome, ConvertError> {
        self.progress.begin("writing", numbers.len() as u64);
        let parts: HashMap<usize, Part> = parts.iter().map(|part| (part.number, *part)).collect();
        let lengths = numbers.iter().enumerate();
        let lengths = lengths.filter_map(|(at, number)| Some((at, parts.get(number)?.bytes))).collect();
        let payload = |at: usize| {
            let part = numbers.get(at).and_then(|number| parts.get(number));
            let payload = part.and_then(|part| self.spool.find(part.spooled, part.key));
            payload.ok_or_else(|| self.spool.missing(&output.plan[at].info.name))
        };
        let bytes = output.write(self.input, &lengths, payload, |name| self.progress.advance(1, name))?;
        Ok(summary(bytes, self.plan, numbers, &parts))
    }
}

fn summary(bytes: u64, plan: &[PlannedTensor], numbers: &[usize], parts: &HashMap<usize, Part>) -> Outcome {
    let mut outcome = Outcome { bytes, ..Outcome::default() };
    for number in numbers {
        let tensor = &plan[*number];
        outcome.weights += tensor.weights();
        outcome.tensors.push(TensorRecord::new(tensor, parts.get(number)));
        let (Action::Quantize { role, .. }, Some(part)) = (tensor.action, parts.get(number)) else {
            continue;
        };
        if role.is_linear() {
            outcome.linear_weights += tensor.weights();
            outcome.linear_bytes += part.bytes;
        } else {
            outcome.embedding_weights += tensor.weights();
            outcome.embedding_bytes += part.bytes;
        }
    }
    outcome
}

/// Metadata of the output; lengths of payloads are zero until they are known.
fn output_metadata(input: &Input, plan: &[PlannedTensor], options: &Options, calibration: &str) -> Metadata {
    let quantized: Vec<&PlannedTensor> =
        plan.iter().filter(|tensor| matches!(tensor.action, Action::Quantize { .. })).collect();
    let mut metadata = input.joined_metadata();
    metadata.set("general.file_type", Value::U32(GgmlType::Wsic.id()));
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set(VERSION_KEY, Value::U32(1));
    metadata.set(TYPE_ID_KEY, Value::U32(GgmlType::Wsic.id()));
    let names = Array::from_strings(quantized.iter().map(|tensor| tensor.info.name.as_bytes()));
    metadata.set(TENSOR_NAMES_KEY, Value::Array(names));
    metadata.set(TENSOR_BYTES_KEY, Value::Array(Array::from_u64(&vec![0; quantized.len()])));
    let mut note = |key: &str, text: String| {
        metadata.set(format!("{PROVENANCE_PREFIX}{key}"), Value::String(text.into_bytes()));
    };
    note("tool", format!("wsic {}", env!("CARGO_PKG_VERSION")));
    note("method", format!("{:?}", options.method).to_lowercase());
    note(
        "target",
        match options.target {
            Target::LinearBits(bits) => format!("{bits} bits/weight, linear layers"),
            Target::FileBits(bits) => format!("{bits} bits/weight, whole file"),
            Target::FileBytes(bytes) => format!("{bytes} bytes, whole file"),
        },
    );
    note("calibration", calibration.to_owned());
    note("loss_weights", options.loss_weights.to_string());
    if matches!(options.calibration, Calibration::Model | Calibration::Text(_)) {
        note("seed", options.seed.to_string());
    }
    metadata
}
