//! The log of a conversion, as far as the report shows it.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct Log {
    tensors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    step: Option<f64>,
}

/// The quantizer step of each tensor that the common water level decided.
pub(super) fn steps(path: &Path) -> Result<HashMap<String, f64>> {
    let name = || format!("{}: expected the log of a conversion (`wsic convert --log`)", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    let log: Log = serde_json::from_str(&text).with_context(name)?;
    Ok(log.tensors.into_iter().filter_map(|entry| Some((entry.name, entry.step?))).collect())
}
