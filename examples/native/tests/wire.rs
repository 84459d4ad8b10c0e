//! Tier: files and loopback. The built binary, spoken to over TCP: every kind of answer, and that its memory stays flat.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

struct Agent {
    process: Child,
    port: u16,
}

impl Agent {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let process = Command::new(binary())
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        let agent = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            thread::yield_now();
        }
        agent
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        BufReader::new(stream)
    }

    fn peak_memory_kib(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let words = line.expect("VmHWM").split_whitespace().nth(1);
        words.expect("a number").parse().expect("a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

/// `env!("CARGO_BIN_EXE_native-agent")` would do, but a variable with a hyphen does not survive `/bin/sh`, and the
/// workspace's rustc wrapper is a shell script.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    profile.join("native-agent")
}

/// Status line and headers of the next answer.
fn read_head(reader: &mut BufReader<TcpStream>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).expect("a line") > 0,
            "closed within a head"
        );
        if line == "\r\n" {
            return lines;
        }
        lines.push(line.trim_end().to_ascii_lowercase());
    }
}

fn read_sized(reader: &mut BufReader<TcpStream>) -> (Vec<String>, Vec<u8>) {
    let head = read_head(reader);
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("content-length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body).expect("the body");
    (head, body)
}

fn read_chunk(reader: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a chunk size");
    let size = usize::from_str_radix(line.trim_end(), 16).expect("hexadecimal");
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk).expect("a chunk");
    chunk.truncate(size);
    chunk
}

#[test]
fn one_connection_serves_every_kind_of_request() {
    let agent = Agent::start();
    let mut client = agent.connect();
    // Two at once: what follows a body in the same segment is the next request.
    client
        .get_mut()
        .write_all(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\nPOST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"prompt\":1}")
        .expect("send");
    let (head, body) = read_sized(&mut client);
    assert_eq!(head[0], "http/1.1 200 ok");
    assert!(body.starts_with(br#"{"status":"Healthy","time_of_last_update":"#));
    let (head, body) = read_sized(&mut client);
    assert!(head.contains(&"content-type: application/json".to_owned()));
    assert_eq!(body, br#"{"prompt":1}"#);

    client
        .get_mut()
        .write_all(
            b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{\"sse\": 2}",
        )
        .expect("send");
    let head = read_head(&mut client);
    assert!(head.contains(&"content-type: text/event-stream".to_owned()));
    assert_eq!(read_chunk(&mut client), b"data: {\"n\":0}\n\n");
    assert_eq!(read_chunk(&mut client), b"data: {\"n\":1}\n\n");
    assert_eq!(read_chunk(&mut client), b"");

    client
        .get_mut()
        .write_all(b"GET /invocations?bytes=200000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("send");
    assert_eq!(read_sized(&mut client).1.len(), 200_000);
    client
        .get_mut()
        .write_all(b"GET /nowhere HTTP/1.1\r\n\r\n")
        .expect("send");
    assert_eq!(read_sized(&mut client).0[0], "http/1.1 404 not found");
    client
        .get_mut()
        .write_all(b"no http\r\n\r\n")
        .expect("send");
    assert_eq!(read_sized(&mut client).0[0], "http/1.1 400 bad request");
}

#[test]
fn a_chunk_comes_back_before_the_next_one_is_sent() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client
        .get_mut()
        .write_all(b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("send");
    for (n, word) in ["first", "second", "third"].into_iter().enumerate() {
        write!(client.get_mut(), "{:x}\r\n{word}\r\n", word.len()).expect("send");
        if n == 0 {
            read_head(&mut client);
        }
        assert_eq!(read_chunk(&mut client), word.as_bytes());
    }
    client.get_mut().write_all(b"0\r\n\r\n").expect("send");
    assert_eq!(read_chunk(&mut client), b"");
}

#[test]
fn a_hundred_megabytes_pass_through_in_constant_memory() {
    const BYTES: usize = 100_000_000;
    let agent = Agent::start();
    let mut client = agent.connect();
    let mut sender = client.get_ref().try_clone().expect("clone");
    let sending = thread::spawn(move || {
        write!(
            sender,
            "POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"
        )?;
        let piece: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        (0..BYTES / piece.len()).try_for_each(|_| sender.write_all(&piece))
    });
    let (_, body) = read_sized(&mut client);
    sending.join().expect("joined").expect("sent");
    let expected = (0..=250).cycle().take(1_000_000);
    assert!(
        body.chunks(1_000_000)
            .all(|piece| piece.iter().copied().eq(expected.clone()))
    );
    let peak = agent.peak_memory_kib();
    assert!(peak < 8 * 1024, "the agent's memory peaked at {peak} KiB");
}
