//! `exec`, with descriptors straight and with a terminal.

use crate::broker::Broker;
use crate::harness::{AGENT_UID, PATIENCE, Session, boot, free_port, wait_for};
use proto::code::ErrorCode;
use proto::ids::ExecId;
use proto::shim::{Exec, ExecExited, Execed, ExitStatus, Resize, Signal, TtySize};
use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn order(id: u64, script: &str, tty: bool) -> Exec {
    Exec {
        id: ExecId(id),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("EXTRA".to_owned(), "more".to_owned())]),
        cwd: Some("/usr".to_owned()),
        tty: tty.then_some(TtySize { rows: 30, cols: 99 }),
    }
}

fn straight(
    broker: &mut Broker,
    exec: &Exec,
) -> (
    Result<Execed, ErrorCode>,
    PipeWriter,
    PipeReader,
    PipeReader,
) {
    let (their_in, our_in) = pipe().expect("pipe");
    let (our_out, their_out) = pipe().expect("pipe");
    let (our_err, their_err) = pipe().expect("pipe");
    let fds = [their_in.as_fd(), their_out.as_fd(), their_err.as_fd()];
    let rpc = broker.request("exec", exec, &fds);
    (broker.answer(rpc), our_in, our_out, our_err)
}

fn terminal(broker: &mut Broker, exec: &Exec) -> (Execed, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    ours.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let rpc = broker.request("exec", exec, &[theirs.as_fd()]);
    (broker.answer(rpc).expect("started"), ours)
}

fn exited(broker: &mut Broker) -> ExecExited {
    let heard = broker.notification("exec.exited");
    serde_json::from_value(heard.params).expect("exited")
}

fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let n = stream.read(&mut piece).expect("read");
        assert!(
            n > 0,
            "ended before {text:?}: {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn straight_descriptors_and_the_agents_identity() {
    let mut boot = boot(free_port());
    boot.agent.env.insert("FROM".to_owned(), "agent".to_owned());
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let script = "read line; echo \"$line $FROM $EXTRA $(pwd) $(id -u)\"; echo err >&2; \
                  ls -l /proc/self/fd | grep -c -- '->' ; exit 7";
    let (started, mut stdin, mut stdout, mut stderr) =
        straight(&mut broker, &order(1, script, false));
    assert!(started.expect("started").pid > 1);
    stdin.write_all(b"hello\n").expect("write");
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).expect("read");
    stderr.read_to_string(&mut err).expect("read");
    // 0, 1, 2 and the directory itself: nothing of the shim was inherited.
    assert_eq!(out, format!("hello agent more /usr {AGENT_UID}\n4\n"));
    assert_eq!(err, "err\n");
    let ended = exited(&mut broker);
    assert_eq!((ended.id, ended.status), (ExecId(1), ExitStatus::Code(7)));
}

#[test]
fn what_cannot_be_started_is_answered() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let mut missing = order(1, "", false);
    missing.argv = vec!["no-such-program".to_owned()];
    assert_eq!(straight(&mut broker, &missing).0, Err(ErrorCode::NotFound));
    let mut nowhere = order(1, "true", false);
    nowhere.cwd = Some("/no/such/directory".to_owned());
    assert_eq!(straight(&mut broker, &nowhere).0, Err(ErrorCode::NotFound));
    let mut forbidden = order(1, "", false);
    forbidden.argv = vec!["/etc/passwd".to_owned()];
    assert_eq!(
        straight(&mut broker, &forbidden).0,
        Err(ErrorCode::AccessDenied)
    );
    let rpc = broker.request("exec", &order(1, "true", false), &[]);
    assert_eq!(broker.answer::<Execed>(rpc), Err(ErrorCode::BadOrder));
}

#[test]
fn sixteen_at_once_and_no_more() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let running: Vec<_> = (1..=16)
        .map(|id| straight(&mut broker, &order(id, "cat", false)))
        .collect();
    assert!(running.iter().all(|(started, ..)| started.is_ok()));
    let (refused, ..) = straight(&mut broker, &order(17, "cat", false));
    assert_eq!(refused, Err(ErrorCode::TooManyInvocations));
    drop(running);
    for _ in 1..=16 {
        assert_eq!(exited(&mut broker).status, ExitStatus::Code(0));
    }
    let (again, ..) = straight(&mut broker, &order(17, "cat", false));
    assert!(again.is_ok());
}

