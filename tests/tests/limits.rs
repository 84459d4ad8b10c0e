//! Limits hold, and a neighbour's invocations are unharmed meanwhile. Tier: root; runs in the virtual machine too.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::neighbour::Neighbour;
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, wait};
use proto::api::EndReason;
use serde_json::{Value, json};
use std::time::Duration;

/// An attack on one session while another one is invoked every 100 ms.
fn attack(
    name: &str,
    config: Value,
    test: impl FnOnce(&Daemon, &Client, &str) -> Result,
) -> Result {
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "victim", "sdk", json!({}))?;
        chaos::deploy(&client, "attacker", "sdk", config)?;
        let id = session_name(name);
        client.invoke("attacker", &id, &json!({"do": "echo"}))?;
        let neighbour = Neighbour::start(
            client.clone(),
            "victim",
            json!({"do": "echo", "value": name}),
            {
                let name = name.to_owned();
                move |answer| answer["echo"] == json!(name)
            },
        )?;
        test(daemon, &client, &id)?;
        let seen = neighbour.unharmed().with_context(|| name.to_owned())?;
        println!(
            "{name}: neighbour p50 {:?} p99 {:?} worst {:?} of {}",
            seen.percentile(50),
            seen.percentile(99),
            seen.worst(),
            seen.times.len()
        );
        ensure!(
            seen.worst() < wait::seconds(5),
            "the neighbour waited {:?}",
            seen.worst()
        );
        Ok(())
    })
}

#[test]
fn memory_ends_the_whole_session_and_nobody_else() -> Result {
    ground!(Daemon, Python);
    attack(
        "memory",
        json!({"resources": {"memory": "96M", "tmp_size": "512M", "pids": 512}}),
        |daemon, client, id| {
            let broker = host::start_time(daemon.pid());
            for kind in ["anon", "tmpfs", "memfd", "socket", "pipe"] {
                client.invoke("attacker", id, &json!({"do": "stray", "count": 2}))?;
                let before = client.session(id)?;
                let shim = before.pid.context("pid")?;
                let answer = client.send(Client::invocation(
                    "attacker",
                    id,
                    &json!({"do": "eat", "kind": kind, "bytes": 400 << 20}),
                ))?;
                if answer.status == 200 {
                    // Some kinds stop at a quota of their own before the limit: then they did not get past it.
                    let got: Value = answer.json()?;
                    ensure!(
                        got["bytes"].as_u64().is_some_and(|b| b < 96 << 20),
                        "{kind}: {got}"
                    );
                    client.invoke("attacker", id, &json!({"do": "release"}))?;
                    continue;
                }
                let text = answer.expect(424)?.text()?;
                ensure!(
                    text.contains("memory"),
                    "{kind}: the caller is not told: {text}"
                );
                let ended = client.ended(before.id.as_str(), 10)?;
                ensure!(
                    ended.end_reason == Some(EndReason::OutOfMemory),
                    "{kind}: {ended:?}"
                );
                ensure!(ended.usage.oom_kills > 0, "{kind}: {ended:?}");
                ensure!(
                    !host::alive(shim),
                    "{kind}: the session goes on without its agent"
                );
            }
            ensure!(host::start_time(daemon.pid()) == broker);
            Ok(())
        },
    )
}

/// The kernel's own count of pages in TCP buffers, of the whole machine: bytes.
fn tcp_buffers() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let pages: u64 = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("TCP:")?
                .split_once(" mem ")?
                .1
                .parse()
                .ok()
        })
        .with_context(|| text.clone())?;
    Ok(pages * 4096)
}

