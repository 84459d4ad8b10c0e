//! The command as a user types it: verbs, tables, JSON, exit codes. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, places, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Desk<'a> {
    daemon: &'a Daemon,
    folder: PathBuf,
}

impl Desk<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.cli();
        command.current_dir(&self.folder).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(words).output()?)
    }

    /// Runs it, wants exit code `code`, gives standard output.
    fn expect(&self, code: i32, words: &[&str]) -> anyhow::Result<String> {
        let out = self.run(words)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.code() == Some(code),
            "agentcore {words:?}: {}, expected {code}\n{text}{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(text)
    }

    fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--json"];
        all.extend(words);
        let text = self.expect(0, &all)?;
        serde_json::from_str(&text).with_context(|| format!("agentcore {all:?}: {text}"))
    }
}

fn at_desk(test: impl FnOnce(&Desk<'_>) -> Result) -> Result {
    Daemon::with(Options::quick(), |daemon| {
        let folder = daemon.dir().join("desk");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(
            places::example("echo").join("my_agent.py"),
            folder.join("my_agent.py"),
        )?;
        test(&Desk { daemon, folder })
    })
}

#[test]
fn configure_launch_invoke_status_logs_destroy() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        desk.expect(
            0,
            &[
                "configure",
                "-e",
                "my_agent.py",
                "-n",
                "shop",
                "--memory",
                "256M",
                "--cpus",
                "0.5",
                "--env",
                "COLOUR=blue",
            ],
        )?;
        let written = std::fs::read_to_string(desk.folder.join("agentcore.toml"))?;
        for word in ["name = \"shop\"", "my_agent.py", "256M", "COLOUR"] {
            ensure!(written.contains(word), "{word}: {written}");
        }
        let launched = desk.expect(0, &["launch"])?;
        ensure!(
            launched.contains("arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/shop-"),
            "{launched}"
        );
        ensure!(
            launched.contains("invoke"),
            "how to call it is not told: {launched}"
        );
        let answer = desk.expect(0, &["invoke", r#"{"prompt": "hi"}"#])?;
        ensure!(
            answer.contains("\"prompt\"") && answer.contains("hi"),
            "{answer}"
        );
        // Payload from a file and from standard input; a session kept.
        std::fs::write(desk.folder.join("payload.json"), r#"{"from": "file"}"#)?;
        ensure!(
            desk.expect(0, &["invoke", "@payload.json"])?
                .contains("file")
        );
        let id = session_name("cli");
        for word in ["one", "two"] {
            let payload = format!(r#"{{"n": "{word}"}}"#);
            ensure!(
                desk.expect(0, &["invoke", "-s", &id, &payload])?
                    .contains(word)
            );
        }
        let inspected = desk.json(&["session", "inspect", &id])?;
        ensure!(
            inspected["sessionId"] == id.as_str() && inspected["phase"] == "ready",
            "{inspected}"
        );
        let table = desk.expect(0, &["session", "list"])?;
        let internal = inspected["id"].as_str().context("id")?;
        ensure!(table.contains(internal), "{table}");
        ensure!(!table.contains('\u{1b}'), "colour in a pipe");
        let quiet = desk.expect(0, &["-q", "session", "list"])?;
        ensure!(quiet.lines().any(|l| l == internal), "{quiet}");
        ensure!(desk.expect(0, &["status"])?.contains("READY"));
        desk.expect(0, &["logs", "-s", &id])?;
        desk.expect(0, &["session", "stop", &id])?;
        desk.expect(0, &["session", "stop", "--all"])?;
        ensure!(desk.daemon.client().live_sessions()?.is_empty());
        // A second launch is a second version.
        desk.expect(0, &["launch", "--env", "COLOUR=red"])?;
        assert_eq!(desk.daemon.client().runtime("shop")?.version.0, 2);
        assert_eq!(
            desk.daemon.client().runtime("shop")?.config.environment["COLOUR"],
            "red"
        );
        desk.expect(0, &["destroy"])
            .or_else(|_| desk.expect(0, &["destroy", "--yes"]))?;
        ensure!(desk.daemon.client().runtime("shop").is_err());
        Ok(())
    })
}

#[test]
fn exit_codes_are_those_of_the_page() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        desk.expect(2, &["no-such-verb"])?;
        desk.expect(2, &["invoke"])?;
        desk.expect(2, &["invoke", "{not json", "-a", "shop"])?;
        desk.expect(2, &["invoke", "{}", "-s", "too-short"])?;
        desk.expect(3, &["invoke", "{}", "-a", "nobody"])?;
        desk.expect(3, &["session", "inspect", "sunknown0001"])?;
        desk.expect(3, &["status", "-a", "nobody"])?;
        let unreachable = [
            "--endpoint",
            "unix:/nonexistent/api.sock",
            "session",
            "list",
        ];
        desk.expect(69, &unreachable)?;
        desk.expect(0, &["version", "--client"])?;
        desk.expect(0, &["version"])?;
        for shell in ["bash", "zsh", "fish"] {
            ensure!(
                desk.expect(0, &["completion", shell])?
                    .contains("agentcore")
            );
        }
        // The agent's failure is 1, with its own words.
        std::fs::write(
            desk.folder.join("bad.py"),
            "print('reason on the log', flush=True)\nraise SystemExit(3)\n",
        )?;
        desk.expect(0, &["configure", "-e", "bad.py", "-n", "bad"])?;
        desk.expect(0, &["launch"])?;
        let out = desk.run(&["invoke", "{}"])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            out.status.code() == Some(1) && said.contains("reason on the log"),
            "{}: {said}",
            out.status
        );
        // An entrypoint that is not there is a usage error before anything is sent.
        std::fs::remove_file(desk.folder.join("bad.py"))?;
        let out = desk.run(&["launch"])?;
        ensure!(
            out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("bad.py"),
            "{out:?}"
        );
        Ok(())
    })
}

