//! A base root file system with what the test needs inside, and sessions on it.

use crate::harness::{program, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use proto::shim::{Boot, ExitRecord};
use sandbox::exit_mark;
use sandbox::plan::{self, Plan, SessionSpec};
use sandbox::seqpacket::SeqpacketListener;
use sandbox::stager::{Host, OrderFds, Staged};
use sandbox::sys::fork::fork_single;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const UID_BASE: u32 = 0x4100_0000;

/// Programs that the test runs inside.
const PROGRAMS: [&str; 2] = ["/bin/bash", "/usr/bin/stty"];

pub(crate) struct Ground {
    directory: TempDir,
    host: Host,
    plan: Plan,
}

pub(crate) struct Session {
    pub(crate) pid: Pid,
    pub(crate) socket: PathBuf,
    record: PathBuf,
    ended: bool,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("shimsession")
            .tempdir_in("/var/tmp")
            .expect("directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let base = directory.path().join("base");
        let me = std::env::current_exe().expect("own program");
        build_base(&base, &me);
        for name in ["staging", "bundle"] {
            fs::create_dir(directory.path().join(name)).expect("create directory");
        }
        fs::copy(&me, directory.path().join("bundle/agent")).expect("copy the agent");
        let shim = File::open(program()).expect("the built shim");
        let host = Host {
            base: File::open(&base).expect("base").into(),
            shim: sandbox::memfd::sealed_program(c"agentcore-shim", shim).expect("memfd"),
        };
        let plan = plan::compile(&SessionSpec {
            uid_base: UID_BASE,
            tmp_bytes: 8 << 20,
            nofile: 256,
            nproc: 64,
            staging: directory.path().join("staging"),
            storage: false,
            core_is_piped: false,
            filters: sandbox::seccomp::filters().expect("filters"),
            lineage: sandbox::plan::Lineage::Host,
        })
        .expect("plan");
        Self {
            directory,
            host,
            plan,
        }
    }

    pub(crate) fn launch(&self, boot: &Boot) -> Session {
        let record = self.directory.path().join("record");
        let socket = self.directory.path().join("shim.sock");
        let listener = SeqpacketListener::bind(&socket, 4).expect("bind");
        let exit = exit_mark::make(&record, (UID_BASE, UID_BASE)).expect("exit record");
        let json = serde_json::to_vec(boot).expect("json");
        let order = OrderFds {
            bundle: File::open(self.directory.path().join("bundle"))
                .expect("bundle")
                .into(),
            storage: None,
            template: None,
            shim: [
                sandbox::memfd::sealed(&json).expect("memfd"),
                listener.into_fd(),
                exit,
            ],
        };
        let (mut told, tell) = std::io::pipe().expect("pipe");
        let stager = fork_single(|| {
            let launched = Staged::prepare(&self.plan.ahead, &self.host).and_then(|mut staged| {
                staged.settle(&self.plan.place)?;
                staged.launch(&self.plan, &self.host, &order)
            });
            match launched {
                Ok(launched) => {
                    use std::io::Write;
                    i32::from(write!(&tell, "{}", launched.pid).is_err())
                }
                Err(fault) => {
                    eprintln!("{fault}");
                    1
                }
            }
        })
        .expect("fork");
        drop(tell);
        let status = waitpid(stager, None).expect("wait for the stager");
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        let mut pid = String::new();
        std::io::Read::read_to_string(&mut told, &mut pid).expect("pid");
        Session {
            pid: Pid::from_raw(pid.parse().expect("pid")),
            socket,
            record,
            ended: false,
        }
    }
}

impl Session {
    /// Waits for PID 1's end, which is our child, and reads its record.
    pub(crate) fn record(&mut self) -> ExitRecord {
        let status = wait_for("the session's end", || {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("wait") {
                WaitStatus::StillAlive => None,
                status => Some(status),
            }
        });
        self.ended = true;
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        let mark = exit_mark::find(&self.record).expect("a mark");
        ExitRecord::from_numbers(mark.seconds, mark.nanoseconds).expect("record")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

fn build_base(root: &Path, me: &Path) {
    for directory in [
        "proc",
        "dev",
        "tmp",
        "app",
        "home/agent",
        "etc",
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/bin",
        "run",
    ] {
        fs::create_dir_all(root.join(directory)).expect("create directory");
    }
    for (name, to) in [
        ("lib64", "usr/lib64"),
        ("lib", "usr/lib"),
        ("bin", "usr/bin"),
    ] {
        symlink(to, root.join(name)).expect("symlink");
    }
    for name in PROGRAMS {
        let file = Path::new(name).file_name().expect("name");
        fs::copy(name, root.join("usr/bin").join(file)).expect("copy program");
    }
    let me = me.to_str().expect("path");
    for library in libraries(PROGRAMS.into_iter().chain([me])) {
        let name = library.file_name().expect("name");
        let to = root.join("usr/lib/x86_64-linux-gnu").join(name);
        fs::copy(&library, to).expect("copy library");
    }
    let loader = "ld-linux-x86-64.so.2";
    symlink(
        format!("../lib/x86_64-linux-gnu/{loader}"),
        root.join("usr/lib64").join(loader),
    )
    .expect("symlink");
}

/// What `ldd` says that programs load.
fn libraries<'a>(programs: impl Iterator<Item = &'a str>) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").args(programs).output().expect("ldd");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && word.contains(".so"))
        .map(PathBuf::from)
        .collect()
}
