//! Templates with the real bootstrap, the real shim and every measure of the sandbox but cgroups: Python agents of both SDKs,
//! forked into sessions of their own (tier: root; the AWS SDK comes from the environment that `python/tests/run.sh` makes).
//!
//! No test harness, because the sandbox is set up by a fork, and a fork wants a single thread.

#[path = "../shim/broker.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod broker;
#[path = "../shim/harness.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

mod ground;
mod measure;
#[path = "../session/process.rs"]
mod process;

use ground::{Ground, SHARES, Session};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::shim::{ExitCause, ExitStatus, Go, TemplateState};
use sandbox::template::{Finding, inspect};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Tells what it is, and what a fork must not share.
const AGENT: &str = r#"
import os, random, secrets, ssl, uuid
from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()
ssl.RAND_bytes(8); random.random(); uuid.uuid1()
loaded = [0]
loaded[0] += 1

def of(name):
    with open("/proc/self/status") as lines:
        return [line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":")][0]

def inotify():
    import ctypes, tempfile
    libc = ctypes.CDLL(None)
    opened, watched = [], 0
    while len(opened) < 200 and (fd := libc.inotify_init1(0)) >= 0:
        opened.append(fd)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100):
            path = os.path.join(folder, str(number))
            os.mkdir(path)
            watched += libc.inotify_add_watch(opened[number % len(opened)], path.encode(), 1) >= 0
    for fd in opened:
        os.close(fd)
    return [len(opened), watched]

@app.entrypoint
def invoke(payload):
    loaded[0] += 1
    return {
        "payload": payload,
        "times": loaded[0],
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "caps": [of(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "seccomp": of("Seccomp"),
        "own": os.environ.get("OWN"),
        "python_path": os.environ.get("PYTHONPATH"),
        "cwd": os.getcwd(),
        "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
        "drawn": [random.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex(), str(uuid.uuid1()), str(uuid.uuid4())],
        "tmp": os.listdir("/tmp"),
        "left": open("/tmp/left", "w").write("x"),
        "pid": os.getpid(),
        "inotify": inotify(),
        "child": os.popen("echo child").read().strip() if os.path.exists("/bin/sh") else "child",
    }

if __name__ == "__main__":
    app.run()
"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|word| word == "--list") {
        if !arguments.iter().any(|word| word == "--ignored") {
            println!("templates_of_both_sdks: test");
        }
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED template: needs root");
        return;
    }
    let ground = Ground::new();
    sessions_of_their_own(&ground, "built_in", None);
    match aws_sdk() {
        Some(packages) => sessions_of_their_own(&ground, "aws", Some(packages)),
        None => println!("SKIPPED template of the AWS SDK: run python/tests/run.sh first"),
    }
    what_cannot_be_forked(&ground);
    what_lies(&ground);
    println!("test result: ok. 1 passed; 0 failed; 0 ignored");
}

/// Where `python/tests/run.sh` has put it.
fn aws_sdk() -> Option<PathBuf> {
    let cache = std::env::var_os("AGENTCORE_CACHE")
        .map_or_else(|| PathBuf::from("/var/tmp/agentcore-cache"), PathBuf::from);
    fs::read_dir(cache).ok()?.flatten().find_map(|entry| {
        let packages = entry.path().join("lib/python3.11/site-packages");
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("python-tests-3.11-");
        (ours && packages.join("bedrock_agentcore").exists()).then_some(packages)
    })
}

fn sessions_of_their_own(ground: &Ground, name: &str, packages: Option<PathBuf>) {
    let bundle = ground.bundle(name, AGENT, packages.as_deref());
    let mut cold = ground.cold(&bundle);
    cold.broker.healthy();
    let plain = cold.ask("1");
    drop(cold);

    let (mut template, state) = ground.template(&bundle);
    assert_eq!(state, TemplateState::Ready, "{name}");
    let mut drawn = BTreeSet::new();
    let mut sessions = Vec::new();
    for number in 0..4 {
        let word = number.to_string();
        let forking = ground.fork(&bundle, &mut template, ("OWN", &word));
        let (mut session, times) = forking.serve(&template);
        let answer = session.ask(&word);
        println!("{name}: {times:?}");
        assert_eq!(answer["payload"], number, "{name}");
        assert_eq!(
            answer["inotify"],
            serde_json::json!([SHARES.instances, SHARES.watches]),
            "{name}: a share of its template's"
        );
        assert_eq!(
            answer["own"],
            word.as_str(),
            "{name}: an environment of its own"
        );
        assert_eq!(answer["times"], 2, "{name}: nobody else's memory");
        assert_eq!(
            answer["tmp"],
            Value::Array(Vec::new()),
            "{name}: nobody else's files"
        );
        assert_eq!(
            answer["processes"].as_array().map(Vec::len),
            Some(1),
            "{answer}"
        );
        for key in [
            "uid",
            "gid",
            "groups",
            "caps",
            "seccomp",
            "python_path",
            "cwd",
            "child",
        ] {
            assert_eq!(
                answer[key], plain[key],
                "{name}: {key} as in a cold session"
            );
        }
        for value in answer["drawn"].as_array().expect("array") {
            assert!(
                drawn.insert(value.to_string()),
                "{name}: {value} was drawn before"
            );
        }
        sessions.push(session);
    }

    measure::measure(ground, name, &bundle, &mut template);

    // The interpreter may die; its forks live on, and no more come of it.
    let mut survivor = sessions.pop().expect("a session");
    ends_like_any_other(sessions.pop().expect("a session"));
    drop(sessions);
    kill(interpreter(template.process.pid), Signal::SIGKILL).expect("kill");
    let said = template.broker.notification("template");
    let state: TemplateState = serde_json::from_value(said.params).expect("state");
    assert!(matches!(state, TemplateState::Refused { .. }), "{state:?}");
    assert_eq!(survivor.ask("5")["payload"], 5, "{name}");
}