#[test]
fn a_streamed_invocation_prints_events_as_they_come() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        std::fs::copy(
            places::example("streaming").join("my_agent.py"),
            desk.folder.join("my_agent.py"),
        )?;
        desk.expect(0, &["configure", "-e", "my_agent.py", "-n", "streaming"])?;
        desk.expect(0, &["launch"])?;
        desk.expect(0, &["invoke", "{}"])?;
        let mut child = desk
            .command(&[
                "invoke",
                "--stream",
                r#"{"prompt": "alpha beta gamma", "delay": 1.0}"#,
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        use std::io::Read as _;
        let mut out = child.stdout.take().context("stdout")?;
        let mut text = String::new();
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        let began = std::time::Instant::now();
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            for word in ["alpha", "beta", "gamma"] {
                if text.contains(word) && !seen.iter().any(|(w, _)| *w == word) {
                    seen.push((word, began.elapsed()));
                }
            }
        }
        ensure!(child.wait()?.success());
        ensure!(seen.len() == 3, "{text}");
        ensure!(
            seen[2].1 - seen[0].1 > std::time::Duration::from_millis(1200),
            "not as they come: {seen:?}"
        );
        Ok(())
    })
}

#[test]
fn doctor_looks_from_inside_a_real_session() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        let out = desk.run(&["--json", "doctor"])?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&out.stderr)))?;
        let all = answer.to_string();
        for word in ["seccomp", "cgroup", "namespace"] {
            ensure!(all.contains(word), "{word} is not among the checks: {all}");
        }
        ensure!(
            desk.daemon.client().live_sessions()?.is_empty(),
            "doctor left a session"
        );
        Ok(())
    })
}

#[test]
fn dev_serves_the_folder_and_reloads_on_change() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        let agent = |word: &str| {
            format!(
                "from bedrock_agentcore import BedrockAgentCoreApp\napp = BedrockAgentCoreApp()\n@app.entrypoint\ndef f(p):\n    return {word:?}\napp.run()\n"
            )
        };
        let file: &Path = &desk.folder.join("my_agent.py");
        std::fs::write(file, agent("first"))?;
        desk.expect(0, &["configure", "-e", "my_agent.py", "-n", "devagent"])?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let mut child = desk
            .command(&["dev", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let client = e2e::Client {
            target: e2e::http::Target::Tcp(([127, 0, 0, 1], port).into()),
        };
        let ask = || {
            let request = e2e::http::Request::post("/invocations", "{}")
                .header("content-type", "application/json");
            client
                .send(request)
                .and_then(e2e::http::Response::text)
                .unwrap_or_default()
        };
        let served = wait::until_true(60, "the first answer", || Ok(ask() == "\"first\""))
            .and_then(|()| {
                std::fs::write(file, agent("second"))?;
                wait::until_true(60, "the changed file to be served", || {
                    Ok(ask() == "\"second\"")
                })
            });
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
            nix::sys::signal::Signal::SIGINT,
        )?;
        wait::until(30, "dev to end", || Ok(child.try_wait()?))?;
        served?;
        wait::until_true(20, "its sessions to end", || {
            Ok(desk.daemon.client().live_sessions()?.is_empty())
        })
    })
}

#[test]
fn a_launch_vendors_requirements_and_caches_them() -> Result {
    ground!(Daemon, Python, Registry);
    at_desk(|desk| {
        std::fs::write(
            desk.folder.join("my_agent.py"),
            "import idna\nfrom bedrock_agentcore import BedrockAgentCoreApp\napp = BedrockAgentCoreApp()\n@app.entrypoint\ndef f(p):\n    return [idna.encode('ü.example').decode(), idna.__file__]\napp.run()\n",
        )?;
        std::fs::write(desk.folder.join("requirements.txt"), "idna==3.10\n")?;
        desk.expect(0, &["configure", "-e", "my_agent.py", "-n", "vendored"])?;
        let cache = desk.daemon.dir().join("cache");
        let launch = || -> anyhow::Result<std::time::Duration> {
            let began = std::time::Instant::now();
            let out = desk
                .command(&["launch"])
                .env("XDG_CACHE_HOME", &cache)
                .output()?;
            ensure!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            Ok(began.elapsed())
        };
        let cold = launch()?;
        let answer = desk.expect(0, &["invoke", "{}"])?;
        ensure!(
            answer.contains("xn--tda.example") && answer.contains("/app/"),
            "{answer}"
        );
        let warm = launch()?;
        ensure!(warm < cold, "cached: {warm:?}, not cached: {cold:?}");
        std::fs::write(
            desk.folder.join("requirements.txt"),
            "no-such-package-of-ours==9.9.9\n",
        )?;
        let out = desk
            .command(&["launch"])
            .env("XDG_CACHE_HOME", &cache)
            .output()?;
        ensure!(
            !out.status.success()
                && String::from_utf8_lossy(&out.stderr).contains("no-such-package-of-ours"),
            "{out:?}"
        );
        Ok(())
    })
}
