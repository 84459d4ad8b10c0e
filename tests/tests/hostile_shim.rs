//! A shim that its agent has taken over, against a real daemon: its session ends with the reason, or is held back; no other
//! notices. Tier: root.
//!
//! What such a shim says is said by `fixtures/taken_over_shim.py` over a living shim's own end of its link.

use anyhow::{Context as _, ensure};
use e2e::client::{expect_aws_error, joined, session_name};
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, leaks, places, wait};
use proto::api::{EndReason, Session};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What speaks as the shim, from its first packet on.
struct TakenOver {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl TakenOver {
    fn begin(session: &Session, words: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new("/usr/bin/python3")
            .arg(places::source().join("tests/fixtures/taken_over_shim.py"))
            .arg(session.pid.context("pid")?.to_string())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        let mut out = BufReader::new(child.stdout.take().context("stdout")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        ensure!(line == "begins\n", "the shim was not taken over: {line:?}");
        Ok(Self { child, out })
    }

    /// `taken` packets, and whether the daemon `hung_up`.
    fn end(mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| line)
    }
}

#[test]
fn a_shim_that_breaks_the_protocol_ends_its_session_with_the_reason_and_no_other() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let before = leaks::Snapshot::steady(daemon)?;
        let more = json!({"lifecycle": {"stop_grace": 1}});
        chaos::deploy(&client, "chaos", "sdk", more)?;
        let other = session_name("other");
        let neighbour = client.start("chaos", &other, &json!({"do": "count"}))?;
        let cases = [
            ("garbage", "unreadable packet"),
            ("oversized", "oversized packet"),
            ("unknown", "unexpected message `launch`"),
            ("request", "unexpected message `invoke`"),
            ("wrong_params", "parameters of `health` do not fit"),
            ("descriptor", "descriptor that is not due"),
            ("egress_pipe", "descriptor that is not due"),
            ("egress_nothing", "descriptor that is not due"),
            ("many_descriptors", "not due"),
        ];
        for (number, (what, words)) in (2..).zip(cases) {
            let id = session_name(what);
            let session = client.start("chaos", &id, &json!({"do": "stray"}))?;
            let call = client.in_background("chaos", &id, &json!({"do": "never"}));
            wait::until_true(10, "the call to be in flight", || {
                Ok(client.session(&id)?.in_flight == 1)
            })?;
            TakenOver::begin(&session, &[what])?.end().context(what)?;
            let error = expect_aws_error(joined(call)?, 424, "RuntimeClientError", words)
                .context(what)?
                .to_string();
            ensure!(error.contains("broke the session protocol"), "{error}");
            let ended = client.ended(&id, 10)?;
            ensure!(
                ended.end_reason == Some(EndReason::Protocol)
                    && ended
                        .end_detail
                        .as_deref()
                        .is_some_and(|d| d.contains(words)),
                "{what}: {ended:?}"
            );
            let count = client.invoke("chaos", &other, &json!({"do": "count"}))?;
            ensure!(count["count"] == number, "{what}: {count}");
        }
        assert_eq!(client.session(&other)?.pid, neighbour.pid);
        client.stop(&other)?;
        before.settle(daemon)
    })
}

#[test]
fn a_shim_that_floods_slows_itself_and_no_other() -> Result {
    ground!(Daemon, Python);
    let rate: u64 = 16 << 10;
    let options = Options::quick().config("[limits]\nlog_rate = \"16K\"\nlog_burst = \"16K\"");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let more = json!({"lifecycle": {"stop_grace": 1}});
        chaos::deploy(&client, "chaos", "sdk", more)?;
        let other = session_name("other");
        client.start("chaos", &other, &json!({"do": "echo"}))?;
        let memory = host::rss(daemon.pid())?;
        for what in ["logs", "faults", "health", "answers"] {
            let id = session_name(what);
            let session = client.start("chaos", &id, &json!({"do": "echo"}))?;
            let began = Instant::now();
            let shim = TakenOver::begin(&session, &[what, "1"])?;
            let mut slowest = Duration::ZERO;
            while began.elapsed() < Duration::from_secs(1) {
                let asked = Instant::now();
                client.invoke("chaos", &other, &json!({"do": "echo"}))?;
                slowest = slowest.max(asked.elapsed());
            }
            ensure!(
                slowest < wait::seconds(2),
                "{what}: a neighbour waited {slowest:?}"
            );
            let flood = shim.end().context(what)?;
            if matches!(what, "logs" | "faults") {
                let log = daemon
                    .state_dir()
                    .join(format!("broker/logs/{}.log", session.id));
                let written = std::fs::metadata(&log)?.len();
                let seconds = began.elapsed().as_secs() + 1;
                ensure!(
                    written < 16 * rate + 8 * rate * seconds,
                    "{what}: {written} bytes in {seconds} s; {flood}"
                );
                wait::until_true(5, "what was dropped to be counted", || {
                    Ok(client.session(&id)?.log_lines_dropped > 10)
                })
                .with_context(|| format!("{what}: {flood}"))?;
            }
            // Nothing that it said is against the protocol, and it can be stopped at once.
            let stopping = Instant::now();
            assert_eq!(
                client.stop(&id)?.end_reason,
                Some(EndReason::Stopped),
                "{what}"
            );
            ensure!(
                stopping.elapsed() < wait::seconds(6),
                "{:?}",
                stopping.elapsed()
            );
        }
        let grown = host::rss(daemon.pid())?.saturating_sub(memory);
        ensure!(grown < 32 << 20, "the broker grew by {grown} bytes");
        Ok(())
    })
}

/// A flood that goes on while its session is stopped does not keep it.
#[test]
fn a_shim_that_floods_does_not_outlive_its_stop() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client: Client = daemon.client();
        let more = json!({"lifecycle": {"stop_grace": 1}});
        chaos::deploy(&client, "chaos", "sdk", more)?;
        for what in ["logs", "health"] {
            let id = session_name(what);
            let session = client.start("chaos", &id, &json!({"do": "echo"}))?;
            let shim = TakenOver::begin(&session, &[what, "30"])?;
            let began = Instant::now();
            wait::until_true(10, "the flood", || {
                Ok(what == "health" || client.session(&id)?.log_lines_dropped > 0)
            })?;
            assert_eq!(client.stop(&id)?.end_reason, Some(EndReason::Stopped));
            ensure!(began.elapsed() < wait::seconds(12), "{:?}", began.elapsed());
            let flood = shim.end()?;
            ensure!(flood["hung_up"] == true, "{what}: {flood}");
        }
        Ok(())
    })
}
