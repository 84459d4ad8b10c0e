//! What only happens on a terminal: colour, laid-out JSON, questions. And the terminal itself, for `exec -t`.

use crate::fake::{Fake, Script};
use crate::ran::{Heard, finished};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

/// A pseudo-terminal: the test is the person in front of it.
pub(crate) struct Terminal {
    person: File,
    name: String,
    /// Keeps it open between programs.
    kept: File,
    shown: Heard,
}

impl Terminal {
    pub(crate) fn open(rows: u16, cols: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("named");
        let name = name.into_string().expect("text");
        let person = File::from(master);
        let shown = Heard::from(person.try_clone().expect("cloned"));
        let terminal = Self {
            kept: open(&name),
            person,
            name,
            shown,
        };
        terminal.resize(rows, cols);
        terminal
    }

    /// Makes it the command's standard input and output.
    pub(crate) fn gives<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.stdin(open(&self.name)).stdout(open(&self.name))
    }

    /// Makes it the command's standard error alone.
    pub(crate) fn hears<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.stderr(open(&self.name))
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.person, size).expect("set");
    }

    pub(crate) fn types(&self, keys: &[u8]) {
        (&self.person).write_all(keys).expect("typed");
    }

    /// Whether it echoes what is typed: not in raw mode.
    pub(crate) fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.kept).expect("a terminal").local_modes;
        modes.contains(LocalModes::ECHO)
    }

    /// Waits until these words have appeared, and gives everything since the last time.
    #[track_caller]
    pub(crate) fn shows(&self, words: &str) -> String {
        self.shown.until(words)
    }
}

fn open(name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(name)
        .expect("opened")
}

#[test]
fn colour_is_for_terminals_and_can_be_refused() {
    let fake = Fake::start();
    fake.deployed("shop");
    for (no_colour, status) in [("", "\x1b[31merror:\x1b[0m"), ("1", "error:")] {
        let terminal = Terminal::open(24, 200);
        let mut command = fake.command(&["status", "-a", "gone"]);
        command.env("NO_COLOR", no_colour).env("TERM", "xterm");
        let child = command
            .stderr(open(&terminal.name))
            .spawn()
            .expect("started");
        let shown = terminal.shows("no such runtime");
        assert!(shown.starts_with(status), "{shown:?}");
        finished(child).exits(3);
    }
}

#[test]
fn json_is_laid_out_for_people_and_streams_end_with_a_line() {
    let fake = Fake::start();
    fake.deployed("shop");
    let terminal = Terminal::open(24, 200);
    let mut command = fake.command(&["invoke", "{\"a\": 1}", "-q"]);
    let child = terminal
        .gives(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    terminal.shows("{\r\n  \"echo\": {\r\n    \"a\": 1\r\n  }\r\n}\r\n");
    finished(child).exits(0);

    // The shell's prompt must not stick to the answer.
    fake.state().script = Script::Answer(200, vec![("content-type", "text/plain")], "plain".into());
    let mut command = fake.command(&["invoke", "{}", "-q"]);
    let child = terminal
        .gives(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    assert_eq!(terminal.shows("plain\r\n"), "plain\r\n");
    finished(child).exits(0);
}

#[test]
fn an_agents_output_cannot_steer_the_terminal() {
    let fake = Fake::start();
    fake.deployed("shop");
    fake.session("sess1", "shop", "ready");
    let record = proto::api::LogRecord {
        at: "2026-01-01T00:00:00.000Z".into(),
        stream: Some(proto::shim::LogStream::Stdout),
        text: "\x1b]0;title\x07 \x1b[32mgreen\x1b[0m end".into(),
    };
    fake.state()
        .logs
        .insert("sess1".into(), vec![record.clone()]);
    let terminal = Terminal::open(24, 200);
    let mut command = fake.command(&["logs"]);
    command.env("TERM", "xterm");
    let child = terminal
        .gives(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let shown = terminal.shows("end");
    assert_eq!(shown, "\u{fffd}]0;title\u{fffd} \x1b[32mgreen\x1b[0m end");
    finished(child).exits(0);
    // In a file it is what it was.
    assert_eq!(
        fake.run(&["logs"]).exits(0).out,
        format!("{}\n", record.text)
    );
}

#[test]
fn a_person_is_asked_before_something_is_deleted() {
    let fake = Fake::start();
    fake.deployed("shop");
    let terminal = Terminal::open(24, 200);
    for (answer, code) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        assert!(fake.state().runtimes.contains_key("shop"));
        let mut command = fake.command(&["destroy"]);
        let command = terminal.gives(&mut command).stderr(open(&terminal.name));
        let child = command.spawn().expect("started");
        terminal.shows("Delete the runtime shop with all its versions? [y/N] ");
        terminal.types(answer.as_bytes());
        terminal.shows(if code == 0 {
            "Deleted shop"
        } else {
            "nothing was changed"
        });
        finished(child).exits(code);
    }
    assert!(fake.state().runtimes.is_empty());
}
