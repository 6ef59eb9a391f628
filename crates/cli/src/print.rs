//! Tables and numbers as people read them.

use std::io::{self, Write};

/// The style of headings.
pub(crate) const HEADING: anstyle::Style = anstyle::Style::new().bold();
/// The style of what matters less.
pub(crate) const FAINT: anstyle::Style = anstyle::Style::new().dimmed();

/// Rows of cells, aligned when printed: the first column to the left, numbers to the right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns from this one on are text again and aligned to the left.
    text_from: usize,
}

impl Table {
    /// A table with these column titles; empty titles print no title line.
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        let heading = heading.map(String::from).to_vec();
        Self { heading, rows: Vec::new(), text_from: usize::MAX }
    }

    /// Aligns columns from `column` on to the left.
    pub(crate) fn text_from(mut self, column: usize) -> Self {
        self.text_from = column;
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn print(&self, to: &mut dyn Write) -> io::Result<()> {
        let titled = self.heading.iter().any(|title| !title.is_empty());
        let lines = self.rows.iter().chain(titled.then_some(&self.heading));
        let mut widths = vec![0; self.heading.len()];
        for line in lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        if titled {
            let heading = self.line(&self.heading, &widths);
            writeln!(to, "{FAINT}{heading}{FAINT:#}")?;
        }
        self.rows.iter().try_for_each(|row| writeln!(to, "{}", self.line(row, &widths)))
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let cell = |(i, (text, width)): (usize, (&String, &usize))| {
            if i == 0 || i >= self.text_from {
                format!("{text:<width$}")
            } else {
                format!("{text:>width$}")
            }
        };
        let cells: Vec<String> = cells.iter().zip(widths).enumerate().map(cell).collect();
        format!("  {}", cells.join("  ").trim_end())
    }
}

/// Bytes in binary units with one decimal: `80.8 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fitting = units.iter().find(|(_, shift)| bytes >> shift > 0);
    match fitting {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / f64::powi(2.0, *shift)),
        None => format!("{bytes} B"),
    }
}

/// A count with thousands separated: `1,048,576`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large count in words: `284.3 B`, `1.6 T`, as models are named.
pub(crate) fn large(count: u64) -> String {
    let units = [(1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " K")];
    let value = count as f64;
    match units.iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", value / unit),
        None => count.to_string(),
    }
}

/// A rate with as many decimals as it deserves.
pub(crate) fn rate(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(bytes(86_700_000_000), "80.7 GiB");
        assert_eq!(bytes(1000), "1000 B");
        assert_eq!(count(1_048_576), "1,048,576");
        assert_eq!((count(0), count(999), count(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(large(284_300_000_000), "284.3 B");
        assert_eq!(
            (rate(123.4), rate(12.34), rate(1.234)),
            ("123".into(), "12.3".into(), "1.23".into())
        );
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["what", "size", "note"]).text_from(2);
        table.row(["a".into(), "1".into(), "x".into()]);
        table.row(["long".into(), "1000".into(), String::new()]);
        let mut bytes = Vec::new();
        table.print(&mut anstream::StripStream::new(&mut bytes)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "  what  size  note\n  a        1  x\n  long  1000\n");
    }
}
