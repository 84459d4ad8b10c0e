//! Session endpoints: requests, streams and WebSockets to ports that servers beside an agent listen on, by the address that
//! an invocation's answer tells. Who may, and what else they are told: `session_endpoint_access.rs`. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, expect_aws_error, session_name};
use e2e::http::{Request, Stream};
use e2e::ports::{self, ERROR, offer, offered, refused, started};
use e2e::{Daemon, Options, Result, ground, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::process::Command;

/// Large enough for every buffer on the way.
const LARGE: usize = 20 << 20;

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

#[test]
fn a_request_arrives_as_it_was_sent_and_the_servers_answer_as_it_is() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        ports::agent(&daemon.client(), "ports", offered())?;
        for client in [daemon.client(), daemon.tcp()?] {
            let session = session_name("plain");
            let at = started(&client, "ports", &session)?;
            assert_eq!(at, format!("/runtimes/ports/sessions/{session}/ports"));
            for (port, method, rest, body) in [
                (8001, "GET", "", ""),
                (8001, "GET", "/a//b/../c%2Fd;e?x=1&y=%20&&z", ""),
                (8001, "POST", "/invocations", "a body"),
                (9005, "PUT", "/ws/shells?shellId=1", "another"),
                (9005, "PATCH", "/sessions/x/ports/8002/y", "1"),
                (8001, "DELETE", "/x?X-Amz-Signature=s&a=b", ""),
                (8001, "OPTIONS", "/", ""),
                (8001, "PURGE", "/cache", ""),
                (8001, "POST", "/empty", ""),
            ] {
                let mut request = Request::new(method, format!("{at}/{port}{rest}"))
                    .header("x-own", "one")
                    .header("cookie", "a=b")
                    .header("connection", "close, x-hop")
                    .header("x-hop", "1")
                    .header("x-amz-date", "20260101T000000Z")
                    .header("authorization", "AWS4-HMAC-SHA256 Credential=a/b");
                if !body.is_empty() {
                    request = request.body(body);
                }
                let answer = client.send(request)?.expect(200)?;
                assert_eq!(answer.header(ERROR), None);
                let said: Value = answer.json()?;
                let target = match rest {
                    "" => "/",
                    "/x?X-Amz-Signature=s&a=b" => "/x?a=b",
                    rest => rest,
                };
                assert_eq!(said["port"], port);
                assert_eq!(said["method"], method);
                assert_eq!(said["target"], target, "{rest}");
                let sum = crc32(body.as_bytes());
                assert_eq!(
                    (&said["length"], &said["crc32"]),
                    (&json!(body.len()), &json!(sum))
                );
                let pairs: Vec<(String, String)> = serde_json::from_value(said["headers"].clone())?;
                let got: BTreeMap<_, _> = pairs.into_iter().collect();
                assert_eq!(got["x-own"], "one");
                assert_eq!(got["cookie"], "a=b");
                assert_eq!(got["host"], format!("127.0.0.1:{port}"));
                assert_eq!(got[&SESSION_HEADER.to_ascii_lowercase()], session);
                for name in ["x-hop", "x-amz-date", "authorization"] {
                    ensure!(!got.contains_key(name), "{name} has reached the server");
                }
            }
            // Credentials that nobody checks here are the server's.
            let basic = Request::get(format!("{at}/8001/")).header("authorization", "Basic x");
            let said = client.send(basic)?.expect(200)?.text()?;
            ensure!(said.contains("Basic x"), "{said}");
            // Its own status, its own words; never in the daemon's name, and nobody's page.
            for status in [201, 404, 418, 424, 500, 503] {
                let say =
                    "x-amzn-ErrorType:Forged,x-amzn-RequestId:forged,set-cookie:a=b,location:/x";
                let request = Request::get(format!("{at}/8001/echo?status={status}&say={say}"));
                let answer = client.send(request)?.expect(status)?;
                assert_eq!(answer.header(ERROR), None, "{status}");
                ensure!(answer.header("x-amzn-requestid") != Some("forged"));
                assert_eq!(answer.header("set-cookie"), Some("a=b"));
                assert_eq!(answer.header("location"), Some("/x"));
                let policy = answer.header("content-security-policy").unwrap_or_default();
                ensure!(
                    policy.starts_with("sandbox") && !policy.contains("same-origin"),
                    "{policy}"
                );
                let said: Value = answer.json()?;
                assert_eq!(said["method"], "GET");
            }
            let head = client
                .send(Request::new("HEAD", format!("{at}/8001/echo")))?
                .expect(200)?;
            let length: u64 = head.header("content-length").context("a length")?.parse()?;
            ensure!(length > 100, "{length}");
            assert_eq!(head.text()?, "");
            let nothing = Request::post(format!("{at}/8001/turn"), "x");
            assert_eq!(client.send(nothing)?.expect(204)?.text()?, "");
        }
        Ok(())
    })
}

