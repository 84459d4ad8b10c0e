//! A session as the launcher makes it, and its PID 1, which is our child.

use crate::harness::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use proto::shim::{Boot, ExitRecord};
use sandbox::exit_mark;
use sandbox::plan::Plan;
use sandbox::seqpacket::SeqpacketListener;
use sandbox::stager::{Host, OrderFds, Staged, TemplateNamespaces};
use sandbox::sys::fork::fork_single;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where a test's sessions have what is theirs: all may come in.
pub(crate) fn directory(prefix: &str) -> TempDir {
    let directory = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in("/var/tmp")
        .expect("directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::create_dir(directory.path().join("staging")).expect("create directory");
    directory
}

/// What a session is made of.
pub(crate) struct Making<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) host: &'a Host,
    pub(crate) uid_base: u32,
    pub(crate) bundle: &'a Path,
    pub(crate) boot: &'a Boot,
    pub(crate) below: Option<TemplateNamespaces>,
    /// Where its shim listens.
    pub(crate) socket: &'a Path,
    /// Where it leaves how it ended.
    pub(crate) record: PathBuf,
}

pub(crate) struct Process {
    pub(crate) pid: Pid,
    record: PathBuf,
    ended: bool,
}

impl Process {
    pub(crate) fn launch(making: Making<'_>) -> Self {
        let Making { plan, host, .. } = making;
        let listener = SeqpacketListener::bind(making.socket, 4).expect("bind");
        let owner = (making.uid_base, making.uid_base);
        let exit = exit_mark::make(&making.record, owner).expect("exit record");
        let json = serde_json::to_vec(making.boot).expect("json");
        let order = OrderFds {
            bundle: File::open(making.bundle).expect("bundle").into(),
            storage: None,
            template: making.below,
            shim: [
                sandbox::memfd::sealed(&json).expect("memfd"),
                listener.into_fd(),
                exit,
            ],
        };
        let (mut told, mut tell) = std::io::pipe().expect("pipe");
        let stager = fork_single(|| {
            let launched = Staged::prepare(&plan.ahead, host).and_then(|mut staged| {
                staged.settle(&plan.place)?;
                staged.launch(plan, host, &order)
            });
            match launched {
                Ok(launched) => i32::from(write!(tell, "{}", launched.pid).is_err()),
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
        if !plan.usher.is_empty() {
            // The two ushers, one of which was in the template, whose PID 1 cannot end before.
            for _ in 0..2 {
                let status = waitpid(None, None).expect("wait for an usher");
                assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
            }
        }
        let mut pid = String::new();
        told.read_to_string(&mut pid).expect("pid");
        Self {
            pid: Pid::from_raw(pid.parse().expect("pid")),
            record: making.record,
            ended: false,
        }
    }

    /// Waits for its end and reads its record.
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

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}
