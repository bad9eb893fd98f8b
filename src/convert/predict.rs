//! What a conversion will cost, before any work: size of the output, memory and time of each phase, room on the disk.
//!
//! Sizes follow from the target. Times come from counting operations and from how fast this machine multiplies and
//! quantizes a small matrix now; they are good within a factor of two on a machine that is not busy otherwise. Memory
//! is what the phases hold at the same time, an upper bound.

use super::allocate::{given_rate, GIVEN_RATES, TRYING_RATES, UNKNOWN_RATE};
use super::drift::{moment_bytes, DRIFT_TOKENS};
use super::error::ConvertError;
use super::geometry::geometry;
use super::options::{Calibration, Options, Prefer, Target, MOST_BYTES_AT_ONCE};
use super::plan::{Action, PlannedTensor};
use super::prepare::Prepared;
use super::progress::Progress;
use super::waves::tensor_memory;
use crate::import::Input;
use crate::model::Model;
use crate::payload::encode::{encode, EncodeOptions};
use crate::quantize::{Covariance, Layer, Method, Prepared as PreparedLayer, Settings};
use crate::stats::SensitivitySettings;
use rayon::prelude::*;
use std::path::Path;
use std::time::Instant;

/// Phase in which tensors are quantized at steps that are known.
pub(super) const QUANTIZING: &str = "quantizing";

/// Times that tensors without a rate of their own are quantized until the target is met, on average.
const PASSES: f64 = 2.2;
/// Bits per weight below which nothing of a tensor is left; the least that `--bpw` takes.
const LEAST_BITS: f64 = 0.1;
/// Bits per weight that no conversion exceeds.
const MOST_BITS: f64 = 12.0;
/// Bytes written per second.
const DISK_SPEED: f64 = 2e8;
/// Memory of program, tokenizer and file headers.
const BASE_MEMORY: u64 = 150 << 20;
/// Bytes of intermediates of a round of the forward and the backward pass.
const ROUND_MEMORY: u64 = 256 << 20;
/// Bytes that self-calibration keeps: weights and the key-value cache.
const SAMPLING_MEMORY: u64 = (1 << 30) + (768 << 20);

/// One phase of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub struct PhasePrediction {
    /// Its name, as the progress shows it.
    pub name: &'static str,
    /// Duration on this machine in seconds.
    pub seconds: f64,
    /// Most bytes of memory.
    pub memory: u64,
}

/// What a conversion will cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Bytes of the output.
    pub output_bytes: u64,
    /// Bytes of temporary files beside the output: statistics and finished parts.
    pub temporary_bytes: u64,
    /// Bytes free where the output goes; `None` if the system does not say.
    pub free_bytes: Option<u64>,
    /// Phases in the order of work.
    pub phases: Vec<PhasePrediction>,
}

impl Prediction {
    /// Most bytes of memory of any phase.
    pub fn memory(&self) -> u64 {
        self.phases.iter().map(|phase| phase.memory).max().unwrap_or(0)
    }

