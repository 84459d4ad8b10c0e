//! A launcher on a ground of its own: directories, base, uids, cgroups.

use super::base;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, chown};
use proto::ids::{InstanceId, SessionId};
use sandbox::cgroup::CgroupRoot;
use sandbox::seqpacket::Seqpacket;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use supervisor::launcher::client::{Launched, LauncherClient};
use supervisor::launcher::message::{
    Counters, Exited, LaunchOrder, Limits, Lineage, OrderFault, StorageOrder,
};
use supervisor::launcher::{LauncherHandle, LauncherSetup, StorageSetup, start};
use tokio::sync::mpsc;

/// 2^12 uids below those that daemons' registry gives out, others for each run of this test.
pub(crate) fn uids() -> std::ops::Range<u32> {
    let first = 0x1000_0000 + std::process::id() % 0x1_0000 * 0x1000;
    first..first + 0x1000
}

/// Longest that any condition is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    cpu_millis: 1000,
    pids: 64,
    cpu_weight: 100,
    tmp_bytes: 8 << 20,
    nofile: 256,
};

pub(crate) struct Ground {
    dir: tempfile::TempDir,
    pub(crate) setup: LauncherSetup,
}

/// A launcher and the runtime of its broker.
pub(crate) struct Daemon {
    pub(crate) pid: Pid,
    pub(crate) client: LauncherClient,
    pub(crate) exits: mpsc::Receiver<Exited>,
}

impl Ground {
    pub(crate) fn new(test: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ac-launcher-")
            .tempdir_in("/var/tmp")
            .expect("temporary directory");
        let path = |name: &str| dir.path().join(name);
        base::build(&path("base"));
        fs::create_dir_all(path("state/bundle")).expect("create");
        fs::write(path("state/bundle/main.py"), "print('hello')\n").expect("write");
        for name in ["state", "state/bundle", "state/bundle/main.py"] {
            let (uid, gid) = (Uid::from_raw(uids().start), Gid::from_raw(uids().start));
            chown(&path(name), Some(uid), Some(gid)).expect("chown");
        }
        let number = std::process::id() % 100_000;
        let instance = InstanceId::parse(format!("t{}{number:05}", &test[..2])).expect("instance");
        let setup = LauncherSetup {
            instance,
            runtime_dir: path("run"),
            state_dir: path("state"),
            base_root: path("base"),
            shim: PathBuf::from("/proc/self/exe"),
            broker_uid: uids().start,
            broker_gid: uids().start,
            uid_block: uids(),
            cgroup_parent: None,
            ceilings: Limits {
                memory_bytes: 1 << 30,
                ..LIMITS
            },
            session_read_bps: None,
            storage: sandbox::storage::unavailable()
                .is_none()
                .then(|| StorageSetup {
                    directory: path("storage"),
                    max_bytes: 32 << 20,
                    total_bytes: 64 << 20,
                    caller_bytes: 64 << 20,
                    keep: Duration::from_secs(3600),
                }),
            max_sessions: 40,
            max_prepared: 2,
        };
        Self { dir, setup }
    }

    /// Starts a launcher and connects to it; inside a runtime with one thread.
    pub(crate) fn daemon(&self) -> Daemon {
        let LauncherHandle { link, pid } = start(self.setup.clone()).expect("launcher");
        let (client, exits) = LauncherClient::new(link).expect("client");
        Daemon {
            pid: Pid::from_raw(pid),
            client,
            exits,
        }
    }

    pub(crate) fn bundle(&self) -> OwnedFd {
        File::open(self.dir.path().join("state/bundle"))
            .expect("bundle")
            .into()
    }

    /// The instance's cgroup, in each hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        CgroupRoot::open(self.setup.instance.as_str(), None)
            .expect("cgroups")
            .paths()
    }

    /// Connects to a session's shim and hears its hello.
    pub(crate) fn hello(&self, session: &SessionId) -> (Seqpacket, String) {
        let path = self
            .setup
            .runtime_dir
            .join(format!("sessions/{session}.sock"));
        let link = Seqpacket::connect(&path).expect("connect");
        let mut buffer = [0; 64];
        let heard = link.recv(&mut buffer).expect("hello").len;
        (link, String::from_utf8_lossy(&buffer[..heard]).into_owned())
    }

    /// Asserts that nothing of any session is left. Where a launcher has died, init needs a moment to collect its
    /// children.
    pub(crate) async fn leaves_nothing(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let traces = self.traces();
            if traces.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {traces:#?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything on the host that belongs to this instance's sessions, by name.
    fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> = fs::read_dir(self.setup.runtime_dir.join("sessions"))
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            // A session's last word is there until somebody says that it is on record, which few of these tests do.
            .filter(|name| !name.ends_with(".last"))
            .collect();
        let cgroups = CgroupRoot::open(self.setup.instance.as_str(), None).expect("cgroups");
        traces.extend(cgroups.list().expect("list"));
        let here = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        traces.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&here))
                .map(str::to_owned),
        );
        traces.extend(processes_of(&uids()));
        traces.extend(self.loop_devices());
        traces
    }

    /// Loop devices that storage of this ground is attached to.
    pub(crate) fn loop_devices(&self) -> Vec<String> {
        fs::read_dir("/sys/block")
            .expect("list")
            .filter_map(|entry| {
                let file = entry.expect("entry").path().join("loop/backing_file");
                fs::read_to_string(file).ok()
            })
            .filter(|file| file.contains(&*self.dir.path().to_string_lossy()))
            .collect()
    }

    /// Images of session storage, whole or not.
    pub(crate) fn images(&self) -> Vec<String> {
        let Ok(runtimes) = fs::read_dir(self.dir.path().join("storage")) else {
            return Vec::new();
        };
        runtimes
            // A sweep may take one away meanwhile.
            .flat_map(|runtime| fs::read_dir(runtime.expect("entry").path()))
            .flatten()
            .flatten()
            .map(|image| image.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let Ok(cgroups) = CgroupRoot::open(self.setup.instance.as_str(), None) else {
            return;
        };
        for name in cgroups.list().unwrap_or_default() {
            if let Ok(cgroup) = cgroups.open_existing(&name) {
                drop(cgroup.kill());
                drop(cgroup.wait_empty(Instant::now() + PATIENCE));
                drop(cgroup.remove(Instant::now() + PATIENCE));
            }
        }
        drop(cgroups.remove_self());
    }
}

