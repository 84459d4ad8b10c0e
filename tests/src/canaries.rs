//! What the probes must not reach: prepared on the host, alive while they run, told to them by name.
//!
//! The keys are those of `tests/agents/README.md`. The daemon itself is started in bad surroundings (`fixtures/dirty_start.py`):
//! an inherited descriptor, a key in its session keyring, umask 0, unlimited cores, signals blocked and ignored, shared mounts.

use crate::{Daemon, Options, host, places};
use anyhow::{Context as _, ensure};
use proto::api::Session;
use serde_json::{Map, Value, json};
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const ENV_NAME: &str = "PROBE_CANARY_OF_THE_DAEMON";

/// Everything that was prepared; it goes when this is dropped.
pub struct Canaries {
    tag: String,
    file: PathBuf,
    shm: PathBuf,
    process: Child,
    tcp_port: u16,
    sysv_key: u32,
    sysv_id: u32,
    _listeners: (TcpListener, Option<TcpListener>, UnixListener),
}

fn python(words: &[&str]) -> anyhow::Result<String> {
    let out = Command::new("/usr/bin/python3")
        .arg(places::source().join("tests/fixtures/dirty_start.py"))
        .args(words)
        .output()?;
    ensure!(
        out.status.success(),
        "dirty_start.py {words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// A process whose number no process of a session reaches: a thousand probes fork often, and on a machine that has just been
/// started the numbers of the host are as low as theirs.
fn process_of_a_high_number() -> anyhow::Result<Child> {
    const HIGH: u32 = 20_000;
    let sleeper = || {
        Command::new("sleep")
            .arg("infinity")
            .stdin(Stdio::null())
            .spawn()
    };
    let mut low = sleeper()?;
    if low.id() >= HIGH {
        return Ok(low);
    }
    low.kill()?;
    low.wait()?;
    fs::write("/proc/sys/kernel/ns_last_pid", HIGH.to_string())?;
    Ok(sleeper()?)
}

impl Canaries {
    /// Prepares all of them.
    pub fn new() -> anyhow::Result<Self> {
        let tag = format!("canary{}", std::process::id());
        let dir = places::scratch();
        fs::create_dir_all(&dir)?;
        let file = dir.join(&tag);
        fs::write(&file, format!("content of {tag}"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let shm = PathBuf::from("/dev/shm").join(&tag);
        fs::write(&shm, &tag)?;
        let process = process_of_a_high_number()?;
        let v4 = TcpListener::bind("127.0.0.1:0")?;
        let tcp_port = v4.local_addr()?.port();
        // A host without IPv6 has nothing to be reached there.
        let v6 = TcpListener::bind(("::1", tcp_port)).ok();
        let abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&tag)?)?;
        let sysv_key = 0x5000_0000 | std::process::id();
        let sysv_id = python(&["make", &sysv_key.to_string(), &format!("/{tag}")])?
            .parse()
            .context("shmid")?;
        Ok(Self {
            tag,
            file,
            shm,
            process,
            tcp_port,
            sysv_key,
            sysv_id,
            _listeners: (v4, v6, abstract_socket),
        })
    }

    /// Options of a daemon in bad surroundings.
    #[must_use]
    pub fn around(&self, options: Options) -> Options {
        let mut options = options.env(ENV_NAME, &self.tag);
        let script = places::source().join("tests/fixtures/dirty_start.py");
        options.wrap = [
            "/usr/bin/python3",
            &script.to_string_lossy(),
            &self.tag,
            "--",
        ]
        .map(str::to_owned)
        .to_vec();
        options
    }

    /// What the probes are told, for a session of `daemon`; `variables` are those that its version sets.
    pub fn json(&self, daemon: &Daemon, variables: Value) -> anyhow::Result<Map<String, Value>> {
        let pid = daemon.pid();
        let read = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned());
        let namespaces = host::namespaces(pid)?;
        let stdio: Vec<u64> = (0..3)
            .filter_map(|n| Some(fs::metadata(format!("/proc/{pid}/fd/{n}")).ok()?.ino()))
            .collect();
        let uids: Vec<u32> = fs::read_to_string("/etc/passwd")?
            .lines()
            .filter_map(|l| l.split(':').nth(2)?.parse().ok())
            .collect();
        let addresses: Vec<String> = nix::ifaddrs::getifaddrs()?
            .filter_map(|i| {
                let address = i.address?;
                address
                    .as_sockaddr_in()
                    .map(|a| a.ip().to_string())
                    .or_else(|| address.as_sockaddr_in6().map(|a| a.ip().to_string()))
            })
            .collect();
        let port = match daemon.tcp()?.target {
            crate::http::Target::Tcp(address) => address.port(),
            crate::http::Target::Unix(_) => 0,
        };
        let value = json!({
            "file": {"path": self.file, "content": format!("content of {}", self.tag)},
            "pid": self.process.id(),
            "hostname": read("/proc/sys/kernel/hostname")?,
            "machine_id": read("/etc/machine-id").unwrap_or_default(),
            "boot_id": read("/proc/sys/kernel/random/boot_id")?,
            "ns": namespaces,
            "tcp_port": self.tcp_port,
            "daemon_port": port,
            "abstract": self.tag,
            "sysv_key": self.sysv_key,
            "sysv_id": self.sysv_id,
            "mq": format!("/{}", self.tag),
            "shm_name": self.tag,
            "key": self.tag,
            "env_secret": {"name": ENV_NAME, "value": self.tag},
            "env": variables,
            "host_uids": uids,
            "host_addresses": addresses,
            "devpts": fs::metadata("/dev/pts")?.dev(),
            "stdio": stdio,
            "control_sockets": sockets(daemon)?,
        });
        match value {
            Value::Object(map) => Ok(map),
            other => anyhow::bail!("not an object: {other}"),
        }
    }
}

/// Puts a device node that no list allows (mode 0666, and such as anybody may open who may open the file) into a session's `/dev`, as nobody but the host's root could, and
/// gives its path in there: whether it opens is the device list's decision alone.
pub fn denied_device(shim: i32) -> anyhow::Result<PathBuf> {
    let (major, minor) = open_device();
    // MS_REMOUNT|MS_BIND|MS_NOSUID|MS_NOEXEC, then the same with MS_RDONLY.
    let script = "import ctypes, os, stat, sys\n\
        mount = ctypes.CDLL(None, use_errno=True).mount\n\
        def remount(flags):\n\
        \x20   if mount(None, b'/dev', None, flags, None): raise OSError(ctypes.get_errno(), 'remount')\n\
        remount(32 | 4096 | 2 | 8)\n\
        os.mknod('/dev/denied', stat.S_IFCHR, os.makedev(int(sys.argv[1]), int(sys.argv[2])))\n\
        os.chmod('/dev/denied', 0o666)\n\
        remount(32 | 4096 | 2 | 8 | 1)\n";
    let out = Command::new("nsenter")
        .args(["--mount", "--target", &shim.to_string(), "--"])
        .args(["/usr/bin/python3", "-c", script])
        .args([major.to_string(), minor.to_string()])
        .output()?;
    ensure!(
        out.status.success(),
        "device canary: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(PathBuf::from("/dev/denied"))
}

/// A character device whose driver this host has and lets anybody open, and to open which does nothing. Not `kmsg`, which
/// also asks for a capability (`dmesg_restrict`): that would refuse it without any list.
fn open_device() -> (u32, u32) {
    let misc = fs::read_to_string("/proc/misc").unwrap_or_default();
    let minor = ["autofs", "loop-control", "fuse", "tun", "vga_arbiter"]
        .iter()
        .find_map(|wanted| {
            let mut lines = misc.lines().filter_map(|l| l.trim().split_once(' '));
            lines.find(|(_, name)| name == wanted)?.0.parse().ok()
        });
    minor.map_or((1, 11), |minor| (10, minor))
}

/// Every Unix socket below the daemon's directories.
fn sockets(daemon: &Daemon) -> anyhow::Result<Vec<PathBuf>> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut found = Vec::new();
    let mut queue = vec![daemon.runtime_dir(), daemon.state_dir()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.file_name() != "bases" {
                queue.push(entry.path());
            } else if kind.is_socket() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// What the harness knows of a session that another one hunts: `planted` is what its `plant` answered.
pub fn peer(session: &Session, planted: &Value) -> anyhow::Result<Value> {
    let pid = session.pid.context("the session has no pid")?;
    let mut peer = planted.clone();
    let more = json!({
        "pid": pid,
        "session_id": session.session_id,
        "ns": host::namespaces(pid)?,
        "uid_range": [session.uid_base.context("uid_base")?, 16],
        "uid": session.uid_base.context("uid_base")? + 1,
    });
    crate::chaos::merge(&mut peer, more);
    Ok(peer)
}

impl Drop for Canaries {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.file);
        let _ = fs::remove_file(&self.shm);
        let _ = python(&[
            "remove",
            &self.sysv_id.to_string(),
            &format!("/{}", self.tag),
        ]);
    }
}