    /// Duration of all phases in seconds.
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// Fails if the disk has less room than output and temporary files need.
    pub(super) fn check_disk(&self, output: &Path) -> Result<(), ConvertError> {
        let needed = self.output_bytes.saturating_add(self.temporary_bytes);
        match self.free_bytes {
            Some(free) if free < needed => {
                Err(ConvertError::DiskSpace { path: output.to_owned(), needed, free })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes free in the folder of a file.
fn free_bytes(output: &Path) -> Option<u64> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    {
        let status = rustix::fs::statvfs(folder).ok()?;
        status.f_bavail.checked_mul(status.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Speed of this machine now, with all threads.
#[derive(Clone, Copy, Debug)]
struct Speed {
    /// Floating-point operations per second of large matrix products in f32.
    flops: f64,
    /// Seconds per weight of the trellis search and the coding.
    per_weight: f64,
}

impl Speed {
    fn measure() -> Result<Self, ConvertError> {
        let threads = rayon::current_num_threads();
        const SIDE: usize = 384;
        let value = |i: usize| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.5;
        let matrix: Vec<f32> = (0..SIDE * SIDE).map(value).collect();
        let start = Instant::now();
        const PRODUCTS: usize = 24;
        (0..PRODUCTS * threads).into_par_iter().for_each(|_| {
            let a = faer::MatRef::from_row_major_slice(&matrix, SIDE, SIDE);
            let mut product = faer::Mat::<f32>::zeros(SIDE, SIDE);
            let out = product.as_mut();
            faer::linalg::matmul::matmul(out, faer::Accum::Replace, a, a, 1.0f32, faer::Par::Seq);
            std::hint::black_box(&product);
        });
        let flops = (PRODUCTS * threads * 2 * SIDE * SIDE * SIDE) as f64 / start.elapsed().as_secs_f64();

        const ROWS: usize = 512;
        const COLUMNS: usize = 128;
        let weights: Vec<f32> = (0..ROWS * COLUMNS).map(value).collect();
        let diagonal = vec![1.0f32; COLUMNS];
        let settings = Settings::new(Method::Trellis, geometry(ROWS, COLUMNS, false, Prefer::default()));
        let start = Instant::now();
        let done: Vec<usize> = (0..2 * threads)
            .into_par_iter()
            .map(|_| {
                let layer = Layer::new("speed", ROWS, COLUMNS, &weights, Covariance::Diagonal(&diagonal));
                let quantized = PreparedLayer::new(&layer, &settings, 0.1)?.quantize(0.1)?;
                let payload = encode(&[quantized], &EncodeOptions::new(1));
                Ok(payload.map_or(0, |payload| payload.len()))
            })
            .collect::<Result<_, ConvertError>>()?;
        let weights = (done.len() * ROWS * COLUMNS) as f64;
        Ok(Self { flops, per_weight: start.elapsed().as_secs_f64() / weights })
    }
}

/// Predicts what [`convert`](super::convert) with the same options will cost. Opens the model, and multiplies for about
/// a tenth of a second.
///
/// # Errors
/// Those of [`convert`](super::convert) that show before any work.
pub fn predict(options: &Options, progress: &dyn Progress) -> Result<Prediction, ConvertError> {
    let prepared = Prepared::new(options, progress)?;
    check_target(&prepared, options)?;
    let speed = Speed::measure()?;
    Ok(predict_prepared(&prepared, options, Some(speed)))
}

/// Sizes alone, for the check of the disk.
pub(super) fn predict_sizes(prepared: &Prepared, options: &Options) -> Prediction {
    predict_prepared(prepared, options, None)
}

/// Fails before any work if the file cannot be as small as asked for.
pub(super) fn check_target(prepared: &Prepared, options: &Options) -> Result<(), ConvertError> {
    let plan: Vec<&PlannedTensor> = prepared.plan.iter().collect();
    let weights: u64 = plan.iter().map(|tensor| tensor.weights()).sum();
    let (wanted, as_bits) = match options.target {
        Target::LinearBits(_) => return Ok(()),
        Target::FileBits(bits) => (bits * weights as f64 / 8.0, true),
        Target::FileBytes(bytes) => (bytes as f64, false),
    };
    let loss_weights = options.loss_weights && will_have_row_weights(prepared, options);
    let payload = |tensor: &&PlannedTensor| match tensor.action {
        Action::Quantize { role, bits, .. } => {
            let given = given_rate(role, bits, loss_weights, UNKNOWN_RATE);
            given.unwrap_or(LEAST_BITS) * tensor.weights() as f64 / 8.0
        }
        _ => 0.0,
    };
    let (_, others) = sizes(&plan, options);
    let header = header_bytes(&prepared.input, &plan);
    let least = plan.iter().map(payload).sum::<f64>() + (others + header) as f64;
    if wanted >= least {
        return Ok(());
    }
    let (asked, possible) = match as_bits {
        true => {
            let bits = |bytes: f64| format!("{:.2} bits per weight", bytes * 8.0 / weights.max(1) as f64);
            (bits(wanted), bits(least))
        }
        false => (format!("{wanted:.0} bytes"), format!("{:.1} MB ({least:.0} bytes)", least / 1e6)),
    };
    Err(ConvertError::Target(format!(
        "a file of {asked} is too small for this model: about {possible} is the least, with {LEAST_BITS} bits per weight in \
         all tensors whose rate is free, {:.1} MB in tensors that are not quantized and {:.1} MB of metadata; allow a larger \
         size, or let more tensors be quantized or have fewer bits (--tensor, --embedding-bpw)",
        others as f64 / 1e6,
        header as f64 / 1e6
    )))
}

/// Whether there will be statistics of what errors cost in the loss.
fn will_have_row_weights(prepared: &Prepared, options: &Options) -> bool {
    match options.calibration {
        Calibration::Model | Calibration::Text(_) => prepared.network.is_some(),
        _ => prepared.given.as_ref().is_some_and(|file| file.has_row_weights()),
    }
}

fn predict_prepared(prepared: &Prepared, options: &Options, speed: Option<Speed>) -> Prediction {
    let plan: Vec<&PlannedTensor> = match &options.only {
        None => prepared.plan.iter().collect(),
        Some(only) => prepared.plan.iter().filter(|tensor| only.is_match(&tensor.info.name)).collect(),
    };
    let (payloads, others) = sizes(&plan, options);
    let header = header_bytes(&prepared.input, &plan);
    // Statistics from a file or an importance matrix need nobody to run the model.
    let running = match options.calibration {
        Calibration::Model | Calibration::Text(_) => prepared.network.as_deref(),
        _ => None,
    };
    let full = running.is_some() || matches!(options.calibration, Calibration::Statistics(_));
    let statistics_bytes = running.map_or(0, statistics_bytes);
    let mut phases = Vec::new();
    if let Some(speed) = speed {
        if let Some(network) = running {
            phases.extend(model_phases(network, options, &plan, speed));
        }
        let weighted = will_have_row_weights(prepared, options);
        let cost = Cost::new(&plan, options.method, full, speed);
        phases.extend(tensor_phases(&plan, options, options.loss_weights && weighted, &cost));
        let drift = prepared.network.as_deref().filter(|_| full && options.corrects_drift());
        phases.extend(drift.map(|network| drift_phase(network, options, &plan, &cost)));
        let seconds = (payloads + others) as f64 / DISK_SPEED;
        phases.push(PhasePrediction { name: "writing", seconds, memory: BASE_MEMORY });
    }
    Prediction {
        output_bytes: match options.target {
            Target::FileBytes(bytes) if options.only.is_none() => bytes.min(payloads + others + header),
            Target::FileBits(_) if options.only.is_none() => payloads + others,
            _ => payloads + others + header,
        },
        temporary_bytes: statistics_bytes + (payloads as f64 * PASSES) as u64,
        free_bytes: free_bytes(&options.output),
        phases,
    }
}

/// Bytes of payloads and of everything else.
fn sizes(plan: &[&PlannedTensor], options: &Options) -> (u64, u64) {
    let other = |tensor: &&PlannedTensor| match tensor.action {
        Action::Copy => tensor.stored_bytes,
        Action::Store(ty) => ty.row_bytes(tensor.info.columns()).unwrap_or(0) * tensor.info.rows(),
        Action::Quantize { .. } => 0,
    };
    let others: u64 = plan.iter().map(other).sum();
    let weights: u64 = plan.iter().map(|tensor| tensor.weights()).sum();
    let payload = |tensor: &&PlannedTensor| {
        let Action::Quantize { bits, .. } = tensor.action else { return 0.0 };
        let common = match options.target {
            Target::LinearBits(bits) => bits,
            Target::FileBits(bits) => bits,
            Target::FileBytes(bytes) => (bytes as f64 * 8.0 / weights.max(1) as f64).min(MOST_BITS),
        };
        bits.unwrap_or(common) * tensor.weights() as f64 / 8.0
    };
    (plan.iter().map(payload).sum::<f64>() as u64, others)
}

/// Bytes of a file's metadata, of which the tokenizer is most, and of its list of tensors.
fn header_bytes(input: &Input, plan: &[&PlannedTensor]) -> u64 {
    let mut bytes = Vec::new();
    let values = input.metadata().iter().map(|(key, value)| {
        bytes.clear();
        value.encode(&mut bytes);
        (8 + key.len() + 4 + bytes.len()) as u64
    });
    let tensors =
        plan.iter().map(|tensor| (8 + tensor.info.name.len() + 4 + 8 * tensor.info.dims.len() + 12) as u64);
    values.sum::<u64>() + tensors.sum::<u64>()
}

/// Widths of the distinct inputs of all linear layers.
fn input_widths(network: &Model) -> Vec<usize> {
    let h = network.hyperparameters();
    let mut widths = vec![h.width];
    for layer in 0..h.layers {
        let mut seen = Vec::new();
        for slot in network.linears(layer) {
            if !seen.contains(&slot.input) {
                seen.push(slot.input);
                widths.push(slot.shape.columns);
            }
        }
    }
    widths
}

fn statistics_bytes(network: &Model) -> u64 {
    input_widths(network).into_iter().map(|width| (width * (width + 1) * 2) as u64).sum()
}

/// Phases in which the model runs.
fn model_phases(
    network: &Model,
    options: &Options,
    plan: &[&PlannedTensor],
    speed: Speed,
) -> Vec<PhasePrediction> {
    let h = network.hyperparameters();
    let tokens = options.calibration_tokens as f64;
    let linear = linear_weights(plan);
    let table = (h.vocabulary * h.width) as f64;
    let layer_bytes = (linear / h.layers.max(1) as f64) as u64 * 4;
    let widest = input_widths(network).into_iter().max().unwrap_or(0) as u64;
    let state = (h.width * size_of::<f32>()) as u64;
    let hidden = options.calibration_tokens as u64 * state;
    let sensitivity = SensitivitySettings::default();
    let used = sensitivity.tokens.min(options.calibration_tokens);
    let tape = if options.loss_weights {
        (used as u64 * state * (h.layers as u64 + 1)).min(sensitivity.memory as u64)
    } else {
        0
    };
    let mut phases = Vec::new();
    if options.calibration == Calibration::Model {
        phases.push(PhasePrediction {
            name: "sampling",
            // Few tokens at a time: products run at about half their speed.
            seconds: 2.0 * 2.0 * (linear + table) * tokens / speed.flops,
            memory: BASE_MEMORY
                + SAMPLING_MEMORY.min((linear + table) as u64 * 4 + (768 << 20))
                + layer_bytes,
        });
    }
    let moments: f64 = input_widths(network).into_iter().map(|width| (width * width) as f64).sum();
    phases.push(PhasePrediction {
        name: "statistics",
        seconds: 1.5 * (2.0 * linear + moments) * tokens / speed.flops,
        memory: BASE_MEMORY + ROUND_MEMORY + hidden + tape + layer_bytes + widest * widest * 8,
    });
    if options.loss_weights {
        phases.push(PhasePrediction {
            name: "loss weights",
            seconds: 1.5 * (6.0 * linear + 6.0 * table) * used as f64 / speed.flops,
            memory: BASE_MEMORY + 2 * ROUND_MEMORY + tape + 2 * used as u64 * state + layer_bytes,
        });
    }
    phases
}

/// The second pass: two models run, moments are taken, and every tensor of the blocks is quantized once more.
fn drift_phase(network: &Model, options: &Options, plan: &[&PlannedTensor], cost: &Cost) -> PhasePrediction {
    let h = network.hyperparameters();
    let tokens = options.calibration_tokens.min(DRIFT_TOKENS);
    let linear = linear_weights(plan);
    let widths = input_widths(network);
    // E[x' x'ᵀ], half of which is computed, and the moment with inputs or outputs.
    let moments: f64 = widths.iter().map(|&width| (width * width + 2 * h.width * width) as f64).sum();
    let widest = widths.into_iter().max().unwrap_or(0) as u64;
    let layer_bytes = (linear / h.layers.max(1) as f64) as u64 * 4;
    let hidden = (2 * tokens * h.width * size_of::<f32>()) as u64;
    let table = (h.vocabulary.min(tokens) * h.width * size_of::<f32>()) as u64;
    // The quantized model's input of the last linear layer at hand is kept for all tokens.
    let kept = tokens as u64 * widest * size_of::<f32>() as u64;
    // In double precision the moments learned from and held out, in single precision their joint and their blend.
    let bytes = (0..h.layers)
        .flat_map(|layer| network.linears(layer))
        .map(|slot| moment_bytes(slot.input, slot.shape.columns))
        .filter(|&bytes| bytes <= MOST_BYTES_AT_ONCE);
    let moments_bytes = bytes.max().unwrap_or(0) + widest * h.width as u64 * 24;
    PhasePrediction {
        name: "drift",
        // Each model passes a layer once; the held-out part of the quantized one's attention a few times more.
        seconds: 1.5 * (2.0 * 1.2 * 2.0 * linear + moments) * tokens as f64 / cost.speed.flops
            + cost.pass(plan),
        memory: BASE_MEMORY
            + ROUND_MEMORY
            + hidden
            + kept
            + table
            + 2 * layer_bytes
            + moments_bytes.max(cost.memory),
    }
}

/// Weights of the blocks' linear layers that are quantized.
fn linear_weights(plan: &[&PlannedTensor]) -> f64 {
    plan.iter()
        .filter(|tensor| matches!(tensor.action, Action::Quantize { role, .. } if role.is_linear()))
        .map(|tensor| tensor.weights() as f64)
        .sum()
}

/// What quantizing tensors costs.
struct Cost {
    /// Whether inputs have covariances, not variances alone.
    full_covariance: bool,
    speed: Speed,
    /// Bytes of the tensors at work at the same time, at most.
    memory: u64,
}

impl Cost {
    fn new(plan: &[&PlannedTensor], method: Method, full_covariance: bool, speed: Speed) -> Self {
        // A thread that waits for the parallel part of one tensor may have started another.
        let mut memory: Vec<u64> = quantized(plan).map(|tensor| tensor_memory(tensor, method)).collect();
        memory.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        let largest = memory.first().copied().unwrap_or(0);
        let together: u64 = memory.iter().take(2 * rayon::current_num_threads()).sum();
        Self { full_covariance, speed, memory: largest.max(together.min(MOST_BYTES_AT_ONCE)) }
    }

    /// Sum over tensors of a function of matrices, rows and columns.
    fn sum(&self, tensors: &[&PlannedTensor], operations: impl Fn(f64, f64, f64) -> f64) -> f64 {
        let each = |tensor: &PlannedTensor| {
            let columns = if self.full_covariance { tensor.columns() as f64 } else { 1.0 };
            operations(tensor.matrices() as f64, tensor.rows() as f64, columns)
        };
        quantized(tensors).map(each).sum()
    }

    /// Seconds to find the rate models.
    fn models(&self, tensors: &[&PlannedTensor]) -> f64 {
        // Double precision runs at half the speed of single precision.
        1.5 * 2.0 * 2.0 * self.sum(tensors, |_, _, n| 2.0 * n * n * n / 3.0) / self.speed.flops
    }

    /// Seconds to quantize tensors once.
    fn pass(&self, tensors: &[&PlannedTensor]) -> f64 {
        let operations =
            self.sum(tensors, |m, a, n| m * (2.0 * n * n * n / 3.0 + (2.0 * 3.0 + 1.0) * a * n * n));
        let weights: f64 = quantized(tensors).map(|tensor| tensor.weights() as f64).sum();
        1.5 * operations / self.speed.flops + weights * self.speed.per_weight
    }
}

fn quantized<'p>(plan: &'p [&PlannedTensor]) -> impl Iterator<Item = &'p PlannedTensor> {
    plan.iter().copied().filter(|tensor| matches!(tensor.action, Action::Quantize { .. }))
}

/// Phases in which tensors are quantized, but for the second pass.
fn tensor_phases(
    plan: &[&PlannedTensor],
    options: &Options,
    loss_weights: bool,
    cost: &Cost,
) -> Vec<PhasePrediction> {
    let phase =
        |name, seconds| PhasePrediction { name, seconds, memory: BASE_MEMORY.saturating_add(cost.memory) };
    if options.steps.is_some() {
        return vec![phase(QUANTIZING, cost.pass(plan))];
    }
    let has_rate = |tensor: &&PlannedTensor| match tensor.action {
        Action::Quantize { role, bits, .. } => given_rate(role, bits, loss_weights, 0.0).is_some(),
        _ => false,
    };
    let (given, free): (Vec<&PlannedTensor>, Vec<&PlannedTensor>) = quantized(plan).partition(has_rate);
    let mut phases = vec![phase("planning", cost.models(&free))];
    if !given.is_empty() {
        phases.push(phase(GIVEN_RATES, cost.pass(&given)));
    }
    if options.only.is_some() {
        // At the steps of the first guess.
        phases.push(phase(QUANTIZING, cost.pass(&free)));
    } else if !free.is_empty() {
        phases.push(phase(TRYING_RATES, PASSES * cost.pass(&free)));
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_before_any_work() {
        let prediction = |free_bytes| Prediction {
            output_bytes: 1000,
            temporary_bytes: 500,
            free_bytes,
            phases: vec![
                PhasePrediction { name: "a", seconds: 1.0, memory: 7 },
                PhasePrediction { name: "b", seconds: 2.5, memory: 3 },
            ],
        };
        let path = Path::new("out.gguf");
        assert!(prediction(Some(1500)).check_disk(path).is_ok());
        assert!(prediction(None).check_disk(path).is_ok());
        let error = prediction(Some(1499)).check_disk(path).unwrap_err().to_string();
        assert!(error.contains("out.gguf") && error.contains("1499") && error.contains("1500"), "{error}");
        assert_eq!((prediction(None).memory(), prediction(None).seconds()), (7, 3.5));
    }

    #[test]
    #[cfg(unix)]
    fn the_system_tells_what_is_free() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(&folder.path().join("x")).unwrap() > 0);
        assert!(free_bytes(Path::new("x")).is_some());
        assert!(free_bytes(Path::new("/no/such/folder/x")).is_none());
    }

    #[test]
    fn this_machine_has_a_speed() {
        let speed = Speed::measure().unwrap();
        assert!(speed.flops > 1e6 && speed.per_weight > 0.0, "{speed:?}");
    }
}
