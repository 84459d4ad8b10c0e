//! `cargo xtask chart`: a picture for the README, of the JSON that `cargo xtask bench --json` wrote.
//!
//! One group per promised comparison of times: our bar and the peer's, each group on a scale of its own, since a launch and a call differ by
//! a factor of a thousand. Rectangles and text only, which needs no library.

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `cargo xtask bench --json` wrote.
    json: PathBuf,
    /// The picture to write.
    svg: PathBuf,
}

#[derive(Deserialize)]
struct Bench {
    host: Host,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Host {
    processor: String,
    processors: usize,
    kernel: String,
}

#[derive(Deserialize)]
struct Row {
    what: String,
    unit: String,
    p50: f64,
    /// Whether it keeps its promise; absent if there is none.
    held: Option<bool>,
    peer: Option<Peer>,
    peer_p50: Option<f64>,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
}

/// In pixels.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 12.0;
const BAR: f64 = 13.0;
const GROUP: f64 = 58.0;
const HEAD: f64 = 34.0;
/// Room for the figure after the longest bar.
const FIGURE: f64 = 330.0;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read(&args.json).with_context(|| args.json.display().to_string())?;
    let bench: Bench = serde_json::from_slice(&text).context("this is no bench's JSON")?;
    let picture = draw(&bench)?;
    std::fs::write(&args.svg, picture).with_context(|| args.svg.display().to_string())
}

fn draw(bench: &Bench) -> anyhow::Result<String> {
    let groups: Vec<(&Row, &Peer, f64)> = bench
        .rows
        .iter()
        .filter(|row| matches!(row.unit.as_str(), "ms" | "µs"))
        // What stands beside a promise only explains it; a row that goes on with another's ("…") is of something else than medians.
        .filter(|row| row.held.is_some() && !row.what.starts_with('…'))
        .filter_map(|row| Some((row, row.peer.as_ref()?, row.peer_p50?)))
        .collect();
    ensure!(!groups.is_empty(), "no row compares times with a peer");
    let mut height = HEAD + 24.0;
    for _ in &groups {
        height += GROUP;
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">AgentCore Runtime beside its peers, medians; shorter is faster</text>\n"
    );
    let mut y = HEAD;
    for (row, peer, theirs) in groups {
        let longest = row.p50.max(theirs);
        y += 14.0;
        text(&mut svg, LEFT, y, "#111", &row.what);
        y += 5.0;
        for (value, fill, name) in [
            (row.p50, "#1f6feb", "this"),
            (theirs, "#b8bec6", &*peer.name),
        ] {
            let width = value / longest * (WIDTH - LEFT - FIGURE);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
            );
            let label = format!("{} {} · {name}", figure(value), row.unit);
            text(&mut svg, LEFT + width + 6.0, y + 11.0, "#444", &label);
            y += BAR + 2.0;
        }
        y += GROUP - 19.0 - 2.0 * (BAR + 2.0);
    }
    let Host {
        processor,
        processors,
        kernel,
    } = &bench.host;
    let foot = format!("{processors} × {processor}, Linux {kernel}; cargo xtask bench");
    text(&mut svg, LEFT, height - 8.0, "#777", &foot);
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn text(svg: &mut String, x: f64, y: f64, fill: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.0}\" fill=\"{fill}\">{words}</text>"
    );
}

fn figure(value: f64) -> String {
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
    fn bars_are_in_proportion_and_names_are_text() {
        let bench: Bench = serde_json::from_str(
            r#"{"host": {"processor": "A & B", "processors": 2, "kernel": "6"}, "rows": [
                {"what": "launch", "unit": "ms", "p50": 5.0, "held": true, "peer": {"name": "<peer>", "samples": []}, "peer_p50": 10.0},
                {"what": "rate", "unit": "1/s", "p50": 5.0, "peer": {"name": "x"}, "peer_p50": 1.0},
                {"what": "beside", "unit": "ms", "p50": 5.0, "held": null, "peer": {"name": "x"}, "peer_p50": 1.0},
                {"what": "alone", "unit": "ms", "p50": 5.0, "peer": null, "peer_p50": null}]}"#,
        )
        .expect("JSON");
        let svg = draw(&bench).expect("drawn");
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("fill=\"#1f6feb\"") || line.contains("fill=\"#b8bec6\""))
            .filter_map(|line| {
                line.split("width=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(widths.len(), 2, "{svg}");
        assert!((widths[0] * 2.0 - widths[1]).abs() < 0.2);
        assert!(svg.contains("5.00 ms · this") && svg.contains("10.0 ms · &lt;peer&gt;"));
        assert!(svg.contains("A &amp; B") && !svg.contains("rate") && !svg.contains("alone"));
    }
}