#[test]
fn signals_reach_the_process_group() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let script = "sleep 1000 & echo up; wait";
    let (_started, _stdin, mut stdout, _stderr) = straight(&mut broker, &order(3, script, false));
    let mut up = [0; 3];
    stdout.read_exact(&mut up).expect("up");
    let signal = Signal {
        id: Some(ExecId(3)),
        signal: 15,
    };
    let answered: serde_json::Value = broker.call("signal", &signal).expect("sent");
    assert_eq!(answered, serde_json::json!({}));
    assert_eq!(exited(&mut broker).status, ExitStatus::Signal(15));
    // The background process had the pipe too; its end of file says that it is gone as well.
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("end");
    let late: Result<serde_json::Value, _> = broker.call("signal", &signal);
    assert_eq!(late.err(), Some(ErrorCode::NotFound));
}

#[test]
fn a_terminal_is_one() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && ps -o tty= -p $$ && echo >$(tty) owned; \
                  read line; echo \"got $line\"; stty size; exit 5";
    let (_started, mut stream) = terminal(&mut broker, &order(4, script, true));
    let seen = read_until(&mut stream, "owned");
    assert!(seen.contains("30 99"), "{seen:?}");
    assert!(seen.contains("pts/"), "{seen:?}");
    broker.notify(
        "resize",
        &Resize {
            id: ExecId(4),
            size: TtySize { rows: 11, cols: 22 },
        },
    );
    // Requests are carried out in order: once this is answered, the size is set.
    let nobody = Signal {
        id: Some(ExecId(99)),
        signal: 1,
    };
    let _: Result<serde_json::Value, _> = broker.call("signal", &nobody);
    stream.write_all(b"typed\n").expect("write");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("read");
    assert!(rest.contains("got typed\r\n11 22\r\n"), "{rest:?}");
    assert_eq!(exited(&mut broker).status, ExitStatus::Code(5));
}

#[test]
fn all_of_a_terminals_output_comes_before_its_exit() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    for id in 1..=5 {
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
        let (_started, mut stream) = terminal(&mut broker, &order(id, script, true));
        let mut seen = String::new();
        stream.read_to_string(&mut seen).expect("read");
        assert!(
            seen.ends_with("line 19999\r\n"),
            "{:?}",
            &seen[seen.len() - 40..]
        );
        assert_eq!(seen.lines().count(), 20_000);
        assert_eq!(exited(&mut broker).id, ExecId(id));
    }
}

#[test]
fn control_c_and_hanging_up() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let (_started, mut stream) = terminal(&mut broker, &order(1, "echo up; exec sleep 1000", true));
    read_until(&mut stream, "up");
    stream.write_all(&[3]).expect("control-c");
    assert_eq!(exited(&mut broker).status, ExitStatus::Signal(2));
    let (_started, mut stream) = terminal(&mut broker, &order(2, "echo up; exec sleep 1000", true));
    read_until(&mut stream, "up");
    drop(stream);
    assert_eq!(exited(&mut broker).status, ExitStatus::Signal(1));
}

#[test]
fn one_that_shows_without_end_to_nobody_holds_nothing_up() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let (_started, stream) = terminal(&mut broker, &order(1, "exec yes", true));
    wait_for("a full stream", || {
        let mut queued = [0];
        let peeked = nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            &mut queued,
            nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        );
        peeked.is_ok().then_some(())
    });
    let (started, _stdin, mut stdout, _stderr) =
        straight(&mut broker, &order(2, "echo fine", false));
    assert!(started.is_ok());
    let mut fine = String::new();
    stdout.read_to_string(&mut fine).expect("read");
    assert_eq!(fine, "fine\n");
    assert!(session.memory("Anonymous") < 1024);
    drop(stream);
    loop {
        let ended = exited(&mut broker);
        if ended.id == ExecId(1) {
            assert_eq!(ended.status, ExitStatus::Signal(1));
            return;
        }
    }
}
