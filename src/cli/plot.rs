//! Curves as SVG: one logarithmic axis upwards, one linear axis to the right.

/// A measured point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// Points that a line joins.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

/// A diagram.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) series: Vec<Series>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [70.0, 36.0, 160.0, 52.0];
/// Distinct for people who cannot tell red from green.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999933"];

/// Text that may stand in SVG and HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Round numbers in a range: 1, 2 or 5 times a power of ten apart.
pub(super) fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let raw = (high - low).max(f64::MIN_POSITIVE) / 6.0;
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= raw).unwrap_or(power);
    let first = (low / step).ceil() as i64;
    (first..first + 20).map(|i| i as f64 * step).take_while(|&tick| tick <= high * (1.0 + 1e-9)).collect()
}

/// 1, 2 and 5 times powers of ten in a range of positive numbers; every digit where that gives fewer than three.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let ticks = |digits: &[f64]| -> Vec<f64> {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|tick| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(tick)).collect()
    };
    let coarse = ticks(&[1.0, 2.0, 5.0]);
    match coarse.len() {
        0..3 => ticks(&[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        _ => coarse,
    }
}

pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Plot {
    /// Points that can be drawn: finite, and positive upwards.
    fn drawable(&self) -> Vec<(&str, Vec<Point>)> {
        let good = |point: &&Point| point.x.is_finite() && point.y.is_finite() && point.y > 0.0;
        self.series
            .iter()
            .map(|series| {
                let mut points: Vec<Point> = series.points.iter().filter(good).copied().collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                (series.name.as_str(), points)
            })
            .collect()
    }

    /// What is drawn, without the `svg` element around it.
    fn body(&self) -> String {
        let series = self.drawable();
        let all: Vec<Point> = series.iter().flat_map(|(_, points)| points.iter().copied()).collect();
        let range = |pick: fn(&Point) -> f64| {
            let (low, high) = all
                .iter()
                .map(pick)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            if low.is_finite() {
                (low, high)
            } else {
                (1.0, 2.0)
            }
        };
        let (x_low, x_high) = range(|point| point.x);
        let room = ((x_high - x_low) * 0.06).max(x_high.abs() * 0.01).max(1e-9);
        let (x_low, x_high) = (x_low - room, x_high + room);
        let (y_low, y_high) = range(|point| point.y);
        let (y_low, y_high) = (y_low / 1.15, y_high * 1.15);
        let [left, top, right, bottom] = MARGIN;
        let (right, bottom) = (WIDTH - right, HEIGHT - bottom);
        let x_of = |x: f64| left + (x - x_low) / (x_high - x_low) * (right - left);
        let y_of = |y: f64| bottom - (y / y_low).ln() / (y_high / y_low).ln() * (bottom - top);
        let mut svg =
            format!("<text x=\"{left}\" y=\"20\" font-size=\"14\">{}</text>\n", escape(&self.title));
        for tick in linear_ticks(x_low, x_high) {
            let x = x_of(tick);
            svg += &format!(
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 16.0,
                number(tick)
            );
        }
        for tick in logarithmic_ticks(y_low, y_high) {
            let y = y_of(tick);
            svg += &format!(
                "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                left - 6.0,
                y + 4.0,
                number(tick)
            );
        }
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{} (logarithmic)</text>\n",
            (left + right) / 2.0,
            bottom + 38.0,
            escape(&self.x),
            (top + bottom) / 2.0,
            escape(&self.y)
        );
        for (index, (name, points)) in series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let places: Vec<String> =
                points.iter().map(|point| format!("{:.1},{:.1}", x_of(point.x), y_of(point.y))).collect();
            if places.len() > 1 {
                svg += &format!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                    places.join(" ")
                );
            }
            for point in points {
                svg += &format!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{}: {} at {}</title></circle>\n",
                    x_of(point.x),
                    y_of(point.y),
                    escape(name),
                    number(point.y),
                    number(point.x)
                );
            }
            let y = top + 14.0 + 18.0 * index as f64;
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>\n",
                right + 14.0,
                y - 4.0,
                right + 24.0,
                escape(name)
            );
        }
        svg
    }

    /// The diagram as an `svg` element.
    pub(super) fn svg(&self) -> String {
        frame(HEIGHT, &self.body())
    }

    /// Diagrams one below the other in one `svg` element.
    pub(super) fn stacked(plots: &[Plot]) -> String {
        let bodies = plots.iter().enumerate().map(|(index, plot)| {
            format!("<g transform=\"translate(0 {})\">\n{}</g>\n", HEIGHT * index as f64, plot.body())
        });
        frame(HEIGHT * plots.len() as f64, &bodies.collect::<String>())
    }
}

fn frame(height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear_ticks(33.0, 92.0), [40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        assert_eq!(logarithmic_ticks(0.04, 0.6), [0.05, 0.1, 0.2, 0.5]);
        assert!(logarithmic_ticks(15.0, 19.0).contains(&15.0));
        assert_eq!(number(0.05), "0.05");
        assert_eq!(number(40.0), "40");
    }

    #[test]
    fn points_stay_inside_and_names_are_escaped() {
        let point = |x, y| Point { x, y };
        let plot = Plot {
            title: "a < b".into(),
            x: "x".into(),
            y: "y".into(),
            series: vec![
                Series {
                    name: "<one>".into(),
                    points: vec![point(50.0, 0.1), point(30.0, 0.4), point(1.0, f64::NAN)],
                },
                Series { name: "two".into(), points: vec![point(40.0, 0.0)] },
            ],
        };
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("&lt;one&gt;") && !svg.contains("<one>"));
        assert_eq!(svg.matches("<title>").count(), 2, "zero and NaN have no place on a logarithmic axis");
        for part in svg.split("cx=\"").skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..=WIDTH).contains(&x), "{x}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(Plot { series: vec![], ..plot }.svg().ends_with("</svg>\n"));
    }
}
