//! A state directory whose disk is full: new work is refused, what runs goes on, nothing acknowledged is lost, and room heals it
//! by itself (security-bar X9). Tier: root; each test has a small file system of its own.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_aws_error, expect_problem, session_name};
use e2e::http::Request;
use e2e::smalldisk::SmallDisk;
use e2e::{Daemon, Options, Result, ground, puppet, wait};
use proto::api::{EndReason, InvocationRecord, Page, Phase};
use serde_json::json;

/// With a reserve that fits the small disk.
fn options(disk: &SmallDisk) -> Options {
    Options {
        dev: false,
        end_sessions: false,
        dir: Some(disk.path().to_owned()),
        ..Options::quick()
    }
    .config("[store]\nreserve = \"2M\"\n")
}

fn invoke(client: &Client, id: &str) -> Result {
    let answer = puppet::run(client, "agent", id, "answer = 'here'")?;
    ensure!(answer == "here", "{answer}");
    Ok(())
}

/// Everything that begins something new is refused as such.
fn refused(client: &Client) -> Result {
    let new = Client::invocation(
        "agent",
        &session_name("new"),
        &puppet::payload("answer = 1"),
    );
    expect_aws_error(
        client.send(new)?,
        507,
        "InternalServerException",
        "state directory",
    )?;
    let upload = Request::post("/v1/artifacts", vec![0; 64])
        .header("content-type", "application/octet-stream");
    expect_problem(client.send(upload)?, 507, "state directory")?;
    let key = Request::post("/v1/keys", json!({"name": "new"}).to_string())
        .header("content-type", "application/json");
    expect_problem(client.send(key)?, 507, "state directory")?;
    Ok(())
}

#[test]
fn new_work_is_refused_what_runs_goes_on_and_room_heals() -> Result {
    ground!(Daemon, Python);
    let disk = SmallDisk::tmpfs(64 << 20)?;
    Daemon::with(options(&disk), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({}))?;
        let (stays, ends, dies) = (
            session_name("stays"),
            session_name("ends"),
            session_name("dies"),
        );
        for id in [&stays, &ends, &dies] {
            invoke(&client, id)?;
        }
        disk.fill()?;
        wait::until_true(10, "the daemon to notice", || Ok(refused(&client).is_ok()))?;
        // Whoever has a session does not notice.
        for _ in 0..20 {
            invoke(&client, &stays)?;
        }
        // What ends is written down, whatever else has taken the room.
        disk.fill()?;
        let ended = client.stop(&ends)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        let dying = client.session(&dies)?.pid.context("pid")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(dying),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        let ended = client.ended(&dies, 20)?;
        ensure!(ended.end_reason == Some(EndReason::ShimDied), "{ended:?}");
        refused(&client)?;
        // Nor is that lost which no round of the ledger has seen.
        for _ in 0..20 {
            invoke(&client, &stays)?;
        }
        // The next daemon finds a full disk, and its sessions all the same.
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        invoke(&client, &stays)?;
        for (id, reason) in [(&ends, EndReason::Stopped), (&dies, EndReason::ShimDied)] {
            let row = client.session(id)?;
            ensure!(row.end_reason == Some(reason), "lost: {row:?}");
        }
        refused(&client)?;
        disk.make_room()?;
        let fresh = session_name("fresh");
        wait::until_true(5, "new work to be taken again", || {
            Ok(invoke(&client, &fresh).is_ok())
        })?;
        puppet::deploy(&client, "later", json!({}))?;
        let stays = client.session(&stays)?.id;
        wait::until(10, "every invocation to be on record", || {
            let query = format!("/v1/usage/invocations?session={stays}&maxResults=1000");
            let page: Page<InvocationRecord> = client.get(&query)?;
            let count: u64 = page.items.iter().map(|record| record.count).sum();
            ensure!(count <= 42, "{count} of 42");
            Ok((count == 42).then_some(()))
        })?;
        // Some may have begun before the daemon noticed.
        for session in client.live_sessions()? {
            client.stop(session.id.as_str())?;
        }
        Ok(())
    })
}

#[test]
fn a_disk_that_is_small_from_the_start_takes_no_work_and_says_why() -> Result {
    ground!(Daemon, Python);
    let disk = SmallDisk::tmpfs(16 << 20)?;
    let mut options = options(&disk);
    options.config = options.config.replace("\"2M\"", "\"1G\"");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let upload = Request::post("/v1/artifacts", vec![0; 64])
            .header("content-type", "application/octet-stream");
        let problem = expect_problem(client.send(upload)?, 507, "store.reserve")?;
        ensure!(problem.detail.contains("MiB free"), "{problem:?}");
        Ok(())
    })
}

#[test]
fn a_disk_that_goes_read_only_is_told_and_loses_nothing() -> Result {
    ground!(Daemon, Python, Command("mke2fs"), Command("e2fsck"));
    // What an ext4 does by itself when it finds an error (errors=remount-ro): files that are open for writing do not stop it.
    let disk = SmallDisk::ext4(96 << 20)?;
    Daemon::with(options(&disk), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "agent", json!({}))?;
        let id = session_name("stays");
        invoke(&client, &id)?;
        // A session's row waits for the next write that is synced, which this is.
        puppet::deploy(&client, "kept", json!({}))?;
        disk.trip()?;
        wait::until_true(10, "the daemon to notice", || Ok(refused(&client).is_ok()))?;
        invoke(&client, &id)?;
        let session = client.session(&id)?;
        ensure!(session.phase == Phase::Ready, "{session:?}");
        // Its disk has to be repaired without it, and without its session, whose code is on it.
        let shim = session.pid.context("pid")?;
        daemon.kill()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(shim),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        let refused = daemon.restart();
        let text = format!(
            "{:?}",
            refused
                .err()
                .context("it started on a disk that it cannot write")?
        );
        ensure!(
            text.contains("Read-only file system") || text.contains("cannot be written"),
            "{text}"
        );
        disk.repair()?;
        daemon.restart()?;
        let client = daemon.client();
        let ended = client.session(&id)?;
        ensure!(ended.end_reason == Some(EndReason::ShimDied), "{ended:?}");
        client.runtime("kept")?;
        let again = session_name("again");
        invoke(&client, &again)?;
        client.stop(&again)?;
        Ok(())
    })
}
