//! The result: a row per comparison, printed for people and written as JSON.

use super::samples::Samples;
use serde::Serialize;
use std::fmt;

/// What was promised of a row.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "bound")]
pub(crate) enum Promise {
    /// Ours divided by the peer's is at most this.
    RatioAtMost(f64),
    /// The 99th percentile of ours, divided by the peer's median, is at most this.
    TailAtMost(f64),
    /// Ours divided by the peer's is at least this.
    RatioAtLeast(f64),
    /// Ours is at most this.
    AtMost(f64),
    /// Ours is at least this.
    AtLeast(f64),
    /// Nothing; the figure helps to read the others.
    Context,
}

/// Another program's samples of the same thing.
#[derive(Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) samples: Samples,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    pub(crate) peer: Option<Peer>,
    pub(crate) promise: Promise,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?;
        let ours = match self.promise {
            Promise::TailAtMost(_) => self.ours.quantile(0.99),
            Promise::RatioAtMost(_)
            | Promise::RatioAtLeast(_)
            | Promise::AtMost(_)
            | Promise::AtLeast(_)
            | Promise::Context => self.ours.median(),
        };
        Some(ours / peer.samples.median())
    }

    /// Whether the promise holds; nothing where there is none.
    fn held(&self) -> Option<bool> {
        let ratio = self.ratio();
        match self.promise {
            Promise::RatioAtMost(bound) | Promise::TailAtMost(bound) => {
                Some(ratio.is_some_and(|r| r <= bound))
            }
            Promise::RatioAtLeast(bound) => Some(ratio.is_some_and(|r| r >= bound)),
            Promise::AtMost(bound) => Some(self.ours.median() <= bound),
            Promise::AtLeast(bound) => Some(self.ours.median() >= bound),
            Promise::Context => None,
        }
    }

    fn cells(&self) -> [String; 9] {
        let of_peer =
            |tell: &dyn Fn(&Peer) -> String| self.peer.as_ref().map_or_else(String::new, tell);
        [
            self.what.clone(),
            self.unit.to_owned(),
            figure(self.ours.median()),
            figure(self.ours.quantile(0.99)),
            of_peer(&|peer| peer.name.clone()),
            of_peer(&|peer| figure(peer.samples.median())),
            self.ratio().map_or_else(String::new, ratio),
            match self.promise {
                Promise::RatioAtMost(bound) => format!("≤ {} ×", ratio(bound)),
                Promise::TailAtMost(bound) => format!("p99 ≤ {} ×", ratio(bound)),
                Promise::RatioAtLeast(bound) => format!("≥ {} ×", ratio(bound)),
                Promise::AtMost(bound) => format!("≤ {bound} {}", self.unit),
                Promise::AtLeast(bound) => format!("≥ {bound} {}", self.unit),
                Promise::Context => String::new(),
            },
            match self.held() {
                Some(true) => "held".to_owned(),
                Some(false) => "BROKEN".to_owned(),
                None => String::new(),
            },
        ]
    }
}

/// To the hundredth; of what is small, its inverse.
fn ratio(value: f64) -> String {
    if value > 0.0 && value < 0.1 {
        return format!("1/{:.1}", 1.0 / value).replace(".0", "");
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Takes a row, and shows it at once: a person waits.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("xtask: {}", row.cells().join(" | "));
        self.0.push(row);
    }
}

impl Serialize for Table {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Full<'a> {
            #[serde(flatten)]
            row: &'a Row,
            p50: f64,
            p99: f64,
            peer_p50: Option<f64>,
            peer_p99: Option<f64>,
            ratio: Option<f64>,
            held: Option<bool>,
        }
        to.collect_seq(self.0.iter().map(|row| Full {
            row,
            p50: row.ours.median(),
            p99: row.ours.quantile(0.99),
            peer_p50: row.peer.as_ref().map(|peer| peer.samples.median()),
            peer_p99: row.peer.as_ref().map(|peer| peer.samples.quantile(0.99)),
            ratio: row.ratio(),
            held: row.held(),
        }))
    }
}

impl fmt::Display for Table {
    /// As Markdown, so that it can be pasted into `docs/specification.md`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "what", "unit", "p50", "p99", "peer", "peer p50", "ratio", "promise", "",
        ]
        .map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head)
            .chain(self.0.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            rows.iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        for (number, cells) in rows.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                write!(f, "| {cell:<w$} ", w = width(column))?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                for column in 0..cells.len() {
                    write!(f, "|{:-<w$}", "", w = width(column) + 2)?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, peer: f64, promise: Promise) -> Row {
        let one = |value| {
            let mut samples = Samples::default();
            samples.push(value);
            samples
        };
        Row {
            what: "w".to_owned(),
            unit: "ms",
            ours: one(ours),
            peer: Some(Peer {
                name: "p".to_owned(),
                samples: one(peer),
            }),
            promise,
        }
    }

    #[test]
    fn a_tail_is_judged_by_the_peers_median() {
        let mut one = row(0.0, 2.0, Promise::TailAtMost(1.5));
        for value in [1.0, 1.0, 1.0, 4.0] {
            one.ours.push(value);
        }
        assert_eq!(one.held(), Some(false));
        one.promise = Promise::RatioAtMost(0.5);
        assert_eq!(one.held(), Some(true));
    }

    #[test]
    fn ratios_are_short() {
        let all = [1.0 / 3.0, 0.2, 1.15, 2.0, 0.05, 0.008, 1.0 / 30.0].map(ratio);
        assert_eq!(all, ["0.33", "0.2", "1.15", "2", "1/20", "1/125", "1/30"]);
    }

    #[test]
    fn a_promise_is_judged_by_its_kind() {
        for (held, ours, peer, promise) in [
            (true, 2.0, 1.0, Promise::RatioAtMost(2.0)),
            (false, 2.1, 1.0, Promise::RatioAtMost(2.0)),
            (true, 0.05, 1.0, Promise::TailAtMost(0.05)),
            (false, 0.06, 1.0, Promise::TailAtMost(0.05)),
            (true, 0.2, 1.0, Promise::RatioAtLeast(0.2)),
            (false, 0.1, 1.0, Promise::RatioAtLeast(0.2)),
            (true, 0.5, 9.0, Promise::AtMost(0.6)),
            (false, 0.7, 9.0, Promise::AtMost(0.6)),
        ] {
            assert_eq!(row(ours, peer, promise).held(), Some(held), "{promise:?}");
        }
        assert_eq!(row(1.0, 1.0, Promise::Context).held(), None);
        let missing = Row {
            peer: None,
            ..row(1.0, 1.0, Promise::RatioAtMost(2.0))
        };
        assert_eq!(missing.held(), Some(false), "no peer, no proof");
    }
}
