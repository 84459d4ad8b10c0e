//! A template without a capability, and forks of it in sessions of their own: what each of the five processes does, and
//! what is seen of the result from outside.
//!
//! Here the template's agent is this program, and does what the Python bootstrap does (`python/agentcore_template`).

use super::ground::{Ground, Living, UID_BASE};
use super::{agent, forker};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use sandbox::agent::{AgentSpawn, spawn_agent};
use sandbox::plan::Lineage;
use sandbox::seqpacket::{Seqpacket, SeqpacketListener};
use sandbox::share::Shares;
use sandbox::stager::TemplateNamespaces;
use sandbox::sys::fork::fork_single;
use sandbox::template::{Finding, Fork, inspect};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The daemon's block, with the template's own range and those of the forks.
const UIDS: std::ops::Range<u32> = UID_BASE..UID_BASE + 4096;

/// PID 1 of the template: starts the interpreter with the test's connection as its standard input, then only reaps.
pub(crate) fn pid_1_of_template(listener: &SeqpacketListener) {
    let orders = listener.accept().expect("accept");
    // A fork has another number in its session than the interpreter has here: libraries (OpenSSL) notice a fork by that.
    for _ in 0..8 {
        let spent = fork_single(|| 0).expect("fork");
        waitpid(spent, None).expect("wait");
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .expect("null");
    let interpreter = spawn_agent(&AgentSpawn {
        argv: &[super::AGENT.to_owned(), "template".to_owned()],
        env: &BTreeMap::new(),
        cwd: "/",
        uid: 1000,
        gid: 1000,
        stdin: orders.as_fd(),
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        controlling_tty: None,
        new_session: true,
    })
    .expect("interpreter");
    drop(orders);
    // Forks of the interpreter come here too, when their parent has ended.
    while waitpid(None, None).is_ok_and(|status| status.pid() != Some(interpreter)) {}
}

/// PID 1 of a forked session: gives away its namespaces, hears of its agent, and lets it go when the test says so.
pub(crate) fn pid_1_of_fork(listener: &SeqpacketListener, say: &mut impl FnMut(&str, &str)) {
    let channel = listener.accept().expect("accept");
    let test = listener.accept().expect("accept");
    let (mut output, writer) = std::io::pipe().expect("pipe");
    forker::give_namespaces(&channel, &writer);
    drop(writer);
    let mut buffer = [0; 64];
    let heard = channel.recv(&mut buffer).expect("recv");
    say("here", &String::from_utf8_lossy(&buffer[..heard.len]));
    let go = test.recv(&mut buffer).expect("recv");
    if go.len > 0 {
        channel.send(b"go", &[]).expect("send");
        let mut text = String::new();
        output.read_to_string(&mut text).expect("read");
        say("agent", &text);
    }
}

/// The interpreter: no capability, and a fork for everyone who asks.
pub(crate) fn interpreter() {
    let orders = Seqpacket::from_fd(
        std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .expect("stdin"),
    );
    let mut buffer = [0; 64];
    loop {
        let received = orders.recv(&mut buffer).expect("recv");
        let word = String::from_utf8_lossy(&buffer[..received.len]).into_owned();
        match received.fds.into_iter().next() {
            Some(channel) => {
                let channel = Seqpacket::from_fd(channel);
                let first = fork_single(|| forker::join(&channel, &word, report)).expect("fork");
                waitpid(first, None).expect("wait");
                orders.send(b"forked", &[]).expect("send");
            }
            None if word.is_empty() => return,
            None => orders.send(reach(&word).as_bytes(), &[]).expect("send"),
        }
    }
}

fn report() {
    agent::report();
    agent::calls();
}

/// What of a session's processes the template gets at, although it owns their user namespace.
fn reach(pid: &str) -> String {
    let open = |name: &str| {
        File::options()
            .read(true)
            .write(name == "mem")
            .open(format!("/proc/{pid}/{name}"))
            .map_or_else(|error| error.raw_os_error().unwrap_or(0), |_| 0)
    };
    let list = |name: &str| {
        fs::read_dir(format!("/proc/{pid}/{name}"))
            .map_or_else(|error| error.raw_os_error().unwrap_or(0), |_| 0)
    };
    format!(
        "signal {:?}, seen {}, mem {}, root {}, fd {}",
        kill(Pid::from_raw(pid.parse().expect("number")), None),
        fs::exists(format!("/proc/{pid}")).expect("look"),
        open("mem"),
        list("root"),
        list("fd")
    )
}

/// A running template, and what is needed for sessions below it.
struct Template {
    ground: Ground,
    living: Living,
    orders: Seqpacket,
    sessions: u32,
}

impl Template {
    fn new() -> Self {
        let ground = Ground::new();
        let plan = ground.plan(UID_BASE, Lineage::Template { uids: UIDS });
        let living = ground.start(&plan, UID_BASE, "template", None);
        let orders = Seqpacket::connect(&living.socket).expect("connect");
        Self {
            ground,
            living,
            orders,
            sessions: 0,
        }
    }

    fn namespaces(&self) -> TemplateNamespaces {
        let open = |name: &str| {
            File::open(format!("/proc/{}/ns/{name}", self.living.pid))
                .expect("namespace")
                .into()
        };
        TemplateNamespaces {
            user: open("user"),
            pid: open("pid"),
        }
    }

    /// A session whose agent is a fork that does as `fault` says.
    fn session(&mut self, fault: &str) -> Session {
        self.sessions += 1;
        let uid_base = UID_BASE + 16 * self.sessions;
        let began = Instant::now();
        let shares = Shares::of_host();
        let plan = self.ground.plan(uid_base, Lineage::Fork { shares });
        let namespaces = self.namespaces();
        let mut living = self
            .ground
            .start(&plan, uid_base, "forked", Some(namespaces));
        let (ours, theirs) = (
            Seqpacket::connect(&living.socket).expect("connect"),
            Seqpacket::connect(&living.socket).expect("connect"),
        );
        self.orders
            .send(fault.as_bytes(), &[ours.as_fd()])
            .expect("send");
        drop(ours);
        let here = loop {
            let said = living.said();
            if let Some(text) = said.lines().find_map(|line| line.strip_prefix("here=")) {
                break text.parse().expect("pid");
            }
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{fault}: no fork came"
            );
        };
        let agent = on_host(living.pid, here);
        let fork = Fork {
            agent,
            shim: living.pid,
            template: self.living.pid,
            uid: uid_base + 1,
        };
        Session {
            living,
            control: theirs,
            fork,
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // With all that is below it; what has ended already is collected as well.
        let _ = kill(self.living.pid, Signal::SIGKILL);
        // It cannot end before everyone below it is collected, and PID 1 of a session is our child.
        while waitpid(None, None).is_ok_and(|status| status.pid() != Some(self.living.pid)) {}
    }
}

struct Session {
    living: Living,
    control: Seqpacket,
    fork: Fork,
}

/// The number on the host of process `number` of the pid namespace of `shim`.
fn on_host(shim: Pid, number: i32) -> Pid {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let namespace = of(&shim.to_string()).expect("namespace");
    let found = agent::list("/proc")
        .split(',')
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter(|name| of(name).as_ref() == Some(&namespace))
        .find(|name| numbers(name).last() == Some(&number))
        .map(|name| name.parse().expect("number"));
    Pid::from_raw(found.expect("the fork's process"))
}

/// A process's numbers, from the host's namespace inwards.
fn numbers(pid: &str) -> Vec<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap_or_default()
        .split_whitespace()
        .map(|number| number.parse().expect("number"))
        .collect()
}

