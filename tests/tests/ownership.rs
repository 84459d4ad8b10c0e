//! A session is its maker's: another key, another user id and another local user neither reach it nor learn that it is there.
//! Tier: root; needs PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_aws_error, session_name};
use e2e::http::{Request, Target};
use e2e::{Daemon, Options, Result, ground, places, puppet, venv};
use proto::api::{NewAccessKey, Session};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

const USER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id";
const BIRTH: &str = "import time\nanswer = kept.setdefault('born', time.time())";

fn key(client: &Client, name: &str) -> anyhow::Result<NewAccessKey> {
    let body = json!({ "name": name }).to_string();
    client
        .send(Request::post("/v1/keys", body))?
        .expect(201)?
        .json()
}

#[test]
fn a_session_of_another_key_or_user_does_not_exist() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let client = daemon.client();
        let own = puppet::deploy(&client, "own", json!({}))?;
        let shared = puppet::deploy(&client, "shared", json!({"shared": true}))?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let session = session_name("chosen-by-all");
        let keys = [
            key(&client, "one")?,
            key(&client, "two")?,
            key(&client, "three")?,
        ];
        // The local user has chosen it first.
        let local = client.invoke("own", &session, &puppet::payload(BIRTH))?;
        let facts = json!({
            "endpoint": format!("http://{address}"), "session": session, "own": own.arn, "shared": shared.arn,
            "one": keys[0], "two": keys[1], "three": keys[2],
        });
        let out = Command::new(venv::bin()?.join("python"))
            .arg(places::source().join("tests/clients/ownership_calls.py"))
            .arg(facts.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()?;
        ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let again = client.invoke("own", &session, &puppet::payload(BIRTH))?;
        ensure!(
            again == local,
            "the local user's session was not left alone"
        );
        // Operators see all of them, each with its owner.
        let live: Vec<Session> = client.live_sessions()?;
        let owners: BTreeSet<_> = live
            .iter()
            .filter(|session| session.runtime == own.name)
            .map(|session| (session.owner.clone(), session.user_id.clone()))
            .collect();
        let of = |key: &NewAccessKey, user: Option<&str>| {
            (
                Some(format!("key:{}", key.key.access_key_id)),
                user.map(str::to_owned),
            )
        };
        let uid = nix::unistd::getuid();
        let expected = BTreeSet::from([
            (Some(format!("uid:{uid}")), None),
            of(&keys[0], None),
            of(&keys[0], Some("alice")),
            of(&keys[0], Some("bob")),
            of(&keys[1], None),
            of(&keys[1], Some("alice")),
        ]);
        assert_eq!(owners, expected);
        let shared: Vec<_> = live.iter().filter(|s| s.runtime == shared.name).collect();
        ensure!(
            shared.len() == 1 && shared[0].owner.as_deref() == Some("shared"),
            "{shared:#?}"
        );
        Ok(())
    })
}

/// What is told of a session, without what was asked for.
fn stop(client: &Client, session: &str, user: Option<&str>) -> anyhow::Result<(Value, Duration)> {
    let mut request = Request::post("/runtimes/own/stopruntimesession", "{}")
        .header(e2e::client::SESSION_HEADER, session);
    if let Some(user) = user {
        request = request.header(USER, user);
    }
    let begun = Instant::now();
    let answer = client.send(request)?;
    let took = begun.elapsed();
    let body = expect_aws_error(answer, 404, "ResourceNotFoundException", "no live session")?;
    let text = body.to_string().replace(session, "<session>");
    Ok((serde_json::from_str(&text)?, took))
}

#[test]
fn a_session_of_another_user_id_is_told_and_timed_as_none() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "own", json!({}))?;
        let session = session_name("alices");
        let request = Client::invocation("own", &session, &puppet::payload(BIRTH));
        client.send(request.header(USER, "alice"))?.expect(200)?;
        let nobodys = session_name("nobody");
        let (mut there, mut never) = (Vec::new(), Vec::new());
        // In turns, so that whatever else this machine does hits both.
        for _ in 0..200 {
            for user in [None, Some("bob")] {
                let (told, took) = stop(&client, &session, user)?;
                let (expected, none) = stop(&client, &nobodys, user)?;
                assert_eq!(told, expected);
                there.push(took);
                never.push(none);
            }
        }
        there.sort();
        never.sort();
        let (there, never) = (there[there.len() / 2], never[never.len() / 2]);
        let (fast, slow) = (there.min(never), there.max(never));
        // Both are one look-up in the same map. A search among other owners' sessions, or in the store, would show.
        ensure!(
            slow < fast * 3 / 2 + Duration::from_micros(100),
            "median {there:?} for a session of somebody else, {never:?} for none"
        );
        let live = client.live_sessions()?;
        let alices = live.first().context("alice's session lives")?;
        assert_eq!(alices.user_id.as_deref(), Some("alice"));
        Ok(())
    })
}

