//! Drawings of the report as `svg` elements: nothing outside them is needed to see them.

use crate::cli::plot::{escape, linear_ticks, number, COLOURS};

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 300.0;
/// Left, top, right, bottom of charts with axes.
const MARGIN: [f64; 4] = [64.0, 14.0, 16.0, 46.0];

/// A drawing, in a box that a narrow window scrolls.
fn frame(width: f64, height: f64, label: &str, body: &str) -> String {
    format!(
        "<div class=\"wide\"><svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n{body}</svg></div>\n",
        escape(label)
    )
}

/// Where values stand in a chart with linear axes.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
    width: f64,
}

impl Axes {
    fn x(&self, value: f64) -> f64 {
        let [left, _, right, _] = MARGIN;
        left + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - left - right)
    }

    fn y(&self, value: f64) -> f64 {
        let [_, top, _, bottom] = MARGIN;
        HEIGHT - bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - top - bottom)
    }

    /// Lines and numbers of the upward axis, and both titles.
    fn draw(&self, x_title: &str, y_title: &str) -> String {
        let [left, top, right, bottom] = MARGIN;
        let mut svg = String::new();
        for tick in linear_ticks(self.y[0], self.y[1]) {
            let y = self.y(tick);
            svg += &format!(
                "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                self.width - right,
                left - 6.0,
                y + 4.0,
                number(tick)
            );
        }
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            (left + self.width - right) / 2.0,
            HEIGHT - 8.0,
            escape(x_title),
            (top + HEIGHT - bottom) / 2.0,
            escape(y_title)
        );
        svg
    }
}

/// A column of a [`columns`] chart.
pub(super) struct Column {
    /// Under the column, where there is room.
    pub(super) label: String,
    pub(super) value: f64,
    /// What the pointer shows.
    pub(super) title: String,
}

/// Columns side by side, from zero on.
pub(super) fn columns(name: &str, x_title: &str, y_title: &str, columns: &[Column]) -> String {
    let most = columns.iter().map(|column| column.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let axes = Axes {
        x: [0.0, columns.len().max(1) as f64],
        y: [0.0, if most > 0.0 { most * 1.05 } else { 1.0 }],
        width: WIDTH,
    };
    let mut svg = axes.draw(x_title, y_title);
    let step = axes.x(1.0) - axes.x(0.0);
    let every = (26.0 / step).ceil().max(1.0) as usize;
    for (index, column) in columns.iter().enumerate() {
        let left = axes.x(index as f64);
        let top = axes.y(column.value.max(0.0).min(axes.y[1]));
        svg += &format!(
            "<rect class=\"column\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}</title></rect>\n",
            left + 0.1 * step,
            0.8 * step,
            axes.y(0.0) - top,
            COLOURS[0],
            escape(&column.title)
        );
        if index % every == 0 {
            svg += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                left + step / 2.0,
                axes.y(0.0) + 15.0,
                escape(&column.label)
            );
        }
    }
    frame(WIDTH, HEIGHT, name, &svg)
}

/// A line of a [`curves`] chart: its name and points in order.
pub(super) type Curve = (String, Vec<(f64, f64)>);

/// Lines over a linear axis, with their names at the right.
pub(super) fn curves(name: &str, x_title: &str, y_title: &str, curves: &[Curve]) -> String {
    let points =
        || curves.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let (low, high) = points()
            .map(pick)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        match low < high {
            true => [low, high],
            false if low.is_finite() => [low - 0.5, low + 0.5],
            false => [0.0, 1.0],
        }
    };
    let [low, high] = range(|point| point.1);
    let room = 0.04 * (high - low);
    let axes = Axes { x: range(|point| point.0), y: [low - room, high + room], width: WIDTH - 160.0 };
    let mut svg = axes.draw(x_title, y_title);
    for tick in linear_ticks(axes.x[0], axes.x[1]) {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            axes.x(tick),
            HEIGHT - MARGIN[3] + 16.0,
            number(tick)
        );
    }
    for (index, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dashes = if index < COLOURS.len() { "" } else { " stroke-dasharray=\"4 3\"" };
        let places: Vec<String> = points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|&(x, y)| format!("{:.1},{:.1}", axes.x(x), axes.y(y)))
            .collect();
        let name = escape(name);
        let y = MARGIN[1] + 10.0 + 17.0 * index as f64;
        svg += &format!(
            "<polyline class=\"curve\" points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dashes}><title>{name}\
             </title></polyline>\n<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"3\"{dashes}/><text x=\"{:.1}\" y=\"{y:.1}\">{name}</text>\n",
            places.join(" "),
            WIDTH - 162.0,
            y - 4.0,
            WIDTH - 142.0,
            y - 4.0,
            WIDTH - 136.0,
        );
    }
    frame(WIDTH, HEIGHT.max(30.0 + 17.0 * curves.len() as f64), name, &svg)
}

/// A cell of a [`grid`]: a value, and what the pointer shows.
pub(super) type Cell = Option<(f64, String)>;

