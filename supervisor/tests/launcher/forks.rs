//! Templates and sessions below them: the launcher's part. What PID 1 and the template's agent do is in `forker`.

use super::forker;
use super::ground::{Daemon, Ground, LIMITS, PATIENCE, id};
use super::life::{Test, run};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setresgid, setresuid};
use procfs::process::Process;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::fork::fork_single;
use sandbox::sys::pidfd;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use supervisor::launcher::message::{Lineage, OrderFault};

pub(crate) const TESTS: &[Test] = &[
    ("a_forked_agent_is_taken_into_its_session", || {
        run("fk", taken_in)
    }),
    (
        "a_forked_agent_that_is_not_what_it_must_be_is_killed",
        || run("fb", careless),
    ),
    ("no_other_process_is_taken_into_a_session", || {
        run("fs", strangers)
    }),
    ("only_a_living_template_has_sessions_below_it", || {
        run("fn", templates_only)
    }),
];

/// As PID 1 of a template: its agent, here a child with the agent's uid, forks; this process reaps.
pub(crate) fn template(link: &Seqpacket) {
    speak_when_panicking(link);
    fork_single(|| {
        let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
        setresgid(gid, gid, gid).expect("gid");
        // Takes every capability along.
        setresuid(uid, uid, uid).expect("uid");
        let mut buffer = [0; 64];
        loop {
            let received = link.recv(&mut buffer).expect("recv");
            let Some(channel) = received.fds.into_iter().next() else {
                return 0;
            };
            let channel = Seqpacket::from_fd(channel);
            let fault = String::from_utf8_lossy(&buffer[..received.len]).into_owned();
            let first = fork_single(|| forker::join(&channel, &fault, serve)).expect("fork");
            drop(channel);
            waitpid(first, None).expect("wait");
        }
    })
    .expect("fork");
    while waitpid(None, None).is_ok() {}
}

/// Standard error is the null device here.
fn speak_when_panicking(link: &Seqpacket) {
    let link = link.as_fd().try_clone_to_owned().expect("dup");
    std::panic::set_hook(Box::new(move |panic| {
        let link = Seqpacket::from_fd(link.try_clone().expect("dup"));
        drop(link.send(panic.to_string().as_bytes(), &[]));
    }));
}

/// As an agent that may serve.
fn serve() {
    std::thread::sleep(PATIENCE);
}

/// As PID 1 of a session below.
pub(crate) fn session(link: &Seqpacket) {
    speak_when_panicking(link);
    let mut buffer = [0; 1024];
    let received = link.recv(&mut buffer).expect("recv");
    let channel = Seqpacket::from_fd(received.fds.into_iter().next().expect("a channel"));
    let (_reader, writer) = std::io::pipe().expect("pipe");
    forker::give_namespaces(&channel, &writer);
    let heard = channel.recv(&mut buffer).expect("recv");
    let number = String::from_utf8_lossy(&buffer[..heard.len]).into_owned();
    let agent = pidfd::open(Pid::from_raw(number.parse().expect("number"))).expect("pidfd");
    link.send(number.as_bytes(), &[agent.as_fd()])
        .expect("send");
    let myself = pidfd::open(Pid::this()).expect("pidfd");
    link.send(b"1", &[myself.as_fd()]).expect("send");
    loop {
        std::thread::sleep(PATIENCE);
    }
}

struct Below {
    agent: OwnedFd,
    shim: OwnedFd,
    pid: i32,
}

/// A template, launched, and its link.
async fn a_template(daemon: &Daemon, ground: &Ground) -> Seqpacket {
    let launched = daemon.launch_kin(ground, "stemplate", 1, Lineage::Template);
    launched.await.expect("template");
    ground.hello(&id("stemplate")).0
}

/// A session below it whose agent waits to be looked at.
async fn below(
    daemon: &Daemon,
    ground: &Ground,
    template: &Seqpacket,
    (name, slot, fault): (&str, u32, &str),
) -> Below {
    let lineage = Lineage::Fork {
        template: id("stemplate"),
    };
    let launched = daemon.launch_kin(ground, name, slot, lineage).await;
    let pid = launched.expect("session").pid;
    let (link, _) = ground.hello(&id(name));
    let (ours, theirs) = Seqpacket::pair().expect("pair");
    let fault = if fault.is_empty() { "none" } else { fault };
    template
        .send(fault.as_bytes(), &[ours.as_fd()])
        .expect("send");
    link.send(b"channel", &[theirs.as_fd()]).expect("send");
    drop((ours, theirs));
    let mut buffer = [0; 1024];
    let mut take = || {
        let received = link.recv(&mut buffer).expect("recv");
        let said = String::from_utf8_lossy(&buffer[..received.len]);
        let process = received.fds.into_iter().next();
        process.unwrap_or_else(|| panic!("no process: {said}"))
    };
    Below {
        agent: take(),
        shim: take(),
        pid,
    }
}

