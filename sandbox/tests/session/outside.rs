//! As the test: launch sessions and look at them from outside.

use super::base;
use nix::sys::wait::{WaitStatus, waitpid};
use sandbox::plan::{self, Plan, SessionSpec};
use sandbox::seqpacket::SeqpacketListener;
use sandbox::stager::{Host, OrderFds, Staged};
use sandbox::sys::fork::fork_single;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

const UID_BASE: u32 = 0x4000_0000;

pub(crate) fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED session: needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let ground = Ground::new(dir.path());
    let said = ground.launch("first");
    assert_eq!(said["boot"], "boot bytes");
    assert_eq!(said["env"], "0");
    let status = &said["status"];
    for line in [
        "CapPrm:\t00000000000000e0",
        "CapInh:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp_filters:\t2",
        "Uid:\t0\t0\t0\t0",
        "SigIgn:\t0000000000001000",
    ] {
        assert!(
            status.contains(line),
            "no {line} in {}",
            status.replace('|', "\n")
        );
    }
    assert_eq!(said["app"], r#"["main.py"]"#);
    assert_eq!(said["write_root"], "Err(Some(30))");
    assert_eq!(said["write_app"], "Err(Some(30))");
    assert_eq!(said["up"], "app,dev,etc,home,lib,lib64,proc,run,tmp,usr");
    println!("session: ok");
}

struct Ground<'a> {
    dir: &'a Path,
    host: Host,
    plan: Plan,
}

impl<'a> Ground<'a> {
    fn new(dir: &'a Path) -> Self {
        let root = dir.join("base");
        base::build(&root);
        for name in ["staging", "bundle"] {
            fs::create_dir(dir.join(name)).expect("create directory");
        }
        fs::write(dir.join("bundle/main.py"), "print('hello')\n").expect("write");
        let me = File::open("/proc/self/exe").expect("own program");
        let host = Host {
            base: File::open(&root).expect("base").into(),
            shim: sandbox::memfd::sealed_program(c"shim", me).expect("memfd"),
        };
        let plan = plan::compile(&SessionSpec {
            uid_base: UID_BASE,
            tmp_bytes: 8 << 20,
            nofile: 256,
            nproc: 64,
            staging: dir.join("staging"),
            core_is_piped: false,
            filters: sandbox::seccomp::filters().expect("filters"),
        })
        .expect("plan");
        Self { dir, host, plan }
    }

    fn order(&self, name: &str) -> (OrderFds, std::path::PathBuf) {
        let record = self.dir.join(format!("{name}.exit"));
        let listener =
            SeqpacketListener::bind(&self.dir.join(format!("{name}.sock")), 4).expect("bind");
        let exit: OwnedFd = File::options()
            .append(true)
            .create_new(true)
            .open(&record)
            .expect("exit record")
            .into();
        let boot = sandbox::memfd::sealed(b"boot bytes").expect("memfd");
        let bundle = File::open(self.dir.join("bundle")).expect("bundle").into();
        (
            OrderFds {
                bundle,
                shim: [boot, listener.into_fd(), exit],
            },
            record,
        )
    }

    /// Launches through a stager, waits for the session's end, and returns what it said.
    fn launch(&self, name: &str) -> BTreeMap<String, String> {
        let (order, record) = self.order(name);
        let stager = fork_single(|| {
            let began = std::time::Instant::now();
            let staged = match Staged::prepare(&self.plan.ahead, &self.host) {
                Ok(staged) => staged,
                Err(fault) => {
                    eprintln!("{fault}");
                    return 1;
                }
            };
            let prepared = began.elapsed();
            match staged.launch(&self.plan, &self.host, &order) {
                Ok(launched) => {
                    eprintln!(
                        "prepared in {prepared:?}, launched: {:?}, all {:?}",
                        launched.times,
                        began.elapsed()
                    );
                    0
                }
                Err(fault) => {
                    eprintln!("{fault}");
                    1
                }
            }
        })
        .expect("fork");
        let status = waitpid(stager, None).expect("wait for the stager");
        assert!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "stager: {status:?}"
        );
        // The session's PID 1 is our child too: the stager's sibling.
        let status = waitpid(None, None);
        assert!(
            matches!(status, Ok(WaitStatus::Exited(_, 0))),
            "session: {status:?}"
        );
        fs::read_to_string(record)
            .expect("record")
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}