/// TERM, its grace, and a record of how it ended.
fn ends_like_any_other(mut session: Session) {
    session.broker.shutdown(10_000);
    let record = session.process.record();
    assert_eq!(record.cause, ExitCause::Shutdown);
    let status = record.agent.expect("agent").status;
    match status {
        Ok(status) => assert_eq!(status, ExitStatus::Signal(15)),
        Err(text) => println!("SKIPPED the forked agent's exit status: {text}"),
    }
}

/// The process whose child was forked: the only child of the template's PID 1 with its own command line.
fn interpreter(template: Pid) -> Pid {
    let path = format!("/proc/{template}/task/{template}/children");
    let children = fs::read_to_string(path).expect("children");
    children
        .split_whitespace()
        .map(|number| Pid::from_raw(number.parse().expect("number")))
        .find(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
                == fs::read_link(format!("/proc/{template}/ns/pid")).ok()
        })
        .expect("the interpreter")
}

fn what_cannot_be_forked(ground: &Ground) {
    for (name, first, reason) in [
        (
            "threads",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "threads",
        ),
        (
            "sockets",
            "import socket\nkept = socket.socket()",
            "a socket open",
        ),
        ("import", "import no_such_module", "no_such_module"),
        ("end", "import os\nos._exit(3)", "ended before it was ready"),
    ] {
        let bundle = ground.bundle(name, &format!("{first}\n{AGENT}"), None);
        let (_session, state) = ground.template(&bundle);
        match state {
            TemplateState::Refused { reason: told } => assert!(told.contains(reason), "{told}"),
            TemplateState::Ready => panic!("{name}: is no template"),
        }
    }
}

/// Imports that change what a fork does: what counts is what is seen from outside.
fn what_lies(ground: &Ground) {
    let patch = "from agentcore_template import _system, _become, _fitness\n";
    for (name, first, finding) in [
        (
            "keeps_caps",
            "_system.drop_capabilities = lambda: None",
            Some("CapPrm"),
        ),
        (
            "keeps_bounding",
            "_system.empty_bounding_set = lambda: None",
            Some("CapBnd"),
        ),
        (
            "no_filter",
            "_system.install_filter = lambda program: None",
            Some("Seccomp_filters"),
        ),
        (
            "keeps_files",
            "_system.close_from = lambda first: None",
            Some("list of descriptors"),
        ),
        (
            "threads",
            "import threading, time\nold = _system.install_filter\ndef install(program):\n    old(program)\n    threading.Thread(target=time.sleep, args=(60,)).start()\n_system.install_filter = install",
            Some("Threads"),
        ),
        (
            "shares",
            "import mmap\nkept = mmap.mmap(-1, 4096)\n_fitness._memory = lambda: None",
            Some("shared memory"),
        ),
        ("honest", "pass", None),
    ] {
        let bundle = ground.bundle(
            &format!("lies_{name}"),
            &format!("{patch}{first}\n{AGENT}"),
            None,
        );
        let (mut template, state) = ground.template(&bundle);
        assert_eq!(state, TemplateState::Ready, "{name}");
        let mut forking = ground.fork(&bundle, &mut template, ("OWN", "x"));
        match (inspect(&forking.to_inspect(&template)), finding) {
            (Ok(()), None) => {
                forking.session.broker.notify("go", &Go {});
                forking.session.broker.healthy();
            }
            (Err(Finding::Differs { what, .. }), Some(expected)) => {
                assert_eq!(what, expected, "{name}")
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
        drop(forking);
    }
}
