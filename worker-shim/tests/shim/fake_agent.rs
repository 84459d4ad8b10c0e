//! An agent whose every byte the test decides: a listener, a thread, and a closure per connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const HEALTHY: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{\"status\":\"Healthy\"}";

/// A request's head, and the connection to read its body from and answer on.
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) connection: BufReader<TcpStream>,
    /// How many requests this connection served before.
    pub(crate) nth: usize,
}

pub(crate) struct FakeAgent {
    pub(crate) port: u16,
    /// Connections accepted, pings included.
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name)?;
        Some(&found.1)
    }

    /// Reads the body as the head frames it; `Err` if it does not come to its end.
    pub(crate) fn body(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if let Some(length) = self.header("content-length") {
            body.resize(length.parse().expect("length"), 0);
            self.connection.read_exact(&mut body)?;
            return Ok(body);
        }
        if self.header("transfer-encoding") != Some("chunked") {
            return Ok(body);
        }
        loop {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16)
                .map_err(|_| std::io::Error::other(format!("chunk size {line:?}")))?;
            let mut chunk = vec![0; size + 2];
            self.connection.read_exact(&mut chunk)?;
            assert!(chunk.ends_with(b"\r\n"), "chunk end");
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // The shim may have hung up; that is often the point of the test.
        let _ = self.connection.get_mut().write_all(bytes.as_ref());
    }

    /// A plain answer with a length.
    pub(crate) fn answer(&mut self, body: &[u8]) {
        self.say(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ));
        self.say(body);
    }

    /// Waits until the other side has closed.
    pub(crate) fn wait_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = self.connection.read_to_end(&mut rest);
    }
}

impl FakeAgent {
    /// Answers `/ping` healthily and everything else by `serve`, whose result says whether to go on with the connection.
    pub(crate) fn start(serve: impl Fn(&mut Asked) -> bool + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", move |asked| {
            if asked.line.starts_with("GET /ping ") {
                asked.say(HEALTHY);
                asked.header("connection") != Some("close")
            } else {
                serve(asked)
            }
        })
    }

    /// Answers everything by `serve`.
    pub(crate) fn start_at(
        address: &str,
        serve: impl Fn(&mut Asked) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let serve = Arc::new(serve);
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                counter.fetch_add(1, Ordering::Relaxed);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || converse(connection, &*serve));
            }
        });
        Self { port, connections }
    }
}

fn converse(connection: TcpStream, serve: &dyn Fn(&mut Asked) -> bool) {
    connection.set_nodelay(true).expect("nodelay");
    let mut reader = BufReader::new(connection);
    for nth in 0.. {
        let Some((line, headers)) = read_head(&mut reader) else {
            return;
        };
        let mut asked = Asked {
            line,
            headers,
            connection: reader,
            nth,
        };
        if !serve(&mut asked) {
            return;
        }
        reader = asked.connection;
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let headers = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some((lines[0].clone(), headers))
}
