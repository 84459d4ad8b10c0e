//! What breaks: one thing at a time, the kind that has broken least first.

use super::scene::{Runtime, Scene};
use crate::command::run;
use anyhow::Context as _;
use e2e::{Client, host, wait};
use fastrand::Rng;
use nix::sys::resource::{Resource, rlim_t};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::api::Phase;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    BrokerKilled,
    LauncherKilled,
    BothKilled,
    Restarted,
    BrokerFrozen,
    LauncherFrozen,
    ShimKilled,
    ShimFrozen,
    AgentKilled,
    AgentFrozen,
    MemoryStarved,
    DescriptorsStarved,
    DiskFull,
}

pub(super) const KINDS: [Kind; 13] = [
    Kind::BrokerKilled,
    Kind::LauncherKilled,
    Kind::BothKilled,
    Kind::Restarted,
    Kind::BrokerFrozen,
    Kind::LauncherFrozen,
    Kind::ShimKilled,
    Kind::ShimFrozen,
    Kind::AgentKilled,
    Kind::AgentFrozen,
    Kind::MemoryStarved,
    Kind::DescriptorsStarved,
    Kind::DiskFull,
];

/// How long something stays frozen or starved: long enough that calls run into it, not that they time out.
const A_WHILE: std::ops::Range<u64> = 50..700;

/// How many faults of each kind there were.
#[derive(Debug, Default)]
pub(super) struct Toll(BTreeMap<Kind, u64>);

impl Toll {
    /// The least that any kind has.
    pub(super) fn least(&self) -> u64 {
        KINDS.iter().map(|kind| self.of(*kind)).min().unwrap_or(0)
    }

    fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in KINDS {
            writeln!(f, "  {:<20} {:>6}", format!("{kind:?}"), self.of(kind))?;
        }
        Ok(())
    }
}

/// Breaks things until the run is over, at most one in `gap` on average.
pub(super) fn inflict(
    scene: &Scene,
    seed: u64,
    gap: Duration,
    over: &AtomicBool,
) -> anyhow::Result<Toll> {
    let mut rng = Rng::with_seed(seed);
    let mut toll = Toll::default();
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        due += gap.mul_f64(rng.f64() * 2.0);
        while !over.load(Ordering::Relaxed) && Instant::now() < due {
            std::thread::sleep(Duration::from_millis(20));
        }
        let least = toll.least();
        let rare: Vec<_> = KINDS
            .into_iter()
            .filter(|kind| toll.of(*kind) == least)
            .collect();
        let Some(kind) = rng.choice(rare) else {
            continue;
        };
        let done = one(scene, kind, &mut rng).with_context(|| format!("{kind:?}"))?;
        if done {
            *toll.0.entry(kind).or_default() += 1;
        }
    }
    Ok(toll)
}

/// One fault. Says false where there was nobody to hit.
fn one(scene: &Scene, kind: Kind, rng: &mut Rng) -> anyhow::Result<bool> {
    match kind {
        Kind::BrokerKilled => scene.outage(e2e::Daemon::kill)?,
        Kind::LauncherKilled => scene.outage(|daemon| {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            daemon.exited(30).map(|_| ())
        })?,
        Kind::BothKilled => scene.outage(|daemon| {
            kill(Pid::from_raw(daemon.launcher()?), Signal::SIGKILL)?;
            // It may have noticed, and gone already.
            daemon.kill().or_else(|_| daemon.exited(30).map(|_| ()))
        })?,
        Kind::Restarted => scene.outage(|daemon| daemon.terminate().map(|_| ()))?,
        Kind::BrokerFrozen => {
            let pid = scene.daemon().pid();
            freeze(pid, rng)?;
        }
        Kind::LauncherFrozen => {
            let pid = scene.daemon().launcher()?;
            freeze(pid, rng)?;
        }
        Kind::ShimKilled => return hit(scene, rng, Some, end),
        Kind::ShimFrozen => return hit(scene, rng, Some, freeze),
        Kind::AgentKilled => return hit(scene, rng, host::agent, end),
        Kind::AgentFrozen => return hit(scene, rng, host::agent, freeze),
        Kind::MemoryStarved => {
            // Whatever comes of the call: its agent ate until it was ended.
            let id = e2e::client::session_name("starves");
            let runtime = Runtime::draw(rng).name;
            let request = Client::invocation(runtime, &id, &json!({"do": "eat"}));
            if let Ok(answer) = scene.client().send(request) {
                return Ok(answer.status == 424);
            }
            return Ok(false);
        }
        Kind::DescriptorsStarved => starve_of_descriptors(scene, rng)?,
        Kind::DiskFull => {
            let ballast = scene.disk().fill()?;
            pause(rng);
            drop(ballast);
        }
    }
    Ok(true)
}

