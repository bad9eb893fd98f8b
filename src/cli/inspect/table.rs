//! The table for a terminal.

use super::charts::filled;
use super::{per_weight, Report, Tensor};
use crate::cli::units;
use std::collections::BTreeMap;
use std::io::{Result, Write};

/// Characters of a full bar.
const BAR: usize = 16;

/// A bar of eighths of characters, as long as its share of the room.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (filled(share) * (BAR * 8) as f64).round() as usize;
    let text = "█".repeat(eighths / 8) + EIGHTHS.get(eighths % 8).unwrap_or(&"");
    format!("{text}{}", " ".repeat(BAR - eighths.div_ceil(8)))
}

pub(super) fn print(report: &Report, bars: bool, out: &mut impl Write) -> Result<()> {
    let width = report.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0).max(6);
    // Ordinary tensors of many bits would leave the others without a length that can be told from another.
    let coded = report.tensors.iter().filter(|tensor| tensor.payload.is_some());
    let most = coded.map(|tensor| tensor.bits_per_weight).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 32.0 };
    let drawn = |bits: f64| if bars { format!("  {}", bar(bits / most)) } else { String::new() };
    let blank = if bars { " ".repeat(BAR + 2) } else { String::new() };
    writeln!(
        out,
        "{:width$}  {:>16}  {:>8}  {:>10}  {:>11}{blank}  classes",
        "tensor", "rows x columns", "type", "size", "bits/weight"
    )?;
    for tensor in &report.tensors {
        let classes = tensor.payload.as_ref().map_or(String::new(), |payload| {
            let extra = match payload.extra_columns {
                0 => String::new(),
                n => format!(", {n} extra columns"),
            };
            let dead = match payload.dead_columns {
                0 => String::new(),
                n => format!(", {n} dead columns"),
            };
            format!("{}{extra}{dead}", payload.classes.len())
        });
        writeln!(
            out,
            "{:width$}  {:>16}  {:>8}  {:>10}  {:>11.4}{}  {classes}",
            tensor.name,
            units::dims(&tensor.dims),
            tensor.ty,
            units::bytes(tensor.bytes),
            tensor.bits_per_weight,
            drawn(tensor.bits_per_weight),
        )?;
    }
    writeln!(out)?;
    if bars {
        print_layers(report, out)?;
    }
    let totals = &report.totals;
    if totals.wsic_tensors > 0 {
        writeln!(
            out,
            "{}: {} weights in {}, {:.4} bits/weight with all side information",
            units::counted(totals.wsic_tensors, "WSIC tensor"),
            totals.wsic_weights,
            units::bytes(totals.wsic_bytes),
            totals.wsic_bits_per_weight
        )?;
    }
    writeln!(
        out,
        "whole file: {} weights in {}, {:.4} bits/weight",
        totals.weights,
        units::bytes(totals.bytes),
        totals.bits_per_weight
    )?;
    for (key, value) in &report.provenance {
        writeln!(out, "{key}: {value}")?;
    }
    Ok(())
}

/// Bytes and weights of the WSIC tensors of each layer.
pub(super) fn layers(tensors: &[Tensor]) -> BTreeMap<usize, (u64, u64)> {
    let mut layers: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| tensor.payload.is_some()) {
        if let Some((layer, _)) = tensor.place() {
            let sums = layers.entry(layer).or_default();
            sums.0 += tensor.bytes;
            sums.1 += tensor.weights();
        }
    }
    layers
}

fn print_layers(report: &Report, out: &mut impl Write) -> Result<()> {
    let layers = layers(&report.tensors);
    let bits = |&(bytes, weights): &(u64, u64)| per_weight(bytes, weights);
    let most = layers.values().map(bits).fold(0.0, f64::max);
    if most == 0.0 {
        return Ok(());
    }
    writeln!(out, "layer  bits/weight  of its linear layers")?;
    for (layer, sums) in &layers {
        writeln!(out, "{layer:>5}  {:>11.4}  {}", bits(sums), bar(bits(sums) / most).trim_end())?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_their_room() {
        for share in [-1.0, 0.0, 0.3, 0.5, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(share).chars().count(), BAR, "{share}");
        }
        assert_eq!(bar(0.5).trim_end(), "█".repeat(BAR / 2));
        assert_eq!(bar(1.0 / 128.0).trim_end(), "▏");
    }
}