/// Processes whose uid is one of a session's.
fn processes_of(uids: &std::ops::Range<u32>) -> Vec<String> {
    procfs::process::all_processes()
        .expect("processes")
        .flatten()
        .filter_map(|process| Some((process.pid(), process.status().ok()?)))
        .filter(|(_, status)| uids.contains(&status.ruid))
        .map(|(pid, status)| format!("process {pid} of uid {}", status.ruid))
        .collect()
}

impl Daemon {
    pub(crate) async fn launch(
        &self,
        ground: &Ground,
        name: &str,
        boot: &str,
    ) -> Result<Launched, OrderFault> {
        self.launch_with(ground, name, boot, 1, LIMITS).await
    }

    /// `slot` chooses the uid range.
    pub(crate) async fn launch_with(
        &self,
        ground: &Ground,
        name: &str,
        boot: &str,
        slot: u32,
        limits: Limits,
    ) -> Result<Launched, OrderFault> {
        let order = LaunchOrder {
            session: id(name),
            uid_base: uids().start + 16 * slot,
            limits,
            storage: None,
            lineage: Lineage::Host,
        };
        self.launch_order(ground, order, boot).await
    }

    /// As [`Self::launch_with`], with storage; PID 1 stays.
    pub(crate) async fn launch_storing(
        &self,
        ground: &Ground,
        name: &str,
        slot: u32,
        storage: StorageOrder,
    ) -> Result<Launched, OrderFault> {
        let order = LaunchOrder {
            session: id(name),
            uid_base: uids().start + 16 * slot,
            limits: LIMITS,
            storage: Some(storage),
            lineage: Lineage::Host,
        };
        self.launch_order(ground, order, "stay").await
    }

    /// As [`Self::launch_with`], as a template or below one; PID 1 does its part.
    pub(crate) async fn launch_kin(
        &self,
        ground: &Ground,
        name: &str,
        slot: u32,
        lineage: Lineage,
    ) -> Result<Launched, OrderFault> {
        let boot = match lineage {
            Lineage::Host => "stay",
            Lineage::Template => "template",
            Lineage::Fork { .. } => "forked",
        };
        let order = LaunchOrder {
            session: id(name),
            uid_base: uids().start + 16 * slot,
            limits: LIMITS,
            storage: None,
            lineage,
        };
        self.launch_order(ground, order, boot).await
    }

    async fn launch_order(
        &self,
        ground: &Ground,
        order: LaunchOrder,
        boot: &str,
    ) -> Result<Launched, OrderFault> {
        let boot = sandbox::memfd::sealed(boot.as_bytes()).expect("memfd");
        self.client.launch(order, boot, ground.bundle()).await
    }

    pub(crate) async fn exit(&mut self) -> Exited {
        tokio::time::timeout(PATIENCE, self.exits.recv())
            .await
            .expect("an exit notice in time")
            .expect("a launcher")
    }

    /// A session's counters once it has that many processes: its stager needs a moment to be gone.
    pub(crate) async fn usage_of(&self, session: &SessionId, pids: u64) -> Counters {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let usage = self.client.usage(session.clone()).await.expect("usage");
            if usage.pids == pids {
                return usage;
            }
            assert!(Instant::now() < deadline, "{usage:?}");
        }
    }

    /// Closes the link and returns how the launcher ended.
    pub(crate) async fn end(self) -> WaitStatus {
        let Self { pid, client, exits } = self;
        drop((client, exits));
        end_of(pid).await
    }
}

/// Waits for a launcher's end without keeping the runtime's one thread from closing links.
pub(crate) async fn end_of(pid: Pid) -> WaitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).expect("wait for the launcher") {
            WaitStatus::StillAlive => {
                assert!(Instant::now() < deadline, "the launcher does not end")
            }
            ended => return ended,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn id(name: &str) -> SessionId {
    SessionId::parse(name).expect("session id")
}
