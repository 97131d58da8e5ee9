//! Distributions of latencies as an SVG: how many of a hundred took at most so long.

use std::fmt::Write as _;

use super::load::Latency;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;
/// Ends of the scale, in milliseconds; it is logarithmic.
const LEAST_MS: f64 = 0.1;
const MOST_MS: f64 = 10_000.0;
/// Points of a line.
const STEPS: u32 = 200;
const COLOURS: [&str; 6] = [
    "#1b6ca8", "#c0392b", "#1e8449", "#8e44ad", "#b9770e", "#34495e",
];

/// Draws one line for each named latency.
pub(super) fn draw(lines: &[(&str, &Latency)]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for ms in [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0] {
        let (x, top, bottom) = (across(ms), up(1.0), up(0.0));
        let below = bottom + 14.0;
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{ms} ms</text>"
        );
    }
    for quantile in [0.0, 0.5, 0.9, 0.99] {
        let (y, left, right) = (up(quantile), across(LEAST_MS), across(MOST_MS));
        let (beside, percent) = (left - 6.0, quantile * 100.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{beside}\" y=\"{y:.1}\" text-anchor=\"end\">{percent}%</text>"
        );
    }
    for (at, (name, latency)) in lines.iter().enumerate() {
        let colour = COLOURS.get(at % COLOURS.len()).unwrap_or(&"#000");
        let points = latency.distribution(STEPS).into_iter();
        let points: Vec<String> = points
            .map(|(quantile, ms)| format!("{:.1},{:.1}", across(ms), up(quantile)))
            .collect();
        let (x, y) = (
            across(LEAST_MS) + 8.0,
            16.0 * f64::from(u32::try_from(at).unwrap_or(0)),
        );
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{x}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            up(1.0) + 14.0 + y,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where a latency stands, from left to right.
fn across(ms: f64) -> f64 {
    let share = (ms.clamp(LEAST_MS, MOST_MS) / LEAST_MS).log10() / (MOST_MS / LEAST_MS).log10();
    MARGIN + share * (WIDTH - 2.0 * MARGIN)
}

/// Where a share of all stands, from the bottom up.
fn up(share: f64) -> f64 {
    HEIGHT - MARGIN / 1.5 - share * (HEIGHT - MARGIN)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn every_line_is_drawn_within_the_picture() {
        let (none, some) = (Latency::new().unwrap(), Latency::new().unwrap());
        for _ in 0..10 {
            some.record(Instant::now());
        }
        let svg = draw(&[("none", &none), ("some", &some)]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains(">some</text>"));
        assert!(across(0.0) >= 0.0 && across(1e9) <= WIDTH && up(1.0) >= 0.0 && up(0.0) <= HEIGHT);
    }
}