fn pause(rng: &mut Rng) {
    std::thread::sleep(Duration::from_millis(rng.u64(A_WHILE)));
}

/// Gone already is as good.
fn strike(pid: i32, signal: Signal) -> anyhow::Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn end(pid: i32, _: &mut Rng) -> anyhow::Result<()> {
    strike(pid, Signal::SIGKILL)
}

fn freeze(pid: i32, rng: &mut Rng) -> anyhow::Result<()> {
    strike(pid, Signal::SIGSTOP)?;
    pause(rng);
    strike(pid, Signal::SIGCONT)
}

/// Does something to the shim of a session, a pool's member or a template, or to its agent. It is asked for at once before, and
/// its process's title checked: a number may have become another's.
fn hit(
    scene: &Scene,
    rng: &mut Rng,
    whom: impl FnOnce(i32) -> Option<i32>,
    blow: impl FnOnce(i32, &mut Rng) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    // Held, so that nobody restarts the daemon meanwhile and the list is of now.
    let daemon = scene.daemon();
    let Ok(sessions) = scene.client().sessions("pool=true&live=true") else {
        return Ok(false);
    };
    let shims: Vec<(i32, String)> = sessions
        .iter()
        .filter(|session| matches!(session.phase, Phase::Ready | Phase::Busy))
        .filter_map(|session| Some((session.pid?, session.id.as_str().to_owned())))
        .filter(|(pid, id)| host::title(*pid).contains(id.as_str()))
        .collect();
    let Some(victim) = rng.choice(shims).and_then(|(shim, _)| whom(shim)) else {
        return Ok(false);
    };
    drop(daemon);
    blow(victim, rng)?;
    Ok(true)
}

/// The broker may open nothing more for a while.
fn starve_of_descriptors(scene: &Scene, rng: &mut Rng) -> anyhow::Result<()> {
    let daemon = scene.daemon();
    let pid = daemon.pid();
    let (soft, _hard) = limit_of(pid)?;
    let open = host::descriptors(pid)?.len();
    set_limit(pid, rlim_t::try_from(open)?)?;
    pause(rng);
    set_limit(pid, soft)?;
    // No longer than this: others restart it.
    drop(daemon);
    wait::until_true(20, "the daemon to answer again", || {
        Ok(scene.client().info().is_ok())
    })
}

/// Soft and hard limit of a process's open files.
fn limit_of(pid: i32) -> anyhow::Result<(rlim_t, rlim_t)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .with_context(|| format!("{:?} of {pid}", Resource::RLIMIT_NOFILE))?;
    let mut words = line.split_whitespace();
    let mut next = || words.next().context("a limit")?.parse().context("a number");
    Ok((next()?, next()?))
}

/// The soft limit only; the hard one stays. As the process's own user: who has every capability but CAP_SYS_RESOURCE may do
/// this to nobody else's.
fn set_limit(pid: i32, soft: rlim_t) -> anyhow::Result<()> {
    run(Command::new("prlimit")
        .args(["--pid", &pid.to_string()])
        .arg(format!("--nofile={soft}:"))
        .uid(host::uid(pid)?)
        .gid(host::gid(pid)?))
}
