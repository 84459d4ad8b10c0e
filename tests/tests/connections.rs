//! Connections that only hold their places: closed in time, and never all of them. Tier: root.

use anyhow::ensure;
use e2e::http::{Request, Stream};
use e2e::{Daemon, Options, Result, ground, wait};
use std::io::{Read as _, Write as _};

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
