//! What the broker may ask of the launcher, and what it hears back. Encoded with postcard, one message per packet.
//!
//! Both ends are the same executable, so there is no version here.

use proto::ids::{RuntimeId, SessionId};
use serde::{Deserialize, Serialize};

/// Largest packet between broker and launcher, in bytes.
pub const MAX_PACKET: usize = 16 * 1024;

/// Most sessions of one [`Order::Meter`]: their names, and their readings, fit a packet.
pub const MAX_METERED: usize = 256;

/// One order and its number; the answer carries the same number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    /// Chosen by the broker, unique among its outstanding orders.
    pub number: u64,
    /// What to do.
    pub order: Order,
}

/// The closed set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Make the cgroup of a session to come, and park a stager in it (on cgroup v1 the move costs 7–16 ms, so it is done
    /// ahead). Safe: the name is a checked [`SessionId`] below our own cgroup; the number of parked slots is bounded.
    Prepare {
        /// The session to come.
        session: SessionId,
    },
    /// Make a session. Descriptors: 0 = sealed memfd with the shim's `Boot`; 1 = the bundle's directory (`O_PATH`).
    /// Safe: ids and limits are checked against this instance's block and ceilings, and no range is given to a second
    /// session, whoever made the first; the directory must be owned by the broker's uid on the state directory's file
    /// system; its storage is named by a digest and a runtime's id below a directory of root's, and is no larger than the
    /// operator allows; everything else comes from the launcher's own set-up.
    /// Answer: [`Reply::Launched`] with the pidfd.
    Launch(LaunchOrder),
    /// Take a forked agent into its session's cgroup, and look at it from outside. Descriptor: 0 = its pidfd. Safe: nothing is
    /// done to a process that is not in the session's pid namespace; a session whose agent does not pass is killed.
    Inspect {
        /// Which.
        session: SessionId,
    },
    /// Take over a session that an earlier launcher made: tell its end from now on, and what it does when it is out of memory.
    /// Safe: only by our own cgroup's name, and only if inode, uids and PID 1 are those that are told.
    Adopt(AdoptOrder),
    /// Stop every process of a session where it is. Safe: only by our own cgroup's name, and only a session that runs; what is
    /// stopped holds nothing that others wait for but its own memory, which its limit bounds, and can still be killed. What
    /// does not stop in time is let go again.
    Freeze {
        /// Which.
        session: SessionId,
    },
    /// Let them go on. Safe: as `Freeze`; a process that runs is within its limits as before.
    Thaw {
        /// Which.
        session: SessionId,
    },
    /// Give some of a frozen session's memory back to the host, as far as there is swap. Safe: only by our own cgroup's name, only
    /// while it stands still, and a piece at a time; its swap limit is back before it runs.
    Reclaim {
        /// Which.
        session: SessionId,
        /// How much, at most `session_core::reclaim::PIECE`.
        bytes: u64,
    },
    /// Read back the limits that a session has. Safe: reads our own cgroup's files.
    Limits {
        /// Which.
        session: SessionId,
    },
    /// Change limits of a session that runs, and read them back. Safe: only by our own cgroup's name, and only within the floors
    /// and ceilings of a launch; less memory than is in use is refused rather than killed for, and tried for a bounded time.
    SetLimits(SetLimits),
    /// Change what all sessions may have together, and read it back. Safe: only our own cgroup's files; less memory than is in
    /// use is refused rather than killed for, and tried for a bounded time.
    LimitAll(Slice),
    /// Read how much a session's processes wait for processor, memory and disk. Safe: reads our own cgroup's files.
    Pressure {
        /// Which.
        session: SessionId,
    },
    /// Read how much all sessions together wait. Safe: reads our own cgroup's files.
    OwnPressure,
    /// Kill every process of a session at once. Safe: only by our own cgroup's name.
    Kill {
        /// Which.
        session: SessionId,
    },
    /// Read a session's counters. Safe: reads our own cgroup's files.
    Usage {
        /// Which.
        session: SessionId,
    },
    /// Read what meters need of many sessions. Safe: reads our own cgroups' files; at most [`MAX_METERED`] at once, so that a
    /// launch does not wait for it.
    Meter {
        /// Which.
        sessions: Vec<SessionId>,
        /// Also what their tmpfs mounts hold, which costs more.
        tmp: bool,
    },
    /// Kill what is left, wait until the cgroup is empty, read the final counters and the exit record, and remove cgroup,
    /// socket and directory. Also gives up a prepared slot. Safe: as `Kill`; idempotent.
    Remove {
        /// Which.
        session: SessionId,
    },
    /// The end of a session is on record: what [`Reply::Removed`] told of it need not be told again. Safe: removes a file of that
    /// name in our own directory.
    Forget {
        /// Which.
        session: SessionId,
    },
    /// Remove the session storage of a runtime that is no more. Safe: a checked [`RuntimeId`] below a directory that holds
    /// nothing but session storage.
    ForgetStorage {
        /// Which.
        runtime: RuntimeId,
    },
    /// End every session that an earlier launcher made and that was neither adopted nor is being removed, and remove files of
    /// sessions that are no more. To be given when all that is known was asked for. Safe: only what is below our own cgroup
    /// and in our own directory, by names that only sessions have; nothing that this launcher has made.
    ClearOrphans,
    /// What this host offers. Safe: reads only.
    Probe,
    /// The broker is about to end in order: when it is gone, leave nothing of this instance behind that no session needs.
    /// Without it (a broker that was killed) the instance's own cgroup stays for the next daemon, which may be starting
    /// already. Safe: removes our own cgroup, and only if it is empty.
    Retire,
}

