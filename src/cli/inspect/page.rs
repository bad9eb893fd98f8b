//! The report as a page without scripts and without anything from elsewhere.

use super::charts::{columns, curves, grid, parts, small_bar, Cell, Column, Curve};
use super::measure::PayloadReport;
use super::table::layers;
use super::{per_weight, Report, Tensor};
use crate::cli::plot::escape;
use crate::cli::units;
use std::collections::{BTreeMap, HashMap};

/// Points of a curve over the columns.
const POINTS: usize = 201;

const STYLE: &str = "body{font:15px/1.45 sans-serif;margin:2em auto;max-width:62em;padding:0 1em;color:#222;background:#fff}\
h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.15em;margin:2em 0 .4em}p{margin:.4em 0 .8em;color:#444}\
table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd;\
white-space:nowrap}td:first-child,th:first-child{text-align:left}.facts td{text-align:left;white-space:normal}.facts td+td{overflow-wrap:anywhere}\
.wide{overflow-x:auto}svg{max-width:100%;height:auto}@media(max-width:45em){svg.chart{min-width:42em}}svg.bar{width:100px;height:8px}\
dl{display:flex;flex-wrap:wrap;gap:.6em 2.2em;margin:1em 0}dt{font-size:12px;color:#555}dd{margin:0;font-size:1.25em}";

/// Steps of tensors, from the log of the conversion.
pub(super) type LoggedSteps = HashMap<String, f64>;

pub(super) fn page(report: &Report, steps: Option<&LoggedSteps>) -> String {
    let title = escape(&report.file);
    let mut body = format!("<h1>{title}</h1>\n{}", summary(report));
    body += &provenance(report);
    body += &sizes(report);
    if report.totals.wsic_tensors > 0 {
        body += &rates(report);
        body += &over_columns(report);
        body += &water_levels(report, steps);
        body += &escapes(report);
    }
    body += &tensors(report);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>wsic inspect: {title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{body}<p>Written by wsic {}.</p>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn section(name: &str, note: &str, content: &str) -> String {
    format!("<section>\n<h2>{name}</h2>\n<p>{note}</p>\n{content}</section>\n")
}

fn summary(report: &Report) -> String {
    let totals = &report.totals;
    let mut facts = vec![
        ("file", units::bytes(totals.bytes)),
        ("weights", units::count(totals.weights)),
        ("bits/weight, whole file", format!("{:.4}", totals.bits_per_weight)),
        ("tensors", report.tensors.len().to_string()),
    ];
    if totals.wsic_tensors > 0 {
        facts.push((
            "WSIC tensors",
            format!("{} in {}", totals.wsic_tensors, units::bytes(totals.wsic_bytes)),
        ));
        facts.push(("bits/weight, WSIC tensors", format!("{:.4}", totals.wsic_bits_per_weight)));
    }
    let facts =
        facts.into_iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n"));
    format!("<dl>\n{}</dl>\n", facts.collect::<String>())
}

fn provenance(report: &Report) -> String {
    let row = |(key, value): (&String, &serde_json::Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(key), escape(&text))
    };
    let rows: String = report.provenance.iter().map(row).collect();
    match rows.is_empty() {
        true => section("Provenance", "The file does not say how it was quantized.", ""),
        false => section(
            "Provenance",
            "What the file says about how it was made.",
            &format!("<table class=\"facts\">\n{rows}</table>\n"),
        ),
    }
}

fn sizes(report: &Report) -> String {
    let mut types: BTreeMap<&str, (u64, u64, usize)> = BTreeMap::new();
    for tensor in &report.tensors {
        let sums = types.entry(&tensor.ty).or_default();
        *sums = (sums.0 + tensor.bytes, sums.1 + tensor.weights(), sums.2 + 1);
    }
    let mut types: Vec<_> = types.into_iter().collect();
    types.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.0));
    let data: u64 = types.iter().map(|(_, sums)| sums.0).sum();
    let mut shares: Vec<(String, f64)> = types
        .iter()
        .map(|(ty, (bytes, weights, count))| {
            let bits = per_weight(*bytes, *weights);
            let count = units::counted(count, "tensor");
            let name = format!("{ty}: {count}, {}, {bits:.3} bits/weight", units::bytes(*bytes));
            (name, *bytes as f64)
        })
        .collect();
    let header = report.totals.bytes.saturating_sub(data);
    shares.push((format!("metadata and padding: {}", units::bytes(header)), header as f64));
    section("Size by tensor type", "Shares of the file.", &parts("Size by tensor type", &shares))
}

