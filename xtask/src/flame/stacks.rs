//! What `perf script` writes ▸ stacks and how often each was seen, within spans of time and one family of processes.

use anyhow::{Context as _, ensure};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

/// From when to when a sample counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    from: Duration,
    took: Duration,
}

impl Span {
    pub(super) fn new(from: Duration, took: Duration) -> Self {
        Self { from, took }
    }

    pub(super) fn milliseconds(&self) -> f64 {
        self.took.as_secs_f64() * 1e3
    }
}

/// Who a processor that nobody uses belongs to.
pub(super) const IDLE: &str = "idle";

/// A number of samples, for shares.
pub(super) fn as_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Stacks, outermost first, the process's part in the play as their root.
#[derive(Debug, Default)]
pub(super) struct Folded(BTreeMap<Vec<String>, u64>);

impl Folded {
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Without those in which the processor had nothing to do.
    pub(super) fn busy(&self) -> u64 {
        let idle = self.0.get(&vec![IDLE.to_owned()]).copied();
        self.total() - idle.unwrap_or(0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[String], u64)> {
        self.0.iter().map(|(stack, count)| (&**stack, *count))
    }
}

/// `root;outer;inner 12`, what flame graph tools read.
impl fmt::Display for Folded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stack, count) in self.iter() {
            writeln!(f, "{} {count}", stack.join(";"))?;
        }
        Ok(())
    }
}

/// Reads samples and forks. Spans are in order of time and do not overlap; `roots` and what descends from them count.
pub(super) fn fold(text: &str, spans: &[Span], roots: &[i32]) -> anyhow::Result<Folded> {
    let mut family: HashSet<i32> = roots.iter().copied().collect();
    let mut folded = Folded::default();
    let (mut seen, mut missing) = (0_u64, 0_u64);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((_, fork)) = line.split_once("PERF_RECORD_FORK(") {
            let (child, parent) = forked(fork).with_context(|| line.to_owned())?;
            if family.contains(&parent) {
                family.insert(child);
            } else if !roots.contains(&child) {
                // The number of a process that has ended, used again.
                family.remove(&child);
            }
            continue;
        }
        if let Some((_, lost)) = line.split_once("PERF_RECORD_LOST lost ") {
            missing += lost
                .trim()
                .parse::<u64>()
                .with_context(|| line.to_owned())?;
            continue;
        }
        if line.is_empty() || line.contains("PERF_RECORD_") {
            continue;
        }
        seen += 1;
        let head = Head::parse(line).with_context(|| line.to_owned())?;
        let frames = lines.by_ref().take_while(|line| !line.is_empty());
        let ours = head.pid == 0 || family.contains(&head.pid);
        if !ours || !within(spans, head.time) {
            frames.for_each(drop);
            continue;
        }
        let mut stack: Vec<String> = frames.filter_map(frame).collect();
        stack.push(head.part().to_owned());
        stack.reverse();
        if head.pid == 0 {
            stack.truncate(1);
        }
        *folded.0.entry(stack).or_default() += 1;
    }
    // The processor on which perf runs was busy. A few of foreign processes do no harm.
    ensure!(
        missing <= seen / 100,
        "perf lost {missing} samples of {}: try again when the machine is quieter",
        seen + missing
    );
    ensure!(folded.total() > 0, "no sample fell into any of the calls");
    Ok(folded)
}

/// `child:thread):(parent:thread)`.
fn forked(text: &str) -> Option<(i32, i32)> {
    let (child, rest) = text.split_once(':')?;
    let (_, rest) = rest.split_once('(')?;
    let (parent, _) = rest.split_once(':')?;
    Some((child.parse().ok()?, parent.parse().ok()?))
}

fn within(spans: &[Span], time: Duration) -> bool {
    let after = spans.partition_point(|span| span.from <= time);
    after > 0 && time < spans[after - 1].from + spans[after - 1].took
}

/// A sample's first line: `name  pid/thread  seconds.nanoseconds:`.
struct Head<'a> {
    name: &'a str,
    pid: i32,
    time: Duration,
}

impl<'a> Head<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (rest, time) = line.trim_end().strip_suffix(':')?.rsplit_once(' ')?;
        let (name, ids) = rest.trim_end().rsplit_once(' ')?;
        let (pid, _) = ids.split_once('/')?;
        let (seconds, nanoseconds) = time.split_once('.')?;
        Some(Self {
            name: name.trim(),
            pid: pid.parse().ok()?,
            time: Duration::new(seconds.parse().ok()?, nanoseconds.parse().ok()?),
        })
    }

    /// What the process is in the play; the kernel cuts names after 15 bytes.
    fn part(&self) -> &'a str {
        match self.name {
            _ if self.pid == 0 => IDLE,
            "xtask" => "client",
            "agentcored: lau" => "launcher",
            "agentcored: sta" => "stager",
            "agentcored: ste" => "steward",
            // Forked while perf waited, so that it has heard neither of its name nor of its program: a prepared launch.
            name if name.starts_with(':') => "stager",
            name if name.starts_with("shim: ") || name.starts_with("memfd:agentcore") => "shim",
            "store-writer" | "store-reader" => "broker's store",
            name if name.starts_with("agentcored") || name.starts_with("tokio-") => "broker",
            "native-agent" => "agent",
            name => name,
        }
    }
}

/// `  address name (object)` ▸ the name; nothing for the end marker of stacks that could not be followed.
fn frame(line: &str) -> Option<String> {
    let (_, rest) = line.trim_start().split_once(' ')?;
    let (name, object) = rest.split_once(" (/").or_else(|| rest.rsplit_once(" ("))?;
    let kernel = object.starts_with("[kernel");
    match name {
        "[unknown]" if object == "[unknown])" => None,
        "[unknown]" => {
            let object = object.trim_end_matches(')');
            Some(format!(
                "[{}]",
                object.rsplit('/').next()?.replace(" (deleted", "")
            ))
        }
        name if kernel => Some(format!("{name}{KERNEL}")),
        // A `;` would end a frame.
        name => Some(plain(name).replace(';', ",")),
    }
}

/// Ends the names of the kernel's functions, as flame graph tools know it.
pub(super) const KERNEL: &str = "_[k]";

/// Without the hash that tells equal names apart.
fn plain(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            name
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
swapper     0/0         0.000000000: PERF_RECORD_FORK(7:7):(1:1)
agentcored     7/7         9.000000000: PERF_RECORD_FORK(8:8):(7:7)
agentcored: lau     8/8     10.000000500: 
\tffffffff8225aa01 do_syscall_64 ([kernel.kallsyms])
\t           d4ad7 sandbox::go::h0123456789abcdef (/x/agentcored)
\tffffffffffffffff [unknown] ([unknown])

agentcored: lau     8/8     12.000000000: 
\t           d4ad7 sandbox::late (/x/agentcored)

other     9/9     10.000000600: 
\t           d4ad7 main (/x/other)

swapper     0/0     10.000000700: 
\tffffffff8225aa01 default_idle ([kernel.kallsyms])

";

    #[test]
    fn only_what_is_ours_and_within_a_call_counts() {
        let span = Span::new(Duration::from_secs(10), Duration::from_secs(1));
        let folded = fold(TEXT, &[span], &[7]).expect("well-formed");
        assert_eq!(
            folded.to_string(),
            "idle 1\nlauncher;sandbox::go;do_syscall_64_[k] 1\n"
        );
        assert!(fold(TEXT, &[], &[7]).is_err());
        let lost = format!("{TEXT}x 1/1 1.0: PERF_RECORD_LOST lost 3\n");
        assert!(fold(&lost, &[span], &[7]).is_err());
    }
}
