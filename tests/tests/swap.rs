//! Memory of frozen sessions goes to the host's swap and is right when it comes back; what works keeps its memory. Tier: root, in
//! the virtual machines only, of cgroup v2 and of v1: swap is the whole machine's.

use anyhow::{Context as _, ensure};
use e2e::client::{joined, session_name};
use e2e::http::Request;
use e2e::{Client, Daemon, Options, Result, cgroup, ground, puppet, wait};
use proto::api::{Doctor, EndReason, FreezeCause, Phase, Session, SessionLimits};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const MIB: u64 = 1 << 20;
const PAGES: u64 = HELD / 4096;

/// What a session of these tests holds, and what it may hold.
const HELD: u64 = 64 * MIB;
const LIMIT: u64 = 256 * MIB;

/// What each page has beside its number: as small as it gets; compressed to a sixteenth, which counts as the session's memory.
const DENSE: &str = "hashlib.shake_128(b'page').digest(4092)";
const LOOSE: &str = "hashlib.shake_128(b'page').digest(252) + bytes(3840)";

/// Holds pages of which no two are the same.
fn holds(page: &str) -> String {
    format!(
        "import hashlib\n\
         page = {page}\n\
         held = kept['held'] = bytearray(64 << 20)\n\
         for n in range(64 << 8): held[n << 12:(n + 1) << 12] = n.to_bytes(4, 'big') + page\n\
         answer = 0"
    )
}

/// Answers how many of them are as they were.
fn looks(page: &str) -> String {
    format!(
        "import hashlib\n\
         page = {page}\n\
         held = memoryview(kept['held'])\n\
         right = lambda n: held[n << 12:(n + 1) << 12] == n.to_bytes(4, 'big') + page\n\
         answer = sum(map(right, range(64 << 8)))"
    )
}

/// Is at work until it is told.
const WORKS: &str = "import threading\n\
    kept['told'] = threading.Event()\n\
    kept['told'].wait()";

/// Swap of this machine, for as long as it is kept.
struct Swap {
    /// A file that goes with it.
    file: bool,
    place: PathBuf,
}

impl Swap {
    /// A file on the disk.
    fn on_disk() -> anyhow::Result<Self> {
        let swap = Self {
            file: true,
            place: "/var/tmp/agentcore-swap".into(),
        };
        // Not sparse, and not in /tmp, which may be memory.
        let size = (8 * HELD).to_string();
        said("fallocate", &["--length", &size, &swap.path()])?;
        said("chmod", &["600", &swap.path()])?;
        swap.on()
    }

    /// Memory, compressed.
    fn in_memory() -> anyhow::Result<Self> {
        said("modprobe", &["zram", "num_devices=1"])?;
        let swap = Self {
            file: false,
            place: "/dev/zram0".into(),
        };
        fs::write("/sys/block/zram0/disksize", (8 * HELD).to_string())?;
        swap.on()
    }

    fn on(self) -> anyhow::Result<Self> {
        let others = fs::read_to_string("/proc/swaps")?;
        ensure!(others.lines().count() == 1, "there is some: {others}");
        said("mkswap", &[&self.path()])?;
        said("swapon", &[&self.path()])?;
        Ok(self)
    }

    fn path(&self) -> String {
        self.place.display().to_string()
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let off = said("swapoff", &[&self.path()]);
        let gone = match self.file {
            true => fs::remove_file(&self.place).map_err(Into::into),
            false => said("modprobe", &["--remove", "zram"]),
        };
        for fault in [off.err(), gone.err()].into_iter().flatten() {
            eprintln!("swap stays on: {fault:#}");
        }
    }
}

/// Swapped pages are compressed, and kept in memory, for as long as this is.
struct Zswap;

impl Zswap {
    const SWITCH: &str = "/sys/module/zswap/parameters/enabled";

    fn on() -> anyhow::Result<Self> {
        fs::write(Self::SWITCH, "Y")?;
        let before = Self::pages()?;
        ensure!(before == 0, "{before} are there");
        Ok(Self)
    }

