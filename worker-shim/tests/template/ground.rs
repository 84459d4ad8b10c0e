//! A base with Python, bundles, a template on it and sessions below.

use crate::broker::Broker;
use crate::harness::{TOKEN, boot, program};
use crate::process::{Making, Process, directory};
use nix::unistd::Pid;
use proto::shim::{Boot, Fork, Forked, Go, Origin, TemplateState};
use sandbox::plan::{self, Filters, Lineage, SessionSpec};
use sandbox::seqpacket::Seqpacket;
use sandbox::share::Shares;
use sandbox::stager::{Host, TemplateNamespaces};
use sandbox::sys::pidfd;
use sandbox::template;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Uids of the template (first) and of the sessions.
const UIDS: Range<u32> = 0x4200_0000..0x4210_0000;

/// Of inotify, of each session.
pub(crate) const SHARES: Shares = Shares {
    instances: 3,
    watches: 5,
};

/// Where the bootstrap is in the base.
const BOOTSTRAP: &str = "/opt/agentcore/python";

pub(crate) struct Ground {
    directory: TempDir,
    host: Host,
    /// Of sessions, and of templates; made once, as the launcher does.
    filters: [Filters; 2],
    next_uid: std::cell::Cell<u32>,
}

/// A session of either kind; the test plays its broker.
pub(crate) struct Session {
    pub(crate) process: Process,
    pub(crate) broker: Broker,
    pub(crate) uid_base: u32,
}

/// A forked session and how long its parts took.
pub(crate) struct Forking {
    pub(crate) session: Session,
    pub(crate) agent: Pid,
    pub(crate) times: Vec<(&'static str, Duration)>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = directory("template");
        let base = directory.path().join("base");
        build_base(&base);
        let shim = File::open(program()).expect("the built shim");
        Self {
            host: Host {
                base: File::open(&base).expect("base").into(),
                shim: sandbox::memfd::sealed_program(c"agentcore-shim", shim).expect("memfd"),
            },
            directory,
            filters: [
                sandbox::seccomp::filters().expect("filters"),
                sandbox::seccomp::template_filters().expect("filters"),
            ],
            next_uid: std::cell::Cell::new(UIDS.start),
        }
    }

    /// Where the built-in SDK is on the host.
    pub(crate) fn builtin(&self) -> PathBuf {
        self.directory.path().join("base").join(&BOOTSTRAP[1..])
    }

    /// A bundle with this program and, if asked for, the AWS SDK; nothing if that is not on this machine.
    pub(crate) fn bundle(&self, name: &str, program: &str, packages: Option<&Path>) -> PathBuf {
        let bundle = self.directory.path().join(name);
        fs::create_dir(&bundle).expect("bundle");
        fs::write(bundle.join("main.py"), program).expect("program");
        if let Some(packages) = packages {
            let mut copy = Command::new("cp");
            copy.args(["-al", "--"]);
            for entry in fs::read_dir(packages).expect("packages").flatten() {
                copy.arg(entry.path());
            }
            assert!(copy.arg(&bundle).status().expect("cp").success());
        }
        bundle
    }

    fn launch(
        &self,
        bundle: &Path,
        boot: &Boot,
        lineage: Lineage,
        below: Option<TemplateNamespaces>,
    ) -> Session {
        let uid_base = self.next_uid.replace(self.next_uid.get() + 16);
        let path = |name: &str| self.directory.path().join(format!("{name}{uid_base}"));
        let socket = path("socket");
        let filters = match lineage {
            Lineage::Template { .. } => &self.filters[1],
            Lineage::Host | Lineage::Fork { .. } => &self.filters[0],
        };
        let plan = plan::compile(&SessionSpec {
            uid_base,
            tmp_bytes: 64 << 20,
            nofile: 1024,
            nproc: 256,
            staging: self.directory.path().join("staging"),
            storage: false,
            core_is_piped: false,
            filters: filters.clone(),
            lineage,
        })
        .expect("plan");
        let process = Process::launch(Making {
            plan: &plan,
            host: &self.host,
            uid_base,
            bundle,
            boot,
            below,
            socket: &socket,
            record: path("record"),
        });
        let mut broker = Broker::connect(&socket);
        broker.attach(TOKEN, 7).expect("attach");
        Session {
            process,
            broker,
            uid_base,
        }
    }

    /// A cold session, to compare with.
    pub(crate) fn cold(&self, bundle: &Path) -> Session {
        let mut boot = agent_boot();
        boot.agent.argv = ["/usr/bin/python3", "/app/main.py"]
            .map(str::to_owned)
            .into();
        self.launch(bundle, &boot, Lineage::Host, None)
    }

    /// A template, and what it says of itself.
    pub(crate) fn template(&self, bundle: &Path) -> (Session, TemplateState) {
        let mut boot = agent_boot();
        let argv = [
            "/usr/bin/python3",
            "-m",
            "agentcore_template",
            "/app/main.py",
        ];
        boot.agent.argv = argv.map(str::to_owned).into();
        boot.origin = Origin::Template;
        let mut session = self.launch(bundle, &boot, Lineage::Template { uids: UIDS }, None);
        let said = session.broker.notification("template");
        let state = serde_json::from_value(said.params).expect("state");
        (session, state)
    }

