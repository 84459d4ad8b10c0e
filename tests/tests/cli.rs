//! The command as a user types it: verbs, tables, JSON, exit codes. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::{Daemon, Options, Result, ground, places, puppet, wait};
use nix::sys::termios::{LocalFlags, tcgetattr};
use proto::api::EndReason;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

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

/// An agent with one requirement.
fn needs_idna(desk: &Desk<'_>) -> Result {
    std::fs::write(
        desk.folder.join("my_agent.py"),
        "import idna\nfrom bedrock_agentcore import BedrockAgentCoreApp\napp = BedrockAgentCoreApp()\n@app.entrypoint\ndef f(p):\n    return [idna.encode('ü.example').decode(), idna.__file__]\napp.run()\n",
    )?;
    std::fs::write(desk.folder.join("requirements.txt"), "idna==3.10\n")?;
    desk.expect(0, &["configure", "-e", "my_agent.py", "-n", "vendored"])?;
    Ok(())
}

/// What a launch says while it works; `first` is looked in for programs before the rest of the path.
fn launched(desk: &Desk<'_>, cache: &Path, first: Option<&Path>) -> anyhow::Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = first
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&path));
    let out = desk
        .command(&["launch"])
        .env("PATH", std::env::join_paths(folders)?)
        .env("XDG_CACHE_HOME", cache)
        .env("UV_CACHE_DIR", cache.join("uv"))
        .env_remove("AGENTCORE_CACHE")
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{said}");
    Ok(said)
}

#[test]
fn a_launch_vendors_with_uv_where_there_is_one() -> Result {
    ground!(Daemon, Python, Registry);
    let uv = e2e::venv::bin()?;
    at_desk(|desk| {
        needs_idna(desk)?;
        let cache = desk.daemon.dir().join("cache");
        let first = launched(desk, &cache, Some(&uv))?;
        ensure!(
            first.contains("Installing ./requirements.txt") && first.contains("with uv"),
            "{first}"
        );
        let answer = desk.expect(0, &["invoke", "{}"])?;
        ensure!(
            answer.contains("xn--tda.example") && answer.contains("/app/"),
            "{answer}"
        );
        ensure!(launched(desk, &cache, Some(&uv))?.contains("from the cache"));
        Ok(())
    })
}

