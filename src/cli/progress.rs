//! Progress with remaining time on standard error; silent when that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;

/// A bar of `length` units of work.
pub(crate) fn bar(length: u64, label: impl Into<Cow<'static, str>>, quiet: bool) -> ProgressBar {
    // indicatif hides the bar by itself where standard error is no terminal.
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    let template = "{prefix:>12} [{bar:30}] {pos}/{len}  {elapsed} elapsed, {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(label);
    bar
}
