//! Progress with remaining time on standard error; silent when that is no terminal.

use super::{units, Context};
use crate::convert::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A bar of `length` units of work.
pub(crate) fn bar(length: u64, label: impl Into<Cow<'static, str>>, quiet: bool) -> ProgressBar {
    // indicatif hides the bar by itself where standard error is no terminal.
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    // The item gets what is left of the line.
    let template = "{prefix:>12} [{bar:20}] {percent:>3} %  {elapsed} elapsed, {eta} left  {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(label);
    bar
}

/// One progress bar, replaced with each phase.
pub(crate) struct Bars {
    quiet: bool,
    verbose: bool,
    start: Instant,
    bar: Mutex<Option<ProgressBar>>,
    /// Name and start of each phase.
    phases: Mutex<Vec<(&'static str, Instant)>>,
}

impl Bars {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            quiet: context.quiet,
            verbose: context.verbose,
            start: Instant::now(),
            bar: Mutex::new(None),
            phases: Mutex::default(),
        }
    }

    /// Ends the last bar and says how long everything took.
    pub(crate) fn done(&self, start: Instant) {
        self.finish();
        if !self.quiet {
            eprintln!("done in {} ({})", units::seconds(start.elapsed()), self.phases());
        }
    }

    /// Time spent in each phase, now that the last one has ended.
    fn phases(&self) -> String {
        let Ok(phases) = self.phases.lock() else { return String::new() };
        let ends = phases.iter().skip(1).map(|phase| phase.1).chain([Instant::now()]);
        let spent = phases.iter().zip(ends).map(|(&(name, start), end)| (name, end - start));
        summary(spent)
    }

    /// Takes the last bar away, before a result is printed.
    pub(crate) fn finish(&self) {
        if let Ok(mut bar) = self.bar.lock() {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        }
    }
}

/// Names and durations of phases, those that came several times in one.
fn summary(phases: impl Iterator<Item = (&'static str, Duration)>) -> String {
    let mut sums: Vec<(&str, Duration, usize)> = Vec::new();
    for (name, spent) in phases {
        match sums.iter_mut().find(|sum| sum.0 == name) {
            Some((_, all, times)) => {
                *all += spent;
                *times += 1;
            }
            None => sums.push((name, spent, 1)),
        }
    }
    let text = |(name, spent, times): &(&str, Duration, usize)| {
        let spent = units::seconds(*spent);
        match times {
            1 => format!("{name} {spent}"),
            _ => format!("{name} ({times} times) {spent}"),
        }
    };
    sums.iter().map(text).collect::<Vec<_>>().join(", ")
}

impl Progress for Bars {
    fn begin(&self, phase: &'static str, steps: u64) {
        self.finish();
        if let Ok(mut phases) = self.phases.lock() {
            phases.push((phase, Instant::now()));
        }
        if let Ok(mut shown) = self.bar.lock() {
            *shown = Some(bar(steps, phase, self.quiet));
        }
    }

    fn advance(&self, steps: u64, item: &str) {
        if let Ok(bar) = self.bar.lock() {
            if let Some(bar) = bar.as_ref() {
                bar.set_message(item.to_owned());
                bar.inc(steps);
                if self.verbose {
                    // What is shown is looked up before: `suspend` holds the bar's lock.
                    let (time, phase) = (units::seconds(self.start.elapsed()), bar.prefix());
                    bar.suspend(|| eprintln!("{time:>12}  {phase}  {item}"));
                }
            }
        }
    }

    fn warn(&self, message: &str) {
        if !self.quiet {
            eprintln!("note: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_that_come_again_are_summed() {
        let phases = [("planning", 1), ("trying rates", 20), ("trying rates", 30), ("writing", 2)];
        let phases = phases.into_iter().map(|(name, seconds)| (name, Duration::from_secs(seconds)));
        assert_eq!(summary(phases), "planning 1.0 s, trying rates (2 times) 50.0 s, writing 2.0 s");
    }
}
