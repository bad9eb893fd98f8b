//! One water level for the whole model: a common step, scaled for each tensor, searched on true stored bytes.

use super::error::ConvertError;
use super::options::Target;
use super::plan::{Action, PlannedTensor, Role};
use super::progress::Progress;
use super::quantize_tensor::Quantizer;
use super::spool::Spool;
use super::waves::in_waves;
use crate::quantize::RateModel;

/// Bits that embeddings get beyond the linear layers where no loss weights tell.
const EMBEDDING_EXTRA_BITS: f64 = 1.5;
/// Bits per weight to begin with where the target is one of the whole file.
pub(super) const UNKNOWN_RATE: f64 = 3.0;
/// Stored bits beyond the predicted class entropy: tables, scales, lane states, escapes.
const EXPECTED_OVERHEAD: f64 = 0.03;
/// Stored bits lost per octave of the step.
pub(super) const SLOPE: f64 = 0.93;
/// Relative deviation from a target of bits per weight that ends the search.
const TOLERANCE: f64 = 0.001;
/// A target of bytes is aimed at this far below, and met from below.
const BYTES_MARGIN: f64 = 0.0015;
const BYTES_TOLERANCE: f64 = 0.004;
const MOST_PASSES: usize = 5;
/// Relative deviation that may be left where most of the weights are quantized a second time, which makes up for it.
const LEFT_FOR_SECOND_PASS: f64 = 0.025;

/// Phase in which tensors with a rate of their own are quantized.
pub(super) const GIVEN_RATES: &str = "given rates";
/// Phase in which all others are quantized at a level that may prove to be the wrong one; once for each level.
pub(super) const TRYING_RATES: &str = "trying rates";

/// Stored bits per weight of a tensor that does not follow the common level: those asked for, or without loss weights
/// a few more than `common` for embeddings.
pub(super) fn given_rate(role: Role, asked: Option<f64>, loss_weights: bool, common: f64) -> Option<f64> {
    let by_rule = !loss_weights && !role.is_linear();
    asked.or(by_rule.then_some(common + EMBEDDING_EXTRA_BITS))
}

/// Payload bytes of one quantized tensor and the key of its part in the spool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Position in the plan.
    pub(super) number: usize,
    /// Number in the spool: the position, or beyond the plan for tensors that were quantized a second time.
    pub(super) spooled: usize,
    /// Key in the spool: the step, or minus the rate for tensors with a rate of their own.
    pub(super) key: f64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// A tensor whose step follows the common level.
struct Free<'p> {
    number: usize,
    tensor: &'p PlannedTensor,
    role: Role,
    /// Own step = level * scale.
    scale: f64,
    model: RateModel,
}

/// Everything an allocation needs.
pub(super) struct Allocation<'a> {
    pub(super) plan: &'a [PlannedTensor],
    pub(super) quantizer: &'a Quantizer<'a>,
    pub(super) spool: &'a Spool,
    pub(super) progress: &'a dyn Progress,
    pub(super) target: Target,
    /// Whether row weights are in units of the loss, so that steps of different tensors compare.
    pub(super) loss_weights: bool,
    /// Bytes of the file besides payloads, as a function of the payloads' lengths (padding).
    pub(super) file_bytes: &'a (dyn Fn(&[Part]) -> u64 + Sync),
    /// Where tensors that follow the level are quantized elsewhere: the bytes of the tensor of this number at this key,
    /// if known. [`ConvertError::Unmeasured`] then ends the search at the first level that is not known.
    pub(super) measured: Option<&'a (dyn Fn(usize, f64) -> Option<u64> + Sync)>,
    /// Weights that will be quantized a second time.
    pub(super) again: u64,
}

/// What an allocation ends with.
pub(super) struct Allocated {
    /// In plan order.
    pub(super) parts: Vec<Part>,
    /// Bytes above what was aimed at, below it if negative.
    pub(super) excess: f64,
}

