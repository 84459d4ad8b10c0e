//! A base root file system with what the test needs inside, and sessions on it.

use crate::harness::program;
use crate::process::{Making, Process, directory};
use proto::shim::Boot;
use sandbox::plan::{self, Plan, SessionSpec};
use sandbox::stager::Host;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
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
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = directory("shimsession");
        let base = directory.path().join("base");
        let me = std::env::current_exe().expect("own program");
        build_base(&base, &me);
        fs::create_dir(directory.path().join("bundle")).expect("create directory");
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
        let socket = self.directory.path().join("shim.sock");
        let process = Process::launch(Making {
            plan: &self.plan,
            host: &self.host,
            uid_base: UID_BASE,
            bundle: &self.directory.path().join("bundle"),
            boot,
            below: None,
            socket: &socket,
            record: self.directory.path().join("record"),
        });
        Session { process, socket }
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