/// The tensors of our type.
fn coded(report: &Report) -> impl Iterator<Item = (&Tensor, &PayloadReport)> {
    report.tensors.iter().filter_map(|tensor| Some((tensor, tensor.payload.as_ref()?)))
}

/// Kinds of tensors in the order of the file: names within a layer, then names of tensors outside.
fn kinds(report: &Report) -> Vec<&str> {
    let mut kinds = Vec::new();
    for (tensor, _) in coded(report) {
        let kind = kind(tensor);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

fn kind(tensor: &Tensor) -> &str {
    let whole = || tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    tensor.place().map_or_else(whole, |(_, kind)| kind)
}

fn rates(report: &Report) -> String {
    let bars: Vec<Column> = layers(&report.tensors)
        .into_iter()
        .map(|(layer, (bytes, weights))| {
            let value = per_weight(bytes, weights);
            let title = format!("layer {layer}: {value:.4} bits/weight, {}", units::bytes(bytes));
            Column { label: layer.to_string(), value, title }
        })
        .collect();
    let drawing = columns("Bits per weight of each layer", "layer", "bits/weight", &bars);
    let layers =
        section("Bits per layer", "WSIC tensors of each layer, all side information counted.", &drawing);
    let value = |tensor: &Tensor, _: &PayloadReport| Some(tensor.bits_per_weight);
    let drawing = by_layer(report, "Bits per weight of each tensor", "bits/weight", value);
    let note = "Rows are layers; the darker, the more bits. Other tensors are in the table at the end.";
    layers + &section("Bits per tensor", note, &drawing)
}

/// A grid of a value of each WSIC tensor that belongs to a layer.
fn by_layer(
    report: &Report,
    name: &str,
    unit: &str,
    value: impl Fn(&Tensor, &PayloadReport) -> Option<f64>,
) -> String {
    let placed = || coded(report).filter_map(|(tensor, payload)| Some((tensor, payload, tensor.place()?)));
    let mut numbers: Vec<usize> = placed().map(|(_, _, (layer, _))| layer).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut names: Vec<String> = Vec::new();
    for (_, _, (_, kind)) in placed() {
        if !names.iter().any(|name| name == kind) {
            names.push(kind.to_owned());
        }
    }
    let mut cells: Vec<Vec<Cell>> = numbers.iter().map(|_| names.iter().map(|_| None).collect()).collect();
    for (tensor, payload, (layer, kind)) in placed() {
        let row = numbers.binary_search(&layer).ok().and_then(|row| cells.get_mut(row));
        let column = names.iter().position(|name| name == kind);
        if let Some(cell) = row.zip(column).and_then(|(row, column)| row.get_mut(column)) {
            *cell = value(tensor, payload).map(|v| (v, format!("{}: {v:.4} {unit}", tensor.name)));
        }
    }
    let rows: Vec<String> = numbers.iter().map(usize::to_string).collect();
    grid(name, &rows, &names, &cells)
}

/// The value at each of [`POINTS`] equidistant shares of the total weight; `values` are (value, weight).
fn quantiles(mut values: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    values.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = values.iter().map(|value| value.1).sum();
    let (mut at, mut below) = (0, 0.0);
    let mut points = Vec::with_capacity(POINTS);
    for point in 0..POINTS {
        let share = point as f64 / (POINTS - 1) as f64;
        while at + 1 < values.len() && below + values[at].1 <= share * total {
            below += values[at].1;
            at += 1;
        }
        points.extend(values.get(at).map(|value| (100.0 * share, value.0)));
    }
    points
}

/// A curve for each kind of tensor over the columns of all layers; `values` gives (value, weight) of columns.
fn kind_curves(report: &Report, values: impl Fn(&Tensor, &PayloadReport) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let curve = |name: &str| {
        let of_kind = coded(report).filter(|(tensor, _)| kind(tensor) == name);
        let values = of_kind.flat_map(|(tensor, payload)| values(tensor, payload)).collect();
        (name.to_owned(), quantiles(values))
    };
    kinds(report).into_iter().map(curve).collect()
}

fn over_columns(report: &Report) -> String {
    let lines = kind_curves(report, |tensor, payload| {
        let rows = tensor.dims.get(1).copied().unwrap_or(1) as f64;
        payload.classes.iter().map(|class| (class.bits, class.columns as f64 * rows)).collect()
    });
    let name = "Rate over columns";
    let drawing = curves(name, "columns, those of the highest rate first, %", "bits of an integer", &lines);
    let note = "Every column belongs to a class, and the entropy of the class table is the rate of its integers. Waterfilling \
                gives columns of much input energy a high rate; a flat line would be one rate for all.";
    section(name, note, &drawing)
}

fn water_levels(report: &Report, logged: Option<&LoggedSteps>) -> String {
    let lines = kind_curves(report, |_, payload| {
        let Some(steps) = &payload.column_steps else { return Vec::new() };
        let octaves = |step: f32| f64::from(step / steps.median).log2();
        payload.sorted_steps.iter().map(|&step| (octaves(step), 1.0)).collect()
    });
    let name = "Steps over columns";
    let drawing =
        curves(name, "columns, those of the widest step first, %", "octaves from the median", &lines);
    let note = "The quantizer step of each column against the median of its tensor. At one water level a column's step is the \
                level over its entry on the diagonal of the Cholesky factor.";
    let mut all = section(name, note, &drawing);
    let name = "Water level of each tensor";
    match logged {
        Some(logged) => {
            let level = |tensor: &Tensor, _: &PayloadReport| Some(logged.get(&tensor.name)?.log2());
            let drawing = by_layer(report, name, "octaves (log2 of the step)", level);
            let note = "log2 of the step that the common level of the loss gave each tensor, from the log of the conversion; a \
                        twelfth of its square is the distortion of a weighted integer without a trellis.";
            all += &section(name, note, &drawing);
        }
        None => {
            let note =
                "The file does not store it: <code>--log</code> shows it from the log of the conversion.";
            all += &section(name, note, "");
        }
    }
    all
}

fn escapes(report: &Report) -> String {
    let mut sizes: Vec<u64> = Vec::new();
    for (_, payload) in coded(report) {
        sizes.resize(sizes.len().max(payload.escape_sizes.len()), 0);
        sizes.iter_mut().zip(&payload.escape_sizes).for_each(|(sum, count)| *sum += count);
    }
    let total: u64 = sizes.iter().sum();
    let bytes: u64 = coded(report).map(|(_, payload)| payload.escape_bytes).sum();
    let weights = report.totals.wsic_weights.max(1);
    let note = format!(
        "Integers beyond their class table: {} of them, {:.1} in a million weights, {} ({:.3} bits/weight). By the size of what \
         is added to the integer.",
        units::count(total),
        total as f64 / weights as f64 * 1e6,
        units::bytes(bytes),
        per_weight(bytes, weights)
    );
    let bars: Vec<Column> = sizes
        .iter()
        .enumerate()
        .map(|(index, &count)| {
            let (first, last) = (1u64 << (index + 2), (1u64 << (index + 3)) - 1);
            let title = format!("{first} to {last}: {count}");
            Column { label: format!("{first}–{last}"), value: count as f64, title }
        })
        .collect();
    let name = "Histogram of escapes";
    section(name, &note, &columns(name, "size of the addend", "escapes", &bars))
}

fn tensors(report: &Report) -> String {
    let most = coded(report).map(|(tensor, _)| tensor.bits_per_weight).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 32.0 };
    let rows: String = report
        .tensors
        .iter()
        .map(|tensor| {
            let payload = match &tensor.payload {
                None => "<td></td><td></td><td></td><td></td>".to_owned(),
                Some(payload) => {
                    let share = payload.escapes as f64 / tensor.weights().max(1) as f64 * 1e6;
                    format!(
                        "<td>{}</td><td>{}</td><td>{}</td><td>{share:.1}</td>",
                        payload.classes.len(),
                        payload.dead_columns,
                        payload.extra_columns
                    )
                }
            };
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.4}</td><td>{}</td>{payload}</tr>\n",
                escape(&tensor.name),
                units::dims(&tensor.dims),
                tensor.ty,
                units::bytes(tensor.bytes),
                tensor.bits_per_weight,
                small_bar(tensor.bits_per_weight / most)
            )
        })
        .collect();
    let head =
        "<tr><th>tensor</th><th>rows x columns</th><th>type</th><th>size</th><th>bits/weight</th><th></th>\
                <th>classes</th><th>dead columns</th><th>extra columns</th><th>escapes per million</th></tr>";
    section(
        "All tensors",
        "In the order of the file.",
        &format!("<div class=\"wide\"><table>\n{head}\n{rows}</table></div>\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_follow_the_weights() {
        let points = quantiles(vec![(1.0, 3.0), (5.0, 1.0)]);
        assert_eq!(points.len(), POINTS);
        assert_eq!((points[0], points[POINTS - 1]), ((0.0, 5.0), (100.0, 1.0)));
        assert_eq!(points.iter().filter(|point| point.1 == 5.0).count(), 50);
        assert!(quantiles(vec![]).is_empty());
    }
}