#[test]
fn what_is_not_a_signed_callers_is_told_and_timed_as_nothing() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::signed(), |daemon| {
        let client = daemon.client();
        let own = puppet::deploy(&client, "own", json!({}))?;
        let other = puppet::deploy(&client, "other", json!({}))?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        // Sessions of the local user's, which the keys ask for.
        let session = session_name("theirs");
        let born = client.invoke("own", &session, &puppet::payload(BIRTH))?;
        client.invoke("other", &session, &puppet::payload(BIRTH))?;
        let limited = |name: &str, action: &str| -> anyhow::Result<NewAccessKey> {
            let body = json!({"name": name, "runtimes": ["own"], "actions": [action]});
            let made = client.send(Request::post("/v1/keys", body.to_string()))?;
            made.expect(201)?.json()
        };
        let facts = json!({
            "endpoint": format!("http://{address}"), "session": session,
            "own": own.arn, "other": other.arn, "nobody": other.arn.replace("/other-", "/wrong-"),
            "keys": {
                "operator": key(&client, "operator")?,
                "limited": limited("limited", "StopRuntimeSession")?,
                "reader": limited("reader", "GetAgentRuntime")?,
            },
        });
        let said = venv::run("requirements.txt", "miss_calls.py", &[&facts.to_string()])?;
        println!("{said}");
        // None of it has ended anything.
        assert_eq!(
            client.invoke("own", &session, &puppet::payload(BIRTH))?,
            born
        );
        Ok(())
    })
}

/// A system user of every Debian, whose group is the API socket's here: whoever is in that is a member.
const GROUP: (&str, &str) = ("games", "60");

/// A request of a local user's, who is a member: status and body.
fn by(
    daemon: &Daemon,
    uid: u32,
    target: &str,
    session: &str,
    body: &Value,
) -> anyhow::Result<(u16, String)> {
    let out = Command::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", GROUP.1])
        .args(["--clear-groups", "curl", "-sS", "-w", "\n%{http_code}"])
        .args(["-H", &format!("{}: {session}", e2e::client::SESSION_HEADER)])
        .args(["-H", "content-type: application/json"])
        .args(["--data-binary", &body.to_string(), "--unix-socket"])
        .arg(daemon.socket())
        .arg(format!("http://localhost/runtimes/own/{target}"))
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').with_context(|| format!("{out:?}"))?;
    Ok((status.parse()?, body.to_owned()))
}

#[test]
fn two_local_users_with_one_session_id_have_two_sessions() -> Result {
    ground!(Daemon, Python, Command("setpriv"), Command("curl"));
    let options = Options {
        dev: false,
        ..Options::default()
    };
    let options = options.config(&format!(
        "listen = [\"127.0.0.1:0\"]\nauth = \"sigv4\"\nbroker_user = \"{}\"",
        GROUP.0
    ));
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "own", json!({}))?;
        let session = session_name("chosen-by-both");
        let (alice, bob, carol) = (61_001, 61_002, 61_003);
        let run = |uid: u32, code: &str| -> anyhow::Result<Value> {
            let (status, body) = by(daemon, uid, "invocations", &session, &puppet::payload(code))?;
            ensure!(status == 200, "{status}: {body}");
            Ok(serde_json::from_str(&body)?)
        };
        let births = [run(alice, BIRTH)?, run(bob, BIRTH)?];
        assert_ne!(births[0], births[1]);
        assert_eq!([run(alice, BIRTH)?, run(bob, BIRTH)?], births);
        // What one has written the other does not find: by invocation, and by a command, which runs in its own.
        run(
            alice,
            "answer = open('/tmp/mine', 'w').write('alices secret')",
        )?;
        let look = "import os; answer = os.path.exists('/tmp/mine')";
        assert_eq!(
            (run(alice, look)?, run(bob, look)?),
            (json!(true), json!(false))
        );
        let command = json!({"command": "cat /tmp/mine; echo fin''ished"});
        let seen = |uid: u32| -> anyhow::Result<String> {
            let (status, said) = by(daemon, uid, "commands", &session, &command)?;
            ensure!(
                status == 200 && said.contains("finished"),
                "{status}: {said}"
            );
            Ok(said)
        };
        ensure!(
            seen(alice)?.contains("alices secret"),
            "not in its own session"
        );
        ensure!(
            !seen(bob)?.contains("alices secret"),
            "in somebody else's session"
        );
        let owners = || -> anyhow::Result<BTreeSet<Option<String>>> {
            let live = client.live_sessions()?.into_iter();
            Ok(live.map(|session| session.owner).collect())
        };
        let of = |uid: u32| Some(format!("uid:{uid}"));
        assert_eq!(owners()?, BTreeSet::from([of(alice), of(bob)]));
        // Nobody's for a third, and to stop it is to stop one's own.
        let stop = |uid: u32, session: &str| {
            let (status, body) = by(daemon, uid, "stopruntimesession", session, &json!({}))?;
            anyhow::Ok((status, body.replace(session, "<session>")))
        };
        let nobodys = stop(carol, &session_name("nobody-at-all-"))?;
        assert_eq!((stop(carol, &session)?, nobodys.0), (nobodys, 404));
        assert_eq!(stop(bob, &session)?.0, 200);
        assert_eq!(run(alice, BIRTH)?, births[0]);
        assert_eq!(stop(bob, &session)?.0, 404);
        assert_eq!(owners()?, BTreeSet::from([of(alice)]));
        // Whoever is not in the group does not come as far as to a session.
        for path in [daemon.runtime_dir(), daemon.socket()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        let out = Command::new("setpriv")
            .args(["--reuid", &alice.to_string(), "--regid", "65534"])
            .args(["--clear-groups", "curl", "-sS", "--unix-socket"])
            .arg(daemon.socket())
            .arg("http://localhost/v1/sessions")
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(said.contains("may not use this daemon"), "{said}");
        Ok(())
    })
}
