//! Results on standard output: as text, or as one JSON value.

use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// Prints the result of a command: `text`, or with `--json` the value.
pub(super) fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let line = match json {
        true => serde_json::to_string_pretty(value)?,
        false => text(),
    };
    writeln!(std::io::stdout().lock(), "{}", line.trim_end_matches('\n'))?;
    Ok(())
}