pub(crate) fn fork() {
    let mut template = Template::new();
    let mut first = template.session("");
    inspect(&first.fork).expect("nothing to find");
    // The template owns the session's user namespace, and still reaches neither memory nor files.
    for pid in [first.fork.shim, first.fork.agent] {
        let inside = numbers(&pid.to_string())[1];
        template
            .orders
            .send(inside.to_string().as_bytes(), &[])
            .expect("send");
        let mut buffer = [0; 64];
        let mut answer = template.orders.recv(&mut buffer).expect("recv");
        if &buffer[..answer.len] == b"forked" {
            answer = template.orders.recv(&mut buffer).expect("recv");
        }
        let answer = String::from_utf8_lossy(&buffer[..answer.len]).into_owned();
        // It can be signalled, so it is there by that number; nothing else.
        assert_eq!(answer, "signal Ok(()), seen false, mem 2, root 2, fd 2");
    }
    first.control.send(b"go", &[]).expect("send");
    // Its end comes only when the template's PID 1 has reaped the agent.
    waitpid(first.living.pid, None).expect("wait");
    let said = first.living.said();
    let said = said
        .lines()
        .find_map(|line| line.strip_prefix("agent="))
        .expect("what the agent said")
        .replace('|', "\n");
    for line in [
        "fds 0,1,2,3",
        "processes false",
        "cwd /",
        "env []",
        "leader true",
        "kill Err(EPERM)",
        "tmp Ok(())",
        "home Ok(())",
        "unshare 1",
        "setns 1",
        "clone3 38",
        "clone_newuser 1",
        "mount 1",
        "chroot 1",
        "ptrace 1",
        "process_vm_readv 1",
        "keyctl 1",
        "bpf 1",
        "io_uring_setup 1",
        "tiocsti 1",
        "tiocsti_high 1",
        "alg 1",
        "raw 1",
        "x32_getpid 38",
        "unknown 38",
        "getpid 0",
        "inet 0",
    ] {
        assert!(
            said.lines().any(|found| found == line),
            "no {line:?} in\n{said}"
        );
    }
    // A second one finds nothing of the first.
    let second = template.session("");
    inspect(&second.fork).expect("nothing to find");
}

pub(crate) fn careless_forks() {
    let mut template = Template::new();
    for (fault, expected) in [
        ("capability", "CapPrm"),
        ("uid", "Uid"),
        ("filter", "Seccomp_filters"),
        ("thread", "Threads"),
        ("descriptor", "list of descriptors"),
        ("shared", "shared memory"),
        ("reaper", "PPid"),
        ("no mnt", "namespace"),
        ("no net", "namespace"),
        ("no ipc", "namespace"),
        ("no cgroup", "namespace"),
    ] {
        let session = template.session(fault);
        match inspect(&session.fork) {
            Err(Finding::Differs { what, .. }) => assert_eq!(what, expected, "{fault}"),
            other => panic!("{fault}: {other:?}"),
        }
        kill(session.fork.agent, Signal::SIGKILL).expect("kill");
        let _ = kill(session.living.pid, Signal::SIGKILL);
        if fault == "reaper" {
            template = Template::new();
        }
    }
}
