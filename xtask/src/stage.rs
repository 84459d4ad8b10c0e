//! Stages of a test run: each a command whose output streams on while its counts are read from it.

use anyhow::Context as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Tests of one stage, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }

    /// What a runner counted, when that many of the tests say that they have skipped themselves: to a runner those have passed.
    pub(crate) fn honest(self, skipped_themselves: u64) -> Self {
        Self {
            passed: self.passed.saturating_sub(skipped_themselves),
            skipped: self.skipped + skipped_themselves,
            ..self
        }
    }
}

/// Tests in a list of skips (`name<TAB>reason`), without those of which only a part was skipped.
pub(crate) fn skipped_themselves(list: &str) -> u64 {
    let whole = |line: &&str| {
        line.split_once('\t')
            .is_some_and(|(name, _)| !name.ends_with(" (in part)"))
    };
    list.lines().filter(whole).count().try_into().unwrap_or(0)
}

struct Outcome {
    name: &'static str,
    counts: Counts,
    took: Duration,
}

/// The stages so far.
pub(crate) struct Stages {
    done: Vec<Outcome>,
    not_run: Vec<&'static str>,
    keep_going: bool,
    /// Only these; empty: all.
    only: Vec<String>,
    /// Those that are not in `only`.
    left_out: Vec<&'static str>,
    failed: bool,
}

/// Lines of what one failed test says that are told again at the end.
const TOLD_AGAIN: usize = 12;

/// And as much of each.
const TOLD_WIDTH: usize = 400;

/// Finds in nextest's output what each failed test says of itself: of a long run's output people see the end.
#[derive(Default)]
struct Faults {
    told: Vec<String>,
    /// Lines of the present message that are still to be told.
    left: usize,
}

impl Faults {
    fn line(&mut self, line: &str) {
        let line = line.trim();
        let heads = ["FAIL [", "TIMEOUT [", "ABORT [", "TRY ", "FLAKY "];
        if heads.iter().any(|head| line.starts_with(head)) {
            self.left = 0;
            self.tell(line);
        } else if line.starts_with("Error: ") || line.contains(" panicked at ") {
            self.left = TOLD_AGAIN;
        } else if line.eq_ignore_ascii_case("stack backtrace:") {
            self.left = 0;
        }
        if self.left > 0 {
            self.left -= 1;
            self.tell(line);
        }
    }

    fn tell(&mut self, line: &str) {
        let line: String = line.chars().take(TOLD_WIDTH).collect();
        if !line.is_empty() && !self.told.contains(&line) {
            self.told.push(line);
        }
    }
}

impl Stages {
    pub(crate) const fn new(keep_going: bool, only: Vec<String>) -> Self {
        Self {
            done: Vec::new(),
            not_run: Vec::new(),
            keep_going,
            only,
            left_out: Vec::new(),
            failed: false,
        }
    }

    /// Runs one stage, unless an earlier one failed. `work` gives its counts; a failure of `work` itself is one failure.
    pub(crate) fn stage(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<Counts>,
    ) {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
            self.left_out.push(name);
            return;
        }
        if self.failed && !self.keep_going {
            self.not_run.push(name);
            return;
        }
        eprintln!("\n==== {name}");
        let began = Instant::now();
        let counts = work().unwrap_or_else(|error| {
            eprintln!("xtask: {name}: {error:#}");
            Counts {
                failed: 1,
                ..Counts::default()
            }
        });
        self.failed |= counts.failed > 0;
        self.done.push(Outcome {
            name,
            counts,
            took: began.elapsed(),
        });
    }

    /// Prints the table and the last line; whether all is well, which it is not when somebody asked for a stage that there is not.
    pub(crate) fn conclude(self, skips: &str) -> bool {
        let mut all = Counts::default();
        let unknown = self.unknown();
        println!();
        if !skips.is_empty() {
            println!("skipped:");
            for line in skips.lines() {
                println!("  {}", line.replace('\t', ": "));
            }
            println!();
        }
        println!(
            "{:<14} {:>7} {:>7} {:>8} {:>9}",
            "stage", "passed", "failed", "skipped", "seconds"
        );
        for outcome in &self.done {
            let c = outcome.counts;
            println!(
                "{:<14} {:>7} {:>7} {:>8} {:>9.1}",
                outcome.name,
                c.passed,
                c.failed,
                c.skipped,
                outcome.took.as_secs_f64()
            );
            all.add(c);
        }
        for name in &self.not_run {
            println!("{name:<14} not run: an earlier stage failed");
        }
        println!("{:<14} {:>35.1}", "all", self.took().as_secs_f64());
        println!(
            "{} passed, {} failed, {} skipped",
            all.passed, all.failed, all.skipped
        );
        for name in &unknown {
            println!(
                "no stage {name:?} here; there are also: {}",
                self.left_out.join(", ")
            );
        }
        !self.failed && self.not_run.is_empty() && unknown.is_empty()
    }

    /// How long all that ran has taken.
    pub(crate) fn took(&self) -> Duration {
        self.done.iter().map(|outcome| outcome.took).sum()
    }

    /// Names asked for that no stage has had.
    fn unknown(&self) -> Vec<&str> {
        let had = |only: &&str| {
            let ran = self.done.iter().map(|outcome| outcome.name);
            ran.chain(self.not_run.iter().copied())
                .any(|name| name == *only)
        };
        let asked = self.only.iter().map(String::as_str);
        asked.filter(|only| !had(only)).collect()
    }
}

