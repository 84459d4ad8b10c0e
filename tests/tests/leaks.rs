//! Nothing stays: at least twenty sessions end in each way, eight at a time, and what they had on the host is counted by name
//! before and after (security bar §6). Tier: chaos and load.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::leaks::Snapshot;
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::EndReason;
use serde_json::{Value, json};
use std::io::Write as _;

const AT_ONCE: usize = 8;
const ROUNDS: usize = 3;

/// Eight callers at a time, three times: `end` begins and ends one session and says whether it ended rightly.
fn rounds(client: &Client, end: impl Fn(&Client, &str) -> Result + Sync) -> Result {
    for _ in 0..ROUNDS {
        let done: Vec<Result> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(|| end(client, &session_name("leak"))))
                .collect();
            threads
                .into_iter()
                .map(|t| {
                    t.join()
                        .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
                })
                .collect()
        });
        done.into_iter().collect::<Result>()?;
    }
    Ok(())
}

/// A warmed-up daemon; `test` runs between two snapshots that must be equal.
fn clean(
    options: Options,
    mode: &str,
    more: Value,
    test: impl FnOnce(&mut Daemon, &Client) -> Result,
) -> Result {
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "warm", "sdk", json!({}))?;
        chaos::deploy(&client, "leak", mode, more)?;
        rounds(&client, |client, id| {
            client.invoke("warm", id, &json!({"do": "echo"}))?;
            client.stop(id).map(drop)
        })?;
        let before = Snapshot::bare(daemon)?;
        ensure!(
            before.count("descriptor") > 5 && before.count("cgroup") > 0,
            "the snapshot sees nothing: {before:#?}"
        );
        test(daemon, &client)?;
        before.settle(daemon)
    })
}

fn ends(payload: Value, reason: EndReason) -> Result {
    let more = json!({"resources": {"memory": "64M"}, "lifecycle": {"stop_grace": 1}});
    clean(Options::quick(), "sdk", more, |_, client| {
        rounds(client, |client, id| {
            client.invoke("leak", id, &json!({"do": "stray", "count": 2}))?;
            client
                .send(Client::invocation("leak", id, &payload))?
                .expect(424)?;
            let session = client.ended(id, 30)?;
            ensure!(session.end_reason == Some(reason), "{session:?}");
            Ok(())
        })
    })
}

#[test]
fn a_leak_would_be_seen() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "leak", "sdk", json!({}))?;
        let before = Snapshot::steady(daemon)?;
        let id = session_name("kept");
        client.invoke("leak", &id, &json!({"do": "echo"}))?;
        // Waited for: the session lives where a place was prepared, and what is new is the place prepared instead of it.
        wait::until_true(10, "a living session to be seen in every way", || {
            let seen = before.difference(&Snapshot::take(daemon)?);
            let kinds = [
                "process",
                "cgroup",
                "namespace",
                "uid",
                "range",
                "descriptor",
            ];
            Ok(kinds
                .iter()
                .all(|kind| seen.iter().any(|d| d.kind == *kind)))
        })?;
        client.stop(&id)?;
        before.settle(daemon)
    })
}

#[test]
fn stopped() -> Result {
    ground!(Daemon, Python);
    clean(Options::quick(), "sdk", json!({}), |_, client| {
        rounds(client, |client, id| {
            client.invoke(
                "leak",
                id,
                &json!({"do": "stray", "count": 3, "stopped": true}),
            )?;
            let session = client.stop(id)?;
            ensure!(
                session.end_reason == Some(EndReason::Stopped),
                "{session:?}"
            );
            Ok(())
        })
    })
}

#[test]
fn idle_and_too_old() -> Result {
    ground!(Daemon, Python);
    for (config, reason) in [
        ("[defaults]\nidle_timeout = 2", EndReason::Idle),
        (
            "[defaults]\nidle_timeout = 3\nmax_lifetime = 3\nstop_grace = 1",
            EndReason::MaxLifetime,
        ),
    ] {
        clean(
            Options::quick().config(config),
            "sdk",
            json!({}),
            |_, client| {
                rounds(client, |client, id| {
                    client.invoke("leak", id, &json!({"do": "echo"}))?;
                    if reason == EndReason::MaxLifetime {
                        client
                            .send(Client::invocation("leak", id, &json!({"do": "never"})))?
                            .expect(424)?;
                    }
                    let session = client.ended(id, 30)?;
                    ensure!(session.end_reason == Some(reason), "{session:?}");
                    Ok(())
                })
            },
        )?;
    }
    Ok(())
}

#[test]
fn agent_exits_0_and_1() -> Result {
    ground!(Daemon, Python);
    ends(json!({"do": "exit", "code": 0}), EndReason::AgentExited)?;
    ends(json!({"do": "exit", "code": 1}), EndReason::AgentExited)
}