impl<'p> Allocation<'p> {
    /// Quantizes everything so that the target is met; parts are in the spool, in plan order.
    pub(super) fn run(&self) -> Result<Allocated, ConvertError> {
        let start_bits = match self.target {
            Target::LinearBits(bits) => bits,
            Target::FileBits(_) | Target::FileBytes(_) => UNKNOWN_RATE,
        };
        let mut fixed = Vec::new();
        let mut free = Vec::new();
        for (number, tensor) in self.plan.iter().enumerate() {
            if let Action::Quantize { role, bits, .. } = tensor.action {
                match given_rate(role, bits, self.loss_weights, start_bits) {
                    Some(bits) => fixed.push((number, tensor, role, bits)),
                    None => free.push((number, tensor, role)),
                }
            }
        }
        self.progress.begin("planning", free.len() as u64);
        let rate_model = |&(number, tensor, role): &(usize, &'p PlannedTensor, Role)| {
            let (model, scale) = self.quantizer.rate_model(tensor, role, start_bits)?;
            self.progress.advance(1, &tensor.info.name);
            Ok::<_, ConvertError>(Free { number, tensor, role, scale, model })
        };
        let mut free: Vec<Free> = in_waves(&free, |item| self.quantizer.memory(item.1), rate_model)?;
        if !self.loss_weights {
            // Without a common unit every tensor gets the same rate.
            for tensor in &mut free {
                tensor.scale = tensor.model.step(start_bits - EXPECTED_OVERHEAD);
            }
        }
        if !fixed.is_empty() {
            self.progress.begin(GIVEN_RATES, fixed.iter().map(|item| item.1.weights()).sum());
        }
        let at_rate = |&(number, tensor, role, bits): &(usize, &PlannedTensor, Role, f64)| {
            self.part(number, tensor, -bits, || Ok(self.quantizer.at_rate(tensor, role, bits)?.payload))
        };
        let mut parts = in_waves(&fixed, |item| self.quantizer.memory(item.1), at_rate)?;
        if !free.is_empty() {
            parts = self.search(&free, parts)?;
        }
        parts.sort_by_key(|part| part.number);
        let (stored, wanted) = self.measure(&parts);
        // Without a tolerance left for the second pass there is none in what it aims at.
        let excess = if self.tolerance_left() > 0.0 { (stored - wanted) / 8.0 } else { 0.0 };
        Ok(Allocated { parts, excess })
    }

    /// Relative deviation that is left to the second pass.
    fn tolerance_left(&self) -> f64 {
        let quantized = |tensor: &&PlannedTensor| matches!(tensor.action, Action::Quantize { .. });
        let all: u64 = self.plan.iter().filter(quantized).map(PlannedTensor::weights).sum();
        if self.again > all / 2 {
            LEFT_FOR_SECOND_PASS
        } else {
            0.0
        }
    }

    /// The payload of one tensor: found in the spool or made.
    fn part(
        &self,
        number: usize,
        tensor: &PlannedTensor,
        key: f64,
        make: impl FnOnce() -> Result<Vec<u8>, ConvertError>,
    ) -> Result<Part, ConvertError> {
        let bytes = match self.spool.find(number, key) {
            Some(payload) => payload.len(),
            None => {
                let payload = make()?;
                self.spool.store(number, key, &payload)?;
                payload.len()
            }
        };
        self.progress.advance(tensor.weights(), &tensor.info.name);
        Ok(Part { number, spooled: number, key, bytes: bytes as u64 })
    }

    /// Quantizes all free tensors at the given level; returns all parts.
    fn pass(&self, free: &[Free], fixed: &[Part], level: f64) -> Result<Vec<Part>, ConvertError> {
        if let Some(measured) = self.measured {
            let keys = free.iter().map(|item| (item.number, level * item.scale));
            let known: Option<Vec<Part>> = keys
                .clone()
                .map(|(number, key)| {
                    Some(Part { number, spooled: number, key, bytes: measured(number, key)? })
                })
                .collect();
            let missing = || ConvertError::Unmeasured {
                keys: fixed.iter().map(|part| (part.number, part.key)).chain(keys).collect(),
            };
            return Ok(fixed.iter().copied().chain(known.ok_or_else(missing)?).collect());
        }
        self.progress.begin(TRYING_RATES, free.iter().map(|item| item.tensor.weights()).sum());
        let at_step = |item: &Free| {
            let step = level * item.scale;
            self.part(item.number, item.tensor, step, || {
                Ok(self.quantizer.at_step(item.tensor, item.role, step)?.payload)
            })
        };
        let made = in_waves(free, |item| self.quantizer.memory(item.tensor), at_step)?;
        Ok(fixed.iter().copied().chain(made).collect())
    }

    /// Bits that count for the target, and the bits wanted.
    fn measure(&self, parts: &[Part]) -> (f64, f64) {
        let weights = |all: bool| -> f64 {
            let counted = self.plan.iter().filter(|tensor| match tensor.action {
                Action::Quantize { role, .. } => all || role.is_linear(),
                _ => all,
            });
            counted.map(|tensor| tensor.weights() as f64).sum()
        };
        match self.target {
            Target::LinearBits(bits) => {
                let linear = |part: &&Part| match self.plan[part.number].action {
                    Action::Quantize { role, .. } => role.is_linear(),
                    _ => false,
                };
                let stored: u64 = parts.iter().filter(linear).map(|part| part.bytes).sum();
                (stored as f64 * 8.0, bits * weights(false))
            }
            Target::FileBits(bits) => ((self.file_bytes)(parts) as f64 * 8.0, bits * weights(true)),
            Target::FileBytes(bytes) => {
                ((self.file_bytes)(parts) as f64 * 8.0, bytes as f64 * 8.0 * (1.0 - BYTES_MARGIN))
            }
        }
    }