#[test]
fn a_launch_vendors_requirements_and_caches_them() -> Result {
    ground!(Daemon, Python, Registry);
    at_desk(|desk| {
        needs_idna(desk)?;
        let cache = desk.daemon.dir().join("cache");
        let launch = || launched(desk, &cache, None);
        let first = launch()?;
        ensure!(
            first.contains("Installing ./requirements.txt") && !first.contains("from the cache"),
            "{first}"
        );
        let answer = desk.expect(0, &["invoke", "{}"])?;
        ensure!(
            answer.contains("xn--tda.example") && answer.contains("/app/"),
            "{answer}"
        );
        let second = launch()?;
        ensure!(
            second.contains("./requirements.txt: from the cache") && !second.contains("Installing"),
            "{second}"
        );
        // By content: another version is another thing, and the first is still there.
        std::fs::write(desk.folder.join("requirements.txt"), "idna==3.9\n")?;
        ensure!(launch()?.contains("Installing"));
        std::fs::write(desk.folder.join("requirements.txt"), "idna==3.10\n")?;
        ensure!(launch()?.contains("from the cache"));
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

/// A line of a child's output, waited for.
struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn of(out: impl std::io::Read + Send + 'static) -> Self {
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(|line| line.ok()) {
                // Nobody listens any more: nobody misses it.
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self(lines)
    }

    fn until(&self, text: &str) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        loop {
            let line = self
                .0
                .recv_timeout(wait::seconds(20))
                .with_context(|| format!("no line with {text:?} after {seen:#?}"))?;
            if line.contains(text) {
                return Ok(line);
            }
            seen.push(line);
        }
    }
}

#[test]
fn logs_follow_and_end_with_their_session_or_an_interrupt() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        let client = desk.daemon.client();
        puppet::deploy(&client, "talker", serde_json::json!({}))?;
        let say = |id: &str, text: &str| {
            puppet::run(
                &client,
                "talker",
                id,
                &format!("print({text:?}, flush=True)"),
            )
        };
        let [one, two] = ["one", "two"].map(session_name);
        say(&one, "before")?;
        let spawn = |words: &[&str]| desk.command(words).stdout(Stdio::piped()).spawn();
        let mut all = spawn(&["logs", "-f", "-a", "talker"])?;
        let mut single = spawn(&["--json", "logs", "-f", "-s", &one, "-a", "talker"])?;
        let from_all = Lines::of(all.stdout.take().context("stdout")?);
        let from_single = Lines::of(single.stdout.take().context("stdout")?);
        for lines in [&from_all, &from_single] {
            lines.until("before")?;
        }
        say(&one, "while it is followed")?;
        from_all.until("while it is followed")?;
        let record: Value = serde_json::from_str(&from_single.until("while it is followed")?)?;
        ensure!(
            record["sessionId"] == one.as_str()
                && record["stream"] == "stdout"
                && record["text"] == "while it is followed",
            "{record}"
        );
        // A session that begins later is followed too, and lines say whose they are.
        say(&two, "a later session")?;
        let line = from_all.until("a later session")?;
        let id = client.session(&two)?.id;
        ensure!(line.starts_with(id.as_str()), "{line}");
        ensure!(all.try_wait()?.is_none() && single.try_wait()?.is_none());
        client.stop(&one)?;
        from_single.until("session ends: it was stopped")?;
        let ended = wait::until(10, "logs -f to end with its session", || {
            Ok(single.try_wait()?)
        })?;
        ensure!(ended.success(), "{ended}");
        from_all.until("session ends: it was stopped")?;
        ensure!(
            all.try_wait()?.is_none(),
            "it ended with one of its sessions"
        );
        let pid = nix::unistd::Pid::from_raw(i32::try_from(all.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        let ended = wait::until(10, "logs -f to end on an interrupt", || Ok(all.try_wait()?))?;
        ensure!(
            ended.signal() == Some(2) || matches!(ended.code(), Some(0 | 130)),
            "{ended}"
        );
        // What was written is there afterwards, of both.
        let text = desk.expect(0, &["logs", "-a", "talker"])?;
        for words in ["before", "while it is followed", "a later session"] {
            ensure!(text.contains(words), "{words}: {text}");
        }
        Ok(())
    })
}

#[test]
fn status_and_logs_as_json() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        let client = desk.daemon.client();
        let made = puppet::deploy(&client, "facts", serde_json::json!({}))?;
        let id = session_name("json");
        puppet::run(
            &client,
            "facts",
            &id,
            "print('\\x1b[31mred \\u2028', flush=True)",
        )?;
        let status = desk.json(&["status", "-a", "facts"])?;
        ensure!(
            status["runtime"]["arn"] == made.arn.as_str() && status["runtime"]["status"] == "READY",
            "{status}"
        );
        ensure!(
            status["sessions"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
                && status["sessions"][0]["sessionId"] == id.as_str(),
            "{status}"
        );
        // One record a line, whatever the agent wrote, and no escape of it is left to a terminal.
        let text = wait::until(10, "the line", || {
            let text = desk.expect(0, &["--json", "logs", "-s", &id, "-a", "facts"])?;
            Ok(text.contains("red").then_some(text))
        })?;
        ensure!(!text.contains('\u{1b}'), "{text}");
        let records: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()?;
        ensure!(
            records
                .iter()
                .all(|r| r["session"].is_string() && r["at"].is_string() && r["text"].is_string()),
            "{records:?}"
        );
        ensure!(
            records
                .iter()
                .any(|r| r["text"] == "\u{1b}[31mred \u{2028}" && r["stream"] == "stdout"),
            "{records:?}"
        );
        Ok(())
    })
}