/// A table of shades, the darker the more. `cells` holds a row for each of `rows`.
pub(super) fn grid(name: &str, rows: &[String], columns: &[String], cells: &[Vec<Cell>]) -> String {
    const ROW: f64 = 18.0;
    const LABEL: f64 = 46.0;
    const TOP: f64 = 22.0;
    let values = || cells.iter().flatten().flatten().map(|cell| cell.0).filter(|value| value.is_finite());
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let width = ((WIDTH - LABEL) / columns.len().max(1) as f64).clamp(44.0, 110.0);
    let mut svg = String::new();
    for (index, column) in columns.iter().enumerate() {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"14\" text-anchor=\"middle\" font-size=\"11\">{}</text>\n",
            LABEL + width * (index as f64 + 0.5),
            escape(column)
        );
    }
    for (index, (row, cells)) in rows.iter().zip(cells).enumerate() {
        let y = TOP + ROW * index as f64;
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LABEL - 8.0,
            y + 13.0,
            escape(row)
        );
        for (column, cell) in cells.iter().enumerate() {
            let Some((value, title)) = cell else { continue };
            let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
            let (colour, text) = shade(share);
            let x = LABEL + width * column as f64;
            svg += &format!(
                "<g class=\"cell\"><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{text}\">{}\
                 </text></g>\n",
                escape(title),
                width - 1.0,
                ROW - 1.0,
                x + width / 2.0,
                y + 13.0,
                format_args!("{value:.2}")
            );
        }
    }
    frame(LABEL + width * columns.len() as f64, TOP + ROW * rows.len() as f64 + 4.0, name, &svg)
}

/// Colour of a share from 0 (light) to 1 (dark), and of text on it.
fn shade(share: f64) -> (String, &'static str) {
    let mix = |light: f64, dark: f64| (light + (dark - light) * share).round() as u8;
    let colour = format!("#{:02x}{:02x}{:02x}", mix(232.0, 0.0), mix(241.0, 77.0), mix(250.0, 122.0));
    (colour, if share > 0.55 { "#fff" } else { "#222" })
}

/// One bar cut into parts, with their names below.
pub(super) fn parts(name: &str, parts: &[(String, f64)]) -> String {
    let total: f64 = parts.iter().map(|part| part.1).sum();
    let mut svg = String::new();
    let mut x = 0.0;
    for (index, (part, value)) in parts.iter().enumerate() {
        let width = if total > 0.0 { value / total * WIDTH } else { 0.0 };
        let colour = COLOURS[index % COLOURS.len()];
        let label = escape(part);
        svg += &format!(
            "<rect class=\"part\" x=\"{x:.2}\" y=\"0\" width=\"{width:.2}\" height=\"26\" fill=\"{colour}\"><title>{label}\
             </title></rect>\n<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{label}</text>\n",
            (index % 3) as f64 * 306.0,
            38.0 + 18.0 * (index / 3) as f64,
            (index % 3) as f64 * 306.0 + 16.0,
            47.0 + 18.0 * (index / 3) as f64
        );
        x += width;
    }
    frame(WIDTH, 40.0 + 18.0 * parts.len().div_ceil(3) as f64, name, &svg)
}

/// A share as a part of a bar: between 0 and 1, and 0 if it is no number.
pub(super) fn filled(share: f64) -> f64 {
    if share > 0.0 {
        share.min(1.0)
    } else {
        0.0
    }
}

/// A small bar for a cell of a table; `share` of its room is filled.
pub(super) fn small_bar(share: f64) -> String {
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 8\" width=\"100\" height=\"8\" aria-hidden=\"true\"><rect width=\"100\" height=\"8\" \
         fill=\"#eee\"/><rect width=\"{:.1}\" height=\"8\" fill=\"{}\"/></svg>",
        100.0 * filled(share),
        COLOURS[0]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places of an attribute.
    fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
        let mark = format!(" {attribute}=\"");
        let values = svg.split(&mark).skip(1).map(|part| part.split('"').next().unwrap());
        values.filter_map(|text| text.parse().ok()).collect()
    }

    #[test]
    fn marks_stay_inside_and_odd_values_do_no_harm() {
        let column = |value| Column { label: "<a>".into(), value, title: "a & b".into() };
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, -3.0)];
        let cell = |value| Some((value, "x".to_owned()));
        let drawings = [
            columns("n", "x", "y", &[column(3.0), column(0.0), column(f64::NAN)]),
            columns("none", "x", "y", &[]),
            curves("n", "x", "y", &[("<one>".into(), points), ("none".into(), vec![])]),
            curves("none", "x", "y", &[]),
            grid("n", &["0".into()], &["q".into(), "k".into()], &[vec![cell(2.0), None]]),
            grid("n", &[], &[], &[]),
            parts("n", &[("a".into(), 3.0), ("b".into(), 1.0)]),
            parts("n", &[("a".into(), 0.0)]),
            small_bar(f64::INFINITY),
        ];
        for svg in &drawings {
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<one>"), "{svg}");
            for attribute in ["x", "x1", "x2", "width"] {
                let places = numbers(svg, attribute);
                assert!(places.iter().all(|&x| (-0.5..=WIDTH + 0.5).contains(&x)), "{attribute} {places:?}");
            }
            for attribute in ["y", "y1", "y2", "height"] {
                let places = numbers(svg, attribute);
                assert!(places.iter().all(|&y| (-0.5..=HEIGHT + 0.5).contains(&y)), "{attribute} {places:?}");
            }
        }
        assert_eq!(drawings[0].matches("class=\"column\"").count(), 3);
        assert_eq!(drawings[2].matches("class=\"curve\"").count(), 2);
        assert_eq!(drawings[4].matches("class=\"cell\"").count(), 1);
        assert!(drawings[0].contains("a &amp; b"));
    }
}
