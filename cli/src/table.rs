//! Aligned columns, and the units that people read in them.
//!
//! For: lists on standard output. Not for: JSON. Columns are two spaces apart, without frames, so that `awk` and eyes
//! both find them.

use std::time::{Duration, SystemTime};

/// Rows below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// All lines, the last without a newline.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            line.join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// `9.5 MiB`, `812 B`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago an RFC 3339 time was: `12s`, `3m`, `5h`, `2d`; `-` if it cannot be read.
pub(crate) fn age(at: &str, now: SystemTime) -> String {
    humantime::parse_rfc3339_weak(at).map_or_else(
        |_| "-".to_owned(),
        |then| duration(now.duration_since(then).unwrap_or_default()),
    )
}

fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        172_800.. => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let mut table = Table::new(["NAME", "V", "LAST"]);
        table.row(["a_long_name".into(), "1".into(), String::new()]);
        table.row(["b".into(), "22".into(), "x".into()]);
        assert_eq!(
            table.text(),
            "NAME         V   LAST\na_long_name  1\nb            22  x"
        );
    }

    #[test]
    fn units_are_readable() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        let now = humantime::parse_rfc3339("2026-01-02T00:00:00Z").expect("a time");
        assert_eq!(age("2026-01-01T23:59:30.250Z", now), "29s");
        assert_eq!(age("2026-01-01T00:00:00Z", now), "24h");
        assert_eq!(age("2026-01-02T00:00:09Z", now), "0s");
        assert_eq!(age("yesterday", now), "-");
    }
}
