//! Interactive shells: what the AWS SDK's own client sees (`tests/clients/shell_calls.py`), what one leaves behind, and the
//! bounds on its connections. Tier: root; PyPI.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::{Request, Stream, Target};
use e2e::{Client, Daemon, Options, Result, ground, host, puppet, venv, wait};
use serde_json::json;
use std::io::{BufReader, Read as _, Write as _};

#[test]
fn the_aws_sdks_own_client() -> Result {
    ground!(Daemon, Python, Registry);
    let options = Options::default().config("[limits]\nshells_per_runtime = 3");
    Daemon::with(options, |daemon| {
        let more = json!({"environment": {"COLOUR": "blue"}});
        let runtime = puppet::deploy(&daemon.client(), "shell", more)?;
        let Target::Tcp(address) = daemon.tcp()?.target else {
            anyhow::bail!("not TCP");
        };
        let said = venv::run(
            "websocket-requirements.txt",
            "shell_calls.py",
            &[&address.to_string(), &runtime.arn],
        )?;
        println!("{said}");
        ensure!(said.contains("the_session_ends"), "{said}");
        // Every shell there was ended by exit, by CLOSE or with its session.
        wait::until_true(20, "no shell to be left", || {
            let sessions = daemon.client().live_sessions()?;
            Ok(sessions.iter().all(|session| session.in_flight == 0))
        })
    })
}

/// A connection to shell `a` of a session, its confirmation read.
fn shell(client: &Client, session: &str) -> anyhow::Result<BufReader<Stream>> {
    let request = Request::get("/runtimes/shell/ws/shells?shellId=a")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(SESSION_HEADER, session);
    let answer = client.send(request)?.expect(101)?;
    assert_eq!(
        answer.header("x-amzn-bedrock-agentcore-shell-id"),
        Some("a")
    );
    let mut stream = answer.upgraded();
    let (first, payload) = message(&mut stream)?;
    ensure!(first == 0x82 && payload[0] == 3, "{first} {payload:?}");
    Ok(stream)
}

/// The next message's first byte and payload.
fn message(stream: &mut BufReader<Stream>) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] {
        126 => {
            let mut long = [0; 2];
            stream.read_exact(&mut long)?;
            usize::from(u16::from_be_bytes(long))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

/// What the shell's close says, after whatever comes before it.
fn close(stream: &mut BufReader<Stream>) -> anyhow::Result<(u16, String)> {
    loop {
        let (first, payload) = message(stream)?;
        if first == 0x88 {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return Ok((code, String::from_utf8(payload[2..].to_vec())?));
        }
    }
}

/// Types a short line.
fn type_in(stream: &mut BufReader<Stream>, text: &str) -> anyhow::Result<()> {
    let length = u8::try_from(text.len() + 1)?;
    ensure!(length < 126, "a short line");
    let frame = [&[0x82, 0x80 | length, 0, 0, 0, 0, 0], text.as_bytes()].concat();
    Ok(stream.get_mut().write_all(&frame)?)
}

fn runs(client: &Client, session: &str, title: &str) -> anyhow::Result<bool> {
    let pid = client.session(session)?.pid.context("pid")?;
    Ok(host::processes(pid)
        .iter()
        .any(|process| host::title(*process).contains(title)))
}

#[test]
fn connections_are_bounded_and_a_shell_that_is_left_ends() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[limits]\nshell_idle = 2\nshell_duration = 5");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "shell", json!({}))?;
        let session = session_name("bounds");
        // Silent for too long: closed, and the shell goes on.
        let mut one = shell(&client, &session)?;
        type_in(&mut one, "sleep 1234 & sleep 4321\n")?;
        let (code, reason) = close(&mut one)?;
        ensure!(
            code == 1001 && reason.contains("limits.shell_idle"),
            "{code} {reason}"
        );
        ensure!(
            runs(&client, &session, "sleep 4321")?,
            "it was ended with its connection"
        );
        // Never silent, but old.
        let mut two = shell(&client, &session)?;
        let mut heart = two.get_ref().try_clone()?;
        let beating = std::thread::spawn(move || {
            // A heartbeat; ends with the connection.
            while heart.write_all(b"\x82\x81\0\0\0\0\x05").is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        });
        let (code, reason) = close(&mut two)?;
        ensure!(
            code == 1001 && reason.contains("limits.shell_duration"),
            "{code} {reason}"
        );
        drop(two);
        beating.join().expect("a heart");
        // Nobody comes again: it ends with what runs in it, and the session is idle.
        wait::until_true(20, "the shell to end", || {
            let gone =
                !runs(&client, &session, "sleep 4321")? && !runs(&client, &session, "bash -l")?;
            Ok(gone && client.session(&session)?.in_flight == 0)
        })?;
        // A client that asks and goes away before the shell is there leaves none.
        let session = session_name("early");
        let mut stream = client.target.connect()?;
        stream.write_all(
            format!(
                "GET /runtimes/shell/ws/shells HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{SESSION_HEADER}: {session}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        wait::until_true(10, "the session", || Ok(client.session(&session).is_ok()))?;
        drop(stream);
        wait::until_true(30, "a session without a shell", || {
            let seen = client.session(&session)?;
            let ready = seen.phase == proto::api::Phase::Ready;
            Ok(ready && seen.in_flight == 0 && !runs(&client, &session, "bash -l")?)
        })
    })
}