#[test]
fn large_bodies_and_streams_pass_both_ways_as_they_come() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        ports::agent(&daemon.client(), "ports", offered())?;
        for client in [daemon.client(), daemon.tcp()?] {
            let session = session_name("large");
            let at = started(&client, "ports", &session)?;
            let body: Vec<u8> = (0..251_u8).cycle().take(LARGE).collect();
            let sum = crc32(&body);
            let put = Request::new("PUT", format!("{at}/8001/file")).body(body.clone());
            let said: Value = client.send(put)?.expect(200)?.json()?;
            assert_eq!(
                (&said["length"], &said["crc32"]),
                (&json!(LARGE), &json!(sum))
            );
            let got = client
                .send(Request::get(format!("{at}/8001/bytes?n={LARGE}")))?
                .expect(200)?
                .bytes()?;
            ensure!(
                got.len() == LARGE && got.iter().all(|byte| *byte == b'b'),
                "{}",
                got.len()
            );
            // Both at once, without lengths.
            let mirror = Request::new("POST", format!("{at}/8001/mirror"))
                .stream(std::io::Cursor::new(body.clone()), None);
            let got = client.send(mirror)?.expect(200)?.bytes()?;
            ensure!(got == body, "the mirror gave back {} bytes", got.len());
            // An event is there before the next one is made.
            let mut events = client
                .send(Request::get(format!("{at}/8001/events?n=3")))?
                .expect(200)?;
            assert_eq!(events.header("content-type"), Some("text/event-stream"));
            for n in 0..3 {
                assert_eq!(client.session(&session)?.in_flight, 1, "a stream is work");
                client
                    .send(Request::post(format!("{at}/8001/turn"), ""))?
                    .expect(204)?;
                let event = events.piece()?.context("an event")?;
                assert_eq!(event, format!("data: {n}\n\n").as_bytes());
            }
            ensure!(events.piece()?.is_none(), "more than three events");
            // An answer that breaks off never looks complete.
            for how in ["length", "chunks"] {
                let answer = client
                    .send(Request::get(format!("{at}/8001/cut?how={how}")))?
                    .expect(200)?;
                ensure!(
                    answer.bytes().is_err(),
                    "{how}: a cut answer looked complete"
                );
            }
            wait::until_true(10, "no work to be left", || {
                Ok(client.session(&session)?.in_flight == 0)
            })?;
            client.stop(&session)?;
        }
        Ok(())
    })
}

/// The next frame of a server: its first byte and its payload.
fn frame(stream: &mut BufReader<Stream>) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let size = match head[1] {
        126 => {
            let mut size = [0; 2];
            stream.read_exact(&mut size)?;
            u16::from_be_bytes(size)
        }
        size => u16::from(size),
    };
    let mut payload = vec![0; usize::from(size)];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

#[test]
fn a_websocket_to_a_port_is_open_as_long_as_its_session() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        ports::agent(&client, "ports", offered())?;
        let session = session_name("socket");
        let at = started(&client, "ports", &session)?;
        let mut open = client
            .send(offer(&format!("{at}/8001/socket/a?b=c")))?
            .expect(101)?
            .upgraded();
        let (first, said) = frame(&mut open)?;
        let said: Value = serde_json::from_slice(&said)?;
        assert_eq!((first, &said[0]), (0x81, &json!("/socket/a?b=c")));
        ensure!(!said.to_string().contains("extensions"), "{said}");
        // Masked with zeros.
        for payload in [&b"hello"[..], &[0, 255, 1]] {
            let mut sent = vec![0x82, 0x80 | u8::try_from(payload.len())?, 0, 0, 0, 0];
            sent.extend(payload);
            open.get_mut().write_all(&sent)?;
            assert_eq!(frame(&mut open)?, (0x82, payload.to_vec()));
        }
        assert_eq!(client.session(&session)?.in_flight, 1);
        // A server that refuses says so in its own words; a port that is not offered is one for no protocol.
        let answer = client
            .send(offer(&format!("{at}/8001/socket?word=no")))?
            .expect(403)?;
        assert_eq!(
            (answer.header(ERROR), answer.header("x-why")),
            (None, Some("word"))
        );
        assert_eq!(answer.text()?, "not with this word");
        refused(
            client.send(offer(&format!("{at}/8002/socket")))?,
            403,
            "AccessDenied",
        )?;
        let answer = client.send(offer(&format!("{at}/9000/socket")))?;
        expect_aws_error(answer, 424, "RuntimeClientError", "nothing listens")?;
        // Another protocol is offered to nobody.
        let other = Request::get(format!("{at}/8001/x"))
            .header("connection", "upgrade")
            .header("upgrade", "h2c");
        let said: Value = client.send(other)?.expect(200)?.json()?;
        ensure!(!said["headers"].to_string().contains("h2c"), "{said}");
        client.stop(&session)?;
        let (first, said) = frame(&mut open)?;
        assert_eq!((first, &said[..2]), (0x88, &1001_u16.to_be_bytes()[..]));
        Ok(())
    })
}