/// Runs a command whose success is all it has to say.
pub(crate) fn check(command: &mut Command) -> anyhow::Result<Counts> {
    let (ok, _) = streamed(command)?;
    Ok(Counts {
        passed: u64::from(ok),
        failed: u64::from(!ok),
        skipped: 0,
    })
}

/// Runs a command that reports tests in one of the formats that [`counted`] knows.
pub(crate) fn tests(command: &mut Command) -> anyhow::Result<Counts> {
    let (ok, mut counts) = streamed(command)?;
    if !ok && counts.failed == 0 {
        counts.failed = 1;
    }
    anyhow::ensure!(
        counts.failed > 0 || counts.passed + counts.skipped > 0,
        "no test ran"
    );
    Ok(counts)
}

fn streamed(command: &mut Command) -> anyhow::Result<(bool, Counts)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    // Lines, not bytes: a slow terminal holds the test back, not our memory.
    let (lines, heard) = mpsc::sync_channel::<String>(256);
    let mut readers = Vec::new();
    let stdout = child
        .stdout
        .take()
        .map(|s| Box::new(s) as Box<dyn std::io::Read + Send>);
    let stderr = child
        .stderr
        .take()
        .map(|s| Box::new(s) as Box<dyn std::io::Read + Send>);
    for stream in [stdout, stderr].into_iter().flatten() {
        let lines = lines.clone();
        readers.push(std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if lines.send(text).is_err() {
                    return;
                }
            }
        }));
    }
    drop(lines);
    let mut counts = Counts::default();
    let mut faults = Faults::default();
    let mut out = std::io::stdout();
    for line in heard {
        let _ = writeln!(out, "{line}");
        faults.line(&line);
        if let Some(more) = counted(&line) {
            counts.add(more);
        }
    }
    for reader in readers {
        let _ = reader.join();
    }
    if !faults.told.is_empty() {
        let _ = writeln!(out, "\nwhat failed, once more:");
        for line in &faults.told {
            let _ = writeln!(out, "  {line}");
        }
    }
    Ok((child.wait()?.success(), counts))
}

