//! Many event streams at once: every event of every stream comes, once and in its place, and the daemon's memory is bounded. How
//! many it carries, and how late an event is, is the bench's (`cargo xtask bench --only streams`). Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::{Request, Response};
use e2e::{Daemon, Options, Result, deploy, ground, host};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SESSIONS: usize = 10;
const STREAMS_PER_SESSION: usize = 40;
const STREAMS: usize = SESSIONS * STREAMS_PER_SESSION;

/// Ten a second, for five seconds.
const EVENTS: u64 = 50;
const PERIOD_MS: u64 = 100;

/// What the daemon may take for all of them.
const MOST: u64 = 64 << 20;

/// Of a thread that reads one stream.
const STACK: usize = 256 << 10;

/// Reads a stream to its proper end.
fn read(mut answer: Response) -> Result {
    let (mut rest, mut next) = (Vec::new(), 0);
    while let Some(piece) = answer
        .piece()
        .with_context(|| format!("before event {next}"))?
    {
        rest.extend(piece);
        while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = rest.drain(..end + 2).collect();
            let expected = format!("data: {{\"n\":{next}}}\n\n");
            ensure!(
                event == expected.as_bytes(),
                "{:?} came for event {next}",
                String::from_utf8_lossy(&event)
            );
            next += 1;
        }
    }
    ensure!(
        next == EVENTS && rest.is_empty(),
        "{next} events of {EVENTS}"
    );
    Ok(())
}

#[test]
fn four_hundred_streams_of_ten_sessions_lose_nothing() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::native(&client)?;
        let sessions: Vec<String> = (0..SESSIONS).map(|_| session_name("streams")).collect();
        for session in &sessions {
            client.invoke("native", session, &json!({}))?;
        }
        let pids = [daemon.pid(), daemon.launcher()?];
        let memory = || -> anyhow::Result<u64> {
            let each = pids.iter().map(|pid| host::rss(*pid));
            Ok(each.collect::<anyhow::Result<Vec<_>>>()?.iter().sum())
        };
        let before = memory()?;
        // The agent takes this order of its members only.
        let order = format!(r#"{{"sse": {EVENTS}, "delay_ms": {PERIOD_MS}}}"#);
        let left = AtomicUsize::new(STREAMS);
        let (mut most, mut at_once) = (0, 0);
        std::thread::scope(|scope| -> Result {
            let mut readers = Vec::with_capacity(STREAMS);
            // One stream of each session after the other.
            for session in sessions.iter().cycle().take(STREAMS) {
                let (client, order, left) = (&client, &order, &left);
                let reader = move || {
                    let asked = Request::post("/runtimes/native/invocations", order.as_str())
                        .header(SESSION_HEADER, session.as_str());
                    let done = client
                        .send(asked)
                        .and_then(|answer| read(answer.expect(200)?));
                    left.fetch_sub(1, Ordering::Relaxed);
                    done
                };
                let thread = std::thread::Builder::new().stack_size(STACK);
                readers.push(thread.spawn_scoped(scope, reader)?);
            }
            while left.load(Ordering::Relaxed) > 0 {
                most = most.max(memory()?);
                let live = client.live_sessions()?;
                at_once = at_once.max(live.iter().map(|session| session.in_flight).sum());
                std::thread::sleep(Duration::from_millis(200));
            }
            for reader in readers {
                reader.join().expect("no panic")?;
            }
            Ok(())
        })?;
        ensure!(
            most.saturating_sub(before) < MOST,
            "{before} bytes before, {most} at most meanwhile"
        );
        // They were no sequence.
        ensure!(
            at_once > u32::try_from(STREAMS / 4)?,
            "at most {at_once} at once"
        );
        Ok(())
    })
}
