//! Curves as text for a terminal and as SVG for a page.

use std::fmt::Write as _;

/// A curve: its name and its values at the plot's abscissae.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Name in the legend.
    pub label: String,
    /// Ordinates, one for each abscissa; all above zero.
    pub values: Vec<f64>,
}

/// Curves over common abscissae, with a logarithmic ordinate.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// Name of the abscissa.
    pub x_label: String,
    /// Name of the ordinate.
    pub y_label: String,
    /// Abscissae, rising.
    pub xs: Vec<f64>,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// One mark per curve in a terminal, one colour in SVG (readable in black and white and to
/// colour-blind eyes).
const STYLES: [(char, &str); 4] =
    [('●', "#0072b2"), ('◆', "#d55e00"), ('▲', "#009e73"), ('■', "#cc79a7")];

impl Plot {
    /// The range of the ordinate in powers of ten, rounded outwards to 1, 2 or 5.
    fn range(&self) -> (f64, f64) {
        let values = || self.curves.iter().flat_map(|curve| &curve.values).copied();
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(0.0, f64::max);
        if !(low > 0.0 && high.is_finite() && low.is_finite()) {
            return (1.0, 10.0);
        }
        let (low, high) = (nice(low, f64::floor), nice(high, f64::ceil));
        if low < high { (low, high) } else { (low, low * 10.0) }
    }

    /// Where a value lies between the ends of the ordinate: 0 at the bottom, 1 at the top.
    fn height(&self, value: f64) -> f64 {
        let (low, high) = self.range();
        ((value / low).ln() / (high / low).ln()).clamp(0.0, 1.0)
    }

    /// Where an abscissa lies between the ends: 0 left, 1 right.
    fn across(&self, x: f64) -> f64 {
        match (self.xs.first(), self.xs.last()) {
            (Some(first), Some(last)) if last > first => (x - first) / (last - first),
            _ => 0.0,
        }
    }

    /// The plot in characters, `width` × `height` for the area between the axes.
    pub fn text(&self, width: usize, height: usize) -> String {
        let (width, height) = (width.max(2), height.max(2));
        let mut cells = vec![vec![' '; width]; height];
        for (curve, (mark, _)) in self.curves.iter().zip(STYLES.iter().cycle()) {
            for (x, value) in self.xs.iter().zip(&curve.values) {
                let column = (self.across(*x) * (width - 1) as f64).round() as usize;
                let row = ((1.0 - self.height(*value)) * (height - 1) as f64).round() as usize;
                cells[row][column] = *mark;
            }
        }
        let (low, high) = self.range();
        let mut text = format!("{} ({})\n", self.title, self.y_label);
        for (row, cells) in cells.iter().enumerate() {
            let label = match row {
                0 => tick(high),
                _ if row == height - 1 => tick(low),
                _ => String::new(),
            };
            let cells: String = cells.iter().collect();
            let _ = writeln!(text, "{label:>8} │{}", cells.trim_end());
        }
        let _ = writeln!(text, "{:>8} └{}", "", "─".repeat(width));
        let (first, last) = (self.xs.first().copied(), self.xs.last().copied());
        let (first, last) = (tick(first.unwrap_or_default()), tick(last.unwrap_or_default()));
        let gap = width.saturating_sub(first.len() + last.len() + self.x_label.len()) / 2;
        let gap = " ".repeat(gap.max(1));
        let _ = writeln!(text, "{:>8}  {first}{gap}{}{gap}{last}", "", self.x_label);
        let legend = self.curves.iter().zip(STYLES.iter().cycle());
        let legend: Vec<_> = legend.map(|(c, (mark, _))| format!("{mark} {}", c.label)).collect();
        let _ = writeln!(text, "{:>8}  {}", "", legend.join("   "));
        text
    }

    /// The plot as a picture.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 70.0;
        const TOP: f64 = 40.0;
        const WIDTH: f64 = 520.0;
        const HEIGHT: f64 = 300.0;
        let x_at = |x: f64| LEFT + WIDTH * self.across(x);
        let y_at = |value: f64| TOP + HEIGHT * (1.0 - self.height(value));
        let mut svg = String::from(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 400\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"760\" height=\"400\" fill=\"white\"/>\n",
        );
        let text = |x: f64, y: f64, anchor: &str, text: &str| {
            format!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
                escaped(text)
            )
        };
        svg += &text(LEFT, TOP - 16.0, "start", &format!("{} ({})", self.title, self.y_label));
        svg += &text(LEFT + WIDTH / 2.0, TOP + HEIGHT + 40.0, "middle", &self.x_label);
        for value in self.ticks() {
            let y = y_at(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>",
                LEFT + WIDTH
            );
            svg += &text(LEFT - 8.0, y + 4.0, "end", &tick(value));
        }
        for x in self.xs.iter().step_by((self.xs.len() / 8).max(1)) {
            svg += &text(x_at(*x), TOP + HEIGHT + 20.0, "middle", &tick(*x));
        }
        for (i, curve) in self.curves.iter().enumerate() {
            let (_, colour) = STYLES[i % STYLES.len()];
            let points = self.xs.iter().zip(&curve.values);
            let points: Vec<_> =
                points.map(|(x, v)| format!("{:.1},{:.1}", x_at(*x), y_at(*v))).collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            );
            let y = curve.values.last().map_or(TOP, |value| y_at(*value));
            svg += &text(LEFT + WIDTH + 8.0, y + 4.0, "start", &curve.label);
        }
        svg + "</svg>\n"
    }

    /// 1, 2 and 5 times the powers of ten inside the range.
    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.range();
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let all = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(d)));
        all.filter(|value| (low * 0.999..=high * 1.001).contains(value)).collect()
    }
}

/// The next of 1, 2, 5 and 10 times a power of ten, in the direction of `round`.
fn nice(value: f64, round: fn(f64) -> f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let up = round(0.5) > 0.0;
    let fitting = |step: &f64| if up { step * decade >= value } else { step * decade <= value };
    let found =
        if up { steps.into_iter().find(fitting) } else { steps.into_iter().rev().find(fitting) };
    found.unwrap_or(1.0) * decade
}

fn tick(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        let curve =
            |label: &str, values: &[f64]| Curve { label: label.into(), values: values.into() };
        Plot {
            title: "cost".into(),
            x_label: "hours".into(),
            y_label: "$ < M".into(),
            xs: vec![1.0, 2.0, 3.0],
            curves: vec![curve("a", &[80.0, 40.0, 26.0]), curve("b", &[3.0, 3.0, 3.0])],
        }
    }

    #[test]
    fn text_shows_every_curve_between_its_axes() {
        let text = plot().text(20, 5);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        assert!(lines[1].starts_with("     100 │●"), "{text}");
        assert!(lines[5].starts_with("       2 │"), "{text}");
        assert_eq!(text.matches('◆').count(), 3 + 1, "{text}");
    }

    #[test]
    fn svg_is_closed_and_escaped() {
        let svg = plot().svg();
        assert!(svg.ends_with("</svg>\n") && svg.contains("$ &lt; M"));
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn empty_plots_are_drawn_without_values() {
        let empty = Plot { curves: Vec::new(), xs: Vec::new(), ..plot() };
        assert!(empty.text(10, 3).contains('└'));
        assert!(empty.svg().contains("</svg>"));
    }
}
