//! `agentcore top` in a real terminal (tmux), and where there is none. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, puppet, wait};
use proto::api::Phase;
use serde_json::{Value, json};
use std::process::Command;

/// A tmux server of the test's own with one window; gone with this value.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(daemon: &Daemon, words: &str) -> anyhow::Result<Self> {
        let terminal = Self {
            socket: format!("{}/tmux.sock", daemon.dir().display()),
        };
        let cli = daemon.cli();
        let program = cli.get_program().to_string_lossy().into_owned();
        // The window stays when the command has ended, so that what is left on it can be looked at.
        let line = format!(
            "AGENTCORE_ENDPOINT=unix:{} {program} {words}; echo ended with $?; exec sleep 600",
            daemon.socket().display()
        );
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            "110",
            "-y",
            "20",
            "sh",
            "-c",
            &line,
        ])?;
        Ok(terminal)
    }

    fn tmux(&self, words: &[&str]) -> anyhow::Result<String> {
        let out = Command::new("tmux")
            .args(["-S", &self.socket, "-f", "/dev/null"])
            .args(words)
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .output()?;
        ensure!(out.status.success(), "tmux {words:?}: {out:?}");
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn keys(&self, keys: &[&str]) -> anyhow::Result<()> {
        self.tmux(&[&["send-keys", "-t", "0"], keys].concat())
            .map(drop)
    }

    /// Waits until the screen shows all of this.
    fn shows(&self, what: &[&str]) -> anyhow::Result<String> {
        let mut last = String::new();
        let seen = wait::until(20, &format!("the screen to show {what:?}"), || {
            last = self.tmux(&["capture-pane", "-p", "-t", "0"])?;
            Ok(what
                .iter()
                .all(|text| last.contains(text))
                .then(|| last.clone()))
        });
        seen.with_context(|| format!("it shows:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The server that this test started, by its own socket.
        let _ = self.tmux(&["kill-server"]);
    }
}

#[test]
fn a_terminal_shows_sessions_freezes_and_stops_them() -> Result {
    ground!(Daemon, Python, Command("tmux"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "busy_one", json!({}))?;
        puppet::deploy(&client, "quiet_one", json!({}))?;
        let (busy, quiet) = (session_name("busy"), session_name("quiet"));
        let spin = "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()";
        let busy = client.start("busy_one", &busy, &puppet::payload(spin))?;
        let quiet = client.start("quiet_one", &quiet, &puppet::payload("answer = 1"))?;
        let terminal = Terminal::open(daemon, "top -d 1.1")?;
        let screen = terminal.shows(&["2 sessions", busy.id.as_str(), quiet.id.as_str()])?;
        ensure!(
            screen.contains("CPU%") && screen.contains("[k]ill"),
            "{screen}"
        );
        // The one that spins has a figure by the second look, and comes first.
        wait::until_true(20, "the busiest to come first", || {
            let screen = terminal.tmux(&["capture-pane", "-p", "-t", "0"])?;
            let first = screen.lines().nth(3).unwrap_or_default().to_owned();
            let percent = first
                .split_whitespace()
                .nth(3)
                .and_then(|cell| cell.parse::<f64>().ok());
            Ok(first.starts_with(busy.id.as_str()) && percent.is_some_and(|percent| percent > 5.0))
        })?;
        // Asked first; a no changes nothing.
        terminal.keys(&["f"])?;
        terminal.shows(&[&format!("Freeze {} of busy_one? y/n", busy.id)])?;
        terminal.keys(&["n"])?;
        terminal.shows(&["nothing was changed"])?;
        ensure!(client.session(busy.id.as_str())?.phase != Phase::Frozen);
        terminal.keys(&["f"])?;
        terminal.shows(&["y/n"])?;
        terminal.keys(&["y"])?;
        terminal.shows(&["1 frozen"])?;
        ensure!(client.session(busy.id.as_str())?.phase == Phase::Frozen);
        // Only one of them, by a filter; it is the one that keys are about.
        terminal.keys(&["/", "q", "u", "i", "e", "t", "Enter"])?;
        let screen = terminal.shows(&["only: quiet", quiet.id.as_str()])?;
        ensure!(!screen.contains(busy.id.as_str()), "{screen}");
        terminal.keys(&["k"])?;
        terminal.shows(&[&format!("Stop {} of quiet_one? y/n", quiet.id)])?;
        terminal.keys(&["y"])?;
        client.ended(quiet.id.as_str(), 30)?;
        terminal.shows(&["1 sessions", "is being stopped"])?;
        // Another size: the lines fit.
        terminal.tmux(&["resize-window", "-t", "0", "-x", "60", "-y", "8"])?;
        terminal.keys(&["/", "Escape"])?;
        terminal.shows(&[busy.id.as_str(), "frozen"])?;
        terminal.keys(&["q"])?;
        // The former screen is back, and the terminal echoes.
        let screen = terminal.shows(&["ended with 0"])?;
        ensure!(!screen.contains("CPU%"), "{screen}");
        client.stop(busy.id.as_str())?;
        Ok(())
    })
}

#[test]
fn without_a_terminal_it_prints_and_ends() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "plain", json!({}))?;
        let id = session_name("plain");
        let session = client.start("plain", &id, &puppet::payload("answer = 1"))?;
        let cli = |words: &[&str]| -> anyhow::Result<String> {
            let out = daemon.cli().args(words).output()?;
            ensure!(out.status.success(), "{out:?}");
            Ok(String::from_utf8(out.stdout)?)
        };
        let once = cli(&["top"])?;
        ensure!(
            once.starts_with("ID") && once.contains(session.id.as_str()),
            "{once}"
        );
        let twice = cli(&["top", "-n", "2"])?;
        ensure!(twice.matches("CPU%").count() == 2, "{twice}");
        let documents = cli(&["top", "--json", "-n", "2"])?;
        let documents: Vec<Value> = documents
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()?;
        ensure!(documents.len() == 2, "{documents:?}");
        let row = &documents[1][0];
        ensure!(
            row["id"] == session.id.as_str() && row["cpuPercent"].is_number(),
            "{row}"
        );
        ensure!(cli(&["top", "-q", "-a", "plain"])?.trim() == session.id.as_str());
        ensure!(cli(&["top", "-q", "-a", "another"]).is_err());
        client.stop(&id)?;
        let none = cli(&["top", "--json"])?;
        ensure!(none.trim() == "[]", "ended ones are listed: {none}");
        Ok(())
    })
}