    fn pages() -> anyhow::Result<u64> {
        let text = fs::read_to_string("/sys/kernel/debug/zswap/stored_pages")?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for Zswap {
    fn drop(&mut self) {
        if let Err(fault) = fs::write(Self::SWITCH, "N") {
            eprintln!("zswap stays on: {fault}");
        }
    }
}

fn said(program: &str, words: &[&str]) -> Result {
    let out = Command::new(program).args(words).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{program} {words:?}: {text}");
    Ok(())
}

/// What the host says of a session's memory.
#[derive(Debug)]
struct Memory {
    current: u64,
    swap: u64,
    /// Of v2: swap alone. Of v1: what it may have of either, and how much of that may be memory.
    limits: Vec<String>,
}

impl Memory {
    /// Nothing of what it holds is in the swap.
    fn is_all_there(&self) -> bool {
        self.current > HELD && self.swap == 0 && self.is_limited_awake()
    }

    /// What is in its memory may not go to the swap, on v1 nothing above its limit of memory.
    fn is_limited_awake(&self) -> bool {
        let limit = LIMIT.to_string();
        self.limits == ["0"] || self.limits == [limit.as_str(), limit.as_str()]
    }

    /// It may have as much swap as memory, on v1 as much of both together: else it could take another part of the host's each time.
    fn is_limited_asleep(&self) -> bool {
        let limit = LIMIT.to_string();
        self.limits.iter().all(|of| *of == limit)
    }

    fn of(session: &Session) -> anyhow::Result<Self> {
        let pid = session.pid.context("pid")?;
        let read = |files: &[&str]| {
            cgroup::value(pid, "memory", files).with_context(|| format!("none of {files:?}"))
        };
        let swap = match read(&["memory.swap.current"]) {
            Ok(bytes) => bytes,
            Err(_) => read(&["memory.stat"])?
                .lines()
                .find_map(|line| line.strip_prefix("swap "))
                .context("swap is not counted")?
                .to_owned(),
        };
        let limits = match read(&["memory.swap.max"]) {
            Ok(limit) => vec![limit],
            Err(_) => vec![
                read(&["memory.memsw.limit_in_bytes"])?,
                read(&["memory.limit_in_bytes"])?,
            ],
        };
        Ok(Self {
            current: read(&["memory.current", "memory.usage_in_bytes"])?.parse()?,
            swap: swap.parse()?,
            limits,
        })
    }
}

fn falls_asleep(client: &Client, id: &str) -> anyhow::Result<Session> {
    wait::until(30, "the session to be frozen for idleness", || {
        let session = client.session(id)?;
        let how = session.frozen.as_ref();
        let asleep = how.is_some_and(|how| how.causes == [FreezeCause::Idle]);
        Ok((session.phase == Phase::Frozen && asleep).then_some(session))
    })
}

/// Waits until nearly all that the session holds lies in the swap. On v1 its limit is lower while a piece goes there.
fn is_swapped_out(session: &Session) -> anyhow::Result<Memory> {
    wait::until(30, "its memory to be swapped out", || {
        let now = Memory::of(session)?;
        let out = now.swap > HELD * 15 / 16 && now.current < HELD / 4;
        Ok((out && now.is_limited_asleep()).then_some(now))
    })
}

/// What the daemon has counted.
fn reclaimed(client: &Client) -> anyhow::Result<u64> {
    let text = client.send(Request::get("/metrics"))?.expect(200)?.text()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("agentcore_reclaimed_bytes_total "));
    Ok(line.context("not counted")?.parse()?)
}

/// Of sessions that outlive it. Its health checks alone would be a hundredth of an emulated processor, were they as frequent as in
/// other tests.
fn daemon() -> Options {
    Options {
        dev: false,
        end_sessions: false,
        ..Options::default().config(
            "[log]\nlevel = \"debug\"\n[defaults]\nfreeze_after = 2\n\
             [ping]\ninterval = 60\nunhealthy_after = 600\n",
        )
    }
}

fn deploy(client: &Client) -> Result {
    let config = json!({"fork": "off", "resources": {"memory": LIMIT.to_string()}});
    puppet::deploy(client, "holds", config)?;
    Ok(())
}

/// A session that holds its pages, none of them in the swap, until it is frozen and all of them are.
fn begins_and_is_swapped_out(client: &Client, id: &str, page: &str) -> anyhow::Result<Session> {
    let session = client.start("holds", id, &puppet::payload(&holds(page)))?;
    let before = Memory::of(&session)?;
    ensure!(before.is_all_there(), "{before:?}");
    falls_asleep(client, id)?;
    let asleep = is_swapped_out(&session)?;
    println!("{before:?}, asleep {asleep:?}");
    Ok(session)
}

/// The next call finds every page as it was, and there is no more swap to be had.
fn wakes(client: &Client, id: &str, session: &Session, page: &str) -> Result {
    let right = puppet::run(client, "holds", id, &looks(page))?;
    ensure!(right == json!(PAGES), "{right} pages are right");
    let awake = Memory::of(session)?;
    println!("awake {awake:?}");
    ensure!(
        awake.current > HELD && awake.is_limited_awake(),
        "{awake:?}"
    );
    Ok(())
}

#[test]
fn memory_of_idle_sessions_goes_to_a_file_and_comes_back_right() -> Result {
    ground!(Daemon, Disposable, Python);
    let _swap = Swap::on_disk()?;
    Daemon::with(daemon(), |daemon| {
        let client = daemon.client();
        let doctor: Doctor = client.get("/v1/doctor")?;
        let check = doctor.checks.iter().find(|check| check.name == "reclaim");
        let detail = check.context("not looked at")?.detail.clone();
        let told = ["memory.reclaim", "memory.limit_in_bytes"]
            .map(|way| detail.contains(&format!("{way}, with 511 MiB")));
        ensure!(told.contains(&true), "{detail}");
        deploy(&client)?;
        let [works, idles] = ["works", "idles"].map(session_name);
        let working = client.start("holds", &works, &puppet::payload(&holds(DENSE)))?;
        let call = client.in_background("holds", &works, &puppet::payload(WORKS));
        wait::until_true(30, "the call to be there", || {
            Ok(client.session(&works)?.in_flight == 1)
        })?;
        let idle = begins_and_is_swapped_out(&client, &idles, DENSE)?;
        ensure!(reclaimed(&client)? > HELD * 15 / 16);
        wait::until_true(10, "the daemon to have all of it", || {
            Ok(daemon
                .log()
                .contains("memory of a frozen session given back"))
        })?;
        // It counts as what it holds from now on.
        wait::until_true(10, "the daemon to see it", || {
            let path = format!("/v1/sessions/{idles}/limits");
            let limits: SessionLimits = client.get(&path)?;
            Ok(limits.usage.memory_bytes < HELD / 4)
        })?;
        // The one that works was there before it, and keeps all that it has.
        let at_work = Memory::of(&working)?;
        ensure!(client.session(&works)?.phase == Phase::Busy);
        ensure!(at_work.is_all_there(), "{at_work:?}");
        puppet::run(&client, "holds", &works, "kept['told'].set()")?;
        joined(call)?.expect(200)?;

        // A daemon that comes back finds it where it is.
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        wakes(&client, &idles, &idle, DENSE)?;

        // Swap is no way around its limit of memory.
        let more = puppet::payload("kept['more'] = bytearray(b'x') * (512 << 20)");
        client
            .send(Client::invocation("holds", &idles, &more))?
            .expect(424)?;
        let ended = client.ended(idle.id.as_str(), 30)?;
        ensure!(
            ended.end_reason == Some(EndReason::OutOfMemory),
            "{ended:?}"
        );
        // One that lies in the swap can be stopped.
        falls_asleep(&client, &works)?;
        is_swapped_out(&working)?;
        let ended = client.stop(&works)?;
        ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        Ok(())
    })
}

/// One goes to sleep and wakes; what is looked at meanwhile.
fn sleeps_and_wakes(page: &str, asleep: impl Fn() -> Result) -> Result {
    Daemon::with(daemon(), |daemon| {
        let client = daemon.client();
        deploy(&client)?;
        let id = session_name("idles");
        let session = begins_and_is_swapped_out(&client, &id, page)?;
        asleep()?;
        wakes(&client, &id, &session, page)?;
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn memory_of_idle_sessions_goes_to_a_compressed_disk_and_comes_back_right() -> Result {
    ground!(Daemon, Disposable, Python);
    let _swap = Swap::in_memory()?;
    sleeps_and_wakes(DENSE, || Ok(()))
}

#[test]
fn memory_of_idle_sessions_is_compressed_before_it_goes_to_a_file() -> Result {
    ground!(Daemon, Disposable, Python);
    let _swap = Swap::on_disk()?;
    let _compressed = Zswap::on()?;
    // All that came since it was switched on is in there: what gets small is not written to the file.
    sleeps_and_wakes(LOOSE, || {
        let pages = Zswap::pages()?;
        ensure!(pages > PAGES * 15 / 16, "{pages} of {PAGES}");
        Ok(())
    })
}
