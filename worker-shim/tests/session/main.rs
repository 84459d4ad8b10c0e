//! The shim in a real session, under every measure of the sandbox: what it needs there must be left to it (tier: root).
//!
//! One program, three parts: the test; `agent`, as which the shim starts it inside; and the shim itself, which is the built
//! one. No test harness, because the sandbox is set up by a fork, and a fork wants a single thread.

#[path = "../shim/broker.rs"]
#[allow(dead_code, reason = "shared with the other test program")]
mod broker;
#[path = "../shim/harness.rs"]
#[allow(dead_code, reason = "shared with the other test program")]
mod harness;

mod agent;
mod ground;
mod process;

use broker::Broker;
use harness::{TOKEN, boot, wait_for};
use proto::ids::ExecId;
use proto::shim::{Exec, ExecExited, Execed, ExitCause, ExitStatus, Resize, TtySize};
use std::collections::BTreeMap;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("agent") => return agent::serve(),
        Some("--list") => {
            if !arguments.iter().any(|a| a == "--ignored") {
                println!("the_shim_works_under_every_measure: test");
            }
            return;
        }
        Some(_) | None => {}
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED session: needs root");
        return;
    }
    the_shim_works_under_every_measure();
    println!("test result: ok. 1 passed; 0 failed; 0 ignored");
}

fn the_shim_works_under_every_measure() {
    let mut boot = boot(8080);
    boot.agent.argv = ["/app/agent", "agent"].map(str::to_owned).to_vec();
    boot.agent.cwd = "/app".to_owned();
    boot.agent.uid = 1000;
    boot.agent.gid = 1000;
    boot.egress = true;
    let ground = ground::Ground::new();
    let started = Instant::now();
    let mut session = ground.launch(&boot);
    let launched = started.elapsed();
    let mut broker = Broker::connect(&session.socket);
    broker.attach(TOKEN, 7).expect("attach");
    let attached = started.elapsed();
    broker.healthy();
    let healthy = started.elapsed();
    println!("launched after {launched:?}, attached after {attached:?}, healthy after {healthy:?}");
    let title =
        std::fs::read_to_string(format!("/proc/{}/comm", session.process.pid)).expect("comm");
    assert_eq!(title, "shim: stest1\n");

    let answer = broker.invoke(b"through").expect("answer");
    assert_eq!(answer.text(), "through");
    output_is_passed_on(&mut broker);
    straight(&mut broker);
    terminal(&mut broker);
    way_out(&mut broker);
    let private = harness::memory_of(session.process.pid, "Anonymous");
    println!("{private} KiB of its own");
    // The promise for a hundred idle sessions, each with its share of the daemon, is 0.6 MiB.
    assert!(private <= 300, "{private} KiB");

    let before = Instant::now();
    broker.shutdown(10_000);
    let record = session.process.record();
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent.expect("agent").status,
        Ok(ExitStatus::Signal(15))
    );
    println!("ended after {:?}", before.elapsed());
}

fn output_is_passed_on(broker: &mut Broker) {
    let log = broker.log();
    assert_eq!(log.lines[0].text, "agent: uid 1000");
}

fn exec(id: u64, script: &str, tty: bool) -> Exec {
    Exec {
        id: ExecId(id),
        argv: ["bash", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        cwd: None,
        tty: tty.then_some(TtySize { rows: 30, cols: 99 }),
    }
}

fn exited(broker: &mut Broker) -> ExecExited {
    let heard = broker.notification("exec.exited");
    serde_json::from_value(heard.params).expect("exited")
}

fn run(broker: &mut Broker, id: u64, script: &str) -> PipeReader {
    let (out, theirs) = pipe().expect("pipe");
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("null").into();
    let fds = [null.as_fd(), theirs.as_fd(), theirs.as_fd()];
    let rpc = broker.request("exec", &exec(id, script, false), &fds);
    let started: Execed = broker.answer(rpc).expect("started");
    assert!(started.pid > 2);
    out
}

fn straight(broker: &mut Broker) {
    let mut out = run(
        broker,
        1,
        "echo $UID $PWD; set -- /proc/[0-9]*; echo $#; exit 3",
    );
    let mut text = String::new();
    out.read_to_string(&mut text).expect("read");
    // Of all processes it sees the agent and itself: the shim is not the agent's to look at.
    assert_eq!(text, "1000 /app\n2\n");
    assert_eq!(exited(broker).status, ExitStatus::Code(3));
}

fn terminal(broker: &mut Broker) {
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    ours.set_read_timeout(Some(harness::PATIENCE))
        .expect("timeout");
    let script =
        "stty size; echo by name >/dev/pts/0; read line </dev/tty; echo got $line; stty size";
    let rpc = broker.request("exec", &exec(2, script, true), &[theirs.as_fd()]);
    drop(theirs);
    let _: Execed = broker.answer(rpc).expect("started");
    let mut seen = String::new();
    wait_for("the terminal's first words", || {
        let mut piece = [0; 256];
        let n = ours.read(&mut piece).expect("read");
        seen.push_str(&String::from_utf8_lossy(&piece[..n]));
        assert!(n > 0, "{seen:?}");
        seen.contains("by name").then_some(())
    });
    assert!(seen.contains("30 99"), "{seen:?}");
    let size = TtySize { rows: 7, cols: 70 };
    broker.notify(
        "resize",
        &Resize {
            id: ExecId(2),
            size,
        },
    );
    ours.write_all(b"typed\n").expect("write");
    ours.read_to_string(&mut seen).expect("read");
    assert!(seen.ends_with("got typed\r\n7 70\r\n"), "{seen:?}");
    assert_eq!(exited(broker).status, ExitStatus::Code(0));
}

fn way_out(broker: &mut Broker) {
    let script = "port=${HTTP_PROXY##*:}; exec 3<>/dev/tcp/127.0.0.1/$port; echo ask >&3; read told <&3; \
                  echo $told";
    let mut out = run(broker, 3, script);
    let mut heard = broker.notification("egress");
    let mut connection = std::net::TcpStream::from(heard.fds.remove(0));
    let mut ask = [0; 4];
    connection.read_exact(&mut ask).expect("read");
    assert_eq!(&ask, b"ask\n");
    connection.write_all(b"told\n").expect("write");
    let mut text = String::new();
    out.read_to_string(&mut text).expect("read");
    assert_eq!(text, "told\n");
    exited(broker);
}
