//! Running the binary: with an environment of the test's own, and bounded waiting.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest that any condition may take; generous, since two cores are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts the exit code and passes itself on.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts that standard error has all of these.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}

/// The command with nothing of the developer's own environment but the PATH.
pub(crate) fn agentcore(endpoint: &str, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentcore"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("AGENTCORE_CACHE", home.join("cache"))
        .env("AGENTCORE_ENDPOINT", endpoint)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finished(child.expect("the binary is there"))
}

/// Waits for the end of a run; one that never ends is killed and fails the test.
#[track_caller]
pub(crate) fn finished(mut child: Child) -> Ran {
    let out = child.stdout.take().map(Heard::from);
    let err = child.stderr.take().map(Heard::from);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("killed");
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ran {
        code: status.code().expect("not killed by a signal"),
        out: out.map(|heard| heard.rest()).unwrap_or_default(),
        err: err.map(|heard| heard.rest()).unwrap_or_default(),
    }
}

/// What a program says, piece by piece. Read in a thread, since a read of a pipe or terminal cannot be bounded.
#[derive(Debug)]
pub(crate) struct Heard {
    pieces: mpsc::Receiver<Vec<u8>>,
    all: RefCell<Vec<u8>>,
    /// How much of it was given out.
    given: Cell<usize>,
}

impl Heard {
    pub(crate) fn from(mut source: impl Read + Send + 'static) -> Self {
        let (send, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut chunk) {
                if send.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            pieces,
            all: RefCell::default(),
            given: Cell::default(),
        }
    }

    /// Waits for these words; gives everything up to their end that was not given before.
    #[track_caller]
    pub(crate) fn until(&self, words: &str) -> String {
        loop {
            let from = self.given.get();
            let end = {
                let all = self.all.borrow();
                let windows = all[from..].windows(words.len());
                let found = windows
                    .into_iter()
                    .position(|window| window == words.as_bytes());
                found.map(|at| from + at + words.len())
            };
            if let Some(end) = end {
                self.given.set(end);
                return String::from_utf8_lossy(&self.all.borrow()[from..end]).into_owned();
            }
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.all.borrow_mut().extend(piece),
                Err(error) => panic!("{error}: no {words:?} in {:?}", self.all()),
            }
        }
    }

    /// Waits for the end; gives what was not given before.
    #[track_caller]
    pub(crate) fn rest(&self) -> String {
        loop {
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.all.borrow_mut().extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}: no end after {:?}", self.all()),
            }
        }
        let all = self.all.borrow();
        let from = self.given.replace(all.len());
        String::from_utf8_lossy(&all[from..]).into_owned()
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> String {
        String::from_utf8_lossy(&self.all.borrow()).into_owned()
    }
}

/// Waits until `condition` gives something, and fails the test if it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a child that we started and still hold.
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), signal).expect("sent");
}
