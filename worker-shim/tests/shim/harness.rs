//! Starts a shim with the descriptors that a launcher would give it, and cleans up after it.

use crate::broker::Broker;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::ids::SessionId;
use proto::shim::{AgentStart, AgentWire, Boot, ExitRecord, GENERATION, ShimLimits};
use sandbox::seqpacket::SeqpacketListener;
use sandbox::{exit_mark, memfd};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before a test says what it was waiting for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Uid and gid of agents in these tests.
pub(crate) const AGENT_UID: u32 = 64_321;

/// What the sandbox leaves a shim.
const SHIM_CAPS: &str = "-all,+setuid,+setgid,+kill";

/// While descriptors are inheritable, no other test may start a process.
static STARTING: Mutex<()> = Mutex::new(());

pub(crate) struct Session {
    outer: Child,
    /// Pid of the shim as this process sees it.
    pub(crate) shim: Pid,
    directory: TempDir,
    pub(crate) started: Instant,
}

/// A boot whose agent sleeps; tests change what they are about.
pub(crate) fn boot(port: u16) -> Boot {
    Boot {
        generation: GENERATION,
        session: SessionId::parse("stest1").expect("id"),
        token: TOKEN.to_owned(),
        epoch: 7,
        agent: AgentStart {
            argv: ["sleep", "1000"].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            cwd: "/".to_owned(),
            uid: AGENT_UID,
            gid: AGENT_UID,
        },
        wire: AgentWire {
            port,
            ping_path: Some("/ping".to_owned()),
            ports: Vec::new(),
        },
        limits: ShimLimits {
            ping_interval_ms: 100,
            ping_timeout_ms: 1000,
            stop_grace_ms: 3000,
            max_lifetime_ms: 600_000,
            orphan_timeout_ms: 600_000,
            log_bytes_per_s: 1 << 20,
            log_burst_bytes: 1 << 20,
            max_invocations: 64,
            max_egress_backlog: 16,
        },
        egress: false,
        origin: proto::shim::Origin::Started,
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

/// The agent as a shell script.
pub(crate) fn shell(boot: &mut Boot, script: &str) {
    boot.agent.argv = ["sh", "-c", script].map(str::to_owned).to_vec();
}

impl Session {
    pub(crate) fn start(boot: &Boot) -> Self {
        Self::start_as(Place::First, boot)
    }

    /// As an ordinary child of the namespace's PID 1, beside a process that is not its own; see [`Self::spared`].
    pub(crate) fn start_beside_a_neighbour(boot: &Boot) -> Self {
        Self::start_as(Place::Second, boot)
    }

    /// Whether that neighbour was still there after the shim's end.
    pub(crate) fn spared(&mut self) -> bool {
        self.outer.wait().expect("wait").success()
    }

    fn start_as(place: Place, boot: &Boot) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "tier root: the shim starts its agent under another uid"
        );
        let directory = tempfile::Builder::new()
            .prefix("shim")
            .tempdir_in("/tmp")
            .expect("directory");
        let json = serde_json::to_vec(boot).expect("json");
        let sealed = memfd::sealed(&json).expect("memfd");
        let listener =
            SeqpacketListener::bind(&directory.path().join("shim.sock"), 8).expect("listener");
        let record =
            exit_mark::make(&directory.path().join("record"), (0, 0)).expect("exit record");
        let fds = [sealed, listener.into_fd(), record];
        let started = Instant::now();
        let outer = spawn(place, &fds);
        drop(fds);
        let shim = Pid::from_raw(wait_for("the shim's process", || {
            let path = format!("/proc/{0}/task/{0}/children", outer.id());
            let children = fs::read_to_string(path).ok()?;
            children.split_whitespace().next()?.parse().ok()
        }));
        Self {
            outer,
            shim,
            directory,
            started,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("shim.sock")
    }

    /// Attaches with the boot's own token and epoch.
    pub(crate) fn attach(&self) -> Broker {
        let mut broker = Broker::connect(&self.socket());
        broker.attach(TOKEN, 7).expect("attach");
        broker
    }

    /// Waits for the shim's end and reads its record.
    pub(crate) fn record(&mut self) -> ExitRecord {
        wait_for("the shim's end", || {
            self.outer.try_wait().expect("wait").map(|_| ())
        });
        let mark = exit_mark::find(&self.directory.path().join("record")).expect("a mark");
        ExitRecord::from_numbers(mark.seconds, mark.nanoseconds).expect("record")
    }

    /// Whether the shim still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.outer.try_wait().expect("wait").is_none()
    }

    /// A line of the shim's `/proc/<pid>/smaps_rollup`, in KiB. `Anonymous` is what it costs by itself: pages of a program
    /// that was just built count as private and dirty until they are on disk.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        memory_of(self.shim, field)
    }

    /// How many descriptors the shim has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.shim))
            .expect("fd")
            .count()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // PID 1's end is the end of its namespace. `unshare` goes first, or it complains about its child's signal.
        if matches!(self.outer.try_wait(), Ok(None)) {
            let _ = self.outer.kill();
            let _ = kill(self.shim, Signal::SIGKILL);
        }
        let _ = self.outer.wait();
    }
}

/// The built shim. Not `env!`: the workspace's rustc wrapper is a shell script, and shells drop variables with a hyphen.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let program = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/test")
        .join("agentcore-shim");
    assert!(program.exists(), "{} is not built", program.display());
    program
}

/// Where in its pid namespace a shim runs.
#[derive(Clone, Copy)]
enum Place {
    /// As PID 1, as in a session.
    First,
    /// As the child of a shell, whose exit status tells of another child of that shell.
    Second,
}

fn spawn(place: Place, fds: &[OwnedFd; 3]) -> Child {
    let guard = STARTING.lock().unwrap_or_else(|broken| broken.into_inner());
    for fd in fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("inheritable");
    }
    let [boot, listener, record] = fds.each_ref().map(AsRawFd::as_raw_fd);
    let confined = format!(
        "setpriv --inh-caps={SHIM_CAPS} --ambient-caps={SHIM_CAPS} \
         setpriv --bounding-set=-all --no-new-privs \"$0\""
    );
    let inner = match place {
        Place::First => format!("exec {confined}"),
        Place::Second => format!("sleep 1000 & neighbour=$!; {confined}; kill -0 $neighbour"),
    };
    let script = format!(
        "exec 203<&{boot} 204<&{listener} 205>&{record} {boot}<&- {listener}<&- {record}<&-\n\
         exec 3<&203- 4<&204- 5>&205-\n\
         exec unshare --pid --mount-proc --fork --kill-child bash -c '{inner}' \"$0\""
    );
    let child = Command::new("bash")
        .args(["-c", &script])
        .arg(program())
        .stdin(Stdio::null())
        .spawn()
        .expect("bash");
    for fd in fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("private");
    }
    drop(guard);
    child
}

/// See [`Session::memory`].
pub(crate) fn memory_of(pid: Pid, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse().ok())
        .expect(field)
}

/// Waits for a condition, bounded.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The CPU time that a process has used.
pub(crate) fn cpu_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let after_name = stat.rsplit_once(')').expect("stat").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 =
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    Duration::from_millis(ticks * 10)
}