/// The counts in a summary line of cargo test, cargo nextest, unittest or pytest; the plain form is that of our own suites.
fn counted(line: &str) -> Option<Counts> {
    // Indented: what a test that failed has printed, shown by nextest, which counts it in its own summary.
    let shown_again = line.starts_with("    test result: ");
    let line = line.trim();
    let number_before = |word: &str| -> u64 {
        line.split([',', ';', '.', ':', '('])
            .filter_map(|part| part.trim().strip_suffix(word))
            .find_map(|n| n.trim().rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    };
    let number_after = |word: &str| -> u64 {
        line.split([',', '(', ')', ' '])
            .find_map(|part| part.trim().strip_prefix(word)?.parse().ok())
            .unwrap_or(0)
    };
    if shown_again {
        return None;
    }
    if line.starts_with("test result: ") {
        return Some(Counts {
            passed: number_before(" passed"),
            failed: number_before(" failed"),
            skipped: number_before(" ignored"),
        });
    }
    if line.starts_with("Summary [") {
        return Some(Counts {
            passed: number_before(" passed"),
            failed: number_before(" failed") + number_before(" timed out"),
            // Those marked `#[ignore]`, and those that a filter left out: who filters must know.
            skipped: number_before(" skipped"),
        });
    }
    // unittest says how many ran on one line, and how they ended on another.
    if let Some(rest) = line.strip_prefix("Ran ") {
        let (n, rest) = rest.split_once(' ')?;
        return rest.starts_with("test").then_some(Counts {
            passed: n.parse().ok()?,
            ..Counts::default()
        });
    }
    let plain = line.split(", ").all(|part| {
        part.split_once(' ').is_some_and(|(n, what)| {
            n.parse::<u64>().is_ok() && matches!(what, "passed" | "failed" | "skipped")
        })
    });
    if plain || (line.starts_with("===") && line.contains(" in ")) {
        let line = line.trim_matches('=').trim();
        let of = |word: &str| {
            line.split([',', ' '])
                .collect::<Vec<_>>()
                .windows(2)
                .find(|w| w[1] == word)
                .and_then(|w| w[0].parse().ok())
                .unwrap_or(0)
        };
        let counts = Counts {
            passed: of("passed"),
            failed: of("failed") + of("error") + of("errors"),
            skipped: of("skipped"),
        };
        return (counts != Counts::default()).then_some(counts);
    }
    if line.starts_with("FAILED (") {
        return Some(Counts {
            failed: number_after("failures=") + number_after("errors="),
            ..Counts::default()
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(passed: u64, failed: u64, skipped: u64) -> Option<Counts> {
        Some(Counts {
            passed,
            failed,
            skipped,
        })
    }

    #[test]
    fn who_skips_itself_has_not_passed() {
        let list = "a::one\tno node\na::two (in part)\tno swap\nvm b::three\tno disk\n";
        assert_eq!(skipped_themselves(list), 2);
        let counted = of(12, 1, 3).map(|counts| counts.honest(2));
        assert_eq!(counted, of(10, 1, 5));
    }

    #[test]
    fn a_stage_that_there_is_not_is_told() {
        let conclude = |only: &[&str]| {
            let only = only.iter().map(|&name| name.to_owned()).collect();
            let mut stages = Stages::new(false, only);
            stages.stage("unit", || Ok(Counts::default()));
            stages.stage("end to end", || Ok(Counts::default()));
            let unknown: Vec<String> = stages.unknown().iter().map(ToString::to_string).collect();
            (unknown, stages.conclude(""))
        };
        assert_eq!(conclude(&[]), (vec![], true));
        assert_eq!(conclude(&["end to end"]), (vec![], true));
        let unknown = vec!["unit,chaos".to_owned()];
        assert_eq!(conclude(&["unit,chaos", "unit"]), (unknown, false));
    }

    #[test]
    fn what_failed_is_told_once_more() {
        let mut faults = Faults::default();
        let output = "    PASS [ 1s] e2e::a fine\n    FAIL [ 1s] (3/9) e2e::a b\n  stderr ───\n    INFO ready\n    Error: it is late\n\n    Caused by:\n        the clock\n\n    Stack backtrace:\n       0: anyhow\n    FAIL [ 1s] (3/9) e2e::a b";
        output.lines().for_each(|line| faults.line(line));
        let told = [
            "FAIL [ 1s] (3/9) e2e::a b",
            "Error: it is late",
            "Caused by:",
            "the clock",
        ];
        assert_eq!(faults.told, told);
    }

    #[test]
    fn summary_lines_of_every_runner_are_understood() {
        assert_eq!(
            counted(
                "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s"
            ),
            of(12, 3, 1)
        );
        assert_eq!(
            counted(
                "     Summary [   0.022s] 14 tests run: 13 passed (2 slow), 1 failed, 5 skipped"
            ),
            of(13, 1, 5)
        );
        assert_eq!(
            counted("     Summary [   0.022s] 1 test run: 1 passed, 0 skipped"),
            of(1, 0, 0)
        );
        assert_eq!(
            counted(
                "     Summary [  60.022s] 3 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped"
            ),
            of(1, 2, 0)
        );
        let shown_again =
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(counted(shown_again), None);
        assert_eq!(counted("Ran 23 tests in 1.204s"), of(23, 0, 0));
        assert_eq!(counted("FAILED (failures=1, errors=2)"), of(0, 3, 0));
        assert_eq!(
            counted("====== 12 passed, 1 failed, 2 skipped in 3.21s ======"),
            of(12, 1, 2)
        );
        assert_eq!(counted("5 passed, 0 failed, 2 skipped"), of(5, 0, 2));
        assert_eq!(counted("5 passengers"), None);
        assert_eq!(counted("running 2 tests"), None);
    }
}