#[test]
fn bench_measures_new_sessions_and_one_that_is_ready_and_leaves_none() -> Result {
    ground!(Daemon, Python);
    at_desk(|desk| {
        let client = desk.daemon.client();
        puppet::deploy(&client, "measured", serde_json::json!({}))?;
        let words = ["bench", "-a", "measured", "--new", "2", "--calls", "5"];
        let began = Instant::now();
        let told = desk.json(&[&words[..], &[r#"{"code": "answer = 1"}"#]].concat())?;
        let whole = began.elapsed().as_secs_f64() * 1e3;
        let lines = told.as_array().context("a list")?;
        let figure = |line: &Value, key: &str| line[key].as_f64().context(key.to_owned());
        let mut all = 0.0;
        let mut medians = Vec::new();
        for (line, (what, to, calls)) in lines.iter().zip([
            ("new session", "first", 2),
            ("new session", "whole", 2),
            ("ready session", "first", 5),
            ("ready session", "whole", 5),
        ]) {
            ensure!(
                line["what"] == what && line["to"] == to && line["calls"] == calls,
                "{line}"
            );
            let samples = line["samples"].as_array().context("samples")?;
            ensure!(samples.len() == calls, "{line}");
            let samples: Vec<f64> = samples.iter().filter_map(Value::as_f64).collect();
            let quantiles = ["p50", "p90", "p99", "max"].map(|key| figure(line, key));
            let quantiles: Vec<f64> = quantiles.into_iter().collect::<Result<_>>()?;
            ensure!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{line}");
            ensure!(
                quantiles.iter().all(|one| samples.contains(one)),
                "no sample: {line}"
            );
            medians.push(quantiles[0]);
            if to == "whole" {
                all += samples.iter().sum::<f64>();
            }
        }
        ensure!(lines.len() == medians.len(), "{told}");
        // One after the other, and each to its last byte after its first.
        ensure!(all < whole, "{all} ms of {whole}: {told}");
        ensure!(
            medians[0] <= medians[1] && medians[2] <= medians[3],
            "{told}"
        );
        // The daemon has seen these sessions and no others, and they end.
        let sessions = client.sessions("runtime=measured")?;
        ensure!(sessions.len() == 2, "{sessions:?}");
        for session in sessions {
            let ended = client.ended(session.id.as_str(), 20)?;
            ensure!(ended.end_reason == Some(EndReason::Stopped), "{ended:?}");
        }
        // An agent that fails is no figure.
        let failing = r#"{"code": "raise ValueError('no figure')"}"#;
        let out = desk.run(&["bench", "-a", "measured", "--new", "1", failing])?;
        ensure!(!out.status.success() && out.stdout.is_empty(), "{out:?}");
        Ok(())
    })
}

#[test]
fn exec_on_a_terminal_is_a_terminal_in_the_session() -> Result {
    ground!(Daemon, Python, Command("setsid"), Command("stty"));
    at_desk(|desk| {
        let client = desk.daemon.client();
        puppet::deploy(&client, "shell", serde_json::json!({}))?;
        let id = session_name("tty");
        puppet::run(&client, "shell", &id, "answer = 1")?;
        let size = nix::pty::Winsize {
            ws_row: 40,
            ws_col: 123,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = nix::pty::openpty(Some(&size), None)?;
        let before = tcgetattr(&terminal.slave)?;
        // With the terminal as its controlling one, as a shell would start it: a resize is a signal.
        let command = desk.command(&["exec", "-it", "-s", &id, "-a", "shell", "--", "sh"]);
        let mut child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(n, v)| Some((n, v?))))
            .current_dir(&desk.folder)
            .stdin(terminal.slave.try_clone()?)
            .stdout(terminal.slave.try_clone()?)
            .stderr(terminal.slave.try_clone()?)
            .spawn()?;
        let mut keys = std::fs::File::from(terminal.master.try_clone()?);
        let screen = Lines::of(std::fs::File::from(terminal.master));
        // What is typed before may be thrown away.
        wait::until_true(10, "the terminal to be handed over", || {
            Ok(!tcgetattr(&terminal.slave)?
                .local_flags
                .contains(LocalFlags::ICANON))
        })?;
        // The quotes keep what is typed (a terminal shows it) apart from what is said.
        let mut typed = |text: &str| keys.write_all(text.as_bytes());
        typed("test -t 0 && test -t 1 && echo is''-a-terminal; echo si''ze=$(stty size)\n")?;
        screen.until("is-a-terminal")?;
        screen.until("size=40 123")?;
        let name = nix::unistd::ttyname(&terminal.slave)?;
        let resized = Command::new("stty")
            .arg("-F")
            .arg(&name)
            .args(["rows", "50", "cols", "200"])
            .status()?;
        ensure!(resized.success());
        wait::until_true(10, "the new size to arrive", || {
            typed("echo si''ze=$(stty size)\n")?;
            Ok(screen.until("size=")?.contains("size=50 200"))
        })?;
        // The interrupt key is the session's business.
        typed("sleep 1000\n")?;
        wait::until_true(10, "the command to run", || {
            let pid = client.session(&id)?.pid.context("pid")?;
            Ok(e2e::host::processes(pid)
                .iter()
                .any(|p| e2e::host::title(*p) == "sleep 1000"))
        })?;
        typed("\u{3}")?;
        typed("echo co''de=$?\n")?;
        screen.until("code=130")?;
        typed("exit 7\n")?;
        let status = wait::until(10, "exec to end", || Ok(child.try_wait()?))?;
        assert_eq!(status.code(), Some(7));
        let after = tcgetattr(&terminal.slave)?;
        ensure!(
            after.local_flags == before.local_flags && after.input_flags == before.input_flags,
            "the terminal was left raw"
        );
        // Without a terminal there is none to give.
        let out = desk.run(&["exec", "-it", "-s", &id, "-a", "shell", "--", "sh"])?;
        assert_eq!(out.status.code(), Some(2));
        Ok(())
    })
}

/// Every verb over TCP, against a daemon whose callers sign: AWS's own signer against our verifier.
#[test]
fn over_tcp_calls_are_signed_with_the_keys_of_the_environment() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::signed(), |daemon| {
        let folder = daemon.dir().join("desk");
        std::fs::create_dir_all(&folder)?;
        let agent = folder.join("my_agent.py");
        std::fs::copy(places::example("echo").join("my_agent.py"), &agent)?;
        let endpoint = match daemon.tcp()?.target {
            e2e::http::Target::Tcp(address) => format!("http://{address}"),
            other => anyhow::bail!("not TCP: {other:?}"),
        };
        let desk = Desk { daemon, folder };
        let signed = |key: &Value, words: &[&str]| -> anyhow::Result<Output> {
            let mut command = desk.command(words);
            command.env("AGENTCORE_ENDPOINT", &endpoint);
            for (variable, member) in [
                ("AWS_ACCESS_KEY_ID", "accessKeyId"),
                ("AWS_SECRET_ACCESS_KEY", "secretAccessKey"),
                ("AWS_REGION", "region"),
            ] {
                command.env(variable, key[member].as_str().unwrap_or_default());
            }
            Ok(command.output()?)
        };
        let expect = |code: i32, key: &Value, words: &[&str]| -> anyhow::Result<String> {
            let out = signed(key, words)?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let told = String::from_utf8_lossy(&out.stderr).into_owned();
            ensure!(
                out.status.code() == Some(code),
                "agentcore {words:?}: {}, expected {code}\n{text}{told}",
                out.status
            );
            Ok(if code == 0 { text } else { told })
        };
        let operator = desk.json(&["keys", "create", "me"])?;
        let invoke = "bedrock-agentcore:InvokeAgentRuntime";
        let limited = desk.json(&["keys", "create", "ci", "--action", invoke])?;

        expect(
            0,
            &operator,
            &["configure", "-e", "my_agent.py", "-n", "shop"],
        )?;
        // A bundle, covered by its hash.
        expect(0, &operator, &["launch"])?;
        let id = session_name("signed");
        let answer = expect(
            0,
            &limited,
            &["invoke", "-s", &id, r#"{"prompt": "hi"}"#, "-a", "shop"],
        )?;
        ensure!(answer.contains("hi"), "{answer}");
        // Larger than what is hashed before it is sent.
        let large = serde_json::json!({ "prompt": "x".repeat(9 << 20) });
        std::fs::write(desk.folder.join("large.json"), large.to_string())?;
        let answer = expect(
            0,
            &operator,
            &["invoke", "@large.json", "-a", "shop", "--raw"],
        );
        ensure!(
            answer?.len() > 9 << 20,
            "the large payload did not come back"
        );
        let own = session_name("own");
        expect(0, &operator, &["invoke", "-s", &own, r#"{"prompt": "hi"}"#])?;
        // An upgrade.
        let said = expect(
            0,
            &operator,
            &["exec", "-s", &own, "--", "/bin/sh", "-c", "echo inside"],
        )?;
        ensure!(said == "inside\n", "{said}");
        let sessions = expect(0, &operator, &["session", "list", "-q"])?;
        ensure!(sessions.lines().count() >= 2, "{sessions}");
        expect(0, &operator, &["logs", "-s", &own])?;

        std::fs::write(&agent, std::fs::read_to_string(&agent)? + "\n# Second.\n")?;
        expect(0, &operator, &["launch"])?;
        let said = expect(0, &operator, &["runtime", "rollback", "shop"])?;
        ensure!(said.contains("is version 1 again"), "{said}");
        let versions = expect(0, &operator, &["--json", "runtime", "versions", "shop"])?;
        let versions: Value = serde_json::from_str(&versions)?;
        let of = |number: u32| {
            let mut all = versions.as_array().into_iter().flatten();
            let found = all.find(|each| each["version"] == number)?;
            Some(found["artifact"].clone())
        };
        ensure!(
            of(3).is_some() && of(3) == of(1) && of(2) != of(1),
            "{versions}"
        );

        let told = expect(5, &limited, &["keys", "list"])?;
        ensure!(told.contains("not limited"), "{told}");
        let told = expect(5, &Value::Null, &["session", "list"])?;
        ensure!(told.contains("agentcore keys create"), "{told}");
        let mut elsewhere = operator.clone();
        elsewhere["region"] = "us-west-2".into();
        let told = expect(5, &elsewhere, &["session", "list"])?;
        ensure!(
            told.contains("us-west-2") && told.contains("AWS_REGION"),
            "{told}"
        );
        let mut wrong = operator.clone();
        wrong["secretAccessKey"] = "wrong".into();
        expect(5, &wrong, &["session", "list"])?;
        Ok(())
    })
}
