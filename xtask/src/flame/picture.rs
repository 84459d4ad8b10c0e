//! A flame graph: a rectangle per call, as wide as its share of the samples, callers below what they call.
//!
//! Drawn here because the library that does it (`inferno`) is under a licence that `deny.toml` does not allow; the folded stacks
//! that lie beside the picture are what such tools read. No script is in it: a frame says its name and share when it is
//! pointed at.

use super::stacks::{Folded, IDLE, KERNEL, as_f64};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// In pixels.
const WIDTH: f64 = 1200.0;
const ROW: f64 = 16.0;
const HEAD: f64 = 44.0;
/// What is narrower is left out.
const NARROWEST: f64 = 1.0;
/// Of a letter, about.
const LETTER: f64 = 6.4;

/// Own crates, by how their functions' names begin.
const OWN: [&str; 6] = [
    "supervisor::",
    "worker_shim::",
    "sandbox::",
    "proto::",
    "session_core::",
    "xtask::",
];

#[derive(Default)]
struct Node {
    count: u64,
    callees: BTreeMap<String, Node>,
}

impl Node {
    fn depth(&self) -> u32 {
        1 + self.callees.values().map(Self::depth).max().unwrap_or(0)
    }

    /// Without what is too narrow to be seen.
    fn prune(&mut self, least: u64) {
        self.callees.retain(|_, node| node.count >= least);
        self.callees.values_mut().for_each(|node| node.prune(least));
    }
}

pub(super) fn draw(title: &str, folded: &Folded) -> String {
    let mut root = Node::default();
    for (stack, count) in folded.iter() {
        root.count += count;
        let mut node = &mut root;
        for name in stack {
            node = node.callees.entry(name.clone()).or_default();
            node.count += count;
        }
    }
    let scale = WIDTH / as_f64(root.count);
    root.prune(1.max((0..).find(|n| as_f64(*n) * scale >= NARROWEST).unwrap_or(1)));
    let height = HEAD + f64::from(root.depth()) * ROW + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"6\" y=\"18\" font-size=\"14\" font-family=\"sans-serif\" font-weight=\"bold\">{}</text>\n\
         <text x=\"6\" y=\"34\" font-family=\"sans-serif\" fill=\"#555\">blue: this project · green: libraries · orange: kernel · grey: processes; point at a frame for its name and share</text>\n",
        escaped(title)
    );
    let mut pen = Pen {
        svg: &mut svg,
        total: root.count,
        scale,
    };
    pen.row(&root, 0.0, height - ROW - 4.0);
    svg.push_str("</svg>\n");
    svg
}

struct Pen<'a> {
    svg: &'a mut String,
    total: u64,
    scale: f64,
}

impl Pen<'_> {
    /// What a node calls, in a row, and above each what it calls in turn.
    fn row(&mut self, node: &Node, left: f64, y: f64) {
        let mut x = left;
        for (name, callee) in &node.callees {
            let width = as_f64(callee.count) * self.scale;
            self.frame(name, callee.count, x, y, width);
            self.row(callee, x, y - ROW);
            x += width;
        }
    }

    fn frame(&mut self, name: &str, count: u64, x: f64, y: f64, width: f64) {
        let fill = match name {
            IDLE => "#eeeeee",
            name if name.ends_with(KERNEL) => "#f6b26b",
            name if OWN
                .iter()
                .any(|own| name.trim_start_matches(['<', '&']).starts_with(own)) =>
            {
                "#8db4f0"
            }
            name if name.contains("::") || name.contains('_') => "#a9d8a9",
            _ => "#d9d9d9",
        };
        let shown = name.strip_suffix(KERNEL).unwrap_or(name);
        let percent = as_f64(count) / as_f64(self.total) * 100.0;
        let _ = write!(
            self.svg,
            "<g><title>{} {percent:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"15\" fill=\"{fill}\"/>",
            escaped(shown),
            (width - 0.3).max(0.3),
        );
        let mut letters = 0.0;
        let fitting: String = shown
            .chars()
            .take_while(|_| {
                letters += LETTER;
                letters < width - 4.0
            })
            .collect();
        if fitting.chars().count() > 2 {
            let _ = write!(
                self.svg,
                "<text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
                x + 2.0,
                y + 11.5,
                escaped(&fitting)
            );
        }
        self.svg.push_str("</g>\n");
    }
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