/// What a session is made of, as far as privilege is concerned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchOrder {
    /// Its name: cgroup, socket, hostname.
    pub session: SessionId,
    /// First host uid of its range (`UIDS_PER_SESSION` wide, aligned, inside the instance's block).
    pub uid_base: u32,
    /// Limits.
    pub limits: Limits,
    /// Its storage, if it has one.
    pub storage: Option<StorageOrder>,
    /// Below whose namespaces its own are.
    pub lineage: Lineage,
}

/// What a session has to do with templates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Lineage {
    /// Nothing.
    #[default]
    Host,
    /// It is one: its agent may join the namespaces of sessions below it, and nothing more.
    Template,
    /// Its agent will be a fork of that one's.
    Fork {
        /// A session that this launcher has made.
        template: SessionId,
    },
}

impl Lineage {
    /// Bytes that it may have beside its own, for what forks of it leave charged to it.
    #[must_use]
    pub const fn left_by_forks(&self) -> u64 {
        match self {
            Self::Template => sandbox::share::LEFT_BY_ALL,
            Self::Host | Self::Fork { .. } => 0,
        }
    }
}

/// A session as it was launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptOrder {
    /// Its name.
    pub session: SessionId,
    /// First host uid of its range.
    pub uid_base: u32,
    /// Host pid of its PID 1.
    pub pid: i32,
    /// Start time of that process, clock ticks since boot.
    pub start_time: u64,
    /// Inode of its cgroup directory.
    pub cgroup_inode: u64,
    /// Others may live below it, so it does not end as a whole when it is out of memory. Nothing is forked from it any more.
    pub template: bool,
}

/// Which storage a session gets. Whoever gives the same runtime and key gets the same files, as long as the version stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageOrder {
    /// Its runtime.
    pub runtime: RuntimeId,
    /// Digest of owner, endpoint and the client's name for the session.
    pub key: [u8; 32],
    /// Digest of the caller, in whose share it counts.
    pub caller: [u8; 16],
    /// Version of the runtime; another one begins with nothing.
    pub version: u32,
    /// Directory in `/mnt`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Nobody is to find it again.
    pub scratch: bool,
}

/// New limits of a session that runs; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLimits {
    /// Which.
    pub session: SessionId,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of one.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Share of the processors.
    pub cpu_weight: Option<u32>,
}

/// What all sessions may have together; absent: any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of one.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Their share of the processors where others of this host want them too.
    pub cpu_weight: u32,
}

impl Slice {
    /// Nothing is bounded.
    pub const NONE: Self = Self {
        memory_bytes: None,
        cpu_millis: None,
        pids: None,
        cpu_weight: sandbox::cgroup::WEIGHT,
    };
}

/// Limits that are in force, by the kernel's word; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of one.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Share of the processors.
    pub cpu_weight: u32,
}

/// Shares of the last ten seconds, in hundredths of a percent, in which some process waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a processor.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For a disk.
    pub io: u32,
}

impl Pressure {
    /// As the API shows it.
    #[must_use]
    pub fn to_api(self) -> proto::api::Pressure {
        let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
        proto::api::Pressure {
            cpu: percent(self.cpu),
            memory: percent(self.memory),
            io: percent(self.io),
        }
    }
}

/// The same of all sessions together, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnPressure {
    /// Some waited for a processor.
    pub cpu: u32,
    /// All waited for memory.
    pub memory_full: u32,
    /// All waited for a disk.
    pub io_full: u32,
}

/// Limits of one session, enforced by cgroups, mounts and rlimits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of the whole session, bytes.
    pub memory_bytes: u64,
    /// CPU, thousandths of one.
    pub cpu_millis: u32,
    /// Processes and threads, the shim included.
    pub pids: u32,
    /// Share of the processors where others want them too.
    pub cpu_weight: u32,
    /// Bytes of `/tmp` and of `$HOME`, each.
    pub tmp_bytes: u64,
    /// Open files of one process.
    pub nofile: u32,
}

