//! What the run is about: one daemon on a disk of its own, and when it was not there.

use super::disk::Disk;
use anyhow::Context as _;
use e2e::{Client, Daemon, Options};
use fastrand::Rng;
use proto::api::Origin;
use serde_json::json;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One of the runtimes that everybody calls: the same agent, and how a new session's processes are to come to be.
pub(super) struct Runtime {
    pub(super) name: &'static str,
    /// At least one session must have come to be so.
    pub(super) origin: Origin,
    fork: &'static str,
    pool: u32,
}

pub(super) static RUNTIMES: [Runtime; 3] = [
    Runtime {
        name: "cold",
        origin: Origin::Cold,
        fork: "off",
        pool: 0,
    },
    Runtime {
        name: "pool",
        origin: Origin::Pool,
        fork: "off",
        pool: 4,
    },
    // As it is shipped: forks wait in a pool, and whoever finds it empty has a session forked.
    Runtime {
        name: "fork",
        origin: Origin::Fork,
        fork: "auto",
        pool: 2,
    },
];

impl Runtime {
    pub(super) fn draw(rng: &mut Rng) -> &'static Self {
        &RUNTIMES[rng.usize(..RUNTIMES.len())]
    }
}

/// Sessions that there may be at once: the load's, and some that tasks make.
const SESSIONS: usize = 40;

pub(super) struct Scene {
    daemon: Mutex<Daemon>,
    client: Client,
    outages: Mutex<Vec<Outage>>,
    disk: Disk,
}

struct Outage {
    began: Instant,
    ended: Option<Instant>,
}

/// A lock whose holder panicked guards facts all the same.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    /// Starts the daemon, as it is installed, and deploys the agent, once for each runtime.
    pub(super) fn set(binaries: std::path::PathBuf) -> anyhow::Result<Self> {
        let point = e2e::daemon::new_dir()?;
        let disk = Disk::mount(&point)?;
        // Below it: the daemon's end includes the mounts in its own directory.
        let dir = point.join("d");
        std::fs::create_dir(&dir)?;
        let options = Options {
            dev: false,
            end_sessions: false,
            dir: Some(dir),
            binaries,
            ..Options::quick()
        }
        .config(&format!(
            "[limits]\nmax_sessions = {SESSIONS}\nadmission_wait = 5\nnew_session_rate = 0\n[defaults]\nidle_timeout = 15\n"
        ));
        let daemon = Daemon::start(options)?;
        let client = daemon.client();
        for Runtime {
            name, fork, pool, ..
        } in &RUNTIMES
        {
            let resources = json!({"memory": "96M", "pids": 64});
            let more = json!({"resources": resources, "fork": fork, "pool": {"max": pool}});
            e2e::deploy::python(&client, name, include_str!("agent.py"), more)?;
        }
        Ok(Self {
            daemon: Mutex::new(daemon),
            client,
            outages: Mutex::default(),
            disk,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(super) fn daemon(&self) -> MutexGuard<'_, Daemon> {
        locked(&self.daemon)
    }

    /// Takes the daemon away with `how` and starts it again: meanwhile callers may find nobody.
    pub(super) fn outage(
        &self,
        how: impl FnOnce(&mut Daemon) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut daemon = self.daemon();
        locked(&self.outages).push(Outage {
            began: Instant::now(),
            ended: None,
        });
        how(&mut daemon).context("taking the daemon away")?;
        daemon.restart().context("starting the daemon again")?;
        if let Some(outage) = locked(&self.outages).last_mut() {
            outage.ended = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the daemon was away at any time between these two.
    pub(super) fn was_away(&self, from: Instant, to: Instant) -> bool {
        locked(&self.outages)
            .iter()
            .any(|outage| outage.began <= to && outage.ended.is_none_or(|ended| ended >= from))
    }

    /// What is to be ended, in the order in which it must not be dropped.
    pub(super) fn strike(self) -> (Disk, Daemon) {
        let daemon = self.daemon.into_inner();
        (self.disk, daemon.unwrap_or_else(PoisonError::into_inner))
    }
}
