//! What an interrupted command leaves: no half files, and a word on how to go on.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The output of a conversion whose finished parts are kept.
static CONVERSION: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on a conversion to this file is under way.
pub(super) fn conversion(output: &std::path::Path) {
    *CONVERSION.lock().unwrap_or_else(PoisonError::into_inner) = Some(output.to_owned());
}

/// Waits for signals on a thread of its own. The process then ends as it would have without this.
#[cfg(unix)]
pub(super) fn watch() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    // SIGHUP is left alone: `nohup` has it ignored, which a handler would undo.
    // Without handlers a signal ends the process at once, which leaves half files but nothing worse.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            crate::gguf::remove_unfinished();
            let conversion = CONVERSION.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(output) = conversion.as_ref().filter(|output| crate::convert::is_interrupted(output))
            {
                eprintln!(
                    "\ninterrupted; {} keeps what was done: the same command with --resume goes on",
                    crate::convert::partial_folder(output).display()
                );
            }
            // If that fails, the number that a shell would show.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    });
}

#[cfg(not(unix))]
pub(super) fn watch() {}