/// Answer to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replied {
    /// The order's number.
    pub number: u64,
    /// Outcome.
    pub reply: Result<Reply, OrderFault>,
}

/// Packets from the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// To an order.
    Replied(Replied),
    /// A session's PID 1 has ended (all its processes with it).
    Exited(Exited),
}

/// An exit record as it travels: two numbers, which may be anything.
pub type ExitNumbers = (i64, i64);

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// The session is there. One descriptor: its pidfd.
    Launched {
        /// Host pid of its PID 1.
        pid: i32,
        /// Start time of that process, clock ticks since boot (`/proc/PID/stat` field 22).
        start_time: u64,
        /// Inode of its cgroup directory.
        cgroup_inode: u64,
    },
    /// The session is taken over.
    Adopted {
        /// It was told to freeze, and nobody has thawed it.
        frozen: bool,
    },
    /// Bytes that the session held before and holds after; `None` where there is no way to ask.
    Reclaimed(Option<(u64, u64)>),
    /// Limits as they are (now).
    Limits(Enforced),
    /// What all sessions may have together.
    LimitedAll(Slice),
    /// Pressure, where the kernel tells it.
    Pressure(Option<Pressure>),
    /// Pressure of all sessions, where the kernel tells it.
    OwnPressure(Option<OwnPressure>),
    /// Counters.
    Usage(Counters),
    /// In the order of the question; none of a session that does not run.
    Metered(Vec<Option<Metered>>),
    /// Removed; the final counters, and the exit record as the shim left it, if it left one. The same again to who asks again,
    /// be it another daemon, until it is told to [`Order::Forget`] them.
    Removed {
        /// Final reading.
        usage: Counters,
        /// For `proto::shim::ExitRecord::from_numbers`.
        record: Option<ExitNumbers>,
    },
    /// What was found, and what was left.
    Orphans(Orphans),
    /// What this host offers: name, 0 on · 1 degraded · 2 off, detail.
    Probed(Vec<(String, u8, String)>),
}

/// What earlier launchers have left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Sessions that are ended now; the first some of them.
    pub ended: Vec<SessionId>,
    /// Files that were removed.
    pub files: u32,
    /// What is not known to be this instance's, in words; the first some of it.
    pub strangers: Vec<String>,
}

/// What a meter needs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metered {
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory, bytes.
    pub peak_bytes: u64,
    /// What its tmpfs mounts hold, if that was asked for and could be read.
    pub tmp_bytes: Option<u64>,
}

/// Raw counters of a session's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory, bytes.
    pub memory_peak_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

impl Counters {
    /// As the API shows them.
    #[must_use]
    pub fn to_api(self) -> proto::api::Usage {
        proto::api::Usage {
            // Microseconds since the session began: far below 2^53.
            #[expect(
                clippy::cast_precision_loss,
                reason = "microseconds of CPU of one session"
            )]
            cpu_seconds: self.cpu_us as f64 / 1e6,
            memory_bytes: self.memory_bytes,
            memory_peak_bytes: self.memory_peak_bytes,
            pids: self.pids,
            oom_kills: self.oom_kills,
        }
    }
}

/// A session's PID 1 has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Which.
    pub session: SessionId,
    /// Wait status: exit code, or 128 + signal. Of a session that was adopted nobody can tell; its exit record may.
    pub code: Option<i32>,
    /// Processes killed for want of memory by then.
    pub oom_kills: u64,
}

/// Why an order was not carried out. Nothing is left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OrderFault {
    /// A field is out of its bounds.
    #[error("launcher refused the order: {0}")]
    Refused(String),
    /// A step of the plan could not be applied.
    #[error("sandbox step `{stage}` failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    Step {
        /// The step's name.
        stage: String,
        /// Its errno.
        errno: i32,
    },
    /// Something on the host failed (verb and path in the text).
    #[error("{detail}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Host {
        /// Verb and path.
        detail: String,
        /// Its errno.
        errno: i32,
    },
    /// Less memory than the session uses and cannot give back.
    #[error("the session uses {used} bytes of memory that it cannot give back now")]
    MemoryInUse {
        /// Bytes in use.
        used: u64,
    },
    /// Fewer CPUs for all sessions together than one of them has, which this host's cgroups (v1) cannot do.
    #[error("session {session} has {has} thousandths of a CPU")]
    CpusInUse {
        /// Which.
        session: String,
        /// What it has.
        has: u32,
    },
    /// The session's storage might not fit; what is to be done about it is in the text.
    #[error("{0}")]
    StorageFull(String),
    /// The session's storage is still in use by the session before it.
    #[error("the session storage is still in use by an earlier session of this id")]
    StorageBusy,
    /// No such session.
    #[error("launcher knows no session of that name")]
    Unknown,
}