    fn good_enough(&self, stored: f64, wanted: f64) -> bool {
        let deviation = stored / wanted - 1.0;
        if deviation.abs() <= self.tolerance_left() {
            return true;
        }
        match self.target {
            Target::FileBytes(bytes) => {
                stored <= bytes as f64 * 8.0 && deviation > BYTES_MARGIN - BYTES_TOLERANCE
            }
            _ => deviation.abs() <= TOLERANCE,
        }
    }

    fn search(&self, free: &[Free], fixed: Vec<Part>) -> Result<Vec<Part>, ConvertError> {
        let counted: f64 = free
            .iter()
            .filter(|item| item.role.is_linear() || !matches!(self.target, Target::LinearBits(_)))
            .map(|item| item.tensor.weights() as f64)
            .sum();
        if counted == 0.0 {
            // Nothing that counts depends on the level: embeddings at the level that the linear target would have.
            return self.pass(free, &fixed, self.predicted_level(free, &fixed));
        }
        let mut level = self.predicted_level(free, &fixed).log2();
        let mut history: Vec<(f64, f64)> = Vec::new();
        let mut best: Option<(f64, Vec<Part>)> = None;
        for _ in 0..MOST_PASSES {
            let parts = self.pass(free, &fixed, level.exp2())?;
            let (stored, wanted) = self.measure(&parts);
            history.push((level, stored));
            let allowed = match self.target {
                Target::FileBytes(bytes) => stored <= bytes as f64 * 8.0 * (1.0 + self.tolerance_left()),
                _ => true,
            };
            let miss = (stored / wanted - 1.0).abs() + if allowed { 0.0 } else { 1.0 };
            if best.as_ref().is_none_or(|(least, _)| miss < *least) {
                best = Some((miss, parts));
            }
            if self.good_enough(stored, wanted) {
                break;
            }
            level = next_level(&history, wanted, self.slope(free, &fixed, level, SLOPE * counted));
        }
        let Some((miss, parts)) = best else { return Ok(fixed) };
        if miss >= 1.0 {
            let (stored, _) = self.measure(&parts);
            return Err(ConvertError::Target(format!(
                "the smallest file found has {:.0} bytes, more than asked for: allow a larger size, or let more tensors \
                 be quantized (--tensor)",
                stored / 8.0
            )));
        }
        Ok(parts)
    }

    /// All parts as the rate models predict them for a level.
    fn predicted(&self, free: &[Free], fixed: &[Part], level: f64) -> Vec<Part> {
        let made = free.iter().map(|item| {
            let bits = item.model.bits(level * item.scale) + EXPECTED_OVERHEAD;
            let bytes = (bits * item.tensor.weights() as f64 / 8.0) as u64;
            Part { number: item.number, spooled: item.number, key: 0.0, bytes }
        });
        fixed.iter().copied().chain(made).collect()
    }

    /// Bits lost per octave at a level in octaves: `usual`, but where most columns have no bits left to lose what the rate
    /// models say, without which the search would creep.
    fn slope(&self, free: &[Free], fixed: &[Part], level: f64, usual: f64) -> f64 {
        let bits = |level: f64| self.measure(&self.predicted(free, fixed, level.exp2())).0;
        let slope = bits(level - 0.5) - bits(level + 0.5);
        match slope < usual / 2.0 {
            true => slope.max(usual / 100.0),
            false => usual,
        }
    }

    /// The level at which the rate models predict the wanted bits.
    fn predicted_level(&self, free: &[Free], fixed: &[Part]) -> f64 {
        let predicted = |level: f64| self.predicted(free, fixed, level);
        let (mut low, mut high) = (-100.0f64, 100.0f64);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            let (stored, wanted) = self.measure(&predicted(middle.exp2()));
            if stored > wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        ((low + high) / 2.0).exp2()
    }
}

/// Secant on (level in octaves, stored bits); `slope` bits per octave where there is only one evaluation.
fn next_level(history: &[(f64, f64)], wanted: f64, slope: f64) -> f64 {
    let mut sorted = history.to_vec();
    sorted.sort_by(|a, b| (a.1 - wanted).abs().total_cmp(&(b.1 - wanted).abs()));
    let (level, stored) = sorted[0];
    let measured = sorted
        .get(1)
        .map(|&(other, found)| (found - stored) / (level - other))
        .filter(|found| (0.3 * slope..3.0 * slope).contains(found));
    level + ((stored - wanted) / measured.unwrap_or(slope)).clamp(-3.0, 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secant_finds_a_curved_rate() {
        let bits = |level: f64| 1e6 * (6.0 - 0.95 * level + 0.01 * level * level);
        let mut history = vec![(0.0, bits(0.0))];
        for _ in 0..3 {
            let level = next_level(&history, 2.5e6, 0.93e6);
            history.push((level, bits(level)));
        }
        assert!((history[3].1 / 2.5e6 - 1.0).abs() < 1e-3, "{history:?}");
    }
}