fn cgroups_of(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup")
}

async fn taken_in(ground: Ground) {
    let daemon = ground.daemon();
    let template = a_template(&daemon, &ground).await;
    for (name, slot) in [("sone", 2), ("stwo", 3)] {
        let below = below(&daemon, &ground, &template, (name, slot, "")).await;
        let agent = pidfd::number(below.agent.as_fd()).expect("number");
        assert!(cgroups_of(agent).contains("stemplate"), "born there");
        let began = Instant::now();
        daemon
            .client
            .inspect(id(name), below.agent)
            .await
            .expect("nothing to find");
        println!("looked at in {:?}", began.elapsed());
        let now = cgroups_of(agent);
        assert!(now.contains(name) && !now.contains("stemplate"), "{now}");
        let status = Process::new(agent.as_raw())
            .and_then(|process| process.status())
            .expect("status");
        // Its numbers on the host, in the template and in the session.
        assert_eq!(status.nspid.map(|numbers| numbers.len()), Some(3));
        assert_eq!(status.ruid, ground.setup.uid_block.start + 16 * slot + 1);
        let usage = daemon.usage_of(&id(name), 2).await;
        assert_eq!(usage.oom_kills, 0);
    }
    for name in ["sone", "stwo", "stemplate"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn careless(ground: Ground) {
    let mut daemon = ground.daemon();
    let template = a_template(&daemon, &ground).await;
    for (slot, fault, expected) in [
        (2, "capability", "CapPrm"),
        (3, "filter", "Seccomp_filters"),
        (4, "no net", "namespace"),
        (5, "child", "another process of the template has joined"),
    ] {
        let name = format!("sfault{slot}");
        let below = below(&daemon, &ground, &template, (&name, slot, fault)).await;
        match daemon.client.inspect(id(&name), below.agent).await {
            Err(OrderFault::Refused(why)) => assert!(why.contains(expected), "{fault}: {why}"),
            other => panic!("{fault}: {other:?}"),
        }
        assert_eq!(daemon.exit().await.session, id(&name), "{fault}");
        daemon.client.remove(id(&name)).await.expect("remove");
    }
    daemon.client.remove(id("stemplate")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn strangers(ground: Ground) {
    let daemon = ground.daemon();
    let template = a_template(&daemon, &ground).await;
    let below = below(&daemon, &ground, &template, ("sstranger", 2, "")).await;
    let mut host = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep");
    let pid = Pid::from_raw(i32::try_from(host.id()).expect("pid"));
    let before = cgroups_of(pid);
    let process = pidfd::open(pid).expect("pidfd");
    match daemon.client.inspect(id("sstranger"), process).await {
        Err(OrderFault::Refused(why)) => assert!(why.contains("pid namespace"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cgroups_of(pid), before, "left where it was");
    assert!(host.try_wait().expect("wait").is_none(), "and alive");
    host.kill().expect("kill");
    host.wait().expect("wait");
    // Neither is its own PID 1 an agent, and what is no process is nothing.
    match daemon.client.inspect(id("sstranger"), below.shim).await {
        Err(OrderFault::Refused(_) | OrderFault::Host { .. } | OrderFault::Unknown) => {}
        other => panic!("{other:?}"),
    }
    assert!(below.pid > 0);
    for name in ["sstranger", "stemplate"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn templates_only(ground: Ground) {
    let mut daemon = ground.daemon();
    daemon
        .launch_with(&ground, "scold", "stay", 5, LIMITS)
        .await
        .expect("launch");
    for template in ["scold", "snobody"] {
        let lineage = Lineage::Fork {
            template: id(template),
        };
        let refused = daemon.launch_kin(&ground, "sbelow", 3, lineage).await;
        match refused {
            Err(OrderFault::Refused(_) | OrderFault::Unknown) => {}
            other => panic!("{template}: {other:?}"),
        }
    }
    let process = pidfd::open(Pid::this()).expect("pidfd");
    match daemon.client.inspect(id("scold"), process).await {
        Err(OrderFault::Refused(why)) => assert!(why.contains("no fork"), "{why}"),
        other => panic!("{other:?}"),
    }
    // The end of a template is the end of every session below it.
    let template = a_template(&daemon, &ground).await;
    below(&daemon, &ground, &template, ("slow", 4, "")).await;
    daemon.client.kill(id("stemplate")).await.expect("kill");
    let mut ended = [daemon.exit().await.session, daemon.exit().await.session];
    ended.sort();
    assert_eq!(ended, [id("slow"), id("stemplate")]);
    for name in ["scold", "slow", "stemplate"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}
