//! Progress with remaining time on standard error; silent when that is no terminal.

use super::{units, Context};
use crate::convert::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::sync::Mutex;
use std::time::Instant;

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
        let spent: Vec<String> = phases
            .iter()
            .zip(ends)
            .map(|((name, start), end)| format!("{name} {}", units::seconds(end - *start)))
            .collect();
        spent.join(", ")
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