    /// A session whose agent is a fork of the template, up to where it waits to be looked at.
    pub(crate) fn fork(&self, bundle: &Path, template: &mut Session, env: (&str, &str)) -> Forking {
        let began = Instant::now();
        let mut times = Vec::new();
        let mut boot = agent_boot();
        boot.origin = Origin::Fork;
        boot.agent.env.insert(env.0.to_owned(), env.1.to_owned());
        let (for_template, for_session) = Seqpacket::pair().expect("pair");
        // The template forks while the session is made.
        let rpc = template
            .broker
            .request("fork", &Fork {}, &[for_template.as_fd()]);
        let open = |name: &str| -> OwnedFd {
            File::open(format!("/proc/{}/ns/{name}", template.process.pid))
                .expect("namespace")
                .into()
        };
        let namespaces = TemplateNamespaces {
            user: open("user"),
            pid: open("pid"),
        };
        let lineage = Lineage::Fork { shares: SHARES };
        let mut session = self.launch(bundle, &boot, lineage, Some(namespaces));
        times.push(("session and shim", began.elapsed()));
        let _: Map<String, Value> = template.broker.answer(rpc).expect("fork");
        let rpc = session
            .broker
            .request("fork", &Fork {}, &[for_session.as_fd()]);
        drop((for_template, for_session));
        let _: Map<String, Value> = session.broker.answer(rpc).expect("fork");
        let heard = session
            .broker
            .try_notification("forked")
            .expect("the fork comes");
        let forked: Forked = serde_json::from_value(heard.params).expect("forked");
        let agent = pidfd::number(heard.fds[0].as_fd()).expect("number");
        times.push(("forked", began.elapsed()));
        assert!(forked.pid > 1);
        Forking {
            session,
            agent,
            times,
        }
    }
}

impl Forking {
    /// Looks, and lets it go.
    pub(crate) fn serve(mut self, template: &Session) -> (Session, Vec<(&'static str, Duration)>) {
        let began = Instant::now();
        template::inspect(&self.to_inspect(template)).expect("nothing to find");
        let before = self.times[1].1;
        self.times.push(("looked at", before + began.elapsed()));
        self.session.broker.notify("go", &Go {});
        self.session.broker.healthy();
        self.times.push(("healthy", before + began.elapsed()));
        (self.session, self.times)
    }

    pub(crate) fn to_inspect(&self, template: &Session) -> template::Fork {
        template::Fork {
            agent: self.agent,
            shim: self.session.process.pid,
            template: template.process.pid,
            uid: self.session.uid_base + 1,
        }
    }
}

impl Session {
    /// One invocation's answer as JSON.
    pub(crate) fn ask(&mut self, body: &str) -> Value {
        let answer = self.broker.invoke(body.as_bytes()).expect("answer");
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        serde_json::from_str(answer.text()).expect("json")
    }
}

fn agent_boot() -> Boot {
    let mut boot = boot(8080);
    boot.agent
        .env
        .insert("PYTHONPATH".to_owned(), format!("/app:{BOOTSTRAP}"));
    boot.agent
        .env
        .insert("HOME".to_owned(), "/home/agent".to_owned());
    boot.agent
        .env
        .insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
    boot.agent.cwd = "/app".to_owned();
    boot.agent.uid = 1000;
    boot.agent.gid = 1000;
    boot
}

fn build_base(root: &Path) {
    for directory in [
        "proc",
        "dev",
        "tmp",
        "app",
        "home/agent",
        "etc",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "run",
        "opt/agentcore/python",
    ] {
        fs::create_dir_all(root.join(directory)).expect("create directory");
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).expect("symlink");
    }
    let run = |words: &[&str]| {
        let status = Command::new(words[0]).args(&words[1..]).status();
        assert!(status.expect(words[0]).success(), "{words:?}");
    };
    let at = |path: &str| root.join(path).to_str().expect("path").to_owned();
    run(&["cp", "-a", "/usr/lib/python3.11", &at("usr/lib/")]);
    run(&["cp", "-aL", "/usr/bin/python3", &at("usr/bin/python3")]);
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python");
    for package in ["agentcore_template", "bedrock_agentcore"] {
        let from = python.join(package);
        run(&[
            "cp",
            "-a",
            from.to_str().expect("path"),
            &at("opt/agentcore/python/"),
        ]);
    }
    let inside = at("opt/agentcore/python");
    run(&[
        "/usr/bin/python3",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        &inside,
    ]);
    let listing = "ldd /usr/bin/python3 /usr/lib/x86_64-linux-gnu/libstdc++.so.6 /usr/lib/python3.11/lib-dynload/*.so 2>/dev/null | grep -o '/[^ ]*\\.so[^ ]*' | sort -u";
    let libraries = Command::new("sh")
        .args(["-c", listing])
        .output()
        .expect("ldd");
    let more = [
        "libstdc++.so.6",
        "librt.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "libutil.so.1",
    ]
    .map(|name| format!("/usr/lib/x86_64-linux-gnu/{name}"));
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for library in libraries.lines().chain(more.iter().map(String::as_str)) {
        if library.starts_with("/usr/lib/python3.11") || library.ends_with(':') {
            continue;
        }
        let real = fs::canonicalize(library).expect("library");
        let name = Path::new(library).file_name().expect("name");
        let to = match library.contains("lib64") {
            true => root.join("usr/lib64").join(name),
            false => {
                fs::create_dir_all(root.join("usr/lib/x86_64-linux-gnu"))
                    .expect("create directory");
                root.join("usr/lib/x86_64-linux-gnu").join(name)
            }
        };
        fs::copy(real, to).expect("copy library");
    }
}
