//! Numbers for people: every one with its unit.

/// A size in bytes with a decimal unit: `97.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", value / 1e6),
        _ => format!("{:.3} GB", value / 1e9),
    }
}

/// A duration: `41 s`, `3 min 05 s`.
pub(crate) fn seconds(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Dimensions as a tensor's user reads them: `1536 x 576`.
pub(crate) fn dims(dims: &[u64]) -> String {
    let text: Vec<String> = dims.iter().rev().map(u64::to_string).collect();
    text.join(" x ")
}
