//! `configure`.

use crate::ran::{agentcore, ran};
use serde_json::json;
use std::fs;

#[test]
fn it_writes_what_it_can_guess() {
    let home = tempfile::tempdir().expect("a home");
    fs::create_dir(home.path().join("sub")).expect("made");
    fs::write(home.path().join("sub/my-agent.py"), "").expect("written");
    fs::write(home.path().join("sub/requirements.txt"), "").expect("written");
    // No daemon is needed, nor asked.
    let mut command = agentcore("unix:/nonexistent", home.path());
    let done = ran(command.args(["configure", "-e", "sub/my-agent.py"])).exits(0);
    assert_eq!(
        done.out,
        "Wrote sub/agentcore.toml for the runtime my_agent\n"
    );
    let text = fs::read_to_string(home.path().join("sub/agentcore.toml")).expect("written");
    assert_eq!(
        text,
        "name = \"my_agent\"\nentrypoint = \"my-agent.py\"\nlanguage = \"python\"\nrequirements = \"requirements.txt\"\n"
    );
}

#[test]
fn every_flag_becomes_its_key() {
    let home = tempfile::tempdir().expect("a home");
    fs::write(home.path().join("server.mjs"), "").expect("written");
    let mut command = agentcore("unix:/nonexistent", home.path());
    command.args([
        "configure",
        "--json",
        "-e",
        "server.mjs",
        "-n",
        "shop",
        "-p",
        "mcp",
        "--memory",
        "1.5G",
        "--cpus",
        "0.5",
        "--idle-timeout",
        "60",
        "--max-lifetime",
        "3600",
        "--env",
        "A=1",
        "--env",
        "B=x=y",
        "--network",
        "none",
    ]);
    let done = ran(&mut command).exits(0).json();
    assert_eq!(
        done["config"],
        json!({
            "name": "shop", "entrypoint": "server.mjs", "protocol": "MCP", "language": "node",
            "environment": { "A": "1", "B": "x=y" },
            "lifecycle": { "idle_timeout": 60, "max_lifetime": 3600 },
            "resources": { "memory": "1536M", "cpus": 0.5 },
            "network": { "mode": "none" },
        })
    );
    assert_eq!(done["file"], "agentcore.toml");
}

#[test]
fn a_second_time_changes_only_what_was_said() {
    let home = tempfile::tempdir().expect("a home");
    let before =
        "# ours\nname = \"a\"\nentrypoint = \"a.py\"\n\n[resources] # small\nmemory = \"64M\"\n";
    fs::write(home.path().join("agentcore.toml"), before).expect("written");
    let mut command = agentcore("unix:/nonexistent", home.path());
    ran(command.args(["configure", "--memory", "1G"])).exits(0);
    let after = fs::read_to_string(home.path().join("agentcore.toml")).expect("there");
    assert_eq!(after, before.replace("64M", "1G"));
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let home = tempfile::tempdir().expect("a home");
    fs::write(home.path().join("agent"), "no shebang").expect("written");
    fs::write(home.path().join("a.py"), "").expect("written");
    let cases: [(&[&str], &str); 9] = [
        (&["configure"], "-e my_agent.py"),
        (&["configure", "-e", "gone.py"], "gone.py is not there"),
        (&["configure", "-e", "."], "is a folder"),
        (&["configure", "-e", "agent"], "--language"),
        (
            &["configure", "-e", "a.py", "-n", "not-a-name"],
            "a letter first",
        ),
        (&["configure", "-e", "a.py", "--memory", "much"], "512M"),
        (
            &["configure", "-e", "a.py", "--idle-timeout", "59"],
            "60..=1209600",
        ),
        (
            &["configure", "-e", "a.py", "--env", "novalue"],
            "KEY=VALUE",
        ),
        (
            &["configure", "-e", "a.py", "-r", "gone.txt"],
            "gone.txt is not there",
        ),
    ];
    for (args, words) in cases {
        let mut command = agentcore("unix:/nonexistent", home.path());
        ran(command.args(args)).exits(2).says(&[words]);
        assert!(!home.path().join("agentcore.toml").exists(), "{args:?}");
    }
}