#[test]
fn agent_crashes() -> Result {
    ground!(Daemon, Python);
    ends(json!({"do": "segv"}), EndReason::AgentExited)
}

#[test]
fn out_of_memory() -> Result {
    ground!(Daemon, Python);
    ends(
        json!({"do": "eat", "bytes": 1 << 30}),
        EndReason::OutOfMemory,
    )
}

#[test]
fn shim_killed() -> Result {
    ground!(Daemon, Python);
    clean(Options::quick(), "sdk", json!({}), |_, client| {
        rounds(client, |client, id| {
            client.invoke("leak", id, &json!({"do": "stray", "count": 2}))?;
            let pid = client.session(id)?.pid.context("pid")?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            let session = client.ended(id, 30)?;
            ensure!(
                session.end_reason == Some(EndReason::ShimDied),
                "{session:?}"
            );
            Ok(())
        })
    })
}

#[test]
fn never_started() -> Result {
    ground!(Daemon, Python);
    for (mode, reason) in [
        ("no_listen", EndReason::StartTimeout),
        ("exit1", EndReason::AgentExited),
    ] {
        clean(
            Options::quick(),
            mode,
            json!({"lifecycle": {"start_timeout": 3, "stop_grace": 1}}),
            |_, client| {
                rounds(client, |client, id| {
                    client
                        .send(Client::invocation("leak", id, &json!({})))?
                        .expect(424)?;
                    let session = client.ended(id, 30)?;
                    ensure!(session.end_reason == Some(reason), "{session:?}");
                    Ok(())
                })
            },
        )?;
    }
    Ok(())
}

#[test]
fn client_gone() -> Result {
    ground!(Daemon, Python);
    clean(Options::quick(), "sdk", json!({}), |_, client| {
        rounds(client, |client, id| {
            client.invoke("leak", id, &json!({"do": "echo"}))?;
            let endless = Client::invocation(
                "leak",
                id,
                &json!({"do": "stream", "events": -1, "delay": 0.01}),
            );
            let mut answer = client.send(endless)?.expect(200)?;
            answer.piece()?;
            drop(answer);
            wait::until_true(10, "the call to be cancelled", || {
                Ok(client.session(id)?.in_flight == 0)
            })?;
            // Gone while its body is still on the way.
            let mut stream = client.target.connect()?;
            stream.write_all(b"POST /runtimes/leak/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\nhalf")?;
            drop(stream);
            client.stop(id).map(drop)
        })?;
        // Sessions that such calls began end by hand.
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        Ok(())
    })
}

#[test]
fn daemon_killed() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        end_sessions: false,
        ..Options::quick()
    };
    clean(options, "sdk", json!({}), |daemon, client| {
        for _ in 0..ROUNDS {
            let ids: Vec<_> = (0..AT_ONCE).map(|_| session_name("daemon")).collect();
            std::thread::scope(|scope| {
                for id in &ids {
                    scope.spawn(move || {
                        client.invoke("leak", id, &json!({"do": "stray", "count": 1}))
                    });
                }
            });
            let pids: Vec<_> = client
                .live_sessions()?
                .into_iter()
                .filter_map(|s| s.pid)
                .collect();
            ensure!(pids.len() == AT_ONCE, "{pids:?}");
            daemon.kill()?;
            daemon.restart()?;
            // Found again and alive, or ended with a reason; never forgotten.
            for id in &ids {
                let session = client.session(id)?;
                if session.end_reason.is_none() {
                    client.stop(id)?;
                } else {
                    client.ended(id, 20)?;
                }
            }
            wait::until_true(20, "the sessions' processes to be gone", || {
                Ok(!pids
                    .iter()
                    .any(|p| host::alive(*p) && host::title(*p).contains("shim")))
            })?;
        }
        Ok(())
    })
}

#[test]
fn daemon_killed_while_sessions_start_and_end() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        end_sessions: false,
        ..Options::quick()
    };
    clean(options, "sdk", json!({}), |daemon, client| {
        for round in 0u64..10 {
            let ids: Vec<_> = (0..AT_ONCE).map(|_| session_name("mid")).collect();
            std::thread::scope(|scope| -> Result {
                for id in &ids {
                    scope.spawn(move || {
                        // The call dies with the daemon; what counts is what stays.
                        let _ = client.invoke("leak", id, &json!({"do": "echo"}));
                        let _ = client.stop(id);
                    });
                }
                std::thread::sleep(std::time::Duration::from_millis(20 + 47 * round));
                daemon.kill()
            })?;
            daemon.restart()?;
            for session in client.live_sessions()? {
                let _ = client.stop(session.id.as_str());
            }
        }
        Ok(())
    })
}
