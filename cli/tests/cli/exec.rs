//! `exec`.

use crate::fake::Fake;
use crate::ran::{eventually, finished, signal};
use crate::terminal::Terminal;
use proto::shim::TtySize;
use rustix::process::Signal;
use std::io::Write;
use std::process::Stdio;

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

    let terminal = Terminal::open(33, 99);
    assert!(terminal.echoes(), "as terminals begin");
    let mut command = fake.command(&["exec", "-it", "-s", "sess1", "shell"]);
    let child = terminal
        .gives(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    terminal.shows("rows: 33, cols: 99");
    assert_eq!(
        fake.state().execs[0].tty,
        Some(TtySize { rows: 33, cols: 99 })
    );
    eventually("raw mode", || (!terminal.echoes()).then_some(()));

    // Ctrl-C is a byte for the command, not the end of ours.
    terminal.types(&[3]);
    terminal.shows("[3]");
    terminal.resize(10, 20);
    signal(&child, Signal::WINCH);
    terminal.shows("{\"rows\":10,\"cols\":20}");
    terminal.types(b"q");
    finished(child).exits(7);
    assert!(terminal.echoes(), "restored");
}

#[test]
fn a_killed_command_line_restores_its_terminal_too() {
    let fake = session();
    let terminal = Terminal::open(24, 80);
    let mut command = fake.command(&["exec", "-it", "-s", "sess1", "shell"]);
    let child = terminal
        .gives(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    terminal.shows("TtySize");
    eventually("raw mode", || (!terminal.echoes()).then_some(()));
    signal(&child, Signal::TERM);
    finished(child).exits(128 + 15);
    assert!(terminal.echoes(), "restored");
}
