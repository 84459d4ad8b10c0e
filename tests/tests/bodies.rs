//! Bodies of 100,000,000 bytes, both ways, through the native agent: whole, unchanged, and nobody's memory grows. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, chaos, deploy, ground, host, wait};
use serde_json::json;
use std::io::Read;

const SIZE: u64 = 100_000_000;

/// Bytes that say where they are.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0]
}

struct Pattern {
    at: u64,
    end: u64,
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let n = buffer.len().min(left);
        for slot in &mut buffer[..n] {
            *slot = byte(self.at);
            self.at += 1;
        }
        Ok(n)
    }
}

#[test]
fn a_hundred_megabytes_through_and_back_with_flat_memory() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        deploy::native(&daemon.client())?;
        for (client, length) in [(daemon.client(), Some(SIZE)), (daemon.tcp()?, None)] {
            let id = session_name("large");
            client
                .send(Client::invocation("native", &id, &json!({})))?
                .expect(200)?;
            let shim = client.session(&id)?.pid.context("pid")?;
            let watched = [daemon.pid(), daemon.launcher()?, shim];
            let before: Vec<_> = watched
                .iter()
                .map(|p| host::rss(*p))
                .collect::<anyhow::Result<_>>()?;
            let request = Request::new("POST", "/runtimes/native/invocations")
                .header(SESSION_HEADER, id.clone())
                .header("content-type", "application/octet-stream")
                .stream(Pattern { at: 0, end: SIZE }, length);
            let mut most = before.clone();
            let mut looked = 0;
            let got = client.send(request)?.expect(200)?.drain(|at, piece| {
                for (n, b) in piece.iter().enumerate() {
                    ensure!(*b == byte(at + n as u64), "byte {} is wrong", at + n as u64);
                }
                if at >= looked {
                    looked = at + (8 << 20);
                    for (most, pid) in most.iter_mut().zip(watched) {
                        *most = (*most).max(host::rss(pid)?);
                    }
                }
                Ok(())
            })?;
            assert_eq!(got, SIZE);
            for ((who, before), most) in ["broker", "launcher", "shim"].iter().zip(before).zip(most)
            {
                let grown = most.saturating_sub(before);
                ensure!(
                    grown < 6 << 20,
                    "the {who} grew by {grown} bytes during a body of {SIZE}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_slow_reader_holds_the_agent_back_not_the_daemons_memory() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        deploy::native(&client)?;
        let id = session_name("slow");
        client
            .send(Client::invocation("native", &id, &json!({})))?
            .expect(200)?;
        let before = host::rss(daemon.pid())?;
        let request = Request::post(
            "/runtimes/native/invocations",
            json!({"bytes": SIZE}).to_string(),
        )
        .header(SESSION_HEADER, id.clone());
        let mut answer = client.send(request)?.expect(200)?;
        answer.piece()?.context("a first piece")?;
        // Not read for a while: the agent must be stuck in a write, and everyone between it and us at rest.
        let mut held = 0;
        e2e::wait::until_true(10, "the memory to settle", || {
            let now = host::rss(daemon.pid())?;
            let settled = now == held;
            held = now;
            std::thread::sleep(std::time::Duration::from_millis(300));
            Ok(settled)
        })?;
        ensure!(
            held.saturating_sub(before) < 6 << 20,
            "the broker holds {} bytes",
            held - before
        );
        // Others are served meanwhile, and in the end all of it arrives.
        client
            .send(Client::invocation(
                "native",
                &session_name("other"),
                &json!({}),
            ))?
            .expect(200)?;
        let rest = answer.drain(|_, _| Ok(()))?;
        ensure!(rest > SIZE - (1 << 20) && rest < SIZE, "{rest}");
        Ok(())
    })
}

#[test]
fn an_answer_at_the_limit_passes_and_one_byte_over_it_never_looks_whole() -> Result {
    ground!(Daemon, Python);
    const LIMIT: u64 = 100_000;
    let options = Options::default().config(&format!("[limits]\nmax_body = {LIMIT}"));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "limit", "raw", json!({}))?;
        let id = session_name("limit");
        for client in [daemon.client(), daemon.tcp()?] {
            // Announced, and not: `big` has a length, `tiny_chunks` is one byte a chunk.
            for case in ["big", "tiny_chunks"] {
                let ask = |bytes: u64| -> anyhow::Result<anyhow::Result<u64>> {
                    let payload =
                        json!({"do": "http", "case": case, "bytes": bytes, "count": bytes});
                    let answer = client.send(Client::invocation("limit", &id, &payload))?;
                    ensure!(matches!(answer.status, 200 | 424), "{}", answer.status);
                    let whole = answer.status == 200;
                    let read = answer.drain(|_, _| Ok(()));
                    Ok(if whole {
                        read
                    } else {
                        Err(anyhow::anyhow!("424"))
                    })
                };
                let at = ask(LIMIT)?;
                ensure!(at.as_ref().is_ok_and(|n| *n == LIMIT), "{case}: {at:?}");
                let over = ask(LIMIT + 1)?;
                ensure!(over.is_err(), "{case}: {over:?}");
            }
            wait::until_true(5, "the cut calls to be over", || {
                Ok(client.session(&id)?.in_flight == 0)
            })?;
        }
        // A stream of events has no such limit, and the session serves as before.
        let payload = json!({"do": "stream", "events": 10, "bytes": LIMIT / 5});
        let stream = client.send(Client::invocation("limit", &id, &payload))?;
        let read = stream.expect(200)?.drain(|_, _| Ok(()))?;
        ensure!(read > 2 * LIMIT, "{read} bytes");
        Ok(())
    })
}
