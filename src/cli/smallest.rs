//! `wsic convert --kld`: the smallest file whose predictions stay close enough to the model's.

use super::progress::Bars;
use super::{eval, interrupt, units, Context};
use crate::convert::options::{Calibration, Options, Target};
use crate::convert::{calibrate, convert, partial_folder, Outcome, CALIBRATION_CONTEXT};
use crate::gguf;
use crate::model::eval::{Reference, Windows};
use crate::model::{Model, Tokenizer};
use crate::stats::{CalibrationTokens, SelfCalibration};
use anyhow::{bail, ensure, Context as _, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Windows of 512 tokens to measure on where the text has more.
const WINDOWS: usize = 16;
/// Fewer say too little.
const FEWEST_WINDOWS: usize = 4;
/// Conversions, at most.
const MOST_TRIALS: usize = 6;
/// A divergence this far below the wanted one ends the search.
const CLOSE: f64 = 0.97;
/// Change of ln(KL) for a bit per weight where there is one trial only.
const SLOPE: f64 = -1.5;
/// Bits per weight to go up where the last trial failed, at least.
const LEAST_RISE: f64 = 0.05;
/// The rate to begin with, and the rates that make sense.
const FIRST_RATE: f64 = 2.75;
const RATES: std::ops::RangeInclusive<f64> = 0.5..=8.0;

/// Files that are removed however the search ends, by an interrupt too, each with the folder of its finished parts: no
/// search is resumed.
struct Leftovers(Vec<PathBuf>);

impl Leftovers {
    fn new(paths: &[&PathBuf]) -> Self {
        for path in paths {
            gguf::begin_unfinished(path);
            interrupt::begin_folder(&partial_folder(path));
        }
        Self(paths.iter().map(|&path| path.clone()).collect())
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for path in &self.0 {
            // Those that were renamed or never written are not there.
            let _ = std::fs::remove_file(path);
            gguf::forget_unfinished(path);
            interrupt::remove_folder(&partial_folder(path));
        }
    }
}

/// Converts until the divergence on held-out windows is `wanted` or a little less, and writes that file.
///
/// The windows are those of `text`, or of the calibration text those that calibration leaves out, or else what the model
/// writes after prompts that calibration does not use.
pub(super) fn run(options: &Options, wanted: f64, text: Option<&Path>, context: &Context) -> Result<Outcome> {
    ensure!(
        wanted.is_finite() && wanted > 0.0,
        "--kld {wanted}: expected a positive number of nats per token"
    );
    ensure!(!options.resume, "--kld does not go on with an interrupted search: leave out --resume");
    let listener = Bars::new(context);
    let (model, _, _) = eval::open(&options.input)?;
    let model = Arc::new(model);
    let windows = held_out(&model, options, text)?;
    let reference = Reference::new(&model, &windows)?;

    let beside = |what: &str| {
        let mut name = options.output.clone().into_os_string();
        name.push(what);
        PathBuf::from(name)
    };
    let mut options = options.clone();
    let output = options.output.clone();
    let (trial, kept, statistics) = (beside(".trial"), beside(".kept"), beside(".statistics"));
    let _leftovers = Leftovers::new(&[&trial, &kept, &statistics]);
    if !matches!(options.calibration, Calibration::Statistics(_)) {
        options.output.clone_from(&statistics);
        calibrate(&options, &listener)?;
        options.calibration = Calibration::Statistics(statistics);
    }
    options.output.clone_from(&trial);

    let mut rate = FIRST_RATE;
    let mut trials: Vec<(f64, f64)> = Vec::new();
    let mut best: Option<Outcome> = None;
    for _ in 0..MOST_TRIALS {
        options.target = Target::LinearBits(rate);
        let outcome = convert(&options, &listener)?;
        let (candidate, _, _) = eval::open(&trial)?;
        let kl = reference.divergence(&candidate)?.kl;
        drop(candidate);
        if !context.quiet {
            eprintln!("{rate:.3} bits/weight: KL {:.5} ± {:.5} nats/token", kl.mean, kl.standard_error);
        }
        trials.push((rate, kl.mean.max(1e-9).ln()));
        if kl.mean <= wanted && best.as_ref().is_none_or(|best| outcome.bytes < best.bytes) {
            std::fs::rename(&trial, &kept).with_context(|| format!("{}: cannot rename", trial.display()))?;
            best = Some(outcome);
        }
        if (CLOSE * wanted..=wanted).contains(&kl.mean) {
            break;
        }
        let next = next_rate(&trials, (wanted * (1.0 + CLOSE) / 2.0).ln());
        if (next - rate).abs() < 1e-3 {
            break;
        }
        rate = next;
    }
    let Some(outcome) = best else {
        let least = trials.iter().map(|trial| trial.1).fold(f64::INFINITY, f64::min).exp();
        bail!("--kld {wanted} was not reached in {MOST_TRIALS} conversions; the least divergence was {least:.5}")
    };
    std::fs::rename(&kept, &output).with_context(|| format!("{}: cannot rename", output.display()))?;
    Ok(outcome)
}

/// The next rate to try: where the line through the two trials nearest to `wanted` (a logarithm) reaches it, but between
/// the best rates on both sides where there are such, and beyond all that failed where none has succeeded.
fn next_rate(trials: &[(f64, f64)], wanted: f64) -> f64 {
    let mut near = trials.to_vec();
    near.sort_by(|a, b| (a.1 - wanted).abs().total_cmp(&(b.1 - wanted).abs()));
    let Some(&(rate, kl)) = near.first() else { return FIRST_RATE };
    let slope = near.get(1).map(|&(other, found)| (found - kl) / (other - rate));
    let slope = slope.filter(|slope| (-6.0..-0.3).contains(slope)).unwrap_or(SLOPE);
    let line = rate + ((wanted - kl) / slope).clamp(-1.5, 1.5);
    let enough =
        trials.iter().filter(|trial| trial.1 <= wanted).map(|trial| trial.0).fold(f64::INFINITY, f64::min);
    let few =
        trials.iter().map(|trial| trial.0).filter(|&rate| rate < enough).fold(f64::NEG_INFINITY, f64::max);
    let next = match (few.is_finite(), enough.is_finite()) {
        (true, true) => line.clamp(few + 0.2 * (enough - few), enough - 0.2 * (enough - few)),
        (true, false) => line.max(few + LEAST_RISE),
        _ => line,
    };
    next.clamp(*RATES.start(), *RATES.end())
}

/// What to measure on; see [`run`].
fn held_out(model: &Arc<Model>, options: &Options, text: Option<&Path>) -> Result<Windows> {
    if let Some(text) = text {
        return eval::windows(model, text, CALIBRATION_CONTEXT, WINDOWS);
    }
    let tokenizer = Tokenizer::from_metadata(model.source().metadata())?;
    let sequences = match &options.calibration {
        Calibration::Text(path) => {
            let name = path.display();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read the text"))?;
            let tokens = options.calibration_tokens;
            let left = CalibrationTokens::held_out(&tokenizer, &text, CALIBRATION_CONTEXT, tokens, WINDOWS)?;
            ensure!(
                left.len() >= FEWEST_WINDOWS,
                "{name}: calibration leaves {} of {CALIBRATION_CONTEXT} tokens to measure on, {FEWEST_WINDOWS} are \
                 needed: give another text with --kld-text, or a smaller --calibration-tokens",
                units::counted(left.len(), "window")
            );
            left
        }
        Calibration::Model => {
            let calibrated = options.calibration_tokens.div_ceil(CALIBRATION_CONTEXT);
            let settings = SelfCalibration {
                tokens: WINDOWS * CALIBRATION_CONTEXT,
                context: CALIBRATION_CONTEXT,
                first_prompt: calibrated,
                seed: options.seed.wrapping_add(1),
                ..SelfCalibration::default()
            };
            settings.run(model, &tokenizer, &mut |_| {})?.sequences
        }
        Calibration::Importance(_) | Calibration::Statistics(_) => {
            bail!("--kld needs a text to measure on: give one with --kld-text")
        }
    };
    Ok(Windows { sequences, first_scored: CALIBRATION_CONTEXT / 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_closes_in() {
        // KL of this shape: ln KL = 1 - 1.7 r + .05 r².
        let kl = |rate: f64| 1.0 - 1.7 * rate + 0.05 * rate * rate;
        let wanted = 0.05f64.ln();
        let mut trials = vec![(FIRST_RATE, kl(FIRST_RATE))];
        for _ in 0..3 {
            let rate = next_rate(&trials, wanted);
            trials.push((rate, kl(rate)));
        }
        assert!((trials[3].1 - wanted).abs() < 0.01, "{trials:?}");
    }

    #[test]
    fn a_noisy_divergence_is_bracketed() {
        // More bits, more divergence, as on tiny models.
        assert!(next_rate(&[(3.8, -1.98), (3.9, -1.95)], -2.08) >= 3.94);
        let between = next_rate(&[(3.0, -1.0), (3.1, -1.4), (3.05, -0.9)], -1.39);
        assert!((3.06..3.1).contains(&between), "{between}");
    }

    #[test]
    fn the_rate_stays_in_its_range() {
        assert_eq!(next_rate(&[(0.6, 0.0)], 5.0), 0.5);
        assert_eq!(next_rate(&[(7.9, 0.0), (7.8, 0.01)], -9.0), 8.0);
    }
}
