//! `--help` of every verb, `completion`, `version`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p agentcore-cli golden` writes the file anew; read the difference before committing it.

use crate::fake::Fake;
use crate::ran::{agentcore, ran};
use serde_json::json;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

const VERBS: [&str; 30] = [
    "",
    "configure",
    "launch",
    "invoke",
    "status",
    "logs",
    "task",
    "task list",
    "task get",
    "task wait",
    "task result",
    "task cancel",
    "task logs",
    "task secret",
    "session",
    "session list",
    "session inspect",
    "session stop",
    "runtime",
    "runtime list",
    "runtime inspect",
    "runtime versions",
    "runtime delete",
    "exec",
    "destroy",
    "doctor",
    "dev",
    "completion",
    "version",
    "deploy",
];

#[test]
fn help_is_as_agreed() {
    let home = tempfile::tempdir().expect("a home");
    let mut text = String::new();
    for verb in VERBS {
        let mut command = agentcore("unix:/nonexistent", home.path());
        let done = ran(command.args(verb.split_whitespace()).arg("--help")).exits(0);
        text.push_str(
            &format!("$ agentcore {verb} --help\n{}\n", done.out).replace("  --help", " --help"),
        );
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &text).expect("written");
    }
    let golden = std::fs::read_to_string(file).expect("the golden file");
    let first = text
        .lines()
        .zip(golden.lines())
        .find(|(new, old)| new != old);
    assert!(
        text == golden,
        "help has changed (UPDATE_GOLDEN=1 accepts it); first: {first:?}"
    );
}

#[test]
fn usage_errors_exit_2() {
    let home = tempfile::tempdir().expect("a home");
    for args in [
        &["nonsense"][..],
        &["invoke"],
        &["exec", "-s", "abcd"],
        &["session", "stop"],
        &["completion", "tcsh"],
        &["--endpoint", "ftp://x", "status"],
        &["launch", "--image", "x"],
    ] {
        ran(agentcore("unix:/nonexistent", home.path()).args(args)).exits(2);
    }
}

#[test]
fn completions_are_scripts_of_their_shell() {
    let home = tempfile::tempdir().expect("a home");
    for (shell, word) in [
        ("bash", "_agentcore()"),
        ("zsh", "#compdef agentcore"),
        ("fish", "complete -c agentcore"),
    ] {
        let done =
            ran(agentcore("unix:/nonexistent", home.path()).args(["completion", shell])).exits(0);
        assert!(done.out.contains(word), "{shell}");
        if shell == "bash" {
            let mut check = Command::new("bash")
                .arg("-n")
                .stdin(Stdio::piped())
                .spawn()
                .expect("bash");
            let mut stdin = check.stdin.take().expect("piped");
            stdin.write_all(done.out.as_bytes()).expect("written");
            drop(stdin);
            assert!(check.wait().expect("waited").success());
        }
    }
}

#[test]
fn version_tells_both() {
    let fake = Fake::start();
    let done = fake.run(&["version", "--json"]).exits(0).json();
    assert_eq!(
        done["client"],
        json!({ "version": env!("CARGO_PKG_VERSION") })
    );
    assert_eq!(done["daemon"]["version"], "9.9.9");
    let done = fake.run(&["version"]).exits(0);
    assert!(
        done.out
            .contains("agentcored 9.9.9 (instance inst1, kernel 6.18.0"),
        "{done:?}"
    );
}

#[test]
fn no_daemon_is_69_with_what_to_do() {
    let home = tempfile::tempdir().expect("a home");
    let gone = format!("unix:{}/gone.sock", home.path().display());
    let words = [
        "no daemon answers at unix:",
        "systemctl start agentcored",
        "--endpoint",
    ];
    for args in [
        &["version"][..],
        &["status"],
        &["runtime", "list"],
        &["invoke", "{}", "-a", "x"],
        &["doctor"],
    ] {
        ran(agentcore(&gone, home.path()).args(args))
            .exits(69)
            .says(&words);
    }
    let own = ran(agentcore(&gone, home.path()).args(["version", "--client"])).exits(0);
    assert_eq!(
        own.out,
        format!("agentcore {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn something_that_is_no_daemon_is_noticed() {
    let home = tempfile::tempdir().expect("a home");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        // An answer before its request would be something else again.
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).expect("read") > 0);
        let page = "<html>hello</html>";
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
        stream.write_all((head + page).as_bytes()).expect("written");
        // Wait for the client to close first, so that nothing is lost.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let done = ran(agentcore(&endpoint, home.path()).args(["runtime", "list"]));
    done.exits(69)
        .says(&["does not answer /v1/runtimes like an AgentCore daemon"]);
    other.join().expect("served");
}
