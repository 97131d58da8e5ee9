//! Values over time as an SVG, with the faults as bands behind them.

use std::{fmt::Write as _, time::Duration};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 6] = [
    "#1b6ca8", "#1e8449", "#c0392b", "#8e44ad", "#b9770e", "#34495e",
];
const BANDS: [(&str, &str); 3] = [
    ("kill -9", "#c0392b"),
    ("links cut or held", "#8e44ad"),
    ("links slow", "#b9770e"),
];

/// A line: its name, and what it is at which second.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A time with a fault of a kind, by its place among the bands.
pub(super) struct Band {
    pub(super) kind: usize,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// How high a value stands.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    Linear {
        most: f64,
    },
    /// From the least value to the most, by powers of ten.
    Logarithmic {
        least: f64,
        most: f64,
    },
}

impl Scale {
    fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear { most } => (0..=4).map(|at| most * f64::from(at) / 4.0).collect(),
            Self::Logarithmic { least, most } => {
                let powers = (0..).map(|power| least * 10_f64.powi(power));
                powers.take_while(|mark| *mark <= most).collect()
            }
        }
    }

    /// The pixel of a value, from the top.
    fn up(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { most } => value / most,
            Self::Logarithmic { least, most } => {
                (value.max(least) / least).log10() / (most / least).log10()
            }
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws lines over so many seconds.
pub(super) fn draw(
    title: &str,
    seconds: f64,
    scale: Scale,
    lines: &[Line],
    bands: &[Band],
) -> String {
    let across = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - RIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"14\" font-weight=\"bold\">{title}</text>\n"
    );
    for band in bands {
        let (from, to) = (
            across(band.from.as_secs_f64()),
            across(band.to.as_secs_f64()),
        );
        let (width, height) = ((to - from).max(1.0), HEIGHT - TOP - BOTTOM);
        let colour = BANDS[band.kind].1;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" \
             fill=\"{colour}\" opacity=\"0.18\"/>"
        );
    }
    for mark in scale.marks() {
        let (y, right, beside) = (scale.up(mark), WIDTH - RIGHT, LEFT - 6.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{beside}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            (mark * 100.0).round() / 100.0
        );
    }
    for tenth in 0..=10 {
        let second = seconds * f64::from(tenth) / 10.0;
        let (x, y) = (across(second), HEIGHT - BOTTOM + 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{second:.0} s</text>"
        );
    }
    for (at, line) in lines.iter().enumerate() {
        let points = line.points.iter();
        let points: Vec<String> = points
            .map(|(second, value)| format!("{:.1},{:.1}", across(*second), scale.up(*value)))
            .collect();
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>",
            points.join(" ")
        );
    }
    let names = lines.iter().enumerate();
    let names = names.map(|(at, line)| (line.name, COLOURS[at % COLOURS.len()]));
    legend(&mut svg, TOP - 8.0, names);
    legend(&mut svg, HEIGHT - 8.0, BANDS.into_iter());
    svg.push_str("</svg>\n");
    svg
}

fn legend<'a>(svg: &mut String, y: f64, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (at, (name, colour)) in names.enumerate() {
        let x = LEFT + 150.0 * f64::from(u32::try_from(at).unwrap());
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"
        );
    }
}
