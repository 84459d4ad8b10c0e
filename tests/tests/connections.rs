//! Connections that only hold their places: closed in time, and never all of them. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::http::{Request, Stream};
use e2e::{Daemon, Options, Result, ground, host, leaks, wait};
use std::io::{Read as _, Write as _};
use std::process::Command;

/// Whether the other end closes it in time.
fn closes(mut stream: Stream) -> anyhow::Result<bool> {
    stream.set_read_timeout(wait::seconds(20))?;
    let mut all = Vec::new();
    // An answer before the end (408, a frame) is as good as none.
    Ok(stream.read_to_end(&mut all).is_ok())
}

#[test]
fn a_connection_without_a_request_is_closed_whatever_it_speaks() -> Result {
    ground!(Daemon);
    let options = Options::default().config("[limits]\nhead_timeout = 1");
    Daemon::with(options, |daemon| {
        for client in [daemon.client(), daemon.tcp()?] {
            let beginnings: [&[u8]; 5] = [
                b"",
                // As far as HTTP/1 and HTTP/2 begin alike, and a bit of each.
                b"P",
                b"PRI * HTTP/2.0\r\n",
                b"POST /v1/runtimes",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            ];
            let mut open = Vec::new();
            for beginning in beginnings {
                let mut stream = client.target.connect()?;
                stream.write_all(beginning)?;
                open.push((stream, beginning));
            }
            for (stream, beginning) in open {
                ensure!(
                    closes(stream)?,
                    "{:?} holds its place",
                    String::from_utf8_lossy(beginning)
                );
            }
        }
        Ok(())
    })
}

#[test]
fn whoever_fills_tcp_leaves_the_socket_to_the_operator() -> Result {
    ground!(Daemon);
    let options = Options::default().config("[limits]\nmax_connections = 64");
    Daemon::with(options, |daemon| {
        let tcp = daemon.tcp()?;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tcp.target.connect()?);
        }
        let client = daemon.client();
        for _ in 0..20 {
            client.send(Request::get("/healthz"))?.expect(200)?;
        }
        // And they are let in as soon as there is room.
        silent.truncate(10);
        tcp.send(Request::get("/healthz"))?.expect(200)?;
        Ok(())
    })
}

/// Holds as many connections as its user may have, asks by one more, and by the first when that one is told.
const ONE_TOO_MANY: &str = r#"
import socket, sys
def connected():
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(sys.argv[1])
    return stream
def ask(stream):
    stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    said = b""
    while piece := stream.recv(65536):
        said += piece
    return said.decode()
first, second = connected(), connected()
print(ask(connected()))
print(ask(first))
# Its place is free.
for _ in range(200):
    said = ask(connected())
    if said.startswith("HTTP/1.1 200"):
        break
print(said)
"#;

#[test]
fn a_users_connection_too_many_is_told_which_limit_it_was() -> Result {
    ground!(Daemon, Python, Command("setpriv"));
    let options = Options::default().config("[limits]\nmax_connections_per_user = 2");
    Daemon::with(options, |daemon| {
        let (_, group, _) = leaks::owner(&daemon.socket())?;
        let uid = host::status(daemon.pid(), daemon.pid())?["Uid"].clone();
        let uid = uid.split_whitespace().next().context("a uid")?.to_owned();
        let out = Command::new("setpriv")
            .args([
                "--reuid",
                &uid,
                "--regid",
                &group.to_string(),
                "--clear-groups",
            ])
            .args(["/usr/bin/python3", "-c", ONE_TOO_MANY])
            .arg(daemon.socket())
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let statuses: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("HTTP/"))
            .collect();
        let told = [
            "HTTP/1.1 429 Too Many Requests",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK",
        ];
        assert_eq!(statuses, told, "{said}");
        let first = said.split("HTTP/1.1 200").next().unwrap_or_default();
        for part in [
            "x-amzn-errortype: ThrottlingException",
            "retry-after: 1",
            "x-amz-retry-after: 1000",
            "limits.max_connections_per_user",
        ] {
            ensure!(first.contains(part), "{part} is not in {said}");
        }
        Ok(())
    })
}