#[test]
fn requests_to_a_port_keep_their_session_from_idling_and_nothing_else_does() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[defaults]\nidle_timeout = 4");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        ports::agent(&client, "ports", offered())?;
        let (used, held, left) = (
            session_name("used"),
            session_name("held"),
            session_name("left"),
        );
        let mut at = BTreeMap::new();
        for session in [&used, &held, &left] {
            at.insert(session.clone(), started(&client, "ports", session)?);
        }
        let mut events = client
            .send(Request::get(format!("{}/8001/events?n=1", at[&held])))?
            .expect(200)?;
        let mut begun = 0;
        let end = wait::until(30, "the session that nobody uses to end", || {
            client
                .send(Request::get(format!("{}/8001/", at[&used])))?
                .expect(200)?;
            begun += 1;
            let session = client.session(&left)?;
            Ok(session.end_reason)
        })?;
        assert_eq!(end, proto::api::EndReason::Idle);
        ensure!(begun > 4, "{begun} requests are no test");
        assert_eq!(client.session(&held)?.in_flight, 1);
        client
            .send(Request::post(format!("{}/8001/turn", at[&held]), ""))?
            .expect(204)?;
        assert_eq!(events.piece()?.as_deref(), Some(&b"data: 0\n\n"[..]));
        for session in [&used, &held] {
            let ended = client.ended(session, 20)?;
            assert_eq!(ended.end_reason, Some(proto::api::EndReason::Idle));
            let gone = client.send(Request::get(format!("{}/8001/", at[session])))?;
            expect_aws_error(gone, 404, "ResourceNotFoundException", "")?;
        }
        assert_eq!(client.live_sessions()?.len(), 0);
        Ok(())
    })
}

/// HTTP/2 has no upgrade and splits cookies; what reaches the server is HTTP/1.1 all the same.
#[test]
fn http_2_reaches_a_port_too() -> Result {
    ground!(Daemon, Python, Command("curl"));
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.tcp()?;
        ports::agent(&client, "ports", offered())?;
        let at = started(&client, "ports", &session_name("h2"))?;
        let out = Command::new("curl")
            .args(["-sS", "--http2-prior-knowledge", "--max-time", "60"])
            .args([
                "-H",
                "cookie: a=b",
                "-H",
                "cookie: c=d",
                "-H",
                "te: trailers",
            ])
            .args([
                "-X",
                "PATCH",
                "--data-binary",
                "body",
                "-w",
                "\n%{http_version} %{http_code}",
            ])
            .arg(format!("{}{at}/8001/x?y=z", ports::endpoint(&client)?))
            .output()?;
        let said = String::from_utf8(out.stdout)?;
        let (said, how) = said.rsplit_once('\n').context("two lines")?;
        assert_eq!(how, "2 200", "{said}");
        let said: Value = serde_json::from_str(said)?;
        assert_eq!(
            (&said["method"], &said["target"]),
            (&json!("PATCH"), &json!("/x?y=z"))
        );
        assert_eq!(
            (&said["length"], &said["crc32"]),
            (&json!(4), &json!(crc32(b"body")))
        );
        let headers = said["headers"].as_array().context("headers")?;
        ensure!(
            headers.contains(&json!(["cookie", "a=b; c=d"])),
            "{headers:?}"
        );
        ensure!(!said.to_string().contains("trailers"), "{said}");
        Ok(())
    })
}
