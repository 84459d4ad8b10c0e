//! As PID 1 of the session: does what the boot file says, and writes what it finds, line by line, into the pipe of the exit record.

use super::{AGENT, MARK, agent};
use nix::sys::wait::waitpid;
use sandbox::agent::{AgentSpawn, spawn_agent};
use sandbox::sys::reap::reap_all;
use sandbox::{exit_mark, shim_entry};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;

pub(crate) fn main() {
    let mut record = File::from(shim_entry::claim_exit_record().expect("exit record"));
    let mut boot = String::new();
    let mut file = shim_entry::claim_boot().expect("boot");
    file.read_to_string(&mut boot).expect("read");
    let listener = shim_entry::claim_listener().expect("listener");
    assert!(shim_entry::claim_listener().is_err(), "taken once");
    shim_entry::harden().expect("harden");
    sandbox::sys::title::set("shim: test").expect("title");
    let mut say = |key: &str, value: &str| {
        writeln!(record, "{key}={}", value.replace('\n', "|")).expect("write record");
    };
    match boot.as_str() {
        "look" => look(&mut say),
        "agents" => agents(&mut say),
        "template" => super::template::pid_1_of_template(&listener),
        "forked" => super::template::pid_1_of_fork(&listener, &mut say),
        other => panic!("{other}"),
    }
    // Last: writing into a pipe sets its time.
    exit_mark::leave(&record, MARK).expect("leave");
    drop(listener);
}

fn look(say: &mut impl FnMut(&str, &str)) {
    say("env", &std::env::vars_os().count().to_string());
    for file in ["status", "mountinfo", "limits", "cmdline"] {
        say(
            file,
            &fs::read_to_string(format!("/proc/self/{file}")).expect("read"),
        );
    }
    say("fds", &agent::list("/proc/self/fd"));
    for (key, path) in [
        ("root", "/"),
        ("up", "/.."),
        ("app", "/app"),
        ("devs", "/dev"),
        ("net", "/proc/net"),
    ] {
        say(key, &agent::list(path));
    }
    for (key, path) in [
        ("w_root", "/x"),
        ("w_app", "/app/x"),
        ("w_dev", "/dev/x"),
        ("w_tmp", "/tmp/x"),
        ("w_null", "/dev/null"),
    ] {
        let written = fs::write(path, "x");
        say(
            key,
            &written
                .err()
                .and_then(|e| e.raw_os_error())
                .unwrap_or(0)
                .to_string(),
        );
    }
    let null = fs::metadata("/dev/null").expect("stat");
    say("null", &format!("{:x} {}", null.st_rdev(), null.st_dev()));
    say(
        "host",
        nix::unistd::gethostname()
            .expect("name")
            .to_string_lossy()
            .as_ref(),
    );
    let lo = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let reached = std::net::TcpStream::connect(lo.local_addr().expect("address"));
    say("lo", &reached.is_ok().to_string());
}

fn agents(say: &mut impl FnMut(&str, &str)) {
    let env = BTreeMap::from([
        ("PATH".to_owned(), "/nowhere:usr/bin:/usr/bin".to_owned()),
        ("SAID".to_owned(), "so".to_owned()),
    ]);
    let null = File::open("/dev/null").expect("null");
    // Inherited by nobody, although it is open without close-on-exec.
    let careless = nix::unistd::dup(null.as_fd()).expect("dup");
    let mut start = |key: &str, argv: &[&str], cwd: &str, uid: u32, tty: Option<BorrowedFd<'_>>| {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let outcome = spawn_agent(&AgentSpawn {
            argv: &argv,
            env: &env,
            cwd,
            uid,
            gid: uid,
            stdin: tty.unwrap_or(null.as_fd()),
            stdout: writer.as_fd(),
            stderr: null.as_fd(),
            controlling_tty: tty,
            new_session: true,
        });
        drop(writer);
        match outcome {
            Ok(pid) => {
                let mut told = String::new();
                reader.read_to_string(&mut told).expect("read");
                let status = waitpid(pid, None).expect("wait");
                say(key, &format!("{told}{status:?}"));
            }
            Err(error) => say(key, &format!("{} {}", error.stage, error.errno)),
        }
    };
    start("agent", &[AGENT, "report"], "/tmp", 1000, None);
    start("calls", &[AGENT, "calls"], "/", 1000, None);
    start("missing", &["no-such-program"], "/", 1000, None);
    start("not_executable", &["/etc/passwd"], "/", 1000, None);
    start("no_directory", &[AGENT], "/nowhere", 1000, None);
    start("no_entry", &[AGENT], "/secret", 1000, None);
    start("root", &[AGENT], "/", 0, None);
    start("unmapped", &[AGENT], "/", 1001, None);
    start("empty", &[], "/", 1000, None);
    let pty = nix::pty::openpty(None, None).expect("pty");
    start("tty", &[AGENT, "tty"], "/", 1000, Some(pty.slave.as_fd()));
    // The failed ones have left children to collect.
    let left = reap_all();
    say(
        "left",
        &format!(
            "{} {}",
            left.len(),
            left.iter().all(|(_, status)| status.shell_code() == 127)
        ),
    );
    drop(careless);
}
