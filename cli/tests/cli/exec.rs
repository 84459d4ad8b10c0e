//! `exec`.

use crate::fake::Fake;
use crate::ran::{PATIENCE, eventually, finished, signal};
use proto::shim::TtySize;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc;

fn session() -> Fake {
    let fake = Fake::start();
    fake.session("sess1", "shop", "ready");
    fake
}

#[test]
fn output_goes_where_it_belongs_and_the_exit_code_comes_back() {
    let fake = session();
    let done = fake.run(&["exec", "-s", "sess1", "--", "both"]).exits(0);
    assert_eq!(
        (done.out.as_str(), done.err.as_str()),
        ("to out\n", "to err\n")
    );
    for code in [1, 42, 143, 255] {
        fake.run(&["exec", "-s", "sess1", "exit", &code.to_string()])
            .exits(code);
    }
    fake.run(&["exec", "-s", "sess1", "missing"])
        .exits(127)
        .says(&["missing: no such program"]);
    fake.run(&["exec", "-s", "gone", "exit", "0"])
        .exits(3)
        .says(&["no such session"]);
    fake.run(&["exec", "-s", "sess1", "die"])
        .exits(1)
        .says(&["ended without the command's exit code"]);
}

#[test]
fn the_order_carries_environment_and_folder() {
    let fake = session();
    fake.run(&[
        "exec", "-s", "sess1", "--env", "A=b", "-w", "/tmp", "--", "exit", "0",
    ])
    .exits(0);
    let order = fake.state().execs[0].clone();
    assert_eq!(order.argv, ["exit", "0"]);
    assert_eq!(order.env.get("A").map(String::as_str), Some("b"));
    assert_eq!(order.cwd.as_deref(), Some("/tmp"));
    assert_eq!(order.tty, None);
}

#[test]
fn standard_input_is_passed_on_only_with_i() {
    let fake = session();
    let with_input = |args: &[&str], input: &[u8]| {
        let mut child = fake
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // The command may end before it has read all.
        let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let done = finished(child);
        writing.join().expect("written");
        done
    };
    let big = b"0123456789abcde\n".repeat(40_000);
    let done = with_input(&["exec", "-i", "-s", "sess1", "cat"], &big).exits(0);
    assert!(
        done.out.as_bytes() == big,
        "{} of {} bytes",
        done.out.len(),
        big.len()
    );
    let done = with_input(&["exec", "-s", "sess1", "cat"], b"not for it").exits(0);
    assert_eq!(done.out, "");
    // Both directions full at once: neither may wait for the other.
    let done = with_input(&["exec", "-i", "-s", "sess1", "flood", "4"], &big).exits(0);
    assert_eq!(done.out.len(), 4 << 20);
    assert_eq!(done.err, big.len().to_string());
}

#[test]
fn a_terminal_is_raw_while_it_lasts_follows_its_size_and_is_restored() {
    let fake = session();
    fake.run(&["exec", "-it", "-s", "sess1", "shell"])
        .exits(2)
        .says(&["-t needs a terminal"]);

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new())
        .expect("named")
        .into_string()
        .expect("text");
    let size = |rows, cols| Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size(33, 99)).expect("set");
    let slave = || {
        File::options()
            .read(true)
            .write(true)
            .open(&name)
            .expect("opened")
    };
    let kept = slave();
    let echo = || {
        tcgetattr(&kept)
            .expect("a terminal")
            .local_modes
            .contains(LocalModes::ECHO)
    };
    assert!(echo(), "as terminals begin");

    let child = fake
        .command(&["exec", "-it", "-s", "sess1", "shell"])
        .stdin(slave())
        .stdout(slave())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut terminal = File::from(master);
    let shown = reading(terminal.try_clone().expect("cloned"));
    shown.until("rows: 33, cols: 99");
    assert_eq!(
        fake.state().execs[0].tty,
        Some(TtySize { rows: 33, cols: 99 })
    );
    eventually("raw mode", || (!echo()).then_some(()));

    // Ctrl-C is a byte for the command, not the end of ours.
    terminal.write_all(&[3]).expect("typed");
    shown.until("[3]");
    tcsetwinsize(&terminal, size(10, 20)).expect("set");
    signal(&child, Signal::WINCH);
    shown.until("{\"rows\":10,\"cols\":20}");
    terminal.write_all(b"q").expect("typed");
    finished(child).exits(7);
    assert!(echo(), "restored");
}

#[test]
fn a_killed_command_line_restores_its_terminal_too() {
    let fake = session();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new())
        .expect("named")
        .into_string()
        .expect("text");
    let slave = || {
        File::options()
            .read(true)
            .write(true)
            .open(&name)
            .expect("opened")
    };
    let kept = slave();
    let echo = || {
        tcgetattr(&kept)
            .expect("a terminal")
            .local_modes
            .contains(LocalModes::ECHO)
    };
    let child = fake
        .command(&["exec", "-it", "-s", "sess1", "shell"])
        .stdin(slave())
        .stdout(slave())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let shown = reading(File::from(master));
    shown.until("TtySize");
    eventually("raw mode", || (!echo()).then_some(()));
    signal(&child, Signal::TERM);
    finished(child).exits(128 + 15);
    assert!(echo(), "restored");
}

/// What a terminal shows, read in a thread since a read of it cannot be bounded.
struct Shown(mpsc::Receiver<Vec<u8>>);

fn reading(mut terminal: File) -> Shown {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = terminal.read(&mut chunk) {
            if send.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    Shown(receive)
}

impl Shown {
    #[track_caller]
    fn until(&self, words: &str) {
        let mut all = String::new();
        while !all.contains(words) {
            let more = self.0.recv_timeout(PATIENCE);
            let more = more.unwrap_or_else(|error| panic!("{error}: no {words:?} in {all:?}"));
            all.push_str(&String::from_utf8_lossy(&more));
        }
    }
}
