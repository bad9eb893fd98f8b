//! What an interrupted command leaves: no half files, and a word on how to go on.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The output of a conversion whose finished parts are kept.
static CONVERSION: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Folders that nobody goes on with.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on a conversion to this file is under way.
pub(super) fn conversion(output: &Path) {
    *CONVERSION.lock().unwrap_or_else(PoisonError::into_inner) = Some(output.to_owned());
}

/// From now on an interrupt removes this folder.
pub(super) fn begin_folder(path: &Path) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

/// Removes the folder, which need not be there.
pub(super) fn remove_folder(path: &Path) {
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    folders.retain(|other| other != path);
    let _ = std::fs::remove_dir_all(path);
}

/// Waits for signals on a thread of its own. The process then ends as it would have without this.
#[cfg(unix)]
pub(super) fn watch() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    // SIGHUP is left alone: `nohup` has it ignored, which a handler would undo where `is_ignored` cannot tell.
    // Without handlers a signal ends the process at once, which leaves half files but nothing worse.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let signals = [SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(&status, signal));
    let Ok(mut signals) = signal_hook::iterator::Signals::new(signals) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            crate::gguf::remove_unfinished();
            for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                // Threads that go on writing into it shall not find it. Nobody is left to tell if this fails.
                let gone = folder.with_extension("removed");
                let _ = std::fs::rename(&folder, &gone).and_then(|()| std::fs::remove_dir_all(gone));
            }
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

/// Whether the process was begun with `signal` ignored, as a shell begins jobs in the background of a script: then it
/// stays so. `status` is Linux's description of the process; elsewhere there is none, and nothing counts as ignored.
#[cfg(unix)]
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(not(unix))]
pub(super) fn watch() {}

#[cfg(all(test, unix))]
mod tests {
    use super::is_ignored;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    #[test]
    fn ignored_signals_are_read_from_the_description_of_the_process() {
        let status = "Name:\twsic\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001003\n";
        assert!(is_ignored(status, SIGHUP) && is_ignored(status, SIGINT) && !is_ignored(status, SIGTERM));
        assert!(!is_ignored("", SIGINT) && !is_ignored("SigIgn:\tx", SIGINT));
    }
}
