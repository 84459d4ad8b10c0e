//! A base, a bundle and what a launch needs, in a directory of their own.

use super::{AGENT, MARK, base};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use sandbox::exit_mark;
use sandbox::plan::{self, Fault, Lineage, Plan, SessionSpec};
use sandbox::seqpacket::SeqpacketListener;
use sandbox::stager::{Host, OrderFds, Staged, TemplateNamespaces};
use sandbox::sys::fork::fork_single;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Below what daemons' registry gives out.
pub(crate) const UID_BASE: u32 = 0x4000_0000;

/// What PID 1 and agents said, by key.
pub(crate) type Said = BTreeMap<String, String>;

/// A session that runs.
pub(crate) struct Living {
    pub(crate) pid: Pid,
    pub(crate) socket: PathBuf,
    said: File,
    heard: Vec<u8>,
}

impl Living {
    /// Every whole line that was said until now.
    pub(crate) fn said(&mut self) -> String {
        // Ends with "would block"; what came before that is kept.
        let _ = self.said.read_to_end(&mut self.heard);
        let whole = self.heard.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        String::from_utf8(self.heard[..whole].to_vec()).expect("text")
    }
}

pub(crate) struct Ground {
    dir: tempfile::TempDir,
    plan: Plan,
    /// Its stagers make what is made in the place.
    pub(crate) settles: bool,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| dir.path().join(name);
        base::build(&path("base"));
        fs::copy("/proc/self/exe", path("base/usr/bin").join(AGENT)).expect("copy");
        for name in ["staging", "bundle"] {
            fs::create_dir(path(name)).expect("create directory");
        }
        fs::write(path("bundle/main.py"), "print('hello')\n").expect("write");
        let plan = plan::compile(&SessionSpec {
            uid_base: UID_BASE,
            tmp_bytes: 8 << 20,
            nofile: 256,
            nproc: 64,
            staging: path("staging"),
            storage: false,
            core_is_piped: false,
            filters: sandbox::seccomp::filters().expect("filters"),
            lineage: sandbox::plan::Lineage::Host,
        })
        .expect("plan");
        Self {
            dir,
            plan,
            settles: true,
        }
    }

    /// A ground with the same base, and another plan.
    pub(crate) fn plan(&self, uid_base: u32, lineage: Lineage) -> Plan {
        let filters = match lineage {
            Lineage::Template { .. } => sandbox::seccomp::template_filters(),
            Lineage::Host | Lineage::Fork { .. } => sandbox::seccomp::filters(),
        };
        plan::compile(&SessionSpec {
            uid_base,
            tmp_bytes: 8 << 20,
            nofile: 256,
            nproc: 64,
            staging: self.dir.path().join("staging"),
            storage: false,
            core_is_piped: false,
            filters: filters.expect("filters"),
            lineage,
        })
        .expect("plan")
    }

    /// Launches and does not wait: a session that lives on.
    pub(crate) fn start(
        &self,
        plan: &Plan,
        uid_base: u32,
        boot: &str,
        template: Option<TemplateNamespaces>,
    ) -> Living {
        let path = |name: &str| self.dir.path().join(format!("{name}{uid_base}"));
        let (record, socket) = (path("exit"), path("socket"));
        let listener = SeqpacketListener::bind(&socket, 4).expect("bind");
        drop(exit_mark::make(&record, (uid_base, uid_base)).expect("exit record"));
        let said = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&record)
            .expect("open");
        let order = OrderFds {
            bundle: File::open(self.dir.path().join("bundle"))
                .expect("bundle")
                .into(),
            storage: None,
            template,
            shim: [
                sandbox::memfd::sealed(boot.as_bytes()).expect("memfd"),
                listener.into_fd(),
                said.try_clone().expect("dup").into(),
            ],
        };
        let pid = self.stage(plan, &order).expect("a session");
        Living {
            pid,
            socket,
            said,
            heard: Vec::new(),
        }
    }

    /// The base's directory.
    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    /// Launches through a stager. `boot` says what PID 1 is to do.
    pub(crate) fn launch(&self, boot: &str) -> Result<Said, Fault> {
        let record = self.dir.path().join("exit");
        let socket = self.dir.path().join("socket");
        let listener = SeqpacketListener::bind(&socket, 4).expect("bind");
        drop(exit_mark::make(&record, (UID_BASE, UID_BASE)).expect("exit record"));
        // Opened for both, by a test only: what PID 1 finds is put into it.
        let mut said = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&record)
            .expect("open");
        let exit: OwnedFd = said.try_clone().expect("dup").into();
        let order = OrderFds {
            bundle: File::open(self.dir.path().join("bundle"))
                .expect("bundle")
                .into(),
            storage: None,
            template: None,
            shim: [
                sandbox::memfd::sealed(boot.as_bytes()).expect("memfd"),
                listener.into_fd(),
                exit,
            ],
        };
        let outcome = self.stage(&self.plan, &order).map(|_| ());
        // PID 1 of the session is our child too, the stager's sibling; it may have died on the way.
        while waitpid(None, None).is_ok() {}
        let mut text = Vec::new();
        // Ends with "would block": this end is open for writing as well.
        let _ = said.read_to_end(&mut text);
        let said = String::from_utf8(text).expect("text");
        let mark = exit_mark::find(&record);
        for path in [record, socket] {
            fs::remove_file(path).expect("remove");
        }
        outcome.map(|()| {
            assert_eq!(mark, Some(MARK), "left in the session, found on the host");
            said.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.replace('|', "\n")))
                .collect()
        })
    }

    fn stage(&self, plan: &Plan, order: &OrderFds) -> Result<Pid, Fault> {
        let me = File::open("/proc/self/exe").expect("own program");
        let host = Host {
            base: File::open(self.base()).expect("base").into(),
            shim: sandbox::memfd::sealed_program(c"shim", me).expect("memfd"),
        };
        let mut staged = Staged::prepare(&plan.ahead, &host)?;
        let (mut reader, mut writer) = std::io::pipe().expect("pipe");
        let launch = || {
            staged.settle(if self.settles { &plan.place } else { &[] })?;
            staged.launch(plan, &host, order)
        };
        let stager = fork_single(|| match launch() {
            Ok(launched) => {
                let text = launched.pid.to_string();
                writer.write_all(text.as_bytes()).expect("write");
                0
            }
            Err(fault) => {
                let text = format!("{} {}", fault.errno, fault.stage);
                writer.write_all(text.as_bytes()).expect("write");
                1
            }
        })
        .expect("fork");
        drop(writer);
        let mut told = String::new();
        reader.read_to_string(&mut told).expect("read");
        let status = waitpid(stager, None).expect("wait for the stager");
        match told.split_once(' ') {
            None => {
                assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
                Ok(Pid::from_raw(told.parse().expect("a number")))
            }
            Some((errno, stage)) => Err(Fault {
                stage: stage.to_owned(),
                errno: errno.parse().expect("a number"),
            }),
        }
    }
}