#[test]
fn buffers_of_connections_are_the_sessions_own_memory() -> Result {
    ground!(Daemon, Python);
    attack(
        "tcp",
        json!({"resources": {"memory": "128M"}}),
        |daemon, client, id| {
            let before = tcp_buffers()?;
            let answer = client.send(Client::invocation(
                "attacker",
                id,
                &json!({"do": "eat", "kind": "tcp", "bytes": 1 << 30}),
            ))?;
            let grown = tcp_buffers()?.saturating_sub(before);
            // Refused more for want of memory, or ended by it: either way it did not get past its limit. On top comes what
            // the kernel always grants a connection, some 64 kB; their number is bounded by the open files.
            let most = 320 << 20;
            if answer.status == 200 {
                let got: Value = answer.json()?;
                println!("tcp: {got}, {grown} bytes of buffers");
                ensure!(got["bytes"].as_u64().is_some_and(|b| b < most), "{got}");
            } else {
                let text = answer.expect(424)?.text()?;
                ensure!(text.contains("memory"), "the caller is not told: {text}");
            }
            ensure!(grown < most, "{grown} bytes of buffers");
            ensure!(host::alive(daemon.pid()));
            Ok(())
        },
    )
}

#[test]
fn processes_and_threads_stop_at_their_number() -> Result {
    ground!(Daemon, Python);
    attack(
        "pids",
        json!({"resources": {"pids": 64, "memory": "512M", "cpus": 0.5}}),
        |_, client, id| {
            let threads = client.invoke("attacker", id, &json!({"do": "thread_bomb"}))?;
            ensure!(
                threads["stopped"].is_string()
                    && threads["threads"].as_u64().is_some_and(|n| n < 64),
                "{threads}"
            );
            client.invoke("attacker", id, &json!({"do": "release_threads"}))?;
            let bomb =
                client.in_background("attacker", id, &json!({"do": "fork_bomb", "seconds": 3}));
            let shim = client.session(id)?.pid.context("pid")?;
            let mut most = 0;
            while !bomb.is_finished() {
                most = most.max(
                    e2e::cgroup::value(shim, "pids", &["pids.current"])
                        .and_then(|v| v.parse().ok())
                        .unwrap_or(0),
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            ensure!(most <= 64, "{most} processes");
            let answer: Value = e2e::client::joined(bomb)?.expect(200)?.json()?;
            ensure!(answer["refused"] == true, "nothing was refused: {answer}");
            ensure!(most > 32, "only {most} processes seen: no evidence");
            wait::until_true(20, "the session to recover", || {
                Ok(client
                    .invoke("attacker", id, &json!({"do": "echo", "value": 1}))
                    .is_ok())
            })
        },
    )
}

#[test]
fn scratch_space_stops_at_its_bytes_and_files() -> Result {
    ground!(Daemon, Python);
    attack(
        "scratch",
        json!({"resources": {"tmp_size": "8M", "memory": "256M"}}),
        |_, client, id| {
            let place = |name: &str, most: u64| -> Result {
                let filled = client.invoke(
                    "attacker",
                    id,
                    &json!({"do": "fill", "place": name, "keep": false}),
                )?;
                ensure!(
                    filled["stopped"] == "ENOSPC"
                        && filled["bytes"]
                            .as_u64()
                            .is_some_and(|b| b <= most && b > most / 2),
                    "{name}: {filled}"
                );
                let files = client.invoke(
                    "attacker",
                    id,
                    &json!({"do": "fill_inodes", "place": name, "keep": false}),
                )?;
                ensure!(
                    files["stopped"] == "ENOSPC"
                        && files["files"].as_u64().is_some_and(|n| n < 300_000),
                    "{name}: {files}"
                );
                Ok(())
            };
            place("tmp", 8 << 20)?;
            place("home", 8 << 20)?;
            // A quarter of it.
            place("shm", 2 << 20)?;
            for elsewhere in [
                "/", "/app", "/usr", "/etc", "/var", "/run", "/dev", "/proc", "/home", "/root",
                "/opt",
            ] {
                let written = client.invoke(
                    "attacker",
                    id,
                    &json!({"do": "write", "path": format!("{elsewhere}/marker")}),
                );
                ensure!(written.is_err(), "{elsewhere} is writable");
            }
            Ok(())
        },
    )
}

#[test]
fn a_session_gets_its_share_of_the_processor_and_no_more() -> Result {
    ground!(Daemon, Python);
    attack(
        "cpu",
        json!({"resources": {"cpus": 0.25}}),
        |_, client, id| {
            let before = client.session(id)?.usage.cpu_seconds;
            let seconds = 4.0;
            client.invoke(
                "attacker",
                id,
                &json!({"do": "spin", "seconds": seconds, "processes": 8}),
            )?;
            let used = wait::until(10, "the usage to be read", || {
                let used = client.session(id)?.usage.cpu_seconds - before;
                Ok((used > 0.2).then_some(used))
            })?;
            ensure!(
                used < seconds * 0.25 * 1.4,
                "{used} CPU seconds in {seconds} s at 0.25"
            );
            Ok(())
        },
    )
}

#[test]
fn a_flood_of_output_harms_nobody() -> Result {
    ground!(Daemon, Python);
    attack(
        "logs",
        json!({"resources": {"cpus": 0.5}}),
        |daemon, client, id| {
            let before = host::rss(daemon.pid())?;
            client.invoke(
                "attacker",
                id,
                &json!({"do": "log", "seconds": 5, "bytes": 200}),
            )?;
            client.invoke(
                "attacker",
                id,
                &json!({"do": "log_line", "bytes": 128 << 20, "no_newline": true}),
            )?;
            let grown = host::rss(daemon.pid())?.saturating_sub(before);
            ensure!(grown < 32 << 20, "the broker grew by {grown} bytes");
            ensure!(
                client.session(id)?.log_lines_dropped > 0,
                "nothing was dropped: {:?}",
                client.session(id)?
            );
            Ok(())
        },
    )
}

#[test]
fn descriptors_and_connections_stop_at_their_number() -> Result {
    ground!(Daemon, Python);
    attack("descriptors", json!({}), |daemon, client, id| {
        let before = host::descriptors(daemon.pid())?.len();
        let bomb = client.invoke("attacker", id, &json!({"do": "fd_bomb"}))?;
        ensure!(bomb.to_string().contains("EMFILE"), "{bomb}");
        client.invoke(
            "attacker",
            id,
            &json!({"do": "connect_flood", "count": 2000}),
        )?;
        wait::until_true(20, "the broker's descriptors to be given back", || {
            Ok(host::descriptors(daemon.pid())?.len() <= before + 8)
        })
    })
}

#[test]
fn hostile_files_are_removed_with_their_session() -> Result {
    ground!(Daemon, Python);
    attack(
        "files",
        json!({"resources": {"tmp_size": "64M"}}),
        |_, client, id| {
            let made = client.invoke("attacker", id, &json!({"do": "hostile_files"}))?;
            ensure!(made["made"]["deep"] == "made", "{made}");
            client.stop(id)?;
            Ok(())
        },
    )
}

/// Read system calls of a process so far (proc_pid_io(5)); a reading of a session's counters is some of them.
fn reads(pid: i32) -> anyhow::Result<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    Ok(line.context("syscr")?.parse()?)
}

#[test]
fn listing_sessions_does_not_keep_the_launcher_busy() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "listed", "sdk", json!({}))?;
        let id = session_name("listed");
        client.invoke("listed", &id, &json!({"do": "echo"}))?;
        let launcher = daemon.launcher()?;
        // Slots that the launch has emptied are filled by then, and no reading is fresh.
        std::thread::sleep(std::time::Duration::from_secs(3));
        // What the ledger reads meanwhile, whoever lists.
        let began = reads(launcher)?;
        std::thread::sleep(std::time::Duration::from_secs(3));
        let before = reads(launcher)?;
        let meters = before - began;
        client.live_sessions()?;
        let one = reads(launcher)? - before;
        ensure!(one > 0, "a listing reads nothing: no evidence");
        let begun = std::time::Instant::now();
        for _ in 0..500 {
            client.live_sessions()?;
        }
        let due = (one + meters) * (begun.elapsed().as_secs() + 2);
        let all = reads(launcher)? - before - one;
        ensure!(all <= due, "{all} reads for 500 listings, {due} were due");
        Ok(())
    })
}
