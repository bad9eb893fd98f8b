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

/// A number with its thousands apart: `134 515 008` (narrow spaces that do not break).
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 window`, `2 windows`.
pub(crate) fn counted(number: impl std::fmt::Display, thing: &str) -> String {
    let number = number.to_string();
    let ending = if number == "1" { "" } else { "s" };
    format!("{number} {thing}{ending}")
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

/// A size as people write it: `50MB`, `1.2GiB`, `123456`. Decimal and binary units.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
    let split = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        other => {
            return Err(format!("unknown unit '{other}': expected kB, MB, GB, TB, KiB, MiB, GiB or TiB"))
        }
    };
    if unit.is_empty() && number.contains('.') {
        return Err(format!("'{text}' has no unit: is it {text}GB or {text}MB?"));
    }
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e18 => Ok((number * factor).floor() as u64),
        _ => Err(format!("'{text}' is no size: expected something like 50MB or 1.2GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("50MB"), Ok(50_000_000));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert_eq!(parse_bytes("50M"), Ok(50_000_000));
        assert!(parse_bytes("1.2").unwrap_err().contains("no unit"));
        assert!(parse_bytes("-1MB").unwrap_err().contains("is no size"));
        for bad in ["", "MB", "-1MB", "5 parsecs", "1e400", "nan"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(999), "999");
        assert_eq!(counted(1, "window"), "1 window");
        assert_eq!((counted(0, "window"), counted(21, "window")), ("0 windows".into(), "21 windows".into()));
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(50_000_000), "50.00 MB");
        assert_eq!(seconds(std::time::Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(dims(&[576, 1536]), "1536 x 576");
    }
}
